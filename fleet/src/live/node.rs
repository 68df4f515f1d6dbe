//! One node's counters: the last values, and how fast they grew.

use std::collections::HashMap;
use std::sync::Arc;

use ebbtide_proto::frame::{Decoded, Decoder, Of};
use ebbtide_proto::series::{Metric, WorkloadInfo, ZoneInfo};
use ebbtide_proto::{BootId, WorkloadId, WorkloadKind};

/// Two values further apart than this are not joined: who knows what was between them.
pub const LONGEST_STEP_MS: u64 = 5 * 60 * 1000;
/// Of workloads that are not told of any more, this long after; of zones likewise.
const FORGET_AFTER_MS: u64 = 2 * 60 * 1000;
const DAY_MS: u64 = 86_400_000;

/// A counter's last value and how fast it grew.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Meter {
    /// The last value.
    pub last: u64,
    /// When it was told; 0: never.
    pub at_ms: u64,
    /// Growth per second over the last interval, in the counter's unit; negative: unknown.
    rate: f32,
}

impl Meter {
    const UNKNOWN: f32 = -1.0;

    /// Takes the next value. Says by how much the counter grew, if that can be known.
    fn take(&mut self, at_ms: u64, value: u64) -> Option<u64> {
        let step = at_ms.saturating_sub(self.at_ms);
        let joined = self.at_ms > 0 && step > 0 && step <= LONGEST_STEP_MS && value >= self.last;
        let grown = value.wrapping_sub(self.last);
        (self.last, self.at_ms) = (value, at_ms);
        if !joined {
            self.rate = Self::UNKNOWN;
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "a rate for people; seven digits are enough")]
        let rate = (grown as f64 * 1000.0 / step as f64) as f32;
        self.rate = rate;
        Some(grown)
    }

    /// By how much the counter grew from its last value to the end of a frame, as far as that can be known.
    fn growth(&self, ticks: &[u64], values: &[u64]) -> Option<u64> {
        let (first, last) = (*values.first()?, *values.last()?);
        let step = ticks.first()?.saturating_sub(self.at_ms);
        let joined = self.at_ms > 0 && step <= LONGEST_STEP_MS && first >= self.last;
        last.checked_sub(if joined { self.last } else { first })
    }

    /// Growth per second, rounded; absent if unknown.
    pub fn rate(&self) -> Option<u64> {
        #[allow(clippy::cast_possible_truncation, reason = "not negative, and the cast saturates")]
        (self.at_ms > 0 && self.rate >= 0.0).then(|| self.rate.round() as u64)
    }
}

/// What a series is of: a metric, and the places of zone and workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    metric: Metric,
    zone: Option<u16>,
    workload: Option<u32>,
}

#[derive(Clone, Debug)]
struct Series {
    /// Tells it from others that had its place before.
    born: u32,
    key: Key,
    meter: Meter,
}

/// How the numbers of a connection's series stand for those of a node.
#[derive(Clone, Debug, Default)]
pub struct Rejoined {
    /// Place and birth of the series by its number in the connection.
    by_number: Vec<Option<(u32, u32)>>,
}

/// A node's figures.
#[derive(Debug, Default)]
pub struct NodeLive {
    boot: Option<BootId>,
    /// The last frame whose values are in here, of this spool.
    taken: (u64, u64),
    zones: Vec<Option<Arc<ZoneInfo>>>,
    workloads: Vec<Option<Arc<WorkloadInfo>>>,
    series: Vec<Option<Series>>,
    births: u32,
    free_series: Vec<u32>,
    free_workloads: Vec<u32>,
    by_key: HashMap<Key, u32>,
    by_workload: HashMap<WorkloadId, u32>,
    /// The last moment told.
    pub last_ms: u64,
    /// The day that `today` is of, since 1970.
    day: u64,
    today_uj: u64,
    gap_today_ms: u64,
    swept_ms: u64,
    /// Microjoules that namespaces used here since the daemon started.
    namespaces: HashMap<WorkloadId, u64>,
}

/// Figures of a zone or workload, by metric.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Microwatts.
    pub power_uw: Option<u64>,
    /// Of that, idle.
    pub idle_uw: Option<u64>,
    /// CPUs in thousandths.
    pub cpu_milli: Option<u64>,
    /// Microjoules so far.
    pub energy_uj: u64,
    /// When it was told last.
    pub last_ms: u64,
}

impl NodeLive {
    /// Takes over a frame of the spool, unless it was taken before.
    pub fn take(&mut self, spool: u64, decoder: &Decoder, frame: &Decoded, numbers: &mut Rejoined) {
        self.learn(frame, numbers);
        if self.taken.0 == spool && frame.seq <= self.taken.1 {
            return;
        }
        self.taken = (spool, frame.seq);
        if frame.boot != self.boot {
            // all counters start again
            self.boot = frame.boot;
            for series in self.series.iter_mut().flatten() {
                series.meter = Meter::default();
            }
        }
        let before = self.last_ms;
        let mut values = frame.values.as_slice();
        for column in &frame.columns {
            let Some((own, rest)) = values.split_at_checked(column.len as usize) else { break };
            values = rest;
            let first = column.first as usize;
            let Some(place) = self.place(decoder, column.series, numbers) else { continue };
            let Some(series) = self.series.get_mut(place as usize).and_then(Option::as_mut) else { continue };
            let counted = series.key.workload.is_none()
                && series.key.metric == Metric::Energy
                && series
                    .key
                    .zone
                    .and_then(|z| self.zones.get(usize::from(z))?.as_ref())
                    .is_some_and(|zone| zone.counts);
            let ticks = frame.ticks.get(first..).unwrap_or_default();
            if series.key.metric == Metric::Energy
                && let Some(Some(info)) = series.key.workload.and_then(|w| self.workloads.get(w as usize))
                && info.id.kind() == WorkloadKind::Namespace
                && let Some(grown) = series.meter.growth(ticks, own)
            {
                *self.namespaces.entry(info.id.clone()).or_default() += grown;
            }
            if !counted && let [.., before, last] = own {
                // only the last interval is shown: what is between is the store's
                let at = |back: usize| own.len().checked_sub(back).and_then(|i| ticks.get(i)).copied().unwrap_or(0);
                series.meter = Meter { last: *before, at_ms: at(2), rate: Meter::UNKNOWN };
                series.meter.take(at(1), *last);
                continue;
            }
            for (value, &at_ms) in own.iter().zip(ticks) {
                let Some(grown) = series.meter.take(at_ms, *value).filter(|_| counted) else { continue };
                let day = at_ms / DAY_MS;
                if day > self.day {
                    (self.day, self.today_uj, self.gap_today_ms) = (day, 0, 0);
                }
                if day == self.day {
                    self.today_uj = self.today_uj.saturating_add(grown);
                }
            }
        }
        if let (Some(first), Some(last)) = (frame.ticks.first(), frame.ticks.last()) {
            let hole = first.saturating_sub(before);
            if before > 0 && hole > LONGEST_STEP_MS && first / DAY_MS == self.day {
                self.gap_today_ms += hole.min(first % DAY_MS);
            }
            self.last_ms = self.last_ms.max(*last);
        }
        self.sweep();
    }

    /// What the day's energy was when nobody here had counted it yet.
    pub fn begin_day(&mut self, now_ms: u64, energy_uj: u64) {
        (self.day, self.today_uj) = (now_ms / DAY_MS, energy_uj);
    }

    /// Energy since 00:00 UTC in microjoules, and for how long of that it is not known.
    pub fn today(&self, now_ms: u64) -> (u64, u64) {
        if now_ms / DAY_MS == self.day { (self.today_uj, self.gap_today_ms) } else { (0, 0) }
    }

    /// The boot that its counters are of.
    pub fn boot(&self) -> Option<BootId> {
        self.boot
    }

    /// Its zones with their figures. A zone that was not told of as late as the others is stale.
    pub fn zones(&self) -> Vec<(Arc<ZoneInfo>, Figures)> {
        let mut all: Vec<_> = self.zones.iter().map(|z| z.clone().map(|z| (z, Figures::default()))).collect();
        for series in self.series.iter().flatten().filter(|s| s.key.workload.is_none()) {
            if let Some(Some((_, figures))) = series.key.zone.and_then(|z| all.get_mut(usize::from(z))) {
                series.add_to(figures);
            }
        }
        all.into_iter().flatten().filter(|(_, figures)| figures.last_ms > 0).collect()
    }

    /// Busy CPUs of the whole node, in thousandths of one.
    pub fn cpu_milli(&self) -> Option<u64> {
        let of_node = |s: &&Series| s.key.workload.is_none() && s.key.zone.is_none() && s.key.metric == Metric::CpuTime;
        Some(self.series.iter().flatten().find(of_node)?.meter.rate()? / 1_000_000)
    }

    /// Its workloads with their figures over all zones that count.
    pub fn workloads(&self) -> Vec<(Arc<WorkloadInfo>, Figures)> {
        let mut all: Vec<_> = self.workloads.iter().map(|w| w.clone().map(|w| (w, Figures::default()))).collect();
        for series in self.series.iter().flatten() {
            if let Some(Some((_, figures))) = series.key.workload.and_then(|w| all.get_mut(w as usize)) {
                series.add_to(figures);
            }
        }
        all.into_iter().flatten().filter(|(_, figures)| figures.last_ms > 0).collect()
    }

    /// Microjoules that namespaces used here since the daemon started.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, u64)> {
        self.namespaces.iter().map(|(id, uj)| (id.name(), *uj))
    }

    /// How many workloads there are.
    pub fn workload_count(&self) -> usize {
        self.by_workload.len()
    }

    /// How many series there are.
    pub fn series_count(&self) -> usize {
        self.by_key.len()
    }

    /// Follows what the frame defines and describes.
    fn learn(&mut self, frame: &Decoded, numbers: &mut Rejoined) {
        for zone in &frame.zones {
            let place = self.zone_place(zone);
            if let Some(slot) = self.zones.get_mut(usize::from(place)) {
                *slot = Some(Arc::clone(zone));
            }
        }
        for workload in &frame.described {
            if let Some(place) = self.by_workload.get(&workload.id)
                && let Some(slot) = self.workloads.get_mut(*place as usize)
            {
                *slot = Some(Arc::clone(workload));
            }
        }
        for number in frame.forgotten.iter().chain(&frame.defined) {
            if let Some(slot) = numbers.by_number.get_mut(*number as usize) {
                *slot = None;
            }
        }
    }

    /// Where the series of this number is kept; makes a place for it if it has none any more.
    fn place(&mut self, decoder: &Decoder, number: u32, numbers: &mut Rejoined) -> Option<u32> {
        if let Some((place, born)) = numbers.by_number.get(number as usize).copied().flatten()
            && self.series.get(place as usize)?.as_ref().is_some_and(|series| series.born == born)
        {
            return Some(place);
        }
        let key = self.key(decoder.series(number)?)?;
        let place = match self.by_key.get(&key) {
            Some(place) => *place,
            None => self.new_series(key)?,
        };
        let born = self.series.get(place as usize)?.as_ref()?.born;
        if numbers.by_number.len() <= number as usize {
            numbers.by_number.resize(number as usize + 1, None);
        }
        *numbers.by_number.get_mut(number as usize)? = Some((place, born));
        Some(place)
    }

    /// What a series is of, here; gives a place to what has none.
    fn key(&mut self, of: Of<'_>) -> Option<Key> {
        let zone = of.zone.map(|info| self.zone_place(info));
        let workload = match of.workload {
            Some(info) => Some(match self.by_workload.get(&info.id) {
                Some(place) => *place,
                None => {
                    let place = put(&mut self.workloads, &mut self.free_workloads, Arc::clone(info))?;
                    self.by_workload.insert(info.id.clone(), place);
                    place
                }
            }),
            None => None,
        };
        Some(Key { metric: of.metric, zone, workload })
    }

    fn new_series(&mut self, key: Key) -> Option<u32> {
        self.births = self.births.wrapping_add(1);
        let series = Series { born: self.births, key, meter: Meter::default() };
        let place = put(&mut self.series, &mut self.free_series, series)?;
        self.by_key.insert(key, place);
        Some(place)
    }

    fn zone_place(&mut self, info: &Arc<ZoneInfo>) -> u16 {
        let place = match self.zones.iter().position(|z| z.as_ref().is_some_and(|z| z.id == info.id)) {
            Some(place) => place,
            None => {
                self.zones.push(Some(Arc::clone(info)));
                self.zones.len() - 1
            }
        };
        u16::try_from(place).unwrap_or(u16::MAX)
    }

    /// Forgets workloads that were not told of for a while.
    fn sweep(&mut self) {
        if self.last_ms.saturating_sub(self.swept_ms) < FORGET_AFTER_MS {
            return;
        }
        self.swept_ms = self.last_ms;
        let oldest = self.last_ms.saturating_sub(FORGET_AFTER_MS);
        let (series, free) = (&mut self.series, &mut self.free_series);
        self.by_key.retain(|_, place| {
            let Some(slot) = series.get_mut(*place as usize) else { return false };
            let keep = slot.as_ref().is_some_and(|s| s.key.workload.is_none() || s.meter.at_ms >= oldest);
            if !keep {
                *slot = None;
                free.push(*place);
            }
            keep
        });
        let mut used = vec![false; self.workloads.len()];
        for series in self.series.iter().flatten() {
            if let Some(flag) = series.key.workload.and_then(|w| used.get_mut(w as usize)) {
                *flag = true;
            }
        }
        let (workloads, free) = (&mut self.workloads, &mut self.free_workloads);
        self.by_workload.retain(|_, place| {
            let keep = used.get(*place as usize).copied().unwrap_or(false);
            if let (false, Some(slot)) = (keep, workloads.get_mut(*place as usize)) {
                *slot = None;
                free.push(*place);
            }
            keep
        });
    }
}

/// Puts `value` in a free place, or a new one.
fn put<T>(table: &mut Vec<Option<T>>, free: &mut Vec<u32>, value: T) -> Option<u32> {
    if let Some(place) = free.pop() {
        *table.get_mut(place as usize)? = Some(value);
        return Some(place);
    }
    let place = u32::try_from(table.len()).ok()?;
    if table.len() == table.capacity() {
        // an eighth more each time: tables are many and last long
        table.reserve_exact(4 + table.len() / 8);
    }
    table.push(Some(value));
    Some(place)
}

impl Series {
    fn add_to(&self, figures: &mut Figures) {
        figures.last_ms = figures.last_ms.max(self.meter.at_ms);
        let rate = self.meter.rate();
        let add = |to: &mut Option<u64>| {
            if let Some(rate) = rate {
                *to = Some(to.unwrap_or(0).saturating_add(rate));
            }
        };
        match self.key.metric {
            Metric::Energy => {
                figures.energy_uj = figures.energy_uj.saturating_add(self.meter.last);
                add(&mut figures.power_uw);
            }
            Metric::IdleEnergy => add(&mut figures.idle_uw),
            Metric::CpuTime => figures.cpu_milli = rate.map(|ns| ns / 1_000_000),
            Metric::Residual | Metric::Gaps | Metric::Unallocated => {}
        }
    }
}

#[cfg(test)]
mod tests;
