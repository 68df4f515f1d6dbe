//! What the fleet may ask for, and the two ways to leave: for good, and because the machine will be off.

use std::time::Duration;

use ebbtide_proto::v1;
use ebbtide_proto::v1::agent_message::Kind as Say;
use ebbtide_proto::v1::directive::Kind;

use super::{Command, Notice, Options, STOP_WITHIN, Session, State, after};
use crate::clock::Moment;

/// Intervals that may be asked for, in milliseconds.
const INTERVALS: std::ops::RangeInclusive<u32> = 100..=3_600_000;
/// Moments of the node in one frame, at most.
const MOST_MOMENTS: u32 = 1000;
/// A deadline is not believed to be further away than this.
const LONGEST_DEADLINE: Duration = Duration::from_secs(3600);
/// How long to wait for a deadline that was not given.
const USUAL_DEADLINE: Duration = Duration::from_secs(60);
/// A machine that is still up this long after it should have been off will stay so.
const STILL_UP: Duration = Duration::from_secs(60);
/// Directives that may be carried out at the same time.
const MOST_AT_ONCE: usize = 8;

/// Why and how far we are leaving.
#[derive(Debug)]
pub(super) struct Leaving {
    why: Why,
    /// When to stop waiting for acks, or for the machine to be off.
    pub(super) until: u64,
    /// All that was measured is in the spool.
    pub(super) flushed: bool,
    /// The machine was told to shut down.
    told: bool,
    /// Goodbye is said.
    gone: bool,
}

#[derive(Clone, Copy, Debug)]
enum Why {
    /// The agent ends.
    Stop,
    /// The fleet said so in this directive, and powers the machine off.
    PowerOff(u64),
    /// The fleet wants all there is, and to be spoken with: we are to shut the machine down next.
    Deliver(u64),
    /// We shut the machine down.
    ShutDown(u64),
}

impl Leaving {
    fn new(why: Why, until: u64) -> Self {
        Self { why, until, flushed: false, told: false, gone: false }
    }

    /// Whether a connection is of any use.
    pub(super) fn wants_to_connect(&self) -> bool {
        !matches!(self.why, Why::Stop) && !self.gone
    }
}

/// What this agent can do.
pub(super) fn capabilities(options: &Options) -> Vec<String> {
    let all = [
        ("prepare-for-power-off", true),
        ("intervals", true),
        ("reconnect", true),
        ("power-curve", options.takes_curve),
        ("wall", options.takes_wall),
        ("shut-down", options.shuts_down),
    ];
    all.into_iter().filter(|(_, can)| *can).map(|(name, _)| name.to_owned()).collect()
}

/// What to do about intervals that the fleet wants, or why not.
pub(super) fn intervals(config: &v1::Config) -> Result<Command, String> {
    let (node, workload) = (config.node_interval_ms, config.workload_interval_ms);
    for ms in [node, workload] {
        if ms != 0 && !INTERVALS.contains(&ms) {
            return Err(format!("{ms} ms is no interval from 100 ms to 1 h"));
        }
    }
    if node != 0 && workload != 0 && (workload < node || workload / node > MOST_MOMENTS) {
        return Err(format!("a frame of {workload} ms can't have a moment each {node} ms"));
    }
    let of = |ms: u32| (ms != 0).then(|| Duration::from_millis(u64::from(ms)));
    Ok(Command::Intervals { node: of(node), workload: of(workload) })
}

impl Session {
    /// The fleet wants something.
    pub(super) fn directed(&mut self, now: Moment, directive: v1::Directive) {
        let id = directive.id;
        match directive.kind {
            Some(Kind::Intervals(config)) => match intervals(&config) {
                Ok(command) => {
                    self.commands.push(command);
                    self.result(id, Ok(String::new()));
                }
                Err(why) => self.result(id, Err(why)),
            },
            Some(Kind::Reconnect(reconnect)) => {
                self.result(id, Ok(String::new()));
                let within = Duration::from_millis(u64::from(reconnect.within_ms)).min(LONGEST_DEADLINE);
                self.disconnect(now, within);
            }
            Some(Kind::PrepareForPowerOff(prepare)) => {
                let why = if prepare.stay { Why::Deliver(id) } else { Why::PowerOff(id) };
                self.begin_to_leave(now, id, why, prepare.deadline_ms);
            }
            Some(Kind::ShutDown(_)) if !self.options.shuts_down => {
                let why =
                    "it may not shut its machine down; set fleet-may-shut-down = true in the agent's configuration";
                self.result(id, Err(why.to_owned()));
            }
            Some(Kind::ShutDown(order)) => self.begin_to_leave(now, id, Why::ShutDown(id), order.deadline_ms),
            Some(Kind::PowerCurve(curve)) => {
                let rises = curve.load_uw.len() == 11 && curve.load_uw.is_sorted();
                if !rises {
                    self.result(id, Err("a power curve has 11 figures that don't fall".to_owned()));
                } else if self.applying.len() >= MOST_AT_ONCE {
                    self.result(id, Err("too many directives at once".to_owned()));
                } else {
                    self.applying.push(id);
                    self.commands.push(Command::Curve(id, curve));
                }
            }
            None => self.result(id, Err("this agent doesn't know such a directive".to_owned())),
        }
    }

    fn begin_to_leave(&mut self, now: Moment, id: u64, why: Why, deadline_ms: u64) {
        match self.leaving {
            Some(Leaving { why: Why::Stop, .. }) => self.result(id, Err("the agent is ending".to_owned())),
            Some(Leaving { told: true, .. }) => self.result(id, Err("the machine is shutting down".to_owned())),
            _ => {
                let until = after(now.mono, self.time_until(now, deadline_ms));
                self.leaving = Some(Leaving::new(why, until));
                self.commands.push(Command::Flush);
            }
        }
    }

    /// What became of a directive that took time.
    pub(super) fn applied(&mut self, now: Moment, id: u64, result: Result<String, String>) {
        let Some(at) = self.applying.iter().position(|known| *known == id) else { return };
        self.applying.remove(at);
        let done = result.is_ok();
        self.result(id, result);
        if matches!(&self.leaving, Some(Leaving { why: Why::ShutDown(order), .. }) if *order == id) {
            match done {
                true => self.part(now),
                // the machine is up and will be
                false => self.leaving = None,
            }
        }
    }

    /// Says goodbye, for the machine goes off.
    fn part(&mut self, now: Moment) {
        let Some(leaving) = &mut self.leaving else { return };
        leaving.gone = true;
        leaving.until = leaving.until.max(now.mono).saturating_add(after(0, STILL_UP));
        if matches!(self.state, State::Streaming(_)) {
            self.say(Say::Goodbye(v1::Goodbye { reason: "power-off".to_owned() }));
        }
        self.commands.push(Command::Tell(Notice::PoweringOff));
        self.disconnect(now, Duration::ZERO);
    }

    fn result(&mut self, id: u64, result: Result<String, String>) {
        if !matches!(self.state, State::Streaming(_)) {
            return;
        }
        let done = result.is_ok();
        let text = result.unwrap_or_else(|why| why);
        self.say(Say::Result(v1::DirectiveResult { id, done, text }));
    }

    /// How long it is until `deadline_ms` on the fleet's clock.
    fn time_until(&self, now: Moment, deadline_ms: u64) -> Duration {
        if deadline_ms == 0 {
            return USUAL_DEADLINE;
        }
        let fleet_ms = (now.wall / 1_000_000).saturating_add_signed(self.ahead_ms);
        Duration::from_millis(deadline_ms.saturating_sub(fleet_ms)).min(LONGEST_DEADLINE)
    }

    /// The agent is about to end.
    pub(super) fn stop(&mut self, now: Moment) {
        let until = after(now.mono, STOP_WITHIN);
        self.leaving = Some(Leaving::new(Why::Stop, until));
        self.commands.push(Command::Flush);
        if let State::Connecting { .. } | State::Greeting { .. } = self.state {
            self.disconnect(now, Duration::ZERO);
        }
    }

    /// Goes on leaving, if we are.
    pub(super) fn leave(&mut self, now: Moment) {
        let Some(leaving) = &mut self.leaving else { return };
        let over = now.mono >= leaving.until;
        let streaming = matches!(self.state, State::Streaming(_));
        let all_acked = leaving.flushed && self.spool.first_seq == self.spool.next_seq && !self.spool.ended;
        match leaving.why {
            Why::Stop if over || (leaving.flushed && (!streaming || all_acked)) => {
                if streaming {
                    self.say(Say::Goodbye(v1::Goodbye { reason: "stopped".to_owned() }));
                    self.commands.push(Command::Disconnect(self.connection));
                }
                self.leaving = None;
                self.state = State::Done;
                self.commands.push(Command::Done);
            }
            Why::PowerOff(id) if !leaving.gone && all_acked && streaming => {
                self.result(id, Ok("everything is delivered".to_owned()));
                self.part(now);
            }
            Why::Deliver(id) if all_acked && streaming => {
                self.leaving = None;
                self.result(id, Ok("everything is delivered".to_owned()));
            }
            Why::ShutDown(id) if !leaving.told && !over && all_acked && streaming => {
                leaving.told = true;
                leaving.until = after(now.mono, STILL_UP);
                self.applying.push(id);
                self.commands.push(Command::ShutDown(id));
            }
            Why::PowerOff(id) | Why::Deliver(id) | Why::ShutDown(id) if over => {
                // the machine is up and will be: go on as before
                let said = leaving.gone || leaving.told;
                self.leaving = None;
                if !said {
                    let left = self.spool.next_seq - self.spool.first_seq;
                    self.result(id, Err(format!("{left} frames could not be delivered in time")));
                }
                // at once, if not connected
                self.connect_if_due(now);
            }
            Why::Stop | Why::PowerOff(_) | Why::Deliver(_) | Why::ShutDown(_) => {}
        }
    }
}
