//! The power hardware of a fleet: which devices there are, and which outlets feed which node.
//!
//! `suggest` compares watts to find out what is plugged in where (pure), `history` keeps the watts for that, `wake`
//! proves that a node comes back, `scan` looks what is at an address. What a device is and does, and how outlets add up
//! to a machine, is the crate `ebbtide-devices`; nothing in here decides to switch anything by itself.

pub mod history;
pub mod scan;
pub mod suggest;
pub mod wake;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use ebbtide_devices::config::Kind;
use ebbtide_devices::feed::SYSTEM;
use ebbtide_devices::poll::Poller;
use ebbtide_devices::{Device, DeviceConfig, Devices, Latest, OutletId};
use ebbtide_proto::{NodeId, PowerState};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{StreamExt as _, StreamMap};

pub use ebbtide_devices::feed::{FeedConfig, Place, Wall};

/// All devices and feeds. Cheap to share.
#[derive(Default)]
pub struct Rack {
    devices: BTreeMap<String, Device>,
    feeds: Vec<FeedConfig>,
}

impl Rack {
    /// Opens all devices; nothing is sent until their pollers run.
    ///
    /// # Errors
    /// If a secret can't be read, or a feed names a device that is not there.
    pub fn open(config: &Devices, feeds: &[FeedConfig]) -> anyhow::Result<(Self, Vec<Poller>)> {
        let mut devices = BTreeMap::new();
        let mut pollers = Vec::new();
        for one in &config.device {
            let driver = ebbtide_devices::open(one)?;
            let (device, poller) = Device::new(one.clone(), driver);
            devices.insert(one.name.clone(), device);
            pollers.push(poller);
        }
        let rack = Self { devices, feeds: feeds.to_vec() };
        for feed in &rack.feeds {
            for place in feed.places() {
                rack.device(&place.device).with_context(|| format!("[[feed]] of {}", feed.node))?;
            }
        }
        Ok((rack, pollers))
    }

    /// A device by its name.
    ///
    /// # Errors
    /// If there is none; says which there are.
    pub fn device(&self, name: &str) -> anyhow::Result<&Device> {
        self.devices.get(name).with_context(|| {
            let known: Vec<&str> = self.devices.keys().take(20).map(String::as_str).collect();
            match known.as_slice() {
                [] => format!("there is no device {name:?}: none is configured; add a [[device]] to the configuration"),
                known => format!("there is no device {name:?}; there are {}", known.join(", ")),
            }
        })
    }

    /// All devices, by name.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// What was configured for a node.
    pub fn feed(&self, node: &str) -> Option<&FeedConfig> {
        self.feeds.iter().find(|feed| feed.node == node)
    }

    /// All feeds.
    pub fn feeds(&self) -> &[FeedConfig] {
        &self.feeds
    }

    /// The node that an outlet feeds, as configured.
    pub fn node_of(&self, device: &str, outlet: &OutletId) -> Option<&str> {
        let is_it = |place: &Place| place.device == device && place.outlet == *outlet;
        self.feeds.iter().find(|feed| feed.places().any(|place| is_it(&place))).map(|feed| feed.node.as_str())
    }

    /// What a device said last.
    pub fn latest(&self, device: &str) -> Option<Arc<Latest>> {
        self.devices.get(device).map(Device::latest)
    }

    /// Whether a node is on, as its BMC says, or else all of its outlets; `None` if they don't.
    pub fn power_state(&self, node: &str) -> Option<PowerState> {
        let feed = self.feed(node)?;
        let of = |device: &str, outlet: &str| {
            let latest = self.latest(device)?;
            // a device that doesn't answer says nothing of now
            latest.error.is_none().then_some(())?;
            let outlets = &latest.report.as_ref()?.outlets;
            outlets.iter().find(|o| o.id.as_str() == outlet).map(|o| o.state)
        };
        let known = |state: &PowerState| *state != PowerState::Unknown;
        if let Some(state) = feed.bmc.as_deref().and_then(|bmc| of(bmc, SYSTEM)).filter(known) {
            return Some(state);
        }
        let states: Option<Vec<PowerState>> =
            feed.outlets.iter().map(|place| of(&place.device, place.outlet.as_str()).filter(known)).collect();
        let states = states.filter(|states| !states.is_empty())?;
        // one live supply is enough to run
        let on = states.iter().any(|s| *s != PowerState::Off);
        Some(if on { PowerState::On } else { PowerState::Off })
    }

    /// What a node draws, each time that one of its devices tells something new; `None` if nothing is known to feed it.
    pub fn wall_of(self: &Arc<Self>, node: &NodeId) -> Option<Walls> {
        let feed = self.feed(node.as_str())?;
        let devices: BTreeSet<String> =
            feed.outlets.iter().map(|place| place.device.clone()).chain(feed.bmc.clone()).collect();
        let news =
            devices.into_iter().filter_map(|name| Some((WatchStream::new(self.devices.get(&name)?.watch()), name)));
        let news: StreamMap<_, _> = news.map(|(news, name)| (name, news)).collect();
        (!news.is_empty()).then(|| Walls { rack: Arc::clone(self), node: node.clone(), news, told: None })
    }

    /// What a node draws at its outlets, or else at its BMC, if all that is needed for it is fresh.
    pub fn wall(&self, node: &str) -> Option<Wall> {
        self.feed(node)?.wall(|device| self.latest(device))
    }
}

/// Readings of what one node draws.
pub struct Walls {
    rack: Arc<Rack>,
    node: NodeId,
    news: StreamMap<String, WatchStream<Arc<Latest>>>,
    told: Option<Wall>,
}

impl Walls {
    /// Waits for the next reading. Loses nothing if dropped before it returns.
    pub async fn next(&mut self) -> Wall {
        while self.news.next().await.is_some() {
            if let Some(wall) = self.rack.wall(self.node.as_str())
                && self.told.as_ref().is_none_or(|told| told.at != wall.at || told.energy != wall.energy)
            {
                self.told = Some(wall.clone());
                return wall;
            }
        }
        // the devices are not read any more
        std::future::pending().await
    }
}

/// The name of a kind of device, as in the configuration.
pub fn kind_of(config: &DeviceConfig) -> &'static str {
    match &config.kind {
        Kind::SnmpPdu(_) => "snmp-pdu",
        Kind::Redfish(_) => "redfish",
        Kind::Ipmi(_) => "ipmi",
        Kind::Modbus(_) => "modbus",
        Kind::Mqtt(_) => "mqtt",
        Kind::HttpJson(_) => "http-json",
        Kind::Command(_) => "command",
        Kind::WakeOnLan(_) => "wake-on-lan",
    }
}
