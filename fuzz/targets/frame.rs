//! Messages of agents: whatever comes, no more is held than the limits allow, and what is understood can be told again.
#![no_main]

use ebbtide_proto::frame::{Decoded, Decoder, Encoder, Limits, unpack};
use ebbtide_proto::v1::FrameBatch;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { series: 64, names: 64, ticks: 64, values: 4096, bytes: 1 << 16 };
    let Ok(batch) = FrameBatch::decode(bytes) else { return };
    let Ok(frames) = unpack(batch, limits.bytes) else { return };
    let (mut decoder, mut decoded) = (Decoder::new(limits), Decoded::default());
    let (mut again, mut told) = (Decoder::new(Limits::default()), Decoded::default());
    let mut encoder = Encoder::new();
    for frame in &frames {
        if decoder.decode(frame, &mut decoded).is_err() {
            return;
        }
        assert!(decoded.values.len() <= limits.values && decoded.ticks.len() <= limits.ticks);
        let batch = decoder.batch(&decoded);
        // a frame may have two columns of one series under two numbers; an encoder has one
        let mut series: Vec<_> = batch.series.iter().collect();
        series.sort();
        series.dedup();
        if series.len() < batch.series.len() || batch.ticks.len() < 2 {
            return;
        }
        if batch.ticks.windows(2).any(|pair| pair[1] - pair[0] > u64::from(u32::MAX)) {
            return;
        }
        let frame = encoder.encode(&batch);
        again.decode(&frame, &mut told).expect("what was understood can be told");
        assert_eq!(told.ticks, decoded.ticks);
        assert_eq!(again.batch(&told).values.len(), batch.values.len());
    }
});
