//! A stream of random numbers for each concern of each thing, so that one more node changes no other node's luck.

use super::rng::Rng;

/// The stream of `concern` for the thing called `name`: `stream(seed, "boot", "rack1-003")`.
pub fn stream(seed: u64, concern: &str, name: &str) -> Rng {
    // FNV-1a (Fowler, Noll, Vo): a number for a name, the same everywhere
    let mut purpose: u64 = 0xcbf2_9ce4_8422_2325;
    for b in concern.bytes().chain([b'/']).chain(name.bytes()) {
        purpose = (purpose ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    Rng::new(seed, purpose)
}

/// A number around 0 with standard deviation 1: the sum of twelve even draws, less six. Never beyond 6, and the same
/// on every machine, which logarithms needn't be.
pub fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| rng.unit()).sum::<f64>() - 6.0
}

/// A time until the next of things that come on average every `mean`.
pub fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.unit()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_concern_and_by_name() {
        let first = |concern, name| stream(7, concern, name).draw();
        assert_eq!(first("boot", "a"), first("boot", "a"));
        assert_ne!(first("boot", "a"), first("boot", "b"));
        assert_ne!(first("boot", "a"), first("chip", "a"));
        assert_ne!(first("boot", "a"), stream(8, "boot", "a").draw());
    }

    #[test]
    fn draws_have_the_mean_and_spread_they_say() {
        let mut rng = stream(1, "test", "");
        let draws: Vec<f64> = (0..20_000).map(|_| normal(&mut rng)).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let mean = (0..20_000).map(|_| exponential(&mut rng, 5.0)).sum::<f64>() / 20_000.0;
        assert!((mean - 5.0).abs() < 0.2, "{mean}");
    }
}
