//! A powercap tree with any content in its files: found, and read twice. Parts of the input are separated by 0xff.
#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use ebbtide_agent::clock::Moment;
use ebbtide_agent::source::powercap::discover;
use ebbtide_agent::twin::fakeroot::{FakeRoot, FakeZone};
use libfuzzer_sys::fuzz_target;

const FOLDERS: [&str; 4] = ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl-mmio:0"];
const FILES: [&str; 4] = ["name", "energy_uj", "max_energy_range_uj", "constraint_0_max_power_uw"];

thread_local! {
    static ROOT: RefCell<FakeRoot> = RefCell::new(root());
}

fn root() -> FakeRoot {
    let mut fake = FakeRoot::new(std::env::temp_dir().join(format!("ebbtide-fuzz-{}", std::process::id())));
    for folder in FOLDERS {
        fake.zone(&FakeZone::new(folder, "package-0")).expect("a writable folder");
    }
    fake
}

fuzz_target!(|bytes: &[u8]| {
    ROOT.with_borrow_mut(|fake| {
        let mut parts = bytes.split(|&b| b == 0xff);
        for folder in FOLDERS {
            for file in FILES {
                let path = format!("sys/class/powercap/{folder}/{file}");
                fake.put(&path, parts.next().unwrap_or(b"1\n")).expect("a writable file");
            }
        }
        let mut at = Moment::default();
        for mut source in discover(&fake.host()).sources {
            let zones = source.zones().len();
            assert!(zones <= FOLDERS.len());
            for _ in 0..2 {
                at = at.plus(Duration::from_secs(1));
                let mut readings = Vec::new();
                source.read(at, &mut readings);
                assert_eq!(readings.len(), zones, "one answer per zone");
            }
        }
    });
});
