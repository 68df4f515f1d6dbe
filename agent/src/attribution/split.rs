//! Sharing out an amount of energy by weight, exact to the microjoule. Pure.

use ebbtide_proto::Energy;

/// One party of a split: who, and how much it weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Decides who gets a left-over microjoule where remainders are equal, so that order doesn't.
    pub key: u64,
    /// Any unit, the same for all.
    pub weight: u64,
}

/// Reused memory of [`by_largest_remainder`].
#[derive(Default)]
pub struct Scratch {
    remainders: Vec<(u128, u64, usize)>,
}

/// Shares `amount` in proportion to the weights: each gets the whole part, left-over microjoules go to the
/// largest remainders (Hamilton's method). `out[i]` is the share of `weights[i]`.
///
/// Returns what nobody could be given: everything if all weights are zero, else nothing.
pub fn by_largest_remainder(
    amount: Energy,
    weights: &[Weight],
    scratch: &mut Scratch,
    out: &mut Vec<Energy>,
) -> Energy {
    out.clear();
    let sum: u128 = weights.iter().map(|w| u128::from(w.weight)).sum();
    if sum == 0 {
        out.resize(weights.len(), Energy::ZERO);
        return amount;
    }
    scratch.remainders.clear();
    let total = u128::from(amount.uj());
    let mut given: u64 = 0;
    for (i, w) in weights.iter().enumerate() {
        let product = total * u128::from(w.weight);
        // a share is at most the amount, which is a u64
        let share = u64::try_from(product / sum).unwrap_or(u64::MAX);
        let remainder = product % sum;
        if remainder > 0 {
            scratch.remainders.push((remainder, w.key, i));
        }
        given += share;
        out.push(Energy::from_uj(share));
    }
    let left = usize::try_from(amount.uj() - given).unwrap_or(usize::MAX);
    if left > 0 && left < scratch.remainders.len() {
        scratch.remainders.select_nth_unstable_by(left - 1, |a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    }
    for &(_, _, i) in scratch.remainders.iter().take(left) {
        if let Some(share) = out.get_mut(i) {
            *share += Energy::from_uj(1);
        }
    }
    Energy::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(amount: u64, weights: &[(u64, u64)]) -> (Vec<u64>, u64) {
        let w: Vec<Weight> = weights.iter().map(|&(key, weight)| Weight { key, weight }).collect();
        let mut out = Vec::new();
        let rest = by_largest_remainder(Energy::from_uj(amount), &w, &mut Scratch::default(), &mut out);
        (out.into_iter().map(Energy::uj).collect(), rest.uj())
    }

    #[test]
    fn the_largest_remainder_wins_and_keys_break_ties() {
        assert_eq!(split(10, &[(1, 1), (2, 1), (3, 1)]), (vec![4, 3, 3], 0));
        assert_eq!(split(10, &[(3, 1), (2, 1), (1, 1)]), (vec![3, 3, 4], 0));
        assert_eq!(split(7, &[(1, 0), (2, 0)]), (vec![0, 0], 7));
        assert_eq!(split(7, &[]), (vec![], 7));
        assert_eq!(
            split(u64::MAX, &[(1, u64::MAX), (2, u64::MAX)]).0.iter().map(|&x| u128::from(x)).sum::<u128>(),
            u128::from(u64::MAX)
        );
    }

    proptest! {
        #[test]
        fn shares_add_up_and_are_fair(amount in any::<u64>(), weights in prop::collection::vec(any::<u64>(), 1..200)) {
            let keyed: Vec<(u64, u64)> = (0..).zip(weights.iter().copied()).collect();
            let (shares, rest) = split(amount, &keyed);
            let sum: u128 = shares.iter().map(|&x| u128::from(x)).sum();
            prop_assert_eq!(sum + u128::from(rest), u128::from(amount));
            let total: u128 = weights.iter().map(|&x| u128::from(x)).sum();
            for (share, weight) in shares.iter().zip(&weights) {
                if let Some(exact) = (u128::from(amount) * u128::from(*weight)).checked_div(total) {
                    prop_assert!(u128::from(*share) == exact || u128::from(*share) == exact + 1);
                    prop_assert!(*weight > 0 || *share == 0);
                }
            }
        }

        #[test]
        fn order_does_not_matter(amount in any::<u64>(), weights in prop::collection::vec(0..1000u64, 1..50), turn in 0..50usize) {
            let keyed: Vec<(u64, u64)> = (0..).zip(weights).collect();
            let mut turned = keyed.clone();
            let n = turned.len();
            turned.rotate_left(turn % n);
            turned.reverse();
            let mut a: Vec<_> = keyed.iter().map(|k| k.0).zip(split(amount, &keyed).0).collect();
            let mut b: Vec<_> = turned.iter().map(|k| k.0).zip(split(amount, &turned).0).collect();
            a.sort_unstable();
            b.sort_unstable();
            prop_assert_eq!(a, b);
        }
    }
}
