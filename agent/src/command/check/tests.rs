//! Whole reports, as people see them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbtide_proto::{Power, Ratio};
use proptest::prelude::*;

use super::facts::*;
use super::show::{Look, table};
use super::{Cause, Level, judge, outcome};
use crate::command::Exit;
use crate::config::Settings;
use crate::source::discover::Role;
use crate::source::{Skipped, SourceKind, ZoneKind};
use crate::twin::fakeroot::{FakeProcess, FakeRoot, FakeZone};

const PRIVILEGE: &str = "run as root, or: setcap cap_dac_read_search+ep /usr/bin/ebbtide-agent";

fn report(facts: &Facts) -> (Exit, String) {
    let rows = judge(facts);
    let (exit, summary) = outcome(facts, &rows);
    (exit, table(&rows, &summary, Look { width: 80, colour: false }))
}

/// Compares with a file of `tests/fixtures/check`. After a change of words: `EBBTIDE_BLESS=1 cargo test --lib check`.
#[track_caller]
fn assert_report(facts: &Facts, exit: Exit, name: &str) {
    let (got_exit, got) = report(facts);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/check/{name}.txt"));
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    assert_eq!(got, std::fs::read_to_string(&path).unwrap(), "{name}:\n{got}");
    assert_eq!(got_exit, exit);
    assert!(got.lines().all(|l| l.chars().count() <= 80));
}

fn zone(name: &str, kind: ZoneKind, socket: Option<u32>) -> ZoneFact {
    ZoneFact { name: name.to_owned(), kind, role: Role::Total, socket, silent: None }
}

fn skipped(what: &str, why: &str, fix: Option<&str>) -> Skipped {
    Skipped { what: what.to_owned(), why: why.to_owned(), fix: fix.map(str::to_owned) }
}

fn reader(kind: SourceKind, zones: Vec<ZoneFact>, skipped: Vec<Skipped>) -> Reader {
    Reader { kind, zones, skipped }
}

fn curve(of: &str, idle: u64, full: u64, percent: u32) -> Option<Result<Curve, String>> {
    let watts = |w: u64| Power::from_uw(w * 1_000_000);
    Some(Ok(Curve { of: of.to_owned(), idle: watts(idle), full: watts(full), error: Ratio::from_percent(percent) }))
}

/// A service on a server where nothing is wrong around the sensors.
fn server() -> Facts {
    Facts {
        machine: Machine {
            cpu: "Intel Xeon Gold 6240".into(),
            sockets: 2,
            cpus: 72,
            x86: true,
            kernel: Some("6.8.0-45-generic".into()),
            ..Machine::default()
        },
        model: curve("2 × Intel Xeon Gold 6240, known TDP 150 W", 96, 420, 30),
        usage: Usage {
            processes: 812,
            init_readable: true,
            init: Some("systemd".into()),
            schedstat: true,
            open_files: 524_288,
            kthreadd: true,
            cgroups: true,
            bpf: Bpf::Works { counters: None },
            ..Usage::default()
        },
        cgroup: Some(CgroupVersion::V2),
        names: Names { readable: Some(true), wanted: true },
        fleet: Some(Fleet {
            address: "https://fleet.example:9884".into(),
            certificate: Some(Certificate::Good {
                until: "2027-11-30 12:00 UTC".into(),
                ends_soon: false,
                ended: false,
            }),
            reached: Ok(()),
        }),
        state: State::Usable { folder: "/var/lib/ebbtide-agent".into(), exists: true, floors: 4, held: true },
        listen: Listen { port: Port::Agent, ..Listen::default() },
        clock: Clock { slept: Duration::ZERO, wall: 1_800_000_000, source: Some("tsc".into()) },
        rights: Rights { uid: 0, capabilities: u64::MAX },
        ..Facts::default()
    }
}

fn two_sockets() -> Vec<ZoneFact> {
    vec![
        zone("package-0", ZoneKind::Package, Some(0)),
        zone("dram-0", ZoneKind::Dram, Some(0)),
        zone("package-1", ZoneKind::Package, Some(1)),
        zone("dram-1", ZoneKind::Dram, Some(1)),
    ]
}

#[test]
fn what_bpf_lacks_is_said_with_what_helps() {
    for (lack, exit, name) in [
        (Lack::Rights, Exit::NotPermitted, "bpf-rights"),
        (Lack::Btf, Exit::Degraded, "bpf-btf"),
        (Lack::Lockdown, Exit::Degraded, "bpf-lockdown"),
        (Lack::Kernel, Exit::Degraded, "bpf-kernel"),
    ] {
        let mut facts = server();
        facts.readers = vec![reader(SourceKind::Powercap, two_sockets(), vec![])];
        let why = "the kernel doesn't take the program tasks_all: the kernel's words";
        facts.usage.bpf = Bpf::Unusable { why: why.to_owned(), lack };
        assert_report(&facts, exit, name);
    }
    let mut facts = server();
    facts.machine.real_time = true;
    facts.readers = vec![reader(SourceKind::Powercap, two_sockets(), vec![])];
    facts.usage.bpf =
        Bpf::Works { counters: Some(Err("the processor doesn't count cycles here: not supported".to_owned())) };
    assert_report(&facts, Exit::Degraded, "no-counters");
}

#[test]
fn a_server_with_rapl() {
    let mut facts = server();
    let duplicate = skipped("/sys/class/powercap/intel-rapl-mmio:0", "duplicate: intel-rapl tells package-0", None);
    facts.readers = vec![
        reader(SourceKind::Powercap, two_sockets(), vec![duplicate]),
        reader(SourceKind::PerfRapl, vec![], vec![]),
        reader(SourceKind::Hwmon, vec![], vec![]),
        reader(SourceKind::Model, vec![], vec![]),
    ];
    let cross = |zone: &str, ppm| Cross { zone: zone.to_owned(), ratio: Some(Ratio::from_ppm(ppm)) };
    facts.cross = vec![cross("package-0", 1_000_100), cross("package-1", 998_400)];
    assert_report(&facts, Exit::Ok, "server");
}

#[test]
fn an_unprivileged_user() {
    let mut facts = server();
    let denied = skipped(
        "/sys/class/powercap/intel-rapl:0/energy_uj and 3 more",
        "only root may read it (since CVE-2020-8694)",
        Some(PRIVILEGE),
    );
    let perf = skipped(
        "/sys/bus/event_source/devices/power/events/energy-pkg",
        "can't open it on CPU 0: Permission denied (os error 13)",
        Some("run as root, or: setcap cap_perfmon+ep /usr/bin/ebbtide-agent"),
    );
    facts.readers = vec![
        reader(SourceKind::Powercap, vec![], vec![denied]),
        reader(SourceKind::PerfRapl, vec![], vec![perf]),
        reader(SourceKind::Model, vec![zone("cpu", ZoneKind::Package, None)], vec![]),
    ];
    facts.usage.hidepid = Some("2".into());
    facts.usage.init_readable = false;
    facts.names.readable = Some(false);
    facts.rights = Rights { uid: 1000, capabilities: 0 };
    facts.usage.bpf =
        Bpf::Unusable { why: "the kernel doesn't take the maps: not permitted".into(), lack: Lack::Rights };
    let folder = PathBuf::from("/home/u/.local/state/ebbtide-agent");
    facts.state = State::Usable { folder, exists: false, floors: 0, held: false };
    facts.listen.port = Port::Free;
    assert_report(&facts, Exit::NotPermitted, "unprivileged");
}

#[test]
fn a_guest_without_sensors() {
    let mut facts = server();
    facts.machine = Machine {
        cpu: "AMD EPYC 7B13".into(),
        sockets: 1,
        cpus: 4,
        x86: true,
        guest_of: Some("Google Compute Engine".into()),
        kernel: Some("6.1.0-25-cloud-amd64".into()),
        ..Machine::default()
    };
    facts.model = curve("AMD EPYC 7B13, typical of Milan, 4 of 128 threads of the host", 3, 9, 50);
    let none = skipped("/sys/class/powercap", "no RAPL zones", Some("modprobe intel_rapl_msr"));
    facts.readers = vec![
        reader(SourceKind::Powercap, vec![], vec![none]),
        reader(SourceKind::PerfRapl, vec![], vec![]),
        reader(SourceKind::Model, vec![zone("cpu", ZoneKind::Package, None)], vec![]),
    ];
    facts.state = State::Off;
    facts.listen.port = Port::Taken;
    facts.clock = Clock { slept: Duration::from_secs(7300), wall: 1_800_000_000, source: Some("acpi_pm".into()) };
    assert_report(&facts, Exit::Degraded, "guest");
}

#[test]
fn an_arm_board_with_power_monitors() {
    let mut facts = server();
    facts.machine = Machine {
        cpu: "ARM Cortex-A78AE".into(),
        board: Some("NVIDIA Jetson AGX Orin".into()),
        sockets: 1,
        cpus: 12,
        kernel: Some("5.15.136-tegra".into()),
        ..Machine::default()
    };
    facts.model = curve("NVIDIA Jetson AGX Orin, a known board", 9, 32, 40);
    let rails = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"];
    let mut zones: Vec<ZoneFact> = rails.iter().map(|n| zone(n, ZoneKind::Board, None)).collect();
    zones[2].role = Role::Platform;
    facts.readers = vec![
        reader(SourceKind::Powercap, vec![], vec![skipped("/sys/class/powercap", "no RAPL zones", None)]),
        reader(SourceKind::Scmi, vec![], vec![]),
        reader(SourceKind::Hwmon, zones, vec![skipped("/sys/class/hwmon/hwmon2/curr4_input", "not wired", None)]),
        reader(SourceKind::Model, vec![], vec![]),
    ];
    facts.cgroup = Some(CgroupVersion::Hybrid);
    facts.rights = Rights { uid: 998, capabilities: 1 << 2 | 1 << 19 };
    assert_report(&facts, Exit::Ok, "arm-board");
}

#[test]
fn a_container_that_sees_only_itself() {
    let mut facts = server();
    facts.readers = vec![reader(SourceKind::Powercap, two_sockets(), vec![])];
    facts.model = None;
    facts.usage.kthreadd = false;
    facts.usage.pid_namespace = Some(4_026_532_449);
    facts.usage.init = Some("ebbtide-agent".into());
    facts.usage.processes = 1;
    facts.usage.open_files = 128;
    facts.usage.schedstat = false;
    facts.usage.bpf = Bpf::Unusable { why: "the agent runs in a pid namespace of its own".into(), lack: Lack::View };
    facts.cgroup = None;
    facts.kubelet = Some(Kubelet {
        url: "https://10.0.0.7:10250".into(),
        pods: Err("the kubelet answered 403 Forbidden: the token's account needs the right to get nodes/proxy".into()),
        denied: true,
    });
    let why = "Read-only file system (os error 30)".to_owned();
    facts.state = State::Unusable { folder: "/var/lib/ebbtide-agent".into(), why, denied: false };
    facts.listen.port = Port::Denied;
    assert_report(&facts, Exit::Degraded, "container");
}

#[test]
fn a_fake_machine_is_looked_at_through_the_real_readers() {
    let dir = tempfile::tempdir().unwrap();
    let mut fake = FakeRoot::new(dir.path());
    fake.zone(&FakeZone { energy_uj: 5, ..FakeZone::new("intel-rapl:0", "package-0") }).unwrap();
    fake.zone(&FakeZone::new("intel-rapl:0:0", "dram")).unwrap();
    fake.zone(&FakeZone::new("intel-rapl:1", "package-1")).unwrap();
    fake.unlink_energy("intel-rapl:1").unwrap();
    fake.zone(&FakeZone::new("intel-rapl-mmio:0", "package-0")).unwrap();
    let mut init = FakeProcess::new(1, "systemd");
    init.exe = "/usr/lib/systemd/systemd".into();
    fake.process(&init).unwrap();
    fake.process(&FakeProcess::new(2, "kthreadd")).unwrap();
    fake.put("proc/stat", "cpu  1 0 1 9 0 0 0 0 0 0\ncpu0 1 0 1 9 0 0 0 0 0 0\ncpu1 0 0 0 9 0 0 0 0 0 0\n").unwrap();
    fake.put("proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\nphysical id : 0\nprocessor : 1\n").unwrap();
    fake.put("proc/sys/kernel/osrelease", "6.8.0\n").unwrap();
    fake.put("sys/fs/cgroup/cgroup.controllers", "cpu\n").unwrap();
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings { root: fake.host(), listen, state: Some(dir.path().join("state")), ..Settings::default() };
    let facts = Facts::gather(&settings.root, &settings);

    let powercap = facts.reader(SourceKind::Powercap).unwrap();
    let shown: Vec<(&str, bool)> = powercap.zones.iter().map(|z| (z.name.as_str(), z.silent.is_none())).collect();
    assert_eq!(shown, [("package-0", true), ("dram", true), ("package-1", false)]);
    assert_eq!((facts.usage.processes, facts.usage.kthreadd, facts.usage.schedstat), (2, true, true));
    assert_eq!((facts.machine.cpus, facts.machine.x86), (2, true));
    assert_eq!(facts.machine.kernel.as_deref(), Some("6.8.0"));
    assert_eq!((facts.cgroup, facts.names.readable), (Some(CgroupVersion::V2), Some(true)));
    assert_eq!(facts.listen.port, Port::Free);
    assert!(matches!(facts.state, State::Usable { exists: false, held: false, .. }));
    assert!(!dir.path().join("state").exists());

    let rows = judge(&facts);
    let row = |subject: &str| rows.iter().find(|r| r.subject == subject).cloned().unwrap();
    assert_eq!(row("powercap").level, Level::Degraded);
    assert!(row("powercap").found.starts_with("package-1 doesn't answer: can't read"), "{:?}", row("powercap"));
    assert_eq!((row("usage").level, row("cgroup").level), (Level::Ok, Level::Ok));
    assert_eq!(outcome(&facts, &rows).0, Exit::Degraded);
}

#[test]
fn nothing_at_all_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let host = crate::host::HostRoot::new(dir.path());
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let facts = Facts::gather(&host, &Settings { root: host.clone(), listen, state: None, ..Settings::default() });
    let rows = judge(&facts);
    let fatal: Vec<&str> = rows.iter().filter(|r| r.cause == Cause::Fatal).map(|r| r.subject).collect();
    assert_eq!(fatal, ["model", "usage"]);
    assert_eq!(outcome(&facts, &rows), (Exit::Failed, "0 of 1 source ok · nothing is measured · exit 1".into()));
}

#[test]
fn perf_and_powercap_that_differ_are_told() {
    let mut facts = server();
    facts.readers =
        vec![reader(SourceKind::Powercap, two_sockets(), vec![]), reader(SourceKind::PerfRapl, vec![], vec![])];
    let mut perf = |ratio: Option<u32>| {
        facts.cross = vec![Cross { zone: "package-0".into(), ratio: ratio.map(Ratio::from_ppm) }];
        judge(&facts).into_iter().find(|r| r.subject == "perf").unwrap()
    };
    assert_eq!(perf(None).level, Level::Ok);
    assert_eq!(perf(Some(950_000)).level, Level::Ok);
    assert_eq!(perf(Some(1_080_000)).level, Level::Degraded);
    let double = perf(Some(2_000_000));
    assert_eq!((double.level, double.cause), (Level::Degraded, Cause::Lack));
    assert_eq!(double.found, "package-0: perf told 2.000 of what powercap told");
    assert!(double.fix.unwrap().contains("--sources"));
}

#[test]
fn what_is_wrong_with_the_fleet_is_said_with_what_helps() {
    let good = Certificate::Good { until: "2027-11-30 12:00 UTC".into(), ends_soon: true, ended: false };
    let ended = Certificate::Good { until: "2024-11-30 12:00 UTC".into(), ends_soon: true, ended: true };
    let closed = Certificate::Unusable { why: "can't read key.pem: Permission denied".into(), denied: true };
    let refused = || Err("Connection refused (os error 111)".to_owned());
    let rows = [
        (Some(Certificate::None), refused(), Level::Missing, Cause::Lack, "no certificate for the fleet at"),
        (Some(ended), Ok(()), Level::Missing, Cause::Lack, "the certificate ended at 2024"),
        (Some(closed), Ok(()), Level::Missing, Cause::Permission, "can't read key.pem"),
        (Some(good.clone()), refused(), Level::Degraded, Cause::Lack, "can't reach https://f:9884: Connection refused"),
        (Some(good), Ok(()), Level::Degraded, Cause::Lack, "the certificate ends at 2027"),
        (None, Ok(()), Level::Ok, Cause::None, "https://f:9884 can be reached, in plain text"),
    ];
    for (certificate, reached, level, cause, found) in rows {
        let fleet = Fleet { address: "https://f:9884".into(), certificate, reached };
        let facts = Facts { fleet: Some(fleet), ..server() };
        let row = judge(&facts).into_iter().find(|r| r.subject == "fleet").unwrap();
        assert!(row.found.starts_with(found) && (row.level, row.cause) == (level, cause), "{row:?}");
        assert_eq!(row.fix.is_some() && !row.effect.is_empty(), level != Level::Ok, "{row:?}");
    }
    let none = judge(&Facts { fleet: None, ..server() });
    assert!(none.iter().any(|r| r.subject == "fleet" && r.level == Level::Ok));
}

proptest! {
    /// Whatever is wrong: rights alone give 4, nothing gives 0, and each row that isn't ok says why it matters.
    #[test]
    fn exit_codes_follow_the_rows(
        hidden in any::<bool>(), schedstat in any::<bool>(), container in any::<bool>(), proc in any::<bool>(),
        exe in any::<Option<bool>>(), files in 0..2000u64, rapl in 0..3u8, bpf in any::<bool>(),
    ) {
        let mut facts = server();
        let denied = skipped("energy_uj", "only root may read it", Some(PRIVILEGE));
        facts.readers = vec![match rapl {
            0 => reader(SourceKind::Powercap, vec![], vec![denied]),
            1 => reader(SourceKind::Powercap, two_sockets(), vec![]),
            _ => reader(SourceKind::Powercap, two_sockets(), vec![denied]),
        }];
        facts.readers.push(reader(
            SourceKind::Model,
            if rapl == 0 { vec![zone("cpu", ZoneKind::Package, None)] } else { vec![] },
            vec![],
        ));
        facts.usage.hidepid = hidden.then(|| "2".to_owned());
        facts.usage.init_readable = !hidden;
        facts.usage.schedstat = schedstat;
        facts.usage.kthreadd = !container;
        facts.usage.pid_namespace = container.then_some(1);
        facts.usage.unreadable = (!proc).then(|| "can't read /proc".to_owned());
        facts.usage.open_files = files;
        if !bpf {
            facts.usage.bpf = Bpf::Unwanted;
        }
        facts.names.readable = exe;
        let rows = judge(&facts);
        let (exit, summary) = outcome(&facts, &rows);
        let rights = hidden || exe == Some(false) || rapl != 1;
        // files and schedstat matter where /proc is read
        let lack = container || !bpf && (!schedstat || files < 812 + 256);
        let want = match (proc, lack, rights) {
            (false, ..) => Exit::Failed,
            (true, true, _) => Exit::Degraded,
            (true, false, true) => Exit::NotPermitted,
            (true, false, false) => Exit::Ok,
        };
        prop_assert_eq!(exit, want);
        let (end, half) = (format!("exit {}", exit.code()), "of");
        prop_assert!(summary.ends_with(&end) && summary.contains(half));
        for row in rows {
            prop_assert_eq!(row.level == Level::Ok, row.cause == Cause::None, "{:?}", row);
            prop_assert!(row.level == Level::Ok || !row.effect.is_empty(), "{:?}", row);
        }
    }
}
