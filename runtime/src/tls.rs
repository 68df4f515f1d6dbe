//! The TLS side of the web config: certificate, key, client certificates, and their renewal without a restart.
//!
//! Files are looked at when a connection comes in, at most once a second. A renewal that can't be used is logged
//! once and the old certificate stays.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
};
use thiserror::Error;

use crate::clock::Moment;
use crate::files::read_text;

/// How often the files are looked at, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A PEM text, or where it stands.
#[derive(Clone)]
pub enum Pem {
    /// In a file; read again when it changes.
    File(PathBuf),
    /// In the web config itself, under this key.
    Inline(&'static str, String),
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Inline(key, _) => write!(f, "the inline {key}"),
        }
    }
}

impl fmt::Debug for Pem {
    // The text may be a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Pem {
    fn read(&self) -> Result<String, TlsError> {
        match self {
            Self::File(path) => read_text(path).map_err(|source| TlsError::Read { path: path.clone(), source }),
            Self::Inline(_, text) => Ok(text.clone()),
        }
    }

    fn print(&self) -> Option<Print> {
        match self {
            Self::File(path) => Print::of(path),
            Self::Inline(..) => None,
        }
    }
}

/// What is asked of clients; the names are those of the web config format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    NoClientCert,
    /// One is asked for; none, or any, will do.
    RequestClientCert,
    /// One must be shown; any will do.
    RequireAnyClientCert,
    /// None will do; one that is shown must be signed by the client CA.
    VerifyClientCertIfGiven,
    /// One signed by the client CA must be shown.
    RequireAndVerifyClientCert,
}

impl ClientAuth {
    const fn is_mandatory(self) -> bool {
        matches!(self, Self::RequireAnyClientCert | Self::RequireAndVerifyClientCert)
    }

    /// Whether certificates are checked against a CA.
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert)
    }
}

/// Everything that a TLS server configuration is made from, checked as far as it can be without the files.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Certificate chain, the server's own first.
    pub cert: Pem,
    /// Its private key.
    pub key: Pem,
    /// What clients must show.
    pub client_auth: ClientAuth,
    /// The CAs of clients; needed where [`ClientAuth::verifies`].
    pub client_ca: Option<Pem>,
    /// If not empty, a client certificate must be for one of these names or addresses.
    pub client_names: Vec<ServerName<'static>>,
    /// Protocol versions.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Cipher suites and key exchange groups, in order of preference.
    pub provider: Arc<CryptoProvider>,
    /// Whether the client's order of cipher suites counts before ours.
    pub client_order: bool,
    /// What is spoken inside, by its name in ALPN.
    pub speaks: &'static str,
}

/// Why TLS can't be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {}; check the path (relative to the web config's folder) and that this user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file without what it is there for.
    #[error("{place} holds no {wanted} in PEM form (\"-----BEGIN ...\")")]
    Empty {
        /// The file or key.
        place: String,
        /// What was looked for.
        wanted: &'static str,
    },
    /// A key under a passphrase.
    #[error("the key in {place} is encrypted; write it without passphrase: openssl pkey -in KEY -out PLAIN-KEY")]
    Encrypted {
        /// The file or key.
        place: String,
    },
    /// PEM that is broken or of a kind that can't be used.
    #[error("{place} can't be used as {wanted}")]
    Unusable {
        /// The file or key.
        place: String,
        /// What it should be.
        wanted: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Key and certificate of different pairs.
    #[error("the key in {key} doesn't belong to the certificate in {cert}; give both of the same pair")]
    Mismatch {
        /// The certificate's place.
        cert: String,
        /// The key's place.
        key: String,
    },
}

/// TLS as configured, with the certificate that is valid now.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    /// The files that `config`, or the last failed renewal, was read from.
    prints: [Option<Print>; 3],
    looked: Moment,
}

/// What of a file changes when it is written again or replaced, also through a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Print {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

impl Tls {
    /// Reads the files once and makes sure that they can be used.
    pub fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        // Prints before contents: a change in between is seen as one later.
        let prints = settings.prints();
        let config = Arc::new(settings.server_config()?);
        Ok(Self { settings, state: Mutex::new(State { config, prints, looked: Moment::default() }) })
    }

    /// The configuration for a connection that came in `now`, with renewed files read.
    pub fn current(&self, now: Moment) -> Arc<ServerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(state.looked) < LOOK_AGAIN {
            return Arc::clone(&state.config);
        }
        state.looked = now;
        let prints = self.settings.prints();
        if prints != state.prints {
            state.prints = prints;
            match self.settings.server_config() {
                Ok(config) => {
                    tracing::info!("read the renewed certificate {}", self.settings.cert);
                    state.config = Arc::new(config);
                }
                Err(error) => tracing::error!(
                    "the renewed certificate can't be used, the old one stays: {:#}",
                    anyhow::Error::new(error)
                ),
            }
        }
        Arc::clone(&state.config)
    }
}

impl TlsSettings {
    fn prints(&self) -> [Option<Print>; 3] {
        [self.cert.print(), self.key.print(), self.client_ca.as_ref().and_then(Pem::print)]
    }

    fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let chain = certificates(&self.cert)?;
        let key = private_key(&self.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.versions)
            .map_err(|e| unusable(&self.cert, "a certificate for these versions and cipher suites", e))?;
        let builder = match self.client_auth {
            ClientAuth::NoClientCert => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(Arc::new(self.client_policy()?)),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { cert: self.cert.to_string(), key: self.key.to_string() }
            }
            other => unusable(&self.key, "a key for a TLS server (ECDSA P-256 or P-384, Ed25519, RSA)", other),
        })?;
        config.alpn_protocols = vec![self.speaks.as_bytes().to_vec()];
        config.ignore_client_order = !self.client_order;
        Ok(config)
    }

    fn client_policy(&self) -> Result<ClientPolicy, TlsError> {
        let mut signed_by = None;
        if let (true, Some(ca)) = (self.client_auth.verifies(), &self.client_ca) {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|e| unusable(ca, "a client CA", e))?;
            }
            let checker = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider));
            signed_by = Some(checker.build().map_err(|e| unusable(ca, "a client CA", e))?);
        }
        Ok(ClientPolicy {
            signed_by,
            mandatory: self.client_auth.is_mandatory(),
            names: self.client_names.clone(),
            provider: Arc::clone(&self.provider),
        })
    }
}

/// Which client certificates are taken. Who shows one must own its key in any case.
#[derive(Debug)]
struct ClientPolicy {
    /// The check against the client CA, if there is to be one.
    signed_by: Option<Arc<dyn ClientCertVerifier>>,
    mandatory: bool,
    names: Vec<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ClientPolicy {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed_by.as_ref().map_or(&[], |check| check.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if let Some(check) = &self.signed_by {
            check.verify_client_cert(end_entity, intermediates, now)?;
        }
        if !self.names.is_empty() {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            if !self.names.iter().any(|name| verify_server_name(&certificate, name).is_ok()) {
                return Err(rustls::CertificateError::ApplicationVerificationFailure.into());
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = pem.read()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.map_err(|e| unusable(pem, "a certificate", e))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { place: pem.to_string(), wanted: "certificate" });
    }
    Ok(chain)
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = pem.read()?;
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
        let place = pem.to_string();
        match error {
            _ if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") => {
                TlsError::Encrypted { place }
            }
            rustls::pki_types::pem::Error::NoItemsFound => TlsError::Empty { place, wanted: "private key" },
            other => unusable(pem, "a private key", other),
        }
    })
}

fn unusable(pem: &Pem, wanted: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Unusable { place: pem.to_string(), wanted, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/web").join(name)
    }

    fn settings(cert: PathBuf, key: PathBuf) -> TlsSettings {
        TlsSettings {
            cert: Pem::File(cert),
            key: Pem::File(key),
            client_auth: ClientAuth::NoClientCert,
            client_ca: None,
            client_names: Vec::new(),
            versions: rustls::ALL_VERSIONS.to_vec(),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            client_order: false,
            speaks: "http/1.1",
        }
    }

    #[test]
    fn each_way_to_be_wrong_says_what_to_do() {
        let failure = |cert: &str, key: &str| Tls::new(settings(fixture(cert), fixture(key))).unwrap_err();
        let missing = failure("none.pem", "server.key");
        assert!(matches!(&missing, TlsError::Read { path, .. } if path.ends_with("none.pem")), "{missing:?}");
        assert!(missing.to_string().contains("none.pem; check the path"));
        assert!(matches!(failure("server.key", "server.key"), TlsError::Empty { wanted: "certificate", .. }));
        assert!(matches!(failure("server.pem", "server.pem"), TlsError::Empty { wanted: "private key", .. }));
        assert!(matches!(failure("server.pem", "encrypted.key"), TlsError::Encrypted { .. }));
        let mismatch = failure("server.pem", "renewed.key");
        assert!(matches!(mismatch, TlsError::Mismatch { .. }));
        assert!(mismatch.to_string().contains("renewed.key doesn't belong to the certificate in"), "{mismatch}");

        let mut broken = settings(fixture("server.pem"), fixture("server.key"));
        broken.cert = Pem::Inline("cert", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".into());
        let error = Tls::new(broken.clone()).unwrap_err();
        assert!(error.to_string().contains("the inline cert can't be used"), "{error}");
        broken.cert = Pem::Inline("cert", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into());
        assert!(matches!(Tls::new(broken).unwrap_err(), TlsError::Unusable { .. }));
        let secret = Pem::Inline("key", "SECRET".into());
        assert_eq!(format!("{secret:?}"), "the inline key");
    }

    #[test]
    fn a_renewal_is_picked_up_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let put = |from: &str, to: &Path| {
            // By rename, as tools for renewal do it: another inode whatever the clock's resolution.
            let fresh = dir.path().join("fresh");
            std::fs::copy(fixture(from), &fresh).unwrap();
            std::fs::rename(fresh, to).unwrap();
        };
        put("server.pem", &cert);
        put("server.key", &key);
        let tls = Tls::new(settings(cert.clone(), key.clone())).unwrap();
        let at = |ms: u64| Moment::default().plus(Duration::from_millis(ms));
        let first = tls.current(at(1000));
        assert!(Arc::ptr_eq(&first, &tls.current(at(5000))), "unchanged files are not read again");

        put("renewed.pem", &cert); // the key is still the old one
        assert!(Arc::ptr_eq(&first, &tls.current(at(5900))), "looked less than a second ago");
        assert!(Arc::ptr_eq(&first, &tls.current(at(6000))), "a half renewal is not used");
        assert_eq!(tls.state.lock().unwrap().prints[0], Print::of(&cert), "and is not tried again");
        put("renewed.key", &key);
        let second = tls.current(at(7000));
        assert!(!Arc::ptr_eq(&first, &second));

        std::fs::remove_file(&key).unwrap();
        assert!(Arc::ptr_eq(&second, &tls.current(at(8000))), "a missing key changes nothing");
        put("renewed.key", &key);
        assert!(!Arc::ptr_eq(&second, &tls.current(at(9000))), "and is read when it is back");
    }
}
