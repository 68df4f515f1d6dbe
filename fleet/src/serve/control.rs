//! What only the daemon can do while it runs, for commands on the same machine: a socket in the store's folder.
//!
//! Who may open the folder may do anything to the store anyway, so there are no roles here. A request is one line of
//! JSON; the answer is a line `ok` or `error: …`, then what was asked for.

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbtide_proto::NodeId;
use ebbtide_runtime::tasks::{self, Shutdown};
use serde::{Deserialize, Serialize};

use crate::store::{Export, Report, Resolution, Store};

/// A request is at most so long.
const LONGEST: u64 = 64 << 10;
/// A client may take so long to say or take something.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the socket is, in the store's folder.
const NAME: &str = "control.sock";

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A copy in this folder, named from the root.
    Backup(PathBuf),
    /// Measurements as CSV.
    Export {
        /// From when, in milliseconds since 1970.
        from_ms: u64,
        /// Until when.
        until_ms: u64,
        /// Only of this node.
        node: Option<NodeId>,
    },
}

impl Request {
    /// Does it, and writes what comes of it.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn run(&self, store: &Store, to: &mut dyn Write) -> anyhow::Result<()> {
        match self {
            Self::Backup(folder) => {
                let report = store.backup(folder)?;
                writeln!(to, "{}", told(folder, &report))?;
            }
            Self::Export { from_ms, until_ms, node } => {
                let (from_ms, until_ms, node) = (*from_ms, *until_ms, node.clone());
                let what = Export { from_ms, until_ms, node, resolution: Resolution::Raw };
                store.export(&what, to)?;
            }
        }
        to.flush()?;
        Ok(())
    }
}

fn told(folder: &Path, report: &Report) -> String {
    let (files, samples) = (report.files, report.samples);
    match report.problems {
        0 => format!("{}: {files} files, {samples} values in blocks, whole", folder.display()),
        n => format!("{}: {files} files, {n} problems; see ebbtide-fleet verify", folder.display()),
    }
}

/// Answers requests until the stop signal.
///
/// # Errors
/// If the socket can't be made.
pub(super) async fn serve(folder: PathBuf, store: Store, stop: Shutdown) -> anyhow::Result<()> {
    let path = folder.join(NAME);
    // the store is locked, so this is left from a daemon that was killed
    drop(std::fs::remove_file(&path));
    let listener = tokio::net::UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        let stream = tokio::select! {
            () = stop.requested() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream.into_std()?,
                Err(error) => {
                    tracing::debug!("control: {error}");
                    continue;
                }
            },
        };
        let store = store.clone();
        // one at a time: a backup and an export would only slow each other down
        let answered = tasks::blocking("control", move || answer(stream, &store));
        if let Some(Err(error)) = answered.await {
            tracing::debug!("control: {error:#}");
        }
    }
    drop(std::fs::remove_file(&path));
    Ok(())
}

fn answer(stream: UnixStream, store: &Store) -> anyhow::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(&stream).take(LONGEST).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let mut out = First { stream: std::io::BufWriter::new(&stream), begun: false };
    if let Err(error) = request.run(store, &mut out) {
        if out.begun {
            anyhow::bail!(error);
        }
        writeln!(out.stream, "error: {error:#}")?;
    }
    out.stream.flush()?;
    Ok(())
}

/// Says `ok` before the first byte.
struct First<W: Write> {
    stream: W,
    begun: bool,
}

impl<W: Write> Write for First<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !std::mem::replace(&mut self.begun, true) {
            self.stream.write_all(b"ok\n")?;
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// Asks the daemon that has the store in `folder` open.
///
/// # Errors
/// If it can't be asked, or what it answers.
pub fn ask(folder: &Path, request: &Request, to: &mut dyn Write) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(folder.join(NAME))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut answer = BufReader::new(stream);
    let mut first = String::new();
    answer.read_line(&mut first)?;
    match first.trim_end() {
        "ok" => {}
        "" => anyhow::bail!("the daemon ended the connection; its log says why"),
        error => anyhow::bail!("the daemon says: {}", error.trim_start_matches("error: ")),
    }
    std::io::copy(&mut answer, to)?;
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::store::Options;

    #[test]
    fn a_request_is_answered_or_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), Options::default()).unwrap();
        let listener = UnixListener::bind(folder.path().join(NAME)).unwrap();
        let to = folder.path().join("copy");
        let asked = |request: Request| {
            let mut out = Vec::new();
            std::thread::scope(|scope| {
                scope.spawn(|| answer(listener.accept().unwrap().0, &store));
                ask(folder.path(), &request, &mut out)
            })
            .map(|()| String::from_utf8(out).unwrap())
        };
        let said = asked(Request::Backup(to.clone())).unwrap();
        assert!(said.contains("whole"), "{said}");
        let refused = asked(Request::Backup(to)).unwrap_err().to_string();
        assert!(refused.contains("has files in it"), "{refused}");
        let csv = asked(Request::Export { from_ms: 0, until_ms: 1, node: None }).unwrap();
        assert!(csv.starts_with("time_ms,node,metric"), "{csv}");
    }
}
