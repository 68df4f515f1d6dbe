//! Workloads move to where they take fewer watts, as far as the reserve lets them.
#![allow(clippy::unwrap_used, reason = "tests")]

use ebbtide_planner::check::check;
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::plan::action::Do;
use ebbtide_planner::plan::plan;
use ebbtide_planner::policy::{Policy, Reserve};
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::Workload;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::NodeId;

const GIB: u64 = 1 << 30;
const NOW: Time = Time::from_secs(1000);

fn add(state: &mut FleetState, name: &str, cpu_milli: u64, curve: PowerCurve, busy_milli: u64) {
    let id = NodeId::new(name).unwrap();
    let mut node = Node::new(id.clone(), Resources::new(cpu_milli, 64 * GIB), curve);
    (node.power, node.heard) = (PowerState::On, NOW);
    state.apply(Time::ZERO, Event::NodeSeen(Box::new(node)));
    let mut fixed = Workload::new(format!("pod/on-{name}").parse().unwrap(), Resources::new(busy_milli, GIB));
    (fixed.node, fixed.stays) = (Some(id), true);
    state.apply(Time::ZERO, Event::WorkloadSeen(Box::new(fixed)));
}

/// Where `web` goes from the dear node, if one node may fail.
fn goes_to(reserve: Reserve) -> Option<String> {
    let mut state = FleetState::new();
    add(&mut state, "dear", 8000, PowerCurve::line(50.0, 450.0), 1000);
    add(&mut state, "cheap", 16_000, PowerCurve::line(100.0, 260.0), 13_000);
    add(&mut state, "middling", 6000, PowerCurve::line(100.0, 190.0), 2000);
    // so many that not every placement is tried
    for n in 0..12 {
        add(&mut state, &format!("full-{n}"), 1000, PowerCurve::line(10.0, 20.0), 1000);
    }
    let mut web = Workload::new("pod/web".parse().unwrap(), Resources::new(1000, GIB));
    web.node = Some(NodeId::new("dear").unwrap());
    state.apply(Time::ZERO, Event::WorkloadSeen(Box::new(web)));
    state.apply(Time::ZERO, Event::Synced);
    let policy = Policy { reserve, ..Policy::default() };
    let made = plan(&state, &policy, NOW).unwrap();
    assert_eq!(check(&made, &state, &policy), []);
    made.actions.iter().find_map(|a| match &a.what {
        Do::Move { workload, to, .. } if workload.to_string() == "pod/web" => Some(to.to_string()),
        _ => None,
    })
}

#[test]
fn where_the_best_place_would_use_up_the_reserve_the_next_best_is_taken() {
    assert_eq!(goes_to(Reserve::default()).as_deref(), Some("cheap"));
    // all that is free is as much as runs on the fullest node, which is the cheap one
    assert_eq!(goes_to(Reserve { nodes: 1, ..Reserve::default() }).as_deref(), Some("middling"));
}
