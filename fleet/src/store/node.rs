//! A node as the store holds it in memory: little, since there may be ten thousand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Mutex;

use ebbtide_proto::NodeId;

use super::names::{Definition, Named, Names};

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u32,
    pub(super) name: NodeId,
    pub(super) state: Mutex<NodeState>,
}

/// What changes of a node.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    /// Whether it has a row in `hot.db`.
    pub(super) saved: bool,
    /// Frames up to this number are in days.
    pub(super) sealed: u64,
    /// Frames that are not, oldest first.
    pub(super) frames: VecDeque<FrameRef>,
    pub(super) spools: Vec<Spool>,
    /// The newest frame when sealing last saw a new one, and when that was.
    pub(super) looked: (u64, u64),
    /// The number that the next new series gets.
    pub(super) next_series: u32,
    /// The series, by number; `None` until somebody asks.
    series: Option<Vec<Held>>,
    /// Series that have no row in `hot.db` yet.
    pub(super) unsaved: BTreeMap<u32, Named>,
}

/// A frame in `hot.db`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameRef {
    pub(super) id: u64,
    pub(super) stream: u32,
    pub(super) seq: u64,
    /// Its first and last moment; 0 if it has none.
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
}

/// A spool of a node's agent, and how far it is told.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    /// The number of its row.
    pub(super) stream: u32,
    pub(super) id: u64,
    pub(super) acked: u64,
    /// Frames that never came.
    pub(super) lost: u64,
    /// Whether it has a row in `hot.db`.
    pub(super) saved: bool,
}

/// A series.
#[derive(Clone, Debug)]
struct Held {
    number: u32,
    /// Which series, and as which it was described: figures that only mean something to this process.
    identity: u64,
    described: u64,
}

impl Node {
    pub(super) fn new(id: u32, name: NodeId) -> Self {
        Self { id, name, state: Mutex::new(NodeState { next_series: 1, ..NodeState::default() }) }
    }

    /// One that has a row.
    pub(super) fn saved(id: u32, name: NodeId, next_series: u32, sealed: u64) -> Self {
        let state = NodeState { saved: true, sealed, next_series, ..NodeState::default() };
        Self { id, name, state: Mutex::new(state) }
    }
}

impl NodeState {
    /// Whether names were loaded.
    pub(super) fn is_loaded(&self) -> bool {
        self.series.is_some()
    }

    /// Takes the names that are saved.
    pub(super) fn load(&mut self, names: &Names, by: &impl BuildHasher) {
        let held = |(number, named): (&u32, &Named)| {
            let (identity, described) = named.definition.fingerprints(by);
            Held { number: *number, identity, described }
        };
        self.series = Some(names.iter().map(held).collect());
    }

    /// The numbers of these series; new ones get the next.
    pub(super) fn resolve(&mut self, definitions: Vec<Definition>, by: &impl BuildHasher) -> Vec<u32> {
        let series = self.series.get_or_insert_default();
        // the latest description of a series is the last
        let mut latest: HashMap<u64, (u64, u32)> =
            series.iter().map(|held| (held.identity, (held.described, held.number))).collect();
        let mut numbers = Vec::with_capacity(definitions.len());
        for definition in definitions {
            let (identity, described) = definition.fingerprints(by);
            let known = latest.get(&identity).copied();
            if let Some((_, number)) = known.filter(|(as_what, _)| *as_what == described) {
                numbers.push(number);
                continue;
            }
            let number = self.next_series;
            self.next_series += 1;
            latest.insert(identity, (described, number));
            series.push(Held { number, identity, described });
            self.unsaved.insert(number, Named { definition, from: known.map(|(_, number)| number) });
            numbers.push(number);
        }
        numbers
    }

    /// The spool of this id.
    pub(super) fn spool(&self, id: u64) -> Option<&Spool> {
        self.spools.iter().find(|spool| spool.id == id)
    }
}
