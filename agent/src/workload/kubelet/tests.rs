//! Against a real server on loopback.

use super::*;

use std::io::{self, Write};
use std::sync::Mutex;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::clock::Moment;

/// A self-signed certificate for 127.0.0.1, valid until 2120, and its key; they serve these tests only.
const CERT: &str = "MIIBMDCB1qADAgECAgEBMAoGCCqGSM49BAMCMA8xDTALBgNVBAMMBG5vZGUwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMA8xDTALBgNVBAMMBG5vZGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQek4sCHXkAUbJG7dMa38fqvLf7DT3RRWvxr85J9vCmqUSc8W5Vqc6PGpjq2Jd7uwGk3h9WGs+XovzkoE3weRiUoyEwHzAPBgNVHREECDAGhwR/AAABMAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwIDSQAwRgIhAKqNo4JjLxirQlnb/sh7LDUm8jCerDBleU4c7dtqvTQ9AiEAjc/FygHDZ+9SsAaR7ur8oVhrT0gwMwIULy0mbaituWY=";
const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEJveJfky2aXjv1G3vNA1ZwVEXX+MFSfaojyzWxb4UtWhRANCAAQek4sCHXkAUbJG7dMa38fqvLf7DT3RRWvxr85J9vCmqUSc8W5Vqc6PGpjq2Jd7uwGk3h9WGs+XovzkoE3weRiU";

/// What the fake kubelet says.
#[derive(Default)]
struct Fake {
    hits: Mutex<Vec<Moment>>,
    status: Mutex<Option<StatusCode>>,
    token: Mutex<Option<&'static str>>,
    body: Mutex<String>,
}

impl Fake {
    fn has_pods(&self, names: &[&str]) {
        let items: Vec<_> = names
            .iter()
            .map(|n| {
                serde_json::json!({"metadata": {"uid": format!("uid-{n}"), "namespace": "ran", "name": n},
                "status": {"containerStatuses": [{"name": "main", "containerID": format!("containerd://id-{n}")}]}})
            })
            .collect();
        *self.body.lock().unwrap() = serde_json::json!({ "items": items }).to_string();
    }

    fn answer(&self, headers: &HeaderMap) -> (StatusCode, String) {
        self.hits.lock().unwrap().push(crate::clock::now());
        let sent = headers.get(AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned());
        if sent != self.token.lock().unwrap().map(|t| format!("Bearer {t}")) {
            return (StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
        }
        (self.status.lock().unwrap().unwrap_or(StatusCode::OK), self.body.lock().unwrap().clone())
    }
}

fn pem(what: &str, base64: &str) -> String {
    format!("-----BEGIN {what}-----\n{base64}\n-----END {what}-----\n")
}

fn acceptor() -> TlsAcceptor {
    let cert = CertificateDer::from_pem_slice(pem("CERTIFICATE", CERT).as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem("PRIVATE KEY", KEY).as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, fake: Arc<Fake>, tls: Option<TlsAcceptor>) {
    let handler = |State(fake): State<Arc<Fake>>, headers: HeaderMap| async move { fake.answer(&headers) };
    let router = Router::new().route("/pods", get(handler)).with_state(fake);
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (service, tls) = (TowerToHyperService::new(router.clone()), tls.clone());
        connections.spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            // A client that refuses the certificate is part of the tests, so errors here are expected.
            match tls {
                None => http.serve_connection(TokioIo::new(stream), service).await.is_ok(),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await.is_ok(),
                    Err(_) => false,
                },
            }
        });
    }
}

/// Runs `test` beside a fake kubelet; it is handed the fake and its `HOST:PORT`.
fn with_server<F>(tls: bool, test: impl FnOnce(Arc<Fake>, String) -> F)
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let fake = Arc::new(Fake::default());
        let server = serve(listener, Arc::clone(&fake), tls.then(acceptor));
        let limit = Duration::from_secs(20);
        tokio::select! {
            () = server => unreachable!("the server goes on for ever"),
            done = tokio::time::timeout(limit, test(fake, at)) => done.unwrap(),
        }
    });
}

fn config(url: String) -> KubeletConfig {
    KubeletConfig {
        url,
        interval: Duration::from_secs(3600),
        min_gap: Duration::from_millis(20),
        ..KubeletConfig::default()
    }
}

/// Runs the loop beside `test`, stops it, and waits for its end.
async fn with_loop<F>(kubelet: Kubelet, test: impl FnOnce(Arc<KubeletNames>, watch::Receiver<u64>) -> F)
where
    F: Future<Output = ()>,
{
    let names = Arc::new(KubeletNames::default());
    let (stop, stopped) = watch::channel(false);
    let rounds = names.rounds();
    let test = async {
        test(Arc::clone(&names), rounds).await;
        stop.send(true).unwrap();
    };
    tokio::join!(Arc::clone(&names).refresh_loop(kubelet, stopped), test);
}

#[test]
fn an_unknown_pod_is_asked_for_soon_but_not_at_once() {
    with_server(false, |fake, at| async move {
        fake.has_pods(&["du-0"]);
        let kubelet = Kubelet::new(config(format!("http://{at}"))).unwrap();
        with_loop(kubelet, |names, mut rounds| async move {
            rounds.wait_for(|n| *n == 1).await.unwrap();
            assert_eq!(names.pod("uid-du-0").unwrap().name, "du-0");
            assert_eq!(names.container("id-du-0").unwrap().name, "main");
            fake.has_pods(&["du-0", "du-1"]);
            for _ in 0..100 {
                assert!(names.pod("uid-du-1").is_none());
            }
            rounds.wait_for(|n| *n == 2).await.unwrap();
            assert_eq!(names.pod("uid-du-1").unwrap().namespace, "ran");
            assert!(names.container("id-none").is_none());
            rounds.wait_for(|n| *n == 3).await.unwrap();
            let hits = fake.hits.lock().unwrap().clone();
            assert_eq!(hits.len(), 3);
            assert!(hits.windows(2).all(|w| w[1].since(w[0]) >= Duration::from_millis(20)), "{hits:?}");
        })
        .await;
    });
}

#[test]
fn tokens_and_certificates_are_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, token) = (dir.path().join("ca.crt"), dir.path().join("token"));
    std::fs::write(&ca, pem("CERTIFICATE", CERT)).unwrap();
    std::fs::write(&token, "one\n").unwrap();
    with_server(true, |fake, at| async move {
        fake.has_pods(&["du-0"]);
        *fake.token.lock().unwrap() = Some("one");
        let secure = KubeletConfig {
            ca_file: Some(ca.clone()),
            token_file: Some(token.clone()),
            ..config(format!("https://{at}"))
        };
        let kubelet = Kubelet::new(secure.clone()).unwrap();
        assert!(kubelet.fetch().await.unwrap().pod("uid-du-0").is_some());

        *fake.token.lock().unwrap() = Some("two");
        let refused = kubelet.fetch().await.unwrap_err();
        assert!(matches!(refused, KubeletError::Status { code: StatusCode::UNAUTHORIZED, .. }), "{refused}");
        std::fs::write(&token, "two").unwrap();
        assert_eq!(kubelet.fetch().await.unwrap().len(), 1);

        let hits = fake.hits.lock().unwrap().len();
        let by_name = at.replace("127.0.0.1", "localhost");
        let stranger = Kubelet::new(KubeletConfig { url: format!("https://{by_name}"), ..secure.clone() }).unwrap();
        let refused = stranger.fetch().await.unwrap_err();
        assert!(matches!(refused, KubeletError::Connect { .. }), "{refused}");
        assert_eq!(fake.hits.lock().unwrap().len(), hits, "nothing is said to a stranger");

        let any = KubeletConfig { url: format!("https://{by_name}"), ca_file: None, insecure: true, ..secure.clone() };
        assert_eq!(Kubelet::new(any).unwrap().fetch().await.unwrap().len(), 1);

        std::fs::write(&token, " \n").unwrap();
        assert!(matches!(kubelet.fetch().await.unwrap_err(), KubeletError::Token(_)));
        std::fs::write(&token, "two").unwrap();
        std::fs::write(&ca, "no certificate").unwrap();
        assert!(matches!(kubelet.fetch().await.unwrap_err(), KubeletError::Ca(_)));
        std::fs::remove_file(&ca).unwrap();
        assert!(matches!(kubelet.fetch().await.unwrap_err(), KubeletError::File { .. }));
    });
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_is_logged_once_and_names_are_kept() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        with_server(false, |fake, at| async move {
            fake.has_pods(&["du-0"]);
            let kubelet =
                Kubelet::new(KubeletConfig { interval: Duration::from_millis(20), ..config(format!("http://{at}")) });
            with_loop(kubelet.unwrap(), |names, mut rounds| async move {
                let mut seen = 0;
                for (status, problem) in [
                    (None, None),
                    (Some(StatusCode::INTERNAL_SERVER_ERROR), Some("500")),
                    (Some(StatusCode::FORBIDDEN), Some("nodes/proxy")),
                    (None, None),
                ] {
                    *fake.status.lock().unwrap() = status;
                    // The first of the rounds may have begun before the change.
                    seen = *rounds.wait_for(|n| *n >= seen + 3).await.unwrap();
                    assert!(names.pod("uid-du-0").is_some());
                    match (names.problem(), problem) {
                        (None, None) => {}
                        (Some(have), Some(want)) => assert!(have.contains(want), "{have}"),
                        (have, want) => panic!("have {have:?}, want {want:?}"),
                    }
                }
            })
            .await;
        });
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("WARN") && lines[0].contains("500"), "{text}");
    assert!(lines[1].contains("WARN") && lines[1].contains("403"), "{text}");
    assert!(lines[2].contains("INFO") && lines[2].contains("answers again"), "{text}");
}

#[test]
fn a_body_without_end_and_one_that_is_no_list_are_refused() {
    with_server(false, |fake, at| async move {
        let kubelet = Kubelet::new(config(format!("http://{at}"))).unwrap();
        *fake.body.lock().unwrap() = " ".repeat(PodNames::MAX_BYTES + 1);
        assert!(matches!(kubelet.fetch().await.unwrap_err(), KubeletError::Pods(PodsError::TooLong)));
        *fake.body.lock().unwrap() = "<html>".to_owned();
        assert!(matches!(kubelet.fetch().await.unwrap_err(), KubeletError::Pods(PodsError::Json(_))));
        let elsewhere = Kubelet::new(config(format!("http://{at}/nowhere"))).unwrap();
        let missing = elsewhere.fetch().await.unwrap_err();
        assert!(matches!(missing, KubeletError::Status { code: StatusCode::NOT_FOUND, .. }), "{missing}");
    });
}

fn assert_send<T: Send>(_: &T) {}

#[test]
fn a_silent_kubelet_neither_hangs_the_loop_nor_its_stop() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Connections wait in the backlog for ever.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let quick = KubeletConfig { timeout: Duration::from_millis(20), ..config(url.clone()) };
        let late = Kubelet::new(quick).unwrap().fetch().await.unwrap_err();
        assert!(matches!(late, KubeletError::Timeout { .. }), "{late}");

        let patient = KubeletConfig { timeout: Duration::from_secs(3600), ..config(url) };
        let (stop, stopped) = watch::channel(false);
        let names = Arc::new(KubeletNames::default());
        let asking = Arc::clone(&names).refresh_loop(Kubelet::new(patient).unwrap(), stopped);
        assert_send(&asking);
        let stopping = async {
            // Its request is on its way once its connection, the second, is here.
            listener.accept().await.unwrap();
            let held = listener.accept().await.unwrap();
            drop(stop);
            held
        };
        let (_, held) =
            tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(asking, stopping) }).await.unwrap();
        drop(held);
        assert_eq!(*names.rounds().borrow(), 0);
    });
}

#[test]
fn unsafe_or_senseless_settings_are_refused() {
    let file = || Some(PathBuf::from("/x"));
    let of = |url: &str, ca_file, insecure, token_file| {
        Kubelet::new(KubeletConfig { ca_file, insecure, token_file, ..config(url.to_owned()) })
    };
    assert!(matches!(of("https://n:10250", None, false, None), Err(KubeletError::NoTrust)));
    assert!(matches!(of("https://n:10250", file(), true, None), Err(KubeletError::TwoTrusts)));
    assert!(matches!(of("http://n:10255", None, false, file()), Err(KubeletError::PlainToken)));
    for bad in ["", "n:10250", "ftp://n", "https://", "/pods", "https://a b"] {
        assert!(matches!(of(bad, file(), false, None), Err(KubeletError::Url(_))), "{bad}");
    }
    assert_eq!(of("https://[::1]", file(), false, file()).unwrap().authority(), "[::1]:10250");
    assert_eq!(of("http://node-a/", None, false, None).unwrap().authority(), "node-a:10255");
}

#[test]
fn asking_in_vain_slows_down() {
    let config = KubeletConfig::default();
    let mut gap = config.min_gap;
    let seconds: Vec<u64> = (0..6)
        .map(|_| {
            gap = next_gap(gap, true, &config);
            gap.as_secs()
        })
        .collect();
    assert_eq!(seconds, [4, 8, 16, 30, 30, 30]);
    assert_eq!(next_gap(gap, false, &config), Duration::from_secs(2));
}
