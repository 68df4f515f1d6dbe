//! One connection to one device.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::credentials::Credentials;
use crate::error::DeviceError;
use crate::http::address::{Access, Address};
use crate::http::trust::Judge;

/// No answer of a device is larger: 1 MiB is ten times the largest Redfish collection met.
const LARGEST_BODY: usize = 1 << 20;

/// A device may move a document once or twice (`/redfish` to `/redfish/`), not for ever.
const MOST_REDIRECTS: usize = 3;

/// The header of basic authentication (RFC 7617), never printed.
pub(crate) fn basic(credentials: &Credentials) -> Result<HeaderValue, DeviceError> {
    let text =
        format!("Basic {}", base64(format!("{}:{}", credentials.user, credentials.password.reveal()).as_bytes()));
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| DeviceError::Config(format!("the password of {} can't be sent", credentials.user)))?;
    value.set_sensitive(true);
    Ok(value)
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().zip([16, 8, 0]).fold(0_u32, |word, (&byte, shift)| word | u32::from(byte) << shift);
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = DIGITS.get((word >> shift) as usize & 63).filter(|_| i <= three.len());
            text.push(digit.map_or('=', |&d| char::from(d)));
        }
    }
    text
}

/// What a device answered, whatever the status.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answered {
    /// The device's own clock when it answered (`Date`), seconds since 1970.
    pub(crate) fn date(&self) -> Option<i64> {
        let text = self.headers.get(DATE)?.to_str().ok()?;
        let zoned = jiff::fmt::rfc2822::DateTimeParser::new().parse_zoned(text).ok()?;
        Some(zoned.timestamp().as_second())
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

type Talk = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

/// A connection that can take a request. It only moves while a request is made.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    talk: Talk,
}

/// Asks one device, one request after the other.
pub(crate) struct Client {
    address: Address,
    name: String,
    timeout: Duration,
    tls: Option<(TlsConnector, ServerName<'static>, Arc<Judge>)>,
    /// Away while a request is made, so that one that is dropped half-way ends the connection. The mutex is never
    /// locked: it lets errors be made from a shared reference while a request is on its way.
    line: Mutex<Option<Line>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why an exchange gave no answer.
enum Broken {
    /// The device closed or broke the connection before a byte of the answer came.
    Before(hyper::Error),
    /// Something else, for good.
    For(DeviceError),
}

impl Client {
    /// A client of the device at `access`. Opens no connection.
    ///
    /// # Errors
    /// [`DeviceError::Config`] if the URL or the trust can't be used, or if a password would go out in the clear.
    pub(crate) fn new(access: &Access<'_>, with_password: bool) -> Result<Self, DeviceError> {
        let (address, _) = Address::parse(access.url)?;
        let tls = if address.tls {
            let judge = Judge::new(access.fingerprint, access.ca_file)?;
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| DeviceError::Config(format!("{:?} is no host name or address", address.host)))?;
            Some((TlsConnector::from(Arc::new(judge.client_config()?)), name, judge))
        } else {
            None
        };
        if !address.tls && with_password && !access.plain_password {
            return Err(DeviceError::Config(format!(
                "the password for {address} would be sent in the clear; use https, or set plain-password = true"
            )));
        }
        let name = address.to_string();
        Ok(Self { address, name, timeout: access.timeout, tls, line: Mutex::default() })
    }

    /// The device, for messages.
    pub(crate) fn device(&self) -> &str {
        &self.name
    }

    /// Where the device is.
    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// Asks for a document; follows redirects on the same host.
    pub(crate) async fn get(&mut self, path: &str, headers: &HeaderMap) -> Result<Answered, DeviceError> {
        let mut path = path.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.send(&Method::GET, &path, headers, None).await?;
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            let to = answer.header(&LOCATION).unwrap_or_default().to_owned();
            path = self.address.path_of(&to).ok_or_else(|| DeviceError::Refused {
                device: self.name.clone(),
                asked: format!("GET {path}"),
                why: format!("it redirects to {to:?}, which is not followed; configure that URL if it is right"),
            })?;
        }
        Err(self.nonsense(&format!("GET {path}"), "it redirects for ever"))
    }

    /// Makes one request within the time limit. Redirects are answers here.
    ///
    /// # Errors
    /// If no answer came. Any status is an answer.
    pub(crate) async fn send(
        &mut self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Option<&Value>,
    ) -> Result<Answered, DeviceError> {
        let (limit, asked) = (self.timeout, format!("{method} {path}"));
        match tokio::time::timeout(limit, self.send_unbounded(method, path, headers, body, &asked)).await {
            Ok(answer) => answer,
            Err(_) => Err(DeviceError::Timeout {
                device: self.name.clone(),
                after: limit,
                hint: format!("{asked} got no full answer; it may be off, busy, or behind a firewall"),
            }),
        }
    }

    async fn send_unbounded(
        &mut self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Option<&Value>,
        asked: &str,
    ) -> Result<Answered, DeviceError> {
        let kept = match self.kept().take() {
            Some(line) => ready(line).await,
            None => None,
        };
        let was_kept = kept.is_some();
        let mut line = match kept {
            Some(line) => line,
            None => self.connect().await?,
        };
        let outcome = match self.exchange(line, self.request(method, path, headers, body)?, asked).await {
            // A device may close a connection that it kept just as it is used again.
            Err(Broken::Before(_)) if was_kept && *method == Method::GET => {
                line = self.connect().await?;
                self.exchange(line, self.request(method, path, headers, body)?, asked).await
            }
            outcome => outcome,
        };
        match outcome {
            Ok((answer, line)) => {
                *self.kept() = line;
                Ok(answer)
            }
            Err(Broken::For(error)) => Err(error),
            Err(Broken::Before(error)) => Err(self.unreachable(&format!("{asked} got no answer: {}", cause(&error)))),
        }
    }

    fn kept(&mut self) -> &mut Option<Line> {
        self.line.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, DeviceError> {
        let unusable = |e: hyper::http::Error| DeviceError::Config(format!("{path:?} can't be asked for: {e}"));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.name)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("ebbtide/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body.map_or_else(Bytes::new, |b| Bytes::from(b.to_string()))))
            .map_err(unusable)?;
        if body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request.headers_mut().extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Ok(request)
    }

    async fn connect(&self) -> Result<Line, DeviceError> {
        let unreachable = |e: std::io::Error| self.unreachable(&e.to_string());
        let stream = TcpStream::connect((self.address.host.as_str(), self.address.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        match &self.tls {
            None => self.shake_hands(stream).await,
            Some((connector, name, judge)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(|e| match judge.distrust(&e) {
                    Some(why) => DeviceError::Certificate { device: self.name.clone(), why },
                    None => self.unreachable(&format!("TLS failed: {e}")),
                })?;
                self.shake_hands(stream).await
            }
        }
    }

    async fn shake_hands(&self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Line, DeviceError> {
        let (sender, talk) = http1::Builder::new()
            .max_buf_size(64 << 10)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| self.unreachable(&cause(&e)))?;
        Ok(Line { sender, talk: Box::pin(talk) })
    }

    /// The answer, and the connection if it can be used again.
    async fn exchange(
        &self,
        mut line: Line,
        request: Request<Full<Bytes>>,
        asked: &str,
    ) -> Result<(Answered, Option<Line>), Broken> {
        let answered = {
            let mut answer = pin!(async {
                let response = line.sender.send_request(request).await.map_err(Broken::Before)?;
                self.collect(response, asked).await.map_err(Broken::For)
            });
            let mut over = false;
            loop {
                tokio::select! {
                    biased;
                    answer = &mut answer => break answer?,
                    // The rest of an answer may still be on its way to us when the connection has ended.
                    _ = &mut line.talk, if !over => over = true,
                }
            }
        };
        let again = !line.sender.is_closed();
        Ok((answered, again.then_some(line)))
    }

    async fn collect(&self, response: hyper::Response<Incoming>, asked: &str) -> Result<Answered, DeviceError> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(|e| {
            if e.is::<LengthLimitError>() {
                self.nonsense(asked, &format!("the answer is larger than {} KiB", LARGEST_BODY >> 10))
            } else {
                self.unreachable(&format!("the answer to {asked} broke off: {e}"))
            }
        })?;
        Ok(Answered { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    }

    /// The error for an answer that can't be.
    pub(crate) fn nonsense(&self, asked: &str, why: &str) -> DeviceError {
        DeviceError::Nonsense { device: self.name.clone(), asked: asked.to_owned(), why: why.to_owned() }
    }

    fn unreachable(&self, why: &str) -> DeviceError {
        DeviceError::Unreachable { device: self.name.clone(), why: why.to_owned() }
    }
}

/// The connection, if it takes another request; moves it on, so that one that the device closed is noticed.
async fn ready(mut line: Line) -> Option<Line> {
    let open = tokio::select! {
        biased;
        _ = &mut line.talk => false,
        ready = line.sender.ready() => ready.is_ok(),
    };
    open.then_some(line)
}

/// hyper's own text leaves out the reason.
fn cause(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// An answer as JSON; only a document with status 200 is one.
pub(crate) fn usable_json(client: &Client, asked: &str, answer: &Answered) -> Result<Value, DeviceError> {
    let device = || client.device().to_owned();
    match answer.status {
        StatusCode::UNAUTHORIZED => {
            let hint = format!("{asked} was answered {}; check user and password", answer.status);
            Err(DeviceError::Denied { device: device(), hint })
        }
        status if !status.is_success() => {
            Err(DeviceError::Refused { device: device(), asked: asked.to_owned(), why: status.to_string() })
        }
        _ => serde_json::from_slice(&answer.body).map_err(|e| client.nonsense(asked, &format!("it is no JSON: {e}"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn passwords_are_printed_nowhere_and_not_sent_in_the_clear() {
        let credentials = Credentials { user: "root".to_owned(), password: Secret::new("hunter2") };
        assert!(!format!("{credentials:?} {:?}", basic(&credentials).unwrap()).contains("hunter2"));
        let timeout = Duration::from_secs(1);
        let access = Access { url: "http://bmc1", ca_file: None, fingerprint: None, plain_password: false, timeout };
        let error = Client::new(&access, true).unwrap_err().to_string();
        assert!(error.contains("in the clear"), "{error}");
        assert!(Client::new(&access, false).is_ok());
        assert!(Client::new(&Access { plain_password: true, ..access }, true).is_ok());
    }
}
