//! How busy the processors were between two readings of `/proc/stat`.
//!
//! Per CPU and in clock ticks (proc(5)): `user` and `nice` contain guests already, so `guest` and
//! `guest_nice` are left out; `idle` and `iowait` are idle; `steal` is time the hypervisor gave to
//! somebody else, in which this machine used nothing.

use super::curve::Load;

/// CPU time since boot, per CPU, sorted by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes(Vec<CpuTime>);

/// CPU time of one CPU in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuTime {
    cpu: u32,
    busy: u64,
    idle: u64,
    stolen: u64,
}

impl CpuTimes {
    /// Reads the `cpuN` lines of `/proc/stat`, or the line of the sum if there are none. What can't be
    /// read is left out; a CPU named twice counts once.
    pub fn parse(text: &str) -> Self {
        let mut cpus: Vec<CpuTime> = text.lines().filter_map(|l| line(l, false)).collect();
        cpus.sort_by_key(|c| c.cpu);
        cpus.dedup_by_key(|c| c.cpu);
        if cpus.is_empty() {
            cpus.extend(text.lines().find_map(|l| line(l, true)));
        }
        Self(cpus)
    }

    /// How many CPUs are online.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no CPU could be read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The load since `earlier` of a machine that has `cpus` CPUs: those that went offline count as idle.
    /// A CPU that was not there before doesn't count; a count that went backwards counts as standing still.
    pub fn load_since(&self, earlier: &Self, cpus: usize) -> Load {
        let (mut busy, mut total, mut online) = (0u64, 0u64, 0u64);
        for now in &self.0 {
            let Ok(at) = earlier.0.binary_search_by_key(&now.cpu, |c| c.cpu) else { continue };
            let Some(was) = earlier.0.get(at) else { continue };
            let ran = now.busy.saturating_sub(was.busy);
            let rest = now.idle.saturating_sub(was.idle).saturating_add(now.stolen.saturating_sub(was.stolen));
            busy = busy.saturating_add(ran);
            total = total.saturating_add(ran.saturating_add(rest));
            online += 1;
        }
        let cpus = u64::try_from(cpus).unwrap_or(u64::MAX);
        if online < cpus {
            busy = busy.saturating_mul(online);
            total = total.saturating_mul(cpus);
        }
        Load { busy: busy.min(total), total }
    }
}

/// One line of `/proc/stat`, of a single CPU or of the sum over all.
fn line(text: &str, sum: bool) -> Option<CpuTime> {
    let mut words = text.strip_prefix("cpu")?.split_ascii_whitespace();
    let cpu = if sum {
        text.starts_with("cpu ").then_some(0)?
    } else {
        (!text.starts_with("cpu ")).then(|| words.next()?.parse().ok())??
    };
    let mut ticks = [0u64; 8];
    for (n, t) in ticks.iter_mut().enumerate() {
        match words.next() {
            Some(word) => *t = word.parse().ok()?,
            // the kernel has always had user, nice, system and idle; the others came later
            None if n >= 4 => break,
            None => return None,
        }
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks;
    let busy = [user, nice, system, irq, softirq].into_iter().fold(0, u64::saturating_add);
    Some(CpuTime { cpu, busy, idle: idle.saturating_add(iowait), stolen: steal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn busy_is_what_is_neither_idle_nor_stolen_and_guests_count_once() {
        let a = CpuTimes::parse("cpu  0 0 0 0\ncpu0 100 0 0 100 0 0 0 0 50 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 5\n");
        let b = CpuTimes::parse("cpu0 140 5 2 130 10 2 1 10 90 0\ncpu1 0 0 0 100 0 0 0 0 0 0\n");
        assert_eq!(b.load_since(&a, 2), Load { busy: 50, total: 200 });
        assert_eq!(a.load_since(&a, 2), Load { busy: 0, total: 0 });
    }

    #[test]
    fn cpus_that_went_offline_are_idle_and_new_ones_wait_for_their_second_reading() {
        let a = CpuTimes::parse("cpu0 0 0 0 0\ncpu1 0 0 0 0\n");
        let one = CpuTimes::parse("cpu0 100 0 0 0\n");
        assert_eq!(one.load_since(&a, 2), Load { busy: 100, total: 200 });
        let b = CpuTimes::parse("cpu0 100 0 0 0\ncpu1 0 0 0 100\ncpu2 900 0 0 0\n");
        assert_eq!(b.load_since(&a, 2), Load { busy: 100, total: 200 });
    }

    #[test]
    fn the_sum_will_do_and_garbage_will_not() {
        let a = CpuTimes::parse("cpu  10 0 0 10\n");
        assert_eq!(CpuTimes::parse("cpu  20 0 0 40\n").load_since(&a, 1), Load { busy: 10, total: 40 });
        for bad in ["", "cpu", "cpu0", "cpu0 1 2 3", "cpu0 a b c d", "cpux 1 2 3 4", "cpu -1 2 3 4", "\u{fffd}"] {
            assert!(CpuTimes::parse(bad).is_empty(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(a in any::<String>(), b in "(cpu[0-9]{0,2}( [0-9]{1,20}){0,11}\n){0,8}", cpus in any::<usize>()) {
            let (a, b) = (CpuTimes::parse(&a), CpuTimes::parse(&b));
            for load in [a.load_since(&b, cpus), b.load_since(&a, cpus), b.load_since(&CpuTimes::default(), cpus)] {
                prop_assert!(load.busy <= load.total);
            }
        }

        #[test]
        fn the_load_is_the_ratio_of_the_counts(cpus in prop::collection::vec(prop::array::uniform8(0..1_000_000u64), 1..16)) {
            let text = |k: u64| -> String {
                cpus.iter()
                    .enumerate()
                    .map(|(n, t)| format!("cpu{n} {} 7 7\n", t.map(|v| (k * v).to_string()).join(" ")))
                    .collect()
            };
            let load = CpuTimes::parse(&text(3)).load_since(&CpuTimes::parse(&text(1)), cpus.len());
            let busy: u64 = cpus.iter().map(|t| t[0] + t[1] + t[2] + t[5] + t[6]).sum();
            let total: u64 = cpus.iter().flatten().sum();
            prop_assert_eq!(load, Load { busy: 2 * busy, total: 2 * total });
        }
    }
}
