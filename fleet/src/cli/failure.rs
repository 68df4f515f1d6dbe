//! How a command ends, and what is said when it fails: what was tried, and what to do next, in at most three lines.

use std::fmt;
use std::process::ExitCode;

use tonic::{Code, Status};

use super::wire::Broken;
use crate::pki::PkiError;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// It failed.
    Failed,
    /// It was asked for in a way that makes no sense.
    Usage,
    /// It works, but not as well as it should (`doctor`).
    Degraded,
    /// It is not allowed.
    NotPermitted,
    /// It was interrupted from the keyboard.
    Interrupted,
}

impl Exit {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Degraded => 3,
            Self::NotPermitted => 4,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed, for people.
#[derive(Debug)]
pub(super) struct Failure {
    /// What was tried, on what, and why it didn't work: one line.
    pub what: String,
    /// What to do next; empty: nothing is known.
    pub next: String,
    /// How the command ends.
    pub exit: Exit,
    /// What lower layers said, for `--verbose`, outermost first.
    pub causes: Vec<String>,
}

impl Failure {
    /// Something failed.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: one_line(&what.into()), next: String::new(), exit: Exit::Failed, causes: Vec::new() }
    }

    /// What was asked for makes no sense.
    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::new(what).exit(Exit::Usage)
    }

    /// With what to do next.
    #[must_use]
    pub(super) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = one_line(&next.into());
        self
    }

    /// With another end.
    #[must_use]
    pub(super) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// With the errors below it.
    #[must_use]
    pub(super) fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.causes = chain(error).map(|e| one_line(&e.to_string())).collect();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.next.is_empty() {
            write!(f, "\n  {}", self.next)?;
        }
        Ok(())
    }
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        let denied = match &error {
            PkiError::Read { source, .. } | PkiError::Write { source, .. } => {
                source.kind() == std::io::ErrorKind::PermissionDenied
            }
            _ => false,
        };
        let usage = matches!(error, PkiError::Name(_) | PkiError::NoName | PkiError::Days(_));
        let failure = Self::new(error.to_string()).because(&error);
        match (denied, usage) {
            (true, _) => failure.exit(Exit::NotPermitted).next("run it as the user that owns the folder"),
            (_, true) => failure.exit(Exit::Usage),
            _ => failure,
        }
    }
}

/// What the fleet at `address` refused.
pub(super) fn refused(address: &str, status: &Status) -> Failure {
    let said = printable(status.message());
    let said = if said.is_empty() { "it doesn't say why".to_owned() } else { said };
    let failure = match status.code() {
        Code::Unauthenticated => Failure::new(format!("{address} wants to know who asks: {said}"))
            .exit(Exit::NotPermitted)
            .next("show a certificate: ebbtide pki issue-operator NAME --role viewer, then ebbtide context set"),
        Code::PermissionDenied => Failure::new(format!("{address} does not permit this: {said}"))
            .exit(Exit::NotPermitted)
            .next("see your role with `ebbtide status`; an admin makes others: ebbtide pki issue-operator"),
        Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists => Failure::new(said),
        Code::InvalidArgument => Failure::usage(said),
        Code::ResourceExhausted => Failure::new(format!("{address} would have to read or send too much: {said}"))
            .next("ask for less: a shorter --since, a longer --step, --node, --search or --limit"),
        Code::DeadlineExceeded | Code::Cancelled => Failure::new(format!("{address} didn't answer in time"))
            .next("wait longer with --timeout 2m, or see what is wrong with `ebbtide doctor`"),
        Code::Unimplemented => Failure::new(format!("{address} doesn't know this request: it is older, or no fleet"))
            .next("compare `ebbtide version` and `ebbtide status`"),
        Code::Unavailable => Failure::new(format!("{address} can't answer now: {said}"))
            .next("try again, or see what is wrong with `ebbtide doctor`"),
        _ => Failure::new(format!("{address} failed: {said}")).next("see what is wrong with `ebbtide doctor`"),
    };
    failure.because(status)
}

/// What broke the connection to the fleet at `address`.
pub(super) fn broken(address: &str, why: &Broken) -> Failure {
    match why {
        Broken::NoFleet => Failure::new(format!("{address} answers, but not as a fleet does")).next(
            match address.starts_with("https") {
                true => "is it the gRPC address (port 9884), not the dashboard's?",
                false => "if it speaks TLS, use https://; is it the gRPC address (port 9884), not the dashboard's?",
            },
        ),
        Broken::Refused(alert) => {
            Failure::new(format!("{address} refused the certificate that was shown, or that none was ({alert:?})"))
                .exit(Exit::NotPermitted)
                .next("look at it with `ebbtide pki show FILE`: has it ended, or is it from another authority?")
        }
        Broken::Other(why) => Failure::new(format!("the connection to {address} broke: {why}"))
            .next("try again, or see what is wrong with `ebbtide doctor`"),
    }
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    /// No chain is that long unless it is a circle.
    const MOST: usize = 16;
    std::iter::successors(Some(error), |e| e.source()).take(MOST)
}

fn one_line(text: &str) -> String {
    printable(text.trim())
}

/// `text` without what could move a terminal's cursor or change its colours.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
