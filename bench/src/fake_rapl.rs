//! A root folder with the machine's own `/proc` and a made-up RAPL, so that the agent has the same zones to read
//! wherever it is measured: in a VM, on ARM, without being root.
//!
//! The tree lies in memory (`/dev/shm`), is laid out as the kernel does it, and has a package with its cores and
//! uncore, and its memory. Their counters follow the machine's real load.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_agent::clock;

use crate::load;

/// Time between two steps of the counters.
const TICK: Duration = Duration::from_millis(10);
/// `/proc/stat` moves in steps of 10 ms: the load is taken over a longer time.
const LOAD_OVER_NS: u64 = 50_000_000;
/// The range of many client processors, in microjoules.
const RANGE_UJ: u64 = 262_143_328_850;
/// Where counters start: a number that keeps its twelve digits for hours.
const START_UJ: u64 = 123_456_789_012;

const CONTROL: &str = "intel-rapl";

/// One zone: folder below the control type, name, watts when idle, watts more when all CPUs are busy.
const ZONES: [(&str, &str, f64, f64); 4] = [
    ("intel-rapl:0", "package-0", 9.0, 30.0),
    ("intel-rapl:0/intel-rapl:0:0", "core", 0.4, 27.0),
    ("intel-rapl:0/intel-rapl:0:1", "uncore", 0.5, 0.0),
    ("intel-rapl:0/intel-rapl:0:2", "dram", 1.5, 2.5),
];

/// Where a root is made, for the process with this id.
pub(crate) fn folder(pid: u32) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    base.join(format!("ebbtide-bench-{pid}"))
}

/// Where the agents of the process with this id keep their totals: on disk, as usual.
pub(crate) fn scratch(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("ebbtide-bench-state-{pid}"))
}

/// Helper mode: makes the tree, keeps it going until stdin ends, removes it, and what agents left as well.
pub(crate) fn serve(parent: u32) -> anyhow::Result<()> {
    let root = &folder(parent);
    fs::create_dir_all(scratch(parent))?;
    let outcome = match build(root) {
        Ok(files) => {
            std::thread::Builder::new().name("counters".into()).spawn(move || {
                if let Err(error) = advance(&files) {
                    eprintln!("the made-up RAPL stopped: {error}");
                }
            })?;
            load::wait_for_the_end()
        }
        failed => failed.map(drop),
    };
    for folder in [root, &scratch(parent)] {
        fs::remove_dir_all(folder).with_context(|| format!("can't remove {}", folder.display()))?;
    }
    outcome.with_context(|| format!("can't make a root at {}", root.display()))
}

fn build(root: &Path) -> io::Result<Vec<File>> {
    let devices = root.join("sys/devices/virtual/powercap").join(CONTROL);
    let class = root.join("sys/class/powercap");
    fs::create_dir_all(&class)?;
    fs::create_dir_all(&devices)?;
    symlink("/proc", root.join("proc"))?;
    symlink("/sys/devices/system", root.join("sys/devices/system"))?;
    symlink("/sys/fs", root.join("sys/fs"))?;
    let mut files = Vec::with_capacity(ZONES.len());
    for (folder, name, ..) in ZONES {
        let at = devices.join(folder);
        fs::create_dir_all(&at)?;
        fs::write(at.join("name"), format!("{name}\n"))?;
        fs::write(at.join("max_energy_range_uj"), format!("{RANGE_UJ}\n"))?;
        fs::write(at.join("enabled"), "1\n")?;
        if name == "package-0" {
            fs::write(at.join("constraint_0_name"), "long_term\n")?;
            fs::write(at.join("constraint_0_power_limit_uw"), "65000000\n")?;
            fs::write(at.join("constraint_0_max_power_uw"), "65000000\n")?;
        }
        let counter = File::options().write(true).create(true).truncate(true).open(at.join("energy_uj"))?;
        put(&counter, START_UJ)?;
        files.push(counter);
        let link = folder.rsplit('/').next().unwrap_or(folder);
        symlink(Path::new("../../devices/virtual/powercap").join(CONTROL).join(folder), class.join(link))?;
    }
    fs::write(devices.join("enabled"), "1\n")?;
    symlink(Path::new("../../devices/virtual/powercap").join(CONTROL), class.join(CONTROL))?;
    Ok(files)
}

fn put(file: &File, uj: u64) -> io::Result<()> {
    file.write_all_at(format!("{uj:012}\n").as_bytes(), 0)
}

fn advance(files: &[File]) -> io::Result<()> {
    let mut energy = [0.0_f64; ZONES.len()];
    let mut last = clock::now().mono;
    let (mut load, mut ticks, mut ticks_at) = (0.0, cpu_ticks()?, last);
    loop {
        std::thread::sleep(TICK);
        let now = clock::now().mono;
        let seconds = now.saturating_sub(last) as f64 / 1e9;
        last = now;
        if now.saturating_sub(ticks_at) >= LOAD_OVER_NS {
            let next = cpu_ticks()?;
            let all = next.1.saturating_sub(ticks.1);
            if all > 0 {
                load = next.0.saturating_sub(ticks.0) as f64 / all as f64;
            }
            (ticks, ticks_at) = (next, now);
        }
        for ((sum, (.., idle, dynamic)), file) in energy.iter_mut().zip(ZONES).zip(files) {
            *sum += (idle + dynamic * load) * seconds * 1e6;
            let whole = Duration::from_secs_f64(*sum / 1e6).as_micros();
            put(file, (START_UJ + u64::try_from(whole).unwrap_or(0)) % (RANGE_UJ + 1))?;
        }
    }
}

/// Busy ticks and all ticks of all CPUs.
fn cpu_ticks() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first.split_ascii_whitespace().skip(1).take(8).filter_map(|f| f.parse().ok()).collect();
    let all: u64 = fields.iter().sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_agent::host::HostRoot;
    use ebbtide_agent::source::powercap;

    #[test]
    fn the_agent_finds_the_zones_and_the_real_proc() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        build(&root).unwrap();
        let host = HostRoot::new(&root);
        let mut found = powercap::discover(&host);
        let names: Vec<String> = found.sources[0].zones().iter().map(|z| z.name.clone()).collect();
        assert_eq!(names, ["package-0", "core", "uncore", "dram"]);
        let mut readings = Vec::new();
        found.sources[0].read(clock::now(), &mut readings);
        assert!(readings.iter().all(|r| r.as_ref().is_ok_and(|r| r.counter.uj() == START_UJ)));
        assert!(host.proc("self/stat").exists());
    }
}
