//! Each command in each form.

use crate::made_up::{MadeUp, Mood};
use crate::{Home, Ran, golden};

/// The commands that are run, and the name that their output is kept under.
const COMMANDS: &[(&str, &str)] = &[
    ("nodes", "nodes"),
    ("nodes-search", "nodes --search edge"),
    ("node", "node edge1"),
    ("node-refused", "node gpu-rack-17-slot-4.datacentre-north.example"),
    ("workloads", "workloads"),
    ("workloads-by-namespace", "workloads --by namespace"),
    ("workloads-limit", "workloads --by pod --limit 2"),
    ("workloads-none", "workloads --by vm"),
    ("zones", "zones"),
    ("energy", "energy --since 2026-11-21 --until 2026-11-22"),
    ("energy-limit", "energy --since 2026-11-21 --until 2026-11-22 --limit 1 --by app"),
    ("energy-steps", "energy --since 2026-11-21T02:00 --until 2026-11-21T08:00 --step 1h"),
    ("energy-component", "energy --since 2026-11-20 --until 2026-11-22 --step 1d --by component"),
    ("energy-none", "energy --since 2026-11-20 --until 2026-11-22 --by vm"),
    ("status", "status"),
    ("version", "version"),
];

fn run(fleet: &MadeUp, home: &Home, args: &str) -> Ran {
    let mut ran = home.run(&format!("{args} --fleet http://{}", fleet.address));
    // each run has another port
    let masked = |text: &str| text.replace(&fleet.address.to_string(), "127.0.0.1:9884");
    (ran.out, ran.err) = (masked(&ran.out), masked(&ran.err));
    ran
}

#[test]
fn every_command_prints_what_it_printed() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    for (name, args) in COMMANDS {
        for format in ["table", "wide", "json", "yaml", "csv"] {
            let ran = run(&fleet, &home, &format!("{args} -o {format}"));
            assert_eq!(ran.code, Some(0), "{args}: {ran:?}");
            if format == "table" {
                for line in ran.out.lines() {
                    assert!(line.chars().count() <= 80 || *name == "status", "{args}: too wide for paper: {line}");
                    assert_eq!(line.trim_end(), line, "{args}: spaces at the end");
                }
                // talk stands below the data, as on a terminal
                golden(&format!("{name}.txt"), &format!("{}{}", ran.out, said(&ran.err)));
            } else {
                let is_paper = format == "wide";
                assert!(is_paper || ran.err.is_empty(), "{args} -o {format} talks: {}", ran.err);
                golden(&format!("{name}.{format}"), &ran.out);
            }
        }
    }
}

fn said(err: &str) -> String {
    err.lines().map(|line| format!("stderr: {line}\n")).collect()
}

#[test]
fn what_is_printed_as_json_yaml_and_csv_is_that() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    for (_, args) in COMMANDS {
        let json: serde_json::Value =
            serde_json::from_str(&run(&fleet, &home, &format!("{args} -o json")).out).unwrap();
        let yaml: serde_json::Value =
            serde_norway::from_str(&run(&fleet, &home, &format!("{args} -o yaml")).out).unwrap();
        assert_eq!(json, yaml, "{args}");
        let csv = run(&fleet, &home, &format!("{args} -o csv")).out;
        let columns = csv.lines().next().unwrap().split(',').count();
        // the only cell with a comma is quoted
        let plain = csv.replace("\"win-build, \"\"nightly\"\"\"", "win-build");
        assert!(plain.lines().all(|line| line.split(',').count() == columns || line.contains('"')), "{args}: {csv}");
    }
}

#[test]
fn an_empty_fleet_tells_the_next_command() {
    let (fleet, home) = (MadeUp::start(Mood::Empty), Home::new());
    for command in ["nodes", "workloads --by vm", "zones", "token list", "top --once", "doctor"] {
        let ran = run(&fleet, &home, command);
        let name = command.split(' ').next().unwrap();
        let text = format!("{}{}", ran.out, said(&ran.err));
        if name != "doctor" {
            golden(&format!("empty-{name}.txt"), &text);
        }
        assert!(text.contains("ebbtide") || text.contains("--by") || text.contains("known"), "{command}: {text}");
    }
}

#[test]
fn the_doctor_names_what_is_wrong_and_how_to_fix_it() {
    let home = Home::new();
    let masked = |text: &str| {
        let mask = |line: &str| match line.split_once("connected within ") {
            Some((before, _)) => format!("{before}connected within 1 ms\n"),
            None => format!("{line}\n"),
        };
        text.lines().map(mask).collect::<String>()
    };
    let fleet = MadeUp::start(Mood::Well);
    let well = run(&fleet, &home, "doctor");
    assert_eq!((well.code, well.err.as_str()), (Some(0), ""), "{well:?}");
    golden("doctor-well.txt", &masked(&well.out));
    drop(fleet);

    let fleet = MadeUp::start(Mood::Mixed);
    let mixed = run(&fleet, &home, "doctor -o json");
    let report: serde_json::Value = serde_json::from_str(&mixed.out).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let level = |check: &str| {
        let of = rows.iter().filter(|r| r["check"] == check);
        of.map(|r| r["level"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
    };
    // its clock stands still at another day
    assert_eq!((level("clock").as_str(), mixed.code), ("failed", Some(1)));
    for (check, levels) in [
        ("reach", "ok"),
        ("nodes", "degraded,degraded"),
        ("ingest", "degraded"),
        ("gaps", "degraded"),
        ("daemon", "degraded"),
    ] {
        assert_eq!(level(check), levels, "{check}: {rows:?}");
    }
    assert!(rows.iter().all(|r| r["level"] == "ok" || r["fix"].is_string()), "each has its fix: {rows:?}");
    let text = run(&fleet, &home, "doctor").out;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    drop(fleet);

    let gone = home.run("doctor --fleet http://127.0.0.1:1");
    assert_eq!(gone.code, Some(1));
    golden("doctor-unreachable.txt", &gone.out);
}

#[test]
fn the_fleet_is_followed_line_by_line() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    let text = run(&fleet, &home, "watch --count 2");
    assert_eq!(text.code, Some(0), "{text:?}");
    golden("watch.txt", &text.out);
    golden("watch.csv", &run(&fleet, &home, "watch --count 2 -o csv").out);
    let json = run(&fleet, &home, "watch --count 2 -o json --by namespace");
    let updates: Vec<serde_json::Value> = json.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(updates.len(), 2);
    assert_eq!(updates[0]["nodes"].as_array().unwrap().len(), 5);
    assert_eq!((&updates[1]["removed"][0], &updates[0]["workloads"][0]["name"]), (&"old".into(), &"ran".into()));
    // the fleet ends after two
    let ended = run(&fleet, &home, "watch");
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.lines().count() == 2 && ended.err.contains("ended the updates"), "{ended:?}");
    golden("top-once.txt", &run(&fleet, &home, "top --once").out);
    golden("top-once-by-namespace.txt", &run(&fleet, &home, "top --once --by namespace").out);
}

#[test]
fn an_export_in_pieces_has_each_bucket_once() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    // 7 days of 10 minutes are 1,008 buckets, ten times what the fleet answers at once; they begin between two
    let args = "--since 2026-11-14T00:05 --until 2026-11-21T00:05 --step 10m --by node";
    let csv = run(&fleet, &home, &format!("export {args}"));
    assert_eq!((csv.code, csv.err.as_str()), (Some(0), ""));
    let rows: Vec<&str> = csv.out.lines().skip(1).collect();
    assert_eq!(rows.len(), 1009 * 3);
    let mut seen = std::collections::BTreeSet::new();
    assert!(rows.iter().all(|row| seen.insert(row.split(',').take(3).collect::<Vec<_>>())), "a bucket is there twice");
    let energy: u64 = rows.iter().filter_map(|row| row.split(',').nth(4)?.parse::<u64>().ok()).sum();
    let whole = run(&fleet, &home, &format!("energy {} -o json", args.replace("--step 10m ", "")));
    let whole: serde_json::Value = serde_json::from_str(&whole.out).unwrap();
    let sums: u64 = whole["groups"].as_array().unwrap().iter().map(|g| g["total_uj"].as_u64().unwrap()).sum();
    assert_eq!(energy, sums, "to the microjoule");

    let file = home.path("out.csv");
    let to = run(&fleet, &home, &format!("export {args} --to out.csv"));
    assert_eq!((to.code, to.out.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), csv.out);
    let json = run(&fleet, &home, "export --since 2026-11-21T03:00 --until 2026-11-21T05:00 --step 1h -o json");
    golden("export.jsonl", &json.out);
    let yaml = run(&fleet, &home, "export -o yaml");
    assert_eq!(yaml.code, Some(2));
    // what fails leaves no half of a file
    let failed = home.run("export --to other.csv --fleet http://127.0.0.1:1");
    assert_eq!(failed.code, Some(1));
    let left: Vec<_> = std::fs::read_dir(home.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["out.csv"]);
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    let made = run(&fleet, &home, "token create --node Edge9 --ttl 24h");
    assert_eq!(made.code, Some(0), "{made:?}");
    golden("token-create.txt", &format!("{}{}", made.out, said(&made.err)));
    assert_eq!(made.out.lines().count(), 1, "one command, ready to be run");
    assert!(made.out.chars().all(|c| !";&|$`".contains(c)), "nothing of the fleet's own gets into a shell");
    let dry = run(&fleet, &home, "token create --dry-run");
    assert!(dry.out.is_empty() && dry.err.contains("would make"), "{dry:?}");
    golden("token-list.txt", &run(&fleet, &home, "token list").out);
    assert_eq!(run(&fleet, &home, "token revoke t7").code, Some(0));
    let unknown = run(&fleet, &home, "token revoke t8");
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("there is no token \"t8\""), "{unknown:?}");
    for bad in ["token create --ttl 31d", "token create --node a/b", "token create --ttl 5"] {
        assert_eq!(run(&fleet, &home, bad).code, Some(2), "{bad}");
    }
}

#[test]
fn help_has_an_example_for_every_command() {
    let home = Home::new();
    let help = home.run("--help");
    golden("help.txt", &help.out);
    assert_eq!(help.code, Some(0));
    for line in help.out.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    let commands = help.out.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<&str> = commands.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   ")).collect();
    assert!(names.len() >= 14, "{names:?}");
    for name in names.iter().filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "version" && *n != "token") {
        let help = home.run(&format!("{name} --help"));
        assert!(
            help.out.contains(&format!("ebbtide {name}")) && help.out.contains("Examples:"),
            "{name}: {}",
            help.out
        );
    }
    assert!(home.run("token create --help").out.contains("Examples:"));
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&format!("completion {shell}")).out;
        assert!(script.contains("issue-operator") && script.contains("workloads"), "{shell}");
    }
}
