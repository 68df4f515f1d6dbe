//! What happened to frames and agents since the daemon started.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ebbtide_proto::v1;

/// Why an agent or a frame was refused. The text is the label in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No certificate, or not a node's.
    Unauthenticated,
    /// The certificate is another node's.
    WrongNode,
    /// Another agent streams under this name.
    TwoAgents,
    /// The agent's clock, or the time of a frame, is far off.
    Clock,
    /// The agent speaks another version.
    Version,
    /// More nodes, series or bytes than allowed.
    Quota,
    /// Bytes that make no sense.
    Malformed,
    /// The protocol was not followed.
    Protocol,
    /// The store can't write.
    Store,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unauthenticated,
        Self::WrongNode,
        Self::TwoAgents,
        Self::Clock,
        Self::Version,
        Self::Quota,
        Self::Malformed,
        Self::Protocol,
        Self::Store,
    ];

    /// The name in metrics and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::WrongNode => "wrong-node",
            Self::TwoAgents => "two-agents",
            Self::Clock => "clock",
            Self::Version => "version",
            Self::Quota => "quota",
            Self::Malformed => "malformed",
            Self::Protocol => "protocol",
            Self::Store => "store",
        }
    }
}

/// Upper bounds of the latency buckets, in microseconds.
const BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 300_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000, 60_000_000,
];

/// Counters of the ingest. Cheap to add to from anywhere.
#[derive(Debug, Default)]
pub struct Counts {
    /// Values taken.
    pub samples: AtomicU64,
    /// Frames taken.
    pub frames: AtomicU64,
    /// Frames that were here already.
    pub duplicates: AtomicU64,
    /// Frames that agents had to give up.
    pub dropped: AtomicU64,
    /// Frames that were refused for good.
    pub refused_frames: AtomicU64,
    /// Bytes of messages, as they came.
    pub bytes: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
    /// Commits by how long a frame waited for its own, in two halves of a window.
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    all: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
    now: [u64; BOUNDS_US.len() + 1],
    before: [u64; BOUNDS_US.len() + 1],
    turned_ms: u64,
}

impl Counts {
    /// One more refusal.
    pub fn refuse(&self, reason: Reason) {
        if let Some(n) = Reason::ALL.iter().position(|r| *r == reason).and_then(|i| self.refused.get(i)) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each thing was refused.
    pub fn refusals(&self) -> Vec<v1::Refusals> {
        let count = |(r, n): (&Reason, &AtomicU64)| v1::Refusals {
            reason: r.as_str().to_owned(),
            count: n.load(Ordering::Relaxed),
        };
        Reason::ALL.iter().zip(&self.refused).map(count).collect()
    }

    /// A frame waited so long for its commit.
    pub fn waited(&self, us: u64, now_ms: u64) {
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms.saturating_sub(waits.turned_ms) >= 30_000 {
            waits.before = std::mem::take(&mut waits.now);
            waits.turned_ms = now_ms;
        }
        waits.sum_us = waits.sum_us.saturating_add(us);
        let Waits { all, now, .. } = &mut *waits;
        for table in [all, now] {
            if let Some(n) = table.get_mut(bucket) {
                *n += 1;
            }
        }
    }

    /// What 99 of 100 frames of the last half to one minute waited at most, in microseconds; 0 if there were none.
    pub fn p99_us(&self) -> u64 {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let table: Vec<u64> = waits.now.iter().zip(&waits.before).map(|(a, b)| a + b).collect();
        let total: u64 = table.iter().sum();
        let mut seen = 0;
        for (n, bound) in table.iter().zip(BOUNDS_US.iter().chain([&u64::MAX])) {
            seen += n;
            if total > 0 && seen * 100 >= total * 99 {
                return *bound;
            }
        }
        0
    }

    /// Upper bounds in seconds with how many frames waited at most so long, the sum in seconds, and how many there were.
    pub fn histogram(&self) -> (Vec<(f64, u64)>, f64, u64) {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut below = 0;
        let buckets = BOUNDS_US.iter().zip(&waits.all).map(|(bound, n)| {
            below += n;
            (*bound as f64 / 1e6, below)
        });
        (buckets.collect(), waits.sum_us as f64 / 1e6, waits.all.iter().sum())
    }
}
