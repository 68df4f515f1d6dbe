use ebbtide_planner::{check::check, plan::*, policy::Policy, sim::generate::*};
use std::time::Instant;
fn main(){
    let a: Vec<String> = std::env::args().collect();
    let n = |i: usize, d: u32| a.get(i).and_then(|v| v.parse().ok()).unwrap_or(d);
    let placed = a.get(3).is_none();
    let shape = Shape { nodes: n(1, 5000), workloads: n(2, 100_000), asked: 0.4, special: 0.1, placed };
    let s = fleet(&shape, 1).unwrap(); let p = Policy::default();
    println!("waiting {}", s.places.waiting().count());
    let t = Instant::now(); let plan1 = plan(&s, &p, START).unwrap();
    println!("plan {:.0} ms before {:.0} after {:.0} bound {:.0} gap {:.2} % actions {} cut {} unplaced {}", t.elapsed().as_secs_f64()*1e3, plan1.before_w, plan1.after_w, plan1.bound_w, plan1.gap()*100.0, plan1.actions.len(), plan1.cut_short, plan1.unplaced.len());
    if n(1,5000) <= 500 { let v = check(&plan1, &s, &p); println!("violations {} {:?}", v.len(), v.first()); }
    let rss = std::fs::read_to_string("/proc/self/status").unwrap(); println!("{}", rss.lines().find(|l| l.starts_with("VmHWM")).unwrap());
    let id = s.nodes.keys().nth(7).unwrap().clone();
    for _ in 0..3 { let t = Instant::now(); let p2 = plan_around(&s, &p, START, &[id.clone()]).unwrap(); println!("around {:.2} ms actions {}", t.elapsed().as_secs_f64()*1e3, p2.actions.len()); }
    if n(1,5000) <= 500 { let mut s2 = s.clone(); for e in plan1.effects() { s2.apply(START, e); } let p3 = plan(&s2, &p, START).unwrap(); println!("again {} actions {:?}", p3.actions.len(), p3.actions.first()); }
}
