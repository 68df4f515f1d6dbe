//! Machines for tests: `tests/fixtures/sys/NAME.txt` unfolded into a temporary root.
//!
//! A line `[folder]` makes a folder below `/sys`, `[/folder]` one below the root; `file = content` and `link -> target` go into it;
//! `folder/` is an empty folder; `#` starts a comment.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

/// The root of the machine `name`.
pub(crate) fn tree(name: &str) -> TempDir {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/sys/{name}.txt"));
    unfold(&fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
}

/// The root of the machine that `text` describes.
pub(crate) fn unfold(text: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let mut folder = root.path().join("sys");
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.trim_end_matches(']');
            folder = match name.strip_prefix('/') {
                Some(name) => root.path().join(name),
                None => root.path().join("sys").join(name),
            };
            fs::create_dir_all(&folder).unwrap();
        } else if let Some((link, target)) = line.split_once(" -> ") {
            symlink(target, folder.join(link)).unwrap();
        } else if let Some((file, content)) = line.split_once(" =") {
            fs::write(folder.join(file), format!("{}\n", content.trim())).unwrap();
        } else if line.ends_with('/') {
            fs::create_dir(folder.join(line)).unwrap();
        } else {
            panic!("what is {line:?}?");
        }
    }
    root
}
