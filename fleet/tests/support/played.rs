//! A machine behind a BMC and an outlet that a program plays, its made-up agent, and the command line as its operator.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test uses its part of this; a test may panic"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use ebbtide_proto::v1;
use ebbtide_runtime::tasks::Tasks;

use crate::daemon::{Agent, Daemon, batch, hello, now_ms};

/// Plays the BMC and the outlet of a machine. `on` is there while it runs, `power` while its outlet gives power.
const RACK: &str = r#"#!/bin/sh
cd "$RACK" || exit 1
state() { if [ -e "$1" ]; then echo on; else echo off; fi; }
watts() { if [ -e power ] && [ -e on ]; then echo 120; else echo 0; fi; }
echo "$PART $*" >> said
case "$PART $1" in
  "bmc status") echo "{\"state\": \"$(state on)\"}" ;;
  "pdu status") echo "{\"state\": \"$(state power)\"}" ;;
  "bmc on") : > on ;;
  "bmc soft-off") rm -f on ;;
  "pdu on") : > power ;;
  "pdu off") rm -f power on ;;
  "bmc read") echo "{\"outlets\": [{\"id\": \"system\", \"state\": \"$(state on)\", \"watts\": $(watts)}]}" ;;
  "pdu read") echo "{\"outlets\": [{\"id\": \"1\", \"state\": \"$(state power)\", \"watts\": $(watts), \"error-percent\": 1}]}" ;;
  *) echo "unknown: $*" >&2; exit 2 ;;
esac
"#;

/// A machine that runs.
pub struct Machine(pub tempfile::TempDir);

impl Machine {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("rack.sh");
        std::fs::write(&program, RACK).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["on", "power"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        Self(folder)
    }

    /// What is there while it runs.
    pub fn on(&self) -> PathBuf {
        self.0.path().join("on")
    }

    pub fn runs(&self) -> bool {
        self.on().exists()
    }

    /// How often it was told so.
    pub fn told(&self, what: &str) -> usize {
        let said = std::fs::read_to_string(self.0.path().join("said")).unwrap_or_default();
        said.lines().filter(|line| line.starts_with(what)).count()
    }

    /// Its devices and its feed, as settings of the daemon.
    pub fn settings(&self, node: &str) -> String {
        let part = |part: &str| {
            format!(
                "[[device]]
                 name = '{part}'
                 kind = 'command'
                 interval = '200ms'
                 program = '{0}/rack.sh'
                 env = {{ RACK = '{0}', PART = '{part}' }}\n",
                self.0.path().display()
            )
        };
        format!("{}{}[[feed]]\nnode = '{node}'\noutlets = ['pdu/1']\nbmc = 'bmc'\n", part("pdu"), part("bmc"))
    }
}

/// An agent that streams while `on` is there, or always, and does what it is told.
pub fn agent(daemon: &Daemon, tasks: &mut Tasks, name: &'static str, on: Option<PathBuf>) {
    let address = daemon.at.grpc;
    tasks.spawn(name, async move {
        let runs = || on.as_ref().is_none_or(|on| on.exists());
        for boot in 1.. {
            while !runs() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
            let greeting = v1::Hello { capabilities: vec!["prepare-for-power-off".to_owned()], ..hello(name, boot) };
            // the daemon may be gone, and come again
            let Ok(channel) = endpoint.connect().await else {
                tokio::time::sleep(Duration::from_millis(300)).await;
                continue;
            };
            let Ok(mut agent) = Agent::join(channel, greeting).await else { continue };
            for seq in 1.. {
                if !runs() {
                    break;
                }
                agent.send(&batch(seq, &[now_ms()], &[seq * 1_000_000])).await;
                let wait = tokio::time::timeout(Duration::from_millis(300), agent.answers.message()).await;
                match wait {
                    Ok(Ok(Some(v1::FleetMessage { kind: Some(v1::fleet_message::Kind::Directive(d)) }))) => {
                        let result = v1::DirectiveResult { id: d.id, done: true, text: "all is sent".to_owned() };
                        agent.send_raw(v1::agent_message::Kind::Result(result)).await;
                    }
                    Ok(Ok(None) | Err(_)) => break,
                    Ok(Ok(Some(_))) | Err(_) => {}
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    });
}

/// What `ebbtide` prints, whether it succeeds or not, and how it ends.
pub async fn said(daemon: &Daemon, args: &[&str]) -> (Option<i32>, String) {
    let program: PathBuf = env!("CARGO_BIN_EXE_ebbtide").into();
    let fleet = format!("http://{}", daemon.at.grpc);
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let run = move || std::process::Command::new(program).args(["--fleet", &fleet]).args(args).output().unwrap();
    let output = ebbtide_runtime::tasks::blocking("ebbtide", run).await.unwrap();
    let text = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    (output.status.code(), text)
}

/// Waits until `holds`, half a minute at most.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..300 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came to that: {what}");
}
