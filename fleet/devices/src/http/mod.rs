//! How devices that speak HTTP are asked: one connection each, one request in flight, every answer bounded in time and
//! size, no redirect to another host, and no password in the clear unless the operator says so.
//!
//! `address` is where, `trust` which certificate is believed, `login` how a user is known, `client` the exchange. What the answers mean is for the
//! drivers.

mod address;
mod client;
mod login;
mod trust;

pub(crate) use address::Access;
pub(crate) use client::{Answered, Client, basic, usable_json};
pub(crate) use login::Login;
pub use trust::Fingerprint;
pub(crate) use trust::Judge;
