//! What must hold for every plan, on thousands of made-up fleets.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use ebbtide_planner::check::check;
use ebbtide_planner::explain;
use ebbtide_planner::model::boot::BootModel;
use ebbtide_planner::plan::action::{Do, Plan};
use ebbtide_planner::plan::{Refusal, plan, plan_around};
use ebbtide_planner::policy::{Basis, Interlock, Policy, Reserve, Risk, Selector, Worth, ZoneWorth};
use ebbtide_planner::replay::Decision;
use ebbtide_planner::sim::generate::{START, Shape, fleet};
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::PowerState;
use ebbtide_planner::state::places::Places;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::id::WorkloadKind;
use ebbtide_proto::{NodeId, WorkloadId};
use proptest::prelude::*;

fn shapes() -> impl Strategy<Value = (FleetState, Policy)> {
    let shape = (1..24u32, 0..80u32, 0.05..0.9f64, 0.0..0.5f64, any::<bool>());
    let rules = (0..3u32, 0.0..0.3f64, 0..4u32, 0.0..5000.0f64, 0..30usize);
    (shape, rules, any::<u64>()).prop_map(|(shape, rules, seed)| {
        let (nodes, workloads, asked, special, placed) = shape;
        let mut state = fleet(&Shape { nodes, workloads, asked, special, placed }, seed).unwrap();
        // some nodes are silent, closed, or in no state that anybody knows
        for (i, node) in state.nodes.values_mut().enumerate() {
            match (seed >> (i % 16)) % 23 {
                0 => node.heard = Time::ZERO,
                1 => node.cordoned = true,
                2 => node.power = PowerState::Unknown,
                3 => node.switchable = false,
                4 => node.wake_proven = false,
                // what inventory still has on it runs nowhere
                5 => node.power = PowerState::Off,
                _ => {}
            }
        }
        let (reserve, cpu, keep, disruption_j, budget) = rules;
        for g in 0..budget {
            state.apply(START, Event::Budget { group: format!("g{g}"), away: (seed >> g) as u32 % 3 });
        }
        let locked = Selector { labels: [("disk".to_owned(), "ssd".to_owned())].into(), ..Selector::default() };
        let interlocks = vec![Interlock { name: "storage".to_owned(), nodes: locked, keep: Some(keep) }];
        let mut worth = Worth::default();
        if seed.is_multiple_of(4) {
            worth.joules_per_gram = (seed % 7) as f64 * 3000.0;
            worth.zones = [("z1".to_owned(), ZoneWorth { carbon: Some(40.0), price: None })].into();
        }
        // some are used to more at this hour
        if seed % 3 == 0 {
            let level = state.asked_milli();
            for hour in 0..=72 {
                let more = if hour % 2 == 1 { 1.0 } else { 1.0 + (seed % 11) as f64 / 10.0 };
                state.asked.observe(Time::from_secs(hour * 3600), level * more);
            }
            // slow boots: the next hour is within sight
            state.nodes.values_mut().for_each(|node| node.boot = BootModel::guess(1680.0, 60_000.0, 60.0));
        }
        let reserve = Reserve { nodes: reserve, cpu, foresee: true };
        let policy = Policy { reserve, interlocks, disruption_j, worth, ..Policy::default() };
        (state, policy)
    })
}

/// Fleets whose workloads have used CPU for up to a few hours, each in its own rhythm; planned by forecasts.
fn used_shapes() -> impl Strategy<Value = (FleetState, Policy)> {
    (shapes(), 0..40u64, any::<bool>()).prop_map(|((mut state, policy), samples, high)| {
        let workloads: Vec<_> = state.workloads.values().map(|w| (w.id.clone(), w.requests.cpu_milli)).collect();
        for (i, (workload, request)) in workloads.into_iter().enumerate() {
            for k in 0..samples {
                let at = Time::from_secs(START.ms() / 1000 - 300 * (samples - k));
                let wave = ((k * (1 + i as u64 % 5)) as f64 * 0.7 + i as f64).sin();
                let cpu_milli = request as f64 * (0.4 + 0.35 * wave);
                // one in seven was never measured
                if i % 7 != 0 {
                    assert!(state.apply(at, Event::WorkloadUsed { workload: workload.clone(), cpu_milli }));
                }
            }
        }
        let risk = if high { Risk::High } else { Risk::Low };
        (state, Policy { basis: Basis::Forecast, risk, ..policy })
    })
}

/// What will be known once the plan is carried out, at the same moment.
fn carried_out(state: &FleetState, plan: &Plan) -> FleetState {
    let mut after = state.clone();
    for event in plan.effects() {
        assert!(after.apply(START, event));
    }
    after
}

/// The same fleet with other names of nodes and workloads, which are in another order.
fn renamed(state: &FleetState, salt: u32) -> FleetState {
    let other = |name: &str, digits: &str| {
        let n: u32 = digits.parse().unwrap();
        format!("{name}{:010}", n.wrapping_mul(2_654_435_761).wrapping_add(salt))
    };
    let node = |id: &NodeId| NodeId::new(&other("x", &id.as_str()[1..])).unwrap();
    let mut renamed = FleetState { nodes: Default::default(), workloads: Default::default(), ..state.clone() };
    for n in state.nodes.values() {
        let mut n = n.clone();
        n.id = node(&n.id);
        renamed.nodes.insert(n.id.clone(), n);
    }
    for (i, w) in state.workloads.values().enumerate() {
        let mut w = w.clone();
        w.id = WorkloadId::new(WorkloadKind::Pod, &other("y", &i.to_string())).unwrap();
        w.node = w.node.as_ref().map(node);
        renamed.workloads.insert(w.id.clone(), w);
    }
    renamed.places = Places::of(renamed.workloads.values());
    renamed
}

/// How many nodes a plan powers on and off, and how many workloads it moves and places.
fn counts(plan: &Plan) -> [usize; 4] {
    let count = |kind: fn(&Do) -> bool| plan.actions.iter().filter(|a| kind(&a.what)).count();
    [
        count(|d| matches!(d, Do::PowerOn { .. })),
        count(|d| matches!(d, Do::PowerOff { .. })),
        count(|d| matches!(d, Do::Move { .. })),
        count(|d| matches!(d, Do::Place { .. })),
    ]
}

fn is_the_same_by_any_name(state: &FleetState, policy: &Policy, salt: u32) -> Result<(), TestCaseError> {
    let (a, b) = (plan(state, policy, START).unwrap(), plan(&renamed(state, salt), policy, START).unwrap());
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(1.0);
    prop_assert!(near(a.after_w, b.after_w), "{} W, renamed {} W", a.after_w, b.after_w);
    prop_assert!(near(a.cost_j, b.cost_j), "{} J, renamed {} J", a.cost_j, b.cost_j);
    prop_assert_eq!(counts(&a), counts(&b));
    Ok(())
}

fn leaves_nothing_to_do(state: &FleetState, policy: &Policy) -> Result<(), TestCaseError> {
    let p = plan(state, policy, START).unwrap();
    let again = plan(&carried_out(state, &p), policy, START).unwrap();
    prop_assert!(again.is_empty(), "{:?}", again.actions);
    prop_assert!((again.after_w - p.after_w).abs() <= 1e-6 * p.after_w.max(1.0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn after_the_plan_there_is_nothing_to_do((state, policy) in shapes()) {
        leaves_nothing_to_do(&state, &policy)?;
    }

    #[test]
    fn names_cost_nothing((state, policy) in shapes(), salt in any::<u32>()) {
        is_the_same_by_any_name(&state, &policy, salt)?;
    }

    #[test]
    fn forecasts_make_harmless_plans_that_leave_nothing_to_do((state, policy) in used_shapes(), salt in any::<u32>()) {
        let p = plan(&state, &policy, START).unwrap();
        let found = check(&p, &state, &policy);
        prop_assert!(found.is_empty(), "{found:?}");
        prop_assert_eq!(&p, &plan(&state, &policy, START).unwrap());
        leaves_nothing_to_do(&state, &policy)?;
        is_the_same_by_any_name(&state, &policy, salt)?;
    }

    #[test]
    fn the_checker_finds_nothing_and_no_plan_is_below_its_bound((state, policy) in shapes()) {
        let p = plan(&state, &policy, START).unwrap();
        let found = check(&p, &state, &policy);
        prop_assert!(found.is_empty(), "{found:?}");
        prop_assert!(p.after_w >= p.bound_w * (1.0 - 1e-6) - 1e-6, "{} {}", p.after_w, p.bound_w);
        prop_assert_eq!(&p, &plan(&state, &policy, START).unwrap());
        prop_assert!(explain::plan(&p).to_string().contains("bound"));
        for node in state.nodes.keys() {
            prop_assert!(explain::node(&p, &state, node).is_some());
        }
    }

    #[test]
    fn a_plan_around_a_change_is_harmless_too((state, policy) in shapes(), pick in any::<prop::sample::Index>()) {
        let node = pick.get(&state.nodes.keys().collect::<Vec<_>>()).to_owned().clone();
        let p = plan_around(&state, &policy, START, &[node]).unwrap();
        let found = check(&p, &state, &policy);
        prop_assert!(found.is_empty(), "{found:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_stored_decision_is_made_again_bit_for_bit((state, policy) in shapes()) {
        let text = serde_json::to_string(&Decision::make(state, policy, START).unwrap()).unwrap();
        let read: Decision = serde_json::from_str(&text).unwrap();
        prop_assert!(read.replay().is_ok());
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn silence_is_not_idleness((mut state, policy) in shapes()) {
        for node in state.nodes.values_mut() {
            node.heard = Time::ZERO;
        }
        let p = plan(&state, &policy, START).unwrap();
        let acts = p.effects().iter().any(|e| matches!(e, Event::NodePower { power: PowerState::Off, .. }));
        prop_assert!(!acts, "{:?}", p.actions);
        state.synced = false;
        prop_assert_eq!(plan(&state, &policy, START), Err(Refusal::NotSynced));
    }
}
