//! Patches: merge, strategic merge as far as our objects need it, and JSON patch.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// RFC 7396: members replace, null removes.
pub fn merge(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let map = object(target);
    for (key, value) in changes {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Lists whose items are merged by a key of theirs; all others are replaced.
const KEYED: &[(&str, &str)] = &[
    ("conditions", "type"),
    ("containerStatuses", "name"),
    ("containers", "name"),
    ("taints", "key"),
    ("addresses", "type"),
    ("ownerReferences", "uid"),
];

/// A strategic merge patch.
pub fn strategic(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let map = object(target);
    for (key, value) in changes.iter().filter(|(key, _)| !key.starts_with('$')) {
        let by = KEYED.iter().find(|(list, _)| list == key).map(|(_, by)| *by);
        match (value, by) {
            (Value::Null, _) => {
                map.remove(key);
            }
            (Value::Array(items), Some(by)) => list(map.entry(key.clone()).or_insert(Value::Null), items, by),
            _ => strategic(map.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

fn list(target: &mut Value, items: &[Value], by: &str) {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Some(have) = target.as_array_mut() else { return };
    for item in items.iter().filter(|i| i["$patch"] == "delete") {
        have.retain(|h| h[by] != item[by]);
    }
    // the patch's items come first, in its order
    let mut merged = Vec::with_capacity(have.len() + items.len());
    for item in items.iter().filter(|i| i["$patch"].is_null()) {
        let mut one = match have.iter().position(|h| h[by] == item[by]) {
            Some(at) => have.remove(at),
            None => Value::Null,
        };
        strategic(&mut one, item);
        merged.push(one);
    }
    merged.append(have);
    *have = merged;
}

/// RFC 6902.
///
/// # Errors
/// If a test fails or a path leads nowhere.
pub fn json_patch(target: &mut Value, operations: &Value) -> Result<(), Failure> {
    for op in operations.as_array().ok_or_else(Failure::unprocessable)? {
        step(target, op).ok_or_else(Failure::unprocessable)?;
    }
    Ok(())
}

fn step(target: &mut Value, op: &Value) -> Option<()> {
    let path = op["path"].as_str()?;
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    match op["op"].as_str()? {
        "test" => (target.pointer(path).unwrap_or(&Value::Null) == &op["value"]).then_some(()),
        "remove" => match target.pointer_mut(parent)? {
            Value::Object(map) => map.remove(&last).map(|_| ()),
            Value::Array(items) => {
                let at = last.parse::<usize>().ok().filter(|at| *at < items.len())?;
                items.remove(at);
                Some(())
            }
            _ => None,
        },
        verb @ ("add" | "replace") => match target.pointer_mut(parent)? {
            Value::Object(map) => {
                let there = map.insert(last, op["value"].clone()).is_some();
                (there || verb == "add").then_some(())
            }
            Value::Array(items) if verb == "add" => {
                let at = if last == "-" { items.len() } else { last.parse().ok()? };
                if at > items.len() {
                    return None;
                }
                items.insert(at, op["value"].clone());
                Some(())
            }
            Value::Array(items) => {
                *items.get_mut(last.parse::<usize>().ok()?)? = op["value"].clone();
                Some(())
            }
            _ => None,
        },
        _ => None,
    }
}

/// The members of `value`, which becomes an object if it isn't one.
pub fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn each_patch_does_what_it_says() {
        let start = json!({"a": {"b": 1, "c": 2}, "conditions": [{"type": "Ready", "status": "True", "x": 1}]});
        let mut v = start.clone();
        merge(&mut v, &json!({"a": {"b": null, "d": 3}, "conditions": []}));
        assert_eq!(v, json!({"a": {"c": 2, "d": 3}, "conditions": []}));
        let mut v = start.clone();
        strategic(&mut v, &json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "New"}]}));
        assert_eq!(v["conditions"], json!([{"type": "Ready", "status": "False", "x": 1}, {"type": "New"}]));
        let mut v = start;
        let ops = json!([{"op": "test", "path": "/a/b", "value": 1}, {"op": "replace", "path": "/a/b", "value": 5},
            {"op": "add", "path": "/conditions/-", "value": 7}, {"op": "remove", "path": "/a/c"}]);
        json_patch(&mut v, &ops).unwrap();
        assert_eq!((&v["a"], &v["conditions"][1]), (&json!({"b": 5}), &json!(7)));
        assert!(json_patch(&mut v, &json!([{"op": "test", "path": "/a/b", "value": 1}])).is_err());
    }
}
