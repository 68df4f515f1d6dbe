//! `Accept` and `Accept-Encoding`: the first line of the input is the one, the rest the other.
#![no_main]

use ebbtide_agent::export::negotiate::{Format, accepts_gzip, format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (accept, encoding) = text.split_once('\n').unwrap_or((text, ""));
    if format(Some(accept)) == Format::OpenMetrics {
        assert!(accept.to_ascii_lowercase().contains("openmetrics"), "only who names it gets it");
    }
    if accepts_gzip(Some(encoding)) {
        assert!(encoding.contains('*') || encoding.to_ascii_lowercase().contains("gzip"));
    }
});
