//! A web server that answers what a test says, or fails on purpose.

use std::path::Path;
use std::sync::{Arc, Mutex};

use ebbtide_runtime::tasks::Tasks;
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub head: String,
    pub body: String,
}

impl Asked {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What is answered.
pub enum Reply {
    /// A status, headers and a body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The beginning of an answer, then the end of the connection.
    Half,
    /// Nothing at all.
    Hang,
    /// As many bytes as are taken.
    Flood,
}

impl Reply {
    pub fn json(document: &Value) -> Self {
        Self::Answer(200, Vec::new(), document.to_string().into_bytes())
    }

    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A server that runs until this is dropped.
pub struct Web {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: Tasks,
}

/// A certificate that signs itself, and a server that shows it.
pub fn own_certificate(name: &str) -> (rcgen::Certificate, Arc<ServerConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], secret)
        .unwrap();
    (certificate, Arc::new(config))
}

impl Web {
    /// Serves what `handler` says, over TLS if there is a configuration.
    pub async fn start(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, handler) = (asked.clone(), Arc::new(handler) as Arc<Handler>);
        let mut tasks = Tasks::new();
        tasks.spawn("web", async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await?;
                let (log, handler, tls) = (log.clone(), handler.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, &log, &*handler).await,
                        Some(config) => {
                            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                                serve(stream, &log, &*handler).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, asked, _tasks: tasks }
    }

    /// A mockup's documents, with this `Date`; `first` may answer instead.
    pub async fn mockup(
        name: &str,
        date: &'static str,
        first: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redfish").join(name);
        Self::start(None, move |asked| first(asked).unwrap_or_else(|| document(&root, asked, date))).await
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn document(root: &Path, asked: &Asked, date: &str) -> Reply {
    if asked.method != "GET" {
        return Reply::status(405);
    }
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    let read = |path: &str| {
        let path = path.strip_prefix("/redfish/v1")?.trim_matches('/');
        serde_json::from_slice::<Value>(&std::fs::read(root.join(path).join("index.json")).ok()?).ok()
    };
    let Some(mut found) = read(path) else { return Reply::status(404) };
    if query == "$expand=." {
        for member in found["Members"].as_array_mut().unwrap() {
            *member = read(member["@odata.id"].as_str().unwrap()).unwrap();
        }
    }
    Reply::Answer(200, vec![("Date", date.to_owned())], found.to_string().into_bytes())
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, log: &Mutex<Vec<Asked>>, handler: &Handler) {
    let mut buffer = Vec::new();
    while let Some(asked) = next(&mut stream, &mut buffer).await {
        let reply = handler(&asked);
        log.lock().unwrap().push(asked);
        let bytes = match reply {
            Reply::Answer(status, headers, body) => {
                let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
                [head.into_bytes(), body].concat()
            }
            Reply::Half => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"Power").await.ok();
                return;
            }
            Reply::Hang => std::future::pending().await,
            Reply::Flood => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok();
                let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
                while stream.write_all(&chunk).await.is_ok() {}
                return;
            }
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The next request on a connection; `None` at its end.
async fn next(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Asked> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let mut words = head.split(' ');
            let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut asked = Asked { method, target, head, body: String::new() };
            let length: usize = asked.header("Content-Length").map_or(0, |l| l.parse().unwrap());
            if buffer.len() >= end + 4 + length {
                asked.body = String::from_utf8_lossy(&buffer[end + 4..end + 4 + length]).into_owned();
                buffer.drain(..end + 4 + length);
                return Some(asked);
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
