//! `/proc/PID/cmdline` of what may be a virtual machine.
#![no_main]

use ebbtide_agent::workload::vm::identify;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(vm) = identify(bytes) else { return };
    for text in [vm.name, vm.uuid, vm.id].into_iter().flatten() {
        assert!(text.len() <= 3 * bytes.len(), "nothing is made up");
    }
});
