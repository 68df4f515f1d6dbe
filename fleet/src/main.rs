//! `ebbtide-fleet`: keeps what the agents of a fleet measure.

use std::process::ExitCode;

use clap::Parser as _;
use ebbtide_fleet::args::Cli;
use ebbtide_fleet::command;

// memory of many short messages on few threads: less of it, and quicker, than the C library's
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let verbose = cli.verbose;
    match command::run(cli) {
        Ok(code) => code,
        Err(error) => {
            if verbose {
                eprintln!("error: {error:?}");
            } else {
                eprintln!("error: {error:#}");
            }
            command::exit_code(&error)
        }
    }
}
