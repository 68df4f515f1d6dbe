//! The wire stays what it was: descriptors against `proto/ebbtide.v1.binpb`, which is what was released last.
//!
//! `EBBTIDE_BLESS=1` writes that file anew if the change keeps the rules (`docs/wire.md`).

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use ebbtide_proto::v1::DESCRIPTORS;
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// What must not change, by what it belongs to: `message.field 3` → `name type label`.
type Promises = BTreeMap<String, String>;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ebbtide.v1.binpb")
}

fn promises(bytes: &[u8]) -> Promises {
    let set = FileDescriptorSet::decode(bytes).expect("descriptors");
    let mut all = Promises::new();
    for file in set.file.iter().filter(|file| file.package() == "ebbtide.v1") {
        for message in &file.message_type {
            of_message(message.name(), message, &mut all);
        }
        for words in &file.enum_type {
            of_enum(words.name(), words, &mut all);
        }
        for service in &file.service {
            for rpc in &service.method {
                let streams = (rpc.client_streaming(), rpc.server_streaming());
                let shape = format!("{} -> {} {streams:?}", rpc.input_type(), rpc.output_type());
                all.insert(format!("{}.{}", service.name(), rpc.name()), shape);
            }
        }
    }
    all
}

fn of_message(name: &str, message: &DescriptorProto, all: &mut Promises) {
    for field in &message.field {
        let shape = format!("{} {:?} {:?} {}", field.name(), field.r#type(), field.label(), field.type_name());
        all.insert(format!("{name} field {}", field.number()), shape);
    }
    for nested in &message.nested_type {
        of_message(&format!("{name}.{}", nested.name()), nested, all);
    }
    for words in &message.enum_type {
        of_enum(&format!("{name}.{}", words.name()), words, all);
    }
}

fn of_enum(name: &str, words: &EnumDescriptorProto, all: &mut Promises) {
    for value in &words.value {
        all.insert(format!("{name} value {}", value.number()), value.name().to_owned());
    }
}

/// What `old` promised and `new` doesn't keep.
fn broken(old: &Promises, new: &Promises, reserved: impl Fn(&str) -> bool) -> Vec<String> {
    let gone = |(what, was): (&String, &String)| match new.get(what) {
        Some(is) if is == was => None,
        Some(is) => Some(format!("{what} was `{was}` and is `{is}`")),
        None if reserved(what) => None,
        None => Some(format!("{what} (`{was}`) is gone; reserve its number")),
    };
    old.iter().filter_map(gone).collect()
}

/// Whether a field that is gone left its number reserved.
fn reserved(bytes: &[u8], what: &str) -> bool {
    let Some((name, number)) = what.split_once(" field ") else { return false };
    let (Ok(number), Ok(set)) = (number.parse::<i32>(), FileDescriptorSet::decode(bytes)) else { return false };
    let message = set.file.iter().flat_map(|file| &file.message_type).find(|message| message.name() == name);
    message.is_some_and(|m| m.reserved_range.iter().any(|r| (r.start()..r.end()).contains(&number)))
}

#[test]
fn what_was_promised_is_kept() {
    let bless = std::env::var_os("EBBTIDE_BLESS").is_some();
    let old = match std::fs::read(golden()) {
        Ok(bytes) => bytes,
        Err(_) if bless => DESCRIPTORS.to_vec(),
        Err(e) => panic!("{}: {e}", golden().display()),
    };
    let broken = broken(&promises(&old), &promises(DESCRIPTORS), |what| reserved(DESCRIPTORS, what));
    assert!(broken.is_empty(), "agents and fleets of another version would misunderstand:\n{}", broken.join("\n"));
    if bless {
        std::fs::write(golden(), DESCRIPTORS).expect("write the golden descriptors");
    }
    let current = std::fs::read(golden()).expect("read the golden descriptors");
    assert_eq!(
        promises(&current),
        promises(DESCRIPTORS),
        "new fields: run EBBTIDE_BLESS=1 cargo test -p ebbtide-proto"
    );
}

#[test]
fn a_broken_promise_is_seen() {
    let old = promises(DESCRIPTORS);
    assert!(old.len() > 150 && old.contains_key("Telemetry.Stream"), "{}", old.len());
    let mut new = old.clone();
    new.remove("Frame field 11");
    new.insert("Ack field 1".into(), "sequence".into());
    new.insert("Ack field 9".into(), "more".into());
    let found = broken(&old, &new, |_| false);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(broken(&old, &new, |what| what == "Frame field 11").len() == 1);
}
