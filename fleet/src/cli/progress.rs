//! What is shown while something takes long: a spinner on a terminal after two seconds, nothing anywhere else.

use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How long something may take before people wonder.
const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(120);

/// Waits for `work`; says that it does `what` if that takes long. The spinner goes when the work is done or dropped.
pub(super) async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    match tokio::time::timeout(PATIENCE, work.as_mut()).await {
        Ok(done) => done,
        Err(_) => {
            let spinner = Spinner::start(what);
            let done = work.await;
            drop(spinner);
            done
        }
    }
}

/// A line on stderr that moves. Dropping it clears it.
pub(super) struct Spinner(ProgressBar);

impl Spinner {
    /// Begins to move.
    pub(super) fn start(what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How much of something long is done, on a terminal's stderr. Dropping it clears it.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Nothing of `steps` is done yet.
    pub(super) fn start(what: &str, steps: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(steps);
        // a template that can't be read leaves the plain bar
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent} % · {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self(Some(bar))
    }

    /// So much is done.
    pub(super) fn at(&self, step: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(step);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
