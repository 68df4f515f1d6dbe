//! The one place where time is read. Everything else is handed a [`Moment`].

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// One instant on the three clocks that matter, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// `CLOCK_MONOTONIC`: stands still while the machine sleeps. Intervals and deadlines.
    pub mono: u64,
    /// `CLOCK_BOOTTIME`: goes on while the machine sleeps; `boot - mono` grows by each suspend.
    pub boot: u64,
    /// `CLOCK_REALTIME` since 1970, for people.
    pub wall: u64,
}

impl Moment {
    /// Running time since `earlier`, zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.mono.saturating_sub(earlier.mono))
    }

    /// Time since `earlier` with sleep included, zero if that lies ahead.
    pub fn since_with_sleep(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.boot.saturating_sub(earlier.boot))
    }

    /// How long the machine slept between `earlier` and now.
    pub fn slept_since(self, earlier: Self) -> Duration {
        self.since_with_sleep(earlier).saturating_sub(self.since(earlier))
    }

    /// This instant moved on by `dt` on all clocks (for simulated time).
    #[must_use]
    pub fn plus(self, dt: Duration) -> Self {
        let ns = u64::try_from(dt.as_nanos()).unwrap_or(u64::MAX);
        Self {
            mono: self.mono.saturating_add(ns),
            boot: self.boot.saturating_add(ns),
            wall: self.wall.saturating_add(ns),
        }
    }
}

/// Reads the machine's clocks.
pub fn now() -> Moment {
    Moment { mono: read(ClockId::Monotonic), boot: read(ClockId::Boottime), wall: read(ClockId::Realtime) }
}

/// CPU time that this process has used, user and system.
pub fn own_cpu() -> Duration {
    Duration::from_nanos(read(ClockId::ProcessCPUTime))
}

fn read(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    u64::try_from(t.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}
