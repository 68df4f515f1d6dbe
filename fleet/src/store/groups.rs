//! What a series' energy is added up under. Pure.
//!
//! A workload has a series per zone; only zones that make up the node are added, so that a joule is counted once.

use std::collections::HashMap;
use std::sync::Arc;

use ebbtide_proto::series::{Metric, Quality, WorkloadInfo};
use ebbtide_proto::{NodeId, WorkloadId, v1::GroupBy};

use super::names::{Definition, Names};
use crate::groups;

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
    match by {
        // sums by application are kept as they come, so this goes by the description that the series has, not the best
        GroupBy::App => groups::of_workload(by, workload),
        _ => groups::of_workload(by, described.of(workload)),
    }
}

/// How good a series' figures are.
pub fn quality(definition: &Definition) -> Quality {
    definition.zone.as_ref().map_or(Quality::Measured, |zone| zone.quality)
}
