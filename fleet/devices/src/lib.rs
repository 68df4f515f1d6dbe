//! Power hardware: PDUs, BMCs, meters and what wakes a machine; read and switched.
//!
//! `report` has the words (a [`Report`] is what a device says at one time), `driver` what each kind of device can do,
//! `error` what goes wrong, `config` what the configuration says, with `secret`, `credentials` and `period`. `snmp`,
//! `redfish`, `ipmi`, `modbus`, `mqtt`, `http_json`, `command` and `wol` are each one kind of device; `http`, `plug` and
//! `quantity` are what several of them share. Around any driver, `poll` reads it all the time, `energy` makes energy of
//! what it tells, `switching` makes sure that a command was carried out, and `feed` adds up what one machine draws.
//!
//! A driver talks to one device and knows neither nodes nor policies; it never guesses: what a device doesn't say is
//! absent, and a state it doesn't tell is [`PowerState::Unknown`].

pub mod command;
pub mod config;
pub mod credentials;
pub mod driver;
pub mod energy;
pub mod error;
pub mod feed;
pub mod http;
pub mod http_json;
pub mod ipmi;
pub mod modbus;
pub mod mqtt;
pub mod period;
pub mod plug;
pub mod poll;
pub mod quantity;
pub mod redfish;
pub mod report;
pub mod secret;
pub mod snmp;
pub mod switching;
pub mod wol;

pub use config::{DeviceConfig, Devices, open};
pub use driver::{Answer, Driver, Switch};
pub use error::DeviceError;
pub use feed::{FeedConfig, Place, Wall};
pub use period::Period;
pub use poll::{Device, Latest, Poller};
pub use report::{Feed, Figure, Identity, Outlet, OutletId, PowerState, Report};
pub use secret::{Secret, SecretSource};
pub use switching::{Agent, Limits, Outcome, Verdict};
