//! TLS of the authority's certificates: rustls with ring, TLS 1.3 and 1.2.
//!
//! Nothing is kept for resuming sessions: agents stay connected for weeks, and with ten thousand of them tickets and
//! caches would cost more memory than handshakes cost time.

use std::path::Path;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto};

use super::{PkiError, files};

/// What is spoken inside of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2 alone: gRPC.
    Http2,
    /// HTTP/1.1 alone: pages.
    Http1,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
        }
    }
}

/// A certificate with those above it, and its key.
#[derive(Debug)]
pub struct Credentials {
    /// The certificate, then those above it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Reads PEM texts; `place` names them in errors.
    ///
    /// # Errors
    /// [`PkiError::Empty`], [`PkiError::Unusable`].
    pub fn from_pem(place: &str, chain_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| PkiError::Empty { place: place.to_owned(), wanted: "private key" })?;
        Ok(Self { chain: certificates(place, chain_pem)?, key })
    }

    /// Reads PEM files.
    ///
    /// # Errors
    /// [`PkiError::Read`] and those of [`Credentials::from_pem`].
    pub fn read(chain: &Path, key: &Path) -> Result<Self, PkiError> {
        let chain_der = certificates(&chain.display().to_string(), &files::read(chain)?)?;
        let key_der = PrivateKeyDer::from_pem_slice(files::read(key)?.as_bytes())
            .map_err(|_| PkiError::Empty { place: key.display().to_string(), wanted: "private key" })?;
        Ok(Self { chain: chain_der, key: key_der })
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// All certificates of a PEM text, at least one; `place` names it in errors.
///
/// # Errors
/// [`PkiError::Empty`], [`PkiError::Unusable`].
pub fn certificates(place: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(PkiError::Empty { place: place.to_owned(), wanted: "certificate" }),
        Err(e) => {
            Err(PkiError::Unusable { place: place.to_owned(), wanted: "certificates in PEM form", why: e.to_string() })
        }
    }
}

/// How a server speaks TLS. Clients are asked for a certificate of one of `authorities` and may do without, since who
/// enrols has none yet; one that is shown must be good. Who may do what without one is for the services to decide.
///
/// # Errors
/// [`PkiError::Unusable`] if certificate and key don't belong together or an authority is none.
pub fn server_config(
    own: Credentials,
    authorities: &[CertificateDer<'static>],
    alpn: Alpn,
) -> Result<ServerConfig, PkiError> {
    let provider = Arc::new(crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authorities)?), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| unusable("the authority of clients", "an authority", &e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable("ring", "a provider of TLS", &e))?
        .with_client_cert_verifier(clients)
        .with_single_cert(own.chain, own.key)
        .map_err(|e| unusable("the server's certificate with its key", "a pair", &e))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn.protocols();
    Ok(config)
}

/// How a client speaks TLS: servers must show a certificate of one of `authorities`; its own is shown if it is asked
/// for.
///
/// # Errors
/// [`PkiError::Unusable`] if certificate and key don't belong together or an authority is none.
pub fn client_config(
    authorities: &[CertificateDer<'static>],
    own: Option<Credentials>,
    alpn: Alpn,
) -> Result<ClientConfig, PkiError> {
    let provider = Arc::new(crypto::ring::default_provider());
    let servers = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(authorities)?), Arc::clone(&provider))
        .build()
        .map_err(|e| unusable("the authority of servers", "an authority", &e))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable("ring", "a provider of TLS", &e))?
        .with_webpki_verifier(servers);
    let mut config = match own {
        Some(own) => config
            .with_client_auth_cert(own.chain, own.key)
            .map_err(|e| unusable("the client's certificate with its key", "a pair", &e))?,
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.protocols();
    Ok(config)
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|e| unusable("the authority's certificate", "an authority", &e))?;
    }
    Ok(roots)
}

fn unusable(place: &str, wanted: &'static str, why: &dyn std::fmt::Display) -> PkiError {
    PkiError::Unusable { place: place.to_owned(), wanted, why: why.to_string() }
}
