//! `ebbtide-fleet bench ingest`: the daemon in a process of its own, the agents in another, and this one looks.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use ebbtide_proto::identity::Identity;
use ebbtide_runtime::clock;
use serde::Serialize;

use super::agents::{self, Order, Told};
use super::daemon::{Daemon, Owned};
use super::scratch;
use crate::args::BenchIngest;
use crate::config::{Config, LimitsConfig, TlsFiles};
use crate::pki::Authority;
use crate::store::{Options, Store};

/// Set in the process that plays the agents.
const AGENTS: &str = "EBBTIDE_BENCH_AGENTS";

/// What was measured.
#[derive(Debug, Serialize)]
struct Result {
    agents: u32,
    series: u32,
    load: &'static str,
    encrypted: bool,
    interval_ms: u32,
    values_per_frame: u32,
    /// From the first frame to the last ack.
    seconds: f64,
    samples: u64,
    samples_per_second: u64,
    /// CPU time of the daemon from the first frame until all blocks are made.
    cpu_seconds: f64,
    /// Of that, what making blocks at the end took.
    sealing_cpu_seconds: f64,
    samples_per_cpu_second: u64,
    /// Largest, and at the end, of the daemon, in MiB.
    peak_rss_mib: u64,
    rss_mib: u64,
    /// The daemon's memory per connected agent, state included.
    rss_kib_per_agent: u64,
    /// Of the store's files after all blocks are made.
    bytes_per_sample: f64,
    wire_bytes_per_sample: f64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    ack_max_ms: f64,
    /// Frames that the agents sent more than an interval late.
    late_frames: u64,
    failed_agents: u64,
    /// From the start of the daemon on what is stored until it serves.
    restart_ms: u64,
}

/// Runs the benchmark, or plays the agents of one.
///
/// # Errors
/// If a part can't be started or fails.
pub fn ingest(bench: &BenchIngest) -> anyhow::Result<()> {
    if std::env::var_os(AGENTS).is_some() {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        return agents::run(&serde_json::from_str::<Order>(&line)?);
    }
    raise_file_limit(u64::from(bench.agents) + 512)?;
    scratch::run(bench.json, |scratch| {
        let folder = bench.data.clone().unwrap_or_else(|| scratch.join("data"));
        measure(bench, scratch, &folder)
    })
}

fn measure(bench: &BenchIngest, scratch: &Path, folder: &Path) -> anyhow::Result<Result> {
    let config = configure(bench, scratch, folder)?;
    let mut daemon = Daemon::start(&config)?;
    let empty_kib = daemon.memory()?.1;
    let me = std::env::current_exe()?;
    let mut agents = Owned(
        Command::new(me)
            .args(["bench", "ingest"])
            .env(AGENTS, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut to_agents = agents.0.stdin.take().context("no pipe")?;
    let mut from_agents = BufReader::new(agents.0.stdout.take().context("no pipe")?).lines();
    let order = Order::of(bench, daemon.grpc, (!bench.plain).then(|| scratch.join("pki")));
    writeln!(to_agents, "{}", serde_json::to_string(&order)?)?;
    eprintln!("connecting {} agents …", bench.agents);
    let ready = from_agents.next().context("the agents ended")??;
    ensure!(ready == "ready", "the agents said {ready:?}");
    eprintln!("sending for {} s …", bench.seconds);
    let (began, cpu) = (clock::now(), daemon.cpu()?);
    writeln!(to_agents)?;
    let told: Told = serde_json::from_str(&from_agents.next().context("the agents ended")??)?;
    let seconds = clock::now().since(began).as_secs_f64();
    let (peak_kib, rss_kib) = daemon.memory()?;
    agents.0.wait()?;
    let served = daemon.cpu()? - cpu;
    daemon.stop()?;
    // what the daemon would do later is done now, and counted
    eprintln!("making blocks …");
    let before = clock::own_cpu();
    let store = Store::open(folder, Options::default())?;
    store.seal_all(clock::now().wall / 1_000_000)?;
    drop(store);
    let sealing = (clock::own_cpu() - before).as_secs_f64();
    let bytes = size(folder)?;
    let restart = clock::now();
    let mut again = Daemon::start(&config)?;
    let restart_ms = u64::try_from(clock::now().since(restart).as_millis())?;
    again.stop()?;
    let cpu_seconds = served + sealing;
    let per = |n: f64, d: f64| if d > 0.0 { n / d } else { 0.0 };
    #[allow(clippy::cast_possible_truncation, reason = "rates far below 2^63")]
    let whole = |x: f64| x.round() as u64;
    Ok(Result {
        agents: bench.agents,
        series: bench.series,
        load: if bench.load == crate::args::Load::Steady { "steady" } else { "noisy" },
        encrypted: !bench.plain,
        interval_ms: bench.interval_ms,
        values_per_frame: bench.frame,
        seconds,
        samples: told.samples,
        samples_per_second: whole(per(told.samples as f64, seconds)),
        cpu_seconds,
        sealing_cpu_seconds: sealing,
        samples_per_cpu_second: whole(per(told.samples as f64, cpu_seconds)),
        peak_rss_mib: peak_kib / 1024,
        rss_mib: rss_kib / 1024,
        rss_kib_per_agent: rss_kib.saturating_sub(empty_kib) / u64::from(bench.agents),
        bytes_per_sample: per(bytes as f64, told.samples as f64),
        wire_bytes_per_sample: per(told.bytes as f64, told.samples as f64),
        ack_p50_ms: told.ack_ms[0],
        ack_p99_ms: told.ack_ms[1],
        ack_max_ms: told.ack_ms[2],
        late_frames: told.late,
        failed_agents: told.failed,
        restart_ms,
    })
}

fn configure(bench: &BenchIngest, scratch: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let any = "127.0.0.1:0".parse()?;
    let mut config = Config {
        grpc: any,
        http: any,
        data: folder.to_owned(),
        limits: LimitsConfig { nodes: bench.agents as usize + 1, ..LimitsConfig::default() },
        log_level: "info".into(),
        ..Config::default()
    };
    if !bench.plain {
        let now_ms = clock::now().wall / 1_000_000;
        let pki = scratch.join("pki");
        let authority = Authority::init(&pki, false, now_ms)?;
        let issued = authority.issue(&Identity::Fleet, &["127.0.0.1".to_owned()], 1, now_ms)?;
        let (cert, key) = (scratch.join("fleet.pem"), scratch.join("fleet-key.pem"));
        std::fs::write(&cert, &issued.chain_pem)?;
        std::fs::write(&key, &issued.key_pem)?;
        config.tls = Some(TlsFiles { cert, key, client_ca: pki.join("ca.pem"), authority: None });
    }
    let path = scratch.join("fleet.toml");
    std::fs::write(&path, config.dump())?;
    Ok(path)
}

/// Bytes of all files below a folder.
pub(super) fn size(folder: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { size(&entry.path())? } else { about.len() };
    }
    Ok(sum)
}

fn raise_file_limit(wanted: u64) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= wanted) {
        return Ok(());
    }
    let maximum = limit.maximum.map_or(Some(wanted), |most| Some(most.max(wanted)));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .with_context(|| format!("{wanted} open files are needed: ulimit -n {wanted}"))
}
