//! The journal of totals: any bytes, and damage to a good one.
#![no_main]

use ebbtide_agent::journal::replay;
use libfuzzer_sys::fuzz_target;

const BOOT: &str = "0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d";

fuzz_target!(|bytes: &[u8]| {
    let boot = BOOT.parse().ok();
    let kept = replay(bytes, boot);
    assert!(kept.rows.len() <= bytes.len() && kept.order.len() <= bytes.len());
    // a torn line at the end costs nothing that was whole before it
    if bytes.last() == Some(&b'\n') {
        let torn = [bytes, b"00000000 {\"boot\""].concat();
        assert_eq!(replay(&torn, boot), kept);
    }
    assert_eq!(replay(bytes, None), Default::default());
});
