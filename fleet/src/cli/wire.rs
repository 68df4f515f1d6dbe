//! A connection that remembers how it began and why it broke: gRPC's client tries to make it anew then, and would
//! only tell that this failed.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// TCP or TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that takes notes.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    notes: Notes,
}

/// What is known of a connection, also after its end.
#[derive(Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    /// The first bytes that came: head of an HTTP/2 frame.
    first: Vec<u8>,
    /// Why it broke.
    error: Option<io::Error>,
}

/// Length of the head of an HTTP/2 frame, and what a server's first one is, RFC 9113 §4.1 and §3.4.
const HEAD: usize = 9;
const SETTINGS: u8 = 4;

/// Why a connection is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// What answers doesn't speak HTTP/2.
    NoFleet,
    /// The other side broke off, and said why.
    Refused(rustls::AlertDescription),
    /// Something else.
    Other(String),
}

impl Notes {
    /// A connection over `stream` that writes here.
    pub(super) fn over(&self, stream: Box<dyn Stream>) -> Wire {
        Wire { stream, notes: self.clone() }
    }

    /// Why the connection is no more, if anything is known of that.
    pub(super) fn why(&self) -> Option<Broken> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.first.get(3).is_some_and(|kind| *kind != SETTINGS) {
            return Some(Broken::NoFleet);
        }
        let error = noted.error.as_ref()?;
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Some(Broken::Refused(*alert)),
            // what TLS says of that is long, and no more
            _ if error.kind() == io::ErrorKind::UnexpectedEof => Some(Broken::Other("it was closed".to_owned())),
            _ => Some(Broken::Other(error.to_string())),
        }
    }

    fn read(&self, bytes: &[u8]) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = HEAD.saturating_sub(noted.first.len());
        noted.first.extend(bytes.iter().take(missing));
    }

    /// The same result; the first error is the reason of those that follow.
    fn noting<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            noted.error.get_or_insert_with(|| match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
                Some(tls) => io::Error::new(error.kind(), tls.clone()),
                None => io::Error::new(error.kind(), error.to_string()),
            });
        })
    }
}

impl Wire {
    /// Where nothing more can be said, the other side may have told why before it left: with TLS 1.3 it refuses a
    /// certificate only after this side believes to be connected. It is read to its end.
    fn last_words<T>(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Result<T>> {
        loop {
            let mut words = [0; 512];
            let mut words = ReadBuf::new(&mut words);
            // a broken connection is always ready to tell so in the end
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut words)) {
                Ok(()) if words.filled().is_empty() => return Poll::Ready(self.notes.noting(Err(error))),
                Ok(()) => self.notes.read(words.filled()),
                Err(reason) => return Poll::Ready(self.notes.noting(Err(reason))),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        this.notes.read(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(this.notes.noting(result))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes));
        match result {
            Ok(done) => Poll::Ready(Ok(done)),
            Err(error) => this.last_words(cx, error),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_flush(cx));
        match result {
            Ok(done) => Poll::Ready(Ok(done)),
            Err(error) => this.last_words(cx, error),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
