//! What the agent costs and does, measured by itself.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::page::{Context, Family, Kind, Lines, Section, Series};
use crate::stream::figures::{Figures, Latest};

/// Counters that the HTTP side keeps.
pub struct Own {
    scrapes: IntCounter,
    series: IntGauge,
    stream: Option<Arc<Latest>>,
}

/// Figures of [`Own`] at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values {
    scrapes: u64,
    series: u64,
    stream: Option<Figures>,
}

impl Own {
    /// All at zero. `stream` has the figures of the stream to the fleet, if there is one.
    pub fn new(stream: Option<Arc<Latest>>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            scrapes: IntCounter::new("ebbtide_agent_scrapes_total", "Metrics pages asked for.")?,
            series: IntGauge::new("ebbtide_agent_series", "Series on the last page that was served to its end.")?,
            stream,
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
        Values {
            scrapes: self.scrapes.get(),
            series: u64::try_from(self.series.get()).unwrap_or(0),
            stream: self.stream.as_ref().map(|latest| latest.get()),
        }
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
    Section {
        family: Family {
            name: "ebbtide_agent_stream_connected",
            kind: Kind::Gauge,
            help: "Whether frames go to the fleet now: 1 or 0. This and what follows is there if fleet is set.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| stream(c, f, out, |s| u64::from(s.session.connected))),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_stream_frames_total",
            kind: Kind::Counter,
            help: "Frames since the start by what became of them. A frame that is sent again counts again as sent.",
            labels: &["result"],
        },
        series: Series::Once(frames),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_stream_reconnects_total",
            kind: Kind::Counter,
            help: "Connections to the fleet after the first.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| stream(c, f, out, |s| s.session.reconnects)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_wall_readings_total",
            kind: Kind::Counter,
            help: "Readings of the machine's outlets or BMC that the fleet told. Ignored are those that make no sense, or were not asked for.",
            labels: &["result"],
        },
        series: Series::Once(walls),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_spool_frames",
            kind: Kind::Gauge,
            help: "Frames that the fleet is not known to have.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| stream(c, f, out, |s| s.spool.frames)),
    },
    Section {
        family: Family {
            name: "ebbtide_agent_spool_bytes",
            kind: Kind::Gauge,
            help: "Disk space, or memory, that frames take until the fleet has them, in bytes.",
            labels: &[],
        },
        series: Series::Once(|c, f, out| stream(c, f, out, |s| s.spool.bytes)),
    },
];

fn stream(c: &Context, f: &Family, out: &mut Lines, figure: fn(&Figures) -> u64) {
    if let Some(figures) = &c.own.stream {
        out.start(f).whole(figure(figures));
    }
}

fn frames(c: &Context, f: &Family, out: &mut Lines) {
    let Some(Figures { session, spool }) = &c.own.stream else { return };
    let results =
        [("sent", session.sent), ("acked", session.acked), ("refused", session.refused), ("dropped", spool.dropped)];
    for (result, frames) in results {
        out.start(f).label("result", result).whole(frames);
    }
}

fn walls(c: &Context, f: &Family, out: &mut Lines) {
    let Some(Figures { session, .. }) = &c.own.stream else { return };
    for (result, readings) in [("taken", session.walls), ("ignored", session.walls_ignored)] {
        out.start(f).label("result", result).whole(readings);
    }
}

fn energy(c: &Context, f: &Family, out: &mut Lines) {
    if let Some(energy) = c.snapshot.own.energy {
        out.start(f).joules(energy);
    }
}

fn ns(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
