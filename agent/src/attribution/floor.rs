//! What a zone draws when nothing runs, learned while things run. Pure.
//!
//! Power is fitted against activity: `P = floor + a·cores + b·pairs + c·cores²`, where `cores` is the share of cores
//! with at least one busy thread and `pairs` the share with both busy (the second thread of a core costs little, see
//! `weights.rs`). The bend `c` stands for turbo and frequency scaling; it is used only if the data insist on it. The fit is a Bayesian linear regression over windows of a few seconds with slow forgetting:
//!
//! - the prior says what class of machine this is: idle power as a share of full power, ± half of it;
//! - outliers weigh less (Huber), activity may only cost, never save;
//! - the floor never exceeds the least power that was seen.
//!
//! So a machine that idles now and then is learned within a minute, one that never idles by extrapolation, and one
//! that always runs flat out keeps its prior, with the error to show for it.
//!
//! The share `1 - utilisation` is never used: it makes idle power vanish on a busy machine.

use std::time::Duration;

use ebbtide_proto::{Energy, Power};
use serde::{Deserialize, Serialize};

use crate::usage::cpu::CpuMeter;

/// How much of a zone's cores was at work in an interval. Shares, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    /// Cores with at least one thread busy.
    pub cores: f64,
    /// Cores with both threads busy.
    pub pairs: f64,
}

impl Activity {
    /// The activity of one package, or of all.
    ///
    /// Only each thread's busy time is known. Siblings are taken to be busy independently of each other.
    pub fn of(meter: &CpuMeter, socket: Option<usize>, dt: Duration) -> Self {
        let dt_ns = dt.as_secs_f64() * 1e9;
        let busy = |i: usize| meter.last.get(i).map_or(0.0, |c| (c.busy_ns as f64 / dt_ns.max(1.0)).min(1.0));
        let (mut n, mut any, mut both) = (0.0, 0.0, 0.0);
        for (i, cpu) in meter.topology().cpus.iter().enumerate() {
            if socket.is_some_and(|s| s != cpu.socket as usize) {
                continue;
            }
            match cpu.sibling {
                Some(other) if other < i => {}
                Some(other) => {
                    let (a, b) = (busy(i), busy(other));
                    n += 1.0;
                    any += 1.0 - (1.0 - a) * (1.0 - b);
                    both += a * b;
                }
                None => {
                    n += 1.0;
                    any += busy(i);
                }
            }
        }
        if n == 0.0 { Self::default() } else { Self { cores: any / n, pairs: both / n } }
    }
}

/// Where a floor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloorKind {
    /// The operator set it, or the load curve states it.
    Set,
    /// Learned on this machine.
    Learned,
    /// Mostly the class of machine; not identifiable yet.
    Prior,
}

/// The floor of one zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// Power when nothing runs.
    pub power: Power,
    /// One standard error of it.
    pub error: Power,
    /// Where it comes from.
    pub kind: FloorKind,
}

const N: usize = 4;
/// Place of the bend among the terms.
const BEND: usize = 3;
/// The bend is used if it explains this many times the variance that is left with it.
const INSIST: f64 = 12.0;
/// Length of a window in the fit.
const WINDOW: Duration = Duration::from_secs(5);
/// Weight of all earlier windows when a new one comes: about six hours of memory.
const KEEP: f64 = 1.0 - 1.0 / 4096.0;

/// Learns the floor of one zone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FloorLearner {
    /// Idle power over full power that machines of this class have.
    idle_share: f64,
    sums: Regression,
    /// Lowest mean power of a window, creeping up slowly; watts.
    least: Option<f64>,
    #[serde(skip)]
    window: Window,
    #[serde(skip)]
    fixed: Option<Power>,
}

/// Sums of a weighted regression: `xx[i][j] = Σ w·xᵢ·xⱼ`, `xy[i] = Σ w·xᵢ·P`, `yy = Σ w·P²`, watts.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Regression {
    xx: [[f64; N]; N],
    xy: [f64; N],
    yy: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    seconds: f64,
    joules: f64,
    cores: f64,
    pairs: f64,
}

#[derive(Clone, Copy, Debug)]
struct Fit {
    theta: [f64; N],
    floor_sd: f64,
    residual: f64,
}

impl FloorLearner {
    /// A zone of a class of machines whose idle power is this share of their full power (0 to 1).
    pub fn new(idle_share: f64) -> Self {
        Self {
            idle_share: idle_share.clamp(0.0, 0.95),
            sums: Regression::default(),
            least: None,
            window: Window::default(),
            fixed: None,
        }
    }

    /// Uses `power` whatever is seen.
    pub fn fix(&mut self, power: Power) {
        self.fixed = Some(power);
    }

    /// Uses what is learned again.
    pub fn release(&mut self) {
        self.fixed = None;
    }

    /// Whether the operator or the load curve states the floor.
    pub fn is_set(&self) -> bool {
        self.fixed.is_some()
    }

    /// Takes what the zone drew over `dt` while the machine was this active.
    pub fn observe(&mut self, energy: Energy, dt: Duration, activity: Activity) {
        let s = dt.as_secs_f64();
        if s <= 0.0 {
            return;
        }
        let w = &mut self.window;
        w.seconds += s;
        w.joules += energy.joules();
        w.cores += activity.cores * s;
        w.pairs += activity.pairs * s;
        if w.seconds < WINDOW.as_secs_f64() {
            return;
        }
        let w = std::mem::take(w);
        let cores = w.cores / w.seconds;
        let x = [1.0, cores, w.pairs / w.seconds, cores * cores];
        let y = w.joules / w.seconds;
        self.sums.add(&x, y, self.idle_share);
        // a lower floor shows at once; a higher one (warmer room, other firmware) is believed within hours
        self.least = Some(self.least.map_or(y, |l| y.min(l * (1.0 + 1e-5))));
    }

    /// The floor as known now; `None` until a first window has passed.
    pub fn floor(&self) -> Option<Floor> {
        if let Some(power) = self.fixed {
            return Some(Floor { power, error: Power::ZERO, kind: FloorKind::Set });
        }
        let fit = self.sums.fit(self.idle_share)?;
        let watts = fit.theta[0].clamp(0.0, self.least.unwrap_or(f64::MAX));
        let sd = fit.floor_sd;
        let learned = sd <= 0.04 * watts.max(0.25 * self.sums.mean_power());
        Some(Floor {
            power: Power::from_watts(watts)?,
            error: Power::from_watts(sd)?,
            kind: if learned { FloorKind::Learned } else { FloorKind::Prior },
        })
    }

    /// Whether a floor that was learned by other means is to be used: if it is learned and this one isn't, or if its
    /// error is smaller and this one has no more to say. One that was set stays.
    pub fn trusts(&self, other: &Floor) -> bool {
        self.floor().is_none_or(|own| match (own.kind, other.kind) {
            (FloorKind::Set, _) | (FloorKind::Learned, FloorKind::Prior) => false,
            (FloorKind::Prior, FloorKind::Learned) => true,
            _ => other.error < own.error,
        })
    }

    /// The least power of a window of a few seconds, if it was seen lately.
    pub fn least(&self) -> Option<Power> {
        self.least.and_then(Power::from_watts)
    }

    /// What the class of machine says before anything was learned: `power` was drawn at this activity.
    pub fn guess(&self, power: Power, activity: Activity) -> Power {
        let s = self.idle_share;
        let share = s / (s + (1.0 - s) * activity.cores).max(1e-6);
        Power::from_watts(power.watts() * share.min(1.0)).unwrap_or(Power::ZERO)
    }
}

impl Regression {
    fn windows(&self) -> f64 {
        self.xx[0][0]
    }

    fn mean(&self, i: usize) -> f64 {
        if self.windows() > 0.0 { self.xx[0][i] / self.windows() } else { 0.0 }
    }

    fn mean_power(&self) -> f64 {
        if self.windows() > 0.0 { self.xy[0] / self.windows() } else { 0.0 }
    }

    fn add(&mut self, x: &[f64; N], y: f64, idle_share: f64) {
        let weight = match self.fit(idle_share) {
            Some(fit) if self.windows() > 8.0 => {
                let r = (y - dot(&fit.theta, x)).abs();
                let limit = 3.0 * fit.residual.max(0.002 * y);
                if r > limit { limit / r } else { 1.0 }
            }
            _ => 1.0,
        };
        for i in 0..N {
            for j in 0..N {
                self.xx[i][j] = self.xx[i][j] * KEEP + weight * x[i] * x[j];
            }
            self.xy[i] = self.xy[i] * KEEP + weight * x[i] * y;
        }
        self.yy = self.yy * KEEP + weight * y * y;
    }

    fn fit(&self, idle_share: f64) -> Option<Fit> {
        let n = self.windows();
        if n < 0.5 {
            return None;
        }
        let power = self.mean_power();
        if power <= 0.0 {
            return Some(Fit { theta: [0.0; N], floor_sd: 0.0, residual: 0.0 });
        }
        // with full power F and idle share s, P = F·(s + (1 - s)·u): what the class says of this floor
        let s = idle_share;
        let prior = (power * s / (s + (1.0 - s) * self.mean(1)).max(1e-6)).min(power);
        let class = Class { floor: prior, sd: 0.5 * prior.max(0.02 * power), power };
        let straight = self.refine(&class, false);
        let bent = self.refine(&class, true);
        let gain = (straight.residual / bent.residual).powi(2) - 1.0;
        Some(if gain * n > INSIST { bent } else { straight })
    }

    /// Solves for the terms and for the noise that they leave, in turns.
    fn refine(&self, class: &Class, bend: bool) -> Fit {
        let n = self.windows().max(1.0);
        // noise that no fit explains: at least a thousandth of the mean power
        let mut noise = 0.01 * class.power;
        let mut fit = Fit { theta: [0.0; N], floor_sd: 0.0, residual: noise };
        for _ in 0..3 {
            let (theta, var) = self.solve(noise * noise, class, bend);
            let rss = self.yy - 2.0 * dot(&theta, &self.xy)
                + (0..N).map(|i| theta[i] * dot(&self.xx[i], &theta)).sum::<f64>();
            noise = (rss.max(0.0) / n).sqrt().max(0.001 * class.power);
            fit = Fit { theta, floor_sd: var.max(0.0).sqrt(), residual: noise };
        }
        fit
    }

    /// Solves the regularised normal equations; drops costs that come out negative. Also gives the variance of the floor.
    fn solve(&self, noise: f64, class: &Class, bend: bool) -> ([f64; N], f64) {
        let mut active = [true, true, true, bend];
        loop {
            let mut a = self.xx;
            let mut b = self.xy;
            // the class of machine, as one observation of the floor
            let w = noise / (class.sd * class.sd);
            a[0][0] += w;
            b[0] += w * class.floor;
            // two busy threads cost about 15 % more than one: an observation of b - 0.15·a = 0, ± a tenth of the power
            let w = noise / (0.01 * class.power * class.power);
            a[2][2] += w;
            a[1][1] += w * 0.0225;
            a[1][2] -= w * 0.15;
            a[2][1] -= w * 0.15;
            // no bend, ± a quarter of the power
            a[BEND][BEND] += noise / (0.0625 * class.power * class.power);
            for i in 0..N {
                if !active[i] {
                    a[i] = [0.0; N];
                    for row in &mut a {
                        row[i] = 0.0;
                    }
                    a[i][i] = 1.0;
                    b[i] = 0.0;
                }
            }
            let theta = solve(a, b);
            match (1..BEND).find(|&i| active[i] && theta[i] < 0.0) {
                Some(i) => active[i] = false,
                None => return (theta, noise * solve(a, [1.0, 0.0, 0.0, 0.0])[0]),
            }
        }
    }
}

/// What the class of machine and the mean power say before the fit; watts.
struct Class {
    floor: f64,
    sd: f64,
    power: f64,
}

fn dot(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Solves `a·x = b` for symmetric positive definite `a` by elimination; terms without data come out as zero.
fn solve(mut a: [[f64; N]; N], mut b: [f64; N]) -> [f64; N] {
    for i in 0..N {
        if a[i][i] <= 1e-12 {
            a[i] = [0.0; N];
            b[i] = 0.0;
            continue;
        }
        let (pivot, value) = (a[i], b[i]);
        for j in i + 1..N {
            let f = a[j][i] / pivot[i];
            for (to, from) in a[j].iter_mut().zip(pivot) {
                *to -= f * from;
            }
            b[j] -= f * value;
        }
    }
    let mut x = [0.0; N];
    for i in (0..N).rev() {
        if a[i][i] > 0.0 {
            let rest: f64 = (i + 1..N).map(|k| a[i][k] * x[k]).sum();
            x[i] = (b[i] - rest) / a[i][i];
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    /// A cheap repeatable noise in -1..1.
    fn noise(i: u64) -> f64 {
        let x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    }

    fn learn(floor: f64, slope: f64, minutes: u64, load: impl Fn(u64) -> f64) -> Floor {
        let mut l = FloorLearner::new(0.25);
        for i in 0..minutes * 60 {
            let u = load(i).clamp(0.0, 1.0);
            let watts = (floor + slope * u) * (1.0 + 0.01 * noise(i));
            l.observe(Power::from_watts(watts).unwrap().over(S), S, Activity { cores: u, pairs: 0.0 });
        }
        l.floor().unwrap()
    }

    #[test]
    fn a_machine_that_never_idles_is_learned_within_three_percent() {
        let f = learn(40.0, 80.0, 10, |i| 0.55 + 0.25 * (i as f64 / 40.0).sin() + 0.05 * noise(i + 9_000_000));
        assert!((f.power.watts() / 40.0 - 1.0).abs() < 0.03, "{f:?}");
        assert_eq!(f.kind, FloorKind::Learned);
    }

    #[test]
    fn full_load_for_an_hour_keeps_the_prior() {
        let f = learn(30.0, 90.0, 60, |_| 1.0);
        assert_eq!(f.kind, FloorKind::Prior);
        assert!((20.0..40.0).contains(&f.power.watts()), "a quarter of 120 W, not nothing: {f:?}");
        assert!(f.error.watts() > 5.0);
    }

    #[test]
    fn an_idle_machine_is_its_own_floor() {
        let f = learn(12.0, 30.0, 2, |i| 0.01 + 0.01 * noise(i + 77).abs());
        assert!((f.power.watts() / 12.0 - 1.0).abs() < 0.03, "{f:?}");
    }

    #[test]
    fn what_the_operator_sets_is_used() {
        let mut l = FloorLearner::new(0.25);
        l.fix(Power::from_watts(10.0).unwrap());
        l.observe(Energy::from_uj(50_000_000), S, Activity::default());
        assert_eq!(l.floor().unwrap().kind, FloorKind::Set);
        assert_eq!(l.floor().unwrap().power.watts(), 10.0);
    }

    /// Turbo: the fewer cores are busy, the more each draws.
    #[test]
    fn power_that_bends_is_learned() {
        let mut l = FloorLearner::new(0.25);
        for i in 0..600u64 {
            let u: f64 = 0.35 + 0.3 * (i as f64 / 30.0).sin();
            let watts = (20.0 + 60.0 * u * (1.25 - 0.4 * u)) * (1.0 + 0.005 * noise(i));
            l.observe(Power::from_watts(watts).unwrap().over(S), S, Activity { cores: u, pairs: 0.0 });
        }
        let f = l.floor().unwrap();
        assert!((f.power.watts() / 20.0 - 1.0).abs() < 0.03, "{f:?}");
    }

    proptest! {
        /// No history makes the floor negative, infinite, or higher than the power that was seen.
        #[test]
        fn the_floor_stays_between_zero_and_what_was_seen(rows in prop::collection::vec((0..1_000_000_000u64, 0.0..1.0f64, 0.0..1.0f64, 1..20_000u64), 1..200)) {
            let mut l = FloorLearner::new(0.3);
            let mut most: f64 = 0.0;
            for (uj, cores, pairs, ms) in rows {
                let dt = Duration::from_millis(ms);
                l.observe(Energy::from_uj(uj), dt, Activity { cores, pairs: pairs.min(cores) });
                most = most.max(uj as f64 / 1e3 / ms as f64);
            }
            if let Some(f) = l.floor() {
                prop_assert!(f.power.watts() <= most + 1e-6, "{f:?} {most}");
                prop_assert!(f.error.watts().is_finite());
            }
        }
    }
}
