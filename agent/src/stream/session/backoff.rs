//! The time until the next try: exponential, with full jitter, so that ten thousand agents don't come back at once.

use std::time::Duration;

use tonic::Code;

use super::super::random::Random;

/// First and longest wait where nobody could be reached.
const NETWORK: (u64, u64) = (500, 60_000);
/// The same where the fleet said no: that takes a person to change.
const REFUSED: (u64, u64) = (5_000, 300_000);

/// Chooses waits.
#[derive(Debug)]
pub(super) struct Backoff {
    random: Random,
    tries: u32,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), tries: 0 }
    }

    /// The next failure is the first one again.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }

    /// Nanoseconds to wait after a connection that ended like this.
    pub(super) fn next(&mut self, code: Option<Code>) -> u64 {
        use Code as C;
        let (first, longest) = match code {
            Some(
                C::Unauthenticated
                | C::PermissionDenied
                | C::AlreadyExists
                | C::FailedPrecondition
                | C::ResourceExhausted
                | C::InvalidArgument
                | C::OutOfRange
                | C::NotFound
                | C::Unimplemented,
            ) => REFUSED,
            _ => NETWORK,
        };
        let most = first.saturating_mul(1 << self.tries.min(20)).min(longest);
        self.tries = self.tries.saturating_add(1);
        self.some(Duration::from_millis(most))
    }

    /// Some nanoseconds up to `within`.
    pub(super) fn some(&mut self, within: Duration) -> u64 {
        self.random.up_to(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX))
    }
}
