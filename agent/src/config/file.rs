//! The configuration file, and what can be wrong with a configuration.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, Deserializer};

use super::Partial;
use super::layer::{Layer, Origin, closest};
use super::reference::settings;
use super::value::excerpt;

/// The largest file that is read; a configuration has a few kilobytes.
pub const SIZE_LIMIT: u64 = 1 << 20;

/// Why a configuration can't be used. At most three lines: what and where, why, what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file couldn't be read.
    #[error("can't read the configuration {}: {source}\n  name another file with --config or EBBTIDE_CONFIG", excerpt(&path.display().to_string()))]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It isn't a configuration file at all.
    #[error("{}: larger than 1 MiB, this is no configuration file", excerpt(&path.display().to_string()))]
    TooLarge {
        /// The file as it was named.
        path: PathBuf,
    },
    /// It isn't text.
    #[error("{at}: not UTF-8 text\n  save the file as UTF-8, or remove the character there")]
    NotUtf8 {
        /// Where the first bad byte is.
        at: Origin,
    },
    /// It isn't TOML.
    #[error("{at}: {why}\n  each line should look like: interval = \"1s\"")]
    Syntax {
        /// Where.
        at: Origin,
        /// What the parser said.
        why: String,
    },
    /// A key that is no setting.
    #[error("{at}: unknown key \"{key}\"{}", did_you_mean(suggestion))]
    UnknownKey {
        /// Where.
        at: Origin,
        /// The key.
        key: String,
        /// A setting whose name is like it.
        suggestion: Option<String>,
    },
    /// A value in the file that its setting can't have.
    #[error("{at}: {key}: {why}\n  for example: {example}")]
    Value {
        /// Where.
        at: Origin,
        /// The setting.
        key: String,
        /// What was found and what was expected.
        why: String,
        /// A line that would do.
        example: String,
    },
    /// A value in the environment that its setting can't have.
    #[error("{name} is \"{found}\"\n  {why}\n  for example: {example}")]
    Variable {
        /// The variable.
        name: String,
        /// The start of its value.
        found: String,
        /// What was expected.
        why: String,
        /// A value that would do.
        example: String,
    },
    /// Settings that don't go together.
    #[error("{}{key} {why}\n  {fix}", origin.as_ref().map(|o| format!("{o}: ")).unwrap_or_default())]
    Conflict {
        /// Where the setting was given, if it was.
        origin: Option<Origin>,
        /// The setting to look at first.
        key: &'static str,
        /// What is wrong with it.
        why: String,
        /// What to do.
        fix: &'static str,
    },
    /// The root of the measured machine isn't there.
    #[error("root: {} is not a folder\n  name where the machine's / is mounted, or leave it out", excerpt(&path.display().to_string()))]
    Root {
        /// The root as it was named.
        path: PathBuf,
    },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(key) => format!(", did you mean \"{key}\"?"),
        None => "\n  all settings: ebbtide-agent --dump-config".to_owned(),
    }
}

/// Reads the settings of the file at `path`.
pub fn read(path: &Path) -> Result<Layer, ConfigError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|source| ConfigError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(ConfigError::TooLarge { path: path.into() });
    }
    parse(&bytes, path)
}

/// Reads settings from the `bytes` of a file; `path` is for messages.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Layer, ConfigError> {
    let at = |offset: usize| {
        let line = bytes.iter().take(offset).filter(|b| **b == b'\n').count() + 1;
        Origin::File { path: path.into(), line }
    };
    let text = std::str::from_utf8(bytes).map_err(|e| ConfigError::NotUtf8 { at: at(e.valid_up_to()) })?;
    let table = DeTable::parse(text).map_err(|e| ConfigError::Syntax {
        at: at(e.span().map_or(0, |s| s.start)),
        why: excerpt(&e.message().lines().collect::<Vec<_>>().join(", ")),
    })?;
    let known = settings();
    let mut layer = Layer::default();
    let whole = table.span();
    for (name, value) in table.into_inner() {
        let (key, key_start) = (name.get_ref().to_string(), name.span().start);
        let Some(setting) = known.iter().find(|s| s.key == key) else {
            let suggestion = closest(&key, known.iter().map(|s| s.key.clone()));
            return Err(ConfigError::UnknownKey { at: at(key_start), key: excerpt(&key), suggestion });
        };
        // One key at a time, so that an error knows its key.
        let mut single = DeTable::new();
        single.insert(name, value);
        let values = Partial::deserialize(Deserializer::from(toml::Spanned::new(whole.clone(), single)));
        let values = values.map_err(|e| ConfigError::Value {
            at: at(e.span().map_or(key_start, |s| s.start.max(key_start))),
            key: key.clone(),
            why: plain(e.message()),
            example: format!("{key} = {}", setting.example),
        })?;
        let origins = [(key, at(key_start))].into();
        layer = layer.over(Layer { values, origins });
    }
    Ok(layer)
}

/// The first line of a deserialisation error in the words of the other errors.
fn plain(message: &str) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("invalid type: ", "found "),
        ("invalid value: ", "found "),
        ("expected a sequence", "expected a list"),
        ("expected a boolean", "expected true or false"),
        ("expected a map", "expected a table"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
    ];
    let line = message.lines().next().unwrap_or_default();
    WORDS.iter().fold(line.to_owned(), |line, (from, to)| line.replacen(from, to, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: impl AsRef<[u8]>) -> String {
        parse(text.as_ref(), Path::new("config.toml")).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_file_line_key_and_a_way_out() {
        assert_eq!(
            said("# agent\n\nintervall = \"1s\"\n"),
            "config.toml:3: unknown key \"intervall\", did you mean \"interval\"?"
        );
        assert_eq!(
            said("listen = \"127.0.0.1:1\"\ninterval = 1\n"),
            "config.toml:2: interval: found 1, expected a duration from 50ms to 1h with its unit (ms, s, m, h), such \
             as \"1s\"\n  for example: interval = \"1s\""
        );
        for (text, want) in [
            (
                "gzip = \"yes\"",
                "config.toml:1: gzip: found string \"yes\", expected true or false\n  for example: gzip = true",
            ),
            ("names = [\n \"native\",\n \"kepla\"\n]", "config.toml:3: names: found \"kepla\", expected one of native"),
            ("names = \"native\"", "config.toml:1: names: found string \"native\", expected a list"),
            ("idle-floor = { a = -1 }", "config.toml:1: idle-floor: found -1, expected a power"),
            ("\n[idle-floor]\na = 1\nb = \"lots\"", "config.toml:4: idle-floor: found \"lots\", expected a power"),
            ("series-budget = -1", "config.toml:1: series-budget: found integer `-1`, expected a whole number"),
            ("[kubelet]\nurl = \"x\"", "config.toml:1: unknown key \"kubelet\", did you mean \"kubelet-"),
            ("fast_interval = \"1s\"", "did you mean \"fast-interval\"?"),
            ("qqq = 1", "config.toml:1: unknown key \"qqq\"\n  all settings: ebbtide-agent --dump-config"),
            ("interval = \"1s\"\ninterval = \"2s\"", "config.toml:2: duplicate key"),
            ("interval = 1s", "config.toml:1: "),
            ("node-name = \"a b\"", "config.toml:1: node-name: node name \"a b\" has a character"),
        ] {
            let got = said(text);
            assert!(got.contains(want) && got.lines().count() <= 3, "{text}:\n{got}");
        }
        assert!(said(b"interval = \"1s\"\n# \xff").starts_with("config.toml:2: not UTF-8"));
    }

    #[test]
    fn files_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        assert!(read(&path).unwrap_err().to_string().contains("No such file"));
        assert!(read(dir.path()).unwrap_err().to_string().contains("directory"));
        std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
        assert!(matches!(read(&path), Err(ConfigError::TooLarge { .. })));
        std::fs::write(&path, "interval = \"5s\"").unwrap();
        let layer = read(&path).unwrap();
        assert_eq!(layer.origins.get("interval"), Some(&Origin::File { path, line: 1 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_explained(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(e) = parse(&bytes, Path::new("f")) {
                prop_assert!(e.to_string().starts_with("f:") && e.to_string().lines().count() <= 3);
            }
        }

        #[test]
        fn any_value_is_read_or_explained(key in 0..settings().len(), value in "[-\"0-9a-z{}\\[\\]=,. \n\\\\]{0,24}") {
            let key = settings()[key].key.clone();
            match parse(format!("{key} = {value}").as_bytes(), Path::new("f")) {
                Ok(layer) => prop_assert!(layer.origins.contains_key(&key)),
                Err(e) => prop_assert!(e.to_string().lines().count() <= 3, "{e}"),
            }
        }
    }
}
