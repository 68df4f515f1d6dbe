//! Redfish services that let sessions end, show other certificates, hang, or answer nonsense: the time is bounded, the
//! error says what to do, and the driver goes on afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ebbtide_devices::http::Fingerprint;
use ebbtide_devices::redfish::{Login, Redfish, RedfishConfig};
use ebbtide_devices::{DeviceError, Driver, Period, PowerState};
use serde_json::{Value, json};

use crate::peers::secret;
use crate::peers::web::{Asked, Reply, Web, own_certificate};
use crate::within;

/// The smallest service there is: one system with 120 W.
fn document(path: &str) -> Option<Value> {
    let members = |path: &str| json!({"Members": [{"@odata.id": path}]});
    Some(match path {
        "/redfish/v1/" => json!({"Systems": {"@odata.id": "/systems"}, "Chassis": {"@odata.id": "/chassis"}}),
        "/systems" => members("/systems/1"),
        "/chassis" => members("/chassis/1"),
        "/systems/1" => json!({"Id": "1", "PowerState": "On"}),
        "/chassis/1" => json!({"Power": {"@odata.id": "/power"}}),
        "/power" => json!({"PowerControl": [{"PowerConsumedWatts": 120}]}),
        _ => return None,
    })
}

fn plain(asked: &Asked) -> Reply {
    document(&asked.target).map_or_else(|| Reply::status(404), |d| Reply::json(&d))
}

fn quick(url: &str) -> RedfishConfig {
    RedfishConfig { timeout: Period::new(Duration::from_millis(500)), ..RedfishConfig::at(url) }
}

/// A service with sessions; each token is good for `uses` requests.
fn with_sessions(uses: u32) -> impl Fn(&Asked) -> Reply + Send + Sync {
    let (opened, used) = (AtomicU32::new(0), AtomicU32::new(0));
    move |asked| {
        let current = || format!("token-{}", opened.load(Ordering::SeqCst));
        match (asked.method.as_str(), asked.target.as_str()) {
            ("GET", "/redfish/v1/") => plain(asked),
            ("POST", "/redfish/v1/SessionService/Sessions") => {
                let login: Value = serde_json::from_str(&asked.body).unwrap();
                if login != json!({"UserName": "reader", "Password": "s3cret"}) {
                    return Reply::status(401);
                }
                opened.fetch_add(1, Ordering::SeqCst);
                used.store(0, Ordering::SeqCst);
                let headers =
                    vec![("X-Auth-Token", current()), ("Location", "/redfish/v1/SessionService/Sessions/7".to_owned())];
                Reply::Answer(201, headers, b"{}".to_vec())
            }
            _ if asked.header("X-Auth-Token") != Some(&current()) => Reply::status(401),
            _ if used.fetch_add(1, Ordering::SeqCst) >= uses => Reply::status(401),
            ("DELETE", _) => Reply::status(204),
            _ => plain(asked),
        }
    }
}

fn as_reader(url: &str, password: &str) -> (tempfile::TempDir, RedfishConfig) {
    let (folder, source) = secret(password);
    let config =
        RedfishConfig { user: Some("reader".to_owned()), password: Some(source), plain_password: true, ..quick(url) };
    (folder, config)
}

#[tokio::test]
async fn a_session_that_ends_in_the_middle_is_opened_again() {
    let web = Web::start(None, with_sessions(3)).await;
    let (_folder, config) = as_reader(&web.url(), "s3cret");
    let mut bmc = Redfish::new(config).unwrap();
    for _ in 0..3 {
        let report = bmc.read().await.unwrap();
        assert_eq!(report.total.power.as_ref().unwrap().value.watts(), 120.0);
    }
    bmc.close().await.unwrap();
    let asked = web.asked();
    let opened = asked.iter().filter(|a| a.method == "POST").count();
    assert!((3..=6).contains(&opened), "{opened} sessions for 12 requests");
    let end = asked.last().unwrap();
    assert_eq!((end.method.as_str(), end.target.as_str()), ("DELETE", "/redfish/v1/SessionService/Sessions/7"));
    assert!(asked.iter().all(|a| a.header("Authorization").is_none()));
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_tried_for_ever() {
    let web = Web::start(None, with_sessions(99)).await;
    let (_folder, config) = as_reader(&web.url(), "wrong");
    let error = Redfish::new(config).unwrap().read().await.unwrap_err();
    assert!(matches!(error, DeviceError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("reader") && !error.to_string().contains("wrong"), "{error}");
    assert_eq!(web.asked().iter().filter(|a| a.method == "POST").count(), 1, "accounts are locked after a few");
}

#[tokio::test]
async fn a_service_without_sessions_gets_the_password_each_time() {
    let basic = |asked: &Asked| match asked.header("Authorization") {
        _ if asked.target == "/redfish/v1/" => plain(asked),
        _ if asked.method == "POST" => Reply::status(404),
        Some("Basic cmVhZGVyOnMzY3JldA==") => plain(asked),
        _ => Reply::status(401),
    };
    let web = Web::start(None, basic).await;
    for login in [Login::Session, Login::Basic] {
        let (_folder, config) = as_reader(&web.url(), "s3cret");
        let mut bmc = Redfish::new(RedfishConfig { login, ..config }).unwrap();
        assert!(bmc.read().await.unwrap().total.power.is_some());
    }
}

#[tokio::test]
async fn a_password_in_the_clear_has_to_be_allowed() {
    let (_folder, config) = as_reader("http://bmc", "s3cret");
    let error = Redfish::new(RedfishConfig { plain_password: false, ..config }).err().unwrap();
    assert!(error.to_string().contains("in the clear"), "{error}");
}

#[tokio::test]
async fn only_the_certificate_that_is_trusted_will_do() {
    let (certificate, tls) = own_certificate("127.0.0.1");
    let web = Web::start(Some(tls), plain).await;
    let url = format!("https://127.0.0.1:{}", web.port);
    let fingerprint = Fingerprint::of(certificate.der());
    let pinned = |fingerprint| RedfishConfig { fingerprint: Some(fingerprint), ..quick(&url) };
    let report = Redfish::new(pinned(fingerprint)).unwrap().read().await.unwrap();
    assert_eq!(report.outlets[0].state, PowerState::On);

    let folder = tempfile::tempdir().unwrap();
    let ca_file: PathBuf = folder.path().join("ca.pem");
    std::fs::write(&ca_file, certificate.pem()).unwrap();
    let by_authority = RedfishConfig { ca_file: Some(ca_file.clone()), ..quick(&url) };
    assert!(Redfish::new(by_authority.clone()).unwrap().read().await.is_ok());

    // The controller was replaced, or someone is in between.
    let (_, other) = own_certificate("127.0.0.1");
    let (shown, second) = (fingerprint, Web::start(Some(other), plain).await);
    let elsewhere = format!("https://127.0.0.1:{}", second.port);
    let changed = Redfish::new(RedfishConfig { url: elsewhere.clone(), ..pinned(shown) }).unwrap().read().await;
    let changed = changed.unwrap_err();
    assert!(matches!(changed, DeviceError::Certificate { .. }), "{changed}");
    assert!(changed.to_string().contains("not the configured one"), "{changed}");
    let unsigned = Redfish::new(RedfishConfig { url: elsewhere, ..by_authority }).unwrap().read().await.unwrap_err();
    assert!(matches!(unsigned, DeviceError::Certificate { .. }), "{unsigned}");
    assert!(second.asked().is_empty(), "nothing was asked of one that isn't trusted");
    let both = RedfishConfig { fingerprint: Some(fingerprint), ca_file: Some(ca_file), ..quick(&url) };
    assert!(Redfish::new(both).err().unwrap().to_string().contains("contradict"));
}

/// What a service does wrong at the third document, and what the driver says to that.
async fn fault(fault: fn() -> Reply) -> DeviceError {
    let broken = Arc::new(AtomicU32::new(1));
    let mends = broken.clone();
    let web = Web::start(None, move |asked| {
        let breaks = asked.target == "/systems/1" && broken.load(Ordering::SeqCst) > 0;
        if breaks { fault() } else { plain(asked) }
    })
    .await;
    let mut bmc = Redfish::new(quick(&web.url())).unwrap();
    let error = within(Duration::from_secs(5), bmc.read()).await.unwrap_err();
    mends.store(0, Ordering::SeqCst);
    assert!(bmc.read().await.unwrap().total.power.is_some(), "it goes on after {error}");
    error
}

#[tokio::test]
async fn faults_are_bounded_and_clear() {
    let hanging = fault(|| Reply::Hang).await;
    assert!(matches!(hanging, DeviceError::Timeout { .. }) && hanging.is_passing(), "{hanging}");
    let half = fault(|| Reply::Half).await;
    assert!(matches!(half, DeviceError::Unreachable { .. }), "{half}");
    assert!(half.to_string().contains("broke off"), "{half}");
    let nonsense = fault(|| Reply::Answer(200, Vec::new(), b"<html>".to_vec())).await;
    assert!(matches!(nonsense, DeviceError::Nonsense { .. }), "{nonsense}");
    let array = fault(|| Reply::json(&json!([1, 2]))).await;
    assert!(matches!(array, DeviceError::Nonsense { .. }), "{array}");
    let huge = fault(|| Reply::Flood).await;
    assert!(huge.to_string().contains("larger than 1024 KiB"), "{huge}");
    let away =
        fault(|| Reply::Answer(302, vec![("Location", "http://elsewhere/systems/1".to_owned())], Vec::new())).await;
    assert!(matches!(away, DeviceError::Refused { .. }), "{away}");
    assert!(away.to_string().contains("which is not followed"), "{away}");
    let circle = fault(|| Reply::Answer(302, vec![("Location", "/systems/1".to_owned())], Vec::new())).await;
    assert!(circle.to_string().contains("redirects for ever"), "{circle}");
    let deep = fault(|| Reply::Answer(200, Vec::new(), [vec![b'['; 5000], vec![b']'; 5000]].concat())).await;
    assert!(matches!(deep, DeviceError::Nonsense { .. }), "{deep}");
}

#[tokio::test]
async fn pages_that_point_in_a_circle_come_to_an_end() {
    let circle = |asked: &Asked| {
        if asked.target.starts_with("/systems?") || asked.target == "/systems" {
            return Reply::json(
                &json!({"Members": [{"@odata.id": "/systems/1"}], "Members@odata.nextLink": "/systems?next"}),
            );
        }
        plain(asked)
    };
    let web = Web::start(None, circle).await;
    let mut bmc = Redfish::new(quick(&web.url())).unwrap();
    within(Duration::from_secs(20), bmc.read()).await.unwrap();
    assert!(web.asked().len() < 400);
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_driver_usable() {
    let slow = AtomicU32::new(1);
    let web = Web::start(None, move |asked| {
        if asked.target == "/power" && slow.swap(0, Ordering::SeqCst) == 1 { Reply::Hang } else { plain(asked) }
    })
    .await;
    let mut bmc = Redfish::new(RedfishConfig::at(&web.url())).unwrap();
    tokio::time::timeout(Duration::from_millis(300), bmc.read()).await.unwrap_err();
    assert!(bmc.read().await.unwrap().total.power.is_some());
}

#[tokio::test]
async fn one_broken_document_costs_no_other() {
    let broken = |asked: &Asked| if asked.target == "/power" { Reply::status(500) } else { plain(asked) };
    let web = Web::start(None, broken).await;
    let report = Redfish::new(quick(&web.url())).unwrap().read().await.unwrap();
    assert_eq!((report.total.is_empty(), report.outlets[0].state), (true, PowerState::On));
    assert!(report.missing.iter().any(|m| m.contains("GET /power") && m.contains("500")), "{:?}", report.missing);

    // nor does one that this user may not see
    let forbidden = |asked: &Asked| match asked.target.as_str() {
        "/chassis/1" => {
            Reply::json(&json!({"PowerSubsystem": {"@odata.id": "/sub"}, "Power": {"@odata.id": "/power"}}))
        }
        "/sub" => Reply::status(403),
        _ => plain(asked),
    };
    let web = Web::start(None, forbidden).await;
    let report = Redfish::new(quick(&web.url())).unwrap().read().await.unwrap();
    assert!(report.total.power.is_some(), "{:?}", report.missing);
}
