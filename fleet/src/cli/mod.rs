//! `ebbtide`, the operators' command line: asks a fleet daemon over gRPC and shows its answers.
//!
//! `args` is what may be said, `context` and `connect` say whom to ask and how, `command` holds one file per command;
//! `record`, `table`, `figure` and `output` turn answers into text, `failure` turns errors into what to do next.
//! Nothing in here knows how the daemon works: all it knows of it is `ebbtide.v1`.

pub mod args;
mod command;
mod connect;
mod context;
mod failure;
mod figure;
mod output;
mod progress;
mod record;
mod table;
mod when;
mod wire;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::Parser as _;

use self::args::{Cli, Verb};
use self::connect::Fleet;
use self::failure::{Exit, Failure};
use self::output::Output;

/// Does what the process's arguments ask for.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // a closed output is no reason to fail again
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let verbose = cli.global.verbose;
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("{failure}");
            if verbose {
                failure.causes.iter().for_each(|cause| eprintln!("  because: {cause}"));
            }
            failure.exit.into()
        }
    }
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let Cli { global, verb } = cli;
    let output = Output::new(&global);
    // what needs no fleet
    let verb = match verb {
        Verb::Pki(args) => return command::pki::run(&args, &output),
        Verb::Context(args) => return command::context::run(&args, &global, &output),
        Verb::Completion { shell } => return command::completion(shell, &output),
        Verb::Manual { folder } => return command::manual(&folder),
        Verb::Version => return command::version(&output),
        verb => verb,
    };
    let target = context::target(&global)?;
    let timeout = global.timeout.get();
    if let Verb::Top(args) = &verb
        && !args.once
    {
        return command::top::live(args, target, timeout, &output);
    }
    until_interrupted(async {
        if let Verb::Doctor = verb {
            return command::doctor::run(&target, timeout, &output).await;
        }
        let fleet =
            progress::patiently(&format!("connecting to {}", target.address), Fleet::open(target, timeout)).await?;
        match verb {
            Verb::Nodes(args) => command::nodes::run(&fleet, &args, &output).await,
            Verb::Node(args) => command::node::run(&fleet, &args, &output).await,
            Verb::Workloads(args) => command::workloads::run(&fleet, &args, &output).await,
            Verb::Energy(args) => command::energy::run(&fleet, &args, &output).await,
            Verb::Export(args) => command::export::run(&fleet, &args, &output).await,
            Verb::Zones(args) => command::zones::run(&fleet, &args, &output).await,
            Verb::Status => command::status::run(&fleet, &output).await,
            Verb::Top(args) => command::top::once(&fleet, &args, &output).await,
            Verb::Watch(args) => command::watch::run(&fleet, &args, &output).await,
            Verb::Device(args) => command::device::run(&fleet, &args, &output).await,
            Verb::Plan(args) => command::plan::run(&fleet, &args, &output).await,
            Verb::Explain(args) => command::plan::explain(&fleet, &args, &output).await,
            Verb::WhatIf(args) => command::plan::what_if(&fleet, &args, &output).await,
            Verb::Replay(args) => command::plan::replay(&fleet, &args, &output).await,
            Verb::Pool(args) => command::control::pool(&fleet, &args, &output).await,
            Verb::Approve(args) => command::control::approve(&fleet, &args, &output).await,
            Verb::Pause(args) => command::control::pause(&fleet, &args, &output).await,
            Verb::Resume => command::control::resume(&fleet, &output).await,
            Verb::Power(args) => command::control::power(&fleet, &args, &output).await,
            Verb::Evacuate(args) => command::control::evacuate(&fleet, &args, &output).await,
            Verb::Lock(args) => command::control::lock(&fleet, &args, &output).await,
            Verb::Unlock(args) => command::control::unlock(&fleet, &args, &output).await,
            Verb::Capacity(args) => command::control::capacity(&fleet, &args, &output).await,
            Verb::Reorchestrate => command::control::reorchestrate(&fleet, &output).await,
            Verb::Operations(args) => command::control::operations(&fleet, &args, &output).await,
            Verb::Cancel(args) => command::control::cancel(&fleet, &args, &output).await,
            Verb::Audit(args) => command::control::audit(&fleet, &args, &output).await,
            Verb::Token(args) => command::token::run(&fleet, &args, &output).await,
            Verb::Doctor
            | Verb::Pki(_)
            | Verb::Context(_)
            | Verb::Completion { .. }
            | Verb::Manual { .. }
            | Verb::Version => Ok(Exit::Ok),
        }
    })
}

/// Runs `work` until it is done or Ctrl-C is pressed.
fn until_interrupted(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("can't wait for anything: {e}")))?;
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            // an error says that Ctrl-C can't be told: then it ends the process by itself
            Ok(()) = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        }
    })
}
