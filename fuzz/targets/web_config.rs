//! The web config file. Documents that name files are left out: what is in those is not this parser's.
#![no_main]

use std::path::Path;

use ebbtide_agent::export::web_config::WebConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if text.contains("_file") || text.contains('\\') {
        return;
    }
    match WebConfig::parse(text, Path::new("/nonexistent")) {
        Ok(web) => assert_eq!(web.is_tls(), web.tls.is_some()),
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
});
