//! `plan`, `explain`, `what-if`, `replay`: which nodes are needed, and why.

use std::path::Path;

use ebbtide_proto::{Energy, Power, v1};
use serde::{Serialize, Serializer};

use super::counted;
use crate::cli::args::{ExplainArgs, PlanArgs, ReplayArgs, ReplayVerb, Subject, WhatIfArgs};
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure, printable};
use crate::cli::figure::{ago, bytes, moment, span};
use crate::cli::output::{Answer, Output, Sheet, maybe};
use crate::cli::record::{Record, action, power_state};
use crate::cli::table::{Cell, Column, Table, Tint};

/// Nodes that a table shows of a fleet in which most stay as they are.
const FEW: usize = 20;

/// Shows a plan, or lists plans.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &PlanArgs, output: &Output) -> Result<Exit, Failure> {
    if args.list {
        let request = v1::ListPlansRequest { limit: args.limit };
        let answer = fleet.ask("asking for plans", fleet.planner().list_plans(request)).await?;
        let nothing = answer.plans.is_empty();
        output.show(&Listed(answer))?;
        if nothing {
            output.note("no plan is kept yet");
        }
        return Ok(Exit::Ok);
    }
    let request = v1::GetPlanRequest { id: args.id.unwrap_or(0), pool: args.pool.clone() };
    let answer = fleet.ask("asking for the plan", fleet.planner().get_plan(request)).await?;
    let notes = notes(&answer);
    output.show(&Shown(answer))?;
    notes.iter().for_each(|note| output.note(note));
    Ok(Exit::Ok)
}

/// What is to be said of a plan beside its figures.
fn notes(plan: &v1::Plan) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(plan.violations.iter().map(|v| format!("the plan does not hold up, and is never carried out: {v}")));
    if !plan.unplaced.is_empty() {
        let some: Vec<&str> = plan.unplaced.iter().take(5).map(String::as_str).collect();
        let text = format!("{} find no node: {}", counted(plan.unplaced.len(), "workload"), some.join(", "));
        notes.push(format!("{text}; ebbtide explain workload NAME says why"));
    }
    if plan.cut_short {
        notes.push("planning stopped at its effort limit; there may be a better plan".to_owned());
    }
    notes
}

/// Explains something.
pub(in crate::cli) async fn explain(fleet: &Fleet, args: &ExplainArgs, output: &Output) -> Result<Exit, Failure> {
    use v1::explain_request::Subject as Wire;
    let (plan, subject) = match &args.subject {
        Subject::Node { name } => (args.plan, Some(Wire::Node(name.clone()))),
        Subject::Workload { name } => (args.plan, Some(Wire::Workload(name.clone()))),
        Subject::Action { id } => (args.plan, Some(Wire::Action(*id))),
        Subject::Plan { id } => (id.or(args.plan), None),
    };
    let request = v1::ExplainRequest { plan: plan.unwrap_or(0), subject };
    let answer = fleet.ask("asking why", fleet.planner().explain(request)).await?;
    output.show(&Explained(answer))?;
    Ok(Exit::Ok)
}

/// Thinks something through.
pub(in crate::cli) async fn what_if(fleet: &Fleet, args: &WhatIfArgs, output: &Output) -> Result<Exit, Failure> {
    let WhatIfArgs { remove_node, add_node, policy, price, carbon } = args;
    if remove_node.is_empty() && add_node.is_empty() && policy.is_none() && price.is_none() && carbon.is_none() {
        return Err(Failure::usage("nothing is different from how it is")
            .next("say what: --remove-node, --add-node, --policy, --price or --carbon"));
    }
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("can't read {}: {e}", path.display())))
    };
    let request = v1::WhatIfRequest {
        remove_nodes: remove_node.clone(),
        add_nodes: add_node.iter().map(|path| read(path)).collect::<Result<_, _>>()?,
        policy: policy.as_deref().map(read).transpose()?,
        price: *price,
        carbon: *carbon,
    };
    let answer = fleet.ask("thinking it through", fleet.planner().what_if(request)).await?;
    let notes = answer.then.as_ref().map(notes).unwrap_or_default();
    output.show(&Thought(answer))?;
    notes.iter().for_each(|note| output.note(note));
    Ok(Exit::Ok)
}

/// Does something again.
pub(in crate::cli) async fn replay(fleet: &Fleet, args: &ReplayArgs, output: &Output) -> Result<Exit, Failure> {
    let ReplayVerb::Decision { id } = &args.verb;
    let request = v1::ReplayPlanRequest { id: *id };
    let answer = fleet.ask("planning again", fleet.planner().replay_plan(request)).await?;
    let same = answer.same;
    output.show(&Replayed { id: *id, answer })?;
    Ok(if same { Exit::Ok } else { Exit::Failed })
}

struct Shown(v1::Plan);
struct Listed(v1::ListPlansResponse);
struct Explained(v1::Explanation);
struct Thought(v1::WhatIfResponse);
struct Replayed {
    id: u64,
    answer: v1::ReplayPlanResponse,
}

macro_rules! as_record {
    ($($name:ident => $field:tt),*) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                Record(&self.$field).serialize(s)
            }
        })*
    };
}

as_record!(Shown => 0, Listed => 0, Explained => 0, Thought => 0, Replayed => answer);

fn watts(uw: u64) -> String {
    Power::from_uw(uw).to_string()
}

/// A change with its sign.
fn change(uw: i64) -> String {
    let sign = match uw {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", watts(uw.unsigned_abs()))
}

/// Parts per million as per cent, with one digit.
fn percent(ppm: u64) -> String {
    let tenths = ppm.saturating_add(500) / 1000;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// What an action does, in words.
fn what(a: &v1::PlanAction) -> String {
    match a.kind() {
        v1::ActionKind::PowerOn => format!("power {} on", a.node),
        v1::ActionKind::PowerOff => format!("power {} off", a.node),
        v1::ActionKind::Cordon => format!("keep new work away from {}", a.node),
        v1::ActionKind::Place => format!("place {} on {}", a.workload, a.to),
        v1::ActionKind::Move => format!("move {} from {} to {}", a.workload, a.node, a.to),
        v1::ActionKind::Unspecified => "something that this version doesn't know".to_owned(),
    }
}

impl Answer for Shown {
    fn table(&self, output: &Output) -> String {
        let plan = &self.0;
        let explained = plan.explanation.clone().unwrap_or_default();
        let mode = if plan.mode() == v1::PlanMode::Recommend { "recommended" } else { "observed" };
        let made = moment(plan.at_ms, &output.zone, true);
        let holds = ago(plan.confirmed_ms, output.now_ms);
        let mut text = format!("plan {} · {mode} · made {made}, holds as of {holds}\n", plan.id);
        text += &format!("{}\n", printable(&explained.headline));
        text += &format!(
            "now {} · planned {} · bound {} · gap {}",
            watts(plan.before_uw),
            watts(plan.after_uw),
            watts(plan.bound_uw),
            percent(plan.gap_ppm)
        );
        if let Some(s) = plan.pays_back_s {
            let cost = Energy::from_uj(plan.cost_uj);
            text += &format!(" · costs {cost}, paid back in {}", span(std::time::Duration::from_secs(s)));
        }
        text.push('\n');
        if !plan.actions.is_empty() {
            let mut table = Table::new(&[
                Column::figure("#"),
                Column::text("WHAT"),
                Column::figure("W"),
                Column::text("AFTER").may_go(1),
                Column::figure("WITHIN").may_go(2),
            ]);
            for a in &plan.actions {
                let needs: Vec<String> = a.needs.iter().map(ToString::to_string).collect();
                table.row([
                    a.id.to_string().into(),
                    what(a).into(),
                    Cell::tinted(change(a.change_uw), Tint::Figure),
                    needs.join(",").into(),
                    span(std::time::Duration::from_secs(a.deadline_s)).into(),
                ]);
            }
            text += &format!("\n{}", table.render(output.look));
        }
        text + &nodes(&plan.nodes, output)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["id", "kind", "node", "workload", "to", "needs", "deadline_s", "change_uw"]);
        for a in &self.0.actions {
            let needs: Vec<String> = a.needs.iter().map(ToString::to_string).collect();
            sheet.row([
                a.id.to_string(),
                action(a.kind),
                a.node.clone(),
                a.workload.clone(),
                a.to.clone(),
                needs.join(" "),
                a.deadline_s.to_string(),
                a.change_uw.to_string(),
            ]);
        }
        sheet
    }
}

/// Nodes, those first that change; in a large fleet only some of the others, unless all columns are asked for.
fn nodes(nodes: &[v1::PlanNode], output: &Output) -> String {
    let changes = |n: &v1::PlanNode| n.before != n.after || n.workloads_before != n.workloads_after;
    let mut shown: Vec<&v1::PlanNode> = nodes.iter().filter(|n| changes(n)).collect();
    let few = if output.look.wide { usize::MAX } else { FEW.saturating_sub(shown.len()) };
    shown.extend(nodes.iter().filter(|n| !changes(n)).take(few));
    let hidden = nodes.len() - shown.len();
    let mut table = Table::new(&[
        Column::text("NODE"),
        Column::text("POOL").may_go(3),
        Column::text("POWER"),
        Column::figure("W"),
        Column::figure("W then"),
        Column::figure("WORKLOADS").may_go(2),
        Column::text("WHY"),
    ]);
    for n in &shown {
        let power = match (power_state(n.before), power_state(n.after)) {
            (before, after) if before == after => before,
            (before, after) => format!("{before} to {after}"),
        };
        let workloads = match (n.workloads_before, n.workloads_after) {
            (before, after) if before == after => before.to_string(),
            (before, after) => format!("{before} to {after}"),
        };
        table.row([
            Cell::from(&n.name),
            (&n.pool).into(),
            power.into(),
            watts(n.before_uw).into(),
            Cell::tinted(watts(n.after_uw), Tint::Figure),
            workloads.into(),
            (&n.headline).into(),
        ]);
    }
    let mut text = format!("\n{}", table.render(output.look));
    if hidden > 0 {
        text += &format!("and {} that stay as they are (-o wide)\n", counted(hidden, "node"));
    }
    text
}

impl Answer for Listed {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::figure("PLAN"),
            Column::text("MADE"),
            Column::figure("ACTIONS"),
            Column::figure("W").may_go(1),
            Column::figure("W then").may_go(2),
            Column::text("WHAT"),
        ]);
        for p in &self.0.plans {
            table.row([
                p.id.to_string().into(),
                moment(p.at_ms, &output.zone, true).into(),
                p.actions.to_string().into(),
                watts(p.before_uw).into(),
                watts(p.after_uw).into(),
                (&p.headline).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet =
            Sheet::new(&["id", "at_ms", "actions", "before_uw", "after_uw", "bound_uw", "confirmed_ms", "headline"]);
        for p in &self.0.plans {
            let numbers = [p.id, p.at_ms, p.actions.into(), p.before_uw, p.after_uw, p.bound_uw, p.confirmed_ms];
            sheet.row(numbers.iter().map(ToString::to_string).chain([p.headline.clone()]));
        }
        sheet
    }
}

impl Answer for Explained {
    fn table(&self, _: &Output) -> String {
        let lines = std::iter::once(printable(&self.0.headline));
        let because = self.0.because.iter().map(|line| format!("  {}", printable(line.trim_end())));
        lines.chain(because).map(|line| line + "\n").collect()
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["plan", "line"]);
        for line in std::iter::once(&self.0.headline).chain(&self.0.because) {
            sheet.row([self.0.plan.to_string(), line.clone()]);
        }
        sheet
    }
}

impl Answer for Thought {
    fn table(&self, output: &Output) -> String {
        let answer = &self.0;
        let (now, then) = (answer.now.clone().unwrap_or_default(), answer.then.clone().unwrap_or_default());
        let sign = |v: f64, unit: &str| format!("{}{:.0} {unit}", if v > 0.0 { "+" } else { "" }, v);
        let mut text = format!(
            "{} after its plan, instead of {}: {}, in a year {} and {}\n",
            watts(then.after_uw),
            watts(now.after_uw),
            change(answer.change_uw),
            sign(answer.euro_per_year, "EUR"),
            sign(answer.kg_co2_per_year, "kg CO2"),
        );
        let explained = then.explanation.unwrap_or_default();
        text += &format!("then: {}\n", printable(&explained.headline));
        let steps = then.actions.iter().filter(|a| a.kind() != v1::ActionKind::Cordon).take(FEW);
        for a in steps {
            text += &format!("  {}  {}\n", printable(&what(a)), change(a.change_uw));
        }
        text + &nodes(&then.nodes, output)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["side", "before_uw", "after_uw", "bound_uw", "actions", "pays_back_s"]);
        for (side, plan) in [("now", &self.0.now), ("then", &self.0.then)] {
            let Some(p) = plan else { continue };
            sheet.row([
                side.to_owned(),
                p.before_uw.to_string(),
                p.after_uw.to_string(),
                p.bound_uw.to_string(),
                p.actions.len().to_string(),
                maybe(p.pays_back_s),
            ]);
        }
        sheet
    }
}

impl Answer for Replayed {
    fn table(&self, _: &Output) -> String {
        let a = &self.answer;
        format!("plan {}: {}\ninputs {} ({})\n", self.id, printable(&a.text), a.digest, bytes(a.input_bytes))
    }

    fn csv(&self) -> Sheet {
        let a = &self.answer;
        let mut sheet = Sheet::new(&["id", "same", "text", "digest", "input_bytes"]);
        sheet.row([
            self.id.to_string(),
            a.same.to_string(),
            a.text.clone(),
            a.digest.clone(),
            a.input_bytes.to_string(),
        ]);
        sheet
    }
}
