//! Which chips a machine has, and what the files in their folders tell.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::chips::{ChipRow, fits};
use crate::host::{self, HostRoot};
use crate::source::Skipped;

/// Where one chip's files are, and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `/sys/class/hwmon/hwmonN` or `/sys/bus/i2c/drivers/ina3221x/A/iio:deviceN`; N changes when the chip comes back.
    pub(super) dir: PathBuf,
    /// The chip's `name`.
    pub(super) name: String,
    /// The device's own name, which a reboot or replug doesn't change: `13-0040` (I2C bus and
    /// address), `0000:03:00.0`, `ACPI000D:00`. Empty if there is none.
    pub(super) key: String,
    pub(super) layout: Layout,
    /// Whether it is a view of `/sys/class/power_supply`.
    pub(super) supply: bool,
    /// Whether another chip can't be told from it, so that it can't be found again elsewhere.
    pub(super) twin: bool,
}

/// How the files in a chip's folder are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// The kernel's hwmon interface; files may lie in `device/` (ACPI meters, old drivers).
    Hwmon,
    /// NVIDIA's L4T up to release 32: `rail_name_N`, `in_powerN_input` in milliwatts.
    L4t,
}

/// One thing that a chip tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    /// `energy1`, `power2`, `in1`: part of the zone's id.
    pub(super) name: String,
    pub(super) label: Option<String>,
    pub(super) input: Input,
}

/// What is read for a zone. Files are relative to the chip's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Microjoules.
    Energy { file: String },
    /// Microwatts after multiplication with `scale`.
    Power { file: String, scale: u64 },
    /// Millivolts times milliamperes.
    Product { volt: String, curr: String },
    /// The zones of the same group with these positions.
    Sum(Vec<usize>),
}

/// Why a channel is left out, and what would help.
type Reason = (String, Option<&'static str>);

/// The longest name or label that is kept, in bytes: an id of three of them stays within its limit.
const LONGEST_NAME: usize = 48;

impl Channel {
    /// What patterns are compared with: the label, or the name where there is none.
    pub(super) fn text(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }
}

impl Place {
    fn hwmon(dir: PathBuf) -> Self {
        let own = || dir.file_name().map(|n| clean(&n.to_string_lossy())).unwrap_or_default();
        let name = line(&dir.join("name")).or_else(|| line(&dir.join("device/name"))).unwrap_or_else(own);
        let supply = std::fs::canonicalize(&dir).is_ok_and(|p| p.iter().any(|part| part == "power_supply"));
        Self { key: device_key(&dir), name, layout: Layout::Hwmon, supply, twin: false, dir }
    }

    /// Whether the chip still is where it was; after a replug its number may be another chip's.
    pub(super) fn is_here(&self) -> bool {
        self.dir.exists() && (self.layout == Layout::L4t || self.is_same_chip(&Self::hwmon(self.dir.clone())))
    }

    /// Whether `other` is the same chip, perhaps in another folder.
    pub(super) fn is_same_chip(&self, other: &Self) -> bool {
        self.name == other.name && self.key == other.key && self.layout == other.layout
    }
}

/// Every chip of the machine, in the order of their numbers.
pub(super) fn scan(host: &HostRoot) -> Vec<Place> {
    let class = host.sys("class/hwmon");
    let mut places: Vec<Place> = host::list(&class).iter().map(|n| Place::hwmon(class.join(n))).collect();
    let driver = host.sys("bus/i2c/drivers/ina3221x");
    for device in host::list(&driver) {
        let folder = driver.join(&device);
        for iio in host::list(&folder).iter().filter(|n| n.starts_with("iio:device") || n.starts_with("iio_device")) {
            let (name, key) = ("ina3221x".to_owned(), clean(&device));
            places.push(Place { dir: folder.join(iio), name, key, layout: Layout::L4t, supply: false, twin: false });
        }
    }
    let mut count = BTreeMap::new();
    for place in &places {
        *count.entry((place.name.clone(), place.key.clone())).or_insert(0_u32) += 1;
    }
    for place in &mut places {
        place.twin = count.get(&(place.name.clone(), place.key.clone())).is_some_and(|n| *n > 1);
    }
    places
}

/// The name of the device behind a hwmon folder. Devices that the kernel numbers as they come
/// (`smpro-hwmon.2.auto`) are named after what they sit on.
fn device_key(dir: &Path) -> String {
    let link = dir.join("device");
    let Ok(target) = std::fs::read_link(&link) else { return String::new() };
    let last = |p: &Path| p.file_name().map(|n| clean(&n.to_string_lossy()));
    let real = std::fs::canonicalize(&link).ok();
    let key = last(&target).or_else(|| real.as_deref().and_then(last)).unwrap_or_default();
    match key.strip_suffix(".auto").and_then(|k| k.rsplit_once('.')) {
        Some((driver, _)) => match real.as_deref().and_then(Path::parent).and_then(last) {
            Some(parent) => format!("{parent}.{driver}"),
            None => driver.to_owned(),
        },
        None => key,
    }
}

/// The channels of a chip that `row` counts, the others in `skips`. Energy counters come first, then
/// power that no energy counter covers, and voltage times current where the chip tells neither.
pub(super) fn channels(place: &Place, row: &ChipRow, skips: &mut Vec<Skipped>) -> Vec<Channel> {
    let mut sorter = Sorter { row, supply: place.supply, counted: Vec::new(), left_out: BTreeMap::new() };
    let files = Files::of(place);
    let mut energies = Vec::new();
    for channel in files.simple(Quantity::Energy) {
        energies.push((channel.name.strip_prefix("energy").map(str::to_owned), channel.label.clone()));
        sorter.offer(channel, &files);
    }
    let mut tells = !energies.is_empty();
    for channel in files.simple(Quantity::Power) {
        tells = true;
        let number = channel.name.strip_prefix("power");
        let covered = |(n, label): &(Option<String>, Option<String>)| {
            n.as_deref() == number || (label.is_some() && *label == channel.label)
        };
        if !energies.iter().any(covered) {
            sorter.offer(channel, &files);
        }
    }
    if sorter.counted.is_empty() {
        for channel in files.products(row, tells) {
            sorter.offer(channel, &files);
        }
        if sorter.counted.is_empty() && sorter.left_out.is_empty() && files.has(Quantity::Curr) {
            sorter.leave_out("currents", ("no voltage that belongs to them".to_owned(), None));
        }
    }
    for ((why, fix), which) in sorter.left_out {
        let what = match which.as_slice() {
            [first, .., last] if which.len() > 3 => format!("{first} … {last} ({} channels)", which.len()),
            some => some.join(", "),
        };
        let what = format!("{} {} {what}", place.name, place.dir.display());
        skips.push(Skipped { what, why, fix: fix.map(str::to_owned) });
    }
    sorter.counted
}

/// Parts the channels that count from those that don't.
struct Sorter<'a> {
    row: &'a ChipRow,
    supply: bool,
    counted: Vec<Channel>,
    left_out: BTreeMap<Reason, Vec<String>>,
}

impl Sorter<'_> {
    fn offer(&mut self, channel: Channel, files: &Files) {
        let reason = if self.supply {
            ("a battery or charger: the battery source reads it".to_owned(), None)
        } else {
            match self.row.channel(channel.text()).map(|r| &r.ignore) {
                None => ("not a channel that is known to count".to_owned(), None),
                Some(Some(why)) => (why.clone(), None),
                Some(None) => match files.unusable(&channel) {
                    Some(reason) => reason,
                    None => {
                        self.counted.push(channel);
                        return;
                    }
                },
            }
        };
        self.leave_out(channel.text(), reason);
    }

    fn leave_out(&mut self, what: &str, reason: Reason) {
        self.left_out.entry(reason).or_default().push(what.to_owned());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Quantity {
    Energy,
    Power,
    Volt,
    Curr,
}

/// The files of one channel, relative to the chip's folder.
#[derive(Debug, Default)]
struct Attributes {
    input: Option<String>,
    average: Option<String>,
    enable: Option<String>,
    label: Option<String>,
    /// What stands in for a label (ACPI meters).
    oem: Option<String>,
}

/// The files of one chip, by channel.
struct Files {
    dir: PathBuf,
    layout: Layout,
    by_channel: BTreeMap<(Quantity, u32), Attributes>,
}

impl Files {
    fn of(place: &Place) -> Self {
        let mut it = Self { dir: place.dir.clone(), layout: place.layout, by_channel: BTreeMap::new() };
        // the chip's own folder last: its files win over those in `device/`
        if place.layout == Layout::Hwmon {
            it.take("device/");
        }
        it.take("");
        it
    }

    fn take(&mut self, prefix: &str) {
        for file in host::list(&self.dir.join(prefix)) {
            let parsed = match self.layout {
                Layout::Hwmon => hwmon_file(&file),
                Layout::L4t => l4t_file(&file),
            };
            let Some((quantity, number, role)) = parsed else { continue };
            let attributes = self.by_channel.entry((quantity, number)).or_default();
            let slot = match role {
                Role::Input => &mut attributes.input,
                Role::Average => &mut attributes.average,
                Role::Enable => &mut attributes.enable,
                Role::Label => &mut attributes.label,
                Role::Oem => &mut attributes.oem,
            };
            *slot = Some(format!("{prefix}{file}"));
        }
    }

    fn has(&self, quantity: Quantity) -> bool {
        self.by_channel.iter().any(|((q, _), a)| *q == quantity && (a.input.is_some() || a.average.is_some()))
    }

    fn label(&self, attributes: &Attributes) -> Option<String> {
        let read = |file: &Option<String>| file.as_ref().and_then(|f| line(&self.dir.join(f)));
        read(&attributes.label).or_else(|| read(&attributes.oem))
    }

    /// The channels that one file tells.
    fn simple(&self, wanted: Quantity) -> Vec<Channel> {
        let scale = if self.layout == Layout::L4t { 1000 } else { 1 };
        let of = self.by_channel.iter().filter(|((q, _), _)| *q == wanted);
        of.filter_map(|((_, number), a)| {
            let (name, input) = match wanted {
                Quantity::Energy => (format!("energy{number}"), Input::Energy { file: a.input.clone()? }),
                // an average covers the time between two readings, a momentary value doesn't
                _ => {
                    let file = a.average.as_ref().or(a.input.as_ref())?.clone();
                    (format!("power{number}"), Input::Power { file, scale })
                }
            };
            // drivers that put the channel's name before the label (smpro_hwmon) say nothing more by it
            let label = self.label(a).map(|l| l.strip_prefix(&format!("{name} ")).map(str::to_owned).unwrap_or(l));
            Some(Channel { name, label, input })
        })
        .collect()
    }

    /// The channels that are a voltage times a current: as the row pairs them, else (unless `tells`
    /// power by itself) by equal label, else by number where labels don't contradict.
    fn products(&self, row: &ChipRow, tells: bool) -> Vec<Channel> {
        let (volts, currents) = (self.sides(Quantity::Volt), self.sides(Quantity::Curr));
        let mut pairs: Vec<(&Side<'_>, &Side<'_>)> = Vec::new();
        for pair in &row.pairs {
            let volt = volts.iter().find(|v| v.is_called(&pair.volt));
            pairs.extend(volt.zip(currents.iter().find(|c| c.is_called(&pair.curr))));
        }
        if pairs.is_empty() && !tells {
            for volt in volts.iter().filter(|v| row.is_bus_voltage(v.number)) {
                let labelled = currents.iter().find(|c| c.label.is_some() && c.label == volt.label);
                let silent = |c: &Side<'_>| c.label.is_none() || volt.label.is_none();
                let numbered = || currents.iter().find(|c| c.number == volt.number && silent(c));
                pairs.extend(Some(volt).zip(labelled.or_else(numbered)));
            }
        }
        pairs.into_iter().filter_map(|(volt, current)| volt.times(current)).collect()
    }

    fn sides(&self, wanted: Quantity) -> Vec<Side<'_>> {
        let of = self.by_channel.iter().filter(|((q, _), _)| *q == wanted);
        of.map(|((_, number), files)| Side { number: *number, label: self.label(files), files }).collect()
    }

    /// Why a channel that would count can't be read: switched off, or no permission.
    fn unusable(&self, channel: &Channel) -> Option<Reason> {
        let off = |a: &Attributes| {
            let file = a.enable.as_deref()?;
            (host::read_line(&self.dir.join(file)).ok()? == "0").then(|| (format!("switched off: {file} is 0"), None))
        };
        let forbidden = |file: &str| match File::open(self.dir.join(file)) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                Some((format!("{file} is not readable: {e}"), Some("run as root or with CAP_DAC_READ_SEARCH")))
            }
            _ => None,
        };
        self.behind(channel).into_iter().find_map(off).or_else(|| channel.files().into_iter().find_map(forbidden))
    }

    fn behind(&self, channel: &Channel) -> Vec<&Attributes> {
        let files = channel.files();
        let reads = |f: &Option<String>| f.as_deref().is_some_and(|f| files.contains(&f));
        self.by_channel.values().filter(|a| reads(&a.input) || reads(&a.average)).collect()
    }
}

/// A voltage or a current that may be one side of a product.
struct Side<'a> {
    number: u32,
    label: Option<String>,
    files: &'a Attributes,
}

impl Side<'_> {
    fn is_called(&self, pattern: &str) -> bool {
        self.label.as_deref().is_some_and(|l| fits(pattern, l))
    }

    /// The product of this voltage and a current; never an average of one with a momentary value of
    /// the other.
    fn times(&self, current: &Self) -> Option<Channel> {
        let both = |a: &Option<String>, b: &Option<String>| a.clone().zip(b.clone());
        let (v, c) = (self.files, current.files);
        let (volt, curr) = both(&v.average, &c.average).or_else(|| both(&v.input, &c.input))?;
        let label = self.label.clone().or_else(|| current.label.clone());
        Some(Channel { name: format!("in{}", self.number), label, input: Input::Product { volt, curr } })
    }
}

impl Channel {
    fn files(&self) -> Vec<&str> {
        match &self.input {
            Input::Energy { file } | Input::Power { file, .. } => vec![file],
            Input::Product { volt, curr } => vec![volt, curr],
            Input::Sum(_) => Vec::new(),
        }
    }
}

enum Role {
    Input,
    Average,
    Enable,
    Label,
    Oem,
}

/// `power1_average` and its like (Documentation/hwmon/sysfs-interface.rst).
fn hwmon_file(name: &str) -> Option<(Quantity, u32, Role)> {
    let (channel, role) = name.split_once('_')?;
    let role = match role {
        "input" => Role::Input,
        "average" => Role::Average,
        "enable" => Role::Enable,
        "label" => Role::Label,
        "oem_info" => Role::Oem,
        _ => return None,
    };
    let known =
        [("energy", Quantity::Energy), ("power", Quantity::Power), ("in", Quantity::Volt), ("curr", Quantity::Curr)];
    let (quantity, n) = known.into_iter().find_map(|(prefix, q)| Some((q, number(channel.strip_prefix(prefix)?)?)))?;
    Some((quantity, n, role))
}

fn l4t_file(name: &str) -> Option<(Quantity, u32, Role)> {
    if let Some(n) = name.strip_prefix("rail_name_") {
        return Some((Quantity::Power, number(n)?, Role::Label));
    }
    let n = name.strip_prefix("in_power")?.strip_suffix("_input")?;
    Some((Quantity::Power, number(n)?, Role::Input))
}

/// A channel number without sign or leading zeros, so that one channel has one name.
fn number(text: &str) -> Option<u32> {
    let n: u32 = text.parse().ok()?;
    (n.to_string() == text).then_some(n)
}

/// The first line of a small file; `None` if there is nothing in it.
fn line(path: &Path) -> Option<String> {
    let text = host::read_line(path).ok()?;
    let first = clean(text.lines().next()?);
    (!first.is_empty()).then_some(first)
}

/// A name fit for ids, metrics and tables: no control characters, not too long.
pub(super) fn clean(text: &str) -> String {
    let mut kept = String::new();
    for c in text.trim().chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > LONGEST_NAME {
            break;
        }
        kept.push(c);
    }
    kept.trim().to_owned()
}
