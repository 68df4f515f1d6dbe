//! Any program as a device: how people plug in what Ebbtide doesn't know.
//!
//! | called with | does | answers on stdout |
//! |---|---|---|
//! | `on OUTLET`, `off OUTLET`, `cycle OUTLET`, `soft-off OUTLET` | switches | nothing, or anything |
//! | `status OUTLET` | looks how it stands | `{"state": "on"}` |
//! | `read` | measures | `{"total": FEED, "outlets": [{"id": "1", "name": "…", "state": "on", …FEED}]}` |
//!
//! A FEED has any of `watts`, `watt-hours`, `amperes`, `volts` and `error-percent`. What is left out is absent. Exit
//! code 0 is success; else the last line on stderr is the reason. `run` runs the program under its limits.

pub mod run;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ebbtide_proto::{Energy, Power, Ratio};
use ebbtide_runtime::clock::{self, Moment};
use serde::{Deserialize, Serialize};

use self::run::Program;
use crate::driver::{Answer, Driver, Switch};
use crate::error::DeviceError;
use crate::period::Period;
use crate::report::{Feed, Figure, Identity, Outlet, OutletId, PowerState, Report};
use crate::secret::{Secret, SecretSource};

/// A program that reads and switches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CommandConfig {
    /// The program, with its full path.
    pub program: PathBuf,
    /// Arguments before those of the table above.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its environment, besides PATH and LANG. Nothing of this program's own environment is handed on.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Secrets that it finds in its environment.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretSource>,
    /// How long it may take. Then it is killed with all that it started.
    #[serde(default = "deadline")]
    pub deadline: Period,
}

/// A program as a device.
pub struct CommandDevice {
    program: Program,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    state: PowerState,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct All {
    #[serde(default)]
    total: Measured,
    #[serde(default)]
    outlets: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    id: String,
    name: Option<String>,
    #[serde(default)]
    state: PowerState,
    switchable: Option<bool>,
    #[serde(flatten)]
    measured: Measured,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Measured {
    watts: Option<f64>,
    watt_hours: Option<f64>,
    amperes: Option<f64>,
    volts: Option<f64>,
    error_percent: Option<f64>,
}

impl CommandConfig {
    /// Looks for what serde can't see.
    ///
    /// # Errors
    /// Says which key is wrong and why.
    pub fn check(&self) -> Result<(), String> {
        if !self.program.is_absolute() {
            return Err(format!("program: {} has to begin with /", self.program.display()));
        }
        let name = |n: &&String| n.is_empty() || n.contains(['=', '\0']);
        if let Some(wrong) = self.env.keys().chain(self.secrets.keys()).find(name) {
            return Err(format!("env, secrets: {wrong:?} is not the name of a variable"));
        }
        if let Some(both) = self.env.keys().find(|k| self.secrets.contains_key(*k)) {
            return Err(format!("{both} is both in env and in secrets"));
        }
        if self.deadline.get().is_zero() {
            return Err("deadline is zero".to_owned());
        }
        Ok(())
    }
}

impl CommandDevice {
    /// Reads the secrets; runs nothing.
    ///
    /// # Errors
    /// If a secret can't be read or the configuration contradicts itself.
    pub fn new(config: CommandConfig) -> Result<Self, DeviceError> {
        config.check().map_err(DeviceError::Config)?;
        let secrets: Result<Vec<(String, Secret)>, DeviceError> = config
            .secrets
            .iter()
            .map(|(name, source)| match source.read() {
                Ok(secret) => Ok((name.clone(), secret)),
                Err(error) => Err(DeviceError::Config(format!("secrets: {name}: {error}"))),
            })
            .collect();
        let env = config.env.into_iter().collect();
        Ok(Self { program: Program::new(config.program, config.args, env, secrets?, config.deadline.get()) })
    }

    fn nonsense(&self, asked: &str, why: &serde_json::Error) -> DeviceError {
        DeviceError::Nonsense { device: self.program.name(), asked: asked.to_owned(), why: why.to_string() }
    }
}

impl Driver for CommandDevice {
    fn identify(&mut self) -> Answer<'_, Identity> {
        let identity = Identity { name: Some(self.program.name()), ..Identity::default() };
        Box::pin(std::future::ready(Ok(identity)))
    }

    fn read(&mut self) -> Answer<'_, Report> {
        Box::pin(async {
            let output = self.program.run(&["read"]).await?;
            let all: All = serde_json::from_slice(&output).map_err(|e| self.nonsense("read", &e))?;
            Ok(report(all, clock::now()))
        })
    }

    fn state<'a>(&'a mut self, outlet: &'a OutletId) -> Answer<'a, PowerState> {
        Box::pin(async {
            let output = self.program.run(&["status", outlet.as_str()]).await?;
            let status: Status = serde_json::from_slice(&output).map_err(|e| self.nonsense("status", &e))?;
            Ok(status.state)
        })
    }

    fn switch<'a>(&'a mut self, outlet: &'a OutletId, to: Switch) -> Answer<'a, ()> {
        Box::pin(async move { self.program.run(&[to.as_str(), outlet.as_str()]).await.map(drop) })
    }
}

fn report(all: All, at: Moment) -> Report {
    let outlet = |one: One| Outlet {
        id: OutletId::new(&one.id),
        name: one.name.filter(|n| !n.is_empty()),
        feed: feed(&one.measured, at),
        state: one.state,
        switchable: one.switchable.unwrap_or(true),
    };
    Report { total: feed(&all.total, at), outlets: all.outlets.into_iter().map(outlet).collect(), ..Report::default() }
}

fn feed(measured: &Measured, at: Moment) -> Feed {
    // Nothing is known of the meter behind a program that doesn't say.
    let percent = measured.error_percent.filter(|p| (0.0..=100.0).contains(p)).unwrap_or(5.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100, checked above")]
    let error = Ratio::from_ppm((percent * 1e4) as u32);
    let milli = |v: f64| {
        let v = (v * 1e3).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against the range")]
        (0.0..=f64::from(u32::MAX)).contains(&v).then_some(v as u32)
    };
    Feed {
        power: measured.watts.and_then(Power::from_watts).map(|value| figure(value, at, error)),
        // The same conversion serves watt-hours: a watt-hour is 3600 J.
        energy: measured
            .watt_hours
            .and_then(|wh| Power::from_watts(wh * 3600.0))
            .map(|joules| figure(Energy::from_uj(joules.uw()), at, error)),
        energy_step: None,
        current_ma: measured.amperes.and_then(milli).map(|value| figure(value, at, error)),
        voltage_mv: measured.volts.and_then(milli).map(|value| figure(value, at, error)),
    }
}

fn figure<T>(value: T, at: Moment, error: Ratio) -> Figure<T> {
    Figure { value, at, error, source: Cow::Borrowed("command") }
}

fn deadline() -> Period {
    Period::new(Duration::from_secs(10))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

    /// A device whose program is this shell script.
    fn device(dir: &tempfile::TempDir, script: &str, change: impl FnOnce(&mut CommandConfig)) -> CommandDevice {
        let program = dir.path().join("pdu");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut config: CommandConfig = toml::from_str(&format!("program = {program:?}")).unwrap();
        change(&mut config);
        CommandDevice::new(config).unwrap()
    }

    fn outlet() -> OutletId {
        OutletId::new("3")
    }

    #[tokio::test]
    async fn a_script_switches_and_tells_how_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"
cd "$(dirname "$0")"
case "$1" in
    on|off) echo "$1" > "outlet-$2" ;;
    status) echo "{\"state\": \"$(cat outlet-$2)\"}" ;;
    read) echo '{"total": {"watts": 120.5, "watt-hours": 1.5, "error-percent": 2},
                 "outlets": [{"id": "3", "name": "edge1", "state": "off", "watts": 0, "amperes": -1, "volts": 230.1}]}' ;;
esac"#;
        let mut device = device(&dir, script, |_| {});
        device.switch(&outlet(), Switch::Off).await.unwrap();
        assert_eq!(device.state(&outlet()).await.unwrap(), PowerState::Off);
        device.switch(&outlet(), Switch::On).await.unwrap();
        assert_eq!(device.state(&outlet()).await.unwrap(), PowerState::On);
        let report = device.read().await.unwrap();
        let power = report.total.power.unwrap();
        assert_eq!((power.value.uw(), power.error), (120_500_000, Ratio::from_percent(2)));
        assert_eq!(report.total.energy.unwrap().value.uj(), 5_400_000_000);
        let feed = &report.outlets[0].feed;
        assert_eq!(feed.power.as_ref().unwrap().value, Power::ZERO, "0 W was measured");
        assert_eq!((feed.current_ma.is_none(), feed.voltage_mv.as_ref().unwrap().value), (true, 230_100));
    }

    #[tokio::test]
    async fn the_environment_is_clean_and_secrets_are_in_it_but_never_in_errors() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "hunter2\n").unwrap();
        let script =
            r#"env > "$(dirname "$0")/env"; test "$1" = on || { echo "login with $PASSWORD failed" >&2; exit 7; }"#;
        let mut device = device(&dir, script, |c| {
            c.secrets.insert("PASSWORD".into(), SecretSource::File(secret));
            c.env.insert("HOST".into(), "10.0.0.1".into());
        });
        device.switch(&outlet(), Switch::On).await.unwrap();
        let seen = std::fs::read_to_string(dir.path().join("env")).unwrap();
        let mut names: Vec<_> = seen.lines().filter_map(|l| l.split_once('=')).map(|(name, _)| name).collect();
        // The shell adds PWD and some shells more of their own.
        names.retain(|n| !["PWD", "OLDPWD", "SHLVL", "_"].contains(n));
        names.sort_unstable();
        assert_eq!(names, ["HOST", "LANG", "PASSWORD", "PATH"]);
        let error = device.switch(&outlet(), Switch::Off).await.unwrap_err().to_string();
        assert!(error.ends_with("refused off 3: exit status: 7: login with *** failed"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let script = "cd \"$(dirname \"$0\")\"; mkfifo alive; (exec 3>alive; sleep 600) & wait";
        let mut device = device(&dir, script, |c| c.deadline = Period::new(Duration::from_millis(500)));
        let error = device.read().await.unwrap_err();
        assert!(matches!(error, DeviceError::Timeout { .. }), "{error}");
        // Its grandchild holds the pipe open for writing. Once it is dead, reading ends at once.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        let mut pipe =
            std::fs::OpenOptions::new().read(true).custom_flags(flags).open(dir.path().join("alive")).unwrap();
        let dead = async {
            while pipe.read(&mut [0; 8]).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), dead).await.unwrap();
    }

    #[tokio::test]
    async fn output_without_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut device = device(&dir, "exec cat /dev/zero", |_| {});
        let error = device.read().await.unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
    }

    #[tokio::test]
    async fn nonsense_is_an_error_and_never_a_state() {
        let dir = tempfile::tempdir().unwrap();
        for answer in ["", "on", "{\"state\": \"of\"}", "{\"state\": \"off\"", "{\"sate\": \"off\"}"] {
            let mut device = device(&dir, &format!("cat <<'X'\n{answer}\nX"), |_| {});
            let got = device.state(&outlet()).await;
            assert!(matches!(got, Err(DeviceError::Nonsense { .. })), "{answer}: {got:?}");
        }
        let mut config: CommandConfig = toml::from_str("program = \"/nonexistent/pdu\"").unwrap();
        let error = CommandDevice::new(config.clone()).unwrap().read().await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/pdu"), "{error}");
        config.program = "pdu".into();
        assert!(CommandDevice::new(config).is_err());
    }
}
