//! PDUs that speak SNMP.
//!
//! `model` says as data which objects tell what (`models.toml` has those that are known), `decode` makes a report of
//! objects (pure), `session` is the only place that speaks SNMP. `oid`, `unit` and `index` are the words of the models.
//! This file is the driver: it recognises the device, looks over its tables once, and from then on asks for exactly
//! the objects that it found, in few requests.

pub mod config;
pub mod decode;
pub mod index;
pub mod model;
pub mod oid;
mod session;
pub mod unit;

use std::sync::Arc;
use std::time::Duration;

use ebbtide_runtime::clock::{self, Moment};

use self::config::SnmpPduConfig;
use self::decode::{Decoder, Place};
use self::index::Index;
use self::model::{Column, Control, OutletTable, PduModel};
use self::oid::{Oid, Tree};
use self::session::Session;
use crate::driver::{Answer, Driver, Switch};
use crate::error::DeviceError;
use crate::report::{Identity, OutletId, PowerState, Report};

const SYS_DESCR: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 1, 0];
const SYS_OBJECT_ID: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 2, 0];
const SYS_UP_TIME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 3, 0];
const SYS_NAME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 5, 0];

/// Tables are looked over again after this time: outlets are renamed, units are added to a chain.
const SURVEY_EVERY: Duration = Duration::from_mins(15);

/// A PDU that speaks SNMP.
pub struct SnmpPdu {
    config: SnmpPduConfig,
    session: Session,
    known: Option<Known>,
}

/// What is known of a device after its tables were looked over.
struct Known {
    model: Arc<PduModel>,
    device: Oid,
    /// All objects as they were then.
    tree: Tree,
    /// Those of them that change.
    changing: Vec<Oid>,
    places: Vec<Place>,
    looked_over: Moment,
    up_time: Option<i128>,
    sys_name: Option<String>,
    sys_descr: Option<String>,
}

impl SnmpPdu {
    /// A PDU as the configuration describes it. Nothing is sent yet.
    ///
    /// # Errors
    /// If a secret can't be read or the configuration contradicts itself.
    pub fn new(config: SnmpPduConfig) -> Result<Self, DeviceError> {
        config.check().map_err(DeviceError::Config)?;
        for model in config.models.iter() {
            model.check().map_err(|e| DeviceError::Config(e.to_string()))?;
        }
        if let Some(name) = &config.model
            && find(&config, name).is_none()
        {
            let known: Vec<_> = model::known().iter().map(|m| m.name.as_str()).collect();
            return Err(DeviceError::Config(format!(
                "model: there is no PDU model {name:?}; there are {}",
                known.join(", ")
            )));
        }
        Ok(Self { session: Session::new(&config)?, config, known: None })
    }

    async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let deadline = self.config.deadline.get();
        match tokio::time::timeout(deadline, work(self)).await {
            Ok(answer) => answer,
            Err(_) => Err(DeviceError::Timeout {
                device: self.session.address().to_owned(),
                after: deadline,
                hint: "it is too slow for all that was asked; set a longer deadline".to_owned(),
            }),
        }
    }

    async fn identity(&mut self) -> Result<Identity, DeviceError> {
        self.know().await?;
        let known = self.known()?;
        let mut identity = known.decoder(&known.tree, clock::now()).identity();
        identity.name = identity.name.or_else(|| known.sys_name.clone());
        identity.model = identity.model.or_else(|| known.sys_descr.clone());
        Ok(identity)
    }

    async fn everything(&mut self) -> Result<Report, DeviceError> {
        let fresh = self.known.as_ref().is_some_and(|k| clock::now().since(k.looked_over) < SURVEY_EVERY);
        if !fresh {
            return self.looked_over().await;
        }
        let known = self.known()?;
        let mut objects = known.changing.clone();
        // Only if it was there: SNMPv1 refuses all for one that isn't.
        objects.extend(known.up_time.map(|_| Oid::new(SYS_UP_TIME)));
        let answer = match self.session.get(&objects).await {
            Ok(answer) => answer,
            // SNMPv1 refuses the whole request if one row is gone.
            Err(DeviceError::Refused { .. }) => return self.looked_over().await,
            Err(error) => return Err(error),
        };
        let at = clock::now();
        let Some(known) = &mut self.known else { return self.lost() };
        let up_time = answer.get(&Oid::new(SYS_UP_TIME)).and_then(oid::Value::number).map(|(n, _)| n);
        let restarted = matches!((known.up_time, up_time), (Some(before), Some(now)) if now < before);
        known.up_time = up_time;
        let absent = known.changing.iter().filter(|o| answer.get(o).is_none()).count();
        let total = known.changing.len();
        let tree = known.overlaid(answer);
        let mut report = known.decoder(&tree, at).report();
        if absent > 0 {
            report.missing.push(format!("{absent} of {total} objects had no answer"));
        }
        if absent > 0 || restarted {
            self.known = None;
        }
        Ok(report)
    }

    /// Looks over all tables, and reports what is in them.
    async fn looked_over(&mut self) -> Result<Report, DeviceError> {
        self.survey().await?;
        let known = self.known()?;
        Ok(known.decoder(&known.tree, known.looked_over).report())
    }

    async fn one_state(&mut self, outlet: &OutletId) -> Result<PowerState, DeviceError> {
        self.know().await?;
        let known = self.known()?;
        let (table, place) = known.outlet(self.session.address(), outlet)?;
        let objects = known.decoder(&known.tree, known.looked_over).state_objects(table, &place.address);
        if objects.is_empty() {
            return Ok(PowerState::Unknown);
        }
        let (table, address) = (table.clone(), place.address.clone());
        let answer = self.session.get(&objects).await?;
        let known = self.known()?;
        Ok(known.decoder(&answer, clock::now()).state(&table, &address))
    }

    async fn tell(&mut self, outlet: &OutletId, to: Switch) -> Result<(), DeviceError> {
        self.know().await?;
        let known = self.known()?;
        let address = self.session.address();
        let (table, place) = known.outlet(address, outlet)?;
        let unable = |what: &str| DeviceError::Unable { device: address.to_owned(), what: what.to_owned() };
        let Some(control) = &table.control else {
            return Err(unable("switch outlets: it only measures, as far as its PDU model says"));
        };
        let sets = sets(control, to)
            .ok_or_else(|| match to {
                Switch::SoftOff => unable("ask a machine to shut down: a PDU can only take its power (off)"),
                other => unable(&format!("{other}: switch off and on instead", other = other.as_str())),
            })?
            .into_iter()
            .map(|(column, index, value)| {
                let decoder = known.decoder(&known.tree, known.looked_over);
                decoder.object(column, index.unwrap_or(&table.index), &place.address).map(|object| (object, value))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                DeviceError::Config(format!("PDU model {}: the index of control doesn't fit", known.model.name))
            })?;
        for (object, value) in sets {
            self.session.set(&object, value).await?;
        }
        Ok(())
    }

    async fn know(&mut self) -> Result<(), DeviceError> {
        if self.known.is_none() {
            self.survey().await?;
        }
        Ok(())
    }

    fn known(&self) -> Result<&Known, DeviceError> {
        match &self.known {
            Some(known) => Ok(known),
            None => self.lost(),
        }
    }

    fn lost<T>(&self) -> Result<T, DeviceError> {
        Err(DeviceError::Unreachable {
            device: self.session.address().to_owned(),
            why: "the request was cut off before the device was known".to_owned(),
        })
    }

    /// Recognises the device and looks over all its tables.
    async fn survey(&mut self) -> Result<(), DeviceError> {
        self.known = None;
        let system = [SYS_DESCR, SYS_OBJECT_ID, SYS_UP_TIME, SYS_NAME].map(Oid::new);
        // One by one: SNMPv1 refuses all of them if one isn't there.
        let mut tree = Tree::default();
        for object in &system {
            match self.session.get(std::slice::from_ref(object)).await {
                Ok(answer) => tree.update(answer),
                Err(DeviceError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let id = tree.get(&system[1]).and_then(oid::Value::id).unwrap_or_default();
        let text = |object: &Oid| tree.get(object).and_then(oid::Value::text);
        let (sys_descr, sys_name) = (text(&system[0]), text(&system[3]));
        let up_time = tree.get(&system[2]).and_then(oid::Value::number).map(|(n, _)| n);
        let (model, device) = self.recognise(&id, sys_descr.as_deref()).await?;
        for column in model.columns() {
            tree.update(self.session.walk(&column.of(&model, &device)).await?);
        }
        let looked_over = clock::now();
        let mut known = Known {
            model,
            device,
            tree,
            changing: Vec::new(),
            places: Vec::new(),
            looked_over,
            up_time,
            sys_name,
            sys_descr,
        };
        let decoder = known.decoder(&known.tree, looked_over);
        let changing = decoder.changing();
        let places = decoder.outlet_table().map(|t| decoder.places(t)).unwrap_or_default();
        (known.changing, known.places) = (changing, places);
        self.known = Some(known);
        Ok(())
    }

    /// The model whose sysObjectID fits best, and that of the device that relative objects stand behind.
    async fn recognise(&mut self, id: &Oid, descr: Option<&str>) -> Result<(Arc<PduModel>, Oid), DeviceError> {
        if let Some(model) = self.config.model.as_deref().and_then(|name| find(&self.config, name)) {
            return Ok((Arc::new(model.clone()), id.clone()));
        }
        let own = self.config.models.clone();
        let mut candidates: Vec<(usize, &PduModel)> = own
            .iter()
            .chain(model::known())
            .filter_map(|m| {
                Some((m.object_ids.iter().filter(|p| id.below(p).is_some()).map(|p| p.arcs().len()).max()?, m))
            })
            .collect();
        // Stable: of equals, the operator's models come first.
        candidates.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        for (_, model) in candidates {
            let there = match &model.probe {
                Some(probe) => self.session.has(&probe.of(model, id)).await?,
                None => true,
            };
            if there {
                return Ok((Arc::new(model.clone()), id.clone()));
            }
        }
        Err(DeviceError::Unable {
            device: self.session.address().to_owned(),
            what: format!(
                "be read: no PDU model is known for its sysObjectID {id} ({}); describe it in a [[pdu-model]], or name one with model",
                descr.unwrap_or("no description")
            ),
        })
    }
}

impl Driver for SnmpPdu {
    fn identify(&mut self) -> Answer<'_, Identity> {
        Box::pin(self.within(async |pdu: &mut Self| pdu.identity().await))
    }

    fn read(&mut self) -> Answer<'_, Report> {
        Box::pin(self.within(async |pdu: &mut Self| pdu.everything().await))
    }

    fn state<'a>(&'a mut self, outlet: &'a OutletId) -> Answer<'a, PowerState> {
        Box::pin(self.within(async move |pdu: &mut Self| pdu.one_state(outlet).await))
    }

    fn switch<'a>(&'a mut self, outlet: &'a OutletId, to: Switch) -> Answer<'a, ()> {
        Box::pin(self.within(async move |pdu: &mut Self| pdu.tell(outlet, to).await))
    }

    fn close(&mut self) -> Answer<'_, ()> {
        self.session.forget();
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Known {
    fn decoder<'a>(&'a self, tree: &'a Tree, at: Moment) -> Decoder<'a> {
        Decoder { model: &self.model, device: &self.device, tree, at }
    }

    /// What was looked over, with the objects that change as they are now: those without an answer are not there.
    fn overlaid(&self, now: Tree) -> Tree {
        let mut tree: Tree =
            self.tree.clone().into_iter().filter(|(oid, _)| self.changing.binary_search(oid).is_err()).collect();
        tree.update(now);
        tree
    }

    fn outlet(&self, device: &str, id: &OutletId) -> Result<(&OutletTable, &Place), DeviceError> {
        let table = self.decoder(&self.tree, self.looked_over).outlet_table().map(std::ptr::from_ref);
        let table = self.model.outlets.iter().find(|t| table.is_some_and(|p| std::ptr::eq(p, *t)));
        let place = self.places.iter().find(|p| p.id == *id);
        table.zip(place).ok_or_else(|| {
            let mut known: Vec<_> = self.places.iter().take(12).map(|p| p.id.as_str()).collect();
            if self.places.len() > known.len() {
                known.push("…");
            }
            let known = if known.is_empty() { "none that can be told apart".to_owned() } else { known.join(", ") };
            DeviceError::NoOutlet { device: device.to_owned(), outlet: id.to_string(), known }
        })
    }
}

/// A model by name; the operator's come first.
fn find<'a>(config: &'a SnmpPduConfig, name: &str) -> Option<&'a PduModel> {
    config.models.iter().chain(model::known()).find(|m| m.name == name)
}

/// What has to be set, in order: column, index if not the table's, number. `None` if the control can't do that.
fn sets(control: &Control, to: Switch) -> Option<Vec<(&Column, Option<&Index>, i32)>> {
    match control {
        Control::Same { column, index, on, off, cycle } => {
            let value = match to {
                Switch::On => Some(*on),
                Switch::Off => Some(*off),
                Switch::Cycle => *cycle,
                Switch::SoftOff => None,
            };
            Some(vec![(column, index.as_ref(), value?)])
        }
        Control::Split { on, off, cycle } => {
            let command = match to {
                Switch::On => Some(on),
                Switch::Off => Some(off),
                Switch::Cycle => cycle.as_ref(),
                Switch::SoftOff => None,
            }?;
            Some(vec![(&command.column, None, command.value)])
        }
        Control::Unlock { unlock, column, on, off } => {
            let value = match to {
                Switch::On => Some(*on),
                Switch::Off => Some(*off),
                Switch::Cycle | Switch::SoftOff => None,
            }?;
            Some(vec![(&unlock.column, None, unlock.value), (column, None, value)])
        }
    }
}
