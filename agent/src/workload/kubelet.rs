//! Keeps the names of this node's pods fresh by asking its kubelet, in the background.
//!
//! One task asks ([`KubeletNames::refresh_loop`]); everybody else reads the last good answer behind an atomic
//! pointer and never waits. Meeting an unknown pod or container wakes the task early, but no sooner than a minimum
//! gap after the last request, and ever later while asking brings nothing new (a leftover control group without a
//! pod must not become a request every other second).
//!
//! `https://` (port 10250) needs the right `get nodes/proxy` (`nodes/pods` with fine-grained kubelet authorization)
//! and a bearer token; `http://` is the read-only port (10255), to which no token is ever sent.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsConnector;

use crate::host::read_text;
use crate::workload::pods::{ContainerName, PodName, PodNames, PodsError};

/// How to reach the kubelet.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// `https://HOST[:10250]` or `http://HOST[:10255]`; the path is `/pods` unless one is given.
    pub url: String,
    /// PEM file of the authorities that may have signed the kubelet's certificate. Read anew for each request.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate. Whoever answers at the address then gets the token.
    pub insecure: bool,
    /// File of the bearer token. Read anew for each request, since tokens rotate.
    pub token_file: Option<PathBuf>,
    /// Time between requests when nothing unknown turns up.
    pub interval: Duration,
    /// Least time between the end of one request and the start of the next.
    pub min_gap: Duration,
    /// Time for one request in all.
    pub timeout: Duration,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        Self {
            url: "https://127.0.0.1:10250".to_owned(),
            ca_file: None,
            insecure: false,
            token_file: None,
            interval: Duration::from_secs(30),
            min_gap: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
        }
    }
}

/// Why the kubelet can't be asked, or didn't answer.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The address is none.
    #[error("kubelet url {0:?} should look like https://HOST:10250 or http://HOST:10255")]
    Url(String),
    /// `https` without a way to know the kubelet.
    #[error("kubelet over https needs a CA file, or insecure = true to accept any certificate")]
    NoTrust,
    /// Two contradicting ways to know the kubelet.
    #[error("kubelet has both a CA file and insecure = true; remove one")]
    TwoTrusts,
    /// A token that anyone on the way could read.
    #[error("kubelet token would be sent in the clear over http; use https, or remove the token file")]
    PlainToken,
    /// A file couldn't be read.
    #[error("can't read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The CA file holds no usable certificate.
    #[error("{0} holds no usable PEM certificate")]
    Ca(PathBuf),
    /// The token file is empty or holds characters that no header can carry.
    #[error("{0} holds no usable token")]
    Token(PathBuf),
    /// TLS couldn't be set up.
    #[error("can't set up TLS for the kubelet")]
    Tls(#[from] rustls::Error),
    /// No connection, or none that is trusted.
    #[error("can't connect to the kubelet at {to}")]
    Connect {
        /// Host and port.
        to: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke or spoke no HTTP.
    #[error("the kubelet's answer broke off")]
    Http(#[from] hyper::Error),
    /// The request couldn't be made.
    #[error("can't make the request to the kubelet")]
    Request(#[from] hyper::http::Error),
    /// An answer other than 200.
    #[error("the kubelet answered {code}{hint}")]
    Status {
        /// The status.
        code: StatusCode,
        /// What to do about it.
        hint: &'static str,
    },
    /// The answer couldn't be read as a list of pods.
    #[error("the kubelet's answer is of no use")]
    Pods(#[from] PodsError),
    /// Not done in time.
    #[error("the kubelet at {to} didn't answer within {limit:?}")]
    Timeout {
        /// Host and port.
        to: String,
        /// The time it had.
        limit: Duration,
    },
}

#[derive(Clone, Debug)]
enum Transport {
    Plain,
    Tls { name: ServerName<'static>, ca_file: Option<PathBuf> },
}

/// A checked [`KubeletConfig`]: one kubelet and how to ask it.
#[derive(Clone, Debug)]
pub struct Kubelet {
    host: String,
    port: u16,
    path: String,
    transport: Transport,
    config: KubeletConfig,
}

impl Kubelet {
    /// Checks the configuration. Opens nothing.
    ///
    /// # Errors
    /// If the URL is none, trust is not settled, or the token would go out in the clear.
    pub fn new(config: KubeletConfig) -> Result<Self, KubeletError> {
        let bad = || KubeletError::Url(config.url.clone());
        let uri: Uri = config.url.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, transport) = match uri.scheme_str() {
            Some("http") if config.token_file.is_some() => return Err(KubeletError::PlainToken),
            Some("http") => (10255, Transport::Plain),
            Some("https") => {
                match (&config.ca_file, config.insecure) {
                    (None, false) => return Err(KubeletError::NoTrust),
                    (Some(_), true) => return Err(KubeletError::TwoTrusts),
                    _ => {}
                }
                let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
                (10250, Transport::Tls { name, ca_file: config.ca_file.clone() })
            }
            _ => return Err(bad()),
        };
        let path = match uri.path() {
            "" | "/" => "/pods".to_owned(),
            path => path.to_owned(),
        };
        Ok(Self { port: uri.port_u16().unwrap_or(port), host, path, transport, config })
    }

    /// Host and port, for messages.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Asks once, within the configured time.
    ///
    /// # Errors
    /// Whatever kept the list from being read.
    pub async fn fetch(&self) -> Result<PodNames, KubeletError> {
        let limit = self.config.timeout;
        match tokio::time::timeout(limit, self.ask()).await {
            Ok(outcome) => Ok(PodNames::parse(&outcome?)?),
            Err(_) => Err(KubeletError::Timeout { to: self.authority(), limit }),
        }
    }

    async fn ask(&self) -> Result<Bytes, KubeletError> {
        let request = self.request()?;
        let connect = |source| KubeletError::Connect { to: self.authority(), source };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(connect)?;
        match &self.transport {
            Transport::Plain => exchange(stream, request).await,
            Transport::Tls { name, ca_file } => {
                let tls = TlsConnector::from(Arc::new(client_config(ca_file.as_ref())?));
                let stream = tls.connect(name.clone(), stream).await.map_err(connect)?;
                exchange(stream, request).await
            }
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, KubeletError> {
        let mut request = Request::get(self.path.as_str())
            .header(HOST, self.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("ebbtide-agent/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())?;
        if let Some(path) = &self.config.token_file {
            let text = read_text(path).map_err(|source| KubeletError::File { path: path.clone(), source })?;
            let token = text.trim();
            let value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| !token.is_empty());
            let mut value = value.ok_or_else(|| KubeletError::Token(path.clone()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// The last good answer of the kubelet, shared by all who need names.
#[derive(Debug)]
pub struct KubeletNames {
    names: ArcSwap<PodNames>,
    problem: ArcSwapOption<String>,
    wanted: Notify,
    rounds: watch::Sender<u64>,
}

impl Default for KubeletNames {
    fn default() -> Self {
        Self {
            names: ArcSwap::default(),
            problem: ArcSwapOption::empty(),
            wanted: Notify::new(),
            rounds: watch::Sender::new(0),
        }
    }
}

impl KubeletNames {
    /// The pod whose control group carries `uid`. An unknown one is asked for soon; try again at a later sample.
    pub fn pod(&self, uid: &str) -> Option<Arc<PodName>> {
        let found = self.names.load().pod(uid).cloned();
        if found.is_none() {
            self.wanted.notify_one();
        }
        found
    }

    /// The container with `id`. An unknown one is asked for soon; a pod's sandbox is never found.
    pub fn container(&self, id: &str) -> Option<ContainerName> {
        let found = self.names.load().container(id).cloned();
        if found.is_none() {
            self.wanted.notify_one();
        }
        found
    }

    /// All names of the last good answer.
    pub fn names(&self) -> Arc<PodNames> {
        self.names.load_full()
    }

    /// Why the last request failed, in one line; `None` if it didn't.
    pub fn problem(&self) -> Option<Arc<String>> {
        self.problem.load_full()
    }

    /// Counts finished requests, good or bad: to wait for the first answer.
    pub fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    /// Asks again and again until `stop` is true or its sender gone. A failure is logged when it first appears and
    /// when it changes; the names stay as they were.
    pub async fn refresh_loop(self: Arc<Self>, kubelet: Kubelet, mut stop: watch::Receiver<bool>) {
        let config = &kubelet.config;
        let stopped = async {
            // An error says that the sender is gone, which is a stop as well.
            stop.wait_for(|s| *s).await.is_ok()
        };
        let mut stopped = pin!(stopped);
        let (mut gap, mut asked) = (config.min_gap, false);
        loop {
            let outcome = tokio::select! {
                biased;
                _ = &mut stopped => return,
                outcome = kubelet.fetch() => outcome,
            };
            let news = self.take(outcome, &kubelet);
            gap = next_gap(gap, asked && !news, config);
            self.rounds.send_modify(|n| *n = n.wrapping_add(1));
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = tokio::time::sleep(gap) => {}
            }
            asked = tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = self.wanted.notified() => true,
                () = tokio::time::sleep(config.interval.saturating_sub(gap)) => false,
            };
        }
    }

    /// Publishes an outcome; whether the names are others than before.
    fn take(&self, outcome: Result<PodNames, KubeletError>, kubelet: &Kubelet) -> bool {
        match outcome {
            Ok(names) => {
                if self.problem.swap(None).is_some() {
                    tracing::info!(kubelet = %kubelet.authority(), pods = names.len(), "kubelet answers again");
                }
                let news = *self.names.load_full() != names;
                if news {
                    self.names.store(Arc::new(names));
                }
                news
            }
            Err(error) => {
                let text = with_sources(&error);
                if self.problem.load().as_deref() != Some(&text) {
                    tracing::warn!(kubelet = %kubelet.authority(), "no names of pods: {text}");
                    self.problem.store(Some(Arc::new(text)));
                }
                false
            }
        }
    }
}

/// Asking in vain doubles the gap up to the interval; anything else resets it.
fn next_gap(gap: Duration, in_vain: bool, config: &KubeletConfig) -> Duration {
    if in_vain { gap.saturating_mul(2).min(config.interval).max(config.min_gap) } else { config.min_gap }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// Sends `request` over a fresh connection and reads the answer's body, at most [`PodNames::MAX_BYTES`].
async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Bytes, KubeletError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let code = response.status();
        if code != StatusCode::OK {
            let hint = match code {
                StatusCode::UNAUTHORIZED => ": it doesn't accept the token",
                StatusCode::FORBIDDEN => ": the token's account needs the right to get nodes/proxy",
                _ => "",
            };
            return Err(KubeletError::Status { code, hint });
        }
        match Limited::new(response.into_body(), PodNames::MAX_BYTES).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(e) if e.is::<LengthLimitError>() => Err(PodsError::TooLong.into()),
            Err(e) => match e.downcast::<hyper::Error>() {
                Ok(e) => Err(KubeletError::Http(*e)),
                Err(_) => Err(KubeletError::Status { code, hint: " with a body that can't be read" }),
            },
        }
    };
    // The connection is driven here rather than by a task of its own: both end together.
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

fn client_config(ca_file: Option<&PathBuf>) -> Result<ClientConfig, KubeletError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = match ca_file {
        Some(path) => {
            let pem = read_text(path).map_err(|source| KubeletError::File { path: path.clone(), source })?;
            let mut roots = RootCertStore::empty();
            let (usable, _) =
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok));
            if usable == 0 {
                return Err(KubeletError::Ca(path.clone()));
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts any certificate, as long as the peer holds its key. For kubelets that signed their own.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
