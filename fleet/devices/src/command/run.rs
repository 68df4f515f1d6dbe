//! Runs a program under limits: a clean environment, a deadline at which its whole process group is killed, bounded
//! output.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::error::DeviceError;
use crate::secret::Secret;

/// More output than this is not about power.
const LONGEST: u64 = 1024 * 1024;
/// As much of the end of stderr is kept.
const LONGEST_REASON: usize = 4096;

/// A program with its environment and limits.
pub struct Program {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    secrets: Vec<(String, Secret)>,
    deadline: Duration,
}

/// How it ended.
pub struct Finished {
    /// Its exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// All that it wrote to stdout.
    pub output: Vec<u8>,
    /// The end of what it wrote to stderr.
    pub reason: Vec<u8>,
}

/// Kills a process group when dropped: at the deadline, or when nobody waits any more.
struct Group(Option<Pid>);

impl Program {
    /// A program that is called with these arguments in front of others, and has this environment and no other.
    pub fn new(
        path: PathBuf,
        args: Vec<String>,
        env: Vec<(String, String)>,
        secrets: Vec<(String, Secret)>,
        deadline: Duration,
    ) -> Self {
        Self { path, args, env, secrets, deadline }
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Runs it with these arguments behind its own and returns what it wrote.
    pub(super) async fn run(&self, args: &[&str]) -> Result<Vec<u8>, DeviceError> {
        let Finished { status, output, reason } = self.finish(args).await?;
        if status.success() {
            return Ok(output);
        }
        let (device, asked) = (self.name(), args.join(" "));
        Err(DeviceError::Refused { device, asked, why: self.reason(status, &reason) })
    }

    /// Runs it with these arguments behind its own to its end, whatever that is.
    ///
    /// # Errors
    /// If it can't be run, takes too long, or says too much.
    pub async fn finish(&self, args: &[&str]) -> Result<Finished, DeviceError> {
        let device = self.name();
        let asked = args.join(" ");
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .envs(self.secrets.iter().map(|(k, v)| (k, v.reveal())))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let started = command.spawn();
        let mut child = started
            .map_err(|e| DeviceError::Unreachable { device: device.clone(), why: format!("can't be run: {e}") })?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (output, reason) = tokio::join!(bounded(stdout, LONGEST), end(stderr));
            let output = output.ok_or(Ended::TooMuch)?;
            let status = child.wait().await.map_err(Ended::Lost)?;
            Ok::<_, Ended>(Finished { status, output, reason })
        };
        let ended = tokio::time::timeout(self.deadline, work).await;
        drop(group);
        match ended {
            Err(_) => Err(DeviceError::Timeout {
                device,
                after: self.deadline,
                hint: "it was killed with all that it started; does it wait for input?".to_owned(),
            }),
            Ok(Err(Ended::TooMuch)) => Err(DeviceError::Nonsense {
                device,
                asked,
                why: format!("it wrote more than {LONGEST} bytes and was killed"),
            }),
            Ok(Err(Ended::Lost(error))) => Err(DeviceError::Unreachable { device, why: error.to_string() }),
            Ok(Ok(finished)) => Ok(finished),
        }
    }

    fn reason(&self, status: ExitStatus, stderr: &[u8]) -> String {
        let text = String::from_utf8_lossy(stderr);
        let line = text.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or("it said nothing on stderr");
        let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
        let line = self.secrets.iter().fold(line, |line, (_, secret)| secret.redact(&line));
        format!("{status}: {line}")
    }
}

enum Ended {
    TooMuch,
    Lost(std::io::Error),
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It fails if all have ended, which is well.
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

/// All that `from` gives, up to `most` bytes; `None` if there is more, or it can't be read.
async fn bounded(from: Option<impl AsyncRead + Unpin>, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from?.take(most + 1).read_to_end(&mut bytes).await.ok()?;
    u64::try_from(read).is_ok_and(|n| n <= most).then_some(bytes)
}

/// The end of what `from` gives. All of it is read, so that nobody who writes more is held up.
async fn end(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return kept };
    let mut buffer = [0; LONGEST_REASON];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
        kept.drain(..kept.len().saturating_sub(LONGEST_REASON));
    }
    kept
}
