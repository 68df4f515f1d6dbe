//! A digest of what a decision was made from, to recognise the same inputs again.

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
