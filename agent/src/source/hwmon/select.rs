//! From channels to zones: what lies inside what, what is added up, what each is called.
//!
//! **Ids** are `hwmon/<chip>/<device>/<channel>`, e.g. `hwmon/ina226_u76/13-0040/power1`: the device's
//! name comes from the bus (I2C bus and address, PCI or ACPI path), not from `hwmonN`, whose number
//! depends on the order of loading. Ids so survive reboots as long as the bus numbers do.
//! **Names** are labels for people (`VDD_IN`, `ina226_u76`), made unique with the device's name.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_proto::{Power, Ratio, ZoneId};

use super::chips::{ChipRow, Naming, Nest, fits};
use super::files::{Channel, Input, Place};
use crate::source::{CounterShape, Quality, Skipped, SourceKind, Zone, ZoneKind};

/// A zone in the making, within the group of all chips of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    /// Which chip of the group.
    pub(super) chip: usize,
    pub(super) channel: Channel,
    kind: ZoneKind,
    socket: Option<u32>,
    /// The position of the zone that contains it.
    parent: Option<usize>,
}

/// All chips that one row is about, and what is read of them. Sums come after their parts.
pub(super) struct Group {
    pub(super) row: ChipRow,
    pub(super) places: Vec<Place>,
    pub(super) drafts: Vec<Draft>,
}

/// A [`Draft`] with everything that the outside wants to know.
pub(super) struct Named {
    pub(super) draft: Draft,
    pub(super) zone: Zone,
}

impl Group {
    /// Nests and sums the channels of `places`.
    pub(super) fn new(row: ChipRow, places: Vec<Place>, channels: Vec<Vec<Channel>>) -> Self {
        let mut it = Self { row, places, drafts: Vec::new() };
        for (chip, list) in channels.into_iter().enumerate() {
            for channel in list {
                let kind = it.row.channel(channel.text()).map_or(ZoneKind::Other, |r| r.kind);
                let socket = socket(channel.text());
                it.drafts.push(Draft { chip, channel, kind, socket, parent: None });
            }
        }
        it.nest();
        it.add_up();
        it
    }

    /// What two channels must share for one to be inside the other.
    fn scope(&self, draft: &Draft) -> (usize, Option<u32>) {
        match self.row.nest {
            Nest::Chip => (draft.chip, None),
            Nest::Socket => (0, draft.socket),
            Nest::Node => (0, None),
        }
    }

    fn nest(&mut self) {
        for i in 0..self.drafts.len() {
            let Some(parent) = self.container(i) else { continue };
            // rows from configuration may go round in circles; the last link is not made
            let mut above = Some(parent);
            while above.is_some_and(|a| a != i) {
                above = above.and_then(|a| self.drafts.get(a)).and_then(|d| d.parent);
            }
            if above.is_none()
                && let Some(draft) = self.drafts.get_mut(i)
            {
                draft.parent = Some(parent);
            }
        }
    }

    /// The zone that contains zone `i`: the first of the first pattern that any fits. Where several
    /// fit, which one it is can't be known; any will do to keep the part out of the total.
    fn container(&self, i: usize) -> Option<usize> {
        let draft = self.drafts.get(i)?;
        let rule = self.row.channel(draft.channel.text())?;
        rule.inside.iter().find_map(|pattern| {
            let fit = |(j, other): &(usize, &Draft)| {
                *j != i && fits(pattern, other.channel.text()) && self.scope(other) == self.scope(draft)
            };
            self.drafts.iter().enumerate().find(fit).map(|(j, _)| j)
        })
    }

    fn add_up(&mut self) {
        let mut scopes: Vec<_> = self.drafts.iter().map(|d| self.scope(d)).collect();
        scopes.sort_unstable();
        scopes.dedup();
        for scope in scopes {
            for sum in self.row.sums.clone() {
                let free = |d: &Draft| {
                    self.scope(d) == scope
                        && d.parent.is_none()
                        && matches!(d.channel.input, Input::Power { .. } | Input::Product { .. })
                };
                let fit = |pattern: &String| -> Vec<usize> {
                    let all = self.drafts.iter().enumerate();
                    all.filter(|(_, d)| free(d) && fits(pattern, d.channel.text())).map(|(i, _)| i).collect()
                };
                let found: Vec<Vec<usize>> = sum.of.iter().map(fit).collect();
                if found.is_empty() || found.iter().any(Vec::is_empty) {
                    continue;
                }
                let mut parts: Vec<usize> = found.into_iter().flatten().collect();
                parts.sort_unstable();
                parts.dedup();
                self.push_sum(&sum.name, sum.kind, parts);
            }
        }
    }

    fn push_sum(&mut self, name: &str, kind: ZoneKind, parts: Vec<usize>) {
        let position = self.drafts.len();
        let (mut chip, mut sockets) = (None, Vec::new());
        for &i in &parts {
            if let Some(part) = self.drafts.get_mut(i) {
                part.parent = Some(position);
                chip = chip.or(Some(part.chip));
                sockets.push(part.socket);
            }
        }
        sockets.dedup();
        let socket = if let [only] = sockets.as_slice() { *only } else { None };
        let channel = Channel { name: name.to_owned(), label: Some(name.to_owned()), input: Input::Sum(parts) };
        self.drafts.push(Draft { chip: chip.unwrap_or(0), channel, kind, socket, parent: None });
    }

    /// What a zone would be called if it were the only one of that name.
    fn short_name(&self, draft: &Draft) -> String {
        let chip = self.places.get(draft.chip).map_or("", |p| p.name.as_str());
        let alone = self.drafts.iter().filter(|d| d.chip == draft.chip).count() == 1;
        match (&draft.channel.label, self.row.naming) {
            (Some(label), Naming::Label) => label.clone(),
            (Some(label), Naming::ChipLabel) => format!("{chip} {label}"),
            (_, Naming::Chip) => chip.to_owned(),
            (None, _) if alone => chip.to_owned(),
            (None, _) => format!("{chip} {}", draft.channel.name),
        }
    }
}

/// Names the zones of all groups, so that no id and no name occurs twice on the machine.
pub(super) fn name_all(groups: &[Group], skips: &mut Vec<Skipped>) -> Vec<Vec<Named>> {
    let mut names: Vec<Vec<String>> =
        groups.iter().map(|g| g.drafts.iter().map(|d| g.short_name(d)).collect()).collect();
    // first the device's name, then the channel's, then a number settle what remains equal; each to
    // all that are equal, so that the names don't depend on the order of chips
    for round in 0..2 {
        let count = tally(names.iter().flatten());
        for (group, list) in groups.iter().zip(&mut names) {
            for (draft, name) in group.drafts.iter().zip(list).filter(|(_, n)| count.get(*n).is_some_and(|c| *c > 1)) {
                let key = group.places.get(draft.chip).map_or("", |p| p.key.as_str());
                let more = if round == 0 { key } else { draft.channel.name.as_str() };
                if !more.is_empty() {
                    *name = format!("{name} {more}");
                }
            }
        }
    }
    let mut taken = BTreeSet::new();
    let mut ids_taken = BTreeSet::new();
    groups
        .iter()
        .zip(names)
        .map(|(group, list)| {
            let id = |draft: &Draft| {
                let place = group.places.get(draft.chip);
                let (chip, key) = place.map_or(("", ""), |p| (p.name.as_str(), p.key.as_str()));
                let parts = ["hwmon", chip, key, draft.channel.name.as_str()];
                parts.iter().filter(|p| !p.is_empty()).map(|p| p.replace('/', "_")).collect::<Vec<_>>().join("/")
            };
            let ids: Result<Vec<ZoneId>, _> =
                group.drafts.iter().map(|d| ZoneId::new(&numbered(id(d), &mut ids_taken))).collect();
            let ids = match ids {
                Ok(ids) => ids,
                Err(e) => {
                    skips.push(Skipped { what: group.row.names.join(", "), why: e.to_string(), fix: None });
                    return Vec::new();
                }
            };
            let zone = |((draft, name), id): ((&Draft, String), &ZoneId)| {
                let parent = draft.parent.and_then(|p| ids.get(p)).cloned();
                let zone = group.zone(draft, id.clone(), numbered(name, &mut taken), parent);
                Named { draft: draft.clone(), zone }
            };
            group.drafts.iter().zip(list).zip(&ids).map(zone).collect()
        })
        .collect()
}

impl Group {
    fn zone(&self, draft: &Draft, id: ZoneId, name: String, parent: Option<ZoneId>) -> Zone {
        let dir = self.places.get(draft.chip).map(|p| p.dir.display().to_string()).unwrap_or_default();
        let text = |i: &usize| self.drafts.get(*i).map_or("", |d| d.channel.text());
        let (path, quality) = match &draft.channel.input {
            Input::Energy { file } => (format!("{dir}/{file}"), Quality::Measured),
            Input::Power { file, .. } => (format!("{dir}/{file}"), Quality::Scaled),
            Input::Product { volt, curr } => (format!("{dir}/{volt} x {curr}"), Quality::Scaled),
            Input::Sum(parts) => {
                (format!("{dir}: {}", parts.iter().map(text).collect::<Vec<_>>().join(" + ")), Quality::Scaled)
            }
        };
        let max_power = self.row.max_watts.map_or(most(draft.kind), watts);
        Zone {
            id,
            name,
            kind: draft.kind,
            parent,
            socket: draft.socket,
            source: SourceKind::Hwmon,
            path,
            quality,
            error: Ratio::from_percent(self.row.error_percent),
            // integrated power and the drivers' 64-bit energies don't wrap in a machine's life
            counter: CounterShape { range: None, max_power },
            idle: None,
        }
    }
}

/// More than any part of this kind draws today, with a good margin; rejects garbage such as `0xffffffff`.
fn most(kind: ZoneKind) -> Power {
    watts(match kind {
        ZoneKind::Dram => 500,
        ZoneKind::Core | ZoneKind::Uncore | ZoneKind::Package => 1_500,
        ZoneKind::Gpu => 2_000,
        ZoneKind::Board | ZoneKind::Psys => 5_000,
        ZoneKind::Wall | ZoneKind::Other => 20_000,
    })
}

fn watts(w: u32) -> Power {
    Power::from_uw(u64::from(w).saturating_mul(1_000_000))
}

/// The number in `... Socket 1` or `Esocket1`.
fn socket(label: &str) -> Option<u32> {
    let lower = label.to_ascii_lowercase();
    let (_, rest) = lower.rsplit_once("socket")?;
    rest.trim().parse().ok()
}

fn tally<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for name in names {
        *count.entry(name.clone()).or_default() += 1;
    }
    count
}

/// `name`, or `name #2` and on if it is taken.
fn numbered(name: String, taken: &mut BTreeSet<String>) -> String {
    let mut free = name.clone();
    let mut n = 1_u64;
    while !taken.insert(free.clone()) {
        n += 1;
        free = format!("{name} #{n}");
    }
    free
}
