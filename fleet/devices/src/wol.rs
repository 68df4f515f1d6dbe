//! Waking a machine by a magic packet: six times `ff`, sixteen times its MAC address, and the SecureOn password if it
//! wants one. Nobody answers one; that the machine woke has to be seen elsewhere.
//!
//! Source: AMD, Magic Packet Technology, 1995 (publication 20213).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::net::UdpSocket;

use crate::driver::{Answer, Driver, Switch};
use crate::error::DeviceError;
use crate::report::{Feed, Identity, Outlet, OutletId, PowerState, Report};
use crate::secret::{Secret, SecretSource};

/// Between two packets of a burst.
const GAP: Duration = Duration::from_millis(100);

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

/// What isn't an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address of one machine, such as 52:54:00:12:34:56")]
pub struct NoMac(String);

/// A machine that is woken by a magic packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WakeOnLanConfig {
    /// The address of its network card.
    pub mac: Mac,
    /// Where packets go: the broadcast address of its network reaches it through routers that let directed broadcasts
    /// pass; 255.255.255.255 reaches all on the same wire.
    #[serde(default = "everyone")]
    pub broadcast: Ipv4Addr,
    /// UDP port: 9 or 7. It doesn't matter to most cards.
    #[serde(default = "discard")]
    pub port: u16,
    /// The network interface to send through. The system chooses if left out.
    #[serde(default)]
    pub interface: Option<String>,
    /// Password of six bytes (`00:11:22:33:44:55`) or four (`1.2.3.4`), if the card wants one.
    #[serde(default)]
    pub secure_on: Option<SecretSource>,
    /// How many packets are sent: one may get lost.
    #[serde(default = "thrice")]
    pub packets: u8,
}

/// Wakes one machine.
pub struct WakeOnLan {
    config: WakeOnLanConfig,
    packet: Vec<u8>,
}

/// The outlet that a machine is as a device.
pub(crate) fn system() -> OutletId {
    OutletId::new("system")
}

/// The magic packet for `mac`, with the SecureOn password behind it: 102, 106 or 108 bytes.
pub fn magic_packet(mac: Mac, password: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xff; 6];
    for _ in 0..16 {
        packet.extend_from_slice(&mac.0);
    }
    packet.extend_from_slice(password);
    packet
}

impl WakeOnLan {
    /// Prepares the packet; sends nothing.
    ///
    /// # Errors
    /// If the password can't be read or is none.
    pub fn new(config: WakeOnLanConfig) -> Result<Self, DeviceError> {
        let password = match &config.secure_on {
            None => Vec::new(),
            Some(source) => {
                let secret = source.read().map_err(|e| DeviceError::Config(format!("secure-on: {e}")))?;
                password(&secret).ok_or_else(|| {
                    DeviceError::Config(
                        "secure-on: the secret is neither six bytes 00:11:22:33:44:55 nor four 1.2.3.4".to_owned(),
                    )
                })?
            }
        };
        Ok(Self { packet: magic_packet(config.mac, &password), config })
    }

    async fn wake(&self) -> Result<(), DeviceError> {
        let to = SocketAddr::V4(SocketAddrV4::new(self.config.broadcast, self.config.port));
        let device = format!("{} by {to}", self.config.mac);
        let error = |e: std::io::Error| DeviceError::Unreachable { device: device.clone(), why: e.to_string() };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(error)?;
        socket.set_broadcast(true).map_err(error)?;
        if let Some(interface) = &self.config.interface {
            socket.bind_device(Some(interface.as_bytes())).map_err(|e| DeviceError::Unreachable {
                device: device.clone(),
                why: format!("interface {interface}: {e}"),
            })?;
        }
        for i in 0..self.config.packets.max(1) {
            if i > 0 {
                tokio::time::sleep(GAP).await;
            }
            socket.send_to(&self.packet, to).await.map_err(error)?;
        }
        Ok(())
    }

    fn known(&self, outlet: &OutletId) -> Result<(), DeviceError> {
        if *outlet == system() {
            return Ok(());
        }
        Err(DeviceError::NoOutlet {
            device: self.config.mac.to_string(),
            outlet: outlet.to_string(),
            known: "system".to_owned(),
        })
    }
}

impl Driver for WakeOnLan {
    fn identify(&mut self) -> Answer<'_, Identity> {
        let identity = Identity { name: Some(self.config.mac.to_string()), ..Identity::default() };
        Box::pin(std::future::ready(Ok(identity)))
    }

    fn read(&mut self) -> Answer<'_, Report> {
        let outlet =
            Outlet { id: system(), name: None, feed: Feed::default(), state: PowerState::Unknown, switchable: true };
        Box::pin(std::future::ready(Ok(Report { outlets: vec![outlet], ..Report::default() })))
    }

    fn state<'a>(&'a mut self, outlet: &'a OutletId) -> Answer<'a, PowerState> {
        Box::pin(std::future::ready(self.known(outlet).map(|()| PowerState::Unknown)))
    }

    fn switch<'a>(&'a mut self, outlet: &'a OutletId, to: Switch) -> Answer<'a, ()> {
        Box::pin(async move {
            self.known(outlet)?;
            match to {
                Switch::On => self.wake().await,
                other => Err(DeviceError::Unable {
                    device: self.config.mac.to_string(),
                    what: format!("be switched {} by a magic packet, which only wakes", other.as_str()),
                }),
            }
        })
    }
}

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let wrong = || NoMac(text.chars().take(40).collect());
        let bytes: [u8; 6] = bytes(text).and_then(|b| b.try_into().ok()).ok_or_else(wrong)?;
        // The lowest bit of the first byte is set in addresses of groups, and all zeros is nobody's.
        if bytes[0] & 1 == 1 || bytes == [0; 6] { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn password(secret: &Secret) -> Option<Vec<u8>> {
    let text = secret.reveal();
    text.parse::<Ipv4Addr>().ok().map(|four| four.octets().to_vec()).or_else(|| bytes(text))
}

/// Six bytes in hexadecimal, with `:` or `-` between them.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte = |p: &&str| if p.len() == 2 && !p.starts_with('+') { u8::from_str_radix(p, 16).ok() } else { None };
    let bytes = parts.iter().map(byte).collect::<Option<Vec<u8>>>()?;
    (bytes.len() == 6).then_some(bytes)
}

fn everyone() -> Ipv4Addr {
    Ipv4Addr::BROADCAST
}

fn discard() -> u16 {
    9
}

fn thrice() -> u8 {
    3
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: &str = "52:54:00:12:34:56";

    #[test]
    fn the_packet_is_the_standard_one() {
        let packet = magic_packet(MAC.parse().unwrap(), &[]);
        let hex: String = packet.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, format!("ffffffffffff{}", "525400123456".repeat(16)));
        let secured = magic_packet(MAC.parse().unwrap(), &[1, 2, 3, 4]);
        assert_eq!((secured.len(), &secured[102..]), (106, &[1u8, 2, 3, 4][..]));
    }

    #[test]
    fn addresses_of_groups_and_of_nobody_are_refused() {
        assert_eq!("52-54-00-12-34-56".parse::<Mac>().unwrap().to_string(), MAC);
        for wrong in [
            "",
            "52:54:00:12:34",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "5254.0012.3456",
            "+2:54:00:12:34:56",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn passwords_have_six_or_four_bytes() {
        assert_eq!(password(&Secret::new("00:11:22:33:44:ff")).unwrap(), [0, 0x11, 0x22, 0x33, 0x44, 0xff]);
        assert_eq!(password(&Secret::new("1.2.3.4")).unwrap(), [1, 2, 3, 4]);
        assert_eq!(password(&Secret::new("password")), None);
    }

    #[tokio::test]
    async fn a_machine_hears_the_packets_that_are_for_it() {
        let machine = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let config = WakeOnLanConfig {
            mac: MAC.parse().unwrap(),
            broadcast: Ipv4Addr::new(127, 255, 255, 255),
            port: machine.local_addr().unwrap().port(),
            interface: Some("lo".to_owned()),
            secure_on: None,
            packets: 2,
        };
        // The broadcast address of loopback is heard by sockets that listen to all addresses.
        let all = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let mut wol =
            WakeOnLan::new(WakeOnLanConfig { port: all.local_addr().unwrap().port(), ..config.clone() }).unwrap();
        wol.switch(&system(), Switch::On).await.unwrap();
        let mut buffer = [0; 256];
        for _ in 0..2 {
            let length = tokio::time::timeout(Duration::from_secs(10), all.recv(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..length], magic_packet(config.mac, &[]));
        }
        assert_eq!(wol.state(&system()).await.unwrap(), PowerState::Unknown, "nobody answers a magic packet");
        assert!(matches!(wol.switch(&system(), Switch::Off).await, Err(DeviceError::Unable { .. })));
        let mut nowhere = WakeOnLan::new(WakeOnLanConfig { interface: Some("none0".to_owned()), ..config }).unwrap();
        assert!(nowhere.switch(&system(), Switch::On).await.unwrap_err().to_string().contains("none0"));
    }

    proptest! {
        #[test]
        fn any_machine_is_sixteen_times_in_its_packet(mut mac: [u8; 6], secret in prop::collection::vec(any::<u8>(), 0..=6)) {
            mac[0] &= 0xfe;
            mac[5] |= 1;
            let parsed: Mac = Mac(mac).to_string().parse().unwrap();
            let packet = magic_packet(parsed, &secret);
            prop_assert_eq!(packet.len(), 102 + secret.len());
            prop_assert!(packet[6..102].chunks(6).all(|c| c == mac) && packet[..6] == [0xff; 6]);
        }
    }
}
