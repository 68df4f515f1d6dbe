//! What each way of knowing who ran costs: per task and sample, per context switch, per process that ends.

use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::Context as _;
use ebbtide_agent::clock;
use ebbtide_agent::host::HostRoot;
use ebbtide_agent::usage::UsageReader;
use ebbtide_agent::usage::bpf::{BpfReader, EVENTS, Event, Unusable};
use ebbtide_agent::usage::table::TaskTable;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::figures::median;
use crate::inside::{BETWEEN, cpu_micros};

/// A clock of the kernel's in place of each counter: what is read differs, how often and by what way doesn't.
const SOFTWARE: u32 = 1;

/// Cost of a collection by BPF, in microseconds per task.
pub(crate) struct Collection {
    pub(crate) tasks: usize,
    pub(crate) first: f64,
    /// What changed is told.
    pub(crate) changed: f64,
    /// All are told, as in each thirtieth sample.
    pub(crate) everyone: f64,
}

/// Collects `rounds` times; `Err` says why BPF can't be used.
pub(crate) fn collection(rounds: usize) -> anyhow::Result<Result<Collection, Unusable>> {
    let mut reader = match BpfReader::with_events(&HostRoot::new("/"), &[]) {
        Ok(reader) => reader,
        Err(why) => return Ok(Err(why)),
    };
    let (mut table, mut deltas) = (TaskTable::default(), Vec::new());
    let mut collect = |all: bool| -> anyhow::Result<(f64, usize)> {
        std::thread::sleep(BETWEEN);
        deltas.clear();
        if all {
            reader.tell_everyone();
        }
        let (outcome, micros) = cpu_micros(|| reader.sample(clock::now(), None, &mut table, &mut deltas));
        outcome.context("can't read tasks by BPF")?;
        let tasks = table.living();
        Ok((micros / tasks.max(1) as f64, tasks))
    };
    let (first, tasks) = collect(false)?;
    let (mut changed, mut everyone) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        changed.push(collect(false)?.0);
        everyone.push(collect(true)?.0);
    }
    let middle = |v: &[f64]| median(v).context("nothing was collected");
    Ok(Ok(Collection { tasks, first, changed: middle(&changed)?, everyone: middle(&everyone)? }))
}

/// What is added by programs that run at events, in nanoseconds of CPU time.
pub(crate) struct Hooks {
    /// A context switch without any program.
    pub(crate) switch: f64,
    /// Added to it by usage alone.
    pub(crate) usage: f64,
    /// Added to it by counters, and whether they were real ones.
    pub(crate) counters: Option<(f64, bool)>,
    /// A process from its start to its end, in microseconds.
    pub(crate) process: f64,
    /// Added to it by usage, in microseconds.
    pub(crate) process_usage: f64,
}

/// Measures switches between two threads on one CPU, and processes that start and end, with and without programs.
pub(crate) fn hooks(rounds: usize) -> anyhow::Result<Result<Hooks, Unusable>> {
    let host = HostRoot::new("/");
    let (mut bare, mut with_usage, mut with_counters) = (Vec::new(), Vec::new(), Vec::new());
    let (mut short, mut short_usage) = (Vec::new(), Vec::new());
    let stand_in = EVENTS.map(|e| Event { kind: SOFTWARE, config: 0, ..e });
    let mut real = None;
    // turn by turn, so that the machine's other load is the same for all
    for _ in 0..rounds {
        bare.push(switches()?);
        short.push(short_lived()?);
        let reader = match BpfReader::with_events(&host, &[]) {
            Ok(reader) => reader,
            Err(why) => return Ok(Err(why)),
        };
        with_usage.push(switches()?);
        short_usage.push(short_lived()?);
        drop(reader);
        let counting = match BpfReader::with_events(&host, &EVENTS) {
            Ok(reader) => Some((reader, true)),
            Err(_) => BpfReader::with_events(&host, &stand_in).ok().map(|reader| (reader, false)),
        };
        if let Some((reader, is_real)) = counting {
            real = Some(is_real);
            with_counters.push(switches()?);
            drop(reader);
        }
    }
    let middle = |v: &[f64]| median(v).context("nothing was measured");
    let switch = middle(&bare)?;
    let process = middle(&short)?;
    Ok(Ok(Hooks {
        switch,
        usage: middle(&with_usage)? - switch,
        counters: match real {
            Some(real) => Some((middle(&with_counters)? - switch, real)),
            None => None,
        },
        process: process / 1e3,
        process_usage: (middle(&short_usage)? - process) / 1e3,
    }))
}

/// CPU time per context switch in nanoseconds: two threads on one CPU wake each other.
fn switches() -> anyhow::Result<f64> {
    const TURNS: u32 = 50_000;
    let (their_end, my_word) = rustix::pipe::pipe()?;
    let (my_end, their_word) = rustix::pipe::pipe()?;
    let stay = || -> rustix::io::Result<()> {
        let mut first = CpuSet::new();
        first.set(0);
        sched_setaffinity(None, &first)
    };
    let turn = |from: &OwnedFd, to: &OwnedFd| -> rustix::io::Result<()> {
        let mut byte = [0];
        rustix::io::read(from, &mut byte)?;
        rustix::io::write(to, &byte)?;
        Ok(())
    };
    let other = std::thread::spawn(move || -> rustix::io::Result<()> {
        stay()?;
        for _ in 0..TURNS {
            turn(&their_end, &their_word)?;
        }
        Ok(())
    });
    let mine = std::thread::spawn(move || -> rustix::io::Result<f64> {
        stay()?;
        let (outcome, micros) = cpu_micros(|| {
            for _ in 0..TURNS {
                rustix::io::write(&my_word, &[0])?;
                rustix::io::read(&my_end, &mut [0])?;
            }
            Ok(())
        });
        outcome.map(|()| micros)
    });
    let died = || anyhow::anyhow!("a thread panicked");
    let micros = mine.join().map_err(|_| died())??;
    other.join().map_err(|_| died())??;
    Ok(micros * 1e3 / f64::from(2 * TURNS))
}

/// CPU time of this process and its children per child that is started and ends, in nanoseconds.
fn short_lived() -> anyhow::Result<f64> {
    const CHILDREN: u32 = 300;
    let before = crate::kernel::own_and_children();
    for _ in 0..CHILDREN {
        Command::new("/bin/true").status().context("can't run /bin/true")?;
    }
    Ok((crate::kernel::own_and_children() - before).as_secs_f64() * 1e9 / f64::from(CHILDREN))
}
