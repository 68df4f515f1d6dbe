//! Boards as trees of files (`tests/fixtures/hwmon/*.txt`, each with what should be found in it), trees
//! of others where they are at hand, garbage in every file, and chips that go and come back.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbtide_proto::Energy;
use proptest::prelude::*;
use tempfile::TempDir;

use super::chips::ChipRow;
use super::*;
use crate::clock::Moment;
use crate::source::{Quality, ReadError, Reading, Zone};

/// The boards with a fixture.
const BOARDS: [&str; 12] = [
    "zcu102",
    "kria",
    "jetson-orin-nano",
    "jetson-agx-orin",
    "jetson-tx2-l4t32",
    "altra",
    "grace-hopper",
    "server-acpi",
    "amd-energy",
    "pmbus",
    "amdgpu",
    "traps",
];

fn fixture(board: &str) -> (PathBuf, String, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hwmon").join(format!("{board}.txt"));
    let text = fs::read_to_string(&file).unwrap();
    let (tree, expected) = text.split_once("---\n").unwrap();
    (file.clone(), tree.to_owned(), expected.to_owned())
}

/// Makes the files `PATH = TEXT` and links `PATH -> TARGET`; `change` may replace a file's bytes.
fn plant(tree: &str, mut change: impl FnMut(&str) -> Option<Vec<u8>>) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in tree.lines().filter(|l| !l.starts_with('#')) {
        let (path, value) = line.split_once([' ']).unwrap();
        let at = root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match value.strip_prefix("-> ") {
            Some(target) => std::os::unix::fs::symlink(target, at).unwrap(),
            None => {
                let text = value.trim_start_matches('=').trim_start();
                fs::write(at, change(path).unwrap_or_else(|| format!("{text}\n").into_bytes())).unwrap();
            }
        }
    }
    root
}

fn at(s: u64) -> Moment {
    Moment::default().plus(Duration::from_secs(s))
}

type Answer = (Zone, Result<Reading, ReadError>);

/// Reads all zones at `s` seconds.
fn read_all(found: &mut Found, s: u64) -> Vec<Answer> {
    let mut all = Vec::new();
    for source in &mut found.sources {
        let mut out = Vec::new();
        source.read(at(s), &mut out);
        let zones = source.zones().to_vec();
        assert_eq!(out.len(), zones.len());
        all.extend(zones.into_iter().zip(out));
    }
    all
}

/// Zones with their figures after one second, then what was skipped; paths without `root`.
fn report(root: &Path, own: &[ChipRow]) -> String {
    let mut found = discover_with(&HostRoot::new(root), ProbeMode::Stepped, own);
    read_all(&mut found, 0);
    let mut text = String::new();
    for (zone, reading) in read_all(&mut found, 1) {
        let figure = match reading {
            Ok(r) if zone.quality == Quality::Measured => format!("counts {}", r.counter),
            // one second of constant power: as many microjoules as microwatts
            Ok(r) => r.counter.over(Duration::from_secs(1)).unwrap().to_string(),
            Err(e) => e.to_string(),
        };
        let parent = zone.parent.as_ref().map_or(String::new(), |p| format!(" in {p}"));
        let socket = zone.socket.map_or(String::new(), |s| format!(" socket {s}"));
        let (kind, error, path) = (zone.kind.as_str(), zone.error, &zone.path);
        writeln!(text, "{}: {} = {figure} +-{error} {kind}{socket}{parent}\n    {path}", zone.id, zone.name).unwrap();
    }
    for skipped in &found.skipped {
        writeln!(text, "skipped {skipped}").unwrap();
    }
    text.replace(&root.display().to_string(), "")
}

#[test]
fn boards_are_read_as_their_fixtures_say() {
    for board in BOARDS {
        let (file, tree, expected) = fixture(board);
        let root = plant(&tree, |_| None);
        let got = report(root.path(), &[]);
        // to accept what is read now: EBBTIDE_BLESS=1 cargo test ..., then read the difference
        if std::env::var_os("EBBTIDE_BLESS").is_some() {
            fs::write(&file, format!("{tree}---\n{got}")).unwrap();
            continue;
        }
        assert_eq!(got, expected, "{board}");
    }
}
