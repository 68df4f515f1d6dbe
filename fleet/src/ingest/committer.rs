//! The one thread that writes: takes what all connections bring, commits it at once, then tells each.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use ebbtide_runtime::clock::{self, Moment};
use tokio::sync::mpsc;
use tokio::sync::watch;

use super::counts::{Counts, Reason};
use crate::store::{Outcome, Record, Store};

/// Frames are collected for so long before they are committed, so that many share one write to the disk.
const COLLECT: Duration = Duration::from_millis(200);
/// As many records are committed at once at most.
const AT_ONCE: usize = 8192;
/// Messages that wait for the committer; senders wait when it is full.
const QUEUE: usize = 1024;

/// How a connection learns what is safe: everything up to this frame, or that nothing more will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Safe {
    /// The last frame that is on disk.
    pub seq: u64,
    /// The store can't write any more: end the connection.
    pub failed: bool,
}

struct Job {
    records: Vec<Record>,
    last_seq: u64,
    arrived: Moment,
    tell: watch::Sender<Safe>,
}

/// Hands frames to the committer.
#[derive(Clone)]
pub struct Submitter(mpsc::Sender<Job>);

/// The committer is gone.
#[derive(Debug)]
pub struct Gone;

impl Submitter {
    /// Waits for a place in the queue, then for nothing: `tell` is told when the records are safe.
    pub async fn submit(&self, records: Vec<Record>, last_seq: u64, tell: watch::Sender<Safe>) -> Result<(), Gone> {
        self.0.send(Job { records, last_seq, arrived: clock::now(), tell }).await.map_err(|_| Gone)
    }
}

/// The thread. It ends when all [`Submitter`]s are gone.
pub struct Committer {
    thread: JoinHandle<()>,
}

impl Committer {
    /// Starts it.
    pub fn start(store: Store, counts: Arc<Counts>) -> std::io::Result<(Self, Submitter)> {
        let (send, receive) = mpsc::channel(QUEUE);
        let thread =
            std::thread::Builder::new().name("committer".into()).spawn(move || run(&store, &counts, receive))?;
        Ok((Self { thread }, Submitter(send)))
    }

    /// Waits until everything that was submitted is committed. All [`Submitter`]s have to be gone.
    pub fn finish(self) {
        if self.thread.join().is_err() {
            tracing::error!("the committer panicked");
        }
    }
}

fn run(store: &Store, counts: &Counts, mut receive: mpsc::Receiver<Job>) {
    let mut jobs = Vec::new();
    let mut failing = false;
    while let Some(first) = receive.blocking_recv() {
        let until = clock::now().plus(COLLECT);
        let mut records = first.records.len();
        jobs.push(first);
        while records < AT_ONCE {
            match receive.try_recv() {
                Ok(job) => {
                    records += job.records.len();
                    jobs.push(job);
                }
                Err(mpsc::error::TryRecvError::Empty) if clock::now().mono < until.mono => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(_) => break,
            }
        }
        let all: Vec<Record> = jobs.iter_mut().flat_map(|job| job.records.drain(..)).collect();
        match store.commit(&all) {
            Ok(done) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the store can be written again");
                }
                for outcome in &done.outcomes {
                    match outcome {
                        Outcome::Accepted => {}
                        Outcome::Duplicate => drop(counts.duplicates.fetch_add(1, Ordering::Relaxed)),
                        Outcome::Refused(why) => {
                            tracing::warn!("a frame was refused for good: {why}");
                            counts.refused_frames.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                let now = clock::now();
                for job in jobs.drain(..) {
                    let us = u64::try_from(now.since(job.arrived).as_micros()).unwrap_or(u64::MAX);
                    counts.waited(us, now.wall / 1_000_000);
                    job.tell.send_modify(|safe| safe.seq = safe.seq.max(job.last_seq));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!("{error}; agents keep what they have until this is mended");
                }
                for job in jobs.drain(..) {
                    counts.refuse(Reason::Store);
                    job.tell.send_modify(|safe| safe.failed = true);
                }
            }
        }
    }
}
