//! Plugs and meters behind an MQTT broker: Tasmota, Shelly of both generations, and anything that tells numbers.
//!
//! `packet` is the protocol, as far as a listener needs it; `broker` keeps the connection; `device` knows topics
//! and commands; `memory` what messages mean. What was heard is kept with its time: what is stale, retained by the broker (so of unknown age), or from a
//! device whose last will was published is absent.

mod broker;
mod device;
mod memory;
mod packet;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_runtime::clock::{self, Moment};
use ebbtide_runtime::tasks::Tasks;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

pub use device::{Command, Generic, Gone, MqttDevice, State as GenericState};

use crate::credentials::Credentials;
use crate::driver::{Answer, Driver, Switch};
use crate::error::DeviceError;
use crate::http::{Fingerprint, Judge};
use crate::mqtt::broker::{Broker, Shared, State};
use crate::period::Period;
use crate::report::{Identity, OutletId, PowerState, Report};
use crate::secret::SecretSource;

/// How many messages may wait to be sent.
const OUTBOX: usize = 16;

/// How long a device that can be asked may take to answer before what was heard last is reported.
const ANSWER: Duration = Duration::from_millis(1500);

/// A device behind a broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MqttConfig {
    /// Name or address of the broker.
    pub host: String,
    /// TCP port; without one, 8883 with TLS and 1883 without.
    #[serde(default)]
    pub port: Option<u16>,
    /// The user. Nobody if left out.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<SecretSource>,
    /// Whether to speak TLS.
    #[serde(default)]
    pub tls: bool,
    /// PEM file of the authorities that may have signed the broker's certificate, instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the broker's certificate. Nothing else of the certificate is looked at then.
    #[serde(default)]
    pub fingerprint: Option<Fingerprint>,
    /// Send the password without TLS, where anyone on the way can read it.
    #[serde(default)]
    pub plain_password: bool,
    /// The device.
    pub device: MqttDevice,
    /// What was heard longer ago is absent. Tasmota tells every 5 minutes by itself.
    #[serde(default = "default_heard_within")]
    pub heard_within: Period,
    /// Longest time for connecting, or for a command to be answered.
    #[serde(default = "default_timeout")]
    pub timeout: Period,
}

const fn default_heard_within() -> Period {
    Period::new(Duration::from_secs(660))
}

const fn default_timeout() -> Period {
    Period::new(Duration::from_secs(5))
}

impl MqttConfig {
    /// A device behind the broker at `host` with everything else left out.
    pub fn at(host: &str, device: MqttDevice) -> Self {
        Self {
            host: host.to_owned(),
            port: None,
            user: None,
            password: None,
            tls: false,
            ca_file: None,
            fingerprint: None,
            plain_password: false,
            device,
            heard_within: default_heard_within(),
            timeout: default_timeout(),
        }
    }
}

/// The task that listens, and how to have it send.
struct Listener {
    name: String,
    tasks: Tasks,
    shared: Arc<Shared>,
    outbox: mpsc::Sender<device::Send>,
}

/// One device behind a broker.
pub struct Mqtt {
    name: String,
    own: String,
    config: MqttConfig,
    credentials: Option<Credentials>,
    judge: Option<Arc<Judge>>,
    listener: Option<Listener>,
    /// The number of the last request.
    number: u64,
}

impl Mqtt {
    /// A driver for the device that is configured. Connects when it is first used, and stays connected.
    ///
    /// # Errors
    /// [`DeviceError::Config`] if the trust, a topic, or the way of the password can't be used.
    pub fn new(config: MqttConfig) -> Result<Self, DeviceError> {
        let credentials = Credentials::read(config.user.as_deref(), config.password.as_ref())?;
        let port = config.port.unwrap_or(if config.tls { 8883 } else { 1883 });
        let name = format!("{}:{port}", config.host);
        if let Some(problem) = config.device.problem() {
            return Err(DeviceError::Config(problem));
        }
        if credentials.is_some() && !config.tls && !config.plain_password {
            return Err(DeviceError::Config(format!(
                "the password for {name} would be sent in the clear; set tls = true, or plain-password = true"
            )));
        }
        let judge = if config.tls { Some(Judge::new(config.fingerprint, config.ca_file.as_deref())?) } else { None };
        let mut random = [0; 6];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .map_err(|_| DeviceError::Config("the system gives no random numbers".to_owned()))?;
        // Brokers throw out the older of two clients with the same name.
        let own = random.iter().fold("ebbtide-".to_owned(), |own, byte| format!("{own}{byte:02x}"));
        Ok(Self { name, own, config, credentials, judge, listener: None, number: 0 })
    }

    const fn timeout(&self) -> Duration {
        self.config.timeout.get()
    }

    /// The listener, connected.
    async fn listener(&mut self) -> Result<&Listener, DeviceError> {
        if self.listener.is_none() {
            self.listener = Some(self.listen()?);
        }
        let limit = self.timeout();
        let Some(listener) = &self.listener else { return Err(self.cannot("listen")) };
        let settled = |state: &State| (state.connected || state.problem.is_some()).then_some(());
        listener.until(limit, settled).await;
        let state = listener.shared.state();
        match &state.problem {
            _ if state.connected => {}
            Some(problem) => return Err(problem.clone().error(&self.name)),
            None => {
                return Err(DeviceError::Timeout {
                    device: self.name.clone(),
                    after: limit,
                    hint: "the broker took no connection; check address, port and firewall".to_owned(),
                });
            }
        }
        drop(state);
        Ok(listener)
    }

    fn listen(&self) -> Result<Listener, DeviceError> {
        let tls = match &self.judge {
            None => None,
            Some(judge) => {
                let name = ServerName::try_from(self.config.host.clone())
                    .map_err(|_| DeviceError::Config(format!("{:?} is no host name or address", self.config.host)))?;
                Some((TlsConnector::from(Arc::new(judge.client_config()?)), name, judge.clone()))
            }
        };
        let port = self.config.port.unwrap_or(if self.config.tls { 8883 } else { 1883 });
        let broker = Broker {
            host: self.config.host.clone(),
            port,
            tls,
            credentials: self.credentials.clone(),
            own: self.own.clone(),
            device: self.config.device.clone(),
            timeout: self.timeout(),
        };
        let shared = Arc::new(Shared::new(&self.config.device));
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let mut tasks = Tasks::new();
        let (stop, listening) = (tasks.shutdown(), shared.clone());
        tasks.spawn(format!("mqtt {}", self.name), async move {
            broker::keep(broker, listening, inbox, stop).await;
            Ok(())
        });
        Ok(Listener { name: self.name.clone(), tasks, shared, outbox })
    }

    async fn read_all(&mut self) -> Result<Report, DeviceError> {
        let asked = clock::now();
        self.number += 1;
        let questions = self.config.device.ask(&self.own, self.number);
        let (limit, stale) = (self.timeout(), self.config.heard_within.get());
        let device = self.config.device.clone();
        let listener = self.listener().await?;
        if questions.is_empty() {
            // It speaks when it likes; the first time is worth waiting for.
            listener.until(limit, |s| (!s.memory.is_empty() || s.memory.is_gone()).then_some(())).await;
        } else {
            for question in questions {
                listener.send(question)?;
            }
            listener.until(ANSWER, |s| (s.memory.is_complete_since(asked) || s.memory.is_gone()).then_some(())).await;
        }
        let report = listener.shared.state().memory.report(&device, clock::now(), stale);
        Ok(report)
    }

    async fn tell(&mut self, outlet: &OutletId, to: Switch) -> Result<(), DeviceError> {
        let index = self.index(outlet)?;
        self.number += 1;
        let number = self.number;
        let Some(command) = self.config.device.tell(index, to, &self.own, number) else {
            return Err(self.cannot(&format!("do {} with {outlet}", to.as_str())));
        };
        let (name, limit, generic) =
            (self.name.clone(), self.timeout(), matches!(self.config.device, MqttDevice::Generic(_)));
        let asked = format!("{} {outlet}", to.as_str());
        let listener = self.listener().await?;
        if listener.shared.state().memory.is_gone() {
            return Err(DeviceError::Unreachable {
                device: name,
                why: "it is off the network, says the broker".to_owned(),
            });
        }
        let sent = clock::now();
        listener.send(command)?;
        if generic {
            // Nothing is known of its answers; that it was done is seen by its state.
            return Ok(());
        }
        let answer = |s: &State| s.memory.answer_to(number).or_else(|| s.memory.state_since(index, sent).map(|_| None));
        match listener.until(limit, answer).await {
            Some(None) => Ok(()),
            Some(Some(why)) => Err(DeviceError::Refused { device: name, asked, why }),
            None => {
                let hint = format!("{asked} was not answered; it may be off the network, or its topic another");
                Err(DeviceError::Timeout { device: name, after: limit, hint })
            }
        }
    }

    async fn state_of(&mut self, outlet: &OutletId) -> Result<PowerState, DeviceError> {
        let index = self.index(outlet)?;
        let asked = clock::now();
        let is_generic = matches!(self.config.device, MqttDevice::Generic(_));
        self.number += 1;
        let questions = self.config.device.ask(&self.own, self.number);
        let stale = self.config.heard_within.get();
        let device = self.config.device.clone();
        let listener = self.listener().await?;
        for question in questions {
            listener.send(question)?;
        }
        if !is_generic {
            let told = |s: &State| s.memory.state_since(index, asked);
            return Ok(listener.until(ANSWER, told).await.unwrap_or_default());
        }
        listener.until(ANSWER, |s| s.memory.state_since(index, Moment::default())).await;
        let report = listener.shared.state().memory.report(&device, clock::now(), stale);
        Ok(report.outlets.get(index).map(|o| o.state).unwrap_or_default())
    }

    fn index(&self, outlet: &OutletId) -> Result<usize, DeviceError> {
        self.config.device.index(outlet).ok_or_else(|| DeviceError::NoOutlet {
            device: self.name.clone(),
            outlet: outlet.to_string(),
            known: self.config.device.known(),
        })
    }

    fn cannot(&self, what: &str) -> DeviceError {
        DeviceError::Unable { device: self.name.clone(), what: what.to_owned() }
    }
}

impl Listener {
    /// Waits until `found` finds something, at most `limit`.
    async fn until<T>(&self, limit: Duration, found: impl Fn(&State) -> Option<T>) -> Option<T> {
        let mut news = self.shared.news();
        let wait = async {
            loop {
                if let Some(found) = found(&self.shared.state()) {
                    return Some(found);
                }
                news.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, wait).await.ok().flatten()
    }

    fn send(&self, message: device::Send) -> Result<(), DeviceError> {
        let (device, why) = (self.name.clone(), "the broker takes no messages".to_owned());
        self.outbox.try_send(message).map_err(|_| DeviceError::Unreachable { device, why })
    }
}

impl Driver for Mqtt {
    /// Devices say what they are in ways too many; what is known is the configuration.
    fn identify(&mut self) -> Answer<'_, Identity> {
        let (vendor, name) = match &self.config.device {
            MqttDevice::Tasmota { topic, .. } => (Some("Tasmota"), Some(topic)),
            MqttDevice::Shelly1 { id, .. } => (Some("Shelly"), Some(id)),
            MqttDevice::Shelly2 { prefix, .. } => (Some("Shelly"), Some(prefix)),
            MqttDevice::Generic(_) => (None, None),
        };
        let vendor = vendor.map(ToOwned::to_owned);
        let identity = Identity { vendor, name: name.cloned(), ..Identity::default() };
        Box::pin(std::future::ready(Ok(identity)))
    }

    fn read(&mut self) -> Answer<'_, Report> {
        Box::pin(self.read_all())
    }

    fn state<'a>(&'a mut self, outlet: &'a OutletId) -> Answer<'a, PowerState> {
        Box::pin(self.state_of(outlet))
    }

    fn switch<'a>(&'a mut self, outlet: &'a OutletId, to: Switch) -> Answer<'a, ()> {
        Box::pin(self.tell(outlet, to))
    }

    fn close(&mut self) -> Answer<'_, ()> {
        let listener = self.listener.take();
        Box::pin(async move {
            if let Some(listener) = listener {
                listener.tasks.finish(Duration::from_secs(1)).await;
            }
            Ok(())
        })
    }
}
