//! Remote write to a real Prometheus, and to a receiver that says no.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/daemon.rs"]
mod support;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ebbtide_fleet::config::RemoteWrite;
use ebbtide_fleet::export;
use support::{Agent, Daemon, batch, hello, now_ms, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A process that ends with the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // it may have ended by itself
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn get(at: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// Asks again and again until the answer is as wanted.
async fn until(at: &str, path: &str, wanted: impl Fn(&str) -> bool) -> String {
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut last = String::new();
    while tokio::time::Instant::now() < patience {
        if let Some(answer) = get(at, path).await {
            if wanted(&answer) {
                return answer;
            }
            last = answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{at}{path} never answered as wanted, but: {last}");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_real_prometheus_has_what_the_page_says() {
    let has_prometheus =
        Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if has_prometheus.is_err() {
        assert!(std::env::var_os("EBBTIDE_REQUIRE_PROMETHEUS").is_none(), "prometheus is required and not installed");
        eprintln!("skipped: prometheus is not installed (apt-get install prometheus)");
        return;
    }
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, "global: {}\n").unwrap();
        let at = format!("127.0.0.1:{}", free_port());
        let _prometheus = Owned(
            Command::new("prometheus")
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
                .arg(format!("--web.listen-address={at}"))
                .arg("--web.enable-remote-write-receiver")
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        until(&at, "/-/ready", |answer| answer.starts_with("HTTP/1.1 200")).await;
        let url = format!("http://{at}/api/v1/write");
        let remote = RemoteWrite { url, bearer_token_file: None, ca: None, interval_s: 1 };
        let daemon = Daemon::plain(|c| c.remote_write = vec![remote]).await;
        let mut agent = Agent::join(daemon.connect().await, hello("edge1", 7)).await.unwrap();
        let t = now_ms() - 2000;
        agent.send(&batch(1, &[t, t + 1000], &[1_000_000, 21_500_000])).await;
        agent.acked(1).await.unwrap();
        let query = "/api/v1/query?query=ebbtide_fleet_node_energy_joules_total";
        let answer = until(&at, query, |answer| answer.contains("\"21.5\"")).await;
        assert!(answer.contains(r#""node":"edge1""#) && answer.contains(r#""zone":"package-0""#), "{answer}");
        let power = get(&at, "/api/v1/query?query=ebbtide_fleet_node_power_watts").await.unwrap();
        assert!(power.contains("\"20.5\""), "{power}");
        daemon.stop().await;
    });
}

#[test]
fn what_is_refused_for_good_is_not_sent_again_and_what_passes_is() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/write", listener.local_addr().unwrap());
        let mut sender = export::Sender::new(&url, None, None).unwrap();
        let receiver = async {
            let mut bodies = Vec::new();
            for status in ["503 Busy", "400 Bad", "429 Slow", "204 Done"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"body") && !bytes.ends_with(b"next") {
                    let mut part = [0; 1024];
                    let n = stream.read(&mut part).await.unwrap();
                    bytes.extend_from_slice(&part[..n]);
                }
                bodies.push(String::from_utf8_lossy(&bytes[bytes.len() - 4..]).into_owned());
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            bodies
        };
        let sending = async {
            sender.keep(b"body".to_vec());
            sender.keep(b"next".to_vec());
            assert!(sender.round().await.is_some(), "busy: try later");
            assert!(sender.round().await.is_some(), "the first is given up, the second has to wait");
            assert_eq!(sender.round().await, None);
            (sender.sent, sender.dropped)
        };
        let (bodies, counted) = tokio::join!(receiver, sending);
        assert_eq!(bodies, ["body", "body", "next", "next"]);
        assert_eq!(counted, (1, 1));
    });
}
