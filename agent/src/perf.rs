//! The system call behind a perf event, for whoever counts: energy or cycles.
#![allow(unsafe_code, reason = "perf_event_open has no safe wrapper among the dependencies")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

/// The first published layout of `perf_event_attr` (`PERF_ATTR_SIZE_VER0`), which each kernel
/// accepts; later fields are zero for it. `include/uapi/linux/perf_event.h`.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const ATTR_SIZE: u32 = 64;
/// `PERF_FLAG_FD_CLOEXEC`: the event isn't handed to programs that the agent starts.
const FD_CLOEXEC: libc::c_ulong = 8;
const _: () = assert!(size_of::<Attr>() == 64);

/// An open event, counting.
pub struct OpenEvent(File);

impl OpenEvent {
    /// Its count since it was opened.
    pub fn count(&mut self) -> io::Result<u64> {
        let mut value = [0; 8];
        self.0.read_exact(&mut value)?;
        Ok(u64::from_ne_bytes(value))
    }
}

impl AsFd for OpenEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens event `config` of the PMU `pmu` on CPU `cpu`, for all processes; it counts at once.
/// Needs `CAP_PERFMON`, or `kernel.perf_event_paranoid` of 0 or less.
pub fn open(pmu: u32, config: u64, cpu: u32) -> io::Result<OpenEvent> {
    let cpu = libc::c_int::try_from(cpu).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let attr = Attr { kind: pmu, size: ATTR_SIZE, config, ..Attr::default() };
    let (any_process, no_group): (libc::pid_t, libc::c_int) = (-1, -1);
    // SAFETY: `attr` is as long as its `size` says and outlives the call; the kernel only reads it.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, any_process, cpu, no_group, FD_CLOEXEC) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel just gave us this descriptor; nothing else owns it.
    Ok(OpenEvent(unsafe { File::from_raw_fd(fd) }))
}

/// The CPUs in a list such as `0,18` or `0-3`, at most `most`; what can't be read is left out.
pub fn cpu_list(text: &str, most: usize) -> Vec<u32> {
    let range = |part: &str| -> Option<(u32, u32)> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    text.split(',').filter_map(range).flat_map(|(first, last)| first..=last).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn masks_are_lists_and_ranges() {
        assert_eq!(cpu_list("0,18", 10), [0, 18]);
        assert_eq!(cpu_list("0-2,8", 10), [0, 1, 2, 8]);
        assert_eq!(cpu_list("0-4294967295", 3), [0, 1, 2]);
        assert!(cpu_list("3-1,x,,-", 10).is_empty());
    }

    proptest! {
        #[test]
        fn any_list_is_read_up_to_its_bound(text in any::<String>(), most in 0..50usize) {
            prop_assert!(cpu_list(&text, most).len() <= most);
        }
    }
}
