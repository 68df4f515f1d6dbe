//! EdgeLimit end to end: four radio units and an edge server on a PDU, an agent on each, Kubernetes, and the daemon in
//! `auto`. Watts are those that the daemon reads at the PDU.
//!
//! Facts of the scenario: Heusinger, Mansuroglu, Wagner (Fraunhofer IIS), "Energieeffiziente Orchestrierung",
//! elektroniknet.de, 20 June 2024, part 2. Its steps t0 to t5 draw 28, 32, 85, 81, 68 and 29 W.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub, reason = "tests")]

mod board;
#[path = "../support/daemon.rs"]
mod daemon;
mod pdu;
#[path = "../support/played.rs"]
mod played;
#[path = "../../devices/tests/support/agent.rs"]
#[allow(dead_code, reason = "SNMPv3 isn't used here")]
mod snmp;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use board::{AGENT, Board, Kind, arguments};
use daemon::{Daemon, run};
use ebbtide_agent::cli::{self, Command};
use ebbtide_fleet::config::Config;
use ebbtide_kubernetes_twin::extend::Extender;
use ebbtide_kubernetes_twin::kinds::{NODES, PODS, REPLICA_SETS};
use ebbtide_kubernetes_twin::{ADMIN, Cluster};
use ebbtide_proto::identity::Role;
use ebbtide_runtime::tasks::Tasks;
use pdu::Pdu;
use played::said;
use serde_json::{Value, json};

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

struct World {
    cluster: Arc<Cluster>,
    pdu: Pdu,
    daemon: Daemon,
    folder: tempfile::TempDir,
    tasks: Tasks,
}

impl World {
    async fn new() -> Self {
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
            (config.device, config.feed, config.plan, config.act) = (read.device, read.feed, read.plan, read.act);
            (config.kubernetes, config.plain_role) = (read.kubernetes, Role::Admin);
        })
        .await;
        for (outlet, (name, kind)) in NODES_OF.into_iter().enumerate() {
            let board = Board::new(name, kind, outlet, &pdu, &cluster, daemon.at.grpc, folder.path());
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
    async fn total(&self) -> Option<f64> {
        let page = self.daemon.page("/metrics").await;
        let line = page.lines().find(|line| line.starts_with("ebbtide_fleet_device_power_watts{device=\"pdu\"}"))?;
        line.split(' ').next_back()?.parse().ok()
    }

    /// Waits until so many watts are read at the PDU and `more` holds.
    async fn draws(&self, step: &str, watts: f64, mut more: impl FnMut() -> bool) {
        let mut read = Vec::new();
        for _ in 0..600 {
            let total = self.total().await;
            if total.is_some_and(|total| (total - watts).abs() <= 1.0) && more() {
                return;
            }
            if read.last() != Some(&total) {
                read.push(total);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (name, _) in NODES_OF {
            let log = std::fs::read_to_string(self.folder.path().join(name).join("agent-1.log")).unwrap_or_default();
            eprintln!("{name}: {}", log.lines().rev().take(5).collect::<Vec<_>>().join("\n  "));
        }
        for ask in
            [&["operations", "-o", "wide"][..], &["plan"], &["explain", "node", "edge1"], &["pool", "list"], &["nodes"]]
        {
            eprintln!("{ask:?}: {}", said(&self.daemon, ask).await.1);
        }
        panic!("{step}: {watts} W were never read at the PDU; it told {read:?}");
    }

    fn pods(&self, namespace: &str, node: &str) -> usize {
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

#[test]
fn work_goes_to_the_radio_units_and_the_server_is_there_only_when_it_is_needed() {
    run(async {
        let world = World::new().await;
        let server = || world.pdu.outlet(OUTLET);
        world
            .draws("t0", 28.0, || {
                (1..=4).all(|i| {
                    world.cluster.find(NODES, "", &format!("ru{i}")).unwrap()["status"]["conditions"][0]["status"]
                        == "True"
                })
            })
            .await;
        // until it has a plan and its figures come from the agents
        played::until("a plan is made", async || said(&world.daemon, &["plan", "-o", "json"]).await.0 == Some(0)).await;

        world.ran();
        world.draws("t1", 32.0, || true).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(server().switched, (0, 0), "nobody needs it yet");

        world.apps();
        world.draws("t2", 85.0, || world.pods("mec", "edge1") == 9).await;
        assert_eq!(server().switched, (0, 1));

        for i in 1..=4 {
            world.cluster.change().delete(PODS, "ran", &format!("ran-{i}"), &json!({})).unwrap();
        }
        world.draws("t3", 81.0, || true).await;
        world.draws("t4", 68.0, || server().on && world.pods("mec", "edge1") == 0).await;
        world.draws("t5", 29.0, || !server().on).await;

        let on_radio_units: usize = (1..=4).map(|i| world.pods("mec", &format!("ru{i}"))).sum();
        assert_eq!(on_radio_units, 9, "none was lost");
        // it stays off, and is ready to be used again
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(server().switched, (1, 1));
        let (_, text) = said(&world.daemon, &["audit", "--node", "edge1", "-o", "json"]).await;
        let audit: Value = serde_json::from_str(&text).unwrap();
        let by = |what: &str| {
            let entries = audit["entries"].as_array().unwrap().iter();
            let of = entries.filter(|e| e["what"].as_str().unwrap().contains(what));
            of.map(|e| e["who"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for what in ["power edge1 on by its outlet", "shut edge1 down", "switch the outlet of edge1 off"] {
            let who = by(what);
            assert!(!who.is_empty() && who.iter().all(|who| who == "the planner"), "{what}: {who:?}");
        }
        let World { daemon, tasks, .. } = world;
        daemon.stop().await;
        drop(tasks);
    });
}

/// The boards' agents are this program: called with their arguments in the environment, it becomes one.
#[test]
fn the_arguments_of_a_boards_agent_are_understood() {
    let given = std::env::var(AGENT).ok();
    let args = match &given {
        Some(text) => text.lines().map(str::to_owned).collect(),
        None => arguments("ru1", Path::new("/"), Path::new("/tmp"), "127.0.0.1:1".parse().unwrap(), 7.0, 8.0),
    };
    let parsed = cli::parse(args.into_iter().map(Into::into), []).unwrap_or_else(|failure| {
        failure.print();
        panic!("they are not understood");
    });
    let Command::Run(settings) = parsed.command else { panic!("{:?}", parsed.command) };
    if given.is_some() {
        let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        ebbtide_agent::command::run::run(*settings).unwrap();
    }
}
