//! How a Redfish service is reached, and which of its parts are meant.

use serde::{Deserialize, Serialize};

use crate::http::Access;

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
    /// Where it is, and how it is trusted.
    pub access: Access,
    /// How the user is known to it.
    #[serde(default)]
    pub login: Login,
    /// The `Id` of the one system that is meant, where a service has several.
    #[serde(default)]
    pub system: Option<String>,
    /// The `MemberId` of the right member of `Power.PowerControl`, where several claim to be the system's.
    #[serde(default)]
    pub power_control: Option<String>,
    /// Relative error of its watts in percent, where the sensor doesn't tell its own.
    #[serde(default = "default_error_percent")]
    pub error_percent: u32,
}

/// Power supplies measure their input to within 5 % from a fifth of their load on; few makers promise more.
const fn default_error_percent() -> u32 {
    5
}

impl RedfishConfig {
    /// The service at `url` on the usual terms.
    pub fn new(url: &str) -> Self {
        Self {
            access: Access::new(url),
            login: Login::default(),
            system: None,
            power_control: None,
            error_percent: default_error_percent(),
        }
    }
}
