//! What the server adds to objects when they are made, and what it refuses.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kinds::{BUDGETS, EVENTS, Kind, NAMESPACES, NODES, PODS};
use crate::patch::object;

/// Puts `value` at `key` unless something is there.
fn default(map: &mut Value, key: &str, value: Value) {
    object(map).entry(key.to_owned()).or_insert(value);
}

/// Completes a new object.
///
/// # Errors
/// If it can't be.
pub fn complete(kind: &Kind, name: &str, made: &mut Value, number: u64) -> Result<(), Failure> {
    if kind == PODS {
        pod(name, made, number)?;
    } else if kind == NODES {
        node(made);
    } else if kind == NAMESPACES {
        object(&mut made["metadata"]["labels"]).insert("kubernetes.io/metadata.name".to_owned(), name.into());
        default(&mut made["spec"], "finalizers", json!(["kubernetes"]));
        default(&mut made["status"], "phase", "Active".into());
    } else if kind == BUDGETS {
        made["metadata"]["generation"] = 1.into();
        made["status"] = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    } else if kind == EVENTS {
        for (key, value) in [("eventTime", Value::Null), ("reportingComponent", "".into()), ("source", json!({}))] {
            default(made, key, value);
        }
        default(made, "reportingInstance", "".into());
    }
    Ok(())
}

fn node(made: &mut Value) {
    if !made["spec"]["unschedulable"].is_null() && made["spec"]["unschedulable"] == false {
        object(&mut made["spec"]).remove("unschedulable");
    }
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let taints = object(&mut made["spec"]).entry("taints").or_insert_with(|| json!([]));
    if let Some(list) = taints.as_array_mut() {
        list.push(taint);
    }
    default(&mut made["status"], "daemonEndpoints", json!({"kubeletEndpoint": {"Port": 0}}));
    default(
        &mut made["status"],
        "nodeInfo",
        json!({"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
            "architecture": ""}),
    );
}

fn is_name(name: &str) -> bool {
    let part = |p: &str| {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !p.is_empty() && p.chars().all(fine) && !p.starts_with('-') && !p.ends_with('-')
    };
    name.split('.').all(part)
}

fn pod(name: &str, made: &mut Value, number: u64) -> Result<(), Failure> {
    let mut causes = Vec::new();
    if !is_name(name) {
        let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
            and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
            '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        causes.push(("FieldValueInvalid", "metadata.name", format!("Invalid value: {name:?}: {rule}")));
    }
    if made["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        causes.push(("FieldValueRequired", "spec.containers", "Required value".to_owned()));
    }
    if !causes.is_empty() {
        return Err(Failure::invalid(PODS, name, &causes));
    }
    let volume = format!("kube-api-access-{}", letters(number));
    let mount = json!({"name": volume, "readOnly": true,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    for container in made["spec"]["containers"].as_array_mut().into_iter().flatten() {
        default(container, "terminationMessagePath", "/dev/termination-log".into());
        default(container, "terminationMessagePolicy", "File".into());
        default(container, "imagePullPolicy", "Always".into());
        default(container, "resources", json!({}));
        if let Some(mounts) = object(container).entry("volumeMounts").or_insert_with(|| json!([])).as_array_mut() {
            mounts.push(mount.clone());
        }
    }
    let token = json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}});
    let spec = &mut made["spec"];
    if let Some(volumes) = object(spec).entry("volumes").or_insert_with(|| json!([])).as_array_mut() {
        volumes.push(token);
    }
    for (key, value) in [
        ("restartPolicy", "Always".into()),
        ("terminationGracePeriodSeconds", 30.into()),
        ("dnsPolicy", "ClusterFirst".into()),
        ("serviceAccountName", "default".into()),
        ("serviceAccount", "default".into()),
        ("securityContext", json!({})),
        ("schedulerName", "default-scheduler".into()),
        ("priority", 0.into()),
        ("enableServiceLinks", true.into()),
        ("preemptionPolicy", "PreemptLowerPriority".into()),
    ] {
        default(spec, key, value);
    }
    made["metadata"]["generation"] = 1.into();
    let asks = |c: &Value| c["resources"]["requests"].is_object() || c["resources"]["limits"].is_object();
    let class = match made["spec"]["containers"].as_array().into_iter().flatten().any(asks) {
        true => "Burstable",
        false => "BestEffort",
    };
    made["status"] = json!({"phase": "Pending", "qosClass": class});
    Ok(())
}

/// Five letters and digits that stand for a number, as the server puts behind a generated name.
pub fn letters(number: u64) -> String {
    const SOME: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut left = number;
    let mut text = String::new();
    for _ in 0..5 {
        let at = usize::try_from(left % SOME.len() as u64).unwrap_or(0);
        text.push(char::from(SOME.get(at).copied().unwrap_or(b'x')));
        left /= SOME.len() as u64;
    }
    text
}
