//! What was acknowledged is there exactly once, wherever the process was killed or the disk was full.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

/// Tells the child where its store is, and what it is to do.
const DIR: &str = "EBBTIDE_TEST_STORE";
const NODES: u64 = 3;
const FRAMES_AT_ONCE: u64 = 2;

/// Frame `seq` of node `n`: ten minutes, by the minute. Any figures will do as long as they are always the same.
fn frame(n: u64, seq: u64) -> Batch {
    let ticks: Vec<u64> = (0..10).map(|tick| START + ((seq - 1) * 10 + tick) * 60_000).collect();
    let values: Vec<u64> = (0..10).map(|tick| value(n, seq, tick)).collect();
    let mut batch = batch(seq, 1, ticks);
    tell(&mut batch, &zone("package-0", ZoneKind::Package, true), None, 0, &values);
    let unit = workload(WorkloadKind::Unit, &format!("svc-{}.service", seq / 50), &[]);
    tell(&mut batch, &zone("package-0", ZoneKind::Package, true), Some(&unit), 0, &values);
    batch
}

fn value(n: u64, seq: u64, tick: u64) -> u64 {
    let moments = (seq - 1) * 10 + tick;
    moments * (1_000_003 + n) + moments * moments % 1009 * 100
}

/// Energy of a node of which `frames` came.
fn energy(n: u64, frames: u64) -> u64 {
    if frames == 0 { 0 } else { value(n, frames, 9) - value(n, 1, 0) }
}

/// Connections that go on where the store is. What was told before is decoded again, as an agent would send it.
fn connect(store: &Store) -> Vec<(Connection, u64)> {
    let connection = |n: u64| {
        let connection = Connection::new(store, &format!("node-{n}"), 7);
        let acked = connection.stream.acked();
        (connection, acked)
    };
    (0..NODES).map(connection).collect()
}

fn commit_some(store: &Store, connections: &mut [(Connection, u64)]) -> Result<(), StoreError> {
    let mut records = Vec::new();
    let mut next = Vec::new();
    for (n, (connection, acked)) in (0u64..).zip(connections.iter_mut()) {
        // the last one again, as after a lost acknowledgement
        for seq in (*acked).max(1)..=*acked + FRAMES_AT_ONCE {
            records.push(connection.record(&frame(n, seq)));
        }
        next.push(*acked + FRAMES_AT_ONCE);
    }
    store.commit(records)?;
    connections.iter_mut().zip(next).for_each(|((_, acked), next)| *acked = next);
    Ok(())
}

/// Whether the store has what was acknowledged, once.
fn check(dir: &Path, acknowledged: &[u64]) {
    let store = Store::open(dir, Options::default()).unwrap();
    let acked: Vec<u64> = connect(&store).iter().map(|(_, acked)| *acked).collect();
    assert!(acked.iter().zip(acknowledged).all(|(acked, told)| acked >= told), "{acked:?} {acknowledged:?}");
    let now = START + 100 * 86_400_000;
    for sealed in [false, true] {
        if sealed {
            while store.seal(now, 2).unwrap().more {}
        }
        let request = ask(GroupBy::Node, START, now, 0);
        let found = totals(&store, &request, now);
        for (n, acked) in (0u64..).zip(&acked) {
            let name = format!("node-{n}");
            let want = energy(n, *acked);
            assert_eq!(found.get(&name).copied().unwrap_or(0), want, "{name} {acked}, sealed: {sealed}");
            if want > 0 {
                let request = QueryEnergyRequest { node: name.clone(), ..request.clone() };
                assert_eq!(totals(&store, &request, now)[&name], want);
            }
        }
    }
    let report = verify(dir).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Commits and seals until it is killed, and says what is acknowledged.
#[test]
#[ignore = "a child of the next test"]
fn goes_on_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Store::open(Path::new(&dir), Options::default()).unwrap();
    let mut connections = connect(&store);
    let sealing = store.clone();
    std::thread::spawn(move || {
        loop {
            sealing.seal(START, 2).unwrap();
        }
    });
    loop {
        commit_some(&store, &mut connections).unwrap();
        let acked: Vec<String> = connections.iter().map(|(_, acked)| acked.to_string()).collect();
        writeln!(std::io::stdout().lock(), "acknowledged {}", acked.join(" ")).unwrap();
    }
}

#[test]
fn a_process_killed_anywhere_loses_nothing_and_counts_nothing_twice() {
    let mut dir = scratch();
    let mut acknowledged = vec![0; usize::try_from(NODES).unwrap()];
    let mut dice = 12_345u64;
    for round in 1..=24 {
        let mut child = child("store::tests::crash::goes_on_until_it_is_killed", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut told = |line: &str| {
            let Some(numbers) = line.strip_prefix("acknowledged ") else { return false };
            acknowledged = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
            true
        };
        let mut left = 1 + (dice >> 61);
        while left > 0 {
            left -= u64::from(told(&lines.next().expect("the child ended by itself").unwrap()));
        }
        // not to wait for anything, but to hit it anywhere
        std::thread::sleep(Duration::from_micros(dice >> 40 & 0x3fff));
        child.kill().unwrap();
        child.wait().unwrap();
        // whole lines only: the last may be cut off
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        rest.iter().filter(|line| line.split(' ').count() == 4).take(rest.len().saturating_sub(1)).for_each(|line| {
            told(line);
        });
        check(dir.path(), &acknowledged);
        if round % 6 == 0 {
            assert!(acknowledged[0] >= 6 * FRAMES_AT_ONCE, "{acknowledged:?}");
            acknowledged.fill(0);
            dir = scratch();
        }
    }
}

/// Fills a disk of a few megabytes, and goes on when there is room again.
#[test]
#[ignore = "a child of the next test"]
fn fills_a_small_disk() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let filler = dir.join("filler");
    let data = dir.join("data");
    let store = Store::open(&data, Options::default()).unwrap();
    let mut connections = connect(&store);
    commit_some(&store, &mut connections).unwrap();
    std::fs::write(&filler, vec![0; 2 << 20]).unwrap();
    let mut rounds = 0;
    let error = loop {
        match commit_some(&store, &mut connections) {
            Ok(()) => rounds += 1,
            Err(error) => break error,
        }
        // sealing may fail as well, for the same reason
        drop(store.seal(START, 1));
    };
    assert!(matches!(error, StoreError::Sqlite { .. }), "{error}");
    assert!(rounds > 0);
    let now = START + 100 * 86_400_000;
    let good = |store: &Store, connections: &[(Connection, u64)]| {
        let found = totals(store, &ask(GroupBy::Node, START, now, 0), now);
        for (n, (connection, acked)) in (0u64..).zip(connections) {
            assert_eq!(connection.stream.acked(), *acked);
            assert_eq!(found[&format!("node-{n}")], energy(n, *acked));
        }
    };
    drop(store.seal_all(now));
    std::fs::remove_file(&filler).unwrap();
    good(&store, &connections);
    for _ in 0..5 {
        commit_some(&store, &mut connections).unwrap();
    }
    store.seal_all(now).unwrap();
    good(&store, &connections);
    let acked: Vec<u64> = connections.iter().map(|(_, acked)| *acked).collect();
    drop(connections);
    drop(store);
    check(&data, &acked);
    println!("went on");
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let dir = scratch();
    let exe = std::env::current_exe().unwrap();
    // a file system of our own, in a namespace of our own
    let script = "mount -t tmpfs -o size=5m none \"$0\" || exit 77; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(dir.path())
        .arg(exe)
        .args(["store::tests::crash::fills_a_small_disk", "--exact", "--ignored", "--nocapture"])
        .env(DIR, dir.path())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("went on"), "{output:?}");
        }
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
            panic!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        why => eprintln!("skipped: no file system of our own can be mounted here: {why:?}"),
    }
}
