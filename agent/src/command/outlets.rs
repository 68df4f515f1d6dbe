//! Reads this machine's own outlets, or its BMC, where no fleet does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_devices::config::DeviceConfig;
use ebbtide_devices::snmp::model::PduModel;
use ebbtide_devices::{Device, Devices, FeedConfig, Latest, Place};
use serde::Deserialize;

use crate::source::wall::{Told, WallFeed};
use crate::tasks::{Shutdown, Tasks};

/// Between two looks at what devices told: readings have their own time, so nothing is lost by looking late.
const LOOK: Duration = Duration::from_millis(500);

/// The file of `wall-devices`: devices as in the fleet's configuration, and which outlets are this machine's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    outlets: Vec<Place>,
    bmc: Option<String>,
    #[serde(default)]
    device: Vec<DeviceConfig>,
    #[serde(default)]
    pdu_model: Vec<PduModel>,
}

/// The devices, opened, and what of them is this machine's.
pub struct Outlets {
    devices: Vec<(Device, ebbtide_devices::Poller)>,
    feed: FeedConfig,
}

impl Outlets {
    /// Opens the devices of a file. Nothing is sent before [`Self::start`].
    ///
    /// # Errors
    /// If the file or a secret can't be read, or an outlet is of a device that is not in the file.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read wall-devices {shown}"))?;
        let file: File = toml::from_str(&text).map_err(|e| anyhow::anyhow!("wall-devices {shown}: {}", e.message()))?;
        anyhow::ensure!(
            !file.outlets.is_empty() || file.bmc.is_some(),
            "wall-devices {shown}: it names no outlets and no bmc of this machine; write outlets = [\"DEVICE/OUTLET\"]"
        );
        let feed =
            FeedConfig { node: String::new(), outlets: file.outlets, bmc: file.bmc, wake: Vec::new(), cut: false };
        for place in feed.places() {
            anyhow::ensure!(
                file.device.iter().any(|device| device.name == place.device),
                "wall-devices {shown}: {place} is of no [[device]] in the file"
            );
        }
        let devices =
            Devices::new(file.device, file.pdu_model).map_err(|why| anyhow::anyhow!("wall-devices {shown}: {why}"))?;
        let open = |config: DeviceConfig| {
            let driver = ebbtide_devices::open(&config)?;
            Ok(Device::new(config, driver))
        };
        let devices = devices.device.into_iter().map(open).collect::<anyhow::Result<_>>();
        Ok(Self { devices: devices.with_context(|| format!("wall-devices {shown}"))?, feed })
    }

    /// Reads them all the time, and tells `wall` what the machine draws.
    pub fn start(self, wall: WallFeed, tasks: &mut Tasks) {
        let mut read = Vec::new();
        for (device, poller) in self.devices {
            tasks.spawn(format!("device {}", device.name()), poller.run(tasks.shutdown()));
            read.push(device);
        }
        tasks.spawn("outlets", follow(read, self.feed, wall, tasks.shutdown()));
    }
}

/// Tells each reading on until the stop.
async fn follow(devices: Vec<Device>, feed: FeedConfig, wall: WallFeed, stop: Shutdown) -> anyhow::Result<()> {
    let latest =
        |name: &str| -> Option<Arc<Latest>> { devices.iter().find(|device| device.name() == name).map(Device::latest) };
    loop {
        if let Some(now) = feed.wall(latest) {
            let told = Told { at: now.at, counter: now.energy, power: now.power, error: now.error, meter: now.source };
            wall.tell(told);
        }
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        format!("{:#}", Outlets::open(file.path()).err().expect("it should be refused"))
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused_with_what_to_do() {
        let pdu = "[[device]]\nname = 'pdu'\nkind = 'command'\nprogram = '/bin/true'\n";
        for (text, says) in [
            (pdu.to_owned(), "outlets = [\"DEVICE/OUTLET\"]"),
            (format!("outlets = ['other/1']\n{pdu}"), "other/1 is of no [[device]]"),
            (format!("outlets = ['pdu/1']\n{pdu}{pdu}"), "two devices named"),
            ("outlet = ['pdu/1']".to_owned(), "outlets"),
        ] {
            let why = refused(&text);
            assert!(why.contains(says), "{why}");
        }
        assert!(format!("{:#}", Outlets::open(Path::new("/nowhere")).err().unwrap()).contains("/nowhere"));
    }
}
