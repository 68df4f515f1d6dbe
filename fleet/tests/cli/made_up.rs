//! A made-up fleet: answers as a fleet daemon would, from figures that never change.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use ebbtide_fleet::pki::identity_of;
use ebbtide_proto::identity::{Identity, Role};
use ebbtide_proto::v1;
use ebbtide_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use ebbtide_proto::v1::fleet_server::{Fleet, FleetServer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// 2026-11-22 14:02:11 UTC.
pub(crate) const NOW: u64 = 1_795_356_131_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// The most buckets that this fleet answers in one go.
const MOST_BUCKETS: u64 = 100;

/// How the fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As fleets are: some nodes are not well. Its clock stands still.
    Mixed,
    /// All is well, and its clock is this machine's.
    Well,
    /// Nobody has joined.
    Empty,
    /// It answers nothing.
    Down,
    /// It takes a question and never answers.
    Mute,
}

/// A fleet daemon in this process. Dropping it ends it.
pub(crate) struct MadeUp {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MadeUp {
    /// Listens in plain text.
    pub(crate) fn start(mood: Mood) -> Self {
        Self::serve(mood, None)
    }

    /// Listens with TLS, and asks for certificates.
    pub(crate) fn start_tls(mood: Mood, tls: rustls::ServerConfig) -> Self {
        Self::serve(mood, Some(TlsAcceptor::from(Arc::new(tls))))
    }

    fn serve(mood: Mood, tls: Option<TlsAcceptor>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, address) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                let secured = tls.is_some();
                let tcp = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let incoming = tcp.then(move |tcp| {
                    let tls = tls.clone();
                    async move {
                        let Some(tls) = tls else { return Ok(Wire::Plain(tcp?)) };
                        Ok::<_, io::Error>(Wire::Tls(Box::new(tls.accept(tcp?).await?)))
                    }
                });
                // who can't agree on TLS is not the end of the fleet
                let incoming = incoming.filter(|wire| wire.is_ok());
                let services = axum::Router::new()
                    .route_service("/ebbtide.v1.Fleet/{*call}", FleetServer::new(Service { mood, secured }))
                    .route_service("/ebbtide.v1.Enrolment/{*call}", EnrolmentServer::new(Service { mood, secured }));
                tonic::transport::Server::builder()
                    .serve_with_incoming_shutdown(services, incoming, async { drop(stopped.await) })
                    .await
                    .unwrap();
            });
        });
        Self { address: address.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for MadeUp {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// Who showed a certificate.
#[derive(Clone)]
struct Shown(Option<Identity>);

impl Connected for Wire {
    type ConnectInfo = Shown;

    fn connect_info(&self) -> Shown {
        let Self::Tls(tls) = self else { return Shown(None) };
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        Shown(leaf.map(|der| identity_of(der).unwrap()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

struct Service {
    mood: Mood,
    secured: bool,
}

impl Service {
    /// Whether whoever asks may.
    async fn admit<T>(&self, request: &Request<T>, needed: Role) -> Result<Role, Status> {
        match self.mood {
            Mood::Down => return Err(Status::unavailable("the store is being repaired")),
            Mood::Mute => std::future::pending().await,
            _ => {}
        }
        let role = match request.extensions().get::<Shown>().and_then(|shown| shown.0.clone()) {
            _ if !self.secured => Role::Admin,
            Some(Identity::Operator { role, .. }) => role,
            Some(other) => return Err(Status::permission_denied(format!("{other} is no operator"))),
            None => return Err(Status::unauthenticated("no certificate was shown")),
        };
        if role < needed {
            return Err(Status::permission_denied(format!("this needs the role {needed}, you have {role}")));
        }
        Ok(role)
    }

    fn now(&self) -> u64 {
        match self.mood {
            Mood::Well => ebbtide_runtime::clock::now().wall / 1_000_000,
            _ => NOW,
        }
    }

    fn nodes(&self) -> Vec<v1::Node> {
        match self.mood {
            Mood::Empty => Vec::new(),
            Mood::Well => nodes(self.now()).into_iter().take(2).collect(),
            _ => nodes(self.now()),
        }
    }
}

fn zone(name: &str, kind: v1::ZoneKind, quality: v1::Quality, counts: bool, w: Option<f64>) -> v1::ZonePower {
    let uw = |w: f64| format!("{:.0}", w * 1e6).parse().unwrap();
    v1::ZonePower {
        zone: Some(v1::Zone {
            id: format!("powercap/{name}"),
            name: name.to_owned(),
            kind: kind.into(),
            socket_plus_one: u32::from(name.ends_with("-0")),
            source: if quality == v1::Quality::Modelled { "model" } else { "powercap" }.to_owned(),
            quality: quality.into(),
            error_ppm: if quality == v1::Quality::Modelled { 150_000 } else { 20_000 },
            counts,
            ..Default::default()
        }),
        power_uw: w.map(uw),
        idle_uw: w.map(|w| uw(w * 0.4)),
        energy_uj: w.map_or(0, |w| uw(w * 86_400.0)),
        stale: quality == v1::Quality::Stale,
    }
}

fn node(name: &str, state: v1::NodeState, now: u64) -> v1::Node {
    let quality = v1::Quality::Measured.into();
    v1::Node {
        name: name.to_owned(),
        state: state.into(),
        quality,
        machine: Some(v1::Machine {
            cpu_model: "AMD EPYC 7313 16-Core Processor".into(),
            cpus: 32,
            sockets: 1,
            architecture: "x86_64".into(),
            idle_policy: "unallocated".into(),
            usage_method: "bpf".into(),
        }),
        last_ms: now - 900,
        since_ms: now - 3 * DAY,
        agent_version: "0.1.0".into(),
        boot_id: "0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d".into(),
        address: "10.0.0.11".into(),
        ..Default::default()
    }
}

fn nodes(now: u64) -> Vec<v1::Node> {
    use v1::{NodeState as S, Quality as Q, ZoneKind as K};
    vec![
        v1::Node {
            power_uw: Some(212_400_000),
            idle_uw: Some(96_000_000),
            cpu_milli: Some(8_412),
            zones: vec![
                zone("package-0", K::Package, Q::Measured, true, Some(141.2)),
                zone("core", K::Core, Q::Measured, false, Some(88.0)),
                zone("dram-0", K::Dram, Q::Measured, true, Some(22.2)),
                zone("psu", K::Wall, Q::Scaled, true, Some(49.0)),
            ],
            workloads: 4,
            today_uj: 10_800_000_000_000,
            ..node("edge1", S::Live, now)
        },
        v1::Node {
            power_uw: Some(6_310_000),
            idle_uw: Some(2_200_000),
            quality: Q::Modelled.into(),
            cpu_milli: Some(37),
            zones: vec![zone("machine", K::Other, Q::Modelled, true, Some(6.31))],
            workloads: 1,
            today_uj: 318_000_000_000,
            gap_today_ms: 15 * 60_000,
            ..node("ru2.site-b.example", S::CatchingUp, now)
        },
        v1::Node {
            power_uw: Some(38_200_000),
            quality: Q::Stale.into(),
            zones: vec![zone("package-0", K::Package, Q::Stale, true, Some(38.2))],
            last_ms: now - 7 * 60_000,
            since_ms: now - 6 * 60_000,
            today_uj: 1_900_000_000_000,
            gap_today_ms: 7 * 60_000,
            ..node("edge3", S::Stale, now)
        },
        v1::Node {
            last_ms: 0,
            machine: None,
            quality: 0,
            trouble: "its clock is 1 year ahead".into(),
            agent_version: String::new(),
            ..node("gpu-rack-17-slot-4.datacentre-north.example", S::Refused, now)
        },
        v1::Node { last_ms: now - 2 * DAY, since_ms: now - 2 * DAY, power_uw: None, ..node("old", S::Gone, now) },
    ]
}

fn workloads(by: v1::GroupBy) -> Vec<v1::WorkloadPower> {
    use v1::{GroupBy as G, Quality as Q};
    let of = |id: &str, name: &str, node: &str, uw: Option<u64>, idle: Option<u64>, quality: Q| v1::WorkloadPower {
        id: id.to_owned(),
        name: name.to_owned(),
        node: node.to_owned(),
        power_uw: uw,
        idle_uw: idle,
        cpu_milli: uw.map(|uw| uw / 10_000),
        quality: quality.into(),
        labels: Vec::new(),
        nodes: if node.is_empty() { 3 } else { 1 },
        members: if node.is_empty() { 9 } else { 1 },
    };
    match by {
        G::Namespace => vec![
            of("ran", "ran", "", Some(76_400_000), Some(24_200_000), Q::Measured),
            of("mec", "mec", "", Some(21_900_000), Some(9_000_000), Q::Modelled),
            of("kube-system", "kube-system", "", None, None, Q::Measured),
        ],
        G::Vm => Vec::new(),
        _ => vec![
            v1::WorkloadPower {
                labels: vec![v1::Label { name: "namespace".into(), value: "ran".into() }],
                ..of("pod/6f2c", "ran/du-0", "edge1", Some(38_200_000), Some(12_100_000), Q::Measured)
            },
            of("pod/77aa", "mec/inference-7c9", "edge1", Some(21_900_000), Some(9_000_000), Q::Measured),
            of("unit/postgresql.service", "", "edge1", Some(6_310_000), Some(2_200_000), Q::Measured),
            of("vm/5a4e", "win-build, \"nightly\"", "ru2.site-b.example", Some(580_000), None, Q::Scaled),
            of("pod/0001", "logs/日志-collector-with-a-name-that-is-rather-long", "edge3", Some(0), None, Q::Stale),
        ],
    }
}

/// Groups and their constant power in microwatts. Of the second nothing is known between 04:00 and 06:00.
fn groups(by: v1::GroupBy) -> Vec<(&'static str, u64, v1::Quality)> {
    use v1::{GroupBy as G, Quality as Q};
    match by {
        G::Fleet => vec![("fleet", 256_910_000, Q::Stale)],
        G::Component => {
            vec![("cpu", 141_200_000, Q::Measured), ("dram", 22_200_000, Q::Measured), ("rest", 49_000_000, Q::Scaled)]
        }
        G::Vm => vec![],
        _ => vec![
            ("edge1", 212_400_000, Q::Measured),
            ("edge3", 38_200_000, Q::Stale),
            ("ru2.site-b.example", 6_310_000, Q::Modelled),
        ],
    }
}

fn query(request: &v1::QueryEnergyRequest) -> Result<v1::QueryEnergyResponse, Status> {
    let until = if request.until_ms == 0 { NOW } else { request.until_ms };
    if until <= request.from_ms {
        return Err(Status::invalid_argument("until_ms is not after from_ms"));
    }
    let step = match request.step_ms {
        0 => until - request.from_ms,
        step => step.next_multiple_of(1000),
    };
    let from = if request.step_ms == 0 { request.from_ms } else { request.from_ms / step * step };
    let buckets = (until - from).div_ceil(step);
    if buckets > MOST_BUCKETS {
        return Err(Status::resource_exhausted(format!("{buckets} buckets, more than {MOST_BUCKETS}")));
    }
    let by = v1::GroupBy::try_from(request.by).unwrap();
    let group = |(index, (name, uw, quality)): (usize, (&str, u64, v1::Quality))| {
        let covered = |bucket: u64| {
            let (a, b) = ((from + bucket * step).max(request.from_ms), (from + (bucket + 1) * step).min(until));
            let nights = (a / DAY..=b / DAY).map(|day| (day * DAY + 4 * HOUR, day * DAY + 6 * HOUR));
            let dark: u64 = nights.map(|(from, until)| b.min(until).saturating_sub(a.max(from))).sum();
            if index == 1 { b - a - dark } else { b - a }
        };
        let covered_ms: Vec<u64> = (0..buckets).map(covered).collect();
        let energy_uj: Vec<u64> = covered_ms.iter().map(|ms| uw * ms / 1000).collect();
        v1::EnergyGroup {
            name: name.to_owned(),
            labels: vec![v1::Label { name: "node".into(), value: name.to_owned() }],
            total_uj: energy_uj.iter().sum(),
            energy_uj,
            covered_ms,
            quality: quality.into(),
        }
    };
    let mut groups: Vec<_> = groups(by).into_iter().enumerate().map(group).collect();
    groups.retain(|g| g.name.contains(&request.search));
    let limit = if request.limit == 0 { 100 } else { request.limit as usize };
    let rest = groups.split_off(limit.min(groups.len()));
    let other = rest.into_iter().next().map(|first| v1::EnergyGroup { name: String::new(), labels: vec![], ..first });
    let buckets = u32::try_from(buckets).unwrap();
    Ok(v1::QueryEnergyResponse { from_ms: from, step_ms: step, buckets, groups, other, now_ms: NOW })
}

fn totals(nodes: &[v1::Node]) -> v1::Totals {
    let live = nodes.iter().filter(|n| n.state == 1 || n.state == 2).count();
    let part = |component: &str, power_uw| v1::ComponentPower { component: component.to_owned(), power_uw };
    v1::Totals {
        power_uw: nodes.iter().filter_map(|n| n.power_uw).reduce(|a, b| a + b),
        idle_uw: nodes.iter().filter_map(|n| n.idle_uw).reduce(|a, b| a + b),
        today_uj: nodes.iter().map(|n| n.today_uj).sum(),
        nodes: nodes.len().try_into().unwrap(),
        live: live.try_into().unwrap(),
        stale: nodes.iter().filter(|n| n.state == 3).count().try_into().unwrap(),
        troubled: nodes.iter().filter(|n| !n.trouble.is_empty()).count().try_into().unwrap(),
        workloads: 5,
        quality: nodes.iter().map(|n| n.quality).max().unwrap_or(0),
        components: match nodes.len() {
            0 => vec![],
            _ => vec![part("cpu", 179_400_000), part("dram", 22_200_000), part("rest", 55_310_000)],
        },
    }
}

type Updates = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Fleet for Service {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.admit(&request, Role::Viewer).await?;
        let mut nodes = self.nodes();
        nodes.retain(|n| n.name.contains(&request.get_ref().search));
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(v1::ListNodesResponse { nodes, now_ms: self.now() }))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::GetNodeResponse>, Status> {
        self.admit(&request, Role::Viewer).await?;
        let name = &request.get_ref().name;
        let node = self.nodes().into_iter().find(|n| n.name == *name);
        let node = node.ok_or_else(|| Status::not_found(format!("there is no node {name:?}")))?;
        let mut workloads = workloads(v1::GroupBy::Pod);
        workloads.retain(|w| w.node == *name);
        Ok(Response::new(v1::GetNodeResponse { node: Some(node), workloads, now_ms: self.now() }))
    }

    async fn list_workloads(
        &self,
        request: Request<v1::ListWorkloadsRequest>,
    ) -> Result<Response<v1::ListWorkloadsResponse>, Status> {
        self.admit(&request, Role::Viewer).await?;
        let request = request.into_inner();
        let mut workloads = workloads(v1::GroupBy::try_from(request.by).unwrap());
        workloads.retain(|w| request.node.is_empty() || w.node == request.node);
        workloads.retain(|w| w.name.contains(&request.search) || w.id.contains(&request.search));
        let total = workloads.len().try_into().unwrap();
        workloads.truncate(if request.limit == 0 { 1000 } else { request.limit as usize });
        Ok(Response::new(v1::ListWorkloadsResponse { workloads, total, now_ms: self.now() }))
    }

    async fn query_energy(
        &self,
        request: Request<v1::QueryEnergyRequest>,
    ) -> Result<Response<v1::QueryEnergyResponse>, Status> {
        self.admit(&request, Role::Viewer).await?;
        query(request.get_ref()).map(Response::new)
    }

    async fn list_zones(
        &self,
        request: Request<v1::ListZonesRequest>,
    ) -> Result<Response<v1::ListZonesResponse>, Status> {
        self.admit(&request, Role::Viewer).await?;
        let wanted = &request.get_ref().node;
        let nodes = self.nodes().into_iter().filter(|n| wanted.is_empty() || n.name == *wanted);
        let zones =
            nodes.flat_map(|n| n.zones.into_iter().map(move |z| v1::NodeZone { node: n.name.clone(), zone: z.zone }));
        Ok(Response::new(v1::ListZonesResponse { zones: zones.collect() }))
    }

    type WatchStream = Updates;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Updates>, Status> {
        self.admit(&request, Role::Viewer).await?;
        let (by, nodes, now) = (request.get_ref().workloads, self.nodes(), self.now());
        let by = v1::GroupBy::try_from(by).unwrap();
        let totals = totals(&nodes);
        // the second tells what has changed; then the fleet is restarted
        let updates = (0..2u64).map(move |i| {
            let nodes = if i == 0 { nodes.clone() } else { nodes.iter().skip(2).take(1).cloned().collect() };
            Ok(v1::WatchResponse {
                now_ms: now + i * 1000,
                totals: Some(totals.clone()),
                nodes,
                removed: if i == 0 { vec![] } else { vec!["old".into()] },
                workloads: if by == v1::GroupBy::Unspecified { vec![] } else { workloads(by) },
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(updates))))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let role = self.admit(&request, Role::Viewer).await?;
        let mixed = self.mood == Mood::Mixed;
        let now = self.now();
        let nodes = self.nodes();
        let refusals = vec![
            v1::Refusals { reason: "clock".into(), count: 12 },
            v1::Refusals { reason: "unknown-node".into(), count: 1 },
        ];
        Ok(Response::new(v1::GetStatusResponse {
            version: "0.1.0".into(),
            started_ms: now - 3 * DAY - 2 * HOUR,
            now_ms: now,
            nodes: nodes.len().try_into().unwrap(),
            connected: 2,
            samples: 12_345_678,
            frames: 51_840,
            duplicates: 17,
            dropped_frames: if mixed { 360 } else { 0 },
            refusals: if mixed { refusals } else { vec![] },
            commit_p99_us: if mixed { 2_400_000 } else { 8_200 },
            store_bytes: 52_428_800,
            unsealed_frames: 720,
            oldest_ms: now - 30 * DAY,
            encrypted: self.secured,
            data_dir: "/var/lib/ebbtide-fleet".into(),
            your_role: role.to_string(),
            troubles: if mixed { vec!["the disk is 96 % full: less than 2 days are left".into()] } else { vec![] },
        }))
    }
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        Err(Status::unimplemented("the command line doesn't join"))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        self.admit(&request, Role::Admin).await?;
        let request = request.get_ref();
        let expires_ms = NOW + request.ttl_ms;
        // a fleet that has gone bad must not get its words into a shell
        let token = format!("t7.s3cret.{}\n; rm -rf /", "ab".repeat(32));
        Ok(Response::new(v1::CreateTokenResponse { id: "t7".into(), token, expires_ms }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        self.admit(&request, Role::Admin).await?;
        if self.mood == Mood::Empty {
            return Ok(Response::new(v1::ListTokensResponse::default()));
        }
        let now = ebbtide_runtime::clock::now().wall / 1_000_000;
        let token = |id: &str, node: &str, expires_ms| v1::Token {
            id: id.into(),
            node: node.into(),
            expires_ms,
            created_by: "alice".into(),
            ..Default::default()
        };
        let tokens = vec![
            // half a minute beside the border, so that a slow machine reads the same
            token("t7", "edge9", now + 90 * 60_000 + 30_000),
            v1::Token { used_by: "edge1".into(), used_ms: now - 3 * DAY - HOUR / 2, ..token("t1", "", now - 2 * DAY) },
            token("t2", "", now - 2 * DAY - HOUR / 2),
        ];
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        self.admit(&request, Role::Admin).await?;
        match request.get_ref().id.as_str() {
            "t7" => Ok(Response::new(v1::RevokeTokenResponse {})),
            id => Err(Status::not_found(format!("there is no token {id:?}"))),
        }
    }
}
