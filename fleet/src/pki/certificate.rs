//! What a certificate says.

use std::net::IpAddr;

use ebbtide_proto::identity::Identity;
use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::PkiError;

/// What identities begin with, in whatever case.
const SCHEME: &str = "ebbtide:";

/// What people want to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is; `None` for an authority or a certificate from elsewhere.
    pub identity: Option<Identity>,
    /// The subject, as `O=Ebbtide, CN=edge1`.
    pub subject: String,
    /// The subject of the authority that signed it.
    pub issuer: String,
    /// It is an authority's own.
    pub is_authority: bool,
    /// DNS names and addresses of a server.
    pub names: Vec<String>,
    /// When it begins, in milliseconds since 1970.
    pub begins_ms: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of the whole certificate, hexadecimal.
    pub fingerprint: String,
    /// It may be shown by a client.
    pub for_clients: bool,
    /// It may be shown by a server.
    pub for_servers: bool,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`PkiError::Unusable`] for bytes that are none; those of [`identity_of`], but for [`PkiError::NoIdentity`].
    pub fn read(der: &[u8]) -> Result<Self, PkiError> {
        let certificate = parse(der)?;
        let identity = match identity(&certificate) {
            Err(PkiError::NoIdentity) => None,
            found => Some(found?),
        };
        let usage = certificate.extended_key_usage().map_err(|e| unusable(&e))?.map(|usage| usage.value);
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        Ok(Self {
            identity,
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            is_authority: certificate.is_ca(),
            names: general_names(&certificate)?.iter().filter_map(server_name).collect(),
            begins_ms: ms(certificate.validity().not_before.timestamp()),
            expires_ms: ms(certificate.validity().not_after.timestamp()),
            serial: hex(certificate.raw_serial()),
            fingerprint: fingerprint(der),
            for_clients: usage.is_some_and(|u| u.client_auth),
            for_servers: usage.is_some_and(|u| u.server_auth),
        })
    }

    /// Reads the first certificate of a PEM text; `place` names it in errors.
    ///
    /// # Errors
    /// [`PkiError::Empty`] if there is none; those of [`Certificate::read`].
    pub fn read_pem(place: &str, pem: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| PkiError::Empty { place: place.to_owned(), wanted: "certificate" })?;
        Self::read(&der)
    }
}

/// Whose certificate it is. Says nothing about whether it may be trusted: that is for whoever verified it.
///
/// # Errors
/// [`PkiError::NoIdentity`], [`PkiError::SeveralIdentities`], [`PkiError::Identity`]; [`PkiError::Unusable`] for
/// bytes that are no certificate.
pub fn identity_of(der: &[u8]) -> Result<Identity, PkiError> {
    identity(&parse(der)?)
}

/// SHA-256 of `der`, hexadecimal: 64 characters.
pub fn fingerprint(der: &[u8]) -> String {
    match TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => hex(suite.common.hash_provider.hash(der).as_ref()),
        // the constant is of TLS 1.3, whatever its type allows
        SupportedCipherSuite::Tls12(suite) => hex(suite.common.hash_provider.hash(der).as_ref()),
    }
}

fn identity(certificate: &X509Certificate<'_>) -> Result<Identity, PkiError> {
    let names = general_names(certificate)?;
    let ours: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) if is_ours(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match ours.as_slice() {
        [] => Err(PkiError::NoIdentity),
        [one] => Ok(one.parse()?),
        several => Err(PkiError::SeveralIdentities(several.len())),
    }
}

fn is_ours(uri: &str) -> bool {
    uri.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(unusable(&"bytes follow its end")),
        Err(e) => Err(unusable(&e)),
    }
}

fn unusable(why: &dyn std::fmt::Display) -> PkiError {
    PkiError::Unusable { place: "what was shown".to_owned(), wanted: "a certificate", why: why.to_string() }
}

/// The subject's alternative names. One that can't be read spoils all: it could be another identity.
fn general_names<'a>(certificate: &'a X509Certificate<'a>) -> Result<&'a [GeneralName<'a>], PkiError> {
    let extension = certificate.subject_alternative_name().map_err(|e| unusable(&e))?;
    let names = extension.map_or(&[][..], |names| &names.value.general_names);
    match names.iter().find(|name| matches!(name, GeneralName::Invalid(..))) {
        Some(_) => Err(unusable(&"one of its names is malformed")),
        None => Ok(names),
    }
}

fn server_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
