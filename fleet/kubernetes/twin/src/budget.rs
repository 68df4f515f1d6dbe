//! Disruption budgets: what the controller counts, and what an eviction takes.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kinds::{BUDGETS, PODS, REPLICA_SETS};
use crate::select::Selector;
use crate::store::{Key, key};
use crate::world::World;

/// Whether the pod's condition `Ready` is true.
pub fn is_ready(pod: &Value) -> bool {
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    pod["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(ready))
}

/// Takes one disruption for `pod`, or says why not.
///
/// # Errors
/// 429 with the budget that forbids it; 500 if there are two.
pub fn take(world: &mut World, namespace: &str, pod: &Value, dry: bool) -> Result<(), Failure> {
    let over: Vec<(Key, Arc<Value>)> = world
        .store
        .all(BUDGETS, namespace)
        .filter(|(_, b)| Selector::of(&b["spec"]["selector"]).takes(pod))
        .map(|(k, b)| (k.clone(), Arc::clone(b)))
        .collect();
    let (at, budget) = match over.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not \
                support."
                .to_owned();
            return Err(Failure { code: 500, reason: "InternalError", message, details: None });
        }
    };
    let (status, name) = (&budget["status"], budget["metadata"]["name"].as_str().unwrap_or(""));
    if status["observedGeneration"].as_u64() < budget["metadata"]["generation"].as_u64() {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Failure::budget(why, Some(10)));
    }
    let number = |key: &str| status[key].as_i64().unwrap_or(0);
    let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if !is_ready(pod) && (always || (healthy >= desired && desired > 0)) {
        return Ok(());
    }
    if number("disruptionsAllowed") <= 0 {
        let why = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        return Err(Failure::budget(why, None));
    }
    if !dry {
        let (pod, time) = (pod["metadata"]["name"].as_str().unwrap_or("").to_owned(), world.time());
        world.edit(at, |b| {
            b["status"]["disruptionsAllowed"] = (b["status"]["disruptionsAllowed"].as_i64().unwrap_or(1) - 1).into();
            b["status"]["disruptedPods"][pod] = time.into();
        });
    }
    Ok(())
}

/// Counts anew what all budgets allow.
pub fn count(world: &mut World) {
    for (at, budget) in world.every(BUDGETS) {
        let selector = Selector::of(&budget["spec"]["selector"]);
        let mut disrupted = budget["status"]["disruptedPods"].as_object().cloned().unwrap_or_default();
        let (mut all, mut healthy, mut replicas) = (0_i64, 0_i64, 0_i64);
        let mut owners = std::collections::BTreeSet::new();
        let mut there = std::collections::BTreeSet::new();
        for (pod_key, pod) in world.store.all(PODS, &at.1).filter(|(_, p)| selector.takes(p)) {
            all += 1;
            let ending = !pod["metadata"]["deletionTimestamp"].is_null();
            if !ending {
                there.insert(pod_key.2.clone());
            }
            if is_ready(pod) && !ending && !disrupted.contains_key(&pod_key.2) {
                healthy += 1;
            }
            let owner = pod["metadata"]["ownerReferences"][0]["name"].as_str();
            let set = owner.and_then(|o| world.store.get(&key(REPLICA_SETS, &at.1, o)));
            match set.map(|s| s["spec"]["replicas"].as_i64().unwrap_or(1)) {
                Some(n) if owners.insert(owner.map(str::to_owned)) => replicas += n,
                Some(_) => {}
                None => replicas += 1,
            }
        }
        // the entry bridges the time until the pod is seen ending
        disrupted.retain(|name, _| there.contains(name));
        let share = |v: &Value, of: i64| match v.as_str().and_then(|t| t.strip_suffix('%')) {
            Some(percent) => (of * percent.parse::<i64>().unwrap_or(0) + 99) / 100,
            None => v.as_i64().unwrap_or(0),
        };
        let spec = &budget["spec"];
        let (expected, desired) = if spec["maxUnavailable"].is_null() {
            let expected = if spec["minAvailable"].is_string() { replicas } else { all };
            (expected, share(&spec["minAvailable"], expected))
        } else {
            (replicas, (replicas - share(&spec["maxUnavailable"], replicas)).max(0))
        };
        let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
        let (reason, yes) = if allowed > 0 { ("SufficientPods", "True") } else { ("InsufficientPods", "False") };
        let generation = budget["metadata"]["generation"].clone();
        let before = &budget["status"]["conditions"][0];
        let since = if before["status"] == yes { before["lastTransitionTime"].clone() } else { world.time().into() };
        let mut status = json!({"observedGeneration": generation, "disruptionsAllowed": allowed,
            "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected,
            "conditions": [{"type": "DisruptionAllowed", "status": yes, "observedGeneration": generation,
                "lastTransitionTime": since, "reason": reason, "message": ""}]});
        if !disrupted.is_empty() {
            status["disruptedPods"] = disrupted.into();
        }
        world.edit(&at, |b| b["status"] = status);
    }
}
