//! Whom to ask, and as whom: contexts in a file, flags and environment before it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use super::args::Global;
use super::failure::Failure;
use super::variable;
use crate::pki::authority::CERTIFICATE_FILE;
use crate::pki::files::{self, NewFile, SECRET};

/// Where a fleet daemon listens unless somebody says otherwise.
const PORT: u16 = 9884;

/// A fleet daemon's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Over TLS.
    pub secure: bool,
    /// DNS name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// This machine's own.
    fn here() -> Self {
        Self { secure: false, host: "127.0.0.1".to_owned(), port: PORT }
    }

    /// Whether it never leaves this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Host and port, as in a URL.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }
}

/// `https://fleet.example:9884`; without a scheme it is https, but http on this machine; without a port, 9884.
impl FromStr for Address {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!("{text:?} is no address of a fleet"))
                .next("it looks like https://fleet.example:9884, fleet.example or 127.0.0.1:9884")
        };
        let (scheme, rest) = match text.trim().split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text.trim()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if rest.parse::<IpAddr>().is_ok() {
            (rest, None)
        } else if let Some((host, tail)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            (host, if tail.is_empty() { None } else { Some(tail.strip_prefix(':').ok_or_else(wrong)?) })
        } else {
            rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port)))
        };
        let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| wrong()))?;
        ServerName::try_from(host).map_err(|_| wrong())?;
        let address = Self { secure: true, host: host.to_ascii_lowercase(), port };
        let secure = match scheme {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(wrong()),
            None => !address.is_loopback(),
        };
        Ok(Self { secure, ..address })
    }
}

/// Whom to ask, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Where.
    pub address: Address,
    /// File with the authority of the fleet's certificate.
    pub ca: Option<PathBuf>,
    /// Files with the certificate that is shown, and its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The context that this is from, if it is from one.
    pub context: Option<String>,
}

/// One fleet, as the file knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    /// Its address.
    pub fleet: String,
    /// File with the authority of its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// File with the certificate that is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// File with its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// All fleets that the file knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    /// The one that is meant if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// Reads `path`; nothing is there yet: no contexts.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            return Ok(Self::default());
        }
        let text = files::read(path)?;
        toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(0, |s| text.get(..s.start).unwrap_or_default().split('\n').count());
            Failure::usage(format!("{} line {line}: {}", path.display(), e.message()))
                .next("mend it, or name another file with EBBTIDE_CONFIG (ebbtide context --help shows its form)")
        })
    }

    /// Writes all of it to `path`, for its owner only.
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).map_err(|e| Failure::new(format!("contexts can't be written: {e}")))?;
        Ok(files::write(&[NewFile { path, text: &text, mode: SECRET }], true)?)
    }

    /// The context of this name.
    pub(super) fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there is none yet".to_owned() } else { known.join(", ") };
            Failure::new(format!("there is no context {name:?}"))
                .next(format!("contexts: {known}; make one with ebbtide context set {name} --fleet URL"))
        })
    }
}

/// Where contexts are kept.
pub(super) fn file() -> Result<PathBuf, Failure> {
    match variable("EBBTIDE_CONFIG") {
        Some(path) => Ok(PathBuf::from(path)),
        None => Ok(home()?.join("config.toml")),
    }
}

/// Where certificates are kept unless somebody says otherwise: root's are the machine's.
pub(super) fn pki_folder() -> Result<PathBuf, Failure> {
    if variable("XDG_CONFIG_HOME").is_none() && rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/etc/ebbtide/pki"));
    }
    Ok(home()?.join("pki"))
}

fn home() -> Result<PathBuf, Failure> {
    let folder = match (variable("XDG_CONFIG_HOME"), variable("HOME")) {
        (Some(config), _) => PathBuf::from(config),
        (None, Some(home)) => PathBuf::from(home).join(".config"),
        (None, None) => {
            return Err(Failure::new("neither XDG_CONFIG_HOME nor HOME is set: there is no place for files")
                .next("name them: EBBTIDE_CONFIG=FILE for contexts, --dir DIR for certificates"));
        }
    };
    Ok(folder.join("ebbtide"))
}

/// Whom the arguments, the environment and the file say to ask.
pub(super) fn target(global: &Global) -> Result<Target, Failure> {
    let path = file();
    let contexts = match &path {
        Ok(path) => Contexts::read(path)?,
        Err(_) => Contexts::default(),
    };
    let text = |name| variable(name).and_then(|v| v.into_string().ok());
    let named = global.context.clone().or_else(|| text("EBBTIDE_CONTEXT"));
    let name = named.or_else(|| contexts.current.clone());
    let context = name.as_deref().map(|name| contexts.get(name)).transpose()?;
    let url = global.fleet.clone().or_else(|| text("EBBTIDE_FLEET")).or_else(|| context.map(|c| c.fleet.clone()));
    let address = url.map_or_else(|| Ok(Address::here()), |url| url.parse::<Address>())?;
    if !address.secure && !address.is_loopback() && !global.insecure {
        return Err(Failure::usage(format!(
            "{address} is plain text to another machine: anybody on the way could read it"
        ))
        .next("use https://, or say --insecure if that is what you want"));
    }
    let beside = |file: &Option<PathBuf>| {
        let folder = path.as_ref().ok().and_then(|p| p.parent());
        file.as_ref().map(|file| folder.map_or_else(|| file.clone(), |folder| folder.join(file)))
    };
    let ca = global.ca.clone().or_else(|| context.and_then(|c| beside(&c.ca)));
    let cert = global.cert.clone().or_else(|| context.and_then(|c| beside(&c.cert)));
    let key = global.key.clone().or_else(|| context.and_then(|c| beside(&c.key)));
    let own = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err(half("certificate", "key", "--key")),
        (None, Some(_)) => return Err(half("key", "certificate", "--cert")),
    };
    // who made an authority on this machine need not say where it is
    let ca = ca.or_else(|| pki_folder().ok().map(|dir| dir.join(CERTIFICATE_FILE)).filter(|ca| ca.is_file()));
    Ok(Target { address, ca, own, context: name })
}

fn half(there: &str, missing: &str, flag: &str) -> Failure {
    Failure::usage(format!("a {there} is given, but no {missing} to it"))
        .next(format!("give both: {flag} FILE, or ebbtide context set"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_secure_unless_they_stay_here() {
        let read = |text: &str| text.parse::<Address>().map(|a| a.to_string()).ok();
        let is = |text: &str, address: &str| assert_eq!(read(text).as_deref(), Some(address), "{text}");
        is("fleet.example", "https://fleet.example:9884");
        is("Fleet.example:443", "https://fleet.example:443");
        is("http://fleet.example", "http://fleet.example:9884");
        is("localhost", "http://localhost:9884");
        is("127.0.0.1:1", "http://127.0.0.1:1");
        is("https://127.0.0.1/", "https://127.0.0.1:9884");
        is("::1", "http://[::1]:9884");
        is("[::1]:7", "http://[::1]:7");
        is("https://[2001:db8::1]:7", "https://[2001:db8::1]:7");
        for bad in
            ["", "http://", "ftp://x", "https://x/path", "x:y", "x:99999", "[::1", "[::1]7", "a b", "user@host", "::g"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "(https?://)?[a-z0-9.:\\[\\]-]{1,30}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }
    }
}
