//! Workloads as they truly are: where they run, what they ask for, how long they have waited.

use std::collections::BTreeMap;

use ebbtide_proto::WorkloadId;

use super::Seconds;
use super::setup::{Ends, Job, Usage, wave};
use crate::sim::rng::Rng;
use crate::sim::stream::{normal, stream};

/// Seconds after which noise has forgotten itself by a factor of e.
const MEMORY_S: f64 = 600.0;

/// One workload.
pub(super) struct Member {
    pub(super) job: Job,
    /// The machine it runs on.
    pub(super) on: Option<usize>,
    /// The machine it moves to.
    pub(super) to: Option<usize>,
    /// Stands still while it is restarted elsewhere.
    pub(super) paused: bool,
    pub(super) placed: Option<Seconds>,
    pub(super) gone: bool,
    pub(super) waited_s: Seconds,
    /// Thousandths of a CPU that it asks for in this step.
    pub(super) asks: f64,
    /// Asked for since the last frame, times seconds; and these seconds.
    pub(super) told: (f64, f64),
    /// Work still to do, for jobs.
    left: f64,
    noise: f64,
    rng: Rng,
}

/// All that are there.
#[derive(Default)]
pub(super) struct Crew {
    pub(super) all: Vec<Member>,
    /// Those that have come and not ended, in the order of their coming.
    pub(super) here: Vec<usize>,
    index: BTreeMap<WorkloadId, usize>,
}

impl Crew {
    pub(super) fn find(&self, id: &WorkloadId) -> Option<usize> {
        self.index.get(id).copied()
    }

    /// Takes in a workload that has come.
    pub(super) fn come(&mut self, job: Job, seed: u64) -> usize {
        let w = self.all.len();
        self.index.insert(job.workload.id.clone(), w);
        self.here.push(w);
        let rng = stream(seed, "use", job.workload.id.name());
        let left = if let Ends::Done(work) = job.ends { work } else { 0.0 };
        self.all.push(Member {
            job,
            on: None,
            to: None,
            paused: false,
            placed: None,
            gone: false,
            waited_s: 0,
            asks: 0.0,
            told: (0.0, 0.0),
            left,
            noise: 0.0,
            rng,
        });
        w
    }

    /// Those that have ended by `now`, taken off the list of those here.
    pub(super) fn leave(&mut self, now: Seconds) -> Vec<usize> {
        let all = &self.all;
        let over = |&w: &usize| match all[w].job.ends {
            Ends::Never => false,
            Ends::At(s) => now >= s,
            Ends::After(s) => all[w].placed.is_some_and(|at| now >= at.saturating_add(s)),
            Ends::Done(_) => all[w].left <= 0.0,
        };
        let (gone, here): (Vec<usize>, Vec<usize>) = self.here.iter().copied().partition(over);
        self.here = here;
        for &w in &gone {
            self.all[w].gone = true;
        }
        gone
    }
}

impl Member {
    /// Whether waiting costs it nothing but time.
    pub(super) fn patient(&self) -> bool {
        matches!(self.job.ends, Ends::Done(_))
    }

    /// Draws what it asks for in the step from `now`.
    pub(super) fn draw(&mut self, now: Seconds, step_s: u64) {
        self.asks = match &self.job.usage {
            Usage::Wave { mean, swing, peak_h, noise } => {
                if *noise > 0.0 {
                    let keeps = (-(step_s as f64) / MEMORY_S).exp();
                    self.noise = keeps * self.noise + (1.0 - keeps * keeps).sqrt() * normal(&mut self.rng);
                }
                let most = self.job.workload.requests.cpu_milli as f64;
                (mean + swing * wave(now, *peak_h) + noise * self.noise).clamp(0.0, most)
            }
            Usage::Series { step_s, milli, even } => {
                let (i, into) = (usize::try_from(now / step_s.max(&1)).unwrap_or(0), now % step_s.max(&1));
                let at = |i: usize| milli.get(i % milli.len().max(1)).copied().map_or(0.0, f64::from);
                let share = if *even { into as f64 / *step_s as f64 } else { 0.0 };
                at(i) + (at(i + 1) - at(i)) * share
            }
        };
    }

    /// Takes note of a step in which it asked for what it was drawn to and was given `given`.
    pub(super) fn lived(&mut self, given: f64, step_s: u64) {
        let s = step_s as f64;
        self.told.0 += self.asks * s;
        self.told.1 += s;
        self.left -= given * s;
        if self.on.is_none() {
            self.waited_s += step_s;
        }
    }
}
