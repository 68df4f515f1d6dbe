//! What this crate asks of an API server, asked of one: of the twin always, of a real one by `make test-kubernetes`.
//!
//! It works in a namespace, and on a node that is nothing but an object, of its own, and takes all of it away again.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use ebbtide_kubernetes::act::cordon::{Closed, Hold};
use ebbtide_kubernetes::act::evict::{Evictee, Eviction};
use ebbtide_kubernetes::act::lease::{Candidate, Standing};
use ebbtide_kubernetes::act::notes::{Deed, Notes};
use ebbtide_kubernetes::act::{Failed, Hands};
use ebbtide_kubernetes::connect;
use ebbtide_kubernetes::convert::Rules;
use ebbtide_kubernetes::names;
use ebbtide_kubernetes::watch::Followed;
use ebbtide_kubernetes_twin::Cluster;
use ebbtide_proto::NodeId;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

/// Names that nothing else in the cluster has.
struct Scene {
    client: Client,
    name: String,
}

impl Scene {
    fn new(client: Client) -> Self {
        Self { client, name: format!("ebbtide-test-{:x}", clock::now().wall / 1_000_000) }
    }

    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    fn own<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    fn events(&self) -> Api<Event> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn set(&self) -> anyhow::Result<()> {
        let meta = json!({"metadata": {"name": self.name}});
        let made = PostParams::default();
        self.all::<Namespace>().create(&made, &serde_json::from_value(meta)?).await.context("make a namespace")?;
        // nothing of the cluster's own comes to it
        let node = json!({"metadata": {"name": self.name, "labels": {"ebbtide.dev/pool": self.name}},
            "spec": {"taints": [{"key": "ebbtide.dev/test", "effect": "NoSchedule"}]}});
        self.all::<Node>().create(&made, &serde_json::from_value(node)?).await.context("make a node")?;
        let has = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
        let status = json!({"status": {"capacity": has, "allocatable": has, "conditions":
            [{"type": "Ready", "status": "True", "reason": "Test", "message": "a test says so"}]}});
        let ready = self.all::<Node>().patch_status(&self.name, &PatchParams::default(), &Patch::Merge(status)).await;
        ready.context("say that the node is ready")?;
        // no scheduler is called that: it is bound by hand, and runs nowhere
        let pod = json!({"metadata": {"name": "work"}, "spec": {"schedulerName": self.name, "nodeName": self.name,
            "containers": [{"name": "c", "image": "none", "resources": {"requests": {"cpu": "500m"}}}]}});
        let pods = self.own::<Pod>();
        let mut made_it = Err(anyhow::anyhow!("never tried"));
        for _ in 0..50 {
            made_it = pods.create(&made, &serde_json::from_value(pod.clone())?).await.context("make a pod");
            // a namespace gets its service account a moment later
            if made_it.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        made_it.map(drop)
    }

    /// Takes everything away; says what it couldn't.
    async fn clear(&self) -> anyhow::Result<()> {
        let now = DeleteParams::default().grace_period(0);
        let gone = |what: &str, error: kube::Error| match error {
            kube::Error::Api(status) if status.code == 404 => Ok(()),
            error => Err(anyhow::anyhow!("can't delete {what} of {}: {error}", self.name)),
        };
        self.own::<Pod>().delete("work", &now).await.map(drop).or_else(|e| gone("the pod", e))?;
        self.all::<Node>().delete(&self.name, &now).await.map(drop).or_else(|e| gone("the node", e))?;
        for event in self.events().list(&ListParams::default()).await? {
            if event.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(&self.name)) {
                let name = event.metadata.name.unwrap_or_default();
                self.events().delete(&name, &now).await.map(drop).or_else(|e| gone("an event", e))?;
            }
        }
        self.all::<Namespace>().delete(&self.name, &now).await.map(drop).or_else(|e| gone("the namespace", e))
    }

    async fn tour(&self) -> anyhow::Result<()> {
        let hands = Hands::new(self.client.clone(), "test");
        let node = self.name.as_str();
        self.follow().await.context("following")?;

        let mine = Hold { holder: "test", reason: "a test", generation: 3 };
        ensure!(hands.cordon(node, &mine, 1000).await? == Closed::Now, "closed");
        ensure!(hands.cordon(node, &mine, 1000).await? == Closed::Before, "closed once");
        ensure!(
            matches!(hands.uncordon(node, |h| h == "test", 2).await, Err(Failed::Superseded { .. })),
            "an old leader"
        );
        ensure!(!hands.uncordon(node, |h| h == "another", 3).await?, "for somebody else");
        ensure!(hands.uncordon(node, |h| h == "test", 3).await?, "opened");
        self.closed_by_hand(&hands).await.context("closed by hand")?;

        let left = hands.left_on(node).await?;
        ensure!(left.len() == 1 && left.iter().all(|l| !l.ending), "{left:?}");
        let pod = left.first().map(|l| l.pod.clone()).context("a pod")?;
        let other = Evictee { uid: "00000000-0000-4000-8000-000000000000".to_owned(), ..pod.clone() };
        ensure!(hands.evict(&other, None).await? == Eviction::Gone, "another of the same name");
        ensure!(hands.evict(&pod, None).await? == Eviction::Told, "evicted");
        // nobody is there to end it: it is told and stays, or it is gone
        ensure!(hands.left_on(node).await?.iter().all(|l| l.ending), "told to end");

        let state = Some(("draining".to_owned(), "a test".to_owned(), 0));
        hands.note(node, &Notes { curve: Some((39.0, 3.5)), rank: None, state }).await?;
        let notes = self.all::<Node>().get(node).await?.metadata.annotations.unwrap_or_default();
        ensure!(notes.get(names::IDLE_WATTS).is_some_and(|w| w == "39.0"), "{notes:?}");
        let deed = Deed { action: "Drain", reason: "Test", note: "a test", warning: false };
        hands.tell(node, &deed, clock::now().wall / 1_000_000).await?;

        ensure!(!hands.settings(node, "settings").await?.paused, "no ConfigMap, no pause");
        let map = json!({"metadata": {"name": "settings"}, "data": {"paused": "true"}});
        self.own::<ConfigMap>().create(&PostParams::default(), &serde_json::from_value(map)?).await?;
        ensure!(hands.settings(node, "settings").await?.paused, "paused");

        let candidate = |who| Candidate::new(self.client.clone(), node, "lease", who, 15);
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        ensure!(matches!(a.round(0, 0).await?, Standing::Leads { generation: 1, .. }), "takes the lease");
        ensure!(b.round(0, 0).await? == Standing::Follows, "it is taken");
        ensure!(matches!(a.round(3000, 3000).await?, Standing::Leads { generation: 1, .. }), "keeps it");
        a.release().await?;
        ensure!(matches!(b.round(4000, 4000).await?, Standing::Leads { generation: 2, .. }), "it was given up");
        Ok(())
    }

    async fn follow(&self) -> anyhow::Result<()> {
        let mut tasks = Tasks::new();
        let followed = Followed::start(&self.client, Rules::default(), &mut tasks);
        let id = NodeId::new(&self.name)?;
        let knows = || {
            let inventory = followed.inventory();
            let node = inventory.node(&id).is_some_and(|n| n.ready == Some(true) && n.pool == self.name);
            node && inventory.pods() > 0 && followed.is_complete()
        };
        for _ in 0..100 {
            if knows() {
                tasks.finish(Duration::from_secs(5)).await;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("after 10 s {:?} were not listed, and the node not known", followed.unlisted())
    }

    async fn closed_by_hand(&self, hands: &Hands) -> anyhow::Result<()> {
        let set = async |closed: Value| {
            let change = Patch::Merge(json!({"spec": {"unschedulable": closed}}));
            self.all::<Node>().patch(&self.name, &PatchParams::default(), &change).await
        };
        set(true.into()).await?;
        let mine = Hold { holder: "test", reason: "a test", generation: 3 };
        ensure!(
            matches!(hands.cordon(&self.name, &mine, 0).await, Err(Failed::Foreign { .. })),
            "it is somebody else's"
        );
        ensure!(!hands.uncordon(&self.name, |_| true, 3).await?, "and stays closed");
        set(Value::Null).await?;
        Ok(())
    }

    async fn run(&self) {
        let outcome = match self.set().await {
            Ok(()) => self.tour().await,
            Err(error) => Err(error.context("setting the scene")),
        };
        let cleared = self.clear().await;
        outcome.unwrap();
        cleared.unwrap();
    }
}

#[tokio::test]
async fn the_twin_does_what_is_asked_of_a_real_server() {
    let cluster = Cluster::start(true).await.unwrap();
    let scene = Scene::new(support::client(&cluster).await);
    scene.run().await;
    assert!(scene.all::<Node>().get_opt(&scene.name).await.unwrap().is_none(), "nothing is left");
    assert!(scene.all::<Namespace>().get_opt(&scene.name).await.unwrap().is_none());
    assert!(scene.events().list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
#[ignore = "needs KUBECONFIG and rights to make namespaces and nodes; make test-kubernetes runs it"]
async fn a_real_server_does_what_is_asked_of_it() {
    let path = std::env::var_os("KUBECONFIG").expect("set KUBECONFIG to a file that says how to reach the cluster");
    let client = connect::client(Some(path.as_ref()), None).await.unwrap();
    Scene::new(client).run().await;
}
