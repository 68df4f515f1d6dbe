//! What a service consists of: found once by walking its links, a few steps deep and not too wide, then kept.

use serde_json::Value;

use crate::error::DeviceError;
use crate::redfish::parse::{self, Action, MOST_MEMBERS};
use crate::redfish::service::{Document, ROOT, Service};
use crate::report::{Identity, OutletId};

/// More systems or PDUs behind one service are not looked at.
const MOST_PARTS: usize = 32;

/// The outlet that stands for the only system.
pub(crate) const SYSTEM: &str = "system";

/// A machine that can be switched.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) id: OutletId,
    pub(crate) path: String,
    pub(crate) chassis: Vec<Chassis>,
}

/// Where a chassis tells its power.
#[derive(Clone, Debug)]
pub(crate) struct Chassis {
    pub(crate) path: String,
    pub(crate) environment: Option<String>,
    pub(crate) power: Option<String>,
    /// `Metrics` of each power supply that is there.
    pub(crate) supplies: Vec<String>,
}

/// A PDU and its outlets.
#[derive(Clone, Debug)]
pub(crate) struct Pdu {
    pub(crate) name: String,
    pub(crate) metrics: Option<String>,
    pub(crate) mains: Vec<String>,
    /// The collection of outlets, to be asked for with all members at once.
    pub(crate) collection: Option<String>,
    pub(crate) outlets: Vec<(OutletId, String)>,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) identity: Identity,
    pub(crate) systems: Vec<System>,
    pub(crate) pdus: Vec<Pdu>,
    /// A chassis that is neither a system's nor a PDU's: a power shelf.
    pub(crate) shelf: Option<Chassis>,
    /// Whether collections can be had with their members (`$expand`).
    pub(crate) expands: bool,
}

impl Layout {
    /// The names of all that can be switched, for messages.
    pub(crate) fn known(&self) -> String {
        let systems = self.systems.iter().map(|s| s.id.as_str());
        let outlets = self.pdus.iter().flat_map(|p| p.outlets.iter().map(|(id, _)| id.as_str()));
        let mut names: Vec<&str> = systems.chain(outlets).collect();
        if names.is_empty() {
            return "none".to_owned();
        }
        let more = names.len() > 12;
        names.truncate(12);
        format!("{}{}", names.join(", "), if more { ", …" } else { "" })
    }
}

/// Walks a service. `only` is the `Id` of the one system that is meant.
pub(crate) async fn discover(service: &mut Service, only: Option<&str>) -> Result<Layout, DeviceError> {
    let root = service.get(ROOT).await?.ok_or_else(|| DeviceError::Unable {
        device: service.device().to_owned(),
        what: format!("speak Redfish: it has no {ROOT}; check the URL, or use ipmi"),
    })?;
    let root = root.value;
    let all_chassis = members(service, parse::link(&root, "Chassis")).await?;
    let mut layout = Layout { expands: expands(&root), ..Layout::default() };
    for path in members(service, parse::link(&root, "Systems")).await?.into_iter().take(MOST_PARTS) {
        let Some(Document { value, .. }) = service.get(&path).await? else { continue };
        let id = parse::text(&value, "Id").unwrap_or_else(|| last(&path));
        if only.is_none_or(|only| only == id) {
            let mut chassis = Vec::new();
            for path in chassis_of(&value, &all_chassis) {
                chassis.extend(look_into(service, &path).await?);
            }
            layout.identity = parse::identity(&value);
            layout.systems.push(System { id: OutletId::new(&id), path, chassis });
        }
    }
    if let (Some(only), true) = (only, layout.systems.is_empty()) {
        return Err(DeviceError::Config(format!("{} has no system whose Id is {only}", service.device())));
    }
    if let [system] = layout.systems.as_mut_slice() {
        system.id = OutletId::new(SYSTEM);
    }
    if let Some(equipment) = parse::link(&root, "PowerEquipment") {
        find_pdus(service, equipment, &mut layout).await?;
    }
    if let ([], [], [path]) = (layout.systems.as_slice(), layout.pdus.as_slice(), all_chassis.as_slice()) {
        layout.shelf = look_into(service, path).await?;
    }
    Ok(layout)
}

/// What an action accepts; asks for `ActionInfo` if the resource doesn't say.
pub(crate) async fn allowed(
    service: &mut Service,
    action: &Action,
    parameter: &str,
) -> Result<Option<Vec<String>>, DeviceError> {
    if action.allowed.is_some() {
        return Ok(action.allowed.clone());
    }
    let Some(info) = &action.info else { return Ok(None) };
    Ok(service.get(info).await?.and_then(|info| parse::action_info(&info.value, parameter)))
}

/// A document that a reading can do without: controllers have parts that don't work, or not for this user.
pub(crate) async fn optional(service: &mut Service, path: &str) -> Result<Option<Document>, DeviceError> {
    match service.get(path).await {
        Err(DeviceError::Refused { .. } | DeviceError::Nonsense { .. }) => Ok(None),
        outcome => outcome,
    }
}

/// The members of a collection, over its pages.
async fn members(service: &mut Service, collection: Option<&str>) -> Result<Vec<String>, DeviceError> {
    let (mut found, mut next) = (Vec::new(), collection.map(ToOwned::to_owned));
    // A page has a member at least, so that pages that point in a circle come to an end.
    while let Some(path) = next.take().filter(|_| found.len() < MOST_MEMBERS) {
        let Some(Document { value, .. }) = service.get(&path).await? else { break };
        let page = parse::links(value.get("Members"));
        if !page.is_empty() {
            next = value.get("Members@odata.nextLink").and_then(Value::as_str).map(ToOwned::to_owned);
        }
        found.extend(page.into_iter().map(ToOwned::to_owned));
    }
    found.truncate(MOST_MEMBERS);
    Ok(found)
}

/// The chassis of a system: those it names, else the only one there is.
fn chassis_of(system: &Value, all: &[String]) -> Vec<String> {
    let named = parse::links(system.get("Links").and_then(|l| l.get("Chassis")));
    match (named.is_empty(), all) {
        (false, _) => named.into_iter().take(8).map(ToOwned::to_owned).collect(),
        (true, [only]) => vec![only.clone()],
        (true, _) => Vec::new(),
    }
}

async fn look_into(service: &mut Service, path: &str) -> Result<Option<Chassis>, DeviceError> {
    let Some(Document { value, .. }) = service.get(path).await? else { return Ok(None) };
    let owned = |key| parse::link(&value, key).map(ToOwned::to_owned);
    let mut chassis = Chassis {
        path: path.to_owned(),
        environment: owned("EnvironmentMetrics"),
        power: owned("Power"),
        supplies: Vec::new(),
    };
    if let Some(subsystem) = parse::link(&value, "PowerSubsystem")
        && let Some(subsystem) = optional(service, subsystem).await?
    {
        for supply in
            members(service, parse::link(&subsystem.value, "PowerSupplies")).await?.into_iter().take(MOST_PARTS)
        {
            // One that doesn't tell, or has no metrics, makes the sum unknown: an empty path is never answered.
            let supply = optional(service, &supply).await?;
            if supply.as_ref().is_none_or(|s| parse::is_enabled(&s.value)) {
                let metrics = supply.as_ref().and_then(|s| parse::link(&s.value, "Metrics"));
                chassis.supplies.push(metrics.unwrap_or_default().to_owned());
            }
        }
    }
    Ok(Some(chassis))
}

async fn find_pdus(service: &mut Service, equipment: &str, layout: &mut Layout) -> Result<(), DeviceError> {
    let Some(equipment) = service.get(equipment).await? else { return Ok(()) };
    let paths = members(service, parse::link(&equipment.value, "RackPDUs")).await?;
    let many = paths.len() > 1;
    for path in paths.into_iter().take(MOST_PARTS) {
        let Some(Document { value, .. }) = service.get(&path).await? else { continue };
        let name = parse::text(&value, "Id").unwrap_or_else(|| last(&path));
        let collection = parse::link(&value, "Outlets").map(ToOwned::to_owned);
        let outlets = members(service, collection.as_deref()).await?;
        let outlets = outlets.into_iter().map(|path| (outlet_id(many.then_some(&name), &last(&path)), path));
        if layout.systems.is_empty() && layout.pdus.is_empty() {
            layout.identity = parse::identity(&value);
        }
        layout.pdus.push(Pdu {
            metrics: parse::link(&value, "Metrics").map(ToOwned::to_owned),
            mains: members(service, parse::link(&value, "Mains")).await?,
            outlets: outlets.collect(),
            collection,
            name,
        });
    }
    Ok(())
}

/// An outlet's name: its own, or behind a service with several PDUs with its PDU's before it.
fn outlet_id(pdu: Option<&String>, outlet: &str) -> OutletId {
    pdu.map_or_else(|| OutletId::new(outlet), |pdu| OutletId::new(&format!("{pdu}/{outlet}")))
}

/// The last part of a path, which is the resource's `Id` (DSP0266, 7.2).
fn last(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

fn expands(root: &Value) -> bool {
    let query = root.get("ProtocolFeaturesSupported").and_then(|f| f.get("ExpandQuery"));
    query.and_then(|q| q.get("NoLinks")).and_then(Value::as_bool) == Some(true)
}
