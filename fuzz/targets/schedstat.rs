//! `/proc/PID/schedstat`, three numbers.
#![no_main]

use ebbtide_agent::usage::stat::parse_schedstat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(ns) = parse_schedstat(bytes) {
        assert_eq!(parse_schedstat(format!("{ns} 0 0\n").as_bytes()), Some(ns));
    }
});
