//! Commands that pages show: each of our programs' is one that it understands, and whatever can be run against a small
//! fleet is run. A command that this file doesn't know is a failure.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};

use clap::CommandFactory as _;
use ebbtide_fleet::config::Config;
use ebbtide_fleet::decide::Mode;
use ebbtide_runtime::tasks::blocking;

use crate::daemon::{Daemon, now_ms, run};
use crate::pages::{self, Page, repository};
use crate::shell::{self, Command, OURS};
use crate::streaming::Machine;

/// Programs of others in pages, and why the tests don't run them.
const OTHERS: &[(&str, &str)] = &[
    ("apt", "changes the machine's packages"),
    ("apt-get", "changes the machine's packages"),
    ("dnf", "changes the machine's packages"),
    ("dpkg", "changes the machine's packages"),
    ("rpm", "changes the machine's packages"),
    ("systemctl", "needs a running systemd and the installed units"),
    ("systemd-analyze", "needs a running systemd and the installed units"),
    ("journalctl", "needs a running systemd and the installed units"),
    ("sysctl", "changes the machine"),
    ("modprobe", "changes the machine"),
    ("install", "changes the machine"),
    ("chown", "changes the machine"),
    ("chmod", "changes the machine"),
    ("mkdir", "changes the machine"),
    ("cp", "changes the machine"),
    ("mv", "changes the machine"),
    ("rm", "changes the machine"),
    ("ln", "changes the machine"),
    ("tar", "changes the machine"),
    ("tee", "changes the machine"),
    ("cat", "only shows a file"),
    ("cd", "is the shell's own"),
    ("export", "is the shell's own"),
    ("for", "is the shell's own"),
    ("do", "is the shell's own"),
    ("done", "is the shell's own"),
    ("sqlite3", "isn't on every machine"),
    ("ls", "only shows a folder"),
    ("id", "only shows a user"),
    ("getcap", "only shows a file"),
    ("grep", "only picks from what was printed"),
    ("jq", "only picks from what was printed"),
    ("head", "only picks from what was printed"),
    ("sort", "only picks from what was printed"),
    ("curl", "needs an agent or a daemon on its usual port; pages have tests of their own"),
    ("ssh", "needs another machine"),
    ("scp", "needs another machine"),
    ("openssl", "needs a controller"),
    ("snmpwalk", "needs a PDU"),
    ("snmpget", "needs a PDU"),
    ("kubectl", "needs a cluster; `make test-kubernetes` has one"),
    ("helm", "needs a cluster; charts have tests of their own"),
    ("k3s", "needs a cluster"),
    ("podman", "needs an image that was built; images have tests of their own"),
    ("docker", "needs an image that was built; images have tests of their own"),
    ("buildah", "builds an image; images have tests of their own"),
    ("promtool", "rules have tests of their own"),
    ("prometheus", "runs until it is stopped"),
    ("grafana-cli", "needs Grafana"),
    ("git", "needs the repository's history, or a network"),
    ("cargo", "is the build itself: its packages and targets are compared with the workspace below"),
    ("glibc", "needs programs that were built; `make test-packages` has them"),
    ("mdbook", "the book is built by hand; what it is made of has tests of its own"),
    ("rustup", "changes the machine"),
    ("uname", "only shows the machine"),
    ("virsh", "needs libvirt"),
    ("ipmitool", "needs a controller"),
];

/// Commands of ours that are understood but not run, by how they begin, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("ebbtide-agent", "run in the agent's own tests, which have its program"),
    ("ebbtide-fleet serve", "runs until it is stopped; with --dump-config it is run"),
    ("ebbtide-fleet bench", "takes minutes"),
    ("ebbtide-fleet replay", "takes half a minute; tests/plans.rs replays"),
    ("ebbtide-fleet sim office", "takes a minute without optimisation; fleet/planner tests the scenarios"),
    ("ebbtide-fleet sim flaky", "takes a minute without optimisation; fleet/planner tests the scenarios"),
    ("ebbtide-fleet sim carbon", "takes a minute without optimisation; fleet/planner tests the scenarios"),
    ("ebbtide-fleet sim openb", "needs traces that aren't part of the repository"),
    ("ebbtide-fleet sim planetlab", "needs traces that aren't part of the repository"),
    ("ebbtide top", "runs until it is stopped"),
    ("ebbtide watch", "runs until it is stopped"),
    ("ebbtide device switch", "tests/devices.rs switches"),
    ("ebbtide device scan", "tests/devices.rs scans"),
    ("ebbtide device test-wake", "tests/devices.rs wakes"),
    ("ebbtide pool set-mode", "tests/act.rs sets modes; here plans shall stay as they are"),
    ("ebbtide power", "tests/act.rs switches"),
    ("ebbtide evacuate", "tests/act.rs empties"),
    ("ebbtide approve", "tests/act.rs approves"),
    ("ebbtide cancel", "tests/act.rs cancels"),
];

/// The context in which pages are run; they make others, but not of this name.
const CONTEXT: &str = "of-the-test";

/// Machines that pages speak of; plans are about the last two.
const NODES: [&str; 5] = ["ru2", "edge-7", "edge2", "edge1", "rack1-n07"];

const PLAN: &str = "
[plan]
mode = 'recommend'
inventory = '{}/inventory.toml'
policy = '{}/policy.toml'
every-s = 1
settle-s = 20

[[device]]
name = 'pdu-1'
kind = 'command'
interval = '1s'
program = '{}/strip'

[[device]]
name = 'rack5'
kind = 'command'
interval = '1s'
program = '{}/strip'
";

const INVENTORY: &str = "
[[node]]
name = 'ru2'
cpus = 8
memory = '16GiB'
switchable = false

[[node]]
name = 'edge1'
pool = 'edge'
cpus = 4
watts = [60, 100]
switchable = true
wake-proven = true

[[node]]
name = 'rack1-n07'
pool = 'edge'
cpus = 4
watts = [60, 100]
switchable = true
wake-proven = true

[[workload]]
name = 'shop/*'
cpus = 0.5
movable = true
";

const POLICY: &str = "horizon-s = 86400\nmin-on-s = 0\nsleep-after-s = 0\nstale-after-s = 30\n";

/// A device that a program plays: one outlet that is on.
const STRIP: &str = "#!/bin/sh
echo '{\"total\": {\"watts\": 120.5}, \"outlets\": [{\"id\": \"3\", \"state\": \"on\", \"watts\": 60}]}'
";

fn ours(page: &Page) -> Vec<Command> {
    shell::commands(page).into_iter().filter(|command| OURS.contains(&command.program())).collect()
}

fn definition(program: &str) -> clap::Command {
    let mut definition = match program {
        "ebbtide" => ebbtide_fleet::cli::args::Cli::command(),
        "ebbtide-fleet" => ebbtide_fleet::args::Cli::command(),
        "ebbtide-agent" => ebbtide_agent::cli::command(),
        other => panic!("{other}"),
    };
    definition.build();
    definition
}

fn begins(command: &Command, with: &str) -> bool {
    let line = format!("{} ", command.line());
    line.strip_prefix(with).is_some_and(|rest| rest.starts_with(' '))
}

fn not_run(command: &Command) -> bool {
    NOT_RUN.iter().any(|(beginning, _)| begins(command, beginning))
        && !command.words.iter().any(|word| word == "--dump-config" || word == "--once" || word == "--count")
        || command.program() == "ebbtide-agent"
}

/// Every command is one of ours, of make's, of cargo's, or one of others that is known.
#[test]
fn every_command_is_known() {
    let makefile = fs::read_to_string(repository().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .filter(|target| {
            !target.is_empty() && target.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
        .collect();
    let packages = packages();
    let mut wrong = Vec::new();
    let mut ours = 0;
    for command in pages::all().iter().flat_map(shell::commands) {
        let why = match command.program() {
            program if OURS.contains(&program) => {
                ours += 1;
                let mut words = command.words.clone();
                words[0] = program.to_owned();
                for word in words.iter_mut().filter(|word| *word == "TOKEN") {
                    *word = format!("0a1b2c3d.{}.{}", "0".repeat(32), "0".repeat(64));
                }
                definition(program)
                    .try_get_matches_from(words)
                    .err()
                    .filter(|e| e.exit_code() != 0)
                    .map(|e| e.to_string())
            }
            "make" => {
                let goals = command.words[1..].iter().filter(|word| !word.contains('=') && !word.starts_with('-'));
                let unknown: Vec<_> = goals.filter(|goal| !targets.contains(goal.as_str())).collect();
                (!unknown.is_empty()).then(|| format!("the Makefile has no {unknown:?}"))
            }
            "cargo" => unknown_to_cargo(&command, &packages),
            program if OTHERS.iter().any(|(known, _)| *known == program) => None,
            program => Some(format!("{program} isn't in the list of programs of others in {}", file!())),
        };
        wrong.extend(why.map(|why| format!("{}: {}\n    {}", command.at, command.line(), why.trim_end())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ours > 60, "only {ours} commands were found");
}

/// Names of the workspace's packages, with their folders.
fn packages() -> Vec<(String, PathBuf)> {
    let root = repository();
    let workspace: toml::Table = toml::from_str(&fs::read_to_string(root.join("Cargo.toml")).unwrap()).unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap().iter();
    members
        .map(|member| {
            let folder = root.join(member.as_str().unwrap());
            let package: toml::Table = toml::from_str(&fs::read_to_string(folder.join("Cargo.toml")).unwrap()).unwrap();
            (package["package"]["name"].as_str().unwrap().to_owned(), folder)
        })
        .collect()
}

fn unknown_to_cargo(command: &Command, packages: &[(String, PathBuf)]) -> Option<String> {
    let after = |flag: &str| {
        let at = command.words.iter().position(|word| word == flag)?;
        command.words.get(at + 1)
    };
    let name = after("-p")?;
    let Some((_, folder)) = packages.iter().find(|(package, _)| package == name) else {
        return Some(format!("there is no package {name}"));
    };
    for (flag, place) in [("--test", "tests"), ("--example", "examples")] {
        if let Some(target) = after(flag) {
            let there = |path: &str| folder.join(place).join(path).exists();
            if !there(&format!("{target}.rs")) && !there(&format!("{target}/main.rs")) {
                return Some(format!("{name} has no {place}/{target}"));
            }
        }
    }
    None
}

/// What stands between backticks in a text and begins with a program of ours names commands and flags that it has.
#[test]
fn commands_within_sentences_are_real() {
    let mut wrong = Vec::new();
    for page in pages::all() {
        for (line, text) in page.prose() {
            for span in pages::spans(text) {
                let Some((program, rest)) = span.split_once(' ').filter(|(program, _)| OURS.contains(program)) else {
                    continue;
                };
                let why = misspelt(&definition(program), rest);
                wrong.extend(why.map(|why| format!("{}:{line}: `{span}`: {why}", page.name)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let about = |text| misspelt(&definition("ebbtide"), text);
    assert_eq!(about("pool list"), None);
    assert_eq!(about("nodes | node | explain node edge1 --plan 3"), None);
    assert_eq!(about("pool lost"), Some("`pool` has no command `lost`".to_owned()));
    assert_eq!(about("COMMAND -o json"), None);
    assert_eq!(about("nodes -x"), Some("`nodes` has no flag `-x`".to_owned()));
    assert_eq!(about("nodes | nodez"), Some("`ebbtide` has no command `nodez`".to_owned()));
    assert_eq!(about("lock edge1 --because x"), Some("`lock` has no flag `--because`".to_owned()));
}

/// The first command or flag that a program doesn't have. `a | b` are alternatives in one place.
fn misspelt(program: &clap::Command, text: &str) -> Option<String> {
    let mut path = vec![program];
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let here = path.last().expect("it has the program");
        if word == "|" {
            path.truncate(1.max(path.len() - 1));
        } else if let Some(flag) = word.strip_prefix("--") {
            let name = flag.split('=').next().unwrap_or_default();
            let Some(arg) = here.get_arguments().find(|arg| arg.get_long() == Some(name)) else {
                return (!matches!(name, "help" | "version"))
                    .then(|| format!("`{}` has no flag `--{name}`", here.get_name()));
            };
            if arg.get_action().takes_values() && !flag.contains('=') {
                words.next_if(|word| *word != "|");
            }
        } else if let Some(flag) = word.strip_prefix('-') {
            let Some(arg) = here.get_arguments().find(|arg| flag.starts_with(|c| arg.get_short() == Some(c))) else {
                return Some(format!("`{}` has no flag `-{flag}`", here.get_name()));
            };
            if arg.get_action().takes_values() && flag.len() == 1 {
                words.next_if(|word| *word != "|");
            }
        } else if here.has_subcommands() {
            match here.find_subcommand(word) {
                Some(found) => path.push(found),
                // a word that stands for others, as COMMAND does
                None if word.starts_with(|c: char| !c.is_lowercase()) => return None,
                None if here.get_positionals().next().is_some() => {}
                None => return Some(format!("`{}` has no command `{word}`", here.get_name())),
            }
        }
    }
    None
}

/// A folder in which the commands of a page find what they name.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new(daemon: &Daemon) -> Self {
        let home = Self { folder: tempfile::tempdir().unwrap() };
        let docs = repository().join("docs");
        let scenario = fs::read_to_string(docs.join("simulator.md")).unwrap();
        let scenario = scenario.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        for (name, text) in [
            ("inventory.toml", INVENTORY),
            ("careful.toml", POLICY),
            ("new-servers.toml", "[[node]]\nname = 'new'\ncpus = 4\nmemory = '8GiB'\nwatts = [5, 12]\n"),
            ("my-fleet.toml", scenario),
        ] {
            fs::write(home.path().join(name), text).unwrap();
        }
        let data = daemon.folder.path().join("data");
        for name in ["DIR", "data"] {
            symlink(&data, home.path().join(name)).unwrap();
        }
        fs::create_dir_all(home.path().join("var/lib")).unwrap();
        symlink(&data, home.path().join("var/lib/ebbtide-fleet")).unwrap();
        for name in ["tmp", "etc/ebbtide", "var/backups", "srv/backup"] {
            fs::create_dir_all(home.path().join(name)).unwrap();
        }
        let identity = "ebbtide://operator/admin/alice".parse().unwrap();
        let issued = daemon.authority.as_ref().unwrap().issue(&identity, &[], 90, now_ms()).unwrap();
        for (name, text) in [("alice.pem", &issued.certificate_pem), ("alice-key.pem", &issued.key_pem)] {
            fs::write(home.path().join(name), text).unwrap();
        }
        fs::copy(daemon.folder.path().join("pki/ca.pem"), home.path().join("ca.pem")).unwrap();
        fs::set_permissions(home.path().join("alice-key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        let at = format!("https://{}", daemon.at.grpc);
        let set = [
            "context",
            "set",
            CONTEXT,
            "--fleet",
            &at,
            "--ca",
            "ca.pem",
            "--cert",
            "alice.pem",
            "--key",
            "alice-key.pem",
        ];
        let output = home.process("ebbtide", set).output().unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        home
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Paths from the root are below the folder.
    fn process<'a>(&self, program: &str, args: impl IntoIterator<Item = &'a str>) -> Process {
        let mut process = Process::new(match program {
            "ebbtide" => env!("CARGO_BIN_EXE_ebbtide"),
            _ => env!("CARGO_BIN_EXE_ebbtide-fleet"),
        });
        let below = |arg: &str| match arg.strip_prefix('/') {
            Some(path) => self.path().join(path).into_os_string(),
            None => arg.into(),
        };
        process
            .env_clear()
            .env("HOME", self.path())
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env("EBBTIDE_CONTEXT", CONTEXT)
            .env("EBBTIDE_FLEET_DATA", self.path().join("DIR"))
            .env("TZ", "UTC")
            .current_dir(self.path())
            .stdin(Stdio::null());
        let args: Vec<&str> = args.into_iter().collect();
        process.args(args.iter().map(|arg| below(arg)));
        if args.first() == Some(&"pki") && !args.contains(&"--dir") {
            // root's usual one is the machine's
            process.arg("--dir").arg(self.path().join("etc/ebbtide/pki"));
        }
        process
    }
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A fleet of which pages can be run: machines that stream, a plan that does something, and some operations.
async fn fleet() -> (Daemon, Vec<Machine>) {
    let folder = tempfile::tempdir().unwrap().keep();
    for (name, text) in [("inventory.toml", INVENTORY), ("policy.toml", POLICY), ("strip", STRIP)] {
        fs::write(folder.join(name), text).unwrap();
    }
    fs::set_permissions(folder.join("strip"), fs::Permissions::from_mode(0o755)).unwrap();
    let read: Config = toml::from_str(&PLAN.replace("{}", folder.to_str().unwrap())).unwrap();
    assert_eq!(read.plan.mode, Mode::Recommend);
    let daemon = Daemon::encrypted(|config| (config.plan, config.device) = (read.plan, read.device)).await;
    let began = now_ms() / 300_000 * 300_000 - 7_200_000;
    let mut machines = Vec::new();
    for name in NODES {
        let work: &[(&str, u64)] = match name {
            "edge1" => &[("5e1f0b2c:shop/web-0", 400), ("77aac3d1:shop/web-2", 300)],
            "rack1-n07" => &[("0c77e9a4:shop/web-1", 200)],
            _ => &[],
        };
        machines.push(Machine::since(&daemon, name, began, 70, work).await);
    }
    let home = Home::new(&daemon);
    for name in NODES {
        succeeds(&home, &["explain", "node", name]).await;
    }
    // eight operations, so that pages can speak of the seventh
    for order in ["lock", "unlock"].repeat(4) {
        succeeds(&home, &[order, "edge-7"]).await;
    }
    succeeds(&home, &["explain", "action", "3"]).await;
    (daemon, machines)
}

/// What `ebbtide` says.
pub(crate) async fn asked(home: &Home, args: &[&str]) -> Output {
    let mut process = home.process("ebbtide", args.iter().copied());
    blocking("ebbtide", move || process.output().unwrap()).await.unwrap()
}

/// Asks until it is answered, a minute at most.
async fn succeeds(home: &Home, args: &[&str]) {
    let mut said = String::new();
    for _ in 0..300 {
        let output = asked(home, args).await;
        if output.status.success() {
            return;
        }
        said = printed(&output);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    panic!("{args:?}: {said}");
}

#[test]
fn commands_of_pages_do_what_pages_say() {
    run(async {
        let (daemon, _machines) = fleet().await;
        let (mut wrong, mut count) = (Vec::new(), 0);
        for page in pages::all() {
            let home = Home::new(&daemon);
            let mut seen = BTreeSet::new();
            for command in ours(&page).into_iter().filter(|command| !not_run(command)) {
                if !seen.insert(command.line()) {
                    continue;
                }
                let mut process = home.process(command.program(), command.words[1..].iter().map(String::as_str));
                let output = blocking("command", move || process.output().unwrap()).await.unwrap();
                count += 1;
                if output.status.code() != Some(command.code) {
                    let (line, code) = (command.line(), output.status.code());
                    wrong.push(format!(
                        "{}: {line}: {code:?} instead of {}\n{}",
                        command.at,
                        command.code,
                        printed(&output)
                    ));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(count > 30, "only {count} commands were run");
        daemon.stop().await;
    });
}
