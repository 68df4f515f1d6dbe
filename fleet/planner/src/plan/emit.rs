//! Turns what was decided into actions, in an order of which every prefix is harmless.

use std::collections::BTreeMap;

use ebbtide_proto::WorkloadId;

use super::action::{Action, Do, Plan, Undo};
use super::bound::Market;
use super::facts::FN;
use super::hold::can_wake;
use super::problem::{N, Problem, W};
use super::reason::{Reason, RuledOut, Verdict};
use super::{Drained, Move, Planner, Step};

/// Share of boots that a deadline allows for.
const BOOT_QUANTILE: f64 = 0.99;
/// Seconds that a move is given beside what it should take.
const MOVE_GRACE_S: f64 = 300.0;
/// Most workloads of which a plan says why they wait.
const WAITING_TOLD: usize = 1000;

/// A plan so far, round by round.
#[derive(Clone)]
pub(crate) struct Draft {
    actions: Vec<Action>,
    /// The action that wakes a node, and seconds until it is up.
    wakes: BTreeMap<FN, (u32, f64)>,
    /// Moves off each node.
    left: Vec<Vec<u32>>,
    /// Moves of each group: only so many may be under way at once.
    groups: BTreeMap<String, Vec<u32>>,
    /// Members of each group that waited and are placed.
    placed: BTreeMap<String, Vec<u32>>,
    verdicts: Vec<Option<Verdict>>,
    /// What found no place so far, and what ruled all nodes out.
    unplaced: Vec<(WorkloadId, Vec<RuledOut>)>,
    before_w: f64,
    after_w: f64,
    cost_j: f64,
    cut_short: bool,
}

impl Draft {
    /// Nothing to do for so many nodes that draw so many watts.
    pub(crate) fn new(nodes: usize, watts: f64) -> Self {
        Self {
            actions: Vec::new(),
            wakes: BTreeMap::new(),
            left: vec![Vec::new(); nodes],
            groups: BTreeMap::new(),
            placed: BTreeMap::new(),
            verdicts: vec![None; nodes],
            unplaced: Vec::new(),
            before_w: watts,
            after_w: watts,
            cost_j: 0.0,
            cut_short: false,
        }
    }

    /// Takes in what a round decided. `first` is the problem as it was before any round.
    pub(crate) fn take(&mut self, first: &Problem<'_>, mut planner: Planner<'_, '_>) -> Market {
        let mut levels: BTreeMap<N, f64> = BTreeMap::new();
        for step in std::mem::take(&mut planner.steps) {
            match step {
                Step::Wake(n) => self.wake(&planner, n),
                Step::Place(w, to) => self.place(&planner, &mut levels, w, to),
                Step::Move(m) => {
                    self.carry(first, planner.problem, m, None);
                }
                Step::Empty(drained) => self.empty(first, planner.problem, drained),
            }
        }
        for (n, verdict) in planner.verdicts.iter_mut().enumerate() {
            let known = &mut self.verdicts[planner.problem.nodes[n].fact];
            // what a later round holds against a node comes of what an earlier one did
            let acts = matches!(
                verdict,
                Some(Verdict::PowersOff { .. } | Verdict::PowersOn { .. } | Verdict::Relieved { .. })
            );
            if known.is_none() || acts {
                *known = verdict.take();
            }
        }
        let waits = planner.waiting.iter().filter(|&&w| planner.pack.place[w].is_none());
        let told = waits.enumerate().map(|(i, &w)| {
            let ruled_out = if i < WAITING_TOLD { planner.ruled_out(w, planner.pack.margins.fit) } else { Vec::new() };
            (planner.problem.work[w].work.id.clone(), ruled_out)
        });
        self.unplaced = told.collect();
        self.after_w = planner.pack.total_watts();
        self.cut_short |= planner.pack.effort == 0;
        planner.market
    }

    /// The plan; `market` is that of the problem as it was before any round.
    pub(crate) fn finish(mut self, first: &Problem<'_>, market: Option<&Market>) -> Plan {
        self.unplaced.sort_by(|a, b| a.0.cmp(&b.0));
        let left_out: Vec<bool> =
            first.work.iter().map(|w| self.unplaced.binary_search_by(|(id, _)| id.cmp(&w.work.id)).is_ok()).collect();
        let mut reasons = Vec::new();
        for (n, p) in first.nodes.iter().enumerate() {
            let verdict = match self.verdicts[p.fact].take() {
                Some(verdict) => verdict,
                None if can_wake(first, n) => Verdict::NotNeeded,
                None => continue,
            };
            reasons.push(Reason::Node { node: p.node.id.clone(), verdict });
        }
        let unplaced: Vec<WorkloadId> = self.unplaced.iter().map(|(id, _)| id.clone()).collect();
        let waits = self.unplaced.into_iter().take(WAITING_TOLD);
        reasons.extend(
            waits.map(|(workload, ruled_out)| Reason::Workload { workload, verdict: Verdict::Waits { ruled_out } }),
        );
        Plan {
            inputs: String::new(),
            at: first.now,
            actions: self.actions,
            nodes: first.nodes.len(),
            before_w: self.before_w,
            after_w: self.after_w,
            // the bound is for the same work as the plan
            bound_w: market.map_or(0.0, |m| m.bound(first, &left_out)),
            weighed: None,
            cost_j: self.cost_j,
            unplaced,
            reasons,
            cut_short: self.cut_short,
        }
    }

    fn push(&mut self, what: Do, needs: Vec<u32>, deadline_s: f64, watts: f64, undo: Undo) -> u32 {
        let id = u32::try_from(self.actions.len() + 1).unwrap_or(u32::MAX);
        #[allow(clippy::cast_possible_truncation, reason = "seconds of a plan")]
        let deadline_s = deadline_s.ceil().max(0.0) as u64;
        self.actions.push(Action { id, what, needs, deadline_s, watts, undo });
        id
    }

    fn wake(&mut self, planner: &Planner<'_, '_>, n: N) {
        let p = &planner.problem.nodes[n];
        let boot_s = p.node.boot.seconds(BOOT_QUANTILE);
        let watts = p.node.curve.idle() - p.node.off_watts;
        let what = Do::PowerOn { node: p.node.id.clone() };
        let id = self.push(what, Vec::new(), boot_s + MOVE_GRACE_S, watts, Undo::PowerOff);
        self.wakes.insert(p.fact, (id, boot_s));
        self.cost_j += p.node.boot.joules();
    }

    /// Places what waits. `levels` are of nodes before what is placed on them in this round.
    fn place(&mut self, planner: &Planner<'_, '_>, levels: &mut BTreeMap<N, f64>, w: W, to: N) {
        let (work, p) = (&planner.problem.work[w], &planner.problem.nodes[to]);
        let mut needs = Vec::new();
        let deadline = MOVE_GRACE_S + self.arrive(p.fact, &mut needs);
        let load = &planner.pack.loads[to];
        let comes = |w: &&W| planner.problem.work[**w].home.is_none();
        let come = || load.on.iter().filter(comes).map(|&w| planner.problem.work[w].level).sum::<f64>();
        let already = levels.entry(to).or_insert_with(|| load.level - come());
        let before = p.node.watts(*already);
        *already += work.level;
        let watts = p.node.watts(*already) - before;
        let what = Do::Place { workload: work.work.id.clone(), to: p.node.id.clone() };
        let id = self.push(what, needs, deadline, watts, Undo::Nothing);
        if let Some(group) = &work.work.group {
            self.placed.entry(group.clone()).or_default().push(id);
        }
    }

    /// Closes a node, moves everything off it and powers it off.
    fn empty(&mut self, first: &Problem<'_>, problem: &Problem<'_>, drained: Drained) {
        let p = &problem.nodes[drained.n];
        let cordon = self.push(Do::Cordon { node: p.node.id.clone() }, Vec::new(), MOVE_GRACE_S, 0.0, Undo::Uncordon);
        let mut longest = 0.0;
        self.cost_j += p.node.boot.joules();
        for m in drained.moves {
            longest += problem.work[m.w].work.migration.seconds;
            self.carry(first, problem, m, Some(cordon));
        }
        // moves off it that were decided before have to be over, too
        let mut needs = self.left[p.fact].clone();
        needs.push(cordon);
        needs.sort_unstable();
        let deadline = longest + p.node.boot.shutdown_s + MOVE_GRACE_S;
        self.push(Do::PowerOff { node: p.node.id.clone() }, needs, deadline, drained.off_w, Undo::PowerOn);
    }

    /// Moves a workload.
    fn carry(&mut self, first: &Problem<'_>, problem: &Problem<'_>, m: Move, cordon: Option<u32>) {
        let work = problem.work[m.w].work;
        let (from, to) = (&problem.nodes[m.from], &problem.nodes[m.to]);
        let mut needs: Vec<u32> = cordon.into_iter().collect();
        // what was bound to a node that was off comes back with it, and can leave only then
        needs.extend(self.wakes.get(&from.fact).map(|(wake, _)| *wake));
        let deadline = work.migration.seconds + MOVE_GRACE_S + self.arrive(to.fact, &mut needs);
        if let Some(group) = &work.group {
            let allowed = problem.state.budgets.get(group).copied().unwrap_or(1);
            let away = first.away.get(group.as_str()).copied().unwrap_or(0);
            let mut spare = allowed.saturating_sub(away);
            if spare == 0 {
                // none could leave before those that waited are there
                let there = self.placed.get(group).map_or(&[][..], Vec::as_slice);
                needs.extend_from_slice(there);
                spare = allowed.saturating_sub(away.saturating_sub(u32::try_from(there.len()).unwrap_or(u32::MAX)));
            }
            let before = self.groups.get(group).map_or(&[][..], Vec::as_slice);
            needs.extend(before.len().checked_sub(spare.max(1) as usize).and_then(|i| before.get(i)));
        }
        needs.sort_unstable();
        needs.dedup();
        let what = Do::Move { workload: work.id.clone(), from: from.node.id.clone(), to: to.node.id.clone() };
        let id = self.push(what, needs, deadline, m.watts, Undo::Nothing);
        self.left[from.fact].push(id);
        self.cost_j += work.migration.energy_j();
        if let Some(group) = &work.group {
            self.groups.entry(group.clone()).or_default().push(id);
        }
    }

    /// What has to happen before anything comes to a node: it is woken, and room that others leave is left. Returns
    /// seconds that a wake takes.
    fn arrive(&self, to: FN, needs: &mut Vec<u32>) -> f64 {
        needs.extend_from_slice(&self.left[to]);
        let Some(&(wake, boot_s)) = self.wakes.get(&to) else { return 0.0 };
        needs.push(wake);
        boot_s
    }
}
