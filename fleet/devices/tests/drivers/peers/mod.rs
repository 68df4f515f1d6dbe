//! What the drivers are tried against: programs that are no part of Ebbtide, started on loopback, and small servers
//! for what no program does on purpose, such as answering half.
//!
//! A program that isn't installed is a visible skip, or with `EBBTIDE_REQUIRE_DEVICES=1` a failure.

pub mod web;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ebbtide_devices::SecretSource;
use ebbtide_runtime::clock;

/// A program that runs until this is dropped.
pub struct Peer {
    child: Child,
}

impl Peer {
    /// Starts `command`; its output is thrown away.
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; the test has failed for that already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Where a program is: in the virtual environment that `EBBTIDE_DEVICES_VENV` names, or in `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let venv = std::env::var_os("EBBTIDE_DEVICES_VENV").map(|venv| Path::new(&venv).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = venv.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|p| p.is_file()));
    missing_unless(found.is_some(), name);
    found
}

/// A Python that has `module`.
pub fn python(module: &str) -> Option<PathBuf> {
    let python = program("python3")?;
    let has = Command::new(&python).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status().unwrap();
    missing_unless(has.success(), module);
    has.success().then_some(python)
}

fn missing_unless(found: bool, name: &str) {
    if !found {
        let required = std::env::var_os("EBBTIDE_REQUIRE_DEVICES").is_some_and(|v| v == "1");
        assert!(!required, "{name} is not installed, and EBBTIDE_REQUIRE_DEVICES=1");
        eprintln!("skipped: {name} is not installed (tests/requirements.txt, or the package of that name)");
    }
}

/// A script of ours beside this file.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers/peers").join(name)
}

/// A TCP port that was free just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A UDP port that was free just now.
pub fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `is_so`, at most half a minute.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = clock::now();
    while !is_so() {
        assert!(clock::now().since(start) < Duration::from_secs(30), "{what} took too long");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until something listens on a TCP port.
pub fn wait_for_port(port: u16) {
    wait_until("listening", || TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// A secret in a file, and the folder that keeps it.
pub fn secret(text: &str) -> (tempfile::TempDir, SecretSource) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, text).unwrap();
    (folder, SecretSource::File(path))
}
