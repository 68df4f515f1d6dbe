//! Where lines and labels of the axes go: round figures of watts, round times of day (UTC).

use jiff::{Timestamp, tz::TimeZone};

use super::Steps;

/// The watt axis, from zero up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watts {
    /// Its upper end in microwatts; at least one.
    pub max: u128,
    /// Values that get a line, in microwatts, and what is written there. Zero is not among them.
    pub ticks: Vec<(u128, String)>,
}

/// A time that gets a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tick {
    /// Milliseconds since 1970 UTC.
    pub ms: u64,
    /// What is written there.
    pub label: String,
    /// Whether it is also written where there is little room.
    pub major: bool,
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Distances between lines. Each is a multiple of the one before, so that the lines of a coarser one are lines of a
/// finer one too.
const DISTANCES: [u64; 18] = [
    SECOND,
    5 * SECOND,
    15 * SECOND,
    30 * SECOND,
    MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    8 * DAY,
    32 * DAY,
    128 * DAY,
    512 * DAY,
];
/// The most lines where there is room for many, and where there is little.
pub(super) const LINES: u64 = 12;
const FEW_LINES: u64 = 4;

impl Watts {
    /// An axis that holds `peak` microwatts, with three to six round figures on it.
    pub(super) fn up_to(peak: u128) -> Self {
        let peak = if peak == 0 { 1_000_000 } else { peak };
        let mut step: u128 = 1;
        'found: for decade in 0.. {
            for factor in [1, 2, 5] {
                step = factor * 10u128.pow(decade);
                if peak.div_ceil(step) <= 5 {
                    break 'found;
                }
            }
        }
        let n = peak.div_ceil(step);
        let max = n * step;
        Self { max, ticks: (1..=n).map(|i| (i * step, label(i * step, max))).collect() }
    }

    /// `uw` in thousandths of the axis, at most 1000.
    pub(super) fn permille(&self, uw: u128) -> u128 {
        (uw.saturating_mul(1000) / self.max).min(1000)
    }
}

/// `uw` in the unit that fits `max`, without zeros at its end: `1.5 kW`.
fn label(uw: u128, max: u128) -> String {
    const UNITS: [(u128, &str); 7] = [
        (1_000_000_000_000_000_000, "TW"),
        (1_000_000_000_000_000, "GW"),
        (1_000_000_000_000, "MW"),
        (1_000_000_000, "kW"),
        (1_000_000, "W"),
        (1_000, "mW"),
        (1, "µW"),
    ];
    let (size, unit) = UNITS.into_iter().find(|(size, _)| max >= *size).unwrap_or((1, "µW"));
    // Ticks are round: three decimals hold all of 0.2 or 0.25 of a unit.
    let (whole, thousandths) = (uw / size, uw % size * 1000 / size);
    let text = format!("{whole}.{thousandths:03}");
    format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Lines of the time axis, oldest first, about `lines` of them at most.
pub(super) fn times(steps: &Steps, lines: u64) -> Vec<Tick> {
    let length = steps.length_ms();
    let fitting = |lines: u64| DISTANCES.into_iter().find(|d| length / d <= lines);
    let Some(fine) = fitting(lines) else {
        return Vec::new();
    };
    let coarse = fitting(FEW_LINES).unwrap_or(fine);
    let mut ticks = Vec::new();
    let mut at = steps.from_ms.div_ceil(fine).saturating_mul(fine);
    while at <= steps.until_ms() && at != u64::MAX {
        if let Some(label) = time_label(at, fine) {
            ticks.push(Tick { ms: at, label, major: at.is_multiple_of(coarse) });
        }
        at = at.saturating_add(fine);
    }
    ticks
}

fn time_label(ms: u64, distance: u64) -> Option<String> {
    let format = match distance {
        d if d >= 32 * DAY => "%Y-%m-%d",
        d if d >= DAY || ms.is_multiple_of(DAY) => "%-d %b",
        d if d < MINUTE => "%H:%M:%S",
        _ => "%H:%M",
    };
    show(ms, format)
}

/// A moment in UTC, such as `2026-05-12 14:02:11`.
pub fn day_and_time(ms: u64) -> String {
    show(ms, "%Y-%m-%d %H:%M:%S").unwrap_or_else(|| "–".to_owned())
}

/// From when to when, such as `2026-05-12 13:02 – 14:02 UTC`.
pub fn span_text(from_ms: u64, until_ms: u64) -> String {
    let day = |ms| show(ms, "%Y-%m-%d");
    let time = if from_ms.is_multiple_of(MINUTE) && until_ms.is_multiple_of(MINUTE) { "%H:%M" } else { "%H:%M:%S" };
    let (Some(from), Some(until)) = (show(from_ms, &format!("%Y-%m-%d {time}")), show(until_ms, time)) else {
        return "–".to_owned();
    };
    match (day(from_ms), day(until_ms)) {
        (a, b) if a == b => format!("{from} – {until} UTC"),
        (_, Some(b)) => format!("{from} – {b} {until} UTC"),
        _ => "–".to_owned(),
    }
}

fn show(ms: u64, format: &str) -> Option<String> {
    let at = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(at.to_zoned(TimeZone::UTC).strftime(format).to_string())
}
