//! Power as a function of load: monotone, linear between eleven knots.

use serde::{Deserialize, Serialize};

/// Knots of a curve: loads of 0, 10, … 100 %.
pub const KNOTS: usize = 11;

/// Watts of a node at a load between 0 and 1, never falling with load.
///
/// The relative `error` says how far the truth may be off. Decisions use the pessimistic side of it: see
/// [`PowerCurve::costs_at_most`] and [`PowerCurve::saves_at_least`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "CurveSpec", into = "CurveSpec")]
pub struct PowerCurve {
    knots: [f64; KNOTS],
    error: f64,
}

/// A curve as it is written down: watts at the knots, and the relative error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurveSpec {
    /// Watts at 0, 10, … 100 % load; two figures are idle and full, straight in between.
    pub watts: Vec<f64>,
    /// Relative error, 0 to 1.
    #[serde(default)]
    pub error: f64,
}

/// Why figures are no power curve.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CurveError {
    /// Neither two nor eleven figures.
    #[error("a power curve has 2 or 11 figures, this has {0}")]
    Count(usize),
    /// Not a number, negative, or beyond a megawatt.
    #[error("{0} is no power in watts")]
    Watts(f64),
    /// Watts that fall with load.
    #[error("power falls from {from} W to {to} W while load rises")]
    Falls {
        /// Watts at the lower load.
        from: f64,
        /// Watts at the higher load.
        to: f64,
    },
    /// An error that is no share of one.
    #[error("{0} is no relative error: it is between 0 and 1")]
    Error(f64),
}

impl PowerCurve {
    /// Watts from which on a figure is taken for nonsense.
    pub const MAX_WATTS: f64 = 1e6;

    /// The same curve with so many times the watts.
    #[must_use]
    pub(crate) fn times(self, factor: f64) -> Self {
        Self { knots: self.knots.map(|watts| watts * factor), ..self }
    }

    /// A curve through watts at 0, 10, … 100 % load; later figures that fall are raised to the one before.
    pub const fn eleven(mut knots: [f64; KNOTS]) -> Self {
        let mut i = 1;
        while i < KNOTS {
            if knots[i] < knots[i - 1] {
                knots[i] = knots[i - 1];
            }
            i += 1;
        }
        Self { knots, error: 0.0 }
    }

    /// A straight line from `idle` to `full` watts.
    pub fn line(idle: f64, full: f64) -> Self {
        Self::eleven(std::array::from_fn(|i| idle + (full - idle) * i as f64 / (KNOTS - 1) as f64))
    }

    /// The same curve with another relative error.
    pub fn with_error(self, error: f64) -> Self {
        Self { error: error.clamp(0.0, 1.0), ..self }
    }

    /// Watts at the knots.
    pub fn knots(&self) -> &[f64; KNOTS] {
        &self.knots
    }

    /// Relative error.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// Watts without load.
    pub fn idle(&self) -> f64 {
        self.knots[0]
    }

    /// Watts at full load.
    pub fn full(&self) -> f64 {
        self.knots[KNOTS - 1]
    }

    /// Watts at `load`; loads outside 0 to 1 count as the nearest of these.
    pub fn watts(&self, load: f64) -> f64 {
        let x = load.clamp(0.0, 1.0) * (KNOTS - 1) as f64;
        #[allow(clippy::cast_possible_truncation, reason = "0 to 10")]
        let below = (x as usize).min(KNOTS - 2);
        self.knots[below] + (self.knots[below + 1] - self.knots[below]) * (x - below as f64)
    }

    /// Watts at `load` if the curve errs to our disadvantage: what using the node may cost.
    pub fn costs_at_most(&self, load: f64) -> f64 {
        self.watts(load) * (1.0 + self.error)
    }

    /// Watts without load if the curve errs to our disadvantage: what powering the node off surely saves.
    pub fn saves_at_least(&self) -> f64 {
        self.idle() * (1.0 - self.error)
    }

    /// The least watts above idle that a unit of load costs, over all loads: `min (P(u) - P(0)) / u`.
    ///
    /// `idle + slope · u` lies nowhere above the curve, so it may stand for it in a lower bound.
    pub fn least_slope(&self) -> f64 {
        let at = |i: usize| (self.knots[i] - self.knots[0]) * (KNOTS - 1) as f64 / i as f64;
        (1..KNOTS).map(at).fold(f64::INFINITY, f64::min)
    }
}

impl TryFrom<CurveSpec> for PowerCurve {
    type Error = CurveError;

    fn try_from(spec: CurveSpec) -> Result<Self, CurveError> {
        if let Some(&bad) = spec.watts.iter().find(|w| !(0.0..=Self::MAX_WATTS).contains(*w)) {
            return Err(CurveError::Watts(bad));
        }
        if !(0.0..=1.0).contains(&spec.error) {
            return Err(CurveError::Error(spec.error));
        }
        if let Some(pair) = spec.watts.windows(2).find(|pair| pair[1] < pair[0]) {
            return Err(CurveError::Falls { from: pair[0], to: pair[1] });
        }
        let curve = match spec.watts.as_slice() {
            &[idle, full] => Self::line(idle, full),
            eleven => Self::eleven(eleven.try_into().map_err(|_| CurveError::Count(eleven.len()))?),
        };
        Ok(curve.with_error(spec.error))
    }
}

impl From<PowerCurve> for CurveSpec {
    fn from(curve: PowerCurve) -> Self {
        Self { watts: curve.knots.to_vec(), error: curve.error }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn figures_that_are_no_curve_are_refused() {
        let curve = |watts: &[f64], error| PowerCurve::try_from(CurveSpec { watts: watts.to_vec(), error });
        assert_eq!(curve(&[1.0], 0.0), Err(CurveError::Count(1)));
        assert_eq!(curve(&[5.0, 4.0], 0.0), Err(CurveError::Falls { from: 5.0, to: 4.0 }));
        assert_eq!(curve(&[-1.0, 4.0], 0.0), Err(CurveError::Watts(-1.0)));
        assert!(matches!(curve(&[1.0, f64::NAN], 0.0), Err(CurveError::Watts(_))));
        assert_eq!(curve(&[1.0, 2.0], 2.0), Err(CurveError::Error(2.0)));
        assert!((curve(&[10.0, 20.0], 0.1).unwrap().watts(0.55) - 15.5).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn watts_never_fall_and_the_least_slope_lies_below(
            raw in prop::array::uniform11(0.0..500.0f64), a in 0.0..1.0f64, b in 0.0..1.0f64,
        ) {
            let curve = PowerCurve::eleven(raw);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(curve.watts(low) <= curve.watts(high) + 1e-9);
            prop_assert!(curve.idle() + curve.least_slope() * high <= curve.watts(high) + 1e-9);
        }
    }
}
