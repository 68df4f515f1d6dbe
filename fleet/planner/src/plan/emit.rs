//! Turns what was decided into actions, in an order of which every prefix is harmless.

use std::collections::BTreeMap;

use ebbtide_proto::WorkloadId;

use super::action::{Action, Do, Plan, Undo};
use super::bound::lower_bound;
use super::hold::can_wake;
use super::problem::{N, W};
use super::reason::{Reason, Verdict};
use super::{Drained, Move, Planner, Step};

/// Share of boots that a deadline allows for.
const BOOT_QUANTILE: f64 = 0.99;
/// Seconds that a move is given beside what it should take.
const MOVE_GRACE_S: f64 = 300.0;

/// Actions so far, and what later ones depend on.
#[derive(Default)]
struct Emitted {
    actions: Vec<Action>,
    /// The action that wakes a node, and seconds until it is up.
    wakes: BTreeMap<N, (u32, f64)>,
    /// Moves of each group so far: only so many may be under way at once.
    groups: BTreeMap<String, Vec<u32>>,
}

impl Emitted {
    fn push(&mut self, what: Do, needs: Vec<u32>, deadline_s: f64, watts: f64, undo: Undo) -> u32 {
        let id = u32::try_from(self.actions.len() + 1).unwrap_or(u32::MAX);
        #[allow(clippy::cast_possible_truncation, reason = "seconds of a plan")]
        let deadline_s = deadline_s.ceil().max(0.0) as u64;
        self.actions.push(Action { id, what, needs, deadline_s, watts, undo });
        id
    }
}

impl Planner<'_, '_> {
    /// The plan.
    pub(crate) fn finish(mut self, before_w: f64, bound_w: f64) -> Plan {
        let mut out = Emitted::default();
        let mut cost_j = 0.0;
        self.woken.sort_unstable();
        for &n in &self.woken {
            let node = self.problem.nodes[n].node;
            let boot_s = node.boot.seconds(BOOT_QUANTILE);
            let watts = node.curve.idle() - node.off_watts;
            let id = out.push(
                Do::PowerOn { node: node.id.clone() },
                Vec::new(),
                boot_s + MOVE_GRACE_S,
                watts,
                Undo::PowerOff,
            );
            out.wakes.insert(n, (id, boot_s));
            cost_j += node.boot.joules();
        }
        for m in std::mem::take(&mut self.relief) {
            self.emit_move(&mut out, m, None);
            cost_j += self.problem.work[m.w].work.migration.energy_j();
        }
        let early: Vec<W> = self.waiting.iter().copied().filter(|w| !self.late.contains(w)).collect();
        let unplaced = self.emit_places(&mut out, &early);
        for step in std::mem::take(&mut self.steps) {
            cost_j += match step {
                Step::Empty(drained) => self.emit_emptying(&mut out, drained),
                Step::Better(m) => {
                    self.emit_move(&mut out, m, None);
                    self.problem.work[m.w].work.migration.energy_j()
                }
            };
        }
        self.emit_places(&mut out, &self.late);
        let after_w = self.pack.total_watts();
        let mut left_out = vec![false; self.problem.work.len()];
        for &w in self.waiting.iter().filter(|&&w| self.pack.place[w].is_none()) {
            left_out[w] = true;
        }
        // the bound is for the same work as the plan
        let bound_w = if unplaced.is_empty() { bound_w } else { lower_bound(self.problem, &left_out).watts };
        Plan {
            inputs: String::new(),
            at: self.problem.now,
            actions: out.actions,
            nodes: self.problem.nodes.len(),
            before_w,
            after_w,
            bound_w,
            cost_j,
            reasons: self.reasons(),
            unplaced,
            cut_short: self.pack.effort == 0,
        }
    }

    /// Closes a node, moves everything off it and powers it off; returns what that costs in joules.
    fn emit_emptying(&self, out: &mut Emitted, drained: Drained) -> f64 {
        let node = self.problem.nodes[drained.n].node;
        let cordon = out.push(Do::Cordon { node: node.id.clone() }, Vec::new(), MOVE_GRACE_S, 0.0, Undo::Uncordon);
        // moves off it that were decided before have to be over, too
        let earlier =
            out.actions.iter().filter(|a| matches!(&a.what, Do::Move { from, .. } if *from == node.id)).map(|a| a.id);
        let mut needs: Vec<u32> = earlier.chain([cordon]).collect();
        let (mut longest, mut cost_j) = (0.0, node.boot.joules());
        for m in drained.moves {
            let migration = &self.problem.work[m.w].work.migration;
            longest += migration.seconds;
            cost_j += migration.energy_j();
            needs.push(self.emit_move(out, m, Some(cordon)));
        }
        let deadline = longest + node.boot.shutdown_s + MOVE_GRACE_S;
        out.push(Do::PowerOff { node: node.id.clone() }, needs, deadline, drained.off_w, Undo::PowerOn);
        cost_j
    }

    fn emit_move(&self, out: &mut Emitted, m: Move, cordon: Option<u32>) -> u32 {
        let work = &self.problem.work[m.w];
        let node = |n: N| self.problem.nodes[n].node.id.clone();
        let mut needs: Vec<u32> = cordon.into_iter().collect();
        let mut deadline = work.work.migration.seconds + MOVE_GRACE_S;
        if let Some(&(wake, boot_s)) = out.wakes.get(&m.to) {
            needs.push(wake);
            deadline += boot_s;
        }
        if let Some(group) = &work.work.group {
            let allowed = self.problem.state.budgets.get(group).copied().unwrap_or(1);
            let away = self.problem.away.get(group.as_str()).copied().unwrap_or(0);
            let under_way = (allowed.saturating_sub(away)).max(1) as usize;
            let before = out.groups.entry(group.clone()).or_default();
            if let Some(&earlier) = before.len().checked_sub(under_way).and_then(|i| before.get(i)) {
                needs.push(earlier);
            }
        }
        let what = Do::Move { workload: work.work.id.clone(), from: node(m.from), to: node(m.to) };
        let id = out.push(what, needs, deadline, m.watts, Undo::Nothing);
        if let Some(group) = &work.work.group {
            out.groups.entry(group.clone()).or_default().push(id);
        }
        id
    }

    /// Places what waits; returns what found no place.
    fn emit_places(&self, out: &mut Emitted, whom: &[W]) -> Vec<WorkloadId> {
        let mut unplaced = Vec::new();
        let mut level: BTreeMap<N, f64> = BTreeMap::new();
        for &w in whom {
            let work = &self.problem.work[w];
            let Some(n) = self.pack.place[w] else {
                unplaced.push(work.work.id.clone());
                continue;
            };
            let node = self.problem.nodes[n].node;
            // room that others leave has to be left first
            let left = |a: &&Action| matches!(&a.what, Do::Move { from, .. } if *from == node.id);
            let mut needs: Vec<u32> = out.actions.iter().filter(left).map(|a| a.id).collect();
            let mut deadline = MOVE_GRACE_S;
            if let Some(&(wake, boot_s)) = out.wakes.get(&n) {
                needs.push(wake);
                deadline += boot_s;
            }
            let waiting_here = |&w: &W| self.problem.work[w].home.is_none();
            let come: f64 =
                self.pack.loads[n].on.iter().filter(|w| waiting_here(w)).map(|&w| self.problem.work[w].level).sum();
            let already = level.entry(n).or_insert(self.pack.loads[n].level - come);
            let before = node.watts(*already);
            *already += work.level;
            let watts = node.watts(*already) - before;
            out.push(
                Do::Place { workload: work.work.id.clone(), to: node.id.clone() },
                needs,
                deadline,
                watts,
                Undo::Nothing,
            );
        }
        unplaced
    }

    fn reasons(&mut self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for n in 0..self.problem.nodes.len() {
            let verdict = match self.verdicts[n].take() {
                Some(verdict) => verdict,
                None if !self.pack.lit[n] && can_wake(self.problem, n) => Verdict::NotNeeded,
                None => continue,
            };
            reasons.push(Reason::Node { node: self.problem.nodes[n].node.id.clone(), verdict });
        }
        for &w in self.waiting.iter().filter(|&&w| self.pack.place[w].is_none()).take(1000) {
            let ruled_out = self.ruled_out(w, self.pack.margins.fit);
            reasons.push(Reason::Workload {
                workload: self.problem.work[w].work.id.clone(),
                verdict: Verdict::Waits { ruled_out },
            });
        }
        reasons
    }
}
