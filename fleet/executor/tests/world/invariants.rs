//! What must always hold, and what must hold once everything has come to rest.

use ebbtide_executor::Executor;
use ebbtide_executor::command::{Effect, Key};
use ebbtide_executor::event::Cordon;
use ebbtide_executor::journal::{Change, Record, needless};
use ebbtide_executor::operation::State;
use ebbtide_proto::NodeId;

use super::World;
use super::truth::Power;

/// Milliseconds for which what has changed needn't be known yet: a look, its answer, a command on its way.
const NEWS_MS: u64 = 15_000;

impl World {
    /// A command is sent: may it be?
    pub(crate) fn judge_command(&mut self, daemon: usize, key: Key, node: &NodeId, effect: &Effect) {
        let n = self.index(node);
        if self.paused && !effect.restores() {
            self.violate(format!("{key}: {effect:?} on {node} while paused"));
        }
        let core = &self.daemons[daemon].core;
        let Some(op) = core.operation(key.operation) else {
            return self.violate(format!("{key}: nobody knows its operation"));
        };
        let intended = self
            .journal
            .iter()
            .any(|r| matches!(&r.change, Change::Intends { key: k, effect: e, .. } if *k == key && e == effect));
        let other = core.operations().find(|o| {
            o.id != op.id
                && o.task.is_exclusive()
                && o.steps.iter().any(|s| s.node == *node && s.answer.is_none())
                && o.is_live()
        });
        if let Some(other) = other.filter(|_| op.task.is_exclusive()) {
            let other = other.id;
            return self.violate(format!("{key}: {other} works on {node} too"));
        }
        if !intended {
            self.violate(format!("{key}: {effect:?} on {node} without a record"));
        }
        match effect {
            Effect::Shutdown { .. } => self.judge_shutdown(key, n),
            Effect::Evict { .. } => self.judge_owner(key, n),
            Effect::OutletOff => {
                self.judge_owner(key, n);
                // against two that lie in the same way nothing helps, unless the third can speak
                let m = &self.machines[n];
                if m.power != Power::Off && !m.all_lied(self.now.saturating_sub(NEWS_MS)) {
                    self.violate(format!("{key} cuts the power of {node} while it runs"));
                }
            }
            _ => {}
        }
    }

    fn judge_owner(&mut self, key: Key, n: usize) {
        let now = self.now;
        let m = &self.machines[n];
        let foreign = m.cordon == Cordon::Foreign && now - m.closed_at > NEWS_MS;
        let held = m.held.as_ref().is_some_and(|(_, at, _)| now - at > NEWS_MS);
        // what relieves a node doesn't close it, but looks at it first, too
        let relief = matches!(m.cordon, Cordon::Open | Cordon::Foreign) && !held;
        if (foreign && !relief) || held {
            let id = m.id.clone();
            self.violate(format!("{key} acts on {id}, which somebody else has"));
        }
    }

    fn judge_shutdown(&mut self, key: Key, n: usize) {
        let (now, clock) = (self.now, self.clock());
        self.judge_owner(key, n);
        let m = &self.machines[n];
        let id = m.id.clone();
        let mut wrong = Vec::new();
        if !m.known.wake_proven {
            wrong.push("nobody has seen it wake".to_owned());
        }
        let closed = matches!(m.cordon, Cordon::Ours(op) if op == key.operation);
        if !closed && now - m.closed_at > NEWS_MS {
            wrong.push("it isn't closed".to_owned());
        }
        if m.faults.agent_silent > now && m.spoke.is_none_or(|at| now - at > 40_000) {
            wrong.push("its telemetry is missing".to_owned());
        }
        let old = self.pods.values().find(|p| p.node == Some(n) && now - p.since > 12_000);
        if let Some(pod) = old {
            wrong.push(format!("{} is on it", pod.work.id));
        }
        let wait = self.policy.payback_s(&m.known) - 60.0;
        if let Some((at, op)) = m.switched.last()
            && *op != key.operation.0
            && clock.since(*at) < wait
        {
            wrong.push(format!("it was switched {:.0} s ago", clock.since(*at)));
        }
        let others = |o: &&super::Machine| o.id != m.id && o.known.pool == "a" && o.power == Power::On;
        if m.known.pool == "a" && self.machines.iter().filter(others).count() == 0 {
            wrong.push("it is the last of its pool".to_owned());
        }
        for why in wrong {
            self.violate(format!("{key} shuts {id} down: {why}"));
        }
    }

    /// Whether nothing goes on any more. Calls everything off that is broken as soon as the busy time is over.
    pub(crate) fn at_rest(&mut self) -> bool {
        if self.leader().is_none() {
            return false;
        }
        self.calm_down();
        let Some(daemon) = self.leader() else { return false };
        let quiet = self.now > self.options.busy_s * 1000 + 60_000;
        let core = &self.daemons[daemon].core;
        let settled =
            self.machines.iter().all(|m| !matches!(m.power, Power::GoesDown { .. }) && m.believes_at.is_none());
        quiet && settled && core.operations().all(|o| !o.is_live())
    }

    /// How the operations ended that the journal knows of.
    #[allow(dead_code, reason = "for the example")]
    pub(crate) fn ended(&self) -> Vec<&'static str> {
        let of = |state: &State| match state {
            State::Done => "> operations done",
            State::RolledBack => "> operations rolled back",
            State::Refused => "> operations refused",
            State::Cancelled => "> operations cancelled",
            State::Failed => "> operations failed",
            State::Quarantined => "> operations quarantined",
            State::Live => "> operations live",
        };
        let ends = self.journal.iter().filter_map(|r| match &r.change {
            Change::Ended { state, .. } => Some(of(state)),
            _ => None,
        });
        ends.collect()
    }

    pub(crate) fn judge_end(&mut self) {
        let Some(daemon) = self.leader() else { return };
        let core = &self.daemons[daemon].core;
        let mut wrong = Vec::new();
        for m in &self.machines {
            if let Cordon::Ours(id) = m.cordon
                && !core.quarantined().contains_key(&m.id)
            {
                wrong.push(format!("{} is left closed by {id}", m.id));
            }
        }
        for op in core.operations() {
            if op.is_live() {
                wrong.push(format!("never ends: {} [{:?}]", ebbtide_executor::words::operation(op), op.phase));
            }
            if op.words.trim().is_empty() {
                wrong.push(format!("{} ended without a word", op.id));
            }
        }
        for (group, wanted) in &self.replicas {
            let have = self.pods.values().filter(|p| p.work.group.as_ref() == Some(group)).count();
            if have != *wanted {
                wrong.push(format!("group {group} has {have} of {wanted}"));
            }
        }
        for (key, node, effect) in &self.landed {
            let what = ebbtide_executor::words::effect(effect, node);
            if !self.audit.iter().any(|a| a.operation == key.operation && a.what == what) {
                wrong.push(format!("the audit doesn't know of {key}: {what}"));
            }
        }
        for why in wrong {
            self.violate(why);
        }
    }

    /// Without the records that are needless it would begin in the same way.
    pub(crate) fn forgets(&mut self, core: &Executor) {
        let (now, kept_s) = (self.clock(), self.options.seed % 600);
        let needless = needless(&self.journal, now, kept_s);
        self.forgotten += needless.len();
        let kept: Vec<Record> = self.journal.iter().filter(|r| !needless.contains(&r.seq)).cloned().collect();
        let Ok(other) = Executor::resume(&kept, now, self.lease, self.settings.clone()) else {
            return self.violate("can't begin anew without needless records".to_owned());
        };
        let live = |core: &Executor| core.operations().filter(|o| o.is_live()).cloned().collect::<Vec<_>>();
        let all = |core: &Executor| (live(core), core.quarantined().clone(), core.paused().map(str::to_owned));
        if all(core) != all(&other) || core.next() != other.next() || core.switches() != other.switches() {
            self.violate(format!("{} of {} records weren't needless", needless.len(), self.journal.len()));
        }
    }
}
