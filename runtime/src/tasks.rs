//! The one place where tokio tasks start: each has a name, a stop signal and an owner that awaits it.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

/// The name of a task in logs.
pub type Name = Cow<'static, str>;

/// Told to every task: whether it is time to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Whether the stop was asked for. An owner that is gone counts as a stop.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// The bare signal, for what waits on it by itself.
    pub fn receiver(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    /// Returns once the stop was asked for, at once if it already was. Safe to drop and call again.
    pub async fn requested(&self) {
        let mut signal = self.0.clone();
        // An error says that the owner is gone, which is a stop as well.
        drop(signal.wait_for(|stop| *stop).await);
    }
}

/// How a task ended.
#[derive(Debug)]
pub enum Outcome {
    /// It returned `Ok`.
    Done,
    /// It returned an error; already logged.
    Failed(anyhow::Error),
    /// It panicked, with this message; already logged.
    Panicked(String),
    /// It was cut off at the deadline of [`Tasks::finish`].
    Cut,
}

/// A task that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The name it was started under.
    pub name: Name,
    /// How it ended.
    pub outcome: Outcome,
}

/// A set of named tasks. Dropping it cuts them all off; [`Tasks::finish`] is the polite way.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, Name>,
    stop: watch::Sender<bool>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An empty set, not stopped.
    pub fn new() -> Self {
        Self { set: JoinSet::new(), names: HashMap::new(), stop: watch::Sender::new(false) }
    }

    /// The stop signal of this set, to hand to its tasks.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown(self.stop.subscribe())
    }

    /// Starts `work` on the current runtime. Its end is seen by [`Tasks::next_ended`] or [`Tasks::finish`].
    pub fn spawn(&mut self, name: impl Into<Name>, work: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let id = self.set.spawn(work).id();
        self.names.insert(id, name.into());
    }

    /// Tasks that were started and whose end was not seen yet.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there is no such task.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Waits for the next task to end; `None` if there is none. Errors and panics are logged here.
    /// Loses nothing if dropped before it returns.
    pub async fn next_ended(&mut self) -> Option<Ended> {
        let (id, outcome) = match self.set.join_next_with_id().await? {
            Ok((id, Ok(()))) => (id, Outcome::Done),
            Ok((id, Err(error))) => (id, Outcome::Failed(error)),
            Err(error) => (error.id(), ending(error)),
        };
        let name = self.names.remove(&id).unwrap_or(Cow::Borrowed("unnamed task"));
        match &outcome {
            Outcome::Done => tracing::trace!(task = %name, "ended"),
            Outcome::Failed(error) => tracing::error!(task = %name, "failed: {error:#}"),
            Outcome::Panicked(message) => tracing::error!(task = %name, "panicked: {message}"),
            Outcome::Cut => tracing::warn!(task = %name, "cut off: it didn't stop in time"),
        }
        Some(Ended { name, outcome })
    }

    /// Gives the stop signal and doesn't wait.
    pub fn request_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Gives the stop signal, waits up to `deadline` for all tasks and cuts off those that are left.
    /// Returns each task that ended meanwhile.
    pub async fn finish(mut self, deadline: Duration) -> Vec<Ended> {
        self.request_stop();
        let until = Instant::now() + deadline;
        let mut ended = Vec::new();
        loop {
            match timeout_at(until, self.next_ended()).await {
                Ok(Some(task)) => ended.push(task),
                Ok(None) => return ended,
                Err(_) => break,
            }
        }
        self.set.abort_all();
        while let Some(task) = self.next_ended().await {
            ended.push(task);
        }
        ended
    }
}

/// Runs `work`, which may take long, on the runtime's threads for that. `None` if it panicked, which is logged
/// under `name`. The work goes on to its end even if the caller stops waiting for it.
pub async fn blocking<T: Send + 'static>(name: &'static str, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Some(value),
        Err(error) => {
            if let Outcome::Panicked(message) = ending(error) {
                tracing::error!(task = name, "panicked: {message}");
            }
            None
        }
    }
}

/// What became of a task that didn't return.
fn ending(error: JoinError) -> Outcome {
    match error.try_into_panic() {
        Ok(payload) => Outcome::Panicked(message(payload.as_ref())),
        Err(_) => Outcome::Cut,
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_stop_signal_reaches_every_task_and_finish_awaits_them() {
        let mut tasks = Tasks::new();
        for name in ["a", "b"] {
            let shutdown = tasks.shutdown();
            assert!(!shutdown.is_requested());
            tasks.spawn(name, async move {
                shutdown.requested().await;
                assert!(shutdown.is_requested());
                Ok(())
            });
        }
        assert_eq!(tasks.len(), 2);
        let late = tasks.shutdown();
        let ended = tasks.finish(Duration::from_secs(60)).await;
        let mut names: Vec<_> = ended.iter().map(|e| e.name.as_ref()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b"]);
        assert!(ended.iter().all(|e| matches!(e.outcome, Outcome::Done)), "{ended:?}");
        late.requested().await; // the owner is gone: a stop too
        assert!(late.is_requested());
    }

    #[tokio::test]
    async fn ends_carry_the_name_and_the_reason() {
        let mut tasks = Tasks::new();
        assert!(tasks.next_ended().await.is_none());
        tasks.spawn("fails", async { anyhow::bail!("no disk") });
        let ended = tasks.next_ended().await.unwrap();
        assert!(ended.name == "fails" && matches!(&ended.outcome, Outcome::Failed(e) if e.to_string() == "no disk"));
        tasks.spawn(format!("worker {}", 7), async { panic!("out of {}", "range") });
        let ended = tasks.next_ended().await.unwrap();
        assert!(ended.name == "worker 7" && matches!(&ended.outcome, Outcome::Panicked(m) if m == "out of range"));
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_cut_off() {
        let mut tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        tasks.spawn("quick", async { Ok(()) });
        let ended = tasks.finish(Duration::from_millis(20)).await;
        assert_eq!(ended.len(), 2);
        let deaf = ended.iter().find(|e| e.name == "deaf").unwrap();
        assert!(matches!(deaf.outcome, Outcome::Cut));
    }

    #[tokio::test]
    async fn blocking_work_returns_its_value_or_none_after_a_panic() {
        assert_eq!(blocking("sum", || 2 + 2).await, Some(4));
        assert_eq!(blocking("sum", || -> u8 { panic!("no") }).await, None);
    }
}
