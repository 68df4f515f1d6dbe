//! `make demo`: EdgeLimit, live in the dashboard, on hardware that this program plays.
//!
//! Four radio units and an edge server hang on a PDU. The fleet daemon, the agents, SNMP, Kubernetes' wire and the
//! scheduler's questions are real; boards, PDU and API server are played. `fleet/tests/edgelimit` checks the same story.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a world of tests"
)]

#[path = "../tests/edgelimit/board.rs"]
mod board;
#[path = "../tests/support/daemon.rs"]
mod daemon;
#[path = "../tests/edgelimit/pdu.rs"]
mod pdu;
#[path = "../tests/support/played.rs"]
mod played;
#[path = "../devices/tests/support/agent.rs"]
mod snmp;
#[path = "../tests/edgelimit/world.rs"]
mod world;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_agent::cli::{self, Command};
use ebbtide_fleet::config::Config;
use world::World;

/// Time to look at each step.
const DWELL: Duration = Duration::from_secs(8);

fn main() -> ExitCode {
    let done = match std::env::var(board::AGENT) {
        Ok(arguments) => become_agent(&arguments),
        Err(_) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("can't start a runtime")
            .and_then(|runtime| runtime.block_on(show())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn become_agent(arguments: &str) -> anyhow::Result<()> {
    let parsed = cli::parse(arguments.lines().map(Into::into), []);
    match parsed.map(|parsed| parsed.command) {
        Ok(Command::Run(settings)) => ebbtide_agent::command::run::run(*settings).map(drop),
        _ => anyhow::bail!("these are no arguments of an agent: {arguments:?}"),
    }
}

/// The usual address if nobody has it, or any other.
fn address(usual: u16) -> SocketAddr {
    let usual = SocketAddr::from(([127, 0, 0, 1], usual));
    if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::from(([127, 0, 0, 1], 0)) }
}

async fn show() -> anyhow::Result<()> {
    let world =
        World::new(&[], |config: &mut Config| (config.grpc, config.http) = (address(9884), address(9885))).await;
    let at = world.daemon.at;
    println!("Four radio units and an edge server, played by this program, and a fleet daemon that may act.");
    println!();
    println!("Dashboard:  http://{}/   also /plan and /operations", at.http);
    println!("By hand:    ebbtide --fleet http://{} nodes (plan, explain node edge1, operations, audit)", at.grpc);
    println!("It takes a minute or two. Stop: Ctrl-C");
    println!();
    let tell = |_: &World, step: &world::Step| println!("{}  {:>2.0} W  {}", step.name, step.watts, step.words);
    let ended = tokio::select! {
        told = world.story(DWELL, tell) => Some(told),
        _ = tokio::signal::ctrl_c() => None,
    };
    if let Some(told) = ended {
        told?;
        println!();
        println!(
            "From 85 W to 29 W, and nobody lost anything. Ask why:  ebbtide --fleet http://{} explain node edge1",
            at.grpc
        );
        println!("It goes on until Ctrl-C.");
        tokio::signal::ctrl_c().await.context("can't wait for Ctrl-C")?;
    }
    println!("Stopping.");
    world.stop().await;
    Ok(())
}
