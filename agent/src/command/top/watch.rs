//! Takes samples for `top` in this process: no daemon is needed and none is disturbed.

use std::sync::Arc;
use std::time::Duration;

use super::background::Background;
use super::before::Before;
use super::picture::Picture;
use crate::clock::{self, Moment};
use crate::command::{sampler_options, sources, usage_reader};
use crate::config::{Processes, Settings};
use crate::sampler::{Options, Sampler};
use crate::snapshot::ZoneState;
use crate::source::discover::Role;

/// Time between the first two samples, so that figures are there at once.
const HASTE: Duration = Duration::from_millis(200);

/// Follows the machine.
pub(super) struct Watch {
    sampler: Sampler,
    before: Before,
    every: Duration,
    /// Time from the first sample to the second.
    first: Duration,
    /// When the next sample is due, on the monotonic clock; at once if `None`.
    due: Option<u64>,
}

impl Watch {
    /// Starts with the sources that the settings allow. `haste` makes the second sample come early.
    pub(super) fn start(settings: &Settings, haste: bool) -> anyhow::Result<Self> {
        let options = Options {
            processes: Processes::All,
            // the daemon's journal stays the daemon's
            state: None,
            learned: settings.state.clone(),
            full_names: false,
            ..sampler_options(settings)
        };
        let sampler = Sampler::new(
            settings.root.clone(),
            usage_reader(settings)?.reader,
            sources(settings, None).sources,
            options,
        )?;
        let every = settings.interval;
        let first = if haste { every.min(HASTE) } else { every };
        Ok(Self { sampler, before: Before::default(), every, first, due: None })
    }

    /// Time between two samples.
    pub(super) fn every(&self) -> Duration {
        self.every
    }

    /// Time until the next sample is due.
    pub(super) fn left(&self, now: Moment) -> Duration {
        self.due.map_or(Duration::ZERO, |due| Duration::from_nanos(due.saturating_sub(now.mono)))
    }

    /// Takes a sample.
    pub(super) fn sample(&mut self, background: &Background) -> anyhow::Result<Picture> {
        background.name_pods(&mut self.sampler);
        let now = clock::now();
        let snapshot = self.sampler.step(now)?;
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX).max(1_000_000);
        let (every, first) = (ns(self.every), ns(self.first));
        self.due = Some(match self.due {
            None => now.mono.saturating_add(first),
            // a sample that took too long costs the samples it ran into, not the rhythm
            Some(due) => {
                let late = clock::now().mono.saturating_sub(due);
                due.saturating_add((late / every + 1).saturating_mul(every))
            }
        });
        let before = std::mem::replace(&mut self.before, Before::of(&snapshot));
        Ok(Picture::new(&before, Arc::clone(&snapshot)))
    }

    /// Sleeps until the next sample is due; `None` if it is time to leave instead.
    pub(super) fn next(&mut self, background: &Background) -> anyhow::Result<Option<Picture>> {
        loop {
            if background.stopped() {
                return Ok(None);
            }
            let left = self.left(clock::now());
            if left.is_zero() {
                return self.sample(background).map(Some);
            }
            std::thread::park_timeout(left);
        }
    }
}

/// Whether `picture` has all it will have: two samples, and no sensor that still has to begin.
pub(super) fn is_whole(picture: &Picture) -> bool {
    /// A sensor that takes longer to begin is not waited for.
    const PATIENCE: u64 = 4;
    let begins = picture.now.zones.iter().any(|z| z.role == Role::Total && z.state == ZoneState::Starting);
    picture.now.seq >= PATIENCE || (picture.now.seq >= 2 && !begins)
}
