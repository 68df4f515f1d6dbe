//! How figures and names are written: three digits, a unit, a mark for quality, `–` for what is not known.

use ebbtide_proto::series::Quality;
use ebbtide_proto::v1::{self, NodeState};
use ebbtide_proto::{Energy, Power, Ratio};
use maud::{Markup, Render, html};

/// What stands for a figure that is not known.
pub(super) const UNKNOWN: &str = "–";

/// A figure as text, and in one word what it is, if it isn't simply measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Figure {
    pub text: String,
    pub is: &'static str,
}

/// A figure at a place of the page where a browser is told of changes, under a name that is unique on the page.
pub(super) struct Live<'a> {
    pub key: &'a str,
    pub figure: Figure,
}

impl Figure {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), is: "" }
    }

    fn unknown() -> Self {
        Self { text: UNKNOWN.to_owned(), is: "unknown" }
    }
}

impl Render for Figure {
    fn render(&self) -> Markup {
        html! {
            @if self.is.is_empty() {
                (self.text)
            } @else {
                span data-is=(self.is) title=(self.is) { (self.text) }
            }
        }
    }
}

impl Render for Live<'_> {
    fn render(&self) -> Markup {
        let is = Some(self.figure.is).filter(|is| !is.is_empty());
        html! { span data-live=(self.key) data-is=[is] title=[is] { (self.figure.text) } }
    }
}

/// The quality that a message tells, if it tells one.
pub(super) fn quality(wire: i32) -> Option<Quality> {
    Quality::try_from(v1::Quality::try_from(wire).ok()?).ok()
}

/// The quality of a node's figures: stale if it isn't heard, whatever they were.
pub(super) fn node_quality(node: &v1::Node) -> Option<Quality> {
    match node.state() {
        NodeState::Stale | NodeState::Refused | NodeState::Gone => Some(Quality::Stale),
        _ => quality(node.quality),
    }
}

pub(super) fn power(uw: Option<u64>, quality: Option<Quality>) -> Figure {
    marked(uw.map(Power::from_uw), quality)
}

pub(super) fn energy(uj: Option<u64>, quality: Option<Quality>) -> Figure {
    marked(uj.map(Energy::from_uj), quality)
}

fn marked(figure: Option<impl ToString>, quality: Option<Quality>) -> Figure {
    let Some(figure) = figure else {
        return Figure::unknown();
    };
    let mark = quality.map_or("", Quality::mark);
    let is = if mark.is_empty() { "" } else { quality.map_or("", Quality::as_str) };
    Figure { text: format!("{mark}{}", figure.to_string()), is }
}

/// Busy CPUs with three digits. They are always counted; only that they may be old has a mark.
pub(super) fn cpus(milli: Option<u64>, quality: Option<Quality>) -> Figure {
    let digits = milli.map(|m| match m {
        0..10_000 => format!("{}.{:02}", m / 1000, m % 1000 / 10),
        10_000..100_000 => format!("{}.{}", m / 1000, m % 1000 / 100),
        _ => format!("{}", m / 1000),
    });
    marked(digits, quality.filter(|q| *q == Quality::Stale))
}

/// `part` of `whole` in percent; nothing where there is no whole.
pub(super) fn share(part: Option<u64>, whole: Option<u64>) -> String {
    let percent = part.zip(whole).and_then(|(part, whole)| (u128::from(part) * 100).checked_div(u128::from(whole)));
    percent.map_or_else(String::new, |p| format!("{p} %"))
}

/// An expected relative error.
pub(super) fn error(ppm: u32) -> String {
    if ppm == 0 { UNKNOWN.to_owned() } else { format!("±{}", Ratio::from_ppm(ppm)).replace(' ', "\u{a0}") }
}

/// How long ago, roughly: what is a few seconds old is not told more exactly than a page can be kept up to date.
pub(super) fn ago(ms: u64, now: u64) -> String {
    if ms == 0 {
        return "never".to_owned();
    }
    match now.saturating_sub(ms) {
        0..10_000 => "now".to_owned(),
        d => format!("{} ago", duration(d)),
    }
}

/// A length of time in its largest unit.
pub(super) fn duration(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// A whole number with a thin gap between thousands.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1 node`, `2 nodes`.
pub(super) fn plural(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Bytes in binary units.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = n;
    let mut unit = "B";
    let mut tenths = 0;
    for next in UNITS {
        if size < 1024 {
            break;
        }
        tenths = size % 1024 * 10 / 1024;
        size /= 1024;
        unit = next;
    }
    if size < 10 && unit != "B" { format!("{size}.{tenths} {unit}") } else { format!("{size} {unit}") }
}

/// The word for a node's state.
pub(super) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unspecified => "unknown",
        NodeState::Live => "live",
        NodeState::CatchingUp => "catching up",
        NodeState::Stale => "stale",
        NodeState::Gone => "gone",
        NodeState::Refused => "refused",
    }
}

/// `text` as a part of a URL.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Where a node's page is.
pub(super) fn node_href(name: &str) -> String {
    format!("/node/{}", escaped(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_zero_and_what_is_not_measured_has_a_mark() {
        assert_eq!(power(None, Some(Quality::Measured)).text, "–");
        assert_eq!(power(Some(0), Some(Quality::Measured)).text, "0 W");
        assert_eq!(power(Some(5_800_000), Some(Quality::Scaled)), Figure { text: "~5.80 W".into(), is: "scaled" });
        assert_eq!(power(Some(5_800_000), Some(Quality::Stale)).text, "?5.80 W");
        assert_eq!(cpus(Some(4_126), Some(Quality::Modelled)).text, "4.12");
        assert_eq!(cpus(Some(41_260), Some(Quality::Stale)).text, "?41.2");
        assert_eq!(share(Some(1), Some(0)), "");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(15 << 20), "15 MiB");
        assert_eq!(duration(7_300_000), "2 h");
        assert_eq!(ago(0, 5), "never");
        assert_eq!(escaped("a b/ü"), "a%20b%2F%C3%BC");
    }
}
