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

plain!(bool, u32, u64, i64, f64, String);

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

/// How an outlet stands as a word; empty if it is not said.
pub(super) fn power_state(number: i32) -> String {
    v1::PowerState::try_from(number).ok().and_then(|s| word(s.as_str_name(), "POWER_STATE_")).unwrap_or_default()
}

/// What an action does as a word; empty if it is not said.
pub(super) fn action(number: i32) -> String {
    v1::ActionKind::try_from(number).ok().and_then(|k| word(k.as_str_name(), "ACTION_KIND_")).unwrap_or_default()
}

/// What a pool may do as a word; empty if it is not said.
pub(super) fn pool_mode(number: i32) -> String {
    v1::PoolMode::try_from(number).ok().and_then(|m| word(m.as_str_name(), "POOL_MODE_")).unwrap_or_default()
}

/// How an operation stands as a word; empty if it is not said.
pub(super) fn operation_state(number: i32) -> String {
    v1::OperationState::try_from(number)
        .ok()
        .and_then(|s| word(s.as_str_name(), "OPERATION_STATE_"))
        .unwrap_or_default()
}

/// A field in another form than it has on the wire; `null` where that says that nothing is known.
mod shown {
    pub(super) fn state(number: &i32) -> Option<String> {
        Some(super::state(*number)).filter(|word| !word.is_empty())
    }

    pub(super) fn power_state(number: &i32) -> Option<String> {
        Some(super::power_state(*number)).filter(|word| !word.is_empty())
    }

    pub(super) fn action(number: &i32) -> Option<String> {
        Some(super::action(*number)).filter(|word| !word.is_empty())
    }

    pub(super) fn pool_mode(number: &i32) -> Option<String> {
        Some(super::pool_mode(*number)).filter(|word| !word.is_empty())
    }

    pub(super) fn operation_state(number: &i32) -> Option<String> {
        Some(super::operation_state(*number)).filter(|word| !word.is_empty())
    }

    pub(super) fn mode(number: &i32) -> Option<String> {
        let mode = super::v1::PlanMode::try_from(*number).ok()?;
        super::word(mode.as_str_name(), "PLAN_MODE_")
    }

    pub(super) fn quality(number: &i32) -> Option<String> {
        Some(super::quality(*number)).filter(|word| !word.is_empty())
    }

    pub(super) fn zone_kind(number: &i32) -> Option<String> {
        Some(super::zone_kind(*number)).filter(|word| !word.is_empty())
    }

    /// 0 is no moment of any fleet.
    pub(super) fn moment(ms: &u64) -> Option<u64> {
        Some(*ms).filter(|ms| *ms > 0)
    }
}

macro_rules! value {
    ($field:expr) => {
        &Record(&$field)
    };
    ($field:expr, $form:ident) => {
        &shown::$form(&$field)
    };
}

macro_rules! records {
    ($($message:ident { $($field:ident $(as $form:ident)?),* $(,)? })*) => {
        $(impl Serialize for Record<'_, v1::$message> {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                const FIELDS: &[&str] = &[$(stringify!($field)),*];
                let mut out = s.serialize_struct(stringify!($message), FIELDS.len())?;
                $(out.serialize_field(stringify!($field), value!(self.0.$field $(, $form)?))?;)*
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
        name, state as state, power_uw, idle_uw, quality as quality, cpu_milli, machine,
        last_ms as moment, since_ms as moment,
        agent_version, boot_id, zones, workloads, today_uj, gap_today_ms, trouble, address
    }
    WorkloadPower { id, name, node, power_uw, idle_uw, cpu_milli, quality as quality, labels, nodes, members }
    ListNodesResponse { nodes, now_ms }
    GetNodeResponse { node, workloads, now_ms }
    ListWorkloadsResponse { workloads, total, now_ms }
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
        commit_p99_us, store_bytes, unsealed_frames, oldest_ms as moment, encrypted, data_dir, your_role, troubles
    }
    CreateTokenResponse { id, token, expires_ms }
    Token { id, node, expires_ms, created_by, used_by, used_ms as moment }
    ListTokensResponse { tokens }
    Feed {
        power_uw, power_error_ppm, power_ms as moment, energy_uj, energy_error_ppm, energy_gaps, current_ma, voltage_mv,
        source
    }
    Phase { name, feed }
    Outlet { id, name, state as power_state, switchable, feed, node }
    Device {
        name, kind, vendor, model, serial, firmware, total, phases, outlets, read_ms as moment, trouble, polls, errors,
        missing
    }
    ListDevicesResponse { devices, now_ms }
    SwitchOutletResponse { verdict, text, success, by_state, by_watts, by_agent, commands, took_ms }
    Found { kind, what, config }
    ScanHostResponse { found }
    Suggestion { node, device, outlet, confidence_milli, configured, why }
    SuggestFeedsResponse { suggestions, seen_ms }
    PlanAction { id, kind as action, node, workload, to, needs, deadline_s, change_uw }
    PlanNode {
        name, pool, before as power_state, after as power_state, before_uw, after_uw, workloads_before, workloads_after,
        headline
    }
    Plan {
        id, at_ms as moment, mode as mode, before_uw, after_uw, bound_uw, gap_ppm, cost_uj, pays_back_s, actions, nodes,
        unplaced, violations, cut_short, explanation, digest, confirmed_ms as moment, took_us
    }
    PlanSummary { id, at_ms as moment, actions, before_uw, after_uw, bound_uw, headline, confirmed_ms as moment }
    ListPlansResponse { plans }
    WhatIfResponse { now, then, change_uw, euro_per_year, kg_co2_per_year }
    ReplayPlanResponse { same, text, digest, input_bytes }
    Wake { node, at_ms as moment, proven, path, boot_ms, boot_uj, by, why }
    ListWakesResponse { wakes }
    OperationStep { number, at_ms as moment, what, answered_ms as moment, answer, undo }
    Operation {
        id, what, why, by, state as operation_state, began_ms as moment, ended_ms as moment, deadline_ms as moment, node,
        words, steps, part_of
    }
    ListOperationsResponse { operations }
    PoolControl { name, mode as pool_mode, nodes, open, until_ms as moment }
    Quarantine { node, why }
    ControlState { paused, pools, operations, quarantined, locked, leads, generation, cluster }
    NodeCapacity {
        node, pool, cpu_milli, memory_bytes, allocatable_cpu_milli, allocatable_memory_bytes, requested_cpu_milli,
        requested_memory_bytes, set_cpu_milli, set_memory_bytes, operation, by, why, until_ms as moment
    }
    ListCapacityResponse { nodes }
    AuditEntry { at_ms as moment, who, what, why, node, operation, result }
    ListAuditResponse { entries }
}

/// An explanation; its reason is JSON within the JSON, not a text of it.
impl Serialize for Record<'_, v1::Explanation> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let reason: Option<serde_json::Value> = serde_json::from_str(&self.0.reason_json).ok();
        let mut out = s.serialize_struct("Explanation", 4)?;
        out.serialize_field("headline", &self.0.headline)?;
        out.serialize_field("because", &self.0.because)?;
        out.serialize_field("reason", &reason)?;
        out.serialize_field("plan", &self.0.plan)?;
        out.end()
    }
}

/// A group's energy; `null` in buckets of which nothing is known.
impl Serialize for Record<'_, v1::EnergyGroup> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let group = self.0;
        let known =
            |(index, uj): (usize, &u64)| Some(*uj).filter(|_| group.covered_ms.get(index).is_some_and(|ms| *ms > 0));
        let energy_uj: Vec<Option<u64>> = group.energy_uj.iter().enumerate().map(known).collect();
        let mut out = s.serialize_struct("EnergyGroup", 6)?;
        out.serialize_field("name", &group.name)?;
        out.serialize_field("labels", &Record(&group.labels))?;
        out.serialize_field("total_uj", &group.total_uj)?;
        out.serialize_field("energy_uj", &energy_uj)?;
        out.serialize_field("covered_ms", &group.covered_ms)?;
        out.serialize_field("quality", &shown::quality(&group.quality))?;
        out.end()
    }
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
        let group = serde_json::to_value(Record(&v1::EnergyGroup::default())).unwrap();
        let described = messages.iter().find(|m| m.name == "EnergyGroup").unwrap();
        assert_eq!(described.fields.len(), group.as_object().unwrap().len());
        assert!(described.fields.iter().all(|f| group.get(&f.name).is_some()), "{group}");
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
        assert!(json["last_ms"].is_null(), "never heard of is not 1970");
        assert_eq!((&json["today_uj"], &json["zones"]), (&0.into(), &serde_json::json!([])));
        let group = v1::EnergyGroup { energy_uj: vec![7, 0, 0], covered_ms: vec![9, 9, 0], ..Default::default() };
        let json = serde_json::to_value(Record(&group)).unwrap();
        assert_eq!(json["energy_uj"], serde_json::json!([7, 0, null]));
    }
}
