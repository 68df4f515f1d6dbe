//! The arrows of the fleet daemon: who may use whom. Reads the `crate::` paths of the source.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which modules of this crate a module may use, and why.
const MAY_USE: &[(&str, &[&str], &str)] = &[
    (
        "config",
        &["act", "decide", "power", "store", "toml_text"],
        "what the operator may say; retention, feeds, mode and windows are made of it",
    ),
    ("pki", &[], "certificates: knows nobody"),
    ("plot", &[], "data to SVG: knows nobody"),
    ("groups", &[], "what workloads are added up under: pure"),
    ("catalogue", &["pki"], "tokens; hashes like certificates do"),
    ("live", &["groups"], "the fleet as last heard: is told, asks nobody"),
    ("store", &["groups", "query"], "keeps frames; answers in the words of `query`"),
    (
        "power",
        &["catalogue", "live"],
        "the hardware and what it feeds: knows who streams, keeps proofs, switches only when told",
    ),
    (
        "decide",
        &["catalogue", "groups", "live", "power", "toml_text"],
        "plans from what is live and proven: switches nothing, answers in the words of the API",
    ),
    (
        "act",
        &["decide", "ingest", "live", "power"],
        "carries plans and orders out: the only one that switches of its own accord",
    ),
    ("ingest", &["live", "store"], "puts what agents send where it belongs"),
    ("query", &["decide", "ingest", "live", "power", "store"], "reads what was published"),
    ("export", &["act", "decide", "ingest", "live", "power"], "metrics of what is live, planned and done"),
    ("ui", &["plot", "query"], "asks questions; can't reach what answers them"),
    (
        "api",
        &["act", "catalogue", "decide", "ingest", "live", "pki", "power", "query", "store"],
        "gRPC: telemetry and orders in, answers out",
    ),
    (
        "serve",
        &[
            "act",
            "api",
            "catalogue",
            "config",
            "decide",
            "export",
            "ingest",
            "live",
            "pki",
            "power",
            "query",
            "store",
            "ui",
        ],
        "puts the parts together",
    ),
    ("args", &[], "the command line"),
    ("fields", &[], "prints figures: knows nobody"),
    ("toml_text", &[], "reads files of operators: knows nobody"),
    ("bench", &["args", "config", "fields", "pki", "store"], "the daemon from outside"),
    ("simulate", &["args", "fields"], "the planner on a virtual clock"),
    ("replay", &["args", "decide", "fields", "groups", "query", "store"], "a policy over what is stored"),
    ("command", &["args", "bench", "config", "replay", "serve", "simulate", "store"], "the daemon's commands"),
    ("cli", &["pki"], "operators' command line: of the daemon it knows only the wire"),
    ("lib", &[], "only names the modules"),
];

/// Most lines that a file may have, tests aside.
const LONGEST: usize = 600;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// Each file of the crate: its first module and its code without comments and tests.
fn code() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let shipped = |path: PathBuf| {
        let below = path.strip_prefix(&root).unwrap();
        let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
        (first.trim_end_matches(".rs").to_owned(), below.to_owned(), code.join("\n"))
    };
    files.into_iter().map(shipped).filter(|(module, ..)| module != "main").collect()
}

/// Modules that `code` names after `crate::`, also within braces.
fn used(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 1;
                let mut start = true;
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => start = true,
                        c if start && depth == 1 && c.is_alphabetic() => {
                            names.insert(word(&list[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            None => drop(names.insert(word(rest))),
        }
    }
    names
}

#[test]
fn arrows_point_one_way() {
    let rules: BTreeMap<_, _> = MAY_USE.iter().map(|(module, to, why)| (*module, (*to, *why))).collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (module, path, code) in code() {
        let Some((allowed, why)) = rules.get(module.as_str()) else {
            wrong.push(format!("{} is a new module; say in MAY_USE what it may use", path.display()));
            continue;
        };
        for other in used(&code).into_iter().filter(|other| *other != module && rules.contains_key(other.as_str())) {
            if !allowed.contains(&other.as_str()) {
                wrong.push(format!("{}: `{module}` ({why}) must not use `{other}`", path.display()));
            }
            seen.insert((module.clone(), other));
        }
    }
    for (module, allowed, _) in MAY_USE {
        for other in *allowed {
            if !seen.contains(&((*module).to_owned(), (*other).to_owned())) {
                wrong.push(format!("`{module}` doesn't use `{other}` any more; take it out of MAY_USE"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() > 20, "the test sees hardly any arrow: {seen:?}");
}

#[test]
fn there_is_no_circle_but_that_of_store_and_query() {
    let arrows: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(module, to, _)| (*module, to.iter().copied().collect())).collect();
    let mut circles = BTreeSet::new();
    for from in arrows.keys() {
        let (mut seen, mut next) = (BTreeSet::new(), arrows[from].iter().copied().collect::<Vec<_>>());
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(&arrows[module]);
            }
        }
        if seen.contains(from) {
            circles.insert(*from);
        }
    }
    // the store answers in the words of `query`, whose answers ask the store
    assert_eq!(circles, BTreeSet::from(["ingest", "query", "store"]));
}

#[test]
fn files_are_short_enough_to_read() {
    let long: Vec<_> =
        code().into_iter().filter(|(.., code)| code.lines().count() > LONGEST).map(|(_, p, _)| p).collect();
    assert!(long.is_empty(), "more than {LONGEST} lines: {long:?}");
}

#[test]
fn modules_in_braces_are_seen() {
    let found = used("use crate::{a::{b, c}, d, e::F}; fn x() -> crate::g::H {}");
    assert_eq!(found, ["a", "d", "e", "g"].map(str::to_owned).into());
}
