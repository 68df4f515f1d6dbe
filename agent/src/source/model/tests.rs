//! The modelled zone against a reference, on fake roots and with broken files.

use proptest::prelude::*;

use super::*;

const XEON: &str = "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 85\nmodel name: Intel(R) Xeon(R) Gold 6240 CPU @ \
                    2.60GHz\nstepping: 7\nflags: fpu hypervisor\n";

fn at(ms: u64) -> Moment {
    Moment::default().plus(Duration::from_millis(ms))
}

/// A root with two CPUs.
fn root(cpuinfo: Option<&str>, stat: Option<&str>) -> (tempfile::TempDir, HostRoot) {
    let dir = tempfile::tempdir().unwrap();
    let host = HostRoot::new(dir.path());
    std::fs::create_dir_all(host.proc("")).unwrap();
    for (name, text) in [("cpuinfo", cpuinfo), ("stat", stat)] {
        if let Some(text) = text {
            std::fs::write(host.proc(name), text).unwrap();
        }
    }
    (dir, host)
}

fn two_cpus() -> String {
    format!("processor: 0\n{XEON}\nprocessor: 1\n{XEON}\n")
}

fn read(source: &mut dyn Source, now: Moment) -> Result<Reading, ReadError> {
    let mut out = Vec::new();
    source.read(now, &mut out);
    assert_eq!(out.len(), 1);
    out.remove(0)
}

#[test]
fn a_guest_is_found_read_and_labelled() {
    let (_dir, host) = root(Some(&two_cpus()), Some("cpu0 0 0 0 0\ncpu1 0 0 0 0\n"));
    let said = "Intel Xeon Gold 6240, known TDP 150 W, 2 of 36 threads of the host → 1.25 W to 8.80 W, ±40 %";
    assert_eq!(describe(&host, None), said);
    let mut found = discover(&host, None, None);
    assert_eq!((found.sources.len(), found.skipped.len()), (1, 0));
    let source = found.sources.remove(0);
    let zone = source.zones().first().unwrap().clone();
    assert_eq!((zone.id.as_str(), zone.name.as_str(), zone.kind), ("model/cpu", "cpu", ZoneKind::Package));
    assert_eq!((zone.quality, zone.error.ppm(), zone.socket), (Quality::Modelled, 400_000, None));
    assert_eq!((zone.counter.range, zone.counter.max_power), (None, Power::from_uw(2 * 8_800_000)));
}

#[test]
fn energy_is_power_at_the_load_times_time() {
    let given = ModelOverride { idle: Power::from_uw(10_000_000), full: Power::from_uw(30_000_000) };
    let (_dir, host) = root(None, Some("cpu0 0 0 0 0\n"));
    let mut model = source(&host, Some(given), None).unwrap();
    let set = |text: &str| std::fs::write(host.proc("stat"), text).unwrap();
    assert_eq!(read(&mut model, at(0)).unwrap().counter, Energy::ZERO);
    set("cpu0 0 0 0 100\n");
    assert_eq!(read(&mut model, at(1000)).unwrap().counter, Energy::from_uj(10_000_000), "1 s idle");
    set("cpu0 100 0 0 100\n");
    assert_eq!(read(&mut model, at(2000)).unwrap().counter, Energy::from_uj(40_000_000), "1 s full");
    assert_eq!(read(&mut model, at(2005)).unwrap().counter, Energy::from_uj(40_000_000), "no tick yet");
    set("cpu0 200 0 0 100\n");
    assert_eq!(read(&mut model, at(3000)).unwrap().counter, Energy::from_uj(70_000_000), "caught up");
    assert!(matches!(read(&mut model, at(9000)), Err(ReadError::Absent { .. })), "the kernel's count stands still");
    set("nothing");
    assert!(matches!(read(&mut model, at(9500)), Err(ReadError::Absent { .. })));
    std::fs::remove_file(host.proc("stat")).unwrap();
    assert!(matches!(read(&mut model, at(9600)), Err(ReadError::Io { .. })));
    set("cpu0 900 0 0 100\n");
    assert_eq!(read(&mut model, at(10_000)).unwrap().counter, Energy::from_uj(280_000_000), "no energy was lost");
    let mut asleep = at(11_000);
    asleep.boot += 3_600_000_000_000;
    set("cpu0 900 0 0 200\n");
    assert_eq!(read(&mut model, asleep).unwrap().counter, Energy::from_uj(290_000_000), "sleep doesn't count");
}

#[test]
fn without_stat_it_says_why_there_is_no_model() {
    for (stat, why) in [(None, "can't read"), (Some("garbage \u{fffd}\n"), "has no CPU times")] {
        let (_dir, host) = root(Some(&two_cpus()), stat);
        let found = discover(&host, None, None);
        assert!(found.sources.is_empty());
        let skipped = found.skipped.first().unwrap();
        assert!(skipped.what == "model" && skipped.why.contains(why) && skipped.fix.is_some(), "{skipped}");
        assert!(describe(&host, None).starts_with("no model: "));
    }
}

#[test]
fn without_cpuinfo_the_count_of_cpus_gives_a_wide_estimate() {
    let (_dir, host) = root(None, Some("cpu0 1 1 1 1\ncpu1 1 1 1 1\ncpu2 1 1 1 1\n"));
    let said = "unknown processor, typical of servers since 2018, 3 threads → 1.66 W to 11.1 W, ±60 %";
    assert_eq!(describe(&host, None), said);
}

/// One reading: ticks (busy, idle, stolen) of two CPUs, and nanoseconds.
type Step = ([(u64, u64, u64); 2], u64);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the machine did, the counter is Σ P(load) · Δt to the microjoule, rounded down once.
    #[test]
    fn the_counter_is_the_integral_of_the_curve(
        steps in prop::collection::vec((prop::array::uniform2((0..500u64, 0..500u64, 0..50u64)), 1..3_000_000_000u64), 1..40),
    ) {
        let steps: Vec<Step> = steps;
        let (_dir, host) = root(Some(&two_cpus()), Some("cpu0 0 0 0 0\ncpu1 0 0 0 0\n"));
        let mut model = source(&host, None, None).unwrap();
        let points = model.estimate().curve.points().map(|p| i128::from(p.uw()));
        let mut now = Moment::default();
        model.step(now, CpuTimes::parse("cpu0 0 0 0 0\ncpu1 0 0 0 0\n")).unwrap();
        let (mut ticks, mut units, mut waiting, mut before) = ([(0, 0, 0); 2], 0i128, 0u64, 0);
        for (delta, ns) in steps {
            for (t, d) in ticks.iter_mut().zip(delta) {
                *t = (t.0 + d.0, t.1 + d.1, t.2 + d.2);
            }
            let text: String =
                ticks.iter().enumerate().map(|(n, t)| format!("cpu{n} 0 0 {} {} 0 0 0 {} 9 9\n", t.0, t.1, t.2)).collect();
            now = now.plus(Duration::from_nanos(ns));
            waiting += ns;
            let busy: i128 = delta.iter().map(|d| i128::from(d.0)).sum();
            let total: i128 = delta.iter().map(|d| i128::from(d.0 + d.1 + d.2)).sum();
            let answer = model.step(now, CpuTimes::parse(&text));
            if total == 0 {
                prop_assert_eq!(answer.is_ok(), waiting < 1_000_000_000);
                continue;
            }
            // the reference: find the segment by comparing, not by dividing
            let k = (0..10).rev().find(|k| busy * 10 >= total * k).unwrap();
            let (a, b) = (points[usize::try_from(k).unwrap()], points[usize::try_from(k + 1).unwrap()]);
            units += (a + (b - a) * (busy * 10 - total * k) / total) * i128::from(waiting);
            waiting = 0;
            let counter = answer.unwrap().counter.uj();
            prop_assert_eq!(i128::from(counter), units / 1_000_000_000);
            prop_assert!(counter >= before);
            before = counter;
        }
    }

    #[test]
    fn no_bytes_break_it(cpuinfo in prop::collection::vec(any::<u8>(), 0..200), stats in prop::collection::vec("(cpu[01]? [0-9 ]{0,40}\n){0,3}\\PC{0,20}", 1..6)) {
        let (_dir, host) = root(None, Some("cpu0 0 0 0 0\n"));
        std::fs::write(host.proc("cpuinfo"), &cpuinfo).unwrap();
        let mut model = source(&host, None, None).unwrap();
        let limit = model.estimate().curve.full().over(Duration::from_secs(10));
        let mut last = Energy::ZERO;
        for (n, text) in stats.iter().enumerate() {
            std::fs::write(host.proc("stat"), text).unwrap();
            if let Ok(reading) = read(&mut model, at(n as u64 * 1000)) {
                prop_assert!(last <= reading.counter && reading.counter <= limit);
                last = reading.counter;
            }
        }
    }
}
