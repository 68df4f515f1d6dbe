//! Which certificate of a device is believed: one signed by a known authority, or the very one whose fingerprint is
//! configured. Management controllers sign their own, so the second is the usual case.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;

/// Where distributions keep the authorities that the system trusts.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// No bundle is larger.
const LARGEST_BUNDLE: u64 = 4 << 20;

/// SHA-256 of a certificate in DER form, as `openssl x509 -fingerprint -sha256` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        let hash = ::ring::digest::digest(&::ring::digest::SHA256, certificate);
        for (to, from) in bytes.iter_mut().zip(hash.as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} should be a SHA-256 fingerprint: 32 bytes in hex, with or without colons");
        let digits = text.trim().trim_start_matches("sha256:").trim_start_matches("SHA256:").replace(':', "");
        if digits.len() != 64 || !digits.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(2 * i..2 * i + 2).filter(|p| !p.starts_with('+')).ok_or_else(bad)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug)]
enum Belief {
    /// This certificate and no other.
    Pinned(Fingerprint),
    /// One that these sign.
    Signed(Arc<WebPkiServerVerifier>),
}

/// Judges a device's certificate, and remembers what a refused one was, for the message.
#[derive(Debug)]
pub(crate) struct Judge {
    belief: Belief,
    provider: Arc<CryptoProvider>,
    refused: Mutex<Option<Fingerprint>>,
}

impl Judge {
    /// By the fingerprint if there is one, else by the authorities in `ca_file`, else by the system's.
    pub(crate) fn new(fingerprint: Option<Fingerprint>, ca_file: Option<&Path>) -> Result<Arc<Self>, DeviceError> {
        let provider = Arc::new(ring::default_provider());
        let belief = match (fingerprint, ca_file) {
            (Some(_), Some(_)) => {
                let hint = "fingerprint and ca-file contradict each other: a pinned certificate needs no authority";
                return Err(DeviceError::Config(hint.to_owned()));
            }
            (Some(fingerprint), None) => Belief::Pinned(fingerprint),
            (None, Some(path)) => Belief::Signed(signed_by(authorities(path)?, &provider)?),
            (None, None) => Belief::Signed(signed_by(system_authorities()?, &provider)?),
        };
        Ok(Arc::new(Self { belief, provider, refused: Mutex::new(None) }))
    }

    /// A TLS configuration that asks this judge.
    pub(crate) fn client_config(self: &Arc<Self>) -> Result<ClientConfig, DeviceError> {
        let unusable = |e: rustls::Error| DeviceError::Config(format!("TLS can't be set up: {e}"));
        Ok(ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth())
    }

    /// If a handshake failed for the certificate: what is wrong with it, in words with what to do.
    pub(crate) fn distrust(&self, error: &io::Error) -> Option<String> {
        let why = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let why = why.filter(|e| matches!(e, rustls::Error::InvalidCertificate(_)))?;
        let shown = self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(match (&self.belief, shown) {
            (Belief::Pinned(_), Some(shown)) => format!(
                "its fingerprint is {shown}, not the configured one; if the certificate was renewed on purpose, \
                 configure this fingerprint, else someone may be in between"
            ),
            (Belief::Signed(_), Some(shown)) => format!(
                "{why}; set ca-file to the authority that signed it, or, if {shown} is its fingerprint as read on the \
                 device itself, set fingerprint to that"
            ),
            (_, None) => why.to_string(),
        })
    }

    fn refuse(&self, certificate: &CertificateDer<'_>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Fingerprint::of(certificate));
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = match &self.belief {
            Belief::Pinned(wanted) if Fingerprint::of(certificate) == *wanted => Ok(ServerCertVerified::assertion()),
            Belief::Pinned(_) => Err(rustls::CertificateError::ApplicationVerificationFailure.into()),
            Belief::Signed(by) => by.verify_server_cert(certificate, chain, name, ocsp, now),
        };
        verdict.inspect_err(|_| self.refuse(certificate))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn signed_by(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, DeviceError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| DeviceError::Config(format!("the authorities for TLS can't be used: {e}")))
}

fn system_authorities() -> Result<RootCertStore, DeviceError> {
    for path in SYSTEM_BUNDLES.map(Path::new) {
        if path.exists() {
            return authorities(path);
        }
    }
    Err(DeviceError::Config(format!(
        "no certificate authorities found in {}; install ca-certificates, or set ca-file or fingerprint",
        SYSTEM_BUNDLES.join(", ")
    )))
}

fn authorities(path: &Path) -> Result<RootCertStore, DeviceError> {
    let unreadable = |e: io::Error| DeviceError::Config(format!("can't read {}: {e}", path.display()));
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    if file.take(LARGEST_BUNDLE).read_to_end(&mut text).map_err(unreadable)? as u64 == LARGEST_BUNDLE {
        return Err(unreadable(ErrorKind::FileTooLarge.into()));
    }
    let mut roots = RootCertStore::empty();
    // A system's bundle may hold a few that can't be used; one that can is enough.
    let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    let (usable, _) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(DeviceError::Config(format!("{} holds no usable certificate in PEM form", path.display())));
    }
    Ok(roots)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_tools_print_it() {
        let colons = (0..32u8).map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":");
        let bare = colons.replace(':', "").to_lowercase();
        let print: Fingerprint = colons.parse().unwrap();
        assert_eq!(print, bare.parse().unwrap());
        assert_eq!(print, format!("sha256:{bare}").parse().unwrap());
        assert_eq!(print.to_string(), colons);
        for bad in ["", "00", &colons[3..], &colons.replace("1F", "1G"), &bare.replace("1f", "+f")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bundle_without_certificates_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Judge::new(None, Some(file.path())).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()) && error.contains("no usable certificate"), "{error}");
    }
}
