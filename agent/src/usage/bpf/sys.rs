//! What neither aya nor rustix has a safe wrapper for.
#![allow(unsafe_code, reason = "system and library calls without a safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::perf::OpenEvent;

/// The part of `union bpf_attr` for changes of maps, `include/uapi/linux/bpf.h`.
#[repr(C)]
struct Update {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;

/// Puts an open event into place `cpu` of an array of perf events. The array holds on to it.
pub(super) fn put(map: BorrowedFd<'_>, cpu: u32, event: &OpenEvent) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(io::Error::other);
    let value = number(event.as_fd())?;
    let update = Update {
        map: number(map)?,
        padding: 0,
        key: (&raw const cpu).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: `update` is as long as is said and, with `cpu` and `value` that it points to, outlives the call; keys and
    // values of this kind of map have four bytes, and the kernel only reads them.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const update, size_of::<Update>()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives memory back that the allocator keeps for later. The kernel's types take tens of megabytes while programs are
/// loaded, and nothing ever needs as much again.
pub(super) fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition; it only returns pages that nothing uses.
    unsafe {
        libc::malloc_trim(0);
    }
}
