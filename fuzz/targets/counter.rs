//! A zone's counter under any readings: no energy from nowhere, and none beyond what the zone can draw.
#![no_main]

use arbitrary::Arbitrary;
use ebbtide_agent::clock::Moment;
use ebbtide_agent::counter::Counter;
use ebbtide_agent::source::{CounterShape, Reading};
use ebbtide_proto::{Energy, Power};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    range: Option<u64>,
    max_power: u64,
    /// Counter, running time and sleep since the last reading in milliseconds, and whether it was silent before.
    readings: Vec<(u64, u32, u16, bool)>,
}

fuzz_target!(|input: Input| {
    let shape = CounterShape { range: input.range.map(Energy::from_uj), max_power: Power::from_uw(input.max_power) };
    let mut counter = Counter::new(shape);
    let mut at = Moment::default();
    let mut first = true;
    for (raw, ran, slept, silent) in input.readings.into_iter().take(64) {
        at.mono += u64::from(ran) * 1_000_000;
        at.boot += (u64::from(ran) + u64::from(slept)) * 1_000_000;
        if silent {
            counter.interrupt();
        }
        let reading = Reading { at, counter: Energy::from_uj(raw) };
        let before = counter.last();
        let Some(step) = counter.step(reading) else {
            assert!(first || before.is_some_and(|b| b.at.boot == at.boot), "a later reading gives a step");
            first = false;
            continue;
        };
        assert!(!first, "one reading tells no energy");
        let before = before.expect("a step has a reading before it");
        assert_eq!(u128::from(at.boot - before.at.boot), step.dt.as_nanos());
        assert!(!silent || step.gap.is_some(), "silence is a gap");
        if step.gap.is_none() {
            // milliseconds times microwatts, plus rounding
            let most = u128::from(input.max_power) * step.dt.as_millis().max(100) / 1000 + 1;
            assert!(u128::from(step.energy.uj()) <= most, "{step:?} is more than {most} µJ");
        }
        if step.energy.uj() > 0 && !step.wrapped && step.gap.is_none() {
            assert_eq!(before.counter.uj() + step.energy.uj(), raw);
        }
    }
});
