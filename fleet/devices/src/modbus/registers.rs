//! What registers of meters mean: which ones, of which type, in which unit. Pure.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::quantity::{Step, Unit};

/// A request carries no more registers (Modbus Application Protocol 1.1b3, 6.3 and 6.4).
const MOST_AT_ONCE: u32 = 125;

/// Which of a meter's two tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Function {
    /// Input registers, function 4: what most meters measure into.
    #[default]
    Input,
    /// Holding registers, function 3.
    Holding,
}

/// The type of a value, in 16-bit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One register.
    U16,
    /// One register, two's complement.
    I16,
    /// Two registers.
    U32,
    /// Two registers, two's complement.
    I32,
    /// Four registers.
    U64,
    /// Two registers, IEEE 754.
    F32,
    /// Four registers, IEEE 754.
    F64,
}

/// Which register of a value comes first. The two bytes within one are always in the order of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WordOrder {
    /// The high word first.
    #[default]
    Big,
    /// The low word first.
    Little,
}

/// One value of a meter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Register {
    /// Which table.
    #[serde(default)]
    pub function: Function,
    /// Address of the first register, from 0: one less than in tables that begin with 30001 or 40001.
    pub address: u16,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Order of its registers.
    #[serde(default)]
    pub words: WordOrder,
    /// What the number is multiplied by to be in `unit`.
    #[serde(default = "one")]
    pub scale: f64,
    /// The unit, which says what is measured.
    pub unit: Unit,
    /// The phase or branch that it is about, as it will be called; without one, the whole meter.
    #[serde(default)]
    pub phase: Option<String>,
}

const fn one() -> f64 {
    1.0
}

/// A meter whose registers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Eastron SDM120, SDM220, SDM230: one phase (Eastron, "Modbus protocol implementation").
    EastronSdm120,
    /// Eastron SDM72D-M, SDM630: three phases (same document).
    EastronSdm630,
}

impl Kind {
    /// How many registers it takes.
    pub const fn width(self) -> u16 {
        match self {
            Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
            Self::U64 | Self::F64 => 4,
        }
    }

    /// The number in these registers; `None` if there are too few, or it is the one that stands for "not measured":
    /// the largest unsigned, the smallest signed, no number (SunSpec, "Device Information Model", 4).
    pub fn decode(self, registers: &[u16], words: WordOrder) -> Option<f64> {
        let width = usize::from(self.width());
        let taken = registers.get(..width)?;
        let push = |bits: u64, &word: &u16| bits << 16 | u64::from(word);
        let bits = match words {
            WordOrder::Big => taken.iter().fold(0, push),
            WordOrder::Little => taken.iter().rev().fold(0, push),
        };
        #[allow(clippy::cast_possible_truncation, reason = "the width above is that of the type")]
        let value = match self {
            Self::U16 => (bits != u64::from(u16::MAX)).then_some(bits as f64),
            Self::U32 => (bits != u64::from(u32::MAX)).then_some(bits as f64),
            Self::U64 => (bits != u64::MAX).then_some(bits as f64),
            Self::I16 => Some(bits as u16 as i16).filter(|v| *v != i16::MIN).map(f64::from),
            Self::I32 => Some(bits as u32 as i32).filter(|v| *v != i32::MIN).map(f64::from),
            Self::F32 => Some(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Some(f64::from_bits(bits)),
        };
        value.filter(|v| v.is_finite())
    }
}

impl Register {
    /// One past its last register; it may be past the last there is.
    fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.kind.width())
    }

    /// Its value among registers read from `from` on.
    pub(crate) fn value(&self, from: u16, registers: &[u16]) -> Option<f64> {
        let offset = usize::from(self.address.checked_sub(from)?);
        self.kind.decode(registers.get(offset..)?, self.words)
    }

    /// The step of its value, in its unit.
    pub(crate) fn step(&self) -> Step {
        match self.kind {
            Kind::F32 | Kind::F64 => Step::Digits(self.scale.abs()),
            _ => Step::Known(self.scale.abs()),
        }
    }

    /// Whether it can be read at all.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.end() > 1 << 16 {
            return Some(format!("register {} of type {:?} goes beyond the last register", self.address, self.kind));
        }
        (!self.scale.is_finite() || self.scale == 0.0)
            .then(|| format!("the scale of register {} has to be a number other than 0", self.address))
    }
}

impl Preset {
    /// Its registers.
    pub fn registers(self) -> Vec<Register> {
        let float = |address, unit, phase: Option<&str>| Register {
            function: Function::Input,
            address,
            kind: Kind::F32,
            words: WordOrder::Big,
            scale: 1.0,
            unit,
            phase: phase.map(ToOwned::to_owned),
        };
        match self {
            Self::EastronSdm120 => vec![
                float(0x0000, Unit::Volt, None),
                float(0x0006, Unit::Ampere, None),
                float(0x000C, Unit::Watt, None),
                float(0x0156, Unit::KilowattHour, None),
            ],
            Self::EastronSdm630 => {
                let line = |n: u16, name| {
                    [
                        float(2 * n, Unit::Volt, Some(name)),
                        float(0x0006 + 2 * n, Unit::Ampere, Some(name)),
                        float(0x000C + 2 * n, Unit::Watt, Some(name)),
                    ]
                };
                let lines = [line(0, "L1"), line(1, "L2"), line(2, "L3")].into_iter().flatten();
                let total = [
                    float(0x0030, Unit::Ampere, None),
                    float(0x0034, Unit::Watt, None),
                    float(0x0156, Unit::KilowattHour, None),
                ];
                lines.chain(total).collect()
            }
        }
    }

    /// How many registers between two that are wanted may be read with them: these meters answer for all.
    pub const fn gap(self) -> u16 {
        30
    }
}

/// The requests that read these registers: neighbours at once, and those with at most `gap` unwanted ones between.
pub(crate) fn requests(registers: &[Register], gap: u16) -> Vec<(Function, Range<u32>)> {
    let mut wanted: Vec<_> = registers.iter().map(|r| (r.function, u32::from(r.address)..r.end())).collect();
    wanted.sort_by_key(|(function, range)| (*function, range.start, range.end));
    let mut requests: Vec<(Function, Range<u32>)> = Vec::new();
    for (function, range) in wanted {
        match requests.last_mut() {
            Some((last, open))
                if *last == function
                    && range.start <= open.end + u32::from(gap)
                    && range.end.max(open.end) - open.start <= MOST_AT_ONCE =>
            {
                open.end = open.end.max(range.end);
            }
            _ => requests.push((function, range)),
        }
    }
    requests
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn types_and_orders() {
        let big = WordOrder::Big;
        assert_eq!(Kind::U16.decode(&[7], big), Some(7.0));
        assert_eq!(Kind::I16.decode(&[0xFFFE], big), Some(-2.0));
        assert_eq!(Kind::U32.decode(&[1, 2], big), Some(65_538.0));
        assert_eq!(Kind::U32.decode(&[2, 1], WordOrder::Little), Some(65_538.0));
        assert_eq!(Kind::I32.decode(&[0xFFFF, 0xFFFF], big), Some(-1.0));
        assert_eq!(Kind::U64.decode(&[0, 0, 1, 0], big), Some(65_536.0));
        // 230.2 V as an SDM sends it
        let volts = Kind::F32.decode(&[0x4366, 0x3333], big).unwrap();
        assert!((volts - 230.2).abs() < 1e-4, "{volts}");
        assert_eq!(Kind::F64.decode(&[0, 0, 0, 0x4000], WordOrder::Little), Some(2.0));
    }

    #[test]
    fn what_stands_for_not_measured_is_absent() {
        for (kind, registers) in [
            (Kind::U16, &[0xFFFF][..]),
            (Kind::I16, &[0x8000]),
            (Kind::U32, &[0xFFFF, 0xFFFF]),
            (Kind::I32, &[0x8000, 0]),
            (Kind::U64, &[0xFFFF; 4]),
            (Kind::F32, &[0x7FC0, 0]),
            (Kind::F32, &[1]),
            (Kind::U16, &[]),
        ] {
            assert_eq!(kind.decode(registers, WordOrder::Big), None, "{kind:?} {registers:?}");
        }
    }

    #[test]
    fn neighbours_are_read_at_once() {
        let sdm = Preset::EastronSdm630;
        let got = requests(&sdm.registers(), sdm.gap());
        assert_eq!(got, [(Function::Input, 0..54), (Function::Input, 342..344)]);
        assert_eq!(requests(&sdm.registers(), 0).len(), 4, "volts, amperes and watts are neighbours");
    }

    proptest! {
        #[test]
        fn requests_cover_what_is_wanted_and_fit(addresses in prop::collection::vec(0..65_532u16, 1..40), gap in 0..50u16) {
            let all: Vec<Register> = addresses
                .iter()
                .map(|&address| Register { address, kind: Kind::U64, ..Preset::EastronSdm120.registers().remove(0) })
                .collect();
            let requests = requests(&all, gap);
            for r in &all {
                prop_assert!(requests.iter().any(|(_, q)| q.start <= u32::from(r.address) && r.end() <= q.end));
            }
            prop_assert!(requests.iter().all(|(_, q)| q.end - q.start <= MOST_AT_ONCE && q.end <= 1 << 16));
        }

        #[test]
        fn no_registers_panic_or_make_zero_of_nothing(registers in prop::collection::vec(any::<u16>(), 0..6), address in any::<u16>(), from in any::<u16>()) {
            for kind in [Kind::U16, Kind::I16, Kind::U32, Kind::I32, Kind::U64, Kind::F32, Kind::F64] {
                for words in [WordOrder::Big, WordOrder::Little] {
                    let value = kind.decode(&registers, words);
                    prop_assert!(value.is_none_or(f64::is_finite));
                    prop_assert!(value.is_none() || registers.len() >= usize::from(kind.width()));
                    let register = Register { address, kind, words, ..Preset::EastronSdm120.registers().remove(0) };
                    prop_assert!(address >= from || register.value(from, &registers).is_none());
                }
            }
        }
    }
}
