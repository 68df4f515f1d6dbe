//! `/proc/PID/cgroup` and what its path says.
#![no_main]

use ebbtide_agent::workload::cgroup::{identify, unified_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(path) = unified_path(bytes) {
        drop(identify(&path));
    }
    let text = String::from_utf8_lossy(bytes);
    let at = identify(&text);
    if let Some(container) = at.container {
        assert!(!container.id.is_empty());
    }
    if let Some(pod) = at.pod {
        assert!(!pod.uid.is_empty() && !pod.uid.contains('_'));
    }
});
