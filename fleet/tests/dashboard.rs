//! The dashboard in a real browser: nothing is complained of, nothing else is asked for, figures move, plots tell their
//! values, and nothing sticks out of a phone.
//!
//! `EBBTIDE_SCREENSHOTS=DIR` writes pictures of all pages there, for people to look at.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ebbtide_fleet::ui::{self, Dashboard};
use ebbtide_runtime::{clock, tasks::Tasks};

use browser::Browser;
use made_up::MadeUp;
use made_up::plans::MadeUpPlans;

mod browser;
mod made_up;

/// A daemon with a made-up fleet, on a thread of its own. Gone when dropped.
struct Daemon {
    address: SocketAddr,
    fleet: Arc<MadeUp>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The made-up fleet's clock, going on from its moment.
fn moving() -> u64 {
    static BEGAN: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let wall = clock::now().mono / 1_000_000;
    made_up::THEN + (wall - BEGAN.get_or_init(|| wall))
}

impl Daemon {
    fn start(empty: bool, address: SocketAddr) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let fleet = Arc::new(MadeUp { clock: moving, empty: empty.into() });
        let queries = Arc::clone(&fleet);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let tasks = Tasks::new();
                let router = ui::router(Dashboard {
                    queries,
                    plans: Arc::new(MadeUpPlans::new()),
                    control: Arc::new(made_up::control::MadeUpDeeds),
                    orders: Arc::new(made_up::control::Desk::default()),
                    version: "0.1.0",
                    clock: moving,
                    stop: tasks.shutdown(),
                });
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served.unwrap(),
                    _ = stopped => {}
                }
                tasks.finish(Duration::from_secs(5)).await;
            });
        });
        Self { address, fleet, stop: Some(stop), thread: Some(thread) }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

const PAGES: [(&str, &str); 10] = [
    ("fleet", "/"),
    ("fleet-day", "/?range=24h"),
    ("fleet-table", "/?range=6h&view=table"),
    ("node", "/node/edge1?range=6h"),
    ("node-stale", "/node/ru2"),
    ("workloads", "/workloads?by=pod"),
    ("plan", "/plan"),
    ("status", "/status"),
    ("about", "/about"),
    ("nowhere", "/nowhere"),
];

#[test]
fn pages_load_cleanly_ask_nobody_else_and_fit_a_phone() {
    let Some(program) = browser::program() else { return };
    let daemon = Daemon::start(false, any_port());
    let empty = Daemon::start(true, any_port());
    let mut browser = Browser::start(&program);
    let pictures = std::env::var_os("EBBTIDE_SCREENSHOTS").is_some();
    let mut addresses: Vec<(&str, String)> = PAGES.iter().map(|(name, path)| (*name, daemon.url(path))).collect();
    addresses.push(("empty", empty.url("/")));
    addresses.push(("empty-workloads", empty.url("/workloads?by=namespace")));
    for (name, url) in &addresses {
        for (width, height, mobile) in [(1280, 900, false), (390, 844, true)] {
            browser.size(width, height, mobile);
            for dark in [false, true].into_iter().take(if pictures { 2 } else { 1 }) {
                browser.dark(dark);
                browser.open(url);
                let wide = browser.eval("document.documentElement.scrollWidth");
                assert!(wide.as_u64().unwrap() <= width.into(), "{name} is {wide} wide on {width}");
                if browser.eval("'liveUrl' in document.body.dataset") == true {
                    browser.wait_for("document.getElementById('link').dataset.state === 'live'", 3000);
                }
                keep(&mut browser, &format!("{name}-{width}-{}", if dark { "dark" } else { "light" }));
            }
        }
    }
    let mut complaints = browser.complaints();
    complaints.retain(|text| !(text.contains("404") && text.contains("/nowhere")));
    assert!(complaints.is_empty(), "{complaints:#?}");
    let hosts = [format!("http://{}/", daemon.address), format!("http://{}/", empty.address)];
    let others: Vec<String> =
        browser.requests().into_iter().filter(|url| !hosts.iter().any(|host| url.starts_with(host))).collect();
    assert!(others.iter().all(|url| url == "about:blank"), "{others:#?}");
    assert!(browser.requests().len() > 20, "requests are seen at all");
}

#[test]
fn figures_move_and_say_since_when_they_do_not() {
    let Some(program) = browser::program() else { return };
    let daemon = Daemon::start(false, any_port());
    let mut browser = Browser::start(&program);
    browser.open(&daemon.url("/node/edge1"));
    let all = "document.querySelector('[data-live=now]').textContent + document.querySelector('[data-live^=run-w]').textContent";
    let before = browser.eval(all);
    browser.wait_for(&format!("{all} !== {before}"), 3000);
    let drawn = "document.querySelector('svg.marks path').getAttribute('d')";
    let before = browser.eval(drawn);
    browser.wait_for(&format!("{drawn} !== {before}"), 3000);

    let address = daemon.address;
    drop(daemon);
    browser.wait_for("document.getElementById('link').textContent.startsWith('disconnected since')", 10_000);
    keep(&mut browser, "disconnected");
    let _daemon = Daemon::start(false, address);
    browser.wait_for("document.getElementById('link').dataset.state === 'live'", 20_000);
}

/// Both draw bands: the server at first, the module from then on. What was before the step that is being filled stays.
#[test]
fn the_module_draws_as_the_server_does() {
    let Some(program) = browser::program() else { return };
    let daemon = Daemon::start(false, any_port());
    let mut browser = Browser::start(&program);
    browser.open(&daemon.url("/node/edge1?range=7d"));
    let drawn = "[...document.querySelectorAll('svg.marks path')].map(path => path.getAttribute('d'))";
    let served = browser.eval(&format!(
        "fetch(location.href).then(a => a.text()).then(text => {{
            const document = new DOMParser().parseFromString(text, 'text/html');
            return {drawn};
        }})"
    ));
    let read = |path: &serde_json::Value| numbers(path.as_str().unwrap());
    browser.wait_for(&format!("({drawn}).join() !== {}", join(&served)), 3000);
    let now = browser.eval(drawn);
    for (served, now) in served.as_array().unwrap().iter().zip(now.as_array().unwrap()) {
        let (served, now) = (read(served), read(now));
        assert_eq!(served.len(), now.len());
        let filled = 160;
        let apart = |(a, b): (&i64, &i64)| (a - b).abs();
        assert!(served.len() > 2 * filled, "{}", served.len());
        assert!(served.iter().zip(&now).take(2 * filled).map(apart).max().unwrap() <= 1, "the upper edge");
        assert!(
            served.iter().rev().zip(now.iter().rev()).take(2 * filled).map(apart).max().unwrap() <= 1,
            "the lower edge"
        );
    }
}

fn join(paths: &serde_json::Value) -> serde_json::Value {
    paths.as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect::<Vec<_>>().join(",").into()
}

fn numbers(path: &str) -> Vec<i64> {
    path.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect()
}

#[test]
fn the_first_node_shows_up_by_itself() {
    let Some(program) = browser::program() else { return };
    let daemon = Daemon::start(true, any_port());
    let mut browser = Browser::start(&program);
    browser.open(&daemon.url("/"));
    browser.wait_for("document.body.textContent.includes('ebbtide-agent run --fleet')", 1000);
    let before = browser.events.len();
    daemon.fleet.empty.store(false, Ordering::Relaxed);
    browser.wait_for_event("Page.loadEventFired", before);
    browser.wait_for("document.querySelector('[data-live=now]').textContent.endsWith(' W')", 1000);
}

#[test]
fn a_plot_tells_its_values_and_zooms_by_keys_and_by_pointer() {
    let Some(program) = browser::program() else { return };
    let daemon = Daemon::start(false, any_port());
    let mut browser = Browser::start(&program);
    browser.size(1280, 900, false);
    let range = "/node/edge1?from=2026-05-12T08:00:00Z&until=2026-05-12T12:00:00Z";
    browser.open(&daemon.url(range));
    let cpu = "[...document.querySelectorAll('.legend li')].find(li => li.dataset.key === 'cpu').querySelector('.v').textContent";
    let when = "document.querySelector('.when').textContent";
    let mean = browser.eval(cpu);
    browser.eval("document.querySelector('.area').focus()");
    browser.key("Home", false);
    assert_eq!(browser.eval(when), "2026-05-12 08:00:00 UTC");
    let value = browser.eval(cpu);
    assert_ne!(value, mean);
    assert!(value.as_str().unwrap().ends_with(" W"), "{value}");
    browser.key("ArrowRight", false);
    assert_eq!(browser.eval(when), "2026-05-12 08:01:00 UTC");
    browser.key("Escape", false);
    assert_eq!(browser.eval(cpu), mean);

    browser.key("Home", false);
    for _ in 0..3 {
        browser.key("PageDown", true);
    }
    keep(&mut browser, "selected");
    let before = browser.events.len();
    browser.key("Enter", false);
    browser.wait_for_event("Page.loadEventFired", before);
    let query = browser.eval("decodeURIComponent(location.search)");
    assert_eq!(query, "?from=2026-05-12T08:00:00Z&until=2026-05-12T08:31:00Z");

    browser.open(&daemon.url(range));
    let place = browser.eval("(({x, y, width, height}) => [x, y + height / 2, width])(document.querySelector('.area').getBoundingClientRect())");
    let at = |i: usize| place[i].as_f64().unwrap();
    let before = browser.events.len();
    browser.mouse("mouseMoved", at(0) + at(2) * 0.251, at(1));
    browser.mouse("mousePressed", at(0) + at(2) * 0.251, at(1));
    browser.mouse("mouseMoved", at(0) + at(2) * 0.4, at(1));
    browser.mouse("mouseMoved", at(0) + at(2) * 0.501, at(1));
    browser.mouse("mouseReleased", at(0) + at(2) * 0.501, at(1));
    browser.wait_for_event("Page.loadEventFired", before);
    let query = browser.eval("decodeURIComponent(location.search)");
    assert_eq!(query, "?from=2026-05-12T09:00:00Z&until=2026-05-12T10:01:00Z");
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}

/// A picture of the page for people, if somebody wants one.
fn keep(browser: &mut Browser, name: &str) {
    if let Some(dir) = std::env::var_os("EBBTIDE_SCREENSHOTS") {
        let file = std::path::Path::new(&dir).join(format!("{name}.png"));
        std::fs::write(file, decoded(&browser.picture())).unwrap();
    }
}

/// Bytes of base 64.
fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = text
        .bytes()
        .filter(|b| *b != b'=')
        .map(|b| u32::try_from(LETTERS.iter().position(|l| *l == b).unwrap()).unwrap())
        .collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let word = four.iter().chain([0; 4].iter()).take(4).fold(0, |word, digit| word << 6 | digit);
        bytes.extend_from_slice(&word.to_be_bytes()[1..four.len()]);
    }
    bytes
}
