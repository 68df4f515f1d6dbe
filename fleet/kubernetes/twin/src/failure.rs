//! Answers that say no, with the bodies of the real server.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// A `Status` that says what went wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The HTTP status.
    pub code: u16,
    /// Kubernetes' word for it.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it is about.
    pub details: Option<Value>,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: String, details: Value) -> Self {
        Self { code, reason, message, details: Some(details) }
    }

    /// The body.
    pub fn body(&self) -> Value {
        let mut body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code});
        if let (Some(details), Some(map)) = (&self.details, body.as_object_mut()) {
            map.insert("details".to_owned(), details.clone());
        }
        body
    }

    /// Seconds after which to come back.
    pub fn retry_after(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64()
    }

    /// Nobody that is known.
    pub fn unauthorized() -> Self {
        Self { code: 401, reason: "Unauthorized", message: "Unauthorized".to_owned(), details: None }
    }

    /// Somebody who may not.
    pub fn forbidden(user: &str, verb: &str, kind: &Kind, place: (Option<&str>, Option<&str>)) -> Self {
        let (namespace, name) = place;
        let scope = match namespace {
            Some(ns) => format!("in the namespace {ns:?}"),
            None => "at the cluster scope".to_owned(),
        };
        let what = match name {
            Some(name) => format!("{} {name:?} is forbidden", kind.qualified()),
            None => format!("{} is forbidden", kind.qualified()),
        };
        let message = format!(
            "{what}: User {user:?} cannot {verb} resource {:?} in API group {:?} {scope}",
            kind.plural, kind.group
        );
        Self::new(403, "Forbidden", message, about(kind, name))
    }

    /// No such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.qualified()), about(kind, Some(name)))
    }

    /// No such path.
    pub fn no_path() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        Self::new(404, "NotFound", message, json!({}))
    }

    /// There is one already.
    pub fn exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.qualified());
        Self::new(409, "AlreadyExists", message, about(kind, Some(name)))
    }

    /// Somebody else was faster.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please apply your changes to \
             the latest version and try again",
            kind.qualified()
        );
        Self::new(409, "Conflict", message, about(kind, Some(name)))
    }

    /// The object of that name is another one.
    pub fn other_uid(kind: &Kind, name: &str, wanted: &str, found: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the UID in the precondition ({wanted}) does not match the \
             UID in record ({found}). The object might have been deleted and then recreated",
            kind.name
        );
        Self::new(409, "Conflict", message, json!({"name": name, "kind": kind.name}))
    }

    /// The pod has a node already.
    pub fn bound(name: &str, node: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on pods/binding {name:?}: pod {name} is already assigned to node {node:?}"
        );
        Self::new(409, "Conflict", message, json!({"name": name, "kind": "pods/binding"}))
    }

    /// Others own these fields; pairs of owner and field.
    pub fn owned(conflicts: &[(String, String)]) -> Self {
        let list: Vec<String> =
            conflicts.iter().map(|(who, field)| format!("conflict with {who:?}: {field}")).collect();
        let message = match list.as_slice() {
            [one] => format!("Apply failed with 1 conflict: {one}"),
            many => format!("Apply failed with {} conflicts: {}", many.len(), many.join("; ")),
        };
        let cause = |(who, field): &(String, String)| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {who:?}"), "field": field});
        let causes: Vec<Value> = conflicts.iter().map(cause).collect();
        Self::new(409, "Conflict", message, json!({"causes": causes}))
    }

    /// The version asked for is forgotten.
    pub fn expired(message: String) -> Self {
        Self { code: 410, reason: "Expired", message, details: None }
    }

    /// The version asked for is not there yet.
    pub fn too_new(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        Self::new(504, "Timeout", message, json!({"causes": causes, "retryAfterSeconds": 1}))
    }

    /// A budget forbids it.
    pub fn budget(why: String, retry_s: Option<u64>) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
        let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
        if let (Some(s), Some(map)) = (retry_s, details.as_object_mut()) {
            map.insert("retryAfterSeconds".to_owned(), s.into());
        }
        Self::new(429, "TooManyRequests", message, details)
    }

    /// Fields that are wrong: reason, field and what is said of it.
    pub fn invalid(kind: &Kind, name: &str, causes: &[(&str, &str, String)]) -> Self {
        let all: Vec<String> = causes.iter().map(|(_, field, why)| format!("{field}: {why}")).collect();
        let told = if let [one] = all.as_slice() { one.clone() } else { format!("[{}]", all.join(", ")) };
        let listed: Vec<Value> =
            causes.iter().map(|(r, field, why)| json!({"reason": r, "message": why, "field": field})).collect();
        let message = format!("{} {name:?} is invalid: {told}", kind.name);
        Self::new(422, "Invalid", message, json!({"name": name, "kind": kind.name, "causes": listed}))
    }

    /// A patch that doesn't apply.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request".to_owned();
        Self::new(422, "Invalid", message, json!({}))
    }

    /// A request that can't be read.
    pub fn bad(message: impl Into<String>) -> Self {
        Self { code: 400, reason: "BadRequest", message: message.into(), details: None }
    }

    /// A verb that the path doesn't have.
    pub fn method() -> Self {
        let message = "the server does not allow this method on the requested resource".to_owned();
        Self::new(405, "MethodNotAllowed", message, json!({}))
    }

    /// A body of a kind that isn't taken.
    pub fn media(content_type: &str) -> Self {
        let message = format!("the body of the request was in an unknown format ({content_type:?})");
        Self::new(415, "UnsupportedMediaType", message, json!({}))
    }

    /// A fault that a test asked for.
    pub fn asked_for(code: u16) -> Self {
        let reason = match code {
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        Self { code, reason, message: "a test asked for this failure".to_owned(), details: None }
    }
}

/// Details of an object.
fn about(kind: &Kind, name: Option<&str>) -> Value {
    let mut details = Map::new();
    if let Some(name) = name {
        details.insert("name".to_owned(), name.into());
    }
    if !kind.group.is_empty() {
        details.insert("group".to_owned(), kind.group.into());
    }
    details.insert("kind".to_owned(), kind.plural.into());
    Value::Object(details)
}
