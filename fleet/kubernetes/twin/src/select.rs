//! Label and field selectors.

use serde_json::Value;

use crate::failure::Failure;

/// What a list or a watch is limited to.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    labels: Vec<Term>,
    fields: Vec<Term>,
}

#[derive(Clone, Debug)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    In(String, Vec<String>, bool),
    There(String, bool),
}

impl Term {
    fn holds(&self, of: impl Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::Is(key, value) => of(key).as_ref() == Some(value),
            Self::IsNot(key, value) => of(key).as_ref() != Some(value),
            Self::In(key, values, wanted) => of(key).is_some_and(|v| values.contains(&v)) == *wanted,
            Self::There(key, wanted) => of(key).is_some() == *wanted,
        }
    }
}

impl Selector {
    /// Reads both; empty ones select everything.
    ///
    /// # Errors
    /// If one makes no sense.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self { labels: terms(labels)?, fields: terms(fields)? })
    }

    /// The selector of an object's `spec.selector`: `matchLabels` and `matchExpressions`.
    pub fn of(spec: &Value) -> Self {
        let mut labels = Vec::new();
        for (key, value) in spec["matchLabels"].as_object().into_iter().flatten() {
            labels.push(Term::Is(key.clone(), text(value)));
        }
        for e in spec["matchExpressions"].as_array().into_iter().flatten() {
            let key = text(&e["key"]);
            let values = e["values"].as_array().into_iter().flatten().map(text).collect();
            labels.push(match e["operator"].as_str() {
                Some("In") => Term::In(key, values, true),
                Some("NotIn") => Term::In(key, values, false),
                Some("Exists") => Term::There(key, true),
                _ => Term::There(key, false),
            });
        }
        Self { labels, fields: Vec::new() }
    }

    /// Whether `object` is selected.
    pub fn takes(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|t| t.holds(|key| labels.get(key).map(text)))
            && self.fields.iter().all(|t| t.holds(|path| Some(field(object, path))))
    }
}

/// The field at a dotted path; fields that aren't there count as empty.
fn field(object: &Value, path: &str) -> String {
    match path.split('.').try_fold(object, |at, part| at.get(part)) {
        Some(value) => text(value),
        None => String::new(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn terms(text: &str) -> Result<Vec<Term>, Failure> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        // a comma within brackets doesn't end a term
        let close = rest.find('(').filter(|open| !rest.get(..*open).unwrap_or("").contains(','));
        let end = match close {
            Some(open) => rest.get(open..).and_then(|r| r.find(')')).map(|n| open + n + 1),
            None => None,
        };
        let end = end.or_else(|| rest.find(',')).unwrap_or(rest.len());
        let (one, more) = rest.split_at(end);
        found.push(term(one.trim())?);
        rest = more.trim_start().trim_start_matches(',').trim_start();
    }
    Ok(found)
}

fn term(text: &str) -> Result<Term, Failure> {
    let pair = |(a, b): (&str, &str)| (a.trim().to_owned(), b.trim().to_owned());
    if let Some((head, list)) = text.split_once('(') {
        let values = list.trim_end_matches(')').split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next()) {
            (Some(key), Some("in")) => Ok(Term::In(key.to_owned(), values, true)),
            (Some(key), Some("notin")) => Ok(Term::In(key.to_owned(), values, false)),
            _ => Err(Failure::bad(format!("unable to parse requirement: {text}"))),
        };
    }
    if let Some(both) = text.split_once("!=") {
        let (key, value) = pair(both);
        return Ok(Term::IsNot(key, value));
    }
    if let Some(both) = text.split_once("==").or_else(|| text.split_once('=')) {
        let (key, value) = pair(both);
        return Ok(Term::Is(key, value));
    }
    Ok(match text.strip_prefix('!') {
        Some(key) => Term::There(key.trim().to_owned(), false),
        None => Term::There(text.to_owned(), true),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_select() {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        let takes = |labels: &str, fields: &str| Selector::parse(labels, fields).unwrap().takes(&pod);
        assert!(takes("", "") && takes("app=web,tier", "spec.nodeName=n1,status.phase!=Failed"));
        assert!(takes("app in (web, api),!gone", "metadata.name=a") && takes("app notin (api)", ""));
        assert!(!takes("app!=web", "") && !takes("app in (api,db),tier=front", "") && !takes("", "spec.nodeName="));
        assert!(Selector::parse("app of (x)", "").is_err());
    }
}
