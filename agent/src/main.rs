//! `ebbtide-agent`: measures where this machine's electricity goes.

use std::process::ExitCode;

use ebbtide_agent::cli::{self, Command};
use ebbtide_agent::{command, config};

fn main() -> ExitCode {
    let parsed = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(parsed) => parsed,
        Err(failure) => {
            failure.print();
            return ExitCode::from(failure.exit_code());
        }
    };
    log_to_stderr(&parsed.log_level);
    for warning in &parsed.warnings {
        tracing::warn!("{warning}");
    }
    let result = match parsed.command {
        Command::Run(settings) => command::run::run(*settings),
        Command::Top { settings, once, json } => command::top::run(*settings, once, json),
        Command::Check { settings, json } => command::check::run(*settings, json),
        Command::Zones { settings, json } => command::zones::run(*settings, json),
        Command::Join { settings, token } => command::join::run(&settings, token),
        Command::TwinPlay { scenario, out, seed, speed, duration } => {
            command::twin::play(&scenario, &out, seed, speed, duration)
        }
        Command::TwinScore { scenario, seed, counters, json } => {
            command::twin::score(scenario.as_deref(), seed, counters, json)
        }
        Command::Manual(folder) => command::manual(&folder),
        Command::Print(text) => command::print(&text),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            // the causes are part of the sentence unless there are many
            if parsed.verbose {
                eprintln!("error: {error:?}");
            } else {
                eprintln!("error: {error:#}");
            }
            command::Exit::of(&error).into()
        }
    }
}

fn log_to_stderr(level: &config::LogFilter) {
    let filter = tracing_subscriber::EnvFilter::new(level.as_str());
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        // telling that nobody reads stderr any more would be a panic
        .log_internal_errors(false)
        .init();
}
