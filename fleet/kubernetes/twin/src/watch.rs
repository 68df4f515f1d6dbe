//! A watch: changes after a version, as long as somebody listens.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::cluster::Shared;
use crate::failure::Failure;
use crate::kinds::Kind;
use crate::request::Target;
use crate::select::Selector;
use crate::world::{shown, storage};

/// The events of one watch as the bytes of its answer.
pub struct Events {
    shared: Arc<Shared>,
    target: Target,
    selector: Selector,
    version: u64,
    ready: VecDeque<Bytes>,
    news: WatchStream<u64>,
    until: Option<Pin<Box<Sleep>>>,
    bookmarks: bool,
    marked: u64,
    over: bool,
}

/// How a watch begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// After this version; `None`: with everything that there is.
    pub after: Option<u64>,
    /// Whether the end of what there was is marked.
    pub mark: bool,
    /// Whether versions are told without objects.
    pub bookmarks: bool,
    /// How long it lasts.
    pub timeout: Option<Duration>,
}

fn line(verb: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": verb, "object": object}).to_string();
    text.push('\n');
    text.into()
}

fn bookmark(kind: &Kind, version: u64, last: bool) -> Bytes {
    let mut meta = json!({"resourceVersion": version.to_string()});
    if last {
        meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    line("BOOKMARK", &json!({"kind": kind.name, "apiVersion": kind.api_version(), "metadata": meta}))
}

impl Events {
    /// Begins to watch.
    pub fn new(shared: Arc<Shared>, target: Target, selector: Selector, start: Start) -> Self {
        let news = WatchStream::new(shared.news.subscribe());
        let mut ready = VecDeque::new();
        let version = start.after.unwrap_or_else(|| {
            let world = shared.world();
            let all = world.store.all(storage(target.kind), &target.namespace).filter(|(_, o)| selector.takes(o));
            ready.extend(all.map(|(_, object)| line("ADDED", &shown(target.kind, object))));
            let version = world.store.version();
            if start.mark {
                ready.push_back(bookmark(target.kind, version, true));
            }
            version
        });
        let marked = if start.mark { version } else { 0 };
        let until = start.timeout.map(|t| Box::pin(tokio::time::sleep(t)));
        Self { shared, target, selector, version, ready, news, until, bookmarks: start.bookmarks, marked, over: false }
    }

    fn pull(&mut self) -> Result<(), Failure> {
        let world = self.shared.world();
        let plural = storage(self.target.kind).qualified();
        for change in world.store.since(self.version)? {
            self.version = change.version;
            let (at, namespace) = (&change.key, &self.target.namespace);
            if at.0 != plural || !(namespace.is_empty() || at.1 == *namespace) {
                continue;
            }
            let had = change.before.as_ref().is_some_and(|b| self.selector.takes(b));
            let has = !change.gone && self.selector.takes(&change.after);
            let verb = match (had, has) {
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
                (false, false) => continue,
            };
            self.ready.push_back(line(verb, &shown(self.target.kind, &change.after)));
        }
        Ok(())
    }
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(one) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(one)));
            }
            if this.over {
                return Poll::Ready(None);
            }
            // the signal first: what comes after it is seen by the next one
            let news = Pin::new(&mut this.news).poll_next(cx);
            if let Err(failure) = this.pull() {
                this.over = true;
                this.ready.push_back(line("ERROR", &failure.body()));
                continue;
            }
            if !this.ready.is_empty() {
                continue;
            }
            if this.until.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
                this.over = true;
                if this.bookmarks && this.marked != this.version {
                    this.ready.push_back(bookmark(this.target.kind, this.version, false));
                }
                continue;
            }
            match news {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => this.over = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
