//! What people meet at the command line: the real program, its sentences and its exit codes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use ebbtide_agent::clock;
use ebbtide_agent::twin::fakeroot::{FakeProcess, FakeRoot, FakeZone};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program with these arguments, parted by spaces, and without this machine's settings.
fn agent(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebbtide-agent"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("EBBTIDE_")) {
            command.env_remove(name);
        }
    }
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs it to its end: exit code, stdout, stderr.
fn said(line: &str) -> (i32, String, String) {
    let output = agent(line).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A run that must fail before it measures, with a message of at most three lines that holds all of `wants`.
#[track_caller]
fn refused(line: &str, code: i32, wants: &[&str]) {
    let (got, out, err) = said(line);
    assert_eq!(got, code, "{line}:\n{err}");
    assert!(out.is_empty(), "{line}: stdout is for data\n{out}");
    for want in wants {
        assert!(err.contains(want), "{line}: no {want:?} in\n{err}");
    }
    let message = err.lines().skip_while(|l| !l.starts_with("error: ")).count();
    assert!((1..=3).contains(&message), "{line}:\n{err}");
    assert!(!err.contains("panicked"), "{err}");
}

/// A machine with one package and its memory, three processes, and no relation to this one.
fn machine() -> (TempDir, FakeRoot) {
    let dir = tempfile::tempdir().unwrap();
    let mut fake = FakeRoot::new(dir.path().join("root"));
    fake.zone(&FakeZone { energy_uj: 1_000_000, ..FakeZone::new("intel-rapl:0", "package-0") }).unwrap();
    fake.zone(&FakeZone::new("intel-rapl:0:0", "dram")).unwrap();
    for (pid, comm) in [(1, "systemd"), (2, "kthreadd"), (7, "web")] {
        fake.process(&FakeProcess::new(pid, comm)).unwrap();
    }
    fake.put("proc/stat", "cpu  5 0 5 90 0 0 0 0 0 0\ncpu0 5 0 5 90 0 0 0 0 0 0\nprocesses 9\n").unwrap();
    fake.put("proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\nmodel name : Test\n").unwrap();
    fake.put("proc/sys/kernel/random/boot_id", "0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d\n").unwrap();
    fake.put("etc/hostname", "fake1\n").unwrap();
    (dir, fake)
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// An agent that serves metrics. It is killed if the test ends before it does.
struct Running {
    child: Child,
    address: SocketAddr,
    rest: Receiver<String>,
}

impl Running {
    /// Starts `run` on a free port and waits until it says where its page is.
    fn start(line: &str) -> Self {
        let mut child = agent(&format!("run --listen 127.0.0.1:0 --interval 50ms {line}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, told) = sync_channel(1);
        let (tell_rest, rest) = sync_channel(1);
        std::thread::spawn(move || {
            let mut all = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((_, url)) = line.split_once("metrics at http://") {
                    tell.try_send(url.split('/').next().unwrap().to_owned()).unwrap();
                }
                all.push_str(&line);
                all.push('\n');
            }
            drop(tell);
            drop(tell_rest.try_send(all));
        });
        let mut running = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), rest };
        match told.recv_timeout(PATIENCE) {
            Ok(address) => running.address = address.parse().unwrap(),
            Err(_) => panic!("it doesn't say where its page is:\n{:?}", running.rest.try_recv()),
        }
        running
    }

    /// The body of a page, which must be 200.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body.to_owned()
    }

    /// The metrics page, once `wanted` is on it.
    fn page_with(&self, wanted: &str) -> String {
        let start = clock::now();
        loop {
            let page = self.get("/metrics");
            if page.contains(wanted) {
                return page;
            }
            assert!(clock::now().since(start) < PATIENCE, "no {wanted} on\n{page}");
            std::thread::yield_now();
        }
    }

    /// Sends `signal` and waits for the end: how it ended, how long that took, what it had logged.
    fn stop(mut self, signal: Signal) -> (ExitStatus, Duration, String) {
        let start = clock::now();
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        // its stderr is closed when it ends
        let log = self.rest.recv_timeout(PATIENCE).unwrap();
        let status = self.child.wait().unwrap();
        (status, clock::now().since(start), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn what_is_wrong_in_a_configuration_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let typo = write(dir.path(), "typo.toml", "# agent\nintervall = \"1s\"\n");
    refused(&format!("run --config {typo}"), 2, &["typo.toml:2", "\"intervall\"", "did you mean \"interval\"?"]);
    let value = write(dir.path(), "value.toml", "\n\ninterval = 5\n");
    refused(
        &format!("run --config {value}"),
        2,
        &["value.toml:3: interval: found 5", "for example: interval = \"1s\""],
    );
    refused("run --config /does/not/exist.toml", 2, &["can't read the configuration /does/not/exist.toml"]);
    let (code, _, err) = said("run --interval 1 --state none");
    assert!(code == 2 && err.contains("'1'") && err.contains("such as \"1s\""), "{err}");
    refused("zones --root /does/not/exist", 2, &["root: /does/not/exist is not a folder"]);
}

#[test]
fn a_web_config_that_cannot_be_used_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let run = |file: &str| format!("run --listen 127.0.0.1:0 --state none --web-config {file}");
    let missing = dir.path().join("none.yml");
    refused(&run(missing.to_str().unwrap()), 1, &["none.yml", "can't be read", "check the path"]);
    let typo = write(dir.path(), "web.yml", "tls_server_config:\n  cert_fiel: a.pem\n");
    refused(&run(&typo), 1, &["web.yml", "unknown key tls_server_config.cert_fiel", "cert_file"]);
}

#[test]
fn an_unknown_key_of_a_scenario_is_told_with_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let text = "name = \"x\"\nabout = \"y\"\nduration_s = 1\n\n[machine]\ncoers = 2\n";
    let file = write(dir.path(), "scenario.toml", text);
    refused(
        &format!("twin score --scenario {file}"),
        1,
        &["scenario.toml", "line 6", "`coers`", "did you mean `cores`?"],
    );
}

#[test]
fn a_port_in_use_is_told_before_anything_is_measured() {
    let (_dir, fake) = machine();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let root = fake.path().display();
    let port = format!("port {} is in use on 127.0.0.1", address.port());
    refused(&format!("run --root {root} --state none --listen {address}"), 1, &[&port, "ss -ltnp", "--listen"]);
    let (code, out, _) = said(&format!("check --root {root} --state none --listen {address}"));
    assert!(code == 3 && out.contains("another program listens on"), "{out}");
}

#[test]
fn a_root_without_proc_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display();
    refused(&format!("run --root {root} --state none --listen 127.0.0.1:0"), 1, &["can't read", "/proc", "--root"]);
    let (code, out, _) = said(&format!("check --root {root} --state none --listen 127.0.0.1:0"));
    assert!(code == 1 && out.ends_with("nothing is measured · exit 1\n"), "{out}");
    let (code, out, _) = said(&format!("zones --root {root}"));
    assert!(code == 0 && out.contains("nothing tells energy here") && out.contains("not used: model"), "{out}");
}

#[test]
fn zones_are_listed_for_people_and_programs() {
    let (_dir, fake) = machine();
    let line = format!("zones --root {}", fake.path().display());
    let (code, out, _) = said(&line);
    let rows: Vec<&str> = out.lines().filter_map(|l| l.split_whitespace().next()).take(3).collect();
    assert_eq!((code, rows), (0, vec!["ZONE", "package-0", "dram"]), "{out}");
    assert!(out.lines().take(3).all(|l| l.chars().count() <= 80), "{out}");
    let (code, out, _) = said(&format!("{line} --json"));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(json["zones"][0]["id"], "powercap/package-0");
    assert_eq!(json["zones"][1]["role"], "total");
    assert!(json["skipped"].is_array());
}

#[test]
fn check_is_the_same_for_people_and_programs() {
    let (dir, fake) = machine();
    let state = dir.path().join("state");
    let line = format!("check --root {} --state {} --listen 127.0.0.1:0", fake.path().display(), state.display());
    let (code, out, _) = said(&line);
    assert!(out.starts_with(" ok        powercap      package-0, dram\n"), "{out}");
    let (again, json, _) = said(&format!("{line} --json"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["exit"]), (again, &serde_json::json!(code)));
    assert!(out.contains(&format!("exit {code}\n")), "{out}");
    let row = &json["rows"][0];
    assert_eq!((&row["subject"], &row["level"], &row["fix"]), (&"powercap".into(), &"ok".into(), &().into()));
    assert!(json["summary"].as_str().unwrap().contains("every joule of 1 socket"));
    assert!(!state.exists(), "check changes nothing");
}

#[test]
fn what_only_prints_needs_no_machine() {
    let (code, out, err) = said("--version");
    assert_eq!((code, out.as_str(), err.as_str()), (0, concat!("ebbtide-agent ", env!("CARGO_PKG_VERSION"), "\n"), ""));
    let (code, out, _) = said("completion bash");
    assert!(code == 0 && out.contains("complete -F _ebbtide__agent") && out.contains("by-reservation"));
    let (code, out, _) = said("run --help");
    assert!(code == 0 && out.contains("--idle-policy"), "{out}");
    let (code, _, err) = said("mesure");
    assert!(code == 2 && err.contains("unrecognized subcommand 'mesure'"), "{err}");
}

#[test]
fn a_dumped_configuration_is_one() {
    let (code, dump, _) = said("--dump-config --interval 2s --state none");
    assert!(code == 0 && dump.contains("interval = \"2s\"  # --interval"), "{dump}");
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "agent.toml", &dump);
    let (code, again, err) = said(&format!("--dump-config --config {file}"));
    let values = |text: &str| {
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        lines.map(|l| l.split("  # ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((code, values(&again)), (0, values(&dump)), "{err}");
}

#[test]
fn nobody_reading_to_the_end_is_no_failure() {
    let (_dir, fake) = machine();
    let check = format!("check --root {} --state none --listen 127.0.0.1:0", fake.path().display());
    let zones = format!("zones --root {}", fake.path().display());
    for line in ["completion bash", "--dump-config", "--help", "--version", &zones, &check] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = agent(line).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 3 | 4)), "{line}: {code:?} {err}");
        assert!(!err.contains("anic") && !err.contains("error:"), "{line}: {err}");
    }
}

#[test]
fn a_fake_machine_is_measured_and_stops_at_sigterm() {
    let (dir, mut fake) = machine();
    let state = dir.path().join("state");
    let line = format!("--root {} --state {}", fake.path().display(), state.display());
    let running = Running::start(&line);
    let page = running.page_with("zone=\"package-0\"");
    assert!(page.contains("node=\"fake1\""), "{page}");
    fake.energy("intel-rapl:0", 6_000_000).unwrap();
    running.page_with("zone=\"dram\"");
    assert_eq!(running.get("/healthz"), "ok\n");

    // a second one with the same folder is refused, check knows of the first
    refused(
        &format!("run --listen 127.0.0.1:0 {line}"),
        1,
        &["another agent is running with the state folder", "--state DIR"],
    );
    let (_, out, _) = said(&format!("check --listen {} {line}", running.address));
    let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("in use by a running agent"), "{out}");
    assert!(words.contains(&format!("{} is held by a running agent", running.address)), "{out}");

    let (status, took, log) = running.stop(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(took < Duration::from_secs(5), "{took:?}\n{log}");
    assert!(log.contains("zone package-0 (powercap, measured)") && log.contains("stopping"), "{log}");
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    assert!(state.join("ledger").exists() && state.join("floors.json").exists());
}

#[test]
fn totals_go_on_after_a_restart_and_ctrl_c_ends_it_too() {
    let (dir, mut fake) = machine();
    let line = format!("--root {} --state {}", fake.path().display(), dir.path().join("state").display());
    let joules = |page: &str| -> f64 {
        let series = |l: &&str| l.starts_with("ebbtide_node_energy_joules_total{") && l.contains("zone=\"package-0\"");
        page.lines().find(series).unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    let measured = |running: &Running, at_least: f64| {
        let start = clock::now();
        loop {
            let found = joules(&running.page_with("ebbtide_node_energy_joules_total{"));
            if found >= at_least {
                return found;
            }
            assert!(clock::now().since(start) < PATIENCE, "{found} J instead of {at_least} J");
        }
    };
    let first = Running::start(&line);
    assert_eq!(measured(&first, 0.0), 0.0);
    fake.energy("intel-rapl:0", 1_200_000).unwrap();
    assert_eq!(measured(&first, 0.1), 0.2);
    let (status, _, log) = first.stop(Signal::INT);
    assert_eq!(status.code(), Some(0), "{log}");

    let second = Running::start(&line);
    assert!(joules(&second.page_with("ebbtide_node_energy_joules_total{")) >= 0.2, "totals fell");
}
