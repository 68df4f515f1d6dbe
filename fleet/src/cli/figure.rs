//! Figures as people read them: three digits and a unit, a mark for what isn't measured, `–` for what isn't known.

use std::time::Duration;

use ebbtide_proto::series::Quality;
use ebbtide_proto::{Energy, Power};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Stands for what isn't known.
pub(super) const UNKNOWN: &str = "–";

/// The mark of a quality as it is on the wire; one that this version doesn't know gets the mark of doubt.
pub(super) fn mark(quality: i32) -> &'static str {
    Quality::from_wire(quality).map_or("?", Quality::mark)
}

/// A power with its mark.
pub(super) fn power(uw: Option<u64>, quality: i32) -> String {
    uw.map_or_else(|| UNKNOWN.to_owned(), |uw| format!("{}{}", mark(quality), Power::from_uw(uw)))
}

/// An energy with its mark.
pub(super) fn energy(uj: Option<u64>, quality: i32) -> String {
    uj.map_or_else(|| UNKNOWN.to_owned(), |uj| format!("{}{}", mark(quality), Energy::from_uj(uj)))
}

/// Busy CPUs in percent of one.
pub(super) fn cpu(milli: Option<u64>) -> String {
    match milli {
        None => UNKNOWN.to_owned(),
        Some(0) => "0".to_owned(),
        Some(milli) if milli < 100 => format!("{}.{}", milli / 10, milli % 10),
        Some(milli) => format!("{}", milli.saturating_add(5) / 10),
    }
}

/// A part of a whole in percent, never rounded up to all of it nor down to nothing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return UNKNOWN.to_owned();
    }
    match part as f64 * 100.0 / whole as f64 {
        p if p >= 100.0 => "100 %".to_owned(),
        p if p > 99.0 => format!("{:.1} %", p.min(99.9)),
        p if p > 0.0 && p < 1.0 => format!("{:.1} %", p.max(0.1)),
        p => format!("{p:.0} %"),
    }
}

/// A count with thousands apart: `12,400`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes: `4.2 MiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A span of time in its largest unit, with the next one where it is not much: `45 s`, `12 min`, `3 h 20 min`, `12 d`.
pub(super) fn span(length: Duration) -> String {
    let s = length.as_secs();
    let two = |n: u64, unit: &str, rest: u64, small: &str| {
        if rest > 0 && n < 10 { format!("{n} {unit} {rest} {small}") } else { format!("{n} {unit}") }
    };
    match s {
        0 => format!("{} ms", length.as_millis()),
        1..60 => format!("{s} s"),
        60..3600 => two(s / 60, "min", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// How long before `now_ms` something was; `0` on the wire is never.
pub(super) fn ago(at_ms: u64, now_ms: u64) -> String {
    match at_ms {
        0 => UNKNOWN.to_owned(),
        at if at > now_ms.saturating_add(1000) => format!("in {}", span(Duration::from_millis(at - now_ms))),
        at if now_ms.saturating_sub(at) < 1000 => "now".to_owned(),
        at => format!("{} ago", span(Duration::from_millis(now_ms - at))),
    }
}

/// A moment on the clock of `zone`: `2026-11-22 14:02:11`, without what is zero at its end if `short`.
pub(super) fn moment(at_ms: u64, zone: &TimeZone, short: bool) -> String {
    moments(&[at_ms], zone, short).pop().unwrap_or_default()
}

/// Moments of a column, all in the same form: the shortest that loses nothing if `short`.
pub(super) fn moments(at_ms: &[u64], zone: &TimeZone, short: bool) -> Vec<String> {
    let there: Vec<_> = at_ms.iter().map(|at| timestamp(*at).map(|at| at.to_zoned(zone.clone()))).collect();
    let all = |whole: fn(&Zoned) -> bool| short && there.iter().flatten().all(whole);
    let format = if all(|at| at.hour() == 0 && at.minute() == 0 && at.second() == 0) {
        "%Y-%m-%d"
    } else if all(|at| at.second() == 0) {
        "%Y-%m-%d %H:%M"
    } else {
        "%Y-%m-%d %H:%M:%S"
    };
    let text =
        |at: &Option<Zoned>| at.as_ref().map_or_else(|| UNKNOWN.to_owned(), |at| at.strftime(format).to_string());
    there.iter().map(text).collect()
}

/// The time of day on the clock of `zone`.
pub(super) fn clock(at_ms: u64, zone: &TimeZone) -> String {
    timestamp(at_ms).map_or_else(|| UNKNOWN.to_owned(), |at| at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string())
}

/// A moment for programs: RFC 3339 in UTC.
pub(super) fn rfc3339(at_ms: u64) -> String {
    timestamp(at_ms).map_or_else(String::new, |at| at.to_string())
}

fn timestamp(at_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units_marks_and_a_sign_for_the_unknown() {
        assert_eq!(power(Some(63_140_000), 1), "63.1 W");
        assert_eq!(power(Some(63_140_000), 3), "~63.1 W");
        assert_eq!(power(Some(0), 4), "?0 W");
        assert_eq!(power(Some(1_000_000), 77), "?1.00 W", "a newer fleet's quality is nothing to rely on");
        assert_eq!(power(None, 1), "–");
        assert_eq!(energy(Some(11_160_000_000_000), 2), "~3.10 kWh");
        assert_eq!([None, Some(0), Some(4), Some(123), Some(4125)].map(cpu), ["–", "0", "0.4", "12", "413"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 1023, 1024, 10_240, 1 << 20, u64::MAX].map(bytes)[..5],
            ["0 B", "1023 B", "1.0 KiB", "10 KiB", "1.0 MiB"]
        );
    }

    #[test]
    fn nearly_all_is_not_all() {
        let of = |part| percent(part, 1_000_000);
        assert_eq!([0, 1, 20_000, 999_999, 1_000_000].map(of), ["0 %", "0.1 %", "2 %", "99.9 %", "100 %"]);
        assert_eq!(percent(1, 0), "–");
    }

    #[test]
    fn times_say_how_far_they_are() {
        let ms = Duration::from_millis;
        assert_eq!(span(ms(250)), "250 ms");
        assert_eq!(span(ms(59_999)), "59 s");
        assert_eq!(span(ms(200_000)), "3 min 20 s");
        assert_eq!(span(ms(12_000_000)), "3 h 20 min");
        assert_eq!(span(ms(30 * 86_400_000 + 7_200_000)), "30 d");
        assert_eq!(ago(0, 1_000_000), "–");
        assert_eq!(ago(999_500, 1_000_000), "now");
        assert_eq!(ago(940_000, 1_000_000), "1 min ago");
        assert_eq!(ago(1_090_000, 1_000_000), "in 1 min 30 s");
        let utc = TimeZone::UTC;
        assert_eq!(moment(1_795_305_600_000, &utc, true), "2026-11-22");
        assert_eq!(moment(1_795_305_660_000, &utc, true), "2026-11-22 00:01");
        assert_eq!(moment(u64::MAX, &utc, true), "–");
        let column = moments(&[1_795_305_600_000, 1_795_305_610_000], &utc, true);
        assert_eq!(column, ["2026-11-22 00:00:00", "2026-11-22 00:00:10"]);
        assert_eq!(rfc3339(1_795_305_660_000), "2026-11-22T00:01:00Z");
    }
}
