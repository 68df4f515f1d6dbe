//! The private authority that signs certificates of nodes, operators and the fleet daemon.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbtide_proto::identity::Identity;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, ServerName};

use super::certificate::Certificate;
use super::files::{self, NewFile, PUBLIC, SECRET};
use super::{PkiError, days, fingerprint};

/// File with the authority's certificate in its folder.
pub const CERTIFICATE_FILE: &str = "ca.pem";
/// File with the authority's key in its folder.
pub const KEY_FILE: &str = "ca-key.pem";

/// Certificates begin this long before they are made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// The year 9000: dates in certificates end with 9999.
const LATEST: Duration = Duration::from_secs(221_845_392_000);
/// The longest signing request that is looked at, in bytes; one of a P-256 key has about 300.
const MAX_REQUEST: usize = 16 << 10;
/// The longest common name of a certificate in characters, RFC 5280 appendix A.
const MAX_COMMON_NAME: usize = 64;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
    expires_ms: u64,
}

/// A certificate that was signed for a key that is somewhere else.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate alone, PEM.
    pub certificate_pem: String,
    /// The certificate, then the authority's, PEM: what a server shows, so that who joins can check the authority's
    /// fingerprint.
    pub chain_pem: String,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// A certificate and its new key.
#[derive(Clone)]
pub struct Issued {
    /// The certificate alone, PEM.
    pub certificate_pem: String,
    /// The certificate, then the authority's, PEM.
    pub chain_pem: String,
    /// The private key, PKCS #8 in PEM. Nobody else has it.
    pub key_pem: String,
    /// When the certificate ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl fmt::Debug for Issued {
    // Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    // Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Where an authority keeps its certificate and its key.
    pub fn paths(dir: &Path) -> (PathBuf, PathBuf) {
        (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE))
    }

    /// Makes an authority that is good for ten years, and keeps it in `dir` (`ca.pem`, `ca-key.pem` for the owner
    /// only). `force` replaces one that is there: all certificates that it signed become worthless.
    ///
    /// # Errors
    /// [`PkiError::Exists`], [`PkiError::Write`].
    pub fn init(dir: &Path, force: bool, now_ms: u64) -> Result<Self, PkiError> {
        let (certificate, key) = Self::paths(dir);
        if !force {
            files::absent([key.as_path(), certificate.as_path()])?;
        }
        let (authority, key_pem) = Self::generate(now_ms)?;
        // the key first: a certificate without a key would look like an authority
        let written = [
            NewFile { path: &key, text: &key_pem, mode: SECRET },
            NewFile { path: &certificate, text: &authority.pem, mode: PUBLIC },
        ];
        files::write(&written, force)?;
        Ok(authority)
    }

    /// Makes an authority that is kept nowhere, and its key in PEM.
    ///
    /// # Errors
    /// [`PkiError::Crypto`] if there is no randomness.
    pub fn generate(now_ms: u64) -> Result<(Self, String), PkiError> {
        let key = new_key()?;
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        limit(&mut params, now_ms, days::AUTHORITY, u64::MAX)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        // two authorities never have the same name: verifiers look for the issuer by it
        let tag: String = serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name = subject(&format!("Ebbtide authority {tag}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(crypto("the authority's certificate can't be signed"))?;
        let key_pem = key.serialize_pem();
        let authority = Self::new(certificate.der().clone(), certificate.pem(), key)?;
        Ok((authority, key_pem))
    }

    /// Reads the authority in `dir`.
    ///
    /// # Errors
    /// [`PkiError::Read`], [`PkiError::Empty`], [`PkiError::Unusable`] if certificate and key don't belong together.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = Self::paths(dir);
        let place = |path: &Path| path.display().to_string();
        let pem = files::read(&certificate)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| PkiError::Empty { place: place(&certificate), wanted: "certificate" })?;
        let pair = KeyPair::from_pem(&files::read(&key)?).map_err(|e| PkiError::Unusable {
            place: place(&key),
            wanted: "a private key",
            why: e.to_string(),
        })?;
        Self::new(der, pem, pair)
    }

    fn new(der: CertificateDer<'static>, pem: String, key: KeyPair) -> Result<Self, PkiError> {
        let unusable = |why: String| PkiError::Unusable {
            place: CERTIFICATE_FILE.to_owned(),
            wanted: "the certificate of an authority",
            why,
        };
        let said = Certificate::read(&der)?;
        if !said.is_authority {
            return Err(unusable("it may not sign certificates".to_owned()));
        }
        let entity = webpki::EndEntityCert::try_from(&der).map_err(|e| unusable(e.to_string()))?;
        if entity.subject_public_key_info().as_ref() != key.subject_public_key_info() {
            return Err(unusable(format!("{KEY_FILE} is not its key")));
        }
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(crypto("the authority's certificate can't be understood"))?;
        Ok(Self { issuer, der, pem, expires_ms: said.expires_ms })
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate, DER.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// When the authority ends, in milliseconds since 1970. Nothing that it signs is good for longer.
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms
    }

    /// SHA-256 of the authority's certificate in DER, hexadecimal.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// Makes a key and a certificate for it. `names` are the DNS names and addresses that the fleet daemon is reached
    /// by; others have none.
    ///
    /// # Errors
    /// [`PkiError::Name`], [`PkiError::NoName`], [`PkiError::Days`], [`PkiError::AuthorityEnded`].
    pub fn issue(&self, identity: &Identity, names: &[String], days: u32, now_ms: u64) -> Result<Issued, PkiError> {
        let key = new_key()?;
        let Signed { certificate_pem, chain_pem, expires_ms } = self.sign(&key, identity, names, days, now_ms)?;
        Ok(Issued { certificate_pem, chain_pem, key_pem: key.serialize_pem(), expires_ms })
    }

    /// Makes a certificate for the key of a signing request (PKCS #10, DER). Of the request only the key is taken;
    /// its signature shows that who asks has that key.
    ///
    /// # Errors
    /// [`PkiError::Unusable`] for a request that can't be understood, is not signed by its key, or is of a kind of key
    /// other than P-256, P-384 and Ed25519; those of [`Authority::issue`].
    pub fn sign_request(
        &self,
        request_der: &[u8],
        identity: &Identity,
        days: u32,
        now_ms: u64,
    ) -> Result<Signed, PkiError> {
        let unusable = |why: String| PkiError::Unusable {
            place: "the signing request".to_owned(),
            wanted: "a request for a certificate (PKCS #10, DER)",
            why,
        };
        if request_der.len() > MAX_REQUEST {
            return Err(unusable(format!("it has {} bytes", request_der.len())));
        }
        let der = CertificateSigningRequestDer::from(request_der);
        let key = CertificateSigningRequestParams::from_der(&der).map_err(|e| unusable(e.to_string()))?.public_key;
        let kinds = [(&PKCS_ECDSA_P256_SHA256, 65), (&rcgen::PKCS_ECDSA_P384_SHA384, 97), (&rcgen::PKCS_ED25519, 32)];
        let known = |(kind, bytes): &(&'static rcgen::SignatureAlgorithm, usize)| {
            *key.algorithm() == **kind && key.der_bytes().len() == *bytes
        };
        if !kinds.iter().any(known) {
            return Err(unusable("its key is none of P-256, P-384 and Ed25519".to_owned()));
        }
        self.sign(&key, identity, &[], days, now_ms)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        names: &[String],
        days: u32,
        now_ms: u64,
    ) -> Result<Signed, PkiError> {
        let mut params = CertificateParams::default();
        let expires_ms = limit(&mut params, now_ms, days, self.expires_ms)?;
        params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let common = match identity {
            Identity::Node(name) => name.as_str(),
            Identity::Operator { name, .. } => name.as_str(),
            Identity::Fleet => {
                params.extended_key_usages.insert(0, ExtendedKeyUsagePurpose::ServerAuth);
                if names.is_empty() {
                    return Err(PkiError::NoName);
                }
                "fleet"
            }
        };
        params.distinguished_name = subject(common);
        let uri = identity.to_string();
        params.subject_alt_names.push(SanType::URI(ia5(&uri)?));
        for name in names {
            params.subject_alt_names.push(server_name(name)?);
        }
        let signed = params.signed_by(key, &self.issuer).map_err(crypto("the certificate can't be signed"))?;
        let certificate_pem = signed.pem();
        let chain_pem = format!("{certificate_pem}{}", self.pem);
        Ok(Signed { certificate_pem, chain_pem, expires_ms })
    }
}

/// P-256: small, fast to sign with, and understood by everything that speaks TLS 1.2.
fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto("no key can be made"))
}

/// 127 random bits, positive and never zero, RFC 5280 §4.1.2.2.
fn random_serial() -> Result<[u8; 16], PkiError> {
    let mut serial = [0; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| PkiError::Crypto { what: "no serial number can be made", why: "no randomness".to_owned() })?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn subject(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Ebbtide");
    // names are ASCII; the whole name is in the URI
    name.push(DnType::CommonName, common.chars().take(MAX_COMMON_NAME).collect::<String>());
    name
}

fn server_name(name: &str) -> Result<SanType, PkiError> {
    let wrong = || PkiError::Name(name.to_owned());
    match ServerName::try_from(name).map_err(|_| wrong())? {
        ServerName::IpAddress(address) => Ok(SanType::IpAddress(IpAddr::from(address))),
        ServerName::DnsName(name) => Ok(SanType::DnsName(ia5(&name.as_ref().to_ascii_lowercase())?)),
        _ => Err(wrong()),
    }
}

fn ia5(text: &str) -> Result<Ia5String, PkiError> {
    Ia5String::try_from(text).map_err(|_| PkiError::Name(text.to_owned()))
}

/// Sets when a certificate begins and ends, the latter not after its authority; returns the end in milliseconds.
fn limit(params: &mut CertificateParams, now_ms: u64, days: u32, authority_ends_ms: u64) -> Result<u64, PkiError> {
    if !(1..=days::AUTHORITY).contains(&days) {
        return Err(PkiError::Days(days));
    }
    if now_ms >= authority_ends_ms {
        return Err(PkiError::AuthorityEnded);
    }
    let now = Duration::from_millis(now_ms);
    let ends = (now + DAY * days).min(Duration::from_millis(authority_ends_ms));
    if ends > LATEST {
        return Err(PkiError::Crypto { what: "no certificate can be made", why: "the clock is wrong".to_owned() });
    }
    let date = |since_1970: Duration| date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970.as_secs());
    params.not_before = date(now.saturating_sub(BACKDATED));
    params.not_after = date(ends);
    Ok(ends.as_secs() * 1000)
}

fn crypto(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |e| PkiError::Crypto { what, why: e.to_string() }
}
