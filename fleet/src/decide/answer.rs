//! Answers about plans, in the words of `ebbtide.v1.Planner`.

use std::collections::BTreeMap;

use ebbtide_planner::check::{Violation, check};
use ebbtide_planner::explain;
use ebbtide_planner::plan::action::{Action, Do, Plan};
use ebbtide_planner::plan::reason::{Reason, Verdict};
use ebbtide_planner::replay::Decision;
use ebbtide_planner::state::node::PowerState;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_planner::whatif::{Edit, WhatIfError, what_if};
use ebbtide_proto::{NodeId, WorkloadId, v1};

use super::archive::ArchiveError;
use super::inventory::Inventory;
use super::{Mode, Plans, Standing, parse_policy};

/// Plans in a list, if the question doesn't say.
const LISTED: u32 = 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// There is no plan yet.
    #[error("there is no plan yet: {0}")]
    NotYet(String),
    /// There is no such plan, node, ….
    #[error("{0}")]
    NotFound(String),
    /// The question makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The archive can't be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl From<Mode> for v1::PlanMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Observe => Self::Observe,
            Mode::Recommend => Self::Recommend,
        }
    }
}

impl Plans {
    fn now(&self) -> Result<Standing, NoAnswer> {
        let why = || self.wanting.read().map(|why| why.clone()).unwrap_or_default();
        self.standing().ok_or_else(|| NoAnswer::NotYet(why()))
    }

    /// A plan by its number, 0 being the one that stands.
    fn find(&self, id: u64) -> Result<Standing, NoAnswer> {
        if id == 0 {
            return self.now();
        }
        if let Some(standing) = self.standing().filter(|standing| standing.id == id) {
            return Ok(standing);
        }
        let decision = self.kept(id)?;
        let summary = self.archive.summary(id)?.ok_or_else(|| gone(id))?;
        Ok(Standing {
            id,
            violations: violations(&decision),
            decision: decision.into(),
            confirmed_ms: summary.confirmed_ms,
            took_us: summary.took_us,
        })
    }

    /// A decision from the disk.
    fn kept(&self, id: u64) -> Result<Decision, NoAnswer> {
        self.archive.decision(id)?.ok_or_else(|| gone(id))
    }

    /// A plan.
    ///
    /// # Errors
    /// If there is none of that number, or none yet.
    pub fn get(&self, request: &v1::GetPlanRequest) -> Result<v1::Plan, NoAnswer> {
        let standing = self.find(request.id)?;
        let mut shown = self.shown(&standing);
        if !request.pool.is_empty() {
            let pools: Vec<&str> = shown.nodes.iter().map(|node| node.pool.as_str()).collect();
            if !pools.contains(&request.pool.as_str()) {
                let known: std::collections::BTreeSet<&str> = pools.into_iter().filter(|p| !p.is_empty()).collect();
                let known = known.into_iter().collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none is known".to_owned() } else { format!("there are {known}") };
                return Err(NoAnswer::NotFound(format!("no node is in pool {:?}; {known}", request.pool)));
            }
            shown.nodes.retain(|node| node.pool == request.pool);
            let of_pool = |name: &str| shown.nodes.iter().any(|node| node.name == name);
            shown.actions.retain(|action| of_pool(&action.node) || of_pool(&action.to));
        }
        Ok(shown)
    }

    fn shown(&self, standing: &Standing) -> v1::Plan {
        let Decision { state, plan: made, .. } = &*standing.decision;
        let mut shown = plan(standing.id, state, made, self.mode);
        shown.violations.clone_from(&standing.violations);
        shown.confirmed_ms = standing.confirmed_ms;
        shown.took_us = standing.took_us;
        shown
    }

    /// Plans in one line each.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn list(&self, request: &v1::ListPlansRequest) -> Result<v1::ListPlansResponse, NoAnswer> {
        let limit = if request.limit == 0 { LISTED } else { request.limit };
        let plans = self.archive.list(limit)?.into_iter().map(|s| v1::PlanSummary {
            id: s.id,
            at_ms: s.at_ms,
            actions: s.actions,
            before_uw: uw(s.watts[0]),
            after_uw: uw(s.watts[1]),
            bound_uw: uw(s.watts[2]),
            headline: s.headline,
            confirmed_ms: s.confirmed_ms,
        });
        Ok(v1::ListPlansResponse { plans: plans.collect() })
    }

    /// Why.
    ///
    /// # Errors
    /// If the plan, or what is to be explained, is not there.
    pub fn explain(&self, request: &v1::ExplainRequest) -> Result<v1::Explanation, NoAnswer> {
        let standing = self.find(request.plan)?;
        let Decision { plan, state, .. } = &*standing.decision;
        let explained = match &request.subject {
            None => Ok(explain::plan(plan)),
            Some(v1::explain_request::Subject::Node(name)) => NodeId::new(name)
                .ok()
                .and_then(|id| explain::node(plan, state, &id))
                .ok_or_else(|| format!("plan {} knows no node {name:?}; ebbtide nodes lists them", standing.id)),
            Some(v1::explain_request::Subject::Workload(name)) => self
                .workload(state, name)
                .and_then(|id| explain::workload(plan, state, &id).ok_or_else(|| format!("there is no {id}"))),
            Some(v1::explain_request::Subject::Action(id)) => explain::action(plan, *id)
                .ok_or_else(|| format!("plan {} has no action {id}: it has {}", standing.id, plan.actions.len())),
        };
        let mut explained = explained.map_err(NoAnswer::NotFound)?;
        if let (Some(v1::explain_request::Subject::Node(name)), 0) = (&request.subject, request.plan)
            && let Ok(id) = NodeId::new(name)
        {
            explained.because.extend(self.withheld().of(&id));
        }
        Ok(explanation(standing.id, explained))
    }

    /// The plan that would be made if something were different.
    ///
    /// # Errors
    /// If what is asked makes no sense.
    pub fn what_if(&self, request: &v1::WhatIfRequest) -> Result<v1::WhatIfResponse, NoAnswer> {
        let standing = self.now()?;
        let mut edits = Vec::new();
        for name in &request.remove_nodes {
            let node = NodeId::new(name).map_err(|e| NoAnswer::Invalid(format!("node {name:?}: {e}")))?;
            edits.push(Edit::RemoveNode { node });
        }
        for text in &request.add_nodes {
            let inventory =
                Inventory::parse(text, "the node to be added").map_err(|e| NoAnswer::Invalid(e.to_string()))?;
            if inventory.node.is_empty() {
                return Err(NoAnswer::Invalid("what is to be added has no [[node]]".to_owned()));
            }
            for entry in &inventory.node {
                let mut node = entry.node(None, "").map_err(NoAnswer::Invalid)?;
                if node.capacity.cpu_milli == 0 {
                    let text = format!("node {:?} has no cpus; say how many it has", entry.name);
                    return Err(NoAnswer::Invalid(text));
                }
                node.switchable = entry.switchable.unwrap_or(true);
                // it has been there for long: what is asked for is how things would settle
                node.since = Time::from_ms(1);
                edits.push(Edit::AddNode { node: Box::new(node) });
            }
        }
        if let Some(text) = &request.policy {
            let policy = parse_policy(text).map_err(|why| NoAnswer::Invalid(format!("the policy: {why}")))?;
            edits.push(Edit::Policy { policy: Box::new(policy) });
        }
        edits.extend(request.price.map(|price| Edit::Price { price }));
        edits.extend(request.carbon.map(|carbon| Edit::Carbon { carbon }));
        if edits.is_empty() {
            return Err(NoAnswer::Invalid("nothing is different: say what".to_owned()));
        }
        // as of now, not as of when the plan that stands was made
        let state = self.state.read().map(|state| std::sync::Arc::clone(&state)).unwrap_or_default();
        let at: Time = state.now;
        let Decision { policy, .. } = &*standing.decision;
        let answer = what_if(&state, policy, at, &edits).map_err(|error| match error {
            WhatIfError::Refused(refusal) => NoAnswer::Invalid(refusal.to_string()),
            WhatIfError::Node(node) => {
                NoAnswer::NotFound(format!("{node}: there is no such node, or there is already"))
            }
        })?;
        Ok(v1::WhatIfResponse {
            now: Some(self::plan(0, &state, &answer.now, self.mode)),
            then: Some(self::plan(0, &answer.edited, &answer.then, self.mode)),
            change_uw: signed_uw(answer.watts),
            euro_per_year: answer.euro_per_year,
            kg_co2_per_year: answer.kg_co2_per_year,
        })
    }

    /// Makes a plan again from what it was made from.
    ///
    /// # Errors
    /// If it isn't kept.
    pub fn replay(&self, id: u64) -> Result<v1::ReplayPlanResponse, NoAnswer> {
        let id = if id == 0 { self.now()?.id } else { id };
        // from the disk, also if it is the one that stands: that is what can be asked for later
        let decision = self.kept(id)?;
        let replayed = decision.replay();
        let same = replayed.is_ok();
        let text = replayed.map_or_else(|error| error.to_string(), |()| "the same plan, bit for bit".to_owned());
        let input_bytes = serde_json::to_vec(&decision.state).map_or(0, |bytes| bytes.len() as u64);
        Ok(v1::ReplayPlanResponse { same, text, digest: decision.plan.inputs.clone(), input_bytes })
    }
}

fn gone(id: u64) -> NoAnswer {
    NoAnswer::NotFound(format!("there is no plan {id}, or it is no longer kept; ebbtide plan --list"))
}

/// What stands against a plan, in words.
pub(super) fn violations(decision: &Decision) -> Vec<String> {
    let told = |v: Violation| v.action.map_or_else(|| v.what.clone(), |id| format!("action {id} {}", v.what));
    check(&decision.plan, &decision.state, &decision.policy).into_iter().map(told).collect()
}

/// A workload by its id, by what it is called or, if only one is called so, by a part of either.
pub(super) fn workload(
    state: &FleetState,
    name: &str,
    called: impl Fn(&WorkloadId) -> Option<String>,
) -> Result<WorkloadId, String> {
    if let Ok(id) = name.parse::<WorkloadId>()
        && state.workloads.contains_key(&id)
    {
        return Ok(id);
    }
    let mut found = Vec::new();
    for id in state.workloads.keys() {
        let called = called(id);
        if called.as_deref() == Some(name) {
            return Ok(id.clone());
        }
        if found.len() < 6 && (id.to_string().contains(name) || called.is_some_and(|called| called.contains(name))) {
            found.push(id);
        }
    }
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(format!("no workload is called {name:?}; ebbtide workloads --by pod lists pods")),
        several => {
            let names: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(format!("{name:?} may be {}; say which", names.join(" or ")))
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and the cast saturates")]
fn uw(watts: f64) -> u64 {
    (watts.max(0.0) * 1e6).round() as u64
}

#[allow(clippy::cast_possible_truncation, reason = "the cast saturates")]
fn signed_uw(watts: f64) -> i64 {
    (watts * 1e6).round() as i64
}

fn explanation(plan: u64, e: explain::Explanation) -> v1::Explanation {
    let reason_json = e.reason.as_ref().and_then(|r| serde_json::to_string(r).ok()).unwrap_or_default();
    v1::Explanation { headline: e.headline, because: e.because, reason_json, plan }
}

/// A plan for `state` as it is told.
fn plan(id: u64, state: &FleetState, p: &Plan, mode: Mode) -> v1::Plan {
    v1::Plan {
        id,
        at_ms: p.at.ms(),
        mode: v1::PlanMode::from(mode).into(),
        before_uw: uw(p.before_w),
        after_uw: uw(p.after_w),
        bound_uw: uw(p.bound_w),
        gap_ppm: uw(p.gap()),
        cost_uj: uw(p.cost_j),
        pays_back_s: p.pays_back_s().filter(|_| !p.is_empty()).map(|s| uw(s / 1e6)),
        actions: p.actions.iter().map(action).collect(),
        nodes: nodes(state, p),
        unplaced: p.unplaced.iter().map(ToString::to_string).collect(),
        violations: Vec::new(),
        cut_short: p.cut_short,
        explanation: Some(explanation(id, explain::plan(p))),
        digest: p.inputs.clone(),
        confirmed_ms: p.at.ms(),
        took_us: 0,
    }
}

fn action(a: &Action) -> v1::PlanAction {
    let none = String::new;
    let (kind, node, workload, to) = match &a.what {
        Do::PowerOn { node } => (v1::ActionKind::PowerOn, node.to_string(), none(), none()),
        Do::PowerOff { node } => (v1::ActionKind::PowerOff, node.to_string(), none(), none()),
        Do::Cordon { node } => (v1::ActionKind::Cordon, node.to_string(), none(), none()),
        Do::Place { workload, to } => (v1::ActionKind::Place, none(), workload.to_string(), to.to_string()),
        Do::Move { workload, from, to } => {
            (v1::ActionKind::Move, from.to_string(), workload.to_string(), to.to_string())
        }
    };
    v1::PlanAction {
        id: a.id,
        kind: kind.into(),
        node,
        workload,
        to,
        needs: a.needs.clone(),
        deadline_s: a.deadline_s,
        change_uw: signed_uw(a.watts),
    }
}

/// Nodes before and after.
fn nodes(state: &FleetState, plan: &Plan) -> Vec<v1::PlanNode> {
    let mut after = state.clone();
    for event in plan.effects() {
        after.apply(plan.at, event);
    }
    let headlines: BTreeMap<&NodeId, &Verdict> = plan
        .reasons
        .iter()
        .filter_map(|r| match r {
            Reason::Node { node, verdict } => Some((node, verdict)),
            Reason::Workload { .. } => None,
        })
        .collect();
    let (used_before, used_after) = (state.expected_use(), after.expected_use());
    let (on_before, on_after) = (placed(state), placed(&after));
    let watts = |of: &FleetState, used: &BTreeMap<&NodeId, f64>, id: &NodeId| {
        of.nodes.get(id).map_or(0.0, |n| match n.power {
            PowerState::Off => n.off_watts,
            _ => n.watts(used.get(id).copied().unwrap_or(0.0)),
        })
    };
    let power = |of: &FleetState, id: &NodeId| -> i32 {
        v1::PowerState::from(of.nodes.get(id).map_or(PowerState::Unknown, |n| n.power)).into()
    };
    state
        .nodes
        .values()
        .map(|n| v1::PlanNode {
            name: n.id.to_string(),
            pool: n.pool.clone(),
            before: power(state, &n.id),
            after: power(&after, &n.id),
            before_uw: uw(watts(state, &used_before, &n.id)),
            after_uw: uw(watts(&after, &used_after, &n.id)),
            workloads_before: on_before.get(&n.id).copied().unwrap_or(0),
            workloads_after: on_after.get(&n.id).copied().unwrap_or(0),
            // looking a reason up in the list for each node would take the square of their number
            headline: match headlines.get(&n.id) {
                Some(verdict) => explain::verdict(verdict),
                None => explain::node(plan, state, &n.id)
                    .map(|e| e.headline.trim_start_matches(n.id.as_str()).trim_start().to_owned())
                    .unwrap_or_default(),
            },
        })
        .collect()
}

/// Workloads on each node, those that belong to it aside.
fn placed(state: &FleetState) -> BTreeMap<NodeId, u32> {
    let mut count = BTreeMap::new();
    for w in state.workloads.values().filter(|w| !w.per_node) {
        if let Some(node) = &w.node {
            *count.entry(node.clone()).or_insert(0) += 1;
        }
    }
    count
}
