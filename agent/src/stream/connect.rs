//! One connection to the fleet daemon: TCP, TLS, HTTP/2, and the stream of messages on it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ebbtide_proto::v1;
use ebbtide_proto::v1::telemetry_client::TelemetryClient;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::identity::Identity;
use super::session::Ended;
use crate::clock;
use crate::tasks::blocking;

/// TCP and TLS must be through within this time.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// A dead peer is noticed after the sum of both.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// HTTP/2 windows: what the fleet says is short, and ten thousand agents have one each.
const WINDOW: u32 = 64 << 10;
/// The longest message that is taken from the fleet.
const LONGEST: usize = 64 << 10;

/// Who is connected to, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Certificates; `None` speaks plain text.
    pub identity: Option<Identity>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection without a stream yet.
pub struct Connection(TelemetryClient<Channel>);

/// Connects, and warns of a certificate that ends soon.
pub async fn connect(target: Target) -> Result<Connection, Ended> {
    let unreachable = |text: String| Ended { code: None, text };
    let config = match target.identity.clone() {
        None => None,
        Some(identity) => {
            // somebody has to do something about the files: no reason to hurry
            let read = blocking("certificates", move || identity.client_config()).await;
            let read = read.ok_or_else(|| unreachable("can't read the certificates".to_owned()))?;
            let (config, validity) =
                read.map_err(|error| Ended { code: Some(Code::Unauthenticated), text: error.to_string() })?;
            validity.warn(clock::now());
            Some(config)
        }
    };
    let io = async {
        let tcp =
            TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|e| unreachable(e.to_string()))?;
        tcp.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
        let Some(config) = config else { return Ok(Box::new(tcp) as Box<dyn Io>) };
        let name = ServerName::try_from(target.host.clone()).map_err(|e| unreachable(e.to_string()))?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        let tls = tls.map_err(|e| unreachable(format!("no secure connection: {e}")))?;
        Ok::<Box<dyn Io>, Ended>(Box::new(tls))
    };
    let io = match timeout(CONNECT_WITHIN, io).await {
        Ok(io) => io?,
        Err(_) => return Err(unreachable(format!("no connection within {CONNECT_WITHIN:?}"))),
    };
    let channel = channel(&target, io).await.map_err(|e| unreachable(causes(&e)))?;
    Ok(Connection(TelemetryClient::new(channel).max_decoding_message_size(LONGEST)))
}

/// HTTP/2 on a connection that is there.
pub(crate) async fn channel(
    target: &Target,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Channel, tonic::transport::Error> {
    // the name is for the header only: who the fleet is was seen in its certificate
    let io = Arc::new(Mutex::new(Some(TokioIo::new(io))));
    let connector = tower::service_fn(move |_| {
        let io = io.lock().map_or(None, |mut io| io.take());
        async { io.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    Endpoint::from_shared(format!("http://{target}"))?
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .buffer_size(8)
        .connect_with_connector(connector)
        .await
}

impl Connection {
    /// Begins the stream: `messages` go up. What comes down is read from the result.
    pub fn stream(self, messages: mpsc::Receiver<v1::AgentMessage>) -> Inbound {
        let Self(mut client) = self;
        Inbound::Opening(Box::pin(async move {
            let response = client.stream(ReceiverStream::new(messages)).await;
            response.map(tonic::Response::into_inner)
        }))
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<v1::FleetMessage>, Status>> + Send>>;

/// What the fleet says on one connection.
pub enum Inbound {
    /// It has not said anything yet.
    Opening(Opening),
    /// It speaks.
    Open(Box<Streaming<v1::FleetMessage>>),
}

impl Inbound {
    /// The next message. Loses nothing if dropped before it returns.
    pub async fn next(&mut self) -> Result<v1::FleetMessage, Ended> {
        loop {
            match self {
                Self::Opening(opening) => *self = Self::Open(Box::new(opening.await.map_err(|status| ended(&status))?)),
                Self::Open(stream) => {
                    return match stream.message().await {
                        Ok(Some(message)) => Ok(message),
                        Ok(None) => Err(Ended { code: Some(Code::Ok), text: "the fleet ended the stream".to_owned() }),
                        Err(status) => Err(ended(&status)),
                    };
                }
            }
        }
    }
}

fn ended(status: &Status) -> Ended {
    let text: String = status.message().chars().filter(|c| !c.is_control()).take(300).collect();
    let text = if text.is_empty() { status.code().description().to_owned() } else { text };
    Ended { code: Some(status.code()), text }
}

/// An error with its causes, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
