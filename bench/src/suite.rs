//! What is measured, in which order, and what it should not exceed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_agent::clock;
use ebbtide_agent::config::NameStyle;

use crate::accuracy;
use crate::fake_rapl;
use crate::figures::{count, median, percentile, range, three_digits};
use crate::inside::{self, Collection};
use crate::kernel;
use crate::load::Helper;
use crate::methods::{self, Hooks};
use crate::outside::{DEFAULT, KEPLER, NATIVE, Round, Run, Setup};
use crate::report::Table;

/// The helper modes of this program.
pub(crate) const SLEEPERS: &str = "_sleepers";
pub(crate) const BUSY: &str = "_busy";
pub(crate) const RAPL: &str = "_rapl";

/// Shares of a CPU of those that work, in percent.
const BUSY_PERCENT: &str = "30,20,10,5";

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The agent as a user runs it: CPU time, memory, page.
    Agent,
    /// Ten samples a second.
    Fast,
    /// Reading all tasks.
    Collection,
    /// What programs in the kernel add to its events.
    Hooks,
    /// Sharing out and booking.
    Attribution,
    /// Rendering the page.
    Page,
    /// Attributed energy against a simulated machine whose truth is known.
    Accuracy,
}

/// Limits for one population; absent where there is none.
struct Limits {
    processes: usize,
    cpu_ms: [Option<f64>; 3],
    peak_mib: [Option<f64>; 3],
    page_ms: [Option<f64>; 3],
    start_seconds: Option<f64>,
}

/// In the order of the figures of [`Limits`].
const SETUPS: [Setup; 3] = [DEFAULT, KEPLER, NATIVE];

const LIMITS: [Limits; 3] = [
    Limits {
        processes: 200,
        cpu_ms: [Some(1.0), Some(3.0), None],
        peak_mib: [None; 3],
        page_ms: [None; 3],
        start_seconds: None,
    },
    Limits {
        processes: 2_000,
        cpu_ms: [Some(4.0), Some(15.0), None],
        peak_mib: [None; 3],
        page_ms: [None; 3],
        start_seconds: None,
    },
    Limits {
        processes: 10_000,
        cpu_ms: [Some(15.0), Some(60.0), None],
        peak_mib: [Some(40.0), Some(64.0), None],
        page_ms: [Some(10.0), Some(60.0), None],
        start_seconds: Some(0.5),
    },
];
/// Resident memory of the default page when all is settled, with 10,000 processes.
const STEADY_MIB: (usize, f64) = (10_000, 20.0);
/// Share of a core at ten samples a second, default page and Kepler's names, in percent.
const FAST_PERCENT: [f64; 2] = [1.0, 1.5];
/// A steady collection, in microseconds per task.
const STEADY_MICROS: f64 = 6.0;
/// The same by BPF.
const BPF_MICROS: f64 = 0.8;

/// The suite as it was asked for.
pub(crate) struct Suite {
    agent: PathBuf,
    quick: bool,
    only: Vec<Part>,
    /// Whether the agent and its reader run ahead of other load.
    ahead: bool,
}

/// The tables of the parts, in the order in which they are shown.
struct Tables {
    cpu: Table,
    page: Table,
    memory: Table,
    fast: Table,
    collection: Table,
    hooks: Table,
    attribution: Table,
    rendering: Table,
}

impl Suite {
    pub(crate) fn new(agent: PathBuf, quick: bool, only: &[Part]) -> Self {
        Self { agent, quick, only: only.to_vec(), ahead: kernel::go_ahead().is_ok() }
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn runs(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    fn cycles(&self) -> usize {
        if self.quick { 4 } else { 12 }
    }

    /// Measures everything that is wanted.
    pub(crate) fn run(&self) -> anyhow::Result<Vec<Table>> {
        let root = fake_rapl::folder(std::process::id());
        let _rapl = Helper::start(RAPL, &std::process::id().to_string())?;
        let _busy = Helper::start(BUSY, BUSY_PERCENT)?;
        let mut tables = self.tables();
        let populations = if self.quick { &LIMITS[..1] } else { &LIMITS[..] };
        let live = [Part::Agent, Part::Fast, Part::Collection, Part::Page].iter().any(|&p| self.wants(p));
        for limits in populations.iter().filter(|_| live) {
            let n = limits.processes;
            say(&format!("{} processes", count(n)));
            let sleepers = Helper::start(SLEEPERS, &n.to_string())?;
            // the kernel is not done with ten thousand forks when the last one returns
            std::thread::sleep(Duration::from_millis(500));
            let collection = if self.wants(Part::Collection) || self.wants(Part::Agent) {
                Some(inside::collection(if self.quick { 5 } else { 9 })?)
            } else {
                None
            };
            if let Some(c) = collection.as_ref().filter(|_| self.wants(Part::Collection)) {
                tables.add_collection(n, c);
                match methods::collection(if self.quick { 5 } else { 9 })? {
                    Ok(bpf) => tables.add_bpf(n, &bpf, c),
                    Err(why) => tables.collection.about.push_str(&format!(" BPF can't be measured here: {why}.")),
                }
            }
            if self.wants(Part::Page) {
                for (names, label) in [(NameStyle::Kepler, KEPLER.name), (NameStyle::Native, NATIVE.name)] {
                    let r = inside::rendering(&root, names, if self.quick { 5 } else { 15 })?;
                    tables.rendering.rows.push(vec![
                        format!("{}, {label}", count(n)),
                        count(r.series),
                        format!("{} ns", three_digits(r.later)),
                        format!("{} ns", three_digits(r.first)),
                        format!("{:.0}", r.bytes as f64 / r.series.max(1) as f64),
                    ]);
                }
            }
            if let Some(c) = collection.as_ref().filter(|_| self.wants(Part::Agent)) {
                self.agent(&root, limits, c, &mut tables)?;
            }
            if n == 200 && self.wants(Part::Fast) {
                self.fast(&root, &mut tables.fast)?;
            }
            drop(sleepers);
        }
        if self.wants(Part::Hooks) {
            say("context switches and processes that end");
            match methods::hooks(if self.quick { 3 } else { 11 })? {
                Ok(hooks) => tables.add_hooks(&hooks),
                Err(why) => eprintln!("programs at events can't be measured here: {why}"),
            }
        }
        if self.wants(Part::Attribution) {
            for limits in populations {
                let n = limits.processes;
                let micros = inside::attribution(n, 31)?;
                tables.attribution.rows.push(vec![
                    count(n),
                    format!("{} µs", three_digits(micros)),
                    format!("{} ns", three_digits(micros * 1e3 / n as f64)),
                ]);
            }
        }
        let mut filled = tables.filled();
        if self.wants(Part::Accuracy) {
            say("accuracy");
            filled.push(accuracy::measure(self.quick)?);
        }
        Ok(filled)
    }

    /// The agent as a user runs it.
    fn agent(
        &self,
        root: &std::path::Path,
        limits: &Limits,
        scan: &Collection,
        tables: &mut Tables,
    ) -> anyhow::Result<()> {
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); SETUPS.len()];
        let round = Round {
            binary: &self.agent,
            ahead: self.ahead,
            root,
            interval: Duration::from_secs(1),
            processes: limits.processes,
            warm_up: 3,
            cycles: self.cycles(),
        };
        for n in 1..=self.runs() {
            say(&format!("{} processes: agents, run {n} of {}", count(limits.processes), self.runs()));
            for (all, run) in runs.iter_mut().zip(round.measure(&SETUPS)?) {
                all.push(run);
            }
        }
        for (i, (setup, runs)) in SETUPS.iter().zip(&runs).enumerate() {
            let limit = |of: &[Option<f64>; 3]| of.get(i).copied().flatten();
            tables.add_agent(limits, setup, runs, limit, scan)?;
        }
        Ok(())
    }

    /// Ten samples and ten scrapes a second.
    fn fast(&self, root: &std::path::Path, table: &mut Table) -> anyhow::Result<()> {
        let setups = [DEFAULT, KEPLER];
        let round = Round {
            binary: &self.agent,
            ahead: self.ahead,
            root,
            interval: Duration::from_millis(100),
            processes: 200,
            warm_up: 10,
            cycles: if self.quick { 20 } else { 50 },
        };
        let mut percents = [Vec::new(), Vec::new()];
        let mut late = [0.0, 0.0];
        for n in 1..=self.runs() {
            say(&format!("ten samples a second, run {n} of {}", self.runs()));
            for ((all, late), run) in percents.iter_mut().zip(&mut late).zip(round.measure(&setups)?) {
                // of 100 ms of a core one millisecond is one percent
                all.push(mean(&run.cpu_ms));
                *late += run.late;
            }
        }
        for (((setup, percents), limit), late) in setups.iter().zip(&percents).zip(FAST_PERCENT).zip(late) {
            let measured = median(percents).context("no run")?;
            let [cell, verdict] = table.judge(setup.name, measured, "%", Some(limit));
            table.rows.push(vec![setup.name.to_owned(), cell, verdict, spread(percents), format!("{late:.0}")]);
        }
        Ok(())
    }

    fn tables(&self) -> Tables {
        let (runs, cycles) = (self.runs(), self.cycles());
        let ahead = if self.ahead {
            "Agent and reader run ahead of other load (`SCHED_RR`), so that waiting for a CPU is not counted."
        } else {
            "Agent and reader wait for a CPU like all others, which counts on a loaded machine; as root they would not."
        };
        Tables {
            cpu: Table::new(
                "CPU time per cycle",
                format!(
                    "One collection of all processes and one scrape of the page, once a second; CPU time of the whole \
                     agent, user and system. Sleeping processes, and four that are busy ({BUSY_PERCENT} % of a CPU). \
                     Median of {runs} runs of {cycles} cycles each, with the least and the largest run. The last \
                     column is the part of one plain scan of the same processes in the same minute (`stat`, `cgroup` \
                     and `cmdline` of each with the `procfs` crate): this ratio travels better between machines than \
                     milliseconds."
                ),
                &["processes, page", "CPU per cycle", "target", "runs", "of a plain scan"],
            ),
            page: Table::new(
                "Page",
                format!(
                    "From the request to the last byte on a kept connection over loopback, uncompressed; {} scrapes, \
                     so that their 99th percentile is the slowest of all. {ahead}",
                    runs * cycles
                ),
                &["processes, page", "series", "KB", "median", "99 %", "target"],
            ),
            memory: Table::new(
                "Memory and start",
                "Resident memory, at its highest (the kernel's `VmHWM`) and at the end of a run; from the start of the program \
                 to the last byte of the first page with a sample; medians.",
                &["processes, page", "peak", "target", "settled", "target", "start", "target", "CPU of the start"],
            ),
            fast: Table::new(
                "Ten samples a second",
                "A sample and a scrape each 100 ms, 200 processes; share of one core; samples that began more than 50 ms late.",
                &["page", "of a core", "target", "runs", "late"],
            ),
            collection: Table::new(
                "Collection alone",
                "CPU time per task of reading all tasks, by method. *Settled* is the usual case: by BPF those are told who \
                 changed, from `/proc` each is asked. *All* is each thirtieth sample by BPF, and from `/proc` one before which \
                 a process was born, so that the folder is listed; *first* is the first sample of all. Beside it the same plain \
                 scan as above.",
                &["tasks, method", "settled", "target", "all", "first", "plain scan", "times less"],
            ),
            hooks: Table::new(
                "Programs at events",
                "CPU time that an event of the kernel takes without any program, and what programs add to it. Usage alone has no \
                 program at context switches; counters, which are off unless asked for, have one that reads three of them. A \
                 process is one that is started, does nothing and ends.",
                &["event", "without", "added by usage", "added by counters"],
            ),
            attribution: Table::new(
                "Attribution and ledger",
                "CPU time of sharing out and booking one sample in which all tasks ran: four zones, three workloads above \
                 each task.",
                &["tasks that ran", "per sample", "per task"],
            ),
            rendering: Table::new(
                "Rendering",
                "CPU time of a page in memory; the first page makes the label sets, which are kept.",
                &["processes, page", "series", "per series", "per series, first", "bytes per series"],
            ),
        }
    }
}

impl Tables {
    fn add_agent(
        &mut self,
        limits: &Limits,
        setup: &Setup,
        runs: &[Run],
        limit: impl Fn(&[Option<f64>; 3]) -> Option<f64>,
        scan: &Collection,
    ) -> anyhow::Result<()> {
        let what = format!("{}, {}", count(limits.processes), setup.name);
        let middle = |of: &dyn Fn(&Run) -> f64| {
            median(&runs.iter().map(of).collect::<Vec<_>>()).context("an agent was not measured")
        };
        let per_run: Vec<f64> = runs.iter().map(|r| mean(&r.cpu_ms)).collect();
        let cpu_ms = median(&per_run).context("an agent was not measured")?;
        let [cell, verdict] = self.cpu.judge(&what, cpu_ms, "ms", limit(&limits.cpu_ms));
        let part = format!("1/{}", three_digits(scan.plain_ms() / cpu_ms.max(1e-6)));
        self.cpu.rows.push(vec![what.clone(), cell, verdict, spread(&per_run), part]);

        let pages: Vec<f64> = runs.iter().flat_map(|r| r.page_ms.iter().copied()).collect();
        let slowest = percentile(&pages, 0.99).context("no page was read")?;
        let [cell, verdict] = self.page.judge(&what, slowest, "ms", limit(&limits.page_ms));
        let usual = format!("{} ms", three_digits(median(&pages).context("no page was read")?));
        let last = runs.last().context("an agent was not measured")?;
        let kilobytes = three_digits(last.page_bytes as f64 / 1e3);
        self.page.rows.push(vec![what.clone(), count(last.series), kilobytes, usual, cell, verdict]);

        let [peak, peak_verdict] =
            self.memory.judge(&format!("{what}, peak"), middle(&|r| r.peak_mib)?, "MiB", limit(&limits.peak_mib));
        let steady = (setup.name == DEFAULT.name && limits.processes == STEADY_MIB.0).then_some(STEADY_MIB.1);
        let [settled, settled_verdict] =
            self.memory.judge(&format!("{what}, settled"), middle(&|r| r.resident_mib)?, "MiB", steady);
        let [start, start_verdict] =
            self.memory.judge(&format!("{what}, start"), middle(&|r| r.start_seconds)?, "s", limits.start_seconds);
        let start_cpu = format!("{} ms", three_digits(middle(&|r| r.start_cpu_ms)?));
        self.memory.rows.push(vec![
            what,
            peak,
            peak_verdict,
            settled,
            settled_verdict,
            start,
            start_verdict,
            start_cpu,
        ]);
        Ok(())
    }

    fn add_collection(&mut self, processes: usize, c: &Collection) {
        let what = |n| format!("{}, /proc", count(n));
        let [cell, verdict] = self.collection.judge(&what(processes), c.steady, "µs", Some(STEADY_MICROS));
        let micros = |v: f64| format!("{} µs", three_digits(v));
        self.collection.rows.push(vec![
            what(c.tasks),
            cell,
            verdict,
            micros(c.listed),
            micros(c.first),
            micros(c.plain),
            three_digits(c.plain / c.steady),
        ]);
    }

    fn add_bpf(&mut self, processes: usize, c: &methods::Collection, plain: &Collection) {
        let what = |n| format!("{}, BPF", count(n));
        let [cell, verdict] = self.collection.judge(&what(processes), c.changed, "µs", Some(BPF_MICROS));
        let micros = |v: f64| format!("{} µs", three_digits(v));
        self.collection.rows.push(vec![
            what(c.tasks),
            cell,
            verdict,
            micros(c.everyone),
            micros(c.first),
            micros(plain.plain),
            three_digits(plain.plain / c.changed),
        ]);
    }

    fn add_hooks(&mut self, h: &Hooks) {
        let counters = match h.counters {
            Some((added, true)) => format!("{added:.0} ns"),
            Some((added, false)) => format!("{added:.0} ns (clocks in place of counters, which this machine lacks)"),
            None => "–".to_owned(),
        };
        let row = |cells: [String; 4]| cells.to_vec();
        self.hooks.rows.push(row([
            "context switch".to_owned(),
            format!("{:.0} ns", h.switch),
            format!("{:.0} ns", h.usage),
            counters,
        ]));
        self.hooks.rows.push(row([
            "process".to_owned(),
            format!("{:.0} µs", h.process),
            format!("{:.1} µs", h.process_usage),
            "–".to_owned(),
        ]));
    }

    fn filled(self) -> Vec<Table> {
        let all = [
            self.cpu,
            self.page,
            self.memory,
            self.fast,
            self.collection,
            self.hooks,
            self.attribution,
            self.rendering,
        ];
        all.into_iter().filter(|t| !t.rows.is_empty()).collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn spread(values: &[f64]) -> String {
    match range(values) {
        Some((least, largest)) => format!("{} … {}", three_digits(least), three_digits(largest)),
        None => "–".to_owned(),
    }
}

/// Tells on stderr how far it is: the whole takes minutes.
fn say(what: &str) {
    let seconds = clock::now().boot / 1_000_000_000;
    eprintln!("[{seconds} s] {what}");
}
