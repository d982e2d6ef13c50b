//! A real browser without a window, driven over the DevTools protocol.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::process::Process;
use super::{PATIENCE, eventually};

const PROGRAM: &str = "chromium-headless-shell";

/// A running browser with one page. It ends when dropped.
pub(crate) struct Browser {
    commands: tokio::sync::Mutex<Sender>,
    state: Arc<Mutex<State>>,
    session: String,
    _process: Process,
    _dir: TempDir,
}

#[derive(Default)]
struct State {
    last_id: u64,
    answers: HashMap<u64, oneshot::Sender<Value>>,
    requests: Vec<String>,
    problems: Vec<String>,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (to, from) = (dir.path().join("to"), dir.path().join("from"));
        for fifo in [&to, &from] {
            let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
            rustix::fs::mknodat(rustix::fs::CWD, fifo, kind, mode, 0).expect("a pipe");
        }
        // Open at both ends from the start, so that neither side waits for the other.
        let both = |path: &Path| OpenOptions::new().read_write(true).open_sender(path).expect("a pipe");
        let commands = both(&to);
        let received = OpenOptions::new().read_write(true).open_receiver(&from).expect("a pipe");
        // The browser expects its pipes at 3 and 4.
        let script = format!("exec {PROGRAM} \"$@\" 3<'{}' 4>'{}'", to.display(), from.display());
        let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
        let mut command = Command::new("sh");
        command.args(["-c", &script, PROGRAM, "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]);
        command.args([
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            &profile,
            "about:blank",
        ]);
        let process = Process::start("browser", &mut command, dir.path());
        let state = Arc::<Mutex<State>>::default();
        tokio::spawn(receive(received, Arc::clone(&state)));
        let mut browser =
            Self { commands: commands.into(), state, session: String::new(), _process: process, _dir: dir };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut state = self.state.lock();
            state.last_id += 1;
            let id = state.last_id;
            state.answers.insert(id, sender);
            id
        };
        let mut command = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            command["sessionId"] = self.session.clone().into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.lock().await.write_all(&bytes).await.expect("the browser reads");
        let answer = timeout(3 * PATIENCE, answer).await.unwrap_or_else(|_| panic!("no answer to {method}"));
        let answer = answer.expect("the browser runs");
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Opens `url` and waits until it is complete.
    pub(crate) async fn open(&self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'").await;
    }

    /// Value of the JavaScript `expression`, which may be a promise.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", params).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression:.300}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until `condition` is true, across navigations.
    pub(crate) async fn wait_for(&self, condition: &str) {
        eventually(condition, async || {
            let params = json!({"expression": condition, "returnByValue": true});
            let answer = self.call("Runtime.evaluate", params).await;
            answer["result"]["value"] == true
        })
        .await;
    }

    /// Sets the size of the window, in pixels, and the colour scheme.
    pub(crate) async fn show(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// Presses a key as a user does.
    pub(crate) async fn press(&self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" && key.len() == 1 { key } else { "" };
            self.call("Input.dispatchKeyEvent", json!({"type": kind, "key": key, "text": text})).await;
        }
    }

    /// A picture of the window as PNG.
    pub(crate) async fn screenshot(&self, path: &Path) {
        let answer = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = STANDARD.decode(answer["data"].as_str().expect("data")).expect("base64");
        std::fs::write(path, png).expect("a file");
    }

    /// URLs that were requested so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }

    /// Errors, policy violations and dialogs so far.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.state.lock().problems.clone()
    }
}

async fn receive(mut from: Receiver, state: Arc<Mutex<State>>) {
    let (mut buffered, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        buffered.extend_from_slice(&chunk[..read]);
        while let Some(end) = buffered.iter().position(|byte| *byte == 0) {
            let message: Vec<u8> = buffered.drain(..=end).collect();
            let message: Value = serde_json::from_slice(&message[..end]).expect("JSON");
            state.lock().take(message);
        }
    }
}

impl State {
    fn take(&mut self, message: Value) {
        if let Some(waiting) = message["id"].as_u64().and_then(|id| self.answers.remove(&id)) {
            // The one who asked may have gone.
            drop(waiting.send(message));
            return;
        }
        let params = &message["params"];
        let is_problem = match message["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                // `data:` is no request.
                if !url.starts_with("data:") {
                    self.requests.push(url.to_owned());
                }
                false
            }
            "Runtime.exceptionThrown" | "Page.javascriptDialogOpening" => true,
            "Log.entryAdded" => params["entry"]["level"] != "verbose",
            "Runtime.consoleAPICalled" => {
                ["error", "warning", "assert"].contains(&params["type"].as_str().unwrap_or_default())
            }
            _ => false,
        };
        if is_problem {
            self.problems.push(message.to_string());
        }
    }
}

/// The accessibility checker that `tests/run.sh` installs.
pub(crate) fn axe() -> String {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: run tests/run.sh", path.display()))
}
