//! From facts to findings, and from findings to a summary and an exit code. Pure.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use super::super::Exit;
use super::facts::Facts;
use super::{around, sensors};
use crate::source::{SourceKind, ZoneKind};

/// How well something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should.
    Ok,
    /// Less well than it could.
    Degraded,
    /// Not at all.
    Missing,
}

impl Level {
    /// The word in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// Why something doesn't work, as far as the exit code is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing is wrong.
    None,
    /// The kernel or a server doesn't permit it.
    Permission,
    /// Anything else; the agent works.
    Lack,
    /// The agent can't measure.
    Fatal,
}

/// One row of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word.
    pub subject: &'static str,
    /// How well it works.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What that means for the figures; empty if nothing.
    #[serde(serialize_with = "none_if_empty")]
    pub effect: String,
    /// The command or setting that helps, if one does.
    pub fix: Option<String>,
    /// Why it is so.
    #[serde(skip)]
    pub cause: Cause,
}

fn none_if_empty<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    if text.is_empty() { to.serialize_none() } else { to.serialize_str(text) }
}

impl Finding {
    /// Something that works.
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, level: Level::Ok, found: found.into(), effect: String::new(), fix: None, cause: Cause::None }
    }

    /// Something that works less well than it could.
    pub fn degraded(subject: &'static str, cause: Cause, found: impl Into<String>) -> Self {
        Self { level: Level::Degraded, cause, ..Self::ok(subject, found) }
    }

    /// Something that doesn't work.
    pub fn missing(subject: &'static str, cause: Cause, found: impl Into<String>) -> Self {
        Self { level: Level::Missing, cause, ..Self::ok(subject, found) }
    }

    /// What it means.
    #[must_use]
    pub fn so(mut self, effect: impl Into<String>) -> Self {
        self.effect = effect.into();
        self
    }

    /// What helps.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Draws conclusions: sensors first, then who ran, then the agent's own surroundings.
///
/// Sensors that this machine doesn't have and doesn't need get no row.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut rows = Vec::new();
    sensors::judge(facts, &mut rows);
    around::judge(facts, &mut rows);
    rows
}

/// How `check` ends, and its last line.
pub fn outcome(facts: &Facts, rows: &[Finding]) -> (Exit, String) {
    let bad = || rows.iter().filter(|r| r.level != Level::Ok);
    let exit = if bad().any(|r| r.cause == Cause::Fatal) {
        Exit::Failed
    } else if bad().next().is_none() {
        Exit::Ok
    } else if bad().all(|r| r.cause == Cause::Permission) {
        Exit::NotPermitted
    } else {
        Exit::Degraded
    };
    let sources: Vec<&Finding> = rows.iter().filter(|r| sensors::SUBJECTS.contains(&r.subject)).collect();
    let ok = sources.iter().filter(|r| r.level == Level::Ok).count();
    let of = sources.len();
    let sources = format!("{ok} of {of} {} ok", if of == 1 { "source" } else { "sources" });
    (exit, format!("{sources} · {} · exit {}", coverage(facts), exit.code()))
}

/// What part of the machine's energy is accounted for, in half a sentence.
fn coverage(facts: &Facts) -> String {
    let counting: Vec<_> = facts.zones().filter(|(_, z)| z.counts()).collect();
    if counting.is_empty() {
        return "nothing is measured".to_owned();
    }
    if counting.iter().any(|(source, _)| *source == SourceKind::Model) {
        return match &facts.model {
            Some(Ok(curve)) => format!("power is modelled, ±{} %", sensors::percent(curve.error)),
            _ => "power is modelled".to_owned(),
        };
    }
    let packages = counting.iter().filter(|(_, z)| matches!(z.kind, ZoneKind::Package | ZoneKind::Core));
    let sockets: BTreeSet<_> = packages.filter_map(|(_, z)| z.socket).collect();
    if sockets.is_empty() {
        let names: Vec<&str> = counting.iter().map(|(_, z)| z.name.as_str()).collect();
        return format!("accounted for: {}", sensors::listed(&names));
    }
    let of = facts.machine.sockets;
    let seen = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
    if seen < of {
        return format!("{seen} of {of} sockets are accounted for");
    }
    let sockets = if of == 1 { "1 socket" } else { &format!("{of} sockets") };
    let dram = counting.iter().any(|(_, z)| z.kind == ZoneKind::Dram);
    let but = if dram { "" } else { ", memory is not seen" };
    format!("every joule of {sockets} is accounted for{but}")
}
