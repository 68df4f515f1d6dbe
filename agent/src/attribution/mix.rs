//! What each kind of event costs, learned from power while it is drawn. Pure.
//!
//! Zones of one kind are looked at together: `Σ power = Σ floors + Σ price·term`, the terms being sums over all that
//! ran ([`Term`]). The prices are a regression with a prior and without negative prices, over windows of a second
//! with slow forgetting; a zone's own floor is its mean power less its own terms at these prices. Together, because
//! a thread that moves between packages within an interval is placed on one of them: that blurs the terms of one
//! package, which makes prices too low and floors too high, but not the terms of all.
//!
//! Dynamic power follows f·V², and V rises with f: so a cycle costs `a + b·f²`, f being cycles per nanosecond.

use std::time::Duration;

use ebbtide_proto::{Energy, Power};

use super::floor::{Floor, FloorKind};

/// Number of terms.
pub const TERMS: usize = 5;

/// What is priced. Figures are integers, so that sums don't depend on their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Nanoseconds of a core, by 1024; less where its other thread was busy.
    Time,
    /// Core cycles, less where the core's other thread was busy.
    Cycles,
    /// The same times the square of the frequency in GHz.
    FastCycles,
    /// Instructions retired.
    Instructions,
    /// Misses of the last-level cache.
    Misses,
}

/// One figure per [`Term`].
pub type Terms = [u64; TERMS];

/// What a unit of each term costs, as whole numbers of any unit.
pub type Prices = [u32; TERMS];

/// What a task weighs: Σ price·term. Zero only if it did nothing that costs.
pub fn weight(prices: &Prices, terms: &Terms) -> u128 {
    prices.iter().zip(terms).map(|(p, t)| u128::from(*p) * u128::from(*t)).sum()
}

/// Which zones are priced together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Packages.
    Package,
    /// Cores of packages.
    Core,
    /// The rest of packages.
    Uncore,
    /// Memory.
    Memory,
    /// All of a machine.
    Machine,
}

impl Class {
    /// Shares of the active power in which the terms are expected, before anything is known.
    const fn shares(self) -> [f64; TERMS] {
        match self {
            Self::Memory => [0.0, 0.0, 0.0, 0.0, 1.0],
            _ => [0.2, 0.4, 0.4, 0.0, 0.0],
        }
    }

    /// How far from the expected share each may be, as a share of the active power.
    const fn spread(self) -> [f64; TERMS] {
        match self {
            // cycles and instructions move no data; time stands for what bypasses the counted misses
            Self::Memory => [0.1, 0.0, 0.0, 0.0, 1.0],
            _ => [1.0; TERMS],
        }
    }
}

const N: usize = TERMS + 1;
/// Length of a window in the fit.
const WINDOW: Duration = Duration::from_secs(1);
/// Weight of all earlier windows when a new one comes: about six hours of memory.
const KEEP: f64 = 1.0 - 1.0 / 20_480.0;
/// Windows before prices are believed.
const LEAST: f64 = 30.0;
/// Windows over which what the fit leaves is the same.
const LASTS: f64 = 20.0;
/// Noise that no fit explains, as a share of mean power.
const NOISE: f64 = 0.002;

/// Learns the prices of one class of zones and the floor of each.
#[derive(Clone, Debug)]
pub struct Mix {
    class: Class,
    /// Idle power over full power that machines of this class have.
    idle_share: f64,
    xx: [[f64; N]; N],
    xy: [f64; N],
    yy: f64,
    zones: Vec<Own>,
    window: Vec<Own>,
    seconds: f64,
    fit: Option<Fit>,
}

/// Of one zone: sums of windows. Power in watts, terms per nanosecond.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    n: f64,
    power: f64,
    terms: [f64; TERMS],
}

#[derive(Clone, Copy, Debug)]
struct Fit {
    /// Floor, then prices.
    theta: [f64; N],
    /// Standard error of the floors together.
    floor_sd: f64,
}

/// What one zone drew in an interval, and what ran there.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// What it drew.
    pub energy: Energy,
    /// The terms of all who ran there.
    pub terms: Terms,
}

impl Mix {
    /// For so many zones of one class; `idle_share` is the idle power over full power of such (0 to 1).
    pub fn new(class: Class, idle_share: f64, zones: usize) -> Self {
        Self {
            class,
            idle_share: idle_share.clamp(0.01, 0.95),
            xx: [[0.0; N]; N],
            xy: [0.0; N],
            yy: 0.0,
            zones: vec![Own::default(); zones],
            window: vec![Own::default(); zones],
            seconds: 0.0,
            fit: None,
        }
    }

    /// Takes what all zones of the class drew over `dt`, in the order of always. An interval in which one of them
    /// had a gap must be left out.
    pub fn observe(&mut self, dt: Duration, drawn: &[Drawn]) {
        let s = dt.as_secs_f64();
        if s <= 0.0 || drawn.len() != self.zones.len() {
            return;
        }
        for (own, d) in self.window.iter_mut().zip(drawn) {
            own.power += d.energy.joules();
            for (sum, t) in own.terms.iter_mut().zip(&d.terms) {
                *sum += *t as f64 / 1e9;
            }
        }
        self.seconds += s;
        // samples are never a whole number of seconds apart
        if self.seconds < 0.9 * WINDOW.as_secs_f64() {
            return;
        }
        let (mut x, mut y) = ([0.0; N], 0.0);
        x[0] = 1.0;
        for (zone, own) in self.zones.iter_mut().zip(&mut self.window) {
            let own = std::mem::take(own);
            zone.n = zone.n * KEEP + 1.0;
            zone.power = zone.power * KEEP + own.power / self.seconds;
            y += own.power / self.seconds;
            for ((to, x), t) in zone.terms.iter_mut().zip(&mut x[1..]).zip(own.terms) {
                *to = *to * KEEP + t / self.seconds;
                *x += t / self.seconds;
            }
        }
        self.seconds = 0.0;
        for i in 0..N {
            for j in 0..N {
                self.xx[i][j] = self.xx[i][j] * KEEP + x[i] * x[j];
            }
            self.xy[i] = self.xy[i] * KEEP + x[i] * y;
        }
        self.yy = self.yy * KEEP + y * y;
        self.fit = self.refine();
    }

    /// What the terms cost; `None` before that is known, or if nothing costs anything.
    pub fn prices(&self) -> Option<Prices> {
        let fit = self.known()?;
        let highest = fit.theta[1..].iter().copied().fold(0.0, f64::max);
        if highest <= 0.0 {
            return None;
        }
        let mut out = [0; TERMS];
        for (to, price) in out.iter_mut().zip(&fit.theta[1..]) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and u32::MAX")]
            let whole = (price / highest * f64::from(u32::MAX)).round() as u32;
            *to = whole;
        }
        Some(out)
    }

    /// The floor of a zone, if it is known.
    pub fn floor(&self, zone: usize) -> Option<Floor> {
        let fit = self.known()?;
        let own = self.zones.get(zone)?;
        let mean = own.power / own.n;
        let active: f64 = own.terms.iter().zip(&fit.theta[1..]).map(|(t, p)| t / own.n * p).sum();
        let watts = (mean - active).max(0.0);
        let sd = fit.floor_sd / self.zones.len() as f64;
        let learned = sd <= 0.04 * watts.max(0.25 * mean);
        Some(Floor {
            power: Power::from_watts(watts)?,
            error: Power::from_watts(sd)?,
            kind: if learned { FloorKind::Learned } else { FloorKind::Prior },
        })
    }

    fn known(&self) -> Option<&Fit> {
        self.fit.as_ref().filter(|_| self.xx[0][0] >= LEAST)
    }

    fn refine(&self) -> Option<Fit> {
        let n = self.xx[0][0];
        let power = self.xy[0] / n;
        if n < 2.0 || power <= 0.0 {
            return None;
        }
        let mut noise = 0.01 * power;
        let mut fit = None;
        for _ in 0..3 {
            let (theta, var) = self.solve(noise * noise, power);
            let fitted: f64 = (0..N).map(|i| theta[i] * dot(&self.xx[i], &theta)).sum();
            let rss = self.yy - 2.0 * dot(&theta, &self.xy) + fitted;
            noise = (rss.max(0.0) / n).sqrt().max(NOISE * power);
            // what the terms don't explain is no noise of a second: it lasts as long as the work stays the same
            fit = Some(Fit { theta, floor_sd: (LASTS * var.max(0.0) + noise * noise).sqrt() });
        }
        fit
    }

    /// The most likely prices that aren't negative, and the variance of the floor.
    fn solve(&self, noise: f64, power: f64) -> ([f64; N], f64) {
        let n = self.xx[0][0];
        let active = (1.0 - self.idle_share) * power;
        let (shares, spread) = (self.class.shares(), self.class.spread());
        // each term in units of its mean, so that its price is the power it costs
        let mut scale = [1.0; N];
        let mut used = [true; N];
        for i in 0..TERMS {
            let mean = self.xx[0][i + 1] / n;
            used[i + 1] = mean > 0.0 && spread[i] > 0.0;
            scale[i + 1] = if used[i + 1] { 1.0 / mean } else { 0.0 };
        }
        let (mut a, mut b) = ([[0.0; N]; N], [0.0; N]);
        for i in 0..N {
            for j in 0..N {
                a[i][j] = self.xx[i][j] * scale[i] * scale[j];
            }
            b[i] = self.xy[i] * scale[i];
        }
        let mut believe = |i: usize, value: f64, sd: f64| {
            let w = noise / (sd * sd);
            a[i][i] += w;
            b[i] += w * value;
        };
        believe(0, self.idle_share * power, 0.5 * self.idle_share * power);
        for i in (0..TERMS).filter(|i| used[i + 1]) {
            believe(i + 1, shares[i] * active, spread[i] * active);
        }
        let (z, mut passive) = nonnegative(&a, &b, &used);
        passive[0] = true;
        let mut theta = [0.0; N];
        for i in 0..N {
            theta[i] = z[i] * scale[i];
        }
        let mut unit = [0.0; N];
        unit[0] = 1.0;
        (theta, noise * among(&a, &unit, &passive)[0])
    }
}

/// Minimises `x·A·x/2 - b·x` over `x ≥ 0` (Lawson and Hanson, "Solving Least Squares Problems", 1974, ch. 23). Says
/// also which terms are above zero.
fn nonnegative(a: &[[f64; N]; N], b: &[f64; N], used: &[bool; N]) -> ([f64; N], [bool; N]) {
    let (mut x, mut passive) = ([0.0; N], [false; N]);
    // each round takes a term in; more rounds than this are rounding errors that go in circles
    for _ in 0..4 * N {
        let gain = |i: usize| b[i] - dot(&a[i], &x);
        let next = (0..N).filter(|&i| used[i] && !passive[i]).max_by(|&i, &j| gain(i).total_cmp(&gain(j)));
        match next {
            Some(i) if gain(i) > 1e-9 * b[i].abs() => passive[i] = true,
            _ => break,
        }
        // at most all of them have to go again
        for _ in 0..N {
            let z = among(a, b, &passive);
            let step = |i: usize| if passive[i] && z[i] < 0.0 { x[i] / (x[i] - z[i]) } else { f64::INFINITY };
            let steps: [f64; N] = std::array::from_fn(step);
            let shortest = steps.iter().copied().fold(1.0, f64::min);
            for i in 0..N {
                x[i] = (x[i] + shortest * (z[i] - x[i])).max(0.0);
                if steps[i] <= shortest {
                    (x[i], passive[i]) = (0.0, false);
                }
            }
            if steps.iter().all(|s| s.is_infinite()) {
                break;
            }
        }
    }
    (x, passive)
}

/// Solves `a·x = b` for the terms in `which`, by elimination; the others are zero.
fn among(a: &[[f64; N]; N], b: &[f64; N], which: &[bool; N]) -> [f64; N] {
    let (mut a, mut b) = (*a, *b);
    for i in (0..N).filter(|&i| !which[i]) {
        a[i] = [0.0; N];
        for row in &mut a {
            row[i] = 0.0;
        }
        (a[i][i], b[i]) = (1.0, 0.0);
    }
    for i in 0..N {
        let (pivot, value) = (a[i], b[i]);
        for j in i + 1..N {
            let f = a[j][i] / pivot[i].max(f64::MIN_POSITIVE);
            for (to, from) in a[j].iter_mut().zip(pivot) {
                *to -= f * from;
            }
            b[j] -= f * value;
        }
    }
    let mut x = [0.0; N];
    for i in (0..N).rev() {
        let rest: f64 = (i + 1..N).map(|k| a[i][k] * x[k]).sum();
        let value = (b[i] - rest) / a[i][i];
        x[i] = if value.is_finite() { value } else { 0.0 };
    }
    x
}

fn dot(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    fn whole(x: f64) -> u64 {
        #[allow(clippy::cast_possible_truncation, reason = "dropping the fraction is meant; the cast saturates")]
        let n = x as u64;
        n
    }

    fn draw(watts: f64, terms: Terms) -> Drawn {
        Drawn { energy: Power::from_watts(watts).unwrap().over(S), terms }
    }

    /// Two packages with floors of 20 and 30 W, different work and the same prices, in nJ.
    fn learn(class: Class, seconds: u64, price: [f64; TERMS]) -> Mix {
        let mut mix = Mix::new(class, 0.3, 2);
        for t in 0..seconds {
            let wave = |period: f64| 0.5 + 0.45 * (t as f64 / period).sin();
            let busy = |k: f64| {
                let (time, ipc, ghz) = (8e9 * wave(7.0 * k), 0.4 + wave(11.0 * k), 1.0 + 2.0 * wave(17.0 * k));
                let terms = [time, time * ghz, time * ghz.powi(3), time * ghz * ipc, 4e6 * wave(23.0 * k)];
                (terms.map(whole), terms.iter().zip(price).map(|(t, p)| t / 1e9 * p).sum::<f64>())
            };
            let ((a, wa), (b, wb)) = (busy(1.0), busy(1.3));
            mix.observe(S, &[draw(20.0 + wa, a), draw(30.0 + wb, b)]);
        }
        mix
    }

    #[test]
    fn known_prices_and_floors_are_recovered() {
        let truth = [0.4, 1.0, 0.2, 1.5, 500.0];
        let mix = learn(Class::Package, 600, truth);
        let prices = mix.prices().unwrap();
        for (got, want) in prices.iter().zip(truth) {
            let got = f64::from(*got) / f64::from(prices[4]) * 500.0;
            assert!((got - want).abs() < 0.05 * want + 0.02, "{prices:?}: {got} for {want}");
        }
        for (zone, floor) in [(0, 20.0), (1, 30.0)] {
            let f = mix.floor(zone).unwrap();
            assert!((f.power.watts() / floor - 1.0).abs() < 0.03, "{f:?}");
        }
    }

    #[test]
    fn memory_is_priced_by_misses() {
        let mix = learn(Class::Memory, 120, [0.0, 0.0, 0.0, 0.0, 800.0]);
        let prices = mix.prices().unwrap();
        assert_eq!((prices[1], prices[2], prices[3], prices[4]), (0, 0, 0, u32::MAX));
        let (idle, misses) = ([1 << 30, 0, 0, 0, 0], [1 << 30, 0, 0, 0, 1 << 20]);
        assert!(weight(&prices, &misses) > 20 * weight(&prices, &idle));
    }

    #[test]
    fn nothing_is_priced_before_half_a_minute() {
        assert_eq!(learn(Class::Package, 29, [1.0; TERMS]).prices(), None);
        assert!(learn(Class::Package, 31, [1.0; TERMS]).prices().is_some());
        let mut idle = Mix::new(Class::Package, 0.3, 1);
        for _ in 0..60 {
            idle.observe(S, &[draw(10.0, [0; TERMS])]);
        }
        assert_eq!(idle.prices(), None, "nothing ran, so nothing is known of what it costs");
    }

    proptest! {
        /// Whatever is seen: prices come out whole, the floor isn't negative and not above the mean power.
        #[test]
        fn any_history_gives_sane_figures(rows in prop::collection::vec((0..1_000_000_000u64, prop::array::uniform5(any::<u64>()), 1..3_000u64), 31..80)) {
            let mut mix = Mix::new(Class::Package, 0.3, 1);
            let mut most: f64 = 0.0;
            for (uj, terms, ms) in rows {
                let dt = Duration::from_millis(ms);
                mix.observe(dt, &[Drawn { energy: Energy::from_uj(uj), terms }]);
                most = most.max(uj as f64 / 1e3 / ms as f64);
            }
            if let Some(p) = mix.prices() {
                prop_assert_eq!(p.iter().max(), Some(&u32::MAX));
            }
            if let Some(f) = mix.floor(0) {
                prop_assert!(f.power.watts() <= most + 1e-3, "{:?} {}", f, most);
                prop_assert!(f.error.watts().is_finite());
            }
        }

        /// The least squares without negative terms are what they claim: no term is negative, none that is out would help.
        #[test]
        fn the_fit_is_the_best_without_negative_terms(rows in prop::collection::vec((prop::array::uniform6(0.0..10.0f64), -20.0..20.0f64), 8..30)) {
            let (mut a, mut b) = ([[0.0; N]; N], [0.0; N]);
            for (x, y) in &rows {
                for i in 0..N {
                    for j in 0..N {
                        a[i][j] += x[i] * x[j];
                    }
                    a[i][i] += 0.01;
                    b[i] += x[i] * y;
                }
            }
            let (x, passive) = nonnegative(&a, &b, &[true; N]);
            let cost = |x: &[f64; N]| (0..N).map(|i| x[i] * (0.5 * dot(&a[i], x) - b[i])).sum::<f64>();
            prop_assert!(x.iter().all(|v| *v >= 0.0));
            prop_assert!((0..N).all(|i| passive[i] || x[i] == 0.0));
            for i in 0..N {
                for step in [-0.01, 0.01] {
                    let mut other = x;
                    other[i] = (other[i] + step).max(0.0);
                    prop_assert!(cost(&other) >= cost(&x) - 1e-6 * (1.0 + cost(&x).abs()), "{:?} {}", x, i);
                }
            }
        }
    }
}
