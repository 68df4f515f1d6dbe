//! Power curves learned from telemetry: node by node, with what twins taught as a prior.
//!
//! The learned part is the *deviation* from the prior curve at its eleven knots. Each reading weighs on the two knots
//! next to its load; neighbouring deviations are tied, so that a node that was only ever seen half busy moves as a
//! whole. The normal equations are tridiagonal and solved directly; older readings fade.

use std::collections::BTreeMap;

use ebbtide_proto::NodeId;
use serde::{Deserialize, Serialize};

use super::curve::{KNOTS, PowerCurve};
use crate::state::node::Node;

/// Power and load of a node over the same interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Watts.
    pub watts: f64,
    /// Share of all CPUs that was busy, 0 to 1.
    pub load: f64,
    /// Relative error of the watts.
    #[serde(default)]
    pub error: f64,
}

/// Weight of the prior at each knot, in readings.
const PRIOR: f64 = 2.0;
/// Weight that ties neighbouring deviations.
const TIE: f64 = 10.0;
/// Readings after which one counts a half: two weeks at one per five minutes.
const HALF_LIFE: f64 = 4032.0;
/// Readings in a row that have to disagree with the curve before it is given up (new hardware under the old name).
const PATIENCE: u32 = 12;
/// A reading disagrees if it is off by more than this share.
const DISAGREES: f64 = 0.5;
/// Relative error of a curve nobody has measured.
const UNMEASURED: f64 = 0.3;

/// What was learned about one node, or about all nodes of a kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learned {
    prior: PowerCurve,
    diagonal: [f64; KNOTS],
    beside: [f64; KNOTS - 1],
    right: [f64; KNOTS],
    squares: f64,
    weight: f64,
    odd: u32,
    curve: PowerCurve,
}

impl Learned {
    /// Nothing learned yet: the prior, as unsure as it says.
    pub fn new(prior: PowerCurve) -> Self {
        Self {
            prior,
            diagonal: [0.0; KNOTS],
            beside: [0.0; KNOTS - 1],
            right: [0.0; KNOTS],
            squares: 0.0,
            weight: 0.0,
            odd: 0,
            curve: prior,
        }
    }

    /// The curve as learned so far.
    pub fn curve(&self) -> PowerCurve {
        self.curve
    }

    /// Readings that stand behind it, older ones counting less.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Takes in a reading. Refuses what is no power or no load; and what disagrees wildly with a well-known curve,
    /// unless it goes on doing so.
    pub fn observe(&mut self, reading: Reading) -> bool {
        let sane = reading.watts > 0.0
            && reading.watts <= PowerCurve::MAX_WATTS
            && (0.0..=1.05).contains(&reading.load)
            && (0.0..=1.0).contains(&reading.error);
        if !sane {
            return false;
        }
        let load = reading.load.min(1.0);
        let expected = self.curve.watts(load);
        if self.weight > PRIOR * KNOTS as f64 && (reading.watts - expected).abs() > DISAGREES * expected {
            self.odd += 1;
            if self.odd < PATIENCE {
                return false;
            }
            *self = Self::new(self.prior);
        }
        self.odd = 0;
        self.add(load, reading.watts, 1.0 / (1.0 + (reading.error * 20.0).powi(2)));
        self.solve();
        true
    }

    fn add(&mut self, load: f64, watts: f64, weight: f64) {
        let fade = 0.5f64.powf(1.0 / HALF_LIFE);
        for v in self.diagonal.iter_mut().chain(&mut self.beside).chain(&mut self.right) {
            *v *= fade;
        }
        let off = watts - self.curve.watts(load);
        self.squares = self.squares * fade + weight * off * off;
        self.weight = self.weight * fade + weight;
        let x = load * (KNOTS - 1) as f64;
        #[allow(clippy::cast_possible_truncation, reason = "0 to 10")]
        let k = (x as usize).min(KNOTS - 2);
        let (b, a) = (x - k as f64, 1.0 - (x - k as f64));
        let deviation = watts - self.prior.watts(load);
        self.diagonal[k] += weight * a * a;
        self.diagonal[k + 1] += weight * b * b;
        self.beside[k] += weight * a * b;
        self.right[k] += weight * a * deviation;
        self.right[k + 1] += weight * b * deviation;
    }

    /// Solves for the deviations (Thomas' algorithm), makes the result monotone and says how sure it is.
    fn solve(&mut self) {
        let mut d: [f64; KNOTS] = std::array::from_fn(|i| {
            let ties = if i == 0 || i == KNOTS - 1 { TIE } else { 2.0 * TIE };
            self.diagonal[i] + PRIOR / KNOTS as f64 + ties
        });
        let mut r = self.right;
        for i in 1..KNOTS {
            let beside = self.beside[i - 1] - TIE;
            let m = beside / d[i - 1];
            d[i] -= m * beside;
            r[i] -= m * r[i - 1];
        }
        let mut x = [0.0; KNOTS];
        for i in (0..KNOTS).rev() {
            let after = if i + 1 < KNOTS { (self.beside[i] - TIE) * x[i + 1] } else { 0.0 };
            x[i] = (r[i] - after) / d[i];
        }
        let raw = std::array::from_fn(|i| (self.prior.knots()[i] + x[i]).max(0.0));
        let spread = (self.squares / self.weight.max(1e-9)).sqrt() / self.curve.full().max(1e-9);
        let unsure = PRIOR * KNOTS as f64 / (PRIOR * KNOTS as f64 + self.weight);
        let error = unsure * self.prior.error().max(spread)
            + (1.0 - unsure) * (spread / self.weight.sqrt().max(1.0)).max(0.005);
        self.curve = PowerCurve::eleven(isotonic(raw)).with_error(error);
    }
}

/// The nearest figures that never fall: pools adjacent violators.
fn isotonic(raw: [f64; KNOTS]) -> [f64; KNOTS] {
    let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(KNOTS);
    for v in raw {
        let mut block = (v, 1);
        while let Some(&(mean, count)) = blocks.last() {
            if mean <= block.0 {
                break;
            }
            blocks.pop();
            let total = count + block.1;
            block = ((mean * count as f64 + block.0 * block.1 as f64) / total as f64, total);
        }
        blocks.push(block);
    }
    let mut out = [0.0; KNOTS];
    let mut i = 0;
    for (mean, count) in blocks {
        for _ in 0..count {
            out[i] = mean;
            i += 1;
        }
    }
    out
}

/// What was learned about all nodes and their kinds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Curves {
    nodes: BTreeMap<NodeId, Learned>,
    twins: BTreeMap<String, Learned>,
}

impl Curves {
    /// Takes in a reading of `node`, also on behalf of its twins.
    pub fn observe(&mut self, node: &Node, reading: Reading) -> bool {
        let prior = self.prior(node);
        let learned = self.nodes.entry(node.id.clone()).or_insert_with(|| Learned::new(prior));
        if !learned.observe(reading) {
            return false;
        }
        if let Some(twin) = &node.twin {
            let kind = self.twins.entry(twin.clone()).or_insert_with(|| Learned::new(node.curve));
            // a reading that is odd among twins still tells of the node it came from
            kind.observe(reading);
        }
        true
    }

    /// The curve to use for `node`: its own if it was ever measured, else its twins'; `None` if neither was.
    pub fn curve(&self, node: &Node) -> Option<PowerCurve> {
        if let Some(own) = self.nodes.get(&node.id) {
            return Some(own.curve());
        }
        let twin = self.twins.get(node.twin.as_ref()?)?;
        // twins agree to a few per cent: power supplies, fans and chips differ
        Some(twin.curve().with_error(twin.curve().error().max(0.05)))
    }

    /// Forgets a node that is gone; what it taught about its twins stays.
    pub fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    fn prior(&self, node: &Node) -> PowerCurve {
        let kind = node.twin.as_ref().and_then(|twin| self.twins.get(twin));
        kind.map_or_else(|| node.curve.with_error(node.curve.error().max(UNMEASURED)), |k| k.curve().with_error(0.05))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn read(load: f64, watts: f64) -> Reading {
        Reading { watts, load, error: 0.0 }
    }

    #[test]
    fn a_node_seen_half_busy_moves_as_a_whole() {
        let mut learned = Learned::new(PowerCurve::line(100.0, 200.0).with_error(0.3));
        for _ in 0..200 {
            assert!(learned.observe(read(0.5, 180.0)));
        }
        let curve = learned.curve();
        assert!((curve.watts(0.5) - 180.0).abs() < 1.0, "{curve:?}");
        assert!(curve.watts(0.1) > 120.0 && curve.watts(1.0) > 215.0, "{curve:?}");
        assert!(curve.error() < 0.05, "{}", curve.error());
    }

    #[test]
    fn nonsense_is_refused_and_new_hardware_is_believed_in_the_end() {
        let mut learned = Learned::new(PowerCurve::line(100.0, 200.0));
        for bad in [read(0.5, -1.0), read(0.5, f64::NAN), read(2.0, 100.0), read(f64::NAN, 100.0), read(0.5, 1e9)] {
            assert!(!learned.observe(bad));
        }
        for i in 0..100 {
            assert!(learned.observe(read(f64::from(i % 10) / 10.0, 150.0)));
        }
        let refused = (0..PATIENCE).take_while(|_| !learned.observe(read(0.5, 40.0))).count();
        assert_eq!(refused, PATIENCE as usize - 1);
        for i in 0..200 {
            learned.observe(read(f64::from(i % 11) / 10.0, 40.0 + f64::from(i % 11)));
        }
        assert!((learned.curve().watts(0.5) - 45.0).abs() < 3.0, "{:?}", learned.curve());
    }

    proptest! {
        #[test]
        fn what_is_learned_is_monotone_and_close(
            idle in 20.0..200.0f64, dynamic in 1.0..300.0f64,
            loads in prop::collection::vec(0.0..1.0f64, 200..400),
        ) {
            let truth = PowerCurve::line(idle, idle + dynamic);
            let mut learned = Learned::new(PowerCurve::line(80.0, 160.0).with_error(0.3));
            for &load in &loads {
                learned.observe(read(load, truth.watts(load)));
            }
            let curve = learned.curve();
            prop_assert!(curve.knots().windows(2).all(|w| w[0] <= w[1]));
            prop_assert!((curve.watts(0.5) - truth.watts(0.5)).abs() < 0.1 * truth.full() + 1.0, "{curve:?}");
        }

        #[test]
        fn no_reading_panics_or_breaks_the_curve(readings in prop::collection::vec((any::<f64>(), any::<f64>(), any::<f64>()), 0..50)) {
            let mut learned = Learned::new(PowerCurve::line(80.0, 160.0));
            for (watts, load, error) in readings {
                learned.observe(Reading { watts, load, error });
                let knots = *learned.curve().knots();
                prop_assert!(knots.iter().all(|w| w.is_finite() && *w >= 0.0));
                prop_assert!(knots.windows(2).all(|w| w[0] <= w[1]));
            }
        }
    }
}
