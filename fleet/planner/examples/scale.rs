//! Plans a made-up fleet and says how long that took: `scale [NODES] [WORKLOADS]`.

use ebbtide_planner::plan::{plan, plan_around};
use ebbtide_planner::policy::Policy;
use ebbtide_planner::sim::generate::{START, Shape, fleet};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let nodes = args.next().map_or(Ok(5000), |v| v.parse())?;
    let workloads = args.next().map_or(Ok(100_000), |v| v.parse())?;
    let state = fleet(&Shape { nodes, workloads, ..Shape::default() }, 1)?;
    let policy = Policy::default();
    #[allow(clippy::disallowed_methods, reason = "a program measures itself; the library knows no clock")]
    let now = std::time::Instant::now;
    let start = now();
    let whole = plan(&state, &policy, START)?;
    let (ms, saved) = (start.elapsed().as_secs_f64() * 1e3, whole.before_w - whole.after_w);
    println!(
        "whole plan: {ms:.0} ms, {} actions, saves {saved:.0} W of {:.0} W, {:.1} % above the bound",
        whole.actions.len(),
        whole.before_w,
        whole.gap() * 100.0
    );
    let start = now();
    let wrong = ebbtide_planner::check::check(&whole, &state, &policy).len();
    println!("check: {:.0} ms, {wrong} violations", start.elapsed().as_secs_f64() * 1e3);
    let changed: Vec<_> = state.nodes.keys().take(1).cloned().collect();
    let start = now();
    let mut part = plan_around(&state, &policy, START, &changed)?;
    for _ in 0..std::env::var("AGAIN").map_or(0, |v| v.parse().unwrap_or(0)) {
        part = plan_around(&state, &policy, START, &changed)?;
    }
    println!("around one node: {:.2} ms, {} actions", start.elapsed().as_secs_f64() * 1e3, part.actions.len());
    Ok(())
}
