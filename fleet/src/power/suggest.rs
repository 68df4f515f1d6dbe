//! What seems to be plugged in where: nodes and outlets whose watts rise and fall together. Pure.
//!
//! Compared are changes from one moment to the next (Pearson's r), since the steady part of any two machines is alike;
//! and an outlet can't give less than the node's own sensors tell. The confidence is how much r² is beyond that of the
//! outlet's second best node.

use std::collections::VecDeque;

use super::Place;
use super::history::History;

/// Changes of both that have to be known.
const FEWEST: usize = 30;
/// What is below this is not worth saying.
const LEAST_R: f64 = 0.5;

/// An outlet and the node that it seems to feed.
#[derive(Clone, Debug, PartialEq)]
pub struct Suggestion {
    /// The node.
    pub node: String,
    /// The outlet.
    pub place: Place,
    /// 0 to 1.
    pub confidence: f64,
    /// Pearson's r of the changes.
    pub r: f64,
    /// By how much the outlet's mean watts are above the node's.
    pub above_w: f64,
}

/// The best node of each outlet that has one, the surest first.
pub fn suggest(history: &History) -> Vec<Suggestion> {
    let mut all = Vec::new();
    for (place, outlet) in history.outlets() {
        let mut ranked: Vec<(f64, f64, &str)> = history
            .nodes()
            .filter_map(|(node, own)| {
                let (r, above_w) = compare(own, outlet)?;
                Some((r, above_w, node))
            })
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.2.cmp(b.2)));
        let Some((r, above_w, node)) = ranked.first().copied().filter(|(r, ..)| *r >= LEAST_R) else { continue };
        let second = ranked.get(1).map_or(0.0, |(r, ..)| r.max(0.0));
        let confidence = (r * r - second * second).clamp(0.0, 1.0);
        all.push(Suggestion { node: node.to_owned(), place: place.clone(), confidence, r, above_w });
    }
    all.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then_with(|| a.place.cmp(&b.place)));
    all
}

/// Pearson's r of the changes, and by how much the outlet's watts are above the node's; `None` if too little is known or
/// neither changes.
fn compare(node: &VecDeque<Option<f32>>, outlet: &VecDeque<Option<f32>>) -> Option<(f64, f64)> {
    let both: Vec<Option<(f64, f64)>> =
        node.iter().zip(outlet).map(|(a, b)| Some((f64::from((*a)?), f64::from((*b)?)))).collect();
    let steps: Vec<(f64, f64)> = both
        .iter()
        .zip(both.iter().skip(1))
        .filter_map(|(before, after)| {
            let (before, after) = ((*before)?, (*after)?);
            Some((after.0 - before.0, after.1 - before.1))
        })
        .collect();
    if steps.len() < FEWEST {
        return None;
    }
    let n = steps.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| steps.iter().map(of).sum::<f64>() / n;
    let (ma, mb) = (mean(|s| s.0), mean(|s| s.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| steps.iter().map(|(a, b)| of(a - ma, b - mb)).sum::<f64>();
    let (saa, sbb, sab) = (sum(&|a, _| a * a), sum(&|_, b| b * b), sum(&|a, b| a * b));
    // a tenth of a watt is noise
    if saa / n < 0.01 || sbb / n < 0.01 {
        return None;
    }
    let known: Vec<(f64, f64)> = both.into_iter().flatten().collect();
    let above = known.iter().map(|(a, b)| b - a).sum::<f64>() / known.len() as f64;
    Some((sab / (saa * sbb).sqrt(), above))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Watts that wander, the same for the same seed.
    fn wander(seed: u64, n: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut watts = 80.0f32;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                watts = (watts + (state % 2001) as f32 / 100.0 - 10.0).clamp(20.0, 300.0);
                watts
            })
            .collect()
    }

    fn place(outlet: &str) -> Place {
        format!("pdu/{outlet}").parse().unwrap()
    }

    #[test]
    fn nodes_are_found_at_their_outlets() {
        let nodes: Vec<Vec<f32>> = (1..=6).map(|seed| wander(seed, 200)).collect();
        let mut history = History::default();
        for t in 0..200 {
            let own = nodes.iter().enumerate().map(|(n, watts)| (format!("node-{n}"), watts[t]));
            // node 0 has two supplies; node 5 hangs on none; outlet 9 feeds something else
            let mut outlets = vec![
                (place("1"), nodes[0][t] * 0.55 + 8.0),
                (place("2"), nodes[0][t] * 0.45 + 8.0),
                (place("9"), wander(77, 200)[t]),
            ];
            outlets.extend((1..5).map(|n| (place(&format!("{}", n + 2)), nodes[n][t] * 1.08 + 15.0)));
            history.note(own.collect::<Vec<_>>(), outlets);
        }
        let found = suggest(&history);
        let mut pairs: Vec<(String, String)> =
            found.iter().filter(|s| s.confidence > 0.8).map(|s| (s.place.to_string(), s.node.clone())).collect();
        pairs.sort();
        let expected = [("pdu/1", 0), ("pdu/2", 0), ("pdu/3", 1), ("pdu/4", 2), ("pdu/5", 3), ("pdu/6", 4)];
        assert_eq!(pairs, expected.map(|(place, n)| (place.to_owned(), format!("node-{n}"))));
        assert!(found.iter().all(|s| s.place != place("9")), "{found:?}");
    }

    #[test]
    fn nothing_is_said_of_what_hardly_changes_or_is_hardly_known() {
        let mut history = History::default();
        for t in 0..100 {
            history.note([("steady".to_owned(), 80.0)], [(place("1"), 95.0)]);
            if t < 10 {
                history.note([("short".to_owned(), wander(3, 10)[t])], [(place("2"), wander(3, 10)[t])]);
            }
        }
        assert_eq!(suggest(&history), []);
    }
}
