//! What the stream did, for the agent's own metrics.

use std::sync::Mutex;
use std::sync::PoisonError;

use super::session;
use super::spool::Stock;

/// Figures of the stream at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// What the session did.
    pub session: session::Figures,
    /// What the spool holds.
    pub spool: Stock,
}

/// Where the latest figures are.
#[derive(Debug, Default)]
pub struct Latest(Mutex<Figures>);

impl Latest {
    /// The latest.
    pub fn get(&self) -> Figures {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts newer ones there.
    pub(super) fn set(&self, figures: Figures) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }
}
