//! The thread that talks to the fleet while the screen waits for keys: follows it, and comes back when it is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ebbtide_proto::v1;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tonic::Streaming;

use super::seen::Seen;
use crate::cli::args::TopArgs;
use crate::cli::connect::Fleet;
use crate::cli::context::Target;
use crate::cli::failure::Failure;

/// Workloads that are asked for: more than anybody scrolls through.
const ROWS: u32 = 500;
/// The first wait before the fleet is tried again; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

type Shared = Arc<Mutex<(Seen, u64)>>;

/// The connection, seen from the screen. Dropping it ends the thread.
pub(super) struct Live {
    shared: Shared,
    stop: Arc<AtomicBool>,
    wanted: watch::Sender<Option<v1::GroupBy>>,
    cancel: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Connects; returns once the fleet has agreed to be followed. From here on SIGTERM, SIGINT and SIGHUP end the
    /// thread instead of the process.
    pub(super) fn start(args: &TopArgs, target: Target, timeout: Duration) -> Result<Self, Failure> {
        let (wanted, wants) = watch::channel(args.by.map(|by| by.wire()));
        let (cancel, cancelled) = oneshot::channel();
        let (ready, agreed) = sync_channel(1);
        let shared = Shared::default();
        let stop = Arc::new(AtomicBool::new(false));
        let every_ms = args.interval.ms();
        let (state, flag) = (Arc::clone(&shared), Arc::clone(&stop));
        let work = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(e) => return drop(ready.send(Err(Failure::new(format!("can't wait for anything: {e}"))))),
            };
            runtime.block_on(async {
                let mut follower = Follower { shared: state, wants, target, timeout, every_ms };
                let begun = tokio::select! {
                    begun = follower.begin() => begun,
                    _ = interrupted() => Err(Failure::new("interrupted").exit(crate::cli::failure::Exit::Interrupted)),
                };
                let (fleet, updates) = match begun {
                    Ok(begun) => begun,
                    Err(failure) => return drop(ready.send(Err(failure))),
                };
                // who asked has gone: then there is nothing to do
                if ready.send(Ok(())).is_err() {
                    return;
                }
                tokio::select! {
                    () = follower.follow(fleet, updates) => {}
                    _ = interrupted() => {}
                    _ = cancelled => {}
                }
            });
            flag.store(true, Ordering::Relaxed);
        };
        let thread = std::thread::Builder::new().name("fleet".into()).spawn(work);
        let thread = thread.map_err(|e| Failure::new(format!("can't start a thread: {e}")))?;
        match agreed.recv() {
            Ok(Ok(())) => Ok(Self { shared, stop, wanted, cancel: Some(cancel), thread: Some(thread) }),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::new("the thread that talks to the fleet ended")),
        }
    }

    /// What is known now, and a number that changes with it.
    pub(super) fn seen(&self) -> (Seen, u64) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for workloads by this; `None`: only nodes.
    pub(super) fn want(&self, by: Option<v1::GroupBy>) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, by) != by);
    }

    /// Whether it is time to leave.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // dropping the sender is the message
        self.cancel = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the thread that talks to the fleet panicked");
        }
    }
}

/// Returns when a signal asks for the end.
async fn interrupted() {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut term), Ok(mut int), Ok(mut hup)] = kinds.map(signal) else {
        // signals that can't be caught do what they do by themselves
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}

struct Follower {
    shared: Shared,
    wants: watch::Receiver<Option<v1::GroupBy>>,
    target: Target,
    timeout: Duration,
    every_ms: u64,
}

impl Follower {
    async fn begin(&mut self) -> Result<(Fleet, Streaming<v1::WatchResponse>), Failure> {
        let fleet = Fleet::open(self.target.clone(), self.timeout).await?;
        let updates = self.watch(&fleet).await?;
        Ok((fleet, updates))
    }

    async fn watch(&mut self, fleet: &Fleet) -> Result<Streaming<v1::WatchResponse>, Failure> {
        let by = *self.wants.borrow_and_update();
        fleet.watch(super::watch::request(self.every_ms, by, ROWS)?).await
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut shared.0);
        shared.1 += 1;
    }

    /// Follows the fleet for ever.
    async fn follow(&mut self, mut fleet: Fleet, mut updates: Streaming<v1::WatchResponse>) {
        loop {
            let why = self.listen(&mut fleet, &mut updates).await;
            let mut wait = FIRST_WAIT;
            let mut why = why;
            loop {
                self.change(|seen| seen.lost = Some(format!("{} – trying again", why.what)));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
                match self.begin().await {
                    Ok(begun) => {
                        (fleet, updates) = begun;
                        break;
                    }
                    Err(failure) => why = failure,
                }
            }
        }
    }

    /// Takes updates until there are no more, and returns why.
    async fn listen(&mut self, fleet: &mut Fleet, updates: &mut Streaming<v1::WatchResponse>) -> Failure {
        let mut first = true;
        loop {
            let by = *self.wants.borrow();
            tokio::select! {
                update = updates.message() => match update {
                    Ok(Some(update)) => {
                        self.change(|seen| {
                            if std::mem::take(&mut first) {
                                seen.begin();
                            }
                            seen.take(by, update);
                        });
                    }
                    Ok(None) => return Failure::new(format!("{} ended the updates", self.target.address)),
                    Err(status) => return fleet.refused(&status),
                },
                Ok(()) = self.wants.changed() => {
                    match self.watch(fleet).await {
                        Ok(new) => (*updates, first) = (new, true),
                        Err(failure) => return failure,
                    }
                }
            }
        }
    }
}
