//! `ebbtide.v1.Telemetry`: carries messages between a connection and its [`Session`].

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ebbtide_proto::v1::telemetry_server::Telemetry;
use ebbtide_proto::{NodeId, v1};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::peer;
use crate::ingest::{Counts, Directives, Limits, Line, Outcome, Reason, Refusal, Safe, Session, Submitter};
use crate::live::Live;
use crate::power::{Rack, Walls};
use crate::store::Store;

/// Messages that wait to be sent to an agent. Acks are cumulative, so one would do.
const OUT: usize = 4;
/// An agent has to say Hello this soon.
const HELLO: Duration = Duration::from_secs(15);

/// What all connections share.
pub struct Ingest {
    /// The nodes.
    pub live: Arc<Live>,
    /// Where frames are kept.
    pub store: Store,
    /// The way to the committer.
    pub submitter: Submitter,
    /// What happened.
    pub counts: Arc<Counts>,
    /// What an agent may cost.
    pub limits: Limits,
    /// Connections at present.
    pub open: AtomicU64,
    /// What nodes draw at the wall.
    pub rack: Arc<Rack>,
    /// The ways to agents.
    pub agents: Arc<Directives>,
    /// Time to stop.
    pub stop: Shutdown,
}

/// The service.
#[derive(Clone)]
pub struct TelemetryService(Arc<Ingest>);

impl TelemetryService {
    /// Serves agents.
    pub fn new(ingest: Arc<Ingest>) -> Self {
        Self(ingest)
    }
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type StreamStream = Conversation;

    async fn stream(&self, request: Request<Streaming<v1::AgentMessage>>) -> Result<Response<Conversation>, Status> {
        let ingest = Arc::clone(&self.0);
        let most = ingest.limits.nodes as u64 + 64;
        let open = Open::new(Arc::clone(&ingest));
        if open.now > most {
            ingest.counts.refuse(Reason::Quota);
            return Err(Status::resource_exhausted("too many agents are connected; try again later"));
        }
        let who = peer(&request);
        let session = Session::new(
            who,
            ingest.limits.clone(),
            Arc::clone(&ingest.live),
            ingest.store.clone(),
            Arc::clone(&ingest.counts),
        );
        let (out, answers) = mpsc::channel(OUT);
        let talk = Box::pin(talk(ingest, open, Ended(session), request.into_inner(), out));
        Ok(Response::new(Conversation { talk: Some(talk), answers }))
    }
}

/// Counts connections.
struct Open {
    ingest: Arc<Ingest>,
    now: u64,
}

impl Open {
    fn new(ingest: Arc<Ingest>) -> Self {
        let now = ingest.open.fetch_add(1, Ordering::Relaxed) + 1;
        Self { ingest, now }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.ingest.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A session that is ended however its connection ends.
struct Ended(Session);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end(now_ms());
    }
}

fn now_ms() -> u64 {
    clock::now().wall / 1_000_000
}

type Talk = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// The answers of a connection. Polling them is what drives it, so it needs no task of its own and ends with them.
pub struct Conversation {
    talk: Option<Talk>,
    answers: mpsc::Receiver<v1::FleetMessage>,
}

impl Stream for Conversation {
    type Item = Result<v1::FleetMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let ended = match self.talk.as_mut().map(|talk| talk.as_mut().poll(cx)) {
            Some(Poll::Ready(end)) => {
                self.talk = None;
                Some(end)
            }
            _ => None,
        };
        match self.answers.poll_recv(cx) {
            Poll::Ready(Some(answer)) => {
                if let Some(Err(status)) = ended {
                    // the answer is lost, the reason is not
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(Some(Ok(answer)))
            }
            Poll::Ready(None) | Poll::Pending => match ended {
                Some(Err(status)) => Poll::Ready(Some(Err(status))),
                Some(Ok(())) => Poll::Ready(None),
                None if self.talk.is_none() => Poll::Ready(None),
                None => Poll::Pending,
            },
        }
    }
}

async fn talk(
    ingest: Arc<Ingest>,
    _open: Open,
    mut session: Ended,
    mut incoming: Streaming<v1::AgentMessage>,
    out: mpsc::Sender<v1::FleetMessage>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(HELLO, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))?;
    let Some(hello) = first? else { return Ok(()) };
    let directed = directed(&hello);
    match session.0.receive(hello, now_ms()).map_err(refused)? {
        Outcome::Reply(welcome) => send(&out, welcome).await?,
        _ => return Err(Status::invalid_argument("the first message has to be Hello")),
    }
    // only now is it known to be who it says
    let mut line = directed.map(|node| ingest.agents.open(node));
    let mut walls = session.0.wants_wall().and_then(|node| ingest.rack.wall_of(node));
    let (tell, mut safe) = watch::channel(Safe::default());
    let mut told = 0;
    let mut last_seq = 0;
    loop {
        let taken_over = async {
            match session.0.claim() {
                Some(claim) => claim.taken_over().await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            biased;
            changed = safe.changed() => {
                let state = *safe.borrow_and_update();
                if changed.is_err() || state.failed {
                    return Err(Status::unavailable("the fleet can't write to its disk; keep what you have and try again"));
                }
                if state.seq > told {
                    told = state.seq;
                    send(&out, session.0.ack(told)).await?;
                }
                continue;
            }
            wall = next_wall(&mut walls) => {
                send(&out, wall).await?;
                continue;
            }
            directive = next_directive(&mut line) => {
                send(&out, directive).await?;
                continue;
            }
            () = ingest.stop.requested() => return Err(Status::unavailable("the fleet daemon stops")),
            () = taken_over => return Err(Status::aborted("another connection of this agent took over")),
            message = incoming.message() => message,
        };
        let Some(message) = message? else { return Ok(()) };
        if let (Some(line), Some(v1::agent_message::Kind::Result(result))) = (&mut line, &message.kind) {
            line.answered(result);
        }
        match session.0.receive(message, now_ms()).map_err(refused)? {
            Outcome::Nothing => {}
            Outcome::Reply(reply) => send(&out, reply).await?,
            Outcome::Commit(records) => {
                last_seq = records.last().map_or(last_seq, |record| record.seq());
                if ingest.submitter.submit(records, last_seq, tell.clone()).await.is_err() {
                    return Err(Status::unavailable("the fleet daemon stops"));
                }
            }
            Outcome::Left => {
                // everything before Goodbye is made safe, and told so
                while told < last_seq {
                    if safe.changed().await.is_err() || safe.borrow().failed {
                        return Err(Status::unavailable("the fleet can't write to its disk"));
                    }
                    told = safe.borrow_and_update().seq;
                }
                send(&out, session.0.ack(told)).await?;
                return Ok(());
            }
        }
    }
}

/// The node that says Hello, if its agent takes directives.
fn directed(hello: &v1::AgentMessage) -> Option<NodeId> {
    let Some(v1::agent_message::Kind::Hello(hello)) = &hello.kind else { return None };
    let able = hello.capabilities.iter().any(|c| c == "prepare-for-power-off");
    NodeId::new(&hello.node).ok().filter(|_| able)
}

/// The next directive for the agent; never, if it takes none.
async fn next_directive(line: &mut Option<Line>) -> v1::FleetMessage {
    match line {
        Some(line) => line.next().await,
        None => std::future::pending().await,
    }
}

/// The next reading of what the node draws; never, if nothing is known to feed it.
async fn next_wall(walls: &mut Option<Walls>) -> v1::FleetMessage {
    match walls {
        Some(walls) => {
            let wall = walls.next().await;
            let age = clock::now().since_with_sleep(wall.at);
            let wall = v1::Wall {
                energy_uj: wall.energy.uj(),
                power_uw: wall.power.uw(),
                age_ms: u32::try_from(age.as_millis()).unwrap_or(u32::MAX),
                error_ppm: wall.error.ppm(),
                source: wall.source,
            };
            v1::FleetMessage { kind: Some(v1::fleet_message::Kind::Wall(wall)) }
        }
        None => std::future::pending().await,
    }
}

async fn send(out: &mpsc::Sender<v1::FleetMessage>, message: v1::FleetMessage) -> Result<(), Status> {
    out.send(message).await.map_err(|_| Status::cancelled("the agent is gone"))
}

fn refused(refusal: Refusal) -> Status {
    let Refusal { reason, text } = refusal;
    match reason {
        Reason::Unauthenticated => Status::unauthenticated(text),
        Reason::WrongNode => Status::permission_denied(text),
        Reason::TwoAgents => Status::already_exists(text),
        Reason::Clock | Reason::Version => Status::failed_precondition(text),
        Reason::Quota => Status::resource_exhausted(text),
        Reason::Malformed | Reason::Protocol => Status::invalid_argument(text),
        Reason::Store => Status::unavailable(text),
    }
}
