//! Made-up agents: each a connection of its own that sends frames on time and waits for what is acknowledged.
//!
//! They run in a process of their own, so that the daemon's CPU time and memory are the daemon's alone.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_proto::frame::{Encoder, pack};
use ebbtide_proto::v1;
use ebbtide_proto::v1::telemetry_client::TelemetryClient;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::load::Counters;
use crate::args::{BenchIngest, Load};
use crate::pki::Authority;
use crate::pki::tls::{Alpn, Credentials, client_config};

/// Agents that connect at a time.
const CONNECTING: usize = 64;

/// What the process of the agents is told, as JSON on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The daemon.
    pub(super) to: SocketAddr,
    /// Folder of the authority; none: not encrypted.
    pub(super) authority: Option<PathBuf>,
    /// How many agents.
    pub(super) agents: u32,
    /// Series of each.
    pub(super) series: u32,
    /// Whether counters have noise.
    pub(super) noisy: bool,
    /// Time between values in milliseconds.
    pub(super) interval_ms: u32,
    /// Values of a series in a frame.
    pub(super) frame: u32,
    /// How long to send, once all are connected.
    pub(super) seconds: u64,
}

/// What it tells at the end, as a line of JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// Values sent and acknowledged.
    pub(super) samples: u64,
    /// Frames sent and acknowledged.
    pub(super) frames: u64,
    /// Bytes of frames.
    pub(super) bytes: u64,
    /// What 50, 99 and 100 of 100 frames waited for their ack, in milliseconds.
    pub(super) ack_ms: [f64; 3],
    /// Frames that began more than an interval late: the agents could not keep up.
    pub(super) late: u64,
    /// Agents that lost their connection.
    pub(super) failed: u64,
}

#[derive(Default)]
struct Shared {
    connected: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
    /// Frames by how many hundredths of a second they waited.
    waited: Vec<AtomicU64>,
}

impl Order {
    /// The agents of a benchmark.
    pub(super) fn of(bench: &BenchIngest, to: SocketAddr, authority: Option<PathBuf>) -> Self {
        Self {
            to,
            authority,
            agents: bench.agents,
            series: bench.series,
            noisy: bench.load == Load::Noisy,
            interval_ms: bench.interval_ms,
            frame: bench.frame,
            seconds: bench.seconds,
        }
    }
}

/// The process of the agents: connects all, says `ready`, waits for a line, sends, says what happened.
///
/// # Errors
/// If the order can't be read or a certificate not be made.
pub(super) fn run(order: &Order) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(agents(order))
}

async fn agents(order: &Order) -> anyhow::Result<()> {
    let shared = Arc::new(Shared { waited: (0..3000).map(|_| AtomicU64::new(0)).collect(), ..Shared::default() });
    let authority = order.authority.as_ref().map(|folder| Authority::load(folder)).transpose()?.map(Arc::new);
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let (begin, begun) = tokio::sync::watch::channel(0u64);
    let mut tasks = Tasks::new();
    for number in 0..order.agents {
        let (shared, connecting) = (Arc::clone(&shared), Arc::clone(&connecting));
        let agent = Agent {
            number,
            to: order.to,
            series: order.series,
            load: if order.noisy { Load::Noisy } else { Load::Steady },
            interval_ms: order.interval_ms,
            frame: order.frame,
            frames: order.seconds * 1000 / u64::from(order.interval_ms) / u64::from(order.frame),
            agents: order.agents,
        };
        let (begun, authority) = (begun.clone(), authority.clone());
        tasks.spawn("agent", async move {
            let counted = Arc::clone(&shared);
            if let Err(error) = agent.run(authority, connecting, shared, begun).await
                && counted.failed.fetch_add(1, Ordering::Relaxed) == 0
            {
                eprintln!("an agent failed: {error:#}");
            }
            Ok(())
        });
    }
    while shared.connected.load(Ordering::Relaxed) + shared.failed.load(Ordering::Relaxed) < u64::from(order.agents) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("ready");
    std::io::stdout().flush()?;
    // the daemon is looked at before the first frame
    tokio::task::block_in_place(|| std::io::stdin().read_line(&mut String::new()))?;
    begin.send_replace(clock::now().mono);
    while tasks.next_ended().await.is_some() {}
    let frames = shared.frames.load(Ordering::Relaxed);
    let told = Told {
        samples: frames * u64::from(order.series) * u64::from(order.frame),
        frames,
        bytes: shared.bytes.load(Ordering::Relaxed),
        ack_ms: [0.5, 0.99, 1.0].map(|part| quantile(&shared.waited, part)),
        late: shared.late.load(Ordering::Relaxed),
        failed: shared.failed.load(Ordering::Relaxed),
    };
    println!("{}", serde_json::to_string(&told)?);
    Ok(())
}

fn quantile(waited: &[AtomicU64], part: f64) -> f64 {
    let counts: Vec<u64> = waited.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    let total: u64 = counts.iter().sum();
    let mut seen = 0;
    for (i, n) in counts.iter().enumerate() {
        seen += n;
        if total > 0 && seen as f64 >= total as f64 * part {
            return (i + 1) as f64 * 10.0;
        }
    }
    0.0
}

struct Agent {
    number: u32,
    to: SocketAddr,
    series: u32,
    load: Load,
    interval_ms: u32,
    frame: u32,
    frames: u64,
    agents: u32,
}

impl Agent {
    async fn run(
        self,
        authority: Option<Arc<Authority>>,
        connecting: Arc<Semaphore>,
        shared: Arc<Shared>,
        mut begun: tokio::sync::watch::Receiver<u64>,
    ) -> anyhow::Result<()> {
        let turn = connecting.acquire_owned().await?;
        let name = format!("bench-{:05}", self.number);
        let channel = self.channel(authority.as_deref(), &name).await?;
        let mut client = TelemetryClient::new(channel);
        let (send, receive) = mpsc::channel(4);
        let now_ms = clock::now().wall / 1_000_000;
        let hello = v1::Hello {
            node: name,
            spool_id: u64::from(self.number) + 1,
            first_seq: 1,
            next_seq: 1,
            now_ms,
            version: "bench".into(),
            protocol: 1,
            ..v1::Hello::default()
        };
        send.send(message(v1::agent_message::Kind::Hello(hello))).await?;
        let mut answers = client.stream(ReceiverStream::new(receive)).await?.into_inner();
        answers.message().await?.context("no welcome came")?;
        drop(turn);
        shared.connected.fetch_add(1, Ordering::Relaxed);
        begun.wait_for(|at| *at > 0).await?;
        let begin = tokio::time::Instant::now();
        let every = Duration::from_millis(u64::from(self.interval_ms) * u64::from(self.frame));
        let phase = every * self.number / self.agents.max(1);
        let mut encoder = Encoder::new();
        let start_ms = clock::now().wall / 1_000_000;
        let mut counters = Counters::new(self.number, self.series, self.load, self.interval_ms, start_ms);
        for n in 0..self.frames {
            let due = begin + phase + every * u32::try_from(n).unwrap_or(u32::MAX);
            tokio::time::sleep_until(due).await;
            if tokio::time::Instant::now() > due + every {
                shared.late.fetch_add(1, Ordering::Relaxed);
            }
            let batch = pack(vec![encoder.encode(counters.next(self.frame))], 1);
            let size = prost::Message::encoded_len(&batch);
            shared.bytes.fetch_add(size as u64, Ordering::Relaxed);
            let sent = tokio::time::Instant::now();
            send.send(message(v1::agent_message::Kind::Frames(batch))).await?;
            loop {
                let answer = answers.message().await?.context("the daemon ended the stream")?;
                if let Some(v1::fleet_message::Kind::Ack(ack)) = answer.kind
                    && ack.seq > n
                {
                    break;
                }
            }
            let hundredths = usize::try_from(sent.elapsed().as_millis() / 10).unwrap_or(usize::MAX);
            if let Some(n) = shared.waited.get(hundredths.min(shared.waited.len() - 1)) {
                n.fetch_add(1, Ordering::Relaxed);
            }
            shared.frames.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn channel(&self, authority: Option<&Authority>, name: &str) -> anyhow::Result<tonic::transport::Channel> {
        let to = self.to;
        let endpoint = Endpoint::from_shared(format!("http://{to}"))?
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(64 << 10)
            .buffer_size(16)
            .connect_timeout(Duration::from_secs(30));
        let Some(authority) = authority else { return Ok(endpoint.connect().await?) };
        let identity = format!("ebbtide://node/{name}").parse()?;
        let issued = authority.issue(&identity, &[], 1, clock::now().wall / 1_000_000)?;
        let own = Credentials::from_pem("the made-up agent", &issued.certificate_pem, &issued.key_pem)?;
        let tls = Arc::new(client_config(&[authority.certificate_der().clone()], Some(own), Alpn::Http2)?);
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let tls = Arc::clone(&tls);
            async move {
                let stream = TcpStream::connect(to).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::IpAddress(to.ip().into());
                Ok::<_, std::io::Error>(TokioIo::new(TlsConnector::from(tls).connect(name, stream).await?))
            }
        });
        Ok(endpoint.connect_with_connector(connector).await?)
    }
}

fn message(kind: v1::agent_message::Kind) -> v1::AgentMessage {
    v1::AgentMessage { kind: Some(kind) }
}
