//! Runs a scenario: `simulate FILE|NAME [SEED] [TRACES]`.

use ebbtide_planner::sim::{load, report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or("usage: simulate FILE|NAME [SEED] [TRACES]")?;
    let seed = args.next().map_or(Ok(1), |v| v.parse())?;
    let report = report::run(&load::load(&name)?, seed, args.next().map(Into::into), |_, _| {})?;
    print!("{report}");
    Ok(())
}
