//! The agent and a fleet: joins with a token, streams over TLS, survives being killed, over a real network.
//!
//! The fleet here has an authority of its own, checks certificates, and keeps what it gets in memory.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

#[path = "support/agent.rs"]
mod agent;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ebbtide_proto::frame::{Decoded, Decoder, Limits, unpack};
use ebbtide_proto::identity::Identity;
use ebbtide_proto::v1;
use ebbtide_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use ebbtide_proto::v1::telemetry_server::{Telemetry, TelemetryServer};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use agent::Agent;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames come often.
const FAST: [&str; 8] = [
    "--interval",
    "100ms",
    "--fleet-node-interval",
    "100ms",
    "--fleet-workload-interval",
    "300ms",
    "--usage",
    "procfs",
];

/// What the fleet got.
#[derive(Default)]
struct Got {
    hellos: Vec<v1::Hello>,
    /// Labels of series, and frames by spool and number, with how many values they had.
    series: BTreeMap<String, u64>,
    frames: BTreeMap<(u64, u64), usize>,
    twice: u64,
    dropped: u64,
    goodbyes: Vec<String>,
    /// What is told to do with the next frames, and what came of it.
    orders: Vec<v1::directive::Kind>,
    results: Vec<v1::DirectiveResult>,
    /// Whose certificate was shown.
    peers: Vec<String>,
    tokens_used: u64,
    /// What an outlet of its is at.
    outlet_uj: u64,
}

#[derive(Clone, Default)]
struct Books(Arc<(Mutex<Got>, Condvar)>);

impl Books {
    fn with<T>(&self, act: impl FnOnce(&mut Got) -> T) -> T {
        let result = act(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        result
    }

    /// Waits until something is so.
    #[track_caller]
    fn wait(&self, what: &str, so: impl Fn(&Got) -> bool) {
        let guard = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(guard, PATIENCE, |got| !so(got)).unwrap();
        assert!(!waited.1.timed_out(), "never: {what}");
    }
}

struct Authority {
    der: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { der, pem, issuer: Issuer::new(params, key) }
    }

    fn server(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.subject_alt_names.push(SanType::URI(Identity::Fleet.to_string().try_into().unwrap()));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![certificate.der().clone(), self.der.clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    fn token(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.der);
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        format!("t1.secret.{hex}")
    }
}

/// A TLS stream with the name in the client's certificate.
struct Line(TlsStream<TcpStream>, Option<String>);

impl Connected for Line {
    type ConnectInfo = Option<String>;
    fn connect_info(&self) -> Option<String> {
        self.1.clone()
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The URI in a certificate.
fn name_in(certificate: &CertificateDer<'_>) -> String {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let uri = names.value.general_names.iter().find_map(|n| if let GeneralName::URI(u) = n { Some(*u) } else { None });
    uri.unwrap().to_owned()
}

#[derive(Clone)]
struct Daemon {
    books: Books,
    authority: Arc<Authority>,
}

#[tonic::async_trait]
impl Enrolment for Daemon {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let request = request.into_inner();
        if request.token != self.authority.token() {
            return Err(Status::permission_denied("no such token"));
        }
        if self.books.with(|got| std::mem::replace(&mut got.tokens_used, 1)) > 0 {
            return Err(Status::permission_denied("it was used by another node"));
        }
        let csr = CertificateSigningRequestDer::from(request.csr_der);
        let csr = CertificateSigningRequestParams::from_der(&csr).unwrap();
        let certificate = csr.signed_by(&self.authority.issuer).unwrap();
        assert_eq!(name_in(certificate.der()), format!("ebbtide://node/{}", request.node));
        Ok(Response::new(v1::JoinResponse {
            certificate_pem: certificate.pem(),
            authority_pem: self.authority.pem.clone(),
            expires_ms: 0,
        }))
    }

    async fn create_token(
        &self,
        _: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn revoke_token(
        &self,
        _: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl Telemetry for Daemon {
    type StreamStream = ReceiverStream<Result<v1::FleetMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let peer = request.extensions().get::<Option<String>>().cloned().flatten();
        let Some(peer) = peer else { return Err(Status::unauthenticated("no certificate")) };
        self.books.with(|got| got.peers.push(peer));
        let (down, stream) = mpsc::channel(16);
        let (books, mut up) = (self.books.clone(), request.into_inner());
        tokio::spawn(async move {
            let (mut decoder, mut decoded) = (Decoder::new(Limits::default()), Decoded::default());
            let mut spool = 0;
            while let Ok(Some(message)) = up.message().await {
                let kinds = books.with(|got| hear(got, &mut spool, &mut decoder, &mut decoded, message));
                for kind in kinds {
                    drop(down.send(Ok(v1::FleetMessage { kind: Some(kind) })).await);
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Books a message; what to answer.
fn hear(
    got: &mut Got,
    spool: &mut u64,
    decoder: &mut Decoder,
    decoded: &mut Decoded,
    message: v1::AgentMessage,
) -> Vec<v1::fleet_message::Kind> {
    use v1::agent_message::Kind;
    match message.kind.unwrap() {
        Kind::Hello(hello) => {
            *spool = hello.spool_id;
            let last = got.frames.range((*spool, 0)..=(*spool, u64::MAX)).next_back();
            let acked_seq = last.map_or(0, |((_, seq), _)| *seq);
            let now_ms = hello.now_ms;
            got.hellos.push(hello);
            vec![v1::fleet_message::Kind::Welcome(v1::Welcome { acked_seq, now_ms, version: "9".into(), config: None })]
        }
        Kind::Frames(frames) => {
            let mut last = 0;
            for frame in unpack(frames, 4 << 20).unwrap() {
                decoder.decode(&frame, decoded).unwrap();
                last = frame.seq;
                got.dropped += frame.dropped.map_or(0, |d| d.frames);
                got.twice += u64::from(got.frames.insert((*spool, frame.seq), decoded.values.len()).is_some());
                let mut values = decoded.values.iter();
                for column in &decoded.columns {
                    let of = values.by_ref().take(column.len as usize).last();
                    got.series.insert(decoder.series(column.series).unwrap().key().to_string(), *of.unwrap());
                }
            }
            // the outlet is read with each frame: a joule more than the last time
            got.outlet_uj += 1_000_000;
            let wall = v1::Wall {
                energy_uj: got.outlet_uj,
                power_uw: 3_000_000,
                source: "pdu-1/3".into(),
                ..v1::Wall::default()
            };
            let ack = v1::Ack { seq: last, ..v1::Ack::default() };
            let order = |kind| v1::fleet_message::Kind::Directive(v1::Directive { id: 7, kind: Some(kind) });
            let orders = got.orders.drain(..).map(order);
            [v1::fleet_message::Kind::Ack(ack), v1::fleet_message::Kind::Wall(wall)].into_iter().chain(orders).collect()
        }
        Kind::Result(result) => {
            got.results.push(result);
            Vec::new()
        }
        Kind::Goodbye(goodbye) => {
            got.goodbyes.push(goodbye.reason);
            Vec::new()
        }
    }
}

/// A fleet on a port of this machine. Dropping it stops it.
struct Fleet {
    books: Books,
    authority: Arc<Authority>,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fleet {
    fn start() -> Self {
        Self::start_again(Books::default(), Arc::new(Authority::new()), 0)
    }

    fn start_again(books: Books, authority: Arc<Authority>, port: u16) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, port_of) = std::sync::mpsc::sync_channel(1);
        let daemon = Daemon { books: books.clone(), authority: Arc::clone(&authority) };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
                ready.send(listener.local_addr().unwrap().port()).unwrap();
                let tls = tokio_rustls::TlsAcceptor::from(Arc::new(daemon.authority.server()));
                let (lines, incoming) = mpsc::channel::<io::Result<Line>>(4);
                let accepting = async move {
                    loop {
                        let (tcp, _) = listener.accept().await.unwrap();
                        if let Ok(stream) = tls.accept(tcp).await {
                            let peer = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(name_in);
                            drop(lines.send(Ok(Line(stream, peer))).await);
                        }
                    }
                };
                let (telemetry, enrolment) = (TelemetryServer::new(daemon.clone()), EnrolmentServer::new(daemon));
                let services = tower::service_fn(move |request: axum::http::Request<tonic::body::Body>| {
                    let (mut telemetry, mut enrolment) = (telemetry.clone(), enrolment.clone());
                    async move {
                        match request.uri().path().starts_with("/ebbtide.v1.Enrolment/") {
                            true => tower::Service::call(&mut enrolment, request).await,
                            false => tower::Service::call(&mut telemetry, request).await,
                        }
                    }
                });
                let serving =
                    tonic::transport::Server::builder().serve_with_incoming(services, ReceiverStream::new(incoming));
                tokio::select! {
                    () = accepting => {}
                    served = serving => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let port = port_of.recv().unwrap();
        Self { books, authority, port, stop: Some(stop), thread: Some(thread) }
    }

    fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebbtide-agent"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn join(fleet: &str, token: &str, state: &Path) -> Output {
    program()
        .args(["join", "--node-name", "edge1", "--fleet", fleet, "--token", token, "--state"])
        .arg(state)
        .output()
        .unwrap()
}

fn told(page: &str, series: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series}: {page}"));
    line.trim().parse().unwrap()
}

#[test]
fn a_node_joins_streams_and_goes_on_where_it_was_when_it_is_killed() {
    let fleet = Fleet::start();
    let state = tempfile::tempdir().unwrap();
    let joined = join(&fleet.address(), &fleet.authority.token(), state.path());
    let said = String::from_utf8_lossy(&joined.stdout).into_owned();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    assert!(said.contains(&format!("ebbtide-agent run --fleet {} --state ", fleet.address())), "{said}");
    let mode = |name: &str| {
        let file = std::fs::metadata(state.path().join("identity").join(name)).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777
    };
    assert_eq!((mode("key.pem"), mode(""), mode("cert.pem")), (0o600, 0o700, 0o644));
    let names: Vec<_> = std::fs::read_dir(state.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["identity"]);

    let address = fleet.address();
    let mut arguments = vec!["--node-name", "edge1", "--fleet", address.as_str()];
    arguments.extend(FAST);
    let folder = state.path().to_str().unwrap();
    let agent = Agent::start_with_state(program(), folder, &arguments);
    fleet.books.wait("frames", |got| got.frames.len() > 5);
    // what it tells of the outlet comes back as a zone
    fleet.books.wait("the wall", |got| got.series.get("node outlet/wall Energy").is_some_and(|uj| *uj >= 2_000_000));
    let page = agent.page();
    assert_eq!(told(&page, "ebbtide_agent_stream_connected "), 1);
    assert!(told(&page, "ebbtide_agent_wall_readings_total{result=\"taken\"} ") > 2);
    let of_wall = "ebbtide_zone_info{zone=\"wall\",kind=\"wall\",source=\"outlet\",role=\"platform\",state=\"live\",\
                   quality=\"measured\",path=\"pdu-1/3\"} ";
    assert_eq!(told(&page, of_wall), 1);
    assert!(told(&page, "ebbtide_agent_stream_frames_total{result=\"acked\"} ") > 0);
    fleet.books.with(|got| {
        assert_eq!(got.peers[0], "ebbtide://node/edge1");
        let hello = &got.hellos[0];
        assert_eq!((hello.node.as_str(), hello.protocol, hello.first_seq), ("edge1", 1, 1));
        assert!(hello.capabilities.iter().any(|c| c == "wall"));
        assert!(hello.machine.as_ref().unwrap().cpus > 0 && hello.boot_id.len() == 36);
        assert!(got.series["node CpuTime"] > 0);
        assert!(got.series.keys().any(|s| s.starts_with("user/0 ")), "{:?}", got.series.keys());
    });

    // the fleet goes, frames pile up, the agent is killed, both come back
    let (books, authority, port) = (fleet.books.clone(), Arc::clone(&fleet.authority), fleet.port);
    drop(fleet);
    let waiting = |agent: &Agent| told(&agent.page(), "ebbtide_agent_spool_frames ");
    while waiting(&agent) < 4 {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(agent);
    let fleet = Fleet::start_again(books, authority, port);
    let before = fleet.books.with(|got| got.frames.len());
    let mut child = program();
    child.args(["run", "--listen", "127.0.0.1:0", "--state", folder]).args(&arguments);
    let mut child = child.stderr(Stdio::null()).spawn().unwrap();
    fleet.books.wait("frames after the restart", |got| got.frames.len() > before + 8);
    fleet.books.with(|got| {
        let spools: Vec<u64> = got.hellos.iter().map(|h| h.spool_id).collect();
        assert!(spools.windows(2).all(|pair| pair[0] == pair[1]), "{spools:?}");
        let numbers: Vec<u64> = got.frames.keys().map(|(_, seq)| *seq).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        assert_eq!((got.twice, got.dropped), (0, 0));
    });
    // at its end it says so
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    fleet.books.wait("goodbye", |got| got.goodbyes == ["stopped"]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_agent_shuts_its_machine_down_only_if_it_may() {
    let fleet = Fleet::start();
    let state = tempfile::tempdir().unwrap();
    let joined = join(&fleet.address(), &fleet.authority.token(), state.path());
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let (script, off) = (state.path().join("poweroff.sh"), state.path().join("off"));
    std::fs::write(&script, format!("#!/bin/sh\nenv > {}\n", off.display())).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (address, script) = (fleet.address(), script.to_str().unwrap().to_owned());
    let start = |more: &[&str]| {
        let mut arguments = vec!["--node-name", "edge1", "--fleet", address.as_str()];
        arguments.extend(FAST);
        arguments.extend(more);
        let mut command = program();
        command.env("SECRET", "of the agent");
        Agent::start_with_state(command, state.path().to_str().unwrap(), &arguments)
    };
    let order = || fleet.books.with(|got| got.orders.push(v1::directive::Kind::ShutDown(v1::ShutDown::default())));

    let agent = start(&[]);
    order();
    fleet.books.wait("an answer", |got| got.results.len() == 1);
    fleet.books.with(|got| {
        assert!(
            !got.results[0].done && got.results[0].text.contains("fleet-may-shut-down = true"),
            "{:?}",
            got.results
        );
        assert!(!got.hellos[0].capabilities.iter().any(|c| c == "shut-down"));
    });
    assert!(!off.exists());
    drop(agent);

    let _agent = start(&["--fleet-may-shut-down", "--shut-down-program", &script]);
    order();
    fleet.books.wait("goodbye", |got| got.goodbyes.iter().any(|reason| reason == "power-off"));
    fleet.books.with(|got| {
        assert!(got.results[1].done, "{:?}", got.results);
        assert!(got.hellos.last().unwrap().capabilities.iter().any(|c| c == "shut-down"));
    });
    let environment = std::fs::read_to_string(&off).unwrap();
    assert!(environment.contains("PATH=") && !environment.contains("SECRET"), "{environment}");
}

#[test]
fn a_token_that_does_not_fit_says_why() {
    let fleet = Fleet::start();
    let state = tempfile::tempdir().unwrap();
    let failed = |fleet: &str, token: &str, code: i32, want: &str| {
        let output = join(fleet, token, state.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(want) && said.lines().count() <= 3, "{said}");
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    };
    let good = fleet.authority.token();
    let other = Authority::new().token();
    let address = fleet.address();
    failed(&address, &other, 1, "none of its certificates has the fingerprint in the token");
    failed(&address, &good.replace("t1", "t2"), 4, "no such token");
    fleet.books.with(|got| got.tokens_used = 1);
    failed(&address, &good, 4, "it was used by another node");
    failed("127.0.0.1:1", &good, 1, "can't reach the fleet at 127.0.0.1:1");
    failed("http://127.0.0.1:1", &good, 1, "is plain text");
    failed(&address, "t1.x", 2, "ID.SECRET.FINGERPRINT");

    // from standard input, into a folder that has an identity
    fleet.books.with(|got| got.tokens_used = 0);
    std::fs::create_dir(state.path().join("identity")).unwrap();
    let mut child = program();
    child.args(["join", "--fleet", &address, "--token", "-", "--state"]).arg(state.path());
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{good}").unwrap();
    assert!(child.wait().unwrap().success());
    assert!(state.path().join("identity/key.pem").exists() && !state.path().join("identity.old").exists());
}
