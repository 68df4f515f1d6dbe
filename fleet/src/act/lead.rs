//! Whether this daemon is the one that acts: always, or for as long as it holds the cluster's lease.

use std::time::Duration;

use ebbtide_kubernetes::act::lease::{Candidate, Standing};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Shutdown;
use tokio::sync::{oneshot, watch};

/// Whoever acts has this long to come to an end before the lease is given up.
const END: Duration = Duration::from_secs(6);

/// Whether this daemon leads.
#[derive(Clone, Debug)]
pub enum Lead {
    /// There is nobody else.
    Always,
    /// While it holds the lease.
    Lease(watch::Receiver<Standing>),
}

impl Lead {
    /// The generation under which it may act now; `None`: it may not. Without a lease there is but one.
    pub fn generation(&self) -> Option<u64> {
        match self {
            Self::Always => Some(0),
            Self::Lease(standing) => standing.borrow().may_act(mono_ms()),
        }
    }

    /// Returns when it may act. Safe to drop and call again.
    pub async fn gained(&self) {
        let Self::Lease(standing) = self else { return };
        let mut standing = standing.clone();
        if standing.wait_for(|s| s.may_act(mono_ms()).is_some()).await.is_err() {
            // nobody campaigns any more: the daemon stops
            std::future::pending::<()>().await;
        }
    }

    /// Returns when something about it changes; what runs out by itself isn't told.
    pub async fn changed(&mut self) {
        let told = match self {
            Self::Lease(standing) => standing.changed().await.is_ok(),
            Self::Always => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    }
}

/// Takes the lease whenever that is possible and keeps it until the stop; then gives it up, once `ended` says that nothing
/// is done any more.
///
/// # Errors
/// None.
pub async fn campaign(
    mut candidate: Candidate,
    duration: Duration,
    tell: watch::Sender<Standing>,
    ended: oneshot::Receiver<()>,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut rounds = tokio::time::interval(duration / 5);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut troubled = false;
    loop {
        tokio::select! {
            () = stop.requested() => break,
            _ = rounds.tick() => {}
        }
        let now = clock::now();
        let round = candidate.round(now.mono / 1_000_000, now.wall / 1_000_000);
        match tokio::time::timeout(duration / 3, round).await {
            Ok(Ok(standing)) => {
                troubled = false;
                tell_apart(*tell.borrow(), standing);
                tell.send_replace(standing);
            }
            Ok(Err(error)) if !troubled => {
                troubled = true;
                tracing::warn!("the lease can't be used, trying again: {:#}", anyhow::Error::from(error));
            }
            Err(_) if !troubled => {
                troubled = true;
                tracing::warn!("the API server doesn't answer about the lease, trying again");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    drop(tokio::time::timeout(END, ended).await);
    if let Ok(Err(error)) = tokio::time::timeout(duration / 3, candidate.release()).await {
        tracing::debug!("the lease is not given up but runs out: {error}");
    }
    Ok(())
}

fn tell_apart(before: Standing, now: Standing) {
    match (before, now) {
        (Standing::Follows, Standing::Leads { generation, .. }) => {
            tracing::info!(generation, "holds the lease: this daemon acts");
        }
        (Standing::Leads { .. }, Standing::Follows) => {
            tracing::warn!("another daemon holds the lease: this one doesn't act any more");
        }
        _ => {}
    }
}

fn mono_ms() -> u64 {
    clock::now().mono / 1_000_000
}
