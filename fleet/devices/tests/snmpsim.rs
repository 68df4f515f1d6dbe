//! Against snmpsim, an SNMP agent that others wrote: versions 2c and 3, SET, moving figures, slow answers and errors.
//!
//! It is found in `$EBBTIDE_DEVICES_VENV/bin` (`tools/device-simulators` makes that) or in `PATH`. Where it isn't, the
//! test says that it skips; `EBBTIDE_REQUIRE_DEVICES=1` makes that a failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ebbtide_devices::snmp::SnmpPdu;
use ebbtide_devices::snmp::config::{SnmpPduConfig, Version};
use ebbtide_devices::switching::{Limits, Verdict, switch};
use ebbtide_devices::{DeviceError, Driver as _, OutletId, Period, PowerState, Report, SecretSource, Switch};
use ebbtide_runtime::clock;

const USER: (&str, &str, &str) = ("ebbtide", "sign-1234567", "hide-1234567");

/// Two outlets that can be switched, one that can't, and watts that move by 50 a second.
const GUDE: &str = "1.3.6.1.2.1.1.1.0|4|Expert Power Control
1.3.6.1.2.1.1.2.0|6|1.3.6.1.4.1.28507.43
1.3.6.1.4.1.28507.43.1.3.1.2.1.3.1|2:writecache|value=1
1.3.6.1.4.1.28507.43.1.3.1.2.1.3.2|2:writecache|value=1
1.3.6.1.4.1.28507.43.1.3.1.2.1.3.3|2|1
1.3.6.1.4.1.28507.43.1.5.1.2.1.4.1|2:numeric|min=10,max=200,initial=100,rate=50,wrap=1
";

/// Answers after 700 ms.
const SLOW: &str = "1.3.6.1.2.1.1.1.0|4|Expert Power Control
1.3.6.1.2.1.1.2.0|6:delay|value=1.3.6.1.4.1.28507.43,wait=700,deviation=0
1.3.6.1.4.1.28507.43.1.3.1.2.1.3.1|2|1
";

/// Refuses to tell the state of its only outlet.
const BROKEN: &str = "1.3.6.1.2.1.1.1.0|4|Expert Power Control
1.3.6.1.2.1.1.2.0|6|1.3.6.1.4.1.28507.43
1.3.6.1.4.1.28507.43.1.3.1.2.1.3.1|2:error|status=generror,value=1
";

/// The simulator, ended with the test.
struct Snmpsim {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Drop for Snmpsim {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn program() -> Option<PathBuf> {
    let venv = std::env::var_os("EBBTIDE_DEVICES_VENV").map(|v| PathBuf::from(v).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = venv.into_iter().chain(std::env::split_paths(&path));
    folders.map(|f| f.join("snmpsim-command-responder")).find(|p| p.is_file())
}

impl Snmpsim {
    async fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for (name, text) in [("gude", GUDE), ("slow", SLOW), ("broken", BROKEN)] {
            std::fs::write(data.join(format!("{name}.snmprec")), text).unwrap();
        }
        let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/raritan-pdu_px3.snmprec");
        std::fs::copy(recording, data.join("px3.snmprec")).unwrap();
        for (name, text) in [
            ("sign", USER.1),
            ("hide", USER.2),
            ("gude", "gude"),
            ("slow", "slow"),
            ("broken", "broken"),
            ("px3", "px3"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        // A port that is free now; the simulator can't choose one itself.
        let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let cache = folder.path().join("cache");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .arg("--data-dir")
            .arg(&data)
            .arg("--cache-dir")
            .arg(&cache)
            .arg(format!("--variation-module-options=writecache:file:{}/written", folder.path().display()))
            .arg(format!("--agent-udpv4-endpoint={address}"))
            // It wants that said when it runs as root, and takes no notice otherwise.
            .args(["--process-user=root", "--process-group=root"])
            .args(["--v3-user", USER.0, "--v3-auth-key", USER.1, "--v3-auth-proto", "SHA256"])
            .args(["--v3-priv-key", USER.2, "--v3-priv-proto", "AES128"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut snmpsim = Self { child, address, folder };
        snmpsim.ready().await;
        snmpsim
    }

    /// Waits for the first answer: it indexes its files first.
    async fn ready(&mut self) {
        let mut config = self.config("gude");
        config.timeout = Period::new(Duration::from_millis(300));
        config.retries = 0;
        let start = clock::now();
        while SnmpPdu::new(config.clone()).unwrap().read().await.is_err() {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "snmpsim ended:\n{}", log());
            assert!(clock::now().since(start) < Duration::from_secs(90), "snmpsim doesn't answer:\n{}", log());
        }
    }

    fn secret(&self, name: &str) -> Option<SecretSource> {
        Some(SecretSource::File(self.folder.path().join(name)))
    }

    fn config(&self, community: &str) -> SnmpPduConfig {
        let mut config = SnmpPduConfig::at(&self.address);
        config.community = self.secret(community);
        config.gap = Period::new(Duration::ZERO);
        config.deadline = Period::new(Duration::from_mins(1));
        config
    }

    fn pdu(&self, community: &str) -> SnmpPdu {
        SnmpPdu::new(self.config(community)).unwrap()
    }
}

fn total_watts(report: &Report) -> u64 {
    report.total.power.as_ref().unwrap().value.uw() / 1_000_000
}

#[tokio::test]
async fn snmpsim() {
    let Some(program) = program() else {
        assert!(std::env::var_os("EBBTIDE_REQUIRE_DEVICES").is_none(), "snmpsim-command-responder is not installed");
        eprintln!("SKIPPED: snmpsim-command-responder is not installed (tools/device-simulators)");
        return;
    };
    let snmpsim = Snmpsim::start(&program).await;
    reads_with_version_2c(&snmpsim).await;
    reads_with_version_3(&snmpsim).await;
    switches(&snmpsim).await;
    follows_moving_watts(&snmpsim).await;
    waits_for_slow_answers(&snmpsim).await;
    survives_errors(&snmpsim).await;
}

async fn reads_with_version_2c(snmpsim: &Snmpsim) {
    let mut pdu = snmpsim.pdu("px3");
    let start = clock::now();
    let first = pdu.read().await.unwrap();
    let surveyed = clock::now();
    let second = pdu.read().await.unwrap();
    eprintln!("24 outlets: looked over in {:?}, read in {:?}", surveyed.since(start), clock::now().since(surveyed));
    for report in [first, second] {
        assert_eq!((total_watts(&report), report.outlets.len()), (1665, 24));
        assert_eq!(report.outlets[23].feed.current_ma.as_ref().unwrap().value, 2440);
    }
}

async fn reads_with_version_3(snmpsim: &Snmpsim) {
    let mut config = SnmpPduConfig::at(&snmpsim.address);
    config.version = Version::V3;
    config.user = Some(USER.0.to_owned());
    config.auth_password = snmpsim.secret("sign");
    config.privacy_password = snmpsim.secret("hide");
    config.context = Some("px3".to_owned());
    config.deadline = Period::new(Duration::from_mins(1));
    let mut pdu = SnmpPdu::new(config.clone()).unwrap();
    assert_eq!(total_watts(&pdu.read().await.unwrap()), 1665);
    assert_eq!(pdu.identify().await.unwrap().model.as_deref(), Some("PX3-5493U-K2"));
    config.auth_password = snmpsim.secret("hide");
    config.timeout = Period::new(Duration::from_secs(1));
    config.retries = 0;
    let error = SnmpPdu::new(config).unwrap().read().await.unwrap_err();
    assert!(matches!(error, DeviceError::Denied { .. } | DeviceError::Timeout { .. }), "{error}");
}

async fn switches(snmpsim: &Snmpsim) {
    let mut pdu = snmpsim.pdu("gude");
    let outlet = OutletId::new("2");
    let limits = Limits { interval: Duration::from_millis(50), ..Limits::default() };
    let off = switch(&mut pdu, &outlet, Switch::Off, limits, || None).await;
    assert_eq!((off.verdict, off.commands), (Verdict::Confirmed, 1));
    let again = switch(&mut pdu, &outlet, Switch::Off, limits, || None).await;
    assert_eq!((again.verdict, again.commands), (Verdict::Already, 0));
    // Another connection sees it as well, and the other outlet didn't move.
    let mut other = snmpsim.pdu("gude");
    assert_eq!(other.state(&outlet).await.unwrap(), PowerState::Off);
    assert_eq!(other.state(&OutletId::new("1")).await.unwrap(), PowerState::On);
    let on = switch(&mut pdu, &outlet, Switch::On, limits, || None).await;
    assert_eq!(on.verdict, Verdict::Confirmed);
    let fixed = switch(&mut pdu, &OutletId::new("3"), Switch::Off, limits, || None).await;
    assert!(matches!(fixed.verdict, Verdict::Failed { .. }), "{fixed:?}");
}

async fn follows_moving_watts(snmpsim: &Snmpsim) {
    let mut pdu = snmpsim.pdu("gude");
    let first = total_watts(&pdu.read().await.unwrap());
    let start = clock::now();
    loop {
        let now = total_watts(&pdu.read().await.unwrap());
        // It may overshoot its largest value by what a moment brings.
        assert!((10..=400).contains(&now), "{now}");
        if now != first {
            break;
        }
        assert!(clock::now().since(start) < Duration::from_secs(30), "still {now} W");
    }
}

async fn waits_for_slow_answers(snmpsim: &Snmpsim) {
    assert_eq!(snmpsim.pdu("slow").read().await.unwrap().outlets.len(), 1);
    let mut config = snmpsim.config("slow");
    config.timeout = Period::new(Duration::from_millis(200));
    config.retries = 0;
    let error = SnmpPdu::new(config).unwrap().read().await.unwrap_err();
    assert!(matches!(error, DeviceError::Timeout { .. }), "{error}");
}

async fn survives_errors(snmpsim: &Snmpsim) {
    let error = snmpsim.pdu("broken").read().await.unwrap_err();
    assert!(matches!(error, DeviceError::Refused { .. }), "{error}");
}
