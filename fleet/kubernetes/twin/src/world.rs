//! The cluster behind the server: what each request does to the objects. No I/O; the moment is set from outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::budget;
use crate::crew::Crew;
use crate::defaults;
use crate::failure::Failure;
use crate::fields;
use crate::kinds::{BUDGETS, EVENTS, Kind, NEW_EVENTS, NODES, PODS};
use crate::patch::{self, object};
use crate::store::{Key, Store, key};

/// How a patch is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7396.
    Merge,
    /// Kubernetes' own.
    Strategic,
    /// RFC 6902.
    Json,
    /// Server-side apply, by force or not.
    Apply {
        /// Whether fields of others are taken over.
        force: bool,
    },
}

/// Everything that is in the cluster.
#[derive(Debug, Default)]
pub struct World {
    /// The objects.
    pub store: Store,
    /// Controllers, scheduler and kubelets.
    pub crew: Crew,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}

/// Kubernetes' way to write a moment: whole seconds.
pub fn seconds(ms: u64) -> String {
    let s = i64::try_from(ms / 1000).unwrap_or(0);
    jiff::Timestamp::from_second(s).unwrap_or_default().to_string()
}

/// The same with microseconds.
pub fn micros(ms: u64) -> String {
    let us = i64::try_from(ms.saturating_mul(1000)).unwrap_or(0);
    format!("{:.6}", jiff::Timestamp::from_microsecond(us).unwrap_or_default())
}

impl World {
    /// Now, as objects have it.
    pub fn time(&self) -> String {
        seconds(self.now_ms)
    }

    /// Makes an object.
    ///
    /// # Errors
    /// If there is one, or it can't be.
    pub fn create(
        &mut self,
        kind: &Kind,
        namespace: &str,
        mut made: Value,
        manager: &str,
        dry: bool,
    ) -> Result<Arc<Value>, Failure> {
        let kind = stored(kind, &mut made);
        let number = self.store.number();
        if made["metadata"]["name"].as_str().is_none()
            && let Some(prefix) = made["metadata"]["generateName"].as_str()
        {
            let name = format!("{prefix}{}", defaults::letters(number));
            made["metadata"]["name"] = name.into();
        }
        let name = made["metadata"]["name"].as_str().unwrap_or("").to_owned();
        if name.is_empty() {
            let cause = ("FieldValueRequired", "metadata.name", "Required value: name or generateName".to_owned());
            return Err(Failure::invalid(kind, &name, &[cause]));
        }
        let key = key(kind, namespace, &name);
        if self.store.get(&key).is_some() {
            return Err(Failure::exists(kind, &name));
        }
        made["kind"] = kind.name.into();
        made["apiVersion"] = kind.api_version().into();
        let meta = object(&mut made["metadata"]);
        if kind.namespaced {
            meta.insert("namespace".to_owned(), namespace.into());
        }
        meta.insert("uid".to_owned(), format!("00000000-0000-4000-8000-{number:012x}").into());
        meta.insert("creationTimestamp".to_owned(), self.time().into());
        defaults::complete(kind, &name, &mut made, number)?;
        fields::updated(kind, &Value::Null, &mut made, manager, &self.time());
        Ok(if dry { Arc::new(made) } else { self.store.put(key, made) })
    }

    /// An object.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Value>, Failure> {
        let found = self.store.get(&key(storage(kind), namespace, name));
        found.cloned().ok_or_else(|| Failure::not_found(kind, name))
    }

    /// Replaces an object, or only its `status`.
    ///
    /// # Errors
    /// If it was modified since the version that is given, or isn't there.
    pub fn replace(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        mut next: Value,
        manager: &str,
        status: bool,
    ) -> Result<Arc<Value>, Failure> {
        let kind = stored(kind, &mut next);
        let before = self.get(kind, namespace, name)?;
        self.keep(kind, (namespace, name), &before, next, manager, status)
    }

    /// Changes an object, or makes it if it is applied and isn't there.
    ///
    /// # Errors
    /// If it can't be changed so.
    pub fn patch(
        &mut self,
        kind: &Kind,
        place: (&str, &str),
        how: &Patch,
        change: &Value,
        manager: &str,
        status: bool,
    ) -> Result<Arc<Value>, Failure> {
        let (namespace, name) = place;
        let before = match (self.get(kind, namespace, name), how) {
            (Ok(before), _) => before,
            (Err(_), Patch::Apply { force }) => {
                let applied = fields::apply(kind, &Value::Null, change, manager, *force, &self.time())?;
                let managed = applied["metadata"]["managedFields"].clone();
                let mut made = applied;
                made["metadata"]["name"] = name.into();
                let made = self.create(kind, namespace, made, manager, false)?;
                let mut next = Value::clone(&made);
                next["metadata"]["managedFields"] = managed;
                return Ok(self.store.put(key(kind, namespace, name), next));
            }
            (Err(failure), _) => return Err(failure),
        };
        let mut next = Value::clone(&before);
        match how {
            Patch::Merge => patch::merge(&mut next, change),
            Patch::Strategic => patch::strategic(&mut next, change),
            Patch::Json => patch::json_patch(&mut next, change)?,
            Patch::Apply { force } => {
                let wanted = change["metadata"]["resourceVersion"].as_str();
                if wanted.is_some_and(|v| before["metadata"]["resourceVersion"] != v) {
                    return Err(Failure::modified(kind, name));
                }
                let next = fields::apply(kind, &before, change, manager, *force, &self.time())?;
                if next == *before {
                    return Ok(before);
                }
                return Ok(self.store.put(key(kind, namespace, name), next));
            }
        }
        self.keep(kind, place, &before, next, manager, status)
    }

    fn keep(
        &mut self,
        kind: &Kind,
        (namespace, name): (&str, &str),
        before: &Arc<Value>,
        next: Value,
        manager: &str,
        status: bool,
    ) -> Result<Arc<Value>, Failure> {
        let version = &next["metadata"]["resourceVersion"];
        if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
            return Err(Failure::modified(kind, name));
        }
        let mut kept = if status {
            let mut kept = Value::clone(before);
            kept["status"] = next["status"].clone();
            kept
        } else {
            next
        };
        for same in ["uid", "creationTimestamp", "namespace", "name", "managedFields", "resourceVersion", "generation"]
        {
            match before["metadata"].get(same) {
                Some(value) => drop(object(&mut kept["metadata"]).insert(same.to_owned(), value.clone())),
                None => drop(object(&mut kept["metadata"]).remove(same)),
            }
        }
        if !status && kind == BUDGETS && kept["spec"] != before["spec"] {
            kept["metadata"]["generation"] = (before["metadata"]["generation"].as_u64().unwrap_or(0) + 1).into();
        }
        if kind == NODES && kept["spec"]["unschedulable"] == false {
            object(&mut kept["spec"]).remove("unschedulable");
        }
        kept["kind"] = kind.name.into();
        kept["apiVersion"] = kind.api_version().into();
        if kept == **before {
            return Ok(Arc::clone(before));
        }
        fields::updated(kind, before, &mut kept, manager, &self.time());
        Ok(self.store.put(key(kind, namespace, name), kept))
    }

    /// Deletes an object; a pod on a node is only told to end. Returns the answer's body.
    ///
    /// # Errors
    /// If it isn't there, or isn't the one that was meant.
    pub fn delete(&mut self, kind: &Kind, namespace: &str, name: &str, options: &Value) -> Result<Value, Failure> {
        let kind = storage(kind);
        let found = self.get(kind, namespace, name)?;
        let uid = found["metadata"]["uid"].as_str().unwrap_or("");
        if let Some(wanted) = options["preconditions"]["uid"].as_str()
            && wanted != uid
        {
            return Err(Failure::other_uid(kind, name, wanted, uid));
        }
        if let Some(wanted) = options["preconditions"]["resourceVersion"].as_str()
            && found["metadata"]["resourceVersion"] != wanted
        {
            return Err(Failure::modified(kind, name));
        }
        if kind == PODS {
            return Ok(Value::clone(&*self.end(namespace, &found, options["gracePeriodSeconds"].as_u64())));
        }
        self.store.remove(&key(kind, namespace, name));
        let details = json!({"name": name, "kind": kind.plural, "uid": uid});
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}))
    }

    /// Tells a pod to end within `grace` seconds; at once if nobody runs it.
    fn end(&mut self, namespace: &str, pod: &Arc<Value>, grace: Option<u64>) -> Arc<Value> {
        let key = key(PODS, namespace, pod["metadata"]["name"].as_str().unwrap_or(""));
        let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let grace = if pod["spec"]["nodeName"].is_null() || over {
            0
        } else {
            grace.or(pod["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(30)
        };
        let left = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
        if left.is_some_and(|left| left <= grace) && grace > 0 {
            return Arc::clone(pod);
        }
        let mut ending = Value::clone(pod);
        let meta = &mut ending["metadata"];
        if left.is_none() {
            meta["generation"] = (meta["generation"].as_u64().unwrap_or(0) + 1).into();
        }
        meta["deletionTimestamp"] = seconds(self.now_ms + grace * 1000).into();
        meta["deletionGracePeriodSeconds"] = grace.into();
        let ending = self.store.put(key.clone(), ending);
        if grace > 0 {
            return ending;
        }
        self.store.remove(&key).unwrap_or(ending)
    }

    /// Puts a pod onto a node.
    ///
    /// # Errors
    /// If there is no such pod, or it has a node.
    pub fn bind(&mut self, namespace: &str, name: &str, node: &str) -> Result<(), Failure> {
        let pod = self.get(PODS, namespace, name)?;
        if let Some(has) = pod["spec"]["nodeName"].as_str() {
            return Err(Failure::bound(name, has));
        }
        let mut bound = Value::clone(&pod);
        bound["spec"]["nodeName"] = node.into();
        bound["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True",
            "lastProbeTime": null, "lastTransitionTime": self.time()}]);
        self.store.put(key(PODS, namespace, name), bound);
        Ok(())
    }

    /// Evicts a pod, if its budget allows it.
    ///
    /// # Errors
    /// If the budget doesn't, or there is no such pod.
    pub fn evict(&mut self, namespace: &str, name: &str, eviction: &Value, dry: bool) -> Result<(), Failure> {
        let pod = self.get(PODS, namespace, name)?;
        let uid = pod["metadata"]["uid"].as_str().unwrap_or("");
        if let Some(wanted) = eviction["deleteOptions"]["preconditions"]["uid"].as_str()
            && wanted != uid
        {
            return Err(Failure::other_uid(PODS, name, wanted, uid));
        }
        let dry = dry || eviction["deleteOptions"]["dryRun"].as_array().is_some_and(|d| !d.is_empty());
        let ending = !pod["metadata"]["deletionTimestamp"].is_null();
        let counts = !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending")) && !ending;
        if counts {
            budget::take(self, namespace, &pod, dry)?;
        }
        if !dry {
            let time = self.time();
            self.edit(&key(PODS, namespace, name), |pod| {
                let told = json!({"type": "DisruptionTarget", "status": "True", "lastProbeTime": null,
                    "lastTransitionTime": time, "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting"});
                if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
                    conditions.retain(|c| c["type"] != told["type"]);
                    conditions.push(told);
                }
            });
            let pod = self.get(PODS, namespace, name)?;
            self.end(namespace, &pod, eviction["deleteOptions"]["gracePeriodSeconds"].as_u64());
        }
        Ok(())
    }

    /// Lets the crew work until there is nothing left to do.
    pub fn settle(&mut self) {
        // what one does may be work for another
        for _ in 0..8 {
            let before = self.store.version();
            Crew::step(self);
            if self.store.version() == before {
                break;
            }
        }
    }

    /// Changes an object in place, as a controller does.
    pub fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let Some(before) = self.store.get(key).cloned() else { return };
        let mut after = Value::clone(&before);
        change(&mut after);
        if after != *before {
            self.store.put(key.clone(), after);
        }
    }

    /// All objects of a kind, by key.
    pub fn every(&self, kind: &Kind) -> BTreeMap<Key, Arc<Value>> {
        self.store.all(kind, "").map(|(k, v)| (k.clone(), Arc::clone(v))).collect()
    }
}

/// The kind under which objects of `kind` are kept.
pub fn storage(kind: &Kind) -> &Kind {
    if kind == NEW_EVENTS { EVENTS } else { kind }
}

/// Fields of events that have two names: in the core and in `events.k8s.io`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Renames what an event of `events.k8s.io` calls otherwise; returns the kind under which it is kept.
fn stored<'a>(kind: &'a Kind, made: &mut Value) -> &'a Kind {
    if kind == NEW_EVENTS {
        for (old, new) in NAMES {
            if let Some(value) = object(made).remove(*new) {
                made[*old] = value;
            }
        }
    }
    storage(kind)
}

/// The object as `kind` shows it.
pub fn shown(kind: &Kind, object: &Value) -> Value {
    let mut shown = object.clone();
    if kind == NEW_EVENTS {
        for (old, new) in NAMES {
            if let Some(value) = patch::object(&mut shown).remove(*old) {
                shown[*new] = value;
            }
        }
        shown["apiVersion"] = kind.api_version().into();
    }
    shown
}
