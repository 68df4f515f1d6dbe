//! What leaves the agent: everything here reads the published snapshot and nothing here changes it.
//!
//! The HTTP side: `http` (listener, connections, limits), `web_config` (the operator's file), `tls` and
//! `basic_auth` (what that file asks for), `negotiate` (which format, and the streamed body).

pub mod basic_auth;
pub mod http;
pub mod negotiate;
pub mod tls;
pub mod web_config;
