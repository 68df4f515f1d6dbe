//! One process of the twin: what it is and when it wants to run.

use std::sync::Arc;

use super::rng::Rng;
use super::scenario::Pattern;
use super::truth::{Account, whole};

pub(super) const NS_PER_MS: f64 = 1e6;

/// What one thread has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) run_ns: u64,
    pub(super) wait_ns: u64,
    pub(super) slices: u64,
    pub(super) cpu: usize,
}

/// Its pattern and where in it it is.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    Idle,
    Steady,
    Bursty {
        on: bool,
        left: f64,
    },
    Diurnal,
    Walk {
        left: f64,
    },
    /// The parent of a storm: when each chain forks next, ns of running time; `None` while a child lives.
    Root {
        chains: Vec<Option<u64>>,
    },
    Child {
        root: usize,
        chain: usize,
        left: u64,
    },
}

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) ppid: u32,
    pub(super) start_ticks: u64,
    pub(super) workload: Option<usize>,
    pub(super) comm: Arc<str>,
    pub(super) cgroup: Arc<str>,
    pub(super) uid: u32,
    pub(super) rss_mib: u64,
    pub(super) activity: f64,
    pub(super) traffic: f64,
    pub(super) ipc: f64,
    pub(super) sys: f64,
    pub(super) account: Account,
    pub(super) threads: Vec<Used>,
    pub(super) running: bool,
    /// CPU time of reaped children, ns, user and system.
    pub(super) reaped: (u64, u64),
    pub(super) mode: Mode,
    /// Share of a step that each thread wants.
    pub(super) level: f64,
    pub(super) rng: Rng,
}

impl Process {
    /// What its threads want in the step of `dt` ns that begins at `elapsed`.
    pub(super) fn wish(&mut self, pattern: Option<&Pattern>, dt: u64, elapsed: u64) {
        let step = dt as f64;
        match (&mut self.mode, pattern) {
            (Mode::Bursty { on, left }, Some(Pattern::Bursty { on_ms, off_ms, util, jitter })) => {
                let (mut todo, mut busy) = (step, 0.0);
                // a phase is at least a tenth of a millisecond, so that this ends
                while todo > 0.0 {
                    let part = left.min(todo);
                    busy += if *on { part } else { 0.0 };
                    todo -= part;
                    *left -= part;
                    if *left <= 0.0 {
                        *on = !*on;
                        let mean = if *on { *on_ms } else { *off_ms };
                        *left = (mean * (1.0 + jitter * self.rng.signed()) * NS_PER_MS).max(1e5);
                    }
                }
                self.level = util * busy / step;
            }
            (Mode::Diurnal, Some(Pattern::Diurnal { min, max, period_s, phase })) => {
                let turn = elapsed as f64 / 1e9 / period_s + phase;
                self.level = min + (max - min) * (0.5 - 0.5 * (std::f64::consts::TAU * turn).cos());
            }
            (Mode::Walk { left }, Some(Pattern::RandomWalk { min, max })) => {
                *left -= step;
                if *left <= 0.0 {
                    *left += 100.0 * NS_PER_MS;
                    self.level = (self.level + 0.1 * (max - min) * self.rng.signed()).clamp(*min, *max);
                }
            }
            _ => {}
        }
    }

    /// CPU time, ns, user and system.
    pub(super) fn times(&self) -> (u64, u64) {
        let sys = whole(self.account.cpu_ns as f64 * self.sys);
        (self.account.cpu_ns - sys, sys)
    }
}
