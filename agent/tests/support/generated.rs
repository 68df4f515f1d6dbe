//! Documents that are made from the code.

use std::path::Path;

/// Compares `name`, a path in the repository, with what the code makes, or writes it anew if `EBBTIDE_BLESS` is set. `test` is the file of
/// the test that asks.
#[track_caller]
pub(crate) fn assert_current(name: &str, want: &str, test: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::write(&path, want).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let line = want.lines().zip(found.lines()).take_while(|(a, b)| a == b).count() + 1;
    assert!(
        found == want,
        "{name} differs from line {line} on; write it anew with \
         EBBTIDE_BLESS=1 cargo test -p ebbtide-agent --test {test}"
    );
}
