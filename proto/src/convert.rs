//! From the wire to checked types and back. Nothing unvalidated passes this file.

use crate::series::{Metric, Quality, WorkloadInfo, ZoneInfo, ZoneKind};
use crate::{IdError, PowerState, Ratio, WorkloadId, ZoneId, v1};

/// The most labels of a workload.
pub const MAX_LABELS: usize = 16;
/// The longest name of a label, in bytes.
pub const MAX_LABEL_NAME: usize = 63;
/// The longest text of a label or name of a zone or source, in bytes.
pub const MAX_TEXT: usize = 253;

/// Why a message is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that has to be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A figure that this version doesn't know.
    #[error("{what} {value} is not known")]
    Unknown {
        /// The field.
        what: &'static str,
        /// What it held.
        value: i32,
    },
    /// A text that is no identity.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A text that is too long or has control characters.
    #[error("{what} has {len} bytes or control characters; up to {max} bytes of text are allowed")]
    Text {
        /// The field.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// More than allowed.
    #[error("{found} {what}, more than the {max} that are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many may be.
        max: usize,
    },
}

/// `text` if it is short and printable.
pub fn text<'a>(what: &'static str, text: &'a str, max: usize) -> Result<&'a str, WireError> {
    if text.len() > max || text.chars().any(char::is_control) {
        return Err(WireError::Text { what, len: text.len(), max });
    }
    Ok(text)
}

macro_rules! same_words {
    ($domain:ident, $wire:ident, $what:literal, { $($variant:ident),* $(,)? }) => {
        impl From<$domain> for v1::$wire {
            fn from(word: $domain) -> Self {
                match word { $($domain::$variant => Self::$variant,)* }
            }
        }

        impl TryFrom<v1::$wire> for $domain {
            type Error = WireError;
            fn try_from(word: v1::$wire) -> Result<Self, WireError> {
                match word {
                    $(v1::$wire::$variant => Ok(Self::$variant),)*
                    v1::$wire::Unspecified => Err(WireError::Missing($what)),
                }
            }
        }

        impl $domain {
            /// Reads the number that stands for it on the wire.
            pub fn from_wire(number: i32) -> Result<Self, WireError> {
                v1::$wire::try_from(number).map_err(|_| WireError::Unknown { what: $what, value: number })?.try_into()
            }
        }
    };
}

same_words!(Quality, Quality, "quality", { Measured, Scaled, Modelled, Stale });
same_words!(ZoneKind, ZoneKind, "kind of zone", { Psys, Package, Core, Uncore, Dram, Gpu, Board, Wall, Other });
same_words!(PowerState, PowerState, "power state", { Unknown, On, Off, TurningOn, TurningOff });
same_words!(Metric, Metric, "metric", { Energy, IdleEnergy, CpuTime, Residual, Gaps, Unallocated });

impl From<&ZoneInfo> for v1::Zone {
    fn from(zone: &ZoneInfo) -> Self {
        Self {
            r#ref: 0,
            id: zone.id.as_str().to_owned(),
            name: zone.name.to_string(),
            kind: v1::ZoneKind::from(zone.kind).into(),
            socket_plus_one: zone.socket.map_or(0, |socket| socket.saturating_add(1)),
            source: zone.source.to_string(),
            quality: v1::Quality::from(zone.quality).into(),
            error_ppm: zone.error.ppm(),
            counts: zone.counts,
        }
    }
}

impl TryFrom<&v1::Zone> for ZoneInfo {
    type Error = WireError;

    fn try_from(zone: &v1::Zone) -> Result<Self, WireError> {
        Ok(Self {
            id: ZoneId::new(&zone.id)?,
            name: text("name of a zone", &zone.name, MAX_TEXT)?.into(),
            kind: ZoneKind::from_wire(zone.kind)?,
            socket: zone.socket_plus_one.checked_sub(1),
            source: text("source of a zone", &zone.source, MAX_TEXT)?.into(),
            quality: Quality::from_wire(zone.quality)?,
            error: Ratio::from_ppm(zone.error_ppm),
            counts: zone.counts,
        })
    }
}

impl From<&WorkloadInfo> for v1::Workload {
    fn from(workload: &WorkloadInfo) -> Self {
        let label = |(name, value): (&str, &str)| v1::Label { name: name.to_owned(), value: value.to_owned() };
        Self { r#ref: 0, id: workload.id.to_string(), labels: workload.labels.iter().map(label).collect() }
    }
}

impl TryFrom<&v1::Workload> for WorkloadInfo {
    type Error = WireError;

    fn try_from(workload: &v1::Workload) -> Result<Self, WireError> {
        let found = workload.labels.len();
        if found > MAX_LABELS {
            return Err(WireError::TooMany { what: "labels", found, max: MAX_LABELS });
        }
        let mut labels = Vec::with_capacity(found);
        for label in &workload.labels {
            let name = text("name of a label", &label.name, MAX_LABEL_NAME)?;
            labels.push((name, text("label", &label.value, MAX_TEXT)?));
        }
        Ok(Self { id: workload.id.parse::<WorkloadId>()?, labels: labels.into_iter().collect() })
    }
}
