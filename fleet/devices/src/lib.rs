//! Power hardware: PDUs, BMCs, meters and what wakes a machine; read and switched.
//!
//! `report` has the words (a [`Report`] is what a device says at one time), `driver` what each kind of device can do,
//! `error` what goes wrong. `quantity` and `http` are shared by several
//! kinds of devices; each further module is one kind. A driver talks to one device and knows neither
//! nodes nor policies; it never guesses: what a device doesn't say is absent, and a state it doesn't tell is
//! [`PowerState::Unknown`].

pub mod driver;
pub mod error;
pub mod http;
pub mod ipmi;
pub mod modbus;
pub mod mqtt;
pub mod plug;
pub mod quantity;
pub mod redfish;
pub mod report;

pub use driver::{Answer, Driver, Switch};
pub use error::DeviceError;
pub use report::{Feed, Figure, Identity, Outlet, OutletId, PowerState, Report};
