//! What goes wrong with devices. A message says what was tried on what, and what the operator can do. Secrets are
//! never in it.

use std::time::Duration;

/// Why a device gave no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No answer in time.
    #[error("{device} didn't answer within {} ms: {hint}", after.as_millis())]
    Timeout {
        /// The device's address.
        device: String,
        /// How long was waited, retries included.
        after: Duration,
        /// What may be wrong: off, address, firewall, wrong community.
        hint: String,
    },
    /// The connection failed.
    #[error("can't reach {device}: {why}")]
    Unreachable {
        /// The device's address.
        device: String,
        /// What the network said.
        why: String,
    },
    /// The device refused the credentials.
    #[error("{device} refused the credentials: {hint}")]
    Denied {
        /// The device's address.
        device: String,
        /// Where they come from, and what to check.
        hint: String,
    },
    /// Its certificate is not the one that was trusted.
    #[error("{device} showed a certificate that isn't trusted: {why}")]
    Certificate {
        /// The device's address.
        device: String,
        /// What is wrong with it, and how to trust it if that is right.
        why: String,
    },
    /// It answered what its protocol doesn't allow.
    #[error("{device} answered nonsense to {asked}: {why}")]
    Nonsense {
        /// The device's address.
        device: String,
        /// What was asked.
        asked: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// It said no.
    #[error("{device} refused {asked}: {why}")]
    Refused {
        /// The device's address.
        device: String,
        /// What was asked.
        asked: String,
        /// What it said.
        why: String,
    },
    /// It has no such outlet.
    #[error("{device} has no outlet {outlet}; it has {known}")]
    NoOutlet {
        /// The device's address.
        device: String,
        /// What was asked for.
        outlet: String,
        /// Those it has, shortened.
        known: String,
    },
    /// The device can't do that.
    #[error("{device} can't {what}")]
    Unable {
        /// The device's address.
        device: String,
        /// What was wanted, and what would do instead.
        what: String,
    },
    /// What was configured can't be used.
    #[error("{0}")]
    Config(String),
}

impl DeviceError {
    /// Whether trying again later may help without anyone changing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Unreachable { .. })
    }
}
