//! What no zone counts: the machine's input less the zones that make up the node. Pure.
//!
//! The input is read seldom and told late, so both are compared over the time between its readings: what the zones had
//! counted by then is found on the line between two samples.

use ebbtide_proto::{Energy, Power};

use crate::clock::Moment;
use crate::counter::Step;
use crate::snapshot::{self, ZoneState, ZoneView};
use crate::source::discover::Role;
use crate::source::points::Points;
use crate::source::{SourceKind, ZoneKind};

/// Follows the rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// What the zones counted, since the last gap in it.
    parts: Points,
    gaps: u64,
    /// The input's last reading: which zone, when, and what the zones had counted.
    last: Option<(usize, u64, u64)>,
    latest: Option<Latest>,
    total: u64,
    /// What the zones had beyond the input, and the input has to make up for first.
    owed: u64,
}

/// The rest between the last two readings.
#[derive(Clone, Copy, Debug)]
struct Latest {
    power: Option<Power>,
    error: Power,
}

/// The zone that tells the machine's input: the outlet, or the only sensor there is. One of two supplies won't do.
pub(super) fn input(zones: &[ZoneView]) -> Option<usize> {
    let walls = || {
        let live = |z: &ZoneView| z.role == Role::Platform && matches!(z.state, ZoneState::Live | ZoneState::Starting);
        zones.iter().enumerate().filter(move |(_, z)| z.zone.kind == ZoneKind::Wall && live(z))
    };
    let outlet = walls().find(|(_, z)| z.zone.source == SourceKind::Outlet);
    let mut all = walls();
    let only = all.next().filter(|_| all.next().is_none());
    outlet.or(only).map(|(i, _)| i)
}

impl Rest {
    /// Moves on to `now`. `input` is the zone that tells the input, when it was last read and what that added.
    pub(super) fn step(
        &mut self,
        now: Moment,
        zones: &[ZoneView],
        input: Option<(usize, (Moment, Option<Step>))>,
    ) -> Option<snapshot::Rest> {
        let parts = || zones.iter().filter(|z| z.role == Role::Total);
        // a modelled node follows its input: there is no rest of it
        let known = parts().next().is_some()
            && parts().all(|z| z.state == ZoneState::Live && z.zone.source != SourceKind::Model);
        let gaps = parts().flat_map(|z| z.account.gaps).fold(0, u64::saturating_add);
        if !known || gaps != self.gaps {
            (self.parts, self.last, self.gaps) = (Points::default(), None, gaps);
        }
        self.parts.push(now.boot, parts().map(|z| z.account.total.uj()).fold(0, u64::saturating_add));
        let Some((zone, (at, step))) = input.filter(|_| known) else {
            (self.last, self.latest) = (None, None);
            return None;
        };
        let input = zones.get(zone)?;
        if self.last.is_none_or(|(was, then, _)| was != zone || then != at.boot) {
            let counted = self.parts.at(at.boot).unwrap_or_default();
            let before = self.last.replace((zone, at.boot, counted)).filter(|(was, ..)| *was == zone);
            if let (Some((_, _, before)), Some(step @ Step { gap: None, .. })) = (before, step) {
                self.latest = Some(self.compare(step, counted.saturating_sub(before), error(input, parts())));
            }
        }
        let quality = parts().map(ZoneView::quality).fold(input.quality(), Ord::max);
        let Latest { power, error } = self.latest?;
        Some(snapshot::Rest { power, error, energy: Energy::from_uj(self.total), quality })
    }

    /// The input drew what `step` says while the zones drew `parts`.
    fn compare(&mut self, step: Step, parts: u64, error: Power) -> Latest {
        let wall = step.energy.uj();
        let more = wall.saturating_sub(parts);
        let fewer = Energy::from_uj(parts.saturating_sub(wall));
        let made_up = more.min(self.owed);
        self.owed = self.owed.saturating_sub(made_up).saturating_add(fewer.uj());
        self.total = self.total.saturating_add(more - made_up);
        let within = fewer.over(step.dt).is_some_and(|less| less <= error);
        Latest { power: Energy::from_uj(more).over(step.dt).filter(|_| within), error }
    }
}

/// Errors of the input and of the zones, as if all were off to the same side.
fn error<'a>(input: &'a ZoneView, parts: impl Iterator<Item = &'a ZoneView>) -> Power {
    let off = |z: &ZoneView| {
        let uw = u128::from(z.power.unwrap_or_default().uw()) * u128::from(z.zone.error.ppm()) / 1_000_000;
        u64::try_from(uw).unwrap_or(u64::MAX)
    };
    Power::from_uw(parts.map(off).fold(off(input), u64::saturating_add))
}

#[cfg(test)]
mod tests;
