//! The daemon that is measured: a process of its own, looked at from outside.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

/// A process that is ended when it is dropped.
pub(super) struct Owned(pub(super) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // it may have ended by itself
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A daemon in a process of its own.
pub(super) struct Daemon {
    child: Owned,
    pub(super) grpc: std::net::SocketAddr,
}

impl Daemon {
    /// Starts `serve` and waits until it says where it listens.
    pub(super) fn start(config: &Path) -> anyhow::Result<Self> {
        let me = std::env::current_exe()?;
        let mut command = Command::new(me);
        command.arg("serve").arg("--config").arg(config).env("NO_COLOR", "1").stderr(Stdio::piped());
        let mut child = Owned(command.spawn()?);
        let log = child.0.stderr.take().context("no pipe")?;
        let mut lines = BufReader::new(log).lines();
        let mut grpc = None;
        for line in lines.by_ref() {
            let line = line?;
            if let Some((_, rest)) = line.split_once("agents and operators: ") {
                let at = rest.trim_start_matches("https://").trim_start_matches("http://");
                grpc = Some(at.trim().parse()?);
            }
            if line.contains("dashboard: ") {
                break;
            }
            if line.contains("ERROR") || line.starts_with("error") {
                bail!("the daemon said: {line}");
            }
        }
        // what it says later goes where ours does
        std::thread::Builder::new().name("daemon log".into()).spawn(move || {
            for line in lines.map_while(std::io::Result::ok).filter(|l| l.contains("WARN") || l.contains("ERROR")) {
                eprintln!("{line}");
            }
        })?;
        Ok(Self { child, grpc: grpc.context("the daemon did not say where it listens")? })
    }

    /// CPU seconds so far, user and system.
    pub(super) fn cpu(&self) -> anyhow::Result<f64> {
        let stat = self.file("stat")?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("no stat")?.1.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11).context("no utime")?.parse::<u64>()? + fields.get(12).context("no stime")?.parse::<u64>()?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Largest and present memory in KiB.
    pub(super) fn memory(&self) -> anyhow::Result<(u64, u64)> {
        let status = self.file("status")?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find(|l| l.starts_with(name)).context("no memory figure")?;
            Ok(line.split_whitespace().nth(1).context("no figure")?.parse()?)
        };
        Ok((field("VmHWM")?, field("VmRSS")?))
    }

    fn file(&self, name: &str) -> anyhow::Result<String> {
        let mut text = String::new();
        std::fs::File::open(format!("/proc/{}/{name}", self.child.0.id()))?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Ends it in order.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.0.id()).ok().and_then(rustix::process::Pid::from_raw).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.0.wait()?;
        Ok(())
    }
}
