//! `check`: what works on this machine, what doesn't, why it matters, and how to fix it.
//!
//! `facts` is what is looked at, `gather` looks, `judge` (with `sensors` and `around`) draws conclusions and is pure,
//! `show` prints them. Nothing is changed on the machine: no folder is made, no lock kept.

mod around;
mod facts;
mod gather;
mod judge;
mod sensors;
mod show;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, stdout};

use serde::Serialize;

pub use self::facts::Facts;
pub use self::judge::{Cause, Finding, Level, judge, outcome};

use super::{Exit, print};
use crate::config::Settings;

#[derive(Serialize)]
struct Report<'a> {
    rows: &'a [Finding],
    summary: &'a str,
    exit: u8,
}

/// Looks at the machine and prints what was found.
pub fn run(settings: Settings, json: bool) -> anyhow::Result<Exit> {
    let facts = Facts::gather(&settings.root, &settings);
    let rows = judge(&facts);
    let (exit, summary) = outcome(&facts, &rows);
    let text = if json {
        let report = Report { rows: &rows, summary: &summary, exit: exit.code() };
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        show::table(&rows, &summary, show::Look::of_terminal(stdout().is_terminal()))
    };
    print(&text)?;
    Ok(exit)
}
