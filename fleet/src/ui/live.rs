//! Tells browsers what changed, once a second, by server-sent events.
//!
//! Who watches the same thing shares one picture of it, made when the first of them asks for the next second: no
//! browser, no work; a hundred browsers, one question. A browser is sent the difference between the picture it saw
//! last and the newest, so one that reads slowly misses seconds and never a change.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use ebbtide_runtime::tasks::{self, Shutdown};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_stream::{Stream, StreamExt};

use super::figures::Figure;
use super::http::Failure;
use super::{Shared, fleet, node};
use crate::query::{Queries, QueryError};

/// How often a browser is told.
const EVERY: Duration = Duration::from_secs(1);
/// A picture that is older is made anew. Less than [`EVERY`], so that ticks that come a little early see a new one.
const FRESH_MS: u64 = 900;
/// Events after which a stream ends. The browser comes back at once, with whatever rights it has by then.
const EVENTS: usize = 3600;

/// What is shown of something at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Picture {
    /// Milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// Figures by the name of their place.
    pub figures: BTreeMap<String, Figure>,
    /// The plot that goes on, and its values in milliwatts by track.
    pub plot: &'static str,
    pub tracks: BTreeMap<String, Option<u64>>,
    /// Widths of the bar's parts, in milliwatts.
    pub bar: [(&'static str, u64); 4],
    /// Which rows there are, see [`super::page::Page::shape`].
    pub shape: String,
}

/// Who watches what.
pub(super) struct Live {
    slots: Arc<Semaphore>,
    topics: Mutex<HashMap<Option<String>, Weak<Topic>>>,
}

/// Something that browsers watch: the fleet, or one node. Gone with the last of them.
struct Topic {
    node: Option<String>,
    latest: tokio::sync::Mutex<Latest>,
}

/// The newest picture, and what changed from the one before to it.
#[derive(Default)]
struct Latest {
    before: Option<Arc<Picture>>,
    picture: Option<Arc<Picture>>,
    change: Arc<str>,
}

/// A browser.
struct Watcher {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    seen: Mutex<Option<Arc<Picture>>>,
    _slot: OwnedSemaphorePermit,
}

#[derive(Serialize)]
struct Change<'a> {
    /// Milliseconds since 1970 UTC.
    t: u64,
    /// Place → text, and what it is.
    set: BTreeMap<&'a str, (&'a str, &'a str)>,
    plot: &'a str,
    /// Track → milliwatts; null: not known any more.
    mw: BTreeMap<&'a str, Option<u64>>,
    bar: BTreeMap<&'a str, u64>,
    shape: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    node: Option<String>,
}

impl Live {
    pub(super) fn new(most: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(most)), topics: Mutex::new(HashMap::new()) }
    }

    fn topic(&self, node: Option<String>) -> Arc<Topic> {
        let mut topics = lock(&self.topics);
        if let Some(topic) = topics.get(&node).and_then(Weak::upgrade) {
            return topic;
        }
        topics.retain(|_, topic| topic.strong_count() > 0);
        let topic = Arc::new(Topic { node: node.clone(), latest: tokio::sync::Mutex::default() });
        topics.insert(node, Arc::downgrade(&topic));
        topic
    }
}

impl Topic {
    fn look(node: Option<&str>, queries: &dyn Queries, now: u64) -> Result<Picture, QueryError> {
        match node {
            None => Ok(fleet::picture(queries, now)),
            Some(name) => node::picture(queries, name, now),
        }
    }
}

impl Watcher {
    /// What to tell this browser now; `None`: nothing more.
    async fn next(&self) -> Option<String> {
        let mut latest = self.topic.latest.lock().await;
        let now = self.shared.now();
        let fresh = latest.picture.as_ref().is_some_and(|p| now.saturating_sub(p.at_ms) < FRESH_MS && p.at_ms <= now);
        if !fresh {
            let queries = Arc::clone(&self.shared.dashboard.queries);
            let node = self.topic.node.clone();
            let look = move || Topic::look(node.as_deref(), &*queries, now);
            let picture = Arc::new(tasks::blocking("dashboard live", look).await?.ok()?);
            latest.before = latest.picture.take();
            latest.change = latest.before.as_ref().map_or_else(|| "".into(), |b| change(Some(b), &picture).into());
            latest.picture = Some(picture);
        }
        let picture = latest.picture.clone()?;
        let seen = lock(&self.seen).replace(Arc::clone(&picture));
        let same = |a: &Option<Arc<Picture>>| a.as_ref().zip(seen.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
        if same(&latest.before) { Some(latest.change.to_string()) } else { Some(change(seen.as_deref(), &picture)) }
    }
}

/// What a browser that saw `before` has to be told.
fn change(before: Option<&Picture>, now: &Picture) -> String {
    let figure = |key: &String| before.and_then(|b| b.figures.get(key));
    let track = |key: &String| before.and_then(|b| b.tracks.get(key));
    let set = now.figures.iter().filter(|(key, f)| figure(key) != Some(*f));
    let changed = now.tracks.iter().filter(|(key, mw)| track(key) != Some(*mw)).map(|(key, mw)| (key.as_str(), *mw));
    let ended = before.into_iter().flat_map(|b| b.tracks.keys()).filter(|key| !now.tracks.contains_key(*key));
    let change = Change {
        t: now.at_ms,
        set: set.map(|(key, f)| (key.as_str(), (f.text.as_str(), f.is))).collect(),
        plot: now.plot,
        mw: changed.chain(ended.map(|key| (key.as_str(), None))).collect(),
        bar: if before.is_some_and(|b| b.bar == now.bar) { BTreeMap::new() } else { now.bar.into_iter().collect() },
        shape: &now.shape,
    };
    // Texts and numbers only: this can't fail.
    serde_json::to_string(&change).unwrap_or_default()
}

/// Which of `names` there are, whatever their order, in one word.
pub(super) fn shape<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    format!("{:016x}", super::http::hash(names.join("\0").as_bytes()))
}

/// Once a second until the daemon stops.
struct Ticks {
    interval: Interval,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Ticks {
    fn new(stop: Shutdown) -> Self {
        let mut interval = interval(EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, stop: Box::pin(async move { stop.requested().await }) }
    }
}

impl Stream for Ticks {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<()>> {
        if self.stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        self.interval.poll_tick(context).map(|_| Some(()))
    }
}

pub(super) async fn get(State(shared): State<Arc<Shared>>, Query(wanted): Query<Wanted>) -> Response {
    match watch(&shared, wanted.node).await {
        Ok(events) => events.into_response(),
        Err(failure) => failure.answer(shared.dashboard.version),
    }
}

async fn watch(shared: &Arc<Shared>, node: Option<String>) -> Result<impl IntoResponse + use<>, Failure> {
    let slot = Arc::clone(&shared.live.slots).try_acquire_owned().map_err(|_| Failure::Full)?;
    if let Some(name) = node.clone() {
        shared.ask(move |queries| node::exists(queries, &name)).await?;
    }
    let topic = shared.live.topic(node);
    let stop = shared.dashboard.stop.clone();
    let watcher = Arc::new(Watcher { shared: Arc::clone(shared), topic, seen: Mutex::new(None), _slot: slot });
    let events = Ticks::new(stop)
        .take(EVENTS)
        .then(move |()| {
            let watcher = Arc::clone(&watcher);
            async move { watcher.next().await }
        })
        .map_while(|text| text.map(|text| Ok::<_, Infallible>(Event::default().data(text))));
    Ok(Sse::new(events))
}

/// Nothing is left half done under these locks, so that a panic elsewhere doesn't matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(at_ms: u64, figures: &[(&str, &str)], tracks: &[(&str, Option<u64>)]) -> Picture {
        Picture {
            at_ms,
            figures: figures.iter().map(|(k, v)| ((*k).to_owned(), Figure::plain(*v))).collect(),
            plot: "nodes",
            tracks: tracks.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            bar: [("cpu", 1), ("dram", 2), ("gpu", 3), ("rest", 4)],
            shape: "s".to_owned(),
        }
    }

    #[test]
    fn only_what_changed_is_told_and_what_ended_is_not_known() {
        let a = picture(1, &[("x", "1 W"), ("y", "2 W")], &[("n", Some(5)), ("m", Some(6)), ("gone", Some(7))]);
        let b = picture(2, &[("x", "1 W"), ("y", "3 W")], &[("n", Some(5)), ("m", None)]);
        assert_eq!(
            change(Some(&a), &b),
            r#"{"t":2,"set":{"y":["3 W",""]},"plot":"nodes","mw":{"gone":null,"m":null},"bar":{},"shape":"s"}"#
        );
        let all: serde_json::Value = serde_json::from_str(&change(None, &b)).unwrap();
        assert_eq!(all["set"].as_object().unwrap().len(), 2);
        assert_eq!(all["bar"]["rest"], 4);
        assert_eq!(all["mw"].as_object().unwrap().len(), 2);
    }

    #[test]
    fn the_shape_is_that_of_the_set() {
        assert_eq!(shape(["a", "b"].into_iter()), shape(["b", "a"].into_iter()));
        assert_ne!(shape(["ab"].into_iter()), shape(["a", "b"].into_iter()));
    }
}
