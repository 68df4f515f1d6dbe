//! Runs a scenario: `simulate FILE|NAME [SEED] [TRACES]`.

use ebbtide_planner::sim::scenario::Kind;
use ebbtide_planner::sim::{load, openb, report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or("usage: simulate FILE|NAME [SEED] [TRACES]")?;
    let seed = args.next().map_or(Ok(1), |v| v.parse())?;
    let loaded = load::load(&name)?;
    let traces: Option<std::path::PathBuf> = args.next().map(Into::into);
    if loaded.scenario.kind == Kind::Openb {
        let folder = traces.ok_or("openb needs the folder of its traces")?;
        print!("{}", openb::run(&folder, &loaded.scenario.policy, |_, _| {})?);
        return Ok(());
    }
    let report = report::run(&loaded, seed, traces, |_, _| {})?;
    print!("{report}");
    Ok(())
}
