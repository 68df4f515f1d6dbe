//! RAPL through `/sys/class/powercap`: control types `intel-rapl` (MSRs; AMD too), `intel-rapl-tpmi`, `intel-rapl-mmio`.
//!
//! Zones are known by the name that the driver gives them (`package-1`), never by the folder's index.
//! Kernel: `Documentation/power/powercap/powercap.rst`, `drivers/powercap/intel_rapl_common.c`.
//! The energy of `core` and `uncore` is part of their package's, that of `dram` is not, although
//! all three are nested in it; `discover::node_zones` knows.

pub(crate) mod attribute;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

use ebbtide_proto::{Energy, Power, Ratio, ZoneId};

use self::attribute::Attribute;
use self::tree::{Identity, ZoneDir};
use super::{CounterShape, Found, Quality, ReadError, Reading, Source, SourceKind, Zone, ZoneKind};
use crate::clock::Moment;
use crate::host::{self, HostRoot};

/// What is stated for RAPL figures. Since Haswell they come from measured currents instead of a model
/// and follow outside meters closely: Desrochers et al., MEMSYS 2016 (Haswell-EP); Khan et al.,
/// "RAPL in Action", ACM TOMPECS 3(2), 2018. Older processors, desktop memory and AMD can be worse.
pub(crate) const RAPL_ERROR: Ratio = Ratio::from_percent(2);

/// No bound is tighter than this: firmware that states a tiny limit must not make real energy look impossible.
const LEAST_MAX_POWER: Power = Power::from_uw(100_000_000);
/// The limit's register field ends at 4095.9 W; firmware writes about that for "no limit".
const NO_LIMIT: u64 = 4_000_000_000;

/// How to be allowed to read `energy_uj`.
pub(super) const PRIVILEGE: &str = "run as root, or: setcap cap_dac_read_search+ep /usr/bin/ebbtide-agent, \
                                    or a udev rule that lets the agent's group read energy_uj";
/// How to get the zones, where there may be some.
const DRIVER: Option<&str> = if cfg!(target_arch = "x86_64") { Some("modprobe intel_rapl_msr") } else { None };

/// The zones of RAPL that are in use.
pub struct Powercap {
    zones: Vec<Zone>,
    counters: Vec<Attribute>,
}

/// What the driver's name of a zone says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Domain {
    pub(super) kind: ZoneKind,
    pub(super) socket: Option<u32>,
}

/// A zone folder that has a name.
struct Candidate {
    dir: ZoneDir,
    name: String,
    domain: Domain,
    id: ZoneId,
    /// Id and label that the enclosing zone has or would have.
    parent: Option<(ZoneId, String)>,
    counter: Attribute,
    answers: bool,
    shape: CounterShape,
}

impl Source for Powercap {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>) {
        for counter in &mut self.counters {
            out.push(counter.read().map(|uj| Reading { at: now, counter: Energy::from_uj(uj) }));
        }
    }
}

/// Finds the RAPL zones of this machine.
///
/// A zone that doesn't answer now is kept, since it may come back; one that may not be read is left
/// out, as is a zone that a better control type tells as well.
pub fn discover(host: &HostRoot) -> Found {
    let mut found = Found::default();
    let mut tree = tree::walk(host, |control| control_rank(control).is_some());
    tree.dirs.sort_by_key(|dir| control_rank(&dir.control));
    for link in &tree.dangling {
        found.skip(link.display().to_string(), "the link leads nowhere", Some("mount the host's /sys whole"));
    }
    if tree.dirs.is_empty() && tree.dangling.is_empty() {
        let class = host.sys("class/powercap").display().to_string();
        found.skip(class, "no RAPL zones: virtual machine, other architecture, or the driver isn't loaded", DRIVER);
        return found;
    }
    let readable = readable(candidates(tree.dirs, &mut found), &mut found);
    let candidates = one_teller_each(readable, package_wide(host), &mut found);
    if !candidates.is_empty() {
        found.sources.push(Box::new(Powercap::new(candidates)));
    }
    found
}

/// The order of preference among control types; `None` for those that aren't RAPL.
fn control_rank(control: &str) -> Option<u8> {
    match control {
        "intel-rapl" => Some(0),
        "intel-rapl-tpmi" => Some(1),
        "intel-rapl-mmio" => Some(2),
        _ => None,
    }
}

/// Whether the dies of a package share one counter: so on AMD and Hygon, where Linux 6.9 to 6.11
/// nevertheless shows a zone and a perf CPU for each die (CCD), all of which tell the whole package.
pub(super) fn package_wide(host: &HostRoot) -> bool {
    let cpuinfo = host::read_text(&host.proc("cpuinfo")).unwrap_or_default();
    let vendor = cpuinfo.lines().find_map(|line| line.strip_prefix("vendor_id")?.split_once(':'));
    vendor.is_some_and(|(_, name)| matches!(name.trim(), "AuthenticAMD" | "HygonGenuine"))
}

/// Reads names, limits and ranges.
fn candidates(dirs: Vec<ZoneDir>, found: &mut Found) -> Vec<Candidate> {
    let named = tree::named(dirs, found);
    let mut all = Vec::with_capacity(named.len());
    for Identity { dir, id, parent, chain } in tree::identify("powercap", &named, found) {
        let Some(((name, _), outer)) = chain.split_first() else { continue };
        let mut domain = domain_of(name);
        domain.socket = domain.socket.or_else(|| outer.iter().find_map(|(n, _)| domain_of(n).socket));
        let limit = chain.iter().find_map(|(name, dir)| limit_of((*dir)?, domain_of(name).kind));
        let max_power = limit.unwrap_or(default_limit(domain.kind));
        let range = host::read_u64(&dir.path.join("max_energy_range_uj")).ok().filter(|&uj| uj > 0);
        if host::read_line(&dir.path.join("enabled")).is_ok_and(|e| e == "0") {
            // of a zone, `enabled` is about limiting power: its counter runs all the same
            tracing::debug!(zone = %id, "power limiting is off in this zone");
        }
        all.push(Candidate {
            counter: Attribute::new(dir.path.join("energy_uj")),
            dir: dir.clone(),
            name: name.clone(),
            domain,
            id,
            parent,
            answers: false,
            shape: CounterShape { range: range.map(Energy::from_uj), max_power },
        });
    }
    all
}

/// Tries each counter once and leaves out those that need more privilege.
fn readable(candidates: Vec<Candidate>, found: &mut Found) -> Vec<Candidate> {
    let mut readable = Vec::with_capacity(candidates.len());
    let mut denied = Vec::new();
    for mut c in candidates {
        match c.counter.read() {
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                denied.push(c.counter.path().display().to_string());
            }
            outcome => {
                c.answers = outcome.is_ok();
                readable.push(c);
            }
        }
    }
    if let Some(first) = denied.first() {
        let what = if denied.len() == 1 { first.clone() } else { format!("{first} and {} more", denied.len() - 1) };
        found.skip(what, "only root may read it (since CVE-2020-8694)", Some(PRIVILEGE));
    }
    readable
}

/// Keeps one control type for each part of the machine: one that answers before one that doesn't,
/// then by rank. Parts are told by what they are and their socket, since one control type may call
/// `package-0` what another one tells as `package-0-die-0` and `package-0-die-1`. Where the dies of a
/// package share its counters, the first die speaks for all.
fn one_teller_each(candidates: Vec<Candidate>, package_wide: bool, found: &mut Found) -> Vec<Candidate> {
    type Part = (Domain, Option<String>);
    let part = |c: &Candidate| -> Part {
        let told_by_kind = c.domain.kind != ZoneKind::Other && c.domain.socket.is_some();
        (c.domain, (!told_by_kind).then(|| c.id.to_string()))
    };
    let mut best: HashMap<Part, (bool, Option<u8>, String)> = HashMap::new();
    for c in &candidates {
        let this = (!c.answers, control_rank(&c.dir.control), c.dir.control.clone());
        let entry = best.entry(part(c)).or_insert_with(|| this.clone());
        if this < *entry {
            *entry = this;
        }
    }
    let mut told = HashSet::new();
    let keep = |c: &Candidate| {
        let part = part(c);
        let why = match best.get(&part) {
            Some((_, _, control)) if *control != c.dir.control => format!("{control} tells {} as well", c.name),
            _ if !told.insert(part) && package_wide => "the dies of an AMD package share one counter".to_owned(),
            _ => return true,
        };
        found.skip(c.dir.path.display().to_string(), format!("duplicate: {why}"), None);
        false
    };
    let mut kept = candidates;
    kept.retain(keep);
    kept
}

impl Powercap {
    fn new(candidates: Vec<Candidate>) -> Self {
        let ids: BTreeSet<ZoneId> = candidates.iter().map(|c| c.id.clone()).collect();
        let names = unique_names(candidates.iter().map(|c| {
            let within = c.parent.as_ref().map(|(_, name)| name.strip_prefix("package-").unwrap_or(name).to_owned());
            (c.name.clone(), within.unwrap_or_else(|| c.dir.index.clone()))
        }));
        let package_of = |socket: Option<u32>| {
            let mut of = candidates.iter().filter(|c| c.domain == Domain { kind: ZoneKind::Package, socket });
            of.next().filter(|_| socket.is_some() && of.next().is_none()).map(|c| c.id.clone())
        };
        let zone = |(c, name): (&Candidate, String)| Zone {
            id: c.id.clone(),
            name,
            kind: c.domain.kind,
            // a zone whose own package is told by another control type belongs to that one
            parent: c.parent.clone().and_then(
                |(id, _)| {
                    if ids.contains(&id) { Some(id) } else { package_of(c.domain.socket) }
                },
            ),
            socket: c.domain.socket,
            source: SourceKind::Powercap,
            path: c.counter.path().display().to_string(),
            quality: Quality::Measured,
            error: RAPL_ERROR,
            counter: c.shape,
            idle: None,
        };
        let zones = candidates.iter().zip(names).map(zone).collect();
        Self { zones, counters: candidates.into_iter().map(|c| c.counter).collect() }
    }
}

/// Reads `package-0`, `package-0-die-1`, `psys`, `psys-1`, `core`, `uncore`, `dram`.
pub(super) fn domain_of(name: &str) -> Domain {
    let (word, rest) = name.split_once('-').unwrap_or((name, ""));
    let kind = match word {
        "package" => ZoneKind::Package,
        "psys" => ZoneKind::Psys,
        "core" => ZoneKind::Core,
        "uncore" => ZoneKind::Uncore,
        "dram" => ZoneKind::Dram,
        _ => return Domain { kind: ZoneKind::Other, socket: None },
    };
    let number = rest.split('-').next().unwrap_or("");
    Domain { kind, socket: number.parse().ok() }
}

/// Twice the largest limit that the zone states, `None` if it states none. Twice, since short peaks
/// and overclocking go beyond the limits, and a bound that is too tight would discard real energy.
pub(super) fn limit_of(dir: &ZoneDir, kind: ZoneKind) -> Option<Power> {
    let files = (0..4).flat_map(|n| [format!("constraint_{n}_max_power_uw"), format!("constraint_{n}_power_limit_uw")]);
    let stated: Vec<u64> = files.filter_map(|f| host::read_u64(&dir.path.join(f)).ok()).filter(|&uw| uw > 0).collect();
    let largest = stated.iter().copied().filter(|&uw| uw < NO_LIMIT).max().map(|uw| Power::from_uw(2 * uw));
    // where one limit is lifted, another one that is still stated doesn't bound anything
    let lifted = stated.iter().any(|&uw| uw >= NO_LIMIT).then(|| default_limit(kind));
    largest.max(lifted).map(|power| power.max(LEAST_MAX_POWER))
}

/// The bound where nothing states a limit, as on AMD.
pub(super) fn default_limit(kind: ZoneKind) -> Power {
    match kind {
        ZoneKind::Dram => Power::from_uw(300_000_000),
        _ => Power::from_uw(1_000_000_000),
    }
}

/// Names that are unique on the node, from the kernel's own names and what each is within:
/// the kernel's name where only one zone has it, else `<name>-<within>` (`dram-1`, `dram-0-die-1`),
/// and where that clashes too, a number is added.
pub(super) fn unique_names(names: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let names: Vec<(String, String)> = names.collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (name, _) in &names {
        *counts.entry(name).or_default() += 1;
    }
    // names that stay as they are go first, so that none of the others takes one
    let mut taken: BTreeSet<String> =
        counts.iter().filter(|(_, n)| **n == 1).map(|(name, _)| (*name).to_owned()).collect();
    let unique = |(name, within): &(String, String)| {
        if counts.get(name.as_str()) == Some(&1) {
            return name.clone();
        }
        let full = format!("{name}-{}", within.replace([':', '/', ' '], "-"));
        let mut unique = full.clone();
        let mut n = 2;
        while !taken.insert(unique.clone()) {
            unique = format!("{full}-{n}");
            n += 1;
        }
        unique
    };
    names.iter().map(unique).collect()
}
