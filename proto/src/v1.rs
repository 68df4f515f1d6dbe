//! The messages and services of package `ebbtide.v1`, as generated from `proto/ebbtide/v1/*.proto`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated; documented in the .proto files"
)]

tonic::include_proto!("ebbtide.v1");

/// The descriptors of all files, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ebbtide.v1.binpb"));
