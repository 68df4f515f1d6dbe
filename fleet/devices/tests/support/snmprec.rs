//! Recordings of devices in the form of snmpsim: `OID|type|value`, one object a line.

use std::path::Path;

use ebbtide_devices::snmp::oid::{Oid, Tree, Value};

/// One object with its SNMP type.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) oid: Oid,
    pub(crate) typed: async_snmp::Value,
}

/// Reads a recording of `tests/recordings`.
pub(crate) fn recording(name: &str) -> Vec<Record> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(format!("{name}.snmprec"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| record(line).unwrap_or_else(|| panic!("{name}: {line}"))).collect()
}

/// The objects as the decoder sees them.
pub(crate) fn tree(records: &[Record]) -> Tree {
    records.iter().filter_map(|r| Some((r.oid.clone(), value(&r.typed)?))).collect()
}

fn record(line: &str) -> Option<Record> {
    let mut parts = line.splitn(3, '|');
    let (oid, kind, text) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    use async_snmp::Value as V;
    let typed = match kind {
        "2" => V::Integer(text.parse().ok()?),
        "4" => V::OctetString(text.as_bytes().to_vec().into()),
        "4x" => V::OctetString(octets(text)?.into()),
        "6" => V::ObjectIdentifier(async_snmp::Oid::parse(text.trim_start_matches('.')).ok()?),
        "64" => V::IpAddress(text.parse::<std::net::Ipv4Addr>().ok()?.octets()),
        "65" => V::Counter32(text.parse().ok()?),
        "66" => V::Gauge32(text.parse().ok()?),
        "67" => V::TimeTicks(text.parse().ok()?),
        "70" => V::Counter64(text.parse().ok()?),
        _ => return None,
    };
    Some(Record { oid, typed })
}

fn octets(hex: &str) -> Option<Vec<u8>> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn value(typed: &async_snmp::Value) -> Option<Value> {
    use async_snmp::Value as V;
    Some(match typed {
        V::Integer(n) => Value::Number((*n).into()),
        V::Counter32(n) | V::Gauge32(n) | V::TimeTicks(n) => Value::Number((*n).into()),
        V::Counter64(n) => Value::Number((*n).into()),
        V::OctetString(octets) => Value::Octets(octets.to_vec()),
        V::ObjectIdentifier(id) => Value::Id(Oid::new(id.arcs())),
        _ => return None,
    })
}
