//! Pods that were directed to a node and that the view doesn't show yet. Pure.
//!
//! The scheduler asks pod after pod, faster than what it did comes back by the watch: without this all pods of a burst
//! would be told the same.

use std::collections::BTreeMap;

use ebbtide_planner::state::resources::Resources;

/// A view shows what was directed so long before it was made, in milliseconds.
const SHOWS_MS: u64 = 2000;
/// What was directed longer ago came to nothing, or shows.
const OLD_MS: u64 = 30_000;
/// More are not kept in mind; the oldest go first.
const MOST: usize = 4096;

#[derive(Clone, Debug)]
struct Entry {
    pod: String,
    node: String,
    requests: Resources,
    at_ms: u64,
}

/// What was directed.
#[derive(Clone, Debug, Default)]
pub struct Account {
    entries: Vec<Entry>,
    sums: BTreeMap<String, Resources>,
}

impl Account {
    /// A pod was directed to a node at `at_ms`.
    pub fn direct(&mut self, pod: &str, node: &str, requests: &Resources, at_ms: u64) {
        self.entries.retain(|e| e.pod != pod);
        if self.entries.len() >= MOST {
            self.entries.remove(0);
        }
        let entry = Entry { pod: pod.to_owned(), node: node.to_owned(), requests: requests.clone(), at_ms };
        self.entries.push(entry);
        self.add_up();
    }

    /// Forgets what shows in a view that was made at `made_ms`, what is old, and the pod that asks again.
    pub fn forget(&mut self, pod: &str, made_ms: u64, now_ms: u64) {
        let before = self.entries.len();
        self.entries.retain(|e| {
            e.pod != pod && e.at_ms.saturating_add(SHOWS_MS) > made_ms && now_ms.saturating_sub(e.at_ms) < OLD_MS
        });
        if self.entries.len() != before {
            self.add_up();
        }
    }

    /// What was directed to a node.
    pub fn of(&self, node: &str) -> Option<&Resources> {
        self.sums.get(node)
    }

    fn add_up(&mut self) {
        self.sums.clear();
        for entry in &self.entries {
            self.sums.entry(entry.node.clone()).or_default().add(&entry.requests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_directed_counts_until_it_shows() {
        let mut account = Account::default();
        let core = Resources::new(1000, 0);
        account.direct("p", "a", &core, 1000);
        account.direct("q", "a", &core, 1500);
        // asked again, a pod counts once
        account.direct("q", "b", &core, 1600);
        account.forget("r", 2000, 2000);
        assert_eq!((account.of("a").unwrap().cpu_milli, account.of("b").unwrap().cpu_milli), (1000, 1000));
        account.forget("q", 2000, 2000);
        assert!(account.of("b").is_none());
        account.forget("r", 3000, 3000);
        assert!(account.of("a").is_none(), "it shows in a view of two seconds later");
        account.direct("p", "a", &core, 5000);
        account.forget("r", 5001, 35_001);
        assert!(account.of("a").is_none(), "it came to nothing");
    }
}
