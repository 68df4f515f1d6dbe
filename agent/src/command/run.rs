//! `run`: measures and serves metrics until stopped.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::outlets::Outlets;
use super::{Exit, rights, sampler_options, sources, usage_reader};
use crate::config::{Fleet, FleetAddress, Settings, SpoolSize, Wall};
use crate::export::{View, http, kepler, own, pages::Pages, web_config::WebConfig};
use crate::sampler::Sampler;
use crate::sampler::run::Running;
use crate::snapshot::{Published, Snapshot};
use crate::source::discover::Role;
use crate::source::wall::WallFeed;
use crate::source::{SourceKind, Zone};
use crate::stream::batch;
use crate::stream::client::{self, Plan};
use crate::stream::connect::Target;
use crate::stream::figures::Latest;
use crate::stream::identity::Identity;
use crate::stream::spool::Limits;
use crate::tasks::Tasks;
use crate::workload::{Kubelet, KubeletConfig, KubeletNames};

/// Connections get this long to end at a stop.
const DRAIN: Duration = Duration::from_secs(7);

/// The page is served after this long even if there is no sample yet.
const FIRST_SAMPLE: Duration = Duration::from_secs(5);

/// Runs until SIGINT or SIGTERM.
pub fn run(settings: Settings) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<Exit> {
    // what the operator may have got wrong comes first
    let web = settings.web_config.as_deref().map(WebConfig::load).transpose()?;
    let tls = web.as_ref().is_some_and(WebConfig::is_tls);
    let listener = http::bind(settings.listen).await?;
    let kubelet = settings.kubelet.as_ref().map(kubelet).transpose()?;
    let mut usage = usage_reader(&settings)?;
    if let Some(why) = &usage.without_bpf {
        tracing::info!("usage is read from /proc: {why}");
    }
    if let Some(why) = &usage.without_counters {
        tracing::warn!("counters are not used: {why}");
    }
    let needed = rights::NEEDED | rights::needed_by(usage.reader.as_mut());
    rights::keep_only(rights::NEEDED_FOR_SENSORS | needed);
    let outlets = settings.wall_devices.as_deref().map(Outlets::open).transpose()?;
    let by_fleet = outlets.is_none() && settings.fleet.is_some() && settings.stream.wall == Wall::Auto;
    let wall = (by_fleet || outlets.is_some()).then(WallFeed::default);
    let discovery = sources(&settings, wall.as_ref());
    rights::keep_only(needed);
    for skipped in &discovery.skipped {
        tracing::info!("not used: {skipped}");
    }
    let zones = discovery.zones();
    let names = kubelet.is_some().then(|| Arc::new(KubeletNames::default()));
    let sampler = Sampler::new(settings.root.clone(), usage.reader, discovery.sources, sampler_options(&settings))?;
    let published = Published::new(Snapshot::empty(Arc::clone(sampler.node())));
    let figures = settings.fleet.is_some().then(Arc::<Latest>::default);
    let view = Arc::new(View {
        names: settings.names.clone(),
        levels: settings.levels.clone(),
        labels: settings.labels.clone(),
        processes: settings.processes,
        series_budget: settings.series_budget,
        gzip: settings.gzip,
        processors: kepler::processors(&settings.root),
        own: own::Own::new(figures.clone())?,
    });
    let running = Running::start(sampler, settings.interval, published.clone(), names.clone())
        .context("can't start the sampler's thread")?;
    let mut tasks = Tasks::new();
    if let (Some(kubelet), Some(names)) = (kubelet, names) {
        let stop = tasks.shutdown().receiver();
        tasks.spawn("kubelet", async move {
            names.refresh_loop(kubelet, stop).await;
            Ok(())
        });
    }
    if let (Some(outlets), Some(wall)) = (outlets, wall.clone()) {
        outlets.start(wall, &mut tasks);
    }
    if let (Some(fleet), Some(figures)) = (&settings.fleet, figures) {
        let plan = plan(&settings, fleet, &zones, wall.filter(|_| by_fleet));
        tasks.spawn("fleet", client::run(plan, published.clone(), figures, tasks.shutdown()));
    }
    let address = listener.local_addr()?;
    // who connects meanwhile waits: the first page has something on it
    let waited = tokio::time::timeout(FIRST_SAMPLE, published.after(0)).await;
    if waited.is_err() {
        tracing::warn!("the first sample takes unusually long");
    }
    let router = Pages { published: published.clone(), view, host: settings.root.clone() }.router();
    let stop = tasks.shutdown();
    tasks.spawn("http", http::serve(listener, router, web, stop));
    tell(&published.load());
    tracing::info!("metrics at {}://{address}/metrics", if tls { "https" } else { "http" });
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let failed = tokio::select! {
        _ = term.recv() => false,
        _ = int.recv() => false,
        ended = tasks.next_ended() => ended.is_some(),
    };
    tracing::info!("stopping");
    let ended = tasks.finish(DRAIN).await;
    drop(running);
    drop(ended);
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

/// Says in the log what is measured.
fn tell(snapshot: &Snapshot) {
    for z in &snapshot.zones {
        let role = if z.role == Role::Total { "counts towards the node" } else { z.role.as_str() };
        tracing::info!("zone {} ({}, {}): {role}", z.zone.name, z.zone.source.as_str(), z.quality().as_str());
    }
    if snapshot.zones.is_empty() {
        tracing::warn!("nothing tells energy here, not even a load curve; ebbtide-agent check says why");
    }
}

/// What the fleet is told, and how it is reached.
fn plan(settings: &Settings, fleet: &Fleet, zones: &[Zone], wall: Option<WallFeed>) -> Plan {
    let stream = &settings.stream;
    let own = |z: &&Zone| !matches!(z.source, SourceKind::Model | SourceKind::Outlet);
    let sensors: Vec<&str> = zones.iter().filter(own).map(|z| z.name.as_str()).collect();
    let (bytes, on_disk) = match stream.spool_size {
        SpoolSize::Bytes(bytes) => (bytes, true),
        SpoolSize::Off => (0, false),
    };
    Plan {
        target: target(settings, fleet),
        batch: batch::Options {
            node_interval: stream.node_interval,
            workload_interval: stream.workload_interval,
            levels: stream.levels.clone(),
        },
        spool: settings.state.as_ref().filter(|_| on_disk).map(|state| state.join("spool")),
        limits: Limits { bytes, age: stream.spool_age, ..Limits::default() },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        no_curve: match sensors.as_slice() {
            [] => "the load curve of an agent that runs can't be changed: set model-idle and model-full".to_owned(),
            sensors => format!("this node has sensors and needs no load curve: {}", sensors.join(", ")),
        },
        shut_down: fleet.shut_down(),
        wall,
    }
}

/// How the fleet is reached, and which files say who this node is.
pub(super) fn target(settings: &Settings, fleet: &Fleet) -> Target {
    let usual = Identity::in_state(settings.state.as_deref().unwrap_or(Path::new("")));
    let identity = Identity {
        ca: fleet.ca.clone().unwrap_or(usual.ca),
        cert: fleet.cert.clone().unwrap_or(usual.cert),
        key: fleet.key.clone().unwrap_or(usual.key),
    };
    let FleetAddress { tls, host, port } = fleet.address.clone();
    Target { host, port, identity: tls.then_some(identity) }
}

/// The kubelet that the settings name.
pub(super) fn kubelet(k: &crate::config::Kubelet) -> anyhow::Result<Kubelet> {
    let config = KubeletConfig {
        url: k.url.clone(),
        ca_file: k.ca.clone(),
        insecure: k.insecure,
        token_file: k.token.clone(),
        ..KubeletConfig::default()
    };
    Kubelet::new(config).context("can't ask the kubelet for names of pods")
}
