//! Asks every reader what it finds on this machine, best first, and says which zones make up the node.
//!
//! The list of readers is fixed; there are no plug-ins. What is left out is told with its reason.

mod roles;

use std::collections::BTreeSet;

use super::integrate::ProbeMode;
use super::model::{self, ModelOverride};
use super::perf_rapl::{self, PerfRapl};
use super::wall::WallFeed;
use super::{
    Found, ReadError, Reading, Skipped, Source, SourceKind, Zone, ZoneKind, battery, hwmon, outlet, powercap, scmi,
};
use crate::clock::Moment;
use crate::host::HostRoot;

pub use self::roles::{Role, covers_cpu, node_zones};

/// Which sources are used, and how they are read.
#[derive(Clone, Debug)]
pub struct DiscoverOptions {
    /// How sensors of power are read.
    pub probes: ProbeMode,
    /// The readers that are asked.
    pub kinds: BTreeSet<SourceKind>,
    /// The operator's own figures for the load curve.
    pub model: Option<ModelOverride>,
    /// Where the fleet tells what the whole machine draws, if it does.
    pub wall: Option<WallFeed>,
}

/// What there is on this machine.
pub struct Discovery {
    /// Ready to read, best first. Names of zones are unique over all of them.
    pub sources: Vec<Box<dyn Source>>,
    /// Looked at and left out.
    pub skipped: Vec<Skipped>,
    /// The packages as perf counts them, where powercap's are in use; for `perf_rapl::CrossCheck`.
    pub cross_check: Option<PerfRapl>,
}

impl DiscoverOptions {
    /// Asks every reader.
    pub fn all(probes: ProbeMode) -> Self {
        Self { probes, kinds: SourceKind::ALL.into(), model: None, wall: None }
    }
}

impl Discovery {
    /// The zones of all sources, in the order in which they are read.
    pub fn zones(&self) -> Vec<Zone> {
        zones_of(&self.sources)
    }
}

/// Finds every source of this machine.
pub fn discover(host: &HostRoot, options: &DiscoverOptions) -> Discovery {
    let wanted = |kind| options.kinds.contains(&kind);
    let mut found = if wanted(SourceKind::Powercap) { powercap::discover(host) } else { Found::default() };
    let mut cross_check = None;
    if wanted(SourceKind::PerfRapl) {
        if package_answers(&mut found.sources) {
            cross_check = perf_rapl::for_cross_check(host, &mut found.skipped);
        } else {
            use_perf(&mut found, perf_rapl::discover(host));
        }
    }
    if wanted(SourceKind::Scmi) {
        found.merge(scmi::discover(host, options.probes));
    }
    if wanted(SourceKind::Hwmon) {
        found.merge(hwmon::discover(host, options.probes));
    }
    if wanted(SourceKind::Battery) {
        found.merge(battery::discover(host, options.probes));
    }
    if let Some(feed) = &options.wall {
        found.merge(outlet::discover(feed));
    }
    // a guess only where no sensor tells anything of the processor
    if wanted(SourceKind::Model) && !covers_cpu(&zones_of(&found.sources)) {
        found.merge(model::discover(host, options.model, options.wall.as_ref()));
    }
    Discovery { sources: with_unique_names(found.sources), skipped: found.skipped, cross_check }
}

/// Whether any package can be read now.
fn package_answers(sources: &mut [Box<dyn Source>]) -> bool {
    let mut readings: Vec<Result<Reading, ReadError>> = Vec::new();
    sources.iter_mut().any(|source| {
        readings.clear();
        source.read(Moment::default(), &mut readings);
        source.zones().iter().zip(&readings).any(|(zone, reading)| zone.kind == ZoneKind::Package && reading.is_ok())
    })
}

/// Takes what perf found; if that has packages, it replaces powercap zones that don't answer.
fn use_perf(powercap: &mut Found, perf: Found) {
    if zones_of(&perf.sources).iter().any(|z| z.kind == ZoneKind::Package) {
        for zone in zones_of(&std::mem::take(&mut powercap.sources)) {
            powercap.skip(zone.path, "no package of powercap answers, perf tells the same", None);
        }
    }
    powercap.merge(perf);
}

fn zones_of(sources: &[Box<dyn Source>]) -> Vec<Zone> {
    sources.iter().flat_map(|s| s.zones()).cloned().collect()
}

/// A source some of whose zones got another name, because a better source has a zone of that name.
struct Renamed {
    source: Box<dyn Source>,
    zones: Vec<Zone>,
}

impl Source for Renamed {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>) {
        self.source.read(now, out);
        for (own, theirs) in self.zones.iter_mut().zip(self.source.zones()) {
            own.goes_as(theirs);
        }
    }
}

/// Makes the names unique over all sources: the first keeps its name, a later one gets its source's
/// name added (`package-0-hwmon`), and a number if that is taken too.
fn with_unique_names(sources: Vec<Box<dyn Source>>) -> Vec<Box<dyn Source>> {
    let mut taken = BTreeSet::new();
    let rename = |source: Box<dyn Source>| -> Box<dyn Source> {
        let mut zones = source.zones().to_vec();
        for zone in &mut zones {
            let full = format!("{}-{}", zone.name, zone.source.as_str());
            let mut n = 1;
            while !taken.insert(zone.name.clone()) {
                zone.name = if n == 1 { full.clone() } else { format!("{full}-{n}") };
                n += 1;
            }
        }
        if zones == source.zones() { source } else { Box::new(Renamed { source, zones }) }
    };
    sources.into_iter().map(rename).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceKind;
    use crate::source::powercap::fixture;
    use ebbtide_proto::Energy;
    use proptest::prelude::*;
    use std::time::Duration;

    /// A source whose zones have these names and read as their position, or fail.
    struct Fake {
        zones: Vec<Zone>,
        works: bool,
    }

    fn fake(kind: SourceKind, names: &[&str], works: bool) -> Box<dyn Source> {
        let zones = names.iter().map(|n| roles::zone(kind, ZoneKind::Package, n, None)).collect();
        Box::new(Fake { zones, works })
    }

    impl Source for Fake {
        fn zones(&self) -> &[Zone] {
            &self.zones
        }

        fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>) {
            for (zone, n) in self.zones.iter().zip(0..) {
                let absent = ReadError::Absent { path: zone.path.clone(), why: "test".into() };
                out.push(if self.works { Ok(Reading { at: now, counter: Energy::from_uj(n) }) } else { Err(absent) });
            }
        }
    }

    fn names(sources: &[Box<dyn Source>]) -> Vec<String> {
        zones_of(sources).into_iter().map(|z| z.name).collect()
    }

    #[test]
    fn a_machine_is_found_and_adds_up() {
        let root = fixture::tree("two-sockets");
        let found = discover(&HostRoot::new(root.path()), &DiscoverOptions::all(ProbeMode::Stepped));
        assert_eq!(names(&found.sources), ["package-0", "dram-0", "package-1", "dram-1"]);
        assert_eq!(node_zones(&found.zones()), [Role::Total; 4]);
        assert!(found.skipped.is_empty() && found.cross_check.is_none(), "{:?}", found.skipped);
    }

    #[test]
    fn a_machine_with_firmware_power_only_is_integrated_by_a_thread_or_by_steps() {
        let root = fixture::tree("scmi");
        for options in [ProbeMode::Stepped, ProbeMode::Threaded(Duration::from_millis(100))].map(DiscoverOptions::all) {
            let found = discover(&HostRoot::new(root.path()), &options);
            assert_eq!(names(&found.sources), ["SoC", "CPU", "cluster-0-0-0", "cluster-0-0-1", "DDR"]);
            assert_eq!(node_zones(&found.zones()), [Role::Total, Role::Part, Role::Part, Role::Part, Role::Part]);
        }
    }

    #[test]
    fn perf_takes_over_where_powercap_does_not_answer() {
        for (works, kept) in [(true, "powercap"), (false, "perf-rapl")] {
            let mut found = Found { sources: vec![fake(SourceKind::Powercap, &["package-0"], works)], skipped: vec![] };
            assert_eq!(package_answers(&mut found.sources), works);
            if !works {
                let perf = vec![fake(SourceKind::PerfRapl, &["package-0"], true)];
                use_perf(&mut found, Found { sources: perf, skipped: vec![] });
                assert_eq!(found.skipped.len(), 1);
            }
            let sources: Vec<&str> = zones_of(&found.sources).iter().map(|z| z.source.as_str()).collect();
            assert_eq!(sources, [kept]);
        }
        // nothing else there: the silent zones may come back
        let mut found = Found { sources: vec![fake(SourceKind::Powercap, &["package-0"], false)], skipped: vec![] };
        use_perf(&mut found, Found::default());
        assert_eq!((found.sources.len(), found.skipped.len()), (1, 0));
    }

    #[test]
    fn the_better_source_keeps_the_name() {
        let sources = with_unique_names(vec![
            fake(SourceKind::Powercap, &["package-0", "dram"], true),
            fake(SourceKind::Hwmon, &["package-0", "board", "dram-hwmon"], true),
            fake(SourceKind::Hwmon, &["dram", "package-0"], true),
        ]);
        assert_eq!(
            names(&sources),
            ["package-0", "dram", "package-0-hwmon", "board", "dram-hwmon", "dram-hwmon-2", "package-0-hwmon-2"]
        );
    }

    proptest! {
        #[test]
        fn names_are_unique_and_readings_stay_in_order(lists in prop::collection::vec(prop::collection::vec("[ab](-hwmon)?", 0..4), 0..4)) {
            let before: Vec<Box<dyn Source>> = lists
                .iter()
                .map(|l| fake(SourceKind::Hwmon, &l.iter().map(String::as_str).collect::<Vec<_>>(), true))
                .collect();
            let mut after = with_unique_names(before);
            let names = names(&after);
            prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), lists.iter().map(Vec::len).sum::<usize>());
            for (source, list) in after.iter_mut().zip(&lists) {
                let mut out = Vec::new();
                source.read(Moment::default(), &mut out);
                let order: Vec<u64> = out.iter().map(|r| r.as_ref().unwrap().counter.uj()).collect();
                prop_assert_eq!(order, (0..list.len() as u64).collect::<Vec<_>>());
            }
        }
    }
}
