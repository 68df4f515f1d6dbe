//! The time range in a URL: `?range=6h`, or `?from=…&until=…` as RFC 3339 or in milliseconds since 1970.
//!
//! A link shows a colleague the same thing; what follows the clock says so by its name.

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::figures::escaped;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Ranges that follow the clock.
const RANGES: [(&str, u64); 4] = [("1h", HOUR), ("6h", 6 * HOUR), ("24h", DAY), ("7d", 7 * DAY)];
/// The longest range that can be asked for.
const LONGEST: u64 = 10 * 366 * DAY;
/// The most steps that are drawn.
const STEPS: u64 = 400;
/// How long steps are: what the store is asked for, and how many of those make one.
const STEP: [(u64, u64); 16] = [
    (SECOND, 1),
    (SECOND, 5),
    (10 * SECOND, 1),
    (10 * SECOND, 3),
    (MINUTE, 1),
    (MINUTE, 2),
    (MINUTE, 5),
    (MINUTE, 15),
    (HOUR, 1),
    (HOUR, 2),
    (HOUR, 4),
    (HOUR, 8),
    (HOUR, 24),
    (HOUR, 48),
    (HOUR, 96),
    (HOUR, 240),
];

/// What stands in the URL.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Asked {
    pub range: Option<String>,
    pub from: Option<String>,
    pub until: Option<String>,
    /// `table`: figures in place of plots.
    pub view: Option<String>,
    pub by: Option<String>,
    pub q: Option<String>,
    pub all: Option<String>,
}

/// A range of time and how finely it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Milliseconds since 1970 UTC; a multiple of the step.
    pub from_ms: u64,
    /// Milliseconds since 1970 UTC.
    pub until_ms: u64,
    /// The name of a range that follows the clock.
    pub follows: Option<&'static str>,
    /// Length of the steps that the store is asked for, in milliseconds.
    pub step_ms: u64,
    /// How many of them are drawn as one.
    pub merge: u64,
}

impl Window {
    /// The range that was asked for; the last hour if none was.
    pub(super) fn of(asked: &Asked, now: u64) -> Result<Self, String> {
        if asked.from.is_some() || asked.until.is_some() {
            let until = asked.until.as_deref().map_or(Ok(now), moment)?;
            let from = asked.from.as_deref().map_or(Ok(until.saturating_sub(HOUR)), moment)?;
            if from >= until || until - from > LONGEST {
                return Err("`until` has to be after `from`, by ten years at most".to_owned());
            }
            return Ok(Self::between(from, until, None));
        }
        let name = asked.range.as_deref().unwrap_or("1h");
        match RANGES.into_iter().find(|(known, _)| *known == name) {
            Some((name, length)) => Ok(Self::between(now.saturating_sub(length), now, Some(name))),
            None => Err(format!("range {name:?} is none of 1h, 6h, 24h, 7d; use from=…&until=… for another")),
        }
    }

    fn between(from: u64, until: u64, follows: Option<&'static str>) -> Self {
        let fits = |(step, merge): &(u64, u64)| (until - from).div_ceil(step * merge) <= STEPS;
        let (step_ms, merge) = STEP.into_iter().find(fits).unwrap_or((HOUR, 240));
        let drawn = step_ms * merge;
        // What follows the clock ends with the step that is being filled.
        let from_ms = if follows.is_some() { from.next_multiple_of(drawn) } else { from - from % drawn };
        Self { from_ms, until_ms: until, follows, step_ms, merge }
    }

    /// What goes into a query for energy: the daemon knows best what is now.
    pub(super) fn asked_until_ms(&self) -> u64 {
        if self.follows.is_some() { 0 } else { self.until_ms }
    }

    /// As it stands in a URL, without `?`.
    pub(super) fn query(&self) -> String {
        match self.follows {
            Some(name) => format!("range={name}"),
            None => between(self.from_ms, self.until_ms),
        }
    }

    /// Links to other ranges; `rest` is what else stands in the URL, each with a `&` before it.
    pub(super) fn picker(&self, path: &str, rest: &str) -> Markup {
        let length = self.until_ms - self.from_ms;
        let earlier = between(self.from_ms.saturating_sub(length), self.from_ms);
        let later = between(self.until_ms, self.until_ms.saturating_add(length));
        let wider = between(self.from_ms.saturating_sub(length / 2), self.until_ms.saturating_add(length / 2));
        html! {
            nav.range aria-label="time range" {
                a href=(format!("{path}?{earlier}{rest}")) rel="prev" title="earlier" { "‹" span.hidden { "earlier" } }
                @for (name, _) in RANGES {
                    a href=(format!("{path}?range={name}{rest}")) aria-current=[(self.follows == Some(name)).then_some("true")] { (name) }
                }
                @if self.follows.is_none() {
                    a href=(format!("{path}?{wider}{rest}")) title="twice as long" { "wider" }
                    a href=(format!("{path}?{later}{rest}")) rel="next" title="later" { "›" span.hidden { "later" } }
                }
            }
        }
    }
}

fn between(from_ms: u64, until_ms: u64) -> String {
    format!("from={}&until={}", written(from_ms), written(until_ms))
}

fn written(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| ms.to_string(), |at| escaped(&at.to_string()).replace("%3A", ":"))
}

fn moment(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no moment; write it as 2026-05-12T14:00:00Z or in milliseconds since 1970");
    let ms = match text.parse::<u64>() {
        Ok(ms) => ms,
        Err(_) => {
            u64::try_from(text.parse::<Timestamp>().map_err(|_| wrong())?.as_millisecond()).map_err(|_| wrong())?
        }
    };
    // Beyond that there are no dates to write.
    let known = i64::try_from(ms).is_ok_and(|ms| Timestamp::from_millisecond(ms).is_ok());
    known.then_some(ms).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_778_594_531_000;

    fn asked(range: Option<&str>, from: Option<&str>, until: Option<&str>) -> Asked {
        Asked {
            range: range.map(Into::into),
            from: from.map(Into::into),
            until: until.map(Into::into),
            ..Asked::default()
        }
    }

    #[test]
    fn ranges_follow_the_clock_in_steps_that_the_store_has() {
        for (name, step, merge) in [("1h", 10_000, 1), ("6h", 60_000, 1), ("24h", 60_000, 5), ("7d", 3_600_000, 1)] {
            let window = Window::of(&asked(Some(name), None, None), NOW).unwrap();
            assert_eq!((window.step_ms, window.merge), (step, merge), "{name}");
            assert_eq!(window.query(), format!("range={name}"));
        }
        assert!(Window::of(&asked(Some("2y"), None, None), NOW).unwrap_err().contains("range"));
    }

    #[test]
    fn moments_are_read_in_both_ways_and_written_in_one() {
        let a = Window::of(&asked(None, Some("2026-05-12T13:00:00Z"), Some("1778594520000")), NOW).unwrap();
        assert_eq!(a.query(), "from=2026-05-12T13:00:00Z&until=2026-05-12T14:02:00Z");
        for (from, until) in
            [("yesterday", "0"), ("5", "5"), ("6", "5"), ("0", "99999999999999999999"), ("0", "18446744073709551615")]
        {
            assert!(Window::of(&asked(None, Some(from), Some(until)), NOW).is_err(), "{from} {until}");
        }
    }

    proptest! {
        #[test]
        fn any_range_has_a_bounded_number_of_steps_and_its_link_shows_the_same(from in 0..NOW, length in 1..LONGEST) {
            let (f, u) = (from.to_string(), (from + length).to_string());
            let window = Window::of(&asked(None, Some(&f), Some(&u)), NOW).unwrap();
            let drawn = window.step_ms * window.merge;
            prop_assert!((window.until_ms - window.from_ms).div_ceil(drawn) <= STEPS + 1);
            prop_assert!(window.from_ms <= from && window.from_ms.is_multiple_of(drawn));
        }
    }
}
