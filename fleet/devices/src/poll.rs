//! Reads a device again and again, and keeps what it said last.
//!
//! [`Polling`] decides when to read, what is still fresh and what energy adds up to (pure). [`Device`] is a device with
//! one task around its driver: at most one request is in flight, whoever asks; who wants figures watches the latest
//! ones and never waits for the device. A device that hangs holds up nobody but itself.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::Power;
use ebbtide_runtime::clock::{self, Moment};
use ebbtide_runtime::tasks::Shutdown;
use tokio::sync::{Mutex, Notify, watch};

use crate::config::DeviceConfig;
use crate::driver::{Answer, Driver, Switch};
use crate::energy::{Meter, Metered};
use crate::error::DeviceError;
use crate::report::{Feed, Figure, Identity, OutletId, PowerState, Report};
use crate::switching::{self, Agent, Limits, Outcome};

/// A device that doesn't answer is asked less and less often, but at least this often.
const SLOWEST: Duration = Duration::from_mins(5);
/// A PDU has fewer outlets than this, chains included; a device that lies can't make memory grow.
const MOST_OUTLETS: usize = 1024;

/// What a device said last.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    /// Its last report, with what is too old taken out; `None` if all is.
    pub report: Option<Arc<Report>>,
    /// When that was read.
    pub read_at: Option<Moment>,
    /// What it is; asked once.
    pub identity: Option<Arc<Identity>>,
    /// Why the last attempt failed; `None` if it didn't.
    pub error: Option<Arc<str>>,
    /// Attempts that failed, ever.
    pub errors: u64,
    /// Attempts, ever.
    pub polls: u64,
    /// Energy of the whole device since it was first read.
    pub total: Option<Metered>,
    /// Energy by outlet since it was first read.
    pub outlets: Arc<BTreeMap<OutletId, Metered>>,
}

/// When to read, what is fresh, and what it adds up to. Pure.
#[derive(Debug)]
pub struct Polling {
    name: String,
    interval: Duration,
    stale_after: Duration,
    limit: Power,
    config: DeviceConfig,
    next: Moment,
    failed_in_row: u32,
    latest: Latest,
    total: Meter,
    outlets: BTreeMap<OutletId, Meter>,
}

/// A device that is read all the time and can be switched meanwhile. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    name: Arc<str>,
    driver: Shared,
    latest: watch::Receiver<Arc<Latest>>,
    config: Arc<DeviceConfig>,
    /// Something was switched: what was read before is out of date.
    again: Arc<Notify>,
}

/// The task that reads it: run it under [`ebbtide_runtime::tasks::Tasks`].
pub struct Poller {
    driver: Shared,
    polling: Polling,
    latest: watch::Sender<Arc<Latest>>,
    again: Arc<Notify>,
}

/// A driver that several ask, one at a time.
#[derive(Clone)]
struct Shared(Arc<Mutex<Box<dyn Driver>>>);

impl Polling {
    /// A device that was never read. Devices with different names begin at different times within the interval.
    pub fn new(config: &DeviceConfig, now: Moment) -> Self {
        let interval = config.interval.get();
        let stale_after = config.stale_after();
        Self {
            name: config.name.clone(),
            interval,
            stale_after,
            limit: config.limit(),
            config: config.clone(),
            next: now.plus(interval.mul_f64(scatter(&config.name, 0).min(0.999)).min(Duration::from_secs(10))),
            failed_in_row: 0,
            latest: Latest::default(),
            total: Meter::new(config.limit(), interval, stale_after),
            outlets: BTreeMap::new(),
        }
    }

    /// How long until the next read.
    pub fn due_in(&self, now: Moment) -> Duration {
        self.next.since(now)
    }

    /// Takes an answer.
    pub fn answered(&mut self, now: Moment, answer: Result<Report, DeviceError>) {
        self.latest.polls += 1;
        let wait = match answer {
            Ok(report) => {
                if self.failed_in_row > 0 {
                    tracing::info!(device = self.name, after = self.failed_in_row, "answers again");
                }
                if self.latest.read_at.is_none() {
                    self.warn_of_strangers(&report);
                }
                self.failed_in_row = 0;
                self.latest.error = None;
                self.count(&report);
                self.latest.report = Some(Arc::new(report));
                self.latest.read_at = Some(now);
                self.interval
            }
            Err(error) => {
                // Once: what goes on is seen in the count of errors.
                if self.failed_in_row == 0 {
                    tracing::warn!(device = self.name, "can't be read: {error}");
                }
                self.failed_in_row = self.failed_in_row.saturating_add(1);
                self.latest.errors += 1;
                self.latest.error = Some(error.to_string().into());
                self.silence();
                self.interval.saturating_mul(1 << self.failed_in_row.min(10)).min(SLOWEST.max(self.interval))
            }
        };
        // Up to a tenth more or less, so that devices that failed together aren't asked together for ever.
        let share = 0.9 + 0.2 * scatter(&self.name, self.latest.polls);
        self.next = now.plus(wait.mul_f64(share));
    }

    /// Takes what the device says it is.
    pub fn identified(&mut self, identity: Identity) {
        self.latest.identity = Some(Arc::new(identity));
    }

    /// Whether it was never asked what it is.
    pub fn is_stranger(&self) -> bool {
        self.latest.identity.is_none()
    }

    /// What is known now. Figures that are too old are not in it.
    pub fn latest(&self, now: Moment) -> Latest {
        let mut latest = self.latest.clone();
        let young = latest.read_at.is_some_and(|at| now.since_with_sleep(at) < self.stale_after);
        latest.report = latest.report.filter(|_| young).map(|report| fresh(report, now, self.stale_after));
        latest
    }

    /// How long until what is known gets too old; `None` if nothing is.
    pub fn stale_in(&self, now: Moment) -> Option<Duration> {
        self.latest.report.as_ref()?;
        let age = now.since_with_sleep(self.latest.read_at?);
        self.stale_after.checked_sub(age).filter(|left| !left.is_zero())
    }

    /// Outlets that the configuration has and the device hasn't: names mistyped, or another device at this address.
    fn warn_of_strangers(&self, report: &Report) {
        for id in self.config.outlets.keys().filter(|id| report.outlets.iter().all(|o| o.id != **id)) {
            tracing::warn!(device = self.name, outlet = %id, "is in the configuration, but the device has no such outlet");
        }
    }

    fn count(&mut self, report: &Report) {
        self.total.push(&report.total);
        for outlet in &report.outlets {
            if !self.outlets.contains_key(&outlet.id) && self.outlets.len() >= MOST_OUTLETS {
                continue;
            }
            let limit = self.config.outlet_limit(&outlet.id).min(self.limit);
            let new = || Meter::new(limit, self.interval, self.stale_after);
            self.outlets.entry(outlet.id.clone()).or_insert_with(new).push(&outlet.feed);
        }
        self.sum_up();
    }

    fn silence(&mut self) {
        self.total.silence();
        self.outlets.values_mut().for_each(Meter::silence);
    }

    fn sum_up(&mut self) {
        self.latest.total = self.total.metered();
        let outlets = self.outlets.iter().filter_map(|(id, meter)| Some((id.clone(), meter.metered()?)));
        self.latest.outlets = Arc::new(outlets.collect());
    }
}

impl Device {
    /// A device and the task that reads it.
    pub fn new(config: DeviceConfig, driver: Box<dyn Driver>) -> (Self, Poller) {
        let driver = Shared(Arc::new(Mutex::new(driver)));
        let polling = Polling::new(&config, clock::now());
        let (sender, latest) = watch::channel(Arc::new(Latest::default()));
        let again = Arc::new(Notify::new());
        let poller = Poller { driver: driver.clone(), polling, latest: sender, again: again.clone() };
        (Self { name: config.name.as_str().into(), driver, latest, config: Arc::new(config), again }, poller)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the configuration says about it.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// What it said last.
    pub fn latest(&self) -> Arc<Latest> {
        self.latest.borrow().clone()
    }

    /// To be told when it says something new.
    pub fn watch(&self) -> watch::Receiver<Arc<Latest>> {
        self.latest.clone()
    }

    /// Switches an outlet and waits until it is known what became of it. Reading goes on meanwhile, and the device is
    /// read again at once afterwards. The outlet counts
    /// as off up to the watts that the configuration says, whatever `limits` has.
    pub async fn switch(
        &self,
        outlet: &OutletId,
        to: Switch,
        limits: Limits,
        agent: impl FnMut() -> Option<Agent> + Send,
    ) -> Outcome {
        let limits = Limits { off_power: self.config.off_power(outlet), ..limits };
        tracing::info!(device = %self.name, %outlet, to = to.as_str(), "switching");
        let outcome = switching::switch(&mut self.driver.clone(), outlet, to, limits, agent).await;
        tracing::info!(device = %self.name, %outlet, to = to.as_str(), signals = %outcome.signals, "{:?}", outcome.verdict);
        if outcome.commands > 0 {
            self.again.notify_one();
        }
        outcome
    }
}

impl Poller {
    /// Reads until the stop, then ends the sessions on the device.
    ///
    /// # Errors
    /// None: what the device does is in what it says last.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut stop = pin!(shutdown.requested());
        'polling: loop {
            let now = clock::now();
            let (due, stale) = (self.polling.due_in(now), self.polling.stale_in(now));
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(due) => {}
                () = self.again.notified() => {}
                () = sleep_if(stale) => {
                    self.publish();
                    continue;
                }
            }
            let mut driver = self.driver.clone();
            let stranger = self.polling.is_stranger();
            let mut reading = pin!(read(&mut driver, stranger));
            let (report, identity) = loop {
                let stale = self.polling.stale_in(clock::now());
                tokio::select! {
                    () = &mut stop => break 'polling,
                    answer = &mut reading => break answer,
                    () = sleep_if(stale) => {
                        let latest = Arc::new(self.polling.latest(clock::now()));
                        self.latest.send_replace(latest);
                    }
                }
            };
            if let Some(identity) = identity {
                self.polling.identified(identity);
            }
            self.polling.answered(clock::now(), report);
            self.publish();
        }
        // The device ends its sessions by itself if it can't be told now.
        drop(tokio::time::timeout(Duration::from_secs(2), self.driver.close()).await);
        Ok(())
    }

    fn publish(&self) {
        self.latest.send_replace(Arc::new(self.polling.latest(clock::now())));
    }
}

impl Driver for Shared {
    fn identify(&mut self) -> Answer<'_, Identity> {
        Box::pin(async { self.0.lock().await.identify().await })
    }

    fn read(&mut self) -> Answer<'_, Report> {
        Box::pin(async { self.0.lock().await.read().await })
    }

    fn state<'a>(&'a mut self, outlet: &'a OutletId) -> Answer<'a, PowerState> {
        Box::pin(async { self.0.lock().await.state(outlet).await })
    }

    fn switch<'a>(&'a mut self, outlet: &'a OutletId, to: Switch) -> Answer<'a, ()> {
        Box::pin(async move { self.0.lock().await.switch(outlet, to).await })
    }

    fn close(&mut self) -> Answer<'_, ()> {
        Box::pin(async { self.0.lock().await.close().await })
    }
}

/// Reads the device, and asks what it is where that isn't known.
async fn read(driver: &mut Shared, stranger: bool) -> (Result<Report, DeviceError>, Option<Identity>) {
    let report = driver.read().await;
    // A device that can be read may fail to say what it is; that is asked again next time.
    let identity = if stranger && report.is_ok() { driver.identify().await.ok() } else { None };
    (report, identity)
}

async fn sleep_if(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// The report without figures that the device itself measured too long ago.
fn fresh(report: Arc<Report>, now: Moment, stale_after: Duration) -> Arc<Report> {
    let feeds = |r: &Report| {
        let outlets = r.outlets.iter().map(|o| o.feed.clone());
        std::iter::once(r.total.clone())
            .chain(r.phases.iter().map(|(_, f)| f.clone()))
            .chain(outlets)
            .collect::<Vec<_>>()
    };
    if feeds(&report).into_iter().all(|feed| young(feed.clone(), now, stale_after) == feed) {
        return report;
    }
    let mut report = Arc::unwrap_or_clone(report);
    report.total = young(report.total, now, stale_after);
    for (_, feed) in &mut report.phases {
        *feed = young(std::mem::take(feed), now, stale_after);
    }
    for outlet in &mut report.outlets {
        outlet.feed = young(std::mem::take(&mut outlet.feed), now, stale_after);
    }
    Arc::new(report)
}

fn young(feed: Feed, now: Moment, stale_after: Duration) -> Feed {
    fn of<T>(figure: Option<Figure<T>>, now: Moment, stale_after: Duration) -> Option<Figure<T>> {
        figure.filter(|f| now.since_with_sleep(f.at) < stale_after)
    }
    Feed {
        power: of(feed.power, now, stale_after),
        energy: of(feed.energy, now, stale_after),
        energy_step: feed.energy_step,
        current_ma: of(feed.current_ma, now, stale_after),
        voltage_mv: of(feed.voltage_mv, now, stale_after),
    }
}

/// A number from 0 to 1 that depends on nothing but these two (FNV-1a, then an avalanche).
fn scatter(name: &str, turn: u64) -> f64 {
    let bytes = name.bytes().chain(turn.to_le_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let top = u32::try_from(hash >> 32).unwrap_or(u32::MAX);
    f64::from(top) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
