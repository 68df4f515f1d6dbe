//! EdgeLimit end to end, without hardware: the daemon decides by itself to wake the server for nine applications and to
//! power it off again. Watts are those that the daemon reads at the PDU. `make demo` shows the same.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub, reason = "tests")]

mod board;
#[path = "../support/daemon.rs"]
mod daemon;
mod pdu;
#[path = "../support/played.rs"]
mod played;
#[path = "../../devices/tests/support/agent.rs"]
#[allow(dead_code, reason = "SNMPv3 isn't used here")]
mod snmp;
mod world;

use std::path::Path;
use std::time::Duration;

use board::{AGENT, arguments};
use daemon::run;
use ebbtide_agent::cli::{self, Command};
use played::said;
use serde_json::Value;
use world::World;

/// The test of this program that becomes an agent.
const BECOMES: &[&str] = &["--exact", "the_arguments_of_a_boards_agent_are_understood", "--nocapture"];

#[test]
fn work_goes_to_the_radio_units_and_the_server_is_there_only_when_it_is_needed() {
    run(async {
        let world = World::new(BECOMES, |_| {}).await;
        let mut steps = Vec::new();
        let told = world.story(Duration::from_secs(3), |world, step| {
            let switched = match step.name {
                "t0" | "t1" => (0, 0),
                "t5" => (1, 1),
                _ => (0, 1),
            };
            assert_eq!(world.server().switched, switched, "off and on, at {}", step.name);
            println!("{} {} W: {}", step.name, step.watts, step.words);
            steps.push((step.name, step.watts));
        });
        told.await.unwrap_or_else(|why| panic!("{why}"));
        let wanted = [("t0", 28.0), ("t1", 32.0), ("t2", 85.0), ("t3", 81.0), ("t4", 68.0), ("t5", 29.0)];
        assert_eq!(steps, wanted);

        let on_radio_units: usize = (1..=4).map(|i| world.pods("mec", &format!("ru{i}"))).sum();
        assert_eq!(on_radio_units, 9, "none was lost");
        let (_, text) = said(&world.daemon, &["audit", "--node", "edge1", "-o", "json"]).await;
        let audit: Value = serde_json::from_str(&text).unwrap();
        let by = |what: &str| {
            let entries = audit["entries"].as_array().unwrap().iter();
            let of = entries.filter(|e| e["what"].as_str().unwrap().contains(what));
            of.map(|e| e["who"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for what in ["power edge1 on by its outlet", "shut edge1 down", "switch the outlet of edge1 off"] {
            let who = by(what);
            assert!(!who.is_empty() && who.iter().all(|who| who == "the planner"), "{what}: {who:?}");
        }
        world.stop().await;
    });
}

/// The boards' agents are this program: called with their arguments in the environment, it becomes one.
#[test]
fn the_arguments_of_a_boards_agent_are_understood() {
    let given = std::env::var(AGENT).ok();
    let args = match &given {
        Some(text) => text.lines().map(str::to_owned).collect(),
        None => arguments("ru1", Path::new("/"), Path::new("/tmp"), "127.0.0.1:1".parse().unwrap(), 7.0, 8.0),
    };
    let parsed = cli::parse(args.into_iter().map(Into::into), []).unwrap_or_else(|failure| {
        failure.print();
        panic!("they are not understood");
    });
    let Command::Run(settings) = parsed.command else { panic!("{:?}", parsed.command) };
    if given.is_some() {
        let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        ebbtide_agent::command::run::run(*settings).unwrap();
    }
}
