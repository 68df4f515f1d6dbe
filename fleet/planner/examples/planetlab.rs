//! Runs a day of PlanetLab: `planetlab DIR npa|dvfs|thr-mmt-0.8|lr-mmt-1.2|ebbtide [low|high]`.

use ebbtide_planner::policy::Risk;
use ebbtide_planner::sim::planetlab::{Options, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(traces), Some(policy)) = (args.next(), args.next()) else {
        return Err("usage: planetlab DIR npa|dvfs|thr-mmt-0.8|lr-mmt-1.2|ebbtide [low|high]".into());
    };
    let risk = if args.next().as_deref() == Some("high") { Risk::High } else { Risk::Low };
    let options = Options { traces: traces.into(), policy: policy.parse()?, risk };
    #[allow(clippy::disallowed_methods, reason = "a program measures itself; the library is handed the clock")]
    let start = std::time::Instant::now();
    let report = run(&options, |_, _| {}, || start.elapsed().as_secs_f64() * 1000.0)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
