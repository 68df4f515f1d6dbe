//! `ebbtide-fleet serve`: puts the parts together, opens the ports, and ends everything in order.
//!
//! `connection` is what a gRPC connection is before anything is read of it, `pages` the HTTP side, `kubernetes` joins a
//! cluster, `control` is what commands on the same machine ask of a daemon that runs.

mod connection;
pub mod control;
mod deeds;
mod kubernetes;
mod orders;
mod pages;
mod watts;

pub use connection::Connection;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_proto::v1::control_server::ControlServer;
use ebbtide_proto::v1::devices_server::DevicesServer;
use ebbtide_proto::v1::enrolment_server::EnrolmentServer;
use ebbtide_proto::v1::fleet_server::FleetServer;
use ebbtide_proto::v1::planner_server::PlannerServer;
use ebbtide_proto::v1::telemetry_server::TelemetryServer;
use ebbtide_proto::{NodeId, frame, v1};
use ebbtide_runtime::tasks::{self, Shutdown, Tasks};
use ebbtide_runtime::tls::{ClientAuth, Pem, Tls, TlsSettings};
use ebbtide_runtime::web_config::WebConfig;
use ebbtide_runtime::{clock, http};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;

use crate::act::hooks::Hooks;
use crate::act::hosts::Hosts;
use crate::act::lead::Lead;
use crate::act::{Acting, Driver, Journal, Reach};
use crate::api::{
    ControlService, DevicesService, EnrolmentService, FleetService, Ingest, PlannerService, TelemetryService, Trust,
};
use crate::catalogue::Catalogue;
use crate::config::{Config, TlsFiles};
use crate::decide::{self, Plans};
use crate::export;
use crate::ingest::{Committer, Counts, Limits};
use crate::live::{Live, Staleness};
use crate::pki::{self, Authority};
use crate::power::history::History;
use crate::power::{Rack, wake};
use crate::query::{Answers, PlanQueries, Queries};
use crate::store::{Options, Store};

/// Connections get this long to end at a stop.
const DRAIN: Duration = Duration::from_secs(7);
/// How often blocks are made of frames whose time is over, and of how many nodes at once.
const SEAL: Duration = Duration::from_secs(2);
const SEAL_NODES: usize = 64;
/// How often what is too old is removed.
const RETAIN: Duration = Duration::from_secs(3600);
/// Bytes that an agent may send before they are read: small, for there are many.
const WINDOW: u32 = 64 << 10;

/// The fleet daemon's state, opened.
pub struct Fleet {
    /// What all agents' connections share.
    pub ingest: Arc<Ingest>,
    /// Who answers questions.
    pub answers: Arc<Answers>,
    committer: Committer,
}

/// Where the daemon listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// gRPC.
    pub grpc: SocketAddr,
    /// Dashboard and metrics.
    pub http: SocketAddr,
}

impl Fleet {
    /// Opens the store in `data` and starts the committer.
    ///
    /// # Errors
    /// If the folder can't be used, or another daemon uses it.
    pub fn open(config: &Config, rack: Arc<Rack>, stop: Shutdown) -> anyhow::Result<Self> {
        let now_ms = now_ms();
        let data = &config.data;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .with_context(|| format!("can't make the folder {}; choose another with --data DIR", data.display()))?;
        let store = Store::open(data, Options { retention: config.retention.into() })?;
        let staleness =
            Staleness { after_ms: config.limits.stale_after_s.saturating_mul(1000), ..Staleness::default() };
        let live = Arc::new(Live::new(staleness));
        remember(&live, &store, now_ms);
        let counts = Arc::new(Counts::default());
        let (committer, submitter) =
            Committer::start(store.clone(), Arc::clone(&counts)).context("can't start a thread")?;
        let answers = Arc::new(Answers {
            live: Arc::clone(&live),
            rack: Arc::clone(&rack),
            store: store.clone(),
            counts: Arc::clone(&counts),
            started_ms: now_ms,
            encrypted: config.tls.is_some(),
            data_dir: data.display().to_string(),
            sealed_ms: AtomicU64::new(0),
        });
        let limits = Limits {
            nodes: config.limits.nodes,
            frame: frame::Limits {
                series: config.limits.series,
                names: config.limits.series,
                ..frame::Limits::default()
            },
            message_bytes: config.limits.message_bytes,
            skew_ms: config.limits.clock_skew_s.saturating_mul(1000),
            frame_ms: config.limits.frame_ms,
            ..Limits::default()
        };
        let agents = Arc::default();
        let open = AtomicU64::new(0);
        let ingest = Arc::new(Ingest { live, store, submitter, counts, limits, open, rack, agents, stop });
        Ok(Self { ingest, answers, committer })
    }

    /// The gRPC services.
    ///
    /// # Errors
    /// If the descriptors of the services can't be read, which a test would see.
    pub fn services(
        &self,
        trust: Trust,
        enrolment: EnrolmentService,
        devices: DevicesService,
        planner: PlannerService,
        control: ControlService,
        stop: Shutdown,
    ) -> anyhow::Result<Router> {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .context("the descriptors are broken")?;
        let (_, health) = tonic_health::server::health_reporter();
        let most = self.ingest.limits.message_bytes;
        let telemetry = TelemetryServer::new(TelemetryService::new(Arc::clone(&self.ingest)))
            .max_decoding_message_size(most)
            .max_encoding_message_size(64 << 10);
        let queries: Arc<dyn Queries> = Arc::clone(&self.answers) as _;
        let fleet = FleetServer::new(FleetService::new(queries, trust, stop)).max_decoding_message_size(64 << 10);
        Ok(tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(16)
            .http2_max_header_list_size(16 << 10)
            .max_frame_size(16 << 10)
            .add_service(telemetry)
            .add_service(fleet)
            .add_service(DevicesServer::new(devices).max_decoding_message_size(64 << 10))
            .add_service(PlannerServer::new(planner).max_decoding_message_size(1 << 20))
            .add_service(ControlServer::new(control).max_decoding_message_size(64 << 10))
            .add_service(EnrolmentServer::new(enrolment).max_decoding_message_size(64 << 10))
            .add_service(health)
            .add_service(reflection))
    }

    /// Writes what was taken, and closes the store. Everyone who could submit has to be gone.
    pub fn close(self) {
        let Self { ingest, answers, committer } = self;
        drop(answers);
        match Arc::try_unwrap(ingest) {
            Ok(ingest) => {
                drop(ingest);
                committer.finish();
            }
            // a connection was cut off and is not quite gone: what it brought was not acknowledged
            Err(_) => tracing::debug!("a connection still ends"),
        }
    }
}

/// Serves gRPC on connections as they come.
///
/// # Errors
/// If the server breaks.
pub async fn grpc<S>(
    router: Router,
    connections: mpsc::Receiver<io::Result<Connection<S>>>,
    stop: Shutdown,
) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let ended = async move { stop.requested().await };
    Ok(router.serve_with_incoming_shutdown(ReceiverStream::new(connections), ended).await?)
}

/// Runs the daemon until `stopped` is done.
///
/// # Errors
/// If something that it needs can't be opened, or breaks.
pub async fn run(
    config: Config,
    ready: impl FnOnce(Addresses),
    stopped: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    config.check()?;
    // what the operator may have got wrong comes first
    let (grpc_tls, web) = match &config.tls {
        Some(files) => {
            let web = WebConfig { tls: Some(server_tls(files, "http/1.1")?), ..WebConfig::default() };
            (Some(Arc::new(server_tls(files, "h2")?)), Some(web))
        }
        None => (None, None),
    };
    let authority = match config.tls.as_ref().and_then(|tls| tls.authority.as_ref()) {
        Some(folder) => Some(Arc::new(Authority::load(folder)?)),
        None => None,
    };
    let senders = config.remote_write.iter().map(sender).collect::<anyhow::Result<Vec<_>>>()?;
    let grpc_listener = listen(config.grpc, "grpc").await?;
    let http_listener = listen(config.http, "http").await?;
    let addresses = Addresses { grpc: grpc_listener.local_addr()?, http: http_listener.local_addr()? };

    let mut tasks = Tasks::new();
    let stop = tasks.shutdown();
    let devices = config.devices().map_err(anyhow::Error::msg)?;
    let (rack, pollers) = Rack::open(&devices, &config.feed)?;
    let rack = Arc::new(rack);
    let fleet = Fleet::open(&config, Arc::clone(&rack), stop.clone())?;
    let catalogue = Catalogue::open(&config.data)?;
    let trust = Trust { plain: Some(config.plain_role), anonymous: config.anonymous_role };
    let live = &fleet.ingest.live;
    let history = Arc::new(Mutex::new(History::default()));
    let (tests, orders) = mpsc::channel(1);
    let service = DevicesService::new(
        Arc::clone(&rack),
        Arc::clone(live),
        Arc::clone(&history),
        catalogue.clone(),
        trust,
        tests,
        stop.clone(),
    );
    for (poller, device) in pollers.into_iter().zip(&devices.device) {
        tasks.spawn(format!("device {}", device.name), poller.run(stop.clone()));
    }
    let tests = wake::tests(orders, Arc::clone(&rack), Arc::clone(live), catalogue.clone(), stop.clone());
    tasks.spawn("tests of waking", tests);
    let answers = Arc::clone(&fleet.answers) as Arc<dyn Queries>;
    let noting = watts::note(history, Arc::clone(&rack), answers, stop.clone());
    tasks.spawn("watts", noting);
    let plan = &config.plan;
    let settle = Duration::from_secs(plan.settle_s);
    let plans =
        Arc::new(Plans::open(&config.data, plan.mode, plan.inventory.as_deref(), plan.policy.as_deref(), settle)?);
    let journal = Journal::open(&config.data)?;
    let joined = match &config.kubernetes {
        Some(cluster) => Some(kubernetes::Joined::new(cluster, journal.name()?, &mut tasks).await?),
        None => None,
    };
    if let Some(joined) = &joined {
        plans.follow(joined.followed.clone());
    }
    let planning = decide::run(
        Arc::clone(&plans),
        Arc::clone(live),
        Arc::clone(&rack),
        catalogue.clone(),
        Duration::from_secs(plan.every_s),
        stop.clone(),
    );
    tasks.spawn("plans", planning);
    let planner = PlannerService::new(Arc::clone(&plans) as Arc<dyn PlanQueries>, trust);
    let (hooks, runner) = Hooks::new(&config.act.hook);
    tasks.spawn("hooks", runner.run(stop.clone()));
    let hosts = Hosts {
        rack: Arc::clone(&rack),
        live: Arc::clone(live),
        agents: Arc::clone(&fleet.ingest.agents),
        journal,
        hooks,
        plans: Arc::clone(&plans),
    };
    let reach = Reach { hosts, cluster: joined.as_ref().map(|j| j.cluster.clone()) };
    let lead = joined.as_ref().map_or(Lead::Always, |j| j.lead.clone());
    let (driver, acting) = Driver::open(reach, lead, Arc::clone(&plans), &config.act)?;
    let mut extender = None;
    let mut ended = None;
    if let (Some(joined), Some(cluster)) = (joined, &config.kubernetes) {
        joined.start(cluster, &plans, Duration::from_secs(config.plan.every_s), &acting, &mut tasks);
        (extender, ended) = (joined.extender, Some(joined.ended));
    }
    let ending = stop.clone();
    tasks.spawn("act", async move {
        let outcome = driver.run(ending).await;
        drop(ended);
        outcome
    });
    let control = ControlService::new(acting.clone(), Arc::clone(&plans), trust);
    let enrolment = EnrolmentService::new(catalogue, authority, trust);
    let desk = orders::Desk(control.clone());
    let router = fleet.services(trust, enrolment, service, planner, control, stop.clone())?;
    let (send, connections) = mpsc::channel(64);
    tasks.spawn("accept gRPC", connection::accept(grpc_listener, grpc_tls, send, stop.clone()));
    tasks.spawn("gRPC", grpc(router, connections, stop.clone()));
    let shown = (Arc::clone(&fleet.answers), Arc::clone(&plans), acting.clone());
    let pages = pages::router(shown, desk, extender, trust, stop.clone());
    let limits = http::Limits { connections: 512, ..http::Limits::default() };
    tasks.spawn("http", http::serve_within(limits, http_listener, pages, web, stop.clone()));
    tasks.spawn("control", control::serve(config.data.clone(), fleet.ingest.store.clone(), stop.clone()));
    tasks.spawn("seal", seal(Arc::clone(&fleet.answers), stop.clone()));
    for (sender, every) in senders {
        let of = (Arc::clone(&fleet.answers), Arc::clone(&plans), acting.clone());
        tasks.spawn("remote write", remote_write(sender, every, of, stop.clone()));
    }
    drop(stop);
    ready(addresses);
    let failed = tokio::select! {
        () = stopped => false,
        ended = tasks.next_ended() => ended.is_some(),
    };
    tracing::info!("stopping");
    tasks.finish(DRAIN).await;
    tasks::blocking("close the store", move || fleet.close()).await;
    anyhow::ensure!(!failed, "a part of the daemon ended; the log above says why");
    Ok(())
}

fn now_ms() -> u64 {
    clock::now().wall / 1_000_000
}

/// The nodes of the last days, with what they used today.
fn remember(live: &Live, store: &Store, now_ms: u64) {
    for name in store.nodes() {
        live.remember(name, now_ms, 0);
    }
    let today = v1::QueryEnergyRequest {
        from_ms: now_ms - now_ms % 86_400_000,
        by: v1::GroupBy::Node.into(),
        limit: u32::MAX,
        ..v1::QueryEnergyRequest::default()
    };
    match store.energy(&today, now_ms) {
        Ok(answer) => {
            for group in answer.groups {
                if let Ok(node) = NodeId::new(&group.name) {
                    live.remember(node, now_ms, group.total_uj);
                }
            }
        }
        Err(error) => tracing::warn!("today's energy is counted from now on: {error}"),
    }
}

fn server_tls(files: &TlsFiles, speaks: &'static str) -> anyhow::Result<Tls> {
    let settings = TlsSettings {
        cert: Pem::File(files.cert.clone()),
        key: Pem::File(files.key.clone()),
        client_auth: ClientAuth::VerifyClientCertIfGiven,
        client_ca: Some(Pem::File(files.client_ca.clone())),
        client_names: Vec::new(),
        versions: vec![&rustls::version::TLS13, &rustls::version::TLS12],
        provider: Arc::new(rustls::crypto::ring::default_provider()),
        client_order: false,
        speaks,
    };
    Tls::new(settings).context("can't use the certificates of [tls]")
}

fn sender(remote: &crate::config::RemoteWrite) -> anyhow::Result<(export::Sender, Duration)> {
    let tls = match &remote.ca {
        Some(path) => {
            let pem = std::fs::read_to_string(path)
                .with_context(|| format!("can't read remote-write.ca {}", path.display()))?;
            let authorities = pki::tls::certificates(&path.display().to_string(), &pem)?;
            Some(Arc::new(pki::tls::client_config(&authorities, None, pki::tls::Alpn::Http1)?))
        }
        None => None,
    };
    let sender = export::Sender::new(&remote.url, tls, remote.bearer_token_file.clone())?;
    Ok((sender, Duration::from_secs(remote.interval_s)))
}

async fn listen(at: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.with_context(|| {
        format!("can't listen on {at}: stop who does (ss -ltnp shows it) or choose another address with --{flag}")
    })
}

/// Makes blocks of frames, and removes what is too old.
async fn seal(answers: Arc<Answers>, stop: Shutdown) -> anyhow::Result<()> {
    let mut retained_ms = 0;
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(SEAL) => {}
        }
        let work = Arc::clone(&answers);
        let due = now_ms().saturating_sub(retained_ms) >= u64::try_from(RETAIN.as_millis()).unwrap_or(u64::MAX);
        let stopping = stop.clone();
        let done = tasks::blocking("seal", move || {
            while work.store.seal(now_ms(), SEAL_NODES)?.more && !stopping.is_requested() {}
            if due {
                work.store.retain(now_ms())?;
            }
            Ok::<_, crate::store::StoreError>(())
        });
        match done.await {
            Some(Ok(())) => {
                failing = false;
                answers.sealed_ms.store(now_ms(), Ordering::Relaxed);
                if due {
                    retained_ms = now_ms();
                }
            }
            Some(Err(error)) if !std::mem::replace(&mut failing, true) => {
                tracing::error!("can't make blocks, going on trying: {error}");
            }
            Some(Err(_)) | None => {}
        }
    }
}

async fn remote_write(
    mut sender: export::Sender,
    every: Duration,
    (answers, plans, acting): (Arc<Answers>, Arc<Plans>, Acting),
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut pause: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let at_ms = now_ms();
        let page = pages::metrics(&answers, &plans, &acting, at_ms);
        sender.keep(export::request(&page, at_ms));
        if pause.is_some_and(|until| until > tokio::time::Instant::now()) {
            continue;
        }
        tokio::select! {
            () = stop.requested() => return Ok(()),
            wait = sender.round() => pause = wait.map(|wait| tokio::time::Instant::now() + wait),
        }
    }
}
