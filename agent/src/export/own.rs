//! What the agent costs and does, measured by itself.

use prometheus::{IntCounter, IntGauge};

use super::page::{Context, Family, Kind, Lines, Section, Series};

/// Counters that the HTTP side keeps.
pub struct Own {
    scrapes: IntCounter,
    series: IntGauge,
}

/// Figures of [`Own`] at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values {
    scrapes: u64,
    series: u64,
}

impl Own {
    /// All at zero.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            scrapes: IntCounter::new("ebbtide_agent_scrapes_total", "Metrics pages asked for.")?,
            series: IntGauge::new("ebbtide_agent_series", "Series on the last page that was served to its end.")?,
        })
    }

    /// Counts a page that was asked for.
    pub fn scraped(&self) {
        self.scrapes.inc();
    }

    /// Notes how many series a page had.
    pub fn served(&self, series: u64) {
        self.series.set(i64::try_from(series).unwrap_or(i64::MAX));
    }

    /// The figures now.
    pub fn values(&self) -> Values {
        Values { scrapes: self.scrapes.get(), series: u64::try_from(self.series.get()).unwrap_or(0) }
    }
}

/// The sections of the page, in its order.
pub static SECTIONS: &[Section] = &[
    Section {
        family: Family {
            name: "ebbtide_agent_cpu_seconds_total",
            kind: Kind::Counter,
            help: "CPU time of the agent in seconds, user and system.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).nanoseconds(ns(c.snapshot.own.cpu))),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_sample_cpu_seconds",
            kind: Kind::Gauge,
            help: "CPU time that the last sample took in seconds.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).nanoseconds(ns(c.snapshot.own.sample_cpu))),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_resident_bytes",
            kind: Kind::Gauge,
            help: "Resident memory of the agent in bytes.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).whole(c.snapshot.own.resident)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_energy_joules_total",
            kind: Kind::Counter,
            help: "Energy that was attributed to the agent itself in joules; missing where it can't see itself.",
            labels: &[],
        },
        series: Series::Once(energy),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_late_samples_total",
            kind: Kind::Counter,
            help: "Samples that began more than half an interval late.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).whole(c.snapshot.own.late)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_samples_total",
            kind: Kind::Counter,
            help: "Samples since the agent started.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).whole(c.snapshot.seq)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_usage_info",
            kind: Kind::Gauge,
            help: "Always 1; the labels tell how it is known who ran (method), whether hardware counters are used (counters), and whether all of it could be told since the sample before (quality).",
            labels: &["method", "counters", "quality"],
        },
        series: Series::Once(|c, f, out| {
            let usage = c.snapshot.usage;
            out.start(f)
                .label("method", usage.status.method.as_str())
                .label("counters", if usage.status.counters { "on" } else { "off" })
                .label("quality", usage.quality().as_str())
                .whole(1);
        }),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_lost_exits_total",
            kind: Kind::Counter,
            help: "Ends of threads that the kernel could not tell because a buffer was full. What they used since the sample before is charged to nobody.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).whole(c.snapshot.usage.status.lost_exits)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_lost_exits_cpu_seconds_total",
            kind: Kind::Counter,
            help: "CPU time over their lives of the threads whose ends were lost: the most that can be missing.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).nanoseconds(c.snapshot.usage.status.lost_ns)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_tasks",
            kind: Kind::Gauge,
            help: "Processes and kernel threads that live.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).whole(c.snapshot.own.living as u64)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_scrapes_total",
            kind: Kind::Counter,
            help: "Metrics pages asked for.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).whole(c.own.scrapes)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_series",
            kind: Kind::Gauge,
            help: "Series on the last page that was served to its end.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| out.start(f).whole(c.own.series)),
    },
];

fn energy(c: &Context, f: &Family, out: &mut Lines) {
    if let Some(energy) = c.snapshot.own.energy {
        out.start(f).joules(energy);
    }
}

fn ns(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
