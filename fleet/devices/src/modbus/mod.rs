//! Meters that speak Modbus TCP. They measure and can't switch. `registers` says what their registers mean; here they
//! are read, neighbours at once, over one connection that is kept.

mod registers;

use std::time::Duration;

use ebbtide_proto::Ratio;
use ebbtide_runtime::clock;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_modbus::client::{Client, Context, tcp};
use tokio_modbus::prelude::{ExceptionCode, Request, Response, Slave};

pub use registers::{Function, Kind, Preset, Register, WordOrder};

use crate::driver::{Answer, Driver, Switch};
use crate::error::DeviceError;
use crate::period::Period;
use crate::quantity::{Origin, Unit};
use crate::report::{Feed, Identity, OutletId, PowerState, Report};

/// A meter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModbusConfig {
    /// Name or address of the meter or of the gateway before it.
    pub host: String,
    /// TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The unit behind a gateway; meters with a network port of their own mostly take 1 or 255.
    #[serde(default = "default_unit")]
    pub unit: u8,
    /// A meter whose registers are known.
    #[serde(default)]
    pub preset: Option<Preset>,
    /// Registers to be read, besides those of the preset.
    #[serde(default)]
    pub registers: Vec<Register>,
    /// How many registers that nobody asked for may be read along with their neighbours; a meter that refuses such
    /// requests needs 0.
    #[serde(default)]
    pub gap: Option<u16>,
    /// Longest time for one request.
    #[serde(default = "default_timeout")]
    pub timeout: Period,
    /// Relative error of the meter in percent: its class (IEC 62053).
    #[serde(default = "default_error_percent")]
    pub error_percent: u32,
}

const fn default_port() -> u16 {
    502
}

const fn default_unit() -> u8 {
    1
}

const fn default_timeout() -> Period {
    Period::new(Duration::from_secs(2))
}

const fn default_error_percent() -> u32 {
    1
}

impl ModbusConfig {
    /// A meter of a known kind with everything else left out.
    pub fn at(host: &str, preset: Preset) -> Self {
        Self {
            host: host.to_owned(),
            port: default_port(),
            unit: default_unit(),
            preset: Some(preset),
            registers: Vec::new(),
            gap: None,
            timeout: default_timeout(),
            error_percent: default_error_percent(),
        }
    }

    /// Looks for what serde can't see.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.preset.is_none() && self.registers.is_empty() {
            return Err("a meter needs a preset or registers".to_owned());
        }
        self.registers.iter().find_map(Register::problem).map_or(Ok(()), Err)
    }
}

/// One meter.
pub struct Modbus {
    device: String,
    config: ModbusConfig,
    registers: Vec<Register>,
    gap: u16,
    /// Away while a request is made, so that one that is dropped half-way ends the connection.
    line: Option<Context>,
}

impl Modbus {
    /// A driver for the meter that is configured. Opens no connection.
    ///
    /// # Errors
    /// [`DeviceError::Config`] if there is nothing to read, or a register can't be.
    pub fn new(config: ModbusConfig) -> Result<Self, DeviceError> {
        config.check().map_err(DeviceError::Config)?;
        let mut registers = config.preset.map(Preset::registers).unwrap_or_default();
        registers.extend(config.registers.iter().cloned());
        let gap = config.gap.or(config.preset.map(Preset::gap)).unwrap_or(0);
        Ok(Self {
            device: format!("{}:{}", config.host, config.port),
            config: config.clone(),
            registers,
            gap,
            line: None,
        })
    }

    async fn read_all(&mut self) -> Result<Report, DeviceError> {
        let mut report = Report::default();
        for (function, range) in registers::requests(&self.registers, self.gap) {
            let (Ok(from), Ok(count)) = (u16::try_from(range.start), u16::try_from(range.end - range.start)) else {
                continue;
            };
            let told = match self.request(function, from, count).await? {
                Ok(told) => told,
                Err(code) => {
                    let to = range.end - 1;
                    report.missing.push(format!("{function:?} registers {from} to {to}: the meter says {code}"));
                    continue;
                }
            };
            let at = clock::now();
            for register in self.registers.iter().filter(|r| r.function == function) {
                let inside = range.contains(&u32::from(register.address));
                if let Some(value) = register.value(from, &told).filter(|_| inside) {
                    let origin = Origin {
                        at,
                        accuracy: Ratio::from_percent(self.config.error_percent),
                        step: register.step(),
                        source: source(register.unit),
                    };
                    register.unit.put(place(&mut report, register.phase.as_deref()), value * register.scale, &origin);
                }
            }
        }
        // A phase of which nothing could be taken is none.
        report.phases.retain(|(_, feed)| !feed.is_empty());
        Ok(report)
    }

    /// One request; the registers, or the exception that the meter answered with.
    async fn request(
        &mut self,
        function: Function,
        from: u16,
        count: u16,
    ) -> Result<Result<Vec<u16>, ExceptionCode>, DeviceError> {
        let limit = self.config.timeout.get();
        let Ok(outcome) = tokio::time::timeout(limit, self.request_unbounded(function, from, count)).await else {
            return Err(DeviceError::Timeout {
                device: self.device.clone(),
                after: limit,
                hint: "it may be off, take no more connections, or not know this unit".to_owned(),
            });
        };
        outcome
    }

    async fn request_unbounded(
        &mut self,
        function: Function,
        from: u16,
        count: u16,
    ) -> Result<Result<Vec<u16>, ExceptionCode>, DeviceError> {
        let unreachable = |device: &str, why: &dyn std::fmt::Display| DeviceError::Unreachable {
            device: device.to_owned(),
            why: why.to_string(),
        };
        let kept = self.line.take();
        let mut again = kept.is_some();
        let mut line = kept;
        loop {
            let mut open = match line.take() {
                Some(open) => open,
                None => {
                    let stream = TcpStream::connect((self.config.host.as_str(), self.config.port)).await;
                    let stream = stream.map_err(|e| unreachable(&self.device, &e))?;
                    tcp::attach_slave(stream, Slave(self.config.unit))
                }
            };
            let request = match function {
                Function::Input => Request::ReadInputRegisters(from, count),
                Function::Holding => Request::ReadHoldingRegisters(from, count),
            };
            // Not by the methods for each function: they take the length of an answer on trust.
            let answer = open.call(request).await.map(|answer| {
                answer.map(|response| match response {
                    Response::ReadInputRegisters(told) | Response::ReadHoldingRegisters(told) => told,
                    _ => Vec::new(),
                })
            });
            match answer {
                Ok(Ok(told)) if told.len() != usize::from(count) => {
                    return Err(DeviceError::Nonsense {
                        device: self.device.clone(),
                        asked: format!("{count} registers"),
                        why: format!("{} came", told.len()),
                    });
                }
                Ok(answer) => {
                    self.line = Some(open);
                    return Ok(answer);
                }
                // Meters close connections that stood idle; a new one is tried once.
                Err(tokio_modbus::Error::Transport(_)) if std::mem::take(&mut again) => {}
                Err(tokio_modbus::Error::Transport(e)) => return Err(unreachable(&self.device, &e)),
                Err(tokio_modbus::Error::Protocol(_)) => {
                    return Err(DeviceError::Nonsense {
                        device: self.device.clone(),
                        asked: format!("registers from {from}"),
                        why: "the answer belongs to another request".to_owned(),
                    });
                }
            }
        }
    }

    fn cannot<T>(&self) -> Result<T, DeviceError> {
        let what = "switch, or tell a state: it is a meter".to_owned();
        Err(DeviceError::Unable { device: self.device.clone(), what })
    }
}

/// The feed of a phase, which is made if it is the first figure of it, or of the whole meter.
fn place<'a>(report: &'a mut Report, phase: Option<&str>) -> &'a mut Feed {
    let Some(phase) = phase else { return &mut report.total };
    let index = report.phases.iter().position(|(name, _)| name == phase).unwrap_or_else(|| {
        report.phases.push((phase.to_owned(), Feed::default()));
        report.phases.len() - 1
    });
    match report.phases.get_mut(index) {
        Some((_, feed)) => feed,
        None => &mut report.total,
    }
}

const fn source(unit: Unit) -> &'static str {
    match unit {
        Unit::Milliwatt | Unit::Watt | Unit::Kilowatt => "Modbus power register",
        Unit::Joule | Unit::WattMinute | Unit::WattHour | Unit::KilowattHour => "Modbus energy register",
        Unit::Milliampere | Unit::Ampere => "Modbus current register",
        Unit::Millivolt | Unit::Volt => "Modbus voltage register",
    }
}

impl Driver for Modbus {
    /// Meters have no common way to say what they are: what is known is the preset.
    fn identify(&mut self) -> Answer<'_, Identity> {
        let (vendor, model) = match self.config.preset {
            Some(Preset::EastronSdm120) => (Some("Eastron"), Some("SDM120")),
            Some(Preset::EastronSdm630) => (Some("Eastron"), Some("SDM630")),
            None => (None, None),
        };
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        let identity = Identity { vendor: owned(vendor), model: owned(model), ..Identity::default() };
        Box::pin(std::future::ready(Ok(identity)))
    }

    fn read(&mut self) -> Answer<'_, Report> {
        Box::pin(self.read_all())
    }

    fn state<'a>(&'a mut self, _: &'a OutletId) -> Answer<'a, PowerState> {
        Box::pin(std::future::ready(self.cannot()))
    }

    fn switch<'a>(&'a mut self, _: &'a OutletId, _: Switch) -> Answer<'a, ()> {
        Box::pin(std::future::ready(self.cannot()))
    }
}
