//! `ebbtide-fleet bench query`: days of a fleet are made up and stored, then questions are asked and the daemon started.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_proto::frame::{Decoded, Decoder, Encoder, Limits};
use ebbtide_proto::{NodeId, v1};
use ebbtide_runtime::clock;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::daemon::Daemon;
use super::load::Counters;
use super::scratch;
use crate::args::{BenchQuery, Load};
use crate::config::Config;
use crate::store::{Options, Store, Stream};

/// Values of a series in a frame.
const FRAME: u32 = 10;
/// Each question is asked so often.
const ASKED: usize = 11;
const DAY_MS: u64 = 86_400_000;

/// What was measured.
#[derive(Debug, Serialize)]
struct Result {
    nodes: u32,
    series: u32,
    days: u32,
    interval_ms: u32,
    samples: u64,
    bytes_per_sample: f64,
    /// CPU time for commit, blocks and roll-ups of one sample.
    store_ns_per_sample: f64,
    /// The last 24 hours of one node in minutes: the first time, and the median of further ones.
    node_day_first_ms: f64,
    node_day_ms: f64,
    /// All of the fleet by namespace, in hours.
    fleet_namespaces_first_ms: f64,
    fleet_namespaces_ms: f64,
    /// All of the fleet in one figure per namespace.
    fleet_total_ms: f64,
    /// From the start of the daemon on all this until it serves.
    restart_ms: u64,
}

/// A node of which days are made up.
struct Made {
    counters: Counters,
    encoder: Encoder,
    decoder: Decoder,
    stream: Stream,
}

/// Runs the benchmark.
///
/// # Errors
/// If the scratch folder can't be written, or the daemon not be started.
pub fn query(bench: &BenchQuery) -> anyhow::Result<()> {
    scratch::run(bench.json, |folder| measure(bench, folder))
}

fn measure(bench: &BenchQuery, scratch: &Path) -> anyhow::Result<Result> {
    let folder = scratch.join("data");
    let now_ms = clock::now().wall / 1_000_000;
    let before = clock::own_cpu();
    let (samples, making) = make_up(bench, &folder, now_ms)?;
    let stored = (clock::own_cpu() - before).saturating_sub(making);
    let bytes = super::ingest::size(&folder)?;
    // as after a restart: nothing is in memory but what the kernel keeps of files
    let store = Store::open(&folder, Options::default())?;
    let hour = 3_600_000;
    let node = v1::QueryEnergyRequest {
        from_ms: now_ms.saturating_sub(DAY_MS),
        until_ms: now_ms,
        step_ms: 60_000,
        by: v1::GroupBy::Fleet.into(),
        node: name(bench.nodes / 2),
        ..v1::QueryEnergyRequest::default()
    };
    let fleet = v1::QueryEnergyRequest {
        from_ms: now_ms.saturating_sub(u64::from(bench.days) * DAY_MS),
        until_ms: now_ms,
        step_ms: hour,
        by: v1::GroupBy::Namespace.into(),
        ..v1::QueryEnergyRequest::default()
    };
    let total = v1::QueryEnergyRequest { step_ms: 0, ..fleet.clone() };
    let (node_day_first_ms, node_day_ms) = ask(&store, &node, now_ms)?;
    let (fleet_namespaces_first_ms, fleet_namespaces_ms) = ask(&store, &fleet, now_ms)?;
    let (_, fleet_total_ms) = ask(&store, &total, now_ms)?;
    drop(store);
    let any = "127.0.0.1:0".parse()?;
    let config = Config { grpc: any, http: any, data: folder, log_level: "info".into(), ..Config::default() };
    let path = scratch.join("fleet.toml");
    std::fs::write(&path, config.dump())?;
    let start = clock::now();
    let mut daemon = Daemon::start(&path)?;
    let restart_ms = u64::try_from(clock::now().since(start).as_millis())?;
    daemon.stop()?;
    let per_sample = |n: f64| n / samples.max(1) as f64;
    Ok(Result {
        nodes: bench.nodes,
        series: bench.series,
        days: bench.days,
        interval_ms: bench.interval_ms,
        samples,
        bytes_per_sample: per_sample(bytes as f64),
        store_ns_per_sample: per_sample(stored.as_nanos() as f64),
        node_day_first_ms,
        node_day_ms,
        fleet_namespaces_first_ms,
        fleet_namespaces_ms,
        fleet_total_ms,
        restart_ms,
    })
}

/// Stores days of all nodes. Also the CPU time that making them up took.
fn make_up(bench: &BenchQuery, folder: &Path, now_ms: u64) -> anyhow::Result<(u64, Duration)> {
    let store = Store::open(folder, Options::default())?;
    let span = u64::from(bench.interval_ms) * u64::from(FRAME);
    let frames = u64::from(bench.days) * DAY_MS / span;
    let start_ms = now_ms - frames * span;
    let mut nodes = Vec::new();
    for number in 0..bench.nodes {
        let node = NodeId::new(&name(number))?;
        nodes.push(Made {
            counters: Counters::new(number, bench.series, Load::Noisy, bench.interval_ms, start_ms),
            encoder: Encoder::new(),
            decoder: Decoder::new(Limits::default()),
            stream: store.stream(&node, 1)?,
        });
    }
    let bar =
        ProgressBar::new(frames).with_style(ProgressStyle::with_template("making up {bar:30} {percent} % {eta}")?);
    let (mut samples, mut making) = (0, Duration::ZERO);
    let mut decoded = Decoded::default();
    for n in 1..=frames {
        let mut records = Vec::with_capacity(nodes.len());
        for made in &mut nodes {
            let before = clock::own_cpu();
            let frame = made.encoder.encode(made.counters.next(FRAME));
            made.decoder.decode(&frame, &mut decoded)?;
            making += clock::own_cpu() - before;
            samples += decoded.values.len() as u64;
            records.push(made.stream.record(&made.decoder, &decoded));
        }
        store.commit(&records)?;
        while store.seal(start_ms + n * span, usize::MAX)?.more {}
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((samples, making))
}

/// How long the answer takes the first time, and the median of further times, in milliseconds.
fn ask(store: &Store, question: &v1::QueryEnergyRequest, now_ms: u64) -> anyhow::Result<(f64, f64)> {
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let before = clock::now();
        let answer = store.energy(question, now_ms)?;
        times.push(clock::now().since(before).as_secs_f64() * 1e3);
        anyhow::ensure!(!answer.groups.is_empty(), "the store knows nothing of what was put in");
    }
    let first = *times.first().context("nothing was asked")?;
    times.remove(0);
    times.sort_unstable_by(f64::total_cmp);
    Ok((first, times.get(times.len() / 2).copied().unwrap_or(first)))
}

fn name(number: u32) -> String {
    format!("bench-{number:05}")
}
