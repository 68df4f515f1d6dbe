//! `run`: measures and serves metrics until stopped.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, rights, sampler_options, sources, usage_reader};
use crate::config::Settings;
use crate::export::{View, http, kepler, own, pages::Pages, web_config::WebConfig};
use crate::sampler::Sampler;
use crate::sampler::run::Running;
use crate::snapshot::{Published, Snapshot};
use crate::source::discover::Role;
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
    let usage = usage_reader(&settings)?;
    if let Some(why) = &usage.without_bpf {
        tracing::info!("usage is read from /proc: {why}");
    }
    if let Some(why) = &usage.without_counters {
        tracing::warn!("counters are not used: {why}");
    }
    rights::keep_only(rights::NEEDED_FOR_SENSORS);
    let discovery = sources(&settings);
    rights::keep_only(rights::NEEDED);
    for skipped in &discovery.skipped {
        tracing::info!("not used: {skipped}");
    }
    let names = kubelet.is_some().then(|| Arc::new(KubeletNames::default()));
    let sampler = Sampler::new(settings.root.clone(), usage.reader, discovery.sources, sampler_options(&settings))?;
    let published = Published::new(Snapshot::empty(Arc::clone(sampler.node())));
    let view = Arc::new(View {
        names: settings.names.clone(),
        levels: settings.levels.clone(),
        labels: settings.labels.clone(),
        processes: settings.processes,
        series_budget: settings.series_budget,
        gzip: settings.gzip,
        processors: kepler::processors(&settings.root),
        own: own::Own::new()?,
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
