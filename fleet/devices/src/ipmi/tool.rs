//! Runs `ipmitool` once, bounded in time and output.
//!
//! The password goes by the environment (`-E`), which only the same user can read, never by the command line, which
//! everybody can.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// No answer of `ipmitool` to our questions is longer.
const LONGEST_OUTPUT: u64 = 64 << 10;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Whether it ended with 0.
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Why nothing came of it.
#[derive(Debug)]
pub(crate) enum NotRun {
    /// The program isn't there, or may not be run.
    NoProgram(std::io::Error),
    /// It didn't end in time and was killed.
    Late,
    /// It printed more than is read.
    Flood,
}

impl From<std::io::Error> for NotRun {
    fn from(error: std::io::Error) -> Self {
        Self::NoProgram(error)
    }
}

/// Runs `program` with these arguments. A run that is dropped kills it.
pub(crate) async fn run(
    program: &Path,
    arguments: &[String],
    password: Option<&str>,
    limit: Duration,
) -> Result<Ran, NotRun> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsStr::new("/usr/sbin:/usr/bin:/sbin:/bin").to_owned());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(password) = password {
        command.env("IPMI_PASSWORD", password);
    }
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (stdout, stderr) = tokio::try_join!(capped(stdout), capped(stderr))?;
        Ok(Ran { ok: child.wait().await?.success(), stdout, stderr })
    };
    let outcome = tokio::time::timeout(limit, work).await.unwrap_or(Err(NotRun::Late));
    if outcome.is_err() {
        // It may have ended meanwhile; then there is nothing to kill.
        child.kill().await.or_else(|e| if e.kind() == ErrorKind::InvalidInput { Ok(()) } else { Err(e) })?;
    }
    outcome
}

async fn capped(pipe: Option<impl AsyncRead + Unpin>) -> Result<String, NotRun> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(LONGEST_OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > LONGEST_OUTPUT {
        return Err(NotRun::Flood);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
