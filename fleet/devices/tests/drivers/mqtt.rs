//! MQTT: mosquitto with plugs by paho behind it, with and without TLS and passwords, and brokers that fail.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ebbtide_devices::http::Fingerprint;
use ebbtide_devices::mqtt::{self, Generic, GenericState, Gone, Mqtt, MqttConfig, MqttDevice};
use ebbtide_devices::plug::{Number, Word};
use ebbtide_devices::quantity::Unit;
use ebbtide_devices::{DeviceError, Driver, OutletId, Period, PowerState, Report, Switch};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::peers::{Peer, free_port, program, python, script, secret, wait_for_port};
use crate::{kwh, until_state, watts, within};

/// A broker with these lines in its configuration.
fn mosquitto(folder: &Path, port: u16, more: &str) -> Option<Peer> {
    let mosquitto = program("mosquitto")?;
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, format!("listener {port} 127.0.0.1\n{more}\n")).unwrap();
    let peer = Peer::start(Command::new(mosquitto).arg("-c").arg(&config));
    wait_for_port(port);
    Some(peer)
}

fn config(port: u16, device: MqttDevice) -> MqttConfig {
    MqttConfig { port: Some(port), ..MqttConfig::at("127.0.0.1", device) }
}

/// Reads until the report has what is wanted, at most half a minute: a plug takes its time to come up.
async fn until_report(driver: &mut Mqtt, is_wanted: impl Fn(&Report) -> bool) -> Report {
    let start = clock::now();
    loop {
        let report = driver.read().await.unwrap();
        if is_wanted(&report) {
            return report;
        }
        assert!(clock::now().since(start) < Duration::from_secs(30), "{report:?}");
        // lets the listener have this thread
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn plugs_behind_mosquitto_are_read_and_switched_until_they_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let Some(python) = python("paho.mqtt") else { return };
    let port = free_port();
    let Some(_broker) = mosquitto(folder.path(), port, "allow_anonymous true") else { return };
    let name = || "plug".to_owned();
    for (kind, device, power, energy) in [
        ("tasmota", MqttDevice::Tasmota { topic: name(), relays: 1 }, 51.0, 3.185),
        ("shelly1", MqttDevice::Shelly1 { id: name(), relays: 1 }, 51.3, 0.01),
        ("shelly2", MqttDevice::Shelly2 { prefix: name(), switches: 1 }, 8.9, 0.006_532),
    ] {
        let mut plug = Peer::start(Command::new(&python).arg(script("mqtt_plug.py")).args([&port.to_string(), kind]));
        let (mut driver, one) = (Mqtt::new(config(port, device)).unwrap(), OutletId::new("1"));
        let report = until_report(&mut driver, |r| r.total.power.is_some() && r.total.energy.is_some()).await;
        assert_eq!(watts(&report.total), Some(power), "{kind}");
        assert!((kwh(&report.total).unwrap() - energy).abs() < 1e-9, "{kind} {report:?}");
        until_state(&mut driver, &one, PowerState::On).await;
        driver.switch(&one, Switch::Off).await.unwrap();
        until_state(&mut driver, &one, PowerState::Off).await;
        let report = until_report(&mut driver, |r| watts(&r.total) == Some(0.0)).await;
        assert_eq!(report.outlets[0].state, PowerState::Off, "{kind}");
        plug.kill();
        // The broker publishes its last will.
        let gone = until_report(&mut driver, |r| !r.missing.is_empty() && r.total.is_empty()).await;
        assert_eq!(gone.outlets[0].state, PowerState::Unknown, "gone is not off");
        let refused = driver.switch(&one, Switch::On).await.unwrap_err();
        assert!(refused.is_passing(), "{refused}");
        let none = driver.switch(&OutletId::new("2"), Switch::On).await.unwrap_err();
        assert!(matches!(none, DeviceError::NoOutlet { .. }), "{none}");
        driver.close().await.unwrap();
    }
}

fn generic() -> MqttDevice {
    let on = |topic: &str| topic.to_owned();
    let number = Number { pointer: "/p".to_owned(), scale: 1000.0, unit: Unit::Watt };
    let word = Word { pointer: String::new(), on: json!("ON"), off: json!("OFF") };
    MqttDevice::Generic(Box::new(Generic {
        numbers: [(on("home/meter"), vec![number])].into(),
        state: Some(GenericState { topic: on("home/relay"), word }),
        command: Some(mqtt::Command { topic: on("home/relay"), on: "ON".to_owned(), off: "OFF".to_owned() }),
        gone: Some(Gone { topic: on("home/status"), word: "bye".to_owned() }),
    }))
}

fn publish(port: u16, topic: &str, message: &str, retained: bool) {
    let mut command = Command::new(program("mosquitto_pub").unwrap());
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", topic, "-m", message]);
    assert!(command.args(retained.then_some("-r")).status().unwrap().success());
}

#[tokio::test]
async fn what_was_heard_grows_stale_and_what_is_retained_is_of_unknown_age() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let Some(_broker) = mosquitto(folder.path(), port, "allow_anonymous true") else { return };
    if program("mosquitto_pub").is_none() {
        return;
    }
    publish(port, "home/meter", r#"{"p": 7}"#, true);
    let quick = MqttConfig { timeout: Period::new(Duration::from_millis(500)), ..config(port, generic()) };
    let quick = MqttConfig { heard_within: Period::new(Duration::from_secs(1)), ..quick };
    let mut driver = Mqtt::new(quick).unwrap();
    let nothing = driver.read().await.unwrap();
    assert!(nothing.total.is_empty() && nothing.missing[0].contains("no watts were heard"), "{nothing:?}");
    publish(port, "home/meter", r#"{"p": 0.25}"#, false);
    let heard = until_report(&mut driver, |r| r.total.power.is_some()).await;
    assert_eq!(watts(&heard.total), Some(250.0));
    let at = heard.total.power.as_ref().unwrap().at;
    until_report(&mut driver, |r| r.total.power.is_none()).await;
    assert!(clock::now().since(at) >= Duration::from_secs(1), "it was kept for a second");
    // Its own command comes back as its state here.
    let one = OutletId::new("1");
    driver.switch(&one, Switch::On).await.unwrap();
    until_state(&mut driver, &one, PowerState::On).await;
    for nonsense in ["", "nan", "{\"p\": null}", "{\"p\": -1}", "[[[[", "{\"p\": 1e400}"] {
        publish(port, "home/meter", nonsense, false);
    }
    publish(port, "home/status", "bye", false);
    let gone = until_report(&mut driver, |r| r.missing[0].contains("off the network")).await;
    assert!(gone.total.is_empty() && gone.outlets[0].state == PowerState::Unknown);
}

#[tokio::test]
async fn a_broker_that_comes_back_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let Some(mut broker) = mosquitto(folder.path(), port, "allow_anonymous true") else { return };
    if program("mosquitto_pub").is_none() {
        return;
    }
    let mut driver =
        Mqtt::new(MqttConfig { timeout: Period::new(Duration::from_millis(500)), ..config(port, generic()) }).unwrap();
    driver.read().await.unwrap();
    broker.kill();
    let start = clock::now();
    while driver.read().await.is_ok() {
        assert!(clock::now().since(start) < Duration::from_secs(30));
    }
    let lost = driver.switch(&OutletId::new("1"), Switch::On).await.unwrap_err();
    assert!(lost.is_passing(), "{lost}");
    let _broker = mosquitto(folder.path(), port, "allow_anonymous true");
    while driver.read().await.is_err() {
        assert!(clock::now().since(start) < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let report = driver.read().await.unwrap();
    assert_eq!(report.outlets[0].state, PowerState::Unknown, "what was said while nobody listened is not said again");
}

#[tokio::test]
async fn users_and_certificates_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tool) = program("mosquitto_passwd") else { return };
    let users = folder.path().join("users");
    assert!(Command::new(tool).arg("-b").arg("-c").arg(&users).args(["reader", "s3cret"]).status().unwrap().success());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let (at, port) = (folder.path().display(), free_port());
    // started by root, it would become a user that can't read the folder
    let lines = format!(
        "user root\nallow_anonymous false\npassword_file {at}/users\ncertfile {at}/cert.pem\nkeyfile {at}/key.pem"
    );
    let Some(_broker) = mosquitto(folder.path(), port, &lines) else { return };
    let with = |password: &str| {
        let (kept, source) = secret(password);
        let fingerprint = Some(Fingerprint::of(certificate.der()));
        let user = Some("reader".to_owned());
        (kept, MqttConfig { tls: true, fingerprint, user, password: Some(source), ..config(port, generic()) })
    };
    let (_kept, right) = with("s3cret");
    Mqtt::new(right.clone()).unwrap().read().await.unwrap();
    let (_kept, wrong) = with("wr0ng");
    let denied = Mqtt::new(wrong).unwrap().read().await.unwrap_err();
    assert!(matches!(denied, DeviceError::Denied { .. }) && !denied.to_string().contains("wr0ng"), "{denied}");
    let other = MqttConfig { fingerprint: Some(["00"; 32].concat().parse().unwrap()), ..right.clone() };
    let changed = Mqtt::new(other).unwrap().read().await.unwrap_err();
    assert!(matches!(changed, DeviceError::Certificate { .. }), "{changed}");
    let plain = MqttConfig { tls: false, ..right };
    assert!(Mqtt::new(plain).err().unwrap().to_string().contains("in the clear"));
}

/// A broker that answers every connection with this.
async fn faulty(answer: &'static [u8]) -> (u16, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = Tasks::new();
    tasks.spawn("faulty broker", async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut first = [0; 2];
            stream.read_exact(&mut first).await?;
            stream.write_all(answer).await?;
            kept.push(stream);
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn faults_are_bounded_and_clear() {
    for (answer, words) in [
        (&b""[..], "doesn't answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no MQTT"),
        (&[0x20, 2, 0], "doesn't answer"),
        (&[0x20, 2, 0, 3], "refused the connection (3)"),
        (&[0x20, 2, 0, 5], "doesn't let this user in"),
        (&[0x20, 2, 0, 0, 0x90, 4, 0, 1, 0x80, 0], "rules"),
        (&[0x20, 2, 0, 0, 0x30, 0xFF, 0xFF, 0xFF, 0x7F], "too large"),
    ] {
        let (port, _tasks) = faulty(answer).await;
        let quick = MqttConfig { timeout: Period::new(Duration::from_millis(300)), ..config(port, generic()) };
        let error = within(Duration::from_secs(5), Mqtt::new(quick).unwrap().read()).await.unwrap_err().to_string();
        assert!(error.contains(words) || (words == "doesn't answer" && error.contains("didn't answer")), "{error}");
    }
    let nobody = within(Duration::from_secs(10), Mqtt::new(config(free_port(), generic())).unwrap().read()).await;
    assert!(nobody.unwrap_err().is_passing());
    let wild = MqttDevice::Tasmota { topic: "+".to_owned(), relays: 1 };
    assert!(Mqtt::new(config(1, wild)).err().unwrap().to_string().contains("no topic"));
}
