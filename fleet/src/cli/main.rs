//! `ebbtide`: see [`ebbtide_fleet::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ebbtide_fleet::cli::main()
}
