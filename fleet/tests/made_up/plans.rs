//! Plans of a made-up fleet: two servers of which one would do, and one that nobody may switch.

use std::collections::BTreeMap;
use std::time::Duration;

use ebbtide_fleet::decide::observe::{Seen, Sight};
use ebbtide_fleet::decide::{Mode, Plans};
use ebbtide_fleet::query::{PlanQueries, QueryError};
use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;
use ebbtide_proto::v1::*;

use super::THEN;

const INVENTORY: &str = "
    [[node]]
    name = 'edge1'
    pool = 'edge'
    watts = [96, 310]
    switchable = true
    wake-proven = true
    [[node]]
    name = 'edge2'
    pool = 'edge'
    watts = [96, 310]
    switchable = true
    wake-proven = true
    [[workload]]
    name = 'web-*'
    cpus = 2
    movable = true
";

/// They, as the daemon would tell of them; `None`: none was made yet.
pub struct MadeUpPlans(pub Option<Plans>);

fn sight(watts: f64, busy: f64, names: &[&str]) -> Sight {
    let seen = |name: &&str| Seen {
        id: format!("container/{name}").parse().unwrap(),
        name: (*name).to_owned(),
        cpu_milli: Some(busy),
    };
    Sight {
        fresh: true,
        watts: Some(watts),
        error: 0.02,
        cpu_milli: Some(100.0 + busy * names.len() as f64),
        cpus: Some(64),
        sockets: 2,
        model: "Xeon".to_owned(),
        workloads: names.iter().map(seen).collect(),
        ..Sight::default()
    }
}

impl MadeUpPlans {
    /// Half an hour of a fleet, and what was planned at its end.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("inventory.toml");
        std::fs::write(&inventory, INVENTORY).unwrap();
        let plans =
            Plans::open(folder.path(), Mode::Recommend, Some(&inventory), None, Duration::from_secs(60)).unwrap();
        let seen: BTreeMap<NodeId, Sight> = [
            ("edge1", sight(120.0, 900.0, &["web-1", "web-2", "web-3"])),
            ("edge2", sight(100.0, 300.0, &["web-4"])),
            ("ru1", sight(7.5, 50.0, &["ran"])),
        ]
        .into_iter()
        .map(|(name, sight)| (NodeId::new(name).unwrap(), sight))
        .collect();
        for round in 0..60 {
            plans.round(Time::from_ms(THEN - (60 - round) * 30_000), &seen, &[]);
        }
        Self(Some(plans))
    }

    fn made(&self) -> Result<&Plans, QueryError> {
        self.0.as_ref().ok_or_else(|| QueryError::NotYet("there is no plan yet: the daemon has just started".into()))
    }
}

impl PlanQueries for MadeUpPlans {
    fn plan(&self, request: &GetPlanRequest) -> Result<Plan, QueryError> {
        // what planning takes is another thing each time
        Ok(Plan { took_us: 4200, ..PlanQueries::plan(self.made()?, request)? })
    }

    fn plans(&self, request: &ListPlansRequest) -> Result<ListPlansResponse, QueryError> {
        PlanQueries::plans(self.made()?, request)
    }

    fn explain(&self, request: &ExplainRequest) -> Result<Explanation, QueryError> {
        PlanQueries::explain(self.made()?, request)
    }

    fn what_if(&self, request: &WhatIfRequest) -> Result<WhatIfResponse, QueryError> {
        PlanQueries::what_if(self.made()?, request)
    }

    fn replay(&self, request: &ReplayPlanRequest) -> Result<ReplayPlanResponse, QueryError> {
        PlanQueries::replay(self.made()?, request)
    }
}
