//! `device`: power hardware, read and switched.

mod sheets;

use ebbtide_proto::v1;

use self::sheets::{Feeds, Found, Listed, Read, Switched, Wakes};
use crate::cli::args::{DeviceArgs, DeviceVerb, Format, To};
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Answer as _, Output, json, write_on};
use crate::cli::record::Record;
use crate::cli::when::Length;

/// Does what is asked of devices.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &DeviceArgs, output: &Output) -> Result<Exit, Failure> {
    match &args.verb {
        DeviceVerb::List => list(fleet, output).await,
        DeviceVerb::Read { name, watch: true } => watch(fleet, name, output).await,
        DeviceVerb::Read { name, watch: false } => {
            let request = v1::ListDevicesRequest { name: name.clone() };
            let answer = fleet.ask("asking for the device", fleet.devices().list_devices(request)).await?;
            output.show(&Read(answer))?;
            Ok(Exit::Ok)
        }
        DeviceVerb::Switch { name, outlet, to, yes, force, deadline } => {
            switch(fleet, (name, outlet), *to, *yes, *force, *deadline, output).await
        }
        DeviceVerb::Scan { host } => {
            let request = v1::ScanHostRequest { host: host.clone() };
            let answer = fleet.ask("asking around", fleet.devices().scan_host(request)).await?;
            let nothing = answer.found.is_empty();
            output.show(&Found(answer))?;
            if nothing {
                output.note(&format!(
                    "nothing that is known answers at {host}; can the fleet daemon's machine reach it?"
                ));
            }
            Ok(Exit::Ok)
        }
        DeviceVerb::Map => {
            let answer =
                fleet.ask("comparing watts", fleet.devices().suggest_feeds(v1::SuggestFeedsRequest {})).await?;
            let (nothing, seen_ms) = (answer.suggestions.is_empty(), answer.seen_ms);
            output.show(&Feeds(answer))?;
            if nothing {
                let seen = crate::cli::figure::span(std::time::Duration::from_millis(seen_ms));
                output.note(&format!(
                    "nothing rises and falls together so far; {seen} were compared. Put load on a node for some minutes"
                ));
            }
            Ok(Exit::Ok)
        }
        DeviceVerb::TestWake { node, yes, deadline } => test_wake(fleet, node, *yes, *deadline, output).await,
        DeviceVerb::Wakes => {
            let answer = fleet.ask("asking for proofs", fleet.devices().list_wakes(v1::ListWakesRequest {})).await?;
            let nothing = answer.wakes.is_empty();
            output.show(&Wakes(answer))?;
            if nothing {
                output.note("no node is proven to wake; prove one: ebbtide device test-wake NODE --yes");
            }
            Ok(Exit::Ok)
        }
    }
}

async fn list(fleet: &Fleet, output: &Output) -> Result<Exit, Failure> {
    let answer =
        fleet.ask("asking for devices", fleet.devices().list_devices(v1::ListDevicesRequest::default())).await?;
    let nothing = answer.devices.is_empty();
    let troubles: Vec<String> = answer
        .devices
        .iter()
        .filter(|device| !device.trouble.is_empty())
        .map(|device| format!("{}: {}", device.name, device.trouble))
        .collect();
    output.show(&Listed(answer))?;
    troubles.iter().for_each(|trouble| output.note(trouble));
    if nothing {
        output.note("no device is configured; see what speaks at an address: ebbtide device scan HOST");
    }
    Ok(Exit::Ok)
}

async fn watch(fleet: &Fleet, name: &str, output: &Output) -> Result<Exit, Failure> {
    if matches!(output.format, Some(Format::Yaml | Format::Csv)) {
        return Err(Failure::usage("--watch has no yaml and no csv").next("use -o json: one line per reading"));
    }
    let request = v1::WatchDeviceRequest { name: name.to_owned() };
    let mut client = fleet.devices();
    let mut news = fleet.ask("asking for the device", client.watch_device(request)).await?;
    loop {
        let device = match news.message().await {
            Ok(Some(device)) => device,
            Ok(None) => return Err(Failure::new(format!("{} ended the readings", fleet.target.address))),
            Err(status) => return Err(fleet.refused(&status)),
        };
        let text = match output.format {
            Some(Format::Json) => json(&Record(&device), false)?,
            _ => {
                let answer = v1::ListDevicesResponse { now_ms: device.read_ms, devices: vec![device] };
                format!("{}\n", Read(answer).table(output))
            }
        };
        if !write_on(&text)? {
            return Ok(Exit::Ok);
        }
    }
}

async fn switch(
    fleet: &Fleet,
    (device, outlet): (&str, &str),
    to: To,
    yes: bool,
    force: bool,
    deadline: Length,
    output: &Output,
) -> Result<Exit, Failure> {
    if !yes {
        return Err(Failure::usage(format!("this would switch {device}/{outlet} {}", to.as_str()))
            .next("if that is what you want, add --yes"));
    }
    let deadline_ms = u32::try_from(deadline.ms()).map_err(|_| Failure::usage("--deadline is too long"))?;
    let request = v1::SwitchOutletRequest {
        device: device.to_owned(),
        outlet: outlet.to_owned(),
        to: to.wire().into(),
        deadline_ms,
        force,
    };
    let mut client = fleet.devices();
    let patience = deadline.get() + fleet.timeout;
    let waiting = tokio::time::timeout(patience, client.switch_outlet(request));
    let what = format!("switching {device}/{outlet} {}", to.as_str());
    let answer = crate::cli::progress::patiently(&what, waiting).await;
    let answer = answer.map_err(|_| Failure::new("the fleet daemon doesn't say what became of it"))?;
    let answer = answer.map_err(|status| fleet.refused(&status))?.into_inner();
    let success = answer.success;
    output.show(&Switched(answer))?;
    Ok(if success { Exit::Ok } else { Exit::Failed })
}

async fn test_wake(fleet: &Fleet, node: &str, yes: bool, deadline: Length, output: &Output) -> Result<Exit, Failure> {
    if !yes {
        return Err(Failure::usage(format!("this would shut {node} down and wake it; what runs there is interrupted"))
            .next("if that is what you want, add --yes"));
    }
    let deadline_ms = u32::try_from(deadline.ms()).map_err(|_| Failure::usage("--deadline is too long"))?;
    let request = v1::TestWakeRequest { node: node.to_owned(), deadline_ms };
    let mut client = fleet.devices();
    let mut steps = fleet.ask("asking for the test", client.test_wake(request)).await?;
    loop {
        match steps.message().await {
            Ok(Some(v1::WakeStep { wake: Some(wake), .. })) => {
                let proven = wake.proven;
                output.show(&Wakes(v1::ListWakesResponse { wakes: vec![wake] }))?;
                return Ok(if proven { Exit::Ok } else { Exit::Failed });
            }
            Ok(Some(step)) => output.note(&step.text),
            Ok(None) => {
                return Err(Failure::new("the fleet daemon ended before the test did").next("see to the node by hand"));
            }
            Err(status) => return Err(fleet.refused(&status)),
        }
    }
}
