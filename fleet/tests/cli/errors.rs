//! What goes wrong, how it is told, and how the program ends then.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;

use crate::made_up::{MadeUp, Mood};
use crate::{Home, Ran, golden};

fn check(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.out.is_empty(), "an error is no data: {ran:?}");
    assert!(ran.err.starts_with("error: ") && ran.err.lines().count() <= 3, "three lines at most: {ran:?}");
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is missing: {}", ran.err);
    }
}

#[test]
fn who_does_not_answer_is_named_with_what_to_do() {
    let home = Home::new();
    check(
        &home.run("nodes --fleet 127.0.0.1:1"),
        1,
        &["http://127.0.0.1:1", "connection refused", "ebbtide-fleet serve"],
    );
    check(&home.run("nodes --fleet https://127.0.0.1:1"), 2, &["--ca"]);
    check(&home.run("nodes --fleet http://fleet.invalid"), 2, &["plain text", "--insecure"]);
    check(&home.run("nodes --insecure --fleet http://fleet.invalid --timeout 5s"), 1, &["fleet.invalid"]);
    check(&home.run("nodes --fleet x:y:z"), 2, &["no address"]);

    let fleet = MadeUp::start(Mood::Down);
    let url = format!("--fleet http://{}", fleet.address);
    check(&home.run(&format!("nodes {url}")), 1, &["the store is being repaired", "ebbtide doctor"]);
    let told = home.run(&format!("nodes {url} --verbose"));
    assert!(told.err.contains("because: "), "{told:?}");
    drop(fleet);

    let fleet = MadeUp::start(Mood::Mute);
    let url = format!("--fleet http://{} --timeout 200ms", fleet.address);
    check(&home.run(&format!("nodes {url}")), 1, &["didn't answer in time", "--timeout"]);
    check(&home.run(&format!("watch {url}")), 1, &["didn't answer in time"]);
}

#[test]
fn who_is_no_fleet_is_told_so() {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let web = std::thread::spawn(move || {
        for tcp in listener.incoming().take(2) {
            let mut tcp = tcp.unwrap();
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
            // until the other side has had enough
            drop(tcp.read_to_end(&mut Vec::new()));
        }
    });
    check(&home.run(&format!("nodes --fleet http://{address} --timeout 5s")), 1, &[&address.to_string(), "9884"]);
    assert_eq!(home.run("pki init --dir .").code, Some(0));
    check(&home.run(&format!("nodes --fleet https://{address} --ca ca.pem --timeout 5s")), 1, &["doesn't speak TLS"]);
    web.join().unwrap();
}

#[test]
fn questions_that_make_no_sense_end_with_2() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    let url = format!("--fleet http://{}", fleet.address);
    check(&home.run(&format!("node edge9 {url}")), 1, &["there is no node \"edge9\"", "ebbtide nodes"]);
    check(&home.run(&format!("energy --since today --until yesterday {url}")), 2, &["is not before"]);
    check(&home.run(&format!("energy --since 100w --step 1s {url}")), 1, &["too much", "--step"]);
    check(&home.run(&format!("watch --interval 1ms {url}")), 2, &["250ms"]);
    check(&home.run(&format!("watch -o yaml {url}")), 2, &["json"]);
    check(&home.run(&format!("top --once -o json {url}")), 2, &["watch -o json"]);
    check(&home.run(&format!("top {url}")), 2, &["terminal", "--once"]);
    for wrong in
        ["nodez", "energy --since tomorrow", "workloads --by zone", "nodes -o xml", "token create --ttl 0s", ""]
    {
        let ran = home.run(wrong);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{wrong}: {ran:?}");
    }
    golden("wrong-since.txt", &home.run("energy --since 5 days").err);
}

#[test]
fn nothing_but_a_terminal_gets_colour() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    for command in ["nodes", "doctor", "top --once", "node edge1", "workloads", "--help"] {
        let ran = home.run(&format!("{command} --fleet http://{}", fleet.address));
        assert!(!ran.out.contains('\x1b') && !ran.err.contains('\x1b'), "{command}: {ran:?}");
    }
}

#[test]
fn who_reads_no_more_is_no_error() {
    let (fleet, home) = (MadeUp::start(Mood::Mixed), Home::new());
    let mut watch = home.command(&format!("watch -o json --fleet http://{}", fleet.address));
    let mut child = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[test]
fn ctrl_c_ends_with_130() {
    let (fleet, home) = (MadeUp::start(Mood::Mute), Home::new());
    let mut command = home.command(&format!("nodes --verbose --fleet http://{}", fleet.address));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    // it catches the signal once it has set itself up: seen in what the kernel says it catches
    let status = format!("/proc/{}/status", child.id());
    let catches = || {
        let file = BufReader::new(std::fs::File::open(&status).unwrap());
        let line = file.lines().map_while(Result::ok).find(|l| l.starts_with("SigCgt:")).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap() & 2 != 0
    };
    while !catches() {
        std::thread::yield_now();
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(130), ""));
}
