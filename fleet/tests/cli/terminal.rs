//! On a terminal: colour, a spinner, the live screen. The terminal is that of script(1), which every Debian has.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::Home;
use crate::made_up::{MadeUp, Mood};

/// Runs `ebbtide` on a terminal of 100 columns; types `keys` once `until` is on it. What was on it, and the exit code.
fn on_terminal(home: &Home, args: &str, until: &str, keys: &str, no_colour: bool) -> (String, Option<i32>) {
    let line = format!("stty cols 100 rows 24; exec {} {args}", env!("CARGO_BIN_EXE_ebbtide"));
    let mut child = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm-256color")
        .env("TZ", "UTC")
        .env("HOME", home.path(""))
        .env("XDG_CONFIG_HOME", home.path("config"))
        .env("NO_COLOR", if no_colour { "1" } else { "" })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut text, mut bytes, mut typed) = (Vec::new(), [0; 4096], false);
    loop {
        let n = stdout.read(&mut bytes).unwrap();
        text.extend_from_slice(&bytes[..n]);
        if n == 0 {
            break;
        }
        if !typed && String::from_utf8_lossy(&text).contains(until) {
            stdin.write_all(keys.as_bytes()).unwrap();
            typed = true;
        }
    }
    (String::from_utf8_lossy(&text).into_owned(), child.wait().unwrap().code())
}

#[test]
fn colour_is_for_terminals_whose_owner_likes_it() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    let args = format!("nodes --fleet http://{}", fleet.address);
    let (text, code) = on_terminal(&home, &args, "\0", "", false);
    assert!(text.contains("\x1b[32mlive\x1b[0m") && text.contains("\x1b[33m"), "{text}");
    assert_eq!(code, Some(0));
    let (text, _) = on_terminal(&home, &args, "\0", "", true);
    assert!(!text.contains('\x1b') && text.contains("edge1"), "{text}");
    // it has grown with the terminal: 100 columns have room for the whole name
    assert!(text.lines().any(|l| l.starts_with("gpu-rack-17-slot-4.datacentre-n")), "{text}");
}

#[test]
fn the_live_screen_opens_answers_keys_and_leaves_the_terminal_as_it_was() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    let args = format!("top --fleet http://{}", fleet.address);
    let (text, code) = on_terminal(&home, &args, "ru2.site-b", "q", false);
    assert_eq!(code, Some(0), "{text}");
    let (on, off) = (text.find("\x1b[?1049h").unwrap(), text.rfind("\x1b[?1049l").unwrap());
    assert!(on < off && text[on..off].contains("fleet"), "{text}");
    // what can't begin is told on the terminal as it is
    let (text, code) = on_terminal(&home, "top --fleet http://127.0.0.1:1", "\0", "", false);
    assert!(code == Some(1) && text.contains("can't reach") && !text.contains("\x1b[?1049h"), "{text}");
}

#[test]
fn who_waits_for_long_sees_for_what() {
    let (fleet, home) = (MadeUp::start(Mood::Mute), Home::new());
    let args = format!("nodes --timeout 2300ms --fleet http://{}", fleet.address);
    let (text, code) = on_terminal(&home, &args, "\0", "", false);
    assert!(code == Some(1) && text.contains("asking for nodes"), "{text:?}");
    assert!(text.contains("didn't answer in time"), "{text:?}");
    // nothing of it stays
    let shown = text.rfind("asking for nodes").unwrap();
    assert!(text[shown..].contains("\x1b[2K") || text[shown..].contains("\x1b[K"), "{text:?}");
}
