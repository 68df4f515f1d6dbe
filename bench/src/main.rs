//! `ebbtide-bench`: what the agent costs, beside what it should cost.
//!
//! `cargo run --release -p ebbtide-bench` starts its own processes to be measured, a made-up RAPL, and the agent.
//! `outside` measures the agent as a user runs it, `inside` the parts of a cycle, `methods` the ways to know who ran, `accuracy` its
//! figures on simulated machines; `suite` says what is measured and to what limits; `load` and `fake_rapl` are this program's helper modes.

mod accuracy;
mod fake_rapl;
mod figures;
mod inside;
mod kernel;
mod load;
mod machine;
mod methods;
mod outside;
mod report;
mod scrape;
mod suite;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;

use suite::{Part, Suite};

/// Measures what ebbtide-agent costs and prints tables in markdown.
#[derive(Parser)]
#[command(name = "ebbtide-bench")]
struct Arguments {
    /// Small and short: shows that everything works, and little more.
    #[arg(long)]
    quick: bool,

    /// Only this part; may be given several times.
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,

    /// Put the tables into docs/benchmarks.md as well.
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    write: bool,

    /// The agent to be measured [default: the one beside this program].
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match helper() {
        Some(result) => result,
        None => measure(&Arguments::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The modes in which the program starts itself. They come first, since they fork.
fn helper() -> Option<anyhow::Result<()>> {
    let mut words = std::env::args().skip(1);
    let (mode, argument) = (words.next()?, words.next().unwrap_or_default());
    match mode.as_str() {
        suite::SLEEPERS => Some(argument.parse().map_err(Into::into).and_then(load::sleepers)),
        suite::BUSY => {
            let percents: Result<Vec<u32>, _> = argument.split(',').map(str::parse).collect();
            Some(percents.map_err(Into::into).and_then(|p| load::busy(&p)))
        }
        suite::RAPL => Some(argument.parse().map_err(Into::into).and_then(fake_rapl::serve)),
        _ => None,
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        bail!("a debug build says nothing about cost; run: cargo run --release -p ebbtide-bench");
    }
    let agent = agent(arguments.agent.as_deref())?;
    let machine = machine::describe(std::fs::metadata(&agent)?.len());
    let suite = Suite::new(agent, arguments.quick, &arguments.only);
    let section = report::section(&machine, &suite.run()?);
    print!("{section}");
    if arguments.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
        report::write(&docs, &section)?;
    }
    Ok(())
}

fn agent(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().with_context(|| format!("no agent at {}", path.display()));
    }
    let own = std::env::current_exe()?;
    let beside = own.with_file_name("ebbtide-agent");
    if !beside.is_file() {
        bail!("there is no agent at {}; build it: cargo build --release -p ebbtide-agent", beside.display());
    }
    Ok(beside)
}
