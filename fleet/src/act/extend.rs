//! Tells the scheduler's extender what is known and what is under way.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_kubernetes::extender::Views;
use ebbtide_kubernetes::extender::view::View;
use ebbtide_kubernetes::watch::Followed;
use ebbtide_planner::state::FleetState;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::{self, Shutdown};

use super::{Acting, Board};
use crate::decide::Plans;

/// Time between two looks whether there is something new.
const LOOK: Duration = Duration::from_millis(250);
/// What is known and hasn't changed is told again so often, so that it doesn't count as old.
const AGAIN_MS: u64 = 15_000;
/// A state that is older, beyond the time between two plans, is told no more.
const OLD_S: f64 = 60.0;

/// Keeps what the extender knows up to date, until the stop; plans are made `every` so often.
///
/// # Errors
/// None.
pub async fn tell(
    views: Views,
    followed: Followed,
    acting: Acting,
    plans: Arc<Plans>,
    every: Duration,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told: Option<(Arc<FleetState>, Arc<Board>, u64)> = None;
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            _ = looks.tick() => {}
        }
        let (state, board, now) = (plans.state(), acting.board(), clock::now());
        let mono_ms = now.mono / 1_000_000;
        let same = told.as_ref().is_some_and(|(s, b, at)| {
            Arc::ptr_eq(s, &state) && Arc::ptr_eq(b, &board) && mono_ms.saturating_sub(*at) < AGAIN_MS
        });
        let age_s = (now.wall / 1_000_000).saturating_sub(state.now.ms()) as f64 / 1e3;
        // what is old is left to grow old: then the extender says nothing
        if same || age_s > OLD_S + every.as_secs_f64() || !followed.is_complete() || !followed.stale().is_empty() {
            continue;
        }
        told = Some((Arc::clone(&state), Arc::clone(&board), mono_ms));
        let made = tasks::blocking("view for the scheduler", move || {
            let withdrawn = board.withheld().free.into_keys().collect();
            View::of(&state, board.under_way(), &withdrawn, mono_ms)
        });
        if let Some(view) = made.await {
            views.publish(view);
        }
    }
}
