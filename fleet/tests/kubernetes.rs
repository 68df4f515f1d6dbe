//! The daemon in a Kubernetes cluster: the API server is the twin, behind HTTPS; a program plays the machine `edge`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/played.rs"]
mod played;

use std::sync::Arc;
use std::time::Duration;

use daemon::{Daemon, run};
use ebbtide_executor::settings::Mode;
use ebbtide_kubernetes::names;
use ebbtide_kubernetes_twin::extend::Extender;
use ebbtide_kubernetes_twin::kinds::{BUDGETS, CONFIG_MAPS, EVENTS, LEASES, NODES, PODS, REPLICA_SETS};
use ebbtide_kubernetes_twin::{ADMIN, Cluster};
use ebbtide_runtime::tasks::Tasks;
use played::{Machine, Played, agent, configure, said, until};
use serde_json::{Value, json};

const INVENTORY: &str = "
    [[node]]
    name = 'edge'
    watts = [60, 120]
    wake-proven = true
    boot-s = 2
    shutdown-s = 2
    [[node]]
    name = 'base'
    watts = [30, 60]
    switchable = false
";

const POLICY: &str = "
    horizon-s = 86400
    min-on-s = 0
    min-off-s = 0
    min-stay-s = 0
    sleep-after-s = 0
    disruption-j = 1.0
    stale-after-s = 600
";

/// Two nodes of four CPUs, `edge` and `base`, of which `edge` runs two small pods.
struct World {
    cluster: Arc<Cluster>,
    edge: Machine,
    tasks: Tasks,
}

/// What `ebbtide explain node edge` says of a plan that was made just now.
async fn explained(daemon: &Daemon) -> String {
    said(daemon, &["reorchestrate"]).await;
    said(daemon, &["explain", "node", "edge"]).await.1
}

/// Waits until that says `text`, a minute or so at most.
async fn explains(daemon: &Daemon, text: &str) {
    let mut said = String::new();
    for _ in 0..250 {
        said = explained(daemon).await;
        if said.contains(text) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("{text:?} is never said, but {said}");
}

impl World {
    async fn new() -> Self {
        let cluster = Arc::new(Cluster::start(true).await.unwrap());
        cluster.create_namespace("ebbtide");
        for node in ["edge", "base"] {
            cluster.add_node(node, 4, 8).unwrap();
            let label = json!({"metadata": {"labels": {"ebbtide.dev/pool": "compute"}}});
            cluster.patch(NODES, "", node, &label).unwrap();
        }
        cluster.run_kubelets();
        cluster.schedule_by(|_, _, _| Some("edge".to_owned()));
        let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x",
                "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}]}}}});
        cluster.create(REPLICA_SETS, "default", web).unwrap();
        cluster.change().crew.scheduler = None;
        let edge = Machine::new();
        edge.has("kubeconfig", &cluster.kubeconfig(ADMIN));
        edge.has("inventory.toml", INVENTORY);
        edge.has("policy.toml", POLICY);
        let mut tasks = Tasks::new();
        // a kubelet speaks while its machine runs
        let (on, of) = (edge.on(), Arc::clone(&cluster));
        tasks.spawn("kubelet", async move {
            let mut spoke = true;
            loop {
                if on.exists() != spoke {
                    spoke = !spoke;
                    of.silence("edge", !spoke);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { cluster, edge, tasks }
    }

    /// A daemon in this cluster. Plans are made when somebody asks, or when a pod waits.
    async fn daemon(&mut self, mode: Mode, lease_s: u32) -> Daemon {
        let text = format!(
            "{1}
             [plan]
             inventory = '{0}/inventory.toml'
             policy = '{0}/policy.toml'
             every-s = 3600
             settle-s = 20
             [kubernetes]
             kubeconfig = '{0}/kubeconfig'
             lease-s = {lease_s}
             [act.limits]
             settle-s = 1
             look-s = 1
             silent-s = 2
             streams-s = 5
             confirm-s = 20
             boot-s = 20
             replan-s = 2",
            self.edge.path().display(),
            self.edge.settings("edge", "bmc = 'bmc'"),
        );
        let daemon = Daemon::plain(move |config| {
            configure(config, toml::from_str(&text).unwrap());
            config.act.pools.insert("compute".to_owned(), mode);
        })
        .await;
        agent(&daemon, &mut self.tasks, "edge", Played { on: Some(self.edge.on()), ..Played::default() });
        agent(&daemon, &mut self.tasks, "base", Played::default());
        daemon
    }

    /// Waits until the daemon acts and has a plan for both nodes; asks for plans meanwhile.
    async fn settled(&self, daemon: &Daemon) {
        until("the daemon acts", async || !said(daemon, &["pool", "list"]).await.1.contains("does not act")).await;
        until("a plan is made", async || {
            said(daemon, &["reorchestrate"]).await;
            let (code, text) = said(daemon, &["plan", "-o", "json"]).await;
            code == Some(0) && text.contains("\"base\"") && text.contains("\"edge\"")
        })
        .await;
    }

    /// Lets the scheduler ask `daemon` for each pod that waits, again and again.
    fn schedule_by(&mut self, daemon: &Daemon) {
        let extender = Extender { address: daemon.at.http, node_cache_capable: true, ignorable: false };
        let cluster = Arc::clone(&self.cluster);
        self.tasks.spawn("scheduler", async move {
            loop {
                cluster.schedule_through(&extender).await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }

    /// Waits until `edge` is off, a minute at most.
    async fn goes_off(&self, daemon: &Daemon) {
        self.is(false, daemon).await;
    }

    /// Waits until `edge` is on, or off.
    async fn is(&self, on: bool, daemon: &Daemon) {
        for _ in 0..600 {
            if self.edge.runs() == on {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for ask in [&["operations", "-o", "json"][..], &["plan"], &["explain", "node", "edge"], &["pool", "list"]] {
            eprintln!("{ask:?}: {}", said(daemon, ask).await.1);
        }
        panic!("edge is never {}", if on { "on" } else { "off" });
    }

    fn node(&self, name: &str) -> Arc<Value> {
        self.cluster.find(NODES, "", name).unwrap()
    }

    fn pods_on(&self, node: &str) -> usize {
        self.cluster.list(PODS, "default").iter().filter(|p| p["spec"]["nodeName"] == node).count()
    }

    fn note(&self, node: &str, key: &str) -> String {
        self.node(node)["metadata"]["annotations"][key].as_str().unwrap_or("").to_owned()
    }
}

#[test]
fn a_node_is_emptied_and_powered_off_and_comes_back_for_a_pod_that_waits() {
    run(async {
        let mut world = World::new().await;
        let daemon = world.daemon(Mode::Auto, 15).await;
        world.schedule_by(&daemon);
        world.settled(&daemon).await;
        world.goes_off(&daemon).await;
        until("its operation is over", async || world.node("edge")["spec"]["unschedulable"].is_null()).await;
        assert_eq!((world.pods_on("edge"), world.pods_on("base")), (0, 2), "none is lost");
        assert_eq!((world.edge.told("bmc soft-off"), world.edge.told("bmc on")), (1, 0));
        until("it is noted", async || {
            said(&daemon, &["reorchestrate"]).await;
            world.note("edge", names::STATE) == "off"
        })
        .await;
        assert!(world.note("edge", names::STATE_REASON).contains("off: "), "{}", world.node("edge"));
        assert_eq!(world.note("base", names::IDLE_WATTS), "30.0");
        let rank = |node: &str| world.node(node)["metadata"]["labels"][names::EFFICIENCY_RANK].clone();
        assert_eq!((rank("base"), rank("edge")), (json!("1"), json!("2")), "15 and 30 W per busy core");
        let deeds: Vec<String> =
            world.cluster.list(EVENTS, "default").iter().map(|e| e["message"].to_string()).collect();
        for deed in ["close edge", "move pod/", "shut edge down by its BMC"] {
            assert!(deeds.iter().any(|d| d.contains(deed)), "{deed}: {deeds:#?}");
        }

        // pods are asked for by their names
        let web = world.cluster.list(PODS, "default")[0]["metadata"]["name"].as_str().unwrap().to_owned();
        let (code, text) = said(&daemon, &["explain", "workload", &format!("default/{web}")]).await;
        assert_eq!(code, Some(0), "{text}");
        let (_, text) = said(&daemon, &["explain", "workload", "default/nobody"]).await;
        assert!(text.contains("no workload is called"), "{text}");

        // too much for base as it is: nobody asks for a plan
        world.cluster.add_pod("default", "big", "3500m", json!({}), json!({})).unwrap();
        until("it runs on edge", async || world.pods_on("edge") == 1).await;
        assert_eq!((world.edge.told("bmc soft-off"), world.edge.told("bmc on")), (1, 1));
        let (_, text) = said(&daemon, &["audit", "--node", "edge", "-o", "csv"]).await;
        assert!(text.contains("power edge on by its BMC"), "{text}");
        daemon.stop().await;
        let lease = world.cluster.find(LEASES, "ebbtide", "ebbtide-fleet").unwrap();
        assert_eq!(lease["spec"]["holderIdentity"], "", "it is given up");
    });
}

#[test]
fn a_budget_holds_a_node_and_it_is_opened_again() {
    run(async {
        let mut world = World::new().await;
        let budget = json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 0,
            "selector": {"matchLabels": {"app": "web"}}}});
        world.cluster.create(BUDGETS, "default", budget).unwrap();
        let daemon = world.daemon(Mode::Observe, 15).await;
        world.schedule_by(&daemon);
        world.settled(&daemon).await;
        assert_eq!(said(&daemon, &["evacuate", "edge", "--no-wait"]).await.0, Some(0));
        until("it is closed", async || world.node("edge")["spec"]["unschedulable"] == true).await;
        assert!(world.note("edge", names::CORDONED_BY).contains("\"generation\":1"), "{}", world.node("edge"));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(world.pods_on("edge"), 2, "the budget allows none to go");
        let (_, text) = said(&daemon, &["operations", "-o", "json"]).await;
        let operations: Value = serde_json::from_str(&text).unwrap();
        let id = operations["operations"][0]["id"].to_string().trim_matches('"').to_owned();
        said(&daemon, &["cancel", &id]).await;
        until("it is opened", async || world.node("edge")["spec"]["unschedulable"].is_null()).await;
        assert!(world.note("edge", names::CORDONED_BY).is_empty());
        // a node that somebody closed by hand is nobody else's
        world.cluster.patch(NODES, "", "edge", &json!({"spec": {"unschedulable": true}})).unwrap();
        let (code, text) = said(&daemon, &["power", "off", "edge"]).await;
        assert!(code == Some(1) && text.contains("somebody else closed it"), "{text}");
        daemon.stop().await;
    });
}

#[test]
fn of_two_daemons_one_acts_and_the_other_takes_over() {
    run(async {
        let mut world = World::new().await;
        let one = world.daemon(Mode::Observe, 5).await;
        world.settled(&one).await;
        let two = world.daemon(Mode::Observe, 5).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (code, text) = said(&two, &["lock", "edge", "--why", "a test"]).await;
        assert!(code != Some(0) && text.contains("does not act"), "{text}");
        assert_eq!(said(&one, &["lock", "edge", "--why", "a test"]).await.0, Some(0));
        assert_eq!(world.node("edge")["spec"]["unschedulable"], true);

        // somebody takes the lease away: it stops to act, the rest of it goes on
        let theirs = json!({"spec": {"holderIdentity": "somebody", "leaseTransitions": 2}});
        world.cluster.patch(LEASES, "ebbtide", "ebbtide-fleet", &theirs).unwrap();
        until("it acts no more", async || said(&one, &["pool", "list"]).await.1.contains("does not act")).await;
        assert!(one.page("/metrics").await.contains("ebbtide_fleet_leads 0"));
        assert!(one.page("/healthz").await.contains("ok"));
        assert!(one.page("/operations").await.contains("Kubernetes: "));
        // nobody renews it: one of both takes it, under a later generation
        let acts = async |daemon: &Daemon| !said(daemon, &["pool", "list"]).await.1.contains("does not act");
        until("one acts again", async || acts(&one).await || acts(&two).await).await;
        let lease = world.cluster.find(LEASES, "ebbtide", "ebbtide-fleet").unwrap();
        assert!(lease["spec"]["leaseTransitions"].as_u64().unwrap() >= 3, "{lease}");
        assert!(!(acts(&one).await && acts(&two).await), "never both");

        // when it ends the other is there, sees the lock, and can take it away
        let (leader, other) = if acts(&one).await { (one, two) } else { (two, one) };
        leader.stop().await;
        until("the other acts", async || acts(&other).await).await;
        world.settled(&other).await;
        assert!(said(&other, &["pool", "list"]).await.1.contains("edge is locked"));
        assert_eq!(said(&other, &["unlock", "edge"]).await.0, Some(0));
        assert!(world.node("edge")["spec"]["unschedulable"].is_null());
        other.stop().await;
    });
}

#[test]
fn without_the_api_server_nothing_is_done_and_its_config_map_pauses() {
    run(async {
        let mut world = World::new().await;
        let daemon = world.daemon(Mode::Observe, 15).await;
        world.schedule_by(&daemon);
        world.settled(&daemon).await;
        world.cluster.set_unreachable(true);
        assert_eq!(said(&daemon, &["power", "off", "edge", "--no-wait"]).await.0, Some(0));
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (_, text) = said(&daemon, &["operations", "--running", "-o", "json"]).await;
        assert!(text.contains("can't be asked") || text.contains("looking"), "{text}");
        assert!(world.edge.runs() && world.edge.told("bmc soft-off") == 0);
        let operations: Value = serde_json::from_str(&text).unwrap();
        let id = operations["operations"][0]["id"].to_string().trim_matches('"').to_owned();
        said(&daemon, &["cancel", &id]).await;

        let map = json!({"metadata": {"name": "ebbtide-fleet"}, "data": {"paused": "true"}});
        world.cluster.create(CONFIG_MAPS, "ebbtide", map).unwrap();
        world.cluster.set_unreachable(false);
        until("it is paused", async || said(&daemon, &["pool", "list"]).await.1.contains("nothing new is begun")).await;
        assert_eq!(said(&daemon, &["power", "off", "edge", "--no-wait"]).await.0, Some(0));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(world.edge.runs() && world.node("edge")["spec"]["unschedulable"].is_null(), "it is paused");
        let resume = json!({"data": {"paused": "false"}});
        world.cluster.patch(CONFIG_MAPS, "ebbtide", "ebbtide-fleet", &resume).unwrap();
        // the order that was given meanwhile is carried out now
        world.goes_off(&daemon).await;
        daemon.stop().await;
    });
}

#[test]
fn a_node_that_is_deleted_while_it_is_off_is_woken_all_the_same_and_what_was_switched_counts() {
    run(async {
        let mut world = World::new().await;
        world.edge.has("policy.toml", &format!("{POLICY} switches-per-day = 2"));
        let daemon = world.daemon(Mode::Auto, 15).await;
        world.schedule_by(&daemon);
        world.settled(&daemon).await;
        world.goes_off(&daemon).await;
        until("its operation is over", async || world.node("edge")["spec"]["unschedulable"].is_null()).await;
        explains(&daemon, "stays off").await;
        world.cluster.delete(NODES, "", "edge").unwrap();
        explains(&daemon, "stays off").await;

        world.cluster.add_pod("default", "big", "3500m", json!({}), json!({})).unwrap();
        world.is(true, &daemon).await;
        // its kubelet registers it anew
        world.cluster.add_node("edge", 4, 8).unwrap();
        let label = json!({"metadata": {"labels": {"ebbtide.dev/pool": "compute"}}});
        world.cluster.patch(NODES, "", "edge", &label).unwrap();
        until("it has work", async || world.pods_on("edge") == 1).await;
        world.cluster.delete(PODS, "default", "big").unwrap();
        explains(&daemon, "switched too often").await;
        assert_eq!((world.edge.told("bmc soft-off"), world.edge.told("bmc on")), (1, 1));
        daemon.stop().await;
    });
}

#[test]
fn plans_go_by_the_policy_of_the_config_map_while_there_is_one_that_makes_sense() {
    run(async {
        let mut world = World::new().await;
        let daemon = world.daemon(Mode::Observe, 15).await;
        world.settled(&daemon).await;
        let never = "switched too often";
        assert!(!explained(&daemon).await.contains(never));
        let policy = |text: &str| {
            let text = format!("{POLICY} {text}");
            json!({"metadata": {"name": "ebbtide-fleet"}, "data": {"policy.toml": text}})
        };
        world.cluster.create(CONFIG_MAPS, "ebbtide", policy("switches-per-day = 0")).unwrap();
        explains(&daemon, never).await;
        world.cluster.patch(CONFIG_MAPS, "ebbtide", "ebbtide-fleet", &policy("switches-per-day = 'ten'")).unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(explained(&daemon).await.contains(never), "that of before stays");
        world.cluster.delete(CONFIG_MAPS, "ebbtide", "ebbtide-fleet").unwrap();
        until("the own one counts again", async || !explained(&daemon).await.contains(never)).await;
        daemon.stop().await;
    });
}
