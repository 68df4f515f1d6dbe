//! What others read or are sent: the metrics page of the fleet, and remote write.

mod metrics;
mod remote_write;

pub use metrics::{CONTENT_TYPE, METRICS, Metric, StoreFigures, page};
pub use remote_write::{RemoteWriteError, Sender, request};
