//! Where a device listens, and on which terms it is spoken to.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use hyper::Uri;

use crate::error::DeviceError;
use crate::http::trust::Fingerprint;

/// How a device is reached over HTTP, as its configuration says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access<'a> {
    /// `https://HOST[:PORT]` or `http://HOST[:PORT]`.
    pub(crate) url: &'a str,
    /// PEM file of the authorities that may have signed the device's certificate, instead of the system's.
    pub(crate) ca_file: Option<&'a Path>,
    /// SHA-256 of the device's certificate. Nothing else of the certificate is looked at then.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Send the password over plain `http://`, where anyone on the way can read it.
    pub(crate) plain_password: bool,
    /// Longest time for one request, connecting included.
    pub(crate) timeout: Duration,
}

/// A checked URL without its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
    /// Name or address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
}

impl Address {
    /// Splits a URL into where and what: the path keeps its query and begins with `/`.
    ///
    /// # Errors
    /// [`DeviceError::Config`] if it is no `http://` or `https://` URL, or carries a user or password.
    pub(crate) fn parse(url: &str) -> Result<(Self, String), DeviceError> {
        let bad = || DeviceError::Config(format!("{url:?} should look like https://HOST or http://HOST:PORT/PATH"));
        if url.split(['/', '?', '#']).nth(2).is_some_and(|authority| authority.contains('@')) {
            let hint = "a device's URL can't carry a user or password: they would be in logs; use the keys for them";
            return Err(DeviceError::Config(hint.to_owned()));
        }
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let host = uri.host().map(|h| h.trim_start_matches('[').trim_end_matches(']')).filter(|h| !h.is_empty());
        let host = host.ok_or_else(bad)?.to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok((Self { tls, host, port }, path))
    }

    /// The path that `target` means to this host: a path itself, or a URL of this host. `None` if it leads elsewhere.
    pub(crate) fn path_of(&self, target: &str) -> Option<String> {
        let target = target.split('#').next().unwrap_or_default();
        if target.starts_with('/') && !target.starts_with("//") {
            return target.parse::<Uri>().is_ok().then(|| target.to_owned());
        }
        let (address, path) = Self::parse(target).ok()?;
        (address == *self).then_some(path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_and_a_path() {
        let (a, path) = Address::parse("https://[fe80::1]:8443/x?y=1").unwrap();
        assert_eq!((a.tls, a.host.as_str(), a.port, path.as_str()), (true, "fe80::1", 8443, "/x?y=1"));
        assert_eq!(a.to_string(), "[fe80::1]:8443");
        assert_eq!(Address::parse("http://pdu1").unwrap().0.to_string(), "pdu1:80");
        for bad in ["pdu1", "ftp://pdu1", "https://", "", "http:///x"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        let secret = Address::parse("https://admin:hunter2@bmc1/").unwrap_err();
        assert!(!secret.to_string().contains("hunter2"), "{secret}");
    }

    #[test]
    fn only_targets_on_the_same_host_have_a_path() {
        let (here, _) = Address::parse("https://bmc1/").unwrap();
        assert_eq!(here.path_of("/redfish/v1#/a").as_deref(), Some("/redfish/v1"));
        assert_eq!(here.path_of("https://bmc1:443/x").as_deref(), Some("/x"));
        for elsewhere in ["http://bmc1/x", "https://bmc2/x", "https://bmc1:444/x", "//bmc2/x", "x", "", "/a b"] {
            assert_eq!(here.path_of(elsewhere), None, "{elsewhere}");
        }
    }
}
