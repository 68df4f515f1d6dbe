//! `top` for machines to read: sums, keys and manners of the JSON, on a simulated machine and on this one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_agent::attribution::IdlePolicy;
use ebbtide_agent::command::top::before::Before;
use ebbtide_agent::command::top::json;
use ebbtide_agent::command::top::picture::Picture;
use ebbtide_agent::config::Processes;
use ebbtide_agent::host::HostRoot;
use ebbtide_agent::sampler::{Options, Sampler};
use ebbtide_agent::source::discover::{DiscoverOptions, discover};
use ebbtide_agent::source::integrate::ProbeMode;
use ebbtide_agent::twin::{SCENARIOS, Scenario, Twin};
use ebbtide_agent::usage::procfs::ProcfsReader;
use ebbtide_proto::NodeId;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);

/// One document after each second of a simulated machine.
fn play(scenario: &str, seconds: usize, idle_policy: IdlePolicy) -> Vec<String> {
    let (_, text) = SCENARIOS.iter().find(|(n, _)| *n == scenario).unwrap();
    let scenario = Scenario::parse(text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut twin = Twin::new(&scenario, 7);
    twin.write(dir.path()).unwrap();
    let host = HostRoot::new(dir.path());
    let sources = discover(&host, &DiscoverOptions::all(ProbeMode::Stepped)).sources;
    let options = Options {
        node: NodeId::new("twin").unwrap(),
        idle_policy,
        idle_floor: BTreeMap::new(),
        processes: Processes::All,
        // short enough that tasks expire in the course of the test
        retention: 3 * SECOND,
        stale_after: 10 * SECOND,
        full_names: false,
        idle_share: 0.3,
        state: None,
        learned: None,
    };
    let mut sampler =
        Sampler::new(host.clone(), Box::new(ProcfsReader::open(&host, true).unwrap()), sources, options).unwrap();
    let mut before = Before::default();
    let mut documents = Vec::new();
    for _ in 0..seconds {
        let snapshot = sampler.step(twin.now()).unwrap();
        let was = std::mem::replace(&mut before, Before::of(&snapshot));
        documents.push(json::document(&Picture::new(&was, Arc::clone(&snapshot))));
        twin.step(SECOND);
        twin.write(dir.path()).unwrap();
    }
    documents
}

/// Microjoules of a number that is written with six decimals.
fn micro(text: &str) -> u64 {
    let (whole, decimals) = text.split_once('.').unwrap();
    assert_eq!(decimals.len(), 6, "{text}");
    whole.parse::<u64>().unwrap() * 1_000_000 + decimals.parse::<u64>().unwrap()
}

/// The number behind `"key":` at the start of `object`'s own text. `None` if it is `null`.
fn figure(object: &str, key: &str) -> Option<u64> {
    let (_, after) = object.split_once(&format!("\"{key}\":")).unwrap();
    let end = after.find([',', '}']).unwrap();
    let text = &after[..end];
    (text != "null").then(|| micro(text))
}

/// The text of the object or array behind `"key":`.
fn part<'a>(document: &'a str, key: &str) -> &'a str {
    let at = document.rfind(&format!("\"{key}\":")).unwrap() + key.len() + 3;
    let mut depth = 0;
    let end = document[at..].find(|c: char| {
        depth += i32::from(matches!(c, '{' | '[')) - i32::from(matches!(c, '}' | ']'));
        depth == 0
    });
    &document[at..=at + end.unwrap()]
}

/// The objects of an array, as text.
fn objects(array: &str) -> Vec<&str> {
    let inner = array.trim_start_matches('[').trim_end_matches(']');
    inner.split_inclusive('}').map(|o| o.trim_start_matches(',')).filter(|o| !o.is_empty()).collect()
}

struct Sums {
    processes: u64,
    others: u64,
    zones: u64,
    node: u64,
    ended: u64,
}

/// Adds up the decimals as they are written; no float comes near them.
fn sums(document: &str) -> Option<Sums> {
    let processes = objects(part(document, "workloads")).into_iter().filter(|w| w.contains("\"kind\":\"process\""));
    let zones = objects(part(document, "zones")).into_iter().filter(|z| z.contains("\"role\":\"total\""));
    let of = |key: &str| figure(part(document, key), "energy_j");
    let ended = of("ended")?;
    Some(Sums {
        processes: processes.map(|w| figure(w, "energy_j").unwrap()).sum(),
        others: of("interrupts")? + of("unseen")? + of("idle")? + of("residual")? + ended,
        zones: zones.map(|z| figure(z, "energy_j").unwrap()).sum(),
        node: of("node")?,
        ended,
    })
}

#[test]
fn energies_add_up_to_the_microjoule() {
    for policy in [IdlePolicy::Unallocated, IdlePolicy::ByUsage] {
        let documents = play("fork-storm", 9, policy);
        let mut expired = 0;
        for (i, document) in documents.iter().enumerate() {
            let Some(s) = sums(document) else {
                assert_eq!(i, 0, "only the first sample knows no energy");
                continue;
            };
            assert_eq!(s.processes + s.others, s.zones);
            assert_eq!(s.node, s.zones);
            assert!(s.processes > 0 && s.ended >= expired, "{document}");
            // what left the list is accounted for, and nothing before anything could leave it
            assert!(i > 3 || s.ended == 0, "{i}: {}", s.ended);
            expired = s.ended;
        }
        assert!(expired > 0, "children of the storm expire");
    }
}

#[test]
fn unknown_is_null_and_never_nothing() {
    let first = play("steady-mix", 1, IdlePolicy::Unallocated).remove(0);
    let v: Value = serde_json::from_str(&first).unwrap();
    for key in ["power_w", "energy_j", "floor_w"] {
        assert!(v["node"][key].is_null(), "{key}");
        assert!(v["zones"].as_array().unwrap().iter().all(|z| z[key].is_null()), "{key}");
    }
    let workloads = v["workloads"].as_array().unwrap();
    assert!(!workloads.is_empty() && workloads.iter().all(|w| w["power_w"].is_null() && w["energy_j"].is_null()));
}

/// The keys of a value, with `[]` for the elements of arrays.
fn keys(value: &Value, path: &str, to: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, v) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if !v.is_object() && !v.as_array().is_some_and(|a| a.iter().any(Value::is_object)) {
                    to.insert(path.clone());
                }
                keys(v, &path, to);
            }
        }
        Value::Array(items) => items.iter().for_each(|v| keys(v, &format!("{path}[]"), to)),
        _ => {}
    }
}

fn keys_of(document: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(&serde_json::from_str(document).unwrap(), "", &mut found);
    found
}

fn manual() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/top-json.md")).unwrap()
}

#[test]
fn the_manual_has_each_key_and_no_other() {
    let manual = manual();
    let rows = manual.lines().filter_map(|l| l.strip_prefix("| `")?.split_once('`'));
    let documented: BTreeSet<String> = rows.map(|(key, _)| key.to_owned()).collect();
    for document in play("steady-mix", 2, IdlePolicy::Unallocated) {
        assert_eq!(keys_of(&document), documented);
    }
    let example = manual.split("```json\n").nth(1).and_then(|t| t.split("```").next()).unwrap();
    assert_eq!(keys_of(example), documented, "the example is of another version");
}

#[test]
fn the_example_of_the_manual_adds_up() {
    let manual = manual();
    let example = manual.split("```json\n").nth(1).and_then(|t| t.split("```").next()).unwrap();
    // laid out for people; the figures have no spaces in them
    let dense: String = example.split_whitespace().collect::<Vec<_>>().join("").replace("\": ", "\":");
    let s = sums(&dense).unwrap();
    assert_eq!((s.processes + s.others, s.node), (s.zones, s.zones));
}

fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebbtide-agent"));
    command.args(["top", "--state", "none", "--interval", "250ms"]).args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("EBBTIDE_")) {
        command.env_remove(name);
    }
    command
}

fn output(args: &[&str]) -> (Output, String) {
    let output = agent(args).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

#[test]
fn once_prints_this_machine_and_needs_no_terminal() {
    let (table, text) = output(&["--once"]);
    assert!(table.status.success(), "{table:?}");
    assert!(text.starts_with("ebbtide · ") && text.contains("\nkernel ") && text.contains("\nidle "), "{text}");
    assert!(text.lines().last().unwrap().starts_with("node "), "{text}");
    assert!(text.lines().skip(4).all(|l| l.chars().count() <= 80), "{text}");

    let (json, text) = output(&["--once", "--json"]);
    assert!(json.status.success() && text.ends_with("}\n") && text.lines().count() == 1, "{json:?}");
    if let Some(s) = sums(text.trim_end()) {
        assert_eq!(s.processes + s.others, s.zones);
    }
    let v: Value = serde_json::from_str(&text).unwrap();
    let own = v["workloads"].as_array().unwrap().iter().find(|w| w["comm"] == "ebbtide-agent");
    assert!(own.is_some_and(|w| w["kind"] == "process" && w["cpu_s"].as_f64().unwrap() >= 0.0), "{text}");
}

#[test]
fn lines_come_until_nobody_reads() {
    let mut child = agent(&["--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let second: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(first["at"].as_str().unwrap() < second["at"].as_str().unwrap());
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn without_a_terminal_the_screen_says_what_to_do() {
    let (output, text) = output(&[]);
    assert_eq!((output.status.code(), text.as_str()), (Some(1), ""));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--once"), "{output:?}");
}

#[test]
fn a_root_without_proc_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let root: PathBuf = dir.path().into();
    let (output, _) = output(&["--once", "--root", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(root.to_str().unwrap()), "{output:?}");
}
