//! Connections of gRPC clients: accepted, encrypted, and known by their certificate, before anything is read of them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::{Shutdown, Tasks};
use ebbtide_runtime::tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::ingest::Peer;
use crate::pki;

/// A handshake may take so long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time; other connections wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// The pause after a connection couldn't be accepted, mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// A connection and who is at its other end.
pub struct Connection<S = TcpStream> {
    stream: Stream<S>,
    peer: Peer,
}

enum Stream<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

impl<S> Connection<S> {
    /// A connection that isn't encrypted.
    pub fn plain(stream: S, peer: Peer) -> Self {
        Self { stream: Stream::Plain(stream), peer }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, to),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, to),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Accepts connections until the stop signal and hands them on.
///
/// # Errors
/// Only if the listener itself breaks.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    to: mpsc::Sender<io::Result<Connection>>,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = Tasks::new();
    loop {
        let place = tokio::select! {
            () = stop.requested() => break,
            Some(_) = handshakes.next_ended() => continue,
            place = Arc::clone(&places).acquire_owned() => place?,
        };
        let accepted = tokio::select! {
            () = stop.requested() => break,
            Some(_) = handshakes.next_ended() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("can't accept connections, going on trying: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let peer = Peer { address: Some(address.ip()), ..Peer::default() };
        let (tls, to) = (tls.clone(), to.clone());
        handshakes.spawn("gRPC handshake", async move {
            let ready = timeout(HANDSHAKE, encrypted(stream, peer, tls)).await;
            drop(place);
            match ready {
                Ok(Ok(connection)) => drop(to.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::debug!(%address, "no connection: {error}"),
                Err(_) => tracing::debug!(%address, "no connection: the handshake took too long"),
            }
            Ok(())
        });
    }
    drop(listener);
    handshakes.finish(Duration::ZERO).await;
    Ok(())
}

async fn encrypted(stream: TcpStream, mut peer: Peer, tls: Option<Arc<Tls>>) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Connection::plain(stream, peer)) };
    let stream = TlsAcceptor::from(tls.current(clock::now())).accept(stream).await?;
    peer.encrypted = true;
    if let Some([certificate, ..]) = stream.get_ref().1.peer_certificates() {
        let identity = pki::identity_of(certificate).map_err(io::Error::other)?;
        peer.identity = Some(identity);
    }
    Ok(Connection { stream: Stream::Tls(Box::new(stream)), peer })
}
