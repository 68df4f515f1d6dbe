//! The document of all metrics, written from their definitions.

use super::page::{Family, Section};
use super::{kepler, native, own, scaphandre};

/// One part of the page.
pub struct Part {
    /// Its heading in the document.
    pub title: &'static str,
    /// When it is there, in a sentence or two.
    pub about: &'static str,
    /// Its families in the order of the page.
    pub sections: &'static [Section],
}

/// The parts in the order of the page.
pub static PARTS: [Part; 4] = [
    Part {
        title: "Energy and power",
        about: "With `native` in [`names`](config.md#names), which is the default.",
        sections: native::SECTIONS,
    },
    Part {
        title: "Kepler's names",
        about: "With `kepler` in [`names`](config.md#names), so that dashboards made for Kepler work unchanged. Names, types \
                and labels are those of Kepler 0.10; the families whose help says so are of older releases.",
        sections: kepler::SECTIONS,
    },
    Part {
        title: "Scaphandre's names",
        about: "With `scaphandre` in [`names`](config.md#names), so that dashboards made for Scaphandre work unchanged. \
                Counters keep its names, which don't end in `_total`: in OpenMetrics their type is `unknown`.",
        sections: scaphandre::SECTIONS,
    },
    Part { title: "The agent itself", about: "Always there: what the agent costs and does.", sections: own::SECTIONS },
];

/// What labels of Ebbtide's own names say, in the order of the document.
pub static LABELS: [(&str, &str); 26] = [
    ("node", "name of the node, [`node-name`](config.md#node-name)"),
    ("cpu", "the processor's name"),
    ("idle_policy", "who carries idle energy, [`idle-policy`](config.md#idle-policy)"),
    ("version", "version of the agent"),
    ("zone", "a part of the machine whose energy is counted, by the kernel's name; unique on the node"),
    (
        "kind",
        "of a zone: `psys`, `package`, `core`, `uncore`, `dram`, `gpu`, `board`, `wall`, `other`; of a workload: `container`, `pod`, `namespace`, `unit`, `slice`, `vm`, `user`, `system`",
    ),
    (
        "source",
        "who reads the zone: `powercap`, `scmi`, `perf-rapl`, `hwmon`, `battery`, `outlet` (the fleet reads it), or `model` where there is no sensor",
    ),
    (
        "role",
        "`total`: counts towards the node; `part`: is within another zone; `platform`: covers more than what counts; `duplicate`: shows what another zone shows",
    ),
    (
        "state",
        "`starting`, `live`, `stale` (silent; figures are the last ones known) or `absent` (silent for longer; no figures)",
    ),
    (
        "quality",
        "`measured`, `scaled` (from power, converted, or made to add up to the machine's input), `modelled` (a load curve) or `stale`",
    ),
    ("method", "how it is known who ran: `bpf` or `procfs`"),
    ("counters", "`on` or `off`: whether hardware counters refine the division"),
    ("path", "file or device that is read; of the zone `wall` of the source `outlet`, the meter"),
    ("part", "`idle`: nobody's by policy; `residual`: nobody could be found for it"),
    ("from", "where the idle floor comes from: `set`, `learned` or `prior`"),
    ("reason", "why energy or time is not known: `reset`, `jump`, `wraps`, `sleep`, `silence`, `agent-down`"),
    ("id", "the workload, unique within its kind: container id, pod uid, unit name, …"),
    ("name", "the workload's name for people"),
    ("namespace", "Kubernetes namespace"),
    ("pod", "name of the pod"),
    ("runtime", "container runtime"),
    ("qos", "quality-of-service class of the pod"),
    ("slice", "systemd slice"),
    (
        "pid",
        "process id; `412+` stands for children of 412 that lived and ended between two samples, `412+1` … for those in another control group",
    ),
    ("comm", "the kernel's name of the process"),
    (
        "result",
        "of a reading of the machine's input: `taken` or `ignored`; of a frame for the fleet: `sent`; `acked`: it is safe there; `refused`: it will never be taken; `dropped`: given up here for want of space or time",
    ),
];

const INTRODUCTION: &str = "\
# Metrics of ebbtide-agent

<!-- Generated from agent/src/export; change it there, then: EBBTIDE_BLESS=1 cargo test -p ebbtide-agent --test metrics_doc -->

`GET /metrics` answers in the Prometheus text format, and in OpenMetrics 1.0 to readers that ask for it.

- Energy is a counter of joules that never falls, also over a restart of the agent; power is the mean over the last
  interval. Use the counters for anything that adds up: `rate(…_joules_total[5m])` is watts, `increase(…[1d]) / 3.6e6` kWh.
- What isn't known has no series. A zero is a measured zero.
- How good figures are is told once per zone by `ebbtide_zone_info` and `ebbtide_zone_error_ratio`; join on `zone`.
- A joule is counted once within each kind of workload, and once among processes. Kinds overlap: don't add pods to containers.
- The series of a workload stay for [`retention`](config.md#retention) after it ended, so that its last joules are scraped.
- [`levels`](config.md#levels), [`processes`](config.md#processes), [`labels`](config.md#labels) and
  [`series-budget`](config.md#series-budget) bound how many series there are.
- In the tables below a label in brackets is there only if it is known and switched on.

```promql
rate(ebbtide_node_total_energy_joules_total[5m])                                        # watts of the node
topk(5, sum by (namespace, name) (rate(ebbtide_workload_energy_joules_total{kind=\"pod\"}[5m])))
sum by (zone) (increase(ebbtide_workload_energy_joules_total{kind=\"unit\"}[1d])) / 3.6e6   # kWh per day
rate(ebbtide_zone_gaps_total[1h]) > 0                                                   # readings that were lost
```
";

/// The text of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    for part in &PARTS {
        out.push_str(&format!(
            "\n## {}\n\n{}\n\n| metric | type | labels | |\n|---|---|---|---|\n",
            part.title, part.about
        ));
        for section in part.sections {
            out.push_str(&row(&section.family));
        }
        // two statics of the same sections need not be at the same address
        let first = |sections: &[Section]| sections.first().map(|s| s.family.name);
        if first(part.sections) == first(native::SECTIONS) {
            out.push_str("\n### Labels\n\n| label | |\n|---|---|\n");
            for (name, text) in &LABELS {
                out.push_str(&format!("| `{name}` | {text} |\n"));
            }
        }
    }
    out
}

fn row(family: &Family) -> String {
    let label = |l: &&str| match l.strip_suffix('?') {
        Some(name) => format!("[`{name}`]"),
        None => format!("`{l}`"),
    };
    let labels: Vec<String> = family.labels.iter().map(label).collect();
    format!(
        "| `{}` | {} | {} | {} |\n",
        family.name,
        family.kind.as_str(),
        labels.join(" "),
        family.help.replace('|', "\\|")
    )
}
