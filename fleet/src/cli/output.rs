//! Where answers go: data to stdout in the form that was asked for, talk to stderr.

use std::io::{self, IsTerminal as _, Write};

use ebbtide_runtime::clock;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::args::{Format, Global};
use super::failure::Failure;
use super::table::Look;
use super::variable;

/// Columns where there is no terminal.
const PAPER: usize = 80;

/// How this run of the program talks.
#[derive(Clone, Debug)]
pub(super) struct Output {
    /// What was asked for; `None`: the command's own choice.
    pub format: Option<Format>,
    /// How tables look.
    pub look: Look,
    /// Whose clock is shown.
    pub zone: TimeZone,
    /// The wall clock when the program began, in milliseconds since 1970.
    pub now_ms: u64,
}

/// Something that can be shown in every form.
pub(super) trait Answer: Serialize {
    /// For people.
    fn table(&self, output: &Output) -> String;
    /// Heads and rows for spreadsheets.
    fn csv(&self) -> Sheet;
}

/// Rows for spreadsheets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sheet {
    rows: Vec<Vec<String>>,
}

impl Sheet {
    /// An empty one with these heads.
    pub(super) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// One without heads.
    pub(super) fn headless() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As RFC 4180 has it, but with the line ends of Unix.
    pub(super) fn text(&self) -> String {
        let line = |row: &Vec<String>| {
            let cells: Vec<_> = row.iter().map(|cell| quoted(cell)).collect();
            cells.join(",") + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// A number that may be unknown, for a sheet.
pub(super) fn maybe(number: Option<u64>) -> String {
    number.map_or_else(String::new, |n| n.to_string())
}

impl Output {
    /// By arguments, environment and terminal.
    pub(super) fn new(global: &Global) -> Self {
        let terminal = io::stdout().is_terminal();
        let wide = global.output == Some(Format::Wide);
        let width = terminal.then(|| crossterm::terminal::size().ok()).flatten();
        let width = width.map_or(PAPER, |(columns, _)| usize::from(columns).max(40));
        let look = Look {
            width: (!wide).then_some(width),
            wide,
            colour: terminal && variable("NO_COLOR").is_none() && variable("TERM").is_none_or(|t| t != "dumb"),
        };
        Self { format: global.output, look, zone: TimeZone::system(), now_ms: clock::now().wall / 1_000_000 }
    }

    /// Prints `answer` in the form that was asked for, as a table unless it was.
    pub(super) fn show(&self, answer: &impl Answer) -> Result<(), Failure> {
        match self.format.unwrap_or(Format::Table) {
            Format::Table | Format::Wide => print(&answer.table(self)),
            Format::Json => print(&json(answer, true)?),
            Format::Yaml => print(&yaml(answer)?),
            Format::Csv => print(&answer.csv().text()),
        }
    }

    /// Whether people read it, rather than programs.
    pub(super) fn is_for_people(&self) -> bool {
        matches!(self.format, None | Some(Format::Table | Format::Wide))
    }

    /// Tells people something beside the data, unless it is for programs.
    pub(super) fn note(&self, text: &str) {
        if self.is_for_people() {
            // where nobody listens there is nobody to tell so
            drop(writeln!(io::stderr(), "{}", super::failure::printable(text)));
        }
    }
}

/// JSON with its line end; laid out or on one line.
pub(super) fn json(answer: &impl Serialize, laid_out: bool) -> Result<String, Failure> {
    let text = if laid_out { serde_json::to_string_pretty(answer) } else { serde_json::to_string(answer) };
    text.map(|text| text + "\n").map_err(|e| Failure::new(format!("the answer can't be written as JSON: {e}")))
}

fn yaml(answer: &impl Serialize) -> Result<String, Failure> {
    serde_norway::to_string(answer).map_err(|e| Failure::new(format!("the answer can't be written as YAML: {e}")))
}

/// Prints `text` to stdout. That nobody reads it to its end is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    write_on(text).map(drop)
}

/// Prints `text` to stdout; whether somebody still reads.
pub(super) fn write_on(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new(format!("can't write to stdout: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sheets_quote_what_has_to_be() {
        let mut sheet = Sheet::new(&["name", "power_uw"]);
        sheet.row(["a,b \"c\"".to_owned(), maybe(None)]);
        sheet.row(["d".to_owned(), maybe(Some(0))]);
        assert_eq!(sheet.text(), "name,power_uw\n\"a,b \"\"c\"\"\",\nd,0\n");
    }
}
