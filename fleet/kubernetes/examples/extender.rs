//! How long the extender takes to answer for a thousand nodes, by name and as whole objects:
//! `cargo run --release -p ebbtide-kubernetes --example extender`
#![allow(clippy::unwrap_used, reason = "an example")]

use std::collections::BTreeSet;

use ebbtide_kubernetes::convert::Rules;
use ebbtide_kubernetes::extender::account::Account;
use ebbtide_kubernetes::extender::filtered;
use ebbtide_kubernetes::extender::view::View;
use ebbtide_kubernetes::extender::wire::Arguments;
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::Node;
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::NodeId;
use ebbtide_runtime::clock;
use serde_json::{Value, json};

fn main() {
    let mut state = FleetState::new();
    let names: Vec<String> = (0..1000).map(|i| format!("node-{i:04}")).collect();
    for (i, name) in names.iter().enumerate() {
        let curve = PowerCurve::line(40.0 + (i % 50) as f64, 200.0);
        let node = Node::new(NodeId::new(name).unwrap(), Resources::new(32_000, 1 << 37), curve);
        state.apply(Time::from_secs(1), Event::NodeSeen(Box::new(node)));
    }
    let view = View::of(&state, None, &BTreeSet::new(), 0);
    let pod = json!({"metadata": {"name": "p", "namespace": "shop", "uid": "u"}, "spec": {"containers":
        [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]}});
    // about as long as real ones, most of which is images and managed fields
    let image = |i: usize| json!({"names": [format!("registry/some/image@sha256:{i:064}")], "sizeBytes": 123_456_789});
    let images: Vec<Value> = (0..50).map(image).collect();
    let object =
        |name: &String| json!({"metadata": {"name": name, "labels": {"a": "b"}}, "status": {"images": images}});
    let items: Vec<Value> = names.iter().map(object).collect();
    let by_name = json!({"Pod": pod, "Nodes": null, "NodeNames": names}).to_string();
    let whole = json!({"Pod": pod, "Nodes": {"items": items}, "NodeNames": null}).to_string();
    for (how, body) in [("by name", by_name), ("as objects", whole)] {
        let mut took: Vec<f64> = (0..500).map(|_| once(&view, body.as_bytes())).collect();
        took.sort_by(f64::total_cmp);
        println!(
            "1000 nodes {how}, {} kB: filter and prioritize take {:.2} ms, p99 {:.2} ms",
            body.len() / 1000,
            took[250],
            took[495]
        );
    }
}

/// Milliseconds of one filter and one prioritize.
fn once(view: &View, body: &[u8]) -> f64 {
    let rules = Rules::default();
    let mut account = Account::default();
    for i in 0..200 {
        account.direct(&format!("p{i}"), &format!("node-{i:04}"), &Resources::new(500, 1 << 30), 0);
    }
    let before = clock::now();
    let arguments = Arguments::read(body).unwrap();
    let filtered = serde_json::to_string(&filtered(view, &account, &arguments, &rules, 0)).unwrap();
    let arguments = Arguments::read(body).unwrap();
    let scores =
        serde_json::to_string(&view.scores(&account, &arguments.asked(&rules), &arguments.names(), 0)).unwrap();
    assert!(!filtered.is_empty() && !scores.is_empty());
    clock::now().since(before).as_secs_f64() * 1000.0
}
