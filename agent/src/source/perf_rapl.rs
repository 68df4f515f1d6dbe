//! RAPL through the perf PMU `power`: the same counters as powercap's by another road.
//!
//! Where powercap answers, only the packages are opened and compared with it ([`CrossCheck`]); where it
//! doesn't, all zones are a source of their own. Counting starts at zero when an event is opened.
//! The PMU stands in `/sys/bus/event_source/devices/power`, one event per domain, to be opened on each
//! CPU of `cpumask` (one per die or package). Kernel: `arch/x86/events/rapl.c`.

mod cross_check;
mod event;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use ebbtide_proto::ZoneId;

pub use self::cross_check::{CrossCheck, Verdict, pairs};
use self::event::{Event, Scale};
use super::powercap::{RAPL_ERROR, default_limit, package_wide, unique_names};
use super::{CounterShape, Found, Quality, ReadError, Reading, Skipped, Source, SourceKind, Zone, ZoneKind};
use crate::clock::Moment;
use crate::host::{self, HostRoot};
use crate::perf;

const PRIVILEGE: &str =
    "run as root, or: setcap cap_perfmon+ep /usr/bin/ebbtide-agent, or: sysctl kernel.perf_event_paranoid=0";
/// The hardware moves a counter about once a millisecond; the CPU that reads it isn't idle meanwhile.
const FIRST_COUNT: (u32, Duration) = (25, Duration::from_millis(2));
/// More CPUs than this in a mask are nonsense.
const MOST_CPUS: usize = 1024;

/// The zones of the PMU that are open.
pub struct PerfRapl {
    zones: Vec<Zone>,
    counters: Vec<Counter>,
}

/// One open event.
struct Counter {
    raw: Box<dyn Count>,
    scale: Scale,
}

/// Something that counts: an open event, or a test's stand-in.
trait Count: Send {
    /// The count since it was opened.
    fn count(&mut self) -> io::Result<u64>;
}

impl Count for perf::OpenEvent {
    fn count(&mut self) -> io::Result<u64> {
        perf::OpenEvent::count(self)
    }
}

/// How the PMU is reached: the system's calls, or a test's.
struct Access<'a> {
    /// Opens the event `config` of PMU `pmu` on a CPU.
    open: &'a dyn Fn(u32, u64, u32) -> io::Result<Box<dyn Count>>,
    /// Lets the hardware move its counters.
    wait: &'a dyn Fn(),
}

/// Where a CPU of the mask is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    cpu: u32,
    package: u32,
    die: Option<u32>,
}

impl Source for PerfRapl {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>) {
        for (counter, zone) in self.counters.iter_mut().zip(&self.zones) {
            out.push(match counter.raw.count() {
                Ok(raw) => Ok(Reading { at: now, counter: counter.scale.energy(raw) }),
                Err(source) => Err(ReadError::Io { path: zone.path.clone(), source }),
            });
        }
    }
}

/// Opens all zones of the PMU, for machines where powercap has none.
pub fn discover(host: &HostRoot) -> Found {
    let mut found = Found::default();
    if let Some(source) = open_real(host, |_| true, &mut found.skipped) {
        found.sources.push(Box::new(source));
    }
    found
}

/// Opens the packages only, to be compared with powercap's.
pub fn for_cross_check(host: &HostRoot, skipped: &mut Vec<Skipped>) -> Option<PerfRapl> {
    open_real(host, |kind| kind == ZoneKind::Package, skipped)
}

fn open_real(host: &HostRoot, wanted: fn(ZoneKind) -> bool, skipped: &mut Vec<Skipped>) -> Option<PerfRapl> {
    // the numbers in a made-up /sys would open events of this machine's real PMUs
    if !is_sysfs(&host.sys("bus/event_source/devices")) {
        return None;
    }
    let wait = || std::thread::sleep(FIRST_COUNT.1);
    let open = |pmu, config, cpu| perf::open(pmu, config, cpu).map(|event| Box::new(event) as Box<dyn Count>);
    open_all(host, wanted, &Access { open: &open, wait: &wait }, skipped)
}

fn open_all(
    host: &HostRoot,
    wanted: fn(ZoneKind) -> bool,
    access: &Access<'_>,
    skipped: &mut Vec<Skipped>,
) -> Option<PerfRapl> {
    let folder = host.sys("bus/event_source/devices/power");
    let pmu = u32::try_from(host::read_u64(&folder.join("type")).ok()?).ok()?;
    let mut skip = |what: String, why: String, fix: Option<&str>| {
        skipped.push(Skipped { what, why, fix: fix.map(str::to_owned) });
    };
    let mut open = Vec::new();
    let places = places(host, &host::read_line(&folder.join("cpumask")).unwrap_or_else(|_| "0".into()));
    for result in event::list(&folder) {
        let event = match result {
            Ok(event) if wanted(event.kind) => event,
            Ok(_) => continue,
            Err((what, why)) => {
                skip(what, why, None);
                continue;
            }
        };
        for (nth, &place) in places.iter().enumerate() {
            // each die of a package tells the same platform
            let told = places.iter().take(nth).any(|p| p.package == place.package);
            if event.kind == ZoneKind::Psys && told {
                continue;
            }
            match (access.open)(pmu, event.config, place.cpu) {
                Ok(raw) => open.push((event.clone(), place, Counter { raw, scale: event.scale })),
                Err(e) => {
                    let denied = e.kind() == io::ErrorKind::PermissionDenied;
                    skip(
                        event.path.clone(),
                        format!("can't open it on CPU {}: {e}", place.cpu),
                        denied.then_some(PRIVILEGE),
                    );
                }
            }
        }
    }
    for (event, place, _) in silent(&mut open, access.wait) {
        let why = format!("present but doesn't count (CPU {}): a virtual machine, or a domain that is off", place.cpu);
        skip(event.path, why, None);
    }
    (!open.is_empty()).then(|| PerfRapl::new(open, &places))
}

type Open = (Event, Place, Counter);

/// Takes out those that still count nothing after the hardware had time to move.
fn silent(open: &mut Vec<Open>, wait: &dyn Fn()) -> Vec<Open> {
    let mut still: Vec<Open> = std::mem::take(open);
    for round in 0..FIRST_COUNT.0 {
        if round > 0 {
            wait();
        }
        open.extend(still.extract_if(.., |(_, _, counter)| counter.raw.count().is_ok_and(|n| n > 0)));
        if still.is_empty() {
            break;
        }
    }
    // the order of the zones doesn't depend on which of them moved first
    open.sort_by(|(a, p, _), (b, q, _)| (p.cpu, a.kind, &a.path).cmp(&(q.cpu, b.kind, &b.path)));
    still
}

impl PerfRapl {
    fn new(open: Vec<Open>, places: &[Place]) -> Self {
        let names = unique_names(open.iter().map(|(event, place, _)| {
            let package = place.name(places);
            match event.kind {
                ZoneKind::Package => (package, String::new()),
                kind => (kind.as_str().to_owned(), package.trim_start_matches("package-").to_owned()),
            }
        }));
        let packages: Vec<Place> = open.iter().filter(|o| o.0.kind == ZoneKind::Package).map(|o| o.1).collect();
        let mut it = Self { zones: Vec::new(), counters: Vec::new() };
        for ((event, place, counter), name) in open.into_iter().zip(names) {
            let package = format!("perf-rapl/{}", place.name(places));
            let (id, parent) = match event.kind {
                ZoneKind::Package => (package, None),
                // powercap calls the first one `psys` and the others by their package
                ZoneKind::Psys if place.package == 0 => ("perf-rapl/psys".to_owned(), None),
                ZoneKind::Psys => (format!("perf-rapl/psys-{}", place.package), None),
                kind => (format!("{package}/{}", kind.as_str()), packages.contains(&place).then_some(package)),
            };
            let Ok(id) = ZoneId::new(&id) else { continue };
            it.zones.push(Zone {
                id,
                name,
                kind: event.kind,
                parent: parent.and_then(|p| ZoneId::new(&p).ok()),
                socket: (event.kind != ZoneKind::Psys).then_some(place.package),
                source: SourceKind::PerfRapl,
                path: format!("{} on CPU {}", event.path, place.cpu),
                quality: Quality::Measured,
                error: RAPL_ERROR,
                // the PMU tells no limits
                counter: CounterShape { range: Some(event.scale.range()), max_power: default_limit(event.kind) },
                idle: None,
            });
            it.counters.push(counter);
        }
        it
    }
}

impl Place {
    /// As powercap calls the package: with the die where the mask has several CPUs of one package.
    fn name(self, places: &[Self]) -> String {
        match self.die {
            Some(die) if places.iter().filter(|p| p.package == self.package).count() > 1 => {
                format!("package-{}-die-{die}", self.package)
            }
            _ => format!("package-{}", self.package),
        }
    }
}

/// Where the CPUs of a mask such as `0,18` or `0-1` are.
fn places(host: &HostRoot, mask: &str) -> Vec<Place> {
    let topology = |cpu: u32, file: &str| {
        let path = host.sys(format!("devices/system/cpu/cpu{cpu}/topology/{file}"));
        host::read_u64(&path).ok().and_then(|n| u32::try_from(n).ok())
    };
    let place = |(nth, cpu): (usize, u32)| Place {
        cpu,
        package: topology(cpu, "physical_package_id").unwrap_or(u32::try_from(nth).unwrap_or(u32::MAX)),
        die: topology(cpu, "die_id"),
    };
    let mut places: Vec<Place> = perf::cpu_list(mask, MOST_CPUS).into_iter().enumerate().map(place).collect();
    if package_wide(host) {
        let mut told = HashSet::new();
        places.retain(|p| told.insert(p.package));
    }
    places
}

/// Whether `path` is in a real sysfs, and not in a tree that was made to look like one.
fn is_sysfs(path: &Path) -> bool {
    const SYSFS_MAGIC: i64 = 0x6265_6572;
    #[allow(clippy::useless_conversion, reason = "the type of f_type differs between architectures")]
    rustix::fs::statfs(path).is_ok_and(|fs| i64::try_from(fs.f_type) == Ok(SYSFS_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::powercap::fixture;
    use ebbtide_proto::Energy;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A PMU whose counters are `config · 2^32` (that many joules) times how often time passed.
    struct Fake {
        config: u64,
        passed: &'static AtomicU64,
    }

    impl Count for Fake {
        fn count(&mut self) -> io::Result<u64> {
            Ok((self.config << 32) * self.passed.load(Ordering::Relaxed))
        }
    }

    fn open_fake(machine: &str, dead: u64, denied: u64) -> (Option<PerfRapl>, Vec<Skipped>, &'static AtomicU64) {
        let root = fixture::tree(machine);
        let passed: &'static AtomicU64 = Box::leak(Box::default());
        let open = move |pmu, config, _cpu| -> io::Result<Box<dyn Count>> {
            assert_eq!(pmu, 9);
            if config == denied {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Ok(Box::new(Fake { config: if config == dead { 0 } else { config }, passed }))
        };
        let wait = || {
            passed.fetch_add(1, Ordering::Relaxed);
        };
        let mut skipped = Vec::new();
        let access = Access { open: &open, wait: &wait };
        let source = open_all(&HostRoot::new(root.path()), |_| true, &access, &mut skipped);
        (source, skipped, passed)
    }

    fn shown(source: &PerfRapl) -> Vec<String> {
        let show = |z: &Zone| format!("{} {} {}", z.id, z.name, z.parent.as_ref().map_or("-", |p| p.as_str()));
        source.zones().iter().map(show).collect()
    }

    #[test]
    fn each_event_on_each_cpu_of_the_mask_is_a_zone() {
        let (source, skipped, passed) = open_fake("perf-two-sockets", 99, 99);
        let mut source = source.unwrap();
        assert_eq!(
            shown(&source),
            [
                "perf-rapl/psys psys-0 -",
                "perf-rapl/package-0 package-0 -",
                "perf-rapl/package-0/dram dram-0 perf-rapl/package-0",
                "perf-rapl/psys-1 psys-1 -",
                "perf-rapl/package-1 package-1 -",
                "perf-rapl/package-1/dram dram-1 perf-rapl/package-1",
            ]
        );
        assert_eq!(skipped.len(), 1, "{skipped:?}");
        assert!(skipped[0].what.ends_with("energy-odd"), "{skipped:?}");
        passed.store(3, Ordering::Relaxed);
        let mut out = Vec::new();
        let now = Moment { mono: 1, boot: 2, wall: 3 };
        source.read(now, &mut out);
        let joules = |n: u64| Reading { at: now, counter: Energy::from_uj(n * 1_000_000) };
        let got: Vec<Reading> = out.into_iter().map(Result::unwrap).collect();
        assert_eq!(got, [15, 6, 9, 15, 6, 9].map(joules), "event × 3 J");
    }

    #[test]
    fn what_does_not_count_or_open_is_left_out_with_a_reason() {
        let (source, skipped, _) = open_fake("perf-two-sockets", 5, 3);
        assert_eq!(shown(&source.unwrap()), ["perf-rapl/package-0 package-0 -", "perf-rapl/package-1 package-1 -"]);
        let of = |what: &str| skipped.iter().filter(|s| s.what.ends_with(what)).cloned().collect::<Vec<_>>();
        let psys = of("energy-psys");
        assert!(psys.len() == 2 && psys[0].why.starts_with("present but doesn't count (CPU 0)"), "{psys:?}");
        let ram = of("energy-ram");
        assert!(ram.len() == 2 && ram[0].fix.as_deref() == Some(PRIVILEGE), "{ram:?}");
    }

    #[test]
    fn two_dies_of_a_package_are_named_as_powercap_names_them() {
        let root = fixture::tree("perf-two-sockets");
        for cpu in ["cpu0", "cpu18"] {
            let topology = root.path().join("sys/devices/system/cpu").join(cpu).join("topology");
            std::fs::write(topology.join("physical_package_id"), "0\n").unwrap();
        }
        let host = HostRoot::new(root.path());
        let all = places(&host, "0,18");
        assert_eq!(all.iter().map(|p| p.name(&all)).collect::<Vec<_>>(), ["package-0-die-0", "package-0-die-1"]);

        // on AMD both dies tell the whole package
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(host.proc("cpuinfo"), "processor\t: 0\nvendor_id\t: AuthenticAMD\n").unwrap();
        let all = places(&host, "0,18");
        assert_eq!(all.iter().map(|p| p.name(&all)).collect::<Vec<_>>(), ["package-0"]);
    }

    #[test]
    fn a_made_up_tree_does_not_open_real_events() {
        let root = fixture::tree("perf-two-sockets");
        let found = discover(&HostRoot::new(root.path()));
        assert!(found.sources.is_empty() && found.skipped.is_empty());
    }

    /// On whatever machine this runs: each event of the PMU is a zone that counts, or has a reason.
    #[test]
    fn this_machine() {
        let host = HostRoot::new("/");
        let events = host::list(&host.sys("bus/event_source/devices/power/events"));
        let events: Vec<&String> = events.iter().filter(|e| !e.contains('.')).collect();
        if events.is_empty() {
            eprintln!("no PMU `power` here");
        }
        let mut found = discover(&host);
        for skipped in &found.skipped {
            eprintln!("skipped {skipped}");
        }
        let zones: Vec<String> = found.sources.iter().flat_map(|s| s.zones()).map(|z| z.path.clone()).collect();
        for event in events {
            let told = |path: &str| path.split(' ').next().is_some_and(|p| p.ends_with(&format!("/{event}")));
            assert!(zones.iter().any(|z| told(z)) || found.skipped.iter().any(|s| told(&s.what)), "{event}");
        }
        let mut out = Vec::new();
        for source in &mut found.sources {
            source.read(Moment::default(), &mut out);
        }
        assert!(out.iter().all(|r| r.as_ref().is_ok_and(|r| r.counter > Energy::ZERO)), "{out:?}");
    }
}
