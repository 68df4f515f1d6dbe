//! The drivers against programs and servers that play the devices.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod http_json;
mod ipmi;
mod modbus;
mod mqtt;
mod peers;
mod redfish;
mod redfish_faults;

use std::time::Duration;

use ebbtide_devices::{DeviceError, Driver, Feed, OutletId, PowerState};
use ebbtide_runtime::clock;

/// Asks for a state until it is `wanted`, at most half a minute.
async fn until_state(driver: &mut dyn Driver, outlet: &OutletId, wanted: PowerState) {
    let start = clock::now();
    while driver.state(outlet).await.unwrap() != wanted {
        assert!(clock::now().since(start) < Duration::from_secs(30), "it never was {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The outcome of a call, and that it came within `limit`.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, DeviceError>>) -> Result<T, DeviceError> {
    tokio::time::timeout(limit, call).await.expect("bounded time")
}

fn watts(feed: &Feed) -> Option<f64> {
    feed.power.as_ref().map(|p| p.value.watts())
}

fn kwh(feed: &Feed) -> Option<f64> {
    feed.energy.as_ref().map(|e| e.value.joules() / 3.6e6)
}
