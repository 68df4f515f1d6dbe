//! What following a large cluster takes: `cargo run --release -p ebbtide-kubernetes --example inventory`
//!
//! The API server in memory has 5,000 nodes and 100,000 pods. A process of its own follows it by HTTPS and says how long it
//! took and how much memory it has.
#![allow(clippy::unwrap_used, reason = "an example")]

use std::time::Duration;

use ebbtide_kubernetes::connect;
use ebbtide_kubernetes::convert::Rules;
use ebbtide_kubernetes::convert::node::ClusterNode;
use ebbtide_kubernetes::watch::Followed;
use ebbtide_kubernetes_twin::kinds::{NODES, PODS};
use ebbtide_kubernetes_twin::{ADMIN, Cluster};
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::state::node::Node;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use serde_json::json;

const NODE_COUNT: usize = 5000;
const POD_COUNT: usize = 100_000;
/// Pods of one deployment.
const REPLICAS: usize = 20;

#[tokio::main]
async fn main() {
    match std::env::args().nth(1) {
        Some(kubeconfig) => follow(&kubeconfig).await,
        None => serve().await,
    }
}

async fn serve() {
    let cluster = Cluster::start(false).await.unwrap();
    let image = |i: usize| json!({"names": [format!("registry/some/image@sha256:{i:064}")], "sizeBytes": 123_456_789});
    let images: Vec<_> = (0..20).map(image).collect();
    for n in 0..NODE_COUNT {
        let has = json!({"cpu": "32", "memory": "128Gi", "pods": "110"});
        let node = json!({"metadata": {"name": format!("node-{n:04}"), "labels": {"kubernetes.io/hostname": format!("node-{n:04}"),
            "topology.kubernetes.io/zone": format!("z{}", n % 3), "ebbtide.dev/pool": "compute"}}, "spec": {},
            "status": {"capacity": has, "allocatable": has, "images": images,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}]}});
        cluster.create(NODES, "", node).unwrap();
    }
    for p in 0..POD_COUNT {
        let (set, node) = (p / REPLICAS, p % NODE_COUNT);
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{set}-7c9d"), "uid": format!("{set}"),
            "controller": true}]);
        let pod = json!({"metadata": {"name": format!("app-{set}-7c9d-{p}"), "ownerReferences": owner,
                "labels": {"app": format!("app-{set}"), "pod-template-hash": "7c9d"}},
            "spec": {"nodeName": format!("node-{node:04}"), "containers": [{"name": "c", "image": "registry/some/image:1",
                "env": [{"name": "A", "value": "some value or other"}, {"name": "B", "value": "some value or other"}],
                "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}}}]}});
        cluster.create(PODS, "default", pod).unwrap();
    }
    let file = std::env::temp_dir().join(format!("ebbtide-inventory-{}", std::process::id()));
    std::fs::write(&file, cluster.kubeconfig(ADMIN)).unwrap();
    let program = std::env::current_exe().unwrap();
    let arg = file.clone();
    let run = move || std::process::Command::new(program).arg(arg).status().unwrap();
    let status = ebbtide_runtime::tasks::blocking("follow", run).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(status.success());
}

/// Resident memory now and at most, in MB.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |key: &str| {
        let line = status.lines().find(|l| l.starts_with(key)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1000
    };
    (of("VmRSS:"), of("VmHWM:"))
}

async fn follow(kubeconfig: &str) {
    let client = connect::client(Some(kubeconfig.as_ref()), None).await.unwrap();
    let (empty, _) = memory();
    let mut tasks = Tasks::new();
    let begun = clock::now();
    let followed = Followed::start(&client, Rules::default(), &mut tasks);
    while !followed.is_complete() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let listed = clock::now().since(begun).as_secs_f64();
    let base = |n: &ClusterNode| Node::new(n.id.clone(), n.capacity.clone(), PowerCurve::line(40.0, 200.0));
    let mut state = FleetState::new();
    let mut apply = || {
        let begun = clock::now();
        let events = followed.events(&base);
        let n = events.len();
        for event in events {
            state.apply(Time::from_ms(clock::now().wall / 1_000_000), event);
        }
        (clock::now().since(begun).as_secs_f64() * 1000.0, n)
    };
    let (inventory, _) = memory();
    let (first_ms, first) = apply();
    let mut again: Vec<(f64, usize)> = (0..10).map(|_| apply()).collect();
    again.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (now, most) = memory();
    let begun = clock::now();
    let copy = state.clone();
    let cloned = clock::now().since(begun).as_secs_f64() * 1000.0;
    assert_eq!((copy.nodes.len(), copy.workloads.len(), copy.refused), (NODE_COUNT, POD_COUNT, 0));
    println!("{NODE_COUNT} nodes and {POD_COUNT} pods of {} templates", followed.inventory().templates());
    println!("listed in {listed:.1} s, {} MB more than before ({empty} MB)", inventory - empty);
    println!("told to the planner in {first_ms:.0} ms ({first} events); {now} MB with its state, {most} MB at most");
    println!(
        "again, with nothing new but that nodes were heard: {:.0} ms; a copy of the state takes {cloned:.0} ms",
        again[5].0
    );
    tasks.finish(Duration::from_secs(5)).await;
}
