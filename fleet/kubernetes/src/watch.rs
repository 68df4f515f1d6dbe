//! Follows the cluster: a watch per kind of object, each kept in step by its own list after every disconnect.
//!
//! Objects come page by page and one by one; of each only what the inventory needs is kept. A watch that breaks is begun
//! again with growing pauses, and where the server has forgotten the version (410) with a new list, after which what
//! isn't in that list is gone.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::Node;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use crate::convert::Rules;
use crate::convert::node::ClusterNode;
use crate::inventory::{Inventory, Key, key};

/// How long one watch lasts, in seconds; also how long a connection that is dead without a word goes unnoticed.
const WATCH_S: u32 = 60;
/// A watch that has been broken for longer, in milliseconds, no longer tells how things are.
const STALE_MS: u64 = 90_000;
/// Objects per page of a list.
const PAGE: u32 = 500;

/// The kinds that are followed.
const KINDS: [&str; 5] = ["nodes", "pods", "poddisruptionbudgets", "persistentvolumeclaims", "persistentvolumes"];

/// How one watch is.
#[derive(Debug, Default)]
struct Pulse {
    /// How often its list was complete.
    lists: AtomicU64,
    /// Since when it is broken, in milliseconds of the monotonic clock; 0: it isn't.
    broken_ms: AtomicU64,
    /// How often it broke.
    breaks: AtomicU64,
}

/// The cluster as it is followed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Followed {
    inventory: Arc<Mutex<Inventory>>,
    pulses: Arc<[Pulse; 5]>,
    changes: Arc<watch::Sender<u64>>,
}

fn now_ms() -> u64 {
    clock::now().mono / 1_000_000
}

impl Followed {
    /// Starts to follow; its watches are tasks of `tasks`.
    pub fn start(client: &Client, rules: Rules, tasks: &mut Tasks) -> Self {
        let followed = Self {
            inventory: Arc::new(Mutex::new(Inventory::new(rules))),
            pulses: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
        };
        followed.spawn(0, client, tasks, Inventory::put_node, Inventory::drop_node, Inventory::keep_nodes);
        followed.spawn(1, client, tasks, Inventory::put_pod, Inventory::drop_pod, Inventory::keep_pods);
        followed.spawn(2, client, tasks, Inventory::put_budget, Inventory::drop_budget, Inventory::keep_budgets);
        followed.spawn(3, client, tasks, Inventory::put_claim, Inventory::drop_claim, Inventory::keep_claims);
        followed.spawn(4, client, tasks, Inventory::put_volume, Inventory::drop_volume, Inventory::keep_volumes);
        followed
    }

    /// The cluster as it is known.
    pub fn inventory(&self) -> MutexGuard<'_, Inventory> {
        // a panic while it was changed left it without some news; they come again with the next list
        self.inventory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every kind was listed at least once.
    pub fn is_complete(&self) -> bool {
        self.pulses.iter().all(|p| p.lists.load(Ordering::Acquire) > 0)
    }

    /// Kinds that weren't listed yet.
    pub fn unlisted(&self) -> Vec<&'static str> {
        let listed = |p: &Pulse| p.lists.load(Ordering::Acquire) > 0;
        KINDS.iter().zip(self.pulses.iter()).filter(|(_, p)| !listed(p)).map(|(kind, _)| *kind).collect()
    }

    /// Kinds whose watch has been broken for too long.
    pub fn stale(&self) -> Vec<&'static str> {
        let now = now_ms();
        let broken = |p: &Pulse| {
            let since = p.broken_ms.load(Ordering::Acquire);
            since > 0 && now.saturating_sub(since) > STALE_MS
        };
        KINDS.iter().zip(self.pulses.iter()).filter(|(_, p)| broken(p)).map(|(kind, _)| *kind).collect()
    }

    /// How often watches broke, and lists were complete.
    pub fn counts(&self) -> (u64, u64) {
        let sum = |of: fn(&Pulse) -> &AtomicU64| self.pulses.iter().map(|p| of(p).load(Ordering::Relaxed)).sum();
        (sum(|p| &p.breaks), sum(|p| &p.lists))
    }

    /// Tells whenever something came in.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What is new, as events; see [`Inventory::events`].
    pub fn events(&self, base: &dyn Fn(&ClusterNode) -> Node) -> Vec<Event> {
        let (complete, fresh) = (self.is_complete(), self.stale().is_empty());
        self.inventory().events(complete, fresh, base)
    }

    fn spawn<K>(
        &self,
        at: usize,
        client: &Client,
        tasks: &mut Tasks,
        put: fn(&mut Inventory, &K),
        forget: fn(&mut Inventory, &Key),
        keep: fn(&mut Inventory, &HashSet<Key>),
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (this, api, stop) = (self.clone(), Api::<K>::all(client.clone()), tasks.shutdown());
        let kind = KINDS.get(at).copied().unwrap_or("");
        tasks.spawn(format!("watch of {kind}"), async move {
            let Some(pulse) = this.pulses.get(at) else { return Ok(()) };
            let work = this.follow(kind, pulse, api, Hands { put, forget, keep });
            tokio::select! {
                () = work => anyhow::bail!("the watch of {kind} ended by itself"),
                () = stop.requested() => Ok(()),
            }
        });
    }

    async fn follow<K>(&self, kind: &'static str, pulse: &Pulse, api: Api<K>, hands: Hands<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let config = watcher::Config::default().timeout(WATCH_S).page_size(PAGE);
        let mut stream = pin!(watcher(api, config).default_backoff());
        let mut listed = HashSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    if pulse.broken_ms.swap(0, Ordering::AcqRel) != 0 {
                        tracing::info!(kind, "the watch runs again");
                    }
                    self.take(pulse, event, &mut listed, &hands);
                    self.changes.send_modify(|n| *n += 1);
                }
                Err(error) => {
                    pulse.breaks.fetch_add(1, Ordering::Relaxed);
                    let first =
                        pulse.broken_ms.compare_exchange(0, now_ms().max(1), Ordering::AcqRel, Ordering::Relaxed);
                    if first.is_ok() {
                        tracing::warn!(kind, "the watch broke, trying again: {error}");
                    }
                }
            }
        }
    }

    fn take<K: Resource>(&self, pulse: &Pulse, event: watcher::Event<K>, listed: &mut HashSet<Key>, hands: &Hands<K>) {
        let mut inventory = self.inventory();
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                listed.extend(key(object.meta()));
                (hands.put)(&mut inventory, &object);
            }
            watcher::Event::InitDone => {
                (hands.keep)(&mut inventory, listed);
                *listed = HashSet::new();
                pulse.lists.fetch_add(1, Ordering::AcqRel);
            }
            watcher::Event::Apply(object) => (hands.put)(&mut inventory, &object),
            watcher::Event::Delete(object) => {
                if let Some(key) = key(object.meta()) {
                    (hands.forget)(&mut inventory, &key);
                }
            }
        }
    }
}

/// What the inventory does with objects of one kind.
struct Hands<K> {
    put: fn(&mut Inventory, &K),
    forget: fn(&mut Inventory, &Key),
    keep: fn(&mut Inventory, &HashSet<Key>),
}
