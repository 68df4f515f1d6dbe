//! What the running threads draw, and what the energy counters show of it.
//!
//! Dynamic power of CMOS logic is P = α·C·f·V². Here a core that is busy at base frequency with
//! activity 1 draws `core_w`; at frequency f it draws that times (f/f₀)·(V(f)/V₀)², and another
//! instruction mix is another α (`activity`). Two busy SMT siblings draw about 15 % more than one
//! (METRION's measurements), not twice as much. **Each sibling's true share** of a moment in which both
//! are busy is half of `1 + smt_extra` times what it would draw alone; a thread alone on its core
//! pays for the whole core. The phases of two siblings within a step are taken as independent.
//! The idle floor is drawn whether or not anything runs and is nobody's.

use super::rng::Rng;
use super::scenario::{Governor, Machine, Rapl};
use super::sched::Sched;
use super::truth::{PER_SOCKET, ZoneTruth, whole};

/// Time over which `schedutil` averages, ns (the kernel's load tracking halves in 32 ms).
const GOVERNOR_NS: f64 = 32e6;

/// What two siblings get done together beyond one alone, as a fraction; commonly 20 to 30 %.
const SMT_GAIN: f64 = 0.25;

/// The state of the hardware.
#[derive(Clone, Debug)]
pub(super) struct Physics {
    machine: Machine,
    cores: Vec<Core>,
    rates: Vec<Rates>,
    /// Busy cores per socket in this step.
    busy_cores: Vec<f64>,
    /// Dynamic energy per component since the start, nJ.
    dynamic_nj: Vec<u64>,
    /// The same at the beginning of the last step.
    before_nj: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Core {
    mhz: f64,
    /// Smoothed utilisation of the busier sibling.
    util: f64,
    /// Dynamic power if busy, W.
    watts: f64,
}

/// What a thread on one CPU pays in this step, W while it runs.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    core: f64,
    uncore: f64,
    first: usize,
    /// Cycles per ns.
    ghz: f64,
    /// Instructions that a thread gets done, against being alone on the core.
    pace: f64,
}

impl Physics {
    pub(super) fn new(machine: &Machine) -> Self {
        let sockets = machine.sockets as usize;
        let mut it = Self {
            cores: Vec::new(),
            rates: vec![Rates::default(); machine.cpus()],
            busy_cores: vec![0.0; sockets],
            dynamic_nj: vec![0; sockets * PER_SOCKET],
            before_nj: vec![0; sockets * PER_SOCKET],
            machine: machine.clone(),
        };
        let mhz = match machine.governor {
            Governor::Performance => f64::from(machine.turbo_mhz),
            Governor::Schedutil => f64::from(machine.min_mhz),
        };
        it.cores = vec![Core { mhz, util: 0.0, watts: it.core_watts(mhz) }; sockets * machine.cores as usize];
        it
    }

    /// Core voltage at a frequency.
    fn volts(&self, mhz: f64) -> f64 {
        let m = &self.machine;
        let (min, max) = (f64::from(m.min_mhz), f64::from(m.turbo_mhz));
        let at = if max > min { ((mhz - min) / (max - min)).clamp(0.0, 1.0) } else { 1.0 };
        m.min_volts + (m.max_volts - m.min_volts) * at
    }

    /// Dynamic power of a busy core with activity 1.
    pub(super) fn core_watts(&self, mhz: f64) -> f64 {
        let base = f64::from(self.machine.base_mhz);
        let v = self.volts(mhz) / self.volts(base);
        self.machine.core_w * mhz / base * v * v
    }

    /// Frequency of the core that a CPU belongs to, kHz.
    pub(super) fn khz(&self, core: usize) -> u64 {
        self.cores.get(core).map_or(0, |c| whole(c.mhz * 1000.0))
    }

    /// Dynamic energy per component since the start, nJ.
    fn part(&self, zone: &ZoneTruth, of: &[u64]) -> u64 {
        zone.parts.iter().filter_map(|c| of.get(*c)).sum()
    }

    /// Books the energy of a step of `dt` ns that the scheduler has just made.
    pub(super) fn step(&mut self, sched: &mut Sched, dt: u64) {
        self.before_nj.copy_from_slice(&self.dynamic_nj);
        self.clock(sched, dt);
        let both = 0.5 * (1.0 + self.machine.smt_extra);
        let uncore = self.machine.uncore_w / f64::from(self.machine.cores);
        for (cpu, rate) in sched.cpus.iter().zip(&mut self.rates) {
            let beside = cpu.sibling.and_then(|s| sched.cpus.get(s)).map_or(0.0, |s| s.busy as f64 / dt as f64);
            rate.core = self.cores.get(cpu.core).map_or(0.0, |c| c.watts) * (1.0 - beside * (1.0 - both));
            // the rest of the package follows busy cores, however many siblings share one
            rate.uncore = uncore * (1.0 - 0.5 * beside);
            rate.first = cpu.socket * PER_SOCKET;
            rate.ghz = self.cores.get(cpu.core).map_or(0.0, |c| c.mhz / 1000.0);
            rate.pace = 1.0 - beside * (1.0 - 0.5 * (1.0 + SMT_GAIN));
            if cpu.irq > 0 {
                let ns = cpu.irq as f64;
                let nj = [whole(rate.core * ns), whole(rate.uncore * ns), 0];
                book(&mut self.dynamic_nj, &mut sched.kernel.pending, rate.first, nj);
            }
        }
        for t in sched.threads.iter().filter(|t| t.run > 0) {
            let (Some(rate), Some(Some(p))) = (self.rates.get(t.cpu), sched.processes.get_mut(t.process)) else {
                continue;
            };
            let ns = t.run as f64;
            let nj = [
                whole(rate.core * p.activity * ns),
                whole(rate.uncore * ns),
                whole(self.machine.dram_w * p.traffic * ns),
            ];
            let (cycles, counters) = (ns * rate.ghz, &mut p.account.counters);
            counters.cycles += whole(cycles);
            counters.instructions += whole(cycles * p.ipc * rate.pace);
            counters.misses += whole(ns * p.traffic / 1e3);
            if let Some(used) = counters.socket_ns.get_mut(rate.first / PER_SOCKET) {
                *used += t.run;
            }
            book(&mut self.dynamic_nj, &mut p.account.pending, rate.first, nj);
        }
    }

    /// Sets each core's frequency for this step.
    fn clock(&mut self, sched: &Sched, dt: u64) {
        let m = &self.machine;
        let (min, base, turbo) = (f64::from(m.min_mhz), f64::from(m.base_mhz), f64::from(m.turbo_mhz));
        let step = dt as f64;
        if m.governor == Governor::Performance && m.turbo_mhz == m.base_mhz {
            return;
        }
        self.busy_cores.fill(0.0);
        let per_socket = m.cores as usize;
        let fade = (step / GOVERNOR_NS).min(1.0);
        for (n, core) in self.cores.iter_mut().enumerate() {
            let busy = |c: usize| sched.cpus.get(c).filter(|c| c.core == n).map_or(0.0, |c| c.busy as f64 / step);
            // CPU n is the first thread of core n, the second follows after all cores
            let util = busy(n).max(sched.cpus.get(n).and_then(|c| c.sibling).map_or(0.0, busy));
            core.util += (util - core.util) * fade;
            if let Some(b) = self.busy_cores.get_mut(n / per_socket) {
                *b += util;
            }
        }
        for n in 0..self.cores.len() {
            let active = self.busy_cores.get(n / per_socket).copied().unwrap_or(0.0);
            let crowd = if per_socket > 1 { ((active - 1.0) / (per_socket as f64 - 1.0)).clamp(0.0, 1.0) } else { 0.0 };
            let top = turbo - (turbo - base) * crowd;
            let Some(core) = self.cores.get(n) else { continue };
            let mhz = match self.machine.governor {
                Governor::Performance => top,
                Governor::Schedutil => (1.25 * core.util * top).clamp(min, top),
            };
            if (mhz - core.mhz).abs() > 0.5 {
                let watts = self.core_watts(mhz);
                if let Some(core) = self.cores.get_mut(n) {
                    (core.mhz, core.watts) = (mhz, watts);
                }
            }
        }
    }
}

fn book(totals: &mut [u64], pending: &mut [i64], first: usize, nj: [u64; PER_SOCKET]) {
    let end = first + PER_SOCKET;
    let (Some(totals), Some(pending)) = (totals.get_mut(first..end), pending.get_mut(first..end)) else { return };
    for ((total, pending), nj) in totals.iter_mut().zip(pending).zip(nj) {
        *total += nj;
        *pending += i64::try_from(nj).unwrap_or(i64::MAX / 4);
    }
}

/// The counter of one zone as the kernel shows it: quantised, a little late, a little noisy, wrapping.
#[derive(Clone, Debug)]
pub(super) struct Register {
    quantum_nj: u64,
    /// Where it starts over, nJ; a whole number of quanta.
    range_nj: u64,
    lag_ns: f64,
    jitter_ns: f64,
    noise: f64,
    /// Where it stands, nJ, without lag.
    count_nj: u64,
    /// Share of the last step's energy, nJ.
    last_nj: u64,
    last_dt: u64,
    /// Energy that it has taken in, nJ.
    seen_nj: u64,
    /// Largest count shown, nJ: it never goes back by itself.
    shown_nj: u64,
    rng: Rng,
    /// A stream of its own, so that reading doesn't change what is counted.
    lag: Rng,
    /// Whether `energy_uj` is there.
    pub(super) linked: bool,
}

impl Register {
    pub(super) fn new(rapl: &Rapl, seed: u64, index: u64) -> Self {
        let quantum_nj = rapl.quantum_nj.max(1);
        Self {
            quantum_nj,
            range_nj: (rapl.range_uj.saturating_mul(1000) / quantum_nj + 1).saturating_mul(quantum_nj),
            lag_ns: f64::from(rapl.update_us) * 1e3,
            jitter_ns: f64::from(rapl.jitter_us) * 1e3,
            noise: f64::from(rapl.noise_ppm) / 1e6,
            count_nj: rapl.start_uj * 1000,
            last_nj: 0,
            last_dt: 1,
            seen_nj: 0,
            shown_nj: rapl.start_uj * 1000,
            rng: Rng::stream(seed, "noise", index),
            lag: Rng::stream(seed, "lag", index),
            linked: true,
        }
    }

    /// Takes in a step: `awake_ns` of idle power so far, and the dynamic energy of the model.
    pub(super) fn step(&mut self, zone: &ZoneTruth, physics: &Physics, awake_ns: u64, dt: u64) {
        let now = whole(zone.idle_w * awake_ns as f64) + physics.part(zone, &physics.dynamic_nj);
        let exact = now.saturating_sub(self.seen_nj);
        self.seen_nj = now;
        let noisy = if self.noise > 0.0 { exact as f64 * (1.0 + self.noise * self.rng.bell()) } else { exact as f64 };
        self.last_nj = whole(noisy);
        self.last_dt = dt.max(1);
        self.count_nj += self.last_nj;
        // both marks move down together, so that the counter never overflows the integer
        if self.count_nj >= 2 * self.range_nj && self.shown_nj >= self.range_nj {
            self.count_nj -= self.range_nj;
            self.shown_nj -= self.range_nj;
        }
    }

    /// What a reader finds now, µJ. A new draw of the lag each time; never less than before but for a wrap.
    pub(super) fn show(&mut self) -> u64 {
        let lag = (self.lag_ns + self.jitter_ns * self.lag.unit()) * self.lag.unit();
        let late = whole(self.last_nj as f64 * (lag / self.last_dt as f64).min(1.0));
        self.shown_nj = self.shown_nj.max(self.count_nj.saturating_sub(late));
        self.shown_nj % self.range_nj / self.quantum_nj * self.quantum_nj / 1000
    }

    /// Sets the counter back by so many µJ, or to zero.
    pub(super) fn reset(&mut self, by_uj: Option<u64>) {
        let at = self.count_nj % self.range_nj;
        self.count_nj = by_uj.map_or(0, |by| at.saturating_sub(by.saturating_mul(1000)));
        self.shown_nj = self.count_nj;
        self.last_nj = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_follows_frequency_and_voltage_squared() {
        let m = Machine {
            min_mhz: 1000,
            base_mhz: 2000,
            turbo_mhz: 3000,
            min_volts: 0.6,
            max_volts: 1.0,
            ..Machine::default()
        };
        let p = Physics::new(&m);
        assert!((p.core_watts(2000.0) - m.core_w).abs() < 1e-9);
        // V is 0.6, 0.8 and 1.0: P is f·V²
        assert!((p.core_watts(1000.0) / m.core_w - 0.5 * (0.6_f64 / 0.8).powi(2)).abs() < 1e-9);
        assert!((p.core_watts(3000.0) / m.core_w - 1.5 * (1.0_f64 / 0.8).powi(2)).abs() < 1e-9);
    }

    fn register(range_uj: u64) -> (Register, ZoneTruth, Physics) {
        let m = Machine::default();
        let rapl = Rapl { range_uj, start_uj: 0, ..Rapl::default() };
        let zone = super::super::truth::Truth::new(&m, &rapl, crate::clock::Moment::default()).zones.remove(0);
        (Register::new(&rapl, 1, 0), zone, Physics::new(&m))
    }

    #[test]
    fn a_register_is_quantised_late_and_wraps() {
        let (mut r, zone, physics) = register(1_000_000);
        let (mut wraps, mut before, mut sum) = (0, 0, 0);
        for step in 1..=1000_u64 {
            r.step(&zone, &physics, step * 10_000_000, 10_000_000);
            let v = r.show();
            assert!(v <= 1_000_000 && (v * 1000).is_multiple_of(61_035) || v * 1000 % 61_035 > 61_035 - 1000, "{v}");
            wraps += u32::from(v < before);
            sum += if v < before { 1_000_020 + v - before } else { v - before };
            before = v;
        }
        // 18 W for 10 s is 180 J
        assert!((179..=180).contains(&wraps), "{wraps}");
        assert!((179_700_000..180_300_000).contains(&sum), "{sum}");
    }

    #[test]
    fn a_reset_sets_it_back_and_it_goes_on() {
        let (mut r, zone, physics) = register(262_143_328_850);
        r.step(&zone, &physics, 10_000_000_000, 10_000_000_000);
        let before = r.show();
        r.reset(Some(1_000_000));
        let after = r.show();
        assert!(before - after > 900_000 && after > 0, "{before} {after}");
        r.reset(None);
        assert_eq!(r.show(), 0);
        r.step(&zone, &physics, 10_010_000_000, 10_000_000);
        r.step(&zone, &physics, 10_020_000_000, 10_000_000);
        assert!((150_000..400_000).contains(&r.show()));
    }
}
