//! Whether a node takes a pod: the few rules that the twin's scheduler knows.

use std::sync::Arc;

use serde_json::Value;

/// Thousandths of a unit in a quantity such as `500m`, `2`, `1Gi`.
pub fn milli(quantity: &Value) -> u64 {
    let text = quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned);
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "m" => 1,
        "k" => 1_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => 1000,
    };
    number.parse::<u64>().unwrap_or(0).saturating_mul(factor)
}

/// Thousandths of a resource that a pod asks for.
fn asks(pod: &Value, what: &str) -> u64 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.map(|c| milli(&c["resources"]["requests"][what])).sum()
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    pod["spec"]["tolerations"].as_array().into_iter().flatten().any(|t| {
        let key = t["key"].is_null() || t["key"] == taint["key"];
        let value =
            t["operator"] == "Exists" || t["value"].as_str().unwrap_or("") == taint["value"].as_str().unwrap_or("");
        let effect = t["effect"].is_null() || t["effect"] == taint["effect"];
        key && value && effect
    })
}

/// Whether `node` takes `pod` beside the `pods` that it has.
pub fn takes(node: &Value, pod: &Value, pods: &[Arc<Value>]) -> bool {
    let labels = &node["metadata"]["labels"];
    let selected = pod["spec"]["nodeSelector"].as_object().into_iter().flatten().all(|(k, v)| labels[k] == *v);
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let mut keep_away = taints.filter(|t| t["effect"] != "PreferNoSchedule");
    if !selected || keep_away.any(|t| !tolerates(pod, t)) {
        return false;
    }
    let name = &node["metadata"]["name"];
    let over = |p: &Value| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    ["cpu", "memory"].iter().all(|what| {
        let used: u64 = pods.iter().filter(|p| p["spec"]["nodeName"] == *name && !over(p)).map(|p| asks(p, what)).sum();
        used + asks(pod, what) <= milli(&node["status"]["allocatable"][what])
    })
}
