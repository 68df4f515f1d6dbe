//! Devices as tables and rows.

use std::time::Duration;

use ebbtide_proto::v1;
use serde::{Serialize, Serializer};

use crate::cli::figure::{UNKNOWN, ago, energy, power, span};
use crate::cli::output::{Answer, Output, Sheet, maybe};
use crate::cli::record::{Record, power_state};
use crate::cli::table::{Cell, Column, Table, Tint};

/// A device's own figures are measured; their error is beside them.
const MEASURED: i32 = v1::Quality::Measured as i32;

macro_rules! as_record {
    ($($name:ident($message:ident)),*) => {$(
        pub(super) struct $name(pub(super) v1::$message);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                Record(&self.0).serialize(s)
            }
        }
    )*};
}

as_record!(
    Listed(ListDevicesResponse),
    Read(ListDevicesResponse),
    Switched(SwitchOutletResponse),
    Found(ScanHostResponse),
    Feeds(SuggestFeedsResponse),
    Wakes(ListWakesResponse)
);

fn watts(feed: Option<&v1::Feed>) -> String {
    power(feed.and_then(|feed| feed.power_uw), MEASURED)
}

fn joules(feed: Option<&v1::Feed>) -> String {
    energy(feed.and_then(|feed| feed.energy_uj), MEASURED)
}

/// `± 1.5 %`, of what is known.
fn error(feed: Option<&v1::Feed>) -> String {
    match feed.filter(|feed| feed.power_uw.is_some()) {
        Some(feed) => format!("{:.1} %", f64::from(feed.power_error_ppm) / 1e4),
        None => UNKNOWN.to_owned(),
    }
}

/// Thousandths as a whole with one digit.
fn milli(value: Option<u32>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| format!("{:.1}", f64::from(value) / 1e3))
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { UNKNOWN } else { text }
}

fn state_tint(state: i32) -> Tint {
    match v1::PowerState::try_from(state) {
        Ok(v1::PowerState::On) => Tint::Good,
        Ok(v1::PowerState::Off) => Tint::Quiet,
        Ok(v1::PowerState::TurningOn | v1::PowerState::TurningOff) => Tint::Plain,
        Ok(v1::PowerState::Unknown | v1::PowerState::Unspecified) | Err(_) => Tint::Doubtful,
    }
}

impl Answer for Listed {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text("DEVICE"),
            Column::text("KIND").may_go(2),
            Column::text("MODEL").may_go(3),
            Column::figure("W"),
            Column::figure("ENERGY").may_go(4),
            Column::figure("OUTLETS").may_go(5),
            Column::figure("READ").may_go(1),
            Column::figure("ERRORS").wide(),
            Column::text("SERIAL").wide(),
            Column::text("FIRMWARE").wide(),
        ]);
        for device in &self.0.devices {
            let model = format!("{} {}", device.vendor, device.model);
            let tint = if device.trouble.is_empty() { Tint::Bold } else { Tint::Bad };
            table.row([
                Cell::tinted(&device.name, tint),
                (&device.kind).into(),
                or_unknown(model.trim()).into(),
                Cell::tinted(watts(device.total.as_ref()), Tint::Figure),
                joules(device.total.as_ref()).into(),
                device.outlets.len().to_string().into(),
                ago(device.read_ms, self.0.now_ms).into(),
                device.errors.to_string().into(),
                or_unknown(&device.serial).into(),
                or_unknown(&device.firmware).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&[
            "name",
            "kind",
            "vendor",
            "model",
            "serial",
            "power_uw",
            "energy_uj",
            "outlets",
            "read_ms",
            "polls",
            "errors",
            "trouble",
        ]);
        for device in &self.0.devices {
            let total = device.total.clone().unwrap_or_default();
            sheet.row([
                device.name.clone(),
                device.kind.clone(),
                device.vendor.clone(),
                device.model.clone(),
                device.serial.clone(),
                maybe(total.power_uw),
                maybe(total.energy_uj),
                device.outlets.len().to_string(),
                device.read_ms.to_string(),
                device.polls.to_string(),
                device.errors.to_string(),
                device.trouble.clone(),
            ]);
        }
        sheet
    }
}

impl Read {
    /// Total, phases and outlets: place, name, state, node and figures.
    fn rows(device: &v1::Device) -> impl Iterator<Item = (String, &str, Option<i32>, &str, Option<&v1::Feed>)> {
        let total = std::iter::once(("total".to_owned(), "", None, "", device.total.as_ref()));
        let phases = device.phases.iter().map(|phase| (phase.name.clone(), "", None, "", phase.feed.as_ref()));
        let outlets = device.outlets.iter().map(|outlet| {
            (outlet.id.clone(), outlet.name.as_str(), Some(outlet.state), outlet.node.as_str(), outlet.feed.as_ref())
        });
        total.chain(phases).chain(outlets)
    }
}

impl Answer for Read {
    fn table(&self, output: &Output) -> String {
        let mut text = String::new();
        for device in &self.0.devices {
            let what = [&device.vendor, &device.model, &device.serial, &device.firmware];
            let what: Vec<&str> = what.into_iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
            text.push_str(&format!(
                "{} ({}){}{}, read {}\n",
                device.name,
                device.kind,
                if what.is_empty() { "" } else { ": " },
                what.join(" "),
                ago(device.read_ms, self.0.now_ms)
            ));
            if !device.trouble.is_empty() {
                text.push_str(&format!("trouble: {}\n", device.trouble));
            }
            let mut table = Table::new(&[
                Column::text("OUTLET"),
                Column::text("NAME").may_go(3),
                Column::text("STATE"),
                Column::text("NODE").may_go(4),
                Column::figure("W"),
                Column::figure("±").may_go(2),
                Column::figure("ENERGY").may_go(1),
                Column::figure("A").may_go(5),
                Column::figure("V").wide(),
            ]);
            for (place, name, state, node, feed) in Self::rows(device) {
                table.row([
                    Cell::from(place),
                    name.into(),
                    state.map_or_else(|| "".into(), |state| Cell::tinted(power_state(state), state_tint(state))),
                    node.into(),
                    Cell::tinted(watts(feed), Tint::Figure),
                    error(feed).into(),
                    joules(feed).into(),
                    milli(feed.and_then(|feed| feed.current_ma)).into(),
                    milli(feed.and_then(|feed| feed.voltage_mv)).into(),
                ]);
            }
            text.push_str(&table.render(output.look));
            for missing in &device.missing {
                text.push_str(&format!("not read: {missing}\n"));
            }
        }
        text
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&[
            "device",
            "outlet",
            "name",
            "state",
            "node",
            "power_uw",
            "power_error_ppm",
            "power_ms",
            "energy_uj",
            "current_ma",
            "voltage_mv",
        ]);
        for device in &self.0.devices {
            for (place, name, state, node, feed) in Self::rows(device) {
                let feed = feed.cloned().unwrap_or_default();
                sheet.row([
                    device.name.clone(),
                    place,
                    name.to_owned(),
                    state.map(power_state).unwrap_or_default(),
                    node.to_owned(),
                    maybe(feed.power_uw),
                    feed.power_error_ppm.to_string(),
                    feed.power_ms.to_string(),
                    maybe(feed.energy_uj),
                    maybe(feed.current_ma.map(u64::from)),
                    maybe(feed.voltage_mv.map(u64::from)),
                ]);
            }
        }
        sheet
    }
}

impl Answer for Switched {
    fn table(&self, _: &Output) -> String {
        let v1::SwitchOutletResponse { verdict, text, by_state, by_watts, by_agent, took_ms, .. } = &self.0;
        let signals = [(*by_state, "the device's word"), (*by_watts, "its watts"), (*by_agent, "the node's agent")];
        let signals: Vec<&str> = signals.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
        let by = if signals.is_empty() { String::new() } else { format!(", by {}", signals.join(" and ")) };
        format!("{verdict}{by}: {text} ({})\n", span(Duration::from_millis(u64::from(*took_ms))))
    }

    fn csv(&self) -> Sheet {
        let mut sheet =
            Sheet::new(&["verdict", "text", "success", "by_state", "by_watts", "by_agent", "commands", "took_ms"]);
        let it = &self.0;
        sheet.row([
            it.verdict.clone(),
            it.text.clone(),
            it.success.to_string(),
            it.by_state.to_string(),
            it.by_watts.to_string(),
            it.by_agent.to_string(),
            it.commands.to_string(),
            it.took_ms.to_string(),
        ]);
        sheet
    }
}

impl Answer for Found {
    /// What was found as comments, so that all of it can go into the configuration.
    fn table(&self, _: &Output) -> String {
        self.0.found.iter().map(|found| format!("# {}: {}\n{}\n", found.kind, found.what, found.config)).collect()
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["kind", "what"]);
        for found in &self.0.found {
            sheet.row([found.kind.clone(), found.what.clone()]);
        }
        sheet
    }
}

impl Answer for Feeds {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text("NODE"),
            Column::text("OUTLET"),
            Column::figure("SURE"),
            Column::text("CONFIGURED"),
            Column::text("WHY").may_go(1),
        ]);
        for it in &self.0.suggestions {
            let (configured, tint) = match it.configured.as_str() {
                "" => (UNKNOWN, Tint::Plain),
                node if node == it.node => ("as configured", Tint::Good),
                node => (node, Tint::Bad),
            };
            table.row([
                Cell::tinted(&it.node, Tint::Bold),
                format!("{}/{}", it.device, it.outlet).into(),
                format!("{:.2}", f64::from(it.confidence_milli) / 1e3).into(),
                Cell::tinted(configured, tint),
                (&it.why).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["node", "device", "outlet", "confidence_milli", "configured"]);
        for it in &self.0.suggestions {
            sheet.row([
                it.node.clone(),
                it.device.clone(),
                it.outlet.clone(),
                it.confidence_milli.to_string(),
                it.configured.clone(),
            ]);
        }
        sheet
    }
}

impl Answer for Wakes {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text("NODE"),
            Column::text("WAKES"),
            Column::text("BY").may_go(2),
            Column::figure("BOOT"),
            Column::figure("ENERGY"),
            Column::figure("TESTED"),
            Column::text("WHY NOT").may_go(1),
        ]);
        for wake in &self.0.wakes {
            let boot = if wake.proven { span(Duration::from_millis(wake.boot_ms)) } else { UNKNOWN.to_owned() };
            table.row([
                Cell::tinted(&wake.node, Tint::Bold),
                if wake.proven { Cell::tinted("yes", Tint::Good) } else { Cell::tinted("no", Tint::Bad) },
                or_unknown(&wake.path).into(),
                boot.into(),
                energy(wake.boot_uj, MEASURED).into(),
                ago(wake.at_ms, output.now_ms).into(),
                (&wake.why).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["node", "at_ms", "proven", "path", "boot_ms", "boot_uj", "by", "why"]);
        for wake in &self.0.wakes {
            sheet.row([
                wake.node.clone(),
                wake.at_ms.to_string(),
                wake.proven.to_string(),
                wake.path.clone(),
                wake.boot_ms.to_string(),
                maybe(wake.boot_uj),
                wake.by.clone(),
                wake.why.clone(),
            ]);
        }
        sheet
    }
}
