//! Who tells joules. Pure.

use ebbtide_proto::Ratio;

use super::facts::{Facts, Reader, ZoneFact};
use super::judge::{Cause, Finding};
use crate::source::perf_rapl::CrossCheck;
use crate::source::{Skipped, SourceKind, ZoneKind};

/// The rows that are about sources.
pub(super) const SUBJECTS: [&str; 6] = ["powercap", "perf", "scmi", "hwmon", "battery", "model"];
/// More names than this are not listed.
const MOST_NAMES: usize = 4;
const METER: &str = "measure at the wall, then set model-idle and model-full, or: \
                     ebbtide-agent run --model-idle 40W --model-full 120W";

/// Adds a row for each source that is there, should be there, or is denied.
pub(super) fn judge(facts: &Facts, rows: &mut Vec<Finding>) {
    rows.extend(facts.reader(SourceKind::Powercap).and_then(|r| powercap(facts, r)));
    rows.extend(facts.reader(SourceKind::PerfRapl).and_then(|r| perf(facts, r)));
    for (kind, subject) in [(SourceKind::Scmi, "scmi"), (SourceKind::Hwmon, "hwmon"), (SourceKind::Battery, "battery")]
    {
        rows.extend(facts.reader(kind).and_then(|r| other(subject, r)));
    }
    rows.extend(model(facts));
}

fn powercap(facts: &Facts, reader: &Reader) -> Option<Finding> {
    let subject = "powercap";
    let denied = reader.skipped.iter().find(|s| needs_rights(s));
    let perf_tells = facts.reader(SourceKind::PerfRapl).is_some_and(|r| !r.zones.is_empty());
    let unmeasured = if perf_tells { "perf tells the same" } else { "what the processors draw is not measured" };
    if reader.zones.is_empty() {
        if let Some(s) = denied {
            let row = Finding::missing(subject, Cause::Permission, said(s)).so(unmeasured);
            return Some(with_fix(row, s));
        }
        if perf_tells || relies_on_sensor(facts) || !facts.machine.x86 {
            return None;
        }
        let row = |found: String| Finding::missing(subject, Cause::Lack, found).so(unmeasured);
        return Some(match (&facts.machine.guest_of, reader.skipped.first()) {
            (Some(host), _) => row(format!("none: a guest of {host} is not shown the processor's counters")),
            (None, Some(s)) => with_fix(row(said(s)), s),
            (None, None) => row("no zones".into()),
        });
    }
    let duplicates = reader.skipped.iter().filter(|s| s.why.starts_with("duplicate")).count();
    let mut found = grouped(&reader.zones);
    if duplicates > 0 {
        found
            .push_str(&format!(" ({duplicates} {} ignored)", if duplicates == 1 { "duplicate" } else { "duplicates" }));
    }
    let broken = reader.skipped.iter().find(|s| s.fix.is_some() && !needs_rights(s));
    Some(if let Some(silent) = reader.zones.iter().find(|z| z.silent.is_some()) {
        does_not_answer(subject, silent)
    } else if let Some(s) = denied {
        let row = Finding::degraded(subject, Cause::Permission, format!("{found}; not all: {}", said(s)));
        with_fix(row.so("part of the energy is not measured"), s)
    } else if let Some(s) = broken {
        let row = Finding::degraded(subject, Cause::Lack, format!("{found}; not all: {}", said(s)));
        with_fix(row.so("part of the energy may not be measured"), s)
    } else {
        Finding::ok(subject, found)
    })
}

fn perf(facts: &Facts, reader: &Reader) -> Option<Finding> {
    let subject = "perf";
    let powercap = facts.reader(SourceKind::Powercap).is_some_and(|r| r.zones.iter().any(|z| z.silent.is_none()));
    let denied = reader.skipped.iter().find(|s| needs_rights(s));
    if !reader.zones.is_empty() {
        return Some(match reader.zones.iter().find(|z| z.silent.is_some()) {
            Some(silent) => does_not_answer(subject, silent),
            None => Finding::ok(subject, format!("{}, in place of powercap", grouped(&reader.zones))),
        });
    }
    if !facts.cross.is_empty() {
        return Some(cross_check(facts));
    }
    let not_needed = "powercap is not cross-checked";
    match (powercap, denied, reader.skipped.first()) {
        (true, Some(s), _) => Some(with_fix(Finding::ok(subject, said(s)).so(not_needed), s)),
        (true, None, Some(s)) => Some(Finding::ok(subject, said(s)).so(not_needed)),
        (false, Some(s), _) => {
            let row = Finding::missing(subject, Cause::Permission, said(s));
            Some(with_fix(row.so("it can't stand in for powercap"), s))
        }
        // what powercap's row says of guests is enough
        (false, None, Some(s)) if !relies_on_sensor(facts) && facts.machine.guest_of.is_none() => {
            let row = Finding::missing(subject, Cause::Lack, said(s));
            Some(with_fix(row.so("it can't stand in for powercap"), s))
        }
        _ => None,
    }
}

/// Compares the two roads to the same counters.
fn cross_check(facts: &Facts) -> Finding {
    let off = |r: Ratio| r.ppm().abs_diff(1_000_000);
    let worst = facts.cross.iter().filter_map(|c| Some((c, c.ratio?))).max_by_key(|(_, r)| off(*r));
    let Some((cross, ratio)) = worst else {
        let names: Vec<&str> = facts.cross.iter().map(|c| c.zone.as_str()).collect();
        return Finding::ok("perf", format!("{} counted, too little energy to compare with powercap", listed(&names)));
    };
    let shown = format!("{}: perf told {:.3} of what powercap told", cross.zone, f64::from(ratio.ppm()) / 1e6);
    if off(ratio) <= CrossCheck::AGREE.ppm() {
        return Finding::ok("perf", format!("agrees with powercap ({shown})"));
    }
    let row = Finding::degraded("perf", Cause::Lack, shown);
    if off(ratio) <= CrossCheck::DISAGREE.ppm() {
        row.so("they should be equal; look again under load").fix("ebbtide-agent check")
    } else {
        row.so("one of them has a wrong unit or missed a wrap")
            .fix("compare with a wall meter, then keep the right one: --sources powercap or --sources perf-rapl")
    }
}

/// Sensors of boards, firmware and batteries.
fn other(subject: &'static str, reader: &Reader) -> Option<Finding> {
    let denied = reader.skipped.iter().find(|s| needs_rights(s));
    if reader.zones.is_empty() {
        let s = denied?;
        return Some(with_fix(Finding::missing(subject, Cause::Permission, said(s)), s));
    }
    let names: Vec<&str> = reader.zones.iter().map(|z| z.name.as_str()).collect();
    let mut found = listed(&names);
    let silent = reader.zones.iter().find(|z| z.silent.is_some());
    match (silent, reader.kind) {
        // a laptop on its charger
        (Some(z), SourceKind::Battery) => {
            return Some(Finding::ok(subject, format!("{found}, {}", z.silent.as_deref().unwrap_or("silent"))));
        }
        (Some(z), _) => return Some(does_not_answer(subject, z)),
        _ => {}
    }
    if !reader.skipped.is_empty() {
        found.push_str(&format!(" ({} left out, see: ebbtide-agent zones)", reader.skipped.len()));
    }
    Some(match denied {
        Some(s) => with_fix(Finding::degraded(subject, Cause::Permission, found).so(said(s)), s),
        None => Finding::ok(subject, found),
    })
}

fn model(facts: &Facts) -> Option<Finding> {
    let relied = facts.reader(SourceKind::Model).is_some_and(|r| !r.zones.is_empty());
    // rights that would give a sensor are the cause, if any are missing
    let denied = facts.readers.iter().any(|r| r.zones.is_empty() && r.skipped.iter().any(needs_rights));
    let cause = if denied { Cause::Permission } else { Cause::Lack };
    match &facts.model {
        Some(Ok(curve)) if relied => {
            let (percent, of) = (percent(curve.error), &curve.of);
            let row = Finding::degraded("model", cause, "no sensor tells what the processors draw")
                .so(format!("modelled, ±{percent} % ({of}: {} to {})", curve.idle, curve.full));
            Some(match facts.machine.guest_of {
                _ if denied => row,
                Some(_) => row.fix("run ebbtide-agent on the host, it measures this VM as a whole"),
                None => row.fix(METER),
            })
        }
        _ if facts.zones().any(|(_, z)| z.counts()) => {
            let curve = facts.model.as_ref()?.as_ref().ok()?;
            let percent = percent(curve.error);
            Some(Finding::ok("model", format!("not needed; without sensors: {}, ±{percent} %", curve.of)))
        }
        Some(Err(why)) => Some(Finding::missing("model", Cause::Fatal, why.clone()).so(NOTHING)),
        _ if facts.zones().next().is_some() => None,
        _ => {
            let row = Finding::missing("model", Cause::Fatal, "no sensor, and the load curve is off by \"sources\"");
            Some(row.so(NOTHING).fix("ebbtide-agent check --sources all"))
        }
    }
}

const NOTHING: &str = "nothing can be measured here";

fn does_not_answer(subject: &'static str, zone: &ZoneFact) -> Finding {
    let why = zone.silent.as_deref().unwrap_or("silent");
    Finding::degraded(subject, Cause::Lack, format!("{} doesn't answer: {why}", zone.name))
        .so("its energy is missing until it does")
}

/// Whether a sensor, and not a curve, tells of the processors or the board.
fn relies_on_sensor(facts: &Facts) -> bool {
    facts.zones().any(|(source, z)| source != SourceKind::Model && z.counts())
}

/// Whether more rights would help. Each fix that is about rights says how to give them with `setcap`.
fn needs_rights(s: &Skipped) -> bool {
    s.fix.as_ref().is_some_and(|f| f.contains("setcap"))
}

fn said(s: &Skipped) -> String {
    format!("{}: {}", s.what, s.why)
}

fn with_fix(row: Finding, s: &Skipped) -> Finding {
    Finding { fix: s.fix.clone(), ..row }
}

pub(super) fn percent(ratio: Ratio) -> u32 {
    ratio.ppm() / 10_000
}

/// The packages by name unless there are many, other zones by kind: `package-0, package-1, dram ×2`.
fn grouped(zones: &[ZoneFact]) -> String {
    let mut kinds: Vec<ZoneKind> = zones.iter().map(|z| z.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let group = |kind: ZoneKind| {
        let names: Vec<&str> = zones.iter().filter(|z| z.kind == kind).map(|z| z.name.as_str()).collect();
        let by_name = names.len() == 1 || kind == ZoneKind::Package && names.len() <= MOST_NAMES;
        if by_name { names.join(", ") } else { format!("{} ×{}", kind.as_str(), names.len()) }
    };
    kinds.into_iter().map(group).collect::<Vec<_>>().join(", ")
}

/// The first few names, and how many more there are.
pub(super) fn listed(names: &[&str]) -> String {
    match names.get(..MOST_NAMES) {
        Some(first) if names.len() > MOST_NAMES => {
            format!("{} and {} more", first.join(", "), names.len() - MOST_NAMES)
        }
        _ => names.join(", "),
    }
}
