use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::source::Skipped;

/// What discovery makes of the fixture `name`.
struct Machine {
    root: TempDir,
    found: Found,
}

impl Machine {
    fn new(name: &str) -> Self {
        let root = fixture::tree(name);
        let found = discover(&HostRoot::new(root.path()));
        Self { root, found }
    }

    fn zones(&self) -> &[Zone] {
        self.found.sources.first().map_or(&[], |s| s.zones())
    }

    fn zone(&self, id: &str) -> &Zone {
        let ids: Vec<&str> = self.zones().iter().map(|z| z.id.as_str()).collect();
        self.zones().iter().find(|z| z.id.as_str() == id).unwrap_or_else(|| panic!("no {id} in {ids:?}"))
    }

    /// `id name socket parent` of each zone.
    fn shown(&self) -> Vec<String> {
        self.zones().iter().map(shown).collect()
    }

    /// `uJ` or the error of each zone.
    fn read(&mut self) -> Vec<Result<u64, String>> {
        read(&mut self.found)
    }

    fn file(&self, path: &str) -> PathBuf {
        self.root.path().join("sys/class/powercap").join(path)
    }
}

fn shown(z: &Zone) -> String {
    let socket = z.socket.map_or("-".into(), |s| s.to_string());
    format!("{} {} {socket} {}", z.id, z.name, z.parent.as_ref().map_or("-", |p| p.as_str()))
}

fn read(found: &mut Found) -> Vec<Result<u64, String>> {
    let now = Moment { mono: 5, boot: 6, wall: 7 };
    let mut out = Vec::new();
    for source in &mut found.sources {
        source.read(now, &mut out);
    }
    let value = |r: Reading| {
        assert_eq!(r.at, now);
        r.counter.uj()
    };
    out.into_iter().map(|r| r.map(value).map_err(|e| e.to_string())).collect()
}

fn why<'a>(skipped: &'a [Skipped], what: &str) -> &'a str {
    skipped.iter().find(|s| s.what.ends_with(what)).map_or("not skipped", |s| &s.why)
}

#[test]
fn a_client_has_five_zones_and_mmio_is_left_out() {
    let mut m = Machine::new("client");
    assert_eq!(
        m.shown(),
        [
            "powercap/package-0 package-0 0 -",
            "powercap/package-0/core core 0 powercap/package-0",
            "powercap/package-0/uncore uncore 0 powercap/package-0",
            "powercap/package-0/dram dram 0 powercap/package-0",
            "powercap/psys psys - -",
        ]
    );
    assert_eq!(m.read(), [5_000_000_000, 3_000_000_000, 100_000_000, 900_000_000, 9_000_000_000].map(Ok));
    assert_eq!(why(&m.found.skipped, "intel-rapl-mmio:0"), "duplicate: intel-rapl tells package-0 as well");
    let package = m.zone("powercap/package-0");
    assert_eq!((package.kind, package.quality, package.error), (ZoneKind::Package, Quality::Measured, RAPL_ERROR));
    assert_eq!(package.counter.range, Some(Energy::from_uj(262_143_328_850)));
    assert_eq!(package.counter.max_power, Power::from_uw(102_000_000), "twice the short term limit");
    assert_eq!(m.zone("powercap/package-0/core").counter.max_power, Power::from_uw(102_000_000), "its package's");
    assert_eq!(m.zone("powercap/psys").counter.max_power, Power::from_uw(1_000_000_000), "0 is no limit");
}

#[test]
fn mmio_is_used_where_the_msr_does_not_answer() {
    let m = Machine::new("client");
    let counter = m.file("intel-rapl:0/energy_uj");
    fs::remove_file(&counter).unwrap();
    fs::create_dir(&counter).unwrap();
    let found = discover(&HostRoot::new(m.root.path()));
    let zones = found.sources[0].zones();
    assert!(zones.iter().any(|z| z.path.ends_with("intel-rapl-mmio:0/energy_uj")));
    assert_eq!(why(&found.skipped, "intel-rapl:0"), "duplicate: intel-rapl-mmio tells package-0 as well");
    let core = zones.iter().find(|z| z.name == "core").unwrap();
    assert_eq!(core.parent.as_ref().map(ZoneId::as_str), Some("powercap/package-0"));
}

#[test]
fn memory_of_two_sockets_is_named_by_socket() {
    let mut m = Machine::new("two-sockets");
    assert_eq!(
        m.shown(),
        [
            "powercap/package-0 package-0 0 -",
            "powercap/package-0/dram dram-0 0 powercap/package-0",
            "powercap/package-1 package-1 1 -",
            "powercap/package-1/dram dram-1 1 powercap/package-1",
        ]
    );
    let max = |id| m.zone(id).counter.max_power.uw() / 1_000_000;
    assert_eq!(max("powercap/package-0"), 826);
    assert_eq!(max("powercap/package-0/dram"), 112, "its own limit");
    assert_eq!(max("powercap/package-1/dram"), 410, "its package's");
    assert_eq!(m.zone("powercap/package-1/dram").counter.range, Some(Energy::from_uj(65_712_999_613)));
    assert_eq!(m.read().len(), 4);
}

#[test]
fn amd_has_no_limits_and_a_short_range() {
    let m = Machine::new("amd");
    assert_eq!(m.shown(), ["powercap/package-0 package-0 0 -", "powercap/package-0/core core 0 powercap/package-0"]);
    assert_eq!(m.zone("powercap/package-0/core").counter.max_power, Power::from_uw(1_000_000_000));
    assert_eq!(m.zone("powercap/package-0").counter.range, Some(Energy::from_uj(65_532_610_987)));
}

#[test]
fn dies_of_one_socket_are_zones_of_their_own() {
    let m = Machine::new("multi-die");
    assert_eq!(
        m.shown(),
        [
            "powercap/package-0-die-0 package-0-die-0 0 -",
            "powercap/package-0-die-0/dram dram-0-die-0 0 powercap/package-0-die-0",
            "powercap/package-0-die-1 package-0-die-1 0 -",
            "powercap/package-0-die-1/dram dram-0-die-1 0 powercap/package-0-die-1",
        ]
    );
    assert_eq!(m.zone("powercap/package-0-die-0/dram").counter.max_power, Power::from_uw(300_000_000));
}

#[test]
fn dies_of_an_amd_package_are_counted_once() {
    let mut m = Machine::new("amd-dies");
    assert_eq!(
        m.shown(),
        [
            "powercap/package-0-die-0 package-0-die-0 0 -",
            "powercap/package-0-die-0/core core-0-die-0 0 powercap/package-0-die-0",
            "powercap/package-1-die-0 package-1-die-0 1 -",
            "powercap/package-1-die-0/core core-1-die-0 1 powercap/package-1-die-0",
        ]
    );
    assert_eq!(m.read(), [5000, 30, 6000, 40].map(Ok));
    assert_eq!(why(&m.found.skipped, "intel-rapl:1"), "duplicate: the dies of an AMD package share one counter");
    assert_eq!(m.found.skipped.len(), 3);
}

#[test]
fn tpmi_fills_in_what_the_msrs_do_not_tell() {
    let mut m = Machine::new("tpmi");
    assert_eq!(
        m.shown(),
        [
            "powercap/package-0-die-0 package-0-die-0 0 -",
            "powercap/package-0-die-1 package-0-die-1 0 -",
            "powercap/package-0/dram dram-0 0 -",
            "powercap/package-1 package-1 1 -",
            "powercap/package-1/dram dram-1 1 powercap/package-1",
        ]
    );
    assert_eq!(m.read(), [100, 200, 40, 310, 50].map(Ok));
    assert_eq!(why(&m.found.skipped, "intel-rapl-tpmi:0"), "duplicate: intel-rapl tells package-0 as well");
}

#[test]
fn the_package_number_is_in_the_name_not_in_the_index() {
    let m = Machine::new("hex");
    assert_eq!(
        m.shown(),
        [
            "powercap/package-0 package-0 0 -",
            "powercap/package-0/core core-0 0 powercap/package-0",
            "powercap/package-10 package-10 10 -",
            "powercap/package-10/core core-10 10 powercap/package-10",
        ]
    );
    for (name, kind, socket) in [
        ("package-3-die-1", ZoneKind::Package, Some(3)),
        ("psys-1", ZoneKind::Psys, Some(1)),
        ("psys", ZoneKind::Psys, None),
        ("package-x", ZoneKind::Package, None),
        ("packages-1", ZoneKind::Other, None),
    ] {
        assert_eq!(domain_of(name), Domain { kind, socket }, "{name}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_told() {
    let mut m = Machine::new("dangling");
    assert_eq!(m.read(), [Ok(1000), Ok(500)]);
    assert_eq!(why(&m.found.skipped, "intel-rapl:1"), "the link leads nowhere");
}

#[test]
fn a_machine_without_zones_says_so() {
    let m = Machine::new("scmi");
    assert!(m.found.sources.is_empty());
    assert!(why(&m.found.skipped, "class/powercap").starts_with("no RAPL zones"));
}

#[test]
fn broken_zones_stay_and_come_back() {
    let mut m = Machine::new("broken");
    assert_eq!(
        m.shown(),
        [
            "powercap/package-0 package-0 0 -",
            "powercap/package-0/dram dram-0 0 powercap/package-0",
            "powercap/package-1 package-1-1 1 -",
            "powercap/package-1/socket socket 1 powercap/package-1",
            "powercap/package-1@2 package-1-2 1 -",
            "powercap/intel-rapl:7/dram dram-intel-rapl-7 - -",
        ]
    );
    assert!(why(&m.found.skipped, "intel-rapl:0:1").starts_with("its name can't be read"));
    assert_eq!(why(&m.found.skipped, "intel-rapl:0:2"), "its name is \"\"");
    assert!(why(&m.found.skipped, "intel-rapl:8").starts_with("its name can't be read"));
    for id in ["powercap/package-0", "powercap/package-0/dram", "powercap/package-1"] {
        assert_eq!(m.zone(id).counter.range, None, "{id}");
    }
    let max = |id| m.zone(id).counter.max_power.uw() / 1_000_000;
    assert_eq!((max("powercap/package-0"), max("powercap/package-1")), (1000, 100));

    let first = m.read();
    assert!(first[0].as_ref().unwrap_err().contains("directory"), "{first:?}");
    assert!(first[1].as_ref().unwrap_err().contains("\"n/a\", which is not a number"), "{first:?}");
    assert!(first[3].as_ref().unwrap_err().contains("No such file"), "{first:?}");
    assert_eq!((&first[2], &first[4], &first[5]), (&Ok(7), &Ok(8), &Ok(9)));

    fs::remove_dir(m.file("intel-rapl:0/energy_uj")).unwrap();
    for (file, value) in [("intel-rapl:0", "70"), ("intel-rapl:0:0", "71"), ("intel-rapl:1:0", "72")] {
        fs::write(m.file(file).join("energy_uj"), value).unwrap();
    }
    assert_eq!(m.read(), [70, 71, 7, 72, 8, 9].map(Ok), "all are back at the next sample");
}

#[test]
fn a_zone_that_vanishes_gives_an_error_and_nothing_old() {
    let mut m = Machine::new("amd");
    assert_eq!(m.read(), [31_415_926_535, 2_718_281_828].map(Ok));
    let counter = m.file("intel-rapl:0/energy_uj");
    fs::remove_file(&counter).unwrap();
    let gone = m.read();
    assert!(gone[0].as_ref().unwrap_err().contains("intel-rapl:0/energy_uj"), "{gone:?}");
    assert_eq!(gone[1], Ok(2_718_281_828), "the others go on");
    fs::write(&counter, "31415930000\n").unwrap();
    assert_eq!(m.read()[0], Ok(31_415_930_000));
}

#[test]
fn limits_that_mean_none_do_not_bound() {
    let root = fixture::unfold(
        "[class/powercap/intel-rapl:0]\nname = package-0\nenergy_uj = 1\nconstraint_0_max_power_uw = 95000000\n\
         constraint_0_power_limit_uw = 4090000000\nconstraint_1_max_power_uw = 0",
    );
    let found = discover(&HostRoot::new(root.path()));
    assert_eq!(found.sources[0].zones()[0].counter.max_power, Power::from_uw(1_000_000_000));
}

/// The recordings beside the repository, if they are there.
fn recording(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/sysfs").join(path);
    if !file.is_dir() {
        eprintln!("skipped: no {}", file.display());
        return None;
    }
    Some(file)
}

#[test]
fn recorded_laptop() {
    let Some(root) = recording("procfs-laptop-powercap") else { return };
    let mut found = discover(&HostRoot::new(root));
    let zones: Vec<String> = found.sources[0].zones().iter().map(shown).collect();
    assert_eq!(
        zones,
        [
            "powercap/package-0 package-0 0 -",
            "powercap/package-0/core core 0 powercap/package-0",
            "powercap/package-10 package-10 10 -",
        ]
    );
    assert_eq!(read(&mut found), [240_422_366_267, 118_821_284_256, 240_422_366_267].map(Ok));
}

#[test]
fn hand_made_tree_with_mmio() {
    let Some(root) = recording("kepler-fixtures") else { return };
    let found = discover(&HostRoot::new(root));
    assert_eq!(found.sources[0].zones().len(), 3);
    assert_eq!(why(&found.skipped, "intel-rapl-mmio:0"), "duplicate: intel-rapl tells package-0 as well");
}

#[test]
fn nested_tree_with_broken_zones() {
    let Some(tree) = recording("powertelemetry-rapl/intel-rapl") else { return };
    let root = tempfile::tempdir().unwrap();
    let devices = root.path().join("sys/devices/virtual/powercap");
    fs::create_dir_all(&devices).unwrap();
    std::os::unix::fs::symlink(tree.canonicalize().unwrap(), devices.join("intel-rapl")).unwrap();
    let mut found = discover(&HostRoot::new(root.path()));
    let zones: Vec<String> = found.sources[0].zones().iter().map(shown).collect();
    assert_eq!(
        zones,
        [
            "powercap/package-0 package-0 0 -",
            "powercap/package-0/domain domain 0 powercap/package-0",
            "powercap/package-0/dram dram-0 0 powercap/package-0",
            "powercap/package-1 package-1 1 -",
            "powercap/package-1/socket socket 1 powercap/package-1",
            "powercap/package-2 package-2 2 -",
            "powercap/package-2/dram dram-2 2 powercap/package-2",
            "powercap/package-3 package-3 3 -",
            "powercap/psys psys - -",
            "powercap/core core - -",
        ]
    );
    let ranges: Vec<bool> = found.sources[0].zones().iter().map(|z| z.counter.range.is_some()).collect();
    assert_eq!(ranges, [true, false, true, false, false, false, false, false, false, false]);
    let read = read(&mut found);
    assert_eq!(read.iter().filter(|r| r.is_err()).count(), 1, "socket has no counter: {read:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_in_the_files_give_a_zone_or_a_reason(
        name in prop_oneof![Just(b"package-0".to_vec()), prop::collection::vec(any::<u8>(), 0..90)],
        energy in prop_oneof![any::<u64>().prop_map(|v| v.to_string().into_bytes()), prop::collection::vec(any::<u8>(), 0..40)],
        range in prop::collection::vec(any::<u8>(), 0..30),
        limit in prop_oneof![any::<u64>().prop_map(|v| v.to_string().into_bytes()), prop::collection::vec(any::<u8>(), 0..30)],
    ) {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("sys/class/powercap");
        for zone in ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl-mmio:0"] {
            let dir = class.join(zone);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("name"), &name).unwrap();
            fs::write(dir.join("energy_uj"), &energy).unwrap();
            fs::write(dir.join("max_energy_range_uj"), &range).unwrap();
            fs::write(dir.join("constraint_0_power_limit_uw"), &limit).unwrap();
        }
        let mut found = discover(&HostRoot::new(root.path()));
        let zones: Vec<Zone> = found.sources.first().map_or(Vec::new(), |s| s.zones().to_vec());
        prop_assert_eq!(zones.len() + found.skipped.len(), 3, "each folder is a zone or has a reason");
        let ids: BTreeSet<&ZoneId> = zones.iter().map(|z| &z.id).collect();
        let names: BTreeSet<&str> = zones.iter().map(|z| z.name.as_str()).collect();
        prop_assert_eq!((ids.len(), names.len()), (zones.len(), zones.len()));
        for zone in &zones {
            prop_assert!(zone.counter.max_power >= LEAST_MAX_POWER);
            prop_assert_ne!(zone.counter.range, Some(Energy::ZERO));
            prop_assert!(zone.parent.as_ref().is_none_or(|p| ids.contains(p)));
        }
        let readings = read(&mut found);
        prop_assert_eq!(readings.len(), zones.len());
        for reading in readings {
            prop_assert_eq!(reading.ok(), attribute::parse(&energy));
        }
    }

    #[test]
    fn names_are_unique_and_single_ones_untouched(names in prop::collection::vec(("[ab](-[01])?", "[01]{1,2}"), 0..12)) {
        let unique = unique_names(names.iter().cloned());
        prop_assert_eq!(unique.iter().collect::<BTreeSet<_>>().len(), names.len());
        for ((name, _), unique) in names.iter().zip(&unique) {
            if names.iter().filter(|(n, _)| n == name).count() == 1 {
                prop_assert_eq!(name, unique);
            }
        }
    }
}
