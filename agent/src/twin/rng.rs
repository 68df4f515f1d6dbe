//! Randomness of the twin: small, splittable, the same on every machine.
//!
//! xoshiro256++ (Blackman and Vigna 2018) seeded by splitmix64. Each use has a stream of its own, so
//! that e.g. more noise on a counter doesn't change who runs when.

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The stream `label`, number `index`, of `seed`.
    pub fn stream(seed: u64, label: &str, index: u64) -> Self {
        // FNV-1a of the label, so that streams are told apart by name
        let name =
            label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut x = seed ^ name.rotate_left(17) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(std::array::from_fn(|_| splitmix(&mut x)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }

    /// Even in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Even in `-1.0..1.0`.
    pub fn signed(&mut self) -> f64 {
        2.0 * self.unit() - 1.0
    }

    /// Bell-shaped (a triangle), mean 0, standard deviation 1, never beyond ±2.5.
    pub fn bell(&mut self) -> f64 {
        // the sum of two even numbers in ±1 has the variance 2/3
        (self.signed() + self.signed()) * 1.224_744_871
    }

    /// Even in `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let wide = u128::from(self.bits()) * n as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

fn splitmix(x: &mut u64) -> u64 {
    *x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *x;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let take = |seed, label, i| {
            let mut r = Rng::stream(seed, label, i);
            [r.bits(), r.bits(), r.bits()]
        };
        assert_eq!(take(7, "noise", 0), take(7, "noise", 0));
        let all = [take(7, "noise", 0), take(8, "noise", 0), take(7, "noise", 1), take(7, "sched", 0)];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
    }

    #[test]
    fn the_bell_has_mean_zero_and_deviation_one() {
        let mut r = Rng::stream(1, "bell", 0);
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..100_000 {
            let x = r.bell();
            sum += x;
            squares += x * x;
        }
        assert!((sum / 1e5_f64).abs() < 0.02 && (squares / 1e5_f64 - 1.0).abs() < 0.02, "{sum} {squares}");
        assert!((0..1000).all(|_| r.below(7) < 7));
        assert_eq!(r.below(0), 0);
    }
}
