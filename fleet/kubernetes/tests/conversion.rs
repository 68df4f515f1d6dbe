//! Pods as they are written, and what planning makes of them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;

use ebbtide_kubernetes::convert::Rules;
use ebbtide_kubernetes::inventory::Inventory;
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::Node;
use ebbtide_planner::state::workload::Workload;
use serde_json::{Value, json};

fn pod(name: &str, meta: Value, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": "x", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]},
        "status": {"phase": "Running"}});
    for (into, from) in [("metadata", meta), ("spec", spec)] {
        for (key, value) in from.as_object().unwrap() {
            pod[into][key] = value.clone();
        }
    }
    pod
}

fn notes(key: &str, value: &str) -> Value {
    json!({"annotations": {key: value}})
}

fn cases() -> Vec<Value> {
    let none = || json!({});
    let term = |key: &str, app: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
    let apart = |key: &str, app: &str| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(key, app)]}}});
    let even = |key: &str, app: &str, skew: u32| {
        json!({"topologySpreadConstraints": [{"maxSkew": skew, "topologyKey": key,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}]})
    };
    let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let (host, zone) = ("kubernetes.io/hostname", "topology.kubernetes.io/zone");
    let arm = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "arch", "operator": "In", "values": ["arm64"]}]}]}}}});
    let owned = |kind: &str, name: &str| json!({"ownerReferences": [{"kind": kind, "name": name, "uid": "x", "controller": true}]});
    let volume = |v: Value| json!({"volumes": [v]});
    let claim = |name: &str| volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": name}}));
    let with = |a: Value, b: Value| {
        let mut both = a;
        both.as_object_mut().unwrap().extend(b.as_object().unwrap().clone());
        both
    };
    vec![
        pod("plain", none(), none()),
        pod("bare", json!({"ownerReferences": []}), none()),
        pod(
            "deployed",
            with(owned("ReplicaSet", "front-5d9c"), json!({"labels": {"pod-template-hash": "5d9c"}})),
            json!({"nodeSelector": {"disk": "ssd"}, "priority": 7}),
        ),
        pod("daemon", owned("DaemonSet", "logs"), arm.clone()),
        pod("static", notes("kubernetes.io/config.mirror", "abc"), none()),
        pod("job", owned("Job", "sum"), none()),
        pod("kept", notes("karpenter.sh/do-not-disrupt", "true"), none()),
        pod("unsafe", notes("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), none()),
        pod("scratch", none(), volume(json!({"name": "v", "emptyDir": {}}))),
        pod(
            "spared-scratch",
            notes("cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes", "w, v"),
            volume(json!({"name": "v", "emptyDir": {}})),
        ),
        pod("path", none(), volume(json!({"name": "v", "hostPath": {"path": "/x"}}))),
        pod("token", none(), volume(json!({"name": "v", "projected": {"sources": []}}))),
        pod("net-disk", none(), claim("net")),
        pod("local-disk", none(), claim("local")),
        pod("lost-disk", none(), claim("lost")),
        pod("arm", none(), arm),
        pod("alone", none(), apart(host, "alone")),
        pod("one-per-zone", none(), apart(zone, "one-per-zone")),
        pod("not-with-plain", none(), apart(host, "plain")),
        pod("zone-away-from-plain", none(), apart(zone, "plain")),
        pod("even", none(), even(host, "even", 2)),
        pod("even-zones", none(), even(zone, "even-zones", 1)),
        pod("odd-spread", none(), even("rack", "odd-spread", 1)),
        pod(
            "together",
            none(),
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(host, "plain")]}}}),
        ),
        pod("port", none(), json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]})),
        pod(
            "starting",
            none(),
            json!({"overhead": {"cpu": "50m"}, "initContainers": [
                {"name": "mesh", "restartPolicy": "Always", "resources": requests("100m")},
                {"name": "load", "resources": requests("2")}],
                "containers": [{"name": "a", "resources": requests("1")}, {"name": "b", "resources": requests("250m")}]}),
        ),
        pod(
            "tolerant",
            none(),
            json!({"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "containers": [{"name": "c", "resources": {"requests": {"nvidia.com/gpu": "2"}}}]}),
        ),
        pod("system", json!({"namespace": "kube-system"}), none()),
        pod("twice", none(), none()),
    ]
}

fn inventory() -> Inventory {
    let mut inventory = Inventory::new(Rules::default());
    for (name, arch) in [("n1", "amd64"), ("n2", "arm64")] {
        let node = json!({"metadata": {"name": name, "uid": name, "labels": {"arch": arch, "ebbtide.dev/pool": "edge",
                "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{name}")}},
            "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}, {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]},
            "status": {"capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
                "allocatable": {"cpu": "7500m", "memory": "15Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}]}});
        inventory.put_node(&serde_json::from_value(node).unwrap());
    }
    let budget = |name: &str, app: &str| {
        json!({"metadata": {"name": name, "namespace": "shop", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 2, "currentHealthy": 3, "desiredHealthy": 1, "expectedPods": 3}})
    };
    for one in [budget("plain", "plain"), budget("twice-a", "twice"), budget("twice-b", "twice")] {
        inventory.put_budget(&serde_json::from_value(one).unwrap());
    }
    for (name, spec) in [
        (
            "net",
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zn1"]}]}]}}}),
        ),
        ("local", json!({"local": {"path": "/d"}})),
    ] {
        let volume = json!({"metadata": {"name": format!("pv-{name}")}, "spec": spec});
        inventory.put_volume(&serde_json::from_value(volume).unwrap());
        let claim =
            json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"volumeName": format!("pv-{name}")}});
        inventory.put_claim(&serde_json::from_value(claim).unwrap());
    }
    for one in cases() {
        inventory.put_pod(&serde_json::from_value(one).unwrap());
    }
    inventory
}

fn line(w: &Workload, why: Option<&str>) -> String {
    let mut text = format!("{:<26} {}m {}Mi", w.id.to_string(), w.requests.cpu_milli, w.requests.memory >> 20);
    for (name, amount) in w.requests.named.iter().filter(|(n, _)| *n != "pods") {
        write!(text, " {name}={amount}").unwrap();
    }
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            write!(text, "  {name}: {value}").unwrap();
        }
    };
    add("group", w.group.clone().unwrap_or_default());
    // the digest in the label is of no interest
    let select = |(key, value): (&String, &String)| match key.strip_prefix("ebbtide.dev/fits-") {
        Some("nowhere") | None => format!("{key}={value}"),
        Some(_) => "fits".to_owned(),
    };
    add("selector", w.selector.iter().map(select).collect::<Vec<_>>().join(","));
    add("tolerates", w.tolerations.iter().map(|t| t.key.clone()).collect::<Vec<_>>().join(","));
    add("spread", w.spread.iter().map(|s| format!("{}/{:?}", s.at_most, s.over)).collect::<Vec<_>>().join(","));
    add("avoids", w.avoid.join(","));
    add("priority", if w.priority == 0 { String::new() } else { w.priority.to_string() });
    add("", if w.per_node { "of its node".to_owned() } else { String::new() });
    add("stays", if w.stays { why.unwrap_or("?").to_owned() } else { String::new() });
    text
}

#[test]
fn pods_become_what_the_reference_says() {
    let mut inventory = inventory();
    let base = |n: &ebbtide_kubernetes::convert::node::ClusterNode| {
        Node::new(n.id.clone(), n.capacity.clone(), PowerCurve::line(50.0, 150.0))
    };
    let events = inventory.events(true, true, &base);
    let mut text = String::new();
    for event in &events {
        match event {
            Event::NodeSeen(node) => {
                let fits = node.labels.keys().filter(|l| l.starts_with("ebbtide.dev/fits-")).count();
                let taints: Vec<&str> = node.taints.iter().map(|t| t.key.as_str()).collect();
                writeln!(
                    text,
                    "{} pool {} zone {} {}m of {}m, takes {fits} affinities, taints {}, {:?}",
                    node.id,
                    node.pool,
                    node.zone.clone().unwrap(),
                    node.allocatable().cpu_milli,
                    node.capacity.cpu_milli,
                    taints.join(","),
                    node.power
                )
                .unwrap();
            }
            Event::WorkloadSeen(w) => {
                let why = inventory.why_stays(&w.id);
                writeln!(text, "{}", line(w, why)).unwrap();
            }
            Event::Budget { group, away } => writeln!(text, "{group}: {away} away").unwrap(),
            _ => {}
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pods.txt");
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap(), "run with EBBTIDE_BLESS=1 to accept");
    // a second look has nothing new but signs of life
    let again = inventory.events(true, true, &base);
    assert!(again.iter().all(|e| matches!(e, Event::NodeHeard { .. })), "{again:?}");
}
