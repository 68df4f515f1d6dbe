//! All files as they were at one moment, whatever is committed and sealed meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::day::Day;
use super::node::{FrameRef, Node};
use super::sql::{Pool, Snapshot};
use super::{Inner, StoreError, lock};

/// Days whose readers stay open.
const OPEN_DAYS: usize = 40;

/// The files of a time, and of some nodes the frames that were not in days then.
pub(super) struct View {
    pub(super) hot: Snapshot,
    pub(super) days: BTreeMap<Day, Snapshot>,
    pub(super) nodes: Vec<(Arc<Node>, Vec<FrameRef>)>,
}

impl Inner {
    /// The files that have something of this time. `more` reads what has to be of the same moment.
    pub(super) fn view<T>(
        &self,
        from_ms: u64,
        until_ms: u64,
        nodes: Vec<Arc<Node>>,
        more: impl FnOnce() -> T,
    ) -> Result<(View, T), StoreError> {
        self.mend()?;
        let _fence = self.fence.read().unwrap_or_else(PoisonError::into_inner);
        let frames = |node: Arc<Node>| {
            let state = lock(&node.state);
            // steps are counted from what was before, so all frames are needed where one is
            let any = state.frames.iter().any(|frame| frame.last_ms >= from_ms);
            let frames = if any { state.frames.iter().copied().collect() } else { Vec::new() };
            drop(state);
            (node, frames)
        };
        let nodes = nodes.into_iter().map(frames).collect();
        let hot = self.hot_readers.snapshot()?;
        let mut days = BTreeMap::new();
        for day in Day::all(&self.dir)? {
            if day >= Day::of(from_ms) && day.start() < until_ms {
                days.insert(day, self.day(day).snapshot()?);
            }
        }
        Ok((View { hot, days, nodes }, more()))
    }

    /// Readers of a day.
    fn day(&self, day: Day) -> Arc<Pool> {
        let mut days = lock(&self.days);
        while days.len() > OPEN_DAYS {
            days.pop_first();
        }
        Arc::clone(days.entry(day).or_insert_with(|| Arc::new(Pool::new(day.path(&self.dir)))))
    }
}
