//! `doctor`: what is wrong between here and every node, and how to fix it.
//!
//! `gather` asks, `judge` draws conclusions and is pure, this file prints them. Nothing is changed anywhere.

mod judge;

use std::time::Duration;

use ebbtide_proto::v1;
use ebbtide_runtime::clock;
use serde::Serialize;

use self::judge::{Answers, Facts, Finding, Level, judge, outcome};
use crate::cli::connect::Fleet;
use crate::cli::context::Target;
use crate::cli::failure::{Exit, Failure, printable};
use crate::cli::output::{Answer, Output, Sheet};
use crate::cli::table::{Tint, columns_of};
use crate::pki::{Certificate, files};

/// Asks, judges, prints.
pub(in crate::cli) async fn run(target: &Target, timeout: Duration, output: &Output) -> Result<Exit, Failure> {
    let facts = gather(target, timeout).await;
    let rows = judge(&facts);
    let (exit, summary) = outcome(&rows);
    output.show(&Report { rows, summary, exit: exit.code() })?;
    Ok(exit)
}

async fn gather(target: &Target, timeout: Duration) -> Facts {
    let wall_ms = || clock::now().wall / 1_000_000;
    let own = target.own.as_ref().map(|(path, _)| {
        let place = path.display().to_string();
        files::read(path).and_then(|pem| Certificate::read_pem(&place, &pem)).map_err(Failure::from)
    });
    let begun = clock::now();
    let fleet = Fleet::open(target.clone(), timeout).await;
    let connected = clock::now().since(begun);
    let answers = match fleet {
        Err(failure) => Err(failure),
        Ok(fleet) => {
            let mut client = fleet.client();
            let before = wall_ms();
            let status = fleet.ask("asking for the status", client.get_status(v1::GetStatusRequest::default())).await;
            let after = wall_ms();
            let nodes = fleet.ask("asking for nodes", client.list_nodes(v1::ListNodesRequest::default())).await;
            let nodes = nodes.map(|answer| answer.nodes);
            Ok(Answers { secured: fleet.secured, connected, status, asked_ms: (before, after), nodes })
        }
    };
    Facts {
        address: target.address.clone(),
        context: target.context.clone(),
        own,
        now_ms: wall_ms(),
        version: env!("CARGO_PKG_VERSION"),
        answers,
    }
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Finding>,
    summary: String,
    exit: u8,
}

impl Answer for Report {
    fn table(&self, output: &Output) -> String {
        let width = output.look.width.unwrap_or(usize::MAX);
        let mut out = String::new();
        for row in &self.rows {
            let tint = match row.level {
                Level::Ok => Tint::Good,
                Level::Degraded => Tint::Doubtful,
                Level::Failed => Tint::Bad,
            };
            let level = tint.paint(&format!("{:<9}", row.level.as_str()), output.look.colour);
            out.push_str(&format!(" {level} {:<9} ", row.check));
            out.push_str(&wrapped(&row.text, 21, width));
            if let Some(fix) = &row.fix {
                out.push_str(&format!("{:16}fix: ", ""));
                out.push_str(&wrapped(fix, 21, width));
            }
        }
        out.push_str(&self.summary);
        out.push('\n');
        out
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["level", "check", "text", "fix"]);
        for row in &self.rows {
            sheet.row([
                row.level.as_str().to_owned(),
                row.check.to_owned(),
                row.text.clone(),
                row.fix.clone().unwrap_or_default(),
            ]);
        }
        sheet
    }
}

/// `text` after `indent` columns, its further lines below its first.
fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let room = width.saturating_sub(indent).max(20);
    let mut out = String::new();
    let mut taken = 0;
    for word in printable(text).split_whitespace() {
        let long = columns_of(word);
        if taken > 0 && taken + 1 + long > room {
            out.push_str(&format!("\n{:indent$}", ""));
            taken = 0;
        }
        if taken > 0 {
            out.push(' ');
            taken += 1;
        }
        out.push_str(word);
        taken += long;
    }
    out.push('\n');
    out
}
