//! What the configuration says about an SNMP PDU.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::PduModel;
use crate::period::Period;
use crate::secret::SecretSource;

/// A PDU that speaks SNMP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SnmpPduConfig {
    /// Its address: a name or IP address, with a port if that isn't 161.
    pub address: String,
    /// SNMP's version.
    #[serde(default)]
    pub version: Version,
    /// Community for reading, of versions 1 and 2c. `public` if left out.
    #[serde(default)]
    pub community: Option<SecretSource>,
    /// Community for switching. That for reading if left out.
    #[serde(default)]
    pub write_community: Option<SecretSource>,
    /// User, of version 3.
    #[serde(default)]
    pub user: Option<String>,
    /// How messages are signed, of version 3.
    #[serde(default)]
    pub auth: Auth,
    /// Password for that. Messages are not signed without one.
    #[serde(default)]
    pub auth_password: Option<SecretSource>,
    /// How messages are encrypted, of version 3.
    #[serde(default)]
    pub privacy: Privacy,
    /// Password for that. Messages are not encrypted without one.
    #[serde(default)]
    pub privacy_password: Option<SecretSource>,
    /// Context, of version 3.
    #[serde(default)]
    pub context: Option<String>,
    /// The PDU model. Recognised by its sysObjectID if left out.
    #[serde(default)]
    pub model: Option<String>,
    /// How long one request waits for its answer before it is sent again.
    #[serde(default = "timeout")]
    pub timeout: Period,
    /// How often a request is sent again.
    #[serde(default = "retries")]
    pub retries: u32,
    /// The least time between two requests: many PDUs are slow computers.
    #[serde(default = "gap")]
    pub gap: Period,
    /// How long reading the whole device may take.
    #[serde(default = "deadline")]
    pub deadline: Period,
    /// Models that the operator added. Filled in from the file's `[[pdu-model]]` tables.
    #[serde(skip)]
    pub models: Arc<[PduModel]>,
}

/// SNMP's version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// SNMPv1: no bulk reads, no 64-bit counters.
    #[serde(rename = "1")]
    V1,
    /// SNMPv2c.
    #[default]
    #[serde(rename = "2c")]
    V2c,
    /// SNMPv3: signed and encrypted.
    #[serde(rename = "3")]
    V3,
}

/// How messages of version 3 are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names of the functions")]
pub enum Auth {
    Md5,
    Sha1,
    Sha224,
    #[default]
    Sha256,
    Sha384,
    Sha512,
}

/// How messages of version 3 are encrypted. DES is not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privacy {
    /// AES with 128 bits (RFC 3826).
    #[default]
    Aes128,
    /// AES with 192 bits, keys as in draft-blumenthal-aes-usm-04.
    Aes192,
    /// AES with 192 bits, keys as Cisco and others make them (draft-reeder-snmpv3-usm-3desede-00).
    Aes192Cisco,
    /// AES with 256 bits, keys as in draft-blumenthal-aes-usm-04.
    Aes256,
    /// AES with 256 bits, keys as Cisco and others make them.
    Aes256Cisco,
}

impl SnmpPduConfig {
    /// A device at `address` with everything else left out.
    pub fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            version: Version::default(),
            community: None,
            write_community: None,
            user: None,
            auth: Auth::default(),
            auth_password: None,
            privacy: Privacy::default(),
            privacy_password: None,
            context: None,
            model: None,
            timeout: timeout(),
            retries: retries(),
            gap: gap(),
            deadline: deadline(),
            models: Arc::default(),
        }
    }

    /// Looks for what serde can't see.
    ///
    /// # Errors
    /// Says which key is wrong and why.
    pub fn check(&self) -> Result<(), String> {
        if self.address.trim().is_empty() {
            return Err("address is empty".to_owned());
        }
        match self.version {
            Version::V3 => {
                if self.user.as_deref().unwrap_or_default().is_empty() {
                    return Err("version = \"3\" needs a user".to_owned());
                }
                if self.community.is_some() || self.write_community.is_some() {
                    return Err("version = \"3\" has a user instead of a community".to_owned());
                }
                if self.privacy_password.is_some() && self.auth_password.is_none() {
                    return Err(
                        "privacy-password needs an auth-password: SNMP doesn't encrypt what isn't signed".to_owned()
                    );
                }
            }
            Version::V1 | Version::V2c => {
                let v3 = [
                    ("user", self.user.is_some()),
                    ("auth-password", self.auth_password.is_some()),
                    ("privacy-password", self.privacy_password.is_some()),
                    ("context", self.context.is_some()),
                ];
                if let Some((key, _)) = v3.iter().find(|(_, given)| *given) {
                    return Err(format!("{key} needs version = \"3\""));
                }
            }
        }
        if self.retries > 10 {
            return Err("retries is more than 10".to_owned());
        }
        Ok(())
    }
}

fn timeout() -> Period {
    Period::new(Duration::from_secs(2))
}

fn retries() -> u32 {
    2
}

fn gap() -> Period {
    Period::new(Duration::from_millis(10))
}

fn deadline() -> Period {
    Period::new(Duration::from_secs(20))
}
