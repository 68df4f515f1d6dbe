//! `watch`: one line per update.

use std::collections::BTreeMap;

use ebbtide_proto::v1;

use crate::cli::args::{Format, WatchArgs};
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure, printable};
use crate::cli::figure::{clock, energy, power};
use crate::cli::output::{Output, Sheet, json, maybe, write_on};
use crate::cli::record::{Record, quality, state};

/// Follows the fleet until nobody reads on.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &WatchArgs, output: &Output) -> Result<Exit, Failure> {
    if output.format == Some(Format::Yaml) {
        return Err(
            Failure::usage("watch has no yaml: its updates have no end").next("use -o json: one line per update")
        );
    }
    let mut updates = fleet.watch(request(args.interval.ms(), args.by.map(|by| by.wire()), args.limit)?).await?;
    let (mut told, mut states) = (0u64, States::default());
    if output.format == Some(Format::Csv) && !write_on(&Sheet::new(HEADS).text())? {
        return Ok(Exit::Ok);
    }
    loop {
        let update = match updates.message().await {
            Ok(Some(update)) => update,
            Ok(None) => {
                return Err(Failure::new(format!("{} ended the updates", fleet.target.address))
                    .next("it may have been restarted: try again"));
            }
            Err(status) => return Err(fleet.refused(&status)),
        };
        let text = match output.format {
            Some(Format::Json) => json(&Record(&update), false)?,
            Some(Format::Csv) => row(&update),
            _ => line(&update, &states.news(&update, told == 0), output),
        };
        told += 1;
        if !write_on(&text)? || told == args.count {
            return Ok(Exit::Ok);
        }
    }
}

/// What is asked for.
pub(super) fn request(every_ms: u64, by: Option<v1::GroupBy>, limit: u32) -> Result<v1::WatchRequest, Failure> {
    let interval_ms = u32::try_from(every_ms).ok().filter(|ms| *ms >= 250);
    let interval_ms = interval_ms.ok_or_else(|| Failure::usage("--interval has to be 250ms to 49d"))?;
    Ok(v1::WatchRequest { interval_ms, workloads: by.unwrap_or_default().into(), limit })
}

/// What is known of the states of nodes, so that only changes are told.
#[derive(Default)]
struct States(BTreeMap<String, i32>);

impl States {
    /// What has changed; of the first update only what is wrong.
    fn news(&mut self, update: &v1::WatchResponse, first: bool) -> Vec<String> {
        use v1::NodeState::{Refused, Stale};
        let mut news = Vec::new();
        for node in &update.nodes {
            let before = self.0.insert(node.name.clone(), node.state);
            let wrong = [Refused, Stale].map(i32::from).contains(&node.state);
            if if first { wrong } else { before != Some(node.state) } {
                news.push(format!("{} {}", node.name, state(node.state)));
            }
        }
        for name in &update.removed {
            self.0.remove(name);
            news.push(format!("{name} removed"));
        }
        /// As many as fit into a line that somebody still reads.
        const MOST: usize = 5;
        let more = news.len().saturating_sub(MOST);
        news.truncate(MOST);
        news.extend((more > 0).then(|| format!("{more} more")));
        news
    }
}

/// An update in one line.
fn line(update: &v1::WatchResponse, news: &[String], output: &Output) -> String {
    let totals = update.totals.clone().unwrap_or_default();
    let mut parts = vec![
        clock(update.now_ms, &output.zone),
        power(totals.power_uw, totals.quality),
        format!("idle {}", power(totals.idle_uw, totals.quality)),
        format!("today {}", energy((totals.nodes > 0).then_some(totals.today_uj), totals.quality)),
        format!("{}/{} live", totals.live, totals.nodes),
    ];
    parts.extend((!news.is_empty()).then(|| news.join(", ")));
    printable(&parts.join(" · ")) + "\n"
}

const HEADS: &[&str] =
    &["now_ms", "power_uw", "idle_uw", "quality", "today_uj", "nodes", "live", "stale", "troubled", "workloads"];

fn row(update: &v1::WatchResponse) -> String {
    let t = update.totals.clone().unwrap_or_default();
    let mut sheet = Sheet::headless();
    sheet.row([
        update.now_ms.to_string(),
        maybe(t.power_uw),
        maybe(t.idle_uw),
        quality(t.quality),
        t.today_uj.to_string(),
        t.nodes.to_string(),
        t.live.to_string(),
        t.stale.to_string(),
        t.troubled.to_string(),
        t.workloads.to_string(),
    ]);
    sheet.text()
}
