//! `join`: gets this node's certificate from the fleet daemon in exchange for a token.
//!
//! The token has the fingerprint of the fleet's authority, so that nobody between here and there can pose as the
//! fleet. The key is made here and stays here: what goes over the network is a request signed with it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ebbtide_proto::identity::Identity as Name;
use ebbtide_proto::v1;
use ebbtide_proto::v1::enrolment_client::EnrolmentClient;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::Code;

use super::{Exit, print};
use crate::config::value::Expected;
use crate::config::{FleetAddress, Settings, Token};
use crate::stream::connect::{Target, channel};
use crate::stream::identity::{FOLDER, Identity};

/// All of it takes less than a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the fleet did not take the token.
#[derive(Debug, thiserror::Error)]
#[error(
    "the fleet at {fleet} doesn't accept this token: {why}\n  a token can be used once and for a while only; get another from whoever runs the fleet"
)]
pub struct TokenRefused {
    fleet: String,
    why: String,
}

/// Gets a certificate and writes it to the state folder.
/// `token` is read from standard input if it is not given.
pub fn run(settings: &Settings, token: Option<Token>) -> anyhow::Result<Exit> {
    let Some(fleet) = &settings.fleet else { bail!("--fleet is missing: the address of the fleet daemon") };
    let Some(state) = &settings.state else { bail!("there is no state folder for the certificate; set --state DIR") };
    if !fleet.address.tls {
        bail!("{} is plain text: a fleet there needs no certificates, and gives none", fleet.address);
    }
    let token = token.map_or_else(from_stdin, Ok)?;
    // what can fail here should fail before the token is used up
    let files = Files::prepare(state)?;
    let name = Name::Node(settings.node_name.clone());
    let key = KeyPair::generate().context("can't make a key")?;
    let request = request(&name, &key)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ask =
        v1::JoinRequest { token: token.text().to_owned(), node: settings.node_name.to_string(), csr_der: request };
    let response = runtime.block_on(async {
        let asked = timeout(PATIENCE, exchange(&fleet.address, &token, ask)).await;
        asked.unwrap_or_else(|_| bail!("the fleet at {} doesn't answer within {PATIENCE:?}", fleet.address))
    })?;
    let identity = files.write(&response, &key.serialize_pem())?;
    let validity = identity.validity()?;
    identity.client_config().context("the fleet gave a certificate that can't be used")?;
    let node = &settings.node_name;
    print(&format!(
        "{node} has joined the fleet at {}. Its certificate is good until {validity}.\n\nRun next:\n  {}\n",
        fleet.address,
        next(settings, &fleet.address),
    ))
}

fn from_stdin() -> anyhow::Result<Token> {
    let mut line = String::new();
    io::stdin().take(1024).read_to_string(&mut line).context("can't read the token from standard input")?;
    line.parse().map_err(|e: Expected| anyhow::anyhow!("standard input has no token: {e}"))
}

/// What to run next.
fn next(settings: &Settings, address: &FleetAddress) -> String {
    let address = address.to_string();
    let address = address.strip_prefix("https://").unwrap_or(&address);
    let state = settings.state.as_deref().filter(|state| *state != Path::new(crate::config::SYSTEM_STATE));
    let state = state.map(|state| format!(" --state {}", state.display())).unwrap_or_default();
    let systemd = "or put it into the configuration of the service: fleet =";
    format!("ebbtide-agent run --fleet {address}{state}\n  ({systemd} \"{address}\")")
}

/// A request for a certificate, in DER.
fn request(name: &Name, key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(name.to_string().try_into()?)];
    let request = params.serialize_request(key).context("can't make a request for a certificate")?;
    Ok(request.der().to_vec())
}

async fn exchange(address: &FleetAddress, token: &Token, request: v1::JoinRequest) -> anyhow::Result<v1::JoinResponse> {
    let target = Target { host: address.host.clone(), port: address.port, identity: None };
    let unreachable = || format!("can't reach the fleet at {target}; is it running, and is its port open?");
    let tcp = TcpStream::connect((target.host.as_str(), target.port)).await.with_context(unreachable)?;
    let name = ServerName::try_from(target.host.clone()).context("the fleet's address is no host name")?;
    let tls = TlsConnector::from(Arc::new(pinned(token.fingerprint())?)).connect(name, tcp).await;
    let tls = tls.map_err(|error| untrusted(&target, error))?;
    let channel = channel(&target, tls).await.with_context(unreachable)?;
    match EnrolmentClient::new(channel).join(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => {
            let why: String = status.message().chars().filter(|c| !c.is_control()).take(300).collect();
            match status.code() {
                Code::PermissionDenied | Code::Unauthenticated => {
                    Err(TokenRefused { fleet: target.to_string(), why }.into())
                }
                Code::Unimplemented => {
                    bail!("the fleet at {target} gives no certificates: it has no authority of its own")
                }
                code => bail!("the fleet at {target} could not give a certificate: {why} ({code:?})"),
            }
        }
    }
}

/// Why there is no secure connection.
fn untrusted(target: &Target, error: io::Error) -> anyhow::Error {
    let cause = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => anyhow::anyhow!(
            "who answers at {target} is not the fleet that the token is from\n  none of its certificates has the fingerprint in the token; is the address right?"
        ),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => anyhow::anyhow!(
            "the fleet's certificate is not for the name {}\n  use a name that it is for in --fleet, or have one made with this name",
            target.host
        ),
        _ => anyhow::Error::new(error).context(format!("can't make a secure connection to the fleet at {target}")),
    }
}

/// TLS that trusts the authority with this fingerprint and no other.
fn pinned(fingerprint: [u8; 32]) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pinned { fingerprint, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Finds the authority by its fingerprint among the certificates that the server shows, then checks as usual.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_it = |c: &&CertificateDer<'_>| {
            ring::digest::digest(&ring::digest::SHA256, c.as_ref()).as_ref() == self.fingerprint
        };
        let other = || rustls::Error::from(CertificateError::ApplicationVerificationFailure);
        let authority = intermediates.iter().find(is_it).ok_or_else(other)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|_| other())?;
        usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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

/// The folder of the identity, written beside the old one and put in its place when it is complete.
#[derive(Debug)]
struct Files {
    state: PathBuf,
    fresh: PathBuf,
}

impl Files {
    /// Makes an empty folder that only its owner can read.
    fn prepare(state: &Path) -> anyhow::Result<Self> {
        let fresh = state.join(format!("{FOLDER}.new"));
        let made = || -> io::Result<()> {
            fs::create_dir_all(state)?;
            match fs::remove_dir_all(&fresh) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => fs::DirBuilder::new().mode(0o700).create(&fresh)?,
            }
            own_like(state, &fresh)
        };
        made().with_context(|| {
            format!(
                "can't write to the state folder {}; run as its owner, or choose another with --state",
                state.display()
            )
        })?;
        Ok(Self { state: state.to_owned(), fresh })
    }

    /// Writes the three files and puts them in place.
    fn write(self, response: &v1::JoinResponse, key_pem: &str) -> anyhow::Result<Identity> {
        let all = [
            ("ca.pem", 0o644, response.authority_pem.as_str()),
            ("cert.pem", 0o644, response.certificate_pem.as_str()),
            ("key.pem", 0o600, key_pem),
        ];
        let put = || -> io::Result<()> {
            for (name, mode, text) in all {
                let path = self.fresh.join(name);
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                own_like(&self.state, &path)?;
            }
            let (place, old) = (self.state.join(FOLDER), self.state.join(format!("{FOLDER}.old")));
            if old.exists() {
                fs::remove_dir_all(&old)?;
            }
            if place.exists() {
                fs::rename(&place, &old)?;
            }
            fs::rename(&self.fresh, &place)?;
            fs::File::open(&self.state)?.sync_all()?;
            if old.exists() { fs::remove_dir_all(&old) } else { Ok(()) }
        };
        put().with_context(|| format!("can't write the certificate to {}", self.state.display()))?;
        Ok(Identity::in_state(&self.state))
    }
}

/// Nothing half done is left behind.
impl Drop for Files {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.fresh));
    }
}

/// Gives a file to whom the state folder belongs: it is root who joins, and another user who runs the agent.
fn own_like(state: &Path, path: &Path) -> io::Result<()> {
    let (owner, now) = (fs::metadata(state)?, fs::metadata(path)?);
    if (owner.uid(), owner.gid()) == (now.uid(), now.gid()) {
        return Ok(());
    }
    match std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())) {
        // who is not root can't, and runs the agent as himself
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}
