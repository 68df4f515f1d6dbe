//! Carries events to the executor and its commands to those who do them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_executor::Executor;
use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::{Command, Generation};
use ebbtide_executor::event::Event;
use ebbtide_executor::operation::{OperationId, Who};
use ebbtide_executor::settings::{Mode, Settings};
use ebbtide_planner::plan::action::{Do, Plan};
use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::{self, Shutdown, Tasks};
use tokio::sync::{mpsc, oneshot, watch};

use super::hosts::{self, Hosts};
use super::{Acting, Board, Journal, Order, WAITING, Wanted};
use crate::decide::Plans;

/// Time between two looks of the executor at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Answers that wait for the executor.
const ANSWERS: usize = 256;

/// Runs the executor.
pub struct Driver {
    executor: Executor,
    generation: Generation,
    hosts: Hosts,
    plans: Arc<Plans>,
    orders: mpsc::Receiver<Order>,
    board: watch::Sender<Arc<Board>>,
    answers: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    tickets: BTreeMap<u64, oneshot::Sender<Option<OperationId>>>,
    next_ticket: u64,
    modes: BTreeMap<String, Mode>,
    effects: Tasks,
}

impl Driver {
    /// Takes the lead, and up what was left at the last end.
    ///
    /// # Errors
    /// If `actions.db` can't be used, or what is in it makes no sense.
    pub fn open(
        hosts: Hosts,
        plans: Arc<Plans>,
        modes: &BTreeMap<String, Mode>,
        mut settings: Settings,
    ) -> anyhow::Result<(Self, Acting)> {
        let journal = hosts.journal.clone();
        let (generation, records) = journal.lead()?;
        for feed in hosts.rack.feeds() {
            if let Ok(node) = NodeId::new(&feed.node) {
                settings.ways.insert(node, hosts::ways(feed, &hosts.rack));
            }
        }
        let executor = Executor::resume(&records, now(), generation, settings)?;
        let mut all = modes.clone();
        all.extend(journal.modes()?);
        let board =
            Board { generation, leads: true, closed: journal.closed()?, modes: all.clone(), ..Board::default() };
        let (orders_in, orders) = mpsc::channel(WAITING);
        let (board, shown) = watch::channel(Arc::new(board));
        let acting = Acting { orders: orders_in, board: shown, journal };
        let driver = Self {
            executor,
            generation,
            hosts,
            plans,
            orders,
            board,
            answers: mpsc::channel(ANSWERS),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            modes: all,
            effects: Tasks::new(),
        };
        Ok((driver, acting))
    }

    /// Acts until the stop. What is under way at that moment is taken up at the next start.
    ///
    /// # Errors
    /// If the journal can't be written any more: then nothing more is done.
    pub async fn run(mut self, stop: Shutdown) -> anyhow::Result<()> {
        for (pool, mode) in self.modes.clone() {
            self.step(Event::Mode { pool, mode }).await?;
        }
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut planned = self.plans.news();
        loop {
            tokio::select! {
                () = stop.requested() => break,
                _ = ticks.tick() => self.step(Event::Tick).await?,
                Some(event) = self.answers.1.recv() => self.step(event).await?,
                Some(order) = self.orders.recv() => self.take(order).await?,
                Ok(()) = planned.changed() => {
                    let plan = planned.borrow_and_update().clone();
                    if let Some(plan) = plan.filter(|plan| self.may_act(plan)) {
                        self.step(Event::Planned(Box::new((*plan).clone()))).await?;
                    }
                }
                _ = self.effects.next_ended(), if !self.effects.is_empty() => {}
            }
            anyhow::ensure!(self.executor.is_leading(), "this daemon doesn't act any more; the log above says why");
        }
        self.effects.finish(Duration::from_secs(5)).await;
        Ok(())
    }

    /// Whether any pool that the plan is about is more than observed: others' plans are only looked at.
    fn may_act(&self, plan: &Plan) -> bool {
        let state = self.plans.state();
        let acts = |node: &NodeId| {
            let pool = state.nodes.get(node).map_or("", |n| n.pool.as_str());
            self.modes.get(pool).is_some_and(|mode| *mode > Mode::Observe)
        };
        plan.actions.iter().any(|action| match &action.what {
            Do::PowerOn { node } | Do::PowerOff { node } | Do::Cordon { node } => acts(node),
            Do::Place { to, .. } | Do::Move { to, .. } => acts(to),
        })
    }

    async fn take(&mut self, order: Order) -> anyhow::Result<()> {
        let Order { by, why, what, accepted } = order;
        match what {
            Wanted::Ask(what) => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.tickets.insert(ticket, accepted);
                self.step(Event::Asked { ticket, by, why, what }).await
            }
            Wanted::Mode { pool, mode } => {
                let entry = AuditEntry {
                    at: now(),
                    who: Who::Operator(by),
                    what: format!("sets pool {pool:?} to {mode:?}").to_lowercase(),
                    why,
                    node: None,
                    operation: OperationId(0),
                    result: Some("done".to_owned()),
                };
                let name = pool.clone();
                self.written("mode of a pool", move |journal| {
                    journal.set_mode(&name, mode)?;
                    journal.audit(&entry)
                })
                .await?;
                self.modes.insert(pool.clone(), mode);
                self.step(Event::Mode { pool, mode }).await?;
                accepted.send(None).ok();
                Ok(())
            }
        }
    }

    /// Lets the executor take in an event, and sees to what it wants.
    async fn step(&mut self, event: Event) -> anyhow::Result<()> {
        let mut events = VecDeque::from([event]);
        let mut changed = false;
        while let Some(event) = events.pop_front() {
            changed |= !matches!(event, Event::Tick);
            let fleet = self.plans.state();
            for command in self.executor.step(now(), &fleet, &self.plans.policy(), event) {
                match command {
                    Command::Journal { generation, record } => {
                        let seq = record.seq;
                        let written = self.written("journal", move |journal| journal.write(&record)).await;
                        events.push_back(match written {
                            Ok(()) => Event::Journalled { generation, seq },
                            Err(error) => {
                                tracing::error!("nothing more is done, for it can't be journalled: {error}");
                                Event::JournalFailed { generation }
                            }
                        });
                    }
                    Command::Do { generation, key, node, effect, .. } => {
                        let (hosts, answers) = (self.hosts.clone(), self.answers.0.clone());
                        self.effects.spawn(format!("{key}"), async move {
                            let answer = hosts.bring_about(&node, &effect).await;
                            // the executor has stopped: what became of it is looked at by the next
                            drop(answers.send(Event::Answered { generation, key, answer }).await);
                            Ok(())
                        });
                    }
                    Command::Look { node, look, .. } => {
                        let (hosts, answers) = (self.hosts.clone(), self.answers.0.clone());
                        self.effects.spawn(format!("look at {node}"), async move {
                            let sight = Box::new(hosts.look(node.clone()).await);
                            drop(answers.send(Event::Seen { node, look: Some(look), sight }).await);
                            Ok(())
                        });
                    }
                    Command::Replan { why, .. } => {
                        tracing::info!("planning anew: {why}");
                        self.plans.plan_now();
                    }
                    Command::Audit(entry) => {
                        tracing::info!(operation = %entry.operation, who = %entry.who, result = ?entry.result, "{}", entry.what);
                        self.written("audit", move |journal| journal.audit(&entry)).await?;
                    }
                    Command::Accepted { ticket, operation } => {
                        changed = true;
                        if let Some(accepted) = self.tickets.remove(&ticket) {
                            self.show().await;
                            accepted.send(Some(operation)).ok();
                        }
                    }
                    Command::Changed(_) => changed = true,
                }
            }
        }
        if changed {
            self.show().await;
        }
        Ok(())
    }

    /// Tells everybody how things stand.
    async fn show(&mut self) {
        let closed = {
            let journal = self.hosts.journal.clone();
            tasks::blocking("which nodes are closed", move || journal.closed()).await
        };
        let before = self.board.borrow().clone();
        let shown = |op: &ebbtide_executor::operation::Operation| {
            let known = before.operations.get(&op.id).filter(|known| ***known == *op);
            (op.id, known.cloned().unwrap_or_else(|| Arc::new(op.clone())))
        };
        let board = Board {
            operations: self.executor.operations().map(shown).collect(),
            quarantined: self.executor.quarantined().clone(),
            closed: match closed {
                Some(Ok(closed)) => closed,
                _ => before.closed.clone(),
            },
            modes: self.modes.clone(),
            paused: self.executor.paused().map(str::to_owned),
            generation: self.generation,
            leads: self.executor.is_leading(),
        };
        self.board.send_replace(Arc::new(board));
    }

    async fn written(
        &self,
        what: &'static str,
        write: impl FnOnce(&Journal) -> Result<(), super::JournalError> + Send + 'static,
    ) -> anyhow::Result<()> {
        let journal = self.hosts.journal.clone();
        match tasks::blocking(what, move || write(&journal)).await {
            Some(done) => Ok(done?),
            None => anyhow::bail!("writing actions.db ended halfway"),
        }
    }
}

fn now() -> Time {
    Time::from_ms(clock::now().wall / 1_000_000)
}
