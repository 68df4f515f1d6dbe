//! What nodes and outlets drew lately: little, and only for comparison.

use std::collections::{BTreeMap, VecDeque};

use super::{Place, Rack};

/// How often watts are noted, in milliseconds.
pub const EVERY_MS: u64 = 10_000;
/// How many are kept of each: two hours.
const KEPT: usize = 720;

/// Watts of nodes and outlets at the same moments. What was not known is absent.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// How many moments there were.
    moments: u64,
    nodes: BTreeMap<String, VecDeque<Option<f32>>>,
    outlets: BTreeMap<Place, VecDeque<Option<f32>>>,
}

impl History {
    /// Notes what is drawn now.
    pub fn note(
        &mut self,
        nodes: impl IntoIterator<Item = (String, f32)>,
        outlets: impl IntoIterator<Item = (Place, f32)>,
    ) {
        self.moments += 1;
        let had = usize::try_from(self.moments - 1).unwrap_or(KEPT).min(KEPT - 1);
        put(&mut self.nodes, nodes, had);
        put(&mut self.outlets, outlets, had);
    }

    /// For how long watts were noted, in milliseconds.
    pub fn seen_ms(&self) -> u64 {
        self.moments.min(KEPT as u64) * EVERY_MS
    }

    /// Nodes with their watts, the oldest first; all as long as those of outlets.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &VecDeque<Option<f32>>)> {
        self.nodes.iter().map(|(name, watts)| (name.as_str(), watts))
    }

    /// Outlets with their watts.
    pub fn outlets(&self) -> impl Iterator<Item = (&Place, &VecDeque<Option<f32>>)> {
        self.outlets.iter()
    }
}

/// What all outlets draw now, in watts.
pub fn outlets(rack: &Rack) -> Vec<(Place, f32)> {
    let mut all = Vec::new();
    for device in rack.devices() {
        let latest = device.latest();
        for outlet in latest.report.iter().flat_map(|report| &report.outlets) {
            if let Some(power) = &outlet.feed.power {
                let place = Place { device: device.name().to_owned(), outlet: outlet.id.clone() };
                all.push((place, watts(power.value.uw())));
            }
        }
    }
    all
}

/// Watts for comparison: seven digits are enough.
#[allow(clippy::cast_possible_truncation, reason = "that is said above")]
pub fn watts(uw: u64) -> f32 {
    (uw as f64 / 1e6) as f32
}

/// Adds a moment to all series; a new one gets what it missed as unknown.
fn put<K: Ord>(series: &mut BTreeMap<K, VecDeque<Option<f32>>>, now: impl IntoIterator<Item = (K, f32)>, had: usize) {
    series.values_mut().for_each(|watts| {
        while watts.len() > had {
            watts.pop_front();
        }
        watts.push_back(None);
    });
    for (key, w) in now {
        let watts = series.entry(key).or_insert_with(|| std::iter::repeat_n(None, had + 1).collect());
        if let Some(last) = watts.back_mut() {
            *last = Some(w);
        }
    }
    series.retain(|_, watts| watts.iter().any(Option::is_some));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_series_are_as_long_and_what_nobody_told_is_unknown() {
        let mut history = History::default();
        history.note([("a".to_owned(), 1.0)], []);
        history.note([("b".to_owned(), 2.0)], []);
        let of = |history: &History, name: &str| -> Vec<Option<f32>> {
            history.nodes().find(|(n, _)| *n == name).map(|(_, w)| w.iter().copied().collect()).unwrap_or_default()
        };
        assert_eq!((of(&history, "a"), of(&history, "b")), (vec![Some(1.0), None], vec![None, Some(2.0)]));
        for _ in 0..KEPT {
            history.note([("b".to_owned(), 3.0)], []);
        }
        assert_eq!((of(&history, "a").len(), of(&history, "b").len()), (0, KEPT));
        assert_eq!(history.seen_ms(), 2 * 3_600_000);
    }
}
