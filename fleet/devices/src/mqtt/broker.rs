//! The connection to a broker, kept by one task: it listens, sends what it is handed, and connects again when it
//! breaks. What was not sent when the connection broke is thrown away: nobody waits for it any more.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Shutdown;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;

use crate::credentials::Credentials;
use crate::error::DeviceError;
use crate::http::Judge;
use crate::mqtt::device::{MqttDevice, Send};
use crate::mqtt::memory::Memory;
use crate::mqtt::packet::{self, Packet};

/// The broker takes a listener that is silent for one and a half of this for gone, and so do we.
const KEEP_ALIVE_S: u16 = 30;

/// Longest pause before the next attempt to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where the broker is and who is asking.
pub(crate) struct Broker {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<(TlsConnector, ServerName<'static>, Arc<Judge>)>,
    pub(crate) credentials: Option<Credentials>,
    /// Our name there.
    pub(crate) own: String,
    pub(crate) device: MqttDevice,
    pub(crate) timeout: Duration,
}

/// What the task and the driver share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Counts what happened.
    news: watch::Sender<u64>,
}

/// How the connection stands and what was heard over it.
pub(crate) struct State {
    pub(crate) connected: bool,
    pub(crate) memory: Memory,
    /// Why there is no connection.
    pub(crate) problem: Option<Problem>,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(crate) enum Problem {
    /// The network, or the broker's manners.
    Broken(String),
    /// User or password.
    Denied(String),
    /// The certificate.
    Certificate(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Problem {
    pub(crate) fn error(self, device: &str) -> DeviceError {
        let device = device.to_owned();
        match self {
            Self::Broken(why) => DeviceError::Unreachable { device, why },
            Self::Denied(hint) => DeviceError::Denied { device, hint },
            Self::Certificate(why) => DeviceError::Certificate { device, why },
        }
    }
}

impl Shared {
    pub(crate) fn new(device: &MqttDevice) -> Self {
        let state = State { connected: false, memory: Memory::new(device), problem: None };
        Self { state: Mutex::new(state), news: watch::Sender::new(0) }
    }

    /// Looks at, or changes, the state; never across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes when something happened.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.news.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// Keeps the connection until told to stop.
pub(crate) async fn keep(broker: Broker, shared: Arc<Shared>, mut outbox: mpsc::Receiver<Send>, stop: Shutdown) {
    let mut pause = Duration::from_secs(1);
    loop {
        let problem = tokio::select! {
            biased;
            () = stop.requested() => return,
            problem = listen(&broker, &shared, &mut outbox) => problem,
        };
        let was_connected = shared.state().connected;
        while outbox.try_recv().is_ok() {}
        shared.change(|state| {
            state.connected = false;
            // What happened meanwhile isn't known.
            state.memory.forget();
            state.problem = Some(problem);
        });
        pause = if was_connected { Duration::from_secs(1) } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::select! {
            biased;
            () = stop.requested() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One connection, from its beginning to its end.
async fn listen(broker: &Broker, shared: &Shared, outbox: &mut mpsc::Receiver<Send>) -> Problem {
    let late = |_| Err(Problem::Broken("the broker doesn't answer; check address and firewall".to_owned()));
    let opened = tokio::time::timeout(broker.timeout, open(broker)).await.unwrap_or_else(late);
    let (mut stream, mut buffer) = match opened {
        Ok(opened) => opened,
        Err(problem) => return problem,
    };
    shared.change(|state| (state.connected, state.problem) = (true, None));
    match converse(broker, shared, outbox, &mut stream, &mut buffer).await {
        Ok(()) => {
            // The driver is gone; a broker that hears no good-bye only waits longer.
            drop(stream.write_all(&packet::DISCONNECT).await);
            Problem::Broken("closed".to_owned())
        }
        Err(problem) => problem,
    }
}

async fn converse(
    broker: &Broker,
    shared: &Shared,
    outbox: &mut mpsc::Receiver<Send>,
    stream: &mut Box<dyn Stream>,
    buffer: &mut Vec<u8>,
) -> Result<(), Problem> {
    let beat = Duration::from_secs(u64::from(KEEP_ALIVE_S) / 2);
    let mut heart = tokio::time::interval(beat);
    let mut heard = clock::now();
    loop {
        while let Some(message) = next(buffer)? {
            if let Packet::Message { topic, payload, retained } = message {
                let at = clock::now();
                shared.change(|s| s.memory.take(&broker.device, &broker.own, &topic, &payload, retained, at));
            }
        }
        tokio::select! {
            read = stream.read_buf(buffer) => {
                if read? == 0 {
                    return Err(Problem::Broken("the broker closed the connection".to_owned()));
                }
                heard = clock::now();
            }
            message = outbox.recv() => {
                let Some((topic, payload)) = message else { return Ok(()) };
                let bytes = packet::publish(&topic, payload.as_bytes());
                send(stream, bytes, beat).await?;
            }
            _ = heart.tick() => {
                if clock::now().since(heard) > beat * 3 {
                    return Err(Problem::Broken("the broker fell silent".to_owned()));
                }
                send(stream, Some(packet::PING.to_vec()), beat).await?;
            }
        }
    }
}

/// A connection on which the broker knows us and has granted the topics.
async fn open(broker: &Broker) -> Result<(Box<dyn Stream>, Vec<u8>), Problem> {
    let tcp = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
    tcp.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match &broker.tls {
        None => Box::new(tcp),
        Some((connector, name, judge)) => {
            let opened = connector.connect(name.clone(), tcp).await;
            Box::new(opened.map_err(|e| judge.distrust(&e).map_or_else(|| e.into(), Problem::Certificate))?)
        }
    };
    let mut buffer = Vec::new();
    let hello = packet::connect(&broker.own, broker.credentials.as_ref(), KEEP_ALIVE_S);
    send(&mut stream, hello, broker.timeout).await?;
    match await_packet(&mut stream, &mut buffer).await? {
        Packet::Connected(0) => {}
        Packet::Connected(4 | 5) => {
            return Err(Problem::Denied("the broker doesn't let this user in; check user and password".to_owned()));
        }
        Packet::Connected(code) => return Err(Problem::Broken(format!("the broker refused the connection ({code})"))),
        _ => return Err(Problem::Broken("the broker didn't begin with CONNACK".to_owned())),
    }
    let topics = broker.device.topics(&broker.own);
    send(&mut stream, packet::subscribe(&topics), broker.timeout).await?;
    match await_packet(&mut stream, &mut buffer).await? {
        Packet::Subscribed(true) => Ok((stream, buffer)),
        Packet::Subscribed(false) => Err(Problem::Denied(format!(
            "the broker lets this user not listen to {}; check its rules",
            topics.join(", ")
        ))),
        _ => Err(Problem::Broken("the broker didn't answer SUBSCRIBE".to_owned())),
    }
}

async fn await_packet(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>) -> Result<Packet, Problem> {
    loop {
        if let Some(packet) = next(buffer)? {
            return Ok(packet);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(Problem::Broken("the broker closed the connection before it answered".to_owned()));
        }
    }
}

/// Takes the first packet out of what was read.
fn next(buffer: &mut Vec<u8>) -> Result<Option<Packet>, Problem> {
    let parsed = packet::parse(buffer).map_err(|why| Problem::Broken(format!("nonsense from the broker: {why}")))?;
    Ok(parsed.map(|(packet, taken)| {
        buffer.drain(..taken);
        packet
    }))
}

async fn send(stream: &mut Box<dyn Stream>, bytes: Option<Vec<u8>>, limit: Duration) -> Result<(), Problem> {
    let bytes = bytes.ok_or_else(|| Problem::Broken("a name or message is longer than MQTT allows".to_owned()))?;
    let stuck = |_| Err(io::ErrorKind::TimedOut.into());
    Ok(tokio::time::timeout(limit, stream.write_all(&bytes)).await.unwrap_or_else(stuck)?)
}

/// TCP with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + std::marker::Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + std::marker::Send> Stream for T {}
