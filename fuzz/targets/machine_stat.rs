//! `/proc/stat`, into a value that is used again at each sample.
#![no_main]

use ebbtide_agent::usage::stat::{MachineStat, parse_machine};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut fresh = MachineStat::default();
    parse_machine(bytes, &mut fresh);
    assert!(fresh.cpus.len() <= bytes.len());
    let mut used = MachineStat::default();
    parse_machine(b"cpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 8 9 10\nprocesses 5\n", &mut used);
    parse_machine(bytes, &mut used);
    assert_eq!(used, fresh, "nothing of the text before is left");
});
