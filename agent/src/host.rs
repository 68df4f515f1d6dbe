//! The only way to a path of the machine: `/proc`, `/sys`, `/dev`, `/run` and `/etc` below one root.
//!
//! The root is `/` on a host, `/host` in a container that has the host mounted there, and a
//! temporary folder in tests and in the twin. Nothing else in the agent spells these paths out.

use std::io;
use std::path::{Path, PathBuf};

pub use ebbtide_runtime::files::{READ_LIMIT, read_text};

/// The prefix of the measured machine's file systems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoot(PathBuf);

impl HostRoot {
    /// A machine whose `/` is `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The prefix itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether this is the machine that the agent runs on.
    pub fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// `rest` below the root; `rest` may start with a slash.
    pub fn join(&self, rest: impl AsRef<Path>) -> PathBuf {
        let rest = rest.as_ref();
        self.0.join(rest.strip_prefix("/").unwrap_or(rest))
    }

    /// `rest` below `/proc`.
    pub fn proc(&self, rest: impl AsRef<Path>) -> PathBuf {
        self.0.join("proc").join(rest)
    }

    /// `rest` below `/sys`.
    pub fn sys(&self, rest: impl AsRef<Path>) -> PathBuf {
        self.0.join("sys").join(rest)
    }
}

/// Reads a file that holds one line, without its white space.
pub fn read_line(path: &Path) -> io::Result<String> {
    read_text(path).map(|t| t.trim().to_owned())
}

/// Reads a file that holds one decimal number. A file with anything else is `InvalidData`.
pub fn read_u64(path: &Path) -> io::Result<u64> {
    let text = read_line(path)?;
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        io::Error::new(io::ErrorKind::InvalidData, format!("expected a number, found {shown:?}"))
    })
}

/// Names in a folder, sorted so that numbers count as numbers (`hwmon2` before `hwmon10`); empty if it can't be read.
pub fn list(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort_by(|a, b| natural(a).cmp(&natural(b)).then_with(|| a.cmp(b)));
    names
}

/// A sort key in which runs of digits compare as numbers.
fn natural(name: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(text_end);
        let digits_end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(digits_end);
        key.push((0, text.to_owned()));
        key.push((if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u64::MAX) }, String::new()));
        rest = tail;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let host = HostRoot::new("/host");
        assert_eq!(host.proc("1/stat"), Path::new("/host/proc/1/stat"));
        assert_eq!(host.sys("class/hwmon"), Path::new("/host/sys/class/hwmon"));
        assert_eq!(host.join("/etc/os-release"), Path::new("/host/etc/os-release"));
        assert!(!host.is_real() && HostRoot::new("/").is_real());
    }

    #[test]
    fn names_are_listed_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["hwmon10", "hwmon2", "hwmon", "a"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(list(dir.path()), ["a", "hwmon", "hwmon2", "hwmon10"]);
        assert!(list(&dir.path().join("none")).is_empty());
    }

    #[test]
    fn a_number_is_a_number_or_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("energy_uj");
        std::fs::write(&file, " 12\n").unwrap();
        assert_eq!(read_u64(&file).unwrap(), 12);
        for bad in ["", "abcdef", "-1", "1e9", "99999999999999999999999"] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(read_u64(&file).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bad}");
        }
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(read_text(&file).is_ok());
    }
}
