//! What the facts mean. Pure.

use std::time::Duration;

use ebbtide_proto::identity::Identity;
use ebbtide_proto::v1;
use serde::Serialize;

use crate::cli::connect::Secured;
use crate::cli::context::Address;
use crate::cli::failure::{Exit, Failure};
use crate::cli::figure::{ago, count, span};
use crate::pki::Certificate;

/// A certificate that ends sooner should be renewed.
const SOON_MS: u64 = 21 * 86_400_000;
/// Clocks that differ by more make figures hard to compare.
const CLOCK_DOUBTFUL_MS: u64 = 5_000;
/// Clocks that differ by more make certificates and tokens fail.
const CLOCK_WRONG_MS: u64 = 5 * 60_000;
/// Slower commits make agents wait for their acknowledgements.
const COMMIT_SLOW_US: u64 = 1_000_000;
/// More frames per node than agents send in two hours wait to be put into blocks.
const UNSEALED_PER_NODE: u64 = 2 * 3600 / 5;
/// As many nodes are named in a line.
const NAMED: usize = 5;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, but should be seen to.
    Degraded,
    /// It doesn't work.
    Failed,
}

impl Level {
    /// As it is printed.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub level: Level,
    pub check: &'static str,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub fix: Option<String>,
    /// It is a matter of permission.
    #[serde(skip)]
    pub denied: bool,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, text: text.into(), fix: None, denied: false }
    }

    fn degraded(check: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Degraded, fix: Some(fix.into()), ..Self::ok(check, text) }
    }

    fn failed(check: &'static str, failure: &Failure) -> Self {
        Self {
            level: Level::Failed,
            check,
            text: failure.what.clone(),
            fix: (!failure.next.is_empty()).then(|| failure.next.clone()),
            denied: failure.exit == Exit::NotPermitted,
        }
    }
}

/// What was found out.
pub(super) struct Facts {
    pub address: Address,
    pub context: Option<String>,
    /// The certificate that is shown.
    pub own: Option<Result<Certificate, Failure>>,
    pub now_ms: u64,
    /// This program's.
    pub version: &'static str,
    /// What the fleet says, if it can be reached.
    pub answers: Result<Answers, Failure>,
}

/// What the fleet said.
pub(super) struct Answers {
    pub secured: Option<Secured>,
    /// How long it took to connect.
    pub connected: Duration,
    pub status: Result<v1::GetStatusResponse, Failure>,
    /// This machine's clock before and after the status was asked for.
    pub asked_ms: (u64, u64),
    pub nodes: Result<Vec<v1::Node>, Failure>,
}

/// How it ends, and why in a line.
pub(super) fn outcome(rows: &[Finding]) -> (Exit, String) {
    let of = |level| rows.iter().filter(|row| row.level == level).count();
    let failed = of(Level::Failed);
    let exit = match rows.iter().map(|row| row.level).max() {
        Some(Level::Failed) if rows.iter().all(|row| row.level != Level::Failed || row.denied) => Exit::NotPermitted,
        Some(Level::Failed) => Exit::Failed,
        Some(Level::Degraded) => Exit::Degraded,
        Some(Level::Ok) | None => Exit::Ok,
    };
    let mut summary = format!("{} of {} checks ok", of(Level::Ok), rows.len());
    for (n, what) in [(of(Level::Degraded), "degraded"), (failed, "failed")] {
        if n > 0 {
            summary.push_str(&format!(" · {n} {what}"));
        }
    }
    (exit, format!("{summary} · exit {}", exit.code()))
}

/// Draws conclusions, in the order in which things depend on each other.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let from = facts.context.as_ref().map_or_else(|| "no context".to_owned(), |name| format!("context {name}"));
    let mut rows = vec![Finding::ok("address", format!("{} ({from})", facts.address))];
    rows.extend(facts.own.as_ref().map(|own| shown(own, facts.now_ms)));
    let answers = match &facts.answers {
        Ok(answers) => answers,
        Err(failure) => {
            rows.push(Finding::failed("reach", failure));
            return rows;
        }
    };
    let took = span(answers.connected.max(Duration::from_millis(1)));
    rows.push(Finding::ok("reach", format!("connected within {took}")));
    rows.push(encryption(facts, answers));
    let status = match &answers.status {
        Ok(status) => status,
        Err(failure) => {
            rows.push(Finding::failed("status", failure));
            return rows;
        }
    };
    rows.push(version(facts, status));
    rows.push(role(facts, status));
    rows.push(clocks(status, answers.asked_ms));
    match &answers.nodes {
        Ok(nodes) => rows.extend(of_nodes(nodes, status)),
        Err(failure) => rows.push(Finding::failed("nodes", failure)),
    }
    rows.extend(of_store(status));
    rows.extend(
        status
            .troubles
            .iter()
            .map(|trouble| Finding::degraded("daemon", trouble, "see the daemon's log: journalctl -u ebbtide-fleet")),
    );
    rows
}

fn shown(own: &Result<Certificate, Failure>, now_ms: u64) -> Finding {
    const CHECK: &str = "you";
    let certificate = match own {
        Ok(certificate) => certificate,
        Err(failure) => return Finding::failed(CHECK, failure),
    };
    let renew = "ebbtide pki issue-operator NAME --role ROLE --force";
    let who = certificate.identity.as_ref().map_or_else(|| certificate.subject.clone(), ToString::to_string);
    match (certificate.expires_ms.checked_sub(now_ms), &certificate.identity) {
        (None | Some(0), _) => {
            let failure = Failure::new(format!("{who}: the certificate ended {}", ago(certificate.expires_ms, now_ms)));
            Finding::failed(CHECK, &failure.next(renew))
        }
        (_, None) => Finding::degraded(CHECK, format!("{who}: no ebbtide:// identity in it"), renew),
        (Some(left), _) if left < SOON_MS => Finding::degraded(
            CHECK,
            format!("{who}: the certificate ends {}", ago(certificate.expires_ms, now_ms)),
            renew,
        ),
        (_, Some(Identity::Operator { .. })) => {
            Finding::ok(CHECK, format!("{who}, ends {}", ago(certificate.expires_ms, now_ms)))
        }
        _ => Finding::degraded(CHECK, format!("{who} is no operator: the fleet may not answer"), renew),
    }
}

fn encryption(facts: &Facts, answers: &Answers) -> Finding {
    const CHECK: &str = "tls";
    let Some(Secured { certificate, version }) = &answers.secured else {
        return match facts.address.is_loopback() {
            true => Finding::ok(CHECK, "plain text, which stays on this machine"),
            false => Finding::degraded(
                CHECK,
                "plain text: anybody on the way can read and change it",
                "give the daemon a certificate: ebbtide pki issue-fleet --name HOST",
            ),
        };
    };
    let ends = ago(certificate.expires_ms, facts.now_ms);
    match certificate.expires_ms.saturating_sub(facts.now_ms) < SOON_MS {
        true => Finding::degraded(
            CHECK,
            format!("{version}; the fleet's certificate ends {ends}"),
            "on its machine: ebbtide pki issue-fleet --name HOST --force, then restart it",
        ),
        false => Finding::ok(CHECK, format!("{version}; the fleet's certificate ends {ends}")),
    }
}

fn version(facts: &Facts, status: &v1::GetStatusResponse) -> Finding {
    const CHECK: &str = "version";
    let up = ago(status.started_ms, status.now_ms);
    if status.version == facts.version {
        return Finding::ok(CHECK, format!("{} here and there; the daemon started {up}", facts.version));
    }
    let text = format!("{} here, {} there: some figures may be missing", facts.version, status.version);
    Finding::degraded(CHECK, text, "use the same version in both places")
}

fn role(facts: &Facts, status: &v1::GetStatusResponse) -> Finding {
    const CHECK: &str = "role";
    let told = facts.own.as_ref().and_then(|own| own.as_ref().ok()).and_then(|own| own.identity.as_ref());
    match (told, status.your_role.as_str()) {
        (_, "") => {
            Finding::degraded(CHECK, "the fleet takes you for nobody", "show a certificate: --cert FILE --key FILE")
        }
        (Some(Identity::Operator { role, .. }), there) if role.as_str() != there => Finding::degraded(
            CHECK,
            format!("the certificate says {role}, the fleet says {there}"),
            "is it the certificate you meant? ebbtide context show",
        ),
        (_, there) => Finding::ok(CHECK, there),
    }
}

fn clocks(status: &v1::GetStatusResponse, (before, after): (u64, u64)) -> Finding {
    const CHECK: &str = "clock";
    // between the question and the answer nothing is wrong with any time
    let off = if status.now_ms < before { before - status.now_ms } else { status.now_ms.saturating_sub(after) };
    let side = if status.now_ms < before { "behind" } else { "ahead of" };
    if off <= CLOCK_DOUBTFUL_MS {
        return Finding::ok(CHECK, "this machine's and the fleet's agree");
    }
    let text = format!("the fleet's clock is {} {side} this machine's", span(Duration::from_millis(off)));
    let fix = "synchronise both (timedatectl set-ntp true)";
    match off > CLOCK_WRONG_MS {
        true => Finding::failed(CHECK, &Failure::new(text).next(fix)),
        false => Finding::degraded(CHECK, text, fix),
    }
}

fn of_nodes(nodes: &[v1::Node], status: &v1::GetStatusResponse) -> Vec<Finding> {
    const CHECK: &str = "nodes";
    if nodes.is_empty() {
        let fix = "let one join: ebbtide token create --node NAME";
        return vec![Finding::degraded(CHECK, "no node has joined yet", fix)];
    }
    let of = |wanted: v1::NodeState| nodes.iter().filter(move |n| n.state == i32::from(wanted));
    let live = of(v1::NodeState::Live).count() + of(v1::NodeState::CatchingUp).count();
    let mut rows = Vec::new();
    let mut say = |found: Vec<&v1::Node>, what: &str, fix: &str| {
        if !found.is_empty() {
            let named: Vec<_> = found
                .iter()
                .take(NAMED)
                .map(|n| match (n.trouble.as_str(), n.last_ms) {
                    ("", 0) => n.name.clone(),
                    ("", last) => format!("{} (last heard {})", n.name, ago(last, status.now_ms)),
                    (trouble, _) => format!("{} ({trouble})", n.name),
                })
                .collect();
            let more = found.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            rows.push(Finding::degraded(CHECK, format!("{} {what}: {}{more}", found.len(), named.join(", ")), fix));
        }
    };
    say(
        of(v1::NodeState::Refused).collect(),
        "turned away",
        "see why with `ebbtide node NAME`; a new certificate: ebbtide token create --node NAME",
    );
    say(
        of(v1::NodeState::Stale).collect(),
        "silent",
        "on the node: systemctl status ebbtide-agent, ebbtide-agent check",
    );
    let troubled = nodes.iter().filter(|n| {
        let told = [v1::NodeState::Refused, v1::NodeState::Stale].map(i32::from).contains(&n.state);
        !told && !n.trouble.is_empty()
    });
    say(troubled.collect(), "in trouble", "see `ebbtide node NAME`");
    if rows.is_empty() {
        let gone = of(v1::NodeState::Gone).count();
        let gone = if gone > 0 { format!(", {gone} said goodbye") } else { String::new() };
        rows.push(Finding::ok(CHECK, format!("{live} of {} live{gone}", nodes.len())));
    }
    rows
}

fn of_store(status: &v1::GetStatusResponse) -> Vec<Finding> {
    let mut rows = Vec::new();
    let commit = super::super::status::micros(status.commit_p99_us);
    rows.push(if status.commit_p99_us > COMMIT_SLOW_US {
        let text = format!("99 of 100 commits take up to {commit}: agents wait");
        Finding::degraded(
            "ingest",
            text,
            "give the daemon a faster disk, or less to do (fewer nodes, longer intervals)",
        )
    } else if status.commit_p99_us == 0 {
        Finding::ok("ingest", format!("nothing to commit in the last minute, {} frames so far", count(status.frames)))
    } else {
        Finding::ok("ingest", format!("commits within {commit}, {} frames so far", count(status.frames)))
    });
    let most = UNSEALED_PER_NODE * u64::from(status.nodes.max(1));
    rows.push(if status.unsealed_frames > most {
        let text = format!("{} frames wait to be put into blocks", count(status.unsealed_frames));
        Finding::degraded("store", text, "see the daemon's log: is the disk full or slow?")
    } else {
        let bytes = crate::cli::figure::bytes(status.store_bytes);
        Finding::ok(
            "store",
            format!("{bytes} in {}, {} frames unsealed", status.data_dir, count(status.unsealed_frames)),
        )
    });
    if status.dropped_frames > 0 {
        let text = format!(
            "{} frames were given up by agents: energy of that time is not known",
            count(status.dropped_frames)
        );
        rows.push(Finding::degraded(
            "gaps",
            text,
            "give agents a larger spool (spool-bytes), or find out why they were cut off",
        ));
    }
    let refused: Vec<_> =
        status.refusals.iter().filter(|r| r.count > 0).map(|r| format!("{} {}", count(r.count), r.reason)).collect();
    if !refused.is_empty() {
        let text = format!("since its start the fleet refused {}", refused.join(", "));
        rows.push(Finding::degraded("refusals", text, "see the daemon's log for who was refused"));
    }
    rows
}
