//! The folders of powercap zones: `<control type>:<index>[:<index>…]`.
//!
//! `/sys/class/powercap` holds them flat, as links; `/sys/devices/virtual/powercap` holds the folders
//! themselves, nested. In containers the class may be missing or its links may lead nowhere.
//! Indices are names, not numbers: `intel-rapl:a` exists.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use ebbtide_proto::ZoneId;

use super::super::Found;
use crate::host::{self, HostRoot};

/// Zones nest two deep today.
const DEPTH: usize = 4;
/// A machine with 16 sockets has about 100.
const MOST: usize = 1024;
/// The kernel's own names have at most 30 bytes.
const LONGEST_NAME: usize = 64;

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

/// What a zone is called, within what.
pub(crate) struct Identity<'a> {
    /// Its folder.
    pub(crate) dir: &'a ZoneDir,
    /// `<prefix>/<names from the outermost zone to this one>`; unique within its control type.
    pub(crate) id: ZoneId,
    /// Id and name that the enclosing zone has, or would have if it had a name.
    pub(crate) parent: Option<(ZoneId, String)>,
    /// The zone and those around it, innermost first, each with its folder. An enclosing zone
    /// without a name goes by its folder's.
    pub(crate) chain: Vec<(String, Option<&'a ZoneDir>)>,
}

impl ZoneDir {
    /// The folder's name.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.control, self.index)
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

/// Reads the zones' names; a zone without a usable one is left out.
pub(crate) fn named(dirs: Vec<ZoneDir>, found: &mut Found) -> Vec<(ZoneDir, String)> {
    let mut named = Vec::with_capacity(dirs.len());
    for dir in dirs {
        match host::read_line(&dir.path.join("name")) {
            Ok(name) if is_name(&name) => named.push((dir, name)),
            Ok(name) => {
                let shown: String = name.chars().take(40).collect();
                found.skip(dir.path.display().to_string(), format!("its name is {shown:?}"), None);
            }
            Err(e) => found.skip(dir.path.display().to_string(), format!("its name can't be read: {e}"), None),
        }
    }
    named
}

/// Gives each zone its id.
pub(crate) fn identify<'a>(prefix: &str, named: &'a [(ZoneDir, String)], found: &mut Found) -> Vec<Identity<'a>> {
    let by_folder: HashMap<String, &(ZoneDir, String)> = named.iter().map(|n| (n.0.name(), n)).collect();
    let mut taken = BTreeSet::new();
    let mut all = Vec::with_capacity(named.len());
    for (dir, _) in named {
        let chain = chain(dir, &by_folder);
        let label = |from: usize| {
            let names: Vec<&str> = chain.iter().skip(from).rev().map(|(n, _)| n.as_str()).collect();
            format!("{prefix}/{}", names.join("/"))
        };
        let mut id = label(0);
        if !taken.insert((&dir.control, id.clone())) {
            id = format!("{id}@{}", dir.index);
        }
        let Ok(id) = ZoneId::new(&id) else {
            found.skip(dir.path.display().to_string(), "it is nested too deep for a zone id", None);
            continue;
        };
        let parent = chain.get(1).and_then(|(name, _)| Some((ZoneId::new(&label(1)).ok()?, name.clone())));
        all.push(Identity { dir, id, parent, chain });
    }
    all
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.chars().any(|c| c.is_control() || c == '/')
}

fn chain<'a>(dir: &ZoneDir, named: &HashMap<String, &'a (ZoneDir, String)>) -> Vec<(String, Option<&'a ZoneDir>)> {
    let mut chain = Vec::new();
    let mut index = Some(dir.index.as_str());
    while let Some(i) = index {
        let folder = format!("{}:{i}", dir.control);
        chain.push(match named.get(&folder) {
            Some((dir, name)) => (name.clone(), Some(dir)),
            None => (folder, None),
        });
        index = i.rsplit_once(':').map(|(parent, _)| parent);
    }
    chain
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
    }

    #[test]
    fn other_control_types_are_not_looked_at() {
        let sys = fixture::tree("hex");
        let tree = walk(&HostRoot::new(sys.path()), |c| c == "intel-rapl");
        assert_eq!(names(&tree), ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:a", "intel-rapl:a:0"]);
    }
}
