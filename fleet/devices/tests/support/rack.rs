//! A rack that exists in memory: outlets with machines on them, behind a real SNMP agent that speaks like an APC
//! rPDU2. A machine draws power and its agent beats while its outlet is on; both end when it is switched off.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_snmp::{Oid, Value};
use ebbtide_devices::switching::Agent;
use ebbtide_runtime::clock::{self, Moment};

use crate::agent::{Device, Objects};

const APC: [u32; 9] = [1, 3, 6, 1, 4, 1, 318, 1, 1];
const SYSTEM: [u32; 7] = [1, 3, 6, 1, 2, 1, 1];
/// An agent that wasn't heard for so long is silent.
const SILENT_AFTER: Duration = Duration::from_millis(150);

/// How a rack misbehaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Commands change the state that is told, but no relay moves.
    pub(crate) stuck_relays: bool,
    /// Commands are accepted and forgotten.
    pub(crate) deaf: bool,
    /// The last outlets are missing in every answer.
    pub(crate) half: bool,
}

/// A machine on an outlet.
#[derive(Clone, Copy, Debug)]
struct Machine {
    told_on: bool,
    powered: bool,
    watts: u32,
    last_beat: Moment,
}

/// The rack; a clone is the same one.
#[derive(Clone)]
pub(crate) struct Rack(Arc<Mutex<Inside>>);

struct Inside {
    machines: Vec<Machine>,
    faults: Faults,
    started: Moment,
    energy_counts: u32,
    sets: usize,
}

impl Rack {
    /// A rack with a machine on each outlet, all on, drawing these watts.
    pub(crate) fn new(watts: &[u32]) -> Self {
        let now = clock::now();
        let machine = |&watts: &u32| Machine { told_on: true, powered: true, watts, last_beat: now };
        let machines = watts.iter().map(machine).collect();
        let inside = Inside { machines, faults: Faults::default(), started: now, energy_counts: 7060, sets: 0 };
        Self(Arc::new(Mutex::new(inside)))
    }

    pub(crate) fn misbehave(&self, faults: Faults) {
        self.inside().faults = faults;
    }

    /// The PDU restarts: its clock and its counters begin again, its relays stay as they are.
    pub(crate) fn restart(&self) {
        let mut inside = self.inside();
        inside.started = clock::now();
        inside.energy_counts = 0;
    }

    /// One more step of the energy counter.
    pub(crate) fn count_energy(&self) {
        self.inside().energy_counts += 1;
    }

    /// How many commands came in.
    pub(crate) fn commands(&self) -> usize {
        self.inside().sets
    }

    /// What the fleet hears of the machine on this outlet (from 1).
    pub(crate) fn agent(&self, outlet: usize) -> Option<Agent> {
        let mut inside = self.inside();
        let now = clock::now();
        let machine = inside.machines.get_mut(outlet - 1)?;
        if machine.powered {
            machine.last_beat = now;
        }
        let silent = now.since(machine.last_beat) > SILENT_AFTER;
        Some(if silent { Agent::Silent } else { Agent::Speaks(machine.last_beat) })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Rack {
    fn objects(&self) -> Arc<Objects> {
        let inside = self.inside();
        let mut objects = Objects::new();
        let ticks = u32::try_from(clock::now().since(inside.started).as_millis() / 10).unwrap_or(u32::MAX);
        let mut system = |arc: u32, value| objects.insert(Oid::from_slice(&SYSTEM).child(arc).child(0), value);
        system(1, Value::OctetString("rack in memory".into()));
        system(2, Value::ObjectIdentifier(Oid::from_slice(&[1, 3, 6, 1, 4, 1, 318, 1, 3, 4, 6])));
        system(3, Value::TimeTicks(ticks));
        system(5, Value::OctetString("rack1".into()));
        let apc = |arcs: &[u32]| Oid::new(APC.into_iter().chain(arcs.iter().copied()));
        let told = if inside.faults.half { inside.machines.len() / 2 } else { inside.machines.len() };
        let watts: u32 = inside.machines.iter().filter(|m| m.powered).map(|m| m.watts).sum();
        objects.insert(apc(&[12, 1, 16, 0]), Value::Integer(watts.cast_signed()));
        objects.insert(apc(&[12, 1, 15, 0]), Value::Integer(-1));
        objects.insert(apc(&[26, 4, 3, 1, 9, 1]), Value::Integer(inside.energy_counts.cast_signed()));
        for (i, machine) in (1u32..).zip(inside.machines.iter().take(told)) {
            let drawn = if machine.powered { machine.watts } else { 0 };
            objects.insert(apc(&[26, 9, 2, 3, 1, 3, i]), Value::OctetString(format!("node{i}").into()));
            objects.insert(apc(&[26, 9, 2, 3, 1, 5, i]), Value::Integer(if machine.told_on { 2 } else { 1 }));
            objects.insert(apc(&[26, 9, 4, 3, 1, 7, i]), Value::Integer(drawn.cast_signed()));
        }
        Arc::new(objects)
    }

    fn set(&self, oid: &Oid, value: i32) -> bool {
        let mut inside = self.inside();
        let control = Oid::new(APC.into_iter().chain([26, 9, 2, 4, 1, 5]));
        let Some(&[outlet]) = oid.strip_prefix(&control).as_ref().map(Oid::arcs) else { return false };
        let faults = inside.faults;
        inside.sets += 1;
        let place = usize::try_from(outlet).unwrap_or(0).wrapping_sub(1);
        let Some(machine) = inside.machines.get_mut(place) else { return false };
        let on = match value {
            1 => true,
            2 => false,
            _ => return false,
        };
        if faults.deaf {
            return true;
        }
        machine.told_on = on;
        if !faults.stuck_relays {
            machine.powered = on;
        }
        true
    }
}
