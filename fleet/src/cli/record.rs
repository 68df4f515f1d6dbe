//! The API's messages as JSON and YAML: the keys are the names of the fields in `proto/ebbtide/v1`, units included;
//! enums are their words in small letters; what is not known is `null`, never 0.

use ebbtide_proto::v1;
use serde::ser::{SerializeSeq as _, SerializeStruct as _};
use serde::{Serialize, Serializer};

/// Shows a message, or a field of one.
pub(super) struct Record<'a, T: ?Sized>(pub &'a T);

macro_rules! plain {
    ($($t:ty),*) => {$(
        impl Serialize for Record<'_, $t> {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(s)
            }
        }
    )*};
}

plain!(bool, u32, u64, String);

impl<T> Serialize for Record<'_, Option<T>>
where
    for<'b> Record<'b, T>: Serialize,
{
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(value) => Record(value).serialize(s),
            None => s.serialize_none(),
        }
    }
}

impl<T> Serialize for Record<'_, Vec<T>>
where
    for<'b> Record<'b, T>: Serialize,
{
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut seq = s.serialize_seq(Some(self.0.len()))?;
        for item in self.0 {
            seq.serialize_element(&Record(item))?;
        }
        seq.end()
    }
}

/// An enum's number as its word; `null` for 0 and for what this version doesn't know.
struct Word(Option<String>);

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

/// `NODE_STATE_CATCHING_UP` as `catching-up`.
fn word(name: &str, prefix: &str) -> Option<String> {
    let word = name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', "-");
    (word != "unspecified").then_some(word)
}

/// A node's state as a word; empty if it is not said.
pub(super) fn state(number: i32) -> String {
    v1::NodeState::try_from(number).ok().and_then(|s| word(s.as_str_name(), "NODE_STATE_")).unwrap_or_default()
}

/// A quality as a word; empty if it is not said.
pub(super) fn quality(number: i32) -> String {
    v1::Quality::try_from(number).ok().and_then(|q| word(q.as_str_name(), "QUALITY_")).unwrap_or_default()
}

/// A kind of zone as a word; empty if it is not said.
pub(super) fn zone_kind(number: i32) -> String {
    v1::ZoneKind::try_from(number).ok().and_then(|k| word(k.as_str_name(), "ZONE_KIND_")).unwrap_or_default()
}

macro_rules! value {
    ($field:expr) => {
        &Record(&$field)
    };
    ($field:expr, $words:ident) => {
        &Word(Some($words($field)).filter(|word| !word.is_empty()))
    };
}

macro_rules! records {
    ($($message:ident { $($field:ident $(as $words:ident)?),* $(,)? })*) => {
        $(impl Serialize for Record<'_, v1::$message> {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                const FIELDS: &[&str] = &[$(stringify!($field)),*];
                let mut out = s.serialize_struct(stringify!($message), FIELDS.len())?;
                $(out.serialize_field(stringify!($field), value!(self.0.$field $(, $words)?))?;)*
                out.end()
            }
        })*

        /// Messages that are shown, with their keys.
        #[cfg(test)]
        const SHOWN: &[(&str, &[&str])] = &[$((stringify!($message), &[$(stringify!($field)),*])),*];
    };
}

records! {
    Label { name, value }
    Machine { cpu_model, cpus, sockets, architecture, idle_policy, usage_method }
    Zone { id, name, kind as zone_kind, socket_plus_one, source, quality as quality, error_ppm, counts }
    ZonePower { zone, power_uw, idle_uw, energy_uj, stale }
    Node {
        name, state as state, power_uw, idle_uw, quality as quality, cpu_milli, machine, last_ms, since_ms,
        agent_version, boot_id, zones, workloads, today_uj, gap_today_ms, trouble, address
    }
    WorkloadPower { id, name, node, power_uw, idle_uw, cpu_milli, quality as quality, labels, nodes, members }
    ListNodesResponse { nodes, now_ms }
    GetNodeResponse { node, workloads, now_ms }
    ListWorkloadsResponse { workloads, total, now_ms }
    EnergyGroup { name, labels, total_uj, energy_uj, covered_ms, quality as quality }
    QueryEnergyResponse { from_ms, step_ms, buckets, groups, other, now_ms }
    NodeZone { node, zone }
    ListZonesResponse { zones }
    ComponentPower { component, power_uw }
    Totals {
        power_uw, idle_uw, today_uj, nodes, live, stale, troubled, workloads, quality as quality, components
    }
    WatchResponse { now_ms, totals, nodes, removed, workloads }
    Refusals { reason, count }
    GetStatusResponse {
        version, started_ms, now_ms, nodes, connected, samples, frames, duplicates, dropped_frames, refusals,
        commit_p99_us, store_bytes, unsealed_frames, oldest_ms, encrypted, data_dir, your_role, troubles
    }
    CreateTokenResponse { id, token, expires_ms }
    Token { id, node, expires_ms, created_by, used_by, used_ms }
    ListTokensResponse { tokens }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    // The little of descriptor.proto that is needed to see names of fields.
    #[derive(Clone, PartialEq, Message)]
    struct Set {
        #[prost(message, repeated, tag = "1")]
        files: Vec<File>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct File {
        #[prost(message, repeated, tag = "4")]
        messages: Vec<Described>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Described {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, repeated, tag = "2")]
        fields: Vec<Field>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Field {
        #[prost(string, tag = "1")]
        name: String,
    }

    #[test]
    fn every_field_of_an_answer_is_a_key() {
        let files = Set::decode(v1::DESCRIPTORS).unwrap().files;
        let messages: Vec<_> = files.into_iter().flat_map(|f| f.messages).collect();
        for (name, keys) in SHOWN {
            let message = messages.iter().find(|m| m.name == *name).unwrap();
            // numbers within a frame mean nothing outside of it
            let fields: Vec<_> = message.fields.iter().map(|f| f.name.as_str()).filter(|f| *f != "ref").collect();
            assert_eq!(fields, *keys, "{name}");
        }
        let answers = messages.iter().filter(|m| m.name.ends_with("Response"));
        let answers: Vec<_> = answers
            .map(|m| m.name.as_str())
            .filter(|n| !matches!(*n, "JoinResponse" | "RevokeTokenResponse"))
            .collect();
        for answer in answers {
            assert!(SHOWN.iter().any(|(name, _)| *name == answer), "{answer} is not shown");
        }
    }

    #[test]
    fn the_unknown_is_null_and_enums_are_words() {
        let node = v1::Node { state: v1::NodeState::CatchingUp.into(), quality: 99, ..Default::default() };
        let json = serde_json::to_value(Record(&node)).unwrap();
        assert_eq!(json["state"], "catching-up");
        assert!(json["quality"].is_null() && json["power_uw"].is_null() && json["machine"].is_null());
        assert_eq!((&json["today_uj"], &json["zones"]), (&0.into(), &serde_json::json!([])));
    }
}
