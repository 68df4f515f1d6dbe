//! Switching so that one knows that it happened.
//!
//! [`Switching`] is the decision alone: it is told what is observed at which time and says what to do next; it neither
//! waits nor talks (pure). [`switch`] runs it against a device.
//!
//! - *Idempotent*: what already stands as wanted is left alone.
//! - After a command the outlet is *read back* until that confirms it, or the deadline passes. A command without an
//!   answer may have been taken, so it is read back too, before it is sent again.
//! - The outcome says *which signals* confirmed it: the state that the device tells, the watts of the outlet, the agent
//!   of the machine that falls silent or speaks.
//! - *Unknown is never off.* Neither is a state of off whose outlet still draws power, or whose machine still speaks:
//!   that is a [`Verdict::Contradicted`].

use std::fmt;
use std::time::Duration;

use ebbtide_proto::Power;
use ebbtide_runtime::clock::{self, Moment};
use serde::{Deserialize, Serialize};

use crate::driver::{Driver, Switch};
use crate::error::DeviceError;
use crate::report::{Figure, OutletId, PowerState};

/// How patient switching is, and what it takes for proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first look to the verdict.
    pub deadline: Duration,
    /// Between two looks.
    pub interval: Duration,
    /// How often a command is sent at most. One that isn't idempotent (cycle) is sent once whatever this says.
    pub attempts: u32,
    /// How long after a command nothing may have moved before it is sent again.
    pub patience: Duration,
    /// Up to this an outlet draws nothing.
    pub off_power: Power,
    /// How many signals have to confirm it, of those in [`Signals`]. One is the usual; two before an outlet is taken
    /// for dark by someone who acts on it.
    pub signals: u32,
}

/// What was seen at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// How the device says that the outlet stands; unknown if it couldn't be asked.
    pub state: PowerState,
    /// What the outlet draws, where it is measured. When it was measured matters.
    pub power: Option<Figure<Power>>,
    /// The machine's agent, if one was watched.
    pub agent: Option<Agent>,
}

/// What is heard of a machine by another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It spoke last at this time.
    Speaks(Moment),
    /// It would have spoken by now, and hasn't.
    Silent,
}

/// What confirmed the outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signals {
    /// The device says that the outlet stands so.
    pub state: bool,
    /// The outlet draws power, or none.
    pub outlet_watts: bool,
    /// The machine's agent speaks, or fell silent.
    pub agent: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the command, then look.
    Command,
    /// Look again after this time.
    Wait(Duration),
    /// It is over.
    Done(Outcome),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// What became of it.
    pub verdict: Verdict,
    /// What confirms that, at the last look.
    pub signals: Signals,
    /// How often the command was sent.
    pub commands: u32,
    /// How long it took, from the first look.
    #[serde(skip)]
    pub took: Duration,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It stood so already; nothing was sent.
    Already,
    /// It was done, and the signals say so.
    Confirmed,
    /// The device says that it was done, but something else says that it wasn't.
    Contradicted {
        /// What says so.
        by: String,
    },
    /// Nothing confirmed it before the deadline.
    Unconfirmed {
        /// What was seen last.
        last: String,
    },
    /// The device refused it.
    Failed {
        /// Its words.
        why: String,
    },
}

/// One outlet on its way to a state.
#[derive(Clone, Debug)]
pub struct Switching {
    to: Switch,
    limits: Limits,
    started: Moment,
    sent: u32,
    last_sent: Option<Moment>,
    /// Since the command: it was seen to be other than on.
    left_on: bool,
    /// Power was drawn before the command.
    drew: bool,
    /// The state was known at some look since the command.
    told: bool,
}

/// What one look says about the wanted state.
struct Judgement {
    /// What confirms it.
    signals: Signals,
    /// What says the opposite.
    against: Option<String>,
    /// Whether that is enough to take the outlet as being in the wanted state, were nothing against it.
    reached: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            interval: Duration::from_secs(1),
            attempts: 2,
            patience: Duration::from_secs(8),
            off_power: Power::from_uw(5_000_000),
            signals: 1,
        }
    }
}

impl Signals {
    /// How many there are.
    pub fn count(self) -> u32 {
        u32::from(self.state) + u32::from(self.outlet_watts) + u32::from(self.agent)
    }
}

impl fmt::Display for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.state, "state"), (self.outlet_watts, "outlet watts"), (self.agent, "agent")];
        let names: Vec<_> = names.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
        f.write_str(if names.is_empty() { "nothing" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

impl Outcome {
    /// Whether the outlet stands as wanted, for sure.
    pub fn is_success(&self) -> bool {
        matches!(self.verdict, Verdict::Already | Verdict::Confirmed)
    }
}

impl Switching {
    /// Begins now; nothing was looked at yet.
    pub fn new(to: Switch, limits: Limits, now: Moment) -> Self {
        Self { to, limits, started: now, sent: 0, last_sent: None, left_on: false, drew: false, told: false }
    }

    /// The command of [`Next::Command`] was sent, or may have been: an error that passes counts as sent.
    pub fn sent(&mut self, now: Moment) {
        self.sent += 1;
        self.last_sent = Some(now);
    }

    /// The device refused the command.
    pub fn refused(&self, now: Moment, error: &DeviceError) -> Outcome {
        self.outcome(now, Verdict::Failed { why: error.to_string() }, Signals::default())
    }

    /// What to do after this look.
    pub fn step(&mut self, now: Moment, seen: &Observation) -> Next {
        self.remember(seen);
        let judged = self.judge(seen);
        let enough = judged.signals.count() >= self.limits.signals.max(1);
        if judged.reached && enough && judged.against.is_none() {
            let verdict = if self.sent == 0 { Verdict::Already } else { Verdict::Confirmed };
            return Next::Done(self.outcome(now, verdict, judged.signals));
        }
        if now.since(self.started) >= self.limits.deadline {
            let verdict = match judged.against {
                Some(by) if judged.signals.state => Verdict::Contradicted { by },
                _ => Verdict::Unconfirmed { last: describe(seen) },
            };
            return Next::Done(self.outcome(now, verdict, judged.signals));
        }
        if self.wants_command(now, seen) { Next::Command } else { Next::Wait(self.limits.interval) }
    }

    fn remember(&mut self, seen: &Observation) {
        let draws = self.draws(seen);
        match self.last_sent {
            None => self.drew |= draws == Some(true),
            Some(_) => {
                self.told |= seen.state != PowerState::Unknown;
                self.left_on |= matches!(seen.state, PowerState::Off | PowerState::TurningOff | PowerState::TurningOn);
                self.left_on |= self.drew && draws == Some(false);
            }
        }
    }

    /// Whether the outlet draws power; `None` if that isn't measured, or was measured before the command.
    fn draws(&self, seen: &Observation) -> Option<bool> {
        let power = seen.power.as_ref().filter(|p| self.last_sent.is_none_or(|sent| p.at > sent))?;
        Some(power.value > self.limits.off_power)
    }

    fn judge(&self, seen: &Observation) -> Judgement {
        let draws = self.draws(seen);
        let speaks = match seen.agent {
            // What it said before the command says nothing about after it.
            Some(Agent::Speaks(at)) => self.last_sent.is_none_or(|sent| at > sent).then_some(true),
            Some(Agent::Silent) => Some(false),
            None => None,
        };
        let on = matches!(self.to, Switch::On | Switch::Cycle);
        if on {
            let state = seen.state == PowerState::On;
            let signals = Signals { state, outlet_watts: draws == Some(true), agent: speaks == Some(true) };
            // A cycle that was never seen to leave on can't be told from none. Before the command nothing is a cycle.
            let cycled = self.to != Switch::Cycle || self.left_on;
            // Power without a state is proof enough where the device never tells one.
            let blind = seen.state == PowerState::Unknown && !self.told && (signals.outlet_watts || signals.agent);
            return Judgement { signals, against: None, reached: cycled && (state || blind) };
        }
        let state = seen.state == PowerState::Off;
        let signals = Signals { state, outlet_watts: draws == Some(false), agent: speaks == Some(false) };
        let against = match (&seen.power, draws, speaks) {
            (Some(power), Some(true), _) => Some(format!("the outlet still draws {}", power.value)),
            (_, _, Some(true)) => Some("the machine's agent still speaks".to_owned()),
            _ => None,
        };
        // Of a device that tells no state, watts that fell are the proof; that it drew none before is not.
        let fell =
            seen.state == PowerState::Unknown && !self.told && self.drew && self.sent > 0 && signals.outlet_watts;
        Judgement { signals, against, reached: state || fell }
    }

    fn wants_command(&self, now: Moment, seen: &Observation) -> bool {
        let Some(last) = self.last_sent else {
            // What is already on its way is only waited for.
            let coming = match self.to {
                Switch::On => seen.state == PowerState::TurningOn,
                Switch::Off | Switch::SoftOff => seen.state == PowerState::TurningOff,
                Switch::Cycle => false,
            };
            return !coming || now.since(self.started) >= self.limits.patience;
        };
        let moving = matches!(seen.state, PowerState::TurningOn | PowerState::TurningOff);
        self.to != Switch::Cycle
            && self.sent < self.limits.attempts
            && !moving
            && now.since(last) >= self.limits.patience
    }

    fn outcome(&self, now: Moment, verdict: Verdict, signals: Signals) -> Outcome {
        Outcome { verdict, signals, commands: self.sent, took: now.since(self.started) }
    }
}

/// Switches an outlet of a device and waits until it is known what became of it. `agent` is asked at each look what is
/// heard of the machine; `|| None` if it isn't watched. Takes no longer than the deadline and one more look.
pub async fn switch(
    driver: &mut dyn Driver,
    outlet: &OutletId,
    to: Switch,
    limits: Limits,
    mut agent: impl FnMut() -> Option<Agent> + Send,
) -> Outcome {
    let mut switching = Switching::new(to, limits, clock::now());
    loop {
        let seen = match look(driver, outlet, &mut agent).await {
            Ok(seen) => seen,
            // Wrong credentials or no such outlet won't get better by waiting.
            Err(error) if !error.is_passing() && switching.sent == 0 => return switching.refused(clock::now(), &error),
            Err(error) => {
                tracing::debug!(%outlet, "can't be looked at: {error}");
                Observation { agent: agent(), ..Observation::default() }
            }
        };
        match switching.step(clock::now(), &seen) {
            Next::Done(outcome) => return outcome,
            Next::Wait(time) => tokio::time::sleep(time).await,
            Next::Command => match driver.switch(outlet, to).await {
                Ok(()) => switching.sent(clock::now()),
                Err(error) if error.is_passing() => {
                    tracing::warn!(%outlet, to = to.as_str(), "no answer to the command: {error}");
                    switching.sent(clock::now());
                }
                Err(error) => return switching.refused(clock::now(), &error),
            },
        }
    }
}

/// One look: the state, and the watts if the device measures them.
async fn look(
    driver: &mut dyn Driver,
    outlet: &OutletId,
    agent: &mut (impl FnMut() -> Option<Agent> + Send),
) -> Result<Observation, DeviceError> {
    let state = driver.state(outlet).await?;
    // A device that tells its state but not its watts just now is believed about the state.
    let power = match driver.read().await {
        Ok(report) => report.outlets.into_iter().find(|o| o.id == *outlet).and_then(|o| o.feed.power),
        Err(error) if error.is_passing() => None,
        Err(error) => return Err(error),
    };
    Ok(Observation { state, power, agent: agent() })
}

fn describe(seen: &Observation) -> String {
    let mut text = format!("state {}", seen.state);
    if let Some(power) = &seen.power {
        text.push_str(&format!(", {}", power.value));
    }
    match seen.agent {
        Some(Agent::Speaks(_)) => text.push_str(", agent speaks"),
        Some(Agent::Silent) => text.push_str(", agent silent"),
        None => {}
    }
    text
}

#[cfg(test)]
mod tests;
