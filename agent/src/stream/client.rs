//! Gives the session a network, a clock and the disk.
//!
//! One task on the runtime that also serves the metrics page. What touches the disk runs on the threads for that and
//! is waited for, so that a slow disk holds up the stream and nothing else.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::frame::Batch;
use ebbtide_proto::{BootId, v1};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::batch::{self, Batcher};
use super::connect::{Connection, Target, connect};
use super::figures::{Figures, Latest};
use super::session::{Command, Ended, Event, Notice, Options, Session};
use super::spool::files::{Files, Folder};
use super::spool::{Limits, Spool};
use crate::clock;
use crate::snapshot::{Published, Snapshot};
use crate::source::wall::{Told, WallFeed};
use crate::tasks::{Shutdown, blocking};

/// Messages of the session that the network has not taken yet.
const OUTBOX: usize = 64;
/// How long a connection gets to take what was said last.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What shuts the machine down may take so long to say that it does.
const SHUT_DOWN_WITHIN: Duration = Duration::from_secs(15);
/// Where it is looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// In nanoseconds.
const A_DAY: u64 = 86_400 * 1_000_000_000;

/// What to tell whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The fleet.
    pub target: Target,
    /// What it is told.
    pub batch: batch::Options,
    /// The spool's folder; `None` keeps frames in memory only.
    pub spool: Option<PathBuf>,
    /// How much is kept.
    pub limits: Limits,
    /// Version of the agent.
    pub version: String,
    /// Why the fleet can't bring a power curve.
    pub no_curve: String,
    /// What shuts the machine down, with its arguments, if the fleet may say so.
    pub shut_down: Option<Vec<String>>,
    /// Where to put what the fleet tells of the machine's input, if it is wanted.
    pub wall: Option<WallFeed>,
}

/// Streams snapshots to the fleet until the stop signal. Never gives up.
pub async fn run(plan: Plan, published: Published, latest: Arc<Latest>, shutdown: Shutdown) -> anyhow::Result<()> {
    let first = tokio::select! {
        first = published.after(0) => first,
        () = shutdown.requested() => return Ok(()),
    };
    let mut driver = Driver::start(plan, &first, latest).await?;
    driver.run(published, &shutdown).await;
    Ok(())
}

type Connecting = Pin<Box<dyn Future<Output = Result<Connection, Ended>> + Send>>;

/// A connection in one of its phases.
enum Line {
    None,
    Connecting(u64, Connecting),
    Open(u64, mpsc::Sender<v1::AgentMessage>, super::connect::Inbound),
}

struct Driver {
    plan: Plan,
    session: Session,
    batcher: Batcher,
    boot: Option<BootId>,
    /// Not here only while a thread works on it.
    spool: Option<Spool>,
    line: Line,
    latest: Arc<Latest>,
    alarm: Option<u64>,
    /// What the fleet reads the machine's input with.
    meter: String,
    /// When the certificate's end was looked at.
    looked: u64,
    done: bool,
}

impl Driver {
    async fn start(plan: Plan, first: &Snapshot, latest: Arc<Latest>) -> anyhow::Result<Self> {
        let session = Session::new(options(&plan, first), random()?);
        let mut driver = Self {
            session,
            batcher: Batcher::new(plan.batch.clone()),
            boot: first.node.boot,
            spool: None,
            plan,
            line: Line::None,
            latest,
            alarm: None,
            meter: String::new(),
            looked: clock::now().mono,
            done: false,
        };
        driver.open_spool().await?;
        Ok(driver)
    }

    async fn open_spool(&mut self) -> anyhow::Result<()> {
        let (folder, limits, boot, seed) = (self.plan.spool.clone(), self.plan.limits, self.boot, random()?);
        self.spool = blocking("spool", move || {
            let disk = folder.map(|path| Box::new(Folder::new(path)) as Box<dyn Files>);
            Spool::open(disk, limits, boot, seed)
        })
        .await;
        Ok(())
    }

    async fn run(&mut self, published: Published, shutdown: &Shutdown) {
        let mut events = VecDeque::new();
        self.tell_position(&mut events);
        let mut seq = 0;
        let mut stopping = false;
        loop {
            self.work(&mut events).await;
            if self.done {
                break;
            }
            let pause = self.alarm.map(|at| Duration::from_nanos(at.saturating_sub(clock::now().mono)));
            tokio::select! {
                snapshot = published.after(seq) => {
                    seq = snapshot.seq;
                    self.look_at_certificate().await;
                    if let Some(batch) = self.batcher.take(&snapshot) {
                        self.append(batch, &mut events).await;
                    }
                }
                event = self.line.next() => events.push_back(event),
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    self.alarm = None;
                    events.push_back(Event::Tick);
                }
                () = shutdown.requested(), if !stopping => {
                    stopping = true;
                    events.push_back(Event::Stop);
                }
            }
        }
        self.on_disk(Spool::close).await;
    }

    /// Warns once a day, also on a connection that lasts for months.
    async fn look_at_certificate(&mut self) {
        let now = clock::now();
        let Some(identity) = self.plan.target.identity.clone() else { return };
        if now.mono.saturating_sub(self.looked) < A_DAY {
            return;
        }
        self.looked = now.mono;
        if let Some(Ok(validity)) = blocking("certificates", move || identity.validity()).await {
            validity.warn(now);
        }
    }

    /// Steps through all events that there are, and those that come of them.
    async fn work(&mut self, events: &mut VecDeque<Event>) {
        while let Some(event) = events.pop_front() {
            for command in self.session.step(clock::now(), event) {
                self.command(command, events).await;
            }
        }
        let spool = self.spool.as_ref().map(Spool::stock).unwrap_or_default();
        self.latest.set(Figures { session: self.session.figures(), spool });
    }

    async fn command(&mut self, command: Command, events: &mut VecDeque<Event>) {
        match command {
            Command::Connect(number) => {
                self.line = Line::Connecting(number, Box::pin(connect(self.plan.target.clone())))
            }
            Command::Send(number, message) => {
                if let Line::Open(open, outbox, _) = &self.line
                    && *open == number
                    && outbox.try_send(*message).is_err()
                {
                    let ended = Ended { code: None, text: "the connection takes nothing any more".into() };
                    events.push_back(Event::Ended(number, ended));
                    self.line = Line::None;
                }
            }
            Command::Disconnect(_) => std::mem::replace(&mut self.line, Line::None).close().await,
            Command::Read { connection, from, frames, bytes } => {
                let batches = self.on_disk(move |spool| spool.read(from, frames, bytes)).await;
                self.tell_position(events);
                events.push_back(Event::Frames(connection, batches.unwrap_or_default()));
            }
            Command::Release { spool_id, seq } => {
                self.on_disk(move |spool| spool.release(spool_id, seq)).await;
                self.tell_position(events);
            }
            Command::Renew => {
                self.on_disk(Spool::renew).await;
                self.tell_position(events);
            }
            Command::WakeAt(at) => self.alarm = Some(at),
            Command::Flush => {
                if let Some(batch) = self.batcher.flush() {
                    self.append(batch, events).await;
                }
                self.on_disk(Spool::sync).await;
                if let Some(spool) = &self.spool {
                    events.push_back(Event::Flushed(spool.position()));
                }
            }
            Command::Intervals { node, workload } => {
                let own = &self.plan.batch;
                let node = node.unwrap_or(own.node_interval);
                let workload = workload.unwrap_or(own.workload_interval).max(node);
                let now = self.batcher.options();
                if (now.node_interval, now.workload_interval) != (node, workload) {
                    tracing::info!("the fleet is told of the node each {node:?}, of workloads each {workload:?}");
                    self.batcher.set_intervals(node, workload);
                }
            }
            Command::Curve(id, _) => events.push_back(Event::Applied(id, Err(self.plan.no_curve.clone()))),
            Command::ShutDown(id) => {
                let told = shut_down(self.plan.shut_down.clone().unwrap_or_default()).await;
                events.extend(told.map(|result| Event::Applied(id, result)));
            }
            Command::Wall(told) => self.wall(told),
            Command::Tell(notice) => tell(&self.plan.target, &notice),
            Command::Done => self.done = true,
        }
    }

    /// Passes a reading on, and says which meter it is when that changes.
    fn wall(&mut self, told: Told) {
        let Some(feed) = &self.plan.wall else { return };
        if self.meter != told.meter {
            tracing::info!("the fleet tells what the whole machine draws: {}", told.meter);
            self.meter.clone_from(&told.meter);
        }
        feed.tell(told);
    }

    async fn append(&mut self, batch: Batch, events: &mut VecDeque<Event>) {
        let now = clock::now();
        self.on_disk(move |spool| spool.append(batch, now)).await;
        self.tell_position(events);
    }

    fn tell_position(&self, events: &mut VecDeque<Event>) {
        events.extend(self.spool.as_ref().map(|spool| Event::Spool(spool.position())));
    }

    /// Lets a thread that may wait for the disk work on the spool. `None` if that panicked: what was kept in memory
    /// is lost then, and what is on disk is read again.
    async fn on_disk<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Spool) -> T + Send + 'static) -> Option<T> {
        let mut spool = self.spool.take()?;
        let done = blocking("spool", move || {
            let result = work(&mut spool);
            (spool, result)
        });
        if let Some((spool, result)) = done.await {
            self.spool = Some(spool);
            return Some(result);
        }
        if let Err(error) = self.open_spool().await {
            tracing::error!("can't open the spool again: {error:#}");
        }
        None
    }
}

/// Tells the machine to shut down. `None` if it isn't known what becomes of that.
async fn shut_down(argv: Vec<String>) -> Option<Result<String, String>> {
    let [program, args @ ..] = argv.as_slice() else {
        return Some(Err("it may not shut its machine down".to_owned()));
    };
    tracing::warn!("the fleet shuts this machine down: {}", argv.join(" "));
    let mut command = std::process::Command::new(program);
    command.args(args).env_clear().env("PATH", PATH).stdin(Stdio::null());
    let done = timeout(SHUT_DOWN_WITHIN, blocking("shut down", move || command.output())).await.ok()??;
    Some(match done {
        Ok(output) if output.status.success() => Ok("the machine shuts down".to_owned()),
        Ok(output) => {
            let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect();
            Err(format!("{program} ended with {}: {said}", output.status))
        }
        Err(error) => Err(format!("{program} can't be run: {error}")),
    })
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow::anyhow!("the kernel gives no random numbers"))?;
    Ok(u64::from_le_bytes(bytes))
}

impl Line {
    /// What happens on the connection next; never if there is none. Loses nothing if dropped before it returns.
    async fn next(&mut self) -> Event {
        match self {
            Self::None => std::future::pending().await,
            Self::Connecting(number, connecting) => {
                let number = *number;
                match connecting.await {
                    Ok(connection) => {
                        let (outbox, messages) = mpsc::channel(OUTBOX);
                        *self = Self::Open(number, outbox, connection.stream(messages));
                        Event::Connected(number)
                    }
                    Err(ended) => {
                        *self = Self::None;
                        Event::Ended(number, ended)
                    }
                }
            }
            Self::Open(number, _, inbound) => {
                let number = *number;
                match inbound.next().await {
                    Ok(message) => Event::Message(number, message),
                    Err(ended) => {
                        *self = Self::None;
                        Event::Ended(number, ended)
                    }
                }
            }
        }
    }

    /// Ends the connection once what was said is on its way.
    async fn close(self) {
        if let Self::Open(_, outbox, mut inbound) = self {
            drop(outbox);
            // until the fleet has heard the end, too
            drop(timeout(LAST_WORDS, async { while inbound.next().await.is_ok() {} }).await);
        }
    }
}

fn options(plan: &Plan, first: &Snapshot) -> Options {
    let node = &first.node;
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Options {
        node: node.name.clone(),
        boot: node.boot,
        machine: v1::Machine {
            cpu_model: node.cpu_model.chars().filter(|c| !c.is_control()).take(200).collect(),
            cpus: number(node.cpus),
            sockets: node.sockets,
            architecture: std::env::consts::ARCH.to_owned(),
            idle_policy: node.idle_policy.as_str().to_owned(),
            usage_method: first.usage.status.method.as_str().to_owned(),
        },
        version: plan.version.clone(),
        takes_curve: false,
        takes_wall: plan.wall.is_some(),
        shuts_down: plan.shut_down.is_some(),
    }
}

fn tell(target: &Target, notice: &Notice) {
    match notice {
        Notice::Connected(version) => tracing::info!("streaming to the fleet at {target} (version {version})"),
        Notice::Trouble(Ended { code: None | Some(Code::Unavailable | Code::Cancelled | Code::Unknown), text }) => {
            tracing::warn!("can't stream to the fleet at {target}: {text}; trying again, frames are kept meanwhile");
        }
        Notice::Trouble(Ended { code: Some(Code::Ok), .. }) => {
            tracing::info!("the fleet at {target} ended the stream; coming back");
        }
        Notice::Trouble(Ended { code: Some(_), text }) => {
            tracing::error!("the fleet at {target} refuses this node: {text}; trying again now and then");
        }
        Notice::Refused { frames, reason } => tracing::warn!("the fleet refused {frames} frames for good: {reason}"),
        Notice::Forgotten => {
            tracing::warn!("the fleet has frames that this state folder knows nothing of; numbering them anew");
        }
        Notice::PoweringOff => tracing::info!("everything is delivered: the fleet may power this machine off"),
    }
}
