//! A metrics page: families of series rendered from one snapshot, a chunk at a time.
//!
//! A page of ten thousand processes is several megabytes. It is never built whole: the HTTP side pulls chunks as
//! the client reads, and each is rendered when it is asked for. Label sets are rendered once per task and kept.

use std::sync::Arc;

use bytes::Bytes;
use ebbtide_proto::Energy;

use super::negotiate::Format;
use crate::snapshot::{GroupRow, RowView, Snapshot, TaskRow};

/// Chunks are handed out when they reach this size.
const CHUNK: usize = 64 * 1024;

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    /// The name in both formats.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A metric: its name, what it means, and the labels of its series.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Full name; counters end in `_total` except where another agent's names are reproduced.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// One sentence with the unit.
    pub help: &'static str,
    /// Labels in the order in which they are written; a `?` at the end marks one that may be missing.
    pub labels: &'static [&'static str],
}

/// What a page is rendered from.
pub struct Context {
    /// The sample.
    pub snapshot: Arc<Snapshot>,
    /// What the operator wants to see.
    pub view: Arc<super::View>,
    /// Self metrics.
    pub own: super::own::Values,
    /// Zones under Kepler's names; empty unless those are wanted.
    pub zone_groups: Vec<super::kepler::ZoneGroup>,
    /// Figures for Scaphandre's names; empty unless those are wanted.
    pub host: super::scaphandre::HostFigures,
}

/// How the series of a family are made.
pub enum Series {
    /// All at once.
    Once(fn(&Context, &Family, &mut Lines)),
    /// From each task that has a row.
    Tasks(fn(&Context, &Family, RowView<'_, TaskRow>, &mut Lines)),
    /// From each workload of a level that is on.
    Groups(fn(&Context, &Family, RowView<'_, GroupRow>, &mut Lines)),
}

/// A family and how it is rendered.
pub struct Section {
    /// The family.
    pub family: Family,
    /// Its series.
    pub series: Series,
}

/// A row of a table of sections: name, kind, help, labels, and how its series are made.
macro_rules! section {
    ($name:literal, $kind:ident, $help:literal, [$($label:literal),*], $how:ident($write:expr)) => {
        $crate::export::page::Section {
            family: $crate::export::page::Family {
                name: $name,
                kind: $crate::export::page::Kind::$kind,
                help: $help,
                labels: &[$($label),*],
            },
            series: $crate::export::page::Series::$how($write),
        }
    };
}
pub(super) use section;

/// Lines being written.
#[derive(Default)]
pub struct Lines {
    buf: Vec<u8>,
    /// Series written on this page so far.
    pub series: u64,
}

impl Lines {
    /// Starts a series: name and the opened label set.
    pub fn start(&mut self, family: &Family) -> &mut Self {
        self.buf.extend_from_slice(family.name.as_bytes());
        self.buf.push(b'{');
        self
    }

    /// Adds a label set that was rendered before.
    pub fn rendered(&mut self, labels: &str) -> &mut Self {
        if !labels.is_empty() {
            self.comma();
            self.buf.extend_from_slice(labels.as_bytes());
        }
        self
    }

    /// Adds a label.
    pub fn label(&mut self, name: &str, value: &str) -> &mut Self {
        self.comma();
        push_label(&mut self.buf, name, value);
        self
    }

    fn comma(&mut self) {
        if self.buf.last() != Some(&b'{') {
            self.buf.push(b',');
        }
    }

    fn close(&mut self) {
        if self.buf.last() == Some(&b'{') {
            self.buf.pop();
        } else {
            self.buf.push(b'}');
        }
        self.buf.push(b' ');
        self.series += 1;
    }

    /// Ends a series with `millionths`/10⁶, exactly: microjoules as joules, microwatts as watts.
    pub fn millionths(&mut self, millionths: u64) {
        self.close();
        push_decimal(&mut self.buf, millionths / 1_000_000, millionths % 1_000_000, 6);
    }

    /// Ends a series with nanoseconds as seconds.
    pub fn nanoseconds(&mut self, ns: u64) {
        self.close();
        push_decimal(&mut self.buf, ns / 1_000_000_000, ns % 1_000_000_000, 9);
    }

    /// Ends a series with a whole number.
    pub fn whole(&mut self, n: u64) {
        self.close();
        push_number(&mut self.buf, n);
        self.buf.push(b'\n');
    }

    /// Ends a series with a float.
    pub fn float(&mut self, v: f64) {
        use std::io::Write;
        self.close();
        // writing to memory doesn't fail
        if writeln!(self.buf, "{v}").is_err() {
            self.buf.push(b'\n');
        }
    }

    /// Ends a series with an amount of energy in joules.
    pub fn joules(&mut self, energy: Energy) {
        self.millionths(energy.uj());
    }

    fn header(&mut self, family: &Family, format: Format) {
        let name = match format {
            Format::OpenMetrics => family.name.strip_suffix("_total").unwrap_or(family.name),
            Format::Text => family.name,
        };
        // OpenMetrics allows counters only where the name ends in _total
        let kind = match format {
            Format::OpenMetrics if family.kind == Kind::Counter && name == family.name => "unknown",
            _ => family.kind.as_str(),
        };
        for part in ["# HELP ", name, " ", family.help, "\n# TYPE ", name, " ", kind, "\n"] {
            self.buf.extend_from_slice(part.as_bytes());
        }
    }
}

/// Writes `name="value"` with the escapes of the exposition format.
pub fn push_label(buf: &mut Vec<u8>, name: &str, value: &str) {
    buf.extend_from_slice(name.as_bytes());
    buf.extend_from_slice(b"=\"");
    for &b in value.as_bytes() {
        match b {
            b'\\' => buf.extend_from_slice(b"\\\\"),
            b'"' => buf.extend_from_slice(b"\\\""),
            b'\n' => buf.extend_from_slice(b"\\n"),
            // other control characters have no place in a label and upset some scrapers
            0..32 | 127 => buf.push(b'?'),
            _ => buf.push(b),
        }
    }
    buf.push(b'"');
}

/// A label set without braces.
pub fn label_set(labels: &[(&str, &str)]) -> Box<str> {
    let mut buf = Vec::with_capacity(64);
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            buf.push(b',');
        }
        push_label(&mut buf, name, value);
    }
    String::from_utf8(buf).unwrap_or_default().into()
}

fn push_decimal(buf: &mut Vec<u8>, whole: u64, fraction: u64, digits: usize) {
    push_number(buf, whole);
    if fraction > 0 {
        let mut text = [b'0'; 10];
        let mut rest = fraction;
        for place in text.iter_mut().take(digits + 1).skip(1).rev() {
            *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        text[0] = b'.';
        let end = text.iter().take(digits + 1).rposition(|&d| d != b'0').unwrap_or(0) + 1;
        buf.extend_from_slice(text.get(..end).unwrap_or_default());
    }
    buf.push(b'\n');
}

fn push_number(buf: &mut Vec<u8>, mut n: u64) {
    let mut text = [0u8; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        if let Some(place) = text.get_mut(at) {
            *place = b'0' + u8::try_from(n % 10).unwrap_or(0);
        }
        n /= 10;
        if n == 0 {
            break;
        }
    }
    buf.extend_from_slice(text.get(at..).unwrap_or_default());
}

/// Renders a page chunk by chunk.
pub struct Page {
    context: Context,
    sections: Vec<&'static Section>,
    format: Format,
    section: usize,
    row: usize,
    lines: Lines,
    /// Series that tasks may still have; the budget protects who scrapes.
    tasks_left: u64,
    ended: bool,
}

impl Page {
    /// The page with these sections.
    pub fn new(context: Context, sections: Vec<&'static Section>, format: Format) -> Self {
        let budget = if context.view.series_budget == 0 { u64::MAX } else { u64::from(context.view.series_budget) };
        Self {
            context,
            sections,
            format,
            section: 0,
            row: 0,
            lines: Lines::default(),
            tasks_left: budget,
            ended: false,
        }
    }

    /// Renders until a chunk is full; `false` at the end of the page.
    fn fill(&mut self) -> bool {
        while let Some(section) = self.sections.get(self.section) {
            let family = &section.family;
            if self.row == 0 {
                self.lines.header(family, self.format);
            }
            match section.series {
                Series::Once(write) => write(&self.context, family, &mut self.lines),
                Series::Tasks(write) => {
                    while let Some(row) = self.context.snapshot.tasks.get(self.row) {
                        self.row += 1;
                        let before = self.lines.series;
                        if self.tasks_left > 0 {
                            write(&self.context, family, row, &mut self.lines);
                            self.tasks_left = self.tasks_left.saturating_sub(self.lines.series - before);
                        }
                        if self.lines.buf.len() >= CHUNK {
                            return true;
                        }
                    }
                }
                Series::Groups(write) => {
                    while let Some(row) = self.context.snapshot.groups.get(self.row) {
                        self.row += 1;
                        if self.context.view.levels.contains(&row.row.id.kind()) {
                            write(&self.context, family, row, &mut self.lines);
                        }
                        if self.lines.buf.len() >= CHUNK {
                            return true;
                        }
                    }
                }
            }
            self.section += 1;
            self.row = 0;
            if self.lines.buf.len() >= CHUNK {
                return true;
            }
        }
        false
    }
}

impl Iterator for Page {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if self.lines.buf.capacity() == 0 {
            self.lines.buf.reserve(CHUNK + CHUNK / 4);
        }
        if !self.fill() {
            self.ended = true;
            if self.format == Format::OpenMetrics {
                self.lines.buf.extend_from_slice(b"# EOF\n");
            }
            self.context.view.served(self.lines.series);
        }
        let full = std::mem::take(&mut self.lines.buf);
        Some(Bytes::from(full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAMILY: Family = Family { name: "x_total", kind: Kind::Counter, help: "Help.", labels: &[] };

    fn text(write: impl FnOnce(&mut Lines)) -> String {
        let mut lines = Lines::default();
        write(&mut lines);
        String::from_utf8(lines.buf).unwrap()
    }

    #[test]
    fn lines_look_as_the_format_says() {
        assert_eq!(
            text(|l| l.start(&FAMILY).label("a", "b\\\"\n\u{1}").label("c", "").millionths(12_000_340)),
            "x_total{a=\"b\\\\\\\"\\n?\",c=\"\"} 12.00034\n"
        );
        assert_eq!(text(|l| l.start(&FAMILY).whole(7)), "x_total 7\n");
        assert_eq!(
            text(|l| l.start(&FAMILY).rendered("p=\"1\"").label("z", "q").nanoseconds(1_500_000_000)),
            "x_total{p=\"1\",z=\"q\"} 1.5\n"
        );
        assert_eq!(text(|l| l.header(&FAMILY, Format::Text)), "# HELP x_total Help.\n# TYPE x_total counter\n");
        assert_eq!(text(|l| l.header(&FAMILY, Format::OpenMetrics)), "# HELP x Help.\n# TYPE x counter\n");
        let odd = Family { name: "scaph_uj", ..FAMILY };
        assert_eq!(text(|l| l.header(&odd, Format::OpenMetrics)), "# HELP scaph_uj Help.\n# TYPE scaph_uj unknown\n");
    }

    proptest! {
        /// Figures on the page are exact: parsed back as millionths they are what was written.
        #[test]
        fn decimals_are_exact(uj in any::<u64>()) {
            let line = text(|l| l.start(&FAMILY).millionths(uj));
            let value = line.trim_end().rsplit(' ').next().unwrap();
            let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
            let back = format!("{whole}{fraction:0<6}").parse::<u128>().unwrap();
            prop_assert_eq!(back, u128::from(uj));
        }

        /// No label value can break out of its quotes.
        #[test]
        fn labels_stay_in_their_quotes(value in any::<String>()) {
            let set = label_set(&[("a", &value), ("b", "end")]);
            prop_assert!(set.ends_with("\",b=\"end\""));
            prop_assert!(!set.contains('\n'));
            let inner = &set[3..set.len() - 9];
            let mut escaped = false;
            for c in inner.chars() {
                prop_assert!(escaped || c != '"');
                escaped = c == '\\' && !escaped;
            }
            prop_assert!(!escaped);
        }
    }
}
