//! The battery of a laptop as a wall meter of last resort: what it gives is what the machine draws,
//! but only while it is discharging and nothing else feeds the machine.
//!
//! Files and units: Documentation/ABI/testing/sysfs-class-power (µW, µA, µV).

use std::path::{Path, PathBuf};

use ebbtide_proto::{Power, Ratio, ZoneId};

use super::integrate::{PowerProbe, ProbeMode};
use super::{CounterShape, Found, Quality, ReadError, SourceKind, Zone, ZoneKind};
use crate::host::{self, HostRoot};

/// No laptop draws more; larger figures are garbage.
const MOST: Power = Power::from_uw(1_000_000_000);

/// All system batteries together, as one zone.
struct Batteries {
    class: PathBuf,
    zones: [Zone; 1],
}

/// What a supply is to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    /// A battery that feeds the machine.
    Battery,
    /// A battery of a mouse, a headset, a phone.
    Peripheral,
    /// The mains adapter.
    Mains,
    /// USB ports, wireless chargers and others.
    Other,
}

/// Finds the machine's batteries.
pub fn discover(host: &HostRoot, mode: ProbeMode) -> Found {
    let mut found = Found::default();
    let class = host.sys("class/power_supply");
    let mut own = 0_usize;
    for name in host::list(&class) {
        match supply(&class.join(&name)) {
            Supply::Battery => own += 1,
            Supply::Peripheral => {
                found.skip(
                    class.join(&name).display().to_string(),
                    "the battery of a peripheral, not of this machine",
                    None,
                );
            }
            Supply::Mains | Supply::Other => {}
        }
    }
    if own > 0 {
        match ZoneId::new("battery/system") {
            Ok(id) => found.sources.push(mode.integrate(Batteries::new(class, id))),
            Err(e) => found.skip(class.display().to_string(), e.to_string(), None),
        }
    }
    found
}

impl Batteries {
    fn new(class: PathBuf, id: ZoneId) -> Self {
        let zone = Zone {
            id,
            name: "battery".into(),
            kind: ZoneKind::Wall,
            parent: None,
            socket: None,
            source: SourceKind::Battery,
            path: class.display().to_string(),
            quality: Quality::Scaled,
            // gauges are averaged over seconds and calibrated by the maker for charge, not for power
            error: Ratio::from_percent(10),
            counter: CounterShape { range: None, max_power: MOST },
            idle: None,
        };
        Self { class, zones: [zone] }
    }

    /// What all batteries give together, or why that isn't what the machine draws now.
    fn power(&self) -> Result<Power, ReadError> {
        let absent = |dir: &Path, why: &str| ReadError::Absent { path: dir.display().to_string(), why: why.to_owned() };
        let (mut sum, mut discharging, mut why_not) = (Power::ZERO, false, String::from("no battery"));
        for name in host::list(&self.class) {
            let dir = self.class.join(&name);
            match supply(&dir) {
                Supply::Mains if host::read_line(&dir.join("online")).is_ok_and(|t| t == "1") => {
                    return Err(absent(&dir, "the mains feeds the machine"));
                }
                Supply::Battery => {}
                _ => continue,
            }
            let status = host::read_line(&dir.join("status")).unwrap_or_default().to_ascii_lowercase();
            match status.as_str() {
                "discharging" => {
                    let power = given(&dir).ok_or_else(|| absent(&dir, "it is discharging but tells no power"))?;
                    (sum, discharging) = (sum.saturating_add(power), true);
                }
                // of several batteries one may rest while the other feeds the machine
                "full" | "not charging" => why_not = format!("{name} is {status}"),
                "charging" => return Err(absent(&dir, "it is charging")),
                _ => return Err(absent(&dir, "its status is unknown")),
            }
        }
        match (discharging, sum) {
            (false, _) => Err(absent(&self.class, &why_not)),
            (true, sum) if sum > MOST => {
                Err(ReadError::Nonsense { path: self.class.display().to_string(), found: format!("{} uW", sum.uw()) })
            }
            (true, sum) => Ok(sum),
        }
    }
}

impl PowerProbe for Batteries {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn read(&mut self, out: &mut Vec<Result<Power, ReadError>>) {
        out.push(self.power());
    }
}

fn supply(dir: &Path) -> Supply {
    let is = |file: &str, text: &str| host::read_line(&dir.join(file)).is_ok_and(|t| t.eq_ignore_ascii_case(text));
    if is("type", "Mains") {
        Supply::Mains
    } else if !is("type", "Battery") || is("present", "0") {
        Supply::Other
    } else if is("scope", "Device") {
        Supply::Peripheral
    } else {
        Supply::Battery
    }
}

/// What one battery gives: `power_now`, or current times voltage. Some drivers say zero while they
/// don't know, and some count discharging as negative.
fn given(dir: &Path) -> Option<Power> {
    let magnitude = |file: &str| {
        let value = host::read_line(&dir.join(file)).ok()?.parse::<i64>().ok()?.unsigned_abs();
        (value > 0).then_some(value)
    };
    let product = || {
        // µA x µV is pW
        let pw = u128::from(magnitude("current_now")?) * u128::from(magnitude("voltage_now")?);
        u64::try_from(pw / 1_000_000).ok().filter(|uw| *uw > 0)
    };
    magnitude("power_now").or_else(product).map(Power::from_uw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use proptest::prelude::*;
    use std::fs;
    use std::time::Duration;

    /// A machine whose supplies have these files: `BAT0/status=Discharging`.
    fn machine(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for entry in files {
            let (path, text) = entry.split_once('=').unwrap();
            let at = root.path().join("sys/class/power_supply").join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, format!("{text}\n")).unwrap();
        }
        root
    }

    /// What the batteries give, in microwatts, or why there is no figure.
    fn reading(files: &[&str]) -> Result<u64, String> {
        let root = machine(files);
        let mut found = discover(&HostRoot::new(root.path()), ProbeMode::Stepped);
        let source = found.sources.first_mut().ok_or("no source")?;
        let (mut out, start) = (Vec::new(), Moment::default());
        source.read(start, &mut out);
        source.read(start.plus(Duration::from_secs(1)), &mut out);
        assert_eq!(source.zones()[0].kind, ZoneKind::Wall);
        out.pop()
            .unwrap()
            .map(|r| r.counter.uj())
            .map_err(|e| e.to_string().replace(&root.path().display().to_string(), ""))
    }

    const BAT: [&str; 2] = ["BAT0/type=Battery", "BAT0/status=Discharging"];

    fn discharging(more: &[&str]) -> Result<u64, String> {
        reading(&[&BAT, more].concat())
    }

    #[test]
    fn a_discharging_battery_tells_what_the_machine_draws() {
        assert_eq!(discharging(&["BAT0/power_now=9870000"]), Ok(9_870_000));
        assert_eq!(discharging(&["BAT0/power_now=-9870000"]), Ok(9_870_000));
        assert_eq!(discharging(&["BAT0/current_now=-850000", "BAT0/voltage_now=11400000"]), Ok(9_690_000));
        assert_eq!(
            discharging(&["BAT0/power_now=0", "BAT0/current_now=850000", "BAT0/voltage_now=11400000"]),
            Ok(9_690_000)
        );
        assert_eq!(discharging(&["BAT0/power_now=5000000", "AC/type=Mains", "AC/online=0"]), Ok(5_000_000));
        assert_eq!(discharging(&["BAT0/power_now=5000000", "BAT0/scope=System"]), Ok(5_000_000));
    }

    #[test]
    fn several_batteries_are_one() {
        let both = ["BAT0/power_now=5000000", "BAT1/type=Battery", "BAT1/status=Discharging", "BAT1/power_now=1000000"];
        assert_eq!(discharging(&both), Ok(6_000_000));
        let resting = ["BAT0/power_now=5000000", "BAT1/type=Battery", "BAT1/status=Not charging", "BAT1/power_now=0"];
        assert_eq!(discharging(&resting), Ok(5_000_000));
        let silent = ["BAT0/power_now=5000000", "BAT1/type=Battery", "BAT1/status=Discharging"];
        assert!(discharging(&silent).unwrap_err().contains("BAT1"), "a part is not the whole");
    }

    #[test]
    fn otherwise_there_is_no_figure_and_a_reason() {
        let absent = |files: &[&str]| reading(files).unwrap_err();
        for (status, why) in
            [("Charging", "charging"), ("Full", "full"), ("Not charging", "not charging"), ("Unknown", "unknown")]
        {
            let got = absent(&["BAT0/type=Battery", &format!("BAT0/status={status}"), "BAT0/power_now=5000000"]);
            assert!(got.contains(why), "{status}: {got}");
        }
        assert!(absent(&[BAT[0], BAT[1], "BAT0/power_now=0"]).contains("no power"));
        assert!(absent(&[BAT[0], BAT[1], "BAT0/power_now=1", "AC/type=Mains", "AC/online=1"]).contains("mains"));
        assert!(absent(&[BAT[0], BAT[1], "BAT0/power_now=4000000000000"]).contains("not a number"));
        assert_eq!(absent(&["mouse/type=Battery", "mouse/scope=Device", "mouse/status=Discharging"]), "no source");
        assert_eq!(absent(&["AC/type=Mains", "AC/online=0", "BAT0/type=Battery", "BAT0/present=0"]), "no source");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_make_more_than_a_laptop_draws(power in any::<Vec<u8>>(), current in any::<i64>(), voltage in any::<i64>(), junk in any::<Vec<u8>>()) {
            let root = machine(&[BAT[0], BAT[1], &format!("BAT0/current_now={current}"), &format!("BAT0/voltage_now={voltage}")]);
            let dir = root.path().join("sys/class/power_supply");
            fs::write(dir.join("BAT0/power_now"), power).unwrap();
            fs::create_dir(dir.join("x")).unwrap();
            fs::write(dir.join("x/type"), junk).unwrap();
            let probe = Batteries::new(dir, ZoneId::new("battery/system").unwrap());
            if let Ok(power) = probe.power() {
                prop_assert!(power > Power::ZERO && power <= MOST);
            }
        }
    }
}
