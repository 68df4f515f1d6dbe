//! `export`: energy over time for other programs, asked for in pieces.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ebbtide_proto::v1;
use tonic::Code;

use super::energy::{self, HEADS, Row};
use crate::cli::args::{ExportArgs, Format};
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Output, Sheet, json};
use crate::cli::progress::Progress;

/// Buckets in a piece to begin with; fewer if the fleet finds that too much.
const PIECE: u64 = 512;

/// Writes it.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &ExportArgs, output: &Output) -> Result<Exit, Failure> {
    let format = match output.format {
        None | Some(Format::Csv) => Format::Csv,
        Some(Format::Json) => Format::Json,
        Some(_) => return Err(Failure::usage("export writes csv or json").next("for example: -o csv")),
    };
    let (from, until) = energy::span(&args.range, output)?;
    let mut sink = Sink::open(args.to.as_deref())?;
    let progress = args.to.as_ref().map(|_| Progress::start("exporting", until - from));
    if format == Format::Csv && !sink.write(&Sheet::new(HEADS).text())? {
        return Ok(Exit::Ok);
    }
    let mut pieces = Pieces { at: from, until, step: args.step.ms(), length: PIECE };
    let mut rows = 0u64;
    while let Some((from_ms, until_ms)) = pieces.next() {
        let limit = args.limit;
        let request =
            v1::QueryEnergyRequest { from_ms, until_ms, step_ms: pieces.step, limit, ..energy::request(&args.range) };
        let answer = match fleet.answer("adding up energy", fleet.client().query_energy(request)).await {
            Ok(answer) => answer,
            Err(status) if status.code() == Code::ResourceExhausted && pieces.shorten() => continue,
            Err(status) => return Err(fleet.refused(&status)),
        };
        let (from_ms, until_ms) = pieces.take(&answer);
        for row in energy::rows(&answer, args.range.by).filter(|row| row.until_ms > from_ms && row.until_ms <= until_ms)
        {
            rows += 1;
            if !sink.write(&line(format, &row)?)? {
                return Ok(Exit::Ok);
            }
        }
        if let Some(progress) = &progress {
            progress.at(pieces.at.min(until) - from);
        }
    }
    drop(progress);
    sink.finish()?;
    if let Some(path) = &args.to {
        output.note(&format!("wrote {rows} rows to {}", path.display()));
    }
    Ok(Exit::Ok)
}

fn line(format: Format, row: &Row) -> Result<String, Failure> {
    if format == Format::Json {
        return json(row, false);
    }
    let mut sheet = Sheet::headless();
    sheet.row(row.cells());
    Ok(sheet.text())
}

/// The range in pieces that the fleet is ready to answer.
#[derive(Debug)]
struct Pieces {
    /// Where the next one begins.
    at: u64,
    until: u64,
    /// Length of a bucket: what was asked for, then what the fleet made of it.
    step: u64,
    /// Buckets in a piece.
    length: u64,
}

impl Pieces {
    fn next(&self) -> Option<(u64, u64)> {
        let end = self.at.saturating_add(self.step.saturating_mul(self.length)).min(self.until);
        (self.at < end).then_some((self.at, end))
    }

    /// Whether shorter ones are possible.
    fn shorten(&mut self) -> bool {
        self.length /= 2;
        self.length > 0
    }

    /// A piece was answered: goes on to the next, and tells from when until when its buckets are whole. The last
    /// bucket of a piece may reach into the next one; it is then told there.
    fn take(&mut self, answer: &v1::QueryEnergyResponse) -> (u64, u64) {
        let (from, asked) = self.next().unwrap_or((self.at, self.until));
        let longer = answer.step_ms > self.step;
        self.step = self.step.max(answer.step_ms).max(1);
        let whole = asked.saturating_sub(answer.from_ms) / self.step * self.step + answer.from_ms;
        let end = if asked == self.until { u64::MAX } else { whole };
        // a piece that is shorter than a bucket is asked for again, now that its length is known
        self.at = match end {
            u64::MAX => self.until,
            end if end > from || longer => end.max(from),
            _ => asked,
        };
        (from, end)
    }
}

/// Where rows go.
enum Sink {
    Stdout(BufWriter<io::Stdout>),
    /// A file beside the one that it becomes.
    File {
        beside: PathBuf,
        path: PathBuf,
        out: BufWriter<File>,
        done: bool,
    },
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::Stdout(BufWriter::new(io::stdout()))) };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let file = File::create(&beside).map_err(|e| unwritable(&beside, &e))?;
        Ok(Self::File { beside, path: path.to_owned(), out: BufWriter::new(file), done: false })
    }

    /// Whether somebody still reads.
    fn write(&mut self, text: &str) -> Result<bool, Failure> {
        match self {
            Self::Stdout(out) => heard(out.write_all(text.as_bytes())),
            Self::File { out, path, .. } => {
                out.write_all(text.as_bytes()).map(|()| true).map_err(|e| unwritable(path, &e))
            }
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        match &mut self {
            Self::Stdout(out) => heard(out.flush()).map(drop),
            Self::File { beside, path, out, done } => {
                let written = out.flush().and_then(|()| out.get_ref().sync_all());
                written.and_then(|()| fs::rename(&beside, &path)).map_err(|e| unwritable(path, &e))?;
                *done = true;
                Ok(())
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Self::File { beside, done: false, .. } = self {
            // half a file would look like a whole one; that it can't be removed is not worth another error
            drop(fs::remove_file(beside));
        }
    }
}

fn heard(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new(format!("can't write to stdout: {e}"))),
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("can't write {}: {error}", path.display()));
    if error.kind() == io::ErrorKind::PermissionDenied { failure.exit(Exit::NotPermitted) } else { failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a fleet tells of a piece: buckets that begin at multiples of `step`, all that have a part in it.
    fn answer((from, until): (u64, u64), step: u64) -> v1::QueryEnergyResponse {
        let from_ms = from / step * step;
        let buckets = u32::try_from((until - from_ms).div_ceil(step)).unwrap();
        v1::QueryEnergyResponse { from_ms, step_ms: step, buckets, ..Default::default() }
    }

    proptest! {
        #[test]
        fn every_bucket_is_told_once(
            from in 0u64..10_000, length in 1u64..10_000, step in 1u64..700, factor in 1u64..9, piece in 1u64..20
        ) {
            let (until, told) = (from + length, step * factor);
            let mut pieces = Pieces { at: from, until, step, length: piece };
            let mut starts = Vec::new();
            let mut turns = 0;
            while let Some(asked) = pieces.next() {
                let answer = answer(asked, told);
                let (new, whole) = pieces.take(&answer);
                let all = (0..u64::from(answer.buckets)).map(|i| answer.from_ms + i * told);
                starts.extend(all.filter(|start| start + told > new && start + told <= whole));
                turns += 1;
                prop_assert!(turns < 100_000, "it goes on for ever: {:?}", pieces);
            }
            let expected: Vec<u64> = (from / told..until.div_ceil(told)).map(|i| i * told).collect();
            prop_assert_eq!(starts, expected);
        }
    }
}
