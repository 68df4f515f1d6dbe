//! A question about energy, made sense of, and the answer as it is put together. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ebbtide_proto::series::{Quality, WorkloadInfo};
use ebbtide_proto::v1::{self, GroupBy};
use ebbtide_proto::{NodeId, v1::QueryEnergyRequest};

use super::Retention;
use super::groups::{Described, group, quality};
use super::names::{Names, first_of};
use super::rollup::Rollup;
use crate::query::QueryError;

/// The most buckets of an answer.
const MAX_BUCKETS: u64 = 11_000;
/// The most groups that are told, and the most that are added up.
const MAX_LIMIT: u32 = 10_000;
const MAX_GROUPS: usize = 200_000;
const MAX_CELLS: usize = 16 << 20;
/// The last moment that can be asked for.
const LAST_MOMENT: u64 = 253_402_300_799_999;

/// What is stored, by length of a bucket in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    Second = 1_000,
    Ten = 10_000,
    Minute = 60_000,
    Hour = 3_600_000,
}

impl Unit {
    const ALL: [Self; 4] = [Self::Second, Self::Ten, Self::Minute, Self::Hour];

    pub(super) const fn ms(self) -> u64 {
        self as u64
    }

    fn kept(self, retention: &Retention) -> u64 {
        match self {
            Self::Second => retention.raw_ms,
            Self::Ten => retention.tens_ms,
            Self::Minute => retention.minutes_ms,
            Self::Hour => u64::MAX,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) by: GroupBy,
    pub(super) node: Option<NodeId>,
    pub(super) search: String,
    pub(super) limit: usize,
    pub(super) from: u64,
    pub(super) until: u64,
    pub(super) step: u64,
    pub(super) buckets: usize,
    pub(super) unit: Unit,
}

impl Question {
    /// The finest resolution that the step needs and that is kept for all of the time decides where buckets begin.
    pub(super) fn new(request: &QueryEnergyRequest, now_ms: u64, retention: &Retention) -> Result<Self, QueryError> {
        let invalid = |text: &str| QueryError::Invalid(text.to_owned());
        let by = GroupBy::try_from(request.by).map_err(|_| invalid("there is no such way to group"))?;
        let by = if by == GroupBy::Unspecified { GroupBy::Fleet } else { by };
        let node = match request.node.as_str() {
            "" => None,
            name => Some(NodeId::new(name).map_err(|error| QueryError::Invalid(error.to_string()))?),
        };
        let until = if request.until_ms == 0 { now_ms } else { request.until_ms }.min(LAST_MOMENT);
        if request.from_ms >= until {
            return Err(invalid("the time asked for ends before it begins"));
        }
        let wanted = match request.step_ms {
            // one bucket: no finer than matters
            0 => ((until - request.from_ms) / 10).clamp(Unit::Second.ms(), Unit::Minute.ms()),
            step => step.max(Unit::Second.ms()),
        };
        let age = now_ms.saturating_sub(request.from_ms);
        let fits = |unit: &&Unit| unit.ms() <= wanted && age <= unit.kept(retention);
        let coarser = || Unit::ALL.iter().find(|unit| age <= unit.kept(retention));
        let unit = Unit::ALL.iter().rev().find(fits).or_else(coarser).copied().unwrap_or(Unit::Hour);
        let from = request.from_ms / unit.ms() * unit.ms();
        let until = until.div_ceil(unit.ms()) * unit.ms();
        let step = match request.step_ms {
            0 => until - from,
            step => step.min(LAST_MOMENT).div_ceil(unit.ms()) * unit.ms(),
        };
        let buckets = (until - from).div_ceil(step);
        if buckets > MAX_BUCKETS {
            return Err(QueryError::Invalid(format!(
                "that would be {buckets} buckets, more than the {MAX_BUCKETS} that are allowed; ask for a longer step"
            )));
        }
        let buckets = usize::try_from(buckets).map_err(|_| invalid("that would be too many buckets"))?;
        let limit = if request.limit == 0 { 100 } else { request.limit.min(MAX_LIMIT) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Self { by, node, search: request.search.clone(), limit, from, until, step, buckets, unit })
    }

    /// The bucket of a moment.
    pub(super) fn bucket(&self, at: u64) -> Option<usize> {
        if at >= self.until {
            return None;
        }
        usize::try_from(at.checked_sub(self.from)? / self.step).ok()
    }

    /// The bucket that all of this time is in.
    pub(super) fn bucket_of_all(&self, start: u64, len: u64) -> Option<usize> {
        let first = self.bucket(start)?;
        (self.bucket(start + len - 1)? == first).then_some(first)
    }
}

/// A group's figures.
#[derive(Debug)]
struct Group {
    energy: Vec<u64>,
    covered: Vec<u64>,
    quality: Quality,
    info: Option<Arc<WorkloadInfo>>,
}

/// The answer as it is put together.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    question: &'a Question,
    groups: Vec<Group>,
    by_name: HashMap<String, usize>,
    /// Of the node that is being read: by group and bucket, how much is known.
    node_covered: BTreeMap<usize, Vec<u64>>,
}

/// Where a node's series go, by number: the group, and the first of the series that this one goes on from. What is known
/// of those that follow each other adds up.
pub(super) type Slots = HashMap<u32, (usize, u32)>;

impl<'a> Answer<'a> {
    pub(super) fn new(question: &'a Question) -> Self {
        Self { question, groups: Vec::new(), by_name: HashMap::new(), node_covered: BTreeMap::new() }
    }

    /// The group of this name, if it is asked for.
    pub(super) fn group(&mut self, name: String, worst: Quality) -> Result<Option<usize>, QueryError> {
        if !name.contains(&self.question.search) {
            return Ok(None);
        }
        let next = self.groups.len();
        let index = *self.by_name.entry(name).or_insert(next);
        if index == next {
            let buckets = self.question.buckets;
            if next >= MAX_GROUPS || next * buckets > MAX_CELLS {
                return Err(QueryError::TooMuch(format!(
                    "more than {next} groups in {buckets} buckets are too much at once; \
                     ask for a longer step, for one node or with a search"
                )));
            }
            let zeros = vec![0; buckets];
            self.groups.push(Group { energy: zeros.clone(), covered: zeros, quality: worst, info: None });
        }
        if let Some(group) = self.groups.get_mut(index) {
            group.quality = group.quality.max(worst);
        }
        Ok(Some(index))
    }

    /// Where the series of a node go.
    pub(super) fn slots(&mut self, node: &NodeId, names: &Names) -> Result<Slots, QueryError> {
        let described = Described::new(names);
        let mut slots = Slots::new();
        for (series, named) in names {
            let definition = &named.definition;
            let Some(name) = group(definition, self.question.by, node, &described) else { continue };
            let Some(index) = self.group(name, quality(definition))? else { continue };
            slots.insert(*series, (index, first_of(*series, names)));
            if matches!(self.question.by, GroupBy::Pod | GroupBy::Container | GroupBy::Vm)
                && let (Some(workload), Some(group)) = (&definition.workload, self.groups.get_mut(index))
            {
                group.info = Some(Arc::clone(described.of(workload)));
            }
        }
        Ok(slots)
    }

    /// Adds a node's buckets.
    pub(super) fn add(&mut self, slots: &Slots, rollup: &Rollup) {
        let place = |n: usize| self.question.bucket(rollup.start_ms + n as u64 * rollup.unit_ms);
        let places: Vec<Option<usize>> = (0..rollup.buckets).map(place).collect();
        let mut covered: BTreeMap<(usize, u32), Vec<u64>> = BTreeMap::new();
        for column in &rollup.columns {
            let Some(place @ (index, _)) = slots.get(&column.series) else { continue };
            let Some(group) = self.groups.get_mut(*index) else { continue };
            for (by, place) in column.by.iter().zip(&places) {
                if let Some(sum) = place.and_then(|place| group.energy.get_mut(place)) {
                    *sum = sum.saturating_add(*by);
                }
            }
            let known = covered.entry(*place).or_insert_with(|| vec![0; rollup.buckets]);
            known.iter_mut().zip(&column.covered_ms).for_each(|(known, ms)| *known += ms);
        }
        // a group is known where any of its series is
        let mut longest: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for ((index, _), known) in covered {
            let most = longest.entry(index).or_insert_with(|| vec![0; rollup.buckets]);
            most.iter_mut().zip(known).for_each(|(most, ms)| *most = (*most).max(ms));
        }
        for (index, known) in longest {
            for (ms, place) in known.into_iter().zip(&places) {
                if let Some(place) = place {
                    self.cover(index, *place, ms);
                }
            }
        }
    }

    /// Adds what a node's series sum up to within one bucket.
    pub(super) fn add_totals(&mut self, slots: &Slots, bucket: usize, totals: impl Iterator<Item = (u32, u64, u64)>) {
        let mut covered: BTreeMap<(usize, u32), u64> = BTreeMap::new();
        for (series, energy, ms) in totals {
            let Some(place @ (index, _)) = slots.get(&series) else { continue };
            if let Some(sum) = self.groups.get_mut(*index).and_then(|group| group.energy.get_mut(bucket)) {
                *sum = sum.saturating_add(energy);
            }
            *covered.entry(*place).or_default() += ms;
        }
        let mut longest: BTreeMap<usize, u64> = BTreeMap::new();
        for ((index, _), ms) in covered {
            let most = longest.entry(index).or_default();
            *most = (*most).max(ms);
        }
        longest.into_iter().for_each(|(index, ms)| self.cover(index, bucket, ms));
    }

    /// Adds energy to a group, and time in which it is known.
    pub(super) fn add_to(&mut self, index: usize, bucket: usize, energy: u64, ms: u64) {
        if let Some(sum) = self.groups.get_mut(index).and_then(|group| group.energy.get_mut(bucket)) {
            *sum = sum.saturating_add(energy);
        }
        self.cover(index, bucket, ms);
    }

    fn cover(&mut self, index: usize, bucket: usize, ms: u64) {
        let buckets = self.question.buckets;
        let known = self.node_covered.entry(index).or_insert_with(|| vec![0; buckets]);
        if let Some(known) = known.get_mut(bucket) {
            *known += ms;
        }
    }

    /// All of a node is added: what is known of a group is what is known of the node that is known best.
    pub(super) fn end_node(&mut self) {
        for (index, known) in std::mem::take(&mut self.node_covered) {
            let Some(group) = self.groups.get_mut(index) else { continue };
            group.covered.iter_mut().zip(known).for_each(|(to, ms)| *to = (*to).max(ms));
        }
    }

    /// The answer.
    pub(super) fn finish(self, now_ms: u64) -> v1::QueryEnergyResponse {
        let question = self.question;
        let mut groups: Vec<v1::EnergyGroup> = Vec::with_capacity(self.groups.len());
        let mut by_index: Vec<Option<Group>> = self.groups.into_iter().map(Some).collect();
        for (name, index) in self.by_name {
            let Some(group) = by_index.get_mut(index).and_then(Option::take) else { continue };
            if group.covered.iter().all(|ms| *ms == 0) {
                continue;
            }
            groups.push(group_to_wire(name, group, question.step));
        }
        groups.sort_unstable_by(|a, b| b.total_uj.cmp(&a.total_uj).then_with(|| a.name.cmp(&b.name)));
        let rest = groups.split_off(groups.len().min(question.limit));
        v1::QueryEnergyResponse {
            from_ms: question.from,
            step_ms: question.step,
            buckets: u32::try_from(question.buckets).unwrap_or(u32::MAX),
            groups,
            other: rest.into_iter().reduce(together),
            now_ms,
        }
    }
}

fn group_to_wire(name: String, group: Group, step: u64) -> v1::EnergyGroup {
    let label = |(name, value): (&str, &str)| v1::Label { name: name.to_owned(), value: value.to_owned() };
    v1::EnergyGroup {
        name,
        labels: group.info.iter().flat_map(|info| info.labels.iter()).map(label).collect(),
        total_uj: group.energy.iter().fold(0, |sum, by| sum.saturating_add(*by)),
        covered_ms: group.covered.into_iter().map(|ms| ms.min(step)).collect(),
        energy_uj: group.energy,
        quality: v1::Quality::from(group.quality).into(),
    }
}

/// Two groups as one, `other`.
fn together(a: v1::EnergyGroup, b: v1::EnergyGroup) -> v1::EnergyGroup {
    let pairs =
        |a: Vec<u64>, b: Vec<u64>, of: fn(u64, u64) -> u64| a.into_iter().zip(b).map(|(a, b)| of(a, b)).collect();
    v1::EnergyGroup {
        name: "other".to_owned(),
        labels: Vec::new(),
        total_uj: a.total_uj.saturating_add(b.total_uj),
        energy_uj: pairs(a.energy_uj, b.energy_uj, u64::saturating_add),
        covered_ms: pairs(a.covered_ms, b.covered_ms, u64::max),
        quality: a.quality.max(b.quality),
    }
}
