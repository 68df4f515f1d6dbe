//! Boards as trees of files (`tests/fixtures/hwmon/*.txt`, each with what should be found in it), trees
//! of others where they are at hand, garbage in every file, and chips that go and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::chips::ChipRow;
use super::*;
use crate::clock::Moment;
use crate::source::integrate::ProbeMode;
use crate::source::{Quality, ReadError, Reading, Zone};

/// The boards with a fixture.
const BOARDS: [&str; 12] = [
    "zcu102",
    "kria",
    "jetson-orin-nano",
    "jetson-agx-orin",
    "jetson-tx2-l4t32",
    "altra",
    "grace-hopper",
    "server-acpi",
    "amd-energy",
    "pmbus",
    "amdgpu",
    "traps",
];

fn fixture(board: &str) -> (PathBuf, String, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hwmon").join(format!("{board}.txt"));
    let text = fs::read_to_string(&file).unwrap();
    let (tree, expected) = text.split_once("---\n").unwrap();
    (file.clone(), tree.to_owned(), expected.to_owned())
}

/// Makes the files `PATH = TEXT` and links `PATH -> TARGET`; `change` may replace a file's bytes.
fn plant(tree: &str, mut change: impl FnMut(&str) -> Option<Vec<u8>>) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in tree.lines().filter(|l| !l.starts_with('#')) {
        let (path, value) = line.split_once([' ']).unwrap();
        let at = root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match value.strip_prefix("-> ") {
            Some(target) => std::os::unix::fs::symlink(target, at).unwrap(),
            None => {
                let text = value.trim_start_matches('=').trim_start();
                fs::write(at, change(path).unwrap_or_else(|| format!("{text}\n").into_bytes())).unwrap();
            }
        }
    }
    root
}

fn at(s: u64) -> Moment {
    Moment::default().plus(Duration::from_secs(s))
}

type Answer = (Zone, Result<Reading, ReadError>);

/// Reads all zones at `s` seconds.
fn read_all(found: &mut Found, s: u64) -> Vec<Answer> {
    let mut all = Vec::new();
    for source in &mut found.sources {
        let mut out = Vec::new();
        source.read(at(s), &mut out);
        let zones = source.zones().to_vec();
        assert_eq!(out.len(), zones.len());
        all.extend(zones.into_iter().zip(out));
    }
    all
}

/// Zones with their figures after one second, then what was skipped; paths without `root`.
fn report(root: &Path, own: &[ChipRow]) -> String {
    let mut found = discover_with(&HostRoot::new(root), ProbeMode::Stepped, own);
    read_all(&mut found, 0);
    let mut text = String::new();
    for (zone, reading) in read_all(&mut found, 1) {
        let figure = match reading {
            Ok(r) if zone.quality == Quality::Measured => format!("counts {}", r.counter),
            // one second of constant power: as many microjoules as microwatts
            Ok(r) => r.counter.over(Duration::from_secs(1)).unwrap().to_string(),
            Err(e) => e.to_string(),
        };
        let parent = zone.parent.as_ref().map_or(String::new(), |p| format!(" in {p}"));
        let socket = zone.socket.map_or(String::new(), |s| format!(" socket {s}"));
        let (kind, error, path) = (zone.kind.as_str(), zone.error, &zone.path);
        writeln!(text, "{}: {} = {figure} +-{error} {kind}{socket}{parent}\n    {path}", zone.id, zone.name).unwrap();
    }
    for skipped in &found.skipped {
        writeln!(text, "skipped {skipped}").unwrap();
    }
    text.replace(&root.display().to_string(), "")
}

#[test]
fn boards_are_read_as_their_fixtures_say() {
    for board in BOARDS {
        let (file, tree, expected) = fixture(board);
        let root = plant(&tree, |_| None);
        let got = report(root.path(), &[]);
        // to accept what is read now: EBBTIDE_BLESS=1 cargo test ..., then read the difference
        if std::env::var_os("EBBTIDE_BLESS").is_some() {
            fs::write(&file, format!("{tree}---\n{got}")).unwrap();
            continue;
        }
        assert_eq!(got, expected, "{board}");
    }
}

/// Trees made for another meter, whose choices ours are held against; where they differ it says why.
#[test]
fn fixtures_of_another_meter_give_what_is_known_of_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/sysfs/kepler-fixtures");
    if !root.is_dir() {
        eprintln!("skipped: {} is not here", root.display());
        return;
    }
    let mut found = discover(&HostRoot::new(&root), ProbeMode::Stepped);
    read_all(&mut found, 0);
    let got: BTreeMap<String, Vec<String>> =
        read_all(&mut found, 1).into_iter().fold(BTreeMap::new(), |mut map, (zone, r)| {
            let folder = zone.path.split("class/hwmon/").nth(1).and_then(|p| p.split('/').next()).unwrap();
            let list: &mut Vec<String> = map.entry(folder.to_owned()).or_default();
            list.push(format!("{} {}", zone.name, r.unwrap().counter.over(Duration::from_secs(1)).unwrap()));
            map
        });
    let expected = [
        ("hwmon0", "Package 45.0 W, Core 15.0 W"),
        ("hwmon1", "amdgpu 118 W"), // the average
        ("hwmon2", "platform_sensor 30.0 W"),
        ("hwmon_aggregate", "package power1 50.0 W, package power2 30.0 W"),
        ("hwmon_device_path", "device_path_test 25.0 W"),
        ("hwmon_dir_fallback", "dir_fallback_test 35.0 W"),
        // channel 3 is switched off; label channel_1 and number agree
        ("hwmon_disabled_channel", "channel_1 12.0 W, channel_2 10.0 W"),
        ("hwmon_disabled_power", "PSU_Rail_A 45.0 W, PSU_Rail_B 15.0 W"),
        ("hwmon_energy", "Total 500 W"), // counters: joules shown as if over one second
        ("hwmon_energy_disabled", "Rail_A 500 W, Rail_B 200 W"),
        ("hwmon_energy_multi", "Sensor_A 500 W, Sensor_B 200 W, Sensor_C 100 W"),
        ("hwmon_energy_no_label", "power_chip 300 W"),
        ("hwmon_ina226", "ina226 60.0 W"), // in1, the bus; in0 is the shunt
        ("hwmon_ina3221", "ina3221 in1 12.0 W, ina3221 in2 2.50 W, ina3221 in3 660 mW"),
        ("hwmon_same_index", "unknown_chip in1 60.0 W, unknown_chip in2 10.0 W"),
        ("hwmon_voltage_current", "VDD_CPU in1 60.0 W"),
        ("hwmon_voltage_current_average", "VDD_CPU in1 #2 57.8 W"), // both averages
        ("hwmon_voltage_current_multi", "VDD_CPU in1 #3 60.0 W, VDD_GPU 33.0 W"),
        // one average only: momentary values, because the two would not be of the same time
        ("hwmon_voltage_current_partial_average", "VDD_CPU in1 #4 60.0 W"),
        // not hwmon_max20730: a regulator's output; not _no_labels: only a shunt voltage
    ];
    let got: Vec<(&str, String)> = got.iter().map(|(folder, zones)| (folder.as_str(), zones.join(", "))).collect();
    assert_eq!(got, expected.map(|(folder, zones)| (folder, zones.to_owned())));
    let skipped: Vec<String> = found.skipped.iter().map(ToString::to_string).collect();
    for (folder, why) in [
        ("hwmon_disabled_power", "switched off: power3_enable is 0"),
        ("hwmon_energy_disabled", "switched off: energy3_enable is 0"),
        ("hwmon_disabled_channel", "switched off: in3_enable is 0"),
        ("hwmon_max20730", "no voltage"),
        ("hwmon_voltage_current_no_labels", "no voltage"),
    ] {
        assert!(skipped.iter().any(|s| s.contains(&format!("{folder} ")) && s.contains(why)), "{folder}: {skipped:#?}");
    }
}

#[test]
fn a_chip_that_goes_and_comes_back_under_another_number_is_found_again() {
    let root = plant(&fixture("kria").1, |_| None);
    let class = root.path().join("sys/class/hwmon");
    let mut found = discover(&HostRoot::new(root.path()), ProbeMode::Stepped);
    let mut read = |s| read_all(&mut found, s).remove(0).1;
    read(0).unwrap();
    let before = read(1).unwrap().counter;
    assert_eq!(before.uj(), 3_990_000);

    fs::rename(class.join("hwmon0"), root.path().join("unplugged")).unwrap();
    assert!(matches!(read(2), Err(ReadError::Io { .. })));
    // its number goes to a chip that tells power too: that one must not be taken for it
    fs::create_dir(class.join("hwmon0")).unwrap();
    fs::write(class.join("hwmon0/name"), "nvme\n").unwrap();
    fs::write(class.join("hwmon0/power1_input"), "9000000\n").unwrap();
    for s in 3..9 {
        assert!(matches!(read(s), Err(ReadError::Io { .. })), "second {s}");
    }
    fs::rename(root.path().join("unplugged"), class.join("hwmon7")).unwrap();
    let back = (9..20).find_map(|s| read(s).ok().map(|r| (s, r))).unwrap();
    // what it drew while it was away isn't known and isn't made up
    assert_eq!(back.1.counter, before);
    assert_eq!(read(back.0 + 1).unwrap().counter.uj(), before.uj() + 3_990_000);
}

#[test]
fn what_is_no_figure_is_absent_or_nonsense_and_never_zero() {
    let root = plant(&fixture("altra").1, |_| None);
    let file = root.path().join("sys/class/hwmon/hwmon2/power1_input");
    let mut found = discover(&HostRoot::new(root.path()), ProbeMode::Stepped);
    for (text, absent) in
        [("-5", true), ("", false), ("abc", false), ("4294967295000000", false), (&"9".repeat(40), false)]
    {
        fs::write(&file, text).unwrap();
        let all = read_all(&mut found, 0);
        let of = |id: &str| {
            let id = format!("hwmon/smpro_hwmon/{id}");
            let (_, reading) = all.iter().find(|(z, _)| z.id.as_str() == id).unwrap();
            reading.as_ref().err()
        };
        let core = of("1-004f.smpro-hwmon/power1").unwrap();
        assert_eq!(matches!(core, ReadError::Absent { .. }), absent, "{text}: {core}");
        assert_eq!(matches!(core, ReadError::Nonsense { .. }), !absent, "{text}: {core}");
        // a sum without one of its parts would be too small
        assert!(matches!(of("1-004f.smpro-hwmon/package"), Some(ReadError::Absent { .. })));
        assert!(of("1-004f.smpro-hwmon/power2").is_none() && of("1-004e.smpro-hwmon/package").is_none());
    }
}

#[test]
fn rows_from_configuration_nest_chips_and_circles_are_cut() {
    let row = |channels: &str| -> ChipRow {
        toml::from_str(&format!("names = ['ina226*']\nerror_percent = 2\nnest = 'node'\nchannels = [{channels}]"))
            .unwrap()
    };
    let tree = "/sys/class/hwmon/hwmon0/name = ina226_in\n/sys/class/hwmon/hwmon0/power1_input = 9\n\
                /sys/class/hwmon/hwmon0/power1_label = in\n/sys/class/hwmon/hwmon1/name = ina226_cpu\n\
                /sys/class/hwmon/hwmon1/power1_input = 4\n/sys/class/hwmon/hwmon1/power1_label = cpu\n";
    let root = plant(tree, |_| None);
    let parents = |row: ChipRow| -> Vec<Option<String>> {
        let found = discover_with(&HostRoot::new(root.path()), ProbeMode::Stepped, &[row]);
        let zones = found.sources[0].zones();
        zones.iter().map(|z| z.parent.as_ref().map(|p| p.as_str().to_owned())).collect()
    };
    let whole = Some("hwmon/ina226_in/power1".to_owned());
    let nested = row("{ label = 'in', kind = 'wall' }, { label = '*', kind = 'package', inside = ['in'] }");
    assert_eq!(parents(nested), [None, whole]);
    let circle = row("{ label = '*', inside = ['cpu', 'in'] }");
    assert_eq!(parents(circle), [Some("hwmon/ina226_cpu/power1".to_owned()), None]);
}

#[test]
fn a_thread_reads_by_itself() {
    let root = plant(&fixture("kria").1, |_| None);
    let mode = ProbeMode::Threaded(Duration::from_millis(1));
    let mut found = discover(&HostRoot::new(root.path()), mode);
    let start = crate::clock::now();
    let counted = std::iter::repeat_with(|| {
        std::thread::yield_now();
        read_all(&mut found, 0).remove(0).1
    })
    .take_while(|_| crate::clock::now().since(start) < Duration::from_secs(20))
    .find_map(|r| r.ok().filter(|r| r.counter.uj() > 0));
    // 3.99 W for at least a millisecond, stamped with the machine's clock
    let reading = counted.unwrap();
    assert!(reading.counter.uj() >= 3_990 && reading.at >= start);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_bytes_in_any_file_give_zones_that_make_sense(
        board in 0..BOARDS.len(),
        bytes in prop::collection::vec(prop_oneof![
            4 => Just(None),
            1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Some),
            1 => "-?[0-9]{0,24}\n?".prop_map(|t| Some(t.into_bytes())),
            1 => "[a-zA-Z _*/#0-9]{0,70}".prop_map(|t| Some(t.into_bytes())),
        ], 1..40),
    ) {
        let mut next = bytes.into_iter().cycle();
        let root = plant(&fixture(BOARDS[board]).1, |_| next.next().flatten());
        let mut found = discover(&HostRoot::new(root.path()), ProbeMode::Stepped);
        read_all(&mut found, 0);
        let all = read_all(&mut found, 1);
        let by_id: BTreeMap<&str, &Answer> = all.iter().map(|a| (a.0.id.as_str(), a)).collect();
        let names: BTreeSet<&str> = all.iter().map(|(z, _)| z.name.as_str()).collect();
        prop_assert_eq!((by_id.len(), names.len()), (all.len(), all.len()), "an id or a name occurs twice");
        for (zone, reading) in &all {
            let mut above = zone.parent.as_ref();
            let mut steps = 0;
            while let Some(id) = above {
                prop_assert!(steps < all.len(), "{} is inside itself", zone.id);
                steps += 1;
                above = by_id[id.as_str()].0.parent.as_ref();
            }
            let Ok(reading) = reading else { continue };
            if zone.quality == Quality::Scaled {
                prop_assert!(reading.counter.over(Duration::from_secs(1)).unwrap() <= zone.counter.max_power.saturating_add(zone.counter.max_power));
            }
            if zone.id.as_str().ends_with("/package") {
                let parts = all.iter().filter(|(z, _)| z.parent.as_ref() == Some(&zone.id));
                let sum: u64 = parts.map(|(_, r)| r.as_ref().unwrap().counter.uj()).sum();
                prop_assert_eq!(reading.counter.uj(), sum);
            }
        }
    }
}
