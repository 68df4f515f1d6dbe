//! The HTTP server: a listener, a bounded number of connections, and a time limit on everything a client can drag out.
//!
//! Each connection is one task that ends by itself: it waits so long for a handshake, a request, the client to take
//! the response, and the next request. A response is made as fast as the client takes it and never kept whole.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::web_config::WebConfig;
use crate::clock;
use crate::tasks::{Shutdown, Tasks};

/// What one client, and all of them together, may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; more are told to come back (503).
    pub connections: usize,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its head, however slowly it drips; also for that byte to come
    /// on a new connection.
    pub head: Duration,
    /// From the end of a request's head until the client has taken the response.
    pub response: Duration,
    /// Between two requests of a connection.
    pub idle: Duration,
    /// For open connections to finish after the stop signal.
    pub drain: Duration,
    /// About the longest request head, and the most of a response that waits for a slow client, in bytes; at least
    /// 8192.
    pub buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(120),
            drain: Duration::from_secs(5),
            buffer: 32 << 10,
        }
    }
}

/// Who is at the other end of a request; among its extensions.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The certificate that it showed, if the server asks for one.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Why the listen address can't be used.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("port {} is in use on {}; stop the other program (ss -ltnp shows it) or choose another port with --listen", .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// Ports below 1024 are for root or with a capability.
    #[error(
        "not permitted to listen on {0}; ports below 1024 need CAP_NET_BIND_SERVICE, or choose another port with --listen"
    )]
    Denied(SocketAddr),
    /// No interface has this address.
    #[error("{} is no address of this machine (ip address shows them); choose another with --listen", .0.ip())]
    NotAvailable(SocketAddr),
    /// Something else.
    #[error("can't listen on {0}; choose another address with --listen")]
    Other(SocketAddr, #[source] io::Error),
}

/// Connections that are told to come back, at the same time; more than that are closed without a word.
const REFUSALS: usize = 16;

/// How long a refused client may take to hear it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// The pause after a connection couldn't be accepted, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Opens the port.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(addr),
        io::ErrorKind::PermissionDenied => BindError::Denied(addr),
        io::ErrorKind::AddrNotAvailable => BindError::NotAvailable(addr),
        _ => BindError::Other(addr, error),
    })
}

/// Serves `app` until the stop signal, then lets open connections finish. `Err` if the listener breaks.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    web: Option<WebConfig>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    serve_within(Limits::default(), listener, app, web, shutdown).await
}

/// [`serve`] with limits of one's own.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    app: Router,
    web: Option<WebConfig>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let web = web.unwrap_or_default();
    if web.auth.is_some() && web.tls.is_none() && !listener.local_addr().is_ok_and(|addr| addr.ip().is_loopback()) {
        tracing::warn!("passwords cross the network in clear text; add tls_server_config to the web config");
    }
    let server = Arc::new(Server { app: TowerToHyperService::new(app), web, limits });
    let slots = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let mut connections = Tasks::new();
    let mut failing = false;
    let mut stop = pin!(shutdown.requested());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.next_ended() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_broken(&error) => return Err(anyhow::Error::new(error).context("the listener broke")),
            Err(error) => {
                // Once per run of failures; a client that gave up is none.
                if !failing && error.kind() != io::ErrorKind::ConnectionAborted {
                    failing = true;
                    tracing::warn!("can't accept connections, going on trying: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            let connection = Arc::clone(&server).connection(stream, peer.ip(), connections.shutdown());
            connections.spawn("http connection", async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%peer, "connection ended: {:#}", anyhow::Error::new(error));
                }
                drop(slot);
                Ok(())
            });
        } else if let (None, Ok(place)) = (&server.web.tls, Arc::clone(&refusals).try_acquire_owned()) {
            tracing::debug!(%peer, "refused: {} connections are open", limits.connections);
            connections.spawn("refused http connection", async move {
                let busy = "503 Service Unavailable\r\nRetry-After: 1";
                // Whether it is heard is up to the client.
                drop(answer_plainly(stream, busy, "Too many connections are open; try again in a second.\n").await);
                drop(place);
                Ok(())
            });
        } else {
            tracing::debug!(%peer, "closed: {} connections are open", limits.connections);
        }
    }
    drop(listener);
    connections.finish(limits.drain).await;
    Ok(())
}

/// Whether `accept` can never work again, as against a want of resources or a client that gave up.
fn is_broken(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP].into_iter().any(|broken| errno == Some(broken))
}

/// How a connection went wrong. Nobody but the client can do anything about it, so it is for debugging only.
#[derive(Debug, Error)]
enum ConnectionError {
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("plain HTTP on a TLS port")]
    NotTls,
    #[error("cut off: {0} took too long")]
    TooSlow(&'static str),
    #[error("broken off")]
    Http(#[source] hyper::Error),
}

/// What all connections share.
struct Server {
    app: TowerToHyperService<Router>,
    web: WebConfig,
    limits: Limits,
}

impl Server {
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: IpAddr,
        shutdown: Shutdown,
    ) -> Result<(), ConnectionError> {
        // Pages are written in large pieces; there is nothing to gain from waiting for more.
        stream.set_nodelay(true).map_err(ConnectionError::Handshake)?;
        let mut client = Client { address, encrypted: false, certificate: None };
        let Some(tls) = &self.web.tls else { return Box::pin(self.drive(stream, client, &shutdown)).await };
        let handshake = async {
            let mut first = [0];
            stream.peek(&mut first).await.map_err(ConnectionError::Handshake)?;
            if first[0].is_ascii_uppercase() {
                let text = "This port speaks HTTPS; use https:// in the address.\n";
                drop(answer_plainly(stream, "400 Bad Request", text).await);
                return Err(ConnectionError::NotTls);
            }
            let acceptor = TlsAcceptor::from(tls.current(clock::now()));
            acceptor.accept(stream).await.map_err(ConnectionError::Handshake)
        };
        tokio::select! {
            done = timeout(self.limits.handshake, handshake) => match done {
                Ok(stream) => {
                    let stream = stream?;
                    client.encrypted = true;
                    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    client.certificate = shown.map(|certificate| certificate.clone().into_owned());
                    Box::pin(self.drive(stream, client, &shutdown)).await
                }
                Err(_) => Err(ConnectionError::TooSlow("the handshake")),
            },
            () = shutdown.requested() => Ok(()),
        }
    }

    /// Speaks HTTP on `stream` until the client is done, too slow, or the stop signal and the end of its request.
    async fn drive<S>(&self, stream: S, client: Client, shutdown: &Shutdown) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let phases = Phases::default();
        let io = TokioIo::new(Watched { stream, phases: phases.clone() });
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(client.clone());
            self.answer(request, phases.clone())
        });
        let connection = http1::Builder::new()
            .header_read_timeout(None) // it would count the time between requests too; see `Phases`
            .max_buf_size(self.limits.buffer)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        let mut stop = pin!(shutdown.requested());
        let mut stopping = false;
        let (mut phase, mut stamp) = phases.now();
        let mut deadline = pin!(sleep(self.limits.of(phase)));
        poll_fn(|cx| {
            if !stopping && stop.as_mut().poll(cx).is_ready() {
                stopping = true;
                if phases.now().0 == Phase::New {
                    return Poll::Ready(Ok(())); // nothing was asked, so nothing is owed
                }
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(done) = connection.as_mut().poll(cx) {
                return Poll::Ready(done.map_err(ConnectionError::Http));
            }
            // Phases change only while the connection is polled, so this sees every change in time.
            let (current, now) = phases.now();
            if now != stamp {
                (phase, stamp) = (current, now);
                deadline.as_mut().reset(Instant::now() + self.limits.of(phase));
            }
            ready!(deadline.as_mut().poll(cx));
            Poll::Ready(match phase {
                Phase::Idle => Ok(()),
                Phase::New | Phase::Head => Err(ConnectionError::TooSlow("the request")),
                Phase::Response => Err(ConnectionError::TooSlow("taking the response")),
            })
        })
        .await
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        phases: Phases,
    ) -> Result<Response<Timed>, std::convert::Infallible> {
        phases.enter(Phase::Response);
        let allowed = match &self.web.auth {
            Some(auth) => auth.allows(request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes)).await,
            None => true,
        };
        let mut response = if allowed { self.app.call(request).await? } else { unauthorized() };
        response.headers_mut().extend(self.web.headers.clone());
        Ok(response.map(|body| Timed { body, phases }))
    }
}

fn unauthorized() -> Response<Body> {
    let mut response = Response::new(Body::from("Name and password are needed.\n"));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let challenge = HeaderValue::from_static("Basic realm=\"ebbtide\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// Writes a short answer without HTTP machinery, and reads what the client still sends: closing a socket with
/// unread bytes would reset the connection and take the answer with it.
async fn answer_plainly(mut stream: TcpStream, status: &str, text: &str) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    let exchange = async {
        let mut rest = answer.as_bytes();
        while !rest.is_empty() {
            let written = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, rest)).await?;
            rest = rest.get(written..).unwrap_or_default();
        }
        poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await?;
        let mut unread = [0; 4096];
        for _ in 0..16 {
            stream.readable().await?;
            match stream.try_read(&mut unread) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    timeout(REFUSAL_TIME, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What a connection is waiting for; each has its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte on a new connection.
    New,
    /// The rest of a request's head.
    Head,
    /// Us, or the client to take what we have.
    Response,
    /// The first byte of the next request.
    Idle,
}

impl Limits {
    const fn of(&self, phase: Phase) -> Duration {
        match phase {
            Phase::New | Phase::Head => self.head,
            Phase::Response => self.response,
            Phase::Idle => self.idle,
        }
    }
}

/// The phase of one connection, shared by its socket, its requests and its deadline.
/// The number is the phase in two bits below a count of changes, so that no change goes unseen.
#[derive(Clone, Default)]
struct Phases(Arc<AtomicU32>);

impl Phases {
    fn now(&self) -> (Phase, u32) {
        let stamp = self.0.load(Ordering::Relaxed);
        let phase = match stamp & 3 {
            0 => Phase::New,
            1 => Phase::Head,
            2 => Phase::Response,
            _ => Phase::Idle,
        };
        (phase, stamp)
    }

    fn enter(&self, phase: Phase) {
        let changes = (self.0.load(Ordering::Relaxed) | 3).wrapping_add(1);
        self.0.store(changes | phase as u32, Ordering::Relaxed);
    }
}

/// A socket that notices when the next request begins.
struct Watched<S> {
    stream: S,
    phases: Phases,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if buf.filled().len() > before && matches!(self.phases.now().0, Phase::New | Phase::Idle) {
            self.phases.enter(Phase::Head);
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A response body; when it is gone, the connection waits for the next request.
struct Timed {
    body: Body,
    phases: Phases,
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.phases.enter(Phase::Idle);
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bind_errors_say_what_to_do() {
        let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let addr = taken.local_addr().unwrap();
        let error = bind(addr).await.unwrap_err();
        assert!(matches!(error, BindError::InUse(a) if a == addr));
        let text = error.to_string();
        assert!(text.contains(&addr.port().to_string()) && text.contains("in use") && text.contains("--listen"));
        // 192.0.2.0/24 is for documentation: no machine has it.
        let error = bind(SocketAddr::from(([192, 0, 2, 1], 9101))).await.unwrap_err();
        assert!(matches!(error, BindError::NotAvailable(_)), "{error}");
        assert!(error.to_string().starts_with("192.0.2.1 is no address of this machine"));
        assert!(BindError::Denied(addr).to_string().contains("CAP_NET_BIND_SERVICE"));
    }

    #[test]
    fn every_change_of_phase_is_seen() {
        let phases = Phases::default();
        let mut stamps = vec![phases.now()];
        for phase in [Phase::Response, Phase::Idle, Phase::Head, Phase::Response, Phase::Response, Phase::Idle] {
            phases.enter(phase);
            assert_eq!(phases.now().0, phase);
            assert!(!stamps.contains(&phases.now()));
            stamps.push(phases.now());
        }
        phases.0.store(u32::MAX, Ordering::Relaxed); // the count wraps
        phases.enter(Phase::Head);
        assert_eq!(phases.now(), (Phase::Head, 1));
    }

    #[test]
    fn only_a_broken_listener_ends_the_server() {
        let of = |errno: rustix::io::Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(is_broken(&of(rustix::io::Errno::BADF)));
        for passing in [rustix::io::Errno::MFILE, rustix::io::Errno::CONNABORTED, rustix::io::Errno::NOMEM] {
            assert!(!is_broken(&of(passing)));
        }
    }
}
