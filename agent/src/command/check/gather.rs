//! Looks at the machine. What can't be read is left at "not known"; this never fails and changes nothing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use ebbtide_proto::Energy;
use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::process::{Resource, getrlimit};

use super::super::run;
use super::facts::{
    Bpf, Certificate, CgroupVersion, Clock, Cross, Curve, Facts, Fleet, Kubelet, Lack, Listen, Machine, Names, Port,
    Reader, Rights, State, Usage, ZoneFact,
};
use crate::clock::{self, Moment};
use crate::config::{NameStyle, Settings};
use crate::export::http::{self, BindError};
use crate::host::{self, HostRoot};
use crate::source::discover::{DiscoverOptions, Discovery, discover, node_zones};
use crate::source::integrate::ProbeMode;
use crate::source::model::cpu::Vendor;
use crate::source::model::load::CpuTimes;
use crate::source::model::{self, ModelOverride};
use crate::source::perf_rapl::{CrossCheck, PerfRapl, pairs};
use crate::source::{CounterShape, Reading, Source, SourceKind, Zone};
use crate::stream::connect::connect;
use crate::usage::Choice;
use crate::usage::bpf::{BpfReader, Unusable};
use crate::usage::cpu::Topology;
use crate::usage::stat::{MachineStat, parse_machine};
use crate::workload::KubeletError;

/// powercap and perf are compared over this time, and once more if there was too little energy.
const CROSS_CHECK: (Duration, u32) = (Duration::from_secs(1), 2);
/// Processes whose program is looked at.
const MOST_TRIED: usize = 1000;
/// An agent on this machine answers within this time.
const ANSWER: Duration = Duration::from_secs(1);
/// A fleet that can be reached is connected to within this time.
const FLEET_ANSWER: Duration = Duration::from_secs(5);

impl Facts {
    /// Looks at the machine below `host`, as far as `settings` allow; takes a second or two where powercap and perf
    /// are compared, and up to five more if the kubelet doesn't answer.
    pub fn gather(host: &HostRoot, settings: &Settings) -> Self {
        let given = settings.model.map(|m| ModelOverride { idle: m.idle, full: m.full });
        let mut discovery = discover(
            host,
            &DiscoverOptions { probes: ProbeMode::Stepped, kinds: settings.sources.clone(), model: given, wall: None },
        );
        let readers = readers(host, settings, &mut discovery);
        let cross = match discovery.cross_check.take() {
            Some(perf) => cross(&mut discovery, perf),
            None => Vec::new(),
        };
        let pids: Vec<String> =
            host::list(&host.proc("")).into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit())).collect();
        let state = state(settings.state.as_deref());
        let held = matches!(state, State::Usable { held: true, .. });
        let wanted = settings.names.contains(&NameStyle::Kepler) || settings.names.contains(&NameStyle::Scaphandre);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (kubelet, fleet, port) = match &runtime {
            Ok(runtime) => (
                settings.kubelet.as_ref().map(|k| runtime.block_on(kubelet(k))),
                settings.fleet.as_ref().map(|f| runtime.block_on(fleet(settings, f))),
                runtime.block_on(port(settings.listen, held)),
            ),
            Err(e) => (None, None, Port::Unusable(e.to_string())),
        };
        Self {
            machine: machine(host),
            readers,
            cross,
            model: settings.sources.contains(&SourceKind::Model).then(|| curve(host, given)),
            usage: Usage { bpf: bpf(host, settings), ..usage(host, &pids) },
            cgroup: cgroup(host),
            names: Names { readable: exe_readable(host, &pids), wanted },
            kubelet,
            fleet,
            state,
            listen: Listen { address: settings.listen, port },
            clock: clock_facts(host, clock::now()),
            rights: rights(),
        }
    }
}

fn readers(host: &HostRoot, settings: &Settings, discovery: &mut Discovery) -> Vec<Reader> {
    let roles = node_zones(&discovery.zones());
    let mut readings = Vec::new();
    for source in &mut discovery.sources {
        source.read(clock::now(), &mut readings);
    }
    let facts: Vec<(SourceKind, ZoneFact)> = discovery
        .zones()
        .into_iter()
        .zip(roles)
        .zip(readings)
        .map(|((z, role), reading)| {
            let silent = reading.err().map(|e| e.to_string());
            (z.source, ZoneFact { name: z.name, kind: z.kind, role, socket: z.socket, silent })
        })
        .collect();
    let of = |kind: SourceKind| Reader {
        kind,
        zones: facts.iter().filter(|(k, _)| *k == kind).map(|(_, z)| z.clone()).collect(),
        skipped: discovery.skipped.iter().filter(|s| reader_of(host, &s.what) == Some(kind)).cloned().collect(),
    };
    SourceKind::ALL.into_iter().filter(|k| settings.sources.contains(k)).map(of).collect()
}

/// Whose file `what` is.
fn reader_of(host: &HostRoot, what: &str) -> Option<SourceKind> {
    let root = host.path().display().to_string();
    let path = what.strip_prefix(root.trim_end_matches('/')).unwrap_or(what);
    let marks = [
        ("arm-scmi", SourceKind::Scmi),
        ("powercap", SourceKind::Powercap),
        ("event_source", SourceKind::PerfRapl),
        ("power_supply", SourceKind::Battery),
        ("hwmon", SourceKind::Hwmon),
        ("model", SourceKind::Model),
    ];
    marks.iter().find(|(mark, _)| path.contains(mark)).map(|(_, kind)| *kind)
}

/// Measures each package with powercap and perf at the same time.
fn cross(discovery: &mut Discovery, mut perf: PerfRapl) -> Vec<Cross> {
    let zones = discovery.zones();
    let pairs = pairs(&zones, perf.zones());
    let mut checks = vec![CrossCheck::default(); pairs.len()];
    let mut before = readings(discovery, &mut perf);
    for _ in 0..CROSS_CHECK.1 {
        if checks.iter().all(|c| c.ratio().is_some()) {
            break;
        }
        std::thread::sleep(CROSS_CHECK.0);
        let after = readings(discovery, &mut perf);
        for ((mine, theirs), check) in pairs.iter().zip(&mut checks) {
            let passed = |list: &dyn Fn(&Both) -> Option<Energy>, zone: Option<&Zone>| {
                Some(difference(list(&before)?, list(&after)?, zone?.counter))
            };
            let powercap = passed(&|b| *b.powercap.get(*mine)?, zones.get(*mine));
            let perf = passed(&|b| *b.perf.get(*theirs)?, perf.zones().get(*theirs));
            if let (Some(powercap), Some(perf)) = (powercap, perf) {
                check.push(powercap, perf);
            }
        }
        before = after;
    }
    let name = |i: usize| zones.get(i).map_or_else(String::new, |z| z.name.clone());
    pairs.iter().zip(checks).map(|((i, _), c)| Cross { zone: name(*i), ratio: c.ratio() }).collect()
}

/// Counters read at the same time.
struct Both {
    powercap: Vec<Option<Energy>>,
    perf: Vec<Option<Energy>>,
}

fn readings(discovery: &mut Discovery, perf: &mut PerfRapl) -> Both {
    let now = clock::now();
    let (mut all, mut theirs) = (Vec::new(), Vec::new());
    for source in &mut discovery.sources {
        source.read(now, &mut all);
    }
    perf.read(now, &mut theirs);
    let counters = |list: Vec<Result<Reading, _>>| list.into_iter().map(|r| r.ok().map(|r| r.counter)).collect();
    Both { powercap: counters(all), perf: counters(theirs) }
}

/// What passed between two counts, of which the later may have started over once.
fn difference(before: Energy, after: Energy, shape: CounterShape) -> Energy {
    let range = shape.range.unwrap_or(Energy::ZERO).uj();
    let (a, b) = (before.uj(), after.uj());
    Energy::from_uj(b.checked_sub(a).unwrap_or_else(|| range.saturating_sub(a).saturating_add(b)))
}

fn curve(host: &HostRoot, given: Option<ModelOverride>) -> Result<Curve, String> {
    let source = model::source(host, given, None)?;
    let e = source.estimate();
    let share = if e.share.is_empty() { String::new() } else { format!(", {}", e.share) };
    Ok(Curve {
        of: format!("{}, {}{share}", e.machine, e.basis),
        idle: e.curve.idle(),
        full: e.curve.full(),
        error: e.error,
    })
}

fn machine(host: &HostRoot) -> Machine {
    let text = host::read_text(&host.proc("stat")).unwrap_or_default();
    let times = CpuTimes::parse(&text);
    let found = model::machine::Machine::read(host, &times);
    let mut stat = MachineStat::default();
    parse_machine(text.as_bytes(), &mut stat);
    let ids: Vec<u32> = stat.cpus.iter().map(|c| c.cpu).collect();
    Machine {
        cpu: found.cpu.name,
        board: found.board,
        sockets: Topology::read(host, &ids).sockets,
        cpus: times.len(),
        x86: matches!(found.cpu.vendor, Vendor::Intel | Vendor::Amd),
        guest_of: found.guest_of,
        real_time: host::read_line(&host.sys("kernel/realtime")).is_ok_and(|on| on == "1"),
        kernel: host::read_line(&host.proc("sys/kernel/osrelease")).ok().filter(|k| !k.is_empty()),
    }
}

fn usage(host: &HostRoot, pids: &[String]) -> Usage {
    let proc = host.proc("");
    let readable = std::fs::read_dir(&proc).and_then(|_| host::read_text(&host.proc("stat")));
    let unreadable = readable.err().map(|e| format!("can't read {}: {e}", proc.display()));
    let line = |file: &str| host::read_line(&host.proc(file)).ok();
    let namespace = std::fs::read_link(host.proc("self/ns/pid")).ok();
    // infinity is no limit
    let open_files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    Usage {
        unreadable,
        processes: u64::try_from(pids.len()).unwrap_or(u64::MAX),
        hidepid: hidepid(&proc),
        init_readable: line("1/stat").is_some(),
        init: line("1/comm"),
        schedstat: pids.iter().any(|pid| host.proc(pid).join("schedstat").exists()),
        open_files,
        kthreadd: line("2/comm").is_some_and(|comm| comm == "kthreadd"),
        pid_namespace: namespace.and_then(|n| namespace_number(n.to_str()?)),
        bpf: Bpf::Unwanted,
        cgroups: line("1/cgroup").or_else(|| line("self/cgroup")).is_some_and(|c| !c.is_empty()),
    }
}

/// Loads the programs as the agent would, and lets go of them.
fn bpf(host: &HostRoot, settings: &Settings) -> Bpf {
    if settings.usage == Choice::Procfs {
        return Bpf::Unwanted;
    }
    match BpfReader::open(host, settings.counters) {
        Ok((_, without)) => {
            let counters = settings.counters.then(|| without.map_or(Ok(()), |why| Err(why.to_string())));
            Bpf::Works { counters }
        }
        Err(why) => {
            let locked = host::read_line(&host.sys("kernel/security/lockdown")).unwrap_or_default();
            let lack = match &why {
                Unusable::NoBtf(_) => Lack::Btf,
                Unusable::OtherMachine | Unusable::Namespace => Lack::View,
                _ if locked.contains("[confidentiality]") => Lack::Lockdown,
                _ if why.denied() => Lack::Rights,
                _ => Lack::Kernel,
            };
            Bpf::Unusable { why: why.to_string(), lack }
        }
    }
}

/// The number in `pid:[4026531836]`.
fn namespace_number(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// The option `hidepid` with which `proc` is mounted, unless it hides nothing.
fn hidepid(proc: &Path) -> Option<String> {
    let mounts = host::read_text(&HostRoot::new("/").proc("self/mounts")).ok()?;
    let proc = proc.to_str()?.trim_end_matches('/');
    hidepid_in(&mounts, proc)
}

/// Lines of proc_mounts(5): device, mount point, type, options. The last one that mounts there counts.
fn hidepid_in(mounts: &str, proc: &str) -> Option<String> {
    let options = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next() == Some(proc) && fields.next() == Some("proc")).then(|| fields.next())?
    })?;
    let value = options.split(',').find_map(|o| o.strip_prefix("hidepid="))?;
    (!matches!(value, "0" | "off")).then(|| value.to_owned())
}

fn cgroup(host: &HostRoot) -> Option<CgroupVersion> {
    let top = host.sys("fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        Some(CgroupVersion::V2)
    } else if top.join("unified/cgroup.controllers").exists() || top.join("unified/cgroup.procs").exists() {
        Some(CgroupVersion::Hybrid)
    } else if ["cpu", "cpuacct", "memory", "pids"].iter().any(|c| top.join(c).is_dir()) {
        Some(CgroupVersion::V1)
    } else {
        None
    }
}

/// Tries the processes of others: of root if nobody else runs any. One that can be read is enough, since some
/// processes are closed to everybody.
fn exe_readable(host: &HostRoot, pids: &[String]) -> Option<bool> {
    let (me, own_pid) = (rustix::process::geteuid(), std::process::id().to_string());
    let foreign = |pid: &&String| {
        **pid != own_pid && (me.is_root() || std::fs::metadata(host.proc(pid)).is_ok_and(|m| m.uid() != me.as_raw()))
    };
    let mut denied = None;
    for pid in pids.iter().filter(foreign).take(MOST_TRIED) {
        match std::fs::read_link(host.proc(pid).join("exe")) {
            Ok(_) => return Some(true),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => denied = Some(false),
            // a kernel thread, or just ended
            Err(_) => {}
        }
    }
    denied
}

async fn kubelet(k: &crate::config::Kubelet) -> Kubelet {
    let asked: anyhow::Result<usize> = async { Ok(run::kubelet(k)?.fetch().await?.len()) }.await;
    let denied = asked.as_ref().err().is_some_and(|e| {
        let refused =
            |c: &KubeletError| matches!(c, KubeletError::Status { code, .. } if matches!(code.as_u16(), 401 | 403));
        let closed = |c: &io::Error| c.kind() == io::ErrorKind::PermissionDenied;
        e.chain().any(|c| c.downcast_ref().is_some_and(refused) || c.downcast_ref().is_some_and(closed))
    });
    Kubelet { url: k.url.clone(), pods: asked.map_err(|e| format!("{e:#}")), denied }
}

/// Connects to the fleet and says nothing.
async fn fleet(settings: &Settings, fleet: &crate::config::Fleet) -> Fleet {
    let target = run::target(settings, fleet);
    let certificate = target.identity.as_ref().map(|identity| match identity.client_config() {
        Ok((_, validity)) => {
            let now = clock::now();
            let ended = validity.left(now) <= 0;
            Certificate::Good { until: validity.to_string(), ends_soon: validity.ends_soon(now), ended }
        }
        Err(error) => match error.kind() {
            Some(io::ErrorKind::NotFound) => Certificate::None,
            kind => {
                Certificate::Unusable { why: error.to_string(), denied: kind == Some(io::ErrorKind::PermissionDenied) }
            }
        },
    });
    let reached = tokio::time::timeout(FLEET_ANSWER, connect(target)).await;
    let reached = match reached {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(ended)) => Err(ended.text),
        Err(_) => Err(format!("no answer within {FLEET_ANSWER:?}")),
    };
    Fleet { address: fleet.address.to_string(), certificate, reached }
}

fn state(folder: Option<&Path>) -> State {
    let Some(folder) = folder else { return State::Off };
    let unusable = |why: &str, denied| State::Unusable { folder: folder.to_owned(), why: why.to_owned(), denied };
    let exists = folder.exists();
    if exists && !folder.is_dir() {
        return unusable("it is not a folder", false);
    }
    // what isn't there yet will be made in the nearest folder that is
    let Some(place) = folder.ancestors().find(|p| p.exists()) else { return unusable("no such folder", false) };
    if let Err(e) = access(place, Access::WRITE_OK | Access::EXEC_OK) {
        let e = io::Error::from(e);
        return unusable(&e.to_string(), e.kind() == io::ErrorKind::PermissionDenied);
    }
    let floors = host::read_text(&folder.join("floors.json")).unwrap_or_default();
    let floors: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&floors).unwrap_or_default();
    State::Usable { folder: folder.to_owned(), exists, floors: floors.len(), held: held(folder) }
}

/// Whether an agent holds the lock. It is tried shared and for an instant, and never made.
fn held(folder: &Path) -> bool {
    let Ok(lock) = std::fs::File::open(folder.join("lock")) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

async fn port(address: SocketAddr, state_is_held: bool) -> Port {
    match http::bind(address).await {
        Ok(_) => Port::Free,
        Err(BindError::InUse(_)) if state_is_held || is_agent(address) => Port::Agent,
        Err(BindError::InUse(_)) => Port::Taken,
        Err(BindError::Denied(_)) => Port::Denied,
        Err(e) => Port::Unusable(format!("{:#}", anyhow::Error::from(e))),
    }
}

/// Whether who answers at `address` calls itself an agent.
fn is_agent(mut address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = vec![0; 4096];
        let mut n = 0;
        while let Some(rest) = answer.get_mut(n..).filter(|r| !r.is_empty()) {
            match stream.read(rest)? {
                0 => break,
                more => n += more,
            }
        }
        answer.truncate(n);
        Ok(answer)
    };
    ask().is_ok_and(|answer| String::from_utf8_lossy(&answer).contains("Ebbtide agent"))
}

fn clock_facts(host: &HostRoot, now: Moment) -> Clock {
    let source = host.sys("devices/system/clocksource/clocksource0/current_clocksource");
    // the clocks are read one after the other
    let slept = Duration::from_nanos(now.boot.saturating_sub(now.mono));
    Clock { slept, wall: now.wall / 1_000_000_000, source: host::read_line(&source).ok() }
}

fn rights() -> Rights {
    let status = host::read_text(&HostRoot::new("/").proc("self/status")).unwrap_or_default();
    let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    Rights {
        uid: rustix::process::geteuid().as_raw(),
        capabilities: hex.and_then(|h| u64::from_str_radix(h.trim(), 16).ok()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_are_told_apart_by_their_reader_also_below_another_root() {
        let host = HostRoot::new("/tmp/hwmon");
        for (path, kind) in [
            ("/tmp/hwmon/sys/class/powercap/intel-rapl:0", Some(SourceKind::Powercap)),
            ("/tmp/hwmon/sys/class/powercap/arm-scmi:0", Some(SourceKind::Scmi)),
            ("/sys/bus/event_source/devices/power/events/energy-pkg", Some(SourceKind::PerfRapl)),
            ("/tmp/hwmon/sys/class/power_supply/hid-1", Some(SourceKind::Battery)),
            ("/tmp/hwmon/sys/class/hwmon/hwmon3/power1_input", Some(SourceKind::Hwmon)),
            ("model", Some(SourceKind::Model)),
            ("/tmp/hwmon/proc", None),
        ] {
            assert_eq!(reader_of(&host, path), kind, "{path}");
        }
    }

    #[test]
    fn a_wrap_between_two_counts_is_bridged() {
        let uj = Energy::from_uj;
        let shape = CounterShape { range: Some(uj(100)), max_power: ebbtide_proto::Power::from_uw(1) };
        assert_eq!(difference(uj(10), uj(30), shape), uj(20));
        assert_eq!(difference(uj(90), uj(5), shape), uj(15));
    }

    #[test]
    fn the_last_mount_of_proc_tells_what_is_hidden() {
        let mounts = "proc /proc proc rw,hidepid=2 0 0\nsys /sys sysfs ro 0 0\nproc /proc proc rw,hidepid=invisible 0 0\n\
                      proc /host/proc proc rw,hidepid=0 0 0\n";
        assert_eq!(hidepid_in(mounts, "/proc").as_deref(), Some("invisible"));
        assert_eq!(hidepid_in(mounts, "/host/proc"), None);
        assert_eq!(hidepid_in(mounts, "/none"), None);
    }

    #[test]
    fn the_state_folder_is_looked_at_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        assert!(matches!(state(Some(&folder)), State::Usable { exists: false, held: false, .. }));
        assert!(!dir.path().join("a").exists());
        let (journal, _) = crate::journal::Journal::open(&folder, None).unwrap();
        std::fs::write(folder.join("floors.json"), "{\"powercap/package-0\": {}}").unwrap();
        assert!(matches!(state(Some(&folder)), State::Usable { exists: true, floors: 1, held: true, .. }));
        drop(journal);
        assert!(matches!(state(Some(&folder)), State::Usable { held: false, .. }));
        assert!(crate::journal::Journal::open(&folder, None).is_ok());
        assert!(matches!(state(Some(&folder.join("lock"))), State::Unusable { denied: false, .. }));
        assert!(matches!(state(None), State::Off));
    }

    proptest! {
        #[test]
        fn any_link_and_any_mounts_are_survived(text in any::<String>(), n in any::<u64>()) {
            prop_assert_eq!(namespace_number(&format!("pid:[{n}]")), Some(n));
            prop_assert!(namespace_number(&text).is_none() || text.contains('['));
            prop_assert!(hidepid_in(&text, "/proc").is_none_or(|v| text.contains(&v)));
        }
    }
}
