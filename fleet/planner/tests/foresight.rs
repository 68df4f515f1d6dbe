//! Nodes are awake by the time that more is usually asked for.
#![allow(clippy::unwrap_used, reason = "tests")]

use ebbtide_planner::check::check;
use ebbtide_planner::explain;
use ebbtide_planner::model::boot::BootModel;
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::plan::plan;
use ebbtide_planner::policy::{Policy, Reserve};
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::Workload;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::NodeId;

const GIB: u64 = 1 << 30;

fn at(hour: u64, minute: u64) -> Time {
    Time::from_secs(3 * 86_400 + hour * 3600 + minute * 60)
}

/// Two servers, of which one is enough for what runs; for three days ten CPUs were asked for from eight to eighteen.
fn fleet(asked_milli: u64, second: PowerState) -> FleetState {
    let mut state = FleetState::new();
    for (name, power) in [("first", PowerState::On), ("second", second)] {
        let id = NodeId::new(name).unwrap();
        let mut node = Node::new(id, Resources::new(8000, 64 * GIB), PowerCurve::line(60.0, 140.0));
        node.boot = BootModel::guess(180.0, 20_000.0, 60.0);
        node.power = power;
        state.apply(Time::ZERO, Event::NodeSeen(Box::new(node)));
    }
    for hour in 0..=72 {
        let asked = if (8..18).contains(&(hour % 24)) { 10_000.0 } else { 2000.0 };
        state.asked.observe(Time::from_secs(hour * 3600), asked);
    }
    let mut web = Workload::new("pod/web".parse().unwrap(), Resources::new(asked_milli, GIB));
    web.node = Some(NodeId::new("first").unwrap());
    state.apply(Time::ZERO, Event::WorkloadSeen(Box::new(web)));
    state.apply(Time::ZERO, Event::Synced);
    state
}

/// What is planned, and why in words.
fn planned(state: &FleetState, foresee: bool, now: Time) -> (Vec<&'static str>, String) {
    let mut state = state.clone();
    state.nodes.values_mut().for_each(|node| node.heard = now);
    let policy = Policy { reserve: Reserve { foresee, ..Reserve::default() }, ..Policy::default() };
    let made = plan(&state, &policy, now).unwrap();
    assert_eq!(check(&made, &state, &policy), []);
    let why = explain::node(&made, &state, &NodeId::new("second").unwrap());
    (made.actions.iter().map(|a| a.what.word()).collect(), format!("{why:?}"))
}

#[test]
fn a_node_is_woken_a_boot_before_the_hour_in_which_it_is_usually_needed() {
    let state = fleet(2000, PowerState::Off);
    assert_eq!(planned(&state, true, at(7, 54)).0, [""; 0], "too early");
    let (does, why) = planned(&state, true, at(7, 56));
    assert_eq!(does, ["power-on"]);
    assert!(why.contains("8 CPUs more are usually asked for soon"), "{why}");
    assert_eq!(planned(&state, false, at(7, 56)).0, [""; 0], "nobody wants it to look ahead");
    assert_eq!(planned(&fleet(500, PowerState::Off), true, at(17, 57)).0, [""; 0], "less is asked for in the evening");
}

#[test]
fn it_stays_on_while_the_rise_is_late_and_goes_off_if_it_doesnt_come() {
    let state = fleet(2000, PowerState::On);
    assert_eq!(planned(&state, true, at(8, 10)).0, [""; 0]);
    assert_ne!(planned(&state, false, at(8, 10)).0, [""; 0], "without foresight one goes off");
    assert_ne!(planned(&state, true, at(8, 30)).0, [""; 0], "it doesn't come today");
}
