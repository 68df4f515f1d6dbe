//! Who owns which field: server-side apply and its conflicts.
//!
//! Lists are owned as a whole, as the server does with a node's taints.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::kinds::Kind;
use crate::patch::object;

type Path = Vec<String>;

/// Someone who wrote fields: their name, and whether by apply.
type Owner = (String, bool);

/// Fields that the server keeps itself.
const OF_THE_SERVER: &[&str] =
    &["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "name", "namespace"];

fn leaves(value: &Value, at: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, inner) in map {
                let of_server = at.len() == 1 && at.first().is_some_and(|p| p == "metadata");
                if (of_server && OF_THE_SERVER.contains(&key.as_str()))
                    || (at.is_empty() && (key == "kind" || key == "apiVersion"))
                {
                    continue;
                }
                at.push(key.clone());
                leaves(inner, at, found);
                at.pop();
            }
        }
        _ => {
            found.insert(at.clone(), value.clone());
        }
    }
}

fn all_leaves(value: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    leaves(value, &mut Vec::new(), &mut found);
    found
}

fn owners(of: &Value) -> BTreeMap<Owner, BTreeSet<Path>> {
    let mut found = BTreeMap::new();
    for entry in of["metadata"]["managedFields"].as_array().into_iter().flatten() {
        let mut paths = BTreeSet::new();
        read(&entry["fieldsV1"], &mut Vec::new(), &mut paths);
        let name = entry["manager"].as_str().unwrap_or("").to_owned();
        found.insert((name, entry["operation"] == "Apply"), paths);
    }
    found
}

fn read(fields: &Value, at: &mut Path, found: &mut BTreeSet<Path>) {
    match fields.as_object() {
        Some(map) if !map.is_empty() => {
            for (key, inner) in map {
                let Some(name) = key.strip_prefix("f:") else { continue };
                at.push(name.to_owned());
                read(inner, at, found);
                at.pop();
            }
        }
        _ => {
            found.insert(at.clone());
        }
    }
}

fn write(to: &mut Value, owners: &BTreeMap<Owner, BTreeSet<Path>>, kind: &Kind, time: &str) {
    let before = to["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let entry = |((name, apply), paths): (&Owner, &BTreeSet<Path>)| {
        let mut fields = Value::Object(Map::new());
        for path in paths {
            let mut at = &mut fields;
            for part in path {
                at = object(at).entry(format!("f:{part}")).or_insert_with(|| json!({}));
            }
        }
        let operation = if *apply { "Apply" } else { "Update" };
        let same = before.iter().find(|b| b["manager"] == *name && b["operation"] == operation);
        let when = match same {
            Some(same) if same["fieldsV1"] == fields => same["time"].clone(),
            _ => time.into(),
        };
        json!({"manager": name, "operation": operation, "apiVersion": kind.api_version(), "time": when,
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    };
    let entries: Vec<Value> = owners.iter().filter(|(_, paths)| !paths.is_empty()).map(entry).collect();
    object(&mut to["metadata"]).insert("managedFields".to_owned(), entries.into());
}

/// Notes that `manager` changed `before` into `after` without apply: what it changed is its own now.
pub fn updated(kind: &Kind, before: &Value, after: &mut Value, manager: &str, time: &str) {
    let (old, new) = (all_leaves(before), all_leaves(after));
    let mut owners = owners(before);
    let changed: BTreeSet<Path> =
        new.iter().filter(|(path, value)| old.get(*path) != Some(value)).map(|(path, _)| path.clone()).collect();
    for paths in owners.values_mut() {
        paths.retain(|p| new.contains_key(p) && !changed.contains(p));
    }
    owners.entry((manager.to_owned(), false)).or_default().extend(changed);
    write(after, &owners, kind, time);
}

/// `live` with `config` applied by `manager`.
///
/// # Errors
/// If others own what it wants to change, unless by force.
pub fn apply(
    kind: &Kind,
    live: &Value,
    config: &Value,
    manager: &str,
    force: bool,
    time: &str,
) -> Result<Value, Failure> {
    let wanted = all_leaves(config);
    let have = all_leaves(live);
    let me = (manager.to_owned(), true);
    let mut owners = owners(live);
    let mut conflicts = Vec::new();
    for (path, value) in &wanted {
        if have.get(path) == Some(value) {
            continue;
        }
        for (owner, paths) in owners.iter_mut().filter(|(owner, _)| **owner != me) {
            if paths.contains(path) {
                if force {
                    paths.remove(path);
                } else {
                    conflicts.push((owner.0.clone(), format!(".{}", path.join("."))));
                }
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(Failure::owned(&conflicts));
    }
    let mut next = live.clone();
    let mine: BTreeSet<Path> = wanted.keys().cloned().collect();
    let gone = owners.insert(me.clone(), mine.clone()).unwrap_or_default();
    for path in gone.difference(&mine) {
        if !owners.values().any(|paths| paths.contains(path)) {
            remove(&mut next, path);
        }
    }
    for (path, value) in wanted {
        let mut at = &mut next;
        for part in &path {
            at = object(at).entry(part.clone()).or_insert(Value::Null);
        }
        // an empty map has nothing to say of what others put there
        if !(value == Value::Object(Map::new()) && at.is_object()) {
            *at = value;
        }
    }
    write(&mut next, &owners, kind, time);
    Ok(next)
}

fn remove(from: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = from;
    for part in parents {
        match at.get_mut(part) {
            Some(inner) => at = inner,
            None => return,
        }
    }
    if let Some(map) = at.as_object_mut() {
        map.remove(last);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::kinds::NODES;

    #[test]
    fn what_is_no_longer_applied_goes_and_what_others_own_conflicts() {
        let bare = json!({"metadata": {"name": "n", "annotations": {"theirs": "1"}}});
        let a = json!({"metadata": {"annotations": {"x": "1", "y": "1"}}});
        let one = apply(NODES, &bare, &a, "a", false, "t").unwrap();
        let less = json!({"metadata": {"annotations": {"x": "1"}}});
        let two = apply(NODES, &one, &less, "a", false, "t").unwrap();
        assert_eq!(two["metadata"]["annotations"], json!({"theirs": "1", "x": "1"}));
        let other = json!({"metadata": {"annotations": {"x": "2"}}});
        assert_eq!(apply(NODES, &two, &other, "b", false, "t").unwrap_err().code, 409);
        let forced = apply(NODES, &two, &other, "b", true, "t").unwrap();
        assert_eq!(forced["metadata"]["annotations"]["x"], "2");
        // an update takes fields over; applying the old value is then a conflict
        let mut by_hand = forced.clone();
        by_hand["metadata"]["annotations"]["x"] = "3".into();
        updated(NODES, &forced, &mut by_hand, "hand", "t");
        assert_eq!(apply(NODES, &by_hand, &other, "b", false, "t").unwrap_err().code, 409);
    }
}
