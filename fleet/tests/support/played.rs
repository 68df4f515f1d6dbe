//! A machine behind a BMC and an outlet that a program plays, its made-up agent, and the command line as its operator.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test uses its part of this; a test may panic"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_fleet::config::Config;
use ebbtide_proto::frame::{Batch, Column};
use ebbtide_proto::identity::Role;
use ebbtide_proto::series::{Metric, SeriesKey, WorkloadInfo};
use ebbtide_proto::{WorkloadId, WorkloadKind, v1};
use ebbtide_runtime::tasks::Tasks;

use crate::daemon::{Agent, Daemon, batch, hello, now_ms};

/// Plays the BMC and the outlet of a machine. `on` is there while it runs, `power` while its outlet gives power; `stuck`, and
/// a shutdown changes nothing; `boots`, and it comes up when it gets power.
const RACK: &str = r#"#!/bin/sh
cd "$RACK" || exit 1
state() { if [ -e "$1" ]; then echo on; else echo off; fi; }
watts() { if [ -e power ] && [ -e on ]; then echo 120; else echo 0; fi; }
echo "$PART $*" >> said
case "$PART $1" in
  "bmc status") echo "{\"state\": \"$(state on)\"}" ;;
  "pdu status") echo "{\"state\": \"$(state power)\"}" ;;
  "bmc on") : > on ;;
  "bmc soft-off") [ -e stuck ] || rm -f on ;;
  "pdu on") : > power; [ ! -e boots ] || : > on ;;
  "pdu off") rm -f power on ;;
  "bmc read") echo "{\"outlets\": [{\"id\": \"system\", \"state\": \"$(state on)\", \"watts\": $(watts)}]}" ;;
  "pdu read") echo "{\"outlets\": [{\"id\": \"1\", \"state\": \"$(state power)\", \"watts\": $(watts), \"error-percent\": 1}]}" ;;
  *) echo "unknown: $*" >&2; exit 2 ;;
esac
"#;

/// A machine that runs.
pub struct Machine(tempfile::TempDir);

impl Machine {
    pub fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.has_program("rack.sh", RACK);
        machine.has("on", "");
        machine.has("power", "");
        machine
    }

    /// The folder that it is played in.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn has(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    pub fn has_program(&self, name: &str, text: &str) {
        self.has(name, text);
        std::fs::set_permissions(self.path().join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What is there while it runs.
    pub fn on(&self) -> PathBuf {
        self.path().join("on")
    }

    pub fn runs(&self) -> bool {
        self.on().exists()
    }

    /// How often it was told so.
    pub fn told(&self, what: &str) -> usize {
        let said = std::fs::read_to_string(self.path().join("said")).unwrap_or_default();
        said.lines().filter(|line| line.starts_with(what)).count()
    }

    /// Its devices and its feed, with `more` in that, as settings of the daemon.
    pub fn settings(&self, node: &str, more: &str) -> String {
        let part = |part: &str| {
            format!(
                "[[device]]
                 name = '{part}'
                 kind = 'command'
                 interval = '200ms'
                 program = '{0}/rack.sh'
                 env = {{ RACK = '{0}', PART = '{part}' }}\n",
                self.path().display()
            )
        };
        format!("{}{}[[feed]]\nnode = '{node}'\noutlets = ['pdu/1']\n{more}\n", part("pdu"), part("bmc"))
    }
}

/// What an agent is played by.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// It streams while this is there; always, if it isn't said.
    pub on: Option<PathBuf>,
    /// Each file in here runs on its machine: as a container, or, called `vm-…`, as a virtual machine.
    pub work: Option<PathBuf>,
    /// It may shut its machine down, and does so by removing `on`.
    pub shuts_down: bool,
}

/// What runs on a machine.
fn told(seq: u64, work: Option<&Path>) -> Batch {
    let mut batch = batch(seq, &[now_ms()], &[seq * 1_000_000]);
    let files = work.into_iter().flat_map(|work| std::fs::read_dir(work).unwrap());
    for name in files.map(|file| file.unwrap().file_name().into_string().unwrap()) {
        let kind = if name.starts_with("vm-") { WorkloadKind::Vm } else { WorkloadKind::Container };
        let id = WorkloadId::new(kind, &name).unwrap();
        let series = u32::try_from(batch.series.len()).unwrap();
        batch.series.push(SeriesKey { metric: Metric::CpuTime, zone: None, workload: Some(id.clone()) });
        let shown = format!("web-{name}");
        let labels = [("name", shown.as_str())].into_iter().collect();
        batch.workloads.push(Arc::new(WorkloadInfo { id, labels }));
        batch.columns.push(Column { series, first: 0, len: 1 });
        batch.values.push(seq * 1000);
    }
    batch
}

/// Gives a daemon the hardware, the plans, the cluster and the rules for acting that `read` has; whoever asks may do anything.
pub fn configure(config: &mut Config, read: Config) {
    (config.device, config.feed, config.plan, config.act) = (read.device, read.feed, read.plan, read.act);
    (config.kubernetes, config.plain_role) = (read.kubernetes, Role::Admin);
}

/// An agent that streams and does what it is told.
pub fn agent(daemon: &Daemon, tasks: &mut Tasks, name: &str, played: Played) {
    let (address, name) = (daemon.at.grpc, name.to_owned());
    tasks.spawn(format!("agent of {name}"), async move {
        let Played { on, work, shuts_down } = played;
        let runs = || on.as_ref().is_none_or(|on| on.exists());
        for boot in 1.. {
            while !runs() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
            let mut capabilities = vec!["prepare-for-power-off".to_owned()];
            capabilities.extend(shuts_down.then(|| "shut-down".to_owned()));
            let greeting = v1::Hello { capabilities, ..hello(&name, boot) };
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
                agent.send(&told(seq, work.as_deref())).await;
                let wait = tokio::time::timeout(Duration::from_millis(300), agent.answers.message()).await;
                match wait {
                    Ok(Ok(Some(v1::FleetMessage { kind: Some(v1::fleet_message::Kind::Directive(d)) }))) => {
                        let leaves = matches!(&d.kind, Some(v1::directive::Kind::PrepareForPowerOff(p)) if !p.stay);
                        if let (Some(v1::directive::Kind::ShutDown(_)), Some(on)) = (d.kind, &on) {
                            std::fs::remove_file(on)?;
                        }
                        let result = v1::DirectiveResult { id: d.id, done: true, text: "all is sent".to_owned() };
                        agent.send_raw(v1::agent_message::Kind::Result(result)).await;
                        if leaves {
                            let reason = "power-off".to_owned();
                            agent.send_raw(v1::agent_message::Kind::Goodbye(v1::Goodbye { reason })).await;
                            // until the daemon has heard it and ends the stream
                            let heard = async { while let Ok(Some(_)) = agent.answers.message().await {} };
                            drop(tokio::time::timeout(Duration::from_secs(2), heard).await);
                            drop(agent);
                            // it comes back if its machine is still up after a while
                            for _ in 0..600 {
                                if !runs() {
                                    break;
                                }
                                tokio::time::sleep(Duration::from_millis(100)).await;
                            }
                            break;
                        }
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
    let Some(program) = option_env!("CARGO_BIN_EXE_ebbtide").map(PathBuf::from) else {
        panic!("examples have no programs built beside them");
    };
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
