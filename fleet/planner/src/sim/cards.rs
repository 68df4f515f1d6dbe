//! Whether parts of GPUs fit on cards: sums don't tell, three times 600 thousandths don't fit on two cards.

/// Thousandths of a card.
const CARD: u64 = 1000;
/// Nodes of the search tree that are looked at before the greedy answer is taken.
const EFFORT: u32 = 20_000;

/// Those of `wanted` (thousandths of one card, or whole cards) that `cards` cards have no room for, by index. Exact
/// for what all fits, as long as that is found within some effort; else the largest that don't are named.
pub(super) fn stranded(wanted: &[u64], cards: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[b].cmp(&wanted[a]).then(a.cmp(&b)));
    let whole: u64 = wanted.iter().filter(|w| **w >= CARD).map(|w| w.div_ceil(CARD)).sum();
    let parts: Vec<u64> = order.iter().map(|&i| wanted[i]).filter(|w| *w < CARD).collect();
    if let Some(left) = cards.checked_sub(whole) {
        let mut room = vec![CARD; usize::try_from(left).unwrap_or(0)];
        let mut effort = EFFORT;
        if fit(&parts, &mut room, &mut effort) {
            return Vec::new();
        }
    }
    let mut free = vec![CARD; usize::try_from(cards).unwrap_or(0)];
    let mut out = Vec::new();
    for i in order {
        if wanted[i] >= CARD {
            let empty: Vec<usize> = (0..free.len()).filter(|&c| free[c] == CARD).collect();
            let need = usize::try_from(wanted[i].div_ceil(CARD)).unwrap_or(usize::MAX);
            if empty.len() < need {
                out.push(i);
            } else {
                empty.iter().take(need).for_each(|&c| free[c] = 0);
            }
            continue;
        }
        // the fullest card that has room
        match (0..free.len()).filter(|&c| free[c] >= wanted[i]).min_by_key(|&c| free[c]) {
            Some(c) => free[c] -= wanted[i],
            None => out.push(i),
        }
    }
    out
}

/// Whether all parts, the largest first, fit into the room of the cards.
fn fit(parts: &[u64], room: &mut [u64], effort: &mut u32) -> bool {
    let Some((&part, rest)) = parts.split_first() else { return true };
    let mut tried = Vec::new();
    for c in 0..room.len() {
        // cards with the same room are the same card
        if room[c] < part || tried.contains(&room[c]) {
            continue;
        }
        if *effort == 0 {
            return false;
        }
        *effort -= 1;
        tried.push(room[c]);
        room[c] -= part;
        if fit(rest, room, effort) {
            return true;
        }
        room[c] += part;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_in_some_order_is_found_and_what_does_not_is_named() {
        assert_eq!(stranded(&[600, 600, 600], 2), [2]);
        assert_eq!(stranded(&[2000, 500, 500], 3), [0usize; 0]);
        assert_eq!(stranded(&[2000, 500, 600], 3), [1]);
        assert_eq!(stranded(&[4000, 1000], 4), [1]);
        // the largest first, each on the fullest card, would leave 200 over: 500+300+200 and 400+400+200 fit
        assert_eq!(stranded(&[500, 400, 400, 300, 200, 200], 2), [0usize; 0]);
        assert_eq!(stranded(&[], 0), [0usize; 0]);
    }
}
