//! The agent as an unprivileged user with the capabilities that the documentation names, and what is left behind when
//! it is killed. On this machine's own kernel; see `usage.rs` for where that isn't possible.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/agent.rs"]
mod agent;

use std::process::Command;
use std::time::Duration;

use ebbtide_agent::host::HostRoot;
use ebbtide_agent::usage::bpf::BpfReader;

use agent::Agent;

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

/// Effective capabilities of each thread.
fn capabilities(agent: &Agent) -> Vec<u64> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    threads
        .map(|t| {
            let status = std::fs::read_to_string(t.unwrap().path().join("status")).unwrap();
            let hex = status.lines().find_map(|l| l.strip_prefix("CapPrm:")).unwrap().trim();
            u64::from_str_radix(hex, 16).unwrap()
        })
        .collect()
}

/// Ten samples a second.
const FAST: [&str; 2] = ["--interval", "100ms"];

fn program() -> Command {
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

/// Programs in the kernel, by number.
fn loaded() -> Vec<u32> {
    aya::programs::loaded_programs().filter_map(Result::ok).map(|p| p.id()).collect()
}

/// Those that an agent holds: other agents may run on this machine.
fn held_by(agent: &Agent) -> Vec<u32> {
    let open = std::fs::read_dir(format!("/proc/{}/fdinfo", agent.pid())).unwrap();
    let told = open.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
    let number = |text: String| Some(text.lines().find_map(|l| l.strip_prefix("prog_id:"))?.trim().parse().unwrap());
    let mut all: Vec<u32> = told.filter_map(number).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn two_capabilities_are_enough_and_are_given_up() {
    if !possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(as_nobody(&folder, "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"), &FAST);
    let page = agent.page();
    assert!(
        page.contains("ebbtide_agent_usage_info{method=\"bpf\",counters=\"off\",quality=\"measured\"} 1"),
        "{page}"
    );
    let (ptrace, dac_read_search) = (1 << 19, 1 << 2);
    for held in capabilities(&agent) {
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
    let agent = Agent::start(program(), &FAST);
    let (dac_override, dac_read_search, ptrace) = (1 << 1, 1 << 2, 1 << 19);
    for held in capabilities(&agent) {
        assert_eq!(held & !(dac_override | dac_read_search | ptrace), 0, "{held:x}");
    }
}

#[test]
fn without_rights_it_reads_proc_and_says_why() {
    if !possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(as_nobody(&folder, "-all"), &FAST);
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
    let agent = Agent::start(program(), &FAST);
    let held = held_by(&agent);
    assert!(held.len() >= 4 && held.iter().all(|id| loaded().contains(id)), "{held:?}");
    // SIGKILL
    drop(agent);
    // it may take the kernel a moment
    for _ in 0..100 {
        let left = loaded();
        if !held.iter().any(|id| left.contains(id)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("still there: {held:?} of {:?}", loaded());
}
