//! A Raritan PX in memory behind a real SNMP agent: five outlets, each with the watts of the board behind it.

use std::sync::{Arc, Mutex, MutexGuard};

use async_snmp::{Oid, Value};

use crate::snmp::{Device, Objects};

const SYSTEM: [u32; 7] = [1, 3, 6, 1, 2, 1, 1];
/// PDU2-MIB.
const BASE: [u32; 8] = [1, 3, 6, 1, 4, 1, 13742, 6];

/// An outlet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outlet {
    /// Whether it gives power.
    pub on: bool,
    /// What the board behind it draws.
    pub watts: f64,
    /// How often it was switched off, and on.
    pub switched: (u32, u32),
}

/// The PDU; a clone is the same one.
#[derive(Clone)]
pub struct Pdu(Arc<Mutex<Vec<Outlet>>>);

impl Pdu {
    /// With outlets that give power, or don't.
    pub fn new(on: &[bool]) -> Self {
        Self(Arc::new(Mutex::new(on.iter().map(|&on| Outlet { on, ..Outlet::default() }).collect())))
    }

    fn outlets(&self) -> MutexGuard<'_, Vec<Outlet>> {
        self.0.lock().unwrap()
    }

    /// An outlet, from 0.
    pub fn outlet(&self, at: usize) -> Outlet {
        self.outlets()[at]
    }

    /// What the board behind an outlet draws while that gives power.
    pub fn draw(&self, at: usize, watts: f64) {
        let outlet = &mut self.outlets()[at];
        outlet.watts = if outlet.on { watts } else { 0.0 };
    }
}

#[allow(clippy::cast_possible_truncation, reason = "tenths of a few watts")]
fn tenths(watts: f64) -> Value {
    Value::Gauge32((watts * 10.0).round() as u32)
}

impl Device for Pdu {
    fn objects(&self) -> Arc<Objects> {
        let mut objects = Objects::new();
        let outlets = self.outlets();
        let system = |arc: u32| Oid::from_slice(&SYSTEM).child(arc).child(0);
        objects.insert(system(1), Value::OctetString("a PX in memory".into()));
        objects.insert(system(2), Value::ObjectIdentifier(Oid::from_slice(&BASE)));
        objects.insert(system(3), Value::TimeTicks(1));
        let px = |arcs: &[u32]| Oid::new(BASE.iter().copied().chain(arcs.iter().copied()));
        // the inlet's active power, with one decimal
        objects.insert(px(&[3, 3, 4, 1, 7, 1, 1, 5]), Value::Gauge32(1));
        objects.insert(px(&[5, 2, 3, 1, 4, 1, 1, 5]), tenths(outlets.iter().map(|o| o.watts).sum()));
        for (i, outlet) in (1u32..).zip(outlets.iter()) {
            let state = if outlet.on { 7 } else { 8 };
            objects.insert(px(&[3, 5, 3, 1, 3, 1, i]), Value::OctetString(format!("outlet {i}").into()));
            objects.insert(px(&[3, 5, 3, 1, 28, 1, i]), Value::Integer(1));
            objects.insert(px(&[4, 1, 2, 1, 2, 1, i]), Value::Integer(i32::from(outlet.on)));
            objects.insert(px(&[4, 1, 2, 1, 3, 1, i]), Value::Integer(state));
            objects.insert(px(&[3, 5, 4, 1, 7, 1, i, 5]), Value::Gauge32(1));
            objects.insert(px(&[5, 4, 3, 1, 4, 1, i, 5]), tenths(outlet.watts));
        }
        Arc::new(objects)
    }

    fn set(&self, oid: &Oid, value: i32) -> bool {
        let control = Oid::new(BASE.iter().copied().chain([4, 1, 2, 1, 2, 1]));
        let Some(&[number]) = oid.strip_prefix(&control).as_ref().map(Oid::arcs) else { return false };
        let mut outlets = self.outlets();
        let Some(outlet) = outlets.get_mut((number as usize).wrapping_sub(1)) else { return false };
        match value {
            0 => (outlet.on, outlet.watts, outlet.switched.0) = (false, 0.0, outlet.switched.0 + 1),
            1 => (outlet.on, outlet.switched.1) = (true, outlet.switched.1 + 1),
            _ => return false,
        }
        true
    }
}
