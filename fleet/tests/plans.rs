//! Plans through the daemon: made-up agents tell of their machines, and operators ask what should become of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/streaming.rs"]
mod streaming;

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use daemon::{Agent, Daemon, hello, now_ms, run};
use ebbtide_fleet::decide::Mode;
use streaming::{Machine, at};

const INVENTORY: &str = "
    [[node]]
    name = 'a'
    pool = 'compute'
    watts = [60, 100]
    switchable = true
    wake-proven = true
    [[node]]
    name = 'b'
    pool = 'compute'
    watts = [60, 100]
    switchable = true
    wake-proven = true
    [[workload]]
    name = 'web-*'
    cpus = 0.5
    movable = true
";

const POLICY: &str = "
    horizon-s = 86400
    min-on-s = 0
    sleep-after-s = 0
    stale-after-s = 30
";

async fn daemon() -> Daemon {
    let folder = tempfile::tempdir().unwrap().keep();
    let (inventory, policy) = (folder.join("inventory.toml"), folder.join("policy.toml"));
    std::fs::write(&inventory, INVENTORY).unwrap();
    std::fs::write(&policy, POLICY).unwrap();
    Daemon::plain(move |config| {
        config.plan.mode = Mode::Recommend;
        config.plan.every_s = 1;
        config.plan.settle_s = 20;
        (config.plan.inventory, config.plan.policy) = (Some(inventory), Some(policy));
    })
    .await
}

async fn ebbtide(daemon: &Daemon, args: &[&str]) -> Output {
    let program: PathBuf = env!("CARGO_BIN_EXE_ebbtide").into();
    let fleet = format!("http://{}", daemon.at.grpc);
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let run = move || std::process::Command::new(program).args(["--fleet", &fleet]).args(args).output().unwrap();
    ebbtide_runtime::tasks::blocking("ebbtide", run).await.unwrap()
}

async fn json(daemon: &Daemon, args: &[&str]) -> serde_json::Value {
    let output = ebbtide(daemon, &[args, &["-o", "json"]].concat()).await;
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", String::from_utf8_lossy(&output.stderr)))
}

async fn text(daemon: &Daemon, args: &[&str]) -> String {
    let output = ebbtide(daemon, args).await;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The plan that stands, once it does something, or nothing.
async fn plan_with(daemon: &Daemon, actions: usize) -> serde_json::Value {
    let mut last = serde_json::Value::Null;
    for _ in 0..300 {
        let output = ebbtide(daemon, &["plan", "-o", "json"]).await;
        if output.status.success() {
            last = serde_json::from_slice(&output.stdout).unwrap();
            if last["actions"].as_array().unwrap().len() == actions {
                return last;
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("no plan with {actions} actions: {last:#}");
}

#[test]
fn a_fleet_is_told_what_it_needs_and_why() {
    run(async {
        let daemon = daemon().await;
        let early = ebbtide(&daemon, &["plan"]).await;
        assert_eq!(early.status.code(), Some(1));
        let said = String::from_utf8_lossy(&early.stderr).into_owned();
        assert!(said.contains("there is no plan yet"), "{said}");
        // an empty fleet has none, however long one waits
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let page = daemon.page("/metrics").await;
        assert!(page.contains("# TYPE ebbtide_fleet_plan_power_watts gauge"), "{page}");
        assert!(!page.contains("ebbtide_fleet_plan_power_watts{"), "{page}");

        let _a = Machine::start(&daemon, "a", 70, &[("web-1", 400), ("web-2", 300)]).await;
        let b = Machine::start(&daemon, "b", 95, &[("web-3", 200)]).await;
        let _c = Machine::start(&daemon, "c", 90, &[("db", 100)]).await;

        let plan = plan_with(&daemon, 3).await;
        let kinds: Vec<&str> =
            plan["actions"].as_array().unwrap().iter().map(|a| a["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["cordon", "move", "power-off"]);
        let moved = &plan["actions"][1];
        assert_eq!((moved["node"].as_str(), moved["to"].as_str()), (Some("b"), Some("a")));
        assert_eq!(moved["workload"], "container/web-3");
        assert_eq!((&plan["mode"], &plan["violations"]), (&"recommend".into(), &serde_json::json!([])));
        let watts = |key: &str| plan[key].as_u64().unwrap();
        assert!(
            watts("bound_uw") <= watts("after_uw") && watts("after_uw") + 40_000_000 < watts("before_uw"),
            "{plan:#}"
        );
        let id = plan["id"].as_u64().unwrap().to_string();

        let shown = text(&daemon, &["plan"]).await;
        for part in ["recommended", "move container/web-3 from b to a", "power b off", "on to off"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let why = text(&daemon, &["explain", "node", "b"]).await;
        assert!(why.starts_with("b goes off: its 1 workloads fit elsewhere"), "{why}");
        let why = text(&daemon, &["explain", "node", "c"]).await;
        assert!(why.contains("nothing can power it off and on"), "{why}");
        let why = text(&daemon, &["explain", "workload", "web-3"]).await;
        assert!(why.starts_with("container/web-3 moves from b to a"), "{why}");
        let why = text(&daemon, &["explain", "action", "3", "--plan", &id]).await;
        assert!(why.starts_with("3  power   b off") && why.contains("waits for 1, 2"), "{why}");
        let why = json(&daemon, &["explain", "plan", &id]).await;
        assert!(why["headline"].as_str().unwrap().starts_with("saves "), "{why}");
        for (args, says) in [
            (vec!["explain", "node", "nowhere"], "knows no node \"nowhere\""),
            (vec!["explain", "workload", "web"], "say which"),
            (vec!["explain", "action", "9"], "has no action 9"),
            (vec!["plan", "--id", "4711"], "there is no plan 4711"),
            (vec!["plan", "--pool", "nowhere"], "there are compute"),
            (vec!["what-if", "--remove-node", "nowhere"], "there is no such node"),
        ] {
            let output = ebbtide(&daemon, &args).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && said.contains(says), "{args:?}: {said}");
        }

        let other = json(&daemon, &["what-if", "--remove-node", "a"]).await;
        assert_eq!(other["then"]["unplaced"], serde_json::json!([]), "b has room: {other:#}");
        assert_eq!(other["then"]["actions"].as_array().unwrap().len(), 2, "both are placed: {other:#}");
        let new = daemon.folder.path().join("new.toml");
        std::fs::write(&new, "[[node]]\nname = 'tiny'\ncpus = 4\nmemory = '8GiB'\nwatts = [5, 12]\n").unwrap();
        let other = json(&daemon, &["what-if", "--add-node", new.to_str().unwrap(), "--price", "0.40"]).await;
        assert!(other["change_uw"].as_i64().unwrap() < 0, "a thrifty node saves: {other:#}");

        let again = json(&daemon, &["replay", "decision", &id]).await;
        assert_eq!(again["same"], true, "{again}");
        assert!(text(&daemon, &["plan", "--list"]).await.contains(&id));
        let page = daemon.page("/plan").await;
        assert!(page.contains("power <a href=\"/node/b\">b</a> off"), "{page}");
        let page = daemon.page("/metrics").await;
        assert!(page.contains("ebbtide_fleet_plan_actions{do=\"power-off\"} 1"), "{page}");
        assert!(page.contains("ebbtide_fleet_plan_recommended 1"), "{page}");

        // nothing is heard of b any more: that it is idle is not known
        drop(b);
        let plan = plan_with(&daemon, 0).await;
        let b = plan["nodes"].as_array().unwrap().iter().find(|n| n["name"] == "b").unwrap();
        assert_ne!(b["after"], "off", "{b}");
        daemon.stop().await;
    });
}

#[test]
fn what_was_decided_outlives_the_daemon() {
    run(async {
        let daemon = daemon().await;
        let a = Machine::start(&daemon, "a", 70, &[("web-1", 400)]).await;
        let b = Machine::start(&daemon, "b", 95, &[]).await;
        let plan = plan_with(&daemon, 2).await;
        let id = plan["id"].as_u64().unwrap();
        drop((a, b));
        let folder = daemon.stop().await;
        let archive = ebbtide_fleet::decide::archive::Archive::open(&folder.path().join("data")).unwrap();
        let decision = archive.decision(id).unwrap().expect("it is kept");
        assert!(decision.replay().is_ok());
        assert_eq!(decision.plan.inputs, plan["digest"].as_str().unwrap());
        let learned = archive.learned().unwrap().expect("what was learned is kept at the end");
        assert!(learned.nodes.contains_key(&ebbtide_proto::NodeId::new("a").unwrap()));
    });
}

/// Two hours of two machines of which one would have done, told afterwards as an agent does that was offline.
#[test]
fn what_would_have_been_saved_is_told_from_the_store() {
    run(async {
        let daemon = daemon().await;
        let began = (now_ms() / 300_000 - 24) * 300_000;
        for (name, watts, containers) in [("a", 70, &[("5e1f:web-1", 400)][..]), ("b", 95, &[("0c77:web-2", 300)])] {
            let mut agent = Agent::join(daemon.connect().await, hello(name, 7)).await.unwrap();
            for seq in 1..=120 {
                agent.send(&at(seq, began, began + seq * 60_000, watts, containers)).await;
                agent.acked(seq).await.unwrap();
            }
        }
        let folder = daemon.stop().await;
        let inventory = folder.path().join("inventory.toml");
        std::fs::write(&inventory, INVENTORY.replace("pool =", "cpus = 4\n    pool =")).unwrap();
        let program: PathBuf = env!("CARGO_BIN_EXE_ebbtide-fleet").into();
        let data = folder.path().join("data");
        let run = |more: &[&str]| {
            let mut command = std::process::Command::new(&program);
            command.arg("replay").arg("--from").arg(&data).arg("--inventory").arg(&inventory);
            command.args(more).output().unwrap()
        };
        let moment = |ms: u64| jiff::Timestamp::from_millisecond(ms.cast_signed()).unwrap().to_string();
        let span = ["--since", &moment(began), "--until", &moment(began + 24 * 300_000)];
        let output = run(&[&span[..], &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let replayed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |key: &str| replayed[key].as_f64().unwrap();
        // 165 W for two hours; one of the two machines goes off after its time to stay on
        assert!((of("as_it_was_kwh") - 0.33).abs() < 0.02, "{replayed:#}");
        assert!(of("saved_kwh") > 0.05 && of("saved_pct") < 60.0, "{replayed:#}");
        let output = run(&span);
        assert!(String::from_utf8_lossy(&output.stdout).contains("2 nodes and 2 workloads"), "{output:?}");

        std::fs::write(&inventory, "[[node]]\nname = 'nobody'\ncpus = 4\n").unwrap();
        let output = run(&[]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("no node of the inventory is in the store"));
        assert_eq!(output.status.code(), Some(1));
    });
}
