//! The metrics page against the rules of its formats, and the document of all metrics.
//!
//! The page is rendered from samples of a machine that does what upsets pages: names with quotes, several sockets,
//! processes that end, pids that come again. A checker written from the format's rules reads every line of it; where
//! `promtool` is installed it has to agree.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/generated.rs"]
mod generated;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_agent::attribution::IdlePolicy;
use ebbtide_agent::clock::Moment;
use ebbtide_agent::config::{Label, NameStyle, Processes, Settings};
use ebbtide_agent::export::negotiate::Format;
use ebbtide_agent::export::page::{Family, Kind};
use ebbtide_agent::export::pages::Pages;
use ebbtide_agent::export::{View, kepler, own, reference};
use ebbtide_agent::sampler::{Options, Sampler};
use ebbtide_agent::snapshot::{Published, Snapshot};
use ebbtide_agent::source::discover::{DiscoverOptions, discover};
use ebbtide_agent::source::integrate::ProbeMode;
use ebbtide_agent::twin::fakeroot::{FakeProcess, FakeRoot, FakeZone};
use ebbtide_agent::usage::procfs::ProcfsReader;
use ebbtide_proto::NodeId;

/// `docs/metrics.md` is made from the code. After a change of a metric:
/// `EBBTIDE_BLESS=1 cargo test -p ebbtide-agent --test metrics_doc`.
#[test]
fn the_reference_is_up_to_date() {
    generated::assert_current("docs/metrics.md", &reference::markdown(), "metrics_doc");
}

/// Counters under the names of others that don't end in `_total`.
const NOT_TOTAL: &[&str] =
    &["scaph_host_energy_microjoules", "scaph_socket_energy_microjoules", "scaph_domain_energy_microjoules"];

#[test]
fn families_are_named_as_prometheus_wants() {
    let mut names = BTreeSet::new();
    let mut not_total = BTreeSet::new();
    for family in families() {
        let Family { name, kind, help, labels } = *family;
        assert!(names.insert(name), "{name} is defined twice");
        assert!(is_metric_name(name) && !name.contains(':'), "{name}");
        assert!(help.len() > 10 && help.ends_with(['.', ')']), "{name}: {help:?} is no sentence");
        assert!(!help.contains(['"', '\\', '\n']), "{name}: OpenMetrics wants {help:?} escaped where text doesn't");
        match kind {
            Kind::Counter if !name.ends_with("_total") => drop(not_total.insert(name)),
            Kind::Counter => {}
            Kind::Gauge => assert!(!name.ends_with("_total"), "{name} is a gauge"),
        }
        let labels: Vec<&str> = labels.iter().map(|l| l.trim_end_matches('?')).collect();
        assert!(labels.iter().all(|l| is_label_name(l)), "{name}: {labels:?}");
        assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), labels.len(), "{name}: {labels:?}");
    }
    assert_eq!(not_total, NOT_TOTAL.iter().copied().collect());
}

#[test]
fn each_label_of_ours_is_explained() {
    let used: BTreeSet<&str> = families()
        .filter(|f| f.name.starts_with("ebbtide_"))
        .flat_map(|f| f.labels.iter().map(|l| l.trim_end_matches('?')))
        .collect();
    let explained: BTreeSet<&str> = reference::LABELS.iter().map(|(name, _)| *name).collect();
    assert_eq!(used, explained);
}

#[test]
fn pages_are_valid_in_both_formats_under_all_names() {
    let machine = Machine::new();
    let native = BTreeSet::from([NameStyle::Native]);
    let kepler = BTreeSet::from([NameStyle::Kepler]);
    let scaphandre = BTreeSet::from([NameStyle::Scaphandre]);
    let all = BTreeSet::from([NameStyle::Native, NameStyle::Kepler, NameStyle::Scaphandre]);
    for (policy, processes) in [(IdlePolicy::ByUsage, Processes::All), (IdlePolicy::Unallocated, Processes::Top(2))] {
        let sampled = machine.sample(policy, processes);
        for names in [&native, &kepler, &scaphandre, &all] {
            for format in [Format::Text, Format::OpenMetrics] {
                for (n, published) in sampled.iter().enumerate() {
                    let text = machine.page(published, names, processes, format);
                    let series = check(&text, format).unwrap_or_else(|e| panic!("{names:?} {format:?}: {e}"));
                    if n == 0 {
                        assert!(series.len() > 1, "{names:?}: the agent's own are there from the start");
                        continue;
                    }
                    let families: BTreeSet<&str> = series.iter().map(|s| s.name.as_str()).collect();
                    for (style, name) in [
                        (NameStyle::Native, "ebbtide_workload_energy_joules_total"),
                        (NameStyle::Native, "ebbtide_process_energy_joules_total"),
                        (NameStyle::Kepler, "kepler_process_cpu_joules_total"),
                        (NameStyle::Kepler, "kepler_container_cpu_seconds_total"),
                        (NameStyle::Scaphandre, "scaph_process_power_consumption_microwatts"),
                        (NameStyle::Scaphandre, "scaph_host_energy_microjoules"),
                    ] {
                        assert_eq!(names.contains(&style), families.contains(name), "{names:?}: {name}\n{text}");
                    }
                    agrees_with_promtool(&text, format);
                }
            }
        }
    }
}

/// Each series of a page has the labels that the document promises, in its order, and no others.
#[test]
fn series_have_the_labels_of_the_reference() {
    let machine = Machine::new();
    let names = BTreeSet::from([NameStyle::Native, NameStyle::Kepler, NameStyle::Scaphandre]);
    let sampled = machine.sample(IdlePolicy::ByUsage, Processes::All);
    let text = machine.page(sampled.last().unwrap(), &names, Processes::All, Format::Text);
    let by_name: BTreeMap<&str, &Family> = families().map(|f| (f.name, f)).collect();
    let mut seen = BTreeSet::new();
    for s in check(&text, Format::Text).unwrap() {
        let family = by_name[s.name.as_str()];
        let has: BTreeSet<&str> = s.labels.iter().map(|(name, _)| name.as_str()).collect();
        let promised = family.labels.iter().filter(|l| has.contains(l.trim_end_matches('?')) || !l.ends_with('?'));
        let promised: Vec<&str> = promised.map(|l| l.trim_end_matches('?')).collect();
        assert_eq!(s.labels.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), promised, "{}", s.name);
        seen.insert(family.name);
    }
    assert!(seen.len() > 60, "only {} families have series: {seen:?}", seen.len());
}

/// The checker itself: what it must refuse.
#[test]
fn the_checker_refuses_what_the_formats_forbid() {
    let text = |body: &str| check(body, Format::Text).map(|s| s.len());
    let open = |body: &str| check(body, Format::OpenMetrics).map(|s| s.len());
    assert_eq!(text("# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"\\\"\\\\\\n,}\"} 1.5\na_total 2\n"), Ok(2));
    assert_eq!(open("# HELP a A.\n# TYPE a counter\na_total 1\n# EOF\n"), Ok(1));
    for (body, want) in [
        ("# HELP a A.\n# TYPE a gauge\na 1", "line feed"),
        ("# TYPE a gauge\n# HELP a A.\na 1\n", "HELP"),
        ("# HELP a A.\n# TYPE a gauge\nb 1\n", "belongs to no family"),
        ("# HELP a A.\n# TYPE a counter\na 1\n", "_total"),
        ("# HELP a A.\n# TYPE a gauge\n# HELP a A.\n# TYPE a gauge\n", "twice"),
        ("# HELP a A.\n# TYPE a gauge\na 1\n# HELP b B.\n# TYPE b gauge\na 1\n", "belongs to no family"),
        ("# HELP a A.\n# TYPE a gauge\na{x=\"1\"} 1\na{x=\"1\"} 2\n", "again"),
        ("# HELP a A.\n# TYPE a gauge\na{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n", "again"),
        ("# HELP a A.\n# TYPE a gauge\na{x=\"1\",x=\"1\"} 1\n", "label x"),
        ("# HELP a A.\n# TYPE a gauge\na{x=\"1} 1\n", "not closed"),
        ("# HELP a A.\n# TYPE a gauge\na{x=\"\\t\"} 1\n", "escape"),
        ("# HELP a A.\n# TYPE a gauge\na{0x=\"\"} 1\n", "label name"),
        ("# HELP a A.\n# TYPE a gauge\na{} 1\n", "label name"),
        ("# HELP a A.\n# TYPE a gauge\na 1 \n", "value"),
        ("# HELP a A.\n# TYPE a gauge\na one\n", "value"),
        ("# HELP a_total A.\n# TYPE a_total counter\na_total -1\n", "negative"),
        ("# HELP a A.\n# TYPE a gauge\n\na 1\n", "empty line"),
        ("# HELP a A.\n# TYPE a gauge\na 1\n# EOF\n", "EOF"),
    ] {
        let got = text(body).expect_err(body);
        assert!(got.contains(want), "{body:?}: {got}");
    }
    for (body, want) in [
        ("# HELP a A.\n# TYPE a gauge\na 1\n", "EOF"),
        ("# HELP a A.\n# TYPE a gauge\na 1\n# EOF\n\n", "EOF"),
        ("# HELP a_total A.\n# TYPE a_total counter\na_total 1\n# EOF\n", "_total"),
        ("# HELP a A.\n# TYPE a counter\na 1\n# EOF\n", "belongs to no family"),
        ("# HELP a \"A\".\n# TYPE a gauge\na 1\n# EOF\n", "HELP"),
        ("# HELP a A.\n# TYPE a untyped\na 1\n# EOF\n", "type"),
    ] {
        let got = open(body).expect_err(body);
        assert!(got.contains(want), "{body:?}: {got}");
    }
}

fn families() -> impl Iterator<Item = &'static Family> {
    reference::PARTS.iter().flat_map(|p| p.sections).map(|s| &s.family)
}

/// One series on a page.
struct Series {
    name: String,
    labels: Vec<(String, String)>,
}

/// Reads a page as strictly as the formats allow: Prometheus text 0.0.4 and OpenMetrics 1.0.0. HELP comes before
/// TYPE before samples; all samples of a family stand together.
fn check(page: &str, format: Format) -> Result<Vec<Series>, String> {
    let open = format == Format::OpenMetrics;
    let body = match (open, page.strip_suffix("# EOF\n")) {
        (true, None) => return Err("no # EOF at the end".into()),
        (true, Some(body)) => body,
        (false, _) => page,
    };
    if !body.is_empty() && !body.ends_with('\n') {
        return Err("no line feed at the end".into());
    }
    let mut families = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    // the family whose samples may come: the name they have, and its type
    let mut family: Option<(String, &str)> = None;
    let mut helped = None;
    for (n, line) in body.lines().enumerate() {
        let at = |what: &str| format!("line {}: {what}: {line}", n + 1);
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (what, name, rest) = (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
            match what {
                Some("HELP") => {
                    if !is_metric_name(name) || rest.is_empty() || !is_help(rest, open) {
                        return Err(at("bad HELP"));
                    }
                    if !families.insert(name) {
                        return Err(at("a family twice"));
                    }
                    (helped, family) = (Some(name), None);
                }
                Some("TYPE") => {
                    if helped.take() != Some(name) {
                        return Err(at("TYPE doesn't follow its HELP"));
                    }
                    let kinds: &[&str] =
                        if open { &["counter", "gauge", "unknown"] } else { &["counter", "gauge", "untyped"] };
                    if !kinds.contains(&rest) {
                        return Err(at("unknown type"));
                    }
                    let total = name.ends_with("_total");
                    let is_counter = rest == "counter";
                    if open && total || !open && is_counter != total && !NOT_TOTAL.contains(&name) {
                        return Err(at("_total belongs at the end of counters' names, in OpenMetrics only of samples"));
                    }
                    let suffix = if open && is_counter { "_total" } else { "" };
                    family = Some((format!("{name}{suffix}"), rest));
                }
                _ if line == "# EOF" => return Err(at("EOF where there is none")),
                _ => return Err(at("neither HELP nor TYPE")),
            }
            continue;
        }
        if line.is_empty() {
            return Err(at("empty line"));
        }
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let Some((_, kind)) = family.as_ref().filter(|(f, _)| f == name) else {
            return Err(at("belongs to no family that was opened just before"));
        };
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => read_labels(rest).map_err(|e| at(&e))?,
            None => (Vec::new(), rest),
        };
        let number: Option<f64> = value.strip_prefix(' ').filter(|v| !v.contains(' ')).and_then(|v| v.parse().ok());
        match number {
            None => return Err(at("no value")),
            Some(v) if *kind == "counter" && (v.is_nan() || v < 0.0) => return Err(at("negative counter")),
            Some(_) => {}
        }
        let mut sorted = labels.clone();
        sorted.sort();
        if !seen.insert((name.to_owned(), sorted)) {
            return Err(at("a series again"));
        }
        all.push(Series { name: name.to_owned(), labels });
    }
    Ok(all)
}

type Labels = Vec<(String, String)>;

/// Reads `name="value",…} `; returns what is behind the brace.
fn read_labels(text: &str) -> Result<(Labels, &str), String> {
    let mut labels: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("label name without value")?;
        if !is_label_name(name) {
            return Err(format!("bad label name {name:?}"));
        }
        if labels.iter().any(|(n, _)| n == name) {
            return Err(format!("label {name} twice"));
        }
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next() {
                None => return Err("label value not closed".into()),
                Some((at, '"')) => break at,
                Some((_, '\\')) => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    other => return Err(format!("unknown escape {other:?}")),
                },
                Some((_, c)) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok((labels, rest.strip_prefix('}').ok_or("label set not closed")?)),
        }
    }
}

fn is_metric_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

fn is_label_name(name: &str) -> bool {
    is_metric_name(name) && !name.contains(':') && !name.starts_with("__")
}

/// OpenMetrics wants quotes escaped in HELP; text takes them as they are.
fn is_help(text: &str, open: bool) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if !matches!((chars.next(), open), (Some('\\' | 'n'), _) | (Some('"'), true)) => return false,
            '"' if open => return false,
            _ => {}
        }
    }
    true
}

/// Asks Prometheus' own checker, where it is installed. It reads text only. Names that we don't choose may displease it.
fn agrees_with_promtool(page: &str, format: Format) {
    if format != Format::Text {
        return;
    }
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else {
        eprintln!("skipped: promtool is not installed (Debian package prometheus)");
        return;
    };
    std::io::Write::write_all(&mut tool.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let out = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    // 3: it can be read, but not all of it is as recommended
    assert!(matches!(out.status.code(), Some(0 | 3)), "promtool: {said}");
    assert!(!said.lines().any(|l| l.starts_with("ebbtide_")), "promtool: {said}");
}

/// A machine with two sockets whose processes come and go.
struct Machine {
    dir: tempfile::TempDir,
}

const POD: &str = "0::/kubepods.slice/kubepods-burstable.slice/\
                   kubepods-burstable-pod0b6e8a2c_93f5_4a63_9d5e_5a4e3f1c2b7d.slice/cri-containerd-";
const CONTAINER: &str = "4e3f1c2b7d0b6e8a2c93f54a639d5e5a4e3f1c2b7d0b6e8a2c93f54a639d5e5a";

impl Machine {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Published snapshots: before the first sample, and after each of four.
    fn sample(&self, idle_policy: IdlePolicy, processes: Processes) -> Vec<Published> {
        let root = self.dir.path().join(format!("{idle_policy:?}"));
        let mut fake = FakeRoot::new(&root);
        lay_out(&mut fake);
        play(&mut fake, 0);
        let host = fake.host();
        let found = discover(&host, &DiscoverOptions::all(ProbeMode::Stepped));
        assert!(found.sources.iter().flat_map(|s| s.zones()).count() >= 6, "zones are missing");
        let options = Options {
            node: NodeId::new("edge1").unwrap(),
            idle_policy,
            idle_floor: BTreeMap::new(),
            processes,
            retention: Duration::from_secs(60),
            stale_after: Duration::from_secs(10),
            full_names: true,
            idle_share: 0.3,
            state: None,
            learned: None,
        };
        let mut sampler =
            Sampler::new(host.clone(), Box::new(ProcfsReader::open(&host, false).unwrap()), found.sources, options)
                .unwrap();
        let mut out = vec![Published::new(Snapshot::empty(Arc::clone(sampler.node())))];
        let mut at = Moment { mono: 1_000_000_000_000, boot: 1_000_000_000_000, wall: 1_735_689_600_000_000_000 };
        for step in 0..4u64 {
            play(&mut fake, step);
            let snapshot = sampler.step(at).unwrap();
            out.push(Published::new(Snapshot::clone(&snapshot)));
            at = at.plus(Duration::from_secs(1));
        }
        out.remove(1); // the first sample has no energy yet
        out
    }

    fn page(&self, published: &Published, names: &BTreeSet<NameStyle>, processes: Processes, format: Format) -> String {
        let host = ebbtide_agent::host::HostRoot::new(self.dir.path().join(format!("{:?}", IdlePolicy::ByUsage)));
        let settings = Settings::default();
        let view = View {
            names: names.clone(),
            levels: settings.levels.clone(),
            labels: BTreeSet::<Label>::clone(&settings.labels),
            processes,
            series_budget: 0,
            gzip: false,
            processors: kepler::processors(&host),
            own: own::Own::new(None).unwrap(),
        };
        let pages = Pages { published: published.clone(), view: Arc::new(view), host };
        String::from_utf8(pages.page(format).flat_map(|chunk| chunk.to_vec()).collect()).unwrap()
    }
}

/// What doesn't change.
fn lay_out(fake: &mut FakeRoot) {
    let cpu = |n: u32| {
        format!(
            "processor\t: {n}\nvendor_id\t: X\nmodel name\t: a \"quoted\" CPU\\\nphysical id\t: {n}\ncore id\t\t: 0\n\n"
        )
    };
    fake.put("proc/cpuinfo", cpu(0) + &cpu(1)).unwrap();
    fake.put(
        "proc/meminfo",
        "MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 20 kB\nSwapTotal: 1 kB\nSwapFree: 1 kB\n",
    )
    .unwrap();
    fake.put("proc/loadavg", "0.50 0.25 0.12 2/345 999\n").unwrap();
    for n in 0..2 {
        fake.put(&format!("sys/devices/system/cpu/cpu{n}/topology/physical_package_id"), format!("{n}\n")).unwrap();
        fake.put(&format!("sys/devices/system/cpu/cpu{n}/topology/core_id"), "0\n").unwrap();
        fake.put(&format!("sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq"), "2000000\n").unwrap();
    }
}

/// What the machine shows at each sample.
fn play(fake: &mut FakeRoot, step: u64) {
    for (folder, name, watts) in [
        ("intel-rapl:0", "package-0", 60),
        ("intel-rapl:0:0", "core", 40),
        ("intel-rapl:0:1", "dram", 8),
        ("intel-rapl:1", "package-1", 50),
        ("intel-rapl:1:0", "core", 30),
        ("intel-rapl:1:1", "dram", 7),
        ("intel-rapl-mmio:0", "package-0", 60),
    ] {
        let energy_uj = 5_000_000 + step * watts * 1_000_000;
        fake.zone(&FakeZone { energy_uj, ..FakeZone::new(folder, name) }).unwrap();
    }
    let idle = 10_000 + step * 20;
    fake.put(
        "proc/stat",
        format!(
            "cpu  0 0 0 {i2} 0 0 0 0 0 0\ncpu0 {step}00 0 0 {idle} 0 {step} 0 0 0 0\ncpu1 0 0 0 {idle} 0 0 0 0 0 0\n\
             ctxt 5\nbtime 1735689000\nprocesses {forks}\nprocs_running 1\nprocs_blocked 0\n",
            i2 = 2 * idle,
            forks = 100 + step,
        ),
    )
    .unwrap();
    let process = |pid: u32, comm: &str, start: u64, cgroup: String| {
        let mut p = FakeProcess::new(pid, comm);
        p.start_ticks = start;
        p.utime = 10 + step * 30;
        p.rss_pages = 100;
        p.cgroup = cgroup;
        p.exe = format!("/usr/bin/{comm}");
        p.cmdline = format!("{comm} --with \"quotes\" \\ back");
        p
    };
    fake.process(&process(1, "init", 1, "0::/init.scope\n".into())).unwrap();
    fake.process(&process(40, "a\"b\\c", 5, "0::/system.slice/x\\x2dy.service\n".into())).unwrap();
    fake.process(&process(41, "web", 6, format!("{POD}{CONTAINER}.scope\n"))).unwrap();
    // 50 ends after the second sample and another process gets its pid at the fourth, with the same name
    match step {
        0 | 1 => fake.process(&process(50, "again", 7, "0::/system.slice/again.service\n".into())).unwrap(),
        2 => fake.end(50).unwrap(),
        _ => fake.process(&process(50, "again", 900, "0::/system.slice/again.service\n".into())).unwrap(),
    }
}
