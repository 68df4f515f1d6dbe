//! What sysfs says of the PMU's events: how to open one, and how much energy one count is.

use std::path::Path;

use ebbtide_proto::Energy;

use crate::host;
use crate::source::ZoneKind;

/// One event of the PMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Its file, for people.
    pub(super) path: String,
    /// What it counts.
    pub(super) kind: ZoneKind,
    /// The number by which it is opened.
    pub(super) config: u64,
    /// How much one count is.
    pub(super) scale: Scale,
}

/// Microjoules per count as a fixed point number with 32 binary digits. The kernel's scale is
/// 2⁻³² J, which makes this exactly 1 000 000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scale(u64);

impl Scale {
    /// Less than this would be wrong by more than a thousandth.
    const LEAST: u64 = 1000;

    /// Reads the text of `energy-*.scale`, in joules per count.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let joules: f64 = text.parse().ok()?;
        let fixed = (joules * 1e6 * f64::from(2).powi(32)).round();
        let fits = fixed.is_finite() && (Self::LEAST as f64..9e15).contains(&fixed);
        #[allow(clippy::cast_possible_truncation, reason = "within the range checked above")]
        fits.then_some(Self(fixed as u64))
    }

    /// The energy of `count`, rounded down.
    pub(super) fn energy(self, count: u64) -> Energy {
        let uj = (u128::from(count) * u128::from(self.0)) >> 32;
        Energy::from_uj(u64::try_from(uj).unwrap_or(u64::MAX))
    }

    /// Where the counter would start over.
    pub(super) fn range(self) -> Energy {
        self.energy(u64::MAX)
    }
}

/// Reads the events of the PMU at `folder`; what can't be used is `(file, why)`.
pub(super) fn list(folder: &Path) -> Vec<Result<Event, (String, String)>> {
    let events = folder.join("events");
    // `energy-pkg.scale` and `energy-pkg.unit` stand beside `energy-pkg`
    let names = host::list(&events).into_iter().filter(|name| !name.contains('.'));
    let read = |name: String| {
        let path = events.join(&name);
        let text = |suffix: &str| host::read_line(&events.join(format!("{name}{suffix}"))).unwrap_or_default();
        let shown = path.display().to_string();
        let Some(kind) = kind_of(&name) else { return Err((shown, "an event that isn't known".to_owned())) };
        if text(".unit") != "Joules" {
            return Err((shown, format!("its unit is {:?}, not Joules", start_of(&text(".unit")))));
        }
        let Some(scale) = Scale::parse(&text(".scale")) else {
            return Err((shown, format!("its scale {:?} is not one of energy", start_of(&text(".scale")))));
        };
        let format = |term: &str| host::read_line(&folder.join("format").join(term)).ok();
        let Some(config) = config_of(&text(""), format) else {
            return Err((shown, format!("can't tell how to open {:?}", start_of(&text("")))));
        };
        Ok(Event { path: shown, kind, config, scale })
    };
    names.map(read).collect()
}

fn kind_of(name: &str) -> Option<ZoneKind> {
    Some(match name {
        "energy-pkg" => ZoneKind::Package,
        "energy-cores" => ZoneKind::Core,
        "energy-gpu" => ZoneKind::Uncore,
        "energy-ram" => ZoneKind::Dram,
        "energy-psys" => ZoneKind::Psys,
        _ => return None,
    })
}

fn start_of(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The `config` that `event=0x02,…` stands for, given what the files in `format/` say of each term
/// (`config:0-7`). `None` for terms that go elsewhere than into `config`, or don't fit.
fn config_of(event: &str, format: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut config = 0;
    for term in event.split(',') {
        let (name, value) = term.split_once('=').unwrap_or((term, "1"));
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return None;
        }
        let value = match value.trim().strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok()?,
            None => value.trim().parse().ok()?,
        };
        let format = format(name)?;
        let bits = format.strip_prefix("config:")?;
        let (low, high) = bits.split_once('-').unwrap_or((bits, bits));
        let (low, high): (u32, u32) = (low.parse().ok()?, high.parse().ok()?);
        let width = high.checked_sub(low)?.checked_add(1)?;
        let fits = high < 64 && (width == 64 || value >> width == 0);
        config |= fits.then(|| value << low)?;
    }
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KERNELS: &str = "2.3283064365386962890625e-10";

    #[test]
    fn the_kernels_scale_is_exact() {
        let scale = Scale::parse(KERNELS).unwrap();
        assert_eq!(scale, Scale(1_000_000));
        assert_eq!(scale.energy(1 << 32), Energy::from_uj(1_000_000));
        assert_eq!(scale.energy((1 << 32) - 1), Energy::from_uj(999_999));
        assert_eq!(scale.range(), Energy::from_uj(4_294_967_295_999_999));
        for bad in ["", "0", "-1", "nan", "inf", "1e-30", "1e30", "0x1"] {
            assert_eq!(Scale::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn terms_go_where_the_format_says() {
        let format = |term: &str| {
            let bits = match term {
                "event" => "config:0-7",
                "umask" => "config:8-15",
                "edge" => "config:18",
                "all" => "config:0-63",
                "far" => "config1:0-7",
                "bad" => "config:9-3",
                _ => return None,
            };
            Some(bits.to_owned())
        };
        assert_eq!(config_of("event=0x02", format), Some(2));
        assert_eq!(config_of("event=5,umask=0xff,edge", format), Some(0x4_ff05));
        assert_eq!(config_of("all=0xffffffffffffffff", format), Some(u64::MAX));
        for bad in ["", "event=0x100", "far=1", "bad=1", "other=1", "../x=1", "event=", "event=-1"] {
            assert_eq!(config_of(bad, format), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn energy_follows_the_count_to_the_microjoule(count in any::<u64>(), step in 0..1u64 << 40) {
            let scale = Scale::parse(KERNELS).unwrap();
            let uj = u128::from(scale.energy(count).uj());
            // uj ≤ count · 10⁶ / 2³² < uj + 1
            prop_assert!(uj << 32 <= u128::from(count) * 1_000_000 && u128::from(count) * 1_000_000 < (uj + 1) << 32);
            prop_assert!(scale.energy(count.saturating_add(step)) >= scale.energy(count));
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), bits in any::<String>()) {
            if let Some(scale) = Scale::parse(&text) {
                prop_assert!(scale.0 >= Scale::LEAST && scale.range() > Energy::ZERO);
            }
            prop_assert!(config_of(&text, |_| None).is_none());
            let small = config_of("event=1", |_| Some(format!("config:{bits}")));
            prop_assert!(small.is_none_or(|c| c.is_power_of_two()));
        }
    }
}
