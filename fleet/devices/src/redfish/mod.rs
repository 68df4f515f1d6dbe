//! Redfish: management controllers and PDUs over HTTPS (DSP0266).
//!
//! `parse` says what documents mean and touches no network; `service` fetches them with a session; `layout` finds once
//! where things are; `reading` reads figures from there. Here is the driver. Its outlets are the systems (one alone is
//! called `system`) and the outlets of PDUs (`A1`; `1/A1` where there are several PDUs).

mod config;
mod layout;
mod parse;
mod reading;
mod service;

use std::time::Duration;

use ebbtide_proto::Ratio;
use ebbtide_runtime::clock::{self, Moment};
use serde_json::json;

pub use config::{Login, RedfishConfig};

use crate::driver::{Answer, Driver, Switch};
use crate::error::DeviceError;
use crate::redfish::layout::Layout;
use crate::redfish::parse::Action;
use crate::redfish::reading::Reader;
use crate::redfish::service::{Document, Service};
use crate::report::{Feed, Identity, Outlet, OutletId, PowerState, Report};

/// Systems and power supplies come and go: what was found is looked for anew after this.
const LAYOUT_LASTS: Duration = Duration::from_secs(3600);

/// Longest time for one call, however many requests it takes: discovery of a large PDU by a slow controller.
const CALL: Duration = Duration::from_secs(120);

/// One Redfish service.
pub struct Redfish {
    config: RedfishConfig,
    service: Service,
    layout: Option<(Moment, Layout)>,
    /// The finest step of a counter of energy met so far, kWh.
    energy_step: f64,
}

impl Redfish {
    /// A driver for the service that is configured. Opens no connection.
    ///
    /// # Errors
    /// [`DeviceError::Config`] if the URL, the trust, the password or its way can't be used.
    pub fn new(config: RedfishConfig) -> Result<Self, DeviceError> {
        Ok(Self { service: Service::new(&config)?, config, layout: None, energy_step: 1.0 })
    }

    /// What the service consists of; looked for if that is not known, or was long ago.
    async fn layout(&mut self) -> Result<Layout, DeviceError> {
        if let Some((found, layout)) = &self.layout
            && clock::now().since(*found) < LAYOUT_LASTS
        {
            return Ok(layout.clone());
        }
        let layout = layout::discover(&mut self.service, self.config.system.as_deref()).await?;
        self.layout = Some((clock::now(), layout.clone()));
        Ok(layout)
    }

    async fn read_all(&mut self) -> Result<Report, DeviceError> {
        let layout = self.layout().await?;
        let mut reader = Reader {
            service: &mut self.service,
            accuracy: Ratio::from_percent(self.config.error_percent),
            power_control: self.config.power_control.as_deref(),
            energy_step: self.energy_step,
            missing: Vec::new(),
            moved: false,
        };
        let mut report = Report::default();
        let alone = layout.pdus.len() == 1;
        for pdu in &layout.pdus {
            reader.pdu(pdu, layout.expands, alone, &mut report).await?;
        }
        for system in &layout.systems {
            let Some(document) = reader.document(&system.path).await? else { continue };
            let mut feed = Feed::default();
            for chassis in &system.chassis {
                feed = reader.chassis(chassis, &[&system.path, &chassis.path]).await?;
                if feed.power.is_some() {
                    break;
                }
            }
            report.outlets.push(Outlet {
                id: system.id.clone(),
                name: parse::identity(&document.value).name,
                feed,
                state: parse::power_state(&document.value),
                switchable: reset_of(&document).is_some(),
            });
        }
        if let ([_], [], [system]) = (layout.systems.as_slice(), layout.pdus.as_slice(), report.outlets.as_slice()) {
            report.total = system.feed.clone();
        }
        if let Some(shelf) = &layout.shelf {
            report.total = reader.chassis(shelf, &[&shelf.path]).await?;
        }
        self.energy_step = reader.energy_step;
        report.missing = reader.missing;
        if reader.moved {
            self.layout = None;
        }
        Ok(report)
    }

    /// The document of a system or outlet, and whether it is an outlet of a PDU.
    async fn find(&mut self, outlet: &OutletId) -> Result<(Document, bool), DeviceError> {
        let layout = self.layout().await?;
        let system = layout.systems.iter().find(|s| s.id == *outlet).map(|s| (s.path.as_str(), false));
        let mut outlets = layout.pdus.iter().flat_map(|p| &p.outlets);
        let place = system.or_else(|| outlets.find(|(id, _)| id == outlet).map(|(_, path)| (path.as_str(), true)));
        if let Some((path, of_pdu)) = place {
            if let Some(document) = self.service.get(path).await? {
                return Ok((document, of_pdu));
            }
            self.layout = None;
        }
        Err(DeviceError::NoOutlet {
            device: self.service.device().to_owned(),
            outlet: outlet.to_string(),
            known: layout.known(),
        })
    }

    async fn tell(&mut self, outlet: &OutletId, to: Switch) -> Result<(), DeviceError> {
        let (document, of_pdu) = self.find(outlet).await?;
        let unable =
            |service: &Service, what: String| Err(DeviceError::Unable { device: service.device().to_owned(), what });
        let (action, parameter, wanted) = if of_pdu {
            let action = parse::action(&document.value, "#Outlet.PowerControl", "PowerState");
            (action, "PowerState", parse::outlet_power(to))
        } else {
            (reset_of(&document), "ResetType", parse::reset_types(to))
        };
        let Some(action) = action else {
            return unable(&self.service, format!("switch {outlet}: it offers no such action to this user"));
        };
        let allowed = layout::allowed(&mut self.service, &action, parameter).await?;
        let word = wanted.iter().find(|w| allowed.as_ref().is_none_or(|a| a.iter().any(|a| a == **w)));
        let Some(word) = word else {
            let can = allowed.map_or_else(|| "on, off and cycle".to_owned(), |a| a.join(", "));
            return unable(&self.service, format!("do {} with {outlet}; it can {can}", to.as_str()));
        };
        match self.service.post(&action.target, &json!({ parameter: word })).await {
            // Some refuse to turn on what is on: what was wanted is so, then.
            Err(DeviceError::Refused { .. }) if self.is_already(outlet, to).await => Ok(()),
            outcome => outcome,
        }
    }

    async fn is_already(&mut self, outlet: &OutletId, to: Switch) -> bool {
        let state = self.find(outlet).await.map(|(document, _)| parse::power_state(&document.value));
        match to {
            Switch::On => matches!(state, Ok(PowerState::On)),
            Switch::Off | Switch::SoftOff => matches!(state, Ok(PowerState::Off)),
            Switch::Cycle => false,
        }
    }
}

impl Driver for Redfish {
    fn identify(&mut self) -> Answer<'_, Identity> {
        let device = self.service.device().to_owned();
        bounded(device, async { Ok(self.layout().await?.identity) })
    }

    fn read(&mut self) -> Answer<'_, Report> {
        bounded(self.service.device().to_owned(), self.read_all())
    }

    fn state<'a>(&'a mut self, outlet: &'a OutletId) -> Answer<'a, PowerState> {
        let device = self.service.device().to_owned();
        bounded(device, async move { Ok(parse::power_state(&self.find(outlet).await?.0.value)) })
    }

    fn switch<'a>(&'a mut self, outlet: &'a OutletId, to: Switch) -> Answer<'a, ()> {
        bounded(self.service.device().to_owned(), self.tell(outlet, to))
    }

    fn close(&mut self) -> Answer<'_, ()> {
        bounded(self.service.device().to_owned(), self.service.close())
    }
}

/// A call within [`CALL`].
fn bounded<'a, T: 'a>(device: String, call: impl Future<Output = Result<T, DeviceError>> + Send + 'a) -> Answer<'a, T> {
    let call = Box::pin(call);
    Box::pin(async move {
        let hint = "each request was answered, but there were too many".to_owned();
        let late = |_| Err(DeviceError::Timeout { device, after: CALL, hint });
        tokio::time::timeout(CALL, call).await.unwrap_or_else(late)
    })
}

fn reset_of(system: &Document) -> Option<Action> {
    parse::action(&system.value, "#ComputerSystem.Reset", "ResetType")
}
