//! Runs a day of PlanetLab: `planetlab DIR npa|dvfs|thr-mmt-0.8|lr-mmt-1.2|ebbtide|real [low|high]`; `real` is the second
//! score, with boots that take their time.

use ebbtide_planner::policy::Risk;
use ebbtide_planner::sim::planetlab::{Options, real, run, traces};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(traces), Some(policy)) = (args.next(), args.next()) else {
        return Err("usage: planetlab DIR npa|dvfs|thr-mmt-0.8|lr-mmt-1.2|ebbtide|real [low|high]".into());
    };
    let risk = if args.next().as_deref() == Some("high") { Risk::High } else { Risk::Low };
    if policy == "real" {
        let report = real::run(&traces::read(traces.as_ref())?, risk, 1, |_, _| {})?;
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let options = Options { traces: traces.into(), policy: policy.parse()?, risk };
    #[allow(clippy::disallowed_methods, reason = "a program measures itself; the library is handed the clock")]
    let start = std::time::Instant::now();
    let report = run(&options, |_, _| {}, || start.elapsed().as_secs_f64() * 1000.0)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
