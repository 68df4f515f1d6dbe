//! Objects, their versions and their history. No I/O; the moment comes with each change.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::failure::Failure;
use crate::kinds::Kind;

/// Where an object is kept: plural with group, namespace, name.
pub type Key = (String, String, String);

/// What happened to an object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// Which object.
    pub key: Key,
    /// What it was before.
    pub before: Option<Arc<Value>>,
    /// What it was afterwards; the last state of one that is gone.
    pub after: Arc<Value>,
    /// Whether it is gone.
    pub gone: bool,
}

/// Changes that are remembered at most.
const HISTORY: usize = 200_000;

/// All objects.
#[derive(Debug, Default)]
pub struct Store {
    version: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    forgotten: u64,
    made: u64,
}

/// The key of an object.
pub fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    (kind.qualified(), namespace.to_owned(), name.to_owned())
}

impl Store {
    /// The latest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version up to which history is forgotten.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// An object.
    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// All of a kind, in one namespace or in all, by namespace and name.
    pub fn all<'a>(&'a self, kind: &Kind, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let from = (kind.qualified(), namespace.to_owned(), String::new());
        let plural = from.0.clone();
        self.objects.range(from..).take_while(move |(k, _)| k.0 == plural && (namespace.is_empty() || k.1 == namespace))
    }

    /// The same as it was at `version`.
    ///
    /// # Errors
    /// If that is forgotten.
    pub fn all_at(&self, kind: &Kind, namespace: &str, version: u64) -> Result<BTreeMap<Key, Arc<Value>>, Failure> {
        if version < self.forgotten {
            return Err(Failure::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter."
                    .to_owned(),
            ));
        }
        let mut found: BTreeMap<Key, Arc<Value>> =
            self.all(kind, namespace).map(|(k, v)| (k.clone(), Arc::clone(v))).collect();
        let plural = kind.qualified();
        for change in self.history.iter().rev().take_while(|c| c.version > version) {
            if change.key.0 != plural || !(namespace.is_empty() || change.key.1 == namespace) {
                continue;
            }
            match &change.before {
                Some(before) => found.insert(change.key.clone(), Arc::clone(before)),
                None => found.remove(&change.key),
            };
        }
        Ok(found)
    }

    /// What happened after `version`, the oldest first.
    ///
    /// # Errors
    /// If that is forgotten.
    pub fn since(&self, version: u64) -> Result<impl Iterator<Item = &Change>, Failure> {
        if version < self.forgotten {
            let message = format!("too old resource version: {version} ({})", self.forgotten);
            return Err(Failure::expired(message));
        }
        let at = self.history.partition_point(|c| c.version <= version);
        Ok(self.history.range(at..))
    }

    /// Keeps `object`, and returns it with its version.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let after = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&after));
        self.remember(Change { version: self.version, key, before, after: Arc::clone(&after), gone: false });
        after
    }

    /// Removes an object; returns its last state, with the version at which it went.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.version += 1;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        let after = Arc::new(last);
        self.remember(Change {
            version: self.version,
            key: key.clone(),
            before: Some(before),
            after: Arc::clone(&after),
            gone: true,
        });
        Some(after)
    }

    /// Forgets all history, as etcd's compaction does.
    pub fn forget(&mut self) {
        self.history.clear();
        // so that even a watch from the latest version is too old
        self.version += 1;
        self.forgotten = self.version;
    }

    /// The next number for an identity or a name.
    pub fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    fn remember(&mut self, change: Change) {
        if self.history.len() >= HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = oldest.version;
        }
        self.history.push_back(change);
    }
}
