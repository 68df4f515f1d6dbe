//! From what a machine is to the curve it is believed to follow, and how far that can be wrong. Pure.
//!
//! The best basis that applies counts:
//!
//! | basis | error | as a guest |
//! |---|---|---|
//! | idle and full power told by the operator | 15 % | 15 % |
//! | published results of this processor model, three or more | 15 % | 25 % |
//! | published results of this processor model, one or two | 20 % | 30 % |
//! | thermal design power of this model, shape of its generation | 30 % | 40 % |
//! | power per thread of its generation | 40 % | 50 % |
//! | a known single board | 40 % | – |
//! | power per thread of its maker's servers since 2018, or per ARM or RISC-V core | 50 % | 60 % |
//! | nothing known: power per thread of servers since 2018 | 60 % | 70 % |
//!
//! Where there are results to compare with, the bands are what four fifths of them stay within, averaged over
//! the loads, when each is estimated from others: 13 % by model, 29 % by TDP, 38 % by threads of the generation,
//! 51 % by threads of the maker (`tools/power-curves.py --errors`); idle power alone is off by up to twice that. The
//! other bands are judgements. The results come from tuned machines with little memory: real ones idle higher.
//! A guest's band is wider, since its neighbours, the host's fittings and its frequency are hidden. A guest is
//! charged its share of the host's threads, with that share of the host's idle power in it.

use std::fmt;

use ebbtide_proto::{Power, Ratio};

use super::ModelOverride;
use super::cpu::{self, CpuInfo, Vendor};
use super::curve::{Curve, Shape};
use super::machine::Machine;
use super::table::{self, Family};

/// What the power of a machine is believed to be, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Power against load of the whole machine, or of the guest's share of its host.
    pub curve: Curve,
    /// How far the figures may be off.
    pub error: Ratio,
    /// What they rest on.
    pub basis: Basis,
    /// What was recognised, for people: `2 × Intel Xeon Gold 6240`.
    pub machine: String,
    /// How it was scaled, for people: `4 of 36 threads of the host`; empty if it wasn't.
    pub share: String,
}

/// What an estimate rests on, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The operator's own figures.
    Given,
    /// This many published results of the very processor model.
    Results(u32),
    /// The model's thermal design power.
    Tdp(Power),
    /// Published results of the generation (`true`) or of the nearest one that has any.
    Generation(&'static str, bool),
    /// Published results of the maker's servers.
    Maker(&'static str),
    /// Figures of a single board.
    Board,
    /// Figures per core of an ARM or RISC-V processor.
    Cores,
    /// Nothing but the number of CPUs.
    Nothing,
}

impl Basis {
    fn error_percent(self) -> u32 {
        match self {
            Self::Given => 15,
            Self::Results(n) if n >= 3 => 15,
            Self::Results(_) => 20,
            Self::Tdp(_) => 30,
            Self::Generation(..) | Self::Board => 40,
            Self::Maker(_) | Self::Cores => 50,
            Self::Nothing => 60,
        }
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("idle and full power as configured"),
            Self::Results(1) => f.write_str("one published result of this model"),
            Self::Results(n) => write!(f, "{n} published results of this model"),
            Self::Tdp(tdp) => write!(f, "known TDP {tdp}"),
            Self::Generation(name, true) => write!(f, "typical of {name}"),
            Self::Generation(name, false) => write!(f, "{name}, typical of the nearest generation with results"),
            Self::Maker(name) => write!(f, "typical of {name} servers since 2018"),
            Self::Board => f.write_str("a known board"),
            Self::Cores => f.write_str("typical of such cores"),
            Self::Nothing => f.write_str("typical of servers since 2018"),
        }
    }
}

/// One sentence: `Intel Xeon Gold 6240, known TDP 150 W, 4 of 36 threads of the host → 2.50 W to 17.6 W, ±40 %`.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.machine, self.basis)?;
        if !self.share.is_empty() {
            write!(f, ", {}", self.share)?;
        }
        let percent = self.error.ppm() / 10_000;
        write!(f, " → {} to {}, ±{percent} %", self.curve.idle(), self.curve.full())
    }
}

/// Estimates `machine`, or shapes what the operator told of it.
pub fn estimate(machine: &Machine, given: Option<ModelOverride>) -> Estimate {
    let cpu = &machine.cpu;
    let (family, generation) = family_of(cpu);
    let guest = machine.guest_of.is_some();
    let threads = u64::from(cpu.threads.max(1));
    let build = |curve: Curve, basis: Basis, machine: String, share: String| {
        let wider = if guest && basis != Basis::Given { 10 } else { 0 };
        let error = Ratio::from_percent(basis.error_percent() + wider);
        Estimate { curve, error, basis, machine, share }
    };
    if let Some(ModelOverride { idle, full }) = given {
        return build(family.shape.between(idle, full), Basis::Given, called(cpu, 1), String::new());
    }
    if let (Some(board), false) = (machine.board_power(), guest) {
        let name = machine.board.clone().unwrap_or_default();
        return build(Shape::STRAIGHT.between(board.idle, board.full), Basis::Board, name, String::new());
    }
    let per_thread = family.shape.between(family.idle, family.full).scaled(threads, 1);
    let (name, count) = (called(cpu, 1), many(threads, guest));
    match chip(cpu, &family, generation) {
        Some((curve, basis)) if !guest => {
            let sockets = cpu.sockets;
            build(curve.scaled(u64::from(sockets), 1), basis, called(cpu, sockets), String::new())
        }
        Some((curve, basis)) => match cpu.host_threads().filter(|&n| n > 0) {
            Some(of) => {
                let chips = threads.div_ceil(u64::from(of));
                let share = format!("{threads} of {} threads of the host", u64::from(of).saturating_mul(chips));
                build(curve.scaled(threads, u64::from(of)), basis, name, share)
            }
            // how many threads the chip has is unknown: typical ones, but not more than the chip draws
            None => build(least(&per_thread, &curve), basis, name, count),
        },
        None => {
            let basis = match (generation, cpu.vendor) {
                (Some(basis), _) => basis,
                (None, Vendor::Arm | Vendor::RiscV) => Basis::Cores,
                (None, Vendor::Intel) => Basis::Maker("Intel"),
                (None, Vendor::Amd) => Basis::Maker("AMD"),
                (None, Vendor::Other) => Basis::Nothing,
            };
            let curve = if basis == Basis::Cores { cores(cpu, family.shape) } else { per_thread };
            build(curve, basis, name, count)
        }
    }
}

/// The curve of one chip of a machine with processors of a known model.
fn chip(cpu: &CpuInfo, family: &Family, generation: Option<Basis>) -> Option<(Curve, Basis)> {
    if let Some(m) = table::measured(&cpu.model) {
        return Some((m.shape.curve(m.full), Basis::Results(m.results)));
    }
    let tdp = table::tdp(&cpu.model)?;
    // what surrounds a chip changes from generation to generation; of the nearest one only the shape is taken
    let per_tdp = match generation {
        Some(Basis::Generation(_, true)) => family.full_per_tdp,
        _ => makers(cpu.vendor).full_per_tdp,
    };
    let full = Power::from_uw(tdp.uw().saturating_mul(u64::from(per_tdp)) / 1000);
    Some((family.shape.curve(full), Basis::Tdp(tdp)))
}

/// The generation's figures, or those of its maker.
fn family_of(cpu: &CpuInfo) -> (Family, Option<Basis>) {
    let found = cpu.generation().and_then(|g| Some((table::family(g.key)?, Basis::Generation(g.name, g.own))));
    match found {
        Some((family, basis)) => (family, Some(basis)),
        None => (makers(cpu.vendor), None),
    }
}

/// Figures of the maker's servers since 2018.
fn makers(vendor: Vendor) -> Family {
    let key = match vendor {
        Vendor::Intel => "intel",
        Vendor::Amd => "amd",
        _ => "generic",
    };
    table::family(key).unwrap_or(Family {
        // never used as long as the table has these keys, which a test makes sure of
        full_per_tdp: 1030,
        idle: Power::from_uw(554_000),
        full: Power::from_uw(3_696_000),
        shape: Shape::STRAIGHT,
    })
}

/// The sum over all ARM or RISC-V cores. Small boards of the latter kind draw 0.7 W to 1.3 W per core.
fn cores(cpu: &CpuInfo, shape: Shape) -> Curve {
    let small = (Power::from_uw(700_000), Power::from_uw(1_300_000));
    let kinds = cpu.parts.iter().map(|(&(implementer, part), &n)| (cpu::arm_core_power(implementer, part), n));
    let (mut idle, mut full, mut counted) = (0u64, 0u64, 0u32);
    for ((i, f), n) in kinds {
        idle = idle.saturating_add(i.uw().saturating_mul(u64::from(n)));
        full = full.saturating_add(f.uw().saturating_mul(u64::from(n)));
        counted = counted.saturating_add(n);
    }
    let threads = cpu.threads.max(1);
    if counted == 0 {
        return Shape::STRAIGHT.between(small.0, small.1).scaled(u64::from(threads), 1);
    }
    let all = shape.between(Power::from_uw(idle), Power::from_uw(full));
    // kernels that name the part once for all cores
    all.scaled(u64::from(threads.max(counted)), u64::from(counted))
}

fn least(a: &Curve, b: &Curve) -> Curve {
    let mut points = a.points();
    for (p, q) in points.iter_mut().zip(b.points()) {
        *p = (*p).min(q);
    }
    Curve::new(points)
}

fn called(cpu: &CpuInfo, sockets: u32) -> String {
    match (cpu.name.as_str(), sockets) {
        ("", _) => "unknown processor".to_owned(),
        (name, 1) => name.to_owned(),
        (name, n) => format!("{n} × {name}"),
    }
}

fn many(threads: u64, guest: bool) -> String {
    match (threads, guest) {
        (1, true) => "1 vCPU".to_owned(),
        (n, true) => format!("{n} vCPUs"),
        (1, false) => "1 thread".to_owned(),
        (n, false) => format!("{n} threads"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A machine whose cpuinfo has `threads` blocks like `block`.
    fn machine(block: &str, threads: u32, guest: bool) -> Machine {
        let text: String = (0..threads).map(|n| format!("processor\t: {n}\n{block}\n\n")).collect();
        let guest_of = guest.then(|| "KVM".to_owned());
        Machine { cpu: CpuInfo::parse(&text), guest_of, board: None }
    }

    fn intel(name: &str, model: u32, stepping: u32) -> String {
        format!("vendor_id: GenuineIntel\ncpu family: 6\nmodel: {model}\nmodel name: {name}\nstepping: {stepping}")
    }

    #[test]
    fn each_basis_says_what_it_rests_on() {
        let gold = intel("Intel(R) Xeon(R) Gold 6240 CPU @ 2.60GHz", 85, 7);
        let hidden = intel("Intel(R) Xeon(R) Processor", 207, 2);
        let top = intel("Intel(R) Xeon(R) Platinum 8180 CPU @ 2.50GHz", 85, 4);
        let two = top.clone() + "\nphysical id: 0\nprocessor: 7\nphysical id: 1";
        let laptop = intel("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", 142, 10);
        let epyc = "vendor_id: AuthenticAMD\ncpu family: 25\nmodel: 1\nmodel name: AMD EPYC 7R13 Processor";
        let golden = [
            (
                machine(&gold, 4, true),
                "Intel Xeon Gold 6240, known TDP 150 W, 4 of 36 threads of the host → 2.50 W to 17.6 W, ±40 %",
            ),
            (
                machine(&gold, 72, true),
                "Intel Xeon Gold 6240, known TDP 150 W, 72 of 72 threads of the host → 45.0 W to 317 W, ±40 %",
            ),
            (machine(&gold, 36, false), "Intel Xeon Gold 6240, known TDP 150 W → 22.5 W to 158 W, ±30 %"),
            (
                machine(&hidden, 2, true),
                "Intel Xeon, Emerald Rapids, typical of the nearest generation with results, 2 vCPUs → 1.64 W to 7.79 W, ±50 %",
            ),
            (
                machine(&two, 56, false),
                "2 × Intel Xeon Platinum 8180, 31 published results of this model → 52.7 W to 458 W, ±15 %",
            ),
            (
                machine(&top, 7, true),
                "Intel Xeon Platinum 8180, 31 published results of this model, 7 of 56 threads of the host → 3.29 W to 28.6 W, ±25 %",
            ),
            (machine(&laptop, 8, true), "Intel Core i7-8650U, known TDP 15.0 W, 8 vCPUs → 2.74 W to 13.4 W, ±40 %"),
            (
                machine(epyc, 8, true),
                "AMD EPYC 7R13, known TDP 225 W, 8 of 96 threads of the host → 3.49 W to 15.7 W, ±40 %",
            ),
            (
                machine("model name: weird", 4, false),
                "weird, typical of servers since 2018, 4 threads → 2.22 W to 14.8 W, ±60 %",
            ),
            (
                machine("", 1, true),
                "unknown processor, typical of servers since 2018, 1 vCPU → 554 mW to 3.70 W, ±70 %",
            ),
            (
                machine("CPU implementer: 0x41\nCPU part: 0xd0c", 2, true),
                "ARM Neoverse N1, typical of such cores, 2 vCPUs → 948 mW to 3.39 W, ±60 %",
            ),
            (
                machine("isa: rv64", 4, false),
                "unknown processor, typical of such cores, 4 threads → 2.80 W to 5.20 W, ±50 %",
            ),
            (
                machine("vendor_id: GenuineIntel\nmodel name: Intel 0000", 2, false),
                "Intel 0000, typical of Intel servers since 2018, 2 threads → 1.38 W to 8.05 W, ±50 %",
            ),
        ];
        for (m, sentence) in golden {
            assert_eq!(estimate(&m, None).to_string(), sentence);
        }
    }

    #[test]
    fn the_operators_figures_and_known_boards_come_first() {
        let given = ModelOverride { idle: Power::from_uw(3_000_000), full: Power::from_uw(9_000_000) };
        let m = machine(&intel("Intel(R) Xeon(R) Gold 6240 CPU @ 2.60GHz", 85, 7), 4, true);
        let e = estimate(&m, Some(given));
        assert_eq!((e.curve.idle(), e.curve.full(), e.error), (given.idle, given.full, Ratio::from_percent(15)));
        let pi =
            Machine { board: Some("Raspberry Pi 4 Model B Rev 1.4".into()), ..machine("CPU part: 0xd08", 4, false) };
        let said = "Raspberry Pi 4 Model B Rev 1.4, a known board → 2.70 W to 6.40 W, ±40 %";
        assert_eq!(estimate(&pi, None).to_string(), said);
    }

    proptest! {
        /// Guests that fill a host draw what the host draws, to the rounding of a microwatt per guest and point.
        #[test]
        fn the_shares_of_all_guests_make_up_the_host(parts in prop::collection::vec(1..12u32, 1..12)) {
            let block = intel("Intel(R) Xeon(R) Platinum 8180 CPU @ 2.50GHz", 85, 4);
            let all: u32 = parts.iter().sum();
            let curve = |n| estimate(&machine(&block, n, true), None).curve.points().map(Power::uw);
            let whole = curve(all);
            let guests: Vec<_> = parts.iter().map(|&n| curve(n)).collect();
            for (point, total) in whole.iter().enumerate() {
                let sum: u64 = guests.iter().map(|g| g[point]).sum();
                prop_assert!(sum <= *total && total - sum <= parts.len() as u64, "{sum} {total}");
            }
        }

        #[test]
        fn any_text_gives_a_labelled_estimate(text in any::<String>(), guest: bool, board: Option<String>) {
            let m = Machine { cpu: CpuInfo::parse(&text), guest_of: guest.then(String::new), board };
            let e = estimate(&m, None);
            prop_assert!(e.curve.full() > Power::ZERO && e.curve.idle() < e.curve.full());
            prop_assert!(e.error >= Ratio::from_percent(15) && e.to_string().contains(" W, ±"));
        }
    }
}
