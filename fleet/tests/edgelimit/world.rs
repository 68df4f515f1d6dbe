//! The world of the scenario: four radio units and an edge server on a PDU, an agent on each, Kubernetes with a scheduler,
//! and the daemon in `auto`; and its story, step by step.
//!
//! Facts of the scenario: Heusinger, Mansuroglu, Wagner (Fraunhofer IIS), "Energieeffiziente Orchestrierung",
//! elektroniknet.de, 20 June 2024, part 2. Its steps t0 to t5 draw 28, 32, 85, 81, 68 and 29 W.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_fleet::config::Config;
use ebbtide_kubernetes_twin::extend::Extender;
use ebbtide_kubernetes_twin::kinds::{NODES, PODS, REPLICA_SETS};
use ebbtide_kubernetes_twin::{ADMIN, Cluster};
use ebbtide_runtime::tasks::Tasks;
use serde_json::{Value, json};

use crate::board::{Agent, Board, Kind};
use crate::daemon::Daemon;
use crate::pdu::{Outlet, Pdu};
use crate::played::{configure, said, until};
use crate::snmp;

const RADIO_UNIT: Kind = Kind { cpus: 4, watts: (7.0, 8.0) };
const SERVER: Kind = Kind { cpus: 16, watts: (39.0, 39.0 + 16.0 * 3.5) };
const NODES_OF: [(&str, Kind); 5] =
    [("ru1", RADIO_UNIT), ("ru2", RADIO_UNIT), ("ru3", RADIO_UNIT), ("ru4", RADIO_UNIT), ("edge1", SERVER)];
const OUTLET: usize = 4;

const INVENTORY: &str = "
    [[node]]
    name = 'edge1'
    watts = [39, 95]
    wake-proven = true
    boot-s = 5
    shutdown-s = 2
";

/// Windows of seconds instead of minutes, or the test would take an hour.
const POLICY: &str = "
    min-on-s = 5
    min-off-s = 2
    min-stay-s = 4
    sleep-after-s = 5
    stale-after-s = 30
";

/// Shuts the server down, as `ssh edge1 poweroff` would; what it says of it is nothing.
const SHUTDOWN: &str = r#"#!/bin/sh
case "$1" in
  soft-off) : > "$BOARD/halt" ;;
  status) echo '{"state": "unknown"}' ;;
  read) echo '{"outlets": [{"id": "system", "state": "unknown"}]}' ;;
  *) echo "can't $1" >&2; exit 2 ;;
esac
"#;

fn settings(folder: &Path, pdu: &str) -> Config {
    let feeds: String = NODES_OF
        .iter()
        .enumerate()
        .map(|(i, (name, _))| {
            let more = if i == OUTLET {
                format!("bmc = 'ssh'\nwake = ['pdu/1.{}']\ncut = true\n", i + 1)
            } else {
                String::new()
            };
            format!("[[feed]]\nnode = '{name}'\noutlets = ['pdu/1.{}']\n{more}", i + 1)
        })
        .collect();
    let fixed: String =
        (1..=4).map(|i| format!("[[node]]\nname = 'ru{i}'\nwatts = [7, 8]\nswitchable = false\n")).collect();
    let shutdown = folder.join("shutdown.sh");
    for (path, text) in [
        (folder.join("inventory.toml"), format!("{INVENTORY}{fixed}")),
        (folder.join("policy.toml"), POLICY.to_owned()),
        (folder.join("community"), "private".to_owned()),
        (shutdown.clone(), SHUTDOWN.to_owned()),
    ] {
        std::fs::write(path, text).unwrap();
    }
    std::fs::set_permissions(&shutdown, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        "[[device]]
         name = 'pdu'
         kind = 'snmp-pdu'
         address = '{pdu}'
         interval = '300ms'
         community = {{ file = '{0}/community' }}
         write-community = {{ file = '{0}/community' }}
         [[device]]
         name = 'ssh'
         kind = 'command'
         interval = '1s'
         program = '{0}/shutdown.sh'
         env = {{ BOARD = '{0}/edge1' }}
         {feeds}
         [plan]
         inventory = '{0}/inventory.toml'
         policy = '{0}/policy.toml'
         every-s = 1
         settle-s = 20
         [kubernetes]
         kubeconfig = '{0}/kubeconfig'
         [act]
         pools = {{ edge = 'auto' }}
         [act.limits]
         settle-s = 1
         look-s = 1
         silent-s = 3
         streams-s = 5
         confirm-s = 20
         boot-s = 30
         replan-s = 2",
        folder.display()
    );
    toml::from_str(&text).unwrap()
}

/// A step of the story.
pub struct Step {
    /// As the source calls it.
    pub name: &'static str,
    /// What has happened.
    pub words: &'static str,
    /// What it draws, in watts.
    pub watts: f64,
}

/// All of it.
pub struct World {
    pub cluster: Arc<Cluster>,
    pub daemon: Daemon,
    pdu: Pdu,
    folder: tempfile::TempDir,
    tasks: Tasks,
}

impl World {
    /// Starts all of it; `change` has the last word about the daemon's settings, `agent` is what boards start.
    pub async fn new(agent: Agent, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut tasks = Tasks::new();
        let pdu = Pdu::new(&[true, true, true, true, false]);
        let address = snmp::start(&mut tasks, "private", Arc::new(pdu.clone())).await;
        let cluster = Arc::new(Cluster::start(true).await.unwrap());
        for namespace in ["ebbtide", "ran", "mec"] {
            cluster.create_namespace(namespace);
        }
        for (name, kind) in NODES_OF {
            cluster.add_node(name, kind.cpus, 8).unwrap();
            let label = json!({"metadata": {"labels": {"ebbtide.dev/pool": "edge"}}});
            cluster.patch(NODES, "", name, &label).unwrap();
            cluster.silence(name, true);
        }
        cluster.run_kubelets();
        std::fs::write(folder.path().join("kubeconfig"), cluster.kubeconfig(ADMIN)).unwrap();
        let read = settings(folder.path(), &address);
        let daemon = Daemon::plain(move |config| {
            configure(config, read);
            change(config);
        })
        .await;
        for (outlet, (name, kind)) in NODES_OF.into_iter().enumerate() {
            let board = Board::new(name, kind, outlet, (&pdu, &cluster), daemon.at.grpc, folder.path(), agent);
            tasks.spawn(name, board.play());
        }
        // the scheduler asks over HTTP for each pod that waits
        let (of, extender) =
            (Arc::clone(&cluster), Extender { address: daemon.at.http, node_cache_capable: true, ignorable: false });
        tasks.spawn("scheduler", async move {
            loop {
                of.schedule_through(&extender).await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self { cluster, pdu, daemon, folder, tasks }
    }

    /// What the daemon reads at the PDU, in watts.
    pub async fn total(&self) -> Option<f64> {
        let page = self.daemon.page("/metrics").await;
        let line = page.lines().find(|line| line.starts_with("ebbtide_fleet_device_power_watts{device=\"pdu\"}"))?;
        line.split(' ').next_back()?.parse().ok()
    }

    /// Waits until so many watts are read at the PDU and `more` holds, a minute at most.
    async fn draws(&self, step: Step, mut more: impl FnMut() -> bool) -> anyhow::Result<Step> {
        let mut read = Vec::new();
        for _ in 0..600 {
            let total = self.total().await;
            if total.is_some_and(|total| (total - step.watts).abs() <= 1.0) && more() {
                return Ok(step);
            }
            if read.last() != Some(&total) {
                read.push(total);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut seen = String::new();
        for (name, _) in NODES_OF {
            let log = std::fs::read_to_string(self.folder.path().join(name).join("agent-1.log")).unwrap_or_default();
            seen += &format!("{name}: {}\n", log.lines().rev().take(5).collect::<Vec<_>>().join("\n  "));
        }
        let built = option_env!("CARGO_BIN_EXE_ebbtide").is_some();
        for ask in
            [&["operations", "-o", "wide"][..], &["plan"], &["explain", "node", "edge1"], &["pool", "list"], &["nodes"]]
                .into_iter()
                .filter(|_| built)
        {
            seen += &format!("{ask:?}: {}\n", said(&self.daemon, ask).await.1);
        }
        anyhow::bail!("{}: {} W were never read at the PDU; it told {read:?}\n{seen}", step.name, step.watts)
    }

    /// The server's outlet.
    pub fn server(&self) -> Outlet {
        self.pdu.outlet(OUTLET)
    }

    /// Lets it all happen, `dwell` between the steps, and tells each step that was reached.
    pub async fn story(&self, dwell: Duration, mut tell: impl FnMut(&Self, &Step)) -> anyhow::Result<()> {
        let step = |name, watts, words| Step { name, words, watts };
        let is_ready = |i| {
            let node = self.cluster.find(NODES, "", &format!("ru{i}")).unwrap();
            node["status"]["conditions"][0]["status"] == "True"
        };
        let t0 = step("t0", 28.0, "four radio units idle; the server is off at its outlet");
        let reached = self.draws(t0, || (1..=4).all(is_ready)).await?;
        // until it has a plan and its figures come from the agents
        until("a plan is made", async || self.daemon.page("/metrics").await.contains("ebbtide_fleet_plan_")).await;
        tell(self, &reached);
        tokio::time::sleep(dwell).await;

        self.ran();
        let t1 = step("t1", 32.0, "the radio network needs all of each radio unit");
        let reached = self.draws(t1, || true).await?;
        tokio::time::sleep(dwell).await;
        tell(self, &reached);

        self.apps();
        let t2 = step("t2", 85.0, "nine applications came and had no room: the server was woken for them");
        let reached = self.draws(t2, || self.pods("mec", "edge1") == 9).await?;
        tell(self, &reached);
        tokio::time::sleep(dwell).await;

        for i in 1..=4 {
            self.cluster.delete(PODS, "ran", &format!("ran-{i}"))?;
        }
        let t3 = step("t3", 81.0, "the radio network let go of the radio units");
        let reached = self.draws(t3, || true).await?;
        tell(self, &reached);
        let t4 = step("t4", 68.0, "the applications moved to the radio units; the server idles");
        let reached = self.draws(t4, || self.server().on && self.pods("mec", "edge1") == 0).await?;
        tell(self, &reached);
        let t5 = step("t5", 29.0, "the server was shut down, seen to be off, and cut at its outlet");
        let reached = self.draws(t5, || !self.server().on).await?;
        // it stays so
        tokio::time::sleep(dwell).await;
        tell(self, &reached);
        Ok(())
    }

    /// Ends it in order.
    pub async fn stop(self) {
        let Self { daemon, tasks, .. } = self;
        daemon.stop().await;
        drop(tasks);
    }

    /// Pods of a namespace that run on a node.
    pub fn pods(&self, namespace: &str, node: &str) -> usize {
        let on = |p: &&Arc<Value>| p["spec"]["nodeName"] == node && p["status"]["phase"] == "Running";
        self.cluster.list(PODS, namespace).iter().filter(on).count()
    }

    /// The radio access network: a daemon set that needs all of each radio unit.
    fn ran(&self) {
        for i in 1..=4 {
            let owner = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "ran", "uid": "ran", "controller": true}]);
            let pod = json!({"metadata": {"name": format!("ran-{i}"), "labels": {"app": "ran"}, "ownerReferences": owner},
                "spec": {"nodeName": format!("ru{i}"), "containers": [{"name": "du", "image": "x",
                    "resources": {"requests": {"cpu": "4", "memory": "1Gi"}}}]}});
            self.cluster.create(PODS, "ran", pod).unwrap();
        }
    }

    fn apps(&self) {
        let mec = json!({"metadata": {"name": "app"}, "spec": {"replicas": 9, "selector": {"matchLabels": {"app": "mec"}},
            "template": {"metadata": {"labels": {"app": "mec"}}, "spec": {"containers": [{"name": "c", "image": "x",
                "resources": {"requests": {"cpu": "1", "memory": "128Mi"}}}]}}}});
        self.cluster.create(REPLICA_SETS, "mec", mec).unwrap();
    }
}
