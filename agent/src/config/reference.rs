//! Texts made from the definition of the settings: `docs/config.md`, `--dump-config`, the additions to `--help`.

use std::collections::BTreeMap;

use clap::{Arg, Args, Command};

use super::layer::{Origin, PREFIX, given};
use super::{Partial, Settings};

/// Examples of settings that have no default to show, or none that tells much.
const EXAMPLES: [(&str, &str); 14] = [
    ("node-name", "\"edge1\""),
    ("model-idle", "\"8 W\""),
    ("model-full", "\"31 W\""),
    ("idle-floor", "{ package-0 = \"12 W\", dram = \"2 W\" }"),
    ("web-config", "\"/etc/ebbtide/web.yml\""),
    ("wall-devices", "\"/etc/ebbtide/outlets.toml\""),
    ("kubelet-url", "\"https://127.0.0.1:10250\""),
    ("kubelet-ca", "\"/var/run/secrets/kubernetes.io/serviceaccount/ca.crt\""),
    ("kubelet-token", "\"/var/run/secrets/kubernetes.io/serviceaccount/token\""),
    ("fleet", "\"https://fleet.example:9884\""),
    ("fleet-ca", "\"/etc/ebbtide/ca.pem\""),
    ("fleet-cert", "\"/etc/ebbtide/agent.pem\""),
    ("fleet-key", "\"/etc/ebbtide/agent-key.pem\""),
    ("shut-down-program", "\"/usr/local/sbin/shut-down\""),
];

/// Settings whose default depends on the machine; their text says how.
const OF_THE_MACHINE: [&str; 2] = ["node-name", "state"];

/// One setting as the texts show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Key of the file; with `--` in front, the flag.
    pub key: String,
    /// Variable of the environment.
    pub env: String,
    /// What stands for the value in help.
    pub value_name: String,
    /// Heading it belongs under.
    pub section: String,
    /// What it does.
    pub text: String,
    /// The words it can have, if those are a closed set.
    pub words: Vec<String>,
    /// Its default as TOML, if it has one that doesn't depend on the machine.
    pub default: Option<String>,
    /// A value as TOML.
    pub example: String,
}

impl Setting {
    /// The example as it is written after a flag or in a variable.
    pub fn example_as_flag(&self) -> String {
        let table = format!("v = {}", self.example).parse::<toml::Table>().unwrap_or_default();
        table.get("v").map(flag_text).unwrap_or_default()
    }

    fn default_as_flag(&self) -> Option<String> {
        let default = self.default.as_ref().filter(|d| *d != "{}")?;
        let table = format!("v = {default}").parse::<toml::Table>().ok()?;
        table.get("v").map(flag_text)
    }
}

/// `value` as it is written after a flag: lists and tables with commas, texts without quotes.
pub fn flag_text(value: &toml::Value) -> String {
    let joined = |parts: Vec<String>| parts.join(",");
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => joined(values.iter().map(flag_text).collect()),
        toml::Value::Table(table) => joined(table.iter().map(|(k, v)| format!("{k}={}", flag_text(v))).collect()),
        other => other.to_string(),
    }
}

/// All settings, in the order of their definition.
pub fn settings() -> Vec<Setting> {
    let defaults = given(&Partial::from(&Settings::default()));
    let command = Partial::augment_args(Command::new("settings"));
    command.get_arguments().filter_map(|arg| setting(arg, &defaults)).collect()
}

fn setting(arg: &Arg, defaults: &toml::Table) -> Option<Setting> {
    let key = arg.get_long()?.to_owned();
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let default = defaults.get(&key).filter(|_| !OF_THE_MACHINE.contains(&key.as_str())).map(ToString::to_string);
    let example = EXAMPLES.iter().find(|(k, _)| *k == key).map(|(_, example)| (*example).to_owned());
    let usual = || defaults.get(&key).map(ToString::to_string).unwrap_or_default();
    Some(Setting {
        env: format!("{PREFIX}{}", key.replace('-', "_").to_ascii_uppercase()),
        value_name: arg.get_value_names().and_then(|n| n.first()).map(ToString::to_string).unwrap_or_default(),
        section: arg.get_help_heading().unwrap_or("Program").to_owned(),
        text: format!("{}.", help.trim_end_matches('.')),
        words: arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect(),
        example: example.unwrap_or_else(usual),
        default,
        key,
    })
}

/// Adds the default and the variable to the help of each setting of `command`.
pub fn annotate(command: Command) -> Command {
    let settings = settings();
    command.mut_args(|arg| {
        let Some(setting) = settings.iter().find(|s| arg.get_long() == Some(&s.key)) else { return arg };
        let default = setting.default_as_flag().map(|d| format!(" [default: {d}]")).unwrap_or_default();
        let note = format!("{default} [env: {}]", setting.env);
        let (short, long) = (arg.get_help().cloned(), arg.get_long_help().cloned());
        let arg = match short {
            Some(help) => arg.help(format!("{help}{note}")),
            None => arg,
        };
        match long {
            Some(help) => arg.long_help(format!("{help}{note}")),
            None => arg,
        }
    })
}

/// The effective configuration as a file that gives it again. `origins` says where each value came from.
pub fn dump(effective: &Settings, origins: &BTreeMap<String, Origin>) -> String {
    let values = given(&Partial::from(effective));
    let head = format!(
        "# Effective configuration of ebbtide-agent {}.\n# Use it with --config FILE; what a file leaves out has its \
         default.\n",
        env!("CARGO_PKG_VERSION")
    );
    listed(head, |setting| {
        let key = &setting.key;
        match (values.get(key), origins.get(key)) {
            (Some(value), Some(origin)) => format!("{key} = {value}  # {origin}\n"),
            (Some(value), None) => format!("{key} = {value}  # default\n"),
            (None, _) => format!("# {key} = {}\n", setting.example),
        }
    })
}

const TEMPLATE: &str = "\
# Settings of the service ebbtide-agent. All are commented out: what isn't said has its default.
# A line that begins with #key shows the key with its default. Where it says \"example\" there is none.
# After a change: systemctl restart ebbtide-agent. What is in force: ebbtide-agent --dump-config --config THIS-FILE
";

/// A file for `--config` that changes nothing, and says all that could be changed: `packaging/config/agent.toml`.
pub fn template() -> String {
    listed(TEMPLATE.to_owned(), |setting| match &setting.default {
        Some(default) => format!("#{} = {default}\n", setting.key),
        None => format!("#{} = {}  # example\n", setting.key, setting.example),
    })
}

/// All settings with what they do below `head`; `line` is how one is set.
fn listed(head: String, line: impl Fn(&Setting) -> String) -> String {
    let mut out = head;
    let mut section = String::new();
    for setting in settings() {
        if setting.section != section {
            let rule = "-".repeat(100usize.saturating_sub(setting.section.len()));
            out.push_str(&format!("\n# {} {rule}\n", setting.section));
            section.clone_from(&setting.section);
        }
        out.push('\n');
        for text in wrapped(&setting.text, 98) {
            out.push_str(&format!("# {text}\n"));
        }
        if !setting.words.is_empty() && setting.words != ["true", "false"] {
            for text in wrapped(&format!("Words: {}.", setting.words.join(", ")), 98) {
                out.push_str(&format!("# {text}\n"));
            }
        }
        out.push_str(&line(&setting));
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration of ebbtide-agent

<!-- Generated from agent/src/config; change it there, then: EBBTIDE_BLESS=1 cargo test -p ebbtide-agent --test config -->

Everything has a default: `ebbtide-agent run` needs no configuration. Each setting can be given, in order of
precedence, as a flag, as a variable of the environment, or as a key of a TOML file that is named with `--config FILE` or
`EBBTIDE_CONFIG`. Lists and tables of a higher place replace those of a lower one.

`ebbtide-agent --dump-config` prints what is in force and where each value came from; the output is a valid file.
An unknown key, a value of the wrong type or out of range, or settings that contradict each other stop the start with
exit code 2. An empty variable counts as not given.

```toml
# /etc/ebbtide/agent.toml
interval = \"2s\"
listen = \":9883\"
names = [\"native\", \"kepler\"]
processes = \"top:20\"
idle-floor = { package-0 = \"12 W\", dram = \"2 W\" }
```

The same as flags: `--interval 2s --listen :9883 --names native,kepler --processes top:20
--idle-floor package-0=12,dram=2`; a flag with a list can also be repeated.

## How values are written

| value | in the file | flag or variable |
|---|---|---|
| DURATION | text with its unit: `\"250ms\"`, `\"1s\"`, `\"1.5m\"`, `\"1m30s\"`, `\"1h\"` | the same without quotes |
| WATTS | a number of watts, or text with `mW`, `W` or `kW`: `12.5`, `\"12 W\"` | `12.5`, `12W`, `850mW` |
| ZONE=WATTS | table: `{ package-0 = \"12 W\" }` | `package-0=12,dram=2` |
| LIST | list of texts: `[\"a\", \"b\"]`; `[\"all\"]` and `[\"none\"]` where the words have them | `a,b` |
| SIZE | text with `KiB`, `MiB` or `GiB`: `\"256MiB\"`; `\"none\"` | the same without quotes |
| BOOL | `true` or `false` | `--gzip=false`, `--threads`; `EBBTIDE_GZIP=false` |
| others | text, or a whole number for NUMBER | the same without quotes |
";

/// The text of `docs/config.md`.
pub fn markdown() -> String {
    let settings = settings();
    let mut out = INTRODUCTION.to_owned();
    out.push_str("\n## All settings\n\n| key | default | |\n|---|---|---|\n");
    for s in &settings {
        let first = s.text.split_inclusive(". ").next().unwrap_or_default().trim();
        out.push_str(&format!("| [`{0}`](#{0}) | {1} | {2} |\n", s.key, default_in_markdown(s), cell(first)));
    }
    let mut section = "";
    for s in &settings {
        if s.section != section {
            out.push_str(&format!("\n## {}\n", s.section));
            section = &s.section;
        }
        out.push_str(&format!("\n### {}\n\n", s.key));
        for line in wrapped(&s.text, 118) {
            out.push_str(&format!("{line}\n"));
        }
        let flag = match s.value_name.as_str() {
            "BOOL" => format!("`--{}[=BOOL]`", s.key),
            name => format!("`--{} {name}`", s.key),
        };
        out.push_str(&format!("\n- flag: {flag}\n- environment: `{}`\n- default: {}\n", s.env, default_in_markdown(s)));
        if !s.words.is_empty() {
            let words: Vec<String> = s.words.iter().map(|w| format!("`{w}`")).collect();
            out.push_str(&format!("- words: {}\n", words.join(", ")));
        }
        out.push_str(&format!("- example: `{} = {}`\n", s.key, s.example));
    }
    out
}

fn default_in_markdown(setting: &Setting) -> String {
    match &setting.default {
        Some(default) => format!("`{default}`"),
        None if OF_THE_MACHINE.contains(&setting.key.as_str()) => "depends on the machine".into(),
        None => "not set".into(),
    }
}

/// `text` inside a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// `text` in lines of at most `width` characters, where words allow.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_complete() {
        let all = settings();
        assert_eq!(all.len(), 42);
        for s in &all {
            assert!(s.text.len() > 20 && !s.value_name.is_empty() && !s.example.is_empty(), "{s:?}");
            assert!(s.default.is_some() || s.example != "\"\"", "{s:?}");
            let line = format!("{} = {}", s.key, s.example);
            let layer = super::super::file::parse(line.as_bytes(), "x".as_ref()).unwrap();
            assert_eq!(given(&layer.values).len(), 1, "{line}");
        }
        for (key, _) in EXAMPLES {
            assert!(all.iter().any(|s| s.key == key), "{key}");
        }
    }

    #[test]
    fn a_dump_says_where_values_came_from() {
        let origins = [("interval".to_owned(), Origin::Env("EBBTIDE_INTERVAL".into()))].into();
        let text = dump(&Settings::default(), &origins);
        assert!(text.contains("\ninterval = \"1s\"  # EBBTIDE_INTERVAL\n"), "{text}");
        assert!(text.contains("\ngzip = true  # default\n"));
        assert!(text.contains("\n# web-config = \"/etc/ebbtide/web.yml\"\n"));
        assert!(text.lines().all(|l| l.chars().count() <= 110));
    }
}
