//! What kind of machine this is, as far as its model of power is concerned: its processors, whether it
//! is a guest of a hypervisor, and which single board it is, if it is one.

use ebbtide_proto::Power;

use super::cpu::CpuInfo;
use super::load::CpuTimes;
use crate::host::{self, HostRoot};

/// The machine to be estimated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its processors.
    pub cpu: CpuInfo,
    /// The hypervisor or cloud that it is a guest of; `None` for a machine of its own.
    pub guest_of: Option<String>,
    /// The board's name as its device tree has it.
    pub board: Option<String>,
}

/// Idle and full power of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardPower {
    /// Running, nothing to do, no display.
    pub idle: Power,
    /// All cores busy, graphics idle.
    pub full: Power,
}

impl Machine {
    /// Looks at the machine below `host`. `online` is what `/proc/stat` says of its CPUs. What can't be
    /// read is not known; this never fails.
    pub fn read(host: &HostRoot, online: &CpuTimes) -> Self {
        let text = |path: std::path::PathBuf| host::read_text(&path).unwrap_or_default();
        let cpu = CpuInfo::parse(&text(host.proc("cpuinfo")));
        let cpu = cpu.with_threads(u32::try_from(online.len()).unwrap_or(u32::MAX));
        let dmi = |name: &str| text(host.sys("class/dmi/id").join(name)).trim().to_owned();
        let tree = text(host.sys("firmware/devicetree/base/model"));
        let tree = if tree.is_empty() { text(host.proc("device-tree/model")) } else { tree };
        let board = Some(tree.trim_matches(['\0', ' ', '\n']).to_owned()).filter(|b| !b.is_empty());
        let board = board.or_else(|| cpu.board.clone());
        let guest_of = guest_of(&cpu, &dmi("sys_vendor"), &dmi("product_name"), board.as_deref().unwrap_or(""));
        Self { cpu, guest_of, board }
    }

    /// Idle and full power of this board, if it is a known one.
    pub fn board_power(&self) -> Option<BoardPower> {
        let name = self.board.as_deref()?;
        let (_, idle, full) = BOARDS.iter().find(|(part, ..)| name.contains(part))?;
        let mw = |mw: u64| Power::from_uw(mw * 1000);
        Some(BoardPower { idle: mw(*idle), full: mw(*full) })
    }
}

/// Boards by a part of their name, with idle and full power in milliwatts; the first that matches counts.
///
/// Approximate figures of board, memory and storage card at the input, without display, USB devices and
/// graphics load, as makers and reviewers have published them; boards, firmware and supplies differ by a
/// third.
const BOARDS: [(&str, u64, u64); 28] = [
    ("Raspberry Pi Zero 2", 600, 2_900),
    ("Raspberry Pi Zero", 500, 1_200),
    ("Raspberry Pi 2", 1_100, 2_100),
    ("Raspberry Pi 3 Model B Plus", 1_900, 5_100),
    ("Raspberry Pi 3", 1_400, 3_700),
    ("Raspberry Pi 4", 2_700, 6_400),
    ("Raspberry Pi 400", 2_700, 6_400),
    ("Raspberry Pi 5", 2_900, 8_800),
    ("Raspberry Pi Compute Module 5", 2_900, 8_800),
    ("Raspberry Pi Compute Module 4", 2_300, 6_200),
    ("Raspberry Pi Compute Module 3", 1_200, 3_600),
    ("Jetson Nano", 1_800, 6_000),
    ("Jetson TX2", 3_000, 12_000),
    ("Jetson Xavier NX", 4_500, 14_000),
    ("Jetson AGX Xavier", 7_500, 25_000),
    ("Jetson Orin Nano", 4_500, 12_000),
    ("Jetson Orin NX", 5_500, 16_000),
    ("Jetson AGX Orin", 9_000, 32_000),
    ("ROCK 5", 2_200, 10_000),
    ("ROCK Pi 4", 2_500, 8_000),
    ("Orange Pi 5", 2_000, 9_000),
    ("NanoPi R6", 2_000, 9_000),
    ("ODROID-N2", 1_900, 6_000),
    ("ODROID-C4", 1_800, 4_500),
    ("ODROID-HC4", 2_200, 5_000),
    ("BeagleBone", 1_200, 2_200),
    ("VisionFive", 3_000, 5_300),
    ("RockPro64", 2_800, 8_500),
];

/// Names by which the firmware of a guest gives its hypervisor away: in `sys_vendor` or `product_name`.
const GUESTS: [&str; 19] = [
    "QEMU",
    "KVM",
    "Amazon EC2",
    "Google Compute Engine",
    "Virtual Machine",
    "VirtualBox",
    "VMware",
    "Xen",
    "OpenStack",
    "Droplet",
    "vServer",
    "Alibaba Cloud ECS",
    "BHYVE",
    "Bochs",
    "Parallels",
    "oVirt",
    "Standard PC (",
    "Apple Virtualization",
    "SmartDC HVM",
];

/// The hypervisor a machine is a guest of. Bare-metal cloud servers name their cloud too, and end in `metal`.
fn guest_of(cpu: &CpuInfo, vendor: &str, product: &str, board: &str) -> Option<String> {
    if product.contains(".metal") {
        return None;
    }
    let named = GUESTS.iter().find(|g| product.contains(*g) || vendor.contains(*g));
    match named {
        Some(name) => Some((*name).trim_end_matches([' ', '(']).to_owned()),
        None if cpu.hypervisor => Some("a hypervisor".to_owned()),
        // the machine type `virt` of QEMU, without firmware
        None if board == "linux,dummy-virt" => Some("QEMU".to_owned()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_told_from_machines() {
        let flagged = CpuInfo { hypervisor: true, ..CpuInfo::default() };
        let plain = CpuInfo::default();
        let tell = |cpu, vendor, product| guest_of(cpu, vendor, product, "");
        assert_eq!(tell(&flagged, "", "").as_deref(), Some("a hypervisor"));
        assert_eq!(tell(&plain, "Amazon EC2", "m6g.large").as_deref(), Some("Amazon EC2"));
        assert_eq!(tell(&plain, "Amazon EC2", "m6g.metal"), None);
        assert_eq!(tell(&flagged, "Microsoft Corporation", "Virtual Machine").as_deref(), Some("Virtual Machine"));
        assert_eq!(tell(&plain, "QEMU", "Standard PC (Q35 + ICH9, 2009)").as_deref(), Some("QEMU"));
        assert_eq!(tell(&plain, "Dell Inc.", "PowerEdge R740"), None);
        assert_eq!(guest_of(&plain, "", "", "linux,dummy-virt").as_deref(), Some("QEMU"));
    }

    #[test]
    fn boards_are_known_by_their_device_tree() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("sys/firmware/devicetree/base");
        std::fs::create_dir_all(&base).unwrap();
        let read = |model: &str| {
            std::fs::write(base.join("model"), model).unwrap();
            Machine::read(&HostRoot::new(dir.path()), &CpuTimes::default())
        };
        let watts = |model: &str| read(model).board_power().map(|b| (b.idle.watts(), b.full.watts()));
        assert_eq!(watts("Raspberry Pi 3 Model B Plus Rev 1.3\0"), Some((1.9, 5.1)));
        assert_eq!(watts("Raspberry Pi 3 Model B Rev 1.2\0"), Some((1.4, 3.7)));
        assert_eq!(watts("Raspberry Pi 5 Model B Rev 1.0\0"), Some((2.9, 8.8)));
        assert_eq!(watts("NVIDIA Jetson Nano Developer Kit\0"), Some((1.8, 6.0)));
        assert_eq!(watts("Some Board\0"), None);
        assert_eq!(read("\0").board, None);
        assert!(BOARDS.iter().all(|(_, idle, full)| idle < full));
    }
}
