//! IPMI: management controllers by `ipmitool`, over the network (IPMI 2.0, cipher suites 3 and 17) or in the machine
//! itself (`/dev/ipmi0`).
//!
//! The tool is run for each question rather than its protocol written anew: it carries twenty years of other makers'
//! mistakes in RMCP+, reaches `/dev/ipmi0` without unsafe code of ours, and is packaged everywhere. The price is a
//! process and a session of ten packets for each question, so a controller is asked every few seconds, not more often.
//! `text` says what its output
//! means. The password is in the tool's environment (`-E`), which only the same user can read, never on its command
//! line, which everybody can.

mod text;

use std::path::PathBuf;
use std::time::Duration;

use ebbtide_proto::Ratio;
use ebbtide_runtime::clock;
use serde::{Deserialize, Serialize};

use crate::command::run::Program;
use crate::credentials::Credentials;
use crate::driver::{Answer, Driver, Switch};
use crate::error::DeviceError;
use crate::ipmi::text::Complaint;
use crate::period::Period;
use crate::quantity::{Origin, Step, Unit};
use crate::report::{Feed, Identity, Outlet, OutletId, PowerState, Report};
use crate::secret::SecretSource;

/// The one outlet: the machine.
const SYSTEM: &str = "system";

/// IPMI 2.0 has no longer passwords.
const LONGEST_PASSWORD: usize = 20;

/// The cipher suite of a session; older ones protect nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum CipherSuite {
    /// 3: HMAC-SHA1, AES-CBC-128.
    Sha1,
    /// 17: HMAC-SHA256, AES-CBC-128.
    Sha256,
}

impl TryFrom<u8> for CipherSuite {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            3 => Ok(Self::Sha1),
            17 => Ok(Self::Sha256),
            _ => Err(format!("cipher suite {number} is not used: it has to be 17, or 3 for older controllers")),
        }
    }
}

impl From<CipherSuite> for u8 {
    fn from(suite: CipherSuite) -> Self {
        match suite {
            CipherSuite::Sha1 => 3,
            CipherSuite::Sha256 => 17,
        }
    }
}

/// The right that a session asks for. Switching needs `operator`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// Read only.
    User,
    /// Read and switch.
    #[default]
    Operator,
    /// Everything.
    Administrator,
}

/// A management controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IpmiConfig {
    /// Name or address; without one, the controller of this machine.
    #[serde(default)]
    pub host: Option<String>,
    /// The user. Nobody if left out.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password, of at most 20 characters.
    #[serde(default)]
    pub password: Option<SecretSource>,
    /// UDP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Cipher suite; without one, the best that the controller offers.
    #[serde(default)]
    pub cipher_suite: Option<CipherSuite>,
    /// The right that is asked for.
    #[serde(default)]
    pub privilege: Privilege,
    /// The program.
    #[serde(default = "default_program")]
    pub program: PathBuf,
    /// Longest time for one question.
    #[serde(default = "default_timeout")]
    pub timeout: Period,
    /// Relative error of its watts in percent.
    #[serde(default = "default_error_percent")]
    pub error_percent: u32,
}

const fn default_port() -> u16 {
    623
}

fn default_program() -> PathBuf {
    PathBuf::from("ipmitool")
}

const fn default_timeout() -> Period {
    Period::new(Duration::from_secs(15))
}

/// DCMI 1.5 states no accuracy; makers do between 2 and 10 %.
const fn default_error_percent() -> u32 {
    5
}

impl IpmiConfig {
    /// The controller of `host`, or of this machine, with everything else left out.
    pub fn at(host: Option<&str>) -> Self {
        Self {
            host: host.map(ToOwned::to_owned),
            user: None,
            password: None,
            port: default_port(),
            cipher_suite: None,
            privilege: Privilege::default(),
            program: default_program(),
            timeout: default_timeout(),
            error_percent: default_error_percent(),
        }
    }
}

/// One management controller.
pub struct Ipmi {
    device: String,
    config: IpmiConfig,
    /// `ipmitool` with the arguments that lead to the controller.
    tool: Program,
    /// It has said that it knows no DCMI: it isn't asked again.
    no_dcmi: bool,
}

impl Ipmi {
    /// A driver for the controller that is configured. Runs nothing.
    ///
    /// # Errors
    /// [`DeviceError::Config`] if the host or the password can't be used.
    pub fn new(config: IpmiConfig) -> Result<Self, DeviceError> {
        let credentials = Credentials::read(config.user.as_deref(), config.password.as_ref())?;
        let wrong = |what: &str| Err(DeviceError::Config(what.to_owned()));
        if config.host.as_ref().is_some_and(|h| h.is_empty() || h.starts_with('-')) {
            return wrong("the host of an IPMI device has to be a name or an address");
        }
        if credentials.as_ref().is_some_and(|c| c.user.starts_with('-') || c.user.len() > 16) {
            return wrong("the user of an IPMI device has at most 16 characters and begins with none of -");
        }
        if credentials
            .as_ref()
            .map(|c| c.password.reveal())
            .is_some_and(|p| p.len() > LONGEST_PASSWORD || p.contains('\0'))
        {
            return wrong("the password of an IPMI device has at most 20 characters");
        }
        let device = config.host.as_ref().map_or_else(|| "/dev/ipmi0".to_owned(), |h| format!("{h}:{}", config.port));
        let reach = reach(&config, credentials.as_ref());
        let secrets = credentials.map(|c| ("IPMI_PASSWORD".to_owned(), c.password)).into_iter().collect();
        let tool = Program::new(config.program.clone(), reach, Vec::new(), secrets, config.timeout.get());
        Ok(Self { device, config, tool, no_dcmi: false })
    }

    /// Asks one question; the output, or what was wrong.
    async fn ask(&self, question: &[&str]) -> Result<String, (Option<Complaint>, DeviceError)> {
        let (device, asked) = (self.device.clone(), question.join(" "));
        let ran = match self.tool.finish(question).await {
            Ok(ran) => ran,
            Err(DeviceError::Timeout { after, .. }) => {
                let hint = format!("{asked} was given up; the controller may hang, or a firewall drop UDP");
                return Err((Some(Complaint::Silent), DeviceError::Timeout { device, after, hint }));
            }
            Err(DeviceError::Nonsense { why, .. }) => return Err((None, DeviceError::Nonsense { device, asked, why })),
            Err(error) => {
                let why = format!("{error}; install it (package ipmitool), or set program");
                return Err((None, DeviceError::Config(why)));
            }
        };
        if ran.status.success() {
            return Ok(String::from_utf8_lossy(&ran.output).into_owned());
        }
        let reason = String::from_utf8_lossy(&ran.reason);
        let (complaint, why) = (text::complaint(&reason), text::gist(&reason));
        let error = match complaint {
            Complaint::Denied => {
                DeviceError::Denied { device, hint: format!("{why}; check user, password, privilege and cipher-suite") }
            }
            Complaint::Silent if self.config.host.is_none() => DeviceError::Unreachable {
                device,
                why: format!("{why}; load the modules ipmi_si and ipmi_devintf, and allow this user the device"),
            },
            Complaint::Silent => DeviceError::Unreachable {
                device,
                why: format!("{why}; check address, IPMI over LAN, cipher-suite, user and password"),
            },
            Complaint::Unsupported => DeviceError::Unable { device, what: format!("answer {asked}: {why}") },
            Complaint::Refused => DeviceError::Refused { device, asked, why },
        };
        Err((Some(complaint), error))
    }

    async fn power_state(&self) -> Result<PowerState, DeviceError> {
        let output = self.ask(&["chassis", "status"]).await.map_err(|(_, error)| error)?;
        Ok(text::power_state(&output))
    }

    async fn read_all(&mut self) -> Result<Report, DeviceError> {
        let state = self.power_state().await?;
        let mut report = Report::default();
        if !self.no_dcmi {
            match self.ask(&["dcmi", "power", "reading"]).await {
                Ok(output) => {
                    let origin = Origin {
                        at: clock::now(),
                        accuracy: Ratio::from_percent(self.config.error_percent),
                        step: Step::Known(1.0),
                        source: "DCMI Get Power Reading",
                    };
                    let watts = text::dcmi_watts(&output);
                    if !watts.is_some_and(|watts| Unit::Watt.put(&mut report.total, watts, &origin)) {
                        report.missing.push("DCMI tells no power: it is not activated, or 0 W".to_owned());
                    }
                }
                Err((Some(Complaint::Unsupported), _)) => self.no_dcmi = true,
                // The user was let in a moment ago, so what is denied is this question.
                Err((Some(Complaint::Refused | Complaint::Denied), error)) => report.missing.push(error.to_string()),
                Err((_, error)) => return Err(error),
            }
        }
        if self.no_dcmi {
            report.missing.push("the controller knows no DCMI power reading".to_owned());
        }
        let feed: Feed = report.total.clone();
        report.outlets.push(Outlet { id: OutletId::new(SYSTEM), name: None, feed, state, switchable: true });
        Ok(report)
    }

    async fn tell(&self, outlet: &OutletId, to: Switch) -> Result<(), DeviceError> {
        self.check(outlet)?;
        let word = match to {
            Switch::On => "on",
            Switch::Off => "off",
            Switch::SoftOff => "soft",
            Switch::Cycle => "cycle",
        };
        match self.ask(&["chassis", "power", word]).await {
            Ok(_) => Ok(()),
            // Some refuse to turn off what is off: what was wanted is so, then.
            Err((Some(Complaint::Refused), error)) => match (self.power_state().await?, to) {
                (PowerState::On, Switch::On) | (PowerState::Off, Switch::Off | Switch::SoftOff) => Ok(()),
                _ => Err(error),
            },
            Err((_, error)) => Err(error),
        }
    }

    fn check(&self, outlet: &OutletId) -> Result<(), DeviceError> {
        if outlet.as_str() == SYSTEM {
            return Ok(());
        }
        let (device, outlet) = (self.device.clone(), outlet.to_string());
        Err(DeviceError::NoOutlet { device, outlet, known: SYSTEM.to_owned() })
    }
}

/// The arguments that lead to the controller. `-v` makes the tool tell why a session failed.
fn reach(config: &IpmiConfig, credentials: Option<&Credentials>) -> Vec<String> {
    let Some(host) = &config.host else { return vec!["-I".to_owned(), "open".to_owned()] };
    let privilege = match config.privilege {
        Privilege::User => "USER",
        Privilege::Operator => "OPERATOR",
        Privilege::Administrator => "ADMINISTRATOR",
    };
    let mut words = vec!["-v", "-I", "lanplus", "-H", host, "-L", privilege, "-N", "1", "-R", "3"];
    let (port, suite);
    port = config.port.to_string();
    words.extend(["-p", &port]);
    if let Some(chosen) = config.cipher_suite {
        suite = u8::from(chosen).to_string();
        words.extend(["-C", &suite]);
    }
    if let Some(credentials) = credentials {
        words.extend(["-U", &credentials.user, "-E"]);
    }
    words.into_iter().map(ToOwned::to_owned).collect()
}

impl Driver for Ipmi {
    fn identify(&mut self) -> Answer<'_, Identity> {
        Box::pin(async {
            let controller = self.ask(&["mc", "info"]).await.map_err(|(_, error)| error)?;
            // Many controllers keep no FRU; what they lack is absent.
            let fru = self.ask(&["fru", "print", "0"]).await.unwrap_or_default();
            Ok(text::identity(&controller, &fru))
        })
    }

    fn read(&mut self) -> Answer<'_, Report> {
        Box::pin(self.read_all())
    }

    fn state<'a>(&'a mut self, outlet: &'a OutletId) -> Answer<'a, PowerState> {
        Box::pin(async move {
            self.check(outlet)?;
            self.power_state().await
        })
    }

    fn switch<'a>(&'a mut self, outlet: &'a OutletId, to: Switch) -> Answer<'a, ()> {
        Box::pin(self.tell(outlet, to))
    }
}
