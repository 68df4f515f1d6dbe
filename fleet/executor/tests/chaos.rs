//! The executor in a world where everything breaks.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use world::{Options, World};

#[test]
fn nothing_that_breaks_costs_a_workload() {
    let seeds: u64 = std::env::var("EBBTIDE_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(500);
    for seed in 0..seeds {
        let mut world = World::new(Options { seed, faults: true, kill_at: None, busy_s: 1800 });
        world.run();
        let tail = world.log.len().saturating_sub(60);
        assert!(world.violations.is_empty(), "seed {seed}: {:#?}\n{}", world.violations, world.log[tail..].join("\n"));
    }
}
