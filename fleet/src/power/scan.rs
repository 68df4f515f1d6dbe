//! What seems to speak at an address: each kind of device is asked once who it is, without credentials.

use std::net::SocketAddr;
use std::time::Duration;

use ebbtide_devices::http_json::{Dialect, HttpJson, HttpJsonConfig};
use ebbtide_devices::redfish::{Redfish, RedfishConfig};
use ebbtide_devices::snmp::SnmpPdu;
use ebbtide_devices::snmp::config::SnmpPduConfig;
use ebbtide_devices::{DeviceError, Driver, Identity};
use ebbtide_proto::v1;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Each way is given so long.
const PATIENCE: Duration = Duration::from_secs(6);
/// An ASF presence ping over RMCP (DSP0136): class ASF, IANA 4542, message type 0x80.
const PRESENCE_PING: [u8; 12] = [6, 0, 255, 6, 0, 0, 0x11, 0xbe, 0x80, 0, 0, 0];

/// Asks `host`.
pub async fn scan(host: &str) -> Vec<v1::Found> {
    let (snmp, redfish, json, ipmi, modbus) =
        tokio::join!(snmp(host), redfish(host), json(host), ipmi(host), modbus(host));
    [snmp, redfish, json, ipmi, modbus].into_iter().flatten().collect()
}

/// With the community `public`, as PDUs come out of the box.
async fn snmp(host: &str) -> Option<v1::Found> {
    let config = SnmpPduConfig { retries: 1, ..SnmpPduConfig::at(host) };
    let mut driver = SnmpPdu::new(config).ok()?;
    let what = match timeout(PATIENCE, driver.identify()).await {
        Ok(Ok(identity)) => spoken(&identity, "a PDU"),
        // it speaks SNMP, but is no PDU that is known
        Ok(Err(DeviceError::Unable { what, .. })) => what,
        Ok(Err(_)) | Err(_) => return None,
    };
    let keys = format!("address = \"{host}\"\ncommunity = {{ file = \"/etc/ebbtide/COMMUNITY\" }}");
    Some(found("snmp-pdu", what, host, &keys))
}

async fn redfish(host: &str) -> Option<v1::Found> {
    let url = format!("https://{host}");
    let mut driver = Redfish::new(RedfishConfig::at(&url)).ok()?;
    let what = match timeout(PATIENCE, driver.identify()).await {
        Ok(Ok(identity)) => spoken(&identity, "a Redfish service"),
        Ok(Err(DeviceError::Denied { .. })) => "a Redfish service that wants credentials".to_owned(),
        // who shows a certificate at this address may be one; the text says how to trust it
        Ok(Err(DeviceError::Certificate { why, .. })) => format!("https, perhaps a BMC: {why}"),
        Ok(Err(_)) | Err(_) => return None,
    };
    let keys = format!("url = \"{url}\"\nuser = \"USER\"\npassword = {{ file = \"/etc/ebbtide/PASSWORD\" }}");
    Some(found("redfish", what, host, &keys))
}

async fn json(host: &str) -> Option<v1::Found> {
    let url = format!("http://{host}");
    for (dialect, name, key) in [
        (Dialect::Shelly2 { switches: 1 }, "a Shelly", "device = { shelly2 = { switches = 1 } }"),
        (Dialect::Netio, "a Netio", "device = \"netio\""),
        (Dialect::Tasmota { relays: 1 }, "a Tasmota", "device = { tasmota = { relays = 1 } }"),
    ] {
        let Ok(mut driver) = HttpJson::new(HttpJsonConfig::at(&url, dialect)) else { continue };
        if let Ok(Ok(report)) = timeout(PATIENCE / 3, driver.read()).await
            && (!report.outlets.is_empty() || !report.total.is_empty())
        {
            return Some(found("http-json", name.to_owned(), host, &format!("url = \"{url}\"\n{key}")));
        }
    }
    None
}

async fn ipmi(host: &str) -> Option<v1::Found> {
    let socket = UdpSocket::bind("[::]:0").await.or(UdpSocket::bind("0.0.0.0:0").await).ok()?;
    let to: SocketAddr = tokio::net::lookup_host((host, 623)).await.ok()?.next()?;
    let socket = if to.is_ipv4() { UdpSocket::bind("0.0.0.0:0").await.ok()? } else { socket };
    socket.connect(to).await.ok()?;
    socket.send(&PRESENCE_PING).await.ok()?;
    let mut answer = [0; 64];
    let len = timeout(PATIENCE / 2, socket.recv(&mut answer)).await.ok()?.ok()?;
    // a presence pong: class ASF, message type 0x40
    let is_pong = answer.get(3) == Some(&6) && answer.get(8) == Some(&0x40) && len >= 12;
    let keys = format!("address = \"{host}\"\nuser = \"USER\"\npassword = {{ file = \"/etc/ebbtide/PASSWORD\" }}");
    is_pong.then(|| found("ipmi", "a management controller that speaks IPMI".to_owned(), host, &keys))
}

async fn modbus(host: &str) -> Option<v1::Found> {
    timeout(PATIENCE / 2, TcpStream::connect((host, 502))).await.ok()?.ok()?;
    let keys = format!("address = \"{host}\"\npreset = \"eastron-sdm\"");
    Some(found("modbus", "something that listens where Modbus TCP does".to_owned(), host, &keys))
}

fn spoken(identity: &Identity, else_this: &str) -> String {
    let words: Vec<&str> =
        [&identity.vendor, &identity.model, &identity.name].into_iter().filter_map(Option::as_deref).collect();
    if words.is_empty() { else_this.to_owned() } else { words.join(" ") }
}

fn found(kind: &str, what: String, host: &str, keys: &str) -> v1::Found {
    let name: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let config = format!("[[device]]\nname = \"{name}\"\nkind = \"{kind}\"\n{keys}\n");
    v1::Found { kind: kind.to_owned(), what, config }
}
