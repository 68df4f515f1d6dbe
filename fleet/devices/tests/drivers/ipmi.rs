//! IPMI: ipmi_sim of OpenIPMI, whose machine can be switched, a controller with DCMI by pyghmi, and ones that fail.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ebbtide_devices::ipmi::{CipherSuite, Ipmi, IpmiConfig, Privilege};
use ebbtide_devices::{DeviceError, Driver, OutletId, Period, PowerState, SecretSource, Switch};

use crate::peers::{Peer, free_udp_port, program, python, script, secret};
use crate::{until_state, watts, within};

fn controller(port: u16, user: &str, password: &SecretSource, suite: CipherSuite) -> IpmiConfig {
    IpmiConfig {
        port,
        user: Some(user.to_owned()),
        password: Some(password.clone()),
        cipher_suite: Some(suite),
        ..IpmiConfig::at(Some("127.0.0.1"))
    }
}

/// Asks until the controller answers, at most half a minute.
async fn until_there(driver: &mut Ipmi) {
    let start = ebbtide_runtime::clock::now();
    while let Err(error) = driver.state(&OutletId::new("system")).await {
        assert!(ebbtide_runtime::clock::now().since(start) < Duration::from_secs(30), "it never came up: {error}");
    }
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What ipmi_sim is to be: one controller, whose machine is a file.
fn ipmi_sim(folder: &Path, port: u16) -> Command {
    let chassis = folder.join("chassis");
    let state = folder.join("power");
    std::fs::write(&state, "1").unwrap();
    let state = state.display();
    executable(
        &chassis,
        &format!(
            "#!/bin/sh\nwhile [ $# -gt 1 ]; do case \"$1\" in get) echo \"$2:$(cat {state})\"; exit;; set) echo $3 >{state}; exit;; esac; shift; done\n"
        ),
    );
    let lan = format!(
        "name \"node\"\nset_working_mc 0x20\n startlan 1\n  addr 127.0.0.1 {port}\n  priv_limit admin\n  allowed_auths_callback none md2 md5 straight\n  \
         allowed_auths_user none md2 md5 straight\n  allowed_auths_operator none md2 md5 straight\n  allowed_auths_admin none md2 md5 straight\n  \
         guid a123456789abcdefa123456789abcdef\n endlan\n chassis_control \"{} 0x20\"\n user 2 true \"reader\" \"s3cret\" admin 10 none md2 md5 straight\n",
        chassis.display()
    );
    std::fs::write(folder.join("lan.conf"), lan).unwrap();
    let machine = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n";
    std::fs::write(folder.join("node.emu"), machine).unwrap();
    let mut command = Command::new(program("ipmi_sim").unwrap_or_default());
    command.args(["-n", "-p"]).arg("-c").arg(folder.join("lan.conf"));
    command.arg("-f").arg(folder.join("node.emu")).arg("-s").arg(folder);
    command
}

#[tokio::test]
async fn a_machine_behind_ipmi_sim_is_switched_and_comes_back() {
    if program("ipmitool").is_none() || program("ipmi_sim").is_none() {
        return;
    }
    let (folder, port) = (tempfile::tempdir().unwrap(), free_udp_port());
    let _peer = Peer::start(&mut ipmi_sim(folder.path(), port));
    let (_kept, password) = secret("s3cret");
    let mut bmc = Ipmi::new(controller(port, "reader", &password, CipherSuite::Sha1)).unwrap();
    until_there(&mut bmc).await;
    let system = OutletId::new("system");
    let report = bmc.read().await.unwrap();
    assert_eq!((report.outlets[0].state, report.total.is_empty()), (PowerState::On, true));
    assert!(report.missing[0].contains("Insufficient privilege"), "{:?}", report.missing);
    let config = controller(port, "reader", &password, CipherSuite::Sha1);
    let mut as_admin = Ipmi::new(IpmiConfig { privilege: Privilege::Administrator, ..config }).unwrap();
    for _ in 0..2 {
        let report = as_admin.read().await.unwrap();
        assert!(report.missing[0].contains("knows no DCMI"), "{:?}", report.missing);
    }
    for (to, state) in [(Switch::Off, PowerState::Off), (Switch::Off, PowerState::Off), (Switch::On, PowerState::On)] {
        bmc.switch(&system, to).await.unwrap();
        until_state(&mut bmc, &system, state).await;
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("power")).unwrap().trim(), "1");
    let identity = bmc.identify().await.unwrap();
    assert_eq!(identity.firmware.as_deref(), Some("9.08"));

    let (_kept, wrong) = secret("wr0ng");
    let error = Ipmi::new(controller(port, "reader", &wrong, CipherSuite::Sha1)).unwrap().read().await.unwrap_err();
    assert!(matches!(error, DeviceError::Denied { .. }), "{error}");
    assert!(!error.to_string().contains("wr0ng"), "{error}");
    let nobody = Ipmi::new(controller(port, "nobody", &password, CipherSuite::Sha1)).unwrap().read().await.unwrap_err();
    assert!(matches!(nobody, DeviceError::Denied { .. }), "{nobody}");
}

#[tokio::test]
async fn a_controller_by_pyghmi_tells_its_watts() {
    let Some(python) = python("pyghmi").filter(|_| program("ipmitool").is_some()) else { return };
    for (told, expected) in [(213, Some(213.0)), (0, None)] {
        let port = free_udp_port();
        let _peer =
            Peer::start(Command::new(&python).arg(script("fake_bmc.py")).args([port.to_string(), told.to_string()]));
        let (_kept, password) = secret("s3cret");
        let mut bmc = Ipmi::new(controller(port, "reader", &password, CipherSuite::Sha1)).unwrap();
        until_there(&mut bmc).await;
        let report = bmc.read().await.unwrap();
        assert_eq!(watts(&report.total), expected, "{:?}", report.missing);
        assert_eq!(watts(&report.outlets[0].feed), expected);
        let system = OutletId::new("system");
        bmc.switch(&system, Switch::SoftOff).await.unwrap();
        until_state(&mut bmc, &system, PowerState::Off).await;
        let cycle = bmc.switch(&system, Switch::Cycle).await.unwrap_err();
        assert!(matches!(cycle, DeviceError::Refused { .. }), "{cycle}");
    }
}

#[tokio::test]
async fn a_controller_that_hangs_costs_bounded_time() {
    if program("ipmitool").is_none() {
        return;
    }
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (_kept, password) = secret("s3cret");
    let port = silent.local_addr().unwrap().port();
    let config = controller(port, "reader", &password, CipherSuite::Sha256);
    let quick = IpmiConfig { timeout: Period::new(Duration::from_secs(1)), ..config };
    let error = within(Duration::from_secs(10), Ipmi::new(quick).unwrap().read()).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
}

/// A driver that runs this script instead of ipmitool.
fn instead(folder: &Path, text: &str) -> Ipmi {
    let program = folder.join("ipmitool");
    executable(&program, &format!("#!/bin/sh\n{text}\n"));
    let password = folder.join("password");
    std::fs::write(&password, "s3cret").unwrap();
    let config = controller(623, "reader", &SecretSource::File(password), CipherSuite::Sha256);
    Ipmi::new(IpmiConfig { program, timeout: Period::new(Duration::from_secs(5)), ..config }).unwrap()
}

#[tokio::test]
async fn the_password_is_in_the_environment_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let note = format!("printf '%s|%s' \"$*\" \"$IPMI_PASSWORD\" >{}; echo 'System Power : on'", seen.display());
    let state = instead(folder.path(), &note).state(&OutletId::new("system")).await.unwrap();
    assert_eq!(state, PowerState::On);
    let words = "-v -I lanplus -H 127.0.0.1 -L OPERATOR -N 1 -R 3 -p 623 -C 17 -U reader -E chassis status|s3cret";
    assert_eq!(std::fs::read_to_string(seen).unwrap(), words);
}

#[tokio::test]
async fn a_tool_that_fails_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let flood = instead(folder.path(), "yes").read().await.unwrap_err();
    assert!(matches!(flood, DeviceError::Nonsense { .. }), "{flood}");
    let nonsense = instead(folder.path(), "echo hello").read().await.unwrap();
    assert_eq!((nonsense.outlets[0].state, nonsense.total.is_empty()), (PowerState::Unknown, true));
    let gone = IpmiConfig { program: "/nonexistent/ipmitool".into(), ..IpmiConfig::at(None) };
    let gone = Ipmi::new(gone).unwrap().read().await.unwrap_err();
    assert!(gone.to_string().contains("install it"), "{gone}");
    let no_device = instead(folder.path(), "echo 'Could not open device at /dev/ipmi0: No such file' >&2; exit 1");
    let no_device = { no_device }.read().await.unwrap_err();
    assert!(matches!(no_device, DeviceError::Unreachable { .. }), "{no_device}");
}

#[test]
fn what_cant_be_sent_is_told_when_it_is_configured() {
    let (_kept, long) = secret("0123456789012345678901");
    let error = Ipmi::new(controller(623, "reader", &long, CipherSuite::Sha256)).err().unwrap();
    assert!(error.to_string().contains("20 characters"), "{error}");
    assert!(
        toml::from_str::<IpmiConfig>("host = \"bmc\"\ncipher-suite = 0").is_err(),
        "suite 0 has no password at all"
    );
    assert!(Ipmi::new(IpmiConfig::at(Some("-x"))).is_err());
}
