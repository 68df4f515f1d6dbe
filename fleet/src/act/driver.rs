//! Carries events to the executor and its commands to those who do them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_executor::Executor;
use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::{Command, Generation, Mark};
use ebbtide_executor::event::{Cordon, Event, Sight};
use ebbtide_executor::operation::{Operation, OperationId, Who};
use ebbtide_executor::settings::{Mode, Settings};
use ebbtide_executor::words;
use ebbtide_planner::plan::action::{Do, Plan};
use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::{Shutdown, Tasks};
use tokio::sync::{mpsc, oneshot, watch};

use super::hosts;
use super::lead::Lead;
use super::window::{Hours, Windows};
use super::{ActConfig, Acting, Board, Journal, Order, Reach, WAITING, Wanted};
use crate::decide::Plans;

/// Time between two looks of the executor at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Time between two looks for nodes that work may come to again.
const REOPEN: Duration = Duration::from_secs(10);
/// The journal is shortened each so many ticks: once a day.
const COMPACT: u64 = 86_400;
/// Marks on nodes are told each so many ticks.
const MARKS: u64 = 10;
/// Answers that wait for the executor.
const ANSWERS: usize = 256;

/// Runs the executor, as long as this daemon leads.
pub struct Driver {
    executor: Option<Executor>,
    settings: Settings,
    generation: Generation,
    reach: Reach,
    lead: Lead,
    plans: Arc<Plans>,
    orders: mpsc::Receiver<Order>,
    board: watch::Sender<Arc<Board>>,
    answers: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    tickets: BTreeMap<u64, oneshot::Sender<Option<OperationId>>>,
    next_ticket: u64,
    modes: BTreeMap<String, Mode>,
    windows: Windows,
    hours: BTreeMap<String, Hours>,
    effects: Tasks,
    ticks: u64,
}

impl Driver {
    /// Opens what is needed; nothing is done before [`Driver::run`].
    ///
    /// # Errors
    /// If `actions.db` can't be used.
    pub fn open(reach: Reach, lead: Lead, plans: Arc<Plans>, config: &ActConfig) -> anyhow::Result<(Self, Acting)> {
        let journal = reach.hosts.journal.clone();
        let mut settings = config.limits.clone();
        let windows = Windows::new(&config.window).map_err(|why| anyhow::anyhow!("act.window {why}"))?;
        for feed in reach.hosts.rack.feeds() {
            if let Ok(node) = NodeId::new(&feed.node) {
                settings.ways.insert(node, hosts::ways(feed, &reach.hosts.rack));
            }
        }
        let mut all = config.pools.clone();
        all.extend(journal.modes()?);
        let closed = journal.closed()?;
        let (orders_in, orders) = mpsc::channel(WAITING);
        let (board, shown) = watch::channel(Arc::default());
        let acting = Acting { orders: orders_in, board: shown, journal };
        let driver = Self {
            executor: None,
            settings,
            generation: Generation(0),
            reach,
            lead,
            plans,
            orders,
            board,
            answers: mpsc::channel(ANSWERS),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            modes: all,
            windows,
            hours: BTreeMap::new(),
            effects: Tasks::new(),
            ticks: 0,
        };
        driver.tell(closed);
        Ok((driver, acting))
    }

    /// Acts whenever this daemon leads, until the stop. What is under way when that ends is taken up by whoever leads next.
    ///
    /// # Errors
    /// If the journal can't be read or written: then nothing more is done.
    pub async fn run(mut self, stop: Shutdown) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.requested() => break,
                () = self.lead.gained() => {
                    self.begin().await?;
                    if self.act(&stop).await? {
                        break;
                    }
                }
                // whoever gave it is told that nothing is done here
                Some(order) = self.orders.recv() => drop(order),
            }
        }
        self.effects.finish(Duration::from_secs(5)).await;
        Ok(())
    }

    /// Takes up what was left when somebody led last.
    async fn begin(&mut self) -> anyhow::Result<()> {
        let (generation, records) = self.journal().with("take the lead", Journal::lead).await?;
        self.generation = generation;
        self.executor = Some(Executor::resume(&records, now(), generation, self.settings.clone())?);
        for (pool, mode) in self.modes.clone() {
            self.step(Event::Mode { pool, mode }).await?;
        }
        self.watch_the_clock().await?;
        self.show().await;
        Ok(())
    }

    /// Acts until the stop, which is `true`, or until the lead is lost.
    async fn act(&mut self, stop: &Shutdown) -> anyhow::Result<bool> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reopening = tokio::time::interval(REOPEN);
        reopening.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut planned = self.plans.news();
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(true),
                () = self.lead.changed() => {}
                _ = ticks.tick() => {
                    self.ticks += 1;
                    self.watch_the_clock().await?;
                    self.step(Event::Tick).await?;
                    // not right after the start: what begins then looks at what was left
                    if self.ticks % COMPACT == 60 {
                        let generation = self.generation;
                        let shorten = move |journal: &Journal| journal.compact(generation, now());
                        let forgotten = self.journal().with("shorten the journal", shorten).await?;
                        tracing::debug!(forgotten, "shortened the journal");
                    }
                    if self.ticks.is_multiple_of(MARKS) {
                        self.tell_marks().await?;
                    }
                }
                Some(event) = self.answers.1.recv() => self.step(event).await?,
                Some(order) = self.orders.recv() => self.take(order).await?,
                Ok(()) = planned.changed() => {
                    let plan = planned.borrow_and_update().clone();
                    if let Some(plan) = plan.filter(|plan| self.may_act(plan)) {
                        self.step(Event::Planned(Box::new((*plan).clone()))).await?;
                    }
                }
                _ = reopening.tick() => {
                    let hosts = self.reach.hosts.clone();
                    let reopen = async move { Ok(hosts.undrain().await?) };
                    self.effects.spawn("let work onto nodes again", reopen);
                }
                _ = self.effects.next_ended(), if !self.effects.is_empty() => {}
            }
            if self.lead.generation().is_none() {
                self.stand_down().await;
                return Ok(false);
            }
            let leads = self.executor.as_ref().is_some_and(Executor::is_leading);
            anyhow::ensure!(leads, "this daemon doesn't act any more; the log above says why");
        }
    }

    /// Another may lead now: what is under way is cut off, and nothing of it is believed any more.
    async fn stand_down(&mut self) {
        tracing::warn!("this daemon doesn't act until it leads again");
        self.executor = None;
        self.effects = Tasks::new();
        self.answers = mpsc::channel(ANSWERS);
        self.tickets.clear();
        self.show().await;
    }

    /// Tells the executor whose marks are on nodes: what nobody cares for any more is opened.
    async fn tell_marks(&mut self) -> anyhow::Result<()> {
        for (node, cordon) in self.reach.marked() {
            let sight = Box::new(Sight { cordon: Some(cordon), ..Sight::default() });
            self.step(Event::Seen { node, look: None, sight }).await?;
        }
        Ok(())
    }

    /// Says when it becomes time to act in a pool, and when it no longer is.
    async fn watch_the_clock(&mut self) -> anyhow::Result<()> {
        if self.windows.is_empty() {
            return Ok(());
        }
        let now = now();
        let named = self.modes.keys().cloned();
        let pools: BTreeSet<String> = self.plans.state().nodes.values().map(|n| n.pool.clone()).chain(named).collect();
        for pool in pools {
            let known = self.hours.get(&pool).copied();
            // what is known holds until it changes; it is looked at anyway, for clocks are set
            if known.is_some_and(|h| h.open == self.windows.is_open(&pool, now) && h.until.is_none_or(|at| now < at)) {
                continue;
            }
            let Some(hours) = self.windows.hours(&pool, now) else { continue };
            self.hours.insert(pool.clone(), hours);
            if known.is_none_or(|known| known.open != hours.open) {
                let word = if hours.open { "plans are acted upon" } else { "plans wait for approval" };
                tracing::info!("pool {pool:?}: {word} from now on, by its windows");
                self.step(Event::Window { pool, open: hours.open }).await?;
            }
        }
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
                    what: format!("sets pool {pool:?} to {}", words::mode(mode)),
                    why,
                    node: None,
                    operation: OperationId(0),
                    result: Some("done".to_owned()),
                };
                let name = pool.clone();
                let keep = move |journal: &Journal| {
                    journal.set_mode(&name, mode)?;
                    journal.audit(&entry)
                };
                self.journal().with("mode of a pool", keep).await?;
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
            let Some(executor) = &mut self.executor else { break };
            for command in executor.step(now(), &fleet, &self.plans.policy(), event) {
                match command {
                    Command::Journal { generation, record } => {
                        let seq = record.seq;
                        let written = self.journal().with("journal", move |journal| journal.write(&record)).await;
                        events.push_back(match written {
                            Ok(()) => Event::Journalled { generation, seq },
                            Err(error) => {
                                tracing::error!("nothing more is done, for it can't be journalled: {error}");
                                Event::JournalFailed { generation }
                            }
                        });
                    }
                    Command::Do { generation, key, node, effect, .. } => {
                        let (reach, answers) = (self.reach.clone(), self.answers.0.clone());
                        self.effects.spawn(format!("{key}"), async move {
                            let answer = reach.bring_about(&node, &effect).await;
                            // the executor has stopped: what became of it is looked at by the next
                            drop(answers.send(Event::Answered { generation, key, answer }).await);
                            Ok(())
                        });
                    }
                    Command::Look { node, look, .. } => {
                        let (reach, answers) = (self.reach.clone(), self.answers.0.clone());
                        self.effects.spawn(format!("look at {node}"), async move {
                            let sight = Box::new(reach.look(node.clone()).await);
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
                        let (reach, told) = (self.reach.clone(), entry.clone());
                        self.effects.spawn("event of a node", async move {
                            reach.tell(&told).await;
                            Ok(())
                        });
                        self.journal().with("audit", move |journal| journal.audit(&entry)).await?;
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
        let closed = self.journal().with("which nodes are closed", Journal::closed).await;
        let before = || self.board.borrow().closed.clone();
        self.tell(closed.unwrap_or_else(|_| before()));
    }

    fn tell(&self, mut closed: BTreeMap<NodeId, Mark>) {
        let before = self.board.borrow().clone();
        let shown = |op: &Operation| {
            let known = before.operations.get(&op.id).filter(|known| ***known == *op);
            (op.id, known.cloned().unwrap_or_else(|| Arc::new(op.clone())))
        };
        closed.extend(self.reach.marked().into_iter().filter_map(|(node, cordon)| match cordon {
            Cordon::Ours(id) => Some((node, Mark::Operation(id))),
            Cordon::Locked => Some((node, Mark::Lock)),
            Cordon::Open | Cordon::Foreign => None,
        }));
        let executor = self.executor.as_ref();
        let mut ended = before.ended.clone();
        // what had ended when this daemon began to lead was counted by the one before
        if before.leads {
            let was_over = |op: &Operation| before.operations.get(&op.id).is_some_and(|known| !known.is_live());
            for op in executor.iter().flat_map(|e| e.operations()).filter(|op| !op.is_live() && !was_over(op)) {
                *ended.entry(words::state(op.state)).or_default() += 1;
            }
        }
        let board = Board {
            ended,
            operations: executor.map_or_else(|| before.operations.clone(), |e| e.operations().map(shown).collect()),
            quarantined: executor.map_or_else(|| before.quarantined.clone(), |e| e.quarantined().clone()),
            closed,
            modes: self.modes.clone(),
            hours: self.hours.clone(),
            paused: executor.and_then(|e| e.paused().map(str::to_owned)),
            generation: self.generation,
            leads: executor.is_some_and(Executor::is_leading),
        };
        self.plans.withhold(board.withheld());
        self.board.send_replace(Arc::new(board));
    }

    fn journal(&self) -> &Journal {
        &self.reach.hosts.journal
    }
}

fn now() -> Time {
    Time::from_ms(clock::now().wall / 1_000_000)
}
