//! JSON over HTTP: what the devices are asked, how commands reach them, and devices that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ebbtide_devices::http_json::{Ask, Dialect, Generic, HttpJson, HttpJsonConfig};
use ebbtide_devices::plug::{Number, Word};
use ebbtide_devices::quantity::Unit;
use ebbtide_devices::{DeviceError, Driver, OutletId, Period, PowerState, Switch};
use serde_json::{Value, json};

use crate::peers::secret;
use crate::peers::web::{Asked, Reply, Web};
use crate::{kwh, watts, within};

fn one() -> OutletId {
    OutletId::new("1")
}

fn driver(web: &Web, dialect: Dialect) -> HttpJson {
    let timeout = Period::new(Duration::from_millis(500));
    HttpJson::new(HttpJsonConfig { timeout, ..HttpJsonConfig::at(&web.url(), dialect) }).unwrap()
}

#[tokio::test]
async fn netio_is_read_and_switched_by_one_document() {
    let on = AtomicBool::new(true);
    let web = Web::start(None, move |asked| {
        if asked.header("Authorization") != Some("Basic cmVhZGVyOnMzY3JldA==") {
            return Reply::status(401);
        }
        if asked.method == "POST" {
            let told: Value = serde_json::from_str(&asked.body).unwrap();
            on.store(told["Outputs"][0]["Action"] == 1, Ordering::SeqCst);
        }
        let is_on = on.load(Ordering::SeqCst);
        Reply::json(&json!({
            "Agent": {"Model": "NETIO 4C"},
            "GlobalMeasure": {"TotalLoad": if is_on { 16 } else { 0 }, "TotalEnergy": 4150},
            "Outputs": [{"ID": 1, "Name": "node1", "State": i32::from(is_on), "Load": 16, "Energy": 4100}],
        }))
    })
    .await;
    let (_kept, password) = secret("s3cret");
    let config = HttpJsonConfig {
        user: Some("reader".to_owned()),
        password: Some(password),
        plain_password: true,
        ..HttpJsonConfig::at(&web.url(), Dialect::Netio)
    };
    let mut pdu = HttpJson::new(config).unwrap();
    let report = pdu.read().await.unwrap();
    assert_eq!((watts(&report.total), kwh(&report.total)), (Some(16.0), Some(4.15)));
    assert_eq!(pdu.identify().await.unwrap().model.as_deref(), Some("NETIO 4C"));
    pdu.switch(&one(), Switch::Off).await.unwrap();
    assert_eq!(pdu.state(&one()).await.unwrap(), PowerState::Off);
    let none = pdu.state(&OutletId::new("7")).await.unwrap_err();
    assert!(matches!(none, DeviceError::NoOutlet { .. }), "{none}");
    let denied = driver(&web, Dialect::Netio).read().await.unwrap_err();
    assert!(matches!(denied, DeviceError::Denied { .. }), "{denied}");
}

#[tokio::test]
async fn a_password_goes_in_the_clear_only_where_that_is_allowed() {
    // A Shelly: a challenge, a new nonce every third request, and the answers counted.
    let (asked_for, wants) = (AtomicU32::new(0), |n: u32| {
        let told = format!("Digest qop=\"auth\", realm=\"plug\", nonce=\"n{}\", algorithm=SHA-256", n / 3);
        Reply::Answer(401, vec![("WWW-Authenticate", told)], Vec::new())
    });
    let web = Web::start(None, move |asked| {
        let n = asked_for.load(Ordering::SeqCst);
        let answer = asked.header("Authorization").unwrap_or_default().to_owned();
        let is_right = answer.contains(&format!("nonce=\"n{}\"", n / 3)) && answer.contains("username=\"reader\"");
        if !is_right {
            return wants(n);
        }
        asked_for.fetch_add(1, Ordering::SeqCst);
        Reply::json(&json!({"id": 0, "output": true, "apower": 8.9}))
    })
    .await;
    let (_kept, password) = secret("s3cret");
    let with = |url: &str, device| HttpJsonConfig {
        user: Some("reader".to_owned()),
        password: Some(password.clone()),
        ..HttpJsonConfig::at(url, device)
    };
    let mut plug = HttpJson::new(with(&web.url(), Dialect::Shelly2 { switches: 1 })).unwrap();
    for _ in 0..7 {
        assert_eq!(watts(&plug.read().await.unwrap().total), Some(8.9));
    }
    let asked = web.asked();
    assert!(asked.iter().all(|a| !a.head.contains("Basic") && !a.head.contains("s3cret")));
    assert_eq!(asked.len(), 10, "a challenge is answered until it is over");

    let basic = Web::start(None, |_| {
        Reply::Answer(401, vec![("WWW-Authenticate", "Basic realm=\"x\"".to_owned())], Vec::new())
    });
    let basic = basic.await;
    let clear = HttpJson::new(with(&basic.url(), Dialect::Netio)).unwrap().read().await.unwrap_err();
    assert!(clear.to_string().contains("it wants the password in the clear"), "{clear}");
    assert!(basic.asked().iter().all(|a| a.header("Authorization").is_none()));
}

/// A Shelly or Tasmota, on or off.
fn plug(asked: &Asked, on: &AtomicBool) -> Reply {
    let energy = json!({"ENERGY": {"Power": 51, "Total": 3.185}});
    match asked.target.as_str() {
        "/rpc/Switch.GetStatus?id=0" => {
            let output = on.load(Ordering::SeqCst);
            Reply::json(&json!({"id": 0, "output": output, "apower": 8.9, "aenergy": {"total": 1000.0}}))
        }
        "/rpc/Switch.Set?id=0&on=false" | "/cm?cmnd=Power1%20OFF" => {
            on.store(false, Ordering::SeqCst);
            Reply::json(&json!({"was_on": true, "POWER": "OFF"}))
        }
        "/cm?cmnd=Status%2010" => Reply::json(&json!({ "StatusSNS": energy })),
        "/cm?cmnd=Status%2011" => {
            let word = if on.load(Ordering::SeqCst) { "ON" } else { "OFF" };
            Reply::json(&json!({"StatusSTS": {"POWER": word}}))
        }
        _ => Reply::status(404),
    }
}

#[tokio::test]
async fn shelly_and_tasmota_are_read_and_switched() {
    for (dialect, power, energy) in
        [(Dialect::Shelly2 { switches: 1 }, 8.9, 1.0), (Dialect::Tasmota { relays: 1 }, 51.0, 3.185)]
    {
        let on = Arc::new(AtomicBool::new(true));
        let web = Web::start(None, move |asked| plug(asked, &on)).await;
        let mut plug = driver(&web, dialect);
        let report = plug.read().await.unwrap();
        assert_eq!((watts(&report.total), kwh(&report.total)), (Some(power), Some(energy)));
        assert_eq!(report.outlets[0].state, PowerState::On);
        plug.switch(&one(), Switch::Off).await.unwrap();
        assert_eq!(plug.state(&one()).await.unwrap(), PowerState::Off);
    }
    let locked =
        Web::start(None, |_| Reply::json(&json!({"WARNING": "Need user=<username>&password=<password>"}))).await;
    let error = driver(&locked, Dialect::Tasmota { relays: 1 }).read().await.unwrap_err();
    assert!(matches!(error, DeviceError::Denied { .. }), "{error}");
}

fn generic(path: &str) -> Dialect {
    let number = |pointer: &str, scale, unit| Number { pointer: pointer.to_owned(), scale, unit };
    let ask = |path: &str, body| Some(Ask { path: path.to_owned(), body });
    Dialect::Generic(Box::new(Generic {
        path: path.to_owned(),
        numbers: vec![number("/m/0/p", 0.1, Unit::Watt), number("/m/0/e", 1.0, Unit::KilowattHour)],
        state: Some(Word { pointer: "/relay".to_owned(), on: json!("closed"), off: json!("open") }),
        on: ask("/relay", Some(json!({"close": true}))),
        off: ask("/relay?open", None),
    }))
}

#[tokio::test]
async fn anything_with_numbers_in_json_is_a_meter() {
    let web = Web::start(None, |asked| match (asked.method.as_str(), asked.target.as_str()) {
        ("GET", "/status") => Reply::json(&json!({"m": [{"p": "1234", "e": null}], "relay": "closed"})),
        ("POST", "/relay") | ("GET", "/relay?open") => Reply::status(204),
        _ => Reply::status(404),
    })
    .await;
    let mut meter = driver(&web, generic("/status"));
    let report = meter.read().await.unwrap();
    assert_eq!((watts(&report.total), kwh(&report.total)), (Some(123.4), None), "null is absent");
    assert_eq!(report.outlets[0].state, PowerState::On);
    assert!(report.missing[0].contains("/m/0/e"), "{:?}", report.missing);
    meter.switch(&one(), Switch::On).await.unwrap();
    meter.switch(&one(), Switch::Off).await.unwrap();
    let asked = web.asked();
    assert_eq!(asked[1].body, r#"{"close":true}"#);
    let cycle = meter.switch(&one(), Switch::Cycle).await.unwrap_err();
    assert!(matches!(cycle, DeviceError::Unable { .. }), "{cycle}");
}

#[tokio::test]
async fn faults_are_bounded_and_clear() {
    let limit = Duration::from_secs(5);
    for (reply, words) in [
        ((|| Reply::Hang) as fn() -> Reply, "didn't answer"),
        (|| Reply::Half, "broke off"),
        (|| Reply::Flood, "larger than"),
        (|| Reply::Answer(200, Vec::new(), b"It works!".to_vec()), "no JSON"),
        (|| Reply::status(500), "500"),
        (|| Reply::Answer(301, vec![("Location", "https://cloud.example/".to_owned())], Vec::new()), "not followed"),
    ] {
        let web = Web::start(None, move |_| reply()).await;
        let error = within(limit, driver(&web, Dialect::Netio).read()).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let outside = HttpJsonConfig::at("http://10.0.0.1", generic("http://10.0.0.2/status"));
    assert!(HttpJson::new(outside).err().unwrap().to_string().contains("a path on the device"));
}
