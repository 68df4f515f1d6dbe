//! Names below `/proc`, and the limit of open files.

use std::ffi::CString;

use rustix::process::{Resource, getrlimit, setrlimit};

/// The pid that a name in `/proc` stands for.
pub(super) fn parse_pid(name: &[u8]) -> Option<u32> {
    if !name.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Raises the limit of open files to what is allowed, and returns it.
pub(super) fn raise_fd_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // if it can't be raised, the present one is what there is
    if setrlimit(Resource::Nofile, limit).is_err() {
        return getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    }
    limit.current.unwrap_or(1 << 20)
}

/// Paths of one task or thread relative to `/proc`.
pub(super) struct TaskPath {
    pub(super) pid: u32,
    pub(super) tid: Option<u32>,
}

impl TaskPath {
    pub(super) fn new(pid: u32) -> Self {
        Self { pid, tid: None }
    }

    pub(super) fn folder(&self) -> CString {
        CString::new(self.pid.to_string()).unwrap_or_default()
    }

    pub(super) fn file(&self, name: &str) -> CString {
        let path = match self.tid {
            None => format!("{}/{name}", self.pid),
            Some(tid) => format!("{}/task/{tid}/{name}", self.pid),
        };
        CString::new(path).unwrap_or_default()
    }
}
