//! Amounts of what nodes have and workloads need: CPU, memory, and anything with a name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A vector of amounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Everything else by its name (`nvidia.com/gpu`, `pods`, …), in units of its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub named: BTreeMap<String, u64>,
}

impl Resources {
    /// CPU and memory only.
    pub fn new(cpu_milli: u64, memory: u64) -> Self {
        Self { cpu_milli, memory, named: BTreeMap::new() }
    }

    /// The same with `amount` of a named resource.
    pub fn with(mut self, name: &str, amount: u64) -> Self {
        self.named.insert(name.to_owned(), amount);
        self
    }

    /// `self - other`, at least zero for each.
    pub fn saturating_sub(&self, other: &Self) -> Self {
        let mut left = self.clone();
        left.cpu_milli = left.cpu_milli.saturating_sub(other.cpu_milli);
        left.memory = left.memory.saturating_sub(other.memory);
        for (name, amount) in &other.named {
            if let Some(have) = left.named.get_mut(name) {
                *have = have.saturating_sub(*amount);
            }
        }
        left
    }

    /// Adds `other` to `self`; amounts stay at the largest number rather than start over.
    pub fn add(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.saturating_add(other.cpu_milli);
        self.memory = self.memory.saturating_add(other.memory);
        for (name, amount) in &other.named {
            let have = self.named.entry(name.clone()).or_default();
            *have = have.saturating_add(*amount);
        }
    }

    /// The name of the first resource of which `self` asks for more than `room` has; `None` if all fit.
    pub fn lacks(&self, room: &Self) -> Option<&str> {
        if self.cpu_milli > room.cpu_milli {
            return Some("cpu");
        }
        if self.memory > room.memory {
            return Some("memory");
        }
        let short = |(name, want): &(&String, &u64)| **want > room.named.get(*name).copied().unwrap_or(0);
        self.named.iter().find(short).map(|(name, _)| name.as_str())
    }
}
