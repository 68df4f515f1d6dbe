//! Processes to be measured: many that sleep, a few that work.
//!
//! They are children of a helper, which is this program started again, so that they are small and have nothing
//! of the measuring side in them. A helper says `ready` on its stdout and ends when its stdin does, whatever the
//! reason: then it ends its children and waits for them, so that nothing is left behind.

use std::ffi::CString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ebbtide_agent::clock;
use rustix::process::{Pid, Signal, WaitOptions, getppid, kill_process, set_parent_process_death_signal, waitpid};

use crate::kernel;

/// In this time a busy process works for its share and sleeps for the rest.
const PERIOD: Duration = Duration::from_millis(50);

/// A running helper. Dropping it ends it and its children.
pub(crate) struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Helper {
    /// Starts this program in one of its helper modes and waits until it is ready.
    pub(crate) fn start(mode: &str, argument: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .args([mode, argument])
            .process_group(0) // so that Ctrl-C reaches it by the end of its stdin, after which it cleans up
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the helper has no stdout")?;
        let helper = Self { child, stdin };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line != "ready\n" {
            bail!("the helper {mode} {argument} didn't start");
        }
        Ok(helper)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("can't wait for a helper: {error}");
        }
    }
}

/// Helper mode: `count` processes that never run.
pub(crate) fn sleepers(count: usize) -> anyhow::Result<()> {
    populate(
        count,
        |i| format!("sleep-{i}"),
        |_| loop {
            std::thread::park();
        },
    )
}

/// Helper mode: one process per entry of `percents`, each busy for that share of a CPU.
pub(crate) fn busy(percents: &[u32]) -> anyhow::Result<()> {
    let percent = |i: usize| percents.get(i).copied().unwrap_or(0).min(100);
    populate(percents.len(), |i| format!("busy-{}", percent(i)), |i| work(percent(i)))
}

fn populate(count: usize, name: impl Fn(usize) -> String, body: impl Fn(usize)) -> anyhow::Result<()> {
    let parent = rustix::process::getpid();
    let mut children = Vec::with_capacity(count);
    let mut outcome = Ok(());
    for i in 0..count {
        let child = kernel::fork(|| {
            // if the helper is killed, nobody else would end this one
            let watched = set_parent_process_death_signal(Some(Signal::KILL)).is_ok() && getppid() == Some(parent);
            let named = CString::new(name(i)).is_ok_and(|n| rustix::thread::set_name(&n).is_ok());
            if watched && named {
                body(i);
            }
        });
        match child {
            Ok(pid) => children.push(pid),
            Err(error) => {
                let hint = "see ulimit -u, kernel.pid_max and pids.max of the cgroup";
                outcome = Err(error).with_context(|| format!("can't start process {} of {count}; {hint}", i + 1));
                break;
            }
        }
    }
    if outcome.is_ok() {
        outcome = wait_for_the_end().context("helper");
    }
    end(&children);
    outcome
}

/// Says that all is ready and returns when stdin ends.
pub(crate) fn wait_for_the_end() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn end(children: &[Pid]) {
    for &child in children {
        if let Err(error) = kill_process(child, Signal::KILL) {
            eprintln!("can't end process {child:?}: {error}");
        }
    }
    for &child in children {
        if let Err(error) = waitpid(Some(child), WaitOptions::empty()) {
            eprintln!("can't wait for process {child:?}: {error}");
        }
    }
}

fn work(percent: u32) {
    let share = PERIOD * percent / 100;
    loop {
        let (began, until) = (clock::now().mono, clock::own_cpu() + share);
        let mut x = 1u64;
        while clock::own_cpu() < until {
            for _ in 0..2_000 {
                x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        }
        let spent = Duration::from_nanos(clock::now().mono.saturating_sub(began));
        std::thread::sleep(PERIOD.saturating_sub(spent));
    }
}
