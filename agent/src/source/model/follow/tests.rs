//! The model against the wall: told late, twice, in any order, by a fleet that starts over.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::super::super::wall::{WallFeed, told};
use super::*;

const SECOND: u64 = 1000;

/// A machine with a load curve, a meter and a fleet between the two.
#[derive(Default)]
struct Machine {
    ms: u64,
    curve: u64,
    wall: u64,
    /// The meter at each millisecond that it was read at.
    read: Vec<(u64, u64)>,
    feed: WallFeed,
    follow: Follow,
}

impl Machine {
    /// Lets time pass, in which curve and wall add this much, and takes a sample.
    fn pass(&mut self, ms: u64, curve: u64, wall: u64) {
        (self.ms, self.curve, self.wall) = (self.ms + ms, self.curve + curve, self.wall + wall);
        self.sample();
    }

    fn sample(&mut self) {
        let before = self.follow.total;
        let now = Moment::default().plus(Duration::from_millis(self.ms));
        self.follow.step(now, Energy::from_uj(self.curve), self.feed.read(now).ok().as_ref());
        assert!(self.follow.total >= before, "a counter doesn't fall");
    }

    /// The meter is read now and told at once.
    fn tell(&mut self) {
        self.read.push((self.ms, self.wall));
        self.tell_again(0);
    }

    /// The reading so many before the last is told.
    fn tell_again(&mut self, back: usize) {
        if let Some((ms, uj)) = self.read.iter().rev().nth(back) {
            self.feed.tell(told(*ms, *uj, 5));
        }
    }

    /// Curve and wall tell the same for a second, and the wall is followed from there on.
    fn begin(&mut self, uj: u64) {
        self.sample();
        self.tell();
        self.pass(SECOND, uj, uj.max(1));
        self.tell();
        self.sample();
        assert!(self.follow.follows());
    }

    fn total(&self) -> u64 {
        self.follow.total
    }
}

#[test]
fn the_wall_is_followed_between_its_readings_too() {
    let mut m = Machine::default();
    m.pass(0, 0, 0);
    m.tell();
    let mut watts = Vec::new();
    // the curve says 2 W and later 4 W, the wall says three times that
    for second in 1..=60 {
        let curve = if second <= 30 { 2_000_000 } else { 4_000_000 };
        let before = m.total();
        m.pass(SECOND, curve, 3 * curve);
        watts.push((m.total() - before) / 1000);
        if second % 10 == 0 {
            m.tell();
        }
    }
    assert_eq!(watts[..10], [2000; 10], "nothing is known yet");
    assert_eq!(watts[10..30], [6000; 20], "three times the curve");
    assert_eq!(watts[30..], [12_000; 30], "the curve tells of the change at once");
    assert!(m.follow.follows());
    assert_eq!(m.follow.scaled(Power::from_uw(1_000_000)).uw(), 3_000_000);
}

#[test]
fn after_too_high_a_guess_it_stands_still() {
    let mut m = Machine::default();
    m.begin(1_000_000);
    for _ in 0..10 {
        m.pass(SECOND, 10_000_000, 1_000_000);
    }
    assert_eq!(m.total(), 101_000_000);
    m.tell();
    m.pass(SECOND, 0, 1_000_000);
    let stands = m.total();
    for _ in 0..20 {
        m.pass(5 * SECOND, 0, 3_000_000);
        m.tell();
    }
    assert_eq!(stands, 101_000_000);
    assert_eq!(m.total(), stands);
    for _ in 0..20 {
        m.pass(5 * SECOND, 0, 3_000_000);
        m.tell();
    }
    m.pass(15 * SECOND, 0, 0);
    assert_eq!(m.total(), m.wall, "caught up");
}

#[test]
fn a_wall_out_of_all_proportion_does_not_run_away() {
    let mut m = Machine::default();
    m.pass(0, 0, 0);
    m.tell();
    m.pass(10 * SECOND, 1, 500_000_000);
    m.tell();
    // one microjoule of the curve for 500 J: what comes now is not scaled by that
    m.pass(SECOND, 10_000_000, 50_000_000);
    assert!(m.total() <= 50_000_000 + 16 * 10_000_000 + 1, "{}", m.total());
}

#[derive(Clone, Debug)]
enum Act {
    Pass(u64, u64, u64),
    Tell,
    Again(usize),
    Restart(u64),
    Silence(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..3000u64, 0..20_000_000u64, 0..50_000_000u64).prop_map(|(ms, c, w)| Act::Pass(ms, c, w)),
        3 => Just(Act::Tell),
        2 => (0..6usize).prop_map(Act::Again),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => act(),
        1 => (0..1_000_000u64).prop_map(Act::Restart),
        1 => (31_000..200_000u64).prop_map(Act::Silence),
    ]
}

fn play(m: &mut Machine, act: &Act) {
    match act {
        Act::Pass(ms, curve, wall) => m.pass(*ms, *curve, *wall),
        Act::Tell => m.tell(),
        Act::Again(back) => m.tell_again(*back),
        Act::Restart(uj) => {
            m.wall = *uj;
            // a new daemon has nothing of the old one's to tell again
            m.read.clear();
        }
        Act::Silence(ms) => m.pass(*ms, 5_000_000, 20_000_000),
    }
}

/// Readings come while the machine rests, until everything is made up for.
fn settle(m: &mut Machine) {
    for _ in 0..4 {
        m.pass(SECOND, 0, 0);
        m.wall += 1;
        m.tell();
    }
    for _ in 0..20_000 {
        m.pass(5 * SECOND, 0, 40_000_000);
        m.tell();
        if i128::from(m.follow.total) >= m.follow.target - 40_000_000 {
            break;
        }
    }
    for _ in 0..200 {
        m.pass(5 * SECOND, 0, 100_000_000);
        m.tell();
    }
    m.sample();
    m.pass(20 * SECOND, 0, 0);
}

proptest! {
    /// Whatever comes in whatever order: what the wall went up by is what the model goes up by, to the microjoule.
    #[test]
    fn sums_are_the_walls(acts in prop::collection::vec(act(), 1..200)) {
        let mut m = Machine { wall: 123_456, ..Machine::default() };
        m.begin(0);
        for act in &acts {
            // never silent for so long that the wall is not followed
            if m.ms - m.read.last().unwrap().0 > 20_000 {
                m.tell();
            }
            play(&mut m, act);
            if let Some(anchor) = m.follow.anchor {
                prop_assert_eq!(anchor.base, -123_457);
            }
        }
        m.tell();
        settle(&mut m);
        prop_assert_eq!(m.total(), m.wall - 123_457);
    }

    /// Where the fleet starts over or is silent, the scaled curve stands in; the wall's energy since then is counted in
    /// full again.
    #[test]
    fn gaps_are_bridged_by_the_curve(acts in prop::collection::vec(any_act(), 1..200)) {
        let mut m = Machine::default();
        for act in &acts {
            let (base, target, curve) = (m.follow.anchor.map(|a| a.base), m.follow.target, m.curve);
            play(&mut m, act);
            let (now, scale) = (m.follow.anchor.map(|a| a.base), m.follow.scale);
            if base.is_some() && base != now && matches!(act, Act::Pass(..)) {
                // no energy comes of a new base but the curve's
                let guess = i128::from(scale.of(m.curve) - scale.of(curve));
                prop_assert!((m.follow.target - target - guess).abs() <= 1);
            }
        }
        // from a reading on, all is counted
        for _ in 0..2 {
            m.pass(SECOND, 0, 1);
            m.tell();
            m.sample();
        }
        let base = m.follow.anchor.unwrap().base;
        settle(&mut m);
        prop_assert_eq!(m.follow.anchor.unwrap().base, base);
        prop_assert_eq!(i128::from(m.total()), base + i128::from(m.wall));
    }
}
