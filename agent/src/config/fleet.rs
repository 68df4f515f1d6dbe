//! Where the fleet daemon is, what it is told, and what is kept for it: the values and how they go together.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ebbtide_proto::WorkloadKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::quantity::Period;
use super::value::{Expected, Text, deserialize, text_in_toml};
use super::words::Word;
use super::{Conflict, Partial, conflict, path, picked};
use crate::stream::batch;

text_in_toml!([] FleetAddress, [] SpoolSize);

/// The port of the fleet daemon's gRPC.
pub const FLEET_PORT: u16 = 9884;

/// Where the fleet daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetAddress {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its name or address; IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl FleetAddress {
    /// Whether it is this machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// As `host:port`.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for FleetAddress {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim().trim_end_matches('/');
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => (true, text),
        };
        let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port.strip_prefix(':')),
            Some(_) => return Err(Self::expected()),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        let digits = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        let port = match port {
            None => Some(FLEET_PORT),
            Some(port) => Some(port).filter(digits).and_then(|p| p.parse().ok()).filter(|p| *p > 0),
        };
        match port {
            Some(port) if !host.is_empty() && host.len() <= 253 && host.chars().all(ok) => {
                Ok(Self { tls, host: host.to_owned(), port })
            }
            _ => Err(Self::expected()),
        }
    }
}

impl Text for FleetAddress {
    fn expected() -> Expected {
        Expected("a host with or without port, such as \"fleet.example\", \"https://fleet.example:9884\" or \"http://127.0.0.1:9884\"".into())
    }
}

impl fmt::Display for FleetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// How much disk frames may take that the fleet doesn't have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolSize {
    /// None: they are kept in memory, and only a few.
    Off,
    /// So many bytes.
    Bytes(u64),
}

/// From a few minutes to more than anybody has.
const SIZES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;
const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for SpoolSize {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        if text == "none" {
            return Ok(Self::Off);
        }
        let of = |(unit, factor): (&str, u64)| {
            let number = text.strip_suffix(unit)?.trim_end();
            let digits = number.bytes().all(|b| b.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(factor)
        };
        let bytes = UNITS.into_iter().find_map(of).filter(|bytes| SIZES.contains(bytes));
        bytes.map(Self::Bytes).ok_or_else(Self::expected)
    }
}

impl Text for SpoolSize {
    fn expected() -> Expected {
        Expected("a size from 1MiB to 1024GiB, such as \"256MiB\", or \"none\"".into())
    }
}

impl fmt::Display for SpoolSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Bytes(bytes) = self else { return f.write_str("none") };
        match UNITS.into_iter().find(|(_, factor)| bytes % factor == 0) {
            Some((unit, factor)) => write!(f, "{}{unit}", bytes / factor),
            None => write!(f, "{}KiB", bytes.div_ceil(1 << 10)),
        }
    }
}

/// Whether the fleet is to tell what the whole machine draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wall {
    /// If there is a fleet.
    Auto,
    /// Never.
    Off,
}

impl Word for Wall {
    const ALL: &'static [Self] = &[Self::Auto, Self::Off];

    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// A join token: `id.secret.fingerprint`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    fingerprint: [u8; 32],
}

impl Token {
    /// As it was given out.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the certificate of the fleet's authority.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

impl FromStr for Token {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('.').collect();
        let plain = |part: &&str| !part.is_empty() && part.len() <= 128 && part.bytes().all(|b| b.is_ascii_graphic());
        let fingerprint = match parts.as_slice() {
            [id, secret, fingerprint] if plain(id) && plain(secret) => from_hex(fingerprint),
            _ => None,
        };
        match fingerprint {
            Some(fingerprint) => Ok(Self { text: text.to_owned(), fingerprint }),
            None => Err(Expected("a token as the fleet gave it out, of three parts: ID.SECRET.FINGERPRINT".into())),
        }
    }
}

/// The secret stays out of logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}…)", self.text.split('.').next().unwrap_or_default())
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// How the fleet daemon is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Where it is.
    pub address: FleetAddress,
    /// File with the authority of its certificate.
    pub ca: Option<PathBuf>,
    /// File with this node's certificate.
    pub cert: Option<PathBuf>,
    /// File with the key of that.
    pub key: Option<PathBuf>,
    /// Plain text may cross the network.
    pub insecure: bool,
    /// It may shut this machine down.
    pub may_shut_down: bool,
    /// What does so; `systemctl poweroff` if it isn't said.
    pub shut_down_program: Option<PathBuf>,
}

impl Fleet {
    /// What shuts the machine down, with its arguments, if the fleet may say so.
    pub fn shut_down(&self) -> Option<Vec<String>> {
        let usual = || ["systemctl", "--no-block", "poweroff"].map(str::to_owned).to_vec();
        let own = self.shut_down_program.as_ref().map(|program| vec![program.display().to_string()]);
        self.may_shut_down.then(|| own.unwrap_or_else(usual))
    }
}

/// What the fleet is told, and what is kept for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Time between two moments of the node's series.
    pub node_interval: Duration,
    /// Time between two moments of the workloads' series.
    pub workload_interval: Duration,
    /// Kinds of workloads that are told.
    pub levels: BTreeSet<WorkloadKind>,
    /// Whether it may tell what the whole machine draws.
    pub wall: Wall,
    /// Bytes on disk.
    pub spool_size: SpoolSize,
    /// How old a frame may get.
    pub spool_age: Duration,
}

/// The fleet that is given, if any.
pub(super) fn fleet(given: &Partial, has_state: bool) -> Result<Option<Fleet>, Conflict> {
    let insecure = given.fleet_insecure.unwrap_or(false);
    let files = [("fleet-ca", &given.fleet_ca), ("fleet-cert", &given.fleet_cert), ("fleet-key", &given.fleet_key)];
    let may_shut_down = given.fleet_may_shut_down.unwrap_or(false);
    let shut_down_program = path(given.shut_down_program.clone());
    if shut_down_program.is_some() && !may_shut_down {
        let fix = "set that to true, or leave it out";
        return conflict("shut-down-program", "has no effect without fleet-may-shut-down", fix);
    }
    let set = || files.iter().find(|(_, file)| file.is_some()).map(|(key, _)| *key);
    let Some(address) = given.fleet.clone() else {
        let shuts_down = may_shut_down.then_some("fleet-may-shut-down");
        return match set().or(insecure.then_some("fleet-insecure")).or(shuts_down) {
            Some(key) => conflict(key, "has no effect without fleet", "set fleet or leave it out"),
            None => Ok(None),
        };
    };
    if address.tls && insecure {
        return conflict("fleet-insecure", "has no effect with https", "use an http address in fleet or leave it out");
    }
    if !address.tls && !insecure && !address.is_loopback() {
        let why = "would send all figures in plain text across the network";
        return conflict("fleet", why, "use https, or set fleet-insecure if that network is safe");
    }
    if let (false, Some(key)) = (address.tls, set()) {
        return conflict(key, "has no effect with http", "use an https address in fleet or leave it out");
    }
    if given.fleet_cert.is_some() != given.fleet_key.is_some() {
        return conflict("fleet-cert", "and fleet-key go together", "give both or none");
    }
    if address.tls && !has_state && (given.fleet_ca.is_none() || given.fleet_cert.is_none()) {
        let why = "needs certificates, and there is no state folder to look for them";
        return conflict("fleet", why, "set state, or fleet-ca, fleet-cert and fleet-key");
    }
    let (ca, cert, key) = (given.fleet_ca.clone(), given.fleet_cert.clone(), given.fleet_key.clone());
    Ok(Some(Fleet {
        address,
        ca: path(ca),
        cert: path(cert),
        key: path(key),
        insecure,
        may_shut_down,
        shut_down_program,
    }))
}

/// What the fleet is told, completed with the defaults.
pub(super) fn stream(given: &Partial, interval: Duration) -> Result<Stream, Conflict> {
    let usual = batch::Options::default();
    let node = given.fleet_node_interval.map(Period::get);
    if node.is_some_and(|node| node < interval) {
        return conflict("fleet-node-interval", "is shorter than interval", "make it longer or leave it out");
    }
    let node_interval = node.unwrap_or(usual.node_interval.max(interval));
    let workload = given.fleet_workload_interval.map(Period::get);
    if workload.is_some_and(|workload| workload < node_interval) {
        let why = "is shorter than fleet-node-interval";
        return conflict("fleet-workload-interval", why, "make it longer or leave it out");
    }
    if workload.is_some_and(|workload| workload > node_interval * 1000) {
        let why = "is more than a thousand times fleet-node-interval";
        return conflict("fleet-workload-interval", why, "make it shorter, or the other longer");
    }
    let levels = match &given.fleet_levels {
        None => usual.levels,
        levels => picked("fleet-levels", levels.as_deref())?,
    };
    Ok(Stream {
        node_interval,
        workload_interval: workload.unwrap_or(usual.workload_interval.max(node_interval)),
        levels,
        wall: given.wall.map_or(Wall::Auto, |one| one.0),
        spool_size: given.spool_size.unwrap_or(SpoolSize::Bytes(256 << 20)),
        spool_age: given.spool_age.map_or(Duration::from_secs(7 * 86_400), Period::get),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_have_a_scheme_a_host_and_a_port() {
        for (text, want) in [
            ("fleet.example", "https://fleet.example:9884"),
            ("fleet:1", "https://fleet:1"),
            ("http://127.0.0.1:9884/", "http://127.0.0.1:9884"),
            ("https://[::1]", "https://[::1]:9884"),
            ("[fe80::1]:7", "https://[fe80::1]:7"),
        ] {
            assert_eq!(text.parse::<FleetAddress>().unwrap().to_string(), want);
        }
        for bad in [
            "", "https://", "a b", "a:0", "a:99999", "a:1:2", "::1", "[::1", "::1]", "ftp://x", "u@h", "h/path", "a:+1",
        ] {
            assert!(bad.parse::<FleetAddress>().is_err(), "{bad}");
        }
        let local = |text: &str| text.parse::<FleetAddress>().unwrap().is_loopback();
        assert!(local("localhost") && local("127.8.0.1:1") && local("[::1]") && !local("10.0.0.1"));
    }

    #[test]
    fn tokens_have_three_parts_and_keep_their_secret() {
        let text = format!("t1.s3cret.{}", "0a".repeat(32));
        let token: Token = text.parse().unwrap();
        assert_eq!((token.text(), token.fingerprint()), (text.as_str(), [10; 32]));
        assert!(!format!("{token:?}").contains("s3cret"));
        for bad in ["", "a.b", "a.b.c", &text[1..], &text[..70], &format!("{text}.x"), &text.replace('a', "é")] {
            assert_eq!(bad.parse::<Token>().is_ok(), bad.starts_with("1."), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1MiB", 1 << 20), ("256 MiB", 256 << 20), ("2048KiB", 2 << 20), ("1024GiB", 1 << 40)] {
            assert_eq!(text.parse(), Ok(SpoolSize::Bytes(bytes)));
        }
        for bad in ["", "1", "0MiB", "1023KiB", "1025GiB", "-1MiB", "+4MiB", "1.5GiB", "4MB"] {
            assert!(bad.parse::<SpoolSize>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}", bytes in 1u64..1 << 30) {
            if let Ok(address) = text.parse::<FleetAddress>() {
                prop_assert_eq!(address.to_string().parse::<FleetAddress>(), Ok(address));
            }
            let size = SpoolSize::Bytes(bytes << 10);
            prop_assert!(size.to_string().parse::<SpoolSize>().is_ok_and(|s| s == size) || !SIZES.contains(&(bytes << 10)));
        }
    }
}
