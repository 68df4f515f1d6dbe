//! Prometheus remote write 1.0: the series of the metrics page, sent on at an interval.
//!
//! What can't be delivered is tried again, as the specification asks: after 5xx and 429 with backoff, never after
//! other 4xx. At most [`KEEP`] rounds wait; older ones are given up and counted, since the store has everything anyway.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Rounds that wait while the receiver doesn't take them.
const KEEP: usize = 240;
/// One request may take so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

// prometheus.WriteRequest of prompb/remote.proto, as far as it is used
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// Why a round was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RemoteWriteError {
    /// No connection, or it broke.
    #[error("can't reach {url}: {text}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        text: String,
    },
    /// The receiver said no.
    #[error("{url} answered {status}: {text}")]
    Refused {
        /// Where.
        url: String,
        /// Its status.
        status: StatusCode,
        /// What it said.
        text: String,
    },
    /// The address makes no sense.
    #[error("remote write to {url}: {text}")]
    Address {
        /// What was configured.
        url: String,
        /// What is wrong.
        text: &'static str,
    },
}

impl RemoteWriteError {
    /// Whether trying again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Address { .. } => false,
        }
    }
}

/// The lines of a metrics page as a request, compressed. Comments, and histograms' parts, go as they are.
pub fn request(page: &str, at_ms: u64) -> Vec<u8> {
    let timestamp = i64::try_from(at_ms).unwrap_or(i64::MAX);
    let timeseries = page.lines().filter_map(|line| series(line, timestamp)).collect();
    let plain = WriteRequest { timeseries }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&plain).unwrap_or_default()
}

/// `name{label="text",…} value`
fn series(line: &str, timestamp: i64) -> Option<TimeSeries> {
    if line.starts_with('#') {
        return None;
    }
    let (name, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, rest),
        None => {
            let (name, value) = line.rsplit_once(' ')?;
            return Some(one(vec![label("__name__", name)], value.parse().ok()?, timestamp));
        }
    };
    let mut labels = vec![label("__name__", name)];
    let mut rest = rest;
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (text, after) = quoted(after)?;
        labels.push(Label { name: key.to_owned(), value: text });
        if let Some(more) = after.strip_prefix(',') {
            rest = more;
            continue;
        }
        let value = after.strip_prefix("} ")?.parse().ok()?;
        // the specification wants labels sorted by name
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        return Some(one(labels, value, timestamp));
    }
}

fn label(name: &str, value: &str) -> Label {
    Label { name: name.to_owned(), value: value.to_owned() }
}

fn one(labels: Vec<Label>, value: f64, timestamp: i64) -> TimeSeries {
    TimeSeries { labels, samples: vec![Sample { value, timestamp }] }
}

/// The text up to the closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    None
}

/// Sends to one receiver.
pub struct Sender {
    url: String,
    uri: Uri,
    tls: Option<Arc<rustls::ClientConfig>>,
    token: Option<std::path::PathBuf>,
    waiting: VecDeque<Vec<u8>>,
    failures: u32,
    /// Rounds that were given up.
    pub dropped: u64,
    /// Rounds that were taken.
    pub sent: u64,
}

impl Sender {
    /// For this address.
    ///
    /// # Errors
    /// [`RemoteWriteError::Address`] if it is none.
    pub fn new(
        url: &str,
        tls: Option<Arc<rustls::ClientConfig>>,
        token: Option<std::path::PathBuf>,
    ) -> Result<Self, RemoteWriteError> {
        let wrong = |text| RemoteWriteError::Address { url: url.to_owned(), text };
        let uri: Uri = url.parse().map_err(|_| wrong("is no address"))?;
        if uri.host().is_none() {
            return Err(wrong("has no host"));
        }
        if uri.scheme_str() == Some("https") && tls.is_none() {
            return Err(wrong("needs `ca`, the authority of the receiver"));
        }
        if token.is_some() && uri.scheme_str() != Some("https") {
            tracing::warn!("the token for {url} crosses the network in clear text");
        }
        Ok(Self { url: url.to_owned(), uri, tls, token, waiting: VecDeque::new(), failures: 0, dropped: 0, sent: 0 })
    }

    /// Adds a round to those that wait.
    pub fn keep(&mut self, request: Vec<u8>) {
        self.waiting.push_back(request);
        while self.waiting.len() > KEEP {
            self.waiting.pop_front();
            self.dropped += 1;
        }
    }

    /// Sends what waits, the oldest first. Says how long to wait before more is tried.
    pub async fn round(&mut self) -> Option<Duration> {
        while let Some(oldest) = self.waiting.front() {
            let body = Bytes::from(oldest.clone());
            let outcome = match tokio::time::timeout(PATIENCE, self.send(body)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(RemoteWriteError::Unreachable { url: self.url.clone(), text: "it took too long".into() }),
            };
            match outcome {
                Ok(()) => {
                    if std::mem::take(&mut self.failures) > 0 {
                        tracing::info!("remote write to {} works again", self.url);
                    }
                    self.sent += 1;
                    self.waiting.pop_front();
                }
                Err(error) if error.is_passing() => {
                    if self.failures == 0 {
                        tracing::warn!("remote write: {error}; trying again");
                    }
                    self.failures = self.failures.saturating_add(1);
                    return Some(Duration::from_secs(1 << self.failures.min(6)).min(LONGEST_PAUSE));
                }
                Err(error) => {
                    tracing::error!("remote write: {error}; this round is given up");
                    self.dropped += 1;
                    self.waiting.pop_front();
                }
            }
        }
        None
    }

    async fn send(&self, body: Bytes) -> Result<(), RemoteWriteError> {
        let unreachable =
            |e: &dyn std::fmt::Display| RemoteWriteError::Unreachable { url: self.url.clone(), text: e.to_string() };
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = self.uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| unreachable(&e))?;
        match &self.tls {
            Some(tls) if self.uri.scheme_str() == Some("https") => {
                let name = ServerName::try_from(host).map_err(|e| unreachable(&e))?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
                self.exchange(TokioIo::new(stream.map_err(|e| unreachable(&e))?), body).await
            }
            _ => self.exchange(TokioIo::new(stream), body).await,
        }
    }

    async fn exchange<S>(&self, io: S, body: Bytes) -> Result<(), RemoteWriteError>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin,
    {
        let unreachable =
            |e: &dyn std::fmt::Display| RemoteWriteError::Unreachable { url: self.url.clone(), text: e.to_string() };
        let (mut sender, connection) = http1::handshake(io).await.map_err(|e| unreachable(&e))?;
        let authority = self.uri.authority().map(ToString::to_string).unwrap_or_default();
        let path = self.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(CONTENT_ENCODING, "snappy")
            .header(USER_AGENT, concat!("ebbtide-fleet/", env!("CARGO_PKG_VERSION")))
            .header("X-Prometheus-Remote-Write-Version", "0.1.0");
        if let Some(file) = &self.token {
            let token = std::fs::read_to_string(file)
                .map_err(|e| unreachable(&format!("the token file {} can't be read: {e}", file.display())))?;
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let request = request.body(Full::new(body)).map_err(|e| unreachable(&e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| unreachable(&e))?;
            let status = response.status();
            let said = Limited::new(response.into_body(), 4096).collect().await;
            if status.is_success() {
                return Ok(());
            }
            let said = said.map(|said| said.to_bytes()).unwrap_or_default();
            let text = String::from_utf8_lossy(&said).trim().chars().take(200).collect();
            Err(RemoteWriteError::Refused { url: self.url.clone(), status, text })
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            ended = connection => match ended {
                // it ends with the answer, which still has to be looked at
                Ok(()) => exchange.await,
                Err(broken) => Err(unreachable(&broken)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_series() {
        let page = "# HELP a b\n# TYPE a gauge\na 1.5\na{z=\"x\",b=\"q\\\"\\\\\\n}\"} 2e3\nbad\n";
        let plain = snap::raw::Decoder::new().decompress_vec(&request(page, 7)).unwrap();
        let written = WriteRequest::decode(plain.as_slice()).unwrap();
        assert_eq!(written.timeseries.len(), 2);
        let second = &written.timeseries[1];
        let labels: Vec<_> = second.labels.iter().map(|l| (l.name.as_str(), l.value.as_str())).collect();
        assert_eq!(labels, [("__name__", "a"), ("b", "q\"\\\n}"), ("z", "x")]);
        assert_eq!((second.samples[0].value, second.samples[0].timestamp), (2000.0, 7));
    }
}
