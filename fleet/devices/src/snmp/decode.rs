//! From the objects of a device to what they mean. Pure: the same objects give the same report.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ebbtide_proto::{Energy, Power, Ratio};
use ebbtide_runtime::clock::Moment;

use super::index::{self, Index};
use super::model::{Column, FeedColumns, Measure, OutletTable, PduModel, StateColumn};
use super::oid::{Oid, Tree, Value, dotted};
use super::unit::{Quantity, Scaled};
use crate::report::{Feed, Figure, Identity, Outlet, OutletId, PowerState, Report};

/// What part of a reckoned or apparent power may not be there: power factors below a half are rare.
const RECKONED_PPM: i128 = 500_000;

/// A device's objects, read as a model says.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    /// How to read them.
    pub model: &'a PduModel,
    /// The device's sysObjectID, or what of it the model is known by.
    pub device: &'a Oid,
    /// The objects.
    pub tree: &'a Tree,
    /// When they were read.
    pub at: Moment,
}

/// Where an outlet is in the device's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What commands call it.
    pub id: OutletId,
    /// Its address in the index of the tables.
    pub address: Vec<u32>,
}

/// One row of one way to a quantity.
struct Row {
    address: Vec<u32>,
    /// `None` where the device says that it has none.
    reading: Option<Reading>,
}

#[derive(Clone, Copy)]
struct Reading {
    value: i128,
    step: i128,
    error_ppm: i128,
}

/// A figure of any quantity, not yet in its type.
struct Best<'a> {
    reading: Reading,
    source: &'a str,
}

impl<'a> Decoder<'a> {
    /// What the device says of itself.
    pub fn identity(&self) -> Identity {
        let columns = &self.model.identity;
        let text = |column: &Option<Column>| {
            let column = self.oid(column.as_ref()?);
            self.tree.rows(&column).find_map(|(_, value)| value.text())
        };
        Identity {
            vendor: Some(self.model.vendor.clone()),
            model: text(&columns.model),
            serial: text(&columns.serial),
            firmware: text(&columns.firmware),
            name: text(&columns.name),
        }
    }

    /// Everything.
    pub fn report(&self) -> Report {
        let mut report =
            Report { total: Feed::default(), phases: Vec::new(), outlets: Vec::new(), missing: Vec::new() };
        report.total = self.total(&mut report.missing);
        report.phases = self.model.phases.iter().map(|t| self.phases(t)).find(|p| !p.is_empty()).unwrap_or_default();
        if let Some(table) = self.outlet_table() {
            let feeds = self.feeds(&table.feed, &table.index);
            for place in self.places(table) {
                let feed = feeds.get(&place.address).cloned().unwrap_or_default();
                report.outlets.push(self.outlet(table, place, feed));
            }
        }
        report
    }

    /// The table of outlets that this device uses: the first that has some.
    pub fn outlet_table(&self) -> Option<&'a OutletTable> {
        self.model.outlets.iter().find(|table| !self.places(table).is_empty())
    }

    /// The outlets of a table, in the device's order.
    pub fn places(&self, table: &OutletTable) -> Vec<Place> {
        let mut addresses = BTreeSet::new();
        let mut collect = |column: &Column, index: &Index| {
            addresses.extend(self.tree.rows(&self.oid(column)).filter_map(|(row, _)| index.address(row)));
        };
        table.id.iter().chain(&table.name).for_each(|c| collect(c, &table.index));
        table.state.iter().for_each(|s| collect(&s.column, s.index.as_ref().unwrap_or(&table.index)));
        for (_, measure) in table.feed.ways() {
            collect(&measure.column, measure.index.as_ref().unwrap_or(&table.index));
        }
        let exists = |address: &Vec<u32>| match self.state_code(table, address) {
            Some((column, code)) => !column.no_outlet.iter().any(|&n| i128::from(n) == code),
            None => true,
        };
        let addresses: Vec<Vec<u32>> = addresses.into_iter().filter(exists).collect();
        let own = |address: &Vec<u32>| table.id.as_ref().and_then(|c| self.at(c, &table.index, address)?.text());
        // Names that two outlets have can't be used to switch one of them.
        let ids = [
            addresses.iter().map(|a| own(a).unwrap_or_else(|| index::name(a))).collect::<Vec<_>>(),
            addresses.iter().map(|a| index::name(a)).collect(),
        ];
        let unique = |ids: &&Vec<String>| ids.iter().collect::<BTreeSet<_>>().len() == ids.len();
        let ids = ids.iter().find(unique).cloned().unwrap_or_else(|| addresses.iter().map(|a| dotted(a)).collect());
        ids.iter().zip(addresses).map(|(id, address)| Place { id: OutletId::new(id), address }).collect()
    }

    /// How the outlet at `address` stands.
    pub fn state(&self, table: &OutletTable, address: &[u32]) -> PowerState {
        self.state_code(table, address).map_or(PowerState::Unknown, |(column, code)| meaning(column, code))
    }

    /// Objects of which the figures and states in this tree were made: those to be read again.
    pub fn changing(&self) -> Vec<Oid> {
        let mut objects = BTreeSet::new();
        let mut feed = |feed: &FeedColumns, default: &Index| {
            for (_, measure) in feed.ways() {
                let index = measure.index.as_ref().unwrap_or(default);
                let columns = std::iter::once(&measure.column).chain(measure.times.iter().map(|f| &f.column));
                for column in columns.map(|c| self.oid(c)) {
                    let rows = self.tree.rows(&column).filter(|(row, _)| index.address(row).is_some());
                    objects.extend(rows.map(|(row, _)| column.join(row)));
                }
            }
        };
        feed(&self.model.total, &Index::default());
        for table in &self.model.phases {
            feed(&table.feed, &table.index);
        }
        if let Some(table) = self.outlet_table() {
            feed(&table.feed, &table.index);
            for state in &table.state {
                let column = self.oid(&state.column);
                let index = state.index.as_ref().unwrap_or(&table.index);
                let rows = self.tree.rows(&column).filter(|(row, _)| index.address(row).is_some());
                objects.extend(rows.map(|(row, _)| column.join(row)));
            }
        }
        objects.into_iter().collect()
    }

    /// The objects that tell how an outlet stands.
    pub fn state_objects(&self, table: &OutletTable, address: &[u32]) -> Vec<Oid> {
        let object = |s: &StateColumn| self.object(&s.column, s.index.as_ref().unwrap_or(&table.index), address);
        table.state.iter().filter_map(object).filter(|o| self.tree.get(o).is_some()).collect()
    }

    /// The object of a column in the row of an outlet.
    pub fn object(&self, column: &Column, index: &Index, address: &[u32]) -> Option<Oid> {
        Some(self.oid(column).join(&index.row(address)?))
    }

    fn oid(&self, column: &Column) -> Oid {
        column.of(self.model, self.device)
    }

    fn at(&self, column: &Column, index: &Index, address: &[u32]) -> Option<&'a Value> {
        self.tree.get(&self.object(column, index, address)?)
    }

    fn state_code<'t>(&self, table: &'t OutletTable, address: &[u32]) -> Option<(&'t StateColumn, i128)> {
        table.state.iter().find_map(|state| {
            let index = state.index.as_ref().unwrap_or(&table.index);
            match self.at(&state.column, index, address)?.number()? {
                (code, 0) => Some((state, code)),
                _ => None,
            }
        })
    }

    fn outlet(&self, table: &OutletTable, place: Place, feed: Feed) -> Outlet {
        let address = &place.address;
        let allowed = table.switchable.as_ref().is_none_or(|flag| {
            let code = self.at(&flag.column, &table.index, address).and_then(Value::number);
            // A device that doesn't have the object says nothing against it.
            code.is_none_or(|(code, _)| flag.yes.iter().any(|&y| i128::from(y) == code))
        });
        let stands = table.state.is_empty() || self.state_code(table, address).is_some();
        Outlet {
            name: table.name.as_ref().and_then(|c| self.at(c, &table.index, address)?.text()),
            state: self.state(table, address),
            switchable: table.control.is_some() && allowed && stands,
            id: place.id,
            feed,
        }
    }

    fn phases(&self, table: &super::model::PhaseTable) -> Vec<(String, Feed)> {
        let feeds = self.feeds(&table.feed, &table.index);
        let name = |address: &[u32], place: usize| {
            let own = table.name.as_ref().and_then(|c| self.at(c, &table.index, address)?.text());
            own.unwrap_or_else(|| table.label.replace("{}", &place.to_string()))
        };
        feeds.into_iter().enumerate().map(|(i, (address, feed))| (name(&address, i + 1), feed)).collect()
    }

    /// Sums of all rows. A sum that lacks a row is none. Of two sums that of more rows is better: the other may leave
    /// out units of a chain.
    fn total(&self, missing: &mut Vec<String>) -> Feed {
        let mut found: BTreeMap<Quantity, Best<'a>> = BTreeMap::new();
        let mut most: BTreeMap<Quantity, usize> = BTreeMap::new();
        for (quantity, measure) in self.model.total.ways() {
            let rows = self.rows(measure, &Index::default());
            let known: Vec<Reading> = rows.iter().filter_map(|r| r.reading).collect();
            let additive = matches!(quantity, Quantity::Power | Quantity::Energy);
            if known.is_empty() || (rows.len() > 1 && !additive) {
                continue;
            }
            if known.len() < rows.len() {
                missing.push(format!(
                    "{}: {} of {} rows have no figure",
                    measure.source,
                    rows.len() - known.len(),
                    rows.len()
                ));
                continue;
            }
            let summed = most.entry(quantity).or_default();
            if known.len() < *summed {
                continue;
            }
            if let Some(reading) = sum(&known) {
                if known.len() > std::mem::replace(summed, known.len()) {
                    found.remove(&quantity);
                }
                better(&mut found, quantity, Best { reading, source: &measure.source });
            }
        }
        self.feed(found)
    }

    fn feeds(&self, columns: &'a FeedColumns, index: &Index) -> BTreeMap<Vec<u32>, Feed> {
        let mut found: BTreeMap<Vec<u32>, BTreeMap<Quantity, Best<'a>>> = BTreeMap::new();
        for (quantity, measure) in columns.ways() {
            for row in self.rows(measure, index) {
                let feed = found.entry(row.address).or_default();
                if let Some(reading) = row.reading {
                    better(feed, quantity, Best { reading, source: &measure.source });
                }
            }
        }
        found.into_iter().map(|(address, feed)| (address, self.feed(feed))).collect()
    }

    fn rows(&self, measure: &Measure, index: &Index) -> Vec<Row> {
        let column = self.oid(&measure.column);
        let index = measure.index.as_ref().unwrap_or(index);
        let reckoned = measure.reckoned_if.as_ref().is_some_and(|c| {
            let column = self.oid(c);
            self.tree.rows(&column).any(|(_, value)| value.number().is_some_and(|(n, _)| n > 0))
        });
        let row = |(row, value): (&[u32], &Value)| {
            let address = index.address(row)?;
            Some(Row { address, reading: self.reading(measure, row, value, reckoned) })
        };
        self.tree.rows(&column).filter_map(row).collect()
    }

    fn reading(&self, measure: &Measure, row: &[u32], value: &Value, reckoned: bool) -> Option<Reading> {
        let (raw, own) = value.number()?;
        if raw < 0 || measure.absent.iter().any(|&a| i128::from(a) == raw) {
            return None;
        }
        let digits = match &measure.digits {
            // Without its decimals the number may be a thousand times too large: then there is no figure.
            Some(column) => u32::try_from(self.tree.get(&self.oid(column).join(row))?.number()?.0).ok()?,
            None => 0,
        };
        let mut scaled = measure.unit.scale(raw, own.checked_add(digits)?)?;
        let mut error_ppm = relative(scaled);
        for factor in &measure.times {
            let (raw, own) = self.tree.get(&self.oid(&factor.column).join(row))?.number()?;
            let other = factor.unit.scale(raw, own).filter(|_| raw >= 0)?;
            error_ppm = error_ppm.saturating_add(relative(other));
            let per = if factor.unit.quantity() == Quantity::Share { 1_000_000 } else { 1 };
            scaled.value = scaled.value.checked_mul(other.value)?.div_euclid(per);
        }
        if reckoned || measure.unit.quantity() == Quantity::Apparent {
            error_ppm = error_ppm.saturating_add(RECKONED_PPM);
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most a hundred percent, checked with the model")]
        let accuracy = (self.model.accuracy_percent * 1e4) as i128;
        Some(Reading { value: scaled.value, step: scaled.step, error_ppm: error_ppm.saturating_add(accuracy) })
    }

    fn feed(&self, found: BTreeMap<Quantity, Best<'_>>) -> Feed {
        let mut feed = Feed::default();
        for (quantity, best) in found {
            match quantity {
                Quantity::Power | Quantity::Apparent => {
                    feed.power = self.figure(&best, |v| u64::try_from(v).ok().map(Power::from_uw))
                }
                Quantity::Energy => {
                    feed.energy = self.figure(&best, |v| u64::try_from(v).ok().map(Energy::from_uj));
                    feed.energy_step =
                        feed.energy.as_ref().and_then(|_| u64::try_from(best.reading.step).ok()).map(Energy::from_uj);
                }
                Quantity::Current => feed.current_ma = self.figure(&best, |v| u32::try_from(v).ok()),
                Quantity::Voltage => feed.voltage_mv = self.figure(&best, |v| u32::try_from(v).ok()),
                Quantity::Share => {}
            }
        }
        feed
    }

    fn figure<T>(&self, best: &Best<'_>, of: impl Fn(i128) -> Option<T>) -> Option<Figure<T>> {
        Some(Figure {
            value: of(best.reading.value)?,
            at: self.at,
            error: Ratio::from_ppm(u32::try_from(best.reading.error_ppm.clamp(0, 1_000_000)).unwrap_or(1_000_000)),
            source: Cow::Owned(best.source.to_owned()),
        })
    }
}

/// Keeps the figure with the smaller error.
fn better<'a>(found: &mut BTreeMap<Quantity, Best<'a>>, quantity: Quantity, best: Best<'a>) {
    match found.get(&quantity) {
        Some(kept) if kept.reading.error_ppm <= best.reading.error_ppm => {}
        _ => {
            found.insert(quantity, best);
        }
    }
}

/// The sum, with the largest error of its parts.
fn sum(readings: &[Reading]) -> Option<Reading> {
    let value = readings.iter().try_fold(0i128, |sum, r| sum.checked_add(r.value))?;
    let step = readings.iter().map(|r| r.step).max()?;
    // Zeros have an unbounded relative error of their own, but add little to the sum.
    let absolute = readings.iter().try_fold(0i128, |sum, r| {
        let own = if r.value == 0 { r.step / 2 } else { r.value.checked_mul(r.error_ppm)?.div_euclid(1_000_000) };
        sum.checked_add(own)
    })?;
    let error_ppm = if value == 0 { 1_000_000 } else { absolute.checked_mul(1_000_000)?.div_euclid(value) };
    Some(Reading { value, step, error_ppm })
}

/// Half a step against the value, in millionths.
fn relative(scaled: Scaled) -> i128 {
    if scaled.value <= 0 { 1_000_000 } else { (scaled.step * 500_000).div_euclid(scaled.value) }
}

fn meaning(column: &StateColumn, code: i128) -> PowerState {
    let any = |codes: &[i64]| codes.iter().any(|&c| i128::from(c) == code);
    if any(&column.on) {
        PowerState::On
    } else if any(&column.off) {
        PowerState::Off
    } else if any(&column.turning_on) {
        PowerState::TurningOn
    } else if any(&column.turning_off) {
        PowerState::TurningOff
    } else {
        PowerState::Unknown
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::snmp::model::known;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i32>().prop_map(|n| Value::Number(n.into())),
            (0i128..10).prop_map(Value::Number),
            any::<u64>().prop_map(|n| Value::Number(n.into())),
            prop::collection::vec(any::<u8>(), 0..12).prop_map(Value::Octets),
            "-?[0-9]{1,19}(\\.[0-9]{1,3})?".prop_map(|s| Value::Octets(s.into_bytes())),
            Just(Value::Id(Oid::new([1, 3]))),
        ]
    }

    proptest! {
        /// Whatever a device says in any table of any model: no panic, no outlet twice, and what will be asked for
        /// again was there.
        #[test]
        fn any_device_is_survived(
            model in prop::sample::select(known().iter().collect::<Vec<_>>()),
            rows in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(0u32..9, 0..5), any_value()), 0..80),
        ) {
            let device = model.object_ids[0].clone();
            let columns = model.columns();
            let tree: Tree = rows
                .into_iter()
                .map(|(column, row, value)| (column.get(&columns).of(model, &device).join(&row), value))
                .collect();
            let decoder = Decoder { model, device: &device, tree: &tree, at: Moment::default() };
            let report = decoder.report();
            let ids: BTreeSet<_> = report.outlets.iter().map(|o| o.id.clone()).collect();
            prop_assert_eq!(ids.len(), report.outlets.len());
            prop_assert!(decoder.changing().iter().all(|object| tree.get(object).is_some()));
            let _identity = decoder.identity();
        }
    }

    #[test]
    fn a_sum_over_a_chain_is_better_than_a_finer_figure_of_one_unit() {
        let model = known().iter().find(|m| m.name == "apc").unwrap();
        let device: Oid = "1.3.6.1.4.1.318.1.3.4.6".parse().unwrap();
        let object = |arcs: &[u32], n: i128| (Oid::new([1, 3, 6, 1, 4, 1, 318, 1, 1]).join(arcs), Value::Number(n));
        let watts = |objects: &[(Oid, Value)]| {
            let tree = objects.iter().cloned().collect();
            let total = Decoder { model, device: &device, tree: &tree, at: Moment::default() }.report().total;
            total.power.map(|p| p.value.uw() / 1_000_000)
        };
        let (one, two) = (object(&[26, 4, 3, 1, 5, 1], 117), object(&[26, 4, 3, 1, 5, 2], 60));
        let old = object(&[12, 1, 16, 0], 1164);
        assert_eq!(watts(&[one.clone(), old.clone()]), Some(1164));
        assert_eq!(watts(&[one.clone(), two, old.clone()]), Some(1770));
        let unknown = object(&[26, 4, 3, 1, 5, 2], -1);
        assert_eq!(watts(&[one, unknown, old]), Some(1164), "a sum that lacks a row is none");
    }

    #[test]
    fn outlets_that_claim_the_same_name_are_told_apart_by_their_index() {
        let model = known().iter().find(|m| m.name == "sentry3").unwrap();
        let device = model.object_ids[0].clone();
        let id = |row: [u32; 3], text: &str| (device.join(&[2, 3, 1, 2]).join(&row), Value::Octets(text.into()));
        let names = |tree: Tree| {
            let decoder = Decoder { model, device: &device, tree: &tree, at: Moment::default() };
            decoder.report().outlets.iter().map(|o| o.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names([id([1, 1, 1], "AA1"), id([1, 1, 2], "AA2")].into_iter().collect()), ["AA1", "AA2"]);
        assert_eq!(names([id([1, 1, 1], "AA1"), id([1, 1, 2], "AA1")].into_iter().collect()), ["1.1.1", "1.1.2"]);
    }
}
