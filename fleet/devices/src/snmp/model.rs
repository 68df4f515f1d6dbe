//! PDU models as data: which objects tell what, in which unit, and how an outlet is switched.
//!
//! A model is a TOML table. `models.toml` beside this file holds those that Ebbtide knows; an operator adds one in the
//! configuration in the same form. An object is written in full, or shorter:
//!
//! | written | means |
//! |---|---|
//! | `1.3.6.1.4.1.318…` | that object |
//! | `.12.1.16` | the model's `base` with that behind it |
//! | `@.1.5.1` | the device's own sysObjectID with that behind it |

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::index::Index;
use super::oid::{NoOid, Oid, dotted};
use super::unit::{Quantity, Unit};

/// A kind of PDU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PduModel {
    /// Its name in the configuration and in messages.
    pub name: String,
    /// Maker.
    pub vendor: String,
    /// What its sysObjectID begins with. The longest that fits decides.
    pub object_ids: Vec<Oid>,
    /// An object that has to be there too: for devices with a sysObjectID that others have as well.
    #[serde(default)]
    pub probe: Option<Column>,
    /// What objects beginning with a dot begin with.
    #[serde(default)]
    pub base: Option<Oid>,
    /// How far its meters may be off, in percent of what they show, its resolution aside.
    #[serde(default = "one_percent")]
    pub accuracy_percent: f64,
    /// What it says of itself.
    #[serde(default)]
    pub identity: IdentityColumns,
    /// The device as a whole. If a quantity has several rows (inlets, units of a chain), they are added up.
    #[serde(default)]
    pub total: FeedColumns,
    /// Its phases, lines or banks. The first of these tables that has rows is used.
    #[serde(default)]
    pub phases: Vec<PhaseTable>,
    /// Its outlets. The first of these tables that has rows is used.
    #[serde(default)]
    pub outlets: Vec<OutletTable>,
}

/// An object or the column of a table, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// In full.
    Full(Oid),
    /// Behind the model's base.
    Base(Vec<u32>),
    /// Behind the device's sysObjectID.
    Device(Vec<u32>),
}

/// Objects that say what the device is; of several rows the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IdentityColumns {
    /// Model.
    pub model: Option<Column>,
    /// Serial number.
    pub serial: Option<Column>,
    /// Firmware version.
    pub firmware: Option<Column>,
    /// The name that it was given.
    pub name: Option<Column>,
}

/// What is measured on a conductor. Of several ways to one quantity the finest that gives a figure is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct FeedColumns {
    /// Active power; or apparent power, if there is no better.
    pub power: Vec<Measure>,
    /// Counter of energy.
    pub energy: Vec<Measure>,
    /// Current.
    pub current: Vec<Measure>,
    /// Voltage.
    pub voltage: Vec<Measure>,
}

/// One way to a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Measure {
    /// Its name in the MIB.
    pub source: String,
    /// Where it is.
    pub column: Column,
    /// What one count is. Negative numbers always mean that there is no figure.
    pub unit: Unit,
    /// Which rows are meant, if not those of the table.
    #[serde(default)]
    pub index: Option<Index>,
    /// An object with the same index that tells how many of the digits are decimals.
    #[serde(default)]
    pub digits: Option<Column>,
    /// What it has to be multiplied with: power from voltage, current and power factor.
    #[serde(default)]
    pub times: Vec<Factor>,
    /// Numbers that mean that there is no figure.
    #[serde(default)]
    pub absent: Vec<i64>,
    /// If this object is above zero, the device reckons the figure with a voltage and power factor that it was told,
    /// and it may be off by half.
    #[serde(default)]
    pub reckoned_if: Option<Column>,
}

/// One more factor of a product, at the same index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Factor {
    /// Where it is.
    pub column: Column,
    /// What one count is.
    pub unit: Unit,
}

/// A table of phases, lines or banks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PhaseTable {
    /// What a row is called where it has no name, with `{}` for its number: `L{}` gives `L1`, `L2`, `L3`.
    pub label: String,
    /// Where its names are.
    #[serde(default)]
    pub name: Option<Column>,
    /// Which rows are meant.
    #[serde(default)]
    pub index: Index,
    /// What is measured.
    #[serde(default)]
    pub feed: FeedColumns,
}

/// A table of outlets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OutletTable {
    /// What outlets are called on the device, if not by their index.
    #[serde(default)]
    pub id: Option<Column>,
    /// What the operator named them.
    #[serde(default)]
    pub name: Option<Column>,
    /// Which rows are meant.
    #[serde(default)]
    pub index: Index,
    /// How they stand: by the first of these that has a row for the outlet.
    #[serde(default)]
    pub state: Vec<StateColumn>,
    /// Whether they can be switched, where not all can.
    #[serde(default)]
    pub switchable: Option<FlagColumn>,
    /// How they are switched.
    #[serde(default)]
    pub control: Option<Control>,
    /// What is measured.
    #[serde(default)]
    pub feed: FeedColumns,
}

/// How outlets stand. Numbers that are not listed mean that it isn't known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StateColumn {
    /// Where it is.
    pub column: Column,
    /// Which rows are meant, if not those of the table.
    #[serde(default)]
    pub index: Option<Index>,
    /// On.
    pub on: Vec<i64>,
    /// Off.
    pub off: Vec<i64>,
    /// On its way to on.
    #[serde(default)]
    pub turning_on: Vec<i64>,
    /// On its way to off.
    #[serde(default)]
    pub turning_off: Vec<i64>,
    /// There is no such outlet although the table has a row for it.
    #[serde(default)]
    pub no_outlet: Vec<i64>,
}

/// A yes or no for each outlet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FlagColumn {
    /// Where it is.
    pub column: Column,
    /// What means yes.
    pub yes: Vec<i64>,
}

/// How an outlet is switched: by setting integers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Control {
    /// One object takes a number for each command.
    #[serde(rename_all = "kebab-case")]
    Same {
        /// The object.
        column: Column,
        /// Its index, if not that of the table.
        #[serde(default)]
        index: Option<Index>,
        /// Switches on.
        on: i32,
        /// Switches off.
        off: i32,
        /// Switches off and on again.
        #[serde(default)]
        cycle: Option<i32>,
    },
    /// Each command has its own object.
    #[serde(rename_all = "kebab-case")]
    Split {
        /// Switches on.
        on: Command,
        /// Switches off.
        off: Command,
        /// Switches off and on again.
        #[serde(default)]
        cycle: Option<Command>,
    },
    /// Like `same`, but the outlet has to be unlocked first.
    #[serde(rename_all = "kebab-case")]
    Unlock {
        /// Unlocks it.
        unlock: Command,
        /// The object.
        column: Column,
        /// Switches on.
        on: i32,
        /// Switches off.
        off: i32,
    },
}

/// What is set where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Command {
    /// The object.
    pub column: Column,
    /// The number.
    pub value: i32,
}

/// What is wrong with a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PDU model {model}: {why}")]
pub struct ModelError {
    /// The model.
    pub model: String,
    /// What is wrong with it.
    pub why: String,
}

impl Column {
    /// The object in full, for a device with this sysObjectID.
    pub fn of(&self, model: &PduModel, device: &Oid) -> Oid {
        match self {
            Self::Full(oid) => oid.clone(),
            Self::Base(rest) => model.base.clone().unwrap_or_default().join(rest),
            Self::Device(rest) => device.join(rest),
        }
    }
}

impl FromStr for Column {
    type Err = NoOid;

    fn from_str(text: &str) -> Result<Self, NoOid> {
        // Two arcs more make an identifier of any rest.
        let rest = |rest: &str| format!("0.0.{rest}").parse::<Oid>().map(|oid| oid.arcs()[2..].to_vec());
        if let Some(tail) = text.strip_prefix("@.") {
            rest(tail).map(Self::Device)
        } else if let Some(tail) = text.strip_prefix('.') {
            rest(tail).map(Self::Base)
        } else {
            text.parse().map(Self::Full)
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(oid) => write!(f, "{oid}"),
            Self::Base(rest) => write!(f, ".{}", dotted(rest)),
            Self::Device(rest) => write!(f, "@.{}", dotted(rest)),
        }
    }
}

impl Serialize for Column {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl PduModel {
    /// Looks for what serde can't see.
    ///
    /// # Errors
    /// If the model has no sysObjectID, uses a base that it doesn't have, or measures in a wrong unit.
    pub fn check(&self) -> Result<(), ModelError> {
        let wrong = |why: String| Err(ModelError { model: self.name.clone(), why });
        if self.object_ids.is_empty() {
            return wrong("object-ids is empty: no device would be recognised".to_owned());
        }
        if !(0.0..=100.0).contains(&self.accuracy_percent) {
            return wrong("accuracy-percent has to be from 0 to 100".to_owned());
        }
        if self.base.is_none()
            && let Some(column) = self.columns().into_iter().find(|c| matches!(c, Column::Base(_)))
        {
            return wrong(format!("{column} begins with a dot, but there is no base"));
        }
        for (quantity, measure) in self.feeds().flat_map(FeedColumns::ways) {
            let mut got = measure.unit.quantity();
            if !measure.times.is_empty() {
                let mut factors: Vec<_> = measure.times.iter().map(|f| f.unit.quantity()).chain([got]).collect();
                factors.retain(|q| *q != Quantity::Share);
                factors.sort_unstable();
                if factors != [Quantity::Current, Quantity::Voltage] {
                    return wrong(format!(
                        "{}: only a current and a voltage can be multiplied, with shares",
                        measure.source
                    ));
                }
                got = Quantity::Power;
            }
            let fits = got == quantity || (quantity == Quantity::Power && got == Quantity::Apparent);
            if !fits {
                return wrong(format!("{}: {} is not a unit of {}", measure.source, measure.unit, quantity.as_str()));
            }
        }
        Ok(())
    }

    /// All that is measured.
    pub fn feeds(&self) -> impl Iterator<Item = &FeedColumns> {
        let outlets = self.outlets.iter().map(|t| &t.feed);
        std::iter::once(&self.total).chain(self.phases.iter().map(|t| &t.feed)).chain(outlets)
    }

    /// All objects that it reads, each once.
    pub fn columns(&self) -> Vec<&Column> {
        let identity = &self.identity;
        let mut columns: Vec<&Column> =
            [&identity.model, &identity.serial, &identity.firmware, &identity.name].into_iter().flatten().collect();
        for (_, measure) in self.feeds().flat_map(FeedColumns::ways) {
            columns.push(&measure.column);
            columns.extend(measure.digits.iter().chain(&measure.reckoned_if));
            columns.extend(measure.times.iter().map(|f| &f.column));
        }
        columns.extend(self.phases.iter().filter_map(|t| t.name.as_ref()));
        for table in &self.outlets {
            columns.extend(table.id.iter().chain(&table.name));
            columns.extend(table.state.iter().map(|s| &s.column));
            columns.extend(table.switchable.iter().map(|s| &s.column));
        }
        let mut once: Vec<&Column> = Vec::with_capacity(columns.len());
        for column in columns {
            if !once.contains(&column) {
                once.push(column);
            }
        }
        once
    }
}

impl FeedColumns {
    /// All ways with the quantity that they have to give.
    pub fn ways(&self) -> impl Iterator<Item = (Quantity, &Measure)> {
        let power = self.power.iter().map(|m| (Quantity::Power, m));
        let energy = self.energy.iter().map(|m| (Quantity::Energy, m));
        let current = self.current.iter().map(|m| (Quantity::Current, m));
        power.chain(energy).chain(current).chain(self.voltage.iter().map(|m| (Quantity::Voltage, m)))
    }
}

/// Models that Ebbtide knows.
pub fn known() -> &'static [PduModel] {
    #[derive(Deserialize)]
    struct File {
        model: Vec<PduModel>,
    }
    static MODELS: OnceLock<Vec<PduModel>> = OnceLock::new();
    MODELS.get_or_init(|| match toml::from_str::<File>(include_str!("models.toml")) {
        Ok(file) => file.model,
        Err(error) => {
            // Can't be: a test reads the same bytes. Without models, operators' own ones still work.
            tracing::error!("the built-in PDU models can't be read: {error}");
            Vec::new()
        }
    })
}

fn one_percent() -> f64 {
    1.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_models_are_sound_and_can_be_written_out() {
        #[derive(Deserialize)]
        struct File {
            model: Vec<PduModel>,
        }
        let file: File = toml::from_str(include_str!("models.toml")).unwrap();
        assert_eq!(file.model, known());
        for model in known() {
            model.check().unwrap();
            let text = toml::to_string(model).unwrap();
            assert_eq!(&toml::from_str::<PduModel>(&text).unwrap(), model, "{text}");
        }
        let mut names: Vec<_> = known().iter().map(|m| m.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), known().len(), "names are given once");
    }

    fn refused(change: &str) -> String {
        let text = format!("name = \"x\"\nvendor = \"X\"\nobject-ids = [\"1.3.6.1.4.1.1\"]\n{change}");
        match toml::from_str::<PduModel>(&text) {
            Ok(model) => model.check().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn mistakes_in_a_model_are_named() {
        let power = |rest: &str| refused(&format!("[total]\npower = [{{ source = \"p\", {rest} }}]"));
        assert!(power("column = \".1\", unit = \"W\"").contains(".1 begins with a dot, but there is no base"));
        assert!(power("column = \"1.3.1\", unit = \"kWh\"").contains("p: kWh is not a unit of power"));
        assert!(power("column = \"1.3.1\", unit = \"watt\"").contains("\"watt\" is not a unit"));
        assert!(power("column = \"1.3.x\", unit = \"W\"").contains("1.3.x"));
        assert!(power("column = \"1.3.1\", unit = \"W\", indx = \"*\"").contains("indx"));
        let product = power("column = \"1.3.1\", unit = \"V\", times = [{ column = \"1.3.2\", unit = \"V\" }]");
        assert!(product.contains("only a current and a voltage"), "{product}");
    }
}
