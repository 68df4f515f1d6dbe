//! `cargo run --release --example chaos -- --runs 10000 [--from 0] [--seed 7]`: the executor in a world where
//! everything breaks. Prints what was broken how often, and what rule was violated.

#![allow(clippy::cast_possible_truncation, reason = "small numbers of a made-up world")]
#![allow(clippy::unwrap_used, reason = "a world of tests")]
#![allow(unreachable_pub, missing_docs, dead_code, reason = "shared with the tests")]

#[path = "../tests/world/mod.rs"]
mod world;

use std::collections::BTreeMap;

use world::{Options, World};

fn number(args: &[String], name: &str) -> Option<u64> {
    args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).and_then(|v| v.parse().ok())
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let busy_s = number(&args, "--busy").unwrap_or(1800);
    if let Some(seed) = number(&args, "--seed") {
        let mut world = World::new(Options { seed, faults: true, kill_at: number(&args, "--kill-at"), busy_s });
        world.run();
        println!("{}\n{:#?}\n{:?}", world.log.join("\n"), world.violations, world.counts);
        return;
    }
    let (from, runs) = (number(&args, "--from").unwrap_or(0), number(&args, "--runs").unwrap_or(1000));
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut violations, mut first) = (0, None);
    for seed in from..from + runs {
        let mut world = World::new(Options { seed, faults: true, kill_at: None, busy_s });
        world.run();
        for (what, n) in &world.counts {
            *counts.entry(what).or_default() += n;
        }
        *counts.entry("= effects that landed").or_default() += world.landed.len() as u64;
        *counts.entry("= records").or_default() += world.journal.len() as u64;
        for (_, _, effect) in &world.landed {
            let kind = match effect {
                ebbtide_executor::command::Effect::Shutdown { .. } => "= shutdowns",
                ebbtide_executor::command::Effect::PowerOn { .. } => "= wakes",
                ebbtide_executor::command::Effect::Evict { .. } => "= evictions",
                ebbtide_executor::command::Effect::OutletOff => "= outlets switched off",
                _ => continue,
            };
            *counts.entry(kind).or_default() += 1;
        }
        for op in world.ended() {
            *counts.entry(op).or_default() += 1;
        }
        if let Some(why) = world.violations.first() {
            violations += 1;
            if violations <= 20 {
                println!("seed {seed}: {why}");
            }
            first.get_or_insert(seed);
        }
    }
    println!("runs {runs}");
    for (what, n) in counts {
        println!("  {what}: {n}");
    }
    println!("violations {violations}, first seed {first:?}");
    if violations > 0 {
        std::process::exit(1);
    }
}
