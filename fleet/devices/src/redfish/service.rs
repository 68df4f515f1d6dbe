//! Documents of a Redfish service, with a session that is renewed when it has ended.

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::credentials::Credentials;
use crate::error::DeviceError;
use crate::http::{Answered, Client, basic, usable_json};
use crate::redfish::config::{Login, RedfishConfig};
use crate::redfish::parse;

/// Where a service begins.
pub(crate) const ROOT: &str = "/redfish/v1/";

const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// A document and the device's clock when it was sent, seconds since 1970.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) value: Value,
    pub(crate) date: Option<i64>,
}

/// An open session: its token, which is never printed, and what to delete to end it.
struct Session {
    token: HeaderValue,
    path: Option<String>,
}

/// One service.
pub(crate) struct Service {
    client: Client,
    credentials: Option<Credentials>,
    login: Login,
    session: Option<Session>,
}

impl Service {
    pub(crate) fn new(config: &RedfishConfig) -> Result<Self, DeviceError> {
        let credentials = Credentials::read(config.user.as_deref(), config.password.as_ref())?;
        let client = Client::new(&config.access(), credentials.is_some())?;
        Ok(Self { client, credentials, login: config.login, session: None })
    }

    pub(crate) fn device(&self) -> &str {
        self.client.device()
    }

    /// A document; `None` if the service has none there, or `path` leads off the device.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Option<Document>, DeviceError> {
        let Some(path) = self.client.address().path_of(path) else { return Ok(None) };
        let answer = self.ask(&Method::GET, &path, None).await?;
        if matches!(
            answer.status,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE | StatusCode::NOT_IMPLEMENTED
        ) {
            return Ok(None);
        }
        let value = usable_json(&self.client, &format!("GET {path}"), &answer)?;
        if !value.is_object() {
            return Err(self.client.nonsense(&format!("GET {path}"), "it is no JSON object"));
        }
        Ok(Some(Document { date: answer.date(), value }))
    }

    /// Sends an action. Returns when the service took it.
    pub(crate) async fn post(&mut self, target: &str, body: &Value) -> Result<(), DeviceError> {
        let asked = format!("POST {target} {body}");
        let refused = |device: &str, why| DeviceError::Refused { device: device.to_owned(), asked: asked.clone(), why };
        let Some(path) = self.client.address().path_of(target) else {
            return Err(refused(self.device(), "the target of the action is on another host".to_owned()));
        };
        let answer = self.ask(&Method::POST, &path, Some(body)).await?;
        if answer.status.is_success() {
            return Ok(());
        }
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(self.denied(&asked, answer.status));
        }
        let said = parse::refusal(&answer.body).map_or_else(String::new, |said| format!(": {said}"));
        Err(refused(self.device(), format!("{}{said}", answer.status)))
    }

    /// Ends the session, if there is one.
    pub(crate) async fn close(&mut self) -> Result<(), DeviceError> {
        let Some(Session { token, path: Some(path) }) = self.session.take() else { return Ok(()) };
        let headers = HeaderMap::from_iter([(TOKEN, token)]);
        self.client.send(&Method::DELETE, &path, &headers, None).await.map(drop)
    }

    /// One request as the user. A session that the service has ended is opened once more.
    async fn ask(&mut self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answered, DeviceError> {
        let had_session = self.session.is_some();
        let answer = self.ask_once(method, path, body).await?;
        if answer.status != StatusCode::UNAUTHORIZED || !had_session {
            return Ok(answer);
        }
        self.session = None;
        self.ask_once(method, path, body).await
    }

    async fn ask_once(&mut self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answered, DeviceError> {
        let headers = self.identification().await?;
        if *method == Method::GET {
            self.client.get(path, &headers).await
        } else {
            self.client.send(method, path, &headers, body).await
        }
    }

    async fn identification(&mut self) -> Result<HeaderMap, DeviceError> {
        let Some(credentials) = self.credentials.clone() else { return Ok(HeaderMap::new()) };
        if self.login == Login::Session && self.session.is_none() {
            self.session = self.open(&credentials).await?;
            if self.session.is_none() {
                self.login = Login::Basic;
            }
        }
        Ok(HeaderMap::from_iter([match &self.session {
            Some(session) => (TOKEN, session.token.clone()),
            None => (AUTHORIZATION, basic(&credentials)?),
        }]))
    }

    /// Opens a session; `None` if the service has no sessions.
    async fn open(&mut self, credentials: &Credentials) -> Result<Option<Session>, DeviceError> {
        let root = self.client.get(ROOT, &HeaderMap::new()).await?;
        let root: Value = serde_json::from_slice(&root.body).unwrap_or_default();
        let told = root.get("Links").and_then(|links| parse::link(links, "Sessions"));
        let told = told.and_then(|path| self.client.address().path_of(path));
        let sessions = told.unwrap_or_else(|| format!("{ROOT}SessionService/Sessions"));
        let body = json!({"UserName": credentials.user, "Password": credentials.password.reveal()});
        let answer = self.client.send(&Method::POST, &sessions, &HeaderMap::new(), Some(&body)).await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => return Ok(None),
            // DSP0266 has 401; controllers that check the document first say 400
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(self.denied("to open a session", answer.status));
            }
            _ => {}
        }
        let asked = format!("POST {sessions}");
        if !answer.status.is_success() {
            let why = format!("{}: no session was opened; too many may be open", answer.status);
            return Err(DeviceError::Refused { device: self.device().to_owned(), asked, why });
        }
        let mut token = answer.headers.get(TOKEN).cloned();
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let path = answer.header(&LOCATION).and_then(|to| self.client.address().path_of(to));
        token.map_or_else(
            || Err(self.client.nonsense(&asked, "it opened a session without an X-Auth-Token")),
            |token| Ok(Some(Session { token, path })),
        )
    }

    fn denied(&self, asked: &str, status: StatusCode) -> DeviceError {
        let user = self.credentials.as_ref().map_or("nobody", |c| c.user.as_str());
        DeviceError::Denied {
            device: self.device().to_owned(),
            hint: format!("it answered {status} to {user} ({asked}); check user, password and the user's rights"),
        }
    }
}
