//! What is known of hwmon chips, as data: which channels count, what they cover, what lies inside what.
//!
//! A [`ChipRow`] is plain data that can be read from a configuration file; rows given there are asked
//! before [`builtin`]. The first row whose name pattern fits a chip decides; within it the first
//! channel row that fits a channel's label (or, without a label, its name: `power1`, `in1`) decides.
//! Patterns know `*` and ignore the case of letters.

use serde::{Deserialize, Deserializer, Serialize};

use crate::source::ZoneKind;

/// How one family of chips is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipRow {
    /// Patterns of the chip's `name` file.
    pub names: Vec<String>,
    /// What its channels are; a channel that fits none of these is left out.
    pub channels: Vec<ChannelRow>,
    /// Relative error of its power or energy, in percent.
    pub error_percent: u32,
    /// Among which channels `inside` and `sums` look.
    #[serde(default)]
    pub nest: Nest,
    /// Sums of channels that are a zone of their own.
    #[serde(default)]
    pub sums: Vec<SumRow>,
    /// The `in` channels that are a bus voltage and may be multiplied with the current of the same
    /// number; absent means all of them, empty means none.
    #[serde(default)]
    pub volts: Option<Vec<u32>>,
    /// Voltages and currents that belong together although neither number nor label say so.
    #[serde(default)]
    pub pairs: Vec<PairRow>,
    /// How zones are named.
    #[serde(default)]
    pub naming: Naming,
    /// More watts than this are nonsense; absent means what is usual for the zone's kind.
    #[serde(default)]
    pub max_watts: Option<u32>,
}

/// What a channel is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRow {
    /// Pattern of its label or name.
    pub label: String,
    /// What it covers.
    #[serde(deserialize_with = "zone_kind", default = "other")]
    pub kind: ZoneKind,
    /// Patterns of channels that contain this one; the first that exists is its parent.
    #[serde(default)]
    pub inside: Vec<String>,
    /// Why it doesn't count; absent means that it counts.
    #[serde(default)]
    pub ignore: Option<String>,
}

/// A zone made by adding channels that have no parent of their own. It becomes their parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SumRow {
    /// Its name in place of a label.
    pub name: String,
    /// What it covers.
    #[serde(deserialize_with = "zone_kind")]
    pub kind: ZoneKind,
    /// Patterns of its parts. It exists only where each of them is found.
    pub of: Vec<String>,
}

/// A voltage and a current of one circuit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRow {
    /// Pattern of the voltage's label.
    pub volt: String,
    /// Pattern of the current's label.
    pub curr: String,
}

/// How far nesting reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nest {
    /// The channels of one chip.
    #[default]
    Chip,
    /// The channels of all chips of this row that name the same socket.
    Socket,
    /// The channels of all chips of this row.
    Node,
}

/// What a zone is called. Names that would occur twice get the device's name behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Naming {
    /// The label; without one the chip, with the channel if the chip has several.
    #[default]
    Label,
    /// Chip and label, for labels that say nothing alone (`pin`).
    ChipLabel,
    /// The chip, for labels that mislead (`PPT`).
    Chip,
}

impl ChipRow {
    /// Whether this row is about chips called `name`.
    pub fn fits(&self, name: &str) -> bool {
        self.names.iter().any(|pattern| fits(pattern, name))
    }

    /// The row of the channel that is called `text`.
    pub fn channel(&self, text: &str) -> Option<&ChannelRow> {
        self.channels.iter().find(|c| fits(&c.label, text))
    }

    /// Whether `inN` may be multiplied with the current of the same number.
    pub fn is_bus_voltage(&self, n: u32) -> bool {
        self.volts.as_ref().is_none_or(|v| v.contains(&n))
    }

    fn new(names: &[&str], error_percent: u32, channels: Vec<ChannelRow>) -> Self {
        Self {
            names: owned(names),
            channels,
            error_percent,
            nest: Nest::Chip,
            sums: Vec::new(),
            volts: None,
            pairs: Vec::new(),
            naming: Naming::Label,
            max_watts: None,
        }
    }

    fn nest(self, nest: Nest) -> Self {
        Self { nest, ..self }
    }

    fn naming(self, naming: Naming) -> Self {
        Self { naming, ..self }
    }

    fn volts(self, volts: &[u32]) -> Self {
        Self { volts: Some(volts.to_vec()), ..self }
    }

    fn sum(mut self, name: &str, kind: ZoneKind, of: &[&str]) -> Self {
        self.sums.push(SumRow { name: name.to_owned(), kind, of: owned(of) });
        self
    }

    /// The input side as PMBus labels it, for supplies that don't tell `pin`; never by number,
    /// because `in1` is the input and `curr1` may be an output.
    fn pmbus_input(self) -> Self {
        let pairs = vec![PairRow { volt: "vin".into(), curr: "iin".into() }];
        Self { pairs, volts: Some(Vec::new()), naming: Naming::ChipLabel, ..self }
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any text; the case of ASCII letters doesn't matter.
pub fn fits(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut i, mut j) = (0, 0);
    // where to go on after the last `*` when a later character doesn't fit
    let mut retry: Option<(usize, usize)> = None;
    while let Some(c) = t.get(j) {
        match p.get(i) {
            Some(b'*') => {
                i += 1;
                retry = Some((i, j));
            }
            Some(x) if x.eq_ignore_ascii_case(c) => {
                i += 1;
                j += 1;
            }
            _ => match retry {
                Some((after, from)) => {
                    i = after;
                    j = from + 1;
                    retry = Some((after, j));
                }
                None => return false,
            },
        }
    }
    p.iter().skip(i).all(|c| *c == b'*')
}

/// The chips that are known without configuration. The last row takes any chip.
pub fn builtin() -> Vec<ChipRow> {
    use ZoneKind::{Board, Core, Dram, Gpu, Other, Package, Uncore, Wall};
    const OUTPUT: &str = "an output: the input counts";
    const JETSON_IN: &[&str] = &["VDD_IN", "POM_5V_IN"];
    let rest_of_jetson = || counts("*", Board).inside(JETSON_IN);
    let jetson = |label, kind| counts(label, kind).inside(JETSON_IN);
    vec![
        // power_supply_hwmon shows batteries and chargers again; charging is not consumption
        ChipRow::new(
            &["BAT*", "AC", "AC0", "ADP*", "ucsi_source_psy*", "hidpp_battery*"],
            10,
            vec![ignored("*", "a battery or charger: the battery source reads it")],
        ),
        // drivers/net/phy/sfp.c: power1/2 are the light sent and received
        ChipRow::new(&["sfp*"], 10, vec![ignored("*", "optical power of a transceiver, not consumption")]),
        // Jetson boards. Orin Nano/NX, Xavier NX, TX2, Nano tell the whole module (VDD_IN, POM_5V_IN);
        // AGX boards tell only its rails, which together are the module. INA3221 datasheet: 0.25 % gain
        // and 80 uV offset, which at light load and with a 1-2 % shunt makes several percent.
        // in4-6 are shunt voltages, in7 and curr4 sums of shunts (Documentation/hwmon/ina3221.rst).
        ChipRow::new(
            &["ina3221*"],
            5,
            vec![
                ignored("NC", "not connected"),
                counts("VDD_IN", Board),
                counts("POM_5V_IN", Board),
                jetson("VDD_CPU_GPU_CV", Package),
                jetson("VDD_CPU*", Package),
                jetson("VDD_SYS_CPU", Package),
                jetson("POM_5V_CPU", Package),
                jetson("CPU", Package),
                jetson("VDD_GPU*", Gpu),
                jetson("VDD_SYS_GPU", Gpu),
                jetson("POM_5V_GPU", Gpu),
                jetson("GPU", Gpu),
                // fed from the 5 V rail of the AGX Orin, which is measured too
                counts("VDDQ_VDD2_1V8AO", Dram).inside(&["VIN_SYS_5V0", "VDD_IN"]),
                jetson("VDD_SYS_DDR", Dram),
                jetson("VDDRQ", Dram),
                jetson("VIN_SYS_5V0", Other),
                jetson("SYS5V", Other),
                jetson("VDD_SOC", Other),
                jetson("VDD_SYS_SOC", Other),
                jetson("SOC", Other),
                jetson("CV", Other),
                jetson("VDD_4V0_WIFI", Other),
                rest_of_jetson(),
            ],
        )
        .nest(Nest::Node)
        .volts(&[1, 2, 3])
        .sum("module", Board, &["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"])
        .sum("module", Board, &["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]),
        // one shunt per chip: in0 is the shunt, in1 the bus (Documentation/hwmon/ina2xx.rst).
        // Datasheets: INA226 0.1 % gain, INA260 0.15 % with its own shunt, INA219 0.5 %; the board's
        // shunt resistor (1 %) decides. iio-hwmon names boards' chips `ina226_u76`.
        ChipRow::new(&["ina2*", "ina7*", "sq52206*"], 1, vec![counts("*", Board)]).volts(&[1]),
        // Documentation/hwmon/smpro-hwmon.rst; no accuracy is stated: telemetry of voltage regulators
        // is usually within 5 % at load. PCIe root complexes (RCA) are part of the processor.
        ChipRow::new(
            &["smpro*"],
            5,
            vec![
                counts("*CORE VRD*", Core),
                counts("*DIMM*", Dram),
                counts("*SoC*", Uncore),
                counts("*RCA VRD*", Uncore),
            ],
        )
        .naming(Naming::ChipLabel)
        .sum("package", Package, &["*CORE VRD*", "*SoC*", "*RCA VRD*"])
        .sum("package", Package, &["*CORE VRD*", "*SoC*"]),
        // X-Gene and Altra by ACPI (drivers/hwmon/xgene-hwmon.c): the two together are the socket
        ChipRow::new(&["apm_xgene*", "xgene*"], 5, vec![counts("CPU power", Core), counts("IO power", Uncore)])
            .naming(Naming::ChipLabel)
            .sum("package", Package, &["CPU power", "IO power"]),
        ChipRow::new(
            &["altra_hwmon*"],
            5,
            vec![ignored("Core Energy*", "one core: part of the socket that apm_xgene or smpro_hwmon tell")],
        ),
        // ACPI power meter (power1_oem_info stands in for a label). NVIDIA Grace nests its domains:
        // Module > Grace > CPU, SysIO, each averaged over 50-100 ms. Any other meter is the whole
        // node. ACPI lets firmware state its own accuracy; servers' meters are within 3-5 %.
        ChipRow::new(
            &["power_meter"],
            5,
            vec![
                counts("Module Power*", Board),
                counts("Grace Power*", Package).inside(&["Module Power*"]),
                counts("CPU Power*", Core).inside(&["Grace Power*", "Module Power*"]),
                counts("SysIO Power*", Uncore).inside(&["Grace Power*", "Module Power*"]),
                counts("*", Wall),
            ],
        )
        .nest(Nest::Socket)
        .naming(Naming::ChipLabel),
        // energy status registers of Zen widened to 64 bits by the driver; as good as RAPL
        ChipRow::new(
            &["amd_energy*"],
            3,
            vec![counts("Esocket*", Package), ignored("*", "one core: part of its socket")],
        ),
        // out-of-tree zenpower: SVI2 telemetry of the two regulators that feed the package
        ChipRow::new(&["zenpower"], 10, vec![counts("SVI2_P_Core", Core), counts("SVI2_P_SoC", Uncore)])
            .naming(Naming::ChipLabel)
            .sum("package", Package, &["SVI2_P_Core", "SVI2_P_SoC"]),
        ChipRow::new(&["fam15h_power"], 10, vec![counts("*", Package)]),
        // averaged by the GPU's firmware; the label is PPT, package power tracking
        ChipRow::new(&["amdgpu", "radeon", "nouveau"], 5, vec![counts("*", Gpu)]).naming(Naming::Chip),
        ChipRow::new(&["i915_gt*"], 5, vec![ignored("*", "one tile: part of i915")]),
        ChipRow::new(&["i915", "xe"], 5, vec![counts("pkg", Gpu).inside(&["card"]), counts("*", Gpu)])
            .naming(Naming::ChipLabel),
        // Apple silicon: only the first is known to be all that the machine draws
        ChipRow::new(
            &["macsmc_hwmon*"],
            5,
            vec![counts("Total System Power", Wall), ignored("*", "not known to be apart from Total System Power")],
        )
        .naming(Naming::ChipLabel),
        // power supplies on PMBus: input power within 3-5 % from 20 % load on (CRPS specification)
        ChipRow::new(
            &[
                "pmbus",
                "crps*",
                "dps*",
                "ibm-cffps*",
                "cffps*",
                "ipsps*",
                "pfe1100*",
                "pfe3000*",
                "fsp*",
                "ym-*",
                "yh5151e*",
                "bpa-rs600*",
                "acbel*",
                "pim4*",
                "psu*",
            ],
            5,
            vec![counts("pin*", Wall), counts("vin*", Wall), ignored("*", OUTPUT)],
        )
        .pmbus_input(),
        ChipRow::new(&["corsairpsu"], 5, vec![counts("power total", Wall), ignored("*", OUTPUT)])
            .naming(Naming::ChipLabel),
        // hot-swap controllers and sequencers at a board's input
        ChipRow::new(
            &[
                "adm1075*", "adm127*", "adm128*", "adm129*", "lm5064*", "lm5066*", "lm25066*", "ltc4286*", "mp5*",
                "ucd9*",
            ],
            5,
            vec![counts("pin*", Board), counts("vin*", Board), ignored("*", OUTPUT)],
        )
        .pmbus_input(),
        // the same without PMBus: one power, or bus voltage in1 and current curr1
        ChipRow::new(&["ltc2945*", "ltc2947*", "ltc42*"], 3, vec![counts("*", Board)])
            .naming(Naming::ChipLabel)
            .volts(&[1]),
        // regulators of one rail behind the above
        ChipRow::new(
            &[
                "max207*", "xdpe*", "isl68*", "isl69*", "raa22*", "tps53*", "tps40*", "tps54*", "ir35*", "ir36*",
                "ir38*", "mp28*", "mp29*", "pxe1*",
            ],
            5,
            vec![counts("pin*", Other), counts("vin*", Other), ignored("*", OUTPUT)],
        )
        .pmbus_input(),
        // anything else: believed with care, never taken for a known part of the machine
        ChipRow {
            pairs: vec![PairRow { volt: "vin".into(), curr: "iin".into() }],
            ..ChipRow::new(
                &["*"],
                10,
                vec![
                    ignored("pout*", OUTPUT),
                    ignored("TX_power", "optical power of a transceiver, not consumption"),
                    ignored("RX_power", "optical power of a transceiver, not consumption"),
                    counts("*", Other),
                ],
            )
        },
    ]
}

impl ChannelRow {
    fn inside(self, inside: &[&str]) -> Self {
        Self { inside: owned(inside), ..self }
    }
}

fn counts(label: &str, kind: ZoneKind) -> ChannelRow {
    ChannelRow { label: label.to_owned(), kind, inside: Vec::new(), ignore: None }
}

fn ignored(label: &str, why: &str) -> ChannelRow {
    ChannelRow { ignore: Some(why.to_owned()), ..counts(label, ZoneKind::Other) }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

fn other() -> ZoneKind {
    ZoneKind::Other
}

fn zone_kind<'de, D: Deserializer<'de>>(from: D) -> Result<ZoneKind, D::Error> {
    use ZoneKind::{Board, Core, Dram, Gpu, Other, Package, Psys, Uncore, Wall};
    let text = String::deserialize(from)?;
    [Psys, Package, Core, Uncore, Dram, Gpu, Board, Wall, Other].into_iter().find(|k| k.as_str() == text).ok_or_else(
        || {
            let known = "psys, package, core, uncore, dram, gpu, board, wall or other";
            serde::de::Error::custom(format!("{text:?} is no kind of zone: expected {known}"))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row_for<'a>(rows: &'a [ChipRow], name: &str) -> &'a ChipRow {
        rows.iter().find(|r| r.fits(name)).unwrap()
    }

    #[test]
    fn every_chip_has_a_row_and_known_ones_their_own() {
        let rows = builtin();
        let row = |name: &str| row_for(&rows, name).names.first().unwrap().as_str();
        assert_eq!(row("ina226_u76"), "ina2*");
        assert_eq!(row("ina3221x"), "ina3221*");
        assert_eq!(row("dps800"), "pmbus");
        assert_eq!(row("ucd90160"), "adm1075*");
        assert_eq!(row("smpro_hwmon"), "smpro*");
        assert_eq!(row("BAT1"), "BAT*");
        assert_eq!(row("nobody knows"), "*");
    }

    #[test]
    fn a_row_from_configuration_comes_first() {
        let own: ChipRow = toml::from_str(
            "names = ['ina226_u79']\nerror_percent = 2\nchannels = [{ label = '*', kind = 'package', inside = ['ina226_u1'] }]",
        )
        .unwrap();
        let rows: Vec<ChipRow> = std::iter::once(own).chain(builtin()).collect();
        assert_eq!(row_for(&rows, "ina226_u79").channel("power1").unwrap().kind, ZoneKind::Package);
        assert_eq!(row_for(&rows, "ina226_u80").channel("power1").unwrap().kind, ZoneKind::Board);
        let bad =
            toml::from_str::<ChipRow>("names = ['x']\nerror_percent = 2\nchannels = [{ label = '*', kind = 'cpu' }]");
        assert!(bad.unwrap_err().to_string().contains("expected psys"));
    }

    #[test]
    fn rows_survive_being_written_and_read() {
        for row in builtin() {
            let text = toml::to_string(&row).unwrap();
            assert_eq!(toml::from_str::<ChipRow>(&text).unwrap(), row);
        }
    }

    proptest! {
        #[test]
        fn stars_stand_for_any_text(a in "[a-z_]{0,6}", b in "[A-Z0-9]{0,6}", mid in ".{0,12}") {
            let text = format!("{a}{mid}{b}");
            let upper = a.to_ascii_uppercase();
            let pattern = format!("{}*{}", upper, b);
            prop_assert!(fits(&pattern, &text));
            prop_assert!(fits("*", &text));
            prop_assert!(fits(&text.replace('*', "x"), &text.replace('*', "x")));
            let longer = format!("{}*{}#", a, b);
            prop_assert_eq!(fits(&longer, &text), text.ends_with('#'));
        }

        #[test]
        fn no_pattern_takes_long(pattern in "[*a]{0,40}", text in "a{0,200}") {
            let letters = pattern.bytes().filter(|b| *b == b'a').count();
            let expected = if pattern.contains('*') { letters <= text.len() } else { letters == text.len() };
            prop_assert_eq!(fits(&pattern, &text), expected);
        }
    }
}
