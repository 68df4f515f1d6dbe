//! The Ebbtide fleet daemon: keeps what agents measure and says where a fleet's energy goes.
//!
//! Flow is one way: `ingest` → `store` + `live` → `query` → `api`, `ui`, `export`. What reads cannot reach back.
//! `power` is the hardware: what devices tell goes to nodes as their wall power, and to `api` and `export`.
//! `decide` makes plans from what is live, which `query` answers about; `act` carries them out, and operators' orders.

pub mod act;
pub mod api;
pub mod args;
pub mod bench;
pub mod catalogue;
pub mod cli;
pub mod command;
pub mod config;
pub mod decide;
pub mod export;
pub mod fields;
pub mod groups;
pub mod ingest;
pub mod live;
pub mod pki;
pub mod plot;
pub mod power;
pub mod query;
pub mod replay;
pub mod serve;
pub mod simulate;
pub mod store;
pub mod toml_text;
pub mod ui;
