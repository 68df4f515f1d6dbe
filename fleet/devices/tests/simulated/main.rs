//! Devices in memory behind a real SNMP agent: what happens when they work, and when they don't.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../support/agent.rs"]
mod agent;
mod closed_loop;
mod faults;
mod models;
#[path = "../support/rack.rs"]
mod rack;
