//! A scenario of the node twin. Small ones are also played for a moment.
#![no_main]

use std::time::Duration;

use ebbtide_agent::twin::{Scenario, Twin};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let scenario = match Scenario::parse(text) {
        Ok(scenario) => scenario,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let threads: u64 = scenario.workloads.iter().map(|w| u64::from(w.count) * u64::from(w.threads)).sum();
    if threads <= 64 {
        let mut twin = Twin::new(&scenario, 7);
        twin.step(Duration::from_millis(20));
        assert_eq!(twin.elapsed(), Duration::from_millis(20));
    }
});
