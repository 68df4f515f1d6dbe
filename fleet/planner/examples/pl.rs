use ebbtide_planner::sim::planetlab::{baseline::*, traces, world::*};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let traces = traces::read(std::path::Path::new(&a[1])).unwrap();
    let finish = a.get(3).is_none();
    let mut w = World::new(traces, 800, finish);
    let o = match a[2].as_str() { "thr" => Some(Overload::Threshold(0.8)), "lr" => Some(Overload::Regression(1.2)), _ => None };
    match o { Some(o) => place_best_fit(&mut w, o), None => place_first_fit(&mut w) }
    if std::env::var("INIT").is_ok(){for (i,v) in w.vms.iter().enumerate(){println!("{i} {}",v.host.unwrap());}}
    let mut t = 0.1;
    loop { t += 300.0; if t > 86400.0 { break }
        w.advance(t);
        if let Some(o) = o { let m = optimise(&w, o); if std::env::var("MIG").is_ok(){for &(v,h) in &m{println!("{t:.2} {v} {h}");}} w.migrate(&m); } }
    w.finish();
    let b = &w.books;
    println!("kWh {:.4} mig {} slatah {:.4} pdm {:.5} slav {:.6} unmet {:.4} shutdowns {} alive {}", b.joules/3.6e6, b.migrations, b.slatah()*100.0, b.pdm()*100.0, b.slatah()*b.pdm()*100.0, b.unmet()*100.0, b.shutdowns, w.vms.iter().filter(|v| v.host.is_some()).count());
}
