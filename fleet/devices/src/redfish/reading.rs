//! Reads the watts of a chassis and the figures of a PDU from where the layout says they are.
//!
//! Watts come from the first of these that has them: `EnvironmentMetrics`, `Power`, the sum of the power supplies.
//! They may disagree by a tenth, since each is measured elsewhere; so they are never mixed.

use std::time::Duration;

use ebbtide_proto::Ratio;
use ebbtide_runtime::clock::{self, Moment};
use serde_json::Value;

use crate::error::DeviceError;
use crate::quantity::{Origin, Step, Unit};
use crate::redfish::layout::{Chassis, Pdu, optional};
use crate::redfish::parse::{self, Excerpt};
use crate::redfish::service::{Document, Service};
use crate::report::{Feed, Outlet, OutletId, Report};

/// A sensor that was read longer ago than this, or than four of its intervals, is stale, s.
const STALE_S: f64 = 120.0;

/// The reader of one service.
pub(crate) struct Reader<'a> {
    pub(crate) service: &'a mut Service,
    /// Relative error where a sensor tells none.
    pub(crate) accuracy: Ratio,
    /// The `MemberId` of the right `PowerControl`, where configured.
    pub(crate) power_control: Option<&'a str>,
    /// The finest step of a counter of energy met so far, kWh: a counter with three decimals shows fewer at times.
    pub(crate) energy_step: f64,
    /// What should be there and is not, for people.
    pub(crate) missing: Vec<String>,
    /// A document that was there is gone: the layout is another now.
    pub(crate) moved: bool,
}

impl Reader<'_> {
    /// A document that the layout has. What is wrong with this one alone is noted; what is wrong with the device is an
    /// error.
    pub(crate) async fn document(&mut self, path: &str) -> Result<Option<Document>, DeviceError> {
        match self.service.get(path).await {
            Ok(None) => {
                self.moved = true;
                self.missing.push(format!("{path} is not there"));
                Ok(None)
            }
            Err(error @ (DeviceError::Refused { .. } | DeviceError::Nonsense { .. })) => {
                self.missing.push(error.to_string());
                Ok(None)
            }
            outcome => outcome,
        }
    }

    /// The feed of a chassis; `about` is what a `PowerControl` that is meant may be related to.
    pub(crate) async fn chassis(&mut self, chassis: &Chassis, about: &[&str]) -> Result<Feed, DeviceError> {
        let mut feed = Feed::default();
        if let Some(path) = &chassis.environment
            && let Some(environment) = self.document(path).await?
        {
            let watts = parse::excerpt(&environment.value, "PowerWatts");
            self.sensor(&mut feed, Unit::Watt, watts, &environment, "EnvironmentMetrics.PowerWatts").await?;
            let energy = parse::excerpt(&environment.value, "EnergykWh");
            self.energy(&mut feed, energy.reading, "EnvironmentMetrics.EnergykWh");
        }
        if feed.power.is_none()
            && let Some(path) = &chassis.power
            && let Some(power) = self.document(path).await?
        {
            match parse::power_control(&power.value, about, self.power_control) {
                Ok(watts) => self.put(&mut feed, Unit::Watt, Some(watts), "Power.PowerControl"),
                Err(why) => self.missing.push(why),
            }
        }
        if feed.power.is_none() && !chassis.supplies.is_empty() {
            let sum = self.supplies(&chassis.supplies).await?;
            self.put(&mut feed, Unit::Watt, sum, "PowerSupplyMetrics.InputPowerWatts");
        }
        Ok(feed)
    }

    /// The sum over all power supplies, unless one doesn't tell.
    async fn supplies(&mut self, paths: &[String]) -> Result<Option<f64>, DeviceError> {
        let mut sum = 0.0;
        for path in paths {
            let metrics = self.document(path).await?.filter(|m| parse::is_enabled(&m.value));
            let watts = metrics.and_then(|m| parse::excerpt(&m.value, "InputPowerWatts").reading);
            let Some(watts) = watts.filter(|w| *w >= 0.0) else {
                self.missing.push("a power supply doesn't tell its input, so their sum is unknown".to_owned());
                return Ok(None);
            };
            sum += watts;
        }
        Ok(Some(sum))
    }

    /// Puts an excerpt into the feed, by its sensor where that says when and how well it measured.
    async fn sensor(
        &mut self,
        feed: &mut Feed,
        unit: Unit,
        excerpt: Excerpt,
        from: &Document,
        source: &'static str,
    ) -> Result<(), DeviceError> {
        let Some(path) = excerpt.sensor.filter(|_| excerpt.reading.is_some()) else {
            self.put(feed, unit, excerpt.reading, source);
            return Ok(());
        };
        // Not every service that names a sensor has it; the excerpt is a reading all the same.
        let sensor = optional(self.service, &path).await?;
        let (at, date) = (clock::now(), sensor.as_ref().map_or(from.date, |s| s.date));
        let sensed = sensor.map(|s| parse::sensed(&s.value)).unwrap_or_default();
        let reading = if sensed.at.is_some() { sensed.reading } else { excerpt.reading };
        match measured(at, sensed.at, date, sensed.interval) {
            Ok(at) => self.put_at(feed, unit, reading, sensed.accuracy, at, source),
            Err(age) => self.missing.push(format!("{source} is stale: {path} was read {age:.0} s ago")),
        }
        Ok(())
    }

    fn put(&self, feed: &mut Feed, unit: Unit, value: Option<f64>, source: &'static str) {
        self.put_at(feed, unit, value, None, clock::now(), source);
    }

    fn energy(&mut self, feed: &mut Feed, kwh: Option<f64>, source: &'static str) {
        let Some(kwh) = kwh else { return };
        self.energy_step = self.energy_step.min(Step::Digits(1.0).size(kwh));
        let (at, accuracy, step) = (clock::now(), self.accuracy, Step::Known(self.energy_step));
        // What is no figure stays absent.
        Unit::KilowattHour.put(feed, kwh, &Origin { at, accuracy, step, source });
    }

    fn put_at(
        &self,
        feed: &mut Feed,
        unit: Unit,
        value: Option<f64>,
        accuracy: Option<f64>,
        at: Moment,
        source: &'static str,
    ) {
        let Some(value) = value else { return };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10⁶ by the clamp")]
        let accuracy =
            accuracy.map_or(self.accuracy, |percent| Ratio::from_ppm((percent * 1e4).clamp(0.0, 1e6) as u32));
        // What is no figure stays absent.
        unit.put(feed, value, &Origin { at, accuracy, step: Step::Digits(1.0), source });
    }

    /// A PDU with its phases and outlets, put into the report; behind a service with several, each is a phase.
    pub(crate) async fn pdu(
        &mut self,
        pdu: &Pdu,
        expands: bool,
        alone: bool,
        report: &mut Report,
    ) -> Result<(), DeviceError> {
        let mut total = Feed::default();
        if let Some(path) = &pdu.metrics
            && let Some(metrics) = self.document(path).await?
        {
            let watts = parse::excerpt(&metrics.value, "PowerWatts");
            self.sensor(&mut total, Unit::Watt, watts, &metrics, "PowerDistributionMetrics.PowerWatts").await?;
            let energy = parse::excerpt(&metrics.value, "EnergykWh");
            self.energy(&mut total, energy.reading, "PowerDistributionMetrics.EnergykWh");
        }
        if alone {
            report.total = total;
            for path in &pdu.mains {
                if let Some(mains) = self.document(path).await? {
                    self.phases(&mains.value, &mut report.phases);
                }
            }
        } else {
            report.phases.push((format!("PDU {}", pdu.name), total));
        }
        let expanded = if expands { self.expanded(pdu).await? } else { Vec::new() };
        for (id, path) in &pdu.outlets {
            let at_once = expanded.iter().find(|m| m.get("@odata.id").and_then(Value::as_str) == Some(path));
            match at_once {
                Some(document) => report.outlets.push(self.outlet(id, document)),
                None => {
                    if let Some(document) = self.document(path).await? {
                        report.outlets.push(self.outlet(id, &document.value));
                    }
                }
            }
        }
        Ok(())
    }

    /// All outlets in one request; none if the service promises more than it does and sends mere links.
    async fn expanded(&mut self, pdu: &Pdu) -> Result<Vec<Value>, DeviceError> {
        let Some(path) = &pdu.collection else { return Ok(Vec::new()) };
        let answer = optional(self.service, &format!("{path}?$expand=.")).await?;
        let members = answer.and_then(|mut a| a.value.get_mut("Members").map(Value::take));
        let members = match members {
            Some(Value::Array(members)) => members,
            _ => Vec::new(),
        };
        Ok(members.into_iter().filter(|m| m.as_object().is_some_and(|m| m.len() > 1)).collect())
    }

    /// The lines of a mains circuit that has several.
    fn phases(&mut self, mains: &Value, phases: &mut Vec<(String, Feed)>) {
        let at = |group: &str, line: &str| mains.get(group).and_then(|g| parse::excerpt(g, line).reading);
        for line in 1..=3 {
            let (own, neutral) = (format!("Line{line}"), format!("Line{line}ToNeutral"));
            let mut feed = Feed::default();
            self.put(&mut feed, Unit::Watt, at("PolyPhasePowerWatts", &neutral), "Circuit.PolyPhasePowerWatts");
            self.energy(&mut feed, at("PolyPhaseEnergykWh", &neutral), "Circuit.PolyPhaseEnergykWh");
            self.put(&mut feed, Unit::Ampere, at("PolyPhaseCurrentAmps", &own), "Circuit.PolyPhaseCurrentAmps");
            self.put(&mut feed, Unit::Volt, at("PolyPhaseVoltage", &neutral), "Circuit.PolyPhaseVoltage");
            if !feed.is_empty() {
                phases.push((format!("L{line}"), feed));
            }
        }
    }

    /// One outlet. Its sensors are not asked for: a request for each figure of each outlet would be too many.
    fn outlet(&mut self, id: &OutletId, document: &Value) -> Outlet {
        let mut feed = Feed::default();
        if parse::is_enabled(document) {
            let reading = |key| parse::excerpt(document, key).reading;
            self.put(&mut feed, Unit::Watt, reading("PowerWatts"), "Outlet.PowerWatts");
            self.energy(&mut feed, reading("EnergykWh"), "Outlet.EnergykWh");
            self.put(&mut feed, Unit::Ampere, reading("CurrentAmps"), "Outlet.CurrentAmps");
            self.put(&mut feed, Unit::Volt, reading("Voltage"), "Outlet.Voltage");
        }
        Outlet {
            id: id.clone(),
            name: parse::text(document, "UserLabel").or_else(|| parse::text(document, "Name")),
            feed,
            state: parse::power_state(document),
            switchable: parse::action(document, "#Outlet.PowerControl", "PowerState").is_some(),
        }
    }
}

/// When a sensor measured, from its own time and the device's clock in the same answer, so that a clock that is wrong
/// doesn't matter; without that, from ours. `Err` with the age in seconds if it is stale.
fn measured(answered: Moment, read: Option<i64>, date: Option<i64>, interval: Option<f64>) -> Result<Moment, f64> {
    let Some(read) = read else { return Ok(answered) };
    let ours = || i64::try_from(answered.wall / 1_000_000_000).unwrap_or(i64::MAX);
    let age = date.unwrap_or_else(ours).saturating_sub(read);
    // A time that lies ahead is of another clock, and says nothing.
    let Ok(age) = u64::try_from(age) else { return Ok(answered) };
    if age as f64 > interval.map_or(STALE_S, |i| (4.0 * i).max(STALE_S)) {
        return Err(age as f64);
    }
    let ns = u64::try_from(Duration::from_secs(age).as_nanos()).unwrap_or(u64::MAX);
    Ok(Moment {
        mono: answered.mono.saturating_sub(ns),
        boot: answered.boot.saturating_sub(ns),
        wall: answered.wall.saturating_sub(ns),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_as_old_as_the_device_says_by_its_own_clock() {
        let now = Moment::default().plus(Duration::from_secs(2_000_000_000));
        let back = |s: u64| Moment::default().plus(Duration::from_secs(2_000_000_000 - s));
        assert_eq!(measured(now, None, Some(7), None), Ok(now));
        // the device believes it is 1970, and is right about the age
        assert_eq!(measured(now, Some(1_000), Some(1_030), None), Ok(back(30)));
        assert_eq!(measured(now, Some(1_000), Some(1_400), None), Err(400.0));
        assert_eq!(measured(now, Some(1_000), Some(1_400), Some(300.0)), Ok(back(400)));
        assert_eq!(measured(now, Some(2_000_000_000 - 5), None, None), Ok(back(5)));
        assert_eq!(measured(now, Some(9_000), Some(1_000), None), Ok(now));
        assert_eq!(measured(now, Some(i64::MIN), Some(i64::MAX), None), Err(i64::MAX as f64));
    }
}
