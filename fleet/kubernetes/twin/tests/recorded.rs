//! Asks the twin what a real API server was asked, in the same order, and compares the answers.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use ebbtide_kubernetes_twin::{ADMIN, Cluster};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;

struct Answer {
    status: u16,
    retry_after: Option<String>,
    body: Vec<u8>,
}

async fn ask(cluster: &Cluster, token: Option<&str>, request: &Value) -> Answer {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.authority().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(cluster.address()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut built = Request::builder()
        .method(request["method"].as_str().unwrap())
        .uri(request["path"].as_str().unwrap())
        .header("host", "twin");
    if let Some(token) = token {
        built = built.header("authorization", format!("Bearer {token}"));
    }
    if let Some(content_type) = request["content_type"].as_str() {
        built = built.header("content-type", content_type);
    }
    let body = if request["body"].is_null() { String::new() } else { request["body"].to_string() };
    let asked = async {
        let response = sender.send_request(built.body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
        let body = to_bytes(Body::new(response.into_body()), 1 << 24).await.unwrap().to_vec();
        Answer { status, retry_after, body }
    };
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        _ = connection => asked.await,
    }
}

/// Replaces versions of the recording by the twin's wherever a request names them.
fn translated(value: &Value, versions: &BTreeMap<String, String>) -> Value {
    match value {
        Value::Object(map) => {
            let mut next = map.clone();
            for (key, inner) in &mut next {
                let known = inner.as_str().filter(|_| key == "resourceVersion").and_then(|v| versions.get(v));
                *inner = known.map_or_else(|| translated(inner, versions), |v| v.as_str().into());
            }
            next.into()
        }
        Value::Array(items) => items.iter().map(|i| translated(i, versions)).collect(),
        other => other.clone(),
    }
}

fn learn(recorded: &Value, twin: &Value, versions: &mut BTreeMap<String, String>) {
    for at in ["/metadata/resourceVersion", "/metadata/continue", "/metadata/uid"] {
        if let (Some(theirs), Some(ours)) = (recorded.pointer(at), twin.pointer(at)) {
            versions.insert(theirs.as_str().unwrap().to_owned(), ours.as_str().unwrap().to_owned());
        }
    }
}

/// What is another each time becomes the same; what is null is as good as absent.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let drawn = |k: &str| {
                ["resourceVersion", "uid", "continue"].contains(&k)
                    || k.ends_with("Timestamp")
                    || k.ends_with("Time")
                    || k == "timeAdded"
            };
            // the recording is without the one, and a controller adds the other when it comes to it
            let kept = |k: &str| k != "managedFields" && k != "node.alpha.kubernetes.io/ttl";
            let left = map.iter().filter(|(k, v)| !v.is_null() && kept(k));
            left.map(|(k, v)| (k.clone(), if drawn(k) { "…".into() } else { plain(v) }))
                .filter(|(_, v)| *v != json!({}))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        // a distribution's own addition
        Value::Array(items) => {
            items.iter().filter(|i| i["configMap"]["name"] != "openshift-service-ca.crt").map(plain).collect()
        }
        Value::String(text) if text.starts_with("kube-api-access-") => "kube-api-access".into(),
        Value::String(text) if text.starts_with("ebbtide-") && text.len() == 13 => "ebbtide-generated".into(),
        other => other.clone(),
    }
}

/// Texts that name versions or identities that differ from run to run.
fn without_numbers(value: &Value) -> Value {
    let mut value = plain(value);
    if let Some(Value::String(message)) = value.get_mut("message") {
        let words = message.split(' ').map(|w| {
            let drawn = w.trim_matches(|c: char| !c.is_ascii_alphanumeric()).len() == 36 || w.parse::<u64>().is_ok();
            if drawn { "…" } else { w }
        });
        *message = words.collect::<Vec<_>>().join(" ");
    }
    value
}

#[tokio::test]
async fn the_twin_answers_as_the_real_server_did() {
    let recording: Value = serde_json::from_str(include_str!("recorded/api-1.36.json")).unwrap();
    let cluster = Cluster::start(false).await.unwrap();
    let mut versions = BTreeMap::new();
    let mut compared = 0;
    for exchange in recording["exchanges"].as_array().unwrap() {
        let name = exchange["name"].as_str().unwrap();
        match name {
            // controllers and the scheduler had done their work before these
            "cordoned node"
            | "eviction refused by budget"
            | "service account absent?"
            | "server-side apply 1"
            | "node before stale update"
            | "pdb status" => cluster.settle(),
            "unschedulable pod status" => cluster.schedule_by(|_, _, _| None),
            // that event is the scheduler's own
            "scheduler events" => continue,
            _ => {}
        }
        let mut request = translated(&exchange["request"], &versions);
        let mut path = request["path"].as_str().unwrap().to_owned();
        for (theirs, ours) in &versions {
            for key in ["resourceVersion", "continue"] {
                path = path.replace(&format!("{key}={theirs}&"), &format!("{key}={ours}&"));
                if path.ends_with(&format!("{key}={theirs}")) {
                    path = path.replace(&format!("{key}={theirs}"), &format!("{key}={ours}"));
                }
            }
        }
        request["path"] = path.replace("timeoutSeconds=3", "timeoutSeconds=1").into();
        let token = (name != "unauthenticated").then_some(ADMIN);
        let answer = ask(&cluster, token, &request).await;
        let expected = &exchange["response"];
        let shown = String::from_utf8_lossy(&answer.body);
        assert_eq!(u64::from(answer.status), expected["status"].as_u64().unwrap(), "{name}: {shown}");
        assert_eq!(answer.retry_after.as_deref(), expected["headers"]["retry-after"].as_str(), "{name}");
        if let Some(events) = expected["watch_events"].as_array() {
            let verbs = |all: &[Value]| -> Vec<String> {
                all.iter().map(|e| format!("{} {}", e["type"], e["object"]["metadata"]["name"])).collect()
            };
            let told: Vec<Value> = shown.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert_eq!(verbs(&told), verbs(events), "{name}");
            compared += 1;
            continue;
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        learn(&expected["body"], &body, &mut versions);
        let (ours, theirs) = (without_numbers(&body), without_numbers(&expected["body"]));
        assert!(ours == theirs, "{name}:\n{ours:#}\n{theirs:#}");
        compared += 1;
    }
    assert_eq!(compared, 63);
}

#[tokio::test]
async fn a_token_is_needed_and_old_versions_are_gone() {
    let cluster = Cluster::start(true).await.unwrap();
    let get = |path: &str| json!({"method": "GET", "path": path});
    let answer = ask(&cluster, Some("nobody's"), &get("/api/v1/nodes")).await;
    assert_eq!(answer.status, 401);
    cluster.forget_history();
    let answer = ask(&cluster, Some(ADMIN), &get("/api/v1/pods?watch=1&resourceVersion=1")).await;
    let event: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    let answer = ask(&cluster, Some(ADMIN), &get("/apis/policy/v1")).await;
    let found: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(found["resources"][0]["name"], "poddisruptionbudgets");
}

#[tokio::test]
async fn a_set_replaces_what_was_evicted_elsewhere() {
    let cluster = Cluster::start(true).await.unwrap();
    cluster.add_node("a", 4, 8).unwrap();
    cluster.run_kubelets();
    cluster.schedule_by(ebbtide_kubernetes_twin::crew::first_fit);
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x",
        "resources": {"requests": {"cpu": "1"}}}]}});
    let kinds = ebbtide_kubernetes_twin::kinds::REPLICA_SETS;
    let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "template": template}});
    cluster.create(kinds, "default", set).unwrap();
    let pods = || cluster.list(ebbtide_kubernetes_twin::kinds::PODS, "default");
    assert!(pods().len() == 3 && pods().iter().all(|p| p["status"]["phase"] == "Running"));
    cluster.add_node("b", 4, 8).unwrap();
    cluster.patch(ebbtide_kubernetes_twin::kinds::NODES, "", "a", &json!({"spec": {"unschedulable": true}})).unwrap();
    let name = pods()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let eviction = json!({"method": "POST", "content_type": "application/json",
        "path": format!("/api/v1/namespaces/default/pods/{name}/eviction"),
        "body": {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}});
    assert_eq!(ask(&cluster, Some(ADMIN), &eviction).await.status, 201);
    let on = |node: &str| pods().iter().filter(|p| p["spec"]["nodeName"] == *node).count();
    assert_eq!((on("a"), on("b")), (2, 1));
}
