//! Power hardware through the daemon: a program plays a PDU and a BMC, a made-up agent the machine behind them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/daemon.rs"]
mod daemon;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use daemon::{Agent, Daemon, batch, hello, now_ms, run};
use ebbtide_fleet::config::Config;
use ebbtide_proto::identity::Role;
use ebbtide_proto::v1;
use ebbtide_proto::v1::devices_client::DevicesClient;

/// Plays a rack: `on.N` and `on.system` are there if the outlet, the machine, is on. The machine draws 120 W at outlet 1
/// while both are. Outlet 2 is empty.
const RACK: &str = r#"#!/bin/sh
cd "$RACK" || exit 1
state() { if [ -e "on.$1" ]; then echo on; else echo off; fi; }
watts() { if [ -e on.1 ] && [ -e on.system ]; then echo 120; else echo 0; fi; }
case "$1" in
  status) echo "{\"state\": \"$(state "$2")\"}" ;;
  on) : > "on.$2" ;;
  off) rm -f "on.$2"; if [ "$2" = 1 ]; then rm -f on.system; fi ;;
  soft-off) rm -f on.system ;;
  read)
    if [ "$PART" = bmc ]; then
      echo "{\"outlets\": [{\"id\": \"system\", \"state\": \"$(state system)\", \"watts\": $(watts)}]}"
    else
      echo "{\"total\": {\"watts\": $(watts), \"error-percent\": 1},
        \"outlets\": [{\"id\": \"1\", \"name\": \"edge\", \"state\": \"$(state 1)\", \"watts\": $(watts), \"error-percent\": 1},
                      {\"id\": \"2\", \"state\": \"$(state 2)\", \"watts\": 0}]}"
    fi ;;
  *) echo "unknown: $1" >&2; exit 2 ;;
esac
"#;

/// The rack's folder, all on.
fn rack() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("rack.sh");
    std::fs::write(&program, RACK).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    for on in ["on.1", "on.2", "on.system"] {
        std::fs::write(folder.path().join(on), "").unwrap();
    }
    folder
}

fn with_rack(folder: &Path) -> impl FnOnce(&mut Config) {
    let text = format!(
        "plain-role = 'operator'
         [[device]]
         name = 'pdu'
         kind = 'command'
         interval = '200ms'
         program = '{0}/rack.sh'
         env = {{ RACK = '{0}', PART = 'pdu' }}
         [[device]]
         name = 'bmc'
         kind = 'command'
         interval = '200ms'
         program = '{0}/rack.sh'
         env = {{ RACK = '{0}', PART = 'bmc' }}
         [[feed]]
         node = 'edge'
         outlets = ['pdu/1']
         bmc = 'bmc'",
        folder.display()
    );
    move |config| {
        let read: Config = toml::from_str(&text).unwrap();
        (config.device, config.feed, config.plain_role) = (read.device, read.feed, Role::Operator);
    }
}

async fn ebbtide(daemon: &Daemon, args: &[&str]) -> Output {
    let program: PathBuf = env!("CARGO_BIN_EXE_ebbtide").into();
    let fleet = format!("http://{}", daemon.at.grpc);
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let run = move || std::process::Command::new(program).args(["--fleet", &fleet]).args(args).output().unwrap();
    ebbtide_runtime::tasks::blocking("ebbtide", run).await.unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The device, once it was read.
async fn read(daemon: &Daemon, name: &str) -> v1::Device {
    let mut client = DevicesClient::new(daemon.connect().await);
    let mut news = client.watch_device(v1::WatchDeviceRequest { name: name.into() }).await.unwrap().into_inner();
    loop {
        let device = news.message().await.unwrap().unwrap();
        if device.read_ms > 0 {
            return device;
        }
    }
}

#[test]
fn devices_are_read_and_switched_from_the_command_line() {
    run(async {
        let folder = rack();
        let daemon = Daemon::plain(with_rack(folder.path())).await;
        read(&daemon, "pdu").await;
        let list = ebbtide(&daemon, &["device", "list", "-o", "json"]).await;
        let pdu = json(&list)["devices"].as_array().unwrap().iter().find(|d| d["name"] == "pdu").unwrap().clone();
        assert_eq!((&pdu["kind"], &pdu["total"]["power_uw"]), (&"command".into(), &120_000_000u64.into()));
        assert_eq!((&pdu["outlets"][0]["node"], &pdu["outlets"][0]["state"]), (&"edge".into(), &"on".into()));
        let table = ebbtide(&daemon, &["device", "read", "pdu"]).await;
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(table.contains("120") && table.contains("edge"), "{table}");
        // not without a word
        let unsure = ebbtide(&daemon, &["device", "switch", "pdu", "2", "off"]).await;
        assert_eq!(unsure.status.code(), Some(2), "{}", String::from_utf8_lossy(&unsure.stderr));
        assert!(folder.path().join("on.2").exists());
        let off = ebbtide(&daemon, &["device", "switch", "pdu", "2", "off", "--yes", "-o", "json"]).await;
        assert_eq!((json(&off)["verdict"].as_str(), off.status.code()), (Some("confirmed"), Some(0)));
        assert!(!folder.path().join("on.2").exists());
        // again is a success, and nothing is sent
        let again = ebbtide(&daemon, &["device", "switch", "pdu", "2", "off", "--yes", "-o", "json"]).await;
        let again = json(&again);
        assert_eq!((again["verdict"].as_str(), again["commands"].as_u64()), (Some("already"), Some(0)));
        for (args, code) in [
            (["device", "switch", "pdu", "9", "off", "--yes"].as_slice(), 1),
            (&["device", "read", "nowhere"], 1),
            (&["device", "scan", "a b"], 2),
        ] {
            let failed = ebbtide(&daemon, args).await;
            let text = String::from_utf8_lossy(&failed.stderr).into_owned();
            assert_eq!(failed.status.code(), Some(code), "{args:?}: {text}");
            assert!(!text.is_empty() || !failed.stdout.is_empty(), "{args:?} fails without a word");
        }
        let page = daemon.page("/metrics").await;
        for line in [
            "ebbtide_fleet_outlet_power_watts{device=\"pdu\",outlet=\"1\",node=\"edge\"} 120\n",
            "ebbtide_fleet_outlet_state{device=\"pdu\",outlet=\"2\",node=\"\",state=\"off\"} 1\n",
            "ebbtide_fleet_node_wall_power_watts{node=\"edge\"} 120\n",
            "ebbtide_fleet_device_up{device=\"bmc\"} 1\n",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
        daemon.stop().await;
    });
}

#[test]
fn an_agent_hears_what_its_node_draws_if_it_wants_to() {
    run(async {
        let folder = rack();
        let daemon = Daemon::plain(with_rack(folder.path())).await;
        let wants = v1::Hello { capabilities: vec!["wall".into()], ..hello("edge", 7) };
        let mut agent = Agent::join(daemon.connect().await, wants).await.unwrap();
        let mut energies = Vec::new();
        while energies.len() < 3 {
            let message = agent.answers.message().await.unwrap().unwrap();
            let Some(v1::fleet_message::Kind::Wall(wall)) = message.kind else { continue };
            assert_eq!((wall.power_uw, wall.source.as_str()), (120_000_000, "pdu/1"));
            assert!(wall.age_ms < 5000 && wall.error_ppm >= 10_000, "{wall:?}");
            energies.push(wall.energy_uj);
        }
        assert!(energies.is_sorted() && energies[0] < energies[2], "{energies:?}");
        // one that doesn't know such messages, and one that nothing feeds, get none
        for (node, capability) in [("other", "wall"), ("edge", "reconnect")] {
            drop(agent);
            let says = v1::Hello { capabilities: vec![capability.into()], ..hello(node, 8) };
            agent = Agent::join(daemon.connect().await, says).await.unwrap();
            let now = now_ms();
            agent.send(&batch(1, &[now - 1000, now], &[1_000_000, 2_000_000])).await;
            let ack = agent.answers.message().await.unwrap().unwrap();
            assert!(matches!(ack.kind, Some(v1::fleet_message::Kind::Ack(_))), "{ack:?}");
        }
        drop(agent);
        daemon.stop().await;
    });
}

#[test]
fn a_node_that_runs_keeps_its_power_and_one_that_was_tested_is_known_to_wake() {
    run(async {
        let folder = rack();
        let daemon = Daemon::plain(with_rack(folder.path())).await;
        read(&daemon, "pdu").await;
        read(&daemon, "bmc").await;
        let agent = Agent::join(daemon.connect().await, hello("edge", 7)).await.unwrap();
        let mut client = DevicesClient::new(daemon.connect().await);
        let off = v1::SwitchOutletRequest {
            device: "pdu".into(),
            outlet: "1".into(),
            to: v1::Switch::Off.into(),
            ..v1::SwitchOutletRequest::default()
        };
        let refused = client.switch_outlet(off).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains("edge") && folder.path().join("on.1").exists(), "{refused}");

        // the machine: its agent streams while it has power
        let on = folder.path().join("on.system");
        let channel = daemon.connect().await;
        let machine = async {
            let mut agent = Some(agent);
            let mut spool = 8;
            loop {
                match (on.exists(), &agent) {
                    (false, Some(_)) => agent = None,
                    (true, None) => {
                        spool += 1;
                        agent = Agent::join(channel.clone(), hello("edge", spool)).await.ok();
                    }
                    _ => {}
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let test = async {
            let request = v1::TestWakeRequest { node: "edge".into(), deadline_ms: 60_000 };
            let mut steps = client.test_wake(request).await.unwrap().into_inner();
            let mut told = Vec::new();
            loop {
                let step = steps.message().await.unwrap().expect("a last step");
                told.push(step.text);
                if let Some(wake) = step.wake {
                    return (wake, told);
                }
            }
        };
        let (wake, told) = tokio::select! {
            done = test => done,
            () = machine => unreachable!(),
        };
        assert!(wake.proven, "{told:?}");
        assert_eq!((wake.path.as_str(), wake.by.as_str()), ("bmc/system", "local"));
        assert!(told.iter().any(|text| text.contains("it is off, confirmed by")), "{told:?}");
        assert!((1..60_000).contains(&wake.boot_ms) && wake.boot_uj.is_some(), "{wake:?}");
        let wakes = ebbtide(&daemon, &["device", "wakes", "-o", "json"]).await;
        assert_eq!(json(&wakes)["wakes"][0]["proven"], true);

        // a node that nobody can wake is not shut down for a test
        let mut steps =
            client.test_wake(v1::TestWakeRequest { node: "other".into(), deadline_ms: 0 }).await.unwrap().into_inner();
        let wake = steps.message().await.unwrap().unwrap().wake.unwrap();
        assert!(!wake.proven && wake.why.contains("[[feed]]"), "{wake:?}");
        daemon.stop().await;
    });
}

#[test]
fn who_may_only_look_switches_nothing() {
    run(async {
        let folder = rack();
        let daemon = Daemon::encrypted(with_rack(folder.path())).await;
        let viewer = daemon.connect_as("ebbtide://operator/viewer/eve", None).await.unwrap();
        let mut client = DevicesClient::new(viewer);
        assert_eq!(client.list_devices(v1::ListDevicesRequest::default()).await.unwrap().into_inner().devices.len(), 2);
        let off = v1::SwitchOutletRequest {
            device: "pdu".into(),
            outlet: "2".into(),
            to: v1::Switch::Off.into(),
            ..v1::SwitchOutletRequest::default()
        };
        let scan = v1::ScanHostRequest { host: "127.0.0.1".into() };
        let test = v1::TestWakeRequest { node: "edge".into(), deadline_ms: 0 };
        for refused in [
            client.switch_outlet(off).await.unwrap_err(),
            client.scan_host(scan).await.unwrap_err(),
            client.test_wake(test).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
        }
        assert!(folder.path().join("on.2").exists());
        daemon.stop().await;
    });
}
