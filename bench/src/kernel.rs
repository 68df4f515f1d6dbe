//! The system calls that neither the standard library nor rustix wraps.

#![allow(unsafe_code)] // fork, the CPU clock of another process, scheduling, and a hook between fork and exec

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, set_parent_process_death_signal};

/// Forks a child that runs `body` and then ends. Returns its pid.
///
/// Only for processes with one thread: a child of several would find locks that nobody ever releases.
pub(crate) fn fork(body: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: the helper modes that call this never start a thread, so the child has all of the process's
    // state in a usable form; it leaves through _exit and never returns into the parent's stack.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => {
            body();
            // SAFETY: ends the child at once, without the exit handlers of the parent.
            unsafe { libc::_exit(0) }
        }
        _ => Pid::from_raw(pid).filter(|p| p.as_raw_nonzero().get() > 0).ok_or_else(io::Error::last_os_error),
    }
}

/// CPU time of this process and of its children that ended and were waited for, user and system.
pub(crate) fn own_and_children() -> Duration {
    let used = |who| {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: writes one rusage to where it is told; all zeros is a valid one.
        let usage = unsafe {
            libc::getrusage(who, usage.as_mut_ptr());
            usage.assume_init()
        };
        let time = |t: libc::timeval| {
            let seconds = Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0));
            seconds + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or(0))
        };
        time(usage.ru_utime) + time(usage.ru_stime)
    };
    used(libc::RUSAGE_SELF) + used(libc::RUSAGE_CHILDREN)
}

/// CPU time that process `pid` has used, user and system, all threads, also those that ended.
pub(crate) fn cpu_of(pid: u32) -> io::Result<Duration> {
    let mut clock = 0;
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: writes one clockid_t to where it is told.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec to where it is told.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanoseconds = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanoseconds))
}

/// Puts this process ahead of those with ordinary priority. Its children are ordinary again.
pub(crate) fn go_ahead() -> io::Result<()> {
    schedule(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK)
}

/// Has the kernel end the program when the thread that starts it ends, and run it `ahead` of ordinary ones.
pub(crate) fn prepare(command: &mut Command, ahead: bool) {
    // SAFETY: runs between fork and exec and makes two system calls, which take no lock and no memory.
    unsafe {
        command.pre_exec(move || {
            if ahead {
                schedule(libc::SCHED_RR)?;
            }
            Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
        });
    }
}

fn schedule(policy: libc::c_int) -> io::Result<()> {
    // SAFETY: zeroes are a valid value of a plain struct of integers.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = 1;
    // SAFETY: reads one sched_param; zero is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_clock_of_a_process_is_its_own() {
        let before = cpu_of(std::process::id()).unwrap();
        let own = ebbtide_agent::clock::own_cpu();
        let after = cpu_of(std::process::id()).unwrap();
        assert!(before <= own && own <= after, "{before:?} {own:?} {after:?}");
        // beyond the largest pid that the kernel gives
        assert!(cpu_of(5_000_000).is_err());
    }
}
