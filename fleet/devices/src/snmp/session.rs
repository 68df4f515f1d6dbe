//! Requests to one device: the only place that uses the SNMP library. Each call is bounded in time and answer.

use std::time::Duration;

use async_snmp::{
    AuthProtocol, Client, ClientBuilder, Error, ErrorStatus, PrivProtocol, Retry, UdpHandle, UsmConfig, WalkOptions,
};
use tokio::time::Instant;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::config::{Auth, Privacy, SnmpPduConfig, Version};
use super::oid::{Oid, Tree, Value};
use crate::error::DeviceError;
use crate::secret::{Secret, SecretSource};

/// Objects asked for at once. About 1 kB of answer, so that it fits the smallest buffers.
const AT_ONCE: usize = 24;
/// Rows asked for at once when a table is walked.
const ROWS: u32 = 24;
/// No column of a PDU is longer; what is, runs in circles.
const LONGEST_COLUMN: usize = 4096;

/// A device's SNMP agent. It is connected to when it is first asked something.
pub(crate) struct Session {
    address: String,
    auth: async_snmp::Auth,
    /// For setting, where that needs other credentials.
    write_auth: Option<async_snmp::Auth>,
    timeout: Duration,
    retries: u32,
    gap: Duration,
    reader: Option<Client<UdpHandle>>,
    writer: Option<Client<UdpHandle>>,
    /// When the next request may go out.
    next: Option<Instant>,
    hint: &'static str,
}

impl Session {
    /// Reads the secrets; connects to nothing yet.
    pub(crate) fn new(config: &SnmpPduConfig) -> Result<Self, DeviceError> {
        let (auth, write_auth, hint) = match config.version {
            Version::V3 => {
                (usm(config)?, None, "is it on, is the address right, does it know this user with these passwords?")
            }
            version => {
                let of = |source: &SecretSource| secret(source).map(|s| community(version, &s));
                let read =
                    config.community.as_ref().map_or_else(|| Ok(community(version, &Secret::new("public"))), of)?;
                let write = config.write_community.as_ref().map(of).transpose()?;
                (read, write, "is it on, are address and community right? Devices don't answer a wrong community")
            }
        };
        Ok(Self {
            address: config.address.clone(),
            auth,
            write_auth,
            timeout: config.timeout.get(),
            retries: config.retries,
            gap: config.gap.get(),
            reader: None,
            writer: None,
            next: None,
            hint,
        })
    }

    /// The device's address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Ends the connection; the next request makes a new one.
    pub(crate) fn forget(&mut self) {
        self.reader = None;
        self.writer = None;
    }

    /// The values of these objects. Those that the device doesn't have are left out.
    pub(crate) async fn get(&mut self, objects: &[Oid]) -> Result<Tree, DeviceError> {
        let mut tree = Tree::default();
        for asked in objects.chunks(AT_ONCE) {
            let client = self.reader().await?;
            let oids: Vec<async_snmp::Oid> = asked.iter().map(|o| async_snmp::Oid::from_slice(o.arcs())).collect();
            let answer = quiet(client.get_many(&oids)).await.map_err(|e| self.explain(&e, "a GET"))?;
            let found = answer.varbinds.into_iter().filter_map(|v| object(&v));
            // A device that answers what it wasn't asked is not believed.
            found.filter(|(oid, _)| asked.contains(oid)).for_each(|(oid, value)| tree.insert(oid, value));
        }
        Ok(tree)
    }

    /// All rows of a column.
    pub(crate) async fn walk(&mut self, column: &Oid) -> Result<Tree, DeviceError> {
        let client = self.reader().await?;
        let options =
            WalkOptions { max_repetitions: ROWS, result_limit: Some(LONGEST_COLUMN), ..WalkOptions::default() };
        let walk = client.walk_with(async_snmp::Oid::from_slice(column.arcs()), options);
        let rows = match walk {
            Ok(walk) => quiet(walk.collect()).await,
            Err(error) => Err(error),
        };
        let rows = rows.map_err(|e| self.explain(&e, &format!("a walk over {column}")))?;
        Ok(rows.iter().filter_map(object).filter(|(oid, _)| oid.below(column).is_some()).collect())
    }

    /// Whether there is anything below `oid`.
    pub(crate) async fn has(&mut self, oid: &Oid) -> Result<bool, DeviceError> {
        let client = self.reader().await?;
        match quiet(client.get_next(&async_snmp::Oid::from_slice(oid.arcs()))).await {
            Ok(answer) => Ok(answer.varbinds.iter().filter_map(object).any(|(found, _)| found.below(oid).is_some())),
            // SNMPv1 says so at the end of everything.
            Err(error) if status(&error) == Some(ErrorStatus::NoSuchName) => Ok(false),
            Err(error) => Err(self.explain(&error, "a GETNEXT")),
        }
    }

    /// Sets one object to an integer.
    pub(crate) async fn set(&mut self, object: &Oid, value: i32) -> Result<(), DeviceError> {
        let client = self.writer().await?;
        let oid = async_snmp::Oid::from_slice(object.arcs());
        let answer = quiet(client.set(&oid, async_snmp::Value::Integer(value))).await;
        let answer = answer.map_err(|e| self.explain(&e, &format!("a SET of {object}")))?;
        match answer.varbinds.iter().find(|v| v.oid == oid).map(|v| v.value.is_exception()) {
            Some(false) => Ok(()),
            Some(true) => Err(DeviceError::Refused {
                device: self.address.clone(),
                asked: format!("a SET of {object}"),
                why: "it has no such object; is the model right?".to_owned(),
            }),
            None => Err(DeviceError::Nonsense {
                device: self.address.clone(),
                asked: format!("a SET of {object}"),
                why: "the answer is about something else".to_owned(),
            }),
        }
    }

    async fn reader(&mut self) -> Result<Client<UdpHandle>, DeviceError> {
        self.pace().await;
        if let Some(client) = &self.reader {
            return Ok(client.clone());
        }
        let client = self.connect(self.auth.clone()).await?;
        Ok(self.reader.insert(client).clone())
    }

    async fn writer(&mut self) -> Result<Client<UdpHandle>, DeviceError> {
        let Some(auth) = self.write_auth.clone() else { return self.reader().await };
        self.pace().await;
        if let Some(client) = &self.writer {
            return Ok(client.clone());
        }
        let client = self.connect(auth).await?;
        Ok(self.writer.insert(client).clone())
    }

    async fn connect(&self, auth: async_snmp::Auth) -> Result<Client<UdpHandle>, DeviceError> {
        let retry = Retry::exponential(self.retries)
            .initial_delay(Duration::from_millis(50))
            .max_delay(Duration::from_secs(1))
            .jitter(0.2)
            .build()
            .map_err(|e| DeviceError::Config(format!("{}: retries: {e}", self.address)))?;
        let client = ClientBuilder::new(auth)
            .request_timeout(self.timeout)
            .retry(retry)
            .max_oids_per_request(AT_ONCE)
            .target(self.address.as_str())
            .construction_timeout(self.timeout.max(Duration::from_millis(100)))
            .strict_source(true)
            .connect();
        client.await.map_err(|e| DeviceError::Unreachable { device: self.address.clone(), why: e.to_string() })
    }

    /// Waits until the next request may go out.
    async fn pace(&mut self) {
        if let Some(next) = self.next {
            tokio::time::sleep_until(next).await;
        }
        self.next = Some(Instant::now() + self.gap);
    }

    /// The library's error in the words of this crate. A connection that broke is forgotten.
    fn explain(&mut self, error: &Error, asked: &str) -> DeviceError {
        match error {
            Error::SharedOperation { source } => return self.explain(source, asked),
            Error::Exchange { source, .. } => return self.explain(source, asked),
            Error::Network { .. } | Error::Closed { .. } => self.forget(),
            _ => {}
        }
        self.words(error, asked)
    }

    fn words(&self, error: &Error, asked: &str) -> DeviceError {
        let device = self.address.clone();
        let asked = asked.to_owned();
        match error {
            Error::Timeout { elapsed, .. } => {
                DeviceError::Timeout { device, after: *elapsed, hint: self.hint.to_owned() }
            }
            Error::ConstructionTimeout { elapsed, .. } => {
                DeviceError::Timeout { device, after: *elapsed, hint: "its name could not be looked up".to_owned() }
            }
            Error::Network { source, .. } => DeviceError::Unreachable { device, why: source.to_string() },
            Error::Closed { .. } => DeviceError::Unreachable { device, why: "the socket was closed".to_owned() },
            Error::Auth { .. } => {
                DeviceError::Denied { device, hint: "its answer isn't signed with this auth-password".to_owned() }
            }
            Error::Report { status, .. } => DeviceError::Denied { device, hint: report(status) },
            Error::Snmp { status, .. } => refused(device, asked, *status),
            other => DeviceError::Nonsense { device, asked, why: short(&other.to_string()) },
        }
    }
}

/// Without the library's own log lines: it writes one for every request that fails, and a device that is off fails
/// for days. Errors are logged where they are handled.
async fn quiet<T>(request: impl Future<Output = T>) -> T {
    request.with_subscriber(NoSubscriber::default()).await
}

fn refused(device: String, asked: String, status: ErrorStatus) -> DeviceError {
    match status {
        ErrorStatus::AuthorizationError => {
            DeviceError::Denied { device, hint: "the user or community isn't allowed to do that".to_owned() }
        }
        ErrorStatus::NoAccess | ErrorStatus::NotWritable | ErrorStatus::ReadOnly => DeviceError::Refused {
            device,
            asked,
            why: format!("{status}: the user or community may only read, or the outlet can't be switched"),
        },
        ErrorStatus::NoSuchName => DeviceError::Refused {
            device,
            asked,
            why: "it has no such object, or the community may not see or set it".to_owned(),
        },
        other => DeviceError::Refused { device, asked, why: other.to_string() },
    }
}

fn report(status: &async_snmp::v3::ReportStatus) -> String {
    use async_snmp::v3::ReportStatus as R;
    match status {
        R::UnknownUserName { .. } => "it doesn't know the user".to_owned(),
        R::WrongDigest { .. } => "auth or auth-password is wrong".to_owned(),
        R::DecryptionError { .. } => "privacy or privacy-password is wrong".to_owned(),
        R::UnsupportedSecurityLevel { .. } => {
            "the user isn't set up for that: with or without signature and encryption".to_owned()
        }
        R::NotInTimeWindow { .. } => "its clock and ours don't agree; it may have restarted".to_owned(),
        other => short(&other.to_string()),
    }
}

fn status(error: &Error) -> Option<ErrorStatus> {
    match error {
        Error::SharedOperation { source } => status(source),
        Error::Exchange { source, .. } => status(source),
        Error::Snmp { status, .. } => Some(*status),
        _ => None,
    }
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

fn secret(source: &SecretSource) -> Result<Secret, DeviceError> {
    source.read().map_err(|e| DeviceError::Config(e.to_string()))
}

fn community(version: Version, secret: &Secret) -> async_snmp::Auth {
    let octets = secret.reveal().as_bytes().to_vec();
    match version {
        Version::V1 => async_snmp::Auth::v1(octets),
        Version::V2c | Version::V3 => async_snmp::Auth::v2c(octets),
    }
}

fn usm(config: &SnmpPduConfig) -> Result<async_snmp::Auth, DeviceError> {
    let user = config.user.clone().unwrap_or_default();
    let mut usm = UsmConfig::new(user.into_bytes());
    let auth = match config.auth {
        Auth::Md5 => AuthProtocol::Md5,
        Auth::Sha1 => AuthProtocol::Sha1,
        Auth::Sha224 => AuthProtocol::Sha224,
        Auth::Sha256 => AuthProtocol::Sha256,
        Auth::Sha384 => AuthProtocol::Sha384,
        Auth::Sha512 => AuthProtocol::Sha512,
    };
    let privacy = match config.privacy {
        Privacy::Aes128 => PrivProtocol::Aes128,
        Privacy::Aes192 => PrivProtocol::Aes192Blumenthal,
        Privacy::Aes192Cisco => PrivProtocol::Aes192Reeder,
        Privacy::Aes256 => PrivProtocol::Aes256Blumenthal,
        Privacy::Aes256Cisco => PrivProtocol::Aes256Reeder,
    };
    let password = |source: &Option<SecretSource>| source.as_ref().map(secret).transpose();
    let (signing, hiding) = (password(&config.auth_password)?, password(&config.privacy_password)?);
    let made = match (&signing, &hiding) {
        (Some(sign), Some(hide)) => usm.auth_priv(auth, sign.reveal().as_bytes(), privacy, hide.reveal().as_bytes()),
        (Some(sign), None) => usm.auth(auth, sign.reveal().as_bytes()),
        (None, _) => Ok(usm),
    };
    usm =
        made.map_err(|e| DeviceError::Config(format!("{}: auth-password or privacy-password: {e}", config.address)))?;
    if let Some(context) = &config.context {
        usm = usm.context_name(context.clone().into_bytes());
    }
    Ok(async_snmp::Auth::from(usm))
}

/// A binding as an object, if it has a value.
fn object(binding: &async_snmp::VarBind) -> Option<(Oid, Value)> {
    use async_snmp::Value as V;
    let value = match &binding.value {
        V::Integer(n) => Value::Number(i128::from(*n)),
        V::Counter32(n) | V::Gauge32(n) | V::UInteger32(n) | V::TimeTicks(n) => Value::Number(i128::from(*n)),
        V::Counter64(n) => Value::Number(i128::from(*n)),
        V::OctetString(octets) => Value::Octets(octets.to_vec()),
        V::ObjectIdentifier(id) => Value::Id(Oid::new(id.arcs())),
        _ => return None,
    };
    Some((Oid::new(binding.oid.arcs()), value))
}
