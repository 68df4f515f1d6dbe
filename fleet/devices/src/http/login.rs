//! How a user is known to a device with every request: by digest where the device asks for that (RFC 7616, SHA-256),
//! which never sends the password, else by basic authentication where that is allowed.

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use crate::credentials::Credentials;
use crate::error::DeviceError;
use crate::http::client::{Answered, basic};

/// A user of a device.
pub(crate) struct Login {
    credentials: Option<Credentials>,
    /// Whether the password itself may be sent.
    may_tell: bool,
    challenge: Option<Challenge>,
}

/// What a device wants to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// How often it was answered.
    count: u32,
}

impl Login {
    /// Of this user; nobody without one.
    pub(crate) const fn new(credentials: Option<Credentials>, may_tell: bool) -> Self {
        Self { credentials, may_tell, challenge: None }
    }

    /// The headers of a request.
    pub(crate) fn headers(&mut self, method: &Method, target: &str) -> Result<HeaderMap, DeviceError> {
        let Some(credentials) = &self.credentials else { return Ok(HeaderMap::new()) };
        let value = match &mut self.challenge {
            Some(challenge) => {
                let unusable = |what: &str| DeviceError::Config(what.to_owned());
                let mut random = [0; 16];
                SystemRandom::new().fill(&mut random).map_err(|_| unusable("the system gives no random numbers"))?;
                let answer = challenge.answer(credentials, method, target, &hex(&random));
                let mut value = HeaderValue::from_str(&answer).map_err(|_| unusable("the user can't be sent"))?;
                value.set_sensitive(true);
                value
            }
            None if self.may_tell => basic(credentials)?,
            None => return Ok(HeaderMap::new()),
        };
        Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
    }

    /// Takes a refusal; whether asking again may help now. Not a second time for the same challenge.
    pub(crate) fn learn(&mut self, answer: &Answered) -> bool {
        if self.credentials.is_none() {
            return false;
        }
        let told = answer.headers.get_all(WWW_AUTHENTICATE).into_iter().filter_map(|v| v.to_str().ok());
        let challenge = told.into_iter().find_map(Challenge::parse);
        // A new nonce for an answer with an old one says that the old one is over.
        let is_news = challenge.as_ref().map(|c| &c.nonce) != self.challenge.as_ref().map(|c| &c.nonce);
        self.challenge = challenge;
        self.challenge.is_some() && is_news
    }

    /// What a refusal is about, for people.
    pub(crate) const fn hint(&self) -> &'static str {
        match (&self.credentials, self.may_tell, &self.challenge) {
            (None, ..) => "it wants a user and a password",
            (_, false, None) => "it wants the password in the clear; use https, or set plain-password = true",
            _ => "check user and password",
        }
    }
}

impl Challenge {
    /// `Digest` with SHA-256 and `auth`; others are not answered.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, parameters) = text.split_once(' ')?;
        let of = |name: &str| parameter(parameters, name);
        let is_ours = scheme.eq_ignore_ascii_case("digest")
            && of("algorithm").is_some_and(|a| a.eq_ignore_ascii_case("SHA-256"))
            && of("qop").is_some_and(|q| q.split(',').any(|q| q.trim() == "auth"));
        let challenge = Self { realm: of("realm")?, nonce: of("nonce")?, opaque: of("opaque"), count: 0 };
        is_ours.then_some(challenge)
    }

    /// The header that answers it.
    fn answer(&mut self, credentials: &Credentials, method: &Method, target: &str, cnonce: &str) -> String {
        self.count = self.count.saturating_add(1);
        let Self { realm, nonce, count, .. } = self;
        let user = &credentials.user;
        let secret = hash(&format!("{user}:{realm}:{}", credentials.password.reveal()));
        let asked = hash(&format!("{method}:{target}"));
        let response = hash(&format!("{secret}:{nonce}:{count:08x}:{cnonce}:auth:{asked}"));
        let opaque = self.opaque.as_ref().map_or_else(String::new, |o| format!(", opaque=\"{o}\""));
        format!(
            "Digest username=\"{user}\", realm=\"{realm}\", uri=\"{target}\", algorithm=SHA-256, nonce=\"{nonce}\", \
             nc={count:08x}, cnonce=\"{cnonce}\", qop=auth, response=\"{response}\"{opaque}"
        )
    }
}

/// A parameter of a challenge: `name=value` or `name="value"`. A quote or backslash inside is no challenge of a device.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim().trim_start_matches(',').trim().eq_ignore_ascii_case(name) {
            return (!value.contains('\\')).then(|| value.trim().to_owned());
        }
        rest = next.trim_start().trim_start_matches(',');
    }
    None
}

fn hash(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    const CHALLENGE: &str = "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=SHA-256, \
        nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";

    #[test]
    fn the_answer_is_that_of_the_rfc() {
        let mufasa = Credentials { user: "Mufasa".to_owned(), password: Secret::new("Circle of Life") };
        let mut challenge = Challenge::parse(CHALLENGE).unwrap();
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let answer = challenge.answer(&mufasa, &Method::GET, "/dir/index.html", cnonce);
        let response = "response=\"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1\"";
        assert!(answer.contains(response) && answer.contains("nc=00000001"), "{answer}");
        assert!(challenge.answer(&mufasa, &Method::GET, "/", cnonce).contains("nc=00000002"));
    }

    #[test]
    fn other_challenges_are_not_answered() {
        for other in [
            "Basic realm=\"x\"",
            &CHALLENGE.replace("SHA-256", "MD5"),
            &CHALLENGE.replace("nonce", "once"),
            "",
            "Digest",
        ] {
            assert_eq!(Challenge::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_challenge_panics(text in "(Digest |realm|nonce|=|\"|,|\\\\|algorithm=SHA-256|qop=auth| |[a-z]){0,30}") {
            if let Some(challenge) = Challenge::parse(&text) {
                prop_assert!(!challenge.realm.contains('"') && !challenge.nonce.contains('"'));
            }
        }
    }
}
