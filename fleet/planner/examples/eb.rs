use ebbtide_planner::{model::boot::BootModel, policy::*, sim::planetlab::{driver::*, traces, world::*}};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let e = |k: &str, d: f64| std::env::var(k).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
    let traces = traces::read(std::path::Path::new(&a[1])).unwrap();
    let bound: f64 = (0..288).map(|k| traces.iter().map(|t| t.points[k]*t.mips).sum::<f64>()*135.0/5320.0*300.0/3.6e6).sum();
    let m = Margins { relieve: e("ZR",0.0), fit: e("ZF",1.0), drain: e("ZD",1.0), fill: e("FILL",1.0) };
    let policy = Policy { basis: Basis::Forecast, risk: Risk::Margins(m), horizon_s: e("HOR",3600.0) as u64, margin: e("PAY",1.5), disruption_j: e("DIS",500.0),
        min_on_s: e("MINON",0.0) as u64, min_off_s: 0, sleep_after_s: e("SLEEP",0.0) as u64, min_stay_s: e("STAY",0.0) as u64, switches_per_day: 1000, stale_after_s: 100000, ..Policy::default() };
    let mut w = World::new(traces, 800, std::env::var("KEEP").is_err());
    let mut d = Driver::new(&w, policy, BootModel::guess(0.1, e("BOOTJ", 0.0), 0.0), 1).unwrap();
    d.start(&mut w).unwrap();
    let lost = w.vms.iter().filter(|v| v.host.is_none()).count(); if lost > 0 { println!("LOST {lost}"); }
    let hosts0 = w.hosts.iter().filter(|h| !h.vms.is_empty()).count();
    let mut t = 0.1; let mut on = 0.0; let mut n = 0.0; let mut first = 0; let (mut ron, mut lat) = (0, 0);
    let t0 = std::time::Instant::now();
    loop { t += 300.0; if t > 86400.0 { break }
        w.advance(t);
        let (p, m) = d.decide(&w).unwrap();
        for a in &p.actions { match a.what { ebbtide_planner::plan::action::Do::PowerOn{..} => ron += 1, _ => {} } }
        let off: std::collections::BTreeSet<_> = p.actions.iter().filter_map(|a| match &a.what { ebbtide_planner::plan::action::Do::PowerOff{node} => Some(node.clone()), _ => None }).collect(); if n > 0.0 { lat += p.actions.iter().filter(|a| matches!(&a.what, ebbtide_planner::plan::action::Do::Move{from,..} if off.contains(from))).count(); }
        w.migrate(&m); if n == 0.0 { first = m.len(); }
        on += d.state.nodes.values().filter(|n| n.power == ebbtide_planner::state::node::PowerState::On).count() as f64; n += 1.0;
        if std::env::var("V").is_ok() && (n as u64) % 12 == 0 { eprintln!("t {t:.0} before {:.0} after {:.0} bound {:.0} on {}", p.before_w, p.after_w, p.bound_w, d.state.nodes.values().filter(|n| n.power == ebbtide_planner::state::node::PowerState::On).count()); }
    }
    w.finish();
    let b = &w.books;
    println!("kWh {:.2} x{:.3} mig {} slatah {:.2} slav {:.5} unmet {:.3} shut {} start {} | init {} first {} on {:.1} wakes {} drainmoves {} ms/dec {:.2}", b.joules/3.6e6, b.joules/3.6e6/bound, b.migrations, b.slatah()*100.0, b.slatah()*b.pdm()*100.0, b.unmet()*100.0, b.shutdowns, b.starts, hosts0, first, on/n, ron, lat, t0.elapsed().as_secs_f64()*1000.0/n);
}
