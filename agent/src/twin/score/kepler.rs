//! The formula that Kepler publishes, on the same samples, as a yardstick.
//!
//! Active energy of a zone = its energy × the share of CPU time in which the node was busy; the rest is idle. A
//! process gets of that its CPU time over that of all processes seen at the sample. (Kepler 0.10 and 0.11:
//! `docs/developer/power-attribution-guide.md` of that project.)

use crate::host::{HostRoot, read_text};

/// The aggregate line of `/proc/stat`: all time and busy time, ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeTime {
    all: u64,
    busy: u64,
}

impl NodeTime {
    pub(super) fn read(host: &HostRoot) -> Option<Self> {
        Self::parse(&read_text(&host.proc("stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|l| l.strip_prefix("cpu "))?;
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|t| t.parse().ok()).collect();
        let all = ticks.iter().fold(0, |a: u64, t| a.saturating_add(*t));
        let idle = ticks.get(3)?.saturating_add(*ticks.get(4)?);
        Some(Self { all, busy: all.saturating_sub(idle) })
    }

    /// The share of time since `before` in which CPUs were busy.
    pub(super) fn usage_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        if all == 0 { 0.0 } else { (self.busy.saturating_sub(before.busy) as f64 / all as f64).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_iowait_are_not_usage() {
        let at = |t: &str| NodeTime::parse(&format!("cpu  {t} 9 9\ncpu0 1 2 3\n")).unwrap();
        let (a, b) = (at("10 0 10 100 0 0 0 0"), at("30 0 10 160 10 5 5 0"));
        assert!((b.usage_since(a) - 0.3).abs() < 1e-9);
        assert_eq!(a.usage_since(a), 0.0);
        assert_eq!(NodeTime::parse("cpu  1 2\n"), None);
    }
}
