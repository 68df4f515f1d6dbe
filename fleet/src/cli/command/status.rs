//! `status`: how the fleet daemon is doing.

use std::time::Duration;

use ebbtide_proto::v1;
use serde::{Serialize, Serializer};

use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure, printable};
use crate::cli::figure::{UNKNOWN, ago, bytes, count, moment, span};
use crate::cli::output::{Answer, Output, Sheet};
use crate::cli::record::Record;

struct Status {
    address: String,
    answer: v1::GetStatusResponse,
}

/// Shows it.
pub(in crate::cli) async fn run(fleet: &Fleet, output: &Output) -> Result<Exit, Failure> {
    let answer = fleet.ask("asking for the status", fleet.client().get_status(v1::GetStatusRequest::default())).await?;
    output.show(&Status { address: fleet.target.address.to_string(), answer })?;
    Ok(Exit::Ok)
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Record(&self.answer).serialize(s)
    }
}

impl Status {
    fn lines(&self, output: &Output) -> Vec<(&'static str, String)> {
        let a = &self.answer;
        let refused: u64 = a.refusals.iter().map(|r| r.count).fold(0, u64::saturating_add);
        let reasons: Vec<_> =
            a.refusals.iter().filter(|r| r.count > 0).map(|r| format!("{} {}", count(r.count), r.reason)).collect();
        let refused =
            if reasons.is_empty() { "0".to_owned() } else { format!("{} ({})", count(refused), reasons.join(", ")) };
        let oldest = match a.oldest_ms {
            0 => UNKNOWN.to_owned(),
            at => format!("{} ({})", moment(at, &output.zone, true), ago(at, a.now_ms)),
        };
        let mut lines = vec![
            ("fleet", format!("{} · version {}", self.address, a.version)),
            ("you", format!("{} · {}", a.your_role, if a.encrypted { "over TLS" } else { "in plain text" })),
            ("up", format!("since {} ({})", moment(a.started_ms, &output.zone, true), ago(a.started_ms, a.now_ms))),
            ("nodes", format!("{} known, {} connected", count(a.nodes.into()), count(a.connected.into()))),
            ("taken", format!("{} samples in {} frames", count(a.samples), count(a.frames))),
            ("not taken", format!("{} duplicates · refused {refused}", count(a.duplicates))),
            ("lost", format!("{} frames that agents had to give up", count(a.dropped_frames))),
            ("commit", format!("{} (99 of 100 within, last minute)", micros(a.commit_p99_us))),
            ("store", format!("{} in {}", bytes(a.store_bytes), a.data_dir)),
            ("unsealed", format!("{} frames not yet in blocks", count(a.unsealed_frames))),
            ("oldest", oldest),
        ];
        lines.extend(a.troubles.iter().map(|trouble| ("trouble", trouble.clone())));
        lines
    }
}

/// Microseconds, for people.
pub(super) fn micros(us: u64) -> String {
    match us {
        0 => UNKNOWN.to_owned(),
        1..1000 => format!("{us} µs"),
        1000..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        1_000_000..10_000_000 => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
        _ => span(Duration::from_micros(us)),
    }
}

impl Answer for Status {
    fn table(&self, output: &Output) -> String {
        self.lines(output).iter().map(|(what, text)| format!("{what:<10} {}\n", printable(text))).collect()
    }

    fn csv(&self) -> Sheet {
        let a = &self.answer;
        let refused = a.refusals.iter().map(|r| r.count).fold(0, u64::saturating_add);
        let row = [
            ("version", a.version.clone()),
            ("started_ms", a.started_ms.to_string()),
            ("now_ms", a.now_ms.to_string()),
            ("nodes", a.nodes.to_string()),
            ("connected", a.connected.to_string()),
            ("samples", a.samples.to_string()),
            ("frames", a.frames.to_string()),
            ("duplicates", a.duplicates.to_string()),
            ("dropped_frames", a.dropped_frames.to_string()),
            ("refusals", refused.to_string()),
            ("commit_p99_us", a.commit_p99_us.to_string()),
            ("store_bytes", a.store_bytes.to_string()),
            ("unsealed_frames", a.unsealed_frames.to_string()),
            ("oldest_ms", a.oldest_ms.to_string()),
            ("encrypted", a.encrypted.to_string()),
            ("data_dir", a.data_dir.clone()),
            ("your_role", a.your_role.clone()),
            ("troubles", a.troubles.join("; ")),
        ];
        let mut sheet = Sheet::new(&row.each_ref().map(|(head, _)| *head));
        sheet.row(row.map(|(_, cell)| cell));
        sheet
    }
}
