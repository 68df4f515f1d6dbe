//! How a Redfish service is reached, and which of its parts are meant.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::{Access, Fingerprint};
use crate::period::Period;
use crate::secret::SecretSource;

/// How a user is known to the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// A session with a token, so that the password goes over once; basic where the service has no sessions.
    #[default]
    Session,
    /// The password with every request.
    Basic,
}

/// A management controller or PDU that speaks Redfish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RedfishConfig {
    /// `https://HOST[:PORT]`, or `http://HOST[:PORT]`.
    pub url: String,
    /// The user. Nobody if left out.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<SecretSource>,
    /// How the user is known to it.
    #[serde(default)]
    pub login: Login,
    /// PEM file of the authorities that may have signed its certificate. Those of the system if left out.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of its certificate. Nothing else of the certificate is looked at then.
    #[serde(default)]
    pub fingerprint: Option<Fingerprint>,
    /// Send the password over plain `http://`, where anyone on the way can read it.
    #[serde(default)]
    pub plain_password: bool,
    /// Longest time for one request.
    #[serde(default = "timeout")]
    pub timeout: Period,
    /// The `Id` of the one system that is meant, where a service has several.
    #[serde(default)]
    pub system: Option<String>,
    /// The `MemberId` of the right member of `Power.PowerControl`, where several claim to be the system's.
    #[serde(default)]
    pub power_control: Option<String>,
    /// Relative error of its watts in percent, where the sensor doesn't tell its own.
    #[serde(default = "error_percent")]
    pub error_percent: u32,
}

const fn timeout() -> Period {
    Period::new(Duration::from_secs(10))
}

/// Power supplies measure their input to within 5 % from a fifth of their load on; few makers promise more.
const fn error_percent() -> u32 {
    5
}

impl RedfishConfig {
    /// The service at `url` with everything else left out.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            user: None,
            password: None,
            login: Login::default(),
            ca_file: None,
            fingerprint: None,
            plain_password: false,
            timeout: timeout(),
            system: None,
            power_control: None,
            error_percent: error_percent(),
        }
    }

    pub(super) fn access(&self) -> Access<'_> {
        Access {
            url: &self.url,
            ca_file: self.ca_file.as_deref(),
            fingerprint: self.fingerprint,
            plain_password: self.plain_password,
            timeout: self.timeout.get(),
        }
    }
}
