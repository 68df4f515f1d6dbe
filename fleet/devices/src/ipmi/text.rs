//! What `ipmitool` prints. Pure. Checked on recorded outputs.

use crate::report::{Identity, PowerState};

/// The value of the line that begins with `key` and a colon.
fn value<'a>(output: &'a str, key: &str) -> Option<&'a str> {
    output.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim()).filter(|v| !v.is_empty())
    })
}

/// Of `chassis status`: how the machine stands.
pub(crate) fn power_state(output: &str) -> PowerState {
    match value(output, "System Power") {
        Some("on") => PowerState::On,
        Some("off") => PowerState::Off,
        _ => PowerState::Unknown,
    }
}

/// Of `dcmi power reading`: watts now. A reading that isn't activated, and 0 W, which is what controllers without a
/// sensor say of a machine that evidently runs their answer, are absent.
pub(crate) fn dcmi_watts(output: &str) -> Option<f64> {
    if value(output, "Power reading state is") != Some("activated") {
        return None;
    }
    let (number, unit) = value(output, "Instantaneous power reading")?.split_once(' ')?;
    // the field has 16 bits; all ones is no reading
    let watts: u16 = number.parse().ok().filter(|w| (1..u16::MAX).contains(w))?;
    (unit.trim() == "Watts").then(|| f64::from(watts))
}

/// Of `mc info` and `fru print 0`, either of which may be missing.
pub(crate) fn identity(controller: &str, fru: &str) -> Identity {
    let text = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| value(fru, key).or_else(|| value(controller, key)));
        let found = found.filter(|v| !v.starts_with("Unknown"));
        found.map(|v| v.chars().filter(|c| !c.is_control()).take(128).collect())
    };
    Identity {
        vendor: text(&["Product Manufacturer", "Manufacturer Name"]),
        model: text(&["Product Name"]),
        serial: text(&["Product Serial"]),
        firmware: text(&["Firmware Revision"]),
        name: None,
    }
}

/// What was wrong, by what `ipmitool` says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// Wrong user, password or privilege.
    Denied,
    /// The controller doesn't know the command.
    Unsupported,
    /// No controller there, or none that answers.
    Silent,
    /// It said no.
    Refused,
}

/// The lines of an error output that are about the question: with `-v` others come before them.
fn about_it(stderr: &str) -> impl Iterator<Item = &str> {
    const BEFORE: [&str; 4] =
        ["Loading IANA PEN", "Running Get ", "Invalid completion code received", "Discovered IPMB address"];
    let lines = stderr.lines().map(str::trim).filter(|l| !l.is_empty());
    lines.filter(|line| !BEFORE.iter().any(|b| line.starts_with(b)))
}

/// Sorts an error output.
pub(crate) fn complaint(stderr: &str) -> Complaint {
    let says = |phrases: &[&str]| about_it(stderr).any(|line| phrases.iter().any(|p| line.contains(p)));
    if says(&[
        "unauthorized name",
        "HMAC is invalid",
        "nvalid role",
        "nsufficient privilege",
        "Set Session Privilege Level",
    ]) {
        Complaint::Denied
    } else if says(&["Invalid command"]) {
        Complaint::Unsupported
    } else if says(&["Unable to establish", "Could not open", "Address lookup"]) {
        Complaint::Silent
    } else {
        Complaint::Refused
    }
}

/// The lines that say something to people, shortened.
pub(crate) fn gist(stderr: &str) -> String {
    let mut lines: Vec<&str> = about_it(stderr).collect();
    // the last ones are the outcome
    let from = lines.len().saturating_sub(2);
    let gist = lines.split_off(from).join("; ");
    gist.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RECORDED: &str = include_str!("../../tests/ipmi/dcmi-outputs.txt");

    fn recorded(title: &str) -> &'static str {
        let at = RECORDED.find(title).unwrap();
        RECORDED[at..].split("\n== ").next().unwrap()
    }

    #[test]
    fn recorded_outputs_give_their_watts() {
        assert_eq!(dcmi_watts(recorded("ipmitool dcmi power reading\n")), Some(2578.0));
        assert_eq!(dcmi_watts(recorded("ipmitool dcmi power reading (dual EPYC")), Some(102.0));
        assert_eq!(dcmi_watts(recorded("ipmi-dcmi")), None, "another tool's output is none of ours");
    }

    #[test]
    fn what_is_not_activated_or_zero_is_absent() {
        let good = recorded("ipmitool dcmi power reading (dual EPYC");
        assert_eq!(dcmi_watts(&good.replace(": activated", ": deactivated").replace("activated", "deactivated")), None);
        for bad in ["0 Watts", "65535 Watts", "-1 Watts", "102 mW", "102", "", "99999999999 Watts"] {
            assert_eq!(dcmi_watts(&good.replace("102 Watts", bad)), None, "{bad}");
        }
    }

    #[test]
    fn only_off_is_off() {
        let status = |state| format!("System Power         : {state}\nPower Overload       : false\n");
        assert_eq!(power_state(&status("on")), PowerState::On);
        assert_eq!(power_state(&status("off")), PowerState::Off);
        assert_eq!(power_state(&status("unknown")), PowerState::Unknown);
        assert_eq!(power_state("Power Overload : off\n"), PowerState::Unknown);
    }

    #[test]
    fn complaints_are_told_apart() {
        let after = |line: &str| {
            format!(
                "Loading IANA PEN Registry...\nInvalid completion code received: Invalid command\nDiscovered IPMB address 0x0\n{line}\n"
            )
        };
        let session = "> RAKP 2 HMAC is invalid\nError: Unable to establish IPMI v2 / RMCP+ session";
        for (line, expected) in [
            (session, Complaint::Denied),
            ("Error: Unable to establish IPMI v2 / RMCP+ session", Complaint::Silent),
            ("DCMI request failed because: Invalid command (c1)", Complaint::Unsupported),
            ("DCMI request failed because: Insufficient privilege level (d4)", Complaint::Denied),
            ("Set Chassis Power Control to Cycle failed: Command not supported in present state", Complaint::Refused),
        ] {
            assert_eq!(complaint(&after(line)), expected, "{line}");
        }
        assert_eq!(gist(&after("It failed")), "It failed");
    }

    #[test]
    fn a_controller_says_who_made_it() {
        let mc = "Device ID                 : 32\nFirmware Revision         : 2.84\nManufacturer Name         : Unknown (0x123)\n";
        let fru = " Product Manufacturer  : ACME\n Product Name          : R2\n Product Serial        : 7\n";
        let got = identity(mc, fru);
        assert_eq!((got.vendor.as_deref(), got.firmware.as_deref()), (Some("ACME"), Some("2.84")));
        assert_eq!(identity(mc, "").vendor, None);
    }

    proptest! {
        #[test]
        fn no_output_panics_or_makes_zero_of_nothing(text in "(Instantaneous power reading|Power reading state is|System Power|[ :a-z0-9\\n]){0,40}") {
            prop_assert!(dcmi_watts(&text).is_none_or(|w| w > 0.0));
            power_state(&text);
            identity(&text, &text);
            complaint(&text);
            prop_assert!(gist(&text).len() <= 200);
        }
    }
}
