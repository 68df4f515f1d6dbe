//! The HTTP server against real clients on the loopback interface: plain sockets, and rustls for TLS.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use ebbtide_agent::export::http::{Limits, bind, serve_within};
use ebbtide_agent::export::negotiate;
use ebbtide_agent::export::web_config::WebConfig;
use ebbtide_agent::tasks::{Ended, Tasks};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::sync::oneshot;

/// Longer than anything here takes; a client that waits for more has found a fault.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a thread and runtime of its own.
struct Server {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Vec<Ended>>>,
}

impl Server {
    fn start(limits: Limits, app: Router, web: Option<WebConfig>) -> Self {
        let (send_addr, addr) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
                send_addr.send(listener.local_addr().unwrap()).unwrap();
                let mut tasks = Tasks::new();
                tasks.spawn("http", serve_within(limits, listener, app, web, tasks.shutdown()));
                stopped.await.unwrap_or_default();
                tasks.finish(PATIENCE).await
            })
        });
        Self { addr: addr.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> String {
        ask(self.connect(), request)
    }

    fn request_stop(&mut self) {
        drop(self.stop.take());
    }

    fn join(&mut self) -> Vec<Ended> {
        self.request_stop();
        self.thread.take().map(|thread| thread.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.request_stop();
    }
}

const CLOSING: &str = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
const KEEPING: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// Sends a request and reads until the server closes; empty if it closes without a word.
fn ask(mut stream: impl Read + Write, request: &str) -> String {
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).is_ok() {
        // A reset or a TLS alert after the answer, or in place of it, is an end like any other.
        stream.read_to_end(&mut answer).unwrap_or_default();
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads one response that ends with "hello".
fn read_hello(stream: &mut impl Read) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/web").join(name)
}

/// A web config in a folder of its own that holds all fixtures.
fn web(yaml: &str) -> (WebConfig, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("web.yml");
    std::fs::write(&path, yaml).unwrap();
    (WebConfig::load(&path).unwrap(), dir)
}

const TLS: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

/// A TLS client that trusts the test CA and may show a certificate.
fn tls_client(server: &Server, show: Option<&str>) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("ca.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match show {
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(fixture(&format!("{name}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(fixture(&format!("{name}.key"))).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), server.connect())
}

#[test]
fn a_page_is_served_streamed_and_the_stop_is_clean() {
    let pages = Router::new()
        .route("/page", get(|| async { negotiate::body((0..3).map(|i| Bytes::from(format!("part {i}\n"))), false) }));
    let mut server = Server::start(Limits::default(), pages.merge(hello()), None);
    let answer = server.ask(CLOSING);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    let answer = server.ask(&CLOSING.replacen("/ ", "/page ", 1));
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    assert!(answer.ends_with("\r\n7\r\npart 0\n\r\n7\r\npart 1\n\r\n7\r\npart 2\n\r\n0\r\n\r\n"), "{answer}");
    assert!(server.ask(&CLOSING.replacen("/ ", "/none ", 1)).starts_with("HTTP/1.1 404 "));
    assert!(server.ask("not http at all\r\n\r\n").starts_with("HTTP/1.1 400 "));

    // An idle connection and one that never asked don't hold up the stop.
    let mut idle = server.connect();
    idle.write_all(KEEPING.as_bytes()).unwrap();
    read_hello(&mut idle);
    let _silent = server.connect();
    let ended = server.join();
    assert!(
        matches!(ended.as_slice(), [Ended { name, outcome: ebbtide_agent::tasks::Outcome::Done }] if name == "http")
    );
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    assert!(TcpStream::connect(server.addr).is_err(), "the port is closed");
}

#[test]
fn a_request_in_progress_is_finished_after_the_stop() {
    let (entered, wait_entered) = mpsc::sync_channel(1);
    let (release, released) = oneshot::channel::<()>();
    let released = Arc::new(tokio::sync::Mutex::new(Some(released)));
    let app = Router::new().route(
        "/",
        get(move || async move {
            entered.send(()).unwrap();
            let gate = released.lock().await.take().unwrap();
            gate.await.unwrap();
            "hello"
        }),
    );
    let mut server = Server::start(Limits::default(), app, None);
    let mut client = server.connect();
    client.write_all(KEEPING.as_bytes()).unwrap();
    wait_entered.recv_timeout(PATIENCE).unwrap();
    server.request_stop();
    release.send(()).unwrap();
    let answer = read_hello(&mut client);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "closed after the answer");
    assert_eq!(server.join().len(), 1);
}

#[test]
fn too_many_connections_are_told_so() {
    let server = Server::start(Limits { connections: 1, ..Limits::default() }, hello(), None);
    let mut first = server.connect();
    first.write_all(KEEPING.as_bytes()).unwrap();
    read_hello(&mut first);
    for _ in 0..3 {
        let answer = server.ask(CLOSING);
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.contains("Retry-After: 1\r\n") && answer.contains("try again"), "{answer}");
    }
    first.write_all(KEEPING.as_bytes()).unwrap();
    read_hello(&mut first);
    drop(first);
    // The server hears of it a moment later.
    assert!((0..10_000).any(|_| server.ask(CLOSING).starts_with("HTTP/1.1 200 OK")));
}

#[test]
fn slow_clients_are_cut_and_do_not_hold_up_others() {
    let limits = Limits { head: Duration::from_millis(150), ..Limits::default() };
    let server = Server::start(limits, hello(), None);
    let mut silent = server.connect();
    let mut stuck = server.connect();
    stuck.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    let mut dripping = server.connect();
    let mut drips = dripping.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        (0..1000)
            .take_while(|_| {
                std::thread::sleep(Duration::from_millis(20));
                drips.write_all(b"G").is_ok()
            })
            .count()
    });
    let mut patient = server.connect();
    patient.write_all(KEEPING.as_bytes()).unwrap();
    read_hello(&mut patient);
    assert!(server.ask(CLOSING).ends_with("hello"), "others are served meanwhile");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert_eq!(stuck.read(&mut [0]).unwrap(), 0);
    assert!(!dripping.read(&mut [0]).is_ok_and(|n| n > 0), "progress doesn't buy time");
    drop(dripping);
    assert!(drip.join().unwrap() < 1000);
    // The limit is for a request under way, not for the time between two.
    patient.write_all(KEEPING.as_bytes()).unwrap();
    read_hello(&mut patient);
    patient.write_all(b"GET").unwrap();
    assert_eq!(patient.read(&mut [0]).unwrap(), 0, "the second request has the limit again");
}

#[test]
fn idle_connections_are_closed_and_huge_heads_refused() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let server = Server::start(limits, hello(), None);
    let mut idle = server.connect();
    idle.write_all(KEEPING.as_bytes()).unwrap();
    read_hello(&mut idle);
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    let huge = format!("GET / HTTP/1.1\r\nX-Huge: {}\r\n\r\n", "x".repeat(4 * limits.buffer));
    let answer = server.ask(&huge);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(server.ask(CLOSING).ends_with("hello"));
}

/// Tells when it is dropped.
struct Tell(mpsc::SyncSender<()>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.send(()).unwrap_or_default();
    }
}

#[test]
fn a_client_that_does_not_read_costs_little_and_is_cut() {
    const CHUNK: usize = 64 << 10;
    let pulled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&pulled);
    let (tell, told) = mpsc::sync_channel(1);
    let app = Router::new().route(
        "/",
        get(move || async move {
            let tell = Tell(tell.clone());
            let endless = std::iter::repeat_with(move || {
                let _alive = &tell;
                counter.fetch_add(1, Ordering::Relaxed);
                Bytes::from_static(&[b'x'; CHUNK])
            });
            negotiate::body(endless, false)
        }),
    );
    let limits = Limits { response: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits, app, None);
    let mut lazy = server.connect();
    lazy.write_all(KEEPING.as_bytes()).unwrap();
    told.recv_timeout(PATIENCE).expect("the response was given up");
    // What the kernel's socket buffers took (at most some 10 MiB); without back pressure it would be endless.
    let bytes = pulled.load(Ordering::Relaxed) * CHUNK;
    assert!(bytes > CHUNK && bytes < 24 << 20, "{bytes} bytes were made for a client that reads nothing");
    lazy.shutdown(Shutdown::Both).unwrap_or_default();
}

#[test]
fn passwords_are_asked_for() {
    let hash = bcrypt::hash("tide", 4).unwrap();
    let yaml = format!("http_server_config: {{headers: {{X-Frame-Options: deny}}}}\nbasic_auth_users: {{ann: {hash}}}");
    let server = Server::start(Limits::default(), hello(), Some(web(&yaml).0));
    let with =
        |authorization: &str| server.ask(&CLOSING.replacen("\r\n\r\n", &format!("\r\n{authorization}\r\n\r\n"), 1));
    for _ in 0..2 {
        let right = with("Authorization: Basic YW5uOnRpZGU="); // ann:tide
        assert!(right.starts_with("HTTP/1.1 200 OK\r\n") && right.contains("x-frame-options: deny"), "{right}");
        let wrong = ["Basic YW5uOmViYg==", "Basic ZXZlOnRpZGU=", "Basic !", "Bearer x"]; // ann:ebb, eve:tide
        for header in wrong.map(|value| format!("Authorization: {value}")).iter().map(String::as_str).chain(["X: y"]) {
            let answer = with(header);
            assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{header}: {answer}");
            assert!(answer.contains("www-authenticate: Basic realm=") && answer.contains("x-frame-options: deny"));
            assert!(!answer.contains("hello"));
        }
    }
}

#[test]
fn tls_is_spoken_and_a_renewed_certificate_used_without_restart() {
    let (config, dir) = web(TLS);
    let server = Server::start(Limits::default(), hello(), Some(config));
    let certificate = || {
        let mut client = tls_client(&server, None);
        assert!(ask(&mut client, CLOSING).ends_with("hello"));
        client.conn.peer_certificates().unwrap()[0].clone()
    };
    assert_eq!(certificate(), CertificateDer::from_pem_file(fixture("server.pem")).unwrap());
    let plain = server.ask(CLOSING);
    assert!(plain.starts_with("HTTP/1.1 400 Bad Request\r\n") && plain.contains("https://"), "{plain}");

    for (from, to) in [("renewed.key", "server.key"), ("renewed.pem", "server.pem")] {
        std::fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
    }
    // Files are looked at once a second, so this takes up to that long.
    let renewed = CertificateDer::from_pem_file(fixture("renewed.pem")).unwrap();
    assert!((0..10_000).any(|_| certificate() == renewed));
}

#[test]
fn a_handshake_that_does_not_come_is_cut() {
    let limits = Limits { handshake: Duration::from_millis(50), ..Limits::default() };
    let server = Server::start(limits, hello(), Some(web(TLS).0));
    let mut silent = server.connect();
    let mut half = server.connect();
    half.write_all(&[22, 3, 1]).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert!(!half.read(&mut [0]).is_ok_and(|n| n > 0));
    let _garbage = server.ask("\x16garbage that is no handshake");
    assert!(ask(tls_client(&server, None), CLOSING).ends_with("hello"));
}

#[test]
fn client_certificates_are_taken_and_refused_as_configured() {
    let all = [None, Some("client"), Some("stranger")];
    let table = [
        ("NoClientCert", "", [true, true, true]),
        ("RequestClientCert", "", [true, true, true]),
        ("RequireAnyClientCert", "", [false, true, true]),
        ("VerifyClientCertIfGiven", "client_ca_file: ca.pem", [true, true, false]),
        ("RequireAndVerifyClientCert", "client_ca_file: ca.pem", [false, true, false]),
        (
            "RequireAndVerifyClientCert",
            "client_ca_file: ca.pem\n  client_allowed_sans: [scraper.test]",
            [false, true, false],
        ),
        ("RequireAndVerifyClientCert", "client_ca_file: ca.pem\n  client_allowed_sans: [other.test]", [false; 3]),
    ];
    for (kind, more, wanted) in table {
        for version in ["TLS12", "TLS13"] {
            let yaml =
                format!("{TLS}  client_auth_type: {kind}\n  min_version: TLS12\n  max_version: {version}\n  {more}\n");
            let server = Server::start(Limits::default(), hello(), Some(web(&yaml).0));
            let got = all.map(|show| ask(tls_client(&server, show), CLOSING).ends_with("hello"));
            assert_eq!(got, wanted, "{kind} {more} {version}");
        }
    }
}
