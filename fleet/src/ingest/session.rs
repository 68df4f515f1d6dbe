//! One agent's connection, without I/O: messages in, frames to commit and messages to send out.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ebbtide_proto::frame::{self, Decoded, Decoder, FrameError};
use ebbtide_proto::identity::Identity;
use ebbtide_proto::{BootId, NodeId, v1};
use prost::Message as _;

use super::counts::{Counts, Reason};
use crate::live::{Arrival, Claim, Live, Rejoined, Trouble};
use crate::store::{Record, Store, Stream};

/// Version of the protocol that is spoken here.
const PROTOCOL: u32 = 1;

/// What an agent may cost, and what it is asked to do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Nodes that the fleet may have.
    pub nodes: usize,
    /// What one connection may make the decoder hold.
    pub frame: frame::Limits,
    /// Largest message in bytes.
    pub message_bytes: usize,
    /// Frames that may wait for their commit, per agent.
    pub window: u32,
    /// How far an agent's clock may be off, in milliseconds.
    pub skew_ms: u64,
    /// Frames older than this are refused, in milliseconds.
    pub age_ms: u64,
    /// Time that a frame covers, in milliseconds; 0: by the number of agents.
    pub frame_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: 20_000,
            frame: frame::Limits { series: 20_000, names: 10_000, ..frame::Limits::default() },
            message_bytes: 1 << 20,
            window: 256,
            skew_ms: 5 * 60 * 1000,
            age_ms: 30 * 86_400_000,
            frame_ms: 0,
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address.
    pub address: Option<IpAddr>,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// Whose certificate it showed.
    pub identity: Option<Identity>,
}

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For metrics.
    pub reason: Reason,
    /// For people: what, and what to do.
    pub text: String,
}

/// What a message led to.
#[derive(Debug)]
pub enum Outcome {
    /// Answer this.
    Reply(v1::FleetMessage),
    /// Commit these, then acknowledge up to the last.
    Commit(Vec<Record>),
    /// The agent left; nothing more will come.
    Left,
    /// Nothing to do.
    Nothing,
}

/// One agent's connection.
pub struct Session {
    peer: Peer,
    limits: Limits,
    live: Arc<Live>,
    store: Store,
    counts: Arc<Counts>,
    joined: Option<Joined>,
}

struct Joined {
    claim: Claim,
    spool: u64,
    stream: Stream,
    decoder: Decoder,
    numbers: Rejoined,
    /// Its agent takes what it draws at the wall.
    wall: bool,
    /// The last frame that came over this connection, or was here before.
    last_seq: u64,
    /// Refused for good and not told yet.
    refused: u32,
    why: String,
}

impl Session {
    /// A connection on which nothing was said yet.
    pub fn new(peer: Peer, limits: Limits, live: Arc<Live>, store: Store, counts: Arc<Counts>) -> Self {
        Self { peer, limits, live, store, counts, joined: None }
    }

    /// The node, if its agent wants to know what it draws at the wall.
    pub fn wants_wall(&self) -> Option<&NodeId> {
        self.joined.as_ref().filter(|joined| joined.wall).map(|joined| joined.claim.node())
    }

    /// The node, once it is known.
    pub fn claim(&self) -> Option<&Claim> {
        self.joined.as_ref().map(|joined| &joined.claim)
    }

    /// Takes a message that arrived at `now_ms`. Reads the store at the first one.
    pub fn receive(&mut self, message: v1::AgentMessage, now_ms: u64) -> Result<Outcome, Refusal> {
        use v1::agent_message::Kind;
        let taken = match message.kind {
            Some(Kind::Hello(hello)) => self.hello(&hello, now_ms),
            Some(Kind::Frames(batch)) => self.frames(batch, now_ms),
            Some(Kind::Goodbye(goodbye)) => {
                let joined = self.joined.as_ref().ok_or_else(not_first)?;
                joined.claim.goodbye(now_ms, goodbye.reason.chars().take(64).collect());
                Ok(Outcome::Left)
            }
            Some(Kind::Result(_)) => self.joined.as_ref().map(|_| Outcome::Nothing).ok_or_else(not_first),
            None => Err(refuse(Reason::Protocol, "a message of a kind that is not known here; is the agent newer?")),
        };
        if let Err(refusal) = &taken {
            self.counts.refuse(refusal.reason);
            let trouble = Trouble { reason: refusal.reason.as_str(), text: refusal.text.clone(), at_ms: now_ms };
            if let Some(joined) = &self.joined {
                joined.claim.trouble(trouble);
            }
        }
        taken
    }

    /// The connection is over.
    pub fn end(&mut self, now_ms: u64) {
        if let Some(joined) = self.joined.take() {
            joined.claim.leave(now_ms);
        }
    }

    /// The message that acknowledges everything up to `seq`.
    pub fn ack(&mut self, seq: u64) -> v1::FleetMessage {
        let (refused, reason) = self
            .joined
            .as_mut()
            .map(|j| (std::mem::take(&mut j.refused), std::mem::take(&mut j.why)))
            .unwrap_or_default();
        let ack = v1::Ack { seq, refused, reason };
        v1::FleetMessage { kind: Some(v1::fleet_message::Kind::Ack(ack)) }
    }

    fn hello(&mut self, hello: &v1::Hello, now_ms: u64) -> Result<Outcome, Refusal> {
        if self.joined.is_some() {
            return Err(refuse(Reason::Protocol, "Hello was said twice"));
        }
        let node = self.who(hello)?;
        let known = self.live.knows(&node);
        if !known && self.live.len() >= self.limits.nodes {
            let most = self.limits.nodes;
            let text =
                format!("the fleet has the {most} nodes that it may have; raise limits.nodes in its configuration");
            return Err(refuse(Reason::Quota, &text));
        }
        // from here on the node is shown with what is wrong with it
        self.fits(hello, now_ms).inspect_err(|refusal| {
            let trouble = Trouble { reason: refusal.reason.as_str(), text: refusal.text.clone(), at_ms: now_ms };
            self.live.trouble(&node, trouble);
        })?;
        let boot = match hello.boot_id.as_str() {
            "" => None,
            text => Some(text.parse::<BootId>().map_err(|e| refuse(Reason::Malformed, &e.to_string()))?),
        };
        let arrival = Arrival {
            node: node.clone(),
            spool: hello.spool_id,
            boot,
            address: self.peer.address,
            machine: checked(hello.machine.clone().unwrap_or_default()),
            version: cut(&hello.version),
            shuts_down: hello.capabilities.iter().any(|capability| capability == "shut-down"),
        };
        let claim =
            self.live.claim(arrival, now_ms).map_err(|t| Refusal { reason: Reason::TwoAgents, text: t.text })?;
        let stream = match self.store.stream(&node, hello.spool_id) {
            Ok(stream) => stream,
            Err(e) => {
                claim.leave(now_ms);
                return Err(refuse(Reason::Store, &format!("the fleet can't read its store: {e}; try again later")));
            }
        };
        let acked = stream.acked();
        let welcome = v1::Welcome {
            acked_seq: acked,
            config: Some(self.config()),
            now_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.joined = Some(Joined {
            wall: hello.capabilities.iter().any(|capability| capability == "wall"),
            claim,
            spool: hello.spool_id,
            stream,
            decoder: Decoder::new(self.limits.frame),
            numbers: Rejoined::default(),
            last_seq: acked,
            refused: 0,
            why: String::new(),
        });
        Ok(Outcome::Reply(v1::FleetMessage { kind: Some(v1::fleet_message::Kind::Welcome(welcome)) }))
    }

    /// As which node the agent may speak: the one in its certificate, never just what it says.
    fn who(&self, hello: &v1::Hello) -> Result<NodeId, Refusal> {
        let claimed = NodeId::new(&hello.node).map_err(|e| refuse(Reason::Malformed, &e.to_string()))?;
        match &self.peer.identity {
            Some(Identity::Node(node)) if *node == claimed => Ok(claimed),
            Some(Identity::Node(node)) => Err(refuse(
                Reason::WrongNode,
                &format!(
                    "the certificate is that of node {node}, but the agent calls itself {claimed}: set node-name = \"{node}\" or join again under the new name"
                ),
            )),
            Some(other) => Err(refuse(
                Reason::Unauthenticated,
                &format!("{other} is no node; agents need the certificate of a node"),
            )),
            None if self.peer.encrypted => Err(refuse(
                Reason::Unauthenticated,
                "the agent showed no certificate; enrol it with ebbtide-agent join",
            )),
            None => Ok(claimed),
        }
    }

    fn fits(&self, hello: &v1::Hello, now_ms: u64) -> Result<(), Refusal> {
        if hello.protocol != PROTOCOL {
            let text = format!(
                "the agent speaks version {} of the protocol, the fleet {PROTOCOL}; update the older one",
                hello.protocol
            );
            return Err(refuse(Reason::Version, &text));
        }
        let skew = hello.now_ms.abs_diff(now_ms);
        if skew > self.limits.skew_ms {
            let way = if hello.now_ms > now_ms { "ahead" } else { "behind" };
            let text = format!(
                "the node's clock is {} {way} of the fleet's; set it (NTP, chrony, systemd-timesyncd): measuring goes on, and what is kept is sent then",
                spelled(skew)
            );
            return Err(refuse(Reason::Clock, &text));
        }
        Ok(())
    }

    /// What agents are asked for. The more there are, the rarer they speak.
    fn config(&self) -> v1::Config {
        let frame_ms = match (self.limits.frame_ms, self.live.len()) {
            (0, ..=200) => 2_000,
            (0, ..=2_000) => 5_000,
            (0, _) => 10_000,
            (set, _) => set,
        };
        v1::Config {
            node_interval_ms: 1000.min(frame_ms),
            workload_interval_ms: frame_ms,
            window_frames: self.limits.window,
            max_message_bytes: u32::try_from(self.limits.message_bytes).unwrap_or(u32::MAX),
        }
    }

    fn frames(&mut self, batch: v1::FrameBatch, now_ms: u64) -> Result<Outcome, Refusal> {
        let joined = self.joined.as_mut().ok_or_else(not_first)?;
        self.counts.bytes.fetch_add(batch.encoded_len() as u64, Ordering::Relaxed);
        let frames = frame::unpack(batch, self.limits.frame.bytes).map_err(malformed)?;
        if frames.len() > self.limits.window as usize {
            return Err(refuse(Reason::Quota, "more frames at once than the window that the fleet gave"));
        }
        let mut records = Vec::with_capacity(frames.len());
        // not kept between messages: of ten thousand connections few speak at a time
        let mut decoded = Decoded::default();
        for frame in &frames {
            joined.decoder.decode(frame, &mut decoded).map_err(malformed)?;
            let dropped = decoded.dropped.as_ref().map_or(0, |dropped| dropped.frames);
            if decoded.seq <= joined.last_seq {
                self.counts.duplicates.fetch_add(1, Ordering::Relaxed);
                // what it defines is of use even so
                joined.claim.update(now_ms, |figures| {
                    figures.take(joined.spool, &joined.decoder, &decoded, &mut joined.numbers);
                });
                continue;
            }
            let missing = decoded.seq - joined.last_seq - 1;
            if missing > 0 && dropped == 0 {
                let text = format!(
                    "frame {} follows frame {}, and nothing says what became of those between",
                    decoded.seq, joined.last_seq
                );
                return Err(refuse(Reason::Protocol, &text));
            }
            self.counts.dropped.fetch_add(missing.max(dropped), Ordering::Relaxed);
            joined.last_seq = decoded.seq;
            let first = decoded.ticks.first().copied().unwrap_or(now_ms);
            let last = decoded.ticks.last().copied().unwrap_or(now_ms);
            if last > now_ms.saturating_add(self.limits.skew_ms) || first < now_ms.saturating_sub(self.limits.age_ms) {
                joined.refused += 1;
                joined.why = "its time is far off".to_owned();
                self.counts.refused_frames.fetch_add(1, Ordering::Relaxed);
                self.counts.refuse(Reason::Clock);
                let empty = Decoded { seq: decoded.seq, boot: decoded.boot, ..Decoded::default() };
                records.push(joined.stream.record(&joined.decoder, &empty));
                continue;
            }
            joined.claim.update(now_ms, |figures| {
                figures.take(joined.spool, &joined.decoder, &decoded, &mut joined.numbers);
            });
            self.counts.samples.fetch_add(decoded.values.len() as u64, Ordering::Relaxed);
            self.counts.frames.fetch_add(1, Ordering::Relaxed);
            records.push(joined.stream.record(&joined.decoder, &decoded));
        }
        Ok(if records.is_empty() { Outcome::Reply(self.ack_known()) } else { Outcome::Commit(records) })
    }

    /// Acknowledges what was here before.
    fn ack_known(&mut self) -> v1::FleetMessage {
        let seq = self.joined.as_ref().map_or(0, |joined| joined.stream.acked());
        self.ack(seq)
    }
}

fn refuse(reason: Reason, text: &str) -> Refusal {
    Refusal { reason, text: text.to_owned() }
}

fn not_first() -> Refusal {
    refuse(Reason::Protocol, "the first message has to be Hello")
}

fn malformed(error: FrameError) -> Refusal {
    let reason = match error {
        FrameError::TooMuch { .. } | FrameError::Compression { .. } => Reason::Quota,
        _ => Reason::Malformed,
    };
    Refusal { reason, text: error.to_string() }
}

/// `text` as far as it is shown.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

fn checked(machine: v1::Machine) -> v1::Machine {
    v1::Machine {
        cpu_model: cut(&machine.cpu_model),
        architecture: cut(&machine.architecture),
        idle_policy: cut(&machine.idle_policy),
        usage_method: cut(&machine.usage_method),
        cpus: machine.cpus.min(100_000),
        sockets: machine.sockets.min(10_000),
    }
}

/// A time as people say it.
fn spelled(ms: u64) -> String {
    match ms / 1000 {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}
