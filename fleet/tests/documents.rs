//! Documents that are generated from code are what the code says. `EBBTIDE_BLESS=1` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use ebbtide_fleet::config::Config;
use ebbtide_fleet::export::METRICS;

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
    let code = include_str!("../src/config.rs");
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
        ("RemoteWrite", "[[remote-write]]"),
    ] {
        text.push_str(&format!("\n## {name}\n\n| key | meaning |\n|---|---|\n"));
        let body = code.split(&format!("pub struct {table} {{")).nth(1).unwrap().split("\n}").next().unwrap();
        let mut said = Vec::new();
        for line in body.lines().map(str::trim) {
            if let Some(doc) = line.strip_prefix("/// ") {
                said.push(doc);
            } else if let Some(field) = line.strip_prefix("pub ") {
                let key = field.split(':').next().unwrap().replace('_', "-");
                text.push_str(&format!("| `{key}` | {} |\n", said.join(" ")));
                said.clear();
            }
        }
        assert!(said.is_empty());
    }
    same("fleet-config.md", &text);
}
