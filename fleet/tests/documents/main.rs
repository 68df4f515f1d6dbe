//! The project's documents: what is generated from code is what the code says, links lead somewhere, and the commands
//! that pages show can be typed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/streaming.rs"]
mod streaming;

#[path = "../../devices/tests/support/agent.rs"]
#[allow(dead_code, reason = "tests of other crates use the rest of it")]
mod snmp;

mod commands;
mod extend;
mod generated;
mod links;
mod pages;
mod shell;
