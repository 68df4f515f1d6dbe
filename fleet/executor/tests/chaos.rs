//! The executor in a world where everything breaks.

#![allow(clippy::cast_possible_truncation, reason = "small numbers of a made-up world")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use world::{Options, World};

#[test]
fn nothing_that_breaks_costs_a_workload() {
    let seeds: u64 = std::env::var("EBBTIDE_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(500);
    let mut forgotten = 0;
    for seed in 0..seeds {
        let mut world = World::new(Options { seed, faults: true, kill_at: None, busy_s: 1800 });
        world.run();
        let tail = world.log.len().saturating_sub(60);
        assert!(world.violations.is_empty(), "seed {seed}: {:#?}\n{}", world.violations, world.log[tail..].join("\n"));
        forgotten += world.forgotten;
    }
    assert!(seeds < 100 || forgotten > 1000, "journals are hardly made shorter: {forgotten} records were needless");
}

/// A quiet fleet with one daemon that dies: right before each command, and so right after each as well.
#[test]
fn dying_at_any_command_leaves_nothing_half_done() {
    for seed in 1..3 {
        let options = Options { seed, faults: false, kill_at: None, busy_s: 240 };
        let mut whole = World::new(options);
        whole.run();
        assert!(whole.violations.is_empty(), "{:#?}", whole.violations);
        assert!(whole.landed.len() > 10, "too little happens: {:?}", whole.landed);
        for at in 1..=whole.commands {
            let mut world = World::new(Options { kill_at: Some(at), ..options });
            world.run();
            let tail = world.log.len().saturating_sub(60);
            assert!(
                world.violations.is_empty(),
                "seed {seed}, killed at {at}: {:#?}\n{}",
                world.violations,
                world.log[tail..].join("\n")
            );
        }
    }
}
