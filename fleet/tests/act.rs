//! Orders and plans carried out on a machine behind a BMC and an outlet that a program plays; its agent is made up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/played.rs"]
mod played;

use std::path::Path;
use std::time::Duration;

use daemon::{Daemon, run};
use ebbtide_executor::settings::Mode;
use ebbtide_fleet::config::Config;
use ebbtide_proto::identity::Role;
use ebbtide_runtime::tasks::Tasks;
use played::{Machine, Played, agent, configure, said};

const INVENTORY: &str = "
    [[node]]
    name = 'edge'
    pool = 'compute'
    cpus = 4
    watts = [60, 120]
    wake-proven = true
    boot-s = 2
    shutdown-s = 2
    [[node]]
    name = 'base'
    pool = 'compute'
    cpus = 4
    watts = [30, 60]
    switchable = false
    [[workload]]
    name = 'web-*'
    cpus = 0.5
    movable = true
";

const POLICY: &str = "
    horizon-s = 86400
    min-on-s = 0
    min-off-s = 0
    sleep-after-s = 0
    stale-after-s = 30
";

fn rack() -> Machine {
    let rack = Machine::new();
    rack.has("inventory.toml", INVENTORY);
    rack.has("policy.toml", POLICY);
    rack
}

fn with_rack(rack: &Machine, mode: Mode) -> impl FnOnce(&mut Config) {
    configured(rack, mode, "bmc = 'bmc'", "")
}

/// With `feeds` in the feed of the machine, and `acts` about acting.
fn configured(rack: &Machine, mode: Mode, feeds: &str, acts: &str) -> impl FnOnce(&mut Config) {
    let text = format!(
        "{1}
         [plan]
         inventory = '{0}/inventory.toml'
         policy = '{0}/policy.toml'
         every-s = 1
         settle-s = 20
         [act.limits]
         settle-s = 1
         look-s = 1
         silent-s = 2
         streams-s = 5
         confirm-s = 20
         boot-s = 20
         answer-s = 30
         {acts}",
        rack.path().display(),
        rack.settings("edge", feeds)
    );
    move |config| {
        configure(config, toml::from_str(&text).unwrap());
        config.act.pools.insert("compute".to_owned(), mode);
    }
}

/// The agent of the machine, which may shut it down, and that of another that nobody switches.
async fn attended(daemon: &Daemon, rack: &Machine) -> Tasks {
    let mut tasks = Tasks::new();
    agent(daemon, &mut tasks, "edge", Played { on: Some(rack.on()), shuts_down: true, ..Played::default() });
    agent(daemon, &mut tasks, "base", Played { shuts_down: true, ..Played::default() });
    settled(daemon).await;
    tasks
}

/// Waits until the machine is off, a minute at most.
async fn goes_off(daemon: &Daemon, rack: &Machine) {
    for _ in 0..600 {
        if !rack.runs() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!rack.runs(), "{:#?}", said(daemon, &["operations", "-o", "wide"]).await);
}

/// Waits until both nodes are known to plans.
async fn settled(daemon: &Daemon) {
    for _ in 0..300 {
        let (code, text) = said(daemon, &["plan", "-o", "json"]).await;
        if code == Some(0) && text.contains("\"base\"") && text.contains("\"edge\"") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("no plan: {:?}", said(daemon, &["plan"]).await);
}

#[test]
fn an_operator_powers_a_machine_off_and_on() {
    run(async {
        let rack = rack();
        let daemon = Daemon::plain(with_rack(&rack, Mode::Observe)).await;
        let tasks = attended(&daemon, &rack).await;

        let (code, text) = said(&daemon, &["power", "off", "base"]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("nothing can power it off and on"), "{text}");
        assert!(said(&daemon, &["power", "off", "nobody"]).await.1.contains("no node \"nobody\" is known"));

        let (code, text) = said(&daemon, &["power", "off", "edge", "-o", "wide"]).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(!rack.runs());
        for step in ["close edge", "let the agent of edge deliver what it has", "shut edge down by its BMC"] {
            assert!(text.contains(step), "{step}: {text}");
        }
        let (code, text) = said(&daemon, &["power", "on", "edge", "-o", "wide"]).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(rack.runs() && text.contains("power edge on by its BMC"), "{text}");

        let (_, text) = said(&daemon, &["audit", "--node", "edge", "-o", "csv"]).await;
        assert!(text.contains("local") && text.contains("shut edge down by its BMC"), "{text}");
        let (_, text) = said(&daemon, &["operations", "-o", "json"]).await;
        let operations: serde_json::Value = serde_json::from_str(&text).unwrap();
        let states: Vec<&str> =
            operations["operations"].as_array().unwrap().iter().map(|op| op["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["done", "done", "refused"]);
        tasks.request_stop();
        daemon.stop().await;
    });
}

#[test]
fn the_dashboard_gives_the_same_orders_to_those_who_may() {
    run(async {
        let rack = rack();
        let daemon = Daemon::plain(with_rack(&rack, Mode::Observe)).await;
        let tasks = attended(&daemon, &rack).await;
        assert!(daemon.page("/node/edge").await.contains("/order/power-off?node=edge"));
        let elsewhere = daemon.form("/order/power-off", "node=edge", "http://evil.example").await;
        assert!(elsewhere.starts_with("HTTP/1.1 403"), "{elsewhere}");
        let here = "http://localhost";
        let wrong = daemon.form("/order/power-off", "node=nobody", here).await;
        assert!(wrong.starts_with("HTTP/1.1 404") && wrong.contains("nobody"), "{wrong}");
        let given = daemon.form("/order/power-off", "node=edge", here).await;
        assert!(given.starts_with("HTTP/1.1 303") && given.contains("location: /operations?id="), "{given}");
        goes_off(&daemon, &rack).await;
        let (_, text) = said(&daemon, &["audit", "--node", "edge", "-o", "csv"]).await;
        assert!(text.contains("local") && text.contains("shut edge down by its BMC"), "{text}");
        let given = daemon.form("/order/mode", "pool=compute&mode=recommend", here).await;
        assert!(given.starts_with("HTTP/1.1 303") && given.contains("location: /operations\r\n"), "{given}");
        assert!(said(&daemon, &["pool", "list"]).await.1.contains("recommend"));
        tasks.request_stop();
        daemon.stop().await;

        let daemon = Daemon::plain(|config| {
            with_rack(&rack, Mode::Observe)(config);
            config.plain_role = Role::Viewer;
        })
        .await;
        assert!(!daemon.page("/operations").await.contains("/order/"));
        let refused = daemon.form("/order/pause", "why=fun", here).await;
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("role viewer"), "{refused}");
        daemon.stop().await;
    });
}

#[test]
fn what_doesnt_go_off_is_left_alone_until_somebody_looks() {
    run(async {
        let rack = rack();
        rack.has("stuck", "");
        let daemon = Daemon::plain(with_rack(&rack, Mode::Observe)).await;
        let tasks = attended(&daemon, &rack).await;
        let (code, text) = said(&daemon, &["power", "off", "edge"]).await;
        assert_eq!(code, Some(1), "{text}");
        let heard = std::fs::read_to_string(rack.path().join("said")).unwrap();
        assert!(!heard.contains("pdu off"), "a machine that runs is not cut: {heard}");
        daemon.stop().await;
        drop(tasks);
    });
}

#[test]
fn a_pool_in_auto_powers_its_idle_machine_off_and_a_paused_fleet_does_not() {
    run(async {
        let rack = rack();
        let daemon = Daemon::plain(with_rack(&rack, Mode::Observe)).await;
        let tasks = attended(&daemon, &rack).await;
        let (code, text) = said(&daemon, &["pause", "--why", "a test"]).await;
        assert_eq!(code, Some(0), "{text}");
        let (code, text) = said(&daemon, &["pool", "set-mode", "compute", "auto"]).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("auto") && text.contains("nothing new is begun"), "{text}");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(rack.runs(), "it is paused");
        assert_eq!(said(&daemon, &["resume"]).await.0, Some(0));
        goes_off(&daemon, &rack).await;
        let (_, text) = said(&daemon, &["audit", "-o", "csv"]).await;
        assert!(text.contains("the planner") && text.contains("shut edge down by its BMC"), "{text}");
        daemon.stop().await;
        drop(tasks);
    });
}

/// Asks again and again until what is printed has `text` in it.
async fn until_said(daemon: &Daemon, args: &[&str], text: &str) -> String {
    let mut printed = String::new();
    for _ in 0..150 {
        printed = said(daemon, args).await.1;
        if printed.contains(text) {
            return printed;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{args:?} never says {text:?}: {printed}");
}

#[test]
fn plans_leave_a_locked_machine_alone_and_say_who_locked_it() {
    run(async {
        let rack = rack();
        let daemon = Daemon::plain(with_rack(&rack, Mode::Observe)).await;
        let tasks = attended(&daemon, &rack).await;
        until_said(&daemon, &["explain", "node", "edge"], "goes off").await;
        let (code, text) = said(&daemon, &["lock", "edge", "--why", "a fan is replaced"]).await;
        assert_eq!(code, Some(0), "{text}");
        let text = until_said(&daemon, &["explain", "node", "edge"], "somebody closed it").await;
        assert!(text.contains("local locked it") && text.contains("a fan is replaced"), "{text}");
        assert_eq!(said(&daemon, &["pool", "set-mode", "compute", "auto"]).await.0, Some(0));
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(rack.runs(), "it is locked");
        assert_eq!(said(&daemon, &["unlock", "edge"]).await.0, Some(0));
        goes_off(&daemon, &rack).await;
        daemon.stop().await;
        drop(tasks);
    });
}

#[test]
fn capacity_that_somebody_outside_needs_is_kept_from_plans_over_a_restart() {
    run(async {
        let rack = rack();
        let daemon = Daemon::plain(with_rack(&rack, Mode::Observe)).await;
        let tasks = attended(&daemon, &rack).await;

        for (args, code, says) in [
            (&["nobody", "--cpu", "1"][..], 1, "no node \"nobody\" is known"),
            (&["base", "--cpu", "5"], 2, "base has 4 CPUs; 5 of them can't be free"),
            (&["base", "--memory", "1GiB"], 2, "nobody said how much memory base has"),
            (&["base", "--cpu", "1", "--for", "9999d"], 2, "a year at most"),
            (&["base", "--cpu", "many"], 2, "is no number of CPUs; write 4, 0.5 or 500m"),
            (&["base"], 2, "--cpu"),
        ] {
            let (exit, text) = said(&daemon, &[&["capacity", "set"], args].concat()).await;
            assert_eq!(exit, Some(code), "{text}");
            assert!(text.contains(says), "{says}: {text}");
        }
        let set = ["capacity", "set", "base", "--cpu", "1500m", "--for", "1h", "--why", "busy hour"];
        let (code, text) = said(&daemon, &set).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("keep workloads on base to 1.5 CPUs"), "{text}");
        let told = "\"allocatable_cpu_milli\": 1500";
        let text = until_said(&daemon, &["capacity", "list", "-o", "json"], told).await;
        assert!(text.contains("busy hour") && text.contains("\"set_cpu_milli\": 1500"), "{text}");
        let text = until_said(&daemon, &["explain", "node", "base"], "busy hour").await;
        assert!(text.contains("local lets workloads use 1.5 CPUs of it until 20"), "{text}");

        // another daemon goes on from what is on disk
        drop(tasks);
        let folder = daemon.stop().await;
        let daemon = Daemon::again(folder, with_rack(&rack, Mode::Observe)).await;
        let tasks = attended(&daemon, &rack).await;
        let text = until_said(&daemon, &["capacity", "list", "-o", "json"], told).await;
        assert!(text.contains("busy hour"), "{text}");
        let (code, text) = said(&daemon, &["capacity", "set", "base", "--cpu", "1", "--for", "1s"]).await;
        assert_eq!(code, Some(0), "{text}");
        until_said(&daemon, &["operations", "-o", "json"], "its time is over").await;
        let (_, text) = said(&daemon, &["capacity", "clear", "base"]).await;
        assert!(text.contains("all of base already"), "{text}");
        let text = until_said(&daemon, &["capacity", "list", "-o", "csv"], "base,compute,4000,4000").await;
        assert!(!text.contains("busy hour"), "{text}");
        daemon.stop().await;
        drop(tasks);
    });
}

#[test]
fn in_a_closed_time_a_pool_in_auto_waits_for_approval() {
    run(async {
        let rack = rack();
        let window = "[[act.window]]
            acts = 'never'
            cron = '* * * * *'
            lasts = '2h'
            time-zone = 'Europe/Berlin'";
        let daemon = Daemon::plain(configured(&rack, Mode::Auto, "bmc = 'bmc'", window)).await;
        let tasks = attended(&daemon, &rack).await;
        let (_, text) = said(&daemon, &["pool", "list"]).await;
        assert!(text.contains("auto") && text.contains("closed"), "{text}");
        until_said(&daemon, &["explain", "node", "edge"], "goes off").await;
        until_said(&daemon, &["operations", "-o", "json"], "carry out a plan").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(rack.runs(), "it isn't time");
        let (code, text) = said(&daemon, &["approve"]).await;
        assert_eq!(code, Some(0), "{text}");
        goes_off(&daemon, &rack).await;
        daemon.stop().await;
        drop(tasks);
    });
}

#[test]
fn a_machine_without_a_bmc_is_shut_down_by_its_agent_cut_and_woken_by_its_outlet() {
    run(async {
        let rack = rack();
        rack.has("boots", "");
        let daemon = Daemon::plain(configured(&rack, Mode::Observe, "", "")).await;
        let tasks = attended(&daemon, &rack).await;
        let (code, text) = said(&daemon, &["power", "off", "edge", "-o", "wide"]).await;
        assert_eq!(code, Some(0), "{text}");
        for step in ["shut edge down by its agent", "switch the outlet of edge off"] {
            assert!(text.contains(step), "{step}: {text}");
        }
        assert!(text.contains("its agent fell silent") && text.contains("its outlet gives no power"), "{text}");
        assert!(!rack.runs() && !rack.path().join("power").exists());
        let (code, text) = said(&daemon, &["power", "on", "edge", "-o", "wide"]).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(rack.runs() && text.contains("power edge on by its outlet"), "{text}");
        daemon.stop().await;
        drop(tasks);

        // an agent that may not is not asked to
        let daemon = Daemon::plain(configured(&rack, Mode::Observe, "", "")).await;
        let mut tasks = Tasks::new();
        agent(&daemon, &mut tasks, "edge", Played { on: Some(rack.on()), ..Played::default() });
        agent(&daemon, &mut tasks, "base", Played { shuts_down: true, ..Played::default() });
        settled(&daemon).await;
        let (code, text) = said(&daemon, &["power", "off", "edge"]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("nothing can power it off and on"), "{text}");
        assert!(rack.runs());
        daemon.stop().await;
        drop(tasks);
    });
}

/// Empties a machine: what runs on it, files in its folder, goes to the other's. Notes how it was called.
const EMPTY: &str = r#"#!/bin/sh
cd "$RACK" || exit 1
echo "$0 $*" >> hooks
env > environment
case "$1" in
  drain) [ ! -e broken ] || { echo "the scheduler has lost its quorum" >&2; exit 3; }
         sleep 5; mv work-edge/* work-base/; echo "3 jobs left" ;;
  undrain) : ;;
esac
"#;

/// Plays a libvirt with the machines that are files in the folders of two hosts.
const VIRSH: &str = r#"#!/bin/sh
cd "$RACK" || exit 1
echo "virsh $*" >> hooks
[ "$1 $2 $3" = "-q -c qemu+ssh://edge/system" ] || { echo "no host $3" >&2; exit 1; }
shift 3
case "$1" in
  list) ls work-edge ;;
  migrate) [ "$*" = "migrate --live --persistent --undefinesource vm-db qemu+ssh://base/system" ] || exit 1
           sleep 6; mv work-edge/vm-db work-base/ ;;
esac
"#;

/// A machine with a program beside it, and with what runs on it and on another.
fn working_rack(program: (&str, &str), runs: &[&str]) -> Machine {
    let rack = rack();
    for folder in ["work-edge", "work-base"] {
        std::fs::create_dir(rack.path().join(folder)).unwrap();
    }
    for name in runs {
        rack.has(&format!("work-edge/{name}"), "");
    }
    rack.has_program(program.0, program.1);
    rack
}

/// The agents of both machines, with what runs on these.
async fn working(daemon: &Daemon, rack: &Machine) -> Tasks {
    let mut tasks = Tasks::new();
    let played = |on, work| Played { on, work: Some(rack.path().join(work)), shuts_down: true };
    agent(daemon, &mut tasks, "edge", played(Some(rack.on()), "work-edge"));
    agent(daemon, &mut tasks, "base", played(None, "work-base"));
    settled(daemon).await;
    tasks
}

fn runs_on(rack: &Path, name: &str) -> Vec<String> {
    let names = std::fs::read_dir(rack.join(name)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_command_drains_a_machine_before_it_is_powered_off_and_undrains_it_when_it_is_back() {
    run(async {
        let rack = working_rack(("empty.sh", EMPTY), &["a", "b", "c"]);
        let at = rack.path().display();
        let hook = format!(
            "[[act.hook]]
             nodes = ['ed*']
             drain = ['{at}/empty.sh', 'drain', '{{node}}']
             undrain = ['{at}/empty.sh', 'undrain', '{{node}}']
             env = {{ RACK = '{at}' }}"
        );
        let daemon = Daemon::plain(configured(&rack, Mode::Observe, "bmc = 'bmc'", &hook)).await;
        let tasks = working(&daemon, &rack).await;
        until_said(&daemon, &["plan", "-o", "json"], "\"workloads_before\": 3").await;
        let hooks = || std::fs::read_to_string(rack.path().join("hooks")).unwrap_or_default();

        // a command that fails says why, and the machine is as it was
        rack.has("broken", "");
        let (code, text) = said(&daemon, &["power", "off", "edge"]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("ended with 3: the scheduler has lost its quorum"), "{text}");
        until_said(&daemon, &["audit", "--node", "edge", "-o", "csv"], "let work onto edge again").await;
        assert!(runs_on(rack.path(), "work-base").is_empty());
        std::fs::remove_file(rack.path().join("broken")).unwrap();

        let (code, text) = said(&daemon, &["power", "off", "edge", "-o", "wide"]).await;
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(runs_on(rack.path(), "work-base"), ["a", "b", "c"]);
        assert!(!rack.path().join("on").exists());
        let before = hooks();
        assert!(before.ends_with("empty.sh drain edge\n"), "{before}");
        let (code, text) = said(&daemon, &["power", "on", "edge"]).await;
        assert_eq!(code, Some(0), "{text}");
        for _ in 0..150 {
            if hooks() != before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(hooks().ends_with("empty.sh undrain edge\n"), "{}", hooks());
        let environment = std::fs::read_to_string(rack.path().join("environment")).unwrap();
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !environment.contains("CARGO"), "{environment}");
        daemon.stop().await;
        drop(tasks);
    });
}

#[test]
fn virtual_machines_are_migrated_by_libvirt() {
    run(async {
        let rack = working_rack(("virsh", VIRSH), &["vm-db"]);
        let at = rack.path().display();
        let hook = format!(
            "[[act.hook]]
             nodes = ['*']
             libvirt = 'qemu+ssh://{{node}}/system'
             env = {{ RACK = '{at}', PATH = '{at}:/usr/bin:/bin' }}"
        );
        let daemon = Daemon::plain(configured(&rack, Mode::Observe, "bmc = 'bmc'", &hook)).await;
        let tasks = working(&daemon, &rack).await;
        until_said(&daemon, &["plan", "-o", "json"], "\"workloads_before\": 1").await;
        let (code, text) = said(&daemon, &["evacuate", "edge", "--lock", "-o", "wide"]).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("move vm/vm-db off edge") && text.contains("emptied and locked"), "{text}");
        assert_eq!((runs_on(rack.path(), "work-edge").len(), runs_on(rack.path(), "work-base").len()), (0, 1));
        let hooks = std::fs::read_to_string(rack.path().join("hooks")).unwrap();
        assert_eq!(hooks.matches("migrate").count(), 1, "one that is under way isn't begun again: {hooks}");
        daemon.stop().await;
        drop(tasks);
    });
}
