//! Devices that hang, answer half, talk nonsense, restart or refuse: the error is clear, comes in time, and the driver
//! goes on when the device does.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ebbtide_devices::snmp::SnmpPdu;
use ebbtide_devices::snmp::config::{SnmpPduConfig, Version};
use ebbtide_devices::{DeviceError, Driver as _, OutletId, Period, PowerState, SecretSource, Switch};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use tokio::net::UdpSocket;

use crate::rack::{Faults, Rack};

fn impatient(address: &str) -> SnmpPduConfig {
    let mut config = SnmpPduConfig::at(address);
    config.timeout = Period::new(Duration::from_millis(150));
    config.retries = 1;
    config.gap = Period::new(Duration::ZERO);
    config.deadline = Period::new(Duration::from_secs(3));
    config
}

fn secret(text: &str) -> (tempfile::NamedTempFile, SecretSource) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let source = SecretSource::File(file.path().to_owned());
    (file, source)
}

/// The error of reading such a device, which has to come in time.
async fn failure(config: SnmpPduConfig) -> DeviceError {
    let mut pdu = SnmpPdu::new(config).unwrap();
    let before = clock::now();
    let error = pdu.read().await.map(drop).unwrap_err();
    assert!(clock::now().since(before) < Duration::from_secs(10), "{error}");
    error
}

#[tokio::test]
async fn a_device_that_hangs_is_a_timeout_with_a_hint() {
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let error = failure(impatient(&deaf.local_addr().unwrap().to_string())).await;
    assert!(error.is_passing() && error.to_string().contains("Devices don't answer a wrong community"), "{error}");
}

/// Counts log lines.
#[derive(Clone, Default)]
struct Lines(Arc<AtomicUsize>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        if *event.metadata().level() <= tracing::Level::INFO {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_device_that_is_off_does_not_fill_the_log() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    tracing::info!("heard");
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..3 {
        failure(impatient(&deaf.local_addr().unwrap().to_string())).await;
    }
    assert_eq!(lines.0.load(Ordering::Relaxed), 1, "one line of this test, and none of the library");
}

#[tokio::test]
async fn requests_keep_their_distance() {
    let mut tasks = Tasks::new();
    let address = crate::agent::start(&mut tasks, "public", Arc::new(Rack::new(&[50]))).await;
    let mut config = impatient(&address);
    config.gap = Period::new(Duration::from_millis(20));
    let mut pdu = SnmpPdu::new(config).unwrap();
    let before = clock::now();
    pdu.read().await.unwrap();
    // The model of this device has 25 tables at least, and each is one request.
    assert!(clock::now().since(before) >= Duration::from_millis(20 * 25));
    crate::agent::stop(tasks).await;
}

#[tokio::test]
async fn a_wrong_community_is_silence() {
    let mut tasks = Tasks::new();
    let address = crate::agent::start(&mut tasks, "s3cret", Arc::new(Rack::new(&[50]))).await;
    assert!(matches!(failure(impatient(&address)).await, DeviceError::Timeout { .. }));
    let (_file, community) = secret("s3cret");
    let mut config = impatient(&address);
    config.community = Some(community);
    assert_eq!(SnmpPdu::new(config).unwrap().read().await.unwrap().outlets.len(), 1);
    crate::agent::stop(tasks).await;
}

#[tokio::test]
async fn version_3_is_signed_and_encrypted_and_says_what_is_wrong() {
    let mut tasks = Tasks::new();
    let address = crate::agent::start(&mut tasks, "public", Arc::new(Rack::new(&[50, 60]))).await;
    let (user, sign, hide) = crate::agent::USER;
    let config = |user: &str, sign: &SecretSource, hide: &SecretSource| {
        let mut config = impatient(&address);
        config.timeout = Period::new(Duration::from_secs(2));
        config.retries = 0;
        config.deadline = Period::new(Duration::from_secs(9));
        config.version = Version::V3;
        config.user = Some(user.to_owned());
        config.auth_password = Some(sign.clone());
        config.privacy_password = Some(hide.clone());
        config
    };
    let ((_a, right_sign), (_b, right_hide), (_c, wrong)) = (secret(sign), secret(hide), secret("wrong-12345"));
    let mut pdu = SnmpPdu::new(config(user, &right_sign, &right_hide)).unwrap();
    assert_eq!(pdu.read().await.unwrap().outlets.len(), 2);
    pdu.switch(&OutletId::new("2"), Switch::Off).await.unwrap();
    assert_eq!(pdu.state(&OutletId::new("2")).await.unwrap(), PowerState::Off);
    // Devices say what is wrong in reports that nobody signed; those that aren't believed leave a timeout.
    for config in [
        config(user, &wrong, &right_hide),
        config("nobody", &right_sign, &right_hide),
        config(user, &right_sign, &wrong),
    ] {
        let error = failure(config).await;
        assert!(matches!(error, DeviceError::Denied { .. } | DeviceError::Timeout { .. }), "{error}");
        let text = error.to_string();
        assert!((text.contains("user") || text.contains("password")) && !text.contains("wrong-12345"), "{text}");
    }
    crate::agent::stop(tasks).await;
}

#[tokio::test]
async fn half_an_answer_leaves_out_figures_and_is_looked_into() {
    let mut tasks = Tasks::new();
    let rack = Rack::new(&[50, 60, 70, 80]);
    let address = crate::agent::start(&mut tasks, "public", Arc::new(rack.clone())).await;
    let mut pdu = SnmpPdu::new(impatient(&address)).unwrap();
    assert_eq!(pdu.read().await.unwrap().outlets.len(), 4);
    rack.misbehave(Faults { half: true, ..Faults::default() });
    let report = pdu.read().await.unwrap();
    assert_eq!(report.missing, ["4 of 10 objects had no answer"]);
    let last = &report.outlets[3];
    assert_eq!((last.state, last.feed.power.is_none()), (PowerState::Unknown, true), "not off, and not 0 W");
    assert_eq!(report.outlets[1].feed.power.as_ref().unwrap().value.uw(), 60_000_000);
    assert_eq!(pdu.state(&OutletId::new("1")).await.unwrap(), PowerState::On);
    assert_eq!(pdu.read().await.unwrap().outlets.len(), 2, "the tables were looked over again");
    rack.misbehave(Faults::default());
    let error = pdu.switch(&OutletId::new("4"), Switch::Off).await.unwrap_err();
    assert!(matches!(error, DeviceError::NoOutlet { .. }), "{error}");
    crate::agent::stop(tasks).await;
}

#[tokio::test]
async fn a_device_that_restarts_is_recognised_again() {
    let mut tasks = Tasks::new();
    let rack = Rack::new(&[50]);
    let address = crate::agent::start(&mut tasks, "public", Arc::new(rack.clone())).await;
    let mut pdu = SnmpPdu::new(impatient(&address)).unwrap();
    // The clock of the device has hundredths of a second: it has to be above zero before it can fall.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let counted = |report: ebbtide_devices::Report| report.total.energy.unwrap().value.uj() / 360_000_000_000;
    assert_eq!(counted(pdu.read().await.unwrap()), 7060);
    rack.count_energy();
    assert_eq!(counted(pdu.read().await.unwrap()), 7061);
    rack.restart();
    assert_eq!(counted(pdu.read().await.unwrap()), 0);
    assert_eq!(counted(pdu.read().await.unwrap()), 0);
    crate::agent::stop(tasks).await;
}

#[tokio::test]
async fn nonsense_on_the_wire_is_survived() {
    let babbler = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = babbler.local_addr().unwrap().to_string();
    let mut tasks = Tasks::new();
    let shutdown = tasks.shutdown();
    tasks.spawn("babbler", async move {
        let mut buffer = [0; 2048];
        let mut seed = 7u8;
        loop {
            let (length, from) = tokio::select! {
                got = babbler.recv_from(&mut buffer) => got?,
                () = shutdown.requested() => return Ok(()),
            };
            // The question itself, cut off; the question with a byte changed; noise.
            babbler.send_to(&buffer[..length / 2], from).await?;
            for byte in buffer[..length].iter_mut().step_by(3) {
                seed = seed.wrapping_mul(31).wrapping_add(11);
                *byte ^= seed;
            }
            babbler.send_to(&buffer[..length], from).await?;
        }
    });
    let error = failure(impatient(&address)).await;
    assert!(matches!(error, DeviceError::Timeout { .. } | DeviceError::Nonsense { .. }), "{error}");
    crate::agent::stop(tasks).await;
}

#[tokio::test]
async fn a_device_of_no_known_model_says_what_to_do() {
    let mut tasks = Tasks::new();
    let mut objects = crate::agent::Objects::new();
    let system = |arcs: &[u32]| async_snmp::Oid::new([1, 3, 6, 1, 2, 1, 1].into_iter().chain(arcs.iter().copied()));
    objects.insert(system(&[1, 0]), async_snmp::Value::OctetString("Toaster".into()));
    objects.insert(
        system(&[2, 0]),
        async_snmp::Value::ObjectIdentifier(async_snmp::Oid::from_slice(&[1, 3, 6, 1, 4, 1, 99_999, 1])),
    );
    let power = async_snmp::Oid::from_slice(&[1, 3, 6, 1, 4, 1, 99_999, 2, 0]);
    objects.insert(power, async_snmp::Value::OctetString("12.5".into()));
    let address = crate::agent::start(&mut tasks, "public", Arc::new(Arc::new(objects))).await;
    let error = failure(impatient(&address)).await.to_string();
    assert!(error.contains("1.3.6.1.4.1.99999.1 (Toaster)") && error.contains("[[pdu-model]]"), "{error}");

    let text = format!(
        r#"
        [[device]]
        name = "toaster"
        kind = "snmp-pdu"
        address = "{address}"
        [[pdu-model]]
        name = "toaster"
        vendor = "Toasters"
        object-ids = ["1.3.6.1.4.1.99999"]
        base = "1.3.6.1.4.1.99999"
        [pdu-model.total]
        power = [{{ source = "toasterPower", column = ".2", unit = "W" }}]
        "#
    );
    let devices: ebbtide_devices::Devices = toml::from_str(&text).unwrap();
    let report = ebbtide_devices::open(&devices.device[0]).unwrap().read().await.unwrap();
    assert_eq!(report.total.power.unwrap().value.uw(), 12_500_000, "an operator's model, and a number sent as text");
    crate::agent::stop(tasks).await;
}
