//! Which outlets feed a node, and what it draws from them. Pure.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ebbtide_proto::{Energy, Power, Ratio};
use ebbtide_runtime::clock::Moment;
use serde::{Deserialize, Serialize};

use crate::poll::Latest;
use crate::report::OutletId;

/// The outlet of a BMC: the machine behind it.
pub const SYSTEM: &str = "system";

/// What feeds a node, and what can wake it: a `[[feed]]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FeedConfig {
    /// The node.
    pub node: String,
    /// Outlets, as `DEVICE/OUTLET`. With redundant supplies there are several; their watts are added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outlets: Vec<Place>,
    /// The node's BMC, as the name of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<String>,
    /// What wakes the node, as `DEVICE` or `DEVICE/OUTLET`, in the order in which it is tried. If left out: the BMC, then the
    /// outlets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wake: Vec<Place>,
    /// Whether the outlets are switched off once the node is known to be down, so that it draws nothing at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// An outlet of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The device's name.
    pub device: String,
    /// The outlet on it.
    pub outlet: OutletId,
}

/// What a whole machine draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wall {
    /// Power at the last readings.
    pub power: Power,
    /// Energy since the daemon read the outlets first.
    pub energy: Energy,
    /// When the oldest of the readings was taken.
    pub at: Moment,
    /// Largest relative error.
    pub error: Ratio,
    /// The places that were added up.
    pub source: String,
}

impl FeedConfig {
    /// All places that it names.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.outlets.iter().cloned().chain(self.behind_bmc()).chain(self.wake.iter().cloned())
    }

    /// The machine behind its BMC.
    fn behind_bmc(&self) -> Option<Place> {
        Some(Place { device: self.bmc.clone()?, outlet: OutletId::new(SYSTEM) })
    }

    /// What is tried to wake the node, in order.
    pub fn ladder(&self) -> Vec<Place> {
        if !self.wake.is_empty() {
            return self.wake.clone();
        }
        self.behind_bmc().into_iter().chain(self.outlets.iter().cloned()).collect()
    }

    /// The node's power: of all its outlets, or of its BMC where an outlet tells nothing.
    pub fn wall(&self, latest: impl Fn(&str) -> Option<Arc<Latest>>) -> Option<Wall> {
        let of = |place: &Place| wall_at(place, &latest);
        let outlets: Option<Vec<Wall>> = self.outlets.iter().map(of).collect();
        match outlets.filter(|all| !all.is_empty()) {
            Some(all) => Some(together(&all)),
            None => wall_at(&self.behind_bmc()?, &latest),
        }
    }
}

/// What goes through one place.
fn wall_at(place: &Place, latest: &impl Fn(&str) -> Option<Arc<Latest>>) -> Option<Wall> {
    let latest = latest(&place.device)?;
    let report = latest.report.as_ref()?;
    let outlet = report.outlets.iter().find(|outlet| outlet.id == place.outlet);
    // a BMC or meter of one machine tells its watts as those of the device
    let whole = place.outlet.as_str() == SYSTEM || (report.outlets.is_empty() && report.phases.is_empty());
    let (power, metered) = match outlet.and_then(|outlet| outlet.feed.power.as_ref()) {
        Some(power) => (power, latest.outlets.get(&place.outlet).copied()?),
        None if whole => (report.total.power.as_ref()?, latest.total?),
        None => return None,
    };
    let error = power.error.max(metered.error);
    Some(Wall { power: power.value, energy: metered.energy, at: power.at, error, source: place.to_string() })
}

/// Several supplies of one machine.
fn together(all: &[Wall]) -> Wall {
    let watts = |of: fn(&Wall) -> u64| all.iter().fold(0u64, |sum, wall| sum.saturating_add(of(wall)));
    Wall {
        power: Power::from_uw(watts(|wall| wall.power.uw())),
        energy: Energy::from_uj(watts(|wall| wall.energy.uj())),
        at: all.iter().map(|wall| wall.at).min().unwrap_or_default(),
        // no part is worse than the worst
        error: all.iter().map(|wall| wall.error).max().unwrap_or(Ratio::from_ppm(0)),
        source: all.iter().map(|wall| wall.source.as_str()).collect::<Vec<_>>().join(" + "),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.device, self.outlet)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (device, outlet) = text.split_once('/').unwrap_or((text, SYSTEM));
        if device.is_empty() || outlet.is_empty() {
            return Err(format!("{text:?} is no place: write DEVICE/OUTLET, or DEVICE for the machine behind a BMC"));
        }
        Ok(Self { device: device.to_owned(), outlet: OutletId::new(outlet) })
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::energy::{Basis, Metered};
    use crate::report::{Feed, Figure, Outlet, PowerState, Report};

    fn figure(w: u64) -> Figure<Power> {
        let power = Power::from_uw(w * 1_000_000);
        Figure { value: power, at: Moment::default(), error: Ratio::from_percent(1), source: "test".into() }
    }

    fn metered(j: u64) -> Metered {
        let error = Ratio::from_percent(2);
        Metered { energy: Energy::from_uj(j * 1_000_000), basis: Basis::Power, error, gaps: 0 }
    }

    /// A PDU with these outlets, by watts; `None`: it doesn't tell.
    fn pdu(outlets: &[(&str, Option<u64>)]) -> Arc<Latest> {
        let outlet = |(id, w): &(&str, Option<u64>)| Outlet {
            id: OutletId::new(id),
            name: None,
            feed: Feed { power: w.map(figure), ..Feed::default() },
            state: PowerState::On,
            switchable: true,
        };
        let report = Report { outlets: outlets.iter().map(outlet).collect(), ..Report::default() };
        let sums: BTreeMap<_, _> =
            outlets.iter().filter_map(|(id, w)| Some((OutletId::new(id), metered((*w)? * 10)))).collect();
        Arc::new(Latest { report: Some(Arc::new(report)), outlets: Arc::new(sums), ..Latest::default() })
    }

    fn bmc(w: u64) -> Arc<Latest> {
        let total = Feed { power: Some(figure(w)), ..Feed::default() };
        let report = Report { total, ..Report::default() };
        Arc::new(Latest { report: Some(Arc::new(report)), total: Some(metered(w * 10)), ..Latest::default() })
    }

    fn feed(text: &str) -> FeedConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn redundant_supplies_are_added_and_a_silent_one_is_not_zero() {
        let of = feed("node = 'n'\noutlets = ['a/1', 'b/7']\nbmc = 'm'");
        let with = |b: Option<u64>| {
            of.wall(|device| match device {
                "a" => Some(pdu(&[("1", Some(100)), ("2", Some(999))])),
                "b" => Some(pdu(&[("7", b)])),
                "m" => Some(bmc(195)),
                _ => None,
            })
        };
        let both = with(Some(90)).unwrap();
        assert_eq!((both.power.watts(), both.energy.joules(), both.source.as_str()), (190.0, 1900.0, "a/1 + b/7"));
        assert_eq!(both.error, Ratio::from_percent(2));
        // half of a machine's watts are not the machine's
        let other = with(None).unwrap();
        assert_eq!((other.power.watts(), other.source.as_str()), (195.0, "m/system"));
        assert!(of.wall(|device| (device == "a").then(|| pdu(&[("1", Some(100))]))).is_none());
    }

    #[test]
    fn the_way_to_wake_a_node_is_its_bmc_first() {
        let ladder = |text: &str| feed(text).ladder().iter().map(Place::to_string).collect::<Vec<_>>();
        assert_eq!(ladder("node = 'n'\noutlets = ['a/1']\nbmc = 'm'"), ["m/system", "a/1"]);
        assert_eq!(ladder("node = 'n'\noutlets = ['a/1']\nwake = ['wol-n', 'a/1']"), ["wol-n/system", "a/1"]);
        assert!(
            toml::from_str::<FeedConfig>("node = 'n'\noutlets = ['/1']")
                .unwrap_err()
                .to_string()
                .contains("DEVICE/OUTLET")
        );
    }
}
