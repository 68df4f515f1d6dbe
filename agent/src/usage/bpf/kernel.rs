//! The programs in the kernel: loading, one pass over all tasks, what ended since the last look.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use aya::maps::{Array, HashMap, Map, MapData, RingBuf};
use aya::programs::{BtfTracePoint, Iter, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::counters::{self, Event};
use super::record::{self, EXITING, Exiting, LIFE, Life};
use super::{Feed, Lost, btf, sys};
use crate::host::HostRoot;
use crate::perf::OpenEvent;

/// Built from `ebpf/usage.bpf.c` by `make ebpf`.
static USAGE: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/usage.bpf.o"));

/// The same with `task_switched`.
static COUNTERS: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/counters.bpf.o"));

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Bytes for what ended between two samples; about 16,000 threads.
const RING: u32 = 2 << 20;
/// The kernel hands out at most this much at once.
const CHUNK: usize = 64 * 1024;

/// Why the programs can't be used here.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// What is measured isn't the machine that runs the agent.
    #[error("the measured root has no /proc of this machine")]
    OtherMachine,
    /// The agent sees only part of the machine.
    #[error("the agent runs in a pid namespace of its own")]
    Namespace,
    /// The programs follow pointers of 64 bits.
    #[error("the kernel's words have less than 64 bits ({0})")]
    Narrow(String),
    /// Counters were asked for, but usage comes from `/proc`.
    #[error("they are read by BPF, and usage is read from /proc")]
    NotBpf,
    /// An event can't be opened.
    #[error("the processor doesn't count {event} here: {source}")]
    NoEvent {
        /// Which.
        event: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel doesn't describe its types.
    #[error("the kernel has no BTF (/sys/kernel/btf/vmlinux): {0}")]
    NoBtf(aya::BtfError),
    /// It doesn't take the object or one of its maps.
    #[error("the kernel doesn't take the maps: {}", chain(.0))]
    Object(#[from] aya::EbpfError),
    /// It doesn't take a program.
    #[error("the kernel doesn't take the program {program}: {}", refusal(.source))]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        source: ProgramError,
    },
    /// A map can't be used.
    #[error("the map {0} can't be used")]
    Map(&'static str),
}

/// An error with all its causes; the kernel's own words come last.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // the log of the verifier has a hundred lines
        let line = cause_text.lines().next().unwrap_or_default();
        if !text.contains(line) {
            text = format!("{text}: {line}");
        }
        next = cause.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

/// Why the kernel refuses a program. The verifier says that in the last line of its log that isn't about what it counted.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let counts = ["processed ", "verification time ", "stack depth "];
    let is_said = |line: &&str| !line.trim().is_empty() && !counts.iter().any(|c| line.starts_with(c));
    match log.lines().rev().find(is_said) {
        Some(line) => format!("{io_error}; the verifier: {}", line.trim()),
        None => io_error.to_string(),
    }
}

impl Unusable {
    /// What is wrong with a program that can't be used. All that the verifier said of it is logged, once.
    fn refused(program: &'static str) -> impl FnOnce(ProgramError) -> Self {
        move |source| {
            if let ProgramError::LoadError { verifier_log, .. } = &source {
                tracing::debug!("what the verifier said of {program}:\n{verifier_log}");
            }
            Self::Program { program, source }
        }
    }

    /// Whether more rights would help.
    pub fn denied(&self) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.kind() == io::ErrorKind::PermissionDenied;
            }
            next = error.source();
        }
        false
    }
}

/// Loaded programs. All of it is gone from the kernel when this is dropped, or when the process ends in any way.
pub(super) struct Kernel {
    ebpf: Ebpf,
    ended: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    exits: HashMap<MapData, [u8; LIFE], [u8; EXITING]>,
    ahead: Array<MapData, u64>,
    /// They count for as long as they are open.
    _events: Vec<OpenEvent>,
    /// An array forgets its events when the descriptor is closed through which they came.
    _arrays: Vec<MapData>,
}

impl Kernel {
    /// Loads and attaches the programs, with those that read `events` if there are any. Needs `CAP_BPF` and
    /// `CAP_PERFMON`, which may be dropped afterwards.
    pub(super) fn load(host: &HostRoot, events: &[Event]) -> Result<Self, Unusable> {
        // before 5.11 maps count as locked memory; later it doesn't matter
        let all = Rlimit { current: None, maximum: None };
        if setrlimit(Resource::Memlock, all).is_err() {
            let most = getrlimit(Resource::Memlock).maximum;
            let raised = setrlimit(Resource::Memlock, Rlimit { current: most, maximum: most });
            tracing::debug!(?raised, "limit of locked memory");
        }
        let cpus = counters::online(host);
        // first, since most machines that can't count can't open them
        let counting =
            events.iter().map(|&e| Ok((e, counters::open(e, &cpus)?))).collect::<Result<Vec<_>, Unusable>>()?;
        let btf = kernel_types()?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).map_max_entries("events", RING);
        let places = cpus.iter().max().map_or(1, |last| last + 1);
        for event in events {
            loader.map_max_entries(event.map, places);
        }
        // per-task storage is no map that aya could read; nothing but the programs does
        loader.allow_unsupported_maps();
        let mut ebpf = loader.load(if events.is_empty() { USAGE } else { COUNTERS })?;
        let (mut open, mut arrays) = (Vec::new(), Vec::new());
        for (event, each_cpu) in counting {
            let Some(Map::PerfEventArray(array)) = ebpf.take_map(event.map) else {
                return Err(Unusable::Map(event.map));
            };
            for (cpu, counting) in cpus.iter().zip(each_cpu) {
                sys::put(array.fd().as_fd(), *cpu, &counting)
                    .map_err(|source| Unusable::NoEvent { event: event.map, source })?;
                open.push(counting);
            }
            arrays.push(array);
        }
        for name in ["tasks_all", "tasks_changed"] {
            let program: &mut Iter = program(&mut ebpf, name)?;
            program.load("task", &btf).map_err(Unusable::refused(name))?;
        }
        let mut hooks = vec![
            ("task_freed", "sched_process_free"),
            ("task_exits", "sched_process_exit"),
            ("cgroup_made", "cgroup_mkdir"),
        ];
        if !events.is_empty() {
            hooks.push(("task_switched", "sched_switch"));
        }
        for (name, at) in hooks {
            let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
            let attached = program.load(at, &btf).and_then(|()| program.attach()).map_err(Unusable::refused(name));
            match attached {
                Ok(_) => {}
                // only paths of short-lived groups, or ends that the kernel doesn't tell of, are lost with them
                Err(error) if ["cgroup_made", "task_exits"].contains(&name) => tracing::debug!("{error}"),
                Err(error) => return Err(error),
            }
        }
        drop(loader);
        drop(btf);
        sys::release_memory();
        let ended = map(&mut ebpf, "events")?;
        let lost = map(&mut ebpf, "lost")?;
        let exits = map(&mut ebpf, "exits")?;
        let ahead = map(&mut ebpf, "ahead")?;
        Ok(Self { ebpf, ended, lost, exits, ahead, _events: open, _arrays: arrays })
    }
}

/// What the kernel says of its types, reduced to what is needed where that is understood.
fn kernel_types() -> Result<Btf, Unusable> {
    let small = std::fs::read(KERNEL_TYPES).ok().and_then(|bytes| btf::reduced(&bytes));
    match small.map(|small| Btf::parse(&small, Endianness::default())) {
        Some(Ok(btf)) => Ok(btf),
        _ => Btf::from_sys_fs().map_err(Unusable::NoBtf),
    }
}

/// A program of the object, as what it is.
fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Unusable>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(Unusable::Map(name))?;
    program.try_into().map_err(Unusable::refused(name))
}

/// A map of the object, as what it is.
fn map<M: TryFrom<aya::maps::Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Unusable> {
    ebpf.take_map(name).and_then(|m| m.try_into().ok()).ok_or(Unusable::Map(name))
}

impl Kernel {
    /// A stream of what one of the iterators tells.
    fn stream(&mut self, name: &'static str) -> io::Result<File> {
        let mut open = || -> Result<File, String> {
            let program: &mut Iter = program(&mut self.ebpf, name).map_err(|e| e.to_string())?;
            // a stream is read once, and so is its link
            let id = program.attach().map_err(|e| chain(&e))?;
            let link = program.take_link(id).map_err(|e| chain(&e))?;
            link.into_file().map_err(|e| chain(&e))
        };
        open().map_err(io::Error::other)
    }
}

impl Feed for Kernel {
    fn pass(&mut self, everyone: bool, to: &mut Vec<u8>) -> io::Result<()> {
        to.clear();
        let mut file = self.stream(if everyone { "tasks_all" } else { "tasks_changed" })?;
        let mut len = 0;
        loop {
            to.resize(len + CHUNK, 0);
            match file.read(to.get_mut(len..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
        to.truncate(len);
        Ok(())
    }

    fn readable(&mut self) -> io::Result<()> {
        // whoever may open a stream may look into maps
        self.stream("tasks_changed").map(drop)
    }

    fn ended(&mut self, to: &mut Vec<u8>) {
        to.clear();
        // no more than fits at once, or a storm could keep the sampler here for ever
        while to.len() < RING as usize
            && let Some(record) = self.ended.next()
        {
            to.extend_from_slice(&record);
        }
    }

    fn exiting(&self, to: &mut Vec<Exiting>) {
        to.clear();
        // a pass ends with an error when an entry goes under it; what it didn't reach comes with the next
        let ahead = |cpu: u32| self.ahead.get(&(cpu % self.ahead.len().max(1)), 0).unwrap_or(0);
        let all = self.exits.iter().map_while(Result::ok).filter_map(|(_, value)| record::exiting(&value));
        to.extend(all.map(|exit| exit.counted_to_its_end(ahead(exit.thread.cpu))));
    }

    fn take_exit(&mut self, life: Life) -> bool {
        self.exits.remove(&life.key()).is_ok()
    }

    fn lost(&self) -> Lost {
        let get = |i: u32| self.lost.get(&i, 0).unwrap_or(0);
        Lost { tasks: get(0), ns: get(1), groups: get(2) }
    }
}
