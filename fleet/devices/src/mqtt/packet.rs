//! The part of MQTT 3.1.1 (OASIS, 2014) that a listener with quality of service 0 needs. Pure.
//!
//! At 0 a message is delivered once or not at all: right for readings, which are soon followed by newer ones, and for
//! commands, which must never be carried out later than they were meant.

use crate::credentials::Credentials;

/// A message is no larger; devices send a few hundred bytes.
const LARGEST: usize = 256 << 10;

/// Asks whether the broker is there (3.12).
pub(crate) const PING: [u8; 2] = [0xC0, 0];

/// Says good-bye (3.14).
pub(crate) const DISCONNECT: [u8; 2] = [0xE0, 0];

/// What a broker sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// The answer to CONNECT; 0 is yes.
    Connected(u8),
    /// The answer to SUBSCRIBE: whether all topics were granted.
    Subscribed(bool),
    /// A message.
    Message { topic: String, payload: Vec<u8>, retained: bool },
    /// Anything else that a listener needn't act on.
    Other,
}

/// CONNECT (3.1) with a clean session.
pub(crate) fn connect(client: &str, credentials: Option<&Credentials>, keep_alive_s: u16) -> Option<Vec<u8>> {
    let flags = if credentials.is_some() { 0b1100_0010 } else { 0b0000_0010 };
    let mut body = field(b"MQTT")?;
    body.extend([4, flags]);
    body.extend(keep_alive_s.to_be_bytes());
    body.extend(field(client.as_bytes())?);
    if let Some(credentials) = credentials {
        body.extend(field(credentials.user.as_bytes())?);
        body.extend(field(credentials.password.reveal().as_bytes())?);
    }
    packet(0x10, &body)
}

/// SUBSCRIBE (3.8) at quality 0.
pub(crate) fn subscribe(topics: &[String]) -> Option<Vec<u8>> {
    let mut body = vec![0, 1];
    for topic in topics {
        body.extend(field(topic.as_bytes())?);
        body.push(0);
    }
    packet(0x82, &body)
}

/// PUBLISH (3.3) at quality 0, not retained.
pub(crate) fn publish(topic: &str, payload: &[u8]) -> Option<Vec<u8>> {
    let mut body = field(topic.as_bytes())?;
    body.extend(payload);
    packet(0x30, &body)
}

/// The first packet in `bytes` and its length; `None` if more bytes are needed.
///
/// # Errors
/// If the bytes can't be MQTT from a broker, or the packet is too large.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Packet, usize)>, &'static str> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    // Only PUBLISH has flags of its own; PUBREL has a fixed one (2.2.2).
    if !matches!((kind >> 4, kind & 0xF), (3, _) | (6, 2) | (_, 0)) {
        return Err("this is no MQTT from a broker");
    }
    let Some((length, digits)) = remaining(rest)? else { return Ok(None) };
    if length > LARGEST {
        return Err("a message is too large");
    }
    let Some(body) = rest.get(digits..digits + length) else { return Ok(None) };
    let packet = match (kind >> 4, body) {
        (2, &[_, code]) => Packet::Connected(code),
        (9, &[_, _, ref granted @ ..]) => Packet::Subscribed(granted.iter().all(|g| *g < 0x80)),
        (3, _) => message(kind, body).ok_or("a message without a topic")?,
        (2 | 9, _) => return Err("an answer of a length that can't be"),
        (4..=7 | 11 | 13, _) => Packet::Other,
        _ => return Err("this is no MQTT from a broker"),
    };
    Ok(Some((packet, 1 + digits + length)))
}

fn message(kind: u8, body: &[u8]) -> Option<Packet> {
    let length = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
    let topic = std::str::from_utf8(body.get(2..2 + length)?).ok()?;
    // A quality above 0 has a number before the payload; a subscriber at 0 isn't sent one.
    let number = if kind & 0b110 == 0 { 0 } else { 2 };
    let payload = body.get(2 + length + number..)?.to_vec();
    Some(Packet::Message { topic: topic.to_owned(), payload, retained: kind & 1 == 1 })
}

/// The length (2.2.3) and how many bytes it took.
fn remaining(bytes: &[u8]) -> Result<Option<(usize, usize)>, &'static str> {
    let mut length = 0;
    for (i, shift) in [0, 7, 14, 21].into_iter().enumerate() {
        let Some(&byte) = bytes.get(i) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some((length, i + 1)));
        }
    }
    Err("a length that never ends")
}

/// A field with its length before it; `None` if it is longer than 64 KiB.
fn field(bytes: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(bytes.len()).ok()?;
    Some(length.to_be_bytes().into_iter().chain(bytes.iter().copied()).collect())
}

fn packet(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut packet = vec![kind];
    let mut length = u32::try_from(body.len()).ok().filter(|l| *l < 1 << 28)?;
    loop {
        let digit = u8::try_from(length & 0x7F).ok()?;
        length >>= 7;
        packet.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    Some(packet)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    #[test]
    fn packets_are_those_of_the_standard() {
        let credentials = Credentials { user: "u".to_owned(), password: Secret::new("p") };
        let got = connect("a", Some(&credentials), 60).unwrap();
        assert_eq!(got, [0x10, 19, 0, 4, b'M', b'Q', b'T', b'T', 4, 0xC2, 0, 60, 0, 1, b'a', 0, 1, b'u', 0, 1, b'p']);
        assert_eq!(subscribe(&["t".to_owned()]).unwrap(), [0x82, 6, 0, 1, 0, 1, b't', 0]);
        assert_eq!(parse(&[0x20, 2, 0, 5]), Ok(Some((Packet::Connected(5), 4))));
        assert_eq!(parse(&[0x90, 4, 0, 1, 0, 0x80]), Ok(Some((Packet::Subscribed(false), 6))));
        assert_eq!(parse(&[0xD0, 0]), Ok(Some((Packet::Other, 2))));
        assert!(parse(b"HTTP/1.1 400").is_err());
        assert!(parse(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).is_err(), "256 MiB");
    }

    proptest! {
        #[test]
        fn what_is_published_is_what_is_heard(topic in "[a-z/]{1,40}", payload in prop::collection::vec(any::<u8>(), 0..300), more in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut bytes = publish(&topic, &payload).unwrap();
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(None));
            }
            bytes.extend(more);
            prop_assert_eq!(parse(&bytes), Ok(Some((Packet::Message { topic, payload, retained: false }, length))));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((_, taken))) = parse(&bytes) {
                prop_assert!(taken <= bytes.len());
            }
        }
    }
}
