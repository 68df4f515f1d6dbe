//! Who the agent is to the fleet, and whom it takes for the fleet: three PEM files, read at each connection so that
//! renewed ones are used without a restart.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Moment;
use crate::host::read_text;

/// The folder of the files, in the state folder.
pub const FOLDER: &str = "identity";

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The authority of the fleet's certificate.
    pub ca: PathBuf,
    /// This node's certificate, and those above it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why the files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read.
    #[error("can't read {}: {source}; ebbtide-agent join makes it, or name another in the settings", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {wanted} that can be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl IdentityError {
    /// Whether there are no files yet, or none that this process may read.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Read { source, .. } => Some(source.kind()),
            Self::Unusable { .. } => None,
        }
    }
}

/// When a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub from: i64,
    /// Until then.
    pub until: i64,
}

impl Validity {
    /// Whether less than a third of its time is left.
    pub fn ends_soon(&self, now: Moment) -> bool {
        self.left(now) < (self.until - self.from) / 3
    }

    /// Says in the log if somebody should think of renewal.
    pub fn warn(&self, now: Moment) {
        if self.left(now) <= 0 {
            tracing::error!("this node's certificate ended at {self}; get a new one with ebbtide-agent join");
        } else if self.ends_soon(now) {
            tracing::warn!("this node's certificate ends at {self}; get a new one with ebbtide-agent join");
        }
    }

    /// Seconds that are left; negative if it has ended.
    pub fn left(&self, now: Moment) -> i64 {
        self.until.saturating_sub(i64::try_from(now.wall / 1_000_000_000).unwrap_or(i64::MAX))
    }
}

/// The end of a certificate, for people.
impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.until) {
            Ok(at) => write!(f, "{}", at.strftime("%Y-%m-%d %H:%M UTC")),
            Err(_) => f.write_str("an unknown time"),
        }
    }
}

impl Identity {
    /// Where `join` writes the files.
    pub fn in_state(state: &Path) -> Self {
        let folder = state.join(FOLDER);
        Self { ca: folder.join("ca.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") }
    }

    /// TLS with these files: the fleet must have a certificate of the authority, and is shown ours.
    pub fn client_config(&self) -> Result<(ClientConfig, Validity), IdentityError> {
        let roots = self.roots()?;
        let chain = certificates(&self.cert)?;
        let validity = validity(&self.cert, &chain)?;
        let text = read(&self.key)?;
        let unusable = |wanted, why: String| IdentityError::Unusable { path: self.key.clone(), wanted, why };
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| unusable("private key", e.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable("TLS", e.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| unusable("key of the certificate beside it", e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok((config, validity))
    }

    /// When our certificate is valid.
    pub fn validity(&self) -> Result<Validity, IdentityError> {
        validity(&self.cert, &certificates(&self.cert)?)
    }

    fn roots(&self) -> Result<RootCertStore, IdentityError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|e| IdentityError::Unusable {
                path: self.ca.clone(),
                wanted: "certificate authority",
                why: e.to_string(),
            })?;
        }
        Ok(roots)
    }
}

fn read(path: &Path) -> Result<String, IdentityError> {
    read_text(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let unusable = |why| IdentityError::Unusable { path: path.to_owned(), wanted: "certificate", why };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(read(path)?.as_bytes()).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(unusable("there is no \"-----BEGIN CERTIFICATE-----\"".to_owned())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(unusable(error.to_string())),
    }
}

fn validity(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Validity, IdentityError> {
    let parsed = chain.first().map(|leaf| X509Certificate::from_der(leaf));
    match parsed {
        Some(Ok((_, leaf))) => {
            let validity = leaf.validity();
            Ok(Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
        }
        Some(Err(error)) => {
            Err(IdentityError::Unusable { path: path.to_owned(), wanted: "certificate", why: error.to_string() })
        }
        None => Err(IdentityError::Unusable { path: path.to_owned(), wanted: "certificate", why: String::new() }),
    }
}
