//! Tables in markdown, what was reached and what not, and the section of `docs/benchmarks.md` that holds them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::figures::three_digits;

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// A figure that should not exceed a limit.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    /// What was measured, to be found again in the table.
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) limit: f64,
    pub(crate) unit: &'static str,
}

impl Goal {
    fn reached(&self) -> bool {
        self.measured <= self.limit
    }
}

/// A table below a heading.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) title: &'static str,
    /// How it was measured.
    pub(crate) about: String,
    pub(crate) columns: &'static [&'static str],
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) goals: Vec<Goal>,
}

impl Table {
    pub(crate) fn new(title: &'static str, about: impl Into<String>, columns: &'static [&'static str]) -> Self {
        Self { title, about: about.into(), columns, rows: Vec::new(), goals: Vec::new() }
    }

    /// Judges a figure. Gives two cells: the figure, and the limit with whether it was kept.
    pub(crate) fn judge(&mut self, what: &str, measured: f64, unit: &'static str, limit: Option<f64>) -> [String; 2] {
        let cell = format!("{} {unit}", three_digits(measured));
        let Some(limit) = limit else { return [cell, "–".to_owned()] };
        let goal = Goal { what: format!("{}, {what}", self.title), measured, limit, unit };
        let verdict = format!("≤ {limit} {unit} {}", if goal.reached() { "ok" } else { "**miss**" });
        self.goals.push(goal);
        [cell, verdict]
    }

    pub(crate) fn markdown(&self) -> String {
        let mut out = format!("### {}\n\n{}\n\n", self.title, self.about);
        line(&mut out, self.columns.iter().copied());
        // the first column is text, the others are figures
        line(&mut out, self.columns.iter().enumerate().map(|(i, _)| if i == 0 { "---" } else { "--:" }));
        for row in &self.rows {
            line(&mut out, row.iter().map(String::as_str));
        }
        out
    }
}

fn line<'a>(out: &mut String, cells: impl Iterator<Item = &'a str>) {
    for cell in cells {
        out.push_str("| ");
        out.push_str(cell);
        out.push(' ');
    }
    out.push_str("|\n");
}

/// The whole section: where it was measured, what was missed, the tables.
pub(crate) fn section(machine: &str, tables: &[Table]) -> String {
    let goals: Vec<&Goal> = tables.iter().flat_map(|t| &t.goals).collect();
    let missed: Vec<&&Goal> = goals.iter().filter(|g| !g.reached()).collect();
    let mut out = format!("{machine}\n\n{} of {} targets reached", goals.len() - missed.len(), goals.len());
    out.push_str(if missed.is_empty() { ".\n" } else { "; missed:\n\n" });
    for g in missed {
        // writing to a text doesn't fail
        let (measured, times) = (three_digits(g.measured), three_digits(g.measured / g.limit));
        if writeln!(out, "- {}: {measured} {} instead of {} ({times} times)", g.what, g.unit, g.limit).is_err() {
            break;
        }
    }
    for table in tables {
        out.push('\n');
        out.push_str(&table.markdown());
    }
    out
}

/// Puts `section` between the markers of the file at `path`.
pub(crate) fn write(path: &Path, section: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let fresh = replaced(&text, section).with_context(|| {
        format!("{} has no place for the tables; it needs the lines {BEGIN} and {END}", path.display())
    })?;
    std::fs::write(path, fresh).with_context(|| format!("can't write {}", path.display()))
}

fn replaced(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", section.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_is_said_in_the_table_and_above_it() {
        let mut t = Table::new("Cost", "On a sunny day.", &["what", "cost", "target"]);
        let [a, b] = t.judge("small", 1.0, "ms", Some(2.0));
        t.rows.push(vec!["small".into(), a, b]);
        let [a, b] = t.judge("large", 3.0, "ms", Some(2.0));
        t.rows.push(vec!["large".into(), a, b]);
        let [a, b] = t.judge("free", 3.0, "ms", None);
        t.rows.push(vec!["free".into(), a, b]);
        let expected = "A machine.\n\n1 of 2 targets reached; missed:\n\n- Cost, large: 3.00 ms instead of 2 (1.50 times)\n\n\
                        ### Cost\n\nOn a sunny day.\n\n| what | cost | target |\n| --- | --: | --: |\n\
                        | small | 1.00 ms | ≤ 2 ms ok |\n| large | 3.00 ms | ≤ 2 ms **miss** |\n| free | 3.00 ms | – |\n";
        assert_eq!(section("A machine.", &[t]), expected);
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let text = format!("# Title\n{BEGIN}\nold\n{END}\nend\n");
        let once = replaced(&text, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n{BEGIN}\n\nnew\n\n{END}\nend\n"));
        assert_eq!(replaced(&once, "new").unwrap(), once);
        assert_eq!(replaced("nothing here", "new"), None);
    }
}
