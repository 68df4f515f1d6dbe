//! Command line, environment, file and defaults together, and the documents made from them.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/generated.rs"]
mod generated;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbtide_agent::cli::{self, Command, Failure, Parsed};
use ebbtide_agent::config::{Partial, Processes, Settings, Surroundings, file, reference};
use proptest::prelude::*;

fn parse(line: &str, env: &[(&str, &str)]) -> Result<Parsed, Failure> {
    let args = std::iter::once("ebbtide-agent").chain(line.split_whitespace()).map(OsString::from);
    cli::parse(args, env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))))
}

fn settings(line: &str, env: &[(&str, &str)]) -> Settings {
    match parse(line, env).unwrap().command {
        Command::Run(settings) => *settings,
        Command::Top { settings, .. } | Command::Check { settings, .. } | Command::Zones { settings, .. } => *settings,
        other => panic!("{line} has no settings: {other:?}"),
    }
}

fn said(line: &str, env: &[(&str, &str)]) -> String {
    let failure = parse(line, env).unwrap_err();
    assert_eq!(failure.exit_code(), 2, "{line}");
    failure.to_string()
}

fn text_file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let (_dir, path) =
        text_file("interval = \"2s\"\nlisten = \"127.0.0.1:1\"\nprocesses = \"off\"\nidle-floor = { a = 1 }\n");
    let env = [("EBBTIDE_CONFIG", path.as_str()), ("EBBTIDE_LISTEN", "127.0.0.1:2"), ("EBBTIDE_INTERVAL", "3s")];
    let s = settings("run --interval 4s --idle-floor package-0=12 --idle-floor dram=2W,psys=50", &env);
    assert_eq!(s.interval, Duration::from_secs(4));
    assert_eq!(s.listen.port(), 2);
    assert_eq!(s.processes, Processes::Off);
    assert_eq!(s.idle_floor.keys().collect::<Vec<_>>(), ["dram", "package-0", "psys"]);
    assert_eq!(s.retention, Duration::from_secs(60));
    // Before the command and after it is the same; the file named by a flag counts.
    let other = settings("--interval 4s check --config /dev/null", &env);
    assert_eq!((other.interval, other.processes), (Duration::from_secs(4), Processes::Top(50)));
}

#[test]
fn defaults_are_what_the_documents_say() {
    let s = Settings::default();
    assert_eq!(s.listen.to_string(), "127.0.0.1:9883");
    assert_eq!((s.interval, s.fast_interval), (Duration::from_secs(1), Duration::from_millis(100)));
    assert_eq!((s.stale_after, s.retention), (Duration::from_secs(10), Duration::from_secs(60)));
    assert_eq!((s.levels.len(), s.sources.len(), s.names.len(), s.series_budget), (8, 6, 1, 200_000));
    assert_eq!(s.state.as_deref(), Some(Path::new("/var/lib/ebbtide-agent")));
    // Dependent defaults follow the interval instead of contradicting it.
    let fast = settings("run --interval 50ms", &[]);
    assert_eq!((fast.fast_interval, fast.stale_after), (fast.interval, Duration::from_secs(10)));
    assert_eq!(settings("run --interval 1m", &[]).stale_after, Duration::from_secs(180));
}

#[test]
fn every_command_parses() {
    assert!(matches!(parse("top --once --json", &[]).unwrap().command, Command::Top { once: true, json: true, .. }));
    assert!(matches!(parse("check --json", &[]).unwrap().command, Command::Check { json: true, .. }));
    assert!(matches!(parse("zones", &[]).unwrap().command, Command::Zones { json: false, .. }));
    assert_eq!(
        parse("twin --scenario f.toml --out /tmp/t --seed 3 --speed 2.5 --duration 1m30s", &[]).unwrap().command,
        Command::TwinPlay {
            scenario: "f.toml".into(),
            out: "/tmp/t".into(),
            seed: Some(3),
            speed: 2.5,
            duration: Some(Duration::from_secs(90)),
        }
    );
    assert_eq!(
        parse("twin score --seed 7 --json", &[]).unwrap().command,
        Command::TwinScore { scenario: None, seed: Some(7), counters: false, json: true }
    );
    assert_eq!(
        parse("-v twin score --scenario f.toml", &[]).unwrap().command,
        Command::TwinScore { scenario: Some(PathBuf::from("f.toml")), seed: None, counters: false, json: false }
    );
    for shell in ["bash", "zsh", "fish"] {
        let Command::Print(script) = parse(&format!("completion {shell}"), &[]).unwrap().command else {
            panic!("{shell}: no script");
        };
        assert!(script.contains("idle-policy") && script.contains("by-reservation"), "{shell}");
    }
}

#[test]
fn intervals_of_the_fleet_follow_those_of_the_agent() {
    let of = |line| {
        let s = settings(line, &[]).stream;
        (s.node_interval.as_secs(), s.workload_interval.as_secs())
    };
    assert_eq!(of("run"), (1, 10));
    assert_eq!(of("run --interval 5s"), (5, 10));
    assert_eq!(of("run --interval 1m"), (60, 60));
    assert_eq!(of("run --fleet-node-interval 20s"), (20, 20));
    assert_eq!(settings("run", &[]).stream.levels.len(), 6);
    let token = format!("t1.secret.{}", "ab".repeat(32));
    for (given, read) in [(token.as_str(), Some(token.as_str())), ("-", None)] {
        let parsed = parse(&format!("join --fleet f --node-name n1 --token {given}"), &[]).unwrap();
        let Command::Join { settings, token } = parsed.command else { panic!("not join") };
        assert_eq!((settings.node_name.as_str(), token.as_ref().map(|t| t.text())), ("n1", read));
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for (line, want) in [
        ("run --interval 1", "such as \"1s\""),
        ("run --interval 10ms", "from 50ms to 1h"),
        ("run --interval 1s --fast-interval 2s", "--fast-interval: fast-interval is longer than interval"),
        ("run --stale-after 1s --interval 5s", "--stale-after: stale-after is shorter than interval"),
        ("run --model-idle 10", "--model-idle: model-idle needs model-full"),
        ("run --model-idle 10 --model-full 10W", "model-full is not more than model-idle"),
        ("run --sources none", "sources leaves no sensor"),
        ("run --levels all,pod", "levels is a mix"),
        ("run --levels process", "[possible values: all, none, container"),
        ("run --names kepla", "a similar value exists: 'kepler'"),
        ("run --kubelet-ca /x", "kubelet-ca has no effect without kubelet-url"),
        ("run --kubelet-url https://x --kubelet-ca /x --kubelet-insecure", "kubelet-insecure makes"),
        ("run --kubelet-url https://x", "kubelet-url can't be trusted without kubelet-ca"),
        ("run --kubelet-url http://x --kubelet-token /x", "kubelet-token would be sent in plain text"),
        ("run --fleet-ca /x", "fleet-ca has no effect without fleet"),
        ("run --fleet http://10.0.0.1", "--fleet: fleet would send all figures in plain text across the network"),
        ("run --fleet http://127.0.0.1 --fleet-ca /x", "fleet-ca has no effect with http"),
        ("run --fleet-may-shut-down", "fleet-may-shut-down has no effect without fleet"),
        ("run --fleet f --shut-down-program /bin/true", "shut-down-program has no effect without fleet-may-shut-down"),
        ("run --fleet f --fleet-insecure", "fleet-insecure has no effect with https"),
        ("run --fleet f --fleet-cert /x", "fleet-cert and fleet-key go together"),
        ("run --fleet f --state none", "fleet needs certificates"),
        ("run --interval 5s --fleet-node-interval 1s", "fleet-node-interval is shorter than interval"),
        ("run --fleet-workload-interval 500ms", "fleet-workload-interval is shorter than fleet-node-interval"),
        ("run --fleet-workload-interval 1h", "more than a thousand times"),
        ("run --spool-size 1kB", "a size from 1MiB to 1024GiB"),
        ("run --spool-age 1s", "from 60s to 8760h"),
        ("join --fleet f --token a.b.c", "a token as the fleet gave it out"),
        ("join --fleet f", "--token <TOKEN>"),
        ("run --root /does/not/exist", "root: /does/not/exist is not a folder"),
        ("run --log-level inof", "expected off, error, warn"),
        ("run --intervall 1s", "'--interval'"),
        ("run --config /does/not/exist", "can't read the configuration /does/not/exist: No such file"),
        ("twin --scenario f.toml", "--out <DIR>"),
        ("twin --scenario f.toml score", "after `score`"),
        ("twin --interval 1s", "unexpected argument '--interval'"),
        ("twin --speed nan --scenario f --out d", "expected a factor"),
        ("--interval 1s", "no command given"),
        ("", "Usage: ebbtide-agent"),
    ] {
        let got = said(line, &[]);
        assert!(got.contains(want), "{line}:\n{got}");
    }
    let got = said("run", &[("EBBTIDE_THREADS", "2")]);
    assert!(got.starts_with("EBBTIDE_THREADS is \"2\"") && got.lines().count() <= 3, "{got}");
    let (_dir, path) = text_file("model-idle = 10\n");
    let got = said(&format!("run --config {path}"), &[]);
    assert_eq!(got, format!("{path}:1: model-idle needs model-full\n  give both or none"));
}

#[test]
fn a_broken_configuration_does_not_stop_what_needs_none() {
    let env = [("EBBTIDE_CONFIG", "/does/not/exist"), ("EBBTIDE_INTERVAL", "soon")];
    assert!(parse("completion bash", &env).is_ok());
    assert!(parse("twin score", &env).is_ok());
    assert!(parse("run", &env).is_err());
    assert_eq!(parse("--help", &env).unwrap_err().exit_code(), 0);
    assert_eq!(parse("run --version", &env).unwrap_err().exit_code(), 2);
    assert_eq!(parse("--version", &env).unwrap_err().exit_code(), 0);
}

#[test]
fn verbose_is_debug_unless_a_level_is_given() {
    let level = |line: &str, env: &[(&str, &str)]| {
        let parsed = parse(line, env).unwrap();
        (parsed.verbose, parsed.log_level.to_string())
    };
    assert_eq!(level("run", &[]), (false, "info".into()));
    assert_eq!(level("run -v", &[("EBBTIDE_LOG_LEVEL", "warn")]), (true, "debug".into()));
    assert_eq!(level("run --verbose --log-level error", &[]), (true, "error".into()));
    assert_eq!(level("--log-level error twin score", &[]), (false, "error".into()));
    assert_eq!(level("twin score --log-level warn", &[]), (false, "warn".into()));
    assert_eq!(level("--log-level warn run", &[]), (false, "warn".into()));
}

#[test]
fn typos_in_the_environment_are_warned_of() {
    let warnings = parse("run", &[("EBBTIDE_RETENTON", "1s")]).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("EBBTIDE_RETENTION?"), "{warnings:?}");
}

#[test]
fn totals_that_are_lost_are_warned_of() {
    let parsed = parse("run", &[]).unwrap();
    let Command::Run(settings) = parsed.command else { panic!("not run") };
    assert_eq!(parsed.warnings.len(), usize::from(settings.state.is_none()), "{:?}", parsed.warnings);
    assert!(parse("run --state none", &[]).unwrap().warnings.is_empty());
}

#[test]
fn help_shows_defaults_and_variables() {
    let unwrapped = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let help = unwrapped(parse("run --help", &[]).unwrap_err().to_string());
    for want in ["[default: 1s] [env: EBBTIDE_INTERVAL]", "[default: 127.0.0.1:9883]", "EBBTIDE_CONFIG", "Exit codes:"]
    {
        assert!(help.contains(want), "{want} is missing in:\n{help}");
    }
    let check = parse("check --help", &[]).unwrap_err().to_string();
    assert!(check.contains("3 degraded"), "{check}");
    let top = parse("--help", &[]).unwrap_err().to_string();
    assert!(top.lines().count() < 45 && !top.contains("--series-budget"), "{top}");
    cli::command().debug_assert();
}

#[test]
fn a_dump_works_with_and_without_a_command_and_names_origins() {
    let (_dir, path) = text_file("\ninterval = \"2s\"\n");
    for line in ["run --gzip=false --dump-config", "--gzip=false --dump-config", "--gzip=false --dump-config top"] {
        let env = [("EBBTIDE_NODE_NAME", "edge1")];
        let Command::Print(text) = parse(&format!("{line} --config {path}"), &env).unwrap().command else {
            panic!("{line}: no text");
        };
        for want in [
            format!("\ninterval = \"2s\"  # {path}:2\n"),
            "\ngzip = false  # --gzip\n".into(),
            "\nnode-name = \"edge1\"  # EBBTIDE_NODE_NAME\n".into(),
        ] {
            assert!(text.contains(&want), "{want} is missing in:\n{text}");
        }
    }
}

/// `docs/config.md` is made from the code. After a change of a setting:
/// `EBBTIDE_BLESS=1 cargo test -p ebbtide-agent --test config`.
#[test]
fn the_reference_is_up_to_date() {
    generated::assert_current("docs/config.md", &reference::markdown(), "config");
}

/// The file that packages install changes nothing, and each of its lines can be uncommented.
#[test]
fn the_packaged_file_is_up_to_date() {
    let text = reference::template();
    generated::assert_current("packaging/config/agent.toml", &text, "config");
    let (_dir, path) = text_file(&text);
    assert_eq!(settings(&format!("run --state none --config {path}"), &[]), settings("run --state none", &[]));
    let keys: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix('#')).filter(|l| !l.starts_with(' ')).collect();
    assert_eq!(keys.len(), reference::settings().len());
    for key in keys {
        file::parse(key.as_bytes(), "agent.toml".as_ref()).unwrap_or_else(|e| panic!("{key}: {e}"));
    }
}

/// The words and texts of any settings that could be given, by key, as TOML.
fn any_file() -> impl Strategy<Value = BTreeMap<&'static str, String>> {
    let text = |s: &str| format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""));
    let path = "/[ a-zA-Zäß0-9.'\"#=\\\\_-]{1,20}".prop_map(move |p| text(&p)).boxed();
    let ms = |range: std::ops::RangeInclusive<u64>| range.prop_map(|ms| format!("\"{ms}ms\"")).boxed();
    let watts = |from: u64| (from..from + 1_000_000).prop_map(|mw| format!("\"{mw} mW\"")).boxed();
    let words = |words: &'static [&'static str]| {
        prop::sample::subsequence(words, 1..=words.len()).prop_map(|w| format!("{w:?}")).boxed()
    };
    let one = |words: &'static [&'static str]| prop::sample::select(words).prop_map(|w| format!("{w:?}")).boxed();
    let bool = || any::<bool>().prop_map(|b| b.to_string()).boxed();
    // A comma parts the entries of a flag; zones with one can only be named in a file.
    let floors = prop::collection::btree_map("[^\\p{Cc},]{0,10}[a-z]", 0..1_000_000u32, 0..4).prop_map(move |floors| {
        let entries: Vec<String> = floors
            .iter()
            .map(|(z, mw)| (z.trim(), mw))
            .collect::<BTreeMap<_, _>>()
            .iter()
            .map(|(z, mw)| format!("{} = \"{mw} mW\"", text(z)))
            .collect();
        format!("{{ {} }}", entries.join(", "))
    });
    let groups: Vec<BoxedStrategy<Vec<(&'static str, String)>>> = vec![
        single("node-name", "[a-z][a-z0-9.-]{0,20}".prop_map(|n| format!("{n:?}")).boxed()),
        (50..=3_600_000u64, 10..=50u64, 0..1000u64)
            .prop_map(|(interval, fast, more)| {
                vec![
                    ("interval", format!("\"{interval}ms\"")),
                    ("fast-interval", format!("\"{fast}ms\"")),
                    ("stale-after", format!("\"{}ms\"", interval.max(100) + more)),
                ]
            })
            .boxed(),
        single("sources", words(&["powercap", "scmi", "perf-rapl", "hwmon", "battery", "model"])),
        single("usage", one(&["auto", "bpf"])),
        single("counters", bool()),
        single("threads", bool()),
        (watts(0), watts(1_000_000)).prop_map(|(idle, full)| vec![("model-idle", idle), ("model-full", full)]).boxed(),
        single("idle-policy", one(&["unallocated", "by-usage", "by-reservation", "equal"])),
        single("idle-floor", floors.boxed()),
        single("listen", any::<std::net::SocketAddr>().prop_map(|a| format!("\"{}\"", plain(a))).boxed()),
        single("web-config", path.clone()),
        single("gzip", bool()),
        single("names", words(&["native", "kepler", "scaphandre"])),
        single("levels", words(&["container", "pod", "namespace", "unit", "slice", "vm", "user", "system"])),
        single("levels", Just("[]".to_owned()).boxed()),
        single(
            "processes",
            prop_oneof![
                Just("\"all\"".to_owned()),
                Just("\"off\"".into()),
                (1..9999u32).prop_map(|n| format!("\"top:{n}\""))
            ]
            .boxed(),
        ),
        single("labels", words(&["name", "pod", "qos", "comm"])),
        single("series-budget", any::<u32>().prop_map(|n| n.to_string()).boxed()),
        single("retention", ms(0..=86_400_000)),
        (path.clone(), path.clone())
            .prop_map(|(ca, token)| {
                vec![("kubelet-url", "\"https://[::1]:10250\"".into()), ("kubelet-ca", ca), ("kubelet-token", token)]
            })
            .boxed(),
        prop_oneof![
            Just(vec![("fleet", "\"http://[::1]:7\"".to_owned())]),
            Just(vec![("fleet", "\"http://10.0.0.1\"".to_owned()), ("fleet-insecure", "true".to_owned())]),
            [path.clone(), path.clone(), path.clone()].prop_map(|[ca, cert, key]| {
                let fleet = ("fleet", "\"fleet.example\"".to_owned());
                vec![fleet, ("fleet-ca", ca), ("fleet-cert", cert), ("fleet-key", key)]
            }),
        ]
        .boxed(),
        single("wall", one(&["auto", "off"])),
        single("fleet-levels", words(&["container", "pod", "slice", "user", "system"])),
        single(
            "spool-size",
            prop_oneof![Just("\"none\"".to_owned()), (1u64..4096).prop_map(|n| format!("\"{n}MiB\""))].boxed(),
        ),
        single("spool-age", (1u64..9000).prop_map(|m| format!("\"{m}m\"")).boxed()),
        single("state", prop_oneof![Just("\"none\"".to_owned()), path].boxed()),
        single("log-level", one(&["warn", "info,ebbtide_agent=debug"])),
    ];
    let optional: Vec<_> = groups.into_iter().map(prop::option::of).collect();
    optional.prop_map(|groups| groups.into_iter().flatten().flatten().collect())
}

fn single(key: &'static str, value: BoxedStrategy<String>) -> BoxedStrategy<Vec<(&'static str, String)>> {
    value.prop_map(move |v| vec![(key, v)]).boxed()
}

/// An address that its text form gives in full.
fn plain(a: std::net::SocketAddr) -> std::net::SocketAddr {
    (a.ip(), a.port()).into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dump_gives_the_same_settings_again(given in any_file()) {
        let around = Surroundings::default();
        let text: String = given.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let layer = file::parse(text.as_bytes(), Path::new("a.toml")).unwrap();
        prop_assert_eq!(layer.origins.len(), given.len());
        let settings = layer.clone().resolve(&around).unwrap();
        let dumped = reference::dump(&settings, &layer.origins);
        let again = file::parse(dumped.as_bytes(), Path::new("b.toml")).unwrap().resolve(&around).unwrap();
        prop_assert_eq!(&again, &settings, "{}", dumped);

        let flags: Vec<OsString> = toml::Table::try_from(Partial::from(&settings))
            .unwrap()
            .iter()
            .filter(|(_, value)| *value != &toml::Value::Table(toml::Table::new()))
            .map(|(key, value)| format!("--{key}={}", reference::flag_text(value)).into())
            .collect();
        let args = ["ebbtide-agent", "run"].into_iter().map(OsString::from).chain(flags);
        let Command::Run(from_flags) = cli::parse(args, []).unwrap().command else { panic!("not run") };
        prop_assert_eq!(*from_flags, settings, "{}", dumped);
    }
}
