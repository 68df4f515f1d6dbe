//! Which zones make up the node's total, so that no joule is counted twice. Pure.
//!
//! The total is Σ package + Σ dram (+ accelerators). RAPL's tree misleads: `dram` is nested in its
//! package and yet not part of its figure, `core` and `uncore` are.

use std::collections::HashMap;

use ebbtide_proto::ZoneId;
use serde::Serialize;

use crate::source::{SourceKind, Zone, ZoneKind};

/// What a zone is to the node's total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Summed into the node's total.
    Total,
    /// Part of another zone, or of no known place in the node; only shown.
    Part,
    /// Contains zones that are summed and more: platform, board, input of the machine.
    Platform,
    /// A better source tells the same.
    Duplicate,
}

impl Role {
    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Part => "part",
            Self::Platform => "platform",
            Self::Duplicate => "duplicate",
        }
    }
}

/// Nesting deeper than this is a circle.
const DEPTH: usize = 8;

/// The role of each zone, in the order of `zones`; which order that is doesn't matter.
///
/// - Packages, memory and accelerators are summed, unless they lie in a zone that is summed and whose
///   figure includes them.
/// - Cores and uncore are parts, unless nothing larger is known: then the outermost cores are summed.
/// - Boards are summed only where no package is known, the outermost ones of the best source.
/// - `psys` and the machine's input are never summed.
/// - Of a part of the machine that several sources tell, the best source's zone counts.
pub fn node_zones(zones: &[Zone]) -> Vec<Role> {
    let node = Node {
        zones,
        by_id: zones.iter().map(|z| (&z.id, z)).collect(),
        packages: zones.iter().any(|z| z.kind == ZoneKind::Package && z.source != SourceKind::Model),
        boards: zones.iter().any(|z| z.kind == ZoneKind::Board),
    };
    zones.iter().map(|z| node.role(z)).collect()
}

/// Whether the total has a sensor's figure for the processors; if not, a model has to stand in.
pub fn covers_cpu(zones: &[Zone]) -> bool {
    let cpu = |z: &Zone| matches!(z.kind, ZoneKind::Package | ZoneKind::Board | ZoneKind::Core);
    zones.iter().zip(node_zones(zones)).any(|(z, role)| role == Role::Total && cpu(z))
}

struct Node<'a> {
    zones: &'a [Zone],
    by_id: HashMap<&'a ZoneId, &'a Zone>,
    /// Whether a sensor tells any package.
    packages: bool,
    boards: bool,
}

impl<'a> Node<'a> {
    fn role(&self, zone: &'a Zone) -> Role {
        if self.told_better(zone) {
            return Role::Duplicate;
        }
        match zone.kind {
            ZoneKind::Psys | ZoneKind::Wall => Role::Platform,
            ZoneKind::Other | ZoneKind::Uncore => Role::Part,
            _ if self.inside(zone, |around| self.is_summed_around(around, zone)) => Role::Part,
            ZoneKind::Core if self.packages || self.boards => Role::Part,
            ZoneKind::Board if self.packages && self.inside(zone, |z| z.kind == ZoneKind::Board) => Role::Part,
            ZoneKind::Board if self.packages => Role::Platform,
            _ => Role::Total,
        }
    }

    /// Whether the figure of any zone around `zone` that satisfies `is` includes that of `zone`.
    fn inside(&self, zone: &'a Zone, is: impl Fn(&'a Zone) -> bool) -> bool {
        let outer = |z: &&'a Zone| z.parent.as_ref().and_then(|p| self.by_id.get(p)).copied();
        std::iter::successors(Some(zone), outer).take(DEPTH).skip(1).any(|around| includes(around, zone) && is(around))
    }

    /// Whether `around`, whose figure includes that of `inner`, or a zone around it, is summed. Not by
    /// way of `role`, which would go round in a circle of parents.
    fn is_summed_around(&self, around: &Zone, inner: &Zone) -> bool {
        match around.kind {
            // the better source's package is RAPL's, whose figure is without memory
            ZoneKind::Package => inner.kind != ZoneKind::Dram || !self.told_better(around),
            ZoneKind::Dram | ZoneKind::Gpu => true,
            ZoneKind::Core => !self.packages && !self.boards,
            ZoneKind::Board => !self.packages,
            _ => false,
        }
    }

    /// Whether a better source tells the same part of the machine.
    fn told_better(&self, zone: &Zone) -> bool {
        let same_part = |z: &Zone| match zone.kind {
            ZoneKind::Gpu | ZoneKind::Wall | ZoneKind::Other => false,
            kind => z.kind == kind && (z.socket == zone.socket || z.socket.is_none() || zone.socket.is_none()),
        };
        let modelled = zone.source == SourceKind::Model;
        let measures_cpu =
            |z: &Zone| matches!(z.kind, ZoneKind::Package | ZoneKind::Board | ZoneKind::Core) && z.source < zone.source;
        self.zones.iter().any(|z| z.source < zone.source && same_part(z) || modelled && measures_cpu(z))
    }
}

/// Whether the figure of `outer` includes that of `inner`, which is nested in it.
fn includes(outer: &Zone, inner: &Zone) -> bool {
    let rapl = matches!(inner.source, SourceKind::Powercap | SourceKind::PerfRapl);
    !(rapl && inner.kind == ZoneKind::Dram && outer.kind == ZoneKind::Package)
}

/// A zone for tests, named as its id ends.
#[cfg(test)]
pub(super) fn zone(source: SourceKind, kind: ZoneKind, name: &str, parent: Option<&str>) -> Zone {
    use crate::source::{CounterShape, Quality};
    use ebbtide_proto::{Power, Ratio};
    let id = |n: &str| ZoneId::new(&format!("{}/{n}", source.as_str())).unwrap();
    Zone {
        id: id(name),
        name: name.into(),
        kind,
        parent: parent.map(id),
        socket: None,
        source,
        path: format!("/test/{name}"),
        quality: Quality::Measured,
        error: Ratio::from_percent(2),
        counter: CounterShape { range: None, max_power: Power::from_uw(1_000_000_000) },
        idle: None,
    }
}

#[cfg(test)]
mod tests {
    use super::Role::{Duplicate, Part, Platform, Total};
    use super::SourceKind::{Battery, Hwmon, Model, PerfRapl, Powercap, Scmi};
    use super::ZoneKind::{Board, Core, Dram, Gpu, Other, Package, Psys, Uncore, Wall};
    use super::*;
    use proptest::prelude::*;

    type Row<'a> = (SourceKind, ZoneKind, &'a str, Option<&'a str>, Role);

    fn check(rows: &[Row<'_>]) -> Vec<Zone> {
        let zones: Vec<Zone> = rows.iter().map(|(s, k, n, p, _)| zone(*s, *k, n, *p)).collect();
        let roles = node_zones(&zones);
        for ((row, role), zone) in rows.iter().zip(roles).zip(&zones) {
            assert_eq!(role, row.4, "{}", zone.id);
        }
        zones
    }

    #[test]
    fn a_client_is_package_and_memory() {
        check(&[
            (Powercap, Package, "package-0", None, Total),
            (Powercap, Core, "core", Some("package-0"), Part),
            (Powercap, Uncore, "uncore", Some("package-0"), Part),
            (Powercap, Dram, "dram", Some("package-0"), Total),
            (Powercap, Psys, "psys", None, Platform),
            (Powercap, Other, "domain", Some("package-0"), Part),
            (Powercap, Core, "stray-core", None, Part),
            (Battery, Wall, "BAT0", None, Platform),
            (Hwmon, Gpu, "amdgpu", None, Total),
            (Hwmon, Board, "power_meter", None, Platform),
            (Hwmon, Board, "rail", Some("power_meter"), Part),
        ]);
    }

    #[test]
    fn the_best_source_of_a_socket_counts() {
        let mut zones = check(&[
            (Powercap, Package, "package-0-die-0", None, Total),
            (Powercap, Package, "package-0-die-1", None, Total),
            (Hwmon, Package, "socket", None, Duplicate),
            (Hwmon, Dram, "dimm", None, Total),
            (PerfRapl, Package, "package-0", None, Duplicate),
            (Model, Package, "cpu", None, Duplicate),
        ]);
        for z in &mut zones {
            z.socket = Some(0);
        }
        // another socket, which powercap doesn't tell
        zones[2].socket = Some(1);
        assert_eq!(node_zones(&zones), [Total, Total, Total, Total, Duplicate, Duplicate]);
    }

    #[test]
    fn boards_count_where_no_package_is_known() {
        let zones = check(&[
            (Hwmon, Board, "VDD_IN", None, Total),
            (Hwmon, Core, "VDD_CPU_GPU_CV", Some("VDD_IN"), Part),
            (Hwmon, Dram, "VDDQ", Some("VDD_IN"), Part),
            (Hwmon, Gpu, "GPU", Some("VDD_IN"), Part),
            (Hwmon, Board, "second", None, Total),
            (Model, Package, "cpu", None, Duplicate),
        ]);
        assert!(covers_cpu(&zones));
        check(&[(Scmi, Board, "board", None, Total), (Hwmon, Board, "ina226", None, Duplicate)]);
        // nested: module > processor > cores; the memory beside the processor isn't in it
        check(&[
            (Hwmon, Board, "Module", None, Platform),
            (Hwmon, Package, "Grace", Some("Module"), Total),
            (Hwmon, Package, "CPU", Some("Grace"), Part),
            (Hwmon, Dram, "in", Some("Grace"), Part),
            (Hwmon, Dram, "beside", Some("Module"), Total),
        ]);
    }

    #[test]
    fn cores_alone_are_better_than_nothing() {
        let zones = check(&[
            (Scmi, Core, "CPU", None, Total),
            (Scmi, Core, "cluster", Some("CPU"), Part),
            (Scmi, Uncore, "uncore", None, Part),
            (Scmi, Dram, "DDR", None, Total),
        ]);
        assert!(covers_cpu(&zones));
    }

    #[test]
    fn what_only_contains_the_processor_does_not_cover_it() {
        let zones = check(&[
            (Powercap, Psys, "psys", None, Platform),
            (Battery, Wall, "BAT0", None, Platform),
            (Hwmon, Gpu, "gpu", None, Total),
            (Hwmon, Dram, "dram", None, Total),
        ]);
        assert!(!covers_cpu(&zones));
        assert!(covers_cpu(&[zones, vec![zone(Model, Package, "cpu", None)]].concat()));
    }

    fn any_zones() -> impl Strategy<Value = Vec<Zone>> {
        let source = prop::sample::select(vec![Powercap, Scmi, PerfRapl, Hwmon, Battery, Model]);
        let kind = prop::sample::select(vec![Psys, Package, Core, Uncore, Dram, Gpu, Board, Wall, Other]);
        let one = (source, kind, 0..8usize, any::<bool>(), prop::option::of(0..2u32));
        prop::collection::vec(one, 0..8).prop_map(|rows| {
            let mut zones: Vec<Zone> = Vec::new();
            for (n, (source, kind, parent, nested, socket)) in rows.into_iter().enumerate() {
                // parents are zones of the same source; circles and parents that aren't there occur
                let mut z = zone(source, kind, &n.to_string(), nested.then(|| parent.to_string()).as_deref());
                z.socket = socket;
                zones.push(z);
            }
            zones
        })
    }

    proptest! {
        #[test]
        fn nothing_is_counted_twice(zones in any_zones()) {
            let roles = node_zones(&zones);
            prop_assert_eq!(roles.len(), zones.len());
            let total = |id: &ZoneId| zones.iter().zip(&roles).find(|(z, r)| z.id == *id && **r == Total).map(|(z, _)| z);
            for (z, role) in zones.iter().zip(&roles) {
                if *role != Total {
                    continue;
                }
                prop_assert!(!matches!(z.kind, Psys | Wall | Other | Uncore));
                // a summed zone lies in no summed zone, but for RAPL's memory
                let parent = z.parent.as_ref().filter(|p| **p != z.id).and_then(total);
                let rapl = matches!(z.source, Powercap | PerfRapl) && z.kind == Dram;
                prop_assert!(parent.is_none_or(|p| rapl && p.kind == Package), "{z:?} in {parent:?}");
                // and no other source's zone of the same part is summed
                let twice = zones.iter().zip(&roles).any(|(o, r)| {
                    *r == Total && o.kind == z.kind && o.kind != Gpu && o.socket == z.socket && o.source != z.source
                });
                prop_assert!(!twice);
            }
        }

        #[test]
        fn the_order_of_zones_does_not_matter(zones in any_zones(), seed in any::<prop::sample::Index>()) {
            let by_id = |zones: &[Zone]| -> HashMap<ZoneId, Role> {
                zones.iter().map(|z| z.id.clone()).zip(node_zones(zones)).collect()
            };
            let mut other = zones.clone();
            other.reverse();
            if !other.is_empty() {
                let n = other.len();
                other.rotate_left(seed.index(n));
            }
            prop_assert_eq!(by_id(&zones), by_id(&other));
        }
    }
}
