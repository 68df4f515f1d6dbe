//! `energy`: what was used over time.

use std::time::Duration;

use ebbtide_proto::{Energy, v1};
use serde::{Serialize, Serializer};

use crate::cli::args::{By, EnergyArgs, Range};
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure};
use crate::cli::figure::{UNKNOWN, energy, mark, moment, moments, percent, power};
use crate::cli::output::{Answer, Output, Sheet};
use crate::cli::record::{Record, quality};
use crate::cli::table::{Cell, Column, Table, Tint, columns_of};

/// The most columns of groups in a table by time.
const MOST_COLUMNS: usize = 100;

struct Used {
    by: By,
    stepped: bool,
    until_ms: u64,
    answer: v1::QueryEnergyResponse,
}

/// Adds it up.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &EnergyArgs, output: &Output) -> Result<Exit, Failure> {
    let (from_ms, until_ms) = span(&args.range, output)?;
    let request = v1::QueryEnergyRequest {
        from_ms,
        until_ms,
        step_ms: args.step.map_or(0, |step| step.ms()),
        limit: args.limit,
        ..request(&args.range)
    };
    let answer = fleet.ask("adding up energy", fleet.client().query_energy(request)).await?;
    let empty = answer.groups.is_empty();
    output.show(&Used { by: args.range.by, stepped: args.step.is_some(), until_ms, answer })?;
    if empty {
        output.note("nothing is known of that time; `ebbtide status` says how far back the store goes");
    }
    Ok(Exit::Ok)
}

/// What of the request a range says, but for the time.
pub(super) fn request(range: &Range) -> v1::QueryEnergyRequest {
    v1::QueryEnergyRequest {
        by: range.by.wire().into(),
        node: range.node.clone(),
        search: range.search.clone(),
        ..Default::default()
    }
}

/// From when until when, in milliseconds since 1970.
pub(super) fn span(range: &Range, output: &Output) -> Result<(u64, u64), Failure> {
    let resolve = |flag: &str, when: &crate::cli::when::When| {
        when.resolve(output.now_ms, &output.zone)
            .ok_or_else(|| Failure::usage(format!("{flag} is before 1970: nothing is known of that")))
    };
    let from = resolve("--since", &range.since)?;
    let until = resolve("--until", &range.until)?;
    if from >= until {
        let at = |ms| moment(ms, &output.zone, true);
        let what = format!("--since ({}) is not before --until ({})", at(from), at(until));
        return Err(Failure::usage(what).next("for example: --since 7d --until yesterday"));
    }
    Ok((from, until))
}

impl Serialize for Used {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Record(&self.answer).serialize(s)
    }
}

/// Sums over time.
struct Sum {
    uj: u64,
    covered_ms: u64,
}

impl Sum {
    fn of(group: &v1::EnergyGroup) -> Self {
        let covered_ms = group.covered_ms.iter().copied().fold(0, u64::saturating_add);
        Self { uj: group.total_uj, covered_ms }
    }

    /// Mean power over the time in which energy is known, in microwatts.
    fn mean_uw(&self) -> Option<u64> {
        Energy::from_uj(self.uj).over(Duration::from_millis(self.covered_ms)).map(|p| p.uw())
    }
}

impl Used {
    /// All groups, the rest last.
    fn groups(&self) -> impl Iterator<Item = (String, &v1::EnergyGroup)> {
        let other = self.answer.other.as_ref().map(|group| ("other".to_owned(), group));
        self.answer.groups.iter().map(|group| (group.name.clone(), group)).chain(other)
    }

    /// How long the range is, up to now.
    fn length_ms(&self) -> u64 {
        let a = &self.answer;
        let until = if a.now_ms == 0 { self.until_ms } else { self.until_ms.min(a.now_ms) };
        until.saturating_sub(a.from_ms)
    }

    fn sums(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text(self.by.head()),
            Column::figure("ENERGY"),
            Column::figure("SHARE").may_go(2),
            Column::figure("MEAN W"),
            Column::figure("KNOWN").may_go(1),
            Column::text("QUALITY").wide(),
        ]);
        let total: u64 = self.groups().map(|(_, g)| g.total_uj).fold(0, u64::saturating_add);
        let mut last = 0;
        let mut groups = 0;
        for (name, group) in self.groups() {
            let sum = Sum::of(group);
            let known = sum.covered_ms > 0;
            table.row([
                Cell::from(name),
                Cell::tinted(energy(known.then_some(sum.uj), group.quality), Tint::Figure),
                if known { percent(sum.uj, total) } else { UNKNOWN.to_owned() }.into(),
                power(sum.mean_uw(), group.quality).into(),
                percent(sum.covered_ms, self.length_ms()).into(),
                quality(group.quality).into(),
            ]);
            last = group.quality.max(last);
            groups += 1;
        }
        if groups > 1 {
            table.row([Cell::tinted("total", Tint::Bold), Cell::tinted(energy(Some(total), last), Tint::Figure)]);
        }
        table.render(output.look)
    }

    /// A row per bucket, a column per group as far as there is room.
    fn steps(&self, output: &Output) -> String {
        let a = &self.answer;
        let buckets = usize::try_from(a.buckets)
            .unwrap_or(usize::MAX)
            .min(self.groups().map(|(_, g)| g.energy_uj.len()).max().unwrap_or(0));
        let starts = |bucket: usize| a.from_ms.saturating_add(a.step_ms.saturating_mul(bucket as u64));
        let times = moments(&(0..buckets).map(starts).collect::<Vec<_>>(), &output.zone, true);
        let all: Vec<_> = self.groups().collect();
        let (shown, rest) = all.split_at(self.fitting(&all, &times, output));
        let mut table = Table::new(&[Column::figure("FROM")]);
        shown.iter().for_each(|(name, _)| table.add_figure(name));
        if !rest.is_empty() {
            table.add_figure("others");
        }
        if all.len() > 1 {
            table.add_figure("total");
        }
        for (bucket, time) in times.iter().enumerate() {
            let mut cells = vec![Cell::from(time)];
            cells.extend(shown.iter().map(|(_, group)| Cell::from(bucket_of([*group], bucket))));
            if !rest.is_empty() {
                cells.push(bucket_of(rest.iter().map(|(_, g)| *g), bucket).into());
            }
            if all.len() > 1 {
                cells.push(Cell::tinted(bucket_of(all.iter().map(|(_, g)| *g), bucket), Tint::Figure));
            }
            table.row(cells);
        }
        table.render(output.look)
    }

    /// How many of the groups fit beside each other, with the rest and the total.
    fn fitting(&self, all: &[(String, &v1::EnergyGroup)], times: &[String], output: &Output) -> usize {
        /// `~9.99 kWh`, and the space before it.
        const FIGURE: usize = 11;
        let Some(width) = output.look.width else { return all.len().min(MOST_COLUMNS) };
        let times = times.iter().map(|t| columns_of(t)).max().unwrap_or(0);
        let mut room = width.saturating_sub(times + 2 * FIGURE);
        let fits = |(name, _): &&(String, &v1::EnergyGroup)| {
            let needed = (columns_of(name) + 2).max(FIGURE);
            let fits = needed <= room;
            room = room.saturating_sub(needed);
            fits
        };
        all.iter().take_while(fits).count().min(MOST_COLUMNS)
    }
}

/// The energy of some groups in a bucket, marked if it is not known of all the bucket.
fn bucket_of<'a>(groups: impl IntoIterator<Item = &'a v1::EnergyGroup>, bucket: usize) -> String {
    let (mut sum, mut worst) = (None, 0);
    for group in groups {
        let covered = group.covered_ms.get(bucket).copied().unwrap_or(0);
        if let (Some(uj), true) = (group.energy_uj.get(bucket), covered > 0) {
            sum = Some(uj.saturating_add(sum.unwrap_or(0)));
            worst = group.quality.max(worst);
        }
    }
    sum.map_or_else(|| UNKNOWN.to_owned(), |uj| format!("{}{}", mark(worst), Energy::from_uj(uj)))
}

impl Answer for Used {
    fn table(&self, output: &Output) -> String {
        if self.stepped { self.steps(output) } else { self.sums(output) }
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(HEADS);
        for row in rows(&self.answer, self.by) {
            sheet.row(row.cells());
        }
        sheet
    }
}

/// Heads of [`Row`].
pub(super) const HEADS: &[&str] = &["from", "until", "group", "node", "energy_uj", "covered_ms", "quality"];

/// A group's energy in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub from_ms: u64,
    pub until_ms: u64,
    pub group: String,
    /// The node it is of, where the answer says so.
    pub node: Option<String>,
    /// `None`: nothing is known of it.
    pub energy_uj: Option<u64>,
    pub covered_ms: u64,
    pub quality: Option<String>,
}

impl Row {
    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            crate::cli::figure::rfc3339(self.from_ms),
            crate::cli::figure::rfc3339(self.until_ms),
            self.group.clone(),
            self.node.clone().unwrap_or_default(),
            crate::cli::output::maybe(self.energy_uj),
            self.covered_ms.to_string(),
            self.quality.clone().unwrap_or_default(),
        ]
    }
}

/// All buckets of all groups, by time. The groups are told apart `by` this.
pub(super) fn rows(answer: &v1::QueryEnergyResponse, by: By) -> impl Iterator<Item = Row> {
    let groups = answer.groups.iter().map(|g| (g.name.as_str(), g));
    let groups: Vec<_> = groups.chain(answer.other.iter().map(|g| ("other", g))).collect();
    let buckets = groups.iter().map(|(_, g)| g.energy_uj.len()).max().unwrap_or(0);
    (0..buckets).flat_map(move |bucket| {
        let from_ms = answer.from_ms.saturating_add(answer.step_ms.saturating_mul(bucket as u64));
        let until_ms = from_ms.saturating_add(answer.step_ms);
        let row = move |(name, group): &(&str, &v1::EnergyGroup)| {
            let covered_ms = group.covered_ms.get(bucket).copied().unwrap_or(0);
            let label = group.labels.iter().find(|label| label.name == "node").map(|label| &label.value);
            let node = if by == By::Node && !group.name.is_empty() { Some(&group.name) } else { label };
            Row {
                from_ms,
                until_ms,
                group: (*name).to_owned(),
                node: node.cloned(),
                energy_uj: group.energy_uj.get(bucket).copied().filter(|_| covered_ms > 0),
                covered_ms,
                quality: Some(quality(group.quality)).filter(|q| !q.is_empty()),
            }
        };
        groups.iter().map(row).collect::<Vec<_>>()
    })
}
