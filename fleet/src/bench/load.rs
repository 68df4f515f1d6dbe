//! Made-up counters that behave like a kind of load, from a seed.

use std::sync::Arc;

use ebbtide_proto::frame::{Batch, Column};
use ebbtide_proto::series::{Metric, Quality, SeriesKey, WorkloadInfo, ZoneInfo, ZoneKind};
use ebbtide_proto::{Ratio, WorkloadId, WorkloadKind, ZoneId};

use crate::args::Load;

/// One agent's counters.
pub(super) struct Counters {
    batch: Batch,
    values: Vec<u64>,
    kinds: Vec<Kind>,
    random: u64,
    interval_ms: u32,
    tick: u64,
}

/// How one counter grows.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// By so many microjoules per second, evenly.
    Even(u64),
    /// Around so many, like a sine of this phase.
    Sine(u64, u64),
    /// Around so many with this much noise, in parts per thousand.
    Noise(u64, u64),
}

impl Counters {
    /// Counters of agent `number` from `start_ms` on: `series` of them, as two zones and workloads in both.
    pub(super) fn new(number: u32, series: u32, load: Load, interval_ms: u32, start_ms: u64) -> Self {
        let zone = |n: u32, kind: ZoneKind, name: &str| {
            Arc::new(ZoneInfo {
                // ids that don't depend on the input are always good
                #[allow(clippy::expect_used, reason = "a constant")]
                id: ZoneId::new(&format!("powercap/{name}")).expect("a zone id"),
                name: name.into(),
                kind,
                socket: Some(n),
                source: "powercap".into(),
                quality: Quality::Measured,
                error: Ratio::from_percent(2),
                counts: true,
            })
        };
        let zones = vec![zone(0, ZoneKind::Package, "package-0"), zone(0, ZoneKind::Dram, "dram-0")];
        let mut batch = Batch { zones: zones.clone(), ..Batch::default() };
        let mut kinds = Vec::new();
        for n in 0..series {
            let zone = &zones[(n % 2) as usize];
            let workload = (n >= 2).then(|| workload(number, (n - 2) / 2));
            if let Some(info) = workload.as_ref().filter(|_| n % 2 == 0) {
                batch.workloads.push(Arc::clone(info));
            }
            batch.columns.push(Column { series: n, first: 0, len: 0 });
            batch.series.push(SeriesKey {
                metric: Metric::Energy,
                zone: Some(zone.id.clone()),
                workload: workload.map(|info| info.id.clone()),
            });
            let spread = u64::from(n * 13 + number % 7);
            kinds.push(match (load, n % 20) {
                (Load::Steady, _) if n < series / 2 => Kind::Even(1_000_000 + 130_000 * spread),
                (Load::Steady, _) => Kind::Sine(3_000_000, spread),
                (Load::Noisy, 0) => Kind::Noise(10_000_000 + 1000 * spread, 50),
                (Load::Noisy, 1..=4) => Kind::Noise(20_000 + spread, 300),
                (Load::Noisy, _) => Kind::Even(0),
            });
        }
        let values = (0..series).map(|n| u64::from(n) * 1_000_003 + u64::from(number)).collect();
        let mut counters = Self {
            batch,
            values,
            kinds,
            random: (u64::from(number) << 1 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            interval_ms,
            tick: 0,
        };
        counters.batch.ticks = vec![start_ms];
        counters
    }

    /// The next frame, with `ticks` values of each counter.
    #[allow(clippy::cast_possible_truncation, reason = "made-up rates, far below the range")]
    pub(super) fn next(&mut self, ticks: u32) -> &Batch {
        let before = self.batch.ticks.last().copied().unwrap_or(0);
        self.batch.seq += 1;
        let step = u64::from(self.interval_ms);
        self.batch.ticks = (1..=u64::from(ticks)).map(|i| before + i * step).collect();
        self.batch.values.clear();
        for (n, value) in self.values.iter_mut().enumerate() {
            for i in 0..u64::from(ticks) {
                let grown = match self.kinds[n] {
                    Kind::Even(rate) => rate * step / 1000,
                    Kind::Sine(rate, phase) => {
                        let angle = (self.tick + i) as f64 * 0.073 + phase as f64 * 1.7;
                        (rate * step / 1000).saturating_add_signed((angle.sin() * 2e3) as i64 * step.cast_signed())
                    }
                    Kind::Noise(rate, noise) => {
                        // xorshift64*: quick, and good enough to be incompressible
                        self.random ^= self.random >> 12;
                        self.random ^= self.random << 25;
                        self.random ^= self.random >> 27;
                        let uniform = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
                        let part = (uniform as f64 / (1u64 << 53) as f64 * 2.0 - 1.0) * noise as f64 / 1000.0;
                        (rate as f64 * (1.0 + part) * step as f64 / 1000.0) as u64
                    }
                };
                *value += grown;
                self.batch.values.push(*value);
            }
        }
        for column in &mut self.batch.columns {
            column.len = ticks;
        }
        self.tick += u64::from(ticks);
        &self.batch
    }
}

#[allow(clippy::expect_used, reason = "made of digits")]
fn workload(number: u32, n: u32) -> Arc<WorkloadInfo> {
    let uid = format!("{number:08x}-{n:04x}-4000-8000-{:012x}", u64::from(number) * 7919 + u64::from(n));
    let (kind, name) = if n < 8 { (WorkloadKind::Namespace, format!("team-{n}")) } else { (WorkloadKind::Pod, uid) };
    let mut labels = vec![("namespace", format!("team-{}", n % 8))];
    if kind == WorkloadKind::Pod {
        // as a replica set names its pods
        let pod = format!("service-{n}-{}-{}", letters(u64::from(n) * 7919, 10), letters(u64::from(number), 5));
        labels.push(("pod", pod));
    }
    Arc::new(WorkloadInfo {
        id: WorkloadId::new(kind, &name).expect("a workload id"),
        labels: labels.into_iter().collect(),
    })
}

/// `len` letters of those that Kubernetes makes names of.
fn letters(mut number: u64, len: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = String::new();
    for _ in 0..len {
        let place = usize::try_from(number % 27).unwrap_or(0);
        text.push(char::from(ALPHABET.get(place).copied().unwrap_or(b'x')));
        number /= 27;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_grow_as_the_load_says() {
        for load in [Load::Steady, Load::Noisy] {
            let mut counters = Counters::new(3, 100, load, 1000, 1_700_000_000_000);
            let mut before = vec![0; 100];
            for seq in 1..5 {
                let batch = counters.next(10);
                assert_eq!((batch.seq, batch.ticks.len(), batch.values.len()), (seq, 10, 1000));
                assert_eq!(batch.workloads.len(), 49);
                for (n, last) in batch.values.chunks(10).enumerate() {
                    assert!(last.is_sorted() && last[0] >= before[n]);
                    before[n] = last[9];
                }
            }
        }
    }
}
