//! The Ebbtide fleet daemon: keeps what agents measure and says where a fleet's energy goes.
//!
//! Flow is one way: `ingest` → `store` + `live` → `query` → `api`, `ui`, `export`. What reads cannot reach back.

pub mod live;
pub mod pki;
pub mod query;
