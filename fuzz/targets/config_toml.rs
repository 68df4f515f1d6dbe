//! The configuration file: read, resolved, dumped and read again.
#![no_main]

use std::path::Path;

use ebbtide_agent::config::{Surroundings, file, reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("config.toml");
    let layer = match file::parse(bytes, path) {
        Ok(layer) => layer,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let around = Surroundings::default();
    let Ok(settings) = layer.clone().resolve(&around) else { return };
    let dumped = reference::dump(&settings, &layer.origins);
    let again = file::parse(dumped.as_bytes(), path).expect("a dump can be read").resolve(&around);
    assert_eq!(again.expect("a dump is valid"), settings, "{dumped}");
});
