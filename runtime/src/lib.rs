//! What both programs run on: clocks, counters of energy, named tasks, and a web server that no client can hold up.
//!
//! `clock` reads time, `counter` and `trapezoid` make energy of what sensors tell (pure), `length` reads lengths of time,
//! `tasks` starts and ends tasks, `files` reads what others wrote, `manual` writes manual pages. `http` is the server with its
//! limits, `tls` its certificates, `web_config` and `basic_auth` what operators say about both.

pub mod basic_auth;
pub mod clock;
pub mod counter;
pub mod files;
pub mod http;
pub mod length;
pub mod manual;
pub mod tasks;
pub mod tls;
pub mod trapezoid;
pub mod web_config;
