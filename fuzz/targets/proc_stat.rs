//! `/proc/PID/stat`, one line with a name that its owner chose.
#![no_main]

use ebbtide_agent::usage::stat::parse_task;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(task) = parse_task(bytes) else { return };
    // whatever stands behind the line doesn't change what was read, unless it closes the name again
    let more = [bytes, b" 7 8 9"].concat();
    assert_eq!(parse_task(&more), Some(task));
});
