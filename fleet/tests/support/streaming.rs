//! Machines whose made-up agents stream: watts of a zone, CPU time of containers.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses its part of this; a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::frame::{Batch, Column};
use ebbtide_proto::series::{Metric, Quality, SeriesKey, WorkloadInfo, ZoneInfo, ZoneKind};
use ebbtide_proto::{Ratio, WorkloadId, WorkloadKind, ZoneId};
use ebbtide_runtime::tasks::Tasks;

use crate::daemon::{Agent, Daemon, hello, now_ms};

/// Between two moments of the past.
const STEP_MS: u64 = 300_000;

/// A machine whose agent tells its watts and the busy CPUs of its containers, twice a second until it is dropped.
pub struct Machine {
    _tasks: Tasks,
}

impl Machine {
    pub async fn start(daemon: &Daemon, name: &str, watts: u64, containers: &'static [(&'static str, u64)]) -> Self {
        Self::since(daemon, name, now_ms(), watts, containers).await
    }

    /// It first tells what it has used since `began`, in steps of five minutes.
    pub async fn since(
        daemon: &Daemon,
        name: &str,
        began: u64,
        watts: u64,
        containers: &'static [(&'static str, u64)],
    ) -> Self {
        let channel = match &daemon.authority {
            Some(_) => daemon.connect_as(&format!("ebbtide://node/{name}"), None).await.unwrap(),
            None => daemon.connect().await,
        };
        let mut agent = Agent::join(channel, hello(name, 7)).await.unwrap();
        let mut tasks = Tasks::new();
        tasks.spawn(name.to_owned(), async move {
            let past = (1..=(now_ms() - began) / STEP_MS).map(|step| began + step * STEP_MS);
            let ticks = past.map(Some).chain(std::iter::repeat(None));
            for (seq, tick) in (1..).zip(ticks) {
                agent.send(&at(seq, began, tick.unwrap_or_else(now_ms), watts, containers)).await;
                agent.acked(seq).await?;
                if tick.is_none() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            Ok(())
        });
        Self { _tasks: tasks }
    }
}

/// What was used from `began` until `now`: watts of one zone, milli-CPUs of containers (`NAME`, or `ID:NAME`) and of the
/// node.
pub fn at(seq: u64, began: u64, now: u64, watts: u64, containers: &[(&str, u64)]) -> Batch {
    let spent = now - began;
    let zone = Arc::new(ZoneInfo {
        id: ZoneId::new("powercap/package-0").unwrap(),
        name: "package-0".into(),
        kind: ZoneKind::Package,
        socket: Some(0),
        source: "powercap".into(),
        quality: Quality::Measured,
        error: Ratio::from_percent(2),
        counts: true,
    });
    let cpu = |workload: Option<WorkloadId>| SeriesKey { metric: Metric::CpuTime, zone: None, workload };
    let mut series = vec![SeriesKey { metric: Metric::Energy, zone: Some(zone.id.clone()), workload: None }, cpu(None)];
    let mut values = vec![spent * watts * 1000, spent * 1000 * containers.iter().map(|c| c.1).sum::<u64>()];
    let mut workloads = Vec::new();
    for (name, milli) in containers {
        let (id, name) = name.split_once(':').unwrap_or((name, name));
        let id = WorkloadId::new(WorkloadKind::Container, id).unwrap();
        series.push(cpu(Some(id.clone())));
        values.push(spent * 1000 * milli);
        workloads.push(Arc::new(WorkloadInfo { id, labels: [("name", name)].into_iter().collect() }));
    }
    let columns = (0..series.len()).map(|i| Column { series: u32::try_from(i).unwrap(), first: 0, len: 1 }).collect();
    Batch {
        seq,
        boot: Some("0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d".parse().unwrap()),
        ticks: vec![now],
        series,
        zones: vec![zone],
        workloads,
        columns,
        values,
        dropped: None,
    }
}
