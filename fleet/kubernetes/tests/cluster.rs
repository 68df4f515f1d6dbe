//! The crate against the twin: over HTTPS, with a kubeconfig, and with trouble.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use ebbtide_kubernetes::act::cordon::{Closed, Hold};
use ebbtide_kubernetes::act::evict::{Evictee, Eviction};
use ebbtide_kubernetes::act::lease::{Candidate, Standing};
use ebbtide_kubernetes::act::notes::{Deed, Notes};
use ebbtide_kubernetes::act::{Failed, Hands};
use ebbtide_kubernetes::convert::Rules;
use ebbtide_kubernetes::extender::view::View;
use ebbtide_kubernetes::extender::{Views, router};
use ebbtide_kubernetes::names;
use ebbtide_kubernetes_twin::crew::first_fit;
use ebbtide_kubernetes_twin::extend::Extender;
use ebbtide_kubernetes_twin::kinds::{BUDGETS, CONFIG_MAPS, EVENTS, LEASES, NODES, PODS, REPLICA_SETS};
use ebbtide_kubernetes_twin::rights::Rule;
use ebbtide_kubernetes_twin::{Cluster, Trouble};
use ebbtide_planner::state::node::PowerState;
use ebbtide_proto::NodeId;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use serde_json::json;
use support::{Bench, client, client_with, replica_set};

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn hold(reason: &str, generation: u64) -> Hold<'_> {
    Hold { holder: "test", reason, generation }
}

/// Two nodes and three pods, all of them running.
async fn shop() -> Cluster {
    let cluster = Cluster::start(true).await.unwrap();
    cluster.add_node("a", 4, 8).unwrap();
    cluster.add_node("b", 4, 8).unwrap();
    cluster.run_kubelets();
    cluster.schedule_by(first_fit);
    cluster.create(REPLICA_SETS, "default", replica_set("web", 3)).unwrap();
    cluster
}

fn evictee(cluster: &Cluster, node: &str) -> Evictee {
    let pods = cluster.list(PODS, "default");
    let pod = pods.iter().find(|p| p["spec"]["nodeName"] == *node).unwrap();
    let text = |key: &str| pod["metadata"][key].as_str().unwrap().to_owned();
    Evictee { namespace: text("namespace"), name: text("name"), uid: text("uid") }
}

#[tokio::test]
async fn the_planner_sees_what_happens_even_behind_its_back() {
    let mut bench = Bench::new(shop().await).await;
    assert_eq!((bench.on("a"), bench.on("b")), (3, 0));
    assert_eq!(bench.state.nodes[&id("a")].capacity.cpu_milli, 4000);

    // one that nobody can place waits, and is what wakes a node
    bench.cluster.add_pod("default", "big", "16", json!({}), json!({})).unwrap();
    bench.until("a pod waits", |b| b.state.places.waiting().count() == 1).await;

    // while nobody gets through, all of it changes, and history is forgotten
    bench.cluster.set_unreachable(true);
    let gone = evictee(&bench.cluster, "a");
    bench.cluster.change().delete(PODS, "default", "big", &json!({})).unwrap();
    bench.cluster.patch(NODES, "", "a", &json!({"spec": {"unschedulable": true}})).unwrap();
    bench.cluster.change().delete(PODS, "default", &gone.name, &json!({})).unwrap();
    bench.cluster.silence("b", true);
    bench.cluster.add_node("c", 16, 32).unwrap();
    bench.cluster.forget_history();
    let (_, lists) = bench.followed.counts();
    bench.cluster.set_unreachable(false);
    bench.until("the new node", |b| b.state.nodes.contains_key(&id("c"))).await;
    bench.until("nobody waits", |b| b.state.places.waiting().count() == 0).await;
    bench.until("it was closed by hand", |b| b.state.nodes[&id("a")].cordoned).await;
    bench.until("nothing is known of b", |b| b.state.nodes[&id("b")].power == PowerState::Unknown).await;
    bench.until("two stay on a", |b| b.on("a") == 2).await;
    bench.until("new lists of all five kinds after 410", |b| b.followed.counts().1 == lists + 5).await;
    assert_eq!(bench.state.refused, 0);

    // an ordinary disconnect needs no list
    let (_, lists) = bench.followed.counts();
    bench.cluster.break_connections();
    bench.cluster.patch(NODES, "", "a", &json!({"spec": {"unschedulable": null}})).unwrap();
    bench.until("it was opened", |b| !b.state.nodes[&id("a")].cordoned).await;
    bench.cluster.change().delete(NODES, "", "c", &json!({})).unwrap();
    bench.until("c is gone", |b| !b.state.nodes.contains_key(&id("c"))).await;
    assert_eq!(bench.followed.counts().1, lists);
}

#[tokio::test]
async fn a_node_is_closed_once_under_our_mark_and_foreign_ones_are_left_alone() {
    let cluster = shop().await;
    let one = Hands::new(client(&cluster).await, "fleet-1");
    let two = Hands::new(client(&cluster).await, "fleet-2");
    let mine = hold("empty it", 3);
    let (a, b) = tokio::join!(one.cordon("a", &mine, 1000), two.cordon("a", &mine, 1000));
    let mut both = [a.unwrap(), b.unwrap()];
    both.sort_by_key(|c| *c == Closed::Before);
    assert_eq!(both, [Closed::Now, Closed::Before]);
    let node = cluster.find(NODES, "", "a").unwrap();
    assert_eq!(node["spec"]["unschedulable"], true);
    assert!(node["metadata"]["annotations"][names::CORDONED_BY].as_str().unwrap().contains("empty it"));
    assert_eq!(one.closed_by_us().await.unwrap()[0].0, "a");

    // what is held for something else stays closed, until it is held for this
    assert!(!one.uncordon("a", |h| h == "another", 3).await.unwrap());
    let other = Hold { holder: "another", ..hold("lock it", 3) };
    assert_eq!(one.cordon("a", &other, 1500).await.unwrap(), Closed::Now);
    assert!(!one.uncordon("a", |h| h == "test", 3).await.unwrap());
    assert_eq!(one.cordon("a", &hold("empty it", 3), 1600).await.unwrap(), Closed::Now);

    // another was faster once; a leader of before comes too late
    cluster.trouble("PATCH /api/v1/nodes/a", Trouble::Refused(409));
    assert!(matches!(one.uncordon("a", |h| h == "test", 2).await, Err(Failed::Superseded { ours: 2, theirs: 3, .. })));
    assert!(one.uncordon("a", |h| h == "test", 3).await.unwrap());
    let node = cluster.find(NODES, "", "a").unwrap();
    assert!(node["spec"]["unschedulable"].is_null() && node["metadata"]["annotations"][names::CORDONED_BY].is_null());

    // the answer is lost, the deed is done
    cluster.trouble("PATCH /api/v1/nodes/a", Trouble::AnswerLost);
    assert!(one.cordon("a", &hold("again", 3), 2000).await.unwrap_err().is_unknown());
    assert_eq!(one.cordon("a", &hold("again", 3), 2000).await.unwrap(), Closed::Before);

    cluster.patch(NODES, "", "b", &json!({"spec": {"unschedulable": true}})).unwrap();
    let before = cluster.find(NODES, "", "b").unwrap();
    assert!(matches!(one.cordon("b", &hold("mine", 3), 1000).await, Err(Failed::Foreign { .. })));
    assert!(!one.uncordon("b", |h| h == "test", 3).await.unwrap());
    assert_eq!(cluster.find(NODES, "", "b").unwrap(), before);
    assert!(matches!(one.cordon("none", &hold("", 3), 0).await, Err(Failed::Gone { .. })));
}

#[tokio::test]
async fn an_eviction_waits_for_the_budget_and_tells_what_is_left() {
    let cluster = shop().await;
    let budget = json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 0,
        "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create(BUDGETS, "default", budget).unwrap();
    let hands = Hands::new(client(&cluster).await, "fleet");
    hands.cordon("a", &hold("empty it", 1), 0).await.unwrap();
    let pod = evictee(&cluster, "a");
    let refused = hands.evict(&pod, None).await.unwrap();
    let Eviction::Refused { why, retry_s: None } = refused else { panic!("{refused:?}") };
    assert!(why.contains("budget web needs 3 healthy pods"), "{why}");
    cluster.patch(BUDGETS, "default", "web", &json!({"spec": {"maxUnavailable": 1}})).unwrap();

    // the node's kubelet is slow: the pod is told, and still there
    cluster.change().crew.kubelets = false;
    assert_eq!(hands.evict(&pod, Some(7)).await.unwrap(), Eviction::Told);
    let left = hands.left_on("a").await.unwrap();
    assert_eq!((left.len(), left.iter().filter(|l| l.ending).count()), (3, 1));
    let object = cluster.find(PODS, "default", &pod.name).unwrap();
    assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 7, "grace is passed on");
    assert!(matches!(hands.evict(&evictee_other(&cluster, &pod), None).await.unwrap(), Eviction::Refused { .. }));
    cluster.run_kubelets();
    assert_eq!(hands.left_on("a").await.unwrap().len(), 2);
    assert_eq!(hands.evict(&pod, None).await.unwrap(), Eviction::Gone);

    // a pod of the same name that came later is another
    let mut other = evictee(&cluster, "a");
    other.uid = "00000000-0000-4000-8000-999999999999".to_owned();
    assert_eq!(hands.evict(&other, None).await.unwrap(), Eviction::Gone);
    for _ in 0..2 {
        assert_eq!(hands.evict(&evictee(&cluster, "a"), None).await.unwrap(), Eviction::Told);
    }
    assert!(hands.left_on("a").await.unwrap().is_empty());
    assert_eq!(hands.left_on("b").await.unwrap().len(), 3);
}

fn evictee_other(cluster: &Cluster, than: &Evictee) -> Evictee {
    let pods = cluster.list(PODS, "default");
    let pod = pods.iter().find(|p| p["metadata"]["name"] != *than.name && p["spec"]["nodeName"] == "a").unwrap();
    let text = |key: &str| pod["metadata"][key].as_str().unwrap().to_owned();
    Evictee { namespace: text("namespace"), name: text("name"), uid: text("uid") }
}

#[tokio::test]
async fn one_leads_at_a_time_and_each_leader_has_a_generation() {
    let cluster = Cluster::start(true).await.unwrap();
    let candidate = async |name: &str| Candidate::new(client(&cluster).await, "default", "ebbtide-fleet", name, 15);
    let (mut a, mut b) = (candidate("a").await, candidate("b").await);
    let leads = |generation, until_ms| Standing::Leads { generation, until_ms };
    assert_eq!(a.round(1000, 1000).await.unwrap(), leads(1, 11_000));
    assert_eq!(b.round(1000, 1000).await.unwrap(), Standing::Follows);
    assert_eq!(a.round(9000, 9000).await.unwrap(), leads(1, 19_000));
    assert_eq!(b.round(10_000, 10_000).await.unwrap(), Standing::Follows);
    // a is silent; b's own clock decides, and a may no longer act when b may
    assert_eq!(b.round(25_000, 25_000).await.unwrap(), Standing::Follows);
    assert_eq!(b.round(25_001, 25_001).await.unwrap(), leads(2, 35_001));
    assert_eq!(leads(1, 19_000).may_act(25_001), None);
    assert_eq!(a.round(26_000, 26_000).await.unwrap(), Standing::Follows);
    // given up, it needn't run out
    b.release().await.unwrap();
    assert_eq!(a.round(27_000, 27_000).await.unwrap(), leads(3, 37_000));
    // a restart under the same name is another leadership
    assert_eq!(candidate("a").await.round(28_000, 28_000).await.unwrap(), leads(4, 38_000));
    assert_eq!(a.round(28_000, 28_000).await.unwrap(), leads(5, 38_000));
    assert_eq!(cluster.find(LEASES, "default", "ebbtide-fleet").unwrap()["spec"]["leaseTransitions"], 5);
    // two at once: one of them gets it
    cluster.change().delete(LEASES, "default", "ebbtide-fleet", &json!({})).unwrap();
    let (mut c, mut d) = (candidate("c").await, candidate("d").await);
    let (c, d) = tokio::join!(c.round(0, 0), d.round(0, 0));
    let leaders = [c.unwrap(), d.unwrap()].iter().filter(|s| s.may_act(1).is_some()).count();
    assert_eq!(leaders, 1);
}

#[tokio::test]
async fn notes_deeds_and_settings_are_written_and_read() {
    let cluster = shop().await;
    let hands = Hands::new(client(&cluster).await, "fleet");
    hands.note("a", &Notes { curve: Some((39.04, 4.5)), ..Notes::default() }).await.unwrap();
    let node = cluster.find(NODES, "", "a").unwrap();
    assert_eq!(node["metadata"]["labels"][names::HOSTNAME], "a", "without a label of ours those of others stay");
    let mut notes = Notes {
        curve: Some((39.04, 4.5)),
        rank: Some(2),
        state: Some(("draining".to_owned(), "saves 39 W".to_owned(), 0)),
    };
    hands.note("a", &notes).await.unwrap();
    let node = cluster.find(NODES, "", "a").unwrap();
    assert_eq!(node["metadata"]["annotations"][names::IDLE_WATTS], "39.0");
    assert_eq!(node["metadata"]["labels"][names::EFFICIENCY_RANK], "2");
    notes.state = None;
    hands.note("a", &notes).await.unwrap();
    let node = cluster.find(NODES, "", "a").unwrap();
    assert!(node["metadata"]["annotations"][names::STATE].is_null(), "what isn't noted any more goes");
    assert_eq!(node["metadata"]["labels"][names::HOSTNAME], "a", "what others wrote stays");
    assert!(matches!(hands.note("none", &notes).await, Err(Failed::Gone { .. })));

    let deed = Deed { action: "PowerOff", reason: "Consolidated", note: "empty, saves 39 W", warning: false };
    hands.tell("a", &deed, 1_700_000_000_000).await.unwrap();
    let event = &cluster.list(EVENTS, "default")[0];
    assert_eq!((&event["message"], &event["involvedObject"]["name"]), (&json!("empty, saves 39 W"), &json!("a")));

    assert!(!hands.settings("default", "ebbtide").await.unwrap().paused);
    let map = json!({"metadata": {"name": "ebbtide"}, "data": {"paused": "yes", "policy.toml": "x = 1"}});
    cluster.create(CONFIG_MAPS, "default", map).unwrap();
    let settings = hands.settings("default", "ebbtide").await.unwrap();
    assert!(settings.paused && settings.policy.as_deref() == Some("x = 1"));
}

#[tokio::test]
async fn the_scheduler_follows_the_extender_and_does_without_it() {
    let cluster = Cluster::start(true).await.unwrap();
    for name in ["a", "b", "c"] {
        cluster.add_node(name, 8, 8).unwrap();
    }
    cluster.run_kubelets();
    let mut bench = Bench::new(cluster).await;
    let mut tasks = Tasks::new();
    let views = Views::default();
    let listener = ebbtide_runtime::http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(views.clone(), Rules::default());
    tasks.spawn("extender", ebbtide_runtime::http::serve(listener, app, None, tasks.shutdown()));
    let extender = |node_cache_capable| Extender { address, node_cache_capable, ignorable: false };

    // it knows nothing yet: the scheduler does as it likes
    bench.cluster.add_pod("default", "first", "1", json!({}), json!({})).unwrap();
    let placed = bench.cluster.schedule_through(&extender(true)).await.unwrap();
    assert_eq!(placed, [("first".to_owned(), Some("a".to_owned()))]);
    bench.until("it runs", |b| b.on("a") == 1).await;

    // a is about to go, c draws the least
    let mut state = bench.state.clone();
    state.nodes.get_mut(&id("a")).unwrap().power = PowerState::TurningOff;
    state.nodes.get_mut(&id("c")).unwrap().curve = ebbtide_planner::model::curve::PowerCurve::line(10.0, 30.0);
    views.publish(View::of(&state, None, &Default::default(), clock::now().mono / 1_000_000));
    for (name, cached) in [("second", true), ("third", false)] {
        bench.cluster.add_pod("default", name, "1", json!({}), json!({})).unwrap();
        let placed = bench.cluster.schedule_through(&extender(cached)).await.unwrap();
        assert_eq!(placed, [(name.to_owned(), Some("c".to_owned()))]);
    }
    tasks.finish(std::time::Duration::from_secs(5)).await;
    bench.cluster.add_pod("default", "fourth", "1", json!({}), json!({})).unwrap();
    let without = Extender { ignorable: true, ..extender(true) };
    assert_eq!(bench.cluster.schedule_through(&without).await.unwrap()[0].1.as_deref(), Some("a"));
}

#[tokio::test]
async fn the_rights_in_the_documentation_are_enough_and_no_more() {
    let text = include_str!("../../../docs/kubernetes.md");
    let yaml = text.split("```yaml").find(|part| part.contains("kind: ClusterRole\n")).unwrap();
    let rules = rules_of(yaml.split("```").next().unwrap());
    let cluster = shop().await;
    cluster.grant("fleet-token", "system:serviceaccount:ebbtide:ebbtide-fleet", rules);
    let client = client_with(&cluster, "fleet-token").await;
    let hands = Hands::new(client.clone(), "fleet");
    hands.cordon("a", &hold("test", 1), 0).await.unwrap();
    hands.closed_by_us().await.unwrap();
    hands.evict(&evictee(&cluster, "a"), None).await.unwrap();
    hands.left_on("a").await.unwrap();
    hands.note("a", &Notes::default()).await.unwrap();
    hands.tell("a", &Deed { action: "A", reason: "B", note: "c", warning: true }, 0).await.unwrap();
    hands.settings("default", "ebbtide").await.unwrap();
    hands.uncordon("a", |h| h == "test", 1).await.unwrap();
    let mut candidate = Candidate::new(client.clone(), "default", "ebbtide-fleet", "fleet", 15);
    candidate.round(0, 0).await.unwrap();
    candidate.round(1000, 1000).await.unwrap();
    candidate.release().await.unwrap();
    let mut tasks = Tasks::new();
    let followed = ebbtide_kubernetes::watch::Followed::start(&client, Rules::default(), &mut tasks);
    let mut changes = followed.changes();
    while !followed.is_complete() {
        changes.changed().await.unwrap();
    }
    assert_eq!(followed.counts().0, 0, "nothing was forbidden");
    // what it has no business with
    let secrets: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(client, "default");
    let pod = evictee(&cluster, "b");
    assert!(secrets.delete(&pod.name, &Default::default()).await.is_err());
}

/// The rules of roles as they are written in the documentation: one list of words per line.
fn rules_of(yaml: &str) -> Vec<Rule> {
    let mut rules: Vec<serde_json::Value> = Vec::new();
    for line in yaml.lines() {
        let line = line.trim();
        for key in ["apiGroups", "resources", "verbs"] {
            let Some(list) = line.trim_start_matches("- ").strip_prefix(&format!("{key}: ")) else { continue };
            if line.starts_with("- ") {
                rules.push(json!({}));
            }
            rules.last_mut().unwrap()[key] = serde_json::from_str(list).unwrap();
        }
    }
    assert!(rules.len() > 5, "{rules:?}");
    rules.iter().map(Rule::of).collect()
}
