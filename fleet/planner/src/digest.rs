//! A digest of what a decision was made from, to recognise the same inputs again; and the mixing of numbers.

use std::io::{self, Write};

use serde::Serialize;

use crate::policy::Policy;
use crate::state::{FleetState, Time};

/// FNV-1a with 128 bits (Fowler, Noll, Vo; draft-eastlake-fnv): short, the same everywhere, not meant to resist attack.
struct Fnv(u128);

impl Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &b in bytes {
            self.0 = (self.0 ^ u128::from(b)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What SplitMix64 steps by.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes a number so that each of its bits tells on all: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, doi
/// 10.1145/2660193.2660195).
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The digest of all inputs of a plan, as 32 hexadecimal digits.
pub fn digest(state: &FleetState, policy: &Policy, now: Time) -> String {
    of(&(state, policy, now))
}

/// The digest of any value, by its JSON form.
pub fn of<T: Serialize>(value: &T) -> String {
    let mut hash = Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
    // writing to a hash can't fail; a map with odd keys could, and then the digest is that of what came before
    let complete = serde_json::to_writer(&mut hash, value).is_ok();
    format!("{:032x}", if complete { hash.0 } else { !hash.0 })
}
