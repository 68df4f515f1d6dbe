//! What is done to the cluster. Each act is one question and one change, safe to repeat.
//!
//! `cordon` closes and opens nodes under our mark, `evict` moves pods by the Eviction API and says what is left, `notes`
//! writes down what was learned and done, `lease` knows who leads, `settings` reads what operators say. Nothing in here
//! decides: whoever calls has a plan, and the generation under which it was made.

pub mod cordon;
pub mod evict;
pub mod lease;
pub mod notes;
pub mod settings;

use kube::Client;

/// The field manager of everything that is written.
pub const MANAGER: &str = "ebbtide-fleet";

/// Hands on the cluster.
#[derive(Clone)]
pub struct Hands {
    client: Client,
    identity: String,
}

impl std::fmt::Debug for Hands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hands").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Hands {
    /// Hands that write under this identity, which is the one in the lease.
    pub fn new(client: Client, identity: &str) -> Self {
        Self { client, identity: identity.to_owned() }
    }
}

/// Why something wasn't done.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The node was closed, or is kept, by somebody else.
    #[error("node {node} is somebody else's: {why}")]
    Foreign {
        /// Which.
        node: String,
        /// Why.
        why: &'static str,
    },
    /// A later leader has been here.
    #[error("node {node} was closed under generation {theirs}, ours is {ours}: another leads now")]
    Superseded {
        /// Which node.
        node: String,
        /// The generation that we act under.
        ours: u64,
        /// The generation in the mark.
        theirs: u64,
    },
    /// It was changed by others each time.
    #[error("{what} is being changed by others; the next round tries again")]
    Contended {
        /// What.
        what: String,
    },
    /// There is no such thing.
    #[error("{what} isn't there")]
    Gone {
        /// What.
        what: String,
    },
    /// The server said no, or nothing: in that case it may be done nevertheless.
    #[error("can't {what}")]
    Api {
        /// What was tried, and on what.
        what: String,
        /// What the server, or the connection, said.
        #[source]
        source: Box<kube::Error>,
    },
}

impl Failed {
    fn api(what: String, source: kube::Error) -> Self {
        if code(&source) == Some(404) {
            return Self::Gone { what };
        }
        Self::Api { what, source: Box::new(source) }
    }

    /// Whether the outcome is unknown: the connection ended before the answer.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Api { source, .. } if code(source).is_none())
    }
}

/// The status that the server answered with; `None` if there was no answer.
fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
