//! What a series' energy is added up under. Pure.
//!
//! A workload has a series per zone; only zones that make up the node are added, so that a joule is counted once.

use std::collections::HashMap;
use std::sync::Arc;

use ebbtide_proto::series::{Metric, Quality, WorkloadInfo};
use ebbtide_proto::{NodeId, WorkloadId, WorkloadKind, v1::GroupBy};

use super::names::{Definition, Names};

/// The best description of each workload of a node: the one with the most labels, the latest of those.
#[derive(Debug, Default)]
pub struct Described(HashMap<WorkloadId, Arc<WorkloadInfo>>);

impl Described {
    /// Goes through all descriptions.
    pub fn new(names: &Names) -> Self {
        let mut best: HashMap<WorkloadId, Arc<WorkloadInfo>> = HashMap::new();
        for workload in names.values().filter_map(|named| named.definition.workload.as_ref()) {
            let better = |known: &Arc<WorkloadInfo>| known.labels.len() <= workload.labels.len();
            if best.get(&workload.id).is_none_or(better) {
                best.insert(workload.id.clone(), Arc::clone(workload));
            }
        }
        Self(best)
    }

    /// What is known best of a workload.
    pub fn of<'a>(&'a self, workload: &'a Arc<WorkloadInfo>) -> &'a Arc<WorkloadInfo> {
        self.0.get(&workload.id).unwrap_or(workload)
    }
}

/// The group that a series' energy belongs to; `None`: to no group of this kind.
pub fn group(definition: &Definition, by: GroupBy, node: &NodeId, described: &Described) -> Option<String> {
    let zone = definition.zone.as_ref().filter(|_| definition.metric == Metric::Energy)?;
    if by == GroupBy::Zone {
        return definition.workload.is_none().then(|| format!("{node}/{}", zone.name));
    }
    if !zone.counts {
        return None;
    }
    let Some(workload) = &definition.workload else {
        return match by {
            GroupBy::Fleet => Some("fleet".to_owned()),
            GroupBy::Node => Some(node.to_string()),
            GroupBy::Component => Some(zone.kind.component().as_str().to_owned()),
            _ => None,
        };
    };
    let info = described.of(workload);
    let name = workload.id.name();
    match (by, workload.id.kind()) {
        (GroupBy::Namespace, WorkloadKind::Namespace)
        | (GroupBy::Unit, WorkloadKind::Unit)
        | (GroupBy::User, WorkloadKind::User) => Some(name.to_owned()),
        (GroupBy::Vm, WorkloadKind::Vm) => Some(name.to_owned()),
        (GroupBy::Pod, WorkloadKind::Pod) => Some(pod(info)),
        (GroupBy::Container, WorkloadKind::Container) => Some(info.label("name").unwrap_or(name).to_owned()),
        (GroupBy::App, WorkloadKind::Pod) => Some(app_of_pod(workload)),
        (GroupBy::App, WorkloadKind::Unit) if workload.label("pod").is_none() => Some(app_of_unit(name)),
        _ => None,
    }
}

/// How good a series' figures are.
pub fn quality(definition: &Definition) -> Quality {
    definition.zone.as_ref().map_or(Quality::Measured, |zone| zone.quality)
}

/// `namespace/pod`, or its uid as long as nobody knows its name.
fn pod(info: &WorkloadInfo) -> String {
    match (info.label("namespace"), pod_name(info)) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => info.id.name().to_owned(),
    }
}

fn pod_name(info: &WorkloadInfo) -> Option<&str> {
    info.label("pod").or_else(|| info.label("name")).filter(|name| *name != info.id.name())
}

/// The application of a pod: label `app`, else its name without what makes it unique.
///
/// Sums by application are kept as they come, so this goes by the description that the series has, not the best.
fn app_of_pod(info: &WorkloadInfo) -> String {
    let label = info.label("app").or_else(|| info.label("app.kubernetes.io/name")).filter(|app| !app.is_empty());
    label.unwrap_or_else(|| pod_name(info).map_or(info.id.name(), without_suffix)).to_owned()
}

/// A pod's name without the ordinal of a stateful set, or the hashes of a deployment or daemon set.
fn without_suffix(name: &str) -> &str {
    // the alphabet of Kubernetes' random suffixes has no vowels and no 0, 1, 3
    let random = |part: &str| part.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b));
    let Some((rest, last)) = name.rsplit_once('-') else { return name };
    if !last.is_empty() && last.len() <= 4 && last.bytes().all(|b| b.is_ascii_digit()) {
        return rest;
    }
    if last.len() != 5 || !random(last) {
        return name;
    }
    match rest.rsplit_once('-') {
        Some((base, hash)) if (6..=10).contains(&hash.len()) && random(hash) && !base.is_empty() => base,
        _ => rest,
    }
}

/// `getty@tty1.service` → `getty.service`.
fn app_of_unit(name: &str) -> String {
    match (name.split_once('@'), name.rsplit_once('.')) {
        (Some((stem, _)), Some((_, kind))) if !stem.is_empty() && !kind.contains('@') => format!("{stem}.{kind}"),
        (Some((stem, _)), _) if !stem.is_empty() => stem.to_owned(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_a_name_without_what_makes_it_unique() {
        for (pod, app) in [
            ("web-7d4b9c6f5d-x2x7k", "web"),
            ("my-api-6f5d4b9c7d-bcdfg", "my-api"),
            ("node-exporter-x2x7k", "node-exporter"),
            ("db-0", "db"),
            ("db-12", "db"),
            ("standalone", "standalone"),
            ("cache-redis", "cache-redis"),
            ("job-about", "job-about"),
        ] {
            assert_eq!(without_suffix(pod), app, "{pod}");
        }
        for (unit, app) in [
            ("nginx.service", "nginx.service"),
            ("getty@tty1.service", "getty.service"),
            ("user@1000.service", "user.service"),
            ("init.scope@1000", "init.scope"),
        ] {
            assert_eq!(app_of_unit(unit), app, "{unit}");
        }
    }
}
