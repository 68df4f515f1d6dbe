//! One zone from reading to account: whether it answers, what it added, what is its floor.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::{Energy, Power};

use crate::attribution::floor::{Activity, Floor, FloorKind, FloorLearner};
use crate::attribution::{Basis, ZoneInterval};
use crate::clock::Moment;
use crate::counter::{Counter, Step};
use crate::journal::ZoneRecord;
use crate::ledger::ZoneAccount;
use crate::snapshot::{ZoneState, ZoneView};
use crate::source::discover::Role;
use crate::source::{Quality, ReadError, Reading, Zone, ZoneKind};
use crate::usage::cpu::Topology;

/// Follows one zone.
pub(super) struct Track {
    pub(super) zone: Arc<Zone>,
    pub(super) role: Role,
    pub(super) account: ZoneAccount,
    pub(super) learner: FloorLearner,
    counter: Counter,
    /// When it was last read well; before that, when it was first tried.
    answered: Option<Moment>,
    failing: bool,
    power: Option<Power>,
    step: Option<Step>,
    /// The step is of one sample, so that who ran meanwhile is known. What is told seldom comes in longer ones.
    sampled: bool,
    /// The operator says what is its floor.
    floor_is_given: bool,
    /// The floor that hardware events tell of.
    counted: Option<Floor>,
}

impl Track {
    /// A zone that was not read yet; `floor` is what the operator says of it.
    pub(super) fn new(zone: Zone, role: Role, mut learner: FloorLearner, floor: Option<Power>) -> Self {
        let counter = Counter::new(zone.counter);
        if let Some(power) = floor.or(zone.idle) {
            learner.fix(power);
        }
        Self {
            zone: Arc::new(zone),
            role,
            account: ZoneAccount::default(),
            learner,
            counter,
            answered: None,
            failing: false,
            power: None,
            step: None,
            sampled: false,
            floor_is_given: floor.is_some(),
            counted: None,
        }
    }

    /// Goes on from what an earlier run of the agent left.
    pub(super) fn resume(&mut self, kept: &ZoneRecord) {
        self.account = kept.account.clone();
        if let Some((raw, at)) = kept.raw {
            // of the three clocks only the one that counts sleep matters to a counter that was interrupted
            let at = Moment { mono: at, boot: at, wall: at };
            self.counter = Counter::resume(self.zone.counter, Reading { at, counter: Energy::from_uj(raw) });
        }
    }

    /// Takes what the source said at this sample, and what it says of the zone now.
    pub(super) fn take(&mut self, now: Moment, zone: &Zone, reading: Result<Reading, ReadError>) {
        self.step = None;
        self.describe(zone);
        match reading {
            Ok(reading) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(zone = %self.zone.name, "answers again");
                }
                self.answered = Some(now);
                self.step = self.counter.step(reading);
                if let Some(step) = &self.step {
                    self.account.total += step.energy;
                    self.account.note(step);
                    self.power = crate::counter::mean_power(step);
                }
            }
            Err(error) => {
                self.answered.get_or_insert(now);
                self.counter.interrupt();
                let began = std::mem::replace(&mut self.failing, true);
                if !began && self.power.is_none() && matches!(error, ReadError::Absent { .. }) {
                    tracing::info!(zone = %self.zone.name, %error, "is absent until then");
                } else if !began {
                    tracing::warn!(zone = %self.zone.name, %error, "stopped answering; its figures are stale until it comes back");
                }
            }
        }
    }

    /// Shared with snapshots: made anew only if the source says something else of it.
    fn describe(&mut self, zone: &Zone) {
        if (zone.quality, zone.error, zone.idle) == (self.zone.quality, self.zone.error, self.zone.idle)
            && zone.path == self.zone.path
        {
            return;
        }
        match zone.idle {
            _ if self.floor_is_given || zone.idle == self.zone.idle => {}
            Some(power) => self.learner.fix(power),
            None => self.learner.release(),
        }
        Arc::make_mut(&mut self.zone).goes_as(zone);
    }

    pub(super) fn state(&self, now: Moment, stale_after: Duration) -> ZoneState {
        match (self.failing, self.counter.last()) {
            (true, None) => ZoneState::Absent,
            (true, Some(_)) => {
                let silent = self.answered.map_or(Duration::MAX, |a| now.since_with_sleep(a));
                if silent < stale_after { ZoneState::Stale } else { ZoneState::Absent }
            }
            (false, _) if self.power.is_none() => ZoneState::Starting,
            (false, _) => ZoneState::Live,
        }
    }

    /// The interval to be shared out, and what the floor learns of it; `dt` is the time since the sample before.
    pub(super) fn interval(
        &mut self,
        dt: Duration,
        topology: &Topology,
        activity: impl Fn(Option<usize>) -> Activity,
    ) -> ZoneInterval {
        let socket = self.zone.socket.and_then(|s| topology.socket_of_package(s));
        let basis = match self.zone.kind {
            ZoneKind::Gpu => Basis::Nobody,
            ZoneKind::Dram => Basis::Memory(socket),
            _ => socket.map_or(Basis::Machine, Basis::Socket),
        };
        self.sampled = self.step.is_some_and(|step| step.dt <= dt.saturating_mul(2));
        let Some(step) = self.step else {
            return ZoneInterval { energy: Energy::ZERO, floor: Energy::ZERO, basis, gap: false, prices: None };
        };
        let gap = step.gap.is_some();
        let basis = if self.sampled { basis } else { Basis::Nobody };
        let mut floor = Energy::ZERO;
        if !gap && self.sampled {
            let activity = activity(socket);
            // a curve can't teach anything
            if self.zone.quality != Quality::Modelled {
                self.learner.observe(step.energy, step.dt, activity);
            }
            floor = self.floor_or_guess(activity).map_or(Energy::ZERO, |p| p.over(step.dt));
        }
        ZoneInterval { energy: step.energy, floor, basis, gap, prices: None }
    }

    /// How long the interval was over which the zone's energy is known; `None` if it isn't, or there was a gap, or it
    /// is not that of the sample.
    pub(super) fn interval_length(&self) -> Option<Duration> {
        self.step.filter(|s| s.gap.is_none() && self.sampled).map(|s| s.dt)
    }

    /// What the last reading added, and when that was read.
    pub(super) fn added(&self) -> Option<(Moment, Option<Step>)> {
        Some((self.counter.last()?.at, self.step))
    }

    /// Takes what hardware events tell of the floor, and of the floor in this interval.
    pub(super) fn count(&mut self, floor: Option<Floor>, interval: &mut ZoneInterval) {
        // how busy cores are says little of what memory draws
        let better =
            |f: &Floor| self.zone.kind == ZoneKind::Dram && f.kind == FloorKind::Learned && !self.learner.is_set();
        self.counted = floor.filter(|f| better(f) || self.learner.trusts(f));
        if let (Some(floor), Some(dt)) = (self.floor(), self.interval_length()) {
            interval.floor = floor.power.over(dt);
        }
    }

    fn floor_or_guess(&self, activity: Activity) -> Option<Power> {
        self.floor().map(|f| f.power).or_else(|| Some(self.learner.guess(self.power?, activity)))
    }

    pub(super) fn view(&self, now: Moment, stale_after: Duration) -> ZoneView {
        let state = self.state(now, stale_after);
        let known = matches!(state, ZoneState::Live | ZoneState::Stale);
        ZoneView {
            zone: Arc::clone(&self.zone),
            role: self.role,
            state,
            account: self.account.clone(),
            power: self.power.filter(|_| known),
            floor: self.floor(),
        }
    }

    pub(super) fn floor(&self) -> Option<Floor> {
        let least = |f: Floor| Floor { power: self.learner.least().map_or(f.power, |l| l.min(f.power)), ..f };
        self.counted.map(least).or_else(|| self.learner.floor())
    }

    pub(super) fn record(&self) -> ZoneRecord {
        ZoneRecord {
            id: self.zone.id.clone(),
            raw: self.counter.last().map(|r| (r.counter.uj(), r.at.boot)),
            account: self.account.clone(),
        }
    }
}
