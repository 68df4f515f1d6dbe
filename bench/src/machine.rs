//! On what it was measured, and when.

use std::fs;

use ebbtide_agent::clock;

/// One paragraph: date, processor, kernel, memory, and how loaded the machine was before anything was started.
pub(crate) fn describe(agent_bytes: u64) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|l| l.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let model = field("model name").or_else(|| field("Model")).unwrap_or_else(|| "unknown processor".to_owned());
    let guest = field("flags").is_some_and(|f| f.split(' ').any(|f| f == "hypervisor"));
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_ascii_whitespace().nth(1).and_then(|k| k.parse().ok()).unwrap_or(0);
    format!(
        "Measured on {}: {cpus} logical CPUs of {model}{}, {:.0} GiB, Linux {}; load average {load} before the start. \
         ebbtide-agent {}, {:.1} MB.",
        today(),
        if guest { " in a virtual machine" } else { "" },
        kib as f64 / f64::from(1 << 20),
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
        agent_bytes as f64 / 1e6,
    )
}

fn today() -> String {
    let now = jiff::Timestamp::from_nanosecond(i128::from(clock::now().wall)).unwrap_or_default();
    now.strftime("%Y-%m-%d").to_string()
}
