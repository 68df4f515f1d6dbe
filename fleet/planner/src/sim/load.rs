//! Where scenarios come from: files, or those that are shipped, by name.

use std::path::{Path, PathBuf};

use super::carbon::{CarbonError, Intensity};
use super::scenario::{Scenario, ScenarioError};

/// The scenarios that are shipped, by name.
pub const SHIPPED: [(&str, &str); 5] = [
    ("office", include_str!("../../scenarios/office.toml")),
    ("batch-night", include_str!("../../scenarios/batch-night.toml")),
    ("flaky", include_str!("../../scenarios/flaky.toml")),
    ("openb", include_str!("../../scenarios/openb.toml")),
    ("carbon", include_str!("../../scenarios/carbon.toml")),
];

/// Grid intensity that shipped scenarios refer to.
const INTENSITY: &str = include_str!("../../scenarios/intensity.csv");

/// A scenario with what it refers to.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Its name: that of the shipped scenario, or of the file.
    pub name: String,
    /// What it says.
    pub scenario: Scenario,
    /// Grid intensity, if it names any.
    pub intensity: Option<Intensity>,
}

/// Why a scenario can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such file, nor a shipped scenario of that name.
    #[error("no file {0}, and no shipped scenario of that name; `ebbtide-fleet sim list` lists them")]
    Missing(String),
    /// A file can't be read.
    #[error("can't read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// What is in it can't be used.
    #[error("scenario {name}: {source}")]
    Scenario {
        /// Which.
        name: String,
        /// Why not.
        source: ScenarioError,
    },
    /// Its grid intensity can't be used.
    #[error("scenario {name}: {source}")]
    Carbon {
        /// Which.
        name: String,
        /// Why not.
        source: CarbonError,
    },
}

/// Loads a shipped scenario by its name, or a file. A file that is called as a shipped scenario needs its folder named:
/// `./office`.
///
/// # Errors
/// [`LoadError`]: what was looked for, and what is wrong with it.
pub fn load(what: &str) -> Result<Loaded, LoadError> {
    if let Some((name, text)) = SHIPPED.iter().find(|(name, _)| *name == what) {
        return loaded(name, text, |_| Ok(INTENSITY.to_owned()));
    }
    let path = Path::new(what);
    if !path.exists() {
        return Err(LoadError::Missing(what.to_owned()));
    }
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|source| LoadError::Io { path: path.to_owned(), source });
    let name = path.file_stem().map_or_else(|| what.to_owned(), |n| n.to_string_lossy().into_owned());
    let beside = path.parent().unwrap_or(Path::new("."));
    let mut loaded = loaded(&name, &read(path)?, |file| read(&beside.join(file)))?;
    // folders are named as seen from the file
    loaded.scenario.traces = loaded.scenario.traces.map(|t| beside.join(t));
    Ok(loaded)
}

fn loaded(name: &str, text: &str, table: impl FnOnce(&Path) -> Result<String, LoadError>) -> Result<Loaded, LoadError> {
    let name = name.to_owned();
    let scenario = Scenario::parse(text).map_err(|source| LoadError::Scenario { name: name.clone(), source })?;
    let intensity = match &scenario.carbon {
        Some(carbon) => {
            let table = carbon.file.as_deref().map(table).transpose()?;
            let of = Intensity::of(carbon, table.as_deref());
            Some(of.map_err(|source| LoadError::Carbon { name: name.clone(), source })?)
        }
        None => None,
    };
    Ok(Loaded { name, scenario, intensity })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn shipped_scenarios_load_and_others_are_looked_for() {
        for (name, _) in SHIPPED {
            let loaded = load(name).unwrap();
            assert_eq!((loaded.name.as_str(), loaded.intensity.is_some()), (name, name == "carbon"));
        }
        let said = load("nowhere.toml").unwrap_err().to_string();
        assert!(said.contains("no file nowhere.toml") && said.contains("sim list"), "{said}");
    }

    #[test]
    fn the_example_of_the_manual_runs() {
        let manual = include_str!("../../../../docs/simulator.md");
        let text = manual.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let mut scenario = Scenario::parse(text).unwrap();
        scenario.duration_s = 3600;
        let loaded = Loaded { name: "manual".to_owned(), scenario, intensity: None };
        let report = crate::sim::report::run(&loaded, 1, None, |_, _| {}).unwrap();
        assert!(report.planner.served > 0 && report.planner.energy_kwh < report.all_on.energy_kwh, "{report}");
    }
}
