//! How long a node takes to boot and what that costs, as distributions of what really happened.

use serde::{Deserialize, Serialize};

/// Boots that are remembered.
const KEPT: usize = 32;

/// Longest boot that is believed, in seconds.
const LONGEST_S: f64 = 7200.0;

/// Boots of one node, the latest last; before the first, a careful guess.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootModel {
    /// Seconds and joules of each boot seen.
    seen: Vec<(f64, f64)>,
    /// Seconds taken for granted before any was seen.
    prior_s: f64,
    /// Joules taken for granted before any was seen.
    prior_j: f64,
    /// Seconds from the order to shut down until the power is off.
    pub shutdown_s: f64,
}

impl Default for BootModel {
    /// Three minutes and 60 kJ: a server that takes its time.
    fn default() -> Self {
        Self::guess(180.0, 60_000.0, 60.0)
    }
}

impl BootModel {
    /// A guess: seconds and joules of a boot, seconds of a shutdown.
    pub fn guess(seconds: f64, joules: f64, shutdown_s: f64) -> Self {
        Self { seen: Vec::new(), prior_s: seconds, prior_j: joules, shutdown_s }
    }

    /// The same boots with so many times the joules.
    #[must_use]
    pub(crate) fn times(&self, factor: f64) -> Self {
        let seen = self.seen.iter().map(|(s, j)| (*s, j * factor)).collect();
        Self { seen, prior_j: self.prior_j * factor, ..self.clone() }
    }

    /// Takes in a boot; refuses one that took no time, more than two hours, or a power beyond a megawatt.
    pub fn observe(&mut self, seconds: f64, joules: f64) -> bool {
        let sane = seconds > 0.0 && seconds <= LONGEST_S && (0.0..=seconds * 1e6).contains(&joules);
        if sane {
            if self.seen.len() >= KEPT {
                self.seen.remove(0);
            }
            self.seen.push((seconds, joules));
        }
        sane
    }

    /// How many boots were seen, at most 32.
    pub fn count(&self) -> usize {
        self.seen.len()
    }

    /// Seconds that a share `p` of boots doesn't exceed; never less than the guess while fewer than five were seen.
    pub fn seconds(&self, p: f64) -> f64 {
        let seen = quantile(self.seen.iter().map(|b| b.0), p);
        if self.seen.len() < 5 { seen.unwrap_or(0.0).max(self.prior_s) } else { seen.unwrap_or(self.prior_s) }
    }

    /// Mean joules of a boot.
    pub fn joules(&self) -> f64 {
        if self.seen.is_empty() {
            return self.prior_j;
        }
        self.seen.iter().map(|b| b.1).sum::<f64>() / self.seen.len() as f64
    }
}

fn quantile(values: impl Iterator<Item = f64>, p: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, reason = "an index below the length")]
    let index = (p.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64).ceil() as usize;
    sorted.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_boot_is_not_trusted_before_it_was_seen_often() {
        let mut boot = BootModel::guess(180.0, 60_000.0, 30.0);
        for _ in 0..4 {
            assert!(boot.observe(74.0, 4600.0));
            assert!((boot.seconds(0.95) - 180.0).abs() < 1e-9);
        }
        assert!(boot.observe(80.0, 4600.0));
        assert!((boot.seconds(0.95) - 80.0).abs() < 1e-9);
        assert!((boot.joules() - 4600.0).abs() < 1e-9);
    }

    #[test]
    fn boots_that_cannot_be_are_refused() {
        let mut boot = BootModel::default();
        for (s, j) in [(0.0, 1.0), (-1.0, 1.0), (f64::NAN, 1.0), (1e6, 1.0), (10.0, -1.0), (10.0, 1e9)] {
            assert!(!boot.observe(s, j), "{s} {j}");
        }
        assert_eq!(boot.count(), 0);
    }
}
