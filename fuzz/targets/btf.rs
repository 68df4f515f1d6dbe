//! A kernel's description of its types: what is left of it is never more, and is understood again.
#![no_main]

use ebbtide_agent::usage::bpf::reduced;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(once) = reduced(bytes) {
        assert_eq!(reduced(&once).as_ref(), Some(&once), "nothing more can be left out");
    }
});
