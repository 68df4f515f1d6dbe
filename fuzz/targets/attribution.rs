//! Any zones, tasks and reservations: each zone's energy is shared out to the microjoule.
#![no_main]

use arbitrary::Arbitrary;
use ebbtide_agent::attribution::split::Weight;
use ebbtide_agent::attribution::weights::{Load, Loads};
use ebbtide_agent::attribution::{Attribution, Basis, IdlePolicy, Interval, ZoneInterval, attribute};
use ebbtide_agent::usage::table::{Task, TaskClass, TaskTable};
use ebbtide_proto::Energy;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    sockets: u8,
    policy: u8,
    /// Energy, floor, basis, gap.
    zones: Vec<(u64, u64, u8, bool)>,
    /// Core nanoseconds on each package, resident pages.
    tasks: Vec<([u64; 4], u64)>,
    reservations: Vec<u64>,
}

fuzz_target!(|input: Input| {
    let sockets = usize::from(input.sockets % 4) + 1;
    let policy = [IdlePolicy::Unallocated, IdlePolicy::ByUsage, IdlePolicy::ByReservation, IdlePolicy::Equal]
        [usize::from(input.policy % 4)];
    let basis = |b: u8| match b % 5 {
        0 => Basis::Socket(usize::from(b / 5) % 5),
        1 => Basis::Machine,
        2 => Basis::Memory(None),
        3 => Basis::Memory(Some(usize::from(b / 5) % 5)),
        _ => Basis::Nobody,
    };
    let zones: Vec<ZoneInterval> = input
        .zones
        .iter()
        .map(|&(e, f, b, gap)| ZoneInterval {
            energy: Energy::from_uj(e),
            floor: Energy::from_uj(f),
            basis: basis(b),
            gap,
            prices: None,
        })
        .collect();
    let mut table = TaskTable::default();
    let mut loads = Loads::new(sockets);
    for (pid, (core_ns, rss_pages)) in (1u32..).zip(&input.tasks) {
        let task = table.insert(Task::new(pid, 1, TaskClass::Process));
        loads.push(Load { task, order: u64::from(pid), rss_pages: *rss_pages }, core_ns);
    }
    let reservations: Vec<Weight> =
        (0..).zip(&input.reservations).map(|(key, &weight)| Weight { key, weight }).collect();
    let mut out = Attribution::default();
    attribute(&Interval { zones: &zones, loads: &loads, policy, reservations: &reservations }, &mut out);
    assert_eq!(out.zones.len(), zones.len());
    for (zone, shares) in zones.iter().zip(&out.zones) {
        let sum = |of: &[Energy]| of.iter().map(|e| u128::from(e.uj())).sum::<u128>();
        let given = sum(&shares.active) + sum(&shares.idle);
        let kept = u128::from(shares.unallocated.uj()) + u128::from(shares.residual.uj());
        assert_eq!(given + kept, u128::from(zone.energy.uj()), "{zone:?} {shares:?}");
        assert_eq!(shares.active.len(), input.tasks.len());
        if zone.basis == Basis::Nobody || zone.gap {
            assert_eq!(sum(&shares.active), 0);
        }
    }
});
