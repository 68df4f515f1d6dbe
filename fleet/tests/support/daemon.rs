//! A fleet daemon in this process, on ports of its own, and clients to speak with it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test uses its part of this; a test may panic"
)]

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ebbtide_fleet::config::{Config, TlsFiles};
use ebbtide_fleet::pki::Authority;
use ebbtide_fleet::pki::tls::{Alpn, Credentials, client_config};
use ebbtide_fleet::serve;
use ebbtide_proto::frame::{Batch, Column, Encoder, pack};
use ebbtide_proto::series::{Metric, Quality, SeriesKey, WorkloadInfo, ZoneInfo, ZoneKind};
use ebbtide_proto::v1::telemetry_client::TelemetryClient;
use ebbtide_proto::{Ratio, WorkloadId, WorkloadKind, ZoneId, v1};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub fn now_ms() -> u64 {
    clock::now().wall / 1_000_000
}

/// A daemon that runs.
pub struct Daemon {
    pub at: serve::Addresses,
    pub folder: tempfile::TempDir,
    pub authority: Option<Authority>,
    stop: Option<oneshot::Sender<()>>,
    tasks: Tasks,
}

impl Daemon {
    /// Unencrypted.
    pub async fn plain(change: impl FnOnce(&mut Config)) -> Self {
        Self::start(tempfile::tempdir().unwrap(), None, change).await
    }

    /// Unencrypted, on what another left in `folder`.
    pub async fn again(folder: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        Self::start(folder, None, change).await
    }

    /// With certificates of its own.
    pub async fn encrypted(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        let authority = Authority::init(&pki, false, now_ms()).unwrap();
        let issued =
            authority.issue(&"ebbtide://fleet".parse().unwrap(), &["127.0.0.1".to_owned()], 90, now_ms()).unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let tls = TlsFiles {
            cert: file("fleet.pem", &issued.chain_pem),
            key: file("fleet-key.pem", &issued.key_pem),
            client_ca: pki.join("ca.pem"),
            authority: Some(pki),
        };
        let mut daemon = Self::start(folder, Some(tls), change).await;
        daemon.authority = Some(authority);
        daemon
    }

    async fn start(folder: tempfile::TempDir, tls: Option<TlsFiles>, change: impl FnOnce(&mut Config)) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config { grpc: any, http: any, data: folder.path().join("data"), tls, ..Config::default() };
        change(&mut config);
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut tasks = Tasks::new();
        tasks.spawn("daemon", async move {
            let ready = |at| tell.send(at).unwrap();
            serve::run(config, ready, async { drop(stopped.await) }).await
        });
        let at = told.await.expect("the daemon starts");
        Self { at, folder, authority: None, stop: Some(stop), tasks }
    }

    /// Ends it in order.
    pub async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        let ended = self.tasks.next_ended().await.expect("it ran");
        assert!(matches!(ended.outcome, ebbtide_runtime::tasks::Outcome::Done), "{ended:?}");
        self.folder
    }

    /// A connection as `identity`, with a certificate of `authority` (its own if none is given).
    pub async fn connect_as(
        &self,
        identity: &str,
        authority: Option<&Authority>,
    ) -> Result<Channel, tonic::transport::Error> {
        let own = self.authority.as_ref().expect("an encrypted daemon");
        let issued = authority.unwrap_or(own).issue(&identity.parse().unwrap(), &[], 1, now_ms()).unwrap();
        let credentials = Credentials::from_pem("test", &issued.certificate_pem, &issued.key_pem).unwrap();
        self.connect_with(Some(credentials)).await
    }

    /// An encrypted connection with or without a certificate.
    pub async fn connect_with(&self, own: Option<Credentials>) -> Result<Channel, tonic::transport::Error> {
        let trusted = self.authority.as_ref().expect("an encrypted daemon").certificate_der().clone();
        let tls = Arc::new(client_config(&[trusted], own, Alpn::Http2).unwrap());
        let to = self.at.grpc;
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let tls = Arc::clone(&tls);
            async move {
                let stream = TcpStream::connect(to).await?;
                let name = ServerName::IpAddress(to.ip().into());
                Ok::<_, std::io::Error>(TokioIo::new(TlsConnector::from(tls).connect(name, stream).await?))
            }
        });
        Endpoint::from_shared(format!("http://{to}")).unwrap().connect_with_connector(connector).await
    }

    /// An unencrypted connection.
    pub async fn connect(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.at.grpc)).unwrap().connect().await.unwrap()
    }

    /// A page, asked for without TLS: status line, headers and body.
    pub async fn page(&self, path: &str) -> String {
        self.http(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    /// What is answered to a form that a page of `origin` sends.
    pub async fn form(&self, path: &str, form: &str, origin: &str) -> String {
        let kind = "application/x-www-form-urlencoded";
        self.http(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{form}",
            form.len()
        ))
        .await
    }

    async fn http(&self, request: String) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = TcpStream::connect(self.at.http).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// An agent that says what it is told to.
pub struct Agent {
    pub send: mpsc::Sender<v1::AgentMessage>,
    pub answers: Streaming<v1::FleetMessage>,
    pub welcome: v1::Welcome,
    pub encoder: Encoder,
}

pub fn hello(node: &str, spool_id: u64) -> v1::Hello {
    v1::Hello {
        node: node.to_owned(),
        spool_id,
        first_seq: 1,
        next_seq: 1,
        now_ms: now_ms(),
        version: "0.1.0".into(),
        protocol: 1,
        machine: Some(v1::Machine { cpu_model: "Test CPU".into(), cpus: 4, sockets: 1, ..Default::default() }),
        ..v1::Hello::default()
    }
}

impl Agent {
    pub async fn join(channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        let (send, receive) = mpsc::channel(16);
        send.send(v1::AgentMessage { kind: Some(v1::agent_message::Kind::Hello(hello)) }).await.unwrap();
        let mut answers = TelemetryClient::new(channel).stream(ReceiverStream::new(receive)).await?.into_inner();
        match answers.message().await?.and_then(|m| m.kind) {
            Some(v1::fleet_message::Kind::Welcome(welcome)) => {
                Ok(Self { send, answers, welcome, encoder: Encoder::new() })
            }
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    pub async fn send(&mut self, batch: &Batch) {
        let frame = self.encoder.encode(batch);
        self.send_raw(v1::agent_message::Kind::Frames(pack(vec![frame], 1))).await;
    }

    pub async fn send_raw(&self, kind: v1::agent_message::Kind) {
        // an error says that the stream has ended, which `answer` tells better
        drop(self.send.send(v1::AgentMessage { kind: Some(kind) }).await);
    }

    /// Waits until everything up to `seq` is acknowledged.
    pub async fn acked(&mut self, seq: u64) -> Result<v1::Ack, Status> {
        loop {
            match self.answers.message().await?.and_then(|m| m.kind) {
                Some(v1::fleet_message::Kind::Ack(ack)) if ack.seq >= seq => return Ok(ack),
                Some(_) => {}
                None => return Err(Status::ok("the stream ended")),
            }
        }
    }

    /// Why the stream ends.
    pub async fn refused(&mut self) -> Status {
        loop {
            match self.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("the stream ended"),
                Err(status) => return status,
            }
        }
    }
}

/// A frame of a node with one zone and one namespace, at `ticks`; the zone has used `uj` at each, the namespace half.
pub fn batch(seq: u64, ticks: &[u64], uj: &[u64]) -> Batch {
    let zone = Arc::new(ZoneInfo {
        id: ZoneId::new("powercap/package-0").unwrap(),
        name: "package-0".into(),
        kind: ZoneKind::Package,
        socket: Some(0),
        source: "powercap".into(),
        quality: Quality::Measured,
        error: Ratio::from_percent(2),
        counts: true,
    });
    let id = WorkloadId::new(WorkloadKind::Namespace, "shop").unwrap();
    let key =
        |workload: Option<WorkloadId>| SeriesKey { metric: Metric::Energy, zone: Some(zone.id.clone()), workload };
    let len = u32::try_from(ticks.len()).unwrap();
    Batch {
        seq,
        boot: Some("0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d".parse().unwrap()),
        ticks: ticks.to_vec(),
        series: vec![key(None), key(Some(id.clone()))],
        zones: vec![Arc::clone(&zone)],
        workloads: vec![Arc::new(WorkloadInfo { id, labels: [("name", "shop")].into_iter().collect() })],
        columns: vec![Column { series: 0, first: 0, len }, Column { series: 1, first: 0, len }],
        values: uj.iter().copied().chain(uj.iter().map(|v| v / 2)).collect(),
        dropped: None,
    }
}

/// Runs a test on a runtime with two threads.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}
