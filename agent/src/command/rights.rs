//! Giving up rights once what needs them is open.

use rustix::io;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

use crate::usage::UsageReader;

/// What the agent goes on needing: files of others (sensors, the state folder) and names of other users' programs.
/// Programs for the kernel, perf events and the listening port are open by then.
pub(super) const NEEDED: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH).union(CapabilitySet::SYS_PTRACE);

/// The same while sensors are still to be opened: perf events need one more.
pub(super) const NEEDED_FOR_SENSORS: CapabilitySet =
    NEEDED.union(CapabilitySet::PERFMON).union(CapabilitySet::SYS_ADMIN);

/// What reading usage needs besides. Linux before 5.19 lets only `CAP_BPF` read what programs keep, even through open
/// descriptors, where `kernel.unprivileged_bpf_disabled` is set, as distributions do; so it is tried.
pub(super) fn needed_by(usage: &mut dyn UsageReader) -> CapabilitySet {
    let Ok(held) = capabilities(None) else { return CapabilitySet::empty() };
    let bpf = CapabilitySet::BPF;
    for more in [CapabilitySet::empty(), bpf, bpf | CapabilitySet::PERFMON, CapabilitySet::SYS_ADMIN] {
        // what is permitted stays, so that it can be had back
        let effective = held.effective & (NEEDED | more);
        let readable = set_capabilities(None, CapabilitySets { effective, ..held }).is_ok() && usage.readable().is_ok();
        if let Err(error) = set_capabilities(None, held) {
            tracing::warn!("can't take rights back: {error}");
        }
        if readable {
            return more;
        }
    }
    CapabilitySet::empty()
}

/// Gives up all capabilities of this thread, and of those that it starts, but `keep`; none can be had again. What the
/// agent runs as is left as it is.
pub(super) fn keep_only(keep: CapabilitySet) {
    let give_up = || -> io::Result<()> {
        // first of all, since a file's capabilities would bring them back
        set_no_new_privs(true)?;
        clear_ambient_capability_set()?;
        let held = capabilities(None)?;
        set_capabilities(
            None,
            CapabilitySets {
                effective: held.effective & keep,
                permitted: held.permitted & keep,
                inheritable: CapabilitySet::empty(),
            },
        )
    };
    if let Err(error) = give_up() {
        tracing::warn!("can't give up rights that are not needed any more: {error}");
    }
}
