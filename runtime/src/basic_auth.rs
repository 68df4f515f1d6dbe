//! User names and passwords of the web config: HTTP basic authentication (RFC 7617) against bcrypt hashes.
//!
//! bcrypt is slow on purpose, so it never runs on the runtime's own thread, at most twice at once, and not again
//! for a name and password that were right before. An unknown name costs as much as a wrong password.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use bcrypt::HashParts;
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, OkmBlock};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::tasks;

/// The dearest bcrypt cost that is taken: each step doubles the time, 14 is about a second.
pub const MAX_COST: u32 = 14;

/// Hashes that are computed at the same time.
const AT_ONCE: usize = 2;

/// Names with passwords that are remembered as right.
const REMEMBERED: usize = 64;

/// What can be wrong with a user. No message shows what stood in place of the hash: it may be a password.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UserError {
    /// Not a bcrypt hash.
    #[error("the value of {user:?} isn't a bcrypt hash; make one with: htpasswd -nBC 10 \"\" | tr -d ':\\n'")]
    NotBcrypt {
        /// The user's name.
        user: String,
    },
    /// A cost outside of 4 to [`MAX_COST`].
    #[error(
        "the hash of {user:?} has cost {cost}; it must be 4 to {MAX_COST}, as each step doubles the time of a login: make it anew with cost 10"
    )]
    Cost {
        /// The user's name.
        user: String,
        /// The cost in its hash.
        cost: u32,
    },
    /// A name that can't be sent: basic authentication separates name and password by a colon.
    #[error("the user name {user:?} is empty or has a colon in it, so no client can send it; choose another name")]
    Name {
        /// The user's name.
        user: String,
    },
    /// No randomness from the system.
    #[error("the system gives no random numbers")]
    Random,
}

/// The users that may read the pages.
pub struct BasicAuth {
    users: HashMap<String, String>,
    /// A hash to spend the time on when the name is unknown: the dearest one.
    decoy: String,
    hmac: &'static dyn Hkdf,
    key: OkmBlock,
    /// Keyed hashes of what was right, oldest first.
    verified: Mutex<VecDeque<Tag>>,
    at_once: Arc<Semaphore>,
}

impl fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicAuth").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl BasicAuth {
    /// Takes names with their bcrypt hashes. `Ok(None)` if there are none: then everybody may read.
    pub fn new(users: HashMap<String, String>) -> Result<Option<Self>, UserError> {
        let mut dearest: Option<(u32, &String)> = None;
        for (user, hash) in &users {
            let user = user.clone();
            if user.is_empty() || user.contains(':') {
                return Err(UserError::Name { user });
            }
            let Ok(parts) = HashParts::from_str(hash) else { return Err(UserError::NotBcrypt { user }) };
            let cost = parts.get_cost();
            if !(4..=MAX_COST).contains(&cost) {
                return Err(UserError::Cost { user, cost });
            }
            if dearest.is_none_or(|(most, _)| cost > most) {
                dearest = Some((cost, hash));
            }
        }
        let Some((_, decoy)) = dearest else { return Ok(None) };
        // The TLS library's HMAC-SHA-256 and random numbers: no second crypto library for one keyed hash.
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let hmac = suite.tls13().ok_or(UserError::Random)?.hkdf_provider;
        let mut key = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut key).map_err(|_| UserError::Random)?;
        Ok(Some(Self {
            decoy: decoy.clone(),
            users,
            hmac,
            key: OkmBlock::new(&key),
            verified: Mutex::default(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
        }))
    }

    /// Whether the value of an `Authorization` header names a user with the right password.
    pub async fn allows(&self, authorization: Option<&[u8]>) -> bool {
        let Some((user, password)) = authorization.and_then(credentials) else { return false };
        let tag = self.tag(&user, &password);
        if self.is_verified(&tag) {
            return true;
        }
        let known = std::str::from_utf8(&user).ok().and_then(|user| self.users.get(user));
        let hash = known.unwrap_or(&self.decoy).clone();
        let Ok(permit) = Arc::clone(&self.at_once).acquire_owned().await else { return false };
        let matches = tasks::blocking("password check", move || {
            let matches = bcrypt::verify(password, &hash).unwrap_or(false);
            // Held to here also when the client has gone: else leaving early would get around the bound.
            drop(permit);
            matches
        });
        let right = matches.await == Some(true) && known.is_some();
        if right {
            self.remember(tag);
        }
        right
    }

    /// A keyed hash of name and password; the name's length keeps `a:bc` apart from `ab:c`.
    fn tag(&self, user: &[u8], password: &[u8]) -> Tag {
        let mut message = Vec::with_capacity(8 + user.len() + password.len());
        message.extend_from_slice(&(user.len() as u64).to_le_bytes());
        message.extend_from_slice(user);
        message.extend_from_slice(password);
        self.hmac.hmac_sign(&self.key, &message)
    }

    fn is_verified(&self, tag: &Tag) -> bool {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        // All are compared to the end, so that the time tells nothing of where they differ.
        verified.iter().fold(false, |found, known| found | same(known.as_ref(), tag.as_ref()))
    }

    fn remember(&self, tag: Tag) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= REMEMBERED {
            verified.pop_front();
        }
        verified.push_back(tag);
    }
}

/// Whether two byte strings are equal, in a time that depends on their length only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Name and password of a `Basic` header.
fn credentials(header: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut user = decode_base64(rest.trim_ascii())?;
    let colon = user.iter().position(|b| *b == b':')?;
    let password = user.split_off(colon + 1);
    user.pop();
    Some((user, password))
}

/// Standard base64 (RFC 4648 section 4); padding may be left out.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if text.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for quad in text.chunks(4) {
        let mut bits = 0_u32;
        for letter in quad {
            let six = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        bits <<= 6 * (4 - quad.len());
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend(bytes.iter().take(quad.len() - 1));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for three in bytes.chunks(3) {
            let mut word = [0; 4];
            word[1..=three.len()].copy_from_slice(three);
            let word = u32::from_be_bytes(word);
            for i in 0..4 {
                let letter = LETTERS[(word >> (18 - 6 * i)) as usize & 63];
                out.push(if i <= three.len() { letter as char } else { '=' });
            }
        }
        out
    }

    fn basic(user: &str, password: &str) -> Vec<u8> {
        format!("Basic {}", encode(format!("{user}:{password}").as_bytes())).into_bytes()
    }

    fn users(entries: &[(&str, &str, u32)]) -> HashMap<String, String> {
        entries.iter().map(|(u, p, cost)| ((*u).to_owned(), bcrypt::hash(p, *cost).unwrap())).collect()
    }

    #[test]
    fn rfc_vectors() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg", "foob")] {
            assert_eq!(decode_base64(text.as_bytes()).unwrap(), bytes.as_bytes());
        }
        for bad in ["A", "Zm9v=Zg==", "Zg=\n", "Z-_v", "====="] {
            assert_eq!(decode_base64(bad.as_bytes()), None, "{bad}");
        }
        let (user, password) = credentials(b"bAsIc QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap();
        assert_eq!((user.as_slice(), password.as_slice()), (&b"Aladdin"[..], &b"open sesame"[..]));
        for bad in [&b"Basic"[..], b"Bearer QWxhZGRpbjpv", b"Basic QQ==", b"", b"Basic \xff"] {
            assert_eq!(credentials(bad), None);
        }
    }

    #[tokio::test]
    async fn only_the_right_name_with_the_right_password_is_let_in() {
        let auth = BasicAuth::new(users(&[("ann", "tide", 4), ("bob", "ebb:flow", 5)])).unwrap().unwrap();
        for _ in 0..2 {
            assert!(auth.allows(Some(&basic("ann", "tide"))).await);
            assert!(auth.allows(Some(&basic("bob", "ebb:flow"))).await);
            for (user, password) in [("ann", "ebb:flow"), ("bob", "ebb"), ("eve", "tide"), ("", ""), ("annt", "ide")] {
                assert!(!auth.allows(Some(&basic(user, password))).await, "{user}");
            }
            assert!(!auth.allows(None).await);
            assert!(!auth.allows(Some(b"Basic ????")).await);
        }
        // Two right ones were remembered once each, and no wrong one.
        assert_eq!(auth.verified.lock().unwrap().len(), 2);
        assert_eq!(HashParts::from_str(&auth.decoy).unwrap().get_cost(), 5);
        assert!(!format!("{auth:?}").contains("$2"));
    }

    #[tokio::test]
    async fn what_is_remembered_needs_no_hashing_and_is_bounded() {
        let auth = BasicAuth::new(users(&[("ann", "tide", 4)])).unwrap().unwrap();
        assert!(auth.allows(Some(&basic("ann", "tide"))).await);
        auth.at_once.close(); // from here on nothing can be hashed
        assert!(auth.allows(Some(&basic("ann", "tide"))).await);
        assert!(!auth.allows(Some(&basic("ann", "TIDE"))).await);
        for i in 0..1000 {
            auth.remember(auth.tag(format!("user {i}").as_bytes(), b""));
        }
        assert_eq!(auth.verified.lock().unwrap().len(), REMEMBERED);
        assert!(!auth.is_verified(&auth.tag(b"ann", b"tide")));
    }

    #[test]
    fn bad_users_are_refused_without_showing_what_was_written() {
        let of = |user: &str, hash: &str| HashMap::from([(user.to_owned(), hash.to_owned())]);
        assert!(BasicAuth::new(HashMap::new()).unwrap().is_none());
        let error = BasicAuth::new(of("ann", "s3cret")).unwrap_err();
        assert_eq!(error, UserError::NotBcrypt { user: "ann".into() });
        assert!(!error.to_string().contains("s3cret") && error.to_string().contains("htpasswd"));
        let hash = bcrypt::hash("x", 4).unwrap();
        for cost in ["03", "15", "31", "99"] {
            let hash = hash.replacen("$04$", &format!("${cost}$"), 1);
            let cost = cost.parse().unwrap();
            assert_eq!(BasicAuth::new(of("ann", &hash)).unwrap_err(), UserError::Cost { user: "ann".into(), cost });
        }
        assert_eq!(BasicAuth::new(of("a:b", &hash)).unwrap_err(), UserError::Name { user: "a:b".into() });
    }

    proptest! {
        #[test]
        fn base64_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = encode(&bytes);
            prop_assert_eq!(decode_base64(text.as_bytes()).unwrap(), bytes.clone());
            prop_assert_eq!(decode_base64(text.trim_end_matches('=').as_bytes()).unwrap(), bytes);
        }

        #[test]
        fn any_header_is_taken_apart_or_refused(header in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut basic = b"Basic ".to_vec();
            basic.extend(&header);
            for header in [header, basic] {
                if let Some((user, password)) = credentials(&header) {
                    prop_assert!(!user.contains(&b':'));
                    prop_assert!(user.len() + password.len() < header.len());
                }
            }
        }
    }
}
