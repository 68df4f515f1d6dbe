#![allow(clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;

use ebbtide_proto::Ratio;
use proptest::prelude::*;

use super::*;

const W: u64 = 1_000_000;

fn at(s: u64) -> Moment {
    Moment::default().plus(Duration::from_secs(s))
}

fn watts(w: u64, at: Moment) -> Option<Figure<Power>> {
    Some(Figure { value: Power::from_uw(w * W), at, error: Ratio::from_percent(1), source: Cow::Borrowed("test") })
}

fn seen(state: PowerState, power: Option<Figure<Power>>, agent: Option<Agent>) -> Observation {
    Observation { state, power, agent }
}

/// Looks every second at what `world` says after so many commands, until it is over. Counts the commands.
fn run(to: Switch, limits: Limits, world: impl Fn(u64, u32) -> Observation) -> (Outcome, Vec<u64>) {
    let mut switching = Switching::new(to, limits, at(0));
    let mut sent = Vec::new();
    for second in 0..1000 {
        let now = at(second);
        let commands = u32::try_from(sent.len()).unwrap();
        match switching.step(now, &world(second, commands)) {
            Next::Done(outcome) => return (outcome, sent),
            Next::Wait(_) => {}
            Next::Command => {
                sent.push(second);
                switching.sent(now);
            }
        }
    }
    panic!("no end after a thousand looks");
}

#[test]
fn what_stands_as_wanted_is_left_alone() {
    let (outcome, sent) = run(Switch::Off, Limits::default(), |_, _| seen(PowerState::Off, None, None));
    assert_eq!((outcome.verdict, sent.len()), (Verdict::Already, 0));
    let (outcome, sent) = run(Switch::On, Limits::default(), |s, _| seen(PowerState::On, watts(80, at(s)), None));
    assert_eq!((outcome.verdict, outcome.signals.count(), sent.len()), (Verdict::Already, 2, 0));
}

#[test]
fn a_command_is_confirmed_by_all_that_can_be_seen() {
    let world = |s, commands| match (commands, s) {
        (0, _) => seen(PowerState::On, watts(120, at(s)), Some(Agent::Speaks(at(s)))),
        (_, 1..=2) => seen(PowerState::TurningOff, watts(110, at(s)), Some(Agent::Speaks(at(0)))),
        (_, 3) => seen(PowerState::Off, watts(110, at(s)), Some(Agent::Speaks(at(0)))),
        _ => seen(PowerState::Off, watts(0, at(s)), Some(Agent::Silent)),
    };
    let (outcome, sent) = run(Switch::Off, Limits { signals: 3, ..Limits::default() }, world);
    assert_eq!((outcome.verdict, sent), (Verdict::Confirmed, vec![0]));
    assert_eq!(outcome.signals, Signals { state: true, outlet_watts: true, agent: true });
    assert_eq!(outcome.signals.to_string(), "state, outlet watts, agent");
    assert_eq!(outcome.took, Duration::from_secs(4));
}

#[test]
fn unknown_is_never_off() {
    let (outcome, sent) = run(Switch::Off, Limits::default(), |_, _| seen(PowerState::Unknown, None, None));
    assert_eq!((outcome.verdict, sent.len()), (Verdict::Unconfirmed { last: "state unknown".into() }, 2));
    let silent = |s, _| seen(PowerState::Unknown, watts(0, at(s)), Some(Agent::Silent));
    let (outcome, _) = run(Switch::Off, Limits::default(), silent);
    assert!(!outcome.is_success(), "it drew nothing before either, so nothing was seen to go off: {outcome:?}");
}

#[test]
fn watts_that_fall_are_proof_for_a_device_that_tells_no_state() {
    let world = |s, commands| seen(PowerState::Unknown, watts(if commands == 0 { 120 } else { 0 }, at(s)), None);
    let (outcome, _) = run(Switch::Off, Limits::default(), world);
    assert_eq!(outcome.verdict, Verdict::Confirmed);
    assert_eq!(outcome.signals, Signals { outlet_watts: true, ..Signals::default() });
}

#[test]
fn a_device_that_lies_is_reported() {
    let (outcome, sent) = run(Switch::Off, Limits::default(), |s, _| seen(PowerState::Off, watts(120, at(s)), None));
    assert_eq!(outcome.verdict, Verdict::Contradicted { by: "the outlet still draws 120 W".into() });
    assert_eq!(sent.len(), 2, "it says off, but isn't: it is told");
    let wrong_outlet = |s, _| seen(PowerState::Off, watts(0, at(s)), Some(Agent::Speaks(at(s))));
    let (outcome, _) = run(Switch::Off, Limits::default(), wrong_outlet);
    assert_eq!(outcome.verdict, Verdict::Contradicted { by: "the machine's agent still speaks".into() });
}

#[test]
fn watts_from_before_the_command_say_nothing_about_after_it() {
    let world =
        |_, commands| seen(if commands == 0 { PowerState::On } else { PowerState::Off }, watts(120, at(0)), None);
    let (outcome, _) = run(Switch::Off, Limits::default(), world);
    assert_eq!((outcome.verdict, outcome.signals.to_string().as_str()), (Verdict::Confirmed, "state"));
}

#[test]
fn a_cycle_is_sent_once_and_has_to_be_seen() {
    let world = |s, commands| match (commands, s) {
        (1, 2..=4) => seen(PowerState::Off, None, None),
        _ => seen(PowerState::On, None, None),
    };
    let (outcome, sent) = run(Switch::Cycle, Limits::default(), world);
    assert_eq!((outcome.verdict, sent, outcome.took), (Verdict::Confirmed, vec![0], Duration::from_secs(5)));
    let (outcome, sent) = run(Switch::Cycle, Limits::default(), |_, _| seen(PowerState::On, None, None));
    assert_eq!((outcome.verdict, sent.len()), (Verdict::Unconfirmed { last: "state on".into() }, 1));
}

#[test]
fn what_is_on_its_way_is_waited_for() {
    let world = |s, _| seen(if s < 5 { PowerState::TurningOff } else { PowerState::Off }, None, None);
    let (outcome, sent) = run(Switch::Off, Limits::default(), world);
    assert_eq!((outcome.verdict, sent.len()), (Verdict::Already, 0));
}

#[test]
fn a_command_that_was_lost_is_sent_again() {
    let world = |_, commands| seen(if commands < 2 { PowerState::Off } else { PowerState::On }, None, None);
    let (outcome, sent) = run(Switch::On, Limits::default(), world);
    assert_eq!((outcome.verdict, sent), (Verdict::Confirmed, vec![0, 8]));
}

fn any_observation() -> impl Strategy<Value = (PowerState, Option<(u64, bool)>, Option<bool>)> {
    let state = prop::sample::select(vec![
        PowerState::On,
        PowerState::Off,
        PowerState::TurningOn,
        PowerState::TurningOff,
        PowerState::Unknown,
    ]);
    (state, prop::option::of((0u64..200, any::<bool>())), prop::option::of(any::<bool>()))
}

proptest! {
    /// Whatever a device says: it ends in time, sends no more than allowed, and never takes for off what isn't.
    #[test]
    fn any_device_is_survived(
        looks in prop::collection::vec(any_observation(), 1..60),
        to in prop::sample::select(vec![Switch::On, Switch::Off, Switch::SoftOff, Switch::Cycle]),
        signals in 1u32..=3,
    ) {
        let limits = Limits { signals, ..Limits::default() };
        let world = |s: u64, _| {
            let (state, power, agent) = looks[usize::try_from(s).unwrap() % looks.len()];
            let power = power.and_then(|(w, fresh)| watts(w, if fresh { at(s) } else { at(0) }));
            seen(state, power, agent.map(|speaks| if speaks { Agent::Speaks(at(s)) } else { Agent::Silent }))
        };
        let (outcome, sent) = run(to, limits, world);
        prop_assert!(outcome.took <= limits.deadline + Duration::from_secs(1));
        let most = if to == Switch::Cycle { 1 } else { limits.attempts };
        prop_assert!(u32::try_from(sent.len()).unwrap() == outcome.commands && outcome.commands <= most);
        if outcome.is_success() {
            prop_assert!(outcome.signals.count() >= signals);
            prop_assert_eq!(outcome.verdict == Verdict::Already, outcome.commands == 0);
            let last = world(outcome.took.as_secs(), 0);
            if matches!(to, Switch::Off | Switch::SoftOff) {
                prop_assert!(last.state == PowerState::Off || (last.state == PowerState::Unknown && outcome.signals.outlet_watts));
                prop_assert!(!matches!(last.agent, Some(Agent::Speaks(_))));
                let after = last.power.filter(|p| sent.last().is_none_or(|&s| p.at > at(s)));
                prop_assert!(after.is_none_or(|p| p.value <= limits.off_power));
            }
        }
    }
}
