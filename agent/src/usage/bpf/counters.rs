//! Hardware events for the program that reads them at each context switch.

use std::io;

use super::Unusable;
use crate::host::{self, HostRoot};
use crate::perf::{self, OpenEvent};

/// Something that is counted: the name of its map, and type and configuration for `perf_event_open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Name of the map in `ebpf/usage.bpf.c`.
    pub map: &'static str,
    /// `PERF_TYPE_…`
    pub kind: u32,
    /// `PERF_COUNT_…`
    pub config: u64,
}

const HARDWARE: u32 = 0;

/// What is counted: `PERF_COUNT_HW_CPU_CYCLES`, `…_INSTRUCTIONS` and `…_CACHE_MISSES`, the last of which is that of
/// the last level on most processors (perf_event_open(2)).
pub const EVENTS: [Event; 3] = [
    Event { map: "cycles", kind: HARDWARE, config: 0 },
    Event { map: "instructions", kind: HARDWARE, config: 1 },
    Event { map: "misses", kind: HARDWARE, config: 3 },
];

/// More CPUs than any kernel is built for (`CONFIG_NR_CPUS`).
const MOST_CPUS: usize = 1 << 16;

/// Numbers of the CPUs that are online.
pub(super) fn online(host: &HostRoot) -> Vec<u32> {
    let text = host::read_line(&host.sys("devices/system/cpu/online")).unwrap_or_default();
    perf::cpu_list(&text, MOST_CPUS)
}

/// Opens `event` on each CPU.
pub(super) fn open(event: Event, cpus: &[u32]) -> Result<Vec<OpenEvent>, Unusable> {
    let open = |&cpu: &u32| perf::open(event.kind, event.config, cpu);
    cpus.iter().map(open).collect::<io::Result<_>>().map_err(|source| Unusable::NoEvent { event: event.map, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn online_cpus_are_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sys/devices/system/cpu");
        std::fs::create_dir_all(&file).unwrap();
        std::fs::write(file.join("online"), "0-2,5,8-9\n").unwrap();
        assert_eq!(online(&HostRoot::new(dir.path())), [0, 1, 2, 5, 8, 9]);
        assert_eq!(online(&HostRoot::new("/nowhere")), [0; 0]);
    }
}
