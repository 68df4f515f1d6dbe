//! The kubelet's list of pods.
#![no_main]

use ebbtide_agent::workload::PodNames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(names) = PodNames::parse(bytes) {
        assert!(names.len() <= bytes.len());
        assert_eq!(names.is_empty(), names.len() == 0);
        assert_eq!(PodNames::parse(bytes).ok(), Some(names));
    }
});
