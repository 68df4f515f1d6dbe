//! Power that the firmware of ARM machines tells: `/sys/class/powercap/arm-scmi:N[:M…]`.
//!
//! These zones have `power_uw` and no energy counter, so they are integrated. Names and hierarchy are
//! the firmware's; the energy of a nested zone is part of the one around it.
//! Kernel: `drivers/powercap/arm_scmi_powercap.c`; protocol: Arm DEN0056, powercap protocol.

use std::io;

use ebbtide_proto::{Power, Ratio, ZoneId};

use super::integrate::{PowerProbe, ProbeMode};
use super::powercap::attribute::Attribute;
use super::powercap::tree::{self, Identity};
use super::powercap::{PRIVILEGE, default_limit, limit_of, unique_names};
use super::{CounterShape, Found, Quality, ReadError, SourceKind, Zone, ZoneKind};
use crate::host::HostRoot;

/// The protocol promises no accuracy; firmware mostly reads the regulators, and what happens
/// between two readings is interpolated.
const ERROR: Ratio = Ratio::from_percent(5);

/// The firmware's power zones.
struct ScmiProbe {
    zones: Vec<Zone>,
    files: Vec<Attribute>,
}

impl PowerProbe for ScmiProbe {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn read(&mut self, out: &mut Vec<Result<Power, ReadError>>) {
        out.extend(self.files.iter_mut().map(|f| f.read().map(Power::from_uw)));
    }
}

/// Finds the SCMI power zones of this machine. A zone that gives no figure now is kept, unless the
/// firmware says that it never will.
pub fn discover(host: &HostRoot, mode: ProbeMode) -> Found {
    let mut found = Found::default();
    let tree = tree::walk(host, |control| control == "arm-scmi");
    for link in &tree.dangling {
        found.skip(link.display().to_string(), "the link leads nowhere", Some("mount the host's /sys whole"));
    }
    let named = tree::named(tree.dirs, &mut found);
    let identities = tree::identify("scmi", &named, &mut found);
    let (kept, files): (Vec<Identity<'_>>, Vec<Attribute>) =
        identities.into_iter().filter_map(|i| Some((usable(&i, &mut found)?, i))).map(|(file, i)| (i, file)).unzip();
    if kept.is_empty() {
        return found;
    }
    let name_of = |i: &Identity<'_>| i.chain.first().map_or_else(String::new, |(name, _)| name.clone());
    let names = unique_names(kept.iter().map(|i| {
        // siblings of one name under one parent are told apart by their index
        let same = |other: &&Identity<'_>| name_of(other) == name_of(i) && other.parent == i.parent;
        let within = i.parent.as_ref().filter(|_| kept.iter().filter(same).count() == 1);
        (name_of(i), within.map_or_else(|| i.dir.index.clone(), |(_, name)| name.clone()))
    }));
    let ids: Vec<&ZoneId> = kept.iter().map(|i| &i.id).collect();
    let zones = kept.iter().zip(names).zip(&files).map(|((i, name), file)| {
        let kind = kind_of(&name_of(i), i.parent.is_some());
        let limit = i.chain.iter().find_map(|(_, dir)| limit_of((*dir)?, kind));
        Zone {
            id: i.id.clone(),
            name,
            kind,
            parent: i.parent.clone().map(|(id, _)| id).filter(|id| ids.contains(&id)),
            socket: None,
            source: SourceKind::Scmi,
            path: file.path().display().to_string(),
            quality: Quality::Scaled,
            error: ERROR,
            counter: CounterShape { range: None, max_power: limit.unwrap_or(default_limit(kind)) },
            idle: None,
        }
    });
    let zones = zones.collect();
    found.sources.push(mode.integrate(ScmiProbe { zones, files }));
    found
}

/// The zone's power file, if there is any prospect that it gives a figure.
fn usable(identity: &Identity<'_>, found: &mut Found) -> Option<Attribute> {
    let mut file = Attribute::new(identity.dir.path.join("power_uw"));
    let path = file.path().display().to_string();
    let Err(ReadError::Io { source, .. }) = file.read() else { return Some(file) };
    match source.kind() {
        io::ErrorKind::PermissionDenied => found.skip(path, "it may not be read", Some(PRIVILEGE)),
        // the driver's answer for a zone that can be capped but not monitored
        io::ErrorKind::InvalidInput | io::ErrorKind::NotFound => {
            found.skip(path, "the firmware doesn't tell the power of this zone", None);
        }
        _ => return Some(file),
    }
    None
}

/// Guesses what a zone covers from the words that firmware uses.
fn kind_of(name: &str, nested: bool) -> ZoneKind {
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    if has(&["gpu"]) {
        ZoneKind::Gpu
    } else if has(&["ddr", "dram", "dimm", "mem"]) {
        ZoneKind::Dram
    } else if has(&["cpu", "core", "cluster"]) {
        ZoneKind::Core
    } else if has(&["soc", "package", "pkg", "socket"]) {
        ZoneKind::Package
    } else if nested {
        ZoneKind::Other
    } else {
        ZoneKind::Board
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::source::powercap::fixture;
    use proptest::prelude::*;
    use std::fs;
    use std::time::Duration;

    #[test]
    fn nested_zones_have_parents_and_are_integrated() {
        let root = fixture::tree("scmi");
        let mut found = discover(&HostRoot::new(root.path()), ProbeMode::Stepped);
        let source = &mut found.sources[0];
        let shown: Vec<String> = source
            .zones()
            .iter()
            .map(|z| format!("{} {} {:?} {}", z.id, z.name, z.kind, z.parent.as_ref().map_or("-", |p| p.as_str())))
            .collect();
        assert_eq!(
            shown,
            [
                "scmi/SoC SoC Package -",
                "scmi/SoC/CPU CPU Core scmi/SoC",
                "scmi/SoC/CPU/cluster cluster-0-0-0 Core scmi/SoC/CPU",
                "scmi/SoC/CPU/cluster@0:0:1 cluster-0-0-1 Core scmi/SoC/CPU",
                "scmi/SoC/DDR DDR Dram scmi/SoC",
            ]
        );
        assert!(source.zones().iter().all(|z| z.quality == Quality::Scaled && z.counter.range.is_none()));
        assert_eq!(found.skipped.len(), 1);
        assert!(found.skipped[0].what.ends_with("arm-scmi:1/power_uw"), "{:?}", found.skipped);

        let mut out = Vec::new();
        let start = Moment::default();
        source.read(start, &mut out);
        assert!(matches!(&out[4], Err(ReadError::Nonsense { found, .. }) if found == "nothing"));
        fs::write(root.path().join("sys/class/powercap/arm-scmi:0/power_uw"), "60000000\n").unwrap();
        fs::write(root.path().join("sys/class/powercap/arm-scmi:0:1/power_uw"), "3000000\n").unwrap();
        out.clear();
        source.read(start.plus(Duration::from_secs(1)), &mut out);
        let uj: Vec<u64> = out.iter().map(|r| r.as_ref().unwrap().counter.uj()).collect();
        assert_eq!(uj, [50_000_000, 25_000_000, 12_000_000, 13_000_000, 0], "40 W rising to 60 W over 1 s");
    }

    #[test]
    fn a_machine_without_scmi_says_nothing() {
        let root = fixture::tree("client");
        let found = discover(&HostRoot::new(root.path()), ProbeMode::Stepped);
        assert!(found.sources.is_empty() && found.skipped.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_give_a_zone_or_a_reason(name in prop::collection::vec(any::<u8>(), 0..80), power in prop::collection::vec(any::<u8>(), 0..40)) {
            let root = tempfile::tempdir().unwrap();
            for zone in ["arm-scmi:0", "arm-scmi:0:0"] {
                let dir = root.path().join("sys/class/powercap").join(zone);
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join("name"), &name).unwrap();
                fs::write(dir.join("power_uw"), &power).unwrap();
            }
            let mut found = discover(&HostRoot::new(root.path()), ProbeMode::Stepped);
            let zones = found.sources.first().map_or(0, |s| s.zones().len());
            prop_assert_eq!(zones + found.skipped.len(), 2);
            let mut out = Vec::new();
            for source in &mut found.sources {
                source.read(Moment::default(), &mut out);
            }
            prop_assert_eq!(out.len(), zones);
            let number = std::str::from_utf8(&power).ok().and_then(|t| t.lines().next()?.trim().parse::<u64>().ok());
            prop_assert!(number.is_some() || out.iter().all(Result::is_err));
        }
    }
}
