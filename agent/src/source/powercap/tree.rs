//! The folders of powercap zones: `<control type>:<index>[:<index>…]`.
//!
//! `/sys/class/powercap` holds them flat, as links; `/sys/devices/virtual/powercap` holds the folders
//! themselves, nested. In containers the class may be missing or its links may lead nowhere.
//! Indices are names, not numbers: `intel-rapl:a` exists.

use std::path::{Path, PathBuf};

use crate::host::{self, HostRoot};

/// Zones nest two deep today.
const DEPTH: usize = 4;
/// A machine with 16 sockets has about 100.
const MOST: usize = 1024;

/// One zone's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZoneDir {
    /// `intel-rapl`, `intel-rapl-mmio`, `arm-scmi`, …
    pub(crate) control: String,
    /// `0`, `0:1`, `a`.
    pub(crate) index: String,
    /// The folder.
    pub(crate) path: PathBuf,
}

/// The zones that were found.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Folders that exist, each once.
    pub(crate) dirs: Vec<ZoneDir>,
    /// Links of the class whose folder doesn't exist anywhere.
    pub(crate) dangling: Vec<PathBuf>,
}

impl ZoneDir {
    /// The folder's name.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.control, self.index)
    }

    /// The index of the zone that this one is nested in.
    pub(crate) fn parent_index(&self) -> Option<&str> {
        self.index.rsplit_once(':').map(|(parent, _)| parent)
    }
}

/// Finds the zones of the control types that are `wanted`.
pub(crate) fn walk(host: &HostRoot, wanted: fn(&str) -> bool) -> Tree {
    let mut tree = Tree::default();
    let class = host.sys("class/powercap");
    for name in host::list(&class).into_iter().take(MOST) {
        let Some((control, index)) = name.split_once(':').filter(|(control, _)| wanted(control)) else { continue };
        let path = class.join(&name);
        if path.is_dir() {
            tree.dirs.push(ZoneDir { control: control.into(), index: index.into(), path });
        } else {
            tree.dangling.push(path);
        }
    }
    if tree.dirs.is_empty() || !tree.dangling.is_empty() {
        let devices = host.sys("devices/virtual/powercap");
        for control in host::list(&devices).into_iter().filter(|c| wanted(c)) {
            nested(&devices.join(&control), &control, DEPTH, &mut tree.dirs);
        }
        tree.dangling.retain(|link| !tree.dirs.iter().any(|dir| link.ends_with(dir.name())));
    }
    tree
}

fn nested(folder: &Path, control: &str, depth: usize, dirs: &mut Vec<ZoneDir>) {
    for name in host::list(folder) {
        let Some((_, index)) = name.split_once(':').filter(|(c, _)| *c == control) else { continue };
        let path = folder.join(&name);
        if depth == 0 || dirs.len() >= MOST || !path.is_dir() {
            continue;
        }
        if !dirs.iter().any(|d| d.control == control && d.index == index) {
            dirs.push(ZoneDir { control: control.into(), index: index.into(), path: path.clone() });
        }
        nested(&path, control, depth - 1, dirs);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn names(tree: &Tree) -> Vec<String> {
        tree.dirs.iter().map(ZoneDir::name).collect()
    }

    #[test]
    fn the_nested_layout_fills_in_for_the_class() {
        let sys = fixture::tree("dangling");
        let host = HostRoot::new(sys.path());
        let tree = walk(&host, |c| c == "intel-rapl");
        assert_eq!(
            names(&tree),
            ["intel-rapl:0", "intel-rapl:0:0"],
            "the link of 0:0 leads nowhere, the folder is there"
        );
        assert_eq!(tree.dangling, [sys.path().join("sys/class/powercap/intel-rapl:1")]);

        std::fs::remove_dir_all(sys.path().join("sys/class")).unwrap();
        let tree = walk(&host, |c| c == "intel-rapl");
        assert_eq!(names(&tree), ["intel-rapl:0", "intel-rapl:0:0"]);
        assert!(tree.dangling.is_empty());
        assert_eq!(tree.dirs[1].parent_index(), Some("0"));
    }

    #[test]
    fn other_control_types_are_not_looked_at() {
        let sys = fixture::tree("hex");
        let tree = walk(&HostRoot::new(sys.path()), |c| c == "intel-rapl");
        assert_eq!(names(&tree), ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:a", "intel-rapl:a:0"]);
    }
}
