//! A fake `/proc` and `/sys`, for the twin and for tests.
//!
//! [`FakeRoot`] writes what a kernel would show below a folder. Files are overwritten in place, so
//! that a reader which keeps its descriptor sees new content as it would in the real trees; one
//! write holds the whole content, padded with line feeds where it gets shorter and cut afterwards,
//! so that no reader finds the head of one number on the tail of another. Only what changed is
//! written. A file that goes away is emptied first: whoever holds it open reads nothing any more.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use crate::host::HostRoot;

/// A writer of kernel-like files below one folder.
#[derive(Debug)]
pub struct FakeRoot {
    root: PathBuf,
    files: BTreeMap<String, Slot>,
    kept: usize,
}

#[derive(Debug)]
struct Slot {
    content: Vec<u8>,
    file: Option<File>,
}

/// Descriptors that are kept open; beyond that a file is opened for each write.
const KEPT_FILES: usize = 256;

/// One process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeProcess {
    /// Process id.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// Name, at most 15 bytes; may hold anything, also `)` and spaces.
    pub comm: String,
    /// `R`, `S`, `D`, `Z` …
    pub state: char,
    /// Real, effective, saved and file system user.
    pub uid: u32,
    /// CPU time in user mode, ticks.
    pub utime: u64,
    /// CPU time in the kernel, ticks.
    pub stime: u64,
    /// That of reaped children in user mode, ticks.
    pub cutime: u64,
    /// That of reaped children in the kernel, ticks.
    pub cstime: u64,
    /// Start, ticks since boot.
    pub start_ticks: u64,
    /// Address space, bytes.
    pub vsize: u64,
    /// Resident pages of 4 KiB.
    pub rss_pages: u64,
    /// The whole of `/proc/PID/cgroup`.
    pub cgroup: String,
    /// Arguments, as one would type them.
    pub cmdline: String,
    /// Target of `/proc/PID/exe`; no link if empty.
    pub exe: String,
    /// Its threads, the leader first. Empty means one thread, and `schedstat` from the ticks.
    pub threads: Vec<FakeThread>,
}

/// One thread as `/proc/PID/task/TID` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FakeThread {
    /// Thread id; the leader's is the pid.
    pub tid: u32,
    /// Time on a CPU, ns.
    pub run_ns: u64,
    /// Time waiting for a CPU, ns.
    pub wait_ns: u64,
    /// Times it was put on a CPU.
    pub slices: u64,
    /// CPU it ran on last.
    pub cpu: usize,
}

impl FakeProcess {
    /// A sleeping process of root that has used nothing yet.
    pub fn new(pid: u32, comm: &str) -> Self {
        Self {
            pid,
            ppid: 1,
            comm: comm.to_owned(),
            state: 'S',
            uid: 0,
            utime: 0,
            stime: 0,
            cutime: 0,
            cstime: 0,
            start_ticks: 0,
            vsize: 0,
            rss_pages: 0,
            cgroup: "0::/\n".to_owned(),
            cmdline: comm.to_owned(),
            exe: String::new(),
            threads: Vec::new(),
        }
    }

    /// The line of `/proc/PID/stat` with all 52 fields (proc_pid_stat(5)).
    pub fn stat(&self) -> String {
        let leader = self.threads.first().copied().unwrap_or_default();
        self.stat_line(self.pid, leader.cpu, [self.utime, self.stime, self.cutime, self.cstime])
    }

    fn stat_line(&self, tid: u32, cpu: usize, [utime, stime, cutime, cstime]: [u64; 4]) -> String {
        let Self { pid, ppid, comm, state, start_ticks, vsize, rss_pages, .. } = self;
        let threads = self.threads.len().max(1);
        format!(
            "{tid} ({comm}) {state} {ppid} {pid} {pid} 0 -1 4194304 100 0 0 0 {utime} {stime} {cutime} {cstime} 20 0 \
             {threads} 0 {start_ticks} {vsize} {rss_pages} 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 {cpu} 0 0 0 \
             0 0 0 0 0 0 0 0 0 0\n"
        )
    }

    fn thread(&self, t: &FakeThread) -> (String, String) {
        // the kernel's tick counters of one thread, in the process's own ratio of user to system
        let ticks = t.run_ns / super::sched::TICK_NS;
        let sys = (ticks * self.stime).checked_div(self.utime + self.stime).unwrap_or(0);
        let stat = self.stat_line(t.tid, t.cpu, [ticks - sys, sys, self.cutime, self.cstime]);
        (stat, format!("{} {} {}\n", t.run_ns, t.wait_ns, t.slices))
    }
}

/// One zone as `/sys/class/powercap` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeZone {
    /// `intel-rapl:0`, `intel-rapl:0:1`, `intel-rapl-mmio:0`.
    pub folder: String,
    /// `package-0`, `core`, `dram`, `psys`.
    pub name: String,
    /// Counter, µJ.
    pub energy_uj: u64,
    /// Largest value of the counter, µJ.
    pub range_uj: u64,
    /// Long-term limit, µW.
    pub max_power_uw: u64,
}

impl FakeZone {
    /// A zone with the range and limit of a common server.
    pub fn new(folder: &str, name: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            energy_uj: 0,
            range_uj: 262_143_328_850,
            max_power_uw: 150_000_000,
        }
    }
}

/// `intel-rapl:0:1` is `intel-rapl/intel-rapl:0/intel-rapl:0:1` below `/sys/devices/virtual/powercap`.
fn device(folder: &str) -> String {
    let mut path = String::new();
    for (end, _) in folder.match_indices(':').chain([(folder.len(), "")]) {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(folder.get(..end).unwrap_or(folder));
    }
    format!("sys/devices/virtual/powercap/{path}")
}

impl FakeRoot {
    /// A tree below `root`, which need not exist yet. Nothing is removed.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), files: BTreeMap::new(), kept: 0 }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder as the root of a machine.
    pub fn host(&self) -> HostRoot {
        HostRoot::new(&self.root)
    }

    /// Makes the file `path` (relative, `proc/stat`) hold `content`.
    pub fn put(&mut self, path: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
        let content = content.as_ref();
        if let Some(slot) = self.files.get_mut(path) {
            if slot.content == content {
                return Ok(());
            }
            let file = match &slot.file {
                Some(file) => file,
                None => &OpenOptions::new().write(true).open(self.root.join(path))?,
            };
            return overwrite(file, &mut slot.content, content);
        }
        let full = self.root.join(path);
        if let Some(folder) = full.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(full)?;
        let there = usize::try_from(file.metadata()?.len()).unwrap_or(0).min(1 << 20);
        let mut slot = Slot { content: vec![0; there], file: None };
        overwrite(&file, &mut slot.content, content)?;
        if self.kept < KEPT_FILES {
            self.kept += 1;
            slot.file = Some(file);
        }
        self.files.insert(path.to_owned(), slot);
        Ok(())
    }

    /// Makes `path` a symbolic link to `target`; one that is there already is left alone.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let full = self.root.join(path);
        if let Some(folder) = full.parent() {
            fs::create_dir_all(folder)?;
        }
        match symlink(target, full) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Removes a file, or a folder with all below it. What isn't there is no error.
    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        let below = format!("{path}/");
        let gone: Vec<String> = self
            .files
            .range(path.to_owned()..)
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(path))
            .filter(|name| *name == path || name.starts_with(&below))
            .cloned()
            .collect();
        for name in gone {
            let Some(slot) = self.files.remove(&name) else { continue };
            match &slot.file {
                Some(file) => file.set_len(0)?,
                None => OpenOptions::new().write(true).open(self.root.join(&name))?.set_len(0)?,
            }
            self.kept -= usize::from(slot.file.is_some());
        }
        let full = self.root.join(path);
        let done = match fs::symlink_metadata(&full) {
            Ok(m) if m.is_dir() => fs::remove_dir_all(full),
            Ok(_) => fs::remove_file(full),
            Err(e) => Err(e),
        };
        done.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
    }

    /// Writes every file of a process.
    pub fn process(&mut self, p: &FakeProcess) -> io::Result<()> {
        let dir = format!("proc/{}", p.pid);
        let uid = p.uid;
        self.put(
            &format!("{dir}/status"),
            format!(
                "Name:\t{}\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{}\n\
                 TracerPid:\t0\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmRSS:\t{:>8} kB\n\
                 Threads:\t{}\n",
                p.comm,
                p.ppid,
                p.rss_pages * 4,
                p.threads.len().max(1),
                pid = p.pid,
            ),
        )?;
        self.put(&format!("{dir}/comm"), format!("{}\n", p.comm))?;
        let mut args = p.cmdline.split_ascii_whitespace().collect::<Vec<_>>().join("\0");
        if !args.is_empty() {
            args.push('\0');
        }
        self.put(&format!("{dir}/cmdline"), args)?;
        self.put(&format!("{dir}/cgroup"), &p.cgroup)?;
        if !p.exe.is_empty() {
            self.link(&format!("{dir}/exe"), &p.exe)?;
        }
        for t in &p.threads {
            self.put(&format!("{dir}/task/{}/comm", t.tid), format!("{}\n", p.comm))?;
        }
        self.process_times(p)
    }

    /// Writes only what changes while a process runs: `stat` and `schedstat`, its threads' too.
    ///
    /// As in the kernel `/proc/PID/stat` sums over all threads, `/proc/PID/schedstat` tells of the leader alone.
    pub fn process_times(&mut self, p: &FakeProcess) -> io::Result<()> {
        let dir = format!("proc/{}", p.pid);
        self.put(&format!("{dir}/stat"), p.stat())?;
        let alone = [FakeThread {
            tid: p.pid,
            run_ns: (p.utime + p.stime).saturating_mul(super::sched::TICK_NS),
            ..FakeThread::default()
        }];
        let threads = if p.threads.is_empty() { &alone[..] } else { &p.threads };
        for (n, t) in threads.iter().enumerate() {
            let (stat, schedstat) = p.thread(t);
            self.put(&format!("{dir}/task/{}/stat", t.tid), stat)?;
            self.put(&format!("{dir}/task/{}/schedstat", t.tid), &schedstat)?;
            if n == 0 {
                self.put(&format!("{dir}/schedstat"), &schedstat)?;
            }
        }
        Ok(())
    }

    /// Removes a process.
    pub fn end(&mut self, pid: u32) -> io::Result<()> {
        self.remove(&format!("proc/{pid}"))
    }

    /// Writes a powercap zone and the link to it below `/sys/class/powercap`, as a real kernel does.
    pub fn zone(&mut self, z: &FakeZone) -> io::Result<()> {
        let dir = device(&z.folder);
        let control = z.folder.split(':').next().unwrap_or_default();
        for (folder, dir) in [(control, &device(control)), (&z.folder, &dir)] {
            self.put(&format!("{dir}/enabled"), "1\n")?;
            let target = dir.strip_prefix("sys").unwrap_or(dir);
            self.link(&format!("sys/class/powercap/{folder}"), &format!("../..{target}"))?;
        }
        self.put(&format!("{dir}/name"), format!("{}\n", z.name))?;
        self.put(&format!("{dir}/max_energy_range_uj"), format!("{}\n", z.range_uj))?;
        self.put(&format!("{dir}/constraint_0_name"), "long_term\n")?;
        self.put(&format!("{dir}/constraint_0_max_power_uw"), format!("{}\n", z.max_power_uw))?;
        self.put(&format!("{dir}/constraint_0_power_limit_uw"), format!("{}\n", z.max_power_uw))?;
        self.put(&format!("{dir}/constraint_0_time_window_us"), "999424\n")?;
        self.energy(&z.folder, z.energy_uj)
    }

    /// Sets a zone's counter, µJ; makes the file if it was unlinked.
    pub fn energy(&mut self, folder: &str, uj: u64) -> io::Result<()> {
        self.put(&format!("{}/energy_uj", device(folder)), format!("{uj}\n"))
    }

    /// Takes a zone's counter away, the zone stays.
    pub fn unlink_energy(&mut self, folder: &str) -> io::Result<()> {
        self.remove(&format!("{}/energy_uj", device(folder)))
    }
}

/// Replaces `old` by `new` in `file`, so that a reader at any moment finds one of them whole (but for
/// line feeds at its end).
fn overwrite(file: &File, old: &mut Vec<u8>, new: &[u8]) -> io::Result<()> {
    if new.len() < old.len() {
        let mut padded = new.to_vec();
        padded.resize(old.len(), b'\n');
        file.write_all_at(&padded, 0)?;
        file.set_len(new.len() as u64)?;
    } else {
        file.write_all_at(new, 0)?;
    }
    old.clear();
    old.extend_from_slice(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{read_line, read_u64};
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_kept_descriptor_sees_each_value_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut fake = FakeRoot::new(dir.path());
        fake.zone(&FakeZone { energy_uj: 262_143_328_000, ..FakeZone::new("intel-rapl:0:1", "dram") }).unwrap();
        let class = fake.host().sys("class/powercap/intel-rapl:0:1");
        let kept = File::open(class.join("energy_uj")).unwrap();
        let read = || {
            let mut b = [0; 32];
            let n = kept.read_at(&mut b, 0).unwrap();
            String::from_utf8(b[..n].to_vec()).unwrap()
        };
        assert_eq!(read(), "262143328000\n");
        fake.energy("intel-rapl:0:1", 12).unwrap();
        assert_eq!(read(), "12\n");
        assert_eq!(read_u64(&class.join("energy_uj")).unwrap(), 12);
        fake.unlink_energy("intel-rapl:0:1").unwrap();
        assert_eq!(read(), "");
        assert!(read_u64(&class.join("energy_uj")).is_err());
        assert_eq!(read_line(&class.join("name")).unwrap(), "dram");
        fake.energy("intel-rapl:0:1", 99).unwrap();
        assert_eq!(read_u64(&class.join("energy_uj")).unwrap(), 99);
        let real = fs::canonicalize(&class).unwrap();
        assert!(real.ends_with("sys/devices/virtual/powercap/intel-rapl/intel-rapl:0/intel-rapl:0:1"), "{real:?}");
    }

    #[test]
    fn stat_has_its_fields_in_their_places() {
        let mut p = FakeProcess::new(42, "a) b (c");
        (p.utime, p.stime, p.cutime, p.cstime, p.start_ticks, p.rss_pages) = (1, 2, 3, 4, 5, 6);
        p.threads = vec![FakeThread { tid: 42, cpu: 7, ..FakeThread::default() }; 2];
        let line = p.stat();
        let (head, tail) = line.trim_end().rsplit_once(") ").unwrap();
        assert_eq!(head, "42 (a) b (c");
        let f: Vec<&str> = tail.split(' ').collect();
        // fields are numbered from 1, `tail` begins with field 3
        assert_eq!(f.len(), 50);
        let field = |n: usize| f[n - 3];
        assert_eq!([field(3), field(4), field(14), field(15), field(16), field(17)], ["S", "1", "1", "2", "3", "4"]);
        assert_eq!([field(20), field(22), field(24), field(38), field(39), field(52)], ["2", "5", "6", "17", "7", "0"]);
    }

    #[test]
    fn a_process_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut fake = FakeRoot::new(dir.path());
        let mut p = FakeProcess::new(7, "web");
        (p.cmdline, p.exe, p.utime) = ("web --port 80".into(), "/usr/bin/web".into(), 3);
        fake.process(&p).unwrap();
        fake.process(&FakeProcess::new(70, "other")).unwrap();
        let host = fake.host();
        assert_eq!(fs::read(host.proc("7/cmdline")).unwrap(), b"web\0--port\080\0");
        assert_eq!(fs::read_link(host.proc("7/exe")).unwrap(), Path::new("/usr/bin/web"));
        assert_eq!(read_line(&host.proc("7/schedstat")).unwrap(), "30000000 0 0");
        fake.end(7).unwrap();
        fake.end(7).unwrap();
        assert!(!host.proc("7").exists() && host.proc("70/stat").exists());
        fake.process(&p).unwrap();
        assert_eq!(read_line(&host.proc("7/comm")).unwrap(), "web");
    }
}
