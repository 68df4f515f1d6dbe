//! The agent as an unprivileged user with the capabilities that the documentation names, and what is left behind when
//! it is killed. On this machine's own kernel; see `usage.rs` for where that isn't possible.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ebbtide_agent::host::HostRoot;
use ebbtide_agent::usage::bpf::BpfReader;

/// Nobody in particular.
const USER: &str = "65534";

fn possible() -> bool {
    let why = match BpfReader::with_events(&HostRoot::new("/"), &[]) {
        Err(why) => why.to_string(),
        Ok(_) if !rustix::process::geteuid().is_root() => "only root can become another user".to_owned(),
        Ok(_) => return true,
    };
    assert!(std::env::var_os("EBBTIDE_REQUIRE_BPF").is_none(), "required here: {why}");
    eprintln!("SKIPPED: {why}");
    false
}

/// A running agent.
struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    /// Starts `command` with the arguments of an agent and waits for its page.
    fn start(mut command: Command, more: &[&str]) -> Self {
        command.args(["run", "--listen", "127.0.0.1:0", "--state", "none", "--interval", "100ms"]).args(more);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut agent = Self { child, address: String::new() };
        let mut said = String::new();
        for line in BufReader::new(agent.child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            said.push_str(&line);
            said.push('\n');
            if let Some((_, address)) = line.split_once("metrics at http://") {
                agent.address = address.trim_end_matches("/metrics").to_owned();
                return agent;
            }
        }
        panic!("the agent ended:\n{said}");
    }

    fn page(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Effective capabilities of each thread.
    fn capabilities(&self) -> Vec<u64> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads
            .map(|t| {
                let status = std::fs::read_to_string(t.unwrap().path().join("status")).unwrap();
                let hex = status.lines().find_map(|l| l.strip_prefix("CapPrm:")).unwrap().trim();
                u64::from_str_radix(hex, 16).unwrap()
            })
            .collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn agent() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ebbtide-agent"))
}

/// The agent as another user with these capabilities and no others. It runs from a place that this user can reach.
fn as_nobody(folder: &tempfile::TempDir, capabilities: &str) -> Command {
    use std::os::unix::fs::PermissionsExt as _;
    let program = folder.path().join("ebbtide-agent");
    std::fs::copy(env!("CARGO_BIN_EXE_ebbtide-agent"), &program).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--bounding-set", capabilities]);
    command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]).arg(program);
    command
}

/// Programs in the kernel that bear our names.
fn attached() -> Vec<u32> {
    let ours = ["tasks_all", "tasks_changed", "task_freed", "cgroup_made", "task_switched"];
    let ours = |p: &aya::programs::ProgramInfo| p.name_as_str().is_some_and(|n| ours.contains(&n));
    aya::programs::loaded_programs().filter_map(Result::ok).filter(ours).map(|p| p.id()).collect()
}

#[test]
fn two_capabilities_are_enough_and_are_given_up() {
    if !possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(as_nobody(&folder, "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"), &[]);
    let page = agent.page();
    assert!(
        page.contains("ebbtide_agent_usage_info{method=\"bpf\",counters=\"off\",quality=\"measured\"} 1"),
        "{page}"
    );
    let (ptrace, dac_read_search) = (1 << 19, 1 << 2);
    for held in agent.capabilities() {
        assert_eq!(held, ptrace | dac_read_search);
    }
    // it goes on measuring without what it gave up
    let samples = |page: &str| -> u64 {
        let line = page.lines().find_map(|l| l.strip_prefix("ebbtide_agent_samples_total ")).unwrap();
        line.parse().unwrap()
    };
    let before = samples(&page);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        if samples(&agent.page()) >= before + 5 {
            return;
        }
    }
    panic!("no more samples after {before}");
}

#[test]
fn root_gives_up_what_it_does_not_need() {
    if !possible() {
        return;
    }
    let agent = Agent::start(agent(), &[]);
    let (dac_override, dac_read_search, ptrace) = (1 << 1, 1 << 2, 1 << 19);
    for held in agent.capabilities() {
        assert_eq!(held & !(dac_override | dac_read_search | ptrace), 0, "{held:x}");
    }
}

#[test]
fn without_rights_it_reads_proc_and_says_why() {
    if !possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(as_nobody(&folder, "-all"), &[]);
    assert!(agent.page().contains("ebbtide_agent_usage_info{method=\"procfs\""));
    let folder = tempfile::tempdir().unwrap();
    let mut told = as_nobody(&folder, "-all");
    let told = told.args(["run", "--usage", "bpf", "--listen", "127.0.0.1:0", "--state", "none"]).output().unwrap();
    let said = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(4), "{said}");
    assert!(said.contains("usage is set to \"bpf\", which doesn't work here"), "{said}");
    assert!(said.contains("CAP_BPF and CAP_PERFMON"), "{said}");
}

#[test]
fn nothing_stays_in_the_kernel_when_it_is_killed() {
    if !possible() {
        return;
    }
    let agent = Agent::start(agent(), &[]);
    let while_it_runs = attached();
    assert!(while_it_runs.len() >= 4, "{while_it_runs:?}");
    // SIGKILL
    drop(agent);
    // other tests of this file have programs of their own: those of this agent must go, which may take the kernel a
    // moment
    for _ in 0..100 {
        let left = attached();
        if while_it_runs.iter().filter(|id| left.contains(id)).count() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("still there: {:?}", attached());
}
