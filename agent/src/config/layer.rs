//! Layers of settings and where each value came from; the environment as a layer; what defaults depend on.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Command, FromArgMatches};
use ebbtide_proto::NodeId;
use rustix::fs::Access;

use super::file::ConfigError;
use super::reference::{Setting, settings};
use super::value::excerpt;
use super::{Partial, SYSTEM_STATE, Settings};
use crate::host::{HostRoot, read_line};

/// The environment that a process was started with.
pub type Env = BTreeMap<OsString, OsString>;

/// What the names of all variables of the agent start with.
pub const PREFIX: &str = "EBBTIDE_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag(String),
    /// A variable of the environment.
    Env(String),
    /// A line of the file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Env(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", excerpt(&path.display().to_string())),
        }
    }
}

/// Settings with the origin of each that is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    /// The settings.
    pub values: Partial,
    /// Origin by key.
    pub origins: BTreeMap<String, Origin>,
}

impl Layer {
    /// The flags `values`.
    pub fn flags(values: Partial) -> Self {
        let origins = given(&values).keys().map(|key| (key.clone(), Origin::Flag(format!("--{key}")))).collect();
        Self { values, origins }
    }

    /// The variables of `env` that are settings. An empty one counts as not given.
    pub fn env(env: &Env) -> Result<Self, ConfigError> {
        let mut layer = Self::default();
        for setting in settings() {
            let Some(value) = env.get(OsStr::new(&setting.env)).filter(|v| !v.is_empty()) else { continue };
            let values = one_variable(&setting, value)?;
            let origins = [(setting.key.clone(), Origin::Env(setting.env.clone()))].into();
            layer = layer.over(Self { values, origins });
        }
        Ok(layer)
    }

    /// This layer where it gives something, else `lower`.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        let mut origins = lower.origins;
        origins.extend(self.origins);
        Self { values: self.values.or(lower.values), origins }
    }

    /// The settings of this layer, completed and checked.
    pub fn resolve(self, around: &Surroundings) -> Result<Settings, ConfigError> {
        let origins = self.origins;
        self.values.resolve(around).map_err(|conflict| ConfigError::Conflict {
            origin: origins.get(conflict.key).cloned(),
            key: conflict.key,
            why: conflict.why,
            fix: conflict.fix,
        })
    }
}

/// The settings that `values` gives, as TOML values by key.
pub(super) fn given(values: &Partial) -> toml::Table {
    // Cannot fail: every value is text, a number, a truth value, or a list or table of texts.
    toml::Table::try_from(values).unwrap_or_default()
}

/// Reads one variable with the parser of the flag of the same setting.
fn one_variable(setting: &Setting, value: &OsStr) -> Result<Partial, ConfigError> {
    let wrong = |why: String| ConfigError::Variable {
        name: setting.env.clone(),
        found: excerpt(&value.to_string_lossy()),
        why,
        example: format!("{}={}", setting.env, setting.example_as_flag()),
    };
    let text = value.to_str().ok_or_else(|| wrong("which is not UTF-8".into()))?;
    Partial::augment_args(Command::new("env").no_binary_name(true))
        .try_get_matches_from([format!("--{}={text}", setting.key)])
        .and_then(|matches| Partial::from_arg_matches(&matches))
        .map_err(|e| wrong(expectation(&e)))
}

/// What clap expected instead of a value, without its talk of flags.
fn expectation(e: &clap::Error) -> String {
    if let Some(ContextValue::Strings(words)) = e.get(ContextKind::ValidValue) {
        return format!("expected one of {}", words.join(", "));
    }
    std::error::Error::source(e).map_or_else(|| "which is no value of this setting".to_owned(), ToString::to_string)
}

/// Variables that look like settings with a typo: they have no effect, and somebody should be told.
///
/// Other unknown variables are no error: Kubernetes sets some with the prefix for each service of that name.
pub fn suspicious(env: &Env) -> Vec<String> {
    let known: Vec<String> = settings().into_iter().map(|s| s.env).chain([format!("{PREFIX}CONFIG")]).collect();
    let ours = env.keys().filter_map(|name| name.to_str()).filter(|name| name.starts_with(PREFIX));
    ours.filter(|name| !known.iter().any(|k| k == name))
        .filter_map(|name| {
            let tail = |n: &str| n.trim_start_matches(PREFIX).to_owned();
            let near = closest(&tail(name), known.iter().map(|k| tail(k)))?;
            Some(format!("{} is not a setting and has no effect, did you mean {PREFIX}{near}?", excerpt(name)))
        })
        .collect()
}

/// The one of `known` that `word` most likely was meant to be.
pub(super) fn closest(word: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let scored = known.into_iter().map(|k| (strsim::jaro_winkler(word, &k), k)).filter(|(score, _)| *score > 0.85);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, k)| k)
}

/// What the defaults depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The machine's name.
    pub host_name: NodeId,
    /// Where totals can be kept; `None` if there is no such place.
    pub state: Option<PathBuf>,
}

impl Surroundings {
    /// Looks at the machine below `root` and at the environment.
    pub fn observe(root: &HostRoot, env: &Env) -> Self {
        let writable = |path: &Path| rustix::fs::access(path, Access::WRITE_OK).is_ok();
        Self { host_name: node_name(&host_name(root)), state: state_folder(env, writable) }
    }
}

/// Of a host whose name is `localhost`, on which the agent runs as a service.
impl Default for Surroundings {
    fn default() -> Self {
        Self { host_name: node_name("localhost"), state: Some(SYSTEM_STATE.into()) }
    }
}

/// The name of the machine below `root`. Of another root than `/` the kernel tells only our own container's name.
fn host_name(root: &HostRoot) -> String {
    let written = || read_line(&root.join("etc/hostname")).ok().filter(|name| !name.is_empty());
    let own = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    if root.is_real() { own() } else { written().unwrap_or_else(own) }
}

/// `name` as a node name: what a node name can't have becomes `-`.
fn node_name(name: &str) -> NodeId {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let mut name: String = name.trim().chars().take(253).map(|c| if allowed(c) { c } else { '-' }).collect();
    if name.is_empty() {
        name.push_str("localhost");
    }
    #[allow(clippy::expect_used, reason = "1 to 253 allowed characters, all ASCII, are a node name")]
    NodeId::new(&name).expect("checked above")
}

/// The system's folder if it (or, while it doesn't exist, its parent) is `writable`, else the user's.
fn state_folder(env: &Env, writable: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let system = Path::new(SYSTEM_STATE);
    let place = if system.exists() { Some(system) } else { system.parent() };
    if place.is_some_and(writable) {
        return Some(system.into());
    }
    let folder = |name: &str| env.get(OsStr::new(name)).map(PathBuf::from).filter(|p| p.is_absolute());
    let user = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    // A name that isn't UTF-8 couldn't be written into a configuration.
    user.map(|state| state.join("ebbtide-agent")).filter(|p| p.to_str().is_some_and(|t| !t.contains(char::is_control)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn variables_are_read_like_flags() {
        let layer = Layer::env(&env(&[
            ("EBBTIDE_INTERVAL", "2s"),
            ("EBBTIDE_IDLE_FLOOR", "package-0=12,dram=2 W"),
            ("EBBTIDE_NAMES", "native,kepler"),
            ("EBBTIDE_THREADS", "true"),
            ("EBBTIDE_STATE", ""),
            ("HOME", "/root"),
        ]))
        .unwrap();
        let keys: Vec<&String> = layer.origins.keys().collect();
        assert_eq!(keys, ["idle-floor", "interval", "names", "threads"]);
        let settings = layer.resolve(&Surroundings::default()).unwrap();
        assert_eq!(settings.interval.as_secs(), 2);
        assert_eq!(settings.idle_floor.len(), 2);
        assert_eq!(settings.names.len(), 2);
        assert!(settings.threads);
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let said = |name: &str, value: &str| Layer::env(&env(&[(name, value)])).unwrap_err().to_string();
        assert_eq!(
            said("EBBTIDE_INTERVAL", "1"),
            "EBBTIDE_INTERVAL is \"1\"\n  expected a duration from 50ms to 1h with its unit (ms, s, m, h), such as \
             \"1s\"\n  for example: EBBTIDE_INTERVAL=1s"
        );
        assert!(said("EBBTIDE_IDLE_POLICY", "even").contains("expected one of unallocated, by-usage"));
        assert!(said("EBBTIDE_GZIP", "yes").contains("expected one of true, false"));
        assert!(said("EBBTIDE_SERIES_BUDGET", "-1").contains("EBBTIDE_SERIES_BUDGET=200000"));
        let twice = Layer::env(&env(&[("EBBTIDE_IDLE_FLOOR", "a=1,a=2")])).unwrap();
        let twice = twice.resolve(&Surroundings::default()).unwrap_err().to_string();
        assert!(twice.starts_with("EBBTIDE_IDLE_FLOOR: idle-floor names zone \"a\" twice"), "{twice}");
    }

    #[test]
    fn typos_are_told_and_services_are_not() {
        let env = env(&[
            ("EBBTIDE_INTERVALL", "1s"),
            ("EBBTIDE_PORT_9883_TCP_ADDR", "10.0.0.1"),
            ("EBBTIDE_SERVICE_HOST", "10.0.0.1"),
            ("EBBTIDE_CONFIG", "x"),
        ]);
        assert_eq!(
            suspicious(&env),
            ["EBBTIDE_INTERVALL is not a setting and has no effect, did you mean EBBTIDE_INTERVAL?"]
        );
    }

    #[test]
    fn totals_are_kept_where_one_can_write() {
        let none = |_: &Path| false;
        assert_eq!(state_folder(&env(&[]), |_| true), Some(SYSTEM_STATE.into()));
        let home = env(&[("HOME", "/home/u"), ("XDG_STATE_HOME", "relative")]);
        assert_eq!(state_folder(&home, none), Some("/home/u/.local/state/ebbtide-agent".into()));
        let xdg = env(&[("HOME", "/home/u"), ("XDG_STATE_HOME", "/s")]);
        assert_eq!(state_folder(&xdg, none), Some("/s/ebbtide-agent".into()));
        assert_eq!(state_folder(&env(&[]), none), None);
    }

    #[test]
    fn the_name_of_another_root_is_read_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/hostname"), "Edge1\n").unwrap();
        let around = Surroundings::observe(&HostRoot::new(dir.path()), &Env::new());
        assert_eq!(around.host_name.as_str(), "edge1");
    }

    proptest! {
        #[test]
        fn any_host_name_gives_a_node_name(name in any::<String>()) {
            prop_assert!(!node_name(&name).as_str().is_empty());
        }

        #[test]
        fn any_variable_is_read_or_explained(value in "\\PC{0,30}", key in 0..settings().len()) {
            let name = settings()[key].env.clone();
            if let Err(e) = Layer::env(&env(&[(&name, &value)])) {
                let text = e.to_string();
                prop_assert!(text.starts_with(&name) && text.lines().count() <= 3, "{text}");
            }
        }
    }
}
