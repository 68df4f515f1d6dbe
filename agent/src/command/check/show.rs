//! The report as text: columns, hanging indents, colours. Pure but for [`Look::of_terminal`].

use super::judge::{Finding, Level};

/// Where the text begins.
const TEXT: usize = 25;
/// Where a fix begins, and where its further lines do.
const FIX: (usize, usize) = (13, 18);

/// How the report is printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Columns.
    pub(super) width: usize,
    /// Whether levels are coloured.
    pub(super) colour: bool,
}

impl Look {
    /// 80 columns in a file; as wide as a terminal is, with colours unless `NO_COLOR` is set.
    pub(super) fn of_terminal(terminal: bool) -> Self {
        if !terminal {
            return Self { width: 80, colour: false };
        }
        let width = crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns));
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self { width: width.clamp(60, 120), colour: !no_colour }
    }
}

/// All rows and the summary.
pub(super) fn table(rows: &[Finding], summary: &str, look: Look) -> String {
    let mut out = String::new();
    for row in rows {
        let text = if row.effect.is_empty() { row.found.clone() } else { format!("{} → {}", row.found, row.effect) };
        let level = format!("{:<9}", row.level.as_str());
        let level = if look.colour { coloured(row.level, &level) } else { level };
        out.push_str(&format!(" {level} {:<13} {}\n", row.subject, wrap(&text, TEXT, TEXT, look.width)));
        if let Some(fix) = &row.fix {
            let text = wrap(&format!("fix: {fix}"), FIX.0, FIX.1, look.width);
            out.push_str(&format!("{:width$}{text}\n", "", width = FIX.0));
        }
    }
    out.push_str(&wrap(summary, 0, 2, look.width));
    out.push('\n');
    out
}

fn coloured(level: Level, text: &str) -> String {
    let code = match level {
        Level::Ok => 32,
        Level::Degraded => 33,
        Level::Missing => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Breaks `text`, which begins at column `first`, at spaces; further lines begin at column `hang`. A word that is
/// too long for a line stays whole, so that it can be copied. Control characters are shown as `?`.
fn wrap(text: &str, first: usize, hang: usize, width: usize) -> String {
    let mut out = String::new();
    let mut column = first;
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let length = word.chars().count();
        // a figure and its unit stay together
        let unit = words.peek().filter(|next| is_unit(next)).map_or(0, |next| 1 + next.chars().count());
        if out.is_empty() {
        } else if column + 1 + length + unit <= width || is_unit(word) && column + 1 + length <= width {
            out.push(' ');
            column += 1;
        } else {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', hang));
            column = hang;
        }
        out.extend(word.chars().map(|c| if c.is_control() { '?' } else { c }));
        column += length;
    }
    out
}

fn is_unit(word: &str) -> bool {
    matches!(word.trim_end_matches([',', ')', ':', ';']), "W" | "mW" | "kW" | "%" | "s" | "min" | "h" | "CPUs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Nothing is lost, nothing sticks out unless a single word is too long.
        #[test]
        fn lines_fit_and_keep_every_word(text in "\\PC{0,200}", hang in 0..30usize, width in 60..120usize) {
            let wrapped = wrap(&text, hang, hang, width);
            let words = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&wrapped), words(&text));
            for (n, line) in wrapped.lines().enumerate() {
                let columns = line.chars().count() + if n == 0 { hang } else { 0 };
                prop_assert!(columns <= width || words(line).len() == 1, "{line:?}");
            }
        }

        #[test]
        fn a_terminal_gets_no_escapes_from_texts(text in any::<String>()) {
            prop_assert!(!wrap(&text, 0, 2, 80).contains('\x1b'));
        }
    }

    #[test]
    fn only_the_level_is_coloured() {
        let row = Finding::ok("cgroup", "v2");
        let text = table(std::slice::from_ref(&row), "fine", Look { width: 80, colour: true });
        assert_eq!(text, " \x1b[32mok       \x1b[0m cgroup        v2\nfine\n");
        assert_eq!(table(&[row], "fine", Look { width: 80, colour: false }), " ok        cgroup        v2\nfine\n");
    }
}
