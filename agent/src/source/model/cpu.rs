//! Which processors a machine has, from `/proc/cpuinfo`, and what generation they are of. Pure.
//!
//! x86 names itself (`model name`, family and model numbers), ARM has part numbers, RISC-V a micro-
//! architecture. A hypervisor may hide the name but rarely the numbers, so the generation is told by them.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_proto::Power;

use super::table;

/// Who made the processor, or whose architecture it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    /// Intel, x86.
    Intel,
    /// AMD or Hygon, x86.
    Amd,
    /// Any maker of ARM processors.
    Arm,
    /// Any maker of RISC-V processors.
    RiscV,
    /// Another, or not told.
    #[default]
    Other,
}

/// What `/proc/cpuinfo` says of the processors. Fields it doesn't tell are empty or zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuInfo {
    /// Who made it.
    pub vendor: Vendor,
    /// The name for people: `Intel Xeon Gold 6240`, `ARM Neoverse N1`.
    pub name: String,
    /// The name for look-ups, as [`normalise`] makes it: `xeon gold 6240`.
    pub model: String,
    /// Cores per chip, where the name tells (`64-Core Processor`).
    pub named_cores: Option<u32>,
    /// x86: family, model and stepping.
    pub signature: (u32, u32, u32),
    /// ARM: implementer and part of each kind of core, and how many of it there are.
    pub parts: BTreeMap<(u32, u32), u32>,
    /// Processor packages, at least one.
    pub sockets: u32,
    /// Cores; at most as many as threads.
    pub cores: u32,
    /// Threads, or CPUs as the kernel calls them.
    pub threads: u32,
    /// Threads per package (`siblings`).
    pub siblings: u32,
    /// Whether the processor says that a hypervisor runs below (flag `hypervisor`; x86 only).
    pub hypervisor: bool,
    /// The board, where the kernel names it here (`Model`, ARM boards).
    pub board: Option<String>,
}

/// A generation of processors: its name, and where published figures of it or of its nearest kin are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The name for people.
    pub name: &'static str,
    /// The key in `families.txt`.
    pub key: &'static str,
    /// Whether the figures are of this very generation, not only of the nearest one with results.
    pub own: bool,
}

/// Longest name taken from the kernel.
const LONGEST_NAME: usize = 128;

impl CpuInfo {
    /// Reads the text of `/proc/cpuinfo`. Any text gives a value; one that says nothing has no threads.
    pub fn parse(text: &str) -> Self {
        let mut it = Self::default();
        let (mut packages, mut cores) = (BTreeSet::new(), BTreeSet::new());
        let (mut package, mut implementer, mut raw) = (0u32, 0u32, "");
        for (key, value) in text.lines().filter_map(|l| l.split_once(':')) {
            let (key, value) = (key.trim(), value.trim());
            match key {
                "processor" if value.parse::<u32>().is_ok() => it.threads = it.threads.saturating_add(1),
                "vendor_id" => it.vendor = vendor(value),
                "model name" | "uarch" | "cpu" if raw.is_empty() => raw = value,
                "cpu family" => it.signature.0 = value.parse().unwrap_or(0),
                "model" => it.signature.1 = value.parse().unwrap_or(0),
                "stepping" => it.signature.2 = value.parse().unwrap_or(0),
                "physical id" => {
                    package = value.parse().unwrap_or(0);
                    packages.insert(package);
                }
                "core id" => {
                    cores.insert((package, value.parse::<u32>().unwrap_or(0)));
                }
                "siblings" => it.siblings = value.parse().unwrap_or(0),
                "flags" => it.hypervisor |= value.split_ascii_whitespace().any(|f| f == "hypervisor"),
                "CPU implementer" => implementer = hex(value),
                "CPU part" => *it.parts.entry((implementer, hex(value))).or_default() += 1,
                "isa" if value.starts_with("rv") => it.vendor = Vendor::RiscV,
                "Model" => it.board = Some(value.chars().take(LONGEST_NAME).collect()),
                _ => {}
            }
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        it.sockets = count(packages.len()).max(1);
        it.cores = if cores.is_empty() { it.threads } else { count(cores.len()).min(it.threads) };
        it.named_cores = named_cores(raw);
        it.name = tidy(raw);
        if !it.parts.is_empty() {
            it.vendor = Vendor::Arm;
            it.name = arm_name(&it.parts);
        }
        it.model = normalise(raw);
        it
    }

    /// Corrects the number of threads, where `/proc/cpuinfo` was cut short or doesn't number them.
    pub fn with_threads(mut self, online: u32) -> Self {
        if online > self.threads {
            self.threads = online;
            self.cores = self.cores.max(1);
            if self.siblings > 0 {
                self.sockets = self.sockets.max(online.div_ceil(self.siblings));
            }
        }
        self
    }

    /// The generation of an x86 processor, if figures of it or of its kin are known.
    pub fn generation(&self) -> Option<Generation> {
        let (family, model, stepping) = self.signature;
        let (name, key, own) = match self.vendor {
            Vendor::Intel => intel(family, model, stepping)?,
            Vendor::Amd => amd(family, model)?,
            _ => return None,
        };
        Some(Generation { name, key, own })
    }

    /// Threads per chip of this model: from the tables, or from its name.
    pub fn host_threads(&self) -> Option<u32> {
        let by_name = || {
            let cores = self.named_cores?;
            let smt = ["epyc", "ryzen"].iter().any(|f| self.model.starts_with(f));
            Some(if smt { cores.saturating_mul(2) } else { cores })
        };
        table::threads(&self.model).or_else(by_name)
    }

    /// Whether this is a chip made for desktops and laptops, be it sold for small servers (Xeon E3 and E).
    pub fn is_client(&self) -> bool {
        if ["xeon e3-", "xeon e-"].iter().any(|f| self.model.starts_with(f)) {
            return true;
        }
        let family = self.model.split([' ', '-']).next().unwrap_or("");
        let ryzen = family == "ryzen" && !self.model.contains("threadripper");
        // "Intel N100"
        let n = family.strip_prefix('n').is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
        ryzen || n || matches!(family, "core" | "pentium" | "celeron" | "atom" | "athlon" | "fx" | "phenom")
    }
}

/// Expected idle power of a processor package as a share of its full power, before anything is learned.
///
/// A package idles lower than the server around it: fans, disks and power supply go on while cores
/// sleep. From the published whole-server idle share of the generation five eighths are taken, as if
/// packages were 50 % of an idle and 80 % of a busy server. RAPL readings bound this from above, because
/// idle must lie below 10 % load: CodeCarbon measured at 10 % load 14 % of full power on a Xeon
/// E5-2620 v3, 8 % on an E3-1240 v2 and 37 % on an EPYC 8024P. Desktop and laptop chips power down
/// further, and are taken at 6 %.
pub fn idle_share_prior(cpu: &CpuInfo) -> f64 {
    if cpu.is_client() {
        return 0.06;
    }
    let key = match (cpu.generation(), cpu.vendor) {
        (Some(g), _) => g.key,
        (None, Vendor::Intel) => "intel",
        (None, Vendor::Amd) => "amd",
        (None, _) => "generic",
    };
    let server = table::family(key).map_or(0.2, |f| f.shape.idle_share().fraction());
    (server * 0.625).clamp(0.05, 0.25)
}

/// Idle and full power that a machine draws per ARM core of this kind, for machines and boards not known by name.
///
/// Server cores: the per-vCPU coefficients of Cloud Carbon Footprint (Apache-2.0) for Graviton, which
/// that project took over from second-generation EPYC for want of results: a wide guess. Small cores: a
/// quarter of what the Raspberry Pi boards 3 (A53), 4 (A72) and 5 (A76) of four cores draw.
pub fn arm_core_power(implementer: u32, part: u32) -> (Power, Power) {
    let mw = |idle: u64, full: u64| (Power::from_uw(idle * 1000), Power::from_uw(full * 1000));
    match (implementer, part) {
        (0x41, 0xc05..=0xc0f | 0xd01..=0xd05 | 0xd46 | 0xd80) => mw(350, 930),
        (0x41, 0xd07..=0xd0a) => mw(650, 1600),
        (0x41, 0xd0b | 0xd0d | 0xd41..=0xd44 | 0xd47 | 0xd4b | 0xd4d) | (0x4e | 0x51 | 0x61, _) => mw(680, 2000),
        _ => mw(474, 1693),
    }
}

/// The form of a processor's name under which it is looked up: lower case, without maker, trade marks, clock
/// rate, number of cores and graphics.
pub fn normalise(name: &str) -> String {
    let lower: String = name.chars().take(LONGEST_NAME).flat_map(char::to_lowercase).collect();
    let plain = lower.replace("(r)", " ").replace("(tm)", " ").replace(['™', '®'], " ");
    let mut end = plain.len();
    for stop in ["@", "(", "[", ",", ";", " with ", " w/", " radeon"] {
        end = end.min(plain.find(stop).unwrap_or(end));
    }
    let mut words: Vec<&str> = plain.get(..end).unwrap_or("").split_whitespace().filter(|w| !says_nothing(w)).collect();
    if let [nth, "gen", ..] = words.as_slice()
        && nth.starts_with(|c: char| c.is_ascii_digit())
    {
        words.drain(..2);
    }
    // "E5-2620 0": first version; "A10-8700B R6": the graphics
    if words.len() > 1 && words.last().is_some_and(|w| *w == "0" || is_graphics(w)) {
        words.pop();
    }
    let joined = words.join(" ").replace(" -", "-").replace("- ", "-");
    match joined.split_once(' ') {
        // the first Core processors: "Core i5 CPU 650"
        Some(("core", rest)) if rest.starts_with('i') && rest.get(2..3) == Some(" ") => {
            let number = rest.get(3..).unwrap_or("");
            let all_digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            if all_digits { format!("core {}", rest.replacen(' ', "-", 1)) } else { joined }
        }
        _ => joined,
    }
}

/// Words that make no difference between models.
fn says_nothing(word: &str) -> bool {
    matches!(word, "intel" | "amd" | "cpu" | "processor" | "apu" | "genuine")
        || word.ends_with("-core")
        || word.strip_suffix("hz").is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit()))
}

fn is_graphics(word: &str) -> bool {
    matches!(word, "r2" | "r3" | "r4" | "r5" | "r6" | "r7" | "r8")
}

/// `64-Core` in a name.
fn named_cores(name: &str) -> Option<u32> {
    let words = name.split_whitespace().filter_map(|w| w.strip_suffix("-Core"));
    words.filter_map(|n| n.parse().ok()).find(|n| (1..=1024).contains(n))
}

/// A name as people write it: without trade marks, clock rate and the word for what it is.
fn tidy(name: &str) -> String {
    let plain: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    let plain = plain.replace("(R)", " ").replace("(r)", " ").replace("(TM)", " ").replace("(tm)", " ");
    let head = plain.split('@').next().unwrap_or("");
    let words = head.split_whitespace().filter(|w| !matches!(*w, "CPU" | "Processor") && !w.ends_with("-Core"));
    words.collect::<Vec<_>>().join(" ").replace(" -", "-")
}

fn hex(value: &str) -> u32 {
    value.strip_prefix("0x").and_then(|h| u32::from_str_radix(h, 16).ok()).unwrap_or(0)
}

fn vendor(id: &str) -> Vendor {
    match id {
        "GenuineIntel" => Vendor::Intel,
        "AuthenticAMD" | "HygonGenuine" => Vendor::Amd,
        _ => Vendor::Other,
    }
}

/// Generations by family, model and stepping, as the kernel's `intel-family.h` lists them.
fn intel(family: u32, model: u32, stepping: u32) -> Option<(&'static str, &'static str, bool)> {
    if family != 6 {
        return None;
    }
    Some(match model {
        15 | 22 | 23 | 29 => ("Core 2", "core", true),
        26 | 30 | 31 | 46 | 37 | 44 | 47 => ("Nehalem", "nehalem", true),
        42 | 45 => ("Sandy Bridge", "sandybridge", true),
        58 | 62 => ("Ivy Bridge", "ivybridge", true),
        60 | 63 | 69 | 70 => ("Haswell", "haswell", true),
        61 | 71 | 79 | 86 => ("Broadwell", "broadwell", true),
        85 if stepping <= 4 => ("Skylake", "skylake", true),
        85 if stepping <= 7 => ("Cascade Lake", "cascadelake", true),
        85 => ("Cooper Lake", "cooperlake", true),
        78 | 94 => ("Skylake", "kabylake", false),
        142 | 158 => ("Kaby or Coffee Lake", "coffeelake", true),
        102 | 165 | 166 => ("Comet Lake", "coffeelake", false),
        106 | 108 => ("Ice Lake", "icelake", true),
        143 => ("Sapphire Rapids", "icelake", false),
        207 => ("Emerald Rapids", "icelake", false),
        173..=175 => ("Granite Rapids or Sierra Forest", "icelake", false),
        167 => ("Rocket Lake", "rocketlake", true),
        125 | 126 | 140 | 141 | 151 | 154 | 170 | 172 | 183 | 186 | 189..=191 | 197 | 198 => {
            ("Ice Lake client or later", "rocketlake", false)
        }
        _ => return None,
    })
}

/// Generations by family and model; Zen cores of all kinds are taken as the EPYC of their time.
fn amd(family: u32, model: u32) -> Option<(&'static str, &'static str, bool)> {
    Some(match (family, model) {
        (15..=21, _) => ("Opteron", "opteron", true),
        (23, 1) => ("EPYC 1st gen", "epyc-gen1", true),
        (23, 49) => ("EPYC 2nd gen", "epyc-gen2", true),
        (23, 0..=47) => ("Zen", "epyc-gen1", false),
        (23, _) => ("Zen 2", "epyc-gen2", false),
        (24, _) => ("Hygon Dhyana", "epyc-gen1", false),
        (25, 1) => ("EPYC 3rd gen", "epyc-gen3", true),
        (25, 16..=31 | 160..=175) => ("EPYC 4th gen", "epyc-gen3", false),
        (25, _) => ("Zen 3 or 4", "epyc-gen3", false),
        (26, _) => ("Zen 5", "epyc-gen3", false),
        _ => return None,
    })
}

/// Names of ARM cores by implementer and part (Arm's technical reference manuals; the kernel's `cputype.h`).
fn arm_name(parts: &BTreeMap<(u32, u32), u32>) -> String {
    let names: Vec<String> = parts
        .keys()
        .take(3)
        .map(|&(implementer, part)| {
            let name = match (implementer, part) {
                (0x41, 0xc07) => "ARM Cortex-A7",
                (0x41, 0xc08) => "ARM Cortex-A8",
                (0x41, 0xc09) => "ARM Cortex-A9",
                (0x41, 0xc0f) => "ARM Cortex-A15",
                (0x41, 0xd03) => "ARM Cortex-A53",
                (0x41, 0xd04) => "ARM Cortex-A35",
                (0x41, 0xd05) => "ARM Cortex-A55",
                (0x41, 0xd07) => "ARM Cortex-A57",
                (0x41, 0xd08) => "ARM Cortex-A72",
                (0x41, 0xd09) => "ARM Cortex-A73",
                (0x41, 0xd0a) => "ARM Cortex-A75",
                (0x41, 0xd0b) => "ARM Cortex-A76",
                (0x41, 0xd0d) => "ARM Cortex-A77",
                (0x41, 0xd41) => "ARM Cortex-A78",
                (0x41, 0xd42) => "ARM Cortex-A78AE",
                (0x41, 0xd44) => "ARM Cortex-X1",
                (0x41, 0xd46) => "ARM Cortex-A510",
                (0x41, 0xd47) => "ARM Cortex-A710",
                (0x41, 0xd0c) => "ARM Neoverse N1",
                (0x41, 0xd40) => "ARM Neoverse V1",
                (0x41, 0xd49) | (0x6d, 0xd49) => "ARM Neoverse N2",
                (0x41, 0xd4f) => "ARM Neoverse V2",
                (0x41, 0xd8e) => "ARM Neoverse N3",
                (0x41, 0xd84) => "ARM Neoverse V3",
                (0x43, _) => "Cavium ThunderX",
                (0x46, 0x001) => "Fujitsu A64FX",
                (0x48, 0xd01) => "HiSilicon Kunpeng 920",
                (0x4e, _) => "NVIDIA Denver or Carmel",
                (0x51, _) => "Qualcomm",
                (0x61, _) => "Apple silicon",
                (0xc0, _) => "AmpereOne",
                _ => return format!("ARM core {implementer:#x}/{part:#x}"),
            };
            name.to_owned()
        })
        .collect();
    names.join(" + ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn real_names_find_their_figures() {
        // (name in /proc/cpuinfo, model, TDP in W or 0, threads per chip or 0, published results or 0)
        let golden = [
            ("Intel(R) Xeon(R) Gold 6240 CPU @ 2.60GHz", "xeon gold 6240", 150, 36, 0),
            ("Intel(R) Xeon(R) Platinum 8180 CPU @ 2.50GHz", "xeon platinum 8180", 205, 56, 31),
            ("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", "xeon platinum 8259cl", 210, 48, 0),
            ("Intel(R) Xeon(R) Platinum 8488C", "xeon platinum 8488c", 0, 96, 0),
            ("INTEL(R) XEON(R) PLATINUM 8592+", "xeon platinum 8592+", 350, 128, 0),
            ("Intel(R) Xeon(R) Platinum 8480+", "xeon platinum 8480+", 350, 112, 0),
            ("Intel(R) Xeon(R) CPU E5-2620 v3 @ 2.40GHz", "xeon e5-2620 v3", 85, 12, 0),
            ("Intel(R) Xeon(R) CPU E5-2660 0 @ 2.20GHz", "xeon e5-2660", 95, 16, 37),
            ("Intel(R) Xeon(R) CPU E5-2699 v4 @ 2.20GHz", "xeon e5-2699 v4", 145, 44, 10),
            ("Intel(R) Xeon(R) CPU           X5670  @ 2.93GHz", "xeon x5670", 95, 12, 35),
            ("Intel(R) Xeon(R) CPU E7- 4870  @ 2.40GHz", "xeon e7-4870", 130, 20, 1),
            ("Intel(R) Xeon(R) CPU E3-1240 V2 @ 3.40GHz", "xeon e3-1240 v2", 69, 8, 1),
            ("Intel(R) Xeon(R) Processor", "xeon", 0, 0, 0),
            ("Intel(R) Xeon(R) CPU @ 2.20GHz", "xeon", 0, 0, 0),
            ("Intel Xeon Processor (Skylake, IBRS)", "xeon", 0, 0, 0),
            ("QEMU Virtual CPU version 2.5+", "qemu virtual version 2.5+", 0, 0, 0),
            ("AMD EPYC 7763 64-Core Processor", "epyc 7763", 280, 128, 15),
            ("AMD EPYC 9654 96-Core Processor", "epyc 9654", 360, 192, 0),
            ("AMD EPYC 7R13 Processor", "epyc 7r13", 225, 96, 0),
            ("AMD EPYC-Rome Processor", "epyc-rome", 0, 0, 0),
            ("AMD Ryzen 9 7950X 16-Core Processor", "ryzen 9 7950x", 170, 32, 0),
            ("AMD Ryzen 7 PRO 4750U with Radeon Graphics", "ryzen 7 pro 4750u", 15, 0, 0),
            ("AMD Ryzen Threadripper 3970X 32-Core Processor", "ryzen threadripper 3970x", 280, 64, 0),
            ("AMD Opteron(tm) Processor 6276                 ", "opteron 6276", 115, 16, 7),
            ("Quad-Core AMD Opteron(tm) Processor 2384", "opteron 2384", 0, 4, 4),
            ("AMD FX(tm)-8350 Eight-Core Processor", "fx-8350", 125, 0, 0),
            ("AMD A10-9600P RADEON R5, 10 COMPUTE CORES 4C+6G", "a10-9600p", 15, 0, 0),
            ("11th Gen Intel(R) Core(TM) i7-1185G7 @ 3.00GHz", "core i7-1185g7", 28, 0, 0),
            ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "core i7-8650u", 15, 0, 0),
            ("Intel(R) Core(TM) i3 CPU         540  @ 3.07GHz", "core i3-540", 73, 4, 3),
            ("Intel(R) Core(TM)2 Duo CPU     E8400  @ 3.00GHz", "core 2 duo e8400", 65, 0, 0),
            ("Intel(R) N100", "n100", 6, 0, 0),
            ("Intel(R) Celeron(R) J4125 CPU @ 2.00GHz", "celeron j4125", 10, 0, 0),
        ];
        for (name, model, tdp, threads, results) in golden {
            let cpu = CpuInfo::parse(&format!("processor: 0\nmodel name\t: {name}\n"));
            assert_eq!(cpu.model, model);
            assert_eq!(table::tdp(model).map_or(0, Power::uw) / 1_000_000, tdp, "TDP of {model}");
            assert_eq!(cpu.host_threads().unwrap_or(0), threads, "threads of {model}");
            assert_eq!(table::measured(model).map_or(0, |m| m.results), results, "results of {model}");
        }
    }

    #[test]
    fn topology_of_two_sockets() {
        let mut text = String::new();
        for n in 0..8 {
            let (package, core) = (n / 4, n % 2);
            text += &format!(
                "processor\t: {n}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Intel(R) \
                 Xeon(R) Gold 6240 CPU @ 2.60GHz\nstepping\t: 7\nphysical id\t: {package}\nsiblings\t: 4\ncore id\t\t: \
                 {core}\nflags\t\t: fpu sse2\n\n"
            );
        }
        let cpu = CpuInfo::parse(&text);
        assert_eq!((cpu.sockets, cpu.cores, cpu.threads, cpu.siblings), (2, 4, 8, 4));
        assert_eq!((cpu.vendor, cpu.hypervisor), (Vendor::Intel, false));
        assert_eq!(cpu.name, "Intel Xeon Gold 6240");
        assert_eq!(cpu.generation().unwrap().key, "cascadelake");
        assert_eq!(cpu.with_threads(12).sockets, 3, "a text cut short");
        let vm = CpuInfo::parse(&text.replace("sse2", "sse2 hypervisor"));
        assert!(vm.hypervisor);
    }

    #[test]
    fn arm_and_risc_v() {
        let core = |n, imp, part| format!("processor\t: {n}\nCPU implementer\t: {imp}\nCPU part\t: {part}\n\n");
        let n1 = CpuInfo::parse(&(core(0, "0x41", "0xd0c") + &core(1, "0x41", "0xd0c")));
        assert_eq!((n1.vendor, n1.name.as_str(), n1.threads), (Vendor::Arm, "ARM Neoverse N1", 2));
        let big_little = CpuInfo::parse(&(core(0, "0x41", "0xd05") + &core(1, "0x41", "0xd0b")));
        assert_eq!(big_little.name, "ARM Cortex-A55 + ARM Cortex-A76");
        assert_eq!(CpuInfo::parse(&core(0, "0x99", "zz")).name, "ARM core 0x99/0x0");
        let rv = CpuInfo::parse("processor\t: 0\nhart\t: 2\nisa\t: rv64imafdc\nmmu\t: sv39\nuarch\t: sifive,u74-mc\n");
        assert_eq!((rv.vendor, rv.name.as_str()), (Vendor::RiscV, "sifive,u74-mc"));
        let pi = CpuInfo::parse("processor\t: 0\nCPU part\t: 0xd08\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n");
        assert_eq!(pi.board.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.4"));
    }

    #[test]
    fn every_generation_has_figures_and_a_plausible_prior() {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            for family in 5..30 {
                for model in 0..=255 {
                    let cpu = CpuInfo { vendor, signature: (family, model, 5), ..CpuInfo::default() };
                    if let Some(g) = cpu.generation() {
                        assert!(table::family(g.key).is_some(), "{g:?}");
                    }
                    assert!((0.05..=0.25).contains(&idle_share_prior(&cpu)));
                }
            }
        }
        let prior = |name: &str| idle_share_prior(&CpuInfo::parse(&format!("model name: {name}")));
        assert!(prior("Intel(R) Core(TM) i7-8650U CPU") < prior("Intel(R) Xeon(R) Gold 6240 CPU"));
        // what RAPL showed at 10 % load is more than idle
        let measured = [
            ("Intel(R) Xeon(R) CPU E5-2620 v3 @ 2.40GHz", Vendor::Intel, (6, 63, 2), 16.4 / 117.0),
            ("Intel(R) Xeon(R) CPU E3-1240 V2 @ 3.40GHz", Vendor::Intel, (6, 58, 9), 7.5 / 91.6),
            ("AMD EPYC 8024P 8-Core Processor", Vendor::Amd, (25, 160, 2), 18.6 / 50.7),
        ];
        for (name, vendor, signature, at_tenth) in measured {
            let cpu = CpuInfo { vendor, signature, ..CpuInfo::parse(&format!("model name: {name}")) };
            assert!(idle_share_prior(&cpu) < at_tenth, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in any::<String>()) {
            let cpu = CpuInfo::parse(&text);
            prop_assert!(cpu.sockets >= 1 && cpu.cores <= cpu.threads);
            prop_assert!((0.05..=0.25).contains(&idle_share_prior(&cpu)));
        }

        #[test]
        fn no_value_breaks_it(
            lines in prop::collection::vec(("(processor|model name|vendor_id|physical id|core id|siblings|CPU part|flags|model|isa)", "\\PC{0,40}"), 0..40),
        ) {
            let text: String = lines.iter().map(|(k, v)| format!("{k}\t: {v}\n")).collect();
            let cpu = CpuInfo::parse(&text);
            let numbered = lines.iter().filter(|(k, v)| k == "processor" && v.trim().parse::<u32>().is_ok()).count();
            prop_assert_eq!(cpu.threads as usize, numbered);
            prop_assert!(cpu.sockets >= 1 && cpu.cores <= cpu.threads);
        }

        #[test]
        fn the_normal_form_is_short_and_lower_case(name in any::<String>()) {
            let n = normalise(&name);
            prop_assert!(n.len() <= 4 * 3 * LONGEST_NAME);
            prop_assert!(!n.bytes().any(|b| b.is_ascii_uppercase()));
        }
    }
}
