//! The agent's part of the protocol: events in, commands out. Pure; time and randomness are handed in.
//!
//! ```text
//! idle ── time ──▶ connecting ── Connected ──▶ greeting ── Welcome ──▶ streaming
//!   ▲                  │                          │                      │
//!   └──── backoff ─────┴────────── Ended ─────────┴──────────────────────┘
//! ```
//!
//! Frames go from the spool to the fleet in order and stay in the spool until they are acknowledged. After each
//! Welcome sending begins behind what the fleet has, with a fresh encoder. `sending` has encoder and window,
//! `directives` what the fleet may ask for, `wall` what it tells, `backoff` the time between two tries.
//!
//! Whoever drives a session does what the commands say, in order, and tells what came of it. Events of a connection
//! carry its number: those of one that is over mean nothing.

mod backoff;
mod directives;
mod sending;
mod wall;

use std::time::Duration;

use ebbtide_proto::frame::Batch;
use ebbtide_proto::{BootId, NodeId, v1};
use tonic::Code;

use self::backoff::Backoff;
use self::directives::Leaving;
use self::sending::Sending;
use super::spool::Position;
use crate::clock::Moment;
use crate::source::wall::Told;

/// The version of the protocol.
const PROTOCOL: u32 = 1;
/// From Connected until the fleet must have said Welcome.
const WELCOME_WITHIN: Duration = Duration::from_secs(15);
/// From Connect until there must be a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// While frames wait for an ack, from one ack to the next.
const ACK_WITHIN: Duration = Duration::from_secs(60);
/// A connection that lasted this long was a good one.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// At the agent's end, for the last frames to be acknowledged.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Who speaks.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The node's name.
    pub node: NodeId,
    /// Its boot.
    pub boot: Option<BootId>,
    /// What machine it is.
    pub machine: v1::Machine,
    /// Version of the agent.
    pub version: String,
    /// Whether it says that the fleet may bring a power curve.
    pub takes_curve: bool,
    /// Whether it wants to be told what the whole machine draws.
    pub takes_wall: bool,
    /// Whether the fleet may shut the machine down.
    pub shuts_down: bool,
}

/// Why a connection is not there, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The fleet's reason; `None` if nobody could be reached or the connection broke.
    pub code: Option<Code>,
    /// For people.
    pub text: String,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The time that [`Command::WakeAt`] asked for has come.
    Tick,
    /// The spool is here: after each change of it, whatever made it.
    Spool(Position),
    /// There is a connection.
    Connected(u64),
    /// It could not be made, or it ended.
    Ended(u64, Ended),
    /// The fleet said something.
    Message(u64, v1::FleetMessage),
    /// The frames that [`Command::Read`] asked for; empty if there are none.
    Frames(u64, Vec<Batch>),
    /// All that was measured is in the spool, as [`Command::Flush`] asked for.
    Flushed(Position),
    /// What became of a [`Command::Curve`] or [`Command::ShutDown`].
    Applied(u64, Result<String, String>),
    /// The agent is about to end.
    Stop,
}

/// What has to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make a connection under this number; answer with Connected or Ended.
    Connect(u64),
    /// Send this on a connection.
    Send(u64, Box<v1::AgentMessage>),
    /// End a connection once all is sent. No event has to follow.
    Disconnect(u64),
    /// Read frames from the spool; answer with Frames, after Spool.
    Read {
        /// For which connection.
        connection: u64,
        /// The first number.
        from: u64,
        /// At most so many frames.
        frames: usize,
        /// No more once they have so many bytes.
        bytes: usize,
    },
    /// The spool may forget the frames of this id up to `seq`; answer with Spool.
    Release {
        /// The spool's id.
        spool_id: u64,
        /// The last number.
        seq: u64,
    },
    /// The spool has to take another id for what comes; answer with Spool.
    Renew,
    /// Send a Tick at this time of the monotonic clock, in nanoseconds; replaces the one before.
    WakeAt(u64),
    /// Put all that was measured into the spool, safe from a power cut; answer with Flushed.
    Flush,
    /// Tell at these intervals from now on; `None` as the operator said.
    Intervals {
        /// Of the node's series.
        node: Option<Duration>,
        /// Of the workloads' series.
        workload: Option<Duration>,
    },
    /// Use this load curve; answer with Applied.
    Curve(u64, v1::PowerCurve),
    /// Tell the machine to shut down; answer with Applied, unless that isn't known.
    ShutDown(u64),
    /// The whole machine's input was read by the fleet.
    Wall(Told),
    /// Log this.
    Tell(Notice),
    /// After [`Event::Stop`]: there is nothing more to do.
    Done,
}

/// What an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Frames go to a fleet daemon of this version.
    Connected(String),
    /// The fleet can't be reached, or doesn't want us: why. Not told again until the reason is another.
    Trouble(Ended),
    /// The fleet will never take these frames.
    Refused {
        /// How many.
        frames: u32,
        /// Why.
        reason: String,
    },
    /// The fleet has frames of our spool that we never sent: the spool starts anew.
    Forgotten,
    /// The fleet wants the machine to be powered off, and has all frames.
    PoweringOff,
}

/// What a session did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// It streams.
    pub connected: bool,
    /// Frames sent, each time that they were.
    pub sent: u64,
    /// Frames that the fleet has taken for good.
    pub acked: u64,
    /// Frames that it refused for good.
    pub refused: u64,
    /// Connections after the first.
    pub reconnects: u64,
    /// Readings of the machine's input that the fleet told.
    pub walls: u64,
    /// The same that make no sense, or were not asked for.
    pub walls_ignored: u64,
}

#[derive(Debug)]
enum State {
    /// Not connected until this time.
    Idle {
        until: u64,
    },
    Connecting {
        since: u64,
    },
    Greeting {
        since: u64,
        spool_id: u64,
    },
    Streaming(Box<Sending>),
    /// All is said.
    Done,
}

/// One agent's side of the stream, over all its connections.
#[derive(Debug)]
pub struct Session {
    options: Options,
    state: State,
    /// Number of the present or last connection.
    connection: u64,
    backoff: Backoff,
    spool: Position,
    leaving: Option<Leaving>,
    /// The trouble that was told last.
    told: Option<Ended>,
    /// The fleet's clock less ours, in milliseconds.
    ahead_ms: i64,
    /// Directives that are being carried out.
    applying: Vec<u64>,
    wake_at: Option<u64>,
    welcomes: u64,
    figures: Figures,
    commands: Vec<Command>,
}

impl Session {
    /// A session that was not connected yet; `seed` is random.
    pub fn new(options: Options, seed: u64) -> Self {
        Self {
            options,
            state: State::Idle { until: 0 },
            connection: 0,
            backoff: Backoff::new(seed),
            spool: Position::default(),
            leaving: None,
            told: None,
            ahead_ms: 0,
            applying: Vec::new(),
            wake_at: None,
            welcomes: 0,
            figures: Figures::default(),
            commands: Vec::new(),
        }
    }

    /// What it did so far.
    pub fn figures(&self) -> Figures {
        Figures { connected: matches!(self.state, State::Streaming(_)), ..self.figures }
    }

    /// Takes an event, and says what has to be done.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Command> {
        if !matches!(self.state, State::Done) {
            self.take(now, event);
            self.go_on(now);
        }
        std::mem::take(&mut self.commands)
    }

    fn take(&mut self, now: Moment, event: Event) {
        match event {
            Event::Tick => {}
            Event::Spool(position) => self.spool = position,
            Event::Connected(number) if number == self.connection => self.greet(now),
            Event::Ended(number, ended) if number == self.connection => self.ended(now, ended),
            Event::Message(number, message) if number == self.connection => self.heard(now, message),
            Event::Frames(number, batches) if number == self.connection => {
                if let State::Streaming(sending) = &mut self.state {
                    self.figures.sent += sending.send(now, self.spool, batches, &mut self.commands);
                }
            }
            Event::Flushed(position) => {
                self.spool = position;
                if let Some(leaving) = &mut self.leaving {
                    leaving.flushed = true;
                }
            }
            Event::Applied(id, result) => self.applied(now, id, result),
            Event::Stop => self.stop(now),
            Event::Connected(_) | Event::Ended(..) | Event::Message(..) | Event::Frames(..) => {}
        }
    }

    /// Does what is due in the state that there is now.
    fn go_on(&mut self, now: Moment) {
        self.connect_if_due(now);
        match &mut self.state {
            State::Connecting { since } if now.mono >= after(*since, CONNECT_WITHIN) => {
                self.give_up(now, "it doesn't answer");
            }
            State::Greeting { since, .. } if now.mono >= after(*since, WELCOME_WITHIN) => {
                self.give_up(now, "it takes connections but says nothing");
            }
            State::Streaming(sending) => {
                if sending.waits_since().is_some_and(|since| now.mono >= after(since, ACK_WITHIN)) {
                    self.give_up(now, "it doesn't acknowledge what it is sent");
                } else if sending.spool_id != self.spool.spool_id || sending.is_worn_out() {
                    // frames under another number, or a stream that has become too large to read: begin anew
                    self.disconnect(now, Duration::ZERO);
                } else {
                    sending.ask(&self.spool, &mut self.commands);
                }
            }
            _ => {}
        }
        self.leave(now);
        self.set_alarm(now);
    }

    fn connect_if_due(&mut self, now: Moment) {
        if let State::Idle { until } = self.state
            && until <= now.mono
            && self.wants_to_connect()
        {
            self.connection += 1;
            self.state = State::Connecting { since: now.mono };
            self.commands.push(Command::Connect(self.connection));
        }
    }

    fn greet(&mut self, now: Moment) {
        if !matches!(self.state, State::Connecting { .. }) {
            return;
        }
        let hello = v1::Hello {
            node: self.options.node.to_string(),
            boot_id: self.options.boot.map(|boot| boot.to_string()).unwrap_or_default(),
            spool_id: self.spool.spool_id,
            first_seq: self.spool.first_seq,
            next_seq: self.spool.next_seq,
            now_ms: now.wall / 1_000_000,
            version: self.options.version.clone(),
            protocol: PROTOCOL,
            machine: Some(self.options.machine.clone()),
            capabilities: directives::capabilities(&self.options),
        };
        self.state = State::Greeting { since: now.mono, spool_id: self.spool.spool_id };
        self.say(v1::agent_message::Kind::Hello(hello));
    }

    fn heard(&mut self, now: Moment, message: v1::FleetMessage) {
        use v1::fleet_message::Kind;
        match (message.kind, &mut self.state) {
            (Some(Kind::Welcome(welcome)), &mut State::Greeting { spool_id, .. }) => {
                self.welcome(now, spool_id, welcome);
            }
            (Some(Kind::Ack(ack)), State::Streaming(sending)) => {
                let (seq, frames) = sending.acked(now, ack.seq);
                let refused = ack.refused.min(u32::try_from(frames).unwrap_or(u32::MAX));
                self.figures.acked += frames - u64::from(refused);
                self.figures.refused += u64::from(refused);
                if refused > 0 {
                    let reason = ack.reason.chars().filter(|c| !c.is_control()).take(200).collect();
                    self.commands.push(Command::Tell(Notice::Refused { frames: refused, reason }));
                }
                if frames > 0 {
                    self.commands.push(Command::Release { spool_id: sending.spool_id, seq });
                }
            }
            (Some(Kind::Directive(directive)), State::Streaming(_)) => self.directed(now, directive),
            (Some(Kind::Wall(wall)), State::Streaming(_)) => self.told(now, &wall),
            (_, State::Idle { .. }) => {}
            _ => self.give_up(now, "it speaks out of turn"),
        }
    }

    fn welcome(&mut self, now: Moment, spool_id: u64, welcome: v1::Welcome) {
        let clock = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        self.ahead_ms = clock(welcome.now_ms).saturating_sub(clock(now.wall / 1_000_000));
        self.welcomes += 1;
        self.figures.reconnects = self.welcomes - 1;
        self.told = None;
        let version = welcome.version.chars().filter(|c| !c.is_control()).take(40).collect();
        self.commands.push(Command::Tell(Notice::Connected(version)));
        let config = welcome.config.unwrap_or_default();
        if let Ok(command) = directives::intervals(&config) {
            self.commands.push(command);
        }
        let acked = welcome.acked_seq;
        self.state = State::Streaming(Box::new(Sending::new(self.connection, spool_id, now, acked, &config)));
        if spool_id != self.spool.spool_id {
            return;
        }
        if acked >= self.spool.next_seq {
            // a state folder that came back from a backup: numbers up to there are taken
            self.commands.push(Command::Tell(Notice::Forgotten));
            self.commands.push(Command::Renew);
        }
        self.commands.push(Command::Release { spool_id, seq: acked.min(self.spool.next_seq.saturating_sub(1)) });
    }

    /// The connection is over, and not by our will.
    fn ended(&mut self, now: Moment, ended: Ended) {
        let good = match &self.state {
            State::Streaming(sending) => now.mono >= after(sending.since, HEALTHY_AFTER),
            State::Connecting { .. } | State::Greeting { .. } => false,
            State::Idle { .. } | State::Done => return,
        };
        if good {
            self.backoff.reset();
        }
        let until = now.mono.saturating_add(self.backoff.next(ended.code));
        self.state = State::Idle { until };
        if self.told.as_ref() != Some(&ended) {
            self.commands.push(Command::Tell(Notice::Trouble(ended.clone())));
            self.told = Some(ended);
        }
    }

    /// The fleet doesn't do what it should: another connection may help.
    fn give_up(&mut self, now: Moment, why: &str) {
        self.commands.push(Command::Disconnect(self.connection));
        self.ended(now, Ended { code: None, text: why.to_owned() });
    }

    /// Ends the connection of our own will and comes back within `within`.
    fn disconnect(&mut self, now: Moment, within: Duration) {
        self.commands.push(Command::Disconnect(self.connection));
        self.state = State::Idle { until: now.mono.saturating_add(self.backoff.some(within)) };
    }

    fn say(&mut self, kind: v1::agent_message::Kind) {
        let message = v1::AgentMessage { kind: Some(kind) };
        self.commands.push(Command::Send(self.connection, Box::new(message)));
    }

    fn set_alarm(&mut self, now: Moment) {
        let own = match &self.state {
            State::Idle { until } => Some(*until).filter(|_| self.wants_to_connect()),
            State::Connecting { since } => Some(after(*since, CONNECT_WITHIN)),
            State::Greeting { since, .. } => Some(after(*since, WELCOME_WITHIN)),
            State::Streaming(sending) => sending.waits_since().map(|since| after(since, ACK_WITHIN)),
            State::Done => None,
        };
        let leaving = self.leaving.as_ref().map(|leaving| leaving.until);
        let next = own.into_iter().chain(leaving).min();
        // an alarm that has rung is not set any more
        let set = self.wake_at.filter(|at| *at > now.mono);
        if let Some(at) = next.filter(|_| next != set) {
            self.commands.push(Command::WakeAt(at));
        }
        self.wake_at = next;
    }

    fn wants_to_connect(&self) -> bool {
        self.spool.spool_id != 0 && self.leaving.as_ref().is_none_or(Leaving::wants_to_connect)
    }
}

fn after(since: u64, time: Duration) -> u64 {
    since.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
