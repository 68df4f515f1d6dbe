//! Records of the BPF programs, one behind the other.
#![no_main]

use ebbtide_agent::usage::bpf::{Record, next};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for counters in [false, true] {
        let mut at = bytes;
        while let Some(record) = next(&mut at, counters) {
            match record {
                Record::Alive(thread, _, process) => assert_eq!(thread.leads(), process.is_some()),
                Record::Freed(_, _, process) => assert!(process.comm.as_bytes().len() <= 16),
                Record::Group(_, _, path) => assert!(path.len() <= 256 && !path.contains(&0)),
            }
        }
        assert!(at.len() <= bytes.len());
    }
});
