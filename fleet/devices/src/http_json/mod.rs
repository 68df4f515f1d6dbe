//! Plugs, PDUs and meters that tell JSON over HTTP: Netio, Shelly, Tasmota, and anything whose numbers a JSON pointer
//! finds. `dialect` says what they are asked and what they answer; here they are asked.

mod dialect;

use std::path::PathBuf;
use std::time::Duration;

use ebbtide_runtime::clock;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use dialect::{Ask, Dialect, Generic};

use crate::credentials::Credentials;
use crate::driver::{Answer, Driver, Switch};
use crate::error::DeviceError;
use crate::http::{Access, Answered, Client, Fingerprint, Login, usable_json};
use crate::period::Period;
use crate::report::{Identity, OutletId, PowerState, Report};
use crate::secret::SecretSource;

/// A device that tells JSON over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HttpJsonConfig {
    /// `http://HOST[:PORT]`, or `https://HOST[:PORT]`.
    pub url: String,
    /// What kind of device it is.
    pub device: Dialect,
    /// The user, by digest where the device asks for that, else by basic authentication. Nobody if left out.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<SecretSource>,
    /// PEM file of the authorities that may have signed its certificate. Those of the system if left out.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of its certificate. Nothing else of the certificate is looked at then.
    #[serde(default)]
    pub fingerprint: Option<Fingerprint>,
    /// Send the password over plain `http://`, where anyone on the way can read it. Digest doesn't need that.
    #[serde(default)]
    pub plain_password: bool,
    /// Longest time for one request.
    #[serde(default = "timeout")]
    pub timeout: Period,
}

const fn timeout() -> Period {
    Period::new(Duration::from_secs(5))
}

impl HttpJsonConfig {
    /// A device at `url` with everything else left out.
    pub fn at(url: &str, device: Dialect) -> Self {
        Self {
            url: url.to_owned(),
            device,
            user: None,
            password: None,
            ca_file: None,
            fingerprint: None,
            plain_password: false,
            timeout: timeout(),
        }
    }
}

/// One device that tells JSON over HTTP.
pub struct HttpJson {
    client: Client,
    dialect: Dialect,
    login: Login,
}

impl HttpJson {
    /// A driver for the device that is configured. Opens no connection.
    ///
    /// # Errors
    /// [`DeviceError::Config`] if the URL, a path, the trust, the password or its way can't be used.
    pub fn new(config: HttpJsonConfig) -> Result<Self, DeviceError> {
        let credentials = Credentials::read(config.user.as_deref(), config.password.as_ref())?;
        let access = Access {
            url: &config.url,
            ca_file: config.ca_file.as_deref(),
            fingerprint: config.fingerprint,
            plain_password: config.plain_password,
            timeout: config.timeout.get(),
        };
        let client = Client::new(&access, false)?;
        if let Dialect::Generic(generic) = &config.device {
            let paths =
                [Some(&generic.path), generic.on.as_ref().map(|a| &a.path), generic.off.as_ref().map(|a| &a.path)];
            if let Some(path) = paths.into_iter().flatten().find(|p| client.address().path_of(p).is_none()) {
                return Err(DeviceError::Config(format!("{path:?} should be a path on the device, such as /status")));
            }
        }
        let login = Login::new(credentials, client.address().tls || config.plain_password);
        Ok(Self { client, dialect: config.device, login })
    }

    /// One request as the user; once more if the device has told how it wants to know them.
    async fn ask(&mut self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answered, DeviceError> {
        for is_first in [true, false] {
            let headers = self.login.headers(method, path)?;
            let answer = if *method == Method::GET {
                self.client.get(path, &headers).await?
            } else {
                self.client.send(method, path, &headers, body).await?
            };
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            if !self.login.learn(&answer) || !is_first {
                break;
            }
        }
        let hint = format!("{} ({method} {path})", self.login.hint());
        Err(DeviceError::Denied { device: self.client.device().to_owned(), hint })
    }

    async fn documents(&mut self) -> Result<Vec<Value>, DeviceError> {
        let mut documents = Vec::new();
        for path in self.dialect.documents() {
            let answer = self.ask(&Method::GET, &path, None).await?;
            let document = usable_json(&self.client, &format!("GET {path}"), &answer)?;
            if let Some(why) = self.dialect.refusal(&document) {
                let device = self.client.device().to_owned();
                return Err(DeviceError::Denied { device, hint: format!("{why} (GET {path})") });
            }
            documents.push(document);
        }
        Ok(documents)
    }

    async fn read_all(&mut self) -> Result<Report, DeviceError> {
        let documents = self.documents().await?;
        Ok(self.dialect.report(&documents, clock::now()))
    }

    async fn tell(&mut self, outlet: &OutletId, to: Switch) -> Result<(), DeviceError> {
        let number = self.number(outlet)?;
        let Some(ask) = self.dialect.tell(number, to) else {
            let what = format!("do {} with {outlet}", to.as_str());
            return Err(DeviceError::Unable { device: self.client.device().to_owned(), what });
        };
        let method = if ask.body.is_some() { Method::POST } else { Method::GET };
        let answer = self.ask(&method, &ask.path, ask.body.as_ref()).await?;
        let asked = format!("{method} {}", ask.path);
        if matches!(self.dialect, Dialect::Generic(_)) && answer.status.is_success() {
            // Nothing is known of its answers; that it was done is seen by its state.
            return Ok(());
        }
        let answer = usable_json(&self.client, &asked, &answer)?;
        let device = || self.client.device().to_owned();
        self.dialect.refusal(&answer).map_or(Ok(()), |why| Err(DeviceError::Refused { device: device(), asked, why }))
    }

    async fn state_of(&mut self, outlet: &OutletId) -> Result<PowerState, DeviceError> {
        self.number(outlet)?;
        let report = self.read_all().await?;
        let found = report.outlets.iter().find(|o| o.id == *outlet);
        found.map(|o| o.state).ok_or_else(|| self.no_outlet(outlet))
    }

    fn number(&self, outlet: &OutletId) -> Result<usize, DeviceError> {
        self.dialect.number(outlet).ok_or_else(|| self.no_outlet(outlet))
    }

    fn no_outlet(&self, outlet: &OutletId) -> DeviceError {
        let (device, known) = (self.client.device().to_owned(), self.dialect.known());
        DeviceError::NoOutlet { device, outlet: outlet.to_string(), known }
    }
}

impl Driver for HttpJson {
    fn identify(&mut self) -> Answer<'_, Identity> {
        Box::pin(async {
            let documents = self.documents().await?;
            Ok(self.dialect.identity(&documents))
        })
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
}
