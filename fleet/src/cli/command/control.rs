//! Orders to the fleet, operations and the audit.

use ebbtide_proto::v1;
use serde::{Serialize, Serializer};

use crate::cli::args::{
    ApproveArgs, AuditArgs, CancelArgs, CapacityArgs, CapacityVerb, EvacuateArgs, Follow, Format, LockArgs,
    OperationsArgs, PauseArgs, PoolArgs, PoolVerb, PowerArgs, PowerVerb, UnlockArgs,
};
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure, printable};
use crate::cli::figure::{ago, bytes as bytes_of, moment};
use crate::cli::output::{Answer, Output, Sheet, json, write_on};
use crate::cli::record::{Record, operation_state, pool_mode};
use crate::cli::table::{Cell, Column, Table, Tint};
use crate::cli::when::Length;

/// Lists pools, or says what one may do.
pub(in crate::cli) async fn pool(fleet: &Fleet, args: &PoolArgs, output: &Output) -> Result<Exit, Failure> {
    let state = match &args.verb {
        PoolVerb::List => fleet.ask("asking for pools", fleet.control().get_control(v1::GetControlRequest {})).await?,
        PoolVerb::SetMode { pool, mode } => {
            let request = v1::SetPoolModeRequest { pool: pool.clone(), mode: mode.wire().into() };
            fleet.ask("setting the mode", fleet.control().set_pool_mode(request)).await?
        }
    };
    let mut notes: Vec<String> = state.paused.iter().map(|why| format!("nothing new is begun: {why}")).collect();
    notes.extend(
        state.quarantined.iter().map(|q| format!("{} is left alone: {}; ebbtide unlock {}", q.node, q.why, q.node)),
    );
    notes.extend(state.locked.iter().map(|node| format!("{node} is locked")));
    notes.extend(state.cluster.iter().map(|how| format!("Kubernetes: {how}")));
    if !state.leads {
        notes.push("this daemon does not act; its log says why".to_owned());
    }
    output.show(&Pools(state))?;
    notes.iter().for_each(|note| output.note(note));
    Ok(Exit::Ok)
}

/// Begins nothing new.
pub(in crate::cli) async fn pause(fleet: &Fleet, args: &PauseArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::PauseRequest { why: args.why.clone() };
    let begun = fleet.ask("pausing", fleet.control().pause(request)).await?;
    follow(fleet, begun, WAIT, output).await
}

/// Goes on after a pause.
pub(in crate::cli) async fn resume(fleet: &Fleet, output: &Output) -> Result<Exit, Failure> {
    let begun = fleet.ask("going on", fleet.control().resume(v1::ResumeRequest {})).await?;
    follow(fleet, begun, WAIT, output).await
}

/// Approves a plan.
pub(in crate::cli) async fn approve(fleet: &Fleet, args: &ApproveArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::ApprovePlanRequest { plan: args.plan };
    let begun = fleet.ask("approving the plan", fleet.control().approve_plan(request)).await?;
    follow(fleet, begun, args.follow, output).await
}

/// Plans at once.
pub(in crate::cli) async fn reorchestrate(fleet: &Fleet, output: &Output) -> Result<Exit, Failure> {
    let request = v1::ReorchestrateRequest {};
    let begun = fleet.ask("asking for a plan", fleet.control().reorchestrate(request)).await?;
    follow(fleet, begun, WAIT, output).await
}

/// Empties a node.
pub(in crate::cli) async fn evacuate(fleet: &Fleet, args: &EvacuateArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::EvacuateRequest { node: args.node.clone(), lock: args.lock };
    let begun = fleet.ask("asking for the evacuation", fleet.control().evacuate(request)).await?;
    follow(fleet, begun, args.follow, output).await
}

/// Closes a node.
pub(in crate::cli) async fn lock(fleet: &Fleet, args: &LockArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::LockRequest { node: args.node.clone(), why: args.why.clone() };
    let begun = fleet.ask("locking the node", fleet.control().lock(request)).await?;
    follow(fleet, begun, WAIT, output).await
}

/// Opens a node.
pub(in crate::cli) async fn unlock(fleet: &Fleet, args: &UnlockArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::UnlockRequest { node: args.node.clone() };
    let begun = fleet.ask("unlocking the node", fleet.control().unlock(request)).await?;
    follow(fleet, begun, WAIT, output).await
}

/// Switches a node.
pub(in crate::cli) async fn power(fleet: &Fleet, args: &PowerArgs, output: &Output) -> Result<Exit, Failure> {
    let (begun, how) = match &args.verb {
        PowerVerb::On { node, follow } => {
            let request = v1::PowerOnRequest { node: node.clone() };
            (fleet.ask("asking for power", fleet.control().power_on(request)).await?, *follow)
        }
        PowerVerb::Off { node, follow } => {
            let request = v1::PowerOffRequest { node: node.clone() };
            (fleet.ask("asking for the power to go", fleet.control().power_off(request)).await?, *follow)
        }
    };
    follow(fleet, begun, how, output).await
}

/// Lists what workloads may use, or says so.
pub(in crate::cli) async fn capacity(fleet: &Fleet, args: &CapacityArgs, output: &Output) -> Result<Exit, Failure> {
    let kept = match &args.verb {
        CapacityVerb::List => {
            let request = v1::ListCapacityRequest {};
            let answer = fleet.ask("asking for capacities", fleet.control().list_capacity(request)).await?;
            output.show(&Capacities(answer))?;
            return Ok(Exit::Ok);
        }
        CapacityVerb::Set { node, cpu, memory, lasts, why } => {
            let request = v1::SetCapacityRequest {
                node: node.clone(),
                cpu_milli: *cpu,
                memory_bytes: *memory,
                for_ms: lasts.map_or(0, Length::ms),
                why: why.clone(),
            };
            fleet.ask("setting the capacity", fleet.control().set_capacity(request)).await?
        }
        CapacityVerb::Clear { node } => {
            let request = v1::ClearCapacityRequest { node: node.clone() };
            fleet.ask("clearing the capacity", fleet.control().clear_capacity(request)).await?
        }
    };
    // it lasts: who wants to see its end watches the operation
    follow(fleet, kept, Follow { no_wait: true }, output).await
}

/// Gives an operation up.
pub(in crate::cli) async fn cancel(fleet: &Fleet, args: &CancelArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::CancelRequest { id: args.id };
    let begun = fleet.ask("cancelling", fleet.control().cancel(request)).await?;
    follow(fleet, begun, WAIT, output).await
}

/// Lists operations, or shows one.
pub(in crate::cli) async fn operations(fleet: &Fleet, args: &OperationsArgs, output: &Output) -> Result<Exit, Failure> {
    let Some(id) = args.id else {
        let request = v1::ListOperationsRequest { limit: args.limit, running: args.running };
        let answer = fleet.ask("asking for operations", fleet.control().list_operations(request)).await?;
        let nothing = answer.operations.is_empty();
        output.show(&Operations(answer))?;
        if nothing {
            output.note("nothing is being done, and nothing was done lately");
        }
        return Ok(Exit::Ok);
    };
    let mut client = fleet.control();
    let mut news =
        fleet.ask("asking for the operation", client.watch_operation(v1::WatchOperationRequest { id })).await?;
    loop {
        let Some(shown) = news.message().await.map_err(|status| fleet.refused(&status))? else { return Ok(Exit::Ok) };
        let over = shown.ended_ms > 0;
        output.show(&Shown(shown))?;
        if over || !args.watch {
            return Ok(Exit::Ok);
        }
    }
}

/// Shows the audit.
pub(in crate::cli) async fn audit(fleet: &Fleet, args: &AuditArgs, output: &Output) -> Result<Exit, Failure> {
    let since_ms = match &args.since {
        Some(since) => since
            .resolve(output.now_ms, &output.zone)
            .ok_or_else(|| Failure::usage("--since is no moment").next("say 7d, today, or 2026-11-01T14:00"))?,
        None => 0,
    };
    let request = v1::ListAuditRequest { limit: args.limit, node: args.node.clone(), since_ms };
    let answer = fleet.ask("asking for the audit", fleet.control().list_audit(request)).await?;
    let nothing = answer.entries.is_empty();
    output.show(&Audit(answer))?;
    if nothing {
        output.note("nothing was done");
    }
    Ok(Exit::Ok)
}

const WAIT: Follow = Follow { no_wait: false };

/// Follows an operation to its end, unless told not to, and says how it ended.
async fn follow(fleet: &Fleet, begun: v1::Operation, how: Follow, output: &Output) -> Result<Exit, Failure> {
    let mut latest = begun;
    if latest.ended_ms == 0 && !how.no_wait {
        let mut client = fleet.control();
        let request = v1::WatchOperationRequest { id: latest.id };
        let mut news = fleet.ask("following the operation", client.watch_operation(request)).await?;
        let mut said = String::new();
        loop {
            match news.message().await {
                Ok(Some(shown)) => latest = shown,
                Ok(None) if latest.ended_ms > 0 => break,
                Ok(None) => {
                    return Err(Failure::new(format!(
                        "the fleet daemon stopped while operation {} went on",
                        latest.id
                    ))
                    .next("it is taken up when the daemon runs again: ebbtide operations"));
                }
                Err(status) => return Err(fleet.refused(&status)),
            }
            if latest.words != said && latest.ended_ms == 0 {
                said.clone_from(&latest.words);
                output.note(&printable(&said));
            }
            if output.format == Some(Format::Json)
                && latest.ended_ms == 0
                && !write_on(&json(&Record(&latest), false)?)?
            {
                return Ok(Exit::Ok);
            }
        }
    }
    let state = latest.state();
    output.show(&Shown(latest))?;
    Ok(match state {
        v1::OperationState::Done | v1::OperationState::Live | v1::OperationState::Ending => Exit::Ok,
        _ => Exit::Failed,
    })
}

struct Pools(v1::ControlState);
struct Operations(v1::ListOperationsResponse);
struct Shown(v1::Operation);
struct Audit(v1::ListAuditResponse);
struct Capacities(v1::ListCapacityResponse);

macro_rules! as_record {
    ($($name:ident),*) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                Record(&self.0).serialize(s)
            }
        })*
    };
}

as_record!(Pools, Operations, Shown, Audit, Capacities);

fn tint(state: v1::OperationState) -> Tint {
    match state {
        v1::OperationState::Done => Tint::Good,
        v1::OperationState::Failed | v1::OperationState::Quarantined => Tint::Bad,
        v1::OperationState::RolledBack | v1::OperationState::Refused | v1::OperationState::Ending => Tint::Doubtful,
        v1::OperationState::Cancelled => Tint::Quiet,
        v1::OperationState::Live | v1::OperationState::Unspecified => Tint::Plain,
    }
}

impl Answer for Pools {
    fn table(&self, output: &Output) -> String {
        let mut table =
            Table::new(&[Column::text("POOL"), Column::text("MODE"), Column::figure("NODES"), Column::text("ACTS")]);
        for pool in &self.0.pools {
            let name = if pool.name.is_empty() { "(none)" } else { &pool.name };
            let until = match pool.until_ms {
                0 => String::new(),
                at => format!(" until {}", moment(at, &output.zone, true)),
            };
            let acts = match pool.open {
                None => Cell::from("at any time"),
                Some(true) => format!("open{until}").into(),
                Some(false) => Cell::tinted(format!("closed{until}"), Tint::Doubtful),
            };
            let nodes = pool.nodes.to_string();
            table.row([Cell::tinted(name, Tint::Bold), pool_mode(pool.mode).into(), nodes.into(), acts]);
        }
        let going = format!(
            "{} going on · generation {}\n",
            super::counted(self.0.operations as usize, "operation"),
            self.0.generation
        );
        table.render(output.look) + &going
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["pool", "mode", "nodes", "open", "until_ms"]);
        for pool in &self.0.pools {
            let open = pool.open.map(|open| open.to_string()).unwrap_or_default();
            let (nodes, until) = (pool.nodes.to_string(), pool.until_ms.to_string());
            sheet.row([pool.name.clone(), pool_mode(pool.mode), nodes, open, until]);
        }
        sheet
    }
}

impl Answer for Operations {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::figure("ID"),
            Column::text("BEGAN"),
            Column::text("WHAT"),
            Column::text("BY").may_go(2),
            Column::text("STATE"),
            Column::text("HOW").may_go(1),
        ]);
        for op in &self.0.operations {
            table.row([
                op.id.to_string().into(),
                ago(op.began_ms, output.now_ms).into(),
                (&op.what).into(),
                (&op.by).into(),
                Cell::tinted(operation_state(op.state), tint(op.state())),
                (&op.words).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["id", "began_ms", "ended_ms", "what", "by", "node", "state", "words"]);
        for op in &self.0.operations {
            sheet.row([
                op.id.to_string(),
                op.began_ms.to_string(),
                op.ended_ms.to_string(),
                op.what.clone(),
                op.by.clone(),
                op.node.clone(),
                operation_state(op.state),
                op.words.clone(),
            ]);
        }
        sheet
    }
}

impl Answer for Shown {
    fn table(&self, output: &Output) -> String {
        let op = &self.0;
        let mut text = format!("operation {}: {} · {}\n", op.id, printable(&op.what), operation_state(op.state));
        let why = Some(&op.why).filter(|why| !why.is_empty() && !why.starts_with(&op.by));
        let why = why.map(|why| format!(": {}", printable(why))).unwrap_or_default();
        text += &format!("for {}{why}\n", printable(&op.by));
        text += &format!("{}\n", printable(&op.words));
        if !op.steps.is_empty() {
            let mut table = Table::new(&[
                Column::figure("#"),
                Column::text("WHEN").may_go(2),
                Column::text("WHAT"),
                Column::text("ANSWER"),
                Column::text("UNDO").may_go(1),
            ]);
            for step in &op.steps {
                table.row([
                    step.number.to_string().into(),
                    moment(step.at_ms, &output.zone, true).into(),
                    (&step.what).into(),
                    (&step.answer).into(),
                    (&step.undo).into(),
                ]);
            }
            text += &table.render(output.look);
        }
        text
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["number", "at_ms", "what", "answered_ms", "answer", "undo"]);
        for step in &self.0.steps {
            sheet.row([
                step.number.to_string(),
                step.at_ms.to_string(),
                step.what.clone(),
                step.answered_ms.to_string(),
                step.answer.clone(),
                step.undo.clone(),
            ]);
        }
        sheet
    }
}

/// CPUs, from thousandths.
fn cpus(milli: u64) -> String {
    format!("{}", milli as f64 / 1000.0)
}

/// Memory; `–` if nobody said how much there is.
fn memory(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "–".to_owned(), bytes_of)
}

impl Answer for Capacities {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text("NODE"),
            Column::text("POOL").may_go(2),
            Column::figure("CPUS"),
            Column::figure("FOR WORK"),
            Column::figure("ASKED"),
            Column::figure("MEMORY").may_go(3),
            Column::figure("FOR WORK").may_go(3),
            Column::figure("ASKED").may_go(3),
            Column::text("SET BY"),
            Column::text("UNTIL"),
            Column::text("WHY").may_go(1),
        ]);
        for node in &self.0.nodes {
            let until = match (node.operation, node.until_ms) {
                (0, _) => String::new(),
                (_, 0) => "cleared".to_owned(),
                (_, at) => moment(at, &output.zone, true),
            };
            let requested = node.memory_bytes.map(|_| node.requested_memory_bytes);
            table.row([
                Cell::tinted(&node.node, Tint::Bold),
                (&node.pool).into(),
                cpus(node.cpu_milli).into(),
                cpus(node.allocatable_cpu_milli).into(),
                cpus(node.requested_cpu_milli).into(),
                memory(node.memory_bytes).into(),
                memory(node.allocatable_memory_bytes).into(),
                memory(requested).into(),
                (&node.by).into(),
                until.into(),
                (&node.why).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&[
            "node",
            "pool",
            "cpu_milli",
            "allocatable_cpu_milli",
            "requested_cpu_milli",
            "memory_bytes",
            "allocatable_memory_bytes",
            "requested_memory_bytes",
            "set_cpu_milli",
            "set_memory_bytes",
            "operation",
            "by",
            "until_ms",
            "why",
        ]);
        let known = |value: Option<u64>| value.map(|v| v.to_string()).unwrap_or_default();
        for n in &self.0.nodes {
            sheet.row([
                n.node.clone(),
                n.pool.clone(),
                n.cpu_milli.to_string(),
                n.allocatable_cpu_milli.to_string(),
                n.requested_cpu_milli.to_string(),
                known(n.memory_bytes),
                known(n.allocatable_memory_bytes),
                n.requested_memory_bytes.to_string(),
                known(n.set_cpu_milli),
                known(n.set_memory_bytes),
                n.operation.to_string(),
                n.by.clone(),
                n.until_ms.to_string(),
                n.why.clone(),
            ]);
        }
        sheet
    }
}

impl Answer for Audit {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text("WHEN"),
            Column::text("WHO"),
            Column::text("WHAT"),
            Column::text("RESULT"),
            Column::figure("OPERATION").may_go(1),
            Column::text("WHY").may_go(2),
        ]);
        for line in &self.0.entries {
            table.row([
                moment(line.at_ms, &output.zone, true).into(),
                (&line.who).into(),
                (&line.what).into(),
                (&line.result).into(),
                line.operation.to_string().into(),
                (&line.why).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["at_ms", "who", "what", "why", "node", "operation", "result"]);
        for line in &self.0.entries {
            sheet.row([
                line.at_ms.to_string(),
                line.who.clone(),
                line.what.clone(),
                line.why.clone(),
                line.node.clone(),
                line.operation.to_string(),
                line.result.clone(),
            ]);
        }
        sheet
    }
}
