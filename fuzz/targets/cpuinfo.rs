//! `/proc/cpuinfo` of any architecture.
#![no_main]

use ebbtide_agent::source::model::{CpuInfo, idle_share_prior};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let cpu = CpuInfo::parse(&String::from_utf8_lossy(bytes));
    assert!(cpu.sockets >= 1);
    let share = idle_share_prior(&cpu);
    assert!((0.0..=1.0).contains(&share), "{share}");
});
