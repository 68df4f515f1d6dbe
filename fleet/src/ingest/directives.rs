//! What the fleet tells agents to do, and what they answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ebbtide_proto::v1::directive::Kind;
use ebbtide_proto::{NodeId, v1};
use tokio::sync::{mpsc, oneshot};

/// Directives that wait for one agent's connection to take them.
const WAITING: usize = 4;

/// Why a directive came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// For certain not received.
    #[error("its agent is not connected")]
    NotConnected,
    /// Received by an agent that doesn't know it, or couldn't do it.
    #[error("its agent refused: {0}")]
    Refused(String),
    /// It may have been carried out.
    #[error("its agent didn't answer within {0} s")]
    NoAnswer(u64),
}

struct Told {
    directive: v1::Directive,
    answer: oneshot::Sender<v1::DirectiveResult>,
}

/// The ways to all agents that are connected.
#[derive(Default)]
pub struct Directives {
    lines: Mutex<BTreeMap<NodeId, (u64, mpsc::Sender<Told>)>>,
    numbers: AtomicU64,
}

/// The way to one agent, held by its connection.
pub struct Line {
    all: Arc<Directives>,
    node: NodeId,
    number: u64,
    waiting: mpsc::Receiver<Told>,
    sent: BTreeMap<u64, oneshot::Sender<v1::DirectiveResult>>,
}

impl Directives {
    fn lines(&self) -> MutexGuard<'_, BTreeMap<NodeId, (u64, mpsc::Sender<Told>)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Opens the way to an agent that has just joined; one that was open before is closed.
    pub fn open(self: &Arc<Self>, node: NodeId) -> Line {
        let (send, waiting) = mpsc::channel(WAITING);
        let number = self.number();
        self.lines().insert(node.clone(), (number, send));
        Line { all: Arc::clone(self), node, number, waiting, sent: BTreeMap::new() }
    }

    /// Tells the agent of `node`, and waits for its answer.
    ///
    /// # Errors
    /// See [`Untold`].
    pub async fn tell(&self, node: &NodeId, kind: Kind, patience: Duration) -> Result<String, Untold> {
        let line = self.lines().get(node).map(|(_, line)| line.clone()).ok_or(Untold::NotConnected)?;
        let (answer, answered) = oneshot::channel();
        let directive = v1::Directive { id: self.number(), kind: Some(kind) };
        line.try_send(Told { directive, answer }).map_err(|_| Untold::NotConnected)?;
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(result)) if result.done => Ok(result.text),
            Ok(Ok(result)) => Err(Untold::Refused(result.text)),
            Ok(Err(_)) | Err(_) => Err(Untold::NoAnswer(patience.as_secs())),
        }
    }
}

impl Line {
    /// The next directive to send. Loses nothing if dropped before it returns.
    pub async fn next(&mut self) -> v1::FleetMessage {
        match self.waiting.recv().await {
            Some(Told { directive, answer }) => {
                self.sent.insert(directive.id, answer);
                v1::FleetMessage { kind: Some(v1::fleet_message::Kind::Directive(directive)) }
            }
            // another connection of the node has taken its place
            None => std::future::pending().await,
        }
    }

    /// Takes in what became of one.
    pub fn answered(&mut self, result: &v1::DirectiveResult) {
        if let Some(answer) = self.sent.remove(&result.id) {
            // whoever asked may have stopped waiting
            drop(answer.send(result.clone()));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut lines = self.all.lines();
        if lines.get(&self.node).is_some_and(|(number, _)| *number == self.number) {
            lines.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goodbye() -> Kind {
        Kind::PrepareForPowerOff(v1::PrepareForPowerOff { deadline_ms: 1, stay: false })
    }

    #[tokio::test]
    async fn an_answer_finds_whoever_asked_and_a_lost_one_is_said_so() {
        let all = Arc::new(Directives::default());
        let node = NodeId::new("a").unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(all.tell(&node, goodbye(), second).await, Err(Untold::NotConnected));
        let mut line = all.open(node.clone());
        let agent = async {
            for (done, text) in [(true, "sent 3 frames"), (false, "no such thing")] {
                let Some(v1::fleet_message::Kind::Directive(d)) = line.next().await.kind else { panic!("a directive") };
                line.answered(&v1::DirectiveResult { id: d.id + 1000, done: true, text: "of another".into() });
                line.answered(&v1::DirectiveResult { id: d.id, done, text: text.into() });
            }
        };
        let asker = async {
            assert_eq!(all.tell(&node, goodbye(), second).await, Ok("sent 3 frames".into()));
            assert_eq!(all.tell(&node, goodbye(), second).await, Err(Untold::Refused("no such thing".into())));
        };
        tokio::join!(agent, asker);
        let later = all.open(node.clone());
        drop(line);
        assert_eq!(all.tell(&node, goodbye(), Duration::from_millis(10)).await, Err(Untold::NoAnswer(0)));
        drop(later);
        assert_eq!(all.tell(&node, goodbye(), second).await, Err(Untold::NotConnected), "a closed way is forgotten");
    }
}
