//! What an operator wants, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::state::node::Node;

/// How a node's CPU is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Requests have to fit: what Kubernetes' scheduler goes by.
    #[default]
    Requests,
    /// Forecast use has to fit, with a margin set by [`Risk`]: for virtual machines, which share CPUs anyway.
    Forecast,
}

/// How much room forecasts leave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Margin {
    /// Multiples of the standard deviation of the node's forecast error that have to fit on top of the forecast.
    pub z: f64,
    /// How many of the last 24 samples may have been higher than what there is room for; the workloads' samples are
    /// added up, so that peaks count where they coincide. `None` doesn't look at the past.
    #[serde(default)]
    pub peaks: Option<u8>,
}

/// How much of a node may be filled by forecasts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Margins {
    /// A node is relieved if its forecast doesn't fit with this margin.
    pub relieve: Margin,
    /// A node takes a workload if its forecast still fits with this margin.
    pub fit: Margin,
    /// What has to leave an overloaded node goes to one that is on with this margin rather than wake another.
    pub squeeze: Margin,
    /// A node is emptied if the others still have this margin afterwards.
    pub drain: Margin,
    /// Share of a node's CPU that forecasts may fill, 0 to 1.
    pub fill: f64,
}

/// How much demand may go unmet for how much energy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Demand is met, but for about a thousandth.
    #[default]
    Low,
    /// About a hundredth of demand may wait.
    High,
    /// Margins of one's own.
    Margins(Margins),
}

impl Risk {
    /// The margins it stands for.
    pub fn margins(self) -> Margins {
        match self {
            Self::Low => Margins {
                relieve: Margin { z: 0.0, peaks: None },
                fit: Margin { z: 0.2, peaks: Some(2) },
                squeeze: Margin { z: 0.0, peaks: None },
                drain: Margin { z: 0.2, peaks: Some(0) },
                fill: 1.0,
            },
            Self::High => Margins {
                relieve: Margin { z: -0.1, peaks: None },
                fit: Margin { z: 0.1, peaks: Some(6) },
                squeeze: Margin { z: 0.0, peaks: None },
                drain: Margin { z: 0.0, peaks: Some(4) },
                fill: 1.0,
            },
            Self::Margins(margins) => margins,
        }
    }
}

/// Nodes that a rule is about; every given field has to match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Labels it has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether it matches `node`.
    pub fn matches(&self, node: &Node) -> bool {
        self.node.as_ref().is_none_or(|name| name == node.id.as_str())
            && self.pool.as_ref().is_none_or(|pool| *pool == node.pool)
            && self.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
    }
}

/// Nodes that have to stay on, whatever that costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interlock {
    /// Its name, for explanations: `control-plane`, `quorum`, `only-waker`, `ups-on-battery`.
    pub name: String,
    /// Which nodes it is about.
    #[serde(flatten)]
    pub nodes: Selector,
    /// How many of them have to stay on; all if `None`.
    #[serde(default)]
    pub keep: Option<u32>,
}

/// Room that stays free.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reserve {
    /// So many of the fullest nodes may fail: the others have room for their CPU and memory.
    pub nodes: u32,
    /// Share of all CPU of nodes that are on that stays free, 0 to 1.
    pub cpu: f64,
    /// Whether room is made ahead of an hour in which more is usually asked for, so that nodes are awake by then. Takes
    /// two days of history.
    pub foresee: bool,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { nodes: 0, cpu: 0.0, foresee: true }
    }
}

/// What a joule is worth beside itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Worth {
    /// Euro per kilowatt-hour.
    pub price: f64,
    /// Grams of CO2 per kilowatt-hour.
    pub carbon: f64,
    /// Joules that a euro counts for. With 0, money is told and decides nothing; 14,400,000 makes a kilowatt-hour at
    /// 0.25 euro count for two.
    pub joules_per_euro: f64,
    /// Joules that a gram of CO2 counts for, likewise.
    pub joules_per_gram: f64,
    /// Where it differs from the above, by zone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, ZoneWorth>,
}

/// What differs in a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZoneWorth {
    /// Euro per kilowatt-hour.
    pub price: Option<f64>,
    /// Grams of CO2 per kilowatt-hour.
    pub carbon: Option<f64>,
}

impl Default for Worth {
    fn default() -> Self {
        Self { price: 0.25, carbon: 350.0, joules_per_euro: 0.0, joules_per_gram: 0.0, zones: BTreeMap::new() }
    }
}

impl Worth {
    /// Whether a joule counts for anything but a joule.
    pub fn weighs(&self) -> bool {
        self.joules_per_euro > 0.0 || self.joules_per_gram > 0.0
    }

    /// What a joule that is used in a zone counts for, at least 1.
    pub fn weight(&self, zone: Option<&str>) -> f64 {
        let here = zone.and_then(|zone| self.zones.get(zone)).copied().unwrap_or_default();
        let (price, carbon) = (here.price.unwrap_or(self.price), here.carbon.unwrap_or(self.carbon));
        1.0 + (price * self.joules_per_euro + carbon * self.joules_per_gram) / J_PER_KWH
    }
}

/// Joules of a kilowatt-hour.
const J_PER_KWH: f64 = 3.6e6;

/// Everything an operator decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// How CPU is counted.
    pub basis: Basis,
    /// How much demand may go unmet; used with forecasts.
    pub risk: Risk,
    /// Seconds within which an action has to pay back what it costs.
    pub horizon_s: u64,
    /// Times that the saving has to exceed the cost within the horizon.
    pub margin: f64,
    /// Joules that a disruption counts for beside its energy: what an interrupted workload is worth.
    pub disruption_j: f64,
    /// Seconds that a node stays on at least.
    pub min_on_s: u64,
    /// Seconds that a node stays off at least, unless work waits for it.
    pub min_off_s: u64,
    /// Seconds after any node of a pool was powered on during which none of the pool is powered off.
    pub sleep_after_s: u64,
    /// Seconds that a workload stays where it was moved to.
    pub min_stay_s: u64,
    /// Times that a node may be switched within 24 hours; the way back on is always free.
    pub switches_per_day: u32,
    /// Seconds without a sign of life after which nothing is known of a node.
    pub stale_after_s: u64,
    /// Most moves in one plan.
    pub max_moves: usize,
    /// Room that stays free.
    pub reserve: Reserve,
    /// Nodes that stay on.
    pub interlocks: Vec<Interlock>,
    /// Price and carbon, for what plans say they save.
    pub worth: Worth,
    /// Work that planning may take, in fits looked at; the result is the best found until then.
    pub effort: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            basis: Basis::Requests,
            risk: Risk::Low,
            horizon_s: 3600,
            margin: 1.5,
            disruption_j: 500.0,
            min_on_s: 900,
            min_off_s: 300,
            sleep_after_s: 900,
            min_stay_s: 900,
            switches_per_day: 12,
            stale_after_s: 120,
            max_moves: 100_000,
            reserve: Reserve::default(),
            interlocks: Vec::new(),
            worth: Worth::default(),
            effort: 50_000_000,
        }
    }
}

/// Why a policy can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// A figure outside of what makes sense.
    #[error("{name} = {value} makes no sense: {wants}")]
    Figure {
        /// The setting.
        name: &'static str,
        /// What it was set to.
        value: f64,
        /// What it has to be.
        wants: &'static str,
    },
}

impl Policy {
    /// Seconds that a node has to stay as it is for a switch to pay: those in which idling costs what a boot does, and
    /// at least the minimum time on.
    pub fn payback_s(&self, node: &Node) -> f64 {
        let saves = node.curve.idle() - node.off_watts;
        let pays = if saves > 0.0 { node.boot.joules() / saves } else { self.horizon_s as f64 };
        pays.clamp(0.0, self.horizon_s as f64).max(self.min_on_s as f64)
    }

    /// Checks every figure.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let m = self.risk.margins();
        let share = "a share between 0 and 1";
        let positive = "not negative";
        let figures = [
            ("margin", self.margin, (0.0..1e6).contains(&self.margin), positive),
            ("disruption-j", self.disruption_j, (0.0..1e12).contains(&self.disruption_j), positive),
            ("reserve.cpu", self.reserve.cpu, (0.0..1.0).contains(&self.reserve.cpu), share),
            ("risk.fill", m.fill, m.fill > 0.0 && m.fill <= 1.0, share),
            ("risk.relieve", m.relieve.z, m.relieve.z.is_finite(), "a number"),
            ("risk.squeeze", m.squeeze.z, m.squeeze.z.is_finite(), "a number"),
            ("risk.fit", m.fit.z, m.fit.z.is_finite() && m.fit.z >= m.relieve.z, "at least risk.relieve"),
            ("risk.drain", m.drain.z, m.drain.z.is_finite() && m.drain.z >= m.relieve.z, "at least risk.relieve"),
            ("worth.price", self.worth.price, (0.0..1e6).contains(&self.worth.price), positive),
            ("worth.carbon", self.worth.carbon, (0.0..1e6).contains(&self.worth.carbon), positive),
        ];
        let weights = [
            ("worth.joules-per-euro", self.worth.joules_per_euro),
            ("worth.joules-per-gram", self.worth.joules_per_gram),
        ];
        let zones =
            self.worth.zones.values().flat_map(|z| [("worth.zones.price", z.price), ("worth.zones.carbon", z.carbon)]);
        let more = weights
            .into_iter()
            .map(|(name, v)| (name, v, (0.0..1e12).contains(&v), positive))
            .chain(zones.filter_map(|(name, v)| Some((name, v?, (0.0..1e6).contains(&v?), positive))));
        match figures.into_iter().chain(more).find(|f| !f.2) {
            Some((name, value, _, wants)) => Err(PolicyError::Figure { name, value, wants }),
            None => Ok(()),
        }
    }
}
