//! Commands of the agent in the project's pages: those that only look are run, on a machine that the twin plays.
//! Whether all of them are understood is a test of the fleet daemon's, which has all three programs' definitions.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../../fleet/tests/documents/pages.rs"]
mod pages;
#[path = "../../fleet/tests/documents/shell.rs"]
mod shell;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ebbtide_agent::twin::{SCENARIOS, Scenario, Twin};

/// What is not run, by how it begins, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("run", "runs until it is stopped; tests/http.rs and others do"),
    ("join", "needs a fleet; tests/fleet.rs joins one"),
    ("top", "is a screen, or goes on for ever; with --once it is run"),
    ("twin", "goes on for ever, or takes minutes; tests/twin.rs runs it"),
];

/// A folder with the `/proc` and `/sys` of a server that has run for a minute.
fn server(folder: &Path) {
    let (_, text) = SCENARIOS.iter().find(|(name, _)| *name == "steady-mix").unwrap();
    let mut twin = Twin::new(&Scenario::parse(text).unwrap(), 1);
    for _ in 0..60 {
        twin.step(Duration::from_secs(1));
    }
    twin.write(folder).unwrap();
}

#[test]
fn commands_of_pages_do_what_pages_say() {
    let folder = tempfile::tempdir().unwrap();
    let (root, home) = (folder.path().join("root"), folder.path().join("home"));
    std::fs::create_dir_all(&home).unwrap();
    server(&root);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for command in pages::all().iter().flat_map(shell::commands) {
        let args = &command.words[1..];
        let once = args.iter().any(|arg| arg == "--once" || arg == "--dump-config");
        let not_run = args.first().is_some_and(|verb| NOT_RUN.iter().any(|(other, _)| verb == other));
        if command.program() != "ebbtide-agent" || not_run && !once || !seen.insert(command.line()) {
            continue;
        }
        let output = Command::new(env!("CARGO_BIN_EXE_ebbtide-agent"))
            .args(args)
            .env_clear()
            .envs([("HOME", home.as_path()), ("EBBTIDE_ROOT", root.as_path())])
            .env("EBBTIDE_STATE", "none")
            .current_dir(&home)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        // how well a machine can be measured is the machine's: that of a page isn't this one
        let code = output.status.code();
        let fits = match args.first().map(String::as_str) {
            Some("check") => matches!(code, Some(0 | 3 | 4)),
            _ => code == Some(command.code),
        };
        if !fits {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            wrong.push(format!("{}: {}: {code:?}\n{said}", command.at, command.line()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() >= 4, "only {seen:?} were run");
}
