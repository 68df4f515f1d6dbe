//! What the store costs. Run with
//! `cargo test --release -p ebbtide-fleet --lib store::tests::bench -- --ignored --nocapture`.

use std::path::Path;
use std::time::Duration;

use ebbtide_runtime::clock::{self, now};

use super::*;

/// CPU time so far; not asked for where a tool counts instructions, which can't read clocks.
fn own_cpu() -> Duration {
    if std::env::var_os("EBBTIDE_BENCH_NODES").is_some() { Duration::ZERO } else { clock::own_cpu() }
}

const SERIES: u64 = 100;
const TICKS: u64 = 10;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) ^ (self.0 >> 13 & 0xffff)
    }

    /// About normal, with deviation one.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| (self.roll() % 1_000_000) as f64 / 1e6).sum::<f64>() - 6.0
    }
}

/// A hundred series: two zones, and 48 workloads of each.
struct Load {
    noisy: bool,
    zones: [Arc<ZoneInfo>; 2],
    workloads: Vec<Arc<WorkloadInfo>>,
    counters: Vec<u64>,
    seq: u64,
    dice: Dice,
    tick_ms: u64,
}

impl Load {
    fn new(node: u64, noisy: bool, tick_ms: u64) -> Self {
        let workloads = (0..49).map(|n| match n % 4 {
            0 => {
                let uid =
                    format!("0b6e8a2c-93f5-4a63-9d5e-{:012x}", (node * 100 + n).wrapping_mul(0x9e37_79b9_7f4a) >> 3);
                let suffix: String =
                    format!("{node:05}").bytes().map(|b| char::from(b"bcdfghjklm"[usize::from(b - b'0')])).collect();
                let name = format!("web-{n}-7d4b9c6f5d-{suffix}");
                workload(
                    WorkloadKind::Pod,
                    &uid,
                    &[("name", &name), ("namespace", &format!("ns-{}", n % 10)), ("id", &uid)],
                )
            }
            1 => workload(WorkloadKind::Namespace, &format!("ns-{n}"), &[]),
            2 => workload(
                WorkloadKind::Unit,
                &format!("service-{n}.service"),
                &[("name", "x"), ("slice", "system.slice")],
            ),
            _ => workload(WorkloadKind::User, &format!("{}", 1000 + n), &[]),
        });
        Self {
            noisy,
            zones: [zone("package-0", ZoneKind::Package, true), zone("dram", ZoneKind::Dram, true)],
            workloads: workloads.collect(),
            counters: (0..SERIES).map(|n| n * 1_000_000_007).collect(),
            seq: 0,
            dice: Dice(node),
            tick_ms,
        }
    }

    fn frame(&mut self) -> Batch {
        let start = START + self.seq * TICKS * self.tick_ms;
        self.seq += 1;
        let mut batch = batch(self.seq, 1, (0..TICKS).map(|n| start + n * self.tick_ms).collect());
        for n in 0..usize::try_from(SERIES).unwrap() {
            let mut values = Vec::new();
            for _ in 0..TICKS {
                let watts = match (self.noisy, n % 20) {
                    (false, _) => n as f64 * 0.1,
                    (true, 0) => 10.0 * (1.0 + 0.05 * self.dice.normal()),
                    (true, 1..=4) => 0.1 * (1.0 + 0.2 * self.dice.normal()),
                    (true, _) => 0.0,
                };
                #[allow(clippy::cast_possible_truncation)]
                let by = (watts.max(0.0) * 1e3 * self.tick_ms as f64) as u64;
                self.counters[n] += by;
                values.push(self.counters[n]);
            }
            let workload = n.checked_sub(2).and_then(|n| self.workloads.get(n / 2));
            tell(&mut batch, &self.zones[n % 2], workload, 0, &values);
        }
        batch
    }
}

#[derive(Debug, Default)]
struct Cost {
    record: Duration,
    commit: Duration,
    seal: Duration,
    samples: u64,
    hot: u64,
}

fn size(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}

/// Nodes that all tell `frames` frames, ten seconds at a time.
fn ingest(store: &Store, nodes: u64, frames: u64, noisy: bool, tick_ms: u64, dir: &Path) -> Cost {
    let mut loads: Vec<(Load, Connection)> =
        (0..nodes).map(|n| (Load::new(n, noisy, tick_ms), Connection::new(store, &format!("node-{n}"), 1))).collect();
    let mut cost = Cost::default();
    for frame in 0..frames {
        let mut records = Vec::new();
        for (load, connection) in &mut loads {
            let batch = load.frame();
            connection.decoder.decode(&connection.encoder.encode(&batch), &mut connection.decoded).unwrap();
            let begin = own_cpu();
            records.push(connection.stream.record(&connection.decoder, &connection.decoded));
            cost.record += own_cpu() - begin;
        }
        let begin = own_cpu();
        let committed = store.commit(&records).unwrap();
        drop(records);
        cost.commit += own_cpu() - begin;
        cost.samples += committed.samples;
        if frame % 60 == 59 {
            cost.hot = cost.hot.max(size(dir));
            let begin = own_cpu();
            let at = START + (frame + 1) * TICKS * tick_ms;
            while store.seal(at, 64).unwrap().more {}
            cost.seal += own_cpu() - begin;
        }
    }
    let begin = own_cpu();
    store.seal_all(START).unwrap();
    cost.seal += own_cpu() - begin;
    cost
}

fn timed<T>(what: &str, work: impl Fn() -> T) -> T {
    let result = work();
    let begin = now();
    drop(work());
    println!("  {what}: {:.2} ms", now().since(begin).as_secs_f64() * 1e3);
    result
}

#[test]
#[ignore = "a benchmark"]
fn ingest_costs() {
    for noisy in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Options::default()).unwrap();
        // fewer to look at it with tools that make it slow
        let nodes = std::env::var("EBBTIDE_BENCH_NODES").map_or(200, |nodes| nodes.parse().unwrap());
        let cost = ingest(&store, nodes, 181, noisy, 1000, dir.path());
        let each = |cpu: Duration| cpu.as_nanos() as f64 / cost.samples as f64;
        println!(
            "noisy: {noisy}, {} samples: record {:.1} + commit {:.1} + seal {:.1} = {:.1} ns, {:.3} bytes per sample",
            cost.samples,
            each(cost.record),
            each(cost.commit),
            each(cost.seal),
            each(cost.record + cost.commit + cost.seal),
            size(dir.path()) as f64 / cost.samples as f64,
        );
        for (path, bytes) in ["", "day"].map(|sub| (sub, size(&dir.path().join(sub)))) {
            println!("  {path}: {bytes} bytes");
        }
        let day = std::fs::read_dir(dir.path().join("day")).unwrap().next().unwrap().unwrap().path();
        let db = rusqlite::Connection::open(day).unwrap();
        let mut query = db.prepare("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC").unwrap();
        let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
        rows.for_each(|row| println!("    {:?}", row.unwrap()));
        println!("  most on disk before sealing: {:.3} bytes per sample", cost.hot as f64 / (nodes as f64 * 60_000.0));
    }
}

#[test]
#[ignore = "a benchmark"]
fn queries_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    ingest(&store, 3, 8640, true, 1000, dir.path());
    let end = START + 86_400_000;
    println!("one day of 3 nodes at 1 s:");
    drop(store);
    let begin = now();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    println!("  open: {:.1} ms", now().since(begin).as_secs_f64() * 1e3);
    for by in [GroupBy::Node, GroupBy::Component, GroupBy::Pod, GroupBy::Unit] {
        let request = QueryEnergyRequest { node: "node-1".into(), ..ask(by, START, end, 60_000) };
        let answer = timed(&format!("24 h of a node at 1 min by {by:?}"), || store.energy(&request, end).unwrap());
        assert_eq!(answer.buckets, 1440);
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    // frames of ten minutes
    ingest(&store, 100, 1008, true, 60_000, dir.path());
    let end = START + 7 * 86_400_000;
    println!("seven days of 100 nodes at 1 min:");
    for (by, step) in [
        (GroupBy::Namespace, 0),
        (GroupBy::Namespace, 3_600_000),
        (GroupBy::Namespace, 60_000),
        (GroupBy::Node, 3_600_000),
        (GroupBy::Pod, 3_600_000),
    ] {
        let what = format!("fleet over 7 d by {by:?}, step {step}");
        timed(&what, || store.energy(&ask(by, START + 5000, end, step), end).unwrap());
    }
    drop(store);
    let begin = now();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    println!("  open: {:.1} ms", now().since(begin).as_secs_f64() * 1e3);
    drop(store);
}

/// Memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
#[ignore = "a benchmark"]
fn memory_and_restart_of_many_nodes() {
    const NODES: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let mut begin = 0;
    let mut streams = Vec::new();
    let mut samples = 0;
    for n in 0..NODES {
        if n == NODES / 2 {
            begin = resident();
        }
        let mut load = Load::new(n, true, 1000);
        let mut connection = Connection::new(&store, &format!("node-{n}"), 1);
        let records: Vec<Record> = (0..60).map(|_| connection.record(&load.frame())).collect();
        samples += store.commit(records).unwrap().samples;
        streams.push(connection.stream);
    }
    println!("{NODES} nodes, {samples} samples not in days: {} bytes per node", (resident() - begin) / (NODES / 2));
    let request = ask(GroupBy::Namespace, START - 600_000, START + 3_600_000, 60_000);
    timed("fleet by namespace from memory", || store.energy(&request, START + 3_600_000).unwrap());
    drop(streams);
    drop(store);
    let begin = now();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    println!("  open after a crash: {:.1} ms", now().since(begin).as_secs_f64() * 1e3);
    let begin = now();
    drop(store.energy(&request, START + 3_600_000).unwrap());
    println!("  first question about the fleet: {:.1} ms", now().since(begin).as_secs_f64() * 1e3);
    let begin = now();
    store.seal_all(START).unwrap();
    println!("  all sealed: {:.1} ms", now().since(begin).as_secs_f64() * 1e3);
}
