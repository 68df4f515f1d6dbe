//! What the fleet's store has in its files: whatever the bytes are, reading them ends, holds no more than it may, and what
//! was read can be written and read again.
#![no_main]

use ebbtide_fleet::store::block::{put_body, read_body, read_head};
use ebbtide_fleet::store::codec::{Planes, Zip};
use ebbtide_fleet::store::names::{Names, put_chunk, read_chunk};
use ebbtide_fleet::store::rollup::Rollup;
use ebbtide_fleet::store::samples::Gatherer;
use ebbtide_fleet::store::tail::Tail;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let mut zip = Zip::new().expect("memory");
    let mut planes = Planes::default();
    match kind {
        0 => {
            let Ok(samples) = read_body(bytes, &mut zip, |_| true) else { return };
            let mut again = Vec::new();
            put_body(&samples, &mut planes, &mut zip, &mut again).expect("memory");
            assert_eq!(read_body(&again, &mut zip, |_| true).as_ref(), Ok(&samples));
            let start = samples.ticks.first().copied().unwrap_or(0);
            let (rollup, _) = Rollup::of(&samples, start, 10_000, 60);
            assert_eq!(rollup.columns.len(), samples.columns.len());
        }
        1 => {
            let mut names = Names::new();
            if read_chunk(bytes, &mut names).is_ok() {
                let mut chunk = Vec::new();
                put_chunk(names.iter().map(|(number, named)| (*number, named)), &mut chunk);
                let mut again = Names::new();
                assert_eq!(read_chunk(&chunk, &mut again), Ok(()));
                assert_eq!(again, names);
            }
        }
        2 => {
            if let Ok(tail) = Tail::read(bytes) {
                let mut again = Vec::new();
                tail.put(&mut again);
                assert_eq!(Tail::read(&again), Ok(tail));
            }
        }
        3 => {
            // frames, one after the other, the first byte saying how long each is
            let mut gatherer = Gatherer::default();
            let mut rest = bytes;
            while let Some((&len, after)) = rest.split_first() {
                let (frame, after) = after.split_at(after.len().min(usize::from(len)));
                // damage to one frame is no reason not to read the next
                let _ = gatherer.add(frame);
                rest = after;
            }
            let mut samples = gatherer.finish();
            samples.open(|_| None, |_| None);
            let values = samples.len();
            let parts = samples.split(|_, at| at / 600_000);
            assert_eq!(parts.iter().map(|(_, part)| part.len()).sum::<usize>(), values);
        }
        _ => {
            let (head, body) = bytes.split_at(bytes.len().min(usize::from(kind)));
            let Ok(head) = read_head(head) else { return };
            let Ok(rollup) = Rollup::read_body(&head, body, &mut zip, |_| true) else { return };
            let mut again = Vec::new();
            rollup.put_body(&mut planes, &mut zip, &mut again).expect("memory");
            assert_eq!(Rollup::read_body(&head, &again, &mut zip, |_| true), Ok(rollup));
        }
    }
});
