//! Who ran, and what the agent finds around itself. Pure.

use super::facts::{Bpf, Certificate, CgroupVersion, Facts, Fleet, Lack, Names, Port, State, Usage};
use super::judge::{Cause, Finding};
use crate::usage::procfs::RESERVED_FDS;

/// `PROC_PID_INIT_INO`: the pid namespace that the machine starts with (`include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// A wall clock before this (2020) was never set.
const YEAR_2020: u64 = 1_577_836_800;
/// Capabilities that make a difference, by bit (capabilities(7)).
const CAPABILITIES: [(u8, &str); 7] = [
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (10, "CAP_NET_BIND_SERVICE"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Adds a row for each thing around.
pub(super) fn judge(facts: &Facts, rows: &mut Vec<Finding>) {
    usage(&facts.usage, facts.rights.uid, rows);
    if facts.usage.unreadable.is_none() {
        if !matches!(facts.usage.bpf, Bpf::Works { .. }) {
            rows.push(files(&facts.usage));
        }
        rows.push(cgroup(facts));
        rows.extend(names(facts.names));
    }
    rows.extend(kubelet(facts));
    rows.push(fleet(facts.fleet.as_ref()));
    rows.push(state(&facts.state));
    rows.push(listen(facts));
    rows.push(clock(facts));
    rows.push(machine(facts));
    rows.push(rights(facts));
}

/// Whose processes a `/proc` shows.
#[derive(PartialEq, Eq)]
enum View {
    Machine,
    Container,
    /// A made-up tree, or nothing that would tell.
    Unknown,
}

fn view(u: &Usage) -> View {
    match u.pid_namespace {
        _ if u.kthreadd => View::Machine,
        Some(INITIAL_PID_NAMESPACE) => View::Machine,
        Some(_) => View::Container,
        None => View::Unknown,
    }
}

fn usage(u: &Usage, uid: u32, rows: &mut Vec<Finding>) {
    let before = rows.len();
    if let Some(why) = &u.unreadable {
        let row = Finding::missing("usage", Cause::Fatal, why.clone()).so("nothing can be charged to anybody");
        rows.push(row.fix("mount -t proc proc /proc, or name where the machine's / is mounted: --root DIR"));
        return;
    }
    if view(u) == View::Container {
        let init = u.init.as_deref().unwrap_or("unknown");
        let row = Finding::degraded("usage", Cause::Lack, format!("/proc is a container's own (process 1 is {init})"))
            .so("processes outside of it are not told apart");
        rows.push(row.fix("mount the host's / at /host, then --root /host (Kubernetes: also hostPID: true)"));
    }
    if let (Some(option), false) = (&u.hidepid, u.init_readable) {
        let row = Finding::missing("usage", Cause::Permission, format!("/proc is mounted with hidepid={option}"))
            .so(format!("only processes of user {uid} are seen"));
        rows.push(row.fix("run as root, or: setcap cap_sys_ptrace+ep /usr/bin/ebbtide-agent"));
    }
    if let Some(row) = without_bpf(&u.bpf) {
        rows.push(row);
    }
    if !u.schedstat && !matches!(u.bpf, Bpf::Works { .. }) {
        let row = Finding::degraded("usage", Cause::Lack, "no schedstat below /proc")
            .so("CPU time is only known in ticks, short runs are charged less precisely");
        rows.push(row.fix("boot a kernel with CONFIG_SCHED_INFO (CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT)"));
    }
    if rows.len() == before {
        let n = u.processes;
        let processes = if n == 1 { "process" } else { "processes" };
        rows.push(Finding::ok(
            "usage",
            match u.bpf {
                Bpf::Works { .. } => format!("{n} {processes}, by BPF: each thread in nanoseconds, to its end"),
                _ => format!("{n} {processes} in /proc, CPU time in nanoseconds"),
            },
        ));
    }
    if let Bpf::Works { counters: Some(counters) } = &u.bpf {
        rows.push(match counters {
            Ok(()) => Finding::ok("counters", "cycles, instructions and cache misses of each task"),
            Err(why) => Finding::missing("counters", Cause::Lack, why.clone())
                .so("tasks are weighed by CPU time")
                .fix("a virtual machine needs a virtual PMU from its host; or leave counters off"),
        });
    }
}

/// What is missing for BPF, and what that costs.
fn without_bpf(bpf: &Bpf) -> Option<Finding> {
    let Bpf::Unusable { why, lack } = bpf else { return None };
    let (cause, fix) = match lack {
        // another root isn't this machine; a container says so in a row of its own
        Lack::View => return None,
        Lack::Rights => (Cause::Permission, "systemctl edit ebbtide-agent: AmbientCapabilities=CAP_BPF CAP_PERFMON"),
        Lack::Btf => (Cause::Lack, "boot a kernel with CONFIG_DEBUG_INFO_BTF=y; distributions have it since 2020"),
        Lack::Lockdown => (Cause::Lack, "boot with lockdown=integrity, which is enough for Secure Boot"),
        Lack::Kernel => {
            (Cause::Lack, "it needs a 64-bit Linux 5.8 or later with CONFIG_BPF_JIT; or set usage to procfs")
        }
    };
    let row = Finding::degraded("usage", cause, format!("without BPF: {why}"));
    Some(row.so("/proc costs more; short-lived processes are told by their parents, in ticks").fix(fix))
}

fn files(u: &Usage) -> Finding {
    let (limit, needed) = (u.open_files, u.processes.saturating_add(RESERVED_FDS));
    if limit >= needed {
        return Finding::ok("files", format!("up to {limit} may be open, {needed} are needed"));
    }
    Finding::degraded("files", Cause::Lack, format!("only {limit} may be open, {needed} are needed"))
        .so("others are opened anew at each sample, which takes more CPU time")
        .fix(format!("systemctl edit ebbtide-agent: LimitNOFILE={}", needed.saturating_mul(2).next_power_of_two()))
}

fn cgroup(facts: &Facts) -> Finding {
    let found = match facts.cgroup {
        Some(CgroupVersion::V2) => "v2",
        Some(CgroupVersion::Hybrid) => "hybrid: v1 controllers and a v2 tree",
        Some(CgroupVersion::V1) => "v1",
        None if facts.usage.cgroups => {
            let row = Finding::ok("cgroup", "told by /proc, not mounted in /sys/fs/cgroup");
            return row.so("what workloads reserved is not known");
        }
        None => {
            return Finding::degraded("cgroup", Cause::Lack, "no control groups")
                .so("services, containers and pods are not told apart")
                .fix("mount -t cgroup2 cgroup2 /sys/fs/cgroup");
        }
    };
    Finding::ok("cgroup", found)
}

fn names(names: Names) -> Option<Finding> {
    match names {
        Names { readable: Some(true), .. } => Some(Finding::ok("names", "programs of all users can be read")),
        Names { readable: Some(false), wanted: true } => Some(
            Finding::missing("names", Cause::Permission, "can't read /proc/*/exe of other users")
                .so("names from comm only")
                .fix("systemctl edit ebbtide-agent: AmbientCapabilities=CAP_SYS_PTRACE"),
        ),
        Names { readable: Some(false), wanted: false } => {
            Some(Finding::ok("names", "from comm; /proc/*/exe of other users is closed and not needed"))
        }
        Names { readable: None, .. } => None,
    }
}

fn kubelet(facts: &Facts) -> Option<Finding> {
    let k = facts.kubelet.as_ref()?;
    Some(match &k.pods {
        Ok(1) => Finding::ok("kubelet", format!("1 pod at {}", k.url)),
        Ok(n) => Finding::ok("kubelet", format!("{n} pods at {}", k.url)),
        Err(why) => {
            let cause = if k.denied { Cause::Permission } else { Cause::Lack };
            let row = Finding::missing("kubelet", cause, why.clone()).so("pods are shown by uid, without their names");
            let fix = if k.denied {
                "allow the agent's service account to get nodes/proxy, and name its token in kubelet-token"
            } else {
                "look at kubelet-url, kubelet-ca and kubelet-token: ebbtide-agent --dump-config"
            };
            row.fix(fix)
        }
    })
}

fn fleet(fleet: Option<&Fleet>) -> Finding {
    let subject = "fleet";
    let Some(fleet) = fleet else { return Finding::ok(subject, "none is set, nobody is told") };
    let at = &fleet.address;
    let join = format!("ebbtide-agent join --fleet {} --token TOKEN", at.trim_start_matches("https://"));
    let until = match &fleet.certificate {
        Some(Certificate::None) => {
            let row = Finding::missing(subject, Cause::Lack, format!("no certificate for the fleet at {at}"));
            return row.so("the fleet is told nothing, frames are kept for it").fix(join);
        }
        Some(Certificate::Unusable { why, denied }) => {
            let cause = if *denied { Cause::Permission } else { Cause::Lack };
            return Finding::missing(subject, cause, why.clone())
                .so("the fleet is told nothing, frames are kept for it")
                .fix("name the files with fleet-ca, fleet-cert and fleet-key, or join again");
        }
        Some(Certificate::Good { until, ended: true, .. }) => {
            let row = Finding::missing(subject, Cause::Lack, format!("the certificate ended at {until}"));
            return row.so("the fleet is told nothing, frames are kept for it").fix(join);
        }
        Some(Certificate::Good { until, ends_soon, .. }) => Some((until, *ends_soon)),
        None => None,
    };
    if let Err(why) = &fleet.reached {
        return Finding::degraded(subject, Cause::Lack, format!("can't reach {at}: {why}"))
            .so("frames are kept for it and sent later")
            .fix("is the daemon running there, and its port open? the address is in the setting fleet");
    }
    match until {
        None => Finding::ok(subject, format!("{at} can be reached, in plain text")),
        Some((until, false)) => Finding::ok(subject, format!("{at} can be reached, certificate good until {until}")),
        Some((until, true)) => {
            let row = Finding::degraded(subject, Cause::Lack, format!("the certificate ends at {until}"));
            row.so("after that the fleet is told nothing").fix(join)
        }
    }
}

fn state(state: &State) -> Finding {
    match state {
        State::Off => Finding::ok("state", "none").so("totals and idle floors start anew with each start"),
        State::Usable { folder, exists, floors, held } => {
            let mut found = folder.display().to_string();
            match floors {
                0 => {}
                1 => found.push_str(", 1 idle floor learned"),
                n => found.push_str(&format!(", {n} idle floors learned")),
            }
            if *held {
                found.push_str(", in use by a running agent");
            } else if !exists {
                found.push_str(", will be made");
            }
            Finding::ok("state", found)
        }
        State::Unusable { folder, why, denied } => {
            let cause = if *denied { Cause::Permission } else { Cause::Lack };
            Finding::degraded("state", cause, format!("can't use {}: {why}", folder.display()))
                .so("totals and idle floors start anew with each start")
                .fix("choose a folder that this user may write: --state DIR")
        }
    }
}

fn listen(facts: &Facts) -> Finding {
    let at = facts.listen.address;
    let subject = "listen";
    match &facts.listen.port {
        Port::Free => Finding::ok(subject, format!("{at} is free")),
        Port::Agent => Finding::ok(subject, format!("{at} is held by a running agent")),
        Port::Taken => Finding::degraded(subject, Cause::Lack, format!("another program listens on {at}"))
            .so("ebbtide-agent run will not start")
            .fix(format!("ss -ltnp 'sport = {}' shows it; or choose another port with --listen", at.port())),
        Port::Denied => Finding::missing(subject, Cause::Permission, format!("not permitted to listen on {at}"))
            .so("ebbtide-agent run will not start")
            .fix("choose a port above 1023 with --listen, or: setcap cap_net_bind_service+ep /usr/bin/ebbtide-agent"),
        Port::Unusable(why) => Finding::degraded(subject, Cause::Lack, why.clone())
            .so("ebbtide-agent run will not start")
            .fix("choose another address with --listen"),
    }
}

fn clock(facts: &Facts) -> Finding {
    let c = &facts.clock;
    if c.wall < YEAR_2020 {
        return Finding::degraded("clock", Cause::Lack, "the time of day is not set")
            .so("timestamps are wrong; energy is not touched")
            .fix("timedatectl set-ntp true");
    }
    let source = c.source.as_deref().unwrap_or("source not told");
    let slept = match c.slept.as_secs() {
        0 => "never slept since boot".to_owned(),
        s if s < 60 => format!("slept {s} s since boot"),
        s if s < 3600 => format!("slept {} min since boot", s / 60),
        s => format!("slept {} h since boot", s / 3600),
    };
    let row = Finding::ok("clock", format!("{source}, {slept}"));
    match source {
        "hpet" | "acpi_pm" | "jiffies" => row.so("each look at this clock takes longer than at the processor's own"),
        _ => row,
    }
}

fn machine(facts: &Facts) -> Finding {
    let m = &facts.machine;
    let mut parts = Vec::new();
    parts.push(match (m.cpu.is_empty(), m.sockets) {
        (true, _) => "unknown processor".to_owned(),
        (false, 0 | 1) => m.cpu.clone(),
        (false, n) => format!("{n} × {}", m.cpu),
    });
    parts.push(if m.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", m.cpus) });
    parts.extend(m.board.clone());
    let kind = if m.real_time { "Linux (real-time)" } else { "Linux" };
    parts.extend(m.kernel.as_ref().map(|k| format!("{kind} {k}")));
    let on = m.guest_of.as_ref().map(|g| format!("guest of {g}"));
    parts.extend(on);
    Finding::ok("machine", parts.join(", "))
}

fn rights(facts: &Facts) -> Finding {
    let r = facts.rights;
    let has = |bit: u8| r.capabilities >> bit & 1 == 1;
    let held: Vec<&str> = CAPABILITIES.iter().filter(|(bit, _)| has(*bit)).map(|(_, name)| *name).collect();
    let user = if r.uid == 0 { "root".to_owned() } else { format!("user {}", r.uid) };
    Finding::ok(
        "rights",
        match held.len() {
            0 => format!("{user}, no capabilities"),
            n if n == CAPABILITIES.len() => format!("{user}, all capabilities"),
            _ => format!("{user}, {}", held.join(", ")),
        },
    )
}
