//! The shape of the agent's code: which module may use which, how large a file may get, and where `unsafe` and
//! the clock may appear. The rules are data with their reasons; code that breaks one has to change the rule here,
//! where a reviewer sees it.
//!
//! Only code that ships is looked at: what stands under `#[cfg(test)]` may use anything.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may use what, and why. A path allows all below it, `*` everything. What isn't listed is forbidden; what is
/// listed and not used any more must go. A part of a module may have rules of its own; the module must then not use it
/// unless it says so.
///
/// Flow is one way: `source` + `usage` + `workload` → `sampler` (with `counter`, `attribution`, `ledger`,
/// `journal`) → `snapshot` → `export` → `command`.
const MAY_USE: &[(&str, &[&str], &str)] = &[
    ("clock", &[], "the bottom: reads the clocks, knows nobody"),
    ("host", &[], "the bottom: paths and bounded reads, knows nobody"),
    ("tasks", &[], "the bottom: names and stops tasks, knows nobody"),
    // Readers: what the machine says. None knows who asks.
    ("perf", &[], "the bottom: one system call, knows nobody"),
    ("source", &["clock", "host", "perf", "trapezoid"], "readers of joules"),
    (
        "usage",
        &["clock", "host", "perf", "workload::cgroup"],
        "readers of CPU time; the cgroup's path is parsed by who knows paths",
    ),
    ("workload", &["clock", "host", "usage::table"], "names of what runs; tasks are told apart by the table's types"),
    // Pure cores: values in, values out.
    ("counter", &[], "the runtime's: pure, readings in, energy out"),
    ("trapezoid", &[], "the runtime's: pure, power in, energy out"),
    (
        "attribution",
        &["usage::cpu::CpuMeter", "usage::table::Events", "usage::table::TaskIx"],
        "pure: shares energy out by how busy CPUs were and what counters told",
    ),
    ("ledger", &["counter"], "pure: adds up steps"),
    ("journal", &["clock::Moment", "ledger"], "keeps the ledger over restarts"),
    // The published picture holds figures of the above, never a reader.
    (
        "snapshot",
        &[
            "attribution::IdlePolicy",
            "attribution::floor::Floor",
            "clock::Moment",
            "ledger::ZoneAccount",
            "source::Quality",
            "source::Zone",
            "source::discover::Role",
            "usage::Status",
            "usage::table::TaskClass",
        ],
        "types only",
    ),
    (
        "sampler",
        &[
            "attribution",
            "clock",
            "config::Processes",
            "counter",
            "host",
            "journal",
            "ledger",
            "snapshot",
            "source",
            "usage",
            "workload",
        ],
        "the one place where readers and cores meet",
    ),
    (
        "export",
        &[
            "attribution::IdlePolicy",
            "attribution::floor::FloorKind",
            "config::Label",
            "config::NameStyle",
            "config::Processes",
            "counter::Gap",
            "host",
            "snapshot",
            "source::SourceKind",
            "source::ZoneKind",
            "source::discover::Role",
            "stream::figures",
            "usage::table::TaskClass",
        ],
        "reads snapshots; of everything before them only the words that figures are labelled with",
    ),
    (
        "stream",
        &["clock", "host", "snapshot", "source::Zone", "source::discover::Role", "source::wall", "tasks"],
        "reads snapshots and tells the fleet, and passes on what the fleet tells of the wall; of the sampler it knows nothing else",
    ),
    (
        "config",
        &["attribution::IdlePolicy", "host", "source::SourceKind", "stream::batch", "usage::Choice"],
        "what the operator may say, and in which words",
    ),
    ("cli", &["config", "host"], "flags are settings"),
    ("twin", &["clock", "host", "source::ZoneKind"], "a simulated machine: must not know how an agent measures"),
    (
        "twin::score",
        &[
            "attribution",
            "clock::Moment",
            "config::Processes",
            "counter::Gap",
            "host",
            "ledger::ZoneAccount",
            "sampler",
            "snapshot",
            "source",
            "twin",
            "usage",
        ],
        "runs the sampler on a simulated machine and compares",
    ),
    ("command", &["*"], "puts the parts together; the only one that may know all of them"),
    ("main", &["cli", "command", "config"], "parses, logs, calls a command"),
    ("lib", &[], "only names the modules"),
];

/// Most lines that a file may have, tests aside.
const LONGEST: usize = 600;

/// Files that may be longer: up to where, and why.
const LONGER: &[(&str, usize, &str)] = &[];

/// Where `unsafe` may appear, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("perf.rs", "perf_event_open has no safe wrapper"),
    ("usage/bpf/sys.rs", "aya can't put an open event into a map; giving memory back is the C library's"),
];

/// Ways to read a clock. `Instant::now` of tokio is one too: its clock can be paused by tests.
const CLOCKS: &[&str] = &["SystemTime::now", "Instant::now", "UnixTime::now", "clock_gettime"];

/// Where they may appear, and why.
const CLOCK_READERS: &[(&str, &str)] = &[];

/// A source file, freed of comments, texts and tests.
struct Source {
    /// Below `src`, with `/`.
    name: String,
    /// Modules it stands for: `source`, `powercap`, `tree`.
    module: Vec<String>,
    code: String,
    /// Lines as they are in the file, tests aside.
    lines: usize,
}

#[test]
fn arrows_point_one_way() {
    let sources = sources("src");
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in &sources {
        let Some((from, allowed, why)) = rule(&source.module.join("::")) else {
            wrong.push(format!("{} is a new module; say in MAY_USE what it may use", source.name));
            continue;
        };
        for edge in edges(source) {
            // what is no module is a name of the prelude or a macro
            if rule(&edge).is_none_or(|(to, ..)| to == from) {
                continue;
            }
            match allowed.iter().find(|a| **a == "*" || is_below(&edge, a)) {
                Some(a) => drop(used.insert((*from, *a))),
                None => wrong.push(format!("{}: `{from}` ({why}) must not use `{edge}`", source.name)),
            }
        }
    }
    for (from, allowed, _) in MAY_USE {
        for a in *allowed {
            if !used.contains(&(*from, *a)) {
                wrong.push(format!("`{from}` doesn't use `{a}` any more; take it out of MAY_USE"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(used.len() > 30, "the test sees hardly any arrow: {used:?}");
}

/// Between whole modules there is one pair that knows each other, and that is `usage` and `workload`.
#[test]
fn there_is_no_other_circle() {
    let arrows: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(m, to, _)| (*m, to.iter().filter_map(|t| Some(rule(t)?.0)).collect())).collect();
    let mut circles = BTreeSet::new();
    for from in arrows.keys() {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = arrows[from].iter().copied().collect();
        while let Some(m) = next.pop() {
            if seen.insert(m) {
                next.extend(&arrows[m]);
            }
        }
        if seen.contains(from) {
            circles.insert(*from);
        }
    }
    assert_eq!(circles, BTreeSet::from(["usage", "workload"]));
}

#[test]
fn files_are_short_enough_to_read() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().chain(&sources("../proto/src")) {
        let longer = LONGER.iter().find(|(name, ..)| *name == source.name);
        let most = longer.map_or(LONGEST, |(_, most, _)| *most);
        if source.lines > most {
            wrong.push(format!("{} has {} lines besides tests, more than {most}: split it", source.name, source.lines));
        }
        if longer.is_some() && source.lines <= LONGEST {
            wrong.push(format!("{} has {} lines; take it out of LONGER", source.name, source.lines));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_where_it_is_expected() {
    let found = files_with(&["unsafe"]);
    let want: BTreeSet<String> = UNSAFE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, want, "files with `unsafe` against those in UNSAFE");
}

#[test]
fn only_the_clock_reads_clocks() {
    let found = files_with(CLOCKS);
    let want: BTreeSet<String> = CLOCK_READERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, want, "files that read a clock against those in CLOCK_READERS");
    for source in sources("src").iter() {
        for path in ["std::time::Instant", "std::time::SystemTime", "time::clock_gettime"] {
            assert!(!edges_of(&source.code, "std").iter().any(|e| e == path), "{} uses {path}", source.name);
        }
    }
}

/// The checks above are only as good as this.
#[test]
fn code_is_read_as_the_compiler_does() {
    let text = r##"
        //! crate::sampler
        use crate::{a::{self, b::C as D}, d}; /* crate::e /* crate::f */ crate::g */
        const S: &str = "crate::h \" unsafe"; const R: &str = r#"crate::i " "#; const C: char = '"'; const B: u8 = b'\'';
        fn x<'a>(y: &'a crate::j::K) -> super::super::l::M { crate::n::o::<u8>(y) }
        #[cfg(test)] mod fixture;
        #[cfg(test)] fn p() { crate::q::r({ '}' }) }
        #[cfg(test)]
        mod tests { use crate::s; fn t() {} }
        use crate::u::*;
    "##;
    let code = shipped(&blanked(text));
    let source = Source { name: String::new(), module: vec!["m".into(), "n".into()], code, lines: 0 };
    let found = edges(&source);
    let want = ["a", "a::b::C", "d", "j::K", "l::M", "n::o", "u"];
    assert_eq!(found, want.map(str::to_owned).into());
    assert!(!source.code.contains("unsafe"));
    assert_eq!(text.lines().count(), source.code.lines().count() + 1, "one line of tests is gone");
}

/// The rule for the innermost module that `path` is in.
fn rule(path: &str) -> Option<&'static (&'static str, &'static [&'static str], &'static str)> {
    MAY_USE.iter().filter(|(module, ..)| is_below(path, module)).max_by_key(|(module, ..)| module.len())
}

fn is_below(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn files_with(words: &[&str]) -> BTreeSet<String> {
    let whole = |code: &str, word: &str| {
        code.match_indices(word).any(|(at, _)| {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            !code[..at].ends_with(is_name) && !code[at + word.len()..].starts_with(is_name)
        })
    };
    let mut found = BTreeSet::new();
    for source in sources("src") {
        if words.iter().any(|w| whole(&source.code, w)) {
            found.insert(source.name);
        }
    }
    found
}

/// All files below a folder of this package that ship.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    collect(&root, &mut files);
    let texts: Vec<(PathBuf, String)> =
        files.into_iter().map(|f| (f.clone(), fs::read_to_string(f).unwrap())).collect();
    let mut tests = BTreeSet::new();
    for (path, text) in &texts {
        let folder = match path.file_name().unwrap().to_str().unwrap() {
            "mod.rs" | "lib.rs" | "main.rs" => path.parent().unwrap().to_owned(),
            _ => path.with_extension(""),
        };
        for name in test_modules(&blanked(text)) {
            tests.insert(folder.join(format!("{name}.rs")));
        }
    }
    let mut out = Vec::new();
    for (path, text) in texts.iter().filter(|(path, _)| !tests.contains(path)) {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let module = name.trim_end_matches(".rs").trim_end_matches("/mod").split('/').map(str::to_owned).collect();
        let code = shipped(&blanked(text));
        out.push(Source { name, module, lines: code.lines().count(), code });
    }
    assert!(!out.is_empty(), "{folder} has no code");
    out
}

fn collect(folder: &Path, to: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, to);
        } else if path.extension().is_some_and(|e| e == "rs") {
            to.push(path);
        }
    }
    to.sort();
}

/// The text with comments and the insides of texts blanked, lines kept.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let blank = |s: &str, out: &mut String| out.extend(s.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    while let Some(c) = rest.chars().next() {
        let raw_hashes = rest.strip_prefix('r').map(|r| r.len() - r.trim_start_matches('#').len());
        let in_name = out.ends_with(|c: char| c.is_alphanumeric() && c != 'b' || c == '_');
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment_end(rest)
        } else if let Some(n) = raw_hashes
            && !in_name
            && rest[1 + n..].starts_with('"')
        {
            let close = format!("\"{}", "#".repeat(n));
            rest[n + 2..].find(&close).map_or(rest.len(), |at| n + 2 + at + close.len())
        } else if c == '"' {
            text_end(rest)
        } else if c == '\'' {
            // a lifetime has no second quote behind one character
            let inner = rest[1..].chars().next().map_or(0, char::len_utf8);
            match &rest[1..] {
                r if r.starts_with('\\') => 3 + rest[3..].find('\'').unwrap_or(0),
                r if r[inner..].starts_with('\'') => inner + 2,
                _ => 0,
            }
        } else {
            0
        };
        if end > 0 {
            blank(&rest[..end], &mut out);
            rest = &rest[end..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

fn comment_end(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn text_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Names in `#[cfg(test)] mod name;`.
fn test_modules(code: &str) -> Vec<String> {
    let items = code.split("#[cfg(test)]").skip(1);
    items
        .filter_map(|item| item.split_once(['{', ';']).filter(|(head, _)| !item[head.len()..].starts_with('{')))
        .filter_map(|(head, _)| head.rsplit_once("mod ").map(|(_, name)| name.trim().to_owned()))
        .collect()
}

/// The code without its `#[cfg(test)]` items.
fn shipped(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let mut depth = 0usize;
        let end = item.char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            (depth == 0 && matches!(c, '}' | ';')).then_some(i + 1)
        });
        rest = &item[end.unwrap_or(item.len())..];
    }
    out.push_str(rest);
    out
}

/// Paths from the root of the crate that a file uses.
fn edges(source: &Source) -> BTreeSet<String> {
    let mut found = edges_of(&source.code, "crate");
    found.extend(edges_of(&source.code, "ebbtide_agent"));
    // `super::super::x`: as many steps up as there are
    for n in 1..=source.module.len() {
        let up = vec!["super"; n].join("::");
        let mut base: Vec<&str> = source.module.iter().map(String::as_str).collect();
        base.truncate(source.module.len() - n);
        for path in edges_of(&source.code, &up) {
            if !path.starts_with("super") {
                found.insert(base.iter().copied().chain([path.as_str()]).collect::<Vec<_>>().join("::"));
            }
        }
    }
    found
}

/// Paths behind `root::`, without it; groups are unfolded. For `std` with it.
fn edges_of(code: &str, root: &str) -> BTreeSet<String> {
    let start = format!("{root}::");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(&start) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let prefix = if root == "std" { "std" } else { "" };
        unfold(&code[at + start.len()..], prefix, &mut found);
    }
    found
}

/// Reads one use tree from the start of `text`; returns what is behind it.
fn unfold<'a>(text: &'a str, prefix: &str, to: &mut BTreeSet<String>) -> &'a str {
    let mut path = prefix.to_owned();
    let mut rest = text.trim_start();
    loop {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = &rest[..end];
        if !name.is_empty() && name != "self" {
            path = if path.is_empty() { name.to_owned() } else { format!("{path}::{name}") };
        }
        rest = rest[end..].trim_start();
        if name.is_empty()
            && let Some(group) = rest.strip_prefix('{')
        {
            rest = group;
            loop {
                rest = rest.trim_start().trim_start_matches(',').trim_start();
                if let Some(after) = rest.strip_prefix('}') {
                    return after;
                }
                let before = rest.len();
                rest = unfold(rest, &path, to);
                if let Some(renamed) = rest.strip_prefix("as ") {
                    rest = renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ' ');
                }
                if rest.len() == before {
                    return rest;
                }
            }
        }
        match rest.strip_prefix("::") {
            Some(next) if !next.starts_with('<') => rest = next.strip_prefix('*').unwrap_or(next).trim_start(),
            _ => break,
        }
    }
    to.insert(path);
    rest
}
