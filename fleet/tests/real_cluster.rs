//! The daemon in a real Kubernetes cluster, in a namespace and on two nodes of its own that are nothing but objects; a
//! program plays the machine behind one of them, and this test their kubelets and the scheduler of their pods.
//! `make test-kubernetes` runs it with the cluster that KUBECONFIG names, and nothing is left there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/played.rs"]
mod played;

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::{Daemon, now_ms, run};
use ebbtide_executor::settings::Mode;
use ebbtide_kubernetes::connect;
use ebbtide_runtime::tasks::Tasks;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use played::{Machine, Played, agent, configure, said, until};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What this test has in the cluster.
#[derive(Clone)]
struct Own {
    client: Client,
    /// Its namespace, which is in the names of its nodes, too.
    name: String,
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl Own {
    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn of<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    fn node(&self, which: &str) -> String {
        format!("{}-{which}", self.name)
    }

    async fn set(&self) {
        let made = PostParams::default();
        let namespace = read(json!({"metadata": {"name": self.name}}));
        Api::<Namespace>::all(self.client.clone()).create(&made, &namespace).await.unwrap();
        for which in ["edge", "base"] {
            // nothing of the cluster's own comes to it
            let taint = json!([{"key": "ebbtide.dev/test", "value": self.name, "effect": "NoExecute"}]);
            let labels = json!({"ebbtide.dev/pool": self.name, "ebbtide.dev/test": self.name});
            let node = json!({"metadata": {"name": self.node(which), "labels": labels}, "spec": {"taints": taint}});
            self.nodes().create(&made, &read(node)).await.unwrap();
        }
        self.heartbeat(true).await;
        // one of two may be away
        let selector = json!({"matchLabels": {"app": "web"}});
        let budget = json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 1, "selector": selector}});
        self.of::<PodDisruptionBudget>().create(&made, &read(budget)).await.unwrap();
        let spec = json!({"schedulerName": self.name, "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"ebbtide.dev/test": self.name}, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "none", "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}]});
        let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": selector,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": spec}}});
        self.of::<ReplicaSet>().create(&made, &read(web)).await.unwrap();
    }

    /// Takes everything away, and waits until it is gone.
    async fn clear(&self) {
        let now = DeleteParams::default().grace_period(0);
        drop(self.of::<ReplicaSet>().delete("web", &now).await);
        drop(self.of::<Pod>().delete_collection(&now, &ListParams::default()).await);
        for which in ["edge", "base"] {
            drop(self.nodes().delete(&self.node(which), &now).await);
        }
        let namespaces = Api::<Namespace>::all(self.client.clone());
        drop(namespaces.delete(&self.name, &now).await);
        until("the namespace is gone", async || {
            drop(self.of::<Pod>().delete_collection(&now, &ListParams::default()).await);
            namespaces.get_opt(&self.name).await.unwrap().is_none()
        })
        .await;
    }

    /// Kubelets say that they live: that of `base`, and that of `edge` if it runs.
    async fn heartbeat(&self, edge_runs: bool) {
        let has = json!({"cpu": "4", "memory": "8Gi", "pods": "20"});
        for (which, runs) in [("edge", edge_runs), ("base", true)] {
            let ready = if runs { "True" } else { "Unknown" };
            let at = Timestamp::from_millisecond(i64::try_from(now_ms()).unwrap()).unwrap().to_string();
            let condition = json!({"type": "Ready", "status": ready, "reason": "Test", "message": "a test says so",
                "lastHeartbeatTime": at, "lastTransitionTime": at});
            let status = json!({"status": {"capacity": has, "allocatable": has, "conditions": [condition]}});
            drop(self.nodes().patch_status(&self.node(which), &PatchParams::default(), &Patch::Merge(status)).await);
        }
    }

    async fn pods(&self) -> Vec<Pod> {
        self.of::<Pod>().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default()
    }

    /// What kubelets and a scheduler do with the pods that there are.
    async fn tend(&self) {
        let pods = self.of::<Pod>();
        for pod in self.pods().await {
            let name = pod.metadata.name.as_deref().unwrap();
            let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if pod.metadata.deletion_timestamp.is_some() {
                drop(pods.delete(name, &DeleteParams::default().grace_period(0)).await);
            } else if !bound {
                let Some(node) = self.open_node().await else { continue };
                let target = json!({"apiVersion": "v1", "kind": "Node", "name": node});
                let binding: Binding = read(json!({"metadata": {"name": name}, "target": target}));
                let made = PostParams::default();
                drop(pods.create_subresource::<Binding, Value>("binding", name, &made, &binding).await);
            } else if phase != Some("Running") {
                let ready = json!([{"type": "Ready", "status": "True"}]);
                let status = json!({"status": {"phase": "Running", "conditions": ready}});
                drop(pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await);
            }
        }
    }

    /// A node of ours that takes pods: `edge`, if it can.
    async fn open_node(&self) -> Option<String> {
        for which in ["edge", "base"] {
            let node = self.nodes().get(&self.node(which)).await.ok()?;
            if node.spec.and_then(|spec| spec.unschedulable) != Some(true) {
                return Some(self.node(which));
            }
        }
        None
    }

    async fn running_on(&self, which: &str) -> usize {
        let node = self.node(which);
        let here = |p: &Pod| p.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(&node));
        let runs = |p: &Pod| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
        self.pods().await.iter().filter(|p| here(p) && runs(p) && p.metadata.deletion_timestamp.is_none()).count()
    }

    async fn closed(&self, which: &str) -> bool {
        let node = self.nodes().get(&self.node(which)).await.unwrap();
        node.spec.and_then(|spec| spec.unschedulable) == Some(true)
    }
}

async fn daemon_in(own: &Own, kubeconfig: &Path, edge: &Machine, tasks: &mut Tasks) -> Daemon {
    let (on, off) = (own.node("edge"), own.node("base"));
    edge.has(
        "inventory.toml",
        &format!(
            "[[node]]\nname = '{on}'\nwatts = [60, 120]\nwake-proven = true\nboot-s = 2\nshutdown-s = 2\n\
             [[node]]\nname = '{off}'\nwatts = [30, 60]\nswitchable = false\n"
        ),
    );
    edge.has("policy.toml", "min-on-s = 0\nmin-off-s = 0\nsleep-after-s = 0\nstale-after-s = 600\nhorizon-s = 3600\n");
    let text = format!(
        "{1}
         [plan]
         inventory = '{0}/inventory.toml'
         policy = '{0}/policy.toml'
         every-s = 3600
         settle-s = 20
         [kubernetes]
         kubeconfig = '{2}'
         namespace = '{3}'
         [act.limits]
         settle-s = 1
         look-s = 1
         silent-s = 2
         streams-s = 5
         confirm-s = 20
         boot-s = 30",
        edge.path().display(),
        edge.settings(&on, "bmc = 'bmc'"),
        kubeconfig.display(),
        own.name,
    );
    let pool = own.name.clone();
    let daemon = Daemon::plain(move |config| {
        configure(config, toml::from_str(&text).unwrap());
        config.act.pools.insert(pool, Mode::Observe);
    })
    .await;
    agent(&daemon, tasks, &on, Played { on: Some(edge.on()), ..Played::default() });
    agent(&daemon, tasks, &off, Played::default());
    daemon
}

#[test]
#[ignore = "needs KUBECONFIG and rights to make namespaces and nodes; make test-kubernetes runs it"]
fn in_a_real_cluster_a_node_is_emptied_powered_off_and_woken() {
    let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG").expect("set KUBECONFIG to the cluster's file"));
    let name = format!("ebbtide-test-{:x}", now_ms());
    let own = async || {
        let client = connect::client(Some(&kubeconfig), None).await.unwrap();
        Own { client, name: name.clone() }
    };
    // what was made in the cluster is taken away in any case
    let outcome = std::panic::catch_unwind(|| {
        run(async {
            let own = own().await;
            own.set().await;
            let edge = Machine::new();
            let mut tasks = Tasks::new();
            let (crew, on) = (own.clone(), edge.on());
            tasks.spawn("kubelets and scheduler", async move {
                loop {
                    crew.tend().await;
                    crew.heartbeat(on.exists()).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            });
            tour(&own, &kubeconfig, &edge, &mut tasks).await;
        });
    });
    run(async { own().await.clear().await });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn tour(own: &Own, kubeconfig: &Path, edge: &Machine, tasks: &mut Tasks) {
    until("both pods run on edge", async || own.running_on("edge").await == 2).await;
    let daemon = daemon_in(own, kubeconfig, edge, tasks).await;
    let name = own.node("edge");
    until("the daemon acts and has a plan", async || {
        said(&daemon, &["reorchestrate"]).await;
        let (code, text) = said(&daemon, &["plan", "-o", "json"]).await;
        let acts = !said(&daemon, &["pool", "list"]).await.1.contains("does not act");
        code == Some(0) && text.contains(&name) && acts
    })
    .await;
    let (code, text) = said(&daemon, &["power", "off", &name, "-o", "wide"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(!edge.runs(), "{text}");
    for step in ["close", "move pod/", "by its BMC"] {
        assert!(text.contains(step), "{step}: {text}");
    }
    until("both pods run on base", async || own.running_on("base").await == 2).await;
    assert!(!own.closed("edge").await, "what was closed for it is open again: only the power keeps pods away");

    let (code, text) = said(&daemon, &["power", "on", &name]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(edge.runs());
    let (code, text) = said(&daemon, &["lock", &name, "--why", "a test"]).await;
    assert!(code == Some(0) && own.closed("edge").await, "{text}");
    let (code, text) = said(&daemon, &["unlock", &name]).await;
    assert!(code == Some(0) && !own.closed("edge").await, "{text}");
    daemon.stop().await;
}
