//! Secrets that never lie in the configuration: only where they are is said there. They are read when a device is
//! opened, kept in memory, and can't be printed.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A larger file is not a password.
const LONGEST: u64 = 64 * 1024;

/// Where a secret is: `{ file = "/etc/ebbtide/pdu" }`, `{ env = "PDU_PASSWORD" }` or `{ credential = "pdu" }`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SecretSource {
    /// A file; a newline at its end doesn't count.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A systemd credential (`LoadCredential=`, `SetCredentialEncrypted=`).
    Credential(String),
}

/// Why a secret could not be read. Never says anything of the secret itself.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error("can't read {}: {why}; it has to be readable by this program and by nobody else", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// No such variable, or one that isn't text.
    #[error("the environment variable {0} is not set, or not text")]
    Env(String),
    /// The program was not given credentials.
    #[error(
        "there is no credential {0:?}: add LoadCredential={0}:PATH to the unit ($CREDENTIALS_DIRECTORY is not set)"
    )]
    NoCredentials(String),
    /// The name would leave the folder of credentials.
    #[error("{0:?} is not the name of a credential")]
    Name(String),
    /// There is nothing in it.
    #[error("the secret in {0} is empty")]
    Empty(SecretSource),
}

/// A secret. Neither `Debug` nor `Serialize` show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl SecretSource {
    /// Reads the secret from where it is, in the environment of this process.
    ///
    /// # Errors
    /// If it isn't there or can't be read.
    pub fn read(&self) -> Result<Secret, SecretError> {
        self.read_with(|name| std::env::var(name).ok())
    }

    /// Like [`SecretSource::read`], with `env` to ask for variables.
    ///
    /// # Errors
    /// If it isn't there or can't be read.
    pub fn read_with(&self, env: impl Fn(&str) -> Option<String>) -> Result<Secret, SecretError> {
        let text = match self {
            Self::File(path) => file(path)?,
            Self::Env(name) => env(name).ok_or_else(|| SecretError::Env(name.clone()))?,
            Self::Credential(name) => {
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(SecretError::Name(name.clone()));
                }
                let folder = env("CREDENTIALS_DIRECTORY").ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                file(&Path::new(&folder).join(name))?
            }
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(SecretError::Empty(self.clone()));
        }
        Ok(Secret::new(text))
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Env(name) => write!(f, "the environment variable {name}"),
            Self::Credential(name) => write!(f, "the credential {name}"),
        }
    }
}

impl Secret {
    /// A secret that is known already.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// What it is. Only for handing it to a device.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// `text` with the secret blotted out, for what a device or program sent back.
    pub fn redact(&self, text: &str) -> String {
        text.replace(&*self.0, "***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

fn file(path: &Path) -> Result<String, SecretError> {
    use std::io::Read as _;

    let error = |why: String| SecretError::File { path: path.to_owned(), why };
    let file = std::fs::File::open(path).map_err(|e| error(e.to_string()))?;
    let mut text = String::new();
    let length = file.take(LONGEST + 1).read_to_string(&mut text).map_err(|e| error(e.to_string()))?;
    if u64::try_from(length).is_ok_and(|l| l > LONGEST) {
        return Err(error(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_a_file_a_variable_or_a_credential() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pdu"), "s3cret\n").unwrap();
        let folder = dir.path().to_str().unwrap().to_owned();
        let env = |name: &str| match name {
            "PDU" => Some("fromenv".to_owned()),
            "CREDENTIALS_DIRECTORY" => Some(folder.clone()),
            _ => None,
        };
        let read =
            |source: SecretSource| source.read_with(env).map(|s| s.reveal().to_owned()).map_err(|e| e.to_string());
        assert_eq!(read(SecretSource::File(dir.path().join("pdu"))).unwrap(), "s3cret");
        assert_eq!(read(SecretSource::Env("PDU".into())).unwrap(), "fromenv");
        assert_eq!(read(SecretSource::Credential("pdu".into())).unwrap(), "s3cret");
        assert!(read(SecretSource::Credential("../pdu".into())).unwrap_err().contains("not the name"));
        assert!(read(SecretSource::Env("NOPE".into())).unwrap_err().contains("NOPE is not set"));
        std::fs::write(dir.path().join("pdu"), "\n").unwrap();
        assert!(read(SecretSource::Credential("pdu".into())).unwrap_err().contains("is empty"));
        let none = SecretSource::Credential("pdu".into()).read_with(|_| None).unwrap_err();
        assert!(none.to_string().contains("LoadCredential=pdu"), "{none}");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()), "*** \"***\"");
        assert_eq!(secret.redact("login hunter2 failed"), "login *** failed");
    }

    #[test]
    fn where_it_is_is_written_as_a_table() {
        #[derive(Debug, Deserialize)]
        struct Row {
            password: SecretSource,
        }
        let row: Row = toml::from_str("password = { env = \"X\" }").unwrap();
        assert_eq!(row.password, SecretSource::Env("X".into()));
        assert!(toml::from_str::<Row>("password = { plain = \"X\" }").unwrap_err().to_string().contains("plain"));
    }
}
