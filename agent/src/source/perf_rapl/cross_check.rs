//! Compares what powercap and perf say of the same package. Pure.
//!
//! Both read the same register, so a lasting difference means that one of them is wrong: a wrap that
//! was missed, a wrong energy unit (it has happened on several processors), a zone taken for another.

use ebbtide_proto::{Energy, Ratio};

use crate::source::{Zone, ZoneKind};

/// What the comparison says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Too little was seen so far.
    #[default]
    Unknown,
    /// The two tell the same energy.
    Agree,
    /// They don't, and for some time now.
    Disagree,
}

/// The comparison of one package. It takes several intervals in a row to change the verdict, and
/// ratios between the two thresholds change nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossCheck {
    powercap: Energy,
    perf: Energy,
    verdict: Verdict,
    leaning: Verdict,
    in_a_row: u32,
    ratio: Option<Ratio>,
}

/// The same.
const EQUAL: u32 = 1_000_000;

impl CrossCheck {
    /// Intervals are put together until one of the two has this much: below it, the time between the
    /// two reads and the step of the counter weigh too much.
    pub const LEAST: Energy = Energy::from_uj(1_000_000);
    /// Up to this difference the two agree.
    pub const AGREE: Ratio = Ratio::from_percent(5);
    /// Beyond this difference they disagree.
    pub const DISAGREE: Ratio = Ratio::from_percent(10);
    /// So many intervals in a row change the verdict.
    pub const IN_A_ROW: u32 = 3;

    /// Takes the energy of the same interval from both and returns the verdict.
    pub fn push(&mut self, powercap: Energy, perf: Energy) -> Verdict {
        self.powercap += powercap;
        self.perf += perf;
        if self.powercap.max(self.perf) < Self::LEAST {
            return self.verdict;
        }
        let ratio = ratio(self.perf, self.powercap);
        self.ratio = Some(ratio);
        self.powercap = Energy::ZERO;
        self.perf = Energy::ZERO;
        let leaning = match ratio.ppm().abs_diff(EQUAL) {
            off if off <= Self::AGREE.ppm() => Verdict::Agree,
            off if off > Self::DISAGREE.ppm() => Verdict::Disagree,
            _ => self.verdict,
        };
        self.in_a_row = if leaning == self.leaning { self.in_a_row.saturating_add(1) } else { 1 };
        self.leaning = leaning;
        if self.in_a_row >= Self::IN_A_ROW {
            self.verdict = leaning;
        }
        self.verdict
    }

    /// Forgets an interval that is only half known, because one of the two had a gap.
    pub fn interrupt(&mut self) {
        self.powercap = Energy::ZERO;
        self.perf = Energy::ZERO;
    }

    /// What the last intervals say.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// perf divided by powercap in the last interval; one million parts per million is equal,
    /// the largest ratio stands for "powercap told nothing".
    pub fn ratio(&self) -> Option<Ratio> {
        self.ratio
    }
}

fn ratio(perf: Energy, powercap: Energy) -> Ratio {
    let ppm = (u128::from(perf.uj()) * u128::from(EQUAL)).checked_div(u128::from(powercap.uj()));
    Ratio::from_ppm(ppm.and_then(|r| u32::try_from(r).ok()).unwrap_or(u32::MAX))
}

/// Positions of the zones that are the same package in both lists.
pub fn pairs(powercap: &[Zone], perf: &[Zone]) -> Vec<(usize, usize)> {
    let packages = powercap.iter().enumerate().filter(|(_, z)| z.kind == ZoneKind::Package);
    let same =
        |a: &Zone| perf.iter().position(|b| b.kind == ZoneKind::Package && a.name == b.name && a.socket == b.socket);
    packages.filter_map(|(i, a)| Some((i, same(a)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn j(millijoules: u64) -> Energy {
        Energy::from_uj(millijoules * 1000)
    }

    #[test]
    fn it_takes_three_in_a_row_to_change_the_verdict() {
        let mut c = CrossCheck::default();
        let mut push = |perf| c.push(j(10_000), j(perf));
        assert_eq!([push(10_010), push(9_990)], [Verdict::Unknown; 2]);
        assert_eq!(push(10_400), Verdict::Agree);
        assert_eq!([push(20_000), push(20_000), push(10_000), push(20_000)], [Verdict::Agree; 4]);
        assert_eq!(push(20_000), Verdict::Agree);
        assert_eq!(push(20_000), Verdict::Disagree);
        assert_eq!([push(10_700); 6], [Verdict::Disagree; 6], "between the thresholds nothing changes");
        assert_eq!([push(10_000), push(10_000), push(10_000)], [Verdict::Disagree, Verdict::Disagree, Verdict::Agree]);
        assert_eq!([push(9_300), push(9_300), push(9_300), push(9_300)], [Verdict::Agree; 4]);
        assert_eq!(c.ratio(), Some(Ratio::from_ppm(930_000)));
    }

    #[test]
    fn little_energy_is_put_together() {
        let mut c = CrossCheck::default();
        for _ in 0..9 {
            c.push(j(100), j(50));
        }
        assert_eq!(c.ratio(), None);
        c.interrupt();
        c.push(j(500), j(500));
        assert_eq!(c.ratio(), None, "what came before the gap is forgotten");
        c.push(j(500), j(500));
        assert_eq!(c.ratio(), Some(Ratio::from_ppm(EQUAL)));
    }

    #[test]
    fn one_that_stands_still_disagrees() {
        let mut c = CrossCheck::default();
        for _ in 0..3 {
            c.push(Energy::ZERO, j(5_000));
        }
        assert_eq!((c.verdict(), c.ratio()), (Verdict::Disagree, Some(Ratio::from_ppm(u32::MAX))));
        let mut c = CrossCheck::default();
        for _ in 0..3 {
            c.push(j(5_000), Energy::ZERO);
        }
        assert_eq!((c.verdict(), c.ratio()), (Verdict::Disagree, Some(Ratio::from_ppm(0))));
    }

    proptest! {
        #[test]
        fn intervals_of_any_size_never_panic_and_one_outlier_never_counts(
            steady in 1_000_000..1_000_000_000_000u64, outlier in any::<(u64, u64)>(), n in 3..20usize,
        ) {
            let mut c = CrossCheck::default();
            for _ in 0..n {
                c.push(Energy::from_uj(steady), Energy::from_uj(steady));
            }
            prop_assert_eq!(c.verdict(), Verdict::Agree);
            prop_assert_eq!(c.push(Energy::from_uj(outlier.0), Energy::from_uj(outlier.1)), Verdict::Agree);
        }
    }
}
