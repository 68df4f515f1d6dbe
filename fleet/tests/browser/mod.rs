//! A headless Chromium told by its DevTools protocol over a pipe: messages of JSON with a zero byte between them.
//! <https://chromedevtools.github.io/devtools-protocol/>
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    /// Of the page that is shown.
    session: Option<String>,
    last: u64,
    /// What happened on the page so far.
    pub events: Vec<Value>,
    _profile: tempfile::TempDir,
}

/// Where Chromium is. A test without one says so and ends, unless `EBBTIDE_REQUIRE_CHROMIUM` is set.
pub fn program() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&paths).flat_map(|dir| PROGRAMS.map(|name| dir.join(name))).find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("EBBTIDE_REQUIRE_CHROMIUM").is_none(), "chromium is required and not in PATH");
        eprintln!("SKIPPED: chromium is not in PATH (apt-get install chromium)");
    }
    found
}

impl Browser {
    pub fn start(program: &std::path::Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Chromium takes commands at descriptor 3 and answers at 4; the shell puts the pipes there.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>&2"#, "sh"])
            .arg(program)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
            .args(["--hide-scrollbars", "--disable-sync", "--mute-audio", "--disable-extensions", "--lang=en"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let to = child.stdin.take().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (sender, from) = sync_channel(4096);
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while out.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if sender.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Self { child, to, from, session: None, last: 0, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let id = target["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": id, "flatten": true}));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Sends a command and waits for its answer; what happens meanwhile is kept in `events`.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("chromium listens");
        loop {
            let answer = self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{method}: {e}"));
            if answer["id"] == json!(id) {
                assert!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// The value of an expression, waited for if it is a promise.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true, looking again whenever the page changes; `ms` at most.
    pub fn wait_for(&mut self, expression: &str, ms: u32) {
        let wait = format!(
            "new Promise((yes, no) => {{
                const look = () => {{ if ({expression}) {{ watch.disconnect(); yes(true); }} }};
                const watch = new MutationObserver(look);
                watch.observe(document, {{subtree: true, childList: true, characterData: true, attributes: true}});
                setTimeout(() => no(new Error('not within {ms} ms')), {ms});
                look();
            }})"
        );
        self.eval(&wait);
    }

    /// Opens an address and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        let before = self.events.len();
        self.call("Page.navigate", json!({"url": url}));
        self.wait_for_event("Page.loadEventFired", before);
    }

    pub fn wait_for_event(&mut self, method: &str, since: usize) {
        while !self.events.iter().skip(since).any(|e| e["method"] == json!(method)) {
            let event = self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{method}: {e}"));
            self.events.push(event);
        }
    }

    pub fn size(&mut self, width: u32, height: u32, mobile: bool) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", params);
    }

    pub fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        self.call(
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": value}]}),
        );
    }

    pub fn key(&mut self, key: &str, shift: bool) {
        for kind in ["rawKeyDown", "keyUp"] {
            let params = json!({"type": kind, "key": key, "code": key, "modifiers": if shift { 8 } else { 0 }});
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    pub fn mouse(&mut self, kind: &str, x: f64, y: f64) {
        let buttons = if kind == "mouseMoved" { json!("none") } else { json!("left") };
        let params = json!({"type": kind, "x": x, "y": y, "button": buttons, "clickCount": 1});
        self.call("Input.dispatchMouseEvent", params);
    }

    /// The whole page as a picture, in base 64.
    pub fn picture(&mut self) -> String {
        let params = json!({"format": "png", "captureBeyondViewport": true});
        self.call("Page.captureScreenshot", params)["data"].as_str().unwrap().to_owned()
    }

    /// Errors and warnings in the console, violated policies and failed requests among them.
    pub fn complaints(&self) -> Vec<String> {
        let events = self.events.iter().filter_map(|event| {
            let params = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
                "Runtime.consoleAPICalled" => Some(params["args"].to_string()),
                "Log.entryAdded" => Some(params["entry"].to_string()),
                _ => None,
            }
        });
        events.collect()
    }

    /// Addresses that were asked for.
    pub fn requests(&self) -> Vec<String> {
        let sent = self.events.iter().filter(|e| e["method"] == json!("Network.requestWillBeSent"));
        sent.filter_map(|e| e["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It is of no use any more, whether it hears this or not.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
