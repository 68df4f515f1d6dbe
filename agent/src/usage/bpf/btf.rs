//! The kernel's description of its types, reduced to what our programs look at.
//!
//! All of it is five megabytes of 150,000 types, which take forty in memory and most of the time of a start. Types are
//! known by their place in the list, so each keeps its place; those that nobody asks for are emptied. Pure.
//!
//! Format: `Documentation/bpf/btf.rst` in the kernel's sources.

use std::collections::HashMap;

/// Names in `ebpf/vmlinux.h`, and what programs are attached to.
const WANTED: &[&[u8]] = &[
    b"bpf_iter__task",
    b"bpf_iter_meta",
    b"bpf_iter_task",
    b"bpf_perf_event_value",
    b"btf_trace_cgroup_mkdir",
    b"btf_trace_sched_process_exit",
    b"btf_trace_sched_process_free",
    b"btf_trace_sched_switch",
    b"cgroup",
    b"cgroup_root",
    b"cgroup_subsys_id",
    b"cgroup_subsys_state",
    b"cred",
    b"css_set",
    b"kernfs_node",
    b"mm_rss_stat",
    b"mm_struct",
    b"percpu_counter",
    b"sched_entity",
    b"signal_struct",
    b"task_struct",
    b"thread_info",
];

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
/// `struct btf_type`: name, kind and number of members, size or type.
const TYPE: usize = 12;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FORWARD: u32 = 7;
const TYPEDEF: u32 = 8;
const RESTRICT: u32 = 11;
const FUNCTION_PROTOTYPE: u32 = 13;
const VARIABLE: u32 = 14;
const SECTION: u32 = 15;
const DECLARATION_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// A type in the list.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Size, or the type that it refers to.
    of: u32,
    bytes: &'a [u8],
}

impl Type<'_> {
    /// Members: bytes of each, and where in them a name is.
    fn members(&self) -> Option<usize> {
        match self.kind {
            STRUCT | UNION | ENUM64 => Some(12),
            ENUM | FUNCTION_PROTOTYPE => Some(8),
            _ => None,
        }
    }

    /// The types that are part of it, not merely pointed to.
    fn parts(&self) -> impl Iterator<Item = u32> + '_ {
        let refers = matches!(self.kind, TYPEDEF..=RESTRICT | TYPE_TAG).then_some(self.of);
        let element = (self.kind == ARRAY).then(|| word(self.bytes, TYPE)).flatten();
        let members = matches!(self.kind, STRUCT | UNION).then(|| self.bytes.get(TYPE..)).flatten().unwrap_or_default();
        refers.into_iter().chain(element).chain(members.chunks_exact(12).filter_map(|m| word(m, 4)))
    }
}

/// `btf` with only the types that are wanted, and what they are made of; `None` if it isn't understood.
pub fn reduced(btf: &[u8]) -> Option<Vec<u8>> {
    let half = btf.get(..2)?.try_into().ok().map(u16::from_ne_bytes)?;
    if half != MAGIC {
        return None;
    }
    let at = |field: usize| usize::try_from(word(btf, field)?).ok();
    let header = at(4)?;
    let part = |offset: usize, len: usize| {
        let from = header.checked_add(at(offset)?)?;
        btf.get(from..from.checked_add(at(len)?)?)
    };
    let (types, strings) = (part(8, 12)?, part(16, 20)?);
    let list = list(types)?;
    let mut keep = vec![false; list.len()];
    let mut open: Vec<usize> = Vec::new();
    for (i, t) in list.iter().enumerate() {
        if t.name != 0 && WANTED.contains(&name(strings, t.name)?) {
            open.push(i);
        }
    }
    while let Some(i) = open.pop() {
        let (Some(kept), Some(t)) = (keep.get_mut(i), list.get(i)) else { continue };
        if !std::mem::replace(kept, true) {
            // the first type has the number 1; 0 is void
            open.extend(t.parts().filter_map(|id| usize::try_from(id).ok()?.checked_sub(1)));
        }
    }
    let last = keep.iter().rposition(|k| *k)?;
    let mut out = Reduced { types: Vec::with_capacity((last + 1) * TYPE), strings: vec![0], places: HashMap::new() };
    for (t, keep) in list.iter().zip(keep).take(last + 1) {
        out.push(t, keep, strings)?;
    }
    out.finish()
}

/// Cuts the types apart.
fn list(mut types: &[u8]) -> Option<Vec<Type<'_>>> {
    let mut list = Vec::with_capacity(types.len() / 32);
    while !types.is_empty() {
        let (info, of) = (word(types, 4)?, word(types, 8)?);
        let (kind, n) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
        let more = match kind {
            INT | VARIABLE | DECLARATION_TAG => 4,
            ARRAY => 12,
            STRUCT | UNION | SECTION | ENUM64 => 12 * n,
            ENUM | FUNCTION_PROTOTYPE => 8 * n,
            0 => return None,
            k if k > ENUM64 => return None,
            _ => 0,
        };
        let (bytes, rest) = types.split_at_checked(TYPE + more)?;
        list.push(Type { name: word(bytes, 0)?, kind, of, bytes });
        types = rest;
    }
    Some(list)
}

/// What is being written.
struct Reduced<'a> {
    types: Vec<u8>,
    strings: Vec<u8>,
    places: HashMap<&'a [u8], u32>,
}

impl<'a> Reduced<'a> {
    fn push(&mut self, t: &Type<'_>, keep: bool, strings: &'a [u8]) -> Option<()> {
        if !keep {
            self.types.extend([0, FORWARD << 24, 0].into_iter().flat_map(u32::to_ne_bytes));
            return Some(());
        }
        let start = self.types.len();
        self.types.extend_from_slice(t.bytes);
        let mut rename = |at: usize, old: u32| -> Option<()> {
            let new = self.place(name(strings, old)?)?;
            self.types.get_mut(start + at..start + at + 4)?.copy_from_slice(&new.to_ne_bytes());
            Some(())
        };
        rename(0, t.name)?;
        if let Some(size) = t.members() {
            for (i, member) in t.bytes.get(TYPE..)?.chunks_exact(size).enumerate() {
                rename(TYPE + i * size, word(member, 0)?)?;
            }
        }
        Some(())
    }

    /// Where a name stands in the new strings.
    fn place(&mut self, name: &'a [u8]) -> Option<u32> {
        if name.is_empty() {
            return Some(0);
        }
        if let Some(place) = self.places.get(name) {
            return Some(*place);
        }
        let place = u32::try_from(self.strings.len()).ok()?;
        self.strings.extend_from_slice(name);
        self.strings.push(0);
        self.places.insert(name, place);
        Some(place)
    }

    fn finish(self) -> Option<Vec<u8>> {
        let (types, strings) = (u32::try_from(self.types.len()).ok()?, u32::try_from(self.strings.len()).ok()?);
        let mut out = Vec::with_capacity(HEADER + self.types.len() + self.strings.len());
        out.extend(MAGIC.to_ne_bytes());
        // version 1, no flags
        out.extend([1, 0]);
        let header = u32::try_from(HEADER).ok()?;
        out.extend([header, 0, types, types, strings].into_iter().flat_map(u32::to_ne_bytes));
        out.extend(self.types);
        out.extend(self.strings);
        Some(out)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn name(strings: &[u8], at: u32) -> Option<&[u8]> {
    strings.get(usize::try_from(at).ok()?..)?.split(|b| *b == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::{Btf, Endianness};
    use proptest::prelude::*;

    /// Of this machine's own kernel, if it has one.
    fn own() -> Option<Vec<u8>> {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux");
        if bytes.is_err() {
            assert!(std::env::var_os("EBBTIDE_REQUIRE_BPF").is_none(), "BTF is required here");
            eprintln!("SKIPPED: this kernel has no BTF");
        }
        bytes.ok()
    }

    #[test]
    fn what_is_wanted_keeps_its_number_and_its_members() {
        let Some(bytes) = own() else { return };
        let small = reduced(&bytes).unwrap();
        assert!(small.len() * 2 < bytes.len(), "{} of {}", small.len(), bytes.len());
        /// Number, name, size or type, and members with their names.
        type Described = (usize, Vec<u8>, u32, Vec<Vec<u8>>);
        let types = |btf: &[u8]| -> Vec<Described> {
            let cut = |o: usize, l: usize| {
                let from = 24 + word(btf, o).unwrap() as usize;
                &btf[from..from + word(btf, l).unwrap() as usize]
            };
            let (types, strings) = (cut(8, 12), cut(16, 20));
            let wanted = |t: &Type<'_>| WANTED.contains(&name(strings, t.name).unwrap());
            let described = list(types).unwrap();
            let found = described.iter().enumerate().filter(|(_, t)| t.name != 0 && wanted(t));
            found
                .map(|(i, t)| {
                    let size = t.members().unwrap_or(12);
                    let members = t.bytes[TYPE..].chunks_exact(size);
                    let named = members.map(|m| {
                        let mut described = name(strings, word(m, 0).unwrap()).unwrap().to_vec();
                        described.extend_from_slice(&m[4..]);
                        described
                    });
                    (i, name(strings, t.name).unwrap().to_vec(), t.of, named.collect())
                })
                .collect()
        };
        let (before, after) = (types(&bytes), types(&small));
        assert!(before.len() >= 15);
        assert_eq!(before, after);
        Btf::parse(&small, Endianness::default()).unwrap();
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let Some(bytes) = own() else { return };
        assert!(reduced(&[]).is_none());
        for cut in [1, 2, 23, 24, 1000, bytes.len() / 2, bytes.len() - 1] {
            assert!(reduced(&bytes[..cut]).is_none(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(types in prop::collection::vec(any::<u8>(), 0..200), strings in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut btf = MAGIC.to_ne_bytes().to_vec();
            btf.extend([1, 0]);
            let (t, s) = (u32::try_from(types.len()).unwrap(), u32::try_from(strings.len()).unwrap());
            btf.extend([24, 0, t, t, s].into_iter().flat_map(u32::to_ne_bytes));
            btf.extend(types);
            btf.extend(strings);
            if let Some(small) = reduced(&btf) {
                prop_assert!(small.len() <= 2 * btf.len() + HEADER);
            }
        }
    }
}
