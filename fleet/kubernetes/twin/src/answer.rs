//! One request, one answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::cluster::Shared;
use crate::failure::Failure;
use crate::kinds;
use crate::request::{Target, query};
use crate::rights;
use crate::select::Selector;
use crate::watch::{Events, Start};
use crate::world::{Patch, shown, storage};

/// A request whose body has been read.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

type Parameters = BTreeMap<String, String>;

/// Answers.
pub fn answer(shared: &Arc<Shared>, request: &Request) -> Response<Body> {
    match try_answer(shared, request) {
        Ok(response) => response,
        Err(failure) => refusal(&failure),
    }
}

/// The answer that says no.
pub fn refusal(failure: &Failure) -> Response<Body> {
    let mut response = written(failure.code, &failure.body());
    if let Some(s) = failure.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(s));
    }
    response
}

fn written(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn success(code: u16) -> Response<Body> {
    written(code, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}))
}

fn is(parameters: &Parameters, key: &str) -> bool {
    parameters.get(key).is_some_and(|v| v == "true" || v == "1")
}

fn try_answer(shared: &Arc<Shared>, request: &Request) -> Result<Response<Body>, Failure> {
    let text = |name| request.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let token = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
    let rights = shared.rights();
    let (user, rules) = rights.user(token)?;
    if let Some(body) = discovery(&request.path) {
        return Ok(written(200, &body));
    }
    if request.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
        return review(rules, &request.body);
    }
    let target = Target::of(&request.path).ok_or_else(Failure::no_path)?;
    let parameters = query(&request.query);
    let watch = is(&parameters, "watch");
    let verb = target.verb(&request.method, watch).ok_or_else(Failure::method)?;
    if !rights::allows(rules, verb, target.kind, target.sub.as_deref()) {
        let namespace = Some(target.namespace.as_str()).filter(|ns| !ns.is_empty());
        return Err(Failure::forbidden(&user, verb, target.kind, (namespace, target.name.as_deref())));
    }
    drop(rights);
    let agent = text(header::USER_AGENT).and_then(|a| a.split('/').next()).unwrap_or("unknown");
    let manager = parameters.get("fieldManager").map_or(agent, String::as_str).to_owned();
    match verb {
        "list" => list(shared, &target, &parameters),
        "watch" => begin_watch(shared, target, &parameters),
        _ => one(shared, &target, &parameters, request, verb, &manager),
    }
}

fn one(
    shared: &Arc<Shared>,
    target: &Target,
    parameters: &Parameters,
    request: &Request,
    verb: &str,
    manager: &str,
) -> Result<Response<Body>, Failure> {
    let (kind, namespace) = (target.kind, target.namespace.as_str());
    let name = target.name.as_deref().unwrap_or("");
    let dry = parameters.contains_key("dryRun");
    let body: Value = if request.body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&request.body).map_err(|e| Failure::bad(format!("the body is no JSON: {e}")))?
    };
    let status = match target.sub.as_deref() {
        None => false,
        Some("status") => true,
        Some("binding" | "eviction") if verb == "create" => false,
        Some(_) => return Err(Failure::no_path()),
    };
    let mut world = shared.change();
    let answer = match (verb, target.sub.as_deref()) {
        ("create", Some("binding")) => {
            world.bind(namespace, name, body["target"]["name"].as_str().unwrap_or(""))?;
            return Ok(success(201));
        }
        ("create", Some("eviction")) => {
            world.evict(namespace, name, &body, dry)?;
            return Ok(success(201));
        }
        ("create", None) if target.name.is_none() => {
            let made = world.create(kind, namespace, body, manager, dry)?;
            return Ok(written(201, &shown(kind, &made)));
        }
        ("get", _) => world.get(kind, namespace, name)?,
        ("update", _) => world.replace(kind, namespace, name, body, manager, status)?,
        ("patch", _) => {
            let content_type = request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
            let how = match content_type {
                "application/merge-patch+json" => Patch::Merge,
                "application/strategic-merge-patch+json" => Patch::Strategic,
                "application/json-patch+json" => Patch::Json,
                "application/apply-patch+yaml" if parameters.contains_key("fieldManager") => {
                    Patch::Apply { force: is(parameters, "force") }
                }
                other => return Err(Failure::media(other)),
            };
            world.patch(kind, (namespace, name), &how, &body, manager, status)?
        }
        ("delete", _) => {
            let mut options = body;
            if let Some(grace) = parameters.get("gracePeriodSeconds").and_then(|g| g.parse::<u64>().ok()) {
                options["gracePeriodSeconds"] = grace.into();
            }
            let gone = world.delete(kind, namespace, name, &options)?;
            return Ok(written(200, &gone));
        }
        _ => return Err(Failure::method()),
    };
    Ok(written(200, &shown(kind, &answer)))
}

fn selector(parameters: &Parameters) -> Result<Selector, Failure> {
    let text = |key: &str| parameters.get(key).map_or("", String::as_str);
    Selector::parse(text("labelSelector"), text("fieldSelector"))
}

fn version(parameters: &Parameters) -> Result<Option<u64>, Failure> {
    match parameters.get("resourceVersion").map(String::as_str) {
        None | Some("" | "0") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Failure::bad(format!("invalid resource version {text:?}"))),
    }
}

fn list(shared: &Arc<Shared>, target: &Target, parameters: &Parameters) -> Result<Response<Body>, Failure> {
    let kind = target.kind;
    let selector = selector(parameters)?;
    let limit = parameters.get("limit").and_then(|l| l.parse::<usize>().ok()).filter(|l| *l > 0);
    let from = parameters.get("continue").filter(|c| !c.is_empty());
    let world = shared.world();
    let current = world.store.version();
    let (at, after) = match from {
        Some(token) => {
            let bad = || Failure::bad("continue key is not valid");
            let mut parts = token.splitn(3, '/');
            let at = parts.next().and_then(|v| v.parse::<u64>().ok()).ok_or_else(bad)?;
            let place = parts.next().zip(parts.next()).ok_or_else(bad)?;
            (at, Some((place.0.to_owned(), place.1.to_owned())))
        }
        None => match version(parameters)? {
            Some(asked) if asked > current => return Err(Failure::too_new(asked, current)),
            Some(asked) if parameters.get("resourceVersionMatch").is_some_and(|m| m == "Exact") => (asked, None),
            _ => (current, None),
        },
    };
    let all = world.store.all_at(storage(kind), &target.namespace, at)?;
    drop(world);
    let selected: Vec<_> = all.iter().filter(|(_, o)| selector.takes(o)).collect();
    let begin = after.as_ref().map_or(0, |(ns, name)| selected.partition_point(|(k, _)| (&k.1, &k.2) <= (ns, name)));
    let left = selected.get(begin..).unwrap_or(&[]);
    let page = left.get(..limit.unwrap_or(left.len()).min(left.len())).unwrap_or(&[]);
    let bare = |object: &Value| {
        let mut item = shown(kind, object);
        for redundant in ["kind", "apiVersion"] {
            crate::patch::object(&mut item).remove(redundant);
        }
        item
    };
    let items: Vec<Value> = page.iter().map(|(_, object)| bare(object)).collect();
    let mut meta = json!({"resourceVersion": at.to_string()});
    if let Some((last, _)) = page.last().filter(|_| page.len() < left.len()) {
        meta["continue"] = format!("{at}/{}/{}", last.1, last.2).into();
        if !["labelSelector", "fieldSelector"].iter().any(|s| parameters.contains_key(*s)) {
            meta["remainingItemCount"] = (left.len() - page.len()).into();
        }
    }
    let body = json!({"kind": format!("{}List", kind.name), "apiVersion": kind.api_version(), "metadata": meta,
        "items": items});
    Ok(written(200, &body))
}

fn begin_watch(shared: &Arc<Shared>, target: Target, parameters: &Parameters) -> Result<Response<Body>, Failure> {
    let selector = selector(parameters)?;
    let initial = is(parameters, "sendInitialEvents");
    let timeout = parameters.get("timeoutSeconds").and_then(|t| t.parse::<u64>().ok()).filter(|t| *t > 0);
    let start = Start {
        after: if initial { None } else { version(parameters)? },
        mark: initial,
        bookmarks: is(parameters, "allowWatchBookmarks"),
        timeout: timeout.map(Duration::from_secs),
    };
    let events = Events::new(Arc::clone(shared), target, selector, start);
    let mut response = Response::new(Body::from_stream(events));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn review(rules: &[rights::Rule], body: &[u8]) -> Result<Response<Body>, Failure> {
    let mut review: Value = serde_json::from_slice(body).map_err(|e| Failure::bad(e.to_string()))?;
    let asked = &review["spec"]["resourceAttributes"];
    let text = |key: &str| asked[key].as_str().unwrap_or("");
    let kind = kinds::ALL.iter().find(|k| k.group == text("group") && k.plural == text("resource"));
    let sub = Some(text("subresource")).filter(|s| !s.is_empty());
    let allowed = kind.is_some_and(|k| rights::allows(rules, text("verb"), k, sub));
    review["metadata"] = json!({});
    review["status"] = json!({"allowed": allowed});
    Ok(written(201, &review))
}

/// What the server says about itself.
fn discovery(path: &str) -> Option<Value> {
    let versions = |group: &str| json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
    match path {
        "/version" => Some(json!({"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
            "minCompatibilityMajor": "1", "minCompatibilityMinor": "35", "gitVersion": "v1.36.2",
            "gitCommit": "$Format:%H$", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "go1.27.3", "compiler": "gc", "platform": "linux/amd64"})),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => {
            let mut groups: Vec<&str> = kinds::ALL.iter().map(|k| k.group).filter(|g| !g.is_empty()).collect();
            groups.dedup();
            let one = |g: &str| json!({"name": g, "versions": [versions(g)], "preferredVersion": versions(g)});
            let groups: Vec<Value> = groups.into_iter().map(one).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        _ => {
            let (group, version) = match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
                ["api", version] => ("", (*version).to_owned()),
                ["apis", group, version] => (*group, format!("{group}/{version}")),
                _ => return None,
            };
            let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
            let list: Vec<Value> = kinds::ALL
                .iter()
                .filter(|k| k.group == group && k.api_version() == version)
                .map(|k| {
                    json!({"name": k.plural, "singularName": k.name.to_lowercase(), "namespaced": k.namespaced,
                        "kind": k.name, "verbs": verbs})
                })
                .collect();
            (!list.is_empty()).then(
                || json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list}),
            )
        }
    }
}
