//! Documents that are generated from code are what the code says. `EBBTIDE_BLESS=1` writes them anew.

use std::path::Path;

use ebbtide_fleet::config::{Config, KubernetesConfig};
use ebbtide_fleet::decide::inventory::Inventory;
use ebbtide_fleet::export::METRICS;
use ebbtide_planner::policy::{Policy, Reserve, Worth};

use crate::pages;

fn same(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "docs/{name} is not what the code says; EBBTIDE_BLESS=1 make test writes it anew");
}

#[test]
fn the_metrics_are_listed() {
    let mut text = "# Metrics of the fleet daemon\n\nAt `/metrics` of `ebbtide-fleet`, in Prometheus' text format. \
                    Generated from the code.\n\n| metric | kind | what it tells |\n|---|---|---|\n"
        .to_owned();
    for metric in METRICS {
        text.push_str(&format!("| `{}` | {} | {} |\n", metric.name, metric.kind, metric.help));
    }
    same("fleet-metrics.md", &text);
}

/// The doc comments of `config.rs` are the reference: each key with its default and what is said above it.
#[test]
fn the_settings_are_listed() {
    let code = [
        include_str!("../../src/config.rs"),
        include_str!("../../src/act/settings.rs"),
        include_str!("../../src/act/window.rs"),
        include_str!("../../src/act/hooks.rs"),
    ]
    .concat();
    let mut text =
        "# Settings of the fleet daemon\n\n`ebbtide-fleet serve --config FILE`, TOML. All keys are optional. \
                    Generated from the code.\n\n```toml\n"
            .to_owned();
    text.push_str(&Config::default().dump());
    text.push_str("```\n");
    for (table, name) in [
        ("Config", "At the top"),
        ("TlsFiles", "[tls]"),
        ("LimitsConfig", "[limits]"),
        ("Retention", "[retention]"),
        ("PlanConfig", "[plan]"),
        ("ActConfig", "[act]"),
        ("WindowConfig", "[[act.window]]"),
        ("HookConfig", "[[act.hook]]"),
        ("KubernetesConfig", "[kubernetes]"),
        ("RemoteWrite", "[[remote-write]]"),
    ] {
        text.push_str(&format!("\n## {name}\n\n| key | meaning |\n|---|---|\n"));
        for (key, said) in keys(&code, table) {
            text.push_str(&format!("| `{key}` | {said} |\n"));
        }
    }
    same("fleet-config.md", &text);
}

/// The keys of a struct of the configuration, with what is said above each.
fn keys(code: &str, table: &str) -> Vec<(String, String)> {
    let body = code.split(&format!("pub struct {table} {{")).nth(1).unwrap().split("\n}").next().unwrap();
    let (mut found, mut said) = (Vec::new(), Vec::new());
    for line in body.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("/// ") {
            said.push(doc);
        } else if let Some(field) = line.strip_prefix("pub ") {
            let key = field.split(':').next().unwrap().trim_start_matches("r#").replace('_', "-");
            found.push((key, said.join(" ")));
            said.clear();
        }
    }
    assert!(said.is_empty());
    found
}

/// The file that packages install changes nothing, shows the real defaults, can be uncommented, and has all keys.
#[test]
fn the_packaged_file_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/config/fleet.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    let lines = || text.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' '));
    let all: Config = toml::from_str(&lines().collect::<Vec<_>>().join("\n")).unwrap();
    all.check().unwrap();
    assert!(all.tls.is_some() && all.device.len() == 1 && all.remote_write.len() == 1);
    // without what is marked as an example, and the tables that need one, the defaults are left
    let needed = ["[tls]", "[[act.window]]", "[[act.hook]]", "[[device]]", "[[feed]]"];
    let usual: Vec<_> = lines()
        .take_while(|line| *line != "[[remote-write]]")
        .filter(|line| !line.ends_with("# example") && !needed.contains(line))
        .collect();
    let usual: Config = toml::from_str(&usual.join("\n")).unwrap();
    assert_eq!(usual, Config { kubernetes: Some(KubernetesConfig::default()), ..Config::default() });
    let code = include_str!("../../src/config.rs");
    for table in ["Config", "TlsFiles", "LimitsConfig", "Retention", "PlanConfig", "KubernetesConfig", "RemoteWrite"] {
        // a file of its own, tables of tables, and what needs a manual
        let elsewhere = ["pdu-model", "act", "rules"];
        for (key, _) in keys(code, table).into_iter().filter(|(key, _)| !elsewhere.contains(&key.as_str())) {
            let shown = lines().any(|l| l.split(" = ").next() == Some(&*key) || l.trim_matches(['[', ']']) == key);
            assert!(shown, "packaging/config/fleet.toml doesn't show {key} of {table}");
        }
    }
}

/// What docs/acting.md shows can be written so, and its limits are those that hold without a file.
#[test]
fn examples_of_acting_can_be_used() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/acting.md")).unwrap();
    let blocks: Vec<Config> = text
        .split("```toml\n")
        .skip(1)
        .map(|rest| toml::from_str(rest.split("```").next().unwrap()).unwrap_or_else(|error| panic!("{error}: {rest}")))
        .collect();
    for config in &blocks {
        config.check().unwrap();
    }
    assert!(blocks.iter().any(|c| c.act.window.len() == 2) && blocks.iter().any(|c| c.act.hook.len() == 3));
    assert!(text.contains("[act.limits]\n") && blocks.iter().all(|c| c.act.limits == Config::default().act.limits));
}

/// The settings in docs/kubernetes.md are those that hold without them.
#[test]
fn the_settings_of_a_cluster_are_the_usual_ones() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes.md")).unwrap();
    let block = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let config: Config = toml::from_str(block).unwrap();
    let usual = KubernetesConfig { kubeconfig: Some("/etc/ebbtide/kubeconfig".into()), ..Default::default() };
    assert_eq!(config.kubernetes, Some(usual));
}

/// The files in docs/plans.md are what the daemon takes, and the policy in it is the one that holds without a file.
#[test]
fn examples_of_plans_can_be_used() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plans.md")).unwrap();
    let block = |beginning: &str| {
        let found = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        found.into_iter().find(|block| block.starts_with(beginning)).unwrap().to_owned()
    };
    let config: Config = toml::from_str(&block("[plan]")).unwrap();
    assert!(config.plan.inventory.is_some() && config.plan.policy.is_some());
    let inventory = Inventory::parse(&block("[[node]]"), "docs/plans.md").unwrap();
    let node = inventory.node[0].node(None, "").unwrap();
    assert_eq!((node.capacity.cpu_milli, node.capacity.memory), (16_000, 64 << 30));
    assert!(inventory.workload[0].movable && inventory.away["shop"] == 2);
    let policy: Policy = toml::from_str(&block("basis")).unwrap();
    policy.validate().unwrap();
    assert!(!policy.interlocks.is_empty() && policy.reserve.nodes == 1);
    let worth = Worth { zones: std::collections::BTreeMap::new(), ..policy.worth.clone() };
    assert_eq!(Policy { interlocks: Vec::new(), reserve: Reserve::default(), worth, ..policy }, Policy::default());
}

/// What other pages show of the daemon's configuration is taken, too.
#[test]
fn examples_of_settings_can_be_used() {
    let mut count = 0;
    for name in ["quick-start", "observe-to-auto", "operate", "fleet", "devices", "extend"] {
        let page = pages::all().into_iter().find(|page| page.name == format!("docs/{name}.md")).unwrap();
        for block in page.blocks().into_iter().filter(|block| block.language == "toml") {
            let text = block.lines.join("\n");
            let config: Config = toml::from_str(&text).unwrap_or_else(|e| panic!("{}:{}: {e}", page.name, block.line));
            config.check().unwrap_or_else(|e| panic!("{}:{}: {e}", page.name, block.line));
            count += 1;
        }
    }
    assert!(count > 15, "only {count} blocks were found");
}
