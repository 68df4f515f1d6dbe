//! What the agent said, followed sample by sample beside the truth, and the figures at the end.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ebbtide_proto::Energy;

use super::kepler::NodeTime;
use super::{Accuracy, Errors, FloorScore, LEAST_CPU_S, LEAST_SHARE, WorkloadScore, ZoneScore};
use crate::counter::Gap;
use crate::snapshot::{Snapshot, ZoneState, ZoneView};
use crate::source::ZoneKind;
use crate::source::discover::Role;
use crate::twin::scenario::{Pattern, Scenario};
use crate::twin::truth::{ProcessTruth, Truth, ZoneTruth};
use crate::usage::table::TaskClass;

/// A clock tick of `/proc/PID/stat`, ns.
const TICK_NS: u64 = 10_000_000;

/// Everything that is followed.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// For each of the agent's zones its place in the truth.
    zones: Vec<Option<usize>>,
    tracks: Vec<ZoneTrack>,
    /// What the agent gave to each row of its own, by pid as shown; in order, so that sums of a run are those of the next.
    rows: BTreeMap<String, Row>,
    /// By key in the truth.
    processes: BTreeMap<u64, Process>,
    node: Option<NodeTime>,
    elapsed_ns: u64,
}

/// One of the agent's zones.
#[derive(Clone, Debug, Default)]
struct ZoneTrack {
    total: Energy,
    gaps: u64,
    truth_total: Energy,
    truth_idle: Energy,
    /// Truth of the time with gaps.
    gap_total: u64,
    gap_idle: u64,
    kepler_idle: f64,
    floor_at_10_min: Option<FloorScore>,
}

/// A row of the agent.
#[derive(Debug)]
struct Row {
    comm: String,
    class: TaskClass,
    /// By the agent's zones, µJ.
    energy: Vec<u64>,
}

/// One process of the truth.
#[derive(Clone, Debug, Default)]
struct Process {
    ticks: u64,
    /// By the truth's zones at the last sample.
    mark: Vec<Energy>,
    /// Truth of the time with gaps, by the agent's zones, µJ.
    in_gaps: Vec<u64>,
    /// By the agent's zones, µJ.
    kepler: Vec<f64>,
}

/// What a process or workload drew: truth and two opinions, joules.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    cpu_s: f64,
    truth: f64,
    agent: f64,
    kepler: f64,
    workload: Option<usize>,
}

impl Follower {
    /// Takes a sample. `fresh` says that the agent has just been started.
    pub(super) fn take(&mut self, s: &Snapshot, truth: &Truth, node: Option<NodeTime>, elapsed_ns: u64, fresh: bool) {
        let n = s.zones.len();
        if self.zones.len() != n {
            self.zones = s.zones.iter().map(|z| truth.zones.iter().position(|t| is(z, t))).collect();
            self.tracks.resize(n, ZoneTrack::default());
        }
        for row in s.tasks.iter() {
            let task = row.row;
            let kept = self.rows.entry(task.labels.pid.clone()).or_insert_with(|| Row {
                comm: String::new(),
                class: task.class,
                energy: vec![0; n],
            });
            if kept.comm != task.labels.comm {
                kept.comm.clone_from(&task.labels.comm);
            }
            for (sum, e) in kept.energy.iter_mut().zip(row.last) {
                *sum += e.uj();
            }
        }
        let usage = match (self.node, node) {
            (Some(a), Some(b)) => b.usage_since(a),
            _ => 0.0,
        };
        let covered: Vec<bool> = s
            .zones
            .iter()
            .zip(&self.tracks)
            .map(|(z, t)| z.state == ZoneState::Live && z.account.gaps.iter().sum::<u64>() == t.gaps)
            .collect();
        let drew: Vec<f64> = s
            .zones
            .iter()
            .zip(self.tracks.iter().zip(&covered))
            .map(|(z, (t, c))| if *c { z.account.total.saturating_sub(t.total).uj() as f64 } else { 0.0 })
            .collect();
        self.processes(truth, &covered, &drew, usage, fresh);
        for (i, (z, t)) in s.zones.iter().zip(&mut self.tracks).enumerate() {
            let Some(real) = self.zones.get(i).copied().flatten().and_then(|z| truth.zones.get(z)) else { continue };
            if covered.get(i) == Some(&true) {
                t.kepler_idle += drew.get(i).copied().unwrap_or(0.0) * (1.0 - usage);
            } else {
                t.gap_total += real.total.saturating_sub(t.truth_total).uj();
                t.gap_idle += real.idle.saturating_sub(t.truth_idle).uj();
            }
            (t.total, t.gaps) = (z.account.total, z.account.gaps.iter().sum());
            (t.truth_total, t.truth_idle) = (real.total, real.idle);
            if t.floor_at_10_min.is_none() && elapsed_ns >= 600_000_000_000 {
                t.floor_at_10_min = floor(z, real, elapsed_ns);
            }
        }
        self.node = node;
        self.elapsed_ns = elapsed_ns;
    }

    fn processes(&mut self, truth: &Truth, covered: &[bool], drew: &[f64], usage: f64, fresh: bool) {
        let changed = |p: &ProcessTruth| p.ended_ns.is_none_or(|at| at > self.elapsed_ns);
        let mut ran: Vec<(u64, u64)> = Vec::new();
        for (&key, p) in truth.processes.iter().filter(|(_, p)| changed(p)) {
            let known = self.processes.entry(key).or_insert_with(|| Process {
                ticks: 0,
                mark: truth.empty_share().dynamic,
                in_gaps: vec![0; covered.len()],
                kepler: vec![0.0; covered.len()],
            });
            for (gap, (zone, _)) in
                known.in_gaps.iter_mut().zip(self.zones.iter().zip(covered)).filter(|(_, (_, covered))| !**covered)
            {
                let at = |of: &[Energy]| zone.and_then(|z| of.get(z)).copied().unwrap_or_default();
                *gap += at(&p.share.dynamic).saturating_sub(at(&known.mark)).uj();
            }
            known.mark.clone_from(&p.share.dynamic);
            if p.ended_ns.is_none() {
                let ticks = p.share.cpu_ns / TICK_NS;
                ran.push((key, if fresh { 0 } else { ticks - known.ticks }));
                known.ticks = ticks;
            }
        }
        let all: u64 = ran.iter().map(|r| r.1).sum();
        for (key, ticks) in ran.into_iter().filter(|r| r.1 > 0) {
            let Some(p) = self.processes.get_mut(&key) else { continue };
            for (sum, uj) in p.kepler.iter_mut().zip(drew) {
                *sum += uj * usage * ticks as f64 / all as f64;
            }
        }
    }

    /// The figures of the agent, of the yardstick, and of each workload and zone.
    pub(super) fn figures(
        &self,
        scenario: &Scenario,
        last: &Snapshot,
        truth: &Truth,
    ) -> (Accuracy, Accuracy, Vec<WorkloadScore>, Vec<ZoneScore>) {
        let total = |kind: Option<ZoneKind>| -> Vec<bool> {
            let counts = |z: &ZoneView| z.role == Role::Total && kind.is_none_or(|k| z.zone.kind == k);
            last.zones.iter().map(counts).collect()
        };
        let (cpu, dram, node) = (total(Some(ZoneKind::Package)), total(Some(ZoneKind::Dram)), total(None));
        let [by_cpu, by_dram, by_node] = [&cpu, &dram, &node].map(|zones| self.cases(zones, truth));
        let workloads = self.workloads(&cpu, truth);
        let of = |opinion: fn(&Case) -> f64| {
            let storm = |w: usize| matches!(scenario.workloads.get(w).map(|w| &w.pattern), Some(Pattern::Storm { .. }));
            let steady =
                |w: usize| matches!(scenario.workloads.get(w).map(|w| &w.pattern), Some(Pattern::Steady { .. }));
            let storms = workloads.iter().enumerate().filter(|(w, _)| storm(*w)).map(|(_, c)| c);
            let (got, true_j) = storms.fold((0.0, 0.0), |(a, t), c| (a + opinion(c), t + c.truth));
            let has_storm = true_j > 0.0;
            let beside = by_cpu.iter().filter(|c| has_storm && c.truth > 0.0 && c.workload.is_some_and(steady));
            Accuracy {
                cpu: errors(&by_cpu, opinion),
                dram: errors(&by_dram, opinion),
                node: errors(&by_node, opinion),
                workloads: errors(&workloads, opinion),
                storm: has_storm.then(|| got / true_j),
                beside_storm: beside.map(|c| opinion(c) / c.truth - 1.0).max_by(|a, b| a.abs().total_cmp(&b.abs())),
            }
        };
        let (agent, kepler) = (of(|c| c.agent), of(|c| c.kepler));
        let rows = workloads
            .into_iter()
            .map(|c| WorkloadScore {
                name: c.name,
                cpu_s: c.cpu_s,
                truth_j: c.truth,
                agent_j: c.agent,
                kepler_j: c.kepler,
            })
            .collect();
        (agent, kepler, rows, self.zones(last, truth))
    }

    /// The sum over the zones that are `true`, joules.
    fn joules<T: Copy + Into<f64>>(of: &[T], zones: &[bool]) -> f64 {
        of.iter().zip(zones).filter(|(_, z)| **z).map(|(e, _)| (*e).into()).sum::<f64>() / 1e6
    }

    /// What a share of the truth holds in the zones that are `true`, joules.
    fn true_joules(&self, dynamic: &[Energy], zones: &[bool]) -> f64 {
        let of = |zone: &Option<usize>| zone.and_then(|z| dynamic.get(z)).map_or(0.0, |e| e.joules());
        self.zones.iter().zip(zones).filter(|(_, z)| **z).map(|(zone, _)| of(zone)).sum()
    }

    fn cases(&self, zones: &[bool], truth: &Truth) -> Vec<Case> {
        let case = |(key, p): (&u64, &ProcessTruth)| {
            let known = self.processes.get(key)?;
            let pid = p.pid.to_string();
            let row = self.rows.get(&pid).map_or(0.0, |r| micro(&r.energy, zones));
            Some(Case {
                name: format!("{} ({pid})", p.comm),
                cpu_s: p.share.cpu_ns as f64 / 1e9,
                truth: self.true_joules(&p.share.dynamic, zones) - micro(&known.in_gaps, zones),
                agent: row,
                kepler: Self::joules(&known.kepler, zones),
                workload: p.workload,
            })
        };
        truth.processes.iter().filter_map(case).collect()
    }

    /// By the name under which the agent shows a process.
    fn workloads(&self, zones: &[bool], truth: &Truth) -> Vec<Case> {
        let mut out: Vec<Case> = truth
            .workloads
            .iter()
            .enumerate()
            .map(|(n, w)| Case {
                name: w.name.clone(),
                cpu_s: w.share.cpu_ns as f64 / 1e9,
                truth: self.true_joules(&w.share.dynamic, zones),
                agent: 0.0,
                kepler: 0.0,
                workload: Some(n),
            })
            .collect();
        let by_pid: HashMap<String, &ProcessTruth> = truth.processes.values().map(|p| (p.pid.to_string(), p)).collect();
        for (key, p) in &truth.processes {
            let (Some(known), Some(case)) = (self.processes.get(key), p.workload.and_then(|w| out.get_mut(w))) else {
                continue;
            };
            case.truth -= micro(&known.in_gaps, zones);
            case.kepler += Self::joules(&known.kepler, zones);
        }
        for (pid, row) in &self.rows {
            let workload = match by_pid.get(pid) {
                Some(p) if *p.comm == row.comm => p.workload,
                _ if row.class == TaskClass::EndedChildren => truth.workloads.iter().position(|w| *w.comm == row.comm),
                _ => None,
            };
            if let Some(case) = workload.and_then(|w| out.get_mut(w)) {
                case.agent += micro(&row.energy, zones);
            }
        }
        out
    }

    fn zones(&self, last: &Snapshot, truth: &Truth) -> Vec<ZoneScore> {
        let score = |(i, z): (usize, &ZoneView)| {
            let real = truth.zones.get(self.zones.get(i).copied().flatten()?)?;
            let track = self.tracks.get(i)?;
            let idle = real.idle.joules() - track.gap_idle as f64 / 1e6;
            let against = |j: f64| (idle > 0.0).then(|| j / idle - 1.0);
            let gaps = Gap::ALL.iter().zip(&z.account.gaps).filter(|(_, n)| **n > 0);
            Some(ZoneScore {
                zone: real.id.clone(),
                kind: real.kind,
                role: z.role,
                truth_j: real.total.joules(),
                error_j: z.account.total.joules() - real.total.joules(),
                gaps: gaps.map(|(g, n)| (g.as_str(), *n)).collect(),
                wraps: z.account.wraps,
                residual_j: z.account.residual.joules(),
                in_gaps_j: track.gap_total as f64 / 1e6,
                floor_at_10_min: track.floor_at_10_min.clone(),
                floor: floor(z, real, self.elapsed_ns),
                idle_error: against(z.account.idle.joules()),
                kepler_idle_error: against(track.kepler_idle / 1e6),
            })
        };
        last.zones.iter().enumerate().filter_map(score).collect()
    }
}

/// Whether the agent's zone is this one.
fn is(zone: &ZoneView, truth: &ZoneTruth) -> bool {
    let folder = Path::new(&zone.zone.path).parent().and_then(Path::file_name);
    folder.is_some_and(|f| f.to_string_lossy() == truth.folder)
}

fn floor(z: &ZoneView, truth: &ZoneTruth, elapsed_ns: u64) -> Option<FloorScore> {
    let floor = z.floor?;
    let truth_w = truth.idle.joules() * 1e9 / elapsed_ns.max(1) as f64;
    (truth_w > 0.0).then(|| FloorScore {
        watts: floor.power.watts(),
        stated_error_w: floor.error.watts(),
        kind: floor.kind,
        truth_w,
    })
}

fn micro(of: &[u64], zones: &[bool]) -> f64 {
    of.iter().zip(zones).filter(|(_, z)| **z).map(|(uj, _)| *uj as f64).sum::<f64>() / 1e6
}

fn errors(cases: &[Case], opinion: fn(&Case) -> f64) -> Errors {
    let all: f64 = cases.iter().map(|c| c.truth).sum();
    let large = |c: &&Case| c.truth > 0.0 && c.truth >= LEAST_SHARE * all && c.cpu_s >= LEAST_CPU_S;
    let judged: Vec<&Case> = cases.iter().filter(large).collect();
    let relative = |c: &Case| opinion(c) / c.truth - 1.0;
    let worst = judged.iter().max_by(|a, b| relative(a).abs().total_cmp(&relative(b).abs()));
    let n = judged.len();
    let off: f64 = judged.iter().map(|c| (opinion(c) - c.truth).abs()).sum();
    Errors {
        judged: n,
        mape: (n > 0).then(|| judged.iter().map(|c| relative(c).abs()).sum::<f64>() / n as f64),
        weighted: (n > 0).then(|| off / judged.iter().map(|c| c.truth).sum::<f64>()),
        worst: worst.map(|c| relative(c)),
        worst_of: worst.map(|c| c.name.clone()),
    }
}
