//! What a request asks for.

use std::collections::BTreeMap;

use axum::http::Method;

use crate::kinds::{self, Kind};

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The kind of object.
    pub kind: &'static Kind,
    /// Its namespace; empty for all, or if it has none.
    pub namespace: String,
    /// One object.
    pub name: Option<String>,
    /// A part or an act of it: `status`, `eviction`, `binding`.
    pub sub: Option<String>,
}

impl Target {
    /// Reads a path; `None` if it is no path of objects.
    pub fn of(path: &str) -> Option<Self> {
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest != ["status"] => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, sub) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, sub] => (*plural, Some(*name), Some(*sub)),
            _ => return None,
        };
        let kind = kinds::find(group, version, plural)?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Self { kind, namespace: namespace.to_owned(), name: owned(name), sub: owned(sub) })
    }

    /// RBAC's verb for a method here.
    pub fn verb(&self, method: &Method, watch: bool) -> Option<&'static str> {
        Some(match (method, &self.name) {
            (&Method::GET, Some(_)) => "get",
            (&Method::GET, None) if watch => "watch",
            (&Method::GET, None) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, Some(_)) => "update",
            (&Method::PATCH, Some(_)) => "patch",
            (&Method::DELETE, Some(_)) => "delete",
            _ => return None,
        })
    }
}

/// The parameters behind the question mark.
pub fn query(text: &str) -> BTreeMap<String, String> {
    let pair = |one: &str| {
        let (key, value) = one.split_once('=').unwrap_or((one, ""));
        (decoded(&key.replace('+', " ")), decoded(&value.replace('+', " ")))
    };
    text.split('&').filter(|one| !one.is_empty()).map(pair).collect()
}

/// Percent-encoding undone.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = more.get(2..).unwrap_or(&[]);
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn paths_lead_to_objects() {
        let t = Target::of("/api/v1/namespaces/edge/pods/web-0/eviction").unwrap();
        assert_eq!((t.kind.name, t.namespace.as_str()), ("Pod", "edge"));
        assert_eq!((t.name.as_deref(), t.sub.as_deref()), (Some("web-0"), Some("eviction")));
        let t = Target::of("/api/v1/namespaces/edge").unwrap();
        assert_eq!((t.kind.name, t.name.as_deref(), t.namespace.as_str()), ("Namespace", Some("edge"), ""));
        assert_eq!(Target::of("/apis/policy/v1/poddisruptionbudgets").unwrap().kind.name, "PodDisruptionBudget");
        assert!(Target::of("/apis/policy/v2/poddisruptionbudgets").is_none() && Target::of("/metrics").is_none());
        assert_eq!(query("a=spec.nodeName%3Dn1&b&c=x+y")["a"], "spec.nodeName=n1");
    }
}
