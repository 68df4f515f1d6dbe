//! What must hold for every plan, on thousands of made-up fleets.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use ebbtide_planner::check::check;
use ebbtide_planner::explain;
use ebbtide_planner::plan::{Refusal, plan, plan_around};
use ebbtide_planner::policy::{Interlock, Policy, Reserve, Selector};
use ebbtide_planner::replay::Decision;
use ebbtide_planner::sim::generate::{START, Shape, fleet};
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::PowerState;
use ebbtide_planner::state::{FleetState, Time};
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
                _ => {}
            }
        }
        let (reserve, cpu, keep, disruption_j, budget) = rules;
        for g in 0..budget {
            state.apply(START, Event::Budget { group: format!("g{g}"), away: (seed >> g) as u32 % 3 });
        }
        let locked = Selector { labels: [("disk".to_owned(), "ssd".to_owned())].into(), ..Selector::default() };
        let interlocks = vec![Interlock { name: "storage".to_owned(), nodes: locked, keep: Some(keep) }];
        let policy = Policy { reserve: Reserve { nodes: reserve, cpu }, interlocks, disruption_j, ..Policy::default() };
        (state, policy)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

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
