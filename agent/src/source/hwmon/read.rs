//! Reading what was selected, as often as once every few milliseconds, from chips that may go and come back.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ebbtide_proto::{Energy, Power};

use super::files::{Input, Place, scan};
use super::select::Named;
use crate::clock::Moment;
use crate::host::HostRoot;
use crate::source::integrate::PowerProbe;
use crate::source::{ReadError, Reading, Source, Zone};

/// `statfs` type of sysfs (linux/magic.h). Only there an open file stays the attribute that it was;
/// in other trees a file may be replaced by a new one of the same name.
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// Every how many failed tries a lost chip is looked for among all chips.
const SEARCH_EVERY: u32 = 4;

/// The power channels of a group of chips.
pub(super) struct HwmonPower {
    zones: Vec<Zone>,
    chips: Vec<Chip>,
    circuits: Vec<Circuit>,
}

/// The energy counters of a group of chips.
pub(super) struct HwmonEnergy {
    zones: Vec<Zone>,
    chips: Vec<Chip>,
    counters: Vec<(usize, Attribute)>,
}

/// How one zone's power is had.
enum Circuit {
    File {
        chip: usize,
        file: Attribute,
        scale: u64,
    },
    Product {
        chip: usize,
        volt: Attribute,
        curr: Attribute,
    },
    /// Positions among the circuits before.
    Sum(Vec<usize>),
}

/// A chip that is read from where it is, or looked for when it is no longer there.
struct Chip {
    host: HostRoot,
    place: Place,
    lost: bool,
    tries: u32,
}

/// One file with one number, kept open where that is safe.
struct Attribute {
    file: String,
    open: Option<File>,
}

/// What a file said that holds no usable number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoNumber {
    /// Below zero: sensors' way to say "none", or a current that flows back.
    Negative,
    /// No whole number.
    Nonsense,
}

impl HwmonPower {
    /// The power zones among `all` zones of a group; `None` if it has none.
    pub(super) fn of(host: &HostRoot, places: &[Place], all: &[Named]) -> Option<Self> {
        let mut it = Self { zones: Vec::new(), chips: Chip::all(host, places), circuits: Vec::new() };
        // where the zones of the group ended up among the circuits
        let mut position = BTreeMap::new();
        for (i, Named { draft, zone }) in all.iter().enumerate() {
            let chip = draft.chip;
            let circuit = match &draft.channel.input {
                Input::Energy { .. } => continue,
                Input::Power { file, scale } => Circuit::File { chip, file: Attribute::new(file), scale: *scale },
                Input::Product { volt, curr } => {
                    Circuit::Product { chip, volt: Attribute::new(volt), curr: Attribute::new(curr) }
                }
                Input::Sum(parts) => Circuit::Sum(parts.iter().filter_map(|p| position.get(p)).copied().collect()),
            };
            position.insert(i, it.circuits.len());
            it.circuits.push(circuit);
            it.zones.push(zone.clone());
        }
        (!it.zones.is_empty()).then_some(it)
    }
}

impl PowerProbe for HwmonPower {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn read(&mut self, out: &mut Vec<Result<Power, ReadError>>) {
        let start = out.len();
        for (circuit, zone) in self.circuits.iter_mut().zip(&self.zones) {
            let power = match circuit {
                Circuit::File { chip, file, scale } => {
                    read(&mut self.chips, *chip, file).and_then(|v| plausible(u128::from(v) * u128::from(*scale), zone))
                }
                Circuit::Product { chip, volt, curr } => read(&mut self.chips, *chip, volt).and_then(|mv| {
                    let ma = read(&mut self.chips, *chip, curr)?;
                    plausible(u128::from(mv) * u128::from(ma), zone)
                }),
                Circuit::Sum(parts) => {
                    let known = |i: &usize| out.get(start + *i).and_then(|r| r.as_ref().ok()).copied();
                    match parts.iter().map(known).collect::<Option<Vec<Power>>>() {
                        Some(powers) => Ok(powers.into_iter().sum()),
                        None => Err(absent(&zone.path, "one of its parts has no figure")),
                    }
                }
            };
            out.push(power);
        }
    }
}

impl HwmonEnergy {
    /// The energy zones among `all` zones of a group; `None` if it has none.
    pub(super) fn of(host: &HostRoot, places: &[Place], all: &[Named]) -> Option<Self> {
        let mut it = Self { zones: Vec::new(), chips: Chip::all(host, places), counters: Vec::new() };
        for Named { draft, zone } in all {
            if let Input::Energy { file } = &draft.channel.input {
                it.counters.push((draft.chip, Attribute::new(file)));
                it.zones.push(zone.clone());
            }
        }
        (!it.zones.is_empty()).then_some(it)
    }
}

impl Source for HwmonEnergy {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>) {
        for (chip, file) in &mut self.counters {
            let counter = read(&mut self.chips, *chip, file).map(Energy::from_uj);
            out.push(counter.map(|counter| Reading { at: now, counter }));
        }
    }
}

impl Chip {
    fn all(host: &HostRoot, places: &[Place]) -> Vec<Self> {
        places.iter().map(|p| Self { host: host.clone(), place: p.clone(), lost: false, tries: 0 }).collect()
    }

    /// Whether the chip is where it is thought to be, after looking for it if it was lost.
    fn is_there(&mut self) -> bool {
        if self.lost {
            if self.place.is_here() {
                self.lost = false;
            } else {
                if !self.place.twin
                    && self.tries.is_multiple_of(SEARCH_EVERY)
                    && let Some(found) = scan(&self.host).into_iter().find(|p| p.is_same_chip(&self.place))
                {
                    self.place = found;
                    self.lost = false;
                }
                self.tries = self.tries.wrapping_add(1);
            }
            if !self.lost {
                self.tries = 0;
            }
        }
        !self.lost
    }
}

impl Attribute {
    fn new(file: &str) -> Self {
        Self { file: file.to_owned(), open: None }
    }

    /// Reads the number; the outer error is the kernel's.
    fn read(&mut self, dir: &Path) -> io::Result<Result<u64, (NoNumber, String)>> {
        let mut buffer = [0_u8; 32];
        let (file, keep) = match self.open.take() {
            Some(file) => (file, true),
            None => {
                // never wait for a writer, whatever lies there
                let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(dir.join(&self.file))?;
                let keep = is_sysfs(&file);
                (file, keep)
            }
        };
        // an error leaves the file closed, so that the next try opens it anew
        let n = file.read_at(&mut buffer, 0)?;
        self.open = keep.then_some(file);
        let bytes = buffer.get(..n).unwrap_or_default();
        // a full buffer means that there is more: no number of 64 bits is that long
        let value = if n < buffer.len() { number(bytes) } else { Err(NoNumber::Nonsense) };
        Ok(value.map_err(|e| (e, String::from_utf8_lossy(bytes).trim().to_owned())))
    }
}

/// Reads one file of one chip.
fn read(chips: &mut [Chip], chip: usize, attribute: &mut Attribute) -> Result<u64, ReadError> {
    let Some(chip) = chips.get_mut(chip) else {
        return Err(absent(&attribute.file, "no such chip"));
    };
    let mut tried_again = false;
    loop {
        let there = chip.is_there();
        let path = chip.place.dir.join(&attribute.file).display().to_string();
        if !there {
            attribute.open = None;
            let source = io::Error::new(io::ErrorKind::NotFound, format!("{} is gone", chip.place.name));
            return Err(ReadError::Io { path, source });
        }
        match attribute.read(&chip.place.dir) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err((NoNumber::Negative, found))) => return Err(absent(&path, &format!("it says {found}"))),
            Ok(Err((NoNumber::Nonsense, found))) => return Err(ReadError::Nonsense { path, found }),
            Err(e) => match e.raw_os_error() {
                // the driver's ways to say that there is no value: switched off, powered down, no answer
                Some(libc::ENODATA | libc::ENXIO | libc::EIO | libc::EAGAIN | libc::ETIMEDOUT) => {
                    return Err(absent(&path, &e.to_string()));
                }
                Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR) if !tried_again => {
                    chip.lost = true;
                    tried_again = true;
                }
                _ => return Err(ReadError::Io { path, source: e }),
            },
        }
    }
}

/// A whole number with white space around it.
pub(super) fn number(bytes: &[u8]) -> Result<u64, NoNumber> {
    let digits = bytes.trim_ascii();
    let (negative, digits) = match digits.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NoNumber::Nonsense);
    }
    let value = std::str::from_utf8(digits).ok().and_then(|t| t.parse::<u64>().ok());
    match (negative, value) {
        (_, None) => Err(NoNumber::Nonsense),
        (true, Some(v)) if v > 0 => Err(NoNumber::Negative),
        (_, Some(v)) => Ok(v),
    }
}

fn plausible(uw: u128, zone: &Zone) -> Result<Power, ReadError> {
    match u64::try_from(uw).map(Power::from_uw) {
        Ok(power) if power <= zone.counter.max_power => Ok(power),
        _ => Err(ReadError::Nonsense { path: zone.path.clone(), found: format!("{uw} uW") }),
    }
}

fn is_sysfs(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|t| t == SYSFS_MAGIC))
}

fn absent(path: &str, why: &str) -> ReadError {
    ReadError::Absent { path: path.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_attribute_of_sysfs_stays_open_and_is_read_anew() {
        let dir = Path::new("/sys/class/net/lo");
        if !dir.join("mtu").exists() {
            eprintln!("skipped: no /sys/class/net/lo/mtu here");
            return;
        }
        let mut mtu = Attribute::new("mtu");
        let first = mtu.read(dir).unwrap().unwrap();
        assert!(mtu.open.is_some());
        assert_eq!(mtu.read(Path::new("/nowhere")).unwrap(), Ok(first));
    }

    #[test]
    fn a_file_that_is_replaced_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut power = Attribute::new("power1_input");
        for value in ["1", "2"] {
            std::fs::write(dir.path().join("new"), value).unwrap();
            std::fs::rename(dir.path().join("new"), dir.path().join("power1_input")).unwrap();
            assert_eq!(power.read(dir.path()).unwrap(), Ok(value.parse().unwrap()));
        }
        std::fs::write(dir.path().join("power1_input"), "1".repeat(32)).unwrap();
        assert_eq!(power.read(dir.path()).unwrap().unwrap_err().0, NoNumber::Nonsense);
    }

    proptest! {
        #[test]
        fn numbers_are_read_and_nothing_else_is(v in any::<u64>(), space in "[ \t\n]{0,3}", junk in prop::collection::vec(any::<u8>(), 0..30)) {
            prop_assert_eq!(number(format!("{space}{v}{space}").as_bytes()), Ok(v));
            let below = if v == 0 { Ok(0) } else { Err(NoNumber::Negative) };
            prop_assert_eq!(number(format!("-{v}\n").as_bytes()), below);
            let text = String::from_utf8_lossy(&junk);
            let expected = text.trim_ascii().trim_start_matches('+').parse::<u64>();
            if let Ok(got) = number(&junk) {
                prop_assert!(expected == Ok(got) || text.trim_ascii().starts_with('-'));
            }
        }
    }
}
