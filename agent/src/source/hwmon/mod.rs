//! Power and energy sensors of `/sys/class/hwmon`, and of NVIDIA's older Jetson kernels.
//!
//! `chips.rs` is the table of what is known of chips, as data; `files.rs` finds chips and what their
//! files tell; `select.rs` makes zones of that (nesting, sums, ids, names); `read.rs` reads them.
//! Energy counters are a source as they are; power is integrated by a reader of its own per family
//! of chips, so that a slow bus holds up only its own family.
//!
//! Units of the interface: power µW, energy µJ, `in` mV, `curr` mA
//! (Documentation/hwmon/sysfs-interface.rst).

pub mod chips;
mod files;
mod read;
mod select;
#[cfg(test)]
mod tests;

use self::chips::ChipRow;
use self::files::{Channel, Place};
use self::read::{HwmonEnergy, HwmonPower};
use self::select::Group;
use super::Found;
use super::integrate::ProbeMode;
use crate::host::HostRoot;

/// Finds the machine's sensors of power and energy.
pub fn discover(host: &HostRoot, mode: ProbeMode) -> Found {
    discover_with(host, mode, &[])
}

/// [`discover`] with rows from configuration, which are asked before the built-in ones.
pub fn discover_with(host: &HostRoot, mode: ProbeMode, own: &[ChipRow]) -> Found {
    let mut found = Found::default();
    let builtin = chips::builtin();
    let rows: Vec<&ChipRow> = own.iter().chain(&builtin).collect();
    // chips by row, in the order of rows
    let mut families: Vec<(Vec<Place>, Vec<Vec<Channel>>)> = rows.iter().map(|_| Default::default()).collect();
    for place in files::scan(host) {
        let fitting = rows.iter().zip(&mut families).find(|(row, _)| row.fits(&place.name));
        let Some((row, (places, channels))) = fitting else { continue };
        let counted = files::channels(&place, row, &mut found.skipped);
        if !counted.is_empty() {
            places.push(place);
            channels.push(counted);
        }
    }
    let group = |(row, (places, channels)): (&&ChipRow, (Vec<Place>, Vec<Vec<Channel>>))| {
        Group::new((*row).clone(), places, channels)
    };
    let groups: Vec<Group> = rows.iter().zip(families).map(group).collect();
    let named = select::name_all(&groups, &mut found.skipped);
    for (group, zones) in groups.iter().zip(named) {
        if let Some(counters) = HwmonEnergy::of(host, &group.places, &zones) {
            found.sources.push(Box::new(counters));
        }
        if let Some(probe) = HwmonPower::of(host, &group.places, &zones) {
            found.sources.push(mode.integrate(probe));
        }
    }
    found
}
