//! CPU time that was used by nobody who was seen: interrupts, and tasks that nobody was told the end of.

/// Follows the balance of what CPUs worked against what tasks are known to have used.
///
/// Both are rounded (ticks), so single intervals say little: only what stays over in the long run counts.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    balance_ns: i128,
    interrupts_ns: u64,
}

/// Time of an interval that no task used, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Surplus {
    pub(super) interrupts_ns: u64,
    pub(super) unseen_ns: u64,
}

impl Unseen {
    /// Takes what the CPUs worked, what of that were interrupts as sampled, and what tasks used.
    /// `slack_ns` is how far rounding can lead astray.
    pub(super) fn step(&mut self, busy_ns: u64, interrupts_ns: u64, tasks_ns: u64, slack_ns: u64) -> Surplus {
        let slack = i128::from(slack_ns);
        self.balance_ns += i128::from(busy_ns) - i128::from(tasks_ns);
        // tasks are known better than the CPUs' idle time: a deficit is forgotten beyond the rounding
        self.balance_ns = self.balance_ns.max(-slack);
        self.interrupts_ns = self.interrupts_ns.saturating_add(interrupts_ns);
        let over = u64::try_from((self.balance_ns - slack).max(0)).unwrap_or(u64::MAX);
        self.balance_ns -= i128::from(over);
        let interrupts_ns = over.min(self.interrupts_ns);
        self.interrupts_ns -= interrupts_ns;
        Surplus { interrupts_ns, unseen_ns: over - interrupts_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_stays_over_is_interrupts_first() {
        let mut u = Unseen::default();
        assert_eq!(u.step(100, 0, 100, 10), Surplus::default());
        assert_eq!(u.step(200, 30, 100, 10), Surplus { interrupts_ns: 30, unseen_ns: 60 });
        assert_eq!(u.step(50, 0, 100, 10), Surplus::default());
    }

    proptest! {
        /// Rounding that goes up and down is never charged; a true surplus is, to within the slack.
        #[test]
        fn noise_is_not_charged(noise in prop::collection::vec(-40i64..=40, 1..300), surplus in 0..20u64) {
            let mut u = Unseen::default();
            let (mut told, mut before) = (0, 0i64);
            for (i, n) in noise.iter().enumerate() {
                let busy = 1_000i64 + n - before;
                before = *n;
                let s = u.step(busy as u64 + surplus, 0, 1_000, 80);
                told += s.unseen_ns;
                let truth = surplus * (i as u64 + 1);
                prop_assert!(told <= truth && truth - told <= 200, "{told} {truth}");
            }
        }
    }
}
