//! The web config file: the format that Prometheus' own exporters take for TLS and passwords.
//!
//! `tls_server_config`, `http_server_config` and `basic_auth_users` are as documented for `--web.config.file` there.
//! What can't be done here is an error that says so, never silently weaker.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rustls::crypto::ring::{cipher_suite as suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::ServerName;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};
use serde::Deserialize;
use serde_norway::Value;
use thiserror::Error;

use super::basic_auth::{BasicAuth, UserError};
use super::tls::{ClientAuth, Pem, Tls, TlsError, TlsSettings};
use crate::files::read_text;

/// What the operator asked for, checked and ready for use.
#[derive(Debug, Default)]
pub struct WebConfig {
    /// TLS; plain HTTP without.
    pub tls: Option<Tls>,
    /// Users; everybody may read without.
    pub auth: Option<BasicAuth>,
    /// Put on every response.
    pub headers: HeaderMap,
}

/// Why a web config can't be used: the file, the key in it, and what to do.
#[derive(Debug, Error)]
#[error("web config {}: {kind}", path.display())]
pub struct WebConfigError {
    /// The web config file.
    pub path: PathBuf,
    /// What is wrong in it.
    pub kind: Problem,
}

/// What is wrong with a web config.
#[derive(Debug, Error)]
pub enum Problem {
    /// The file can't be read.
    #[error("can't be read ({0}); check the path and that this user may read it")]
    Read(std::io::Error),
    /// Not YAML, or a value of the wrong type; with line and column.
    #[error("{0}")]
    Yaml(serde_norway::Error),
    /// A key that the format doesn't have.
    #[error("unknown key {key}{}", Hint(nearest))]
    Unknown {
        /// The key with the section it stands in.
        key: String,
        /// The known key that is spelt most like it.
        nearest: Option<&'static str>,
    },
    /// A value that can't be used.
    #[error("{key}: {why}")]
    Invalid {
        /// The key with the section it stands in.
        key: &'static str,
        /// What is wrong and what to do.
        why: String,
    },
    /// A name or hash of `basic_auth_users`.
    #[error("basic_auth_users: {0}")]
    User(UserError),
    /// A certificate, key or CA.
    #[error("tls_server_config: {}", Chain(.0))]
    Tls(TlsError),
}

impl From<TlsError> for Problem {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

const SECTIONS: [&str; 3] = ["tls_server_config", "http_server_config", "basic_auth_users"];
const TLS_KEYS: [&str; 13] = [
    "cert",
    "key",
    "client_ca",
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
];
const HTTP_KEYS: [&str; 2] = ["http2", "headers"];

/// Headers that may be set, with their only values where the format lists them.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

const CLIENT_AUTH: [(&str, ClientAuth); 5] = [
    ("NoClientCert", ClientAuth::NoClientCert),
    ("RequestClientCert", ClientAuth::RequestClientCert),
    ("RequireAnyClientCert", ClientAuth::RequireAnyClientCert),
    ("VerifyClientCertIfGiven", ClientAuth::VerifyClientCertIfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::RequireAndVerifyClientCert),
];

/// Oldest first; `None` is too old to be spoken here.
const VERSIONS: [(&str, Option<&SupportedProtocolVersion>); 4] = [
    ("TLS10", None),
    ("TLS11", None),
    ("TLS12", Some(&rustls::version::TLS12)),
    ("TLS13", Some(&rustls::version::TLS13)),
];

/// The suites that may be listed. Those of TLS 1.3 are always on, as the list is for versions before it.
const SUITES: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

const CURVES: [(&str, &dyn SupportedKxGroup); 3] =
    [("X25519", kx_group::X25519), ("CurveP256", kx_group::SECP256R1), ("CurveP384", kx_group::SECP384R1)];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    tls_server_config: Option<TlsSection>,
    http_server_config: Option<HttpSection>,
    basic_auth_users: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TlsSection {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
    client_auth_type: Option<String>,
    client_allowed_sans: Option<Vec<String>>,
    min_version: Option<String>,
    max_version: Option<String>,
    cipher_suites: Option<Vec<String>>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HttpSection {
    /// Taken as a permission: pages are served over HTTP/1.1, which every scraper speaks.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

impl WebConfig {
    /// Reads and checks a web config file and all files it names; those are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, WebConfigError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        read_text(path)
            .map_err(Problem::Read)
            .and_then(|text| Self::parse(&text, folder))
            .map_err(|kind| WebConfigError { path: path.to_owned(), kind })
    }

    /// Whether connections are encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Checks the text of a web config; files it names are read, relative to `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Problem> {
        check_keys(&serde_norway::from_str(text).map_err(Problem::Yaml)?)?;
        // From the text once more, as only that way errors have a line.
        let document: Option<Document> = serde_norway::from_str(text).map_err(Problem::Yaml)?;
        let document = document.unwrap_or_default();
        let users: HashMap<_, _> = document.basic_auth_users.unwrap_or_default().into_iter().collect();
        let tls = document.tls_server_config.map(|section| section.settings(folder)).transpose()?;
        Ok(Self {
            auth: BasicAuth::new(users).map_err(Problem::User)?,
            headers: headers(document.http_server_config.and_then(|http| http.headers).unwrap_or_default())?,
            tls: tls.map(Tls::new).transpose()?,
        })
    }
}

impl TlsSection {
    fn settings(self, folder: &Path) -> Result<TlsSettings, Problem> {
        let [cert, key, client_ca] = [
            ("cert", self.cert, self.cert_file),
            ("key", self.key, self.key_file),
            ("client_ca", self.client_ca, self.client_ca_file),
        ]
        .map(|(name, text, file)| {
            match (text.filter(|t| !t.is_empty()), file.filter(|f| !f.as_os_str().is_empty())) {
                (Some(_), Some(_)) => Err(invalid(name, format!("given twice, inline and as {name}_file; remove one"))),
                (Some(text), None) => Ok(Some(Pem::Inline(name, text))),
                (None, file) => Ok(file.map(|f| Pem::File(folder.join(f)))),
            }
        });
        let client_ca = client_ca?;
        let client_auth = match self.client_auth_type.as_deref() {
            None | Some("") => ClientAuth::default(),
            Some(name) => pick("client_auth_type", name, &CLIENT_AUTH)?,
        };
        if client_auth.verifies() && client_ca.is_none() {
            return Err(invalid("client_ca_file", "missing: without it no client certificate can be verified".into()));
        }
        if client_auth == ClientAuth::NoClientCert && client_ca.is_some() {
            let why = "has no effect without client_auth_type; set that to RequireAndVerifyClientCert";
            return Err(invalid("client_ca_file", why.into()));
        }
        Ok(TlsSettings {
            cert: cert?.ok_or_else(|| invalid("cert_file", "missing: TLS needs a certificate".into()))?,
            key: key?.ok_or_else(|| invalid("key_file", "missing: TLS needs the certificate's key".into()))?,
            client_auth,
            client_ca,
            client_names: client_names(self.client_allowed_sans.unwrap_or_default(), client_auth)?,
            versions: versions(self.min_version.as_deref(), self.max_version.as_deref())?,
            provider: Arc::new(provider(self.cipher_suites, self.curve_preferences)?),
            client_order: self.prefer_server_cipher_suites == Some(false),
            speaks: "http/1.1",
        })
    }
}

fn client_names(sans: Vec<String>, client_auth: ClientAuth) -> Result<Vec<ServerName<'static>>, Problem> {
    const KEY: &str = "client_allowed_sans";
    use ClientAuth::{RequireAndVerifyClientCert, RequireAnyClientCert};
    if !sans.is_empty() && !matches!(client_auth, RequireAndVerifyClientCert | RequireAnyClientCert) {
        let why = "needs client_auth_type RequireAndVerifyClientCert: else a client may come without certificate";
        return Err(invalid(KEY, why.into()));
    }
    let name = |san: String| {
        let why =
            format!("{san:?} is neither a DNS name nor an IP address; e-mail and URI names can't be checked here");
        ServerName::try_from(san).map_err(|_| invalid(KEY, why))
    };
    sans.into_iter().map(name).collect()
}

fn versions(min: Option<&str>, max: Option<&str>) -> Result<Vec<&'static SupportedProtocolVersion>, Problem> {
    let place = |key, name: Option<&str>, default| match name {
        None | Some("") => Ok(default),
        Some(name) => {
            if pick(key, name, &VERSIONS)?.is_none() {
                return Err(invalid(key, format!("{name} is broken and not supported; use TLS12 or TLS13")));
            }
            Ok(VERSIONS.iter().position(|(known, _)| *known == name).unwrap_or(default))
        }
    };
    let (from, to) = (place("min_version", min, 2)?, place("max_version", max, 3)?);
    if from > to {
        return Err(invalid("min_version", "is newer than max_version; swap them".into()));
    }
    Ok(VERSIONS.iter().take(to + 1).skip(from).filter_map(|(_, version)| *version).collect())
}

fn provider(suites: Option<Vec<String>>, curves: Option<Vec<String>>) -> Result<CryptoProvider, Problem> {
    let mut provider = rustls::crypto::ring::default_provider();
    if let Some(names) = suites.filter(|names| !names.is_empty()) {
        let listed: Result<Vec<_>, _> = names.iter().map(|name| cipher_suite(name)).collect();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.extend(listed?.into_iter().filter(|suite| suite.tls13().is_none()));
    }
    if let Some(names) = curves.filter(|names| !names.is_empty()) {
        let curve = |name: &String| match name.as_str() {
            "CurveP521" | "X25519MLKEM768" | "SecP256r1MLKEM768" | "SecP384r1MLKEM1024" => {
                let why = format!("{name} is not supported; use X25519, CurveP256 or CurveP384");
                Err(invalid("curve_preferences", why))
            }
            name => pick("curve_preferences", name, &CURVES),
        };
        provider.kx_groups = names.iter().map(curve).collect::<Result<_, _>>()?;
    }
    Ok(provider)
}

fn cipher_suite(name: &str) -> Result<SupportedCipherSuite, Problem> {
    // The other suites that the format's documentation refers to: no forward secrecy, or CBC, RC4, 3DES.
    let weak = name.starts_with("TLS_RSA_WITH_")
        || (name.starts_with("TLS_ECDHE_")
            && ["_CBC_SHA", "_CBC_SHA256", "_RC4_128_SHA"].iter().any(|e| name.ends_with(e)));
    if weak {
        let why = format!("{name} is weak and not supported; remove it from the list");
        return Err(invalid("cipher_suites", why));
    }
    // Both spellings are in use.
    let full = if name.ends_with("_POLY1305") { format!("{name}_SHA256") } else { name.to_owned() };
    pick("cipher_suites", &full, &SUITES)
}

fn headers(entries: BTreeMap<String, String>) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    for (name, text) in entries {
        const KEY: &str = "http_server_config.headers";
        let allowed = HEADERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
        let Some((known, values)) = allowed else {
            let nearest = nearest(&name, HEADERS.iter().map(|(known, _)| *known));
            return Err(Problem::Unknown { key: format!("{KEY}.{name}"), nearest });
        };
        if text.is_empty() {
            continue;
        }
        if !values.is_empty() && !values.contains(&text.as_str()) {
            return Err(invalid(KEY, format!("{known} can't be {text:?}; it can be {}", values.join(" or "))));
        }
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(known.as_bytes()), HeaderValue::from_str(&text)) else {
            return Err(invalid(KEY, format!("{known} has characters that a header can't have")));
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Names the first key that the format doesn't have.
fn check_keys(root: &Value) -> Result<(), Problem> {
    let unknown = |section: &str, value: &Value, known: &[&'static str]| {
        let keys = value.as_mapping().into_iter().flat_map(|map| map.keys());
        let names = keys.map(|key| key.as_str().map_or_else(|| "(not a text)".to_owned(), str::to_owned));
        match names.into_iter().find(|name| !known.contains(&name.as_str())) {
            Some(name) => {
                let nearest = nearest(&name, known.iter().copied());
                Err(Problem::Unknown { key: format!("{section}{name}"), nearest })
            }
            None => Ok(()),
        }
    };
    if root.get("rate_limit").is_some() {
        let why = "is not supported; remove it (connections and password checks are bounded anyway)";
        return Err(invalid("rate_limit", why.into()));
    }
    unknown("", root, &SECTIONS)?;
    for (section, known) in [("tls_server_config", &TLS_KEYS[..]), ("http_server_config", &HTTP_KEYS)] {
        if let Some(value) = root.get(section) {
            unknown(&format!("{section}."), value, known)?;
        }
    }
    // Before serde gets to say it, as its message would show what stands there.
    for (user, hash) in root.get("basic_auth_users").and_then(Value::as_mapping).into_iter().flatten() {
        if !hash.is_string() {
            let user = user.as_str().unwrap_or("(not a text)").to_owned();
            return Err(Problem::User(UserError::NotBcrypt { user }));
        }
    }
    Ok(())
}

/// The value for `name`, or an error with the name that is spelt most like it.
fn pick<T: Copy>(key: &'static str, name: &str, known: &[(&'static str, T)]) -> Result<T, Problem> {
    known.iter().find(|(known, _)| *known == name).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(known, _)| *known).collect();
        let hint = nearest(name, names.iter().copied());
        let list = if hint.is_none() { format!("; known are {}", names.join(", ")) } else { String::new() };
        invalid(key, format!("{name:?} is unknown{}{list}", Hint(&hint)))
    })
}

fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // A name of any length may come in; the measure costs the product of both lengths.
    let name: String = name.chars().take(80).collect::<String>().to_ascii_lowercase();
    known
        .map(|known| (strsim::jaro_winkler(&name, &known.to_ascii_lowercase()), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

fn invalid(key: &'static str, why: String) -> Problem {
    Problem::Invalid { key, why }
}

/// `; did you mean X?`
struct Hint<'a>(&'a Option<&'static str>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(f, "; did you mean {name}?"))
    }
}

/// An error with what caused it, in one line.
struct Chain<'a>(&'a TlsError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next: Option<&dyn std::error::Error> = Some(self.0);
        let mut separator = "";
        while let Some(error) = next {
            write!(f, "{separator}{error}")?;
            (next, separator) = (error.source(), ": ");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAIR: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

    fn parse(text: &str) -> Result<WebConfig, Problem> {
        WebConfig::parse(text, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/web"))
    }

    fn problem(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_full_config_is_taken() {
        let hash = bcrypt::hash("tide", 4).unwrap();
        let config = parse(&format!(
            "{PAIR}  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.pem
  client_allowed_sans: [scraper.test, 10.0.0.1]
  min_version: TLS12
  max_version: TLS13
  prefer_server_cipher_suites: true
  cipher_suites:
    - TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305
    - TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
    - TLS_AES_128_GCM_SHA256
  curve_preferences: [CurveP256, X25519]
http_server_config:
  http2: true
  headers:
    X-Frame-Options: deny
    strict-transport-security: max-age=31536000
    X-XSS-Protection: ''
basic_auth_users:
  ann: {hash}
"
        ))
        .unwrap();
        assert!(config.tls.is_some() && config.auth.is_some());
        assert_eq!(config.headers.len(), 2);
        assert_eq!(config.headers["x-frame-options"], "deny");
    }

    #[test]
    fn empty_sections_ask_for_nothing() {
        for text in ["", "# nothing\n", "basic_auth_users:\n", "http_server_config: {}\ntls_server_config:\n"] {
            let config = parse(text).unwrap();
            assert!(config.tls.is_none() && config.auth.is_none() && config.headers.is_empty(), "{text}");
        }
    }

    #[test]
    fn errors_name_the_key_and_the_way_out() {
        let table = [
            ("tls_server_confg: {}", "unknown key tls_server_confg; did you mean tls_server_config?"),
            ("tls_server_config: {cert_fil: x}", "unknown key tls_server_config.cert_fil; did you mean cert_file?"),
            ("http_server_config: {headers: {X-Frame-Option: deny}}", "did you mean X-Frame-Options?"),
            ("http_server_config: {headers: {X-Frame-Options: allow}}", "it can be deny or sameorigin"),
            ("http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}", "characters that a header can't have"),
            ("http_server_config: {http2: maybe}", "http_server_config.http2: invalid type"),
            ("wholly_different: 1", "unknown key wholly_different"),
            ("rate_limit: {burst: 1}", "rate_limit: is not supported; remove it"),
            ("[1, 2]", "invalid type: sequence"),
            ("a: [", "line 2"),
            ("basic_auth_users: {ann: 12345}", "the value of \"ann\" isn't a bcrypt hash"),
            ("basic_auth_users: {ann: s3cret}", "the value of \"ann\" isn't a bcrypt hash"),
            ("tls_server_config: {}", "cert_file: missing"),
            ("tls_server_config: {cert_file: server.pem}", "key_file: missing"),
            ("tls_server_config: {cert_file: server.pem, key_file: renewed.key}", "doesn't belong to the certificate"),
            ("tls_server_config: {cert_file: gone.pem, key_file: server.key}", "gone.pem; check the path"),
            ("tls_server_config: {cert: x, cert_file: y, key_file: z}", "given twice"),
        ];
        for (text, wanted) in table {
            let said = problem(text);
            assert!(said.contains(wanted), "{text}\n said:   {said}\n wanted: {wanted}");
            assert!(!said.contains("s3cret") && !said.contains("12345") && !said.contains('\n'), "{said}");
        }
        let said = problem("tls_server_config: {cert_file: gone.pem, key_file: server.key}");
        assert!(said.ends_with("No such file or directory (os error 2)"), "{said}");

        let tls = [
            ("min_version: TLS10", "min_version: TLS10 is broken and not supported; use TLS12 or TLS13"),
            ("max_version: TLS1.3", "max_version: \"TLS1.3\" is unknown; did you mean TLS13?"),
            ("{min_version: TLS13, max_version: TLS12}", "min_version: is newer"),
            ("client_auth_type: RequireClientCert", "did you mean Re"),
            ("client_auth_type: RequireAndVerifyClientCert", "client_ca_file: missing"),
            ("client_ca_file: ca.pem", "has no effect without client_auth_type"),
            ("client_allowed_sans: [a.test]", "needs client_auth_type"),
            ("{client_auth_type: RequireAnyClientCert, client_allowed_sans: ['a@b c']}", "neither a DNS name"),
            ("{client_auth_type: VerifyClientCertIfGiven, client_ca_file: client.key}", "holds no certificate"),
            ("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]", "is weak and not supported; remove it"),
            ("cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA]", "is weak and not supported; remove it"),
            ("cipher_suites: [AES]", "known are TLS_AES_128_GCM_SHA256,"),
            ("curve_preferences: [CurveP521]", "CurveP521 is not supported; use X25519, CurveP256 or CurveP384"),
            ("curve_preferences: [P256]", "curve_preferences: \"P256\" is unknown"),
        ];
        for (lines, wanted) in tls {
            let lines = lines.trim_matches(['{', '}']).replace(", m", "\n  m").replace(", client", "\n  client");
            let said = problem(&format!("{PAIR}  {lines}\n"));
            assert!(said.contains(wanted), "{lines}\n said:   {said}\n wanted: {wanted}");
        }
    }

    #[test]
    fn lists_narrow_what_is_spoken() {
        let suites = |names: &[&str]| provider(Some(names.iter().map(|n| (*n).to_owned()).collect()), None).unwrap();
        let narrowed = suites(&["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]).cipher_suites;
        assert_eq!(narrowed.iter().filter(|s| s.tls13().is_none()).count(), 1);
        assert_eq!(narrowed.len(), 4);
        assert_eq!(suites(&[]).cipher_suites.len(), 9);
        assert_eq!(provider(None, Some(vec!["CurveP384".into()])).unwrap().kx_groups.len(), 1);
        let count = |min, max| versions(min, max).unwrap().len();
        assert_eq!((count(None, None), count(Some("TLS13"), None), count(None, Some("TLS12"))), (2, 1, 1));
    }

    #[test]
    fn the_file_is_named_in_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.yml");
        let said = WebConfig::load(&path).unwrap_err().to_string();
        assert!(said.contains("web.yml: can't be read (No such file"), "{said}");
        std::fs::write(&path, "tls_server_config: {cert_file: a.pem, key_file: b.pem}").unwrap();
        let said = WebConfig::load(&path).unwrap_err().to_string();
        assert!(said.contains(&dir.path().join("a.pem").display().to_string()), "{said}");
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "[a-z_:{}\\[\\]\n &*!|>'\"-]{0,80}|\\PC{0,60}") {
            // Without a certificate or a hash in it, nothing that is taken can ask for TLS or users.
            if let Ok(config) = parse(&text) {
                prop_assert!(config.tls.is_none() && config.auth.is_none());
            }
        }

        #[test]
        fn an_unknown_key_is_always_named(key in "[a-z]{1,12}", section in prop::sample::select(&SECTIONS[..2])) {
            prop_assume!(!TLS_KEYS.contains(&key.as_str()) && !HTTP_KEYS.contains(&key.as_str()));
            let said = problem(&format!("{section}: {{\"{key}\": 1}}"));
            prop_assert!(said.starts_with(&format!("unknown key {section}.{key}")), "{}", said);
        }
    }
}
