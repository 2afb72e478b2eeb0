//! A headless Chromium, told what to do over a pipe (the DevTools protocol, one JSON object for each message, ended by a NUL).
//!
//! It is Debian's `chromium-headless-shell`, with a profile of its own that disappears. Everything that a page asks for and
//! everything that goes wrong in it is kept ([`Browser::requests`], [`Browser::troubles`]). Waits are bounded.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::eventually;

const PATIENCE: Duration = Duration::from_secs(60);

/// One browser with one page.
#[derive(Debug)]
pub(crate) struct Browser {
    child: Child,
    pipe: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    last: u64,
    /// The addresses of all requests.
    pub(crate) requests: Vec<String>,
    /// What was said on the console as a warning or worse, exceptions, and requests that failed.
    pub(crate) troubles: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one whose window has this size and shows an empty page.
    pub(crate) fn start(width: u32, height: u32, is_dark: bool) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // It talks on descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 0</dev/null 1>&2", "sh"])
            .args(["chromium-headless-shell", "--remote-debugging-pipe"])
            // As root there is no sandbox; what it loads is ours.
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let (sender, messages) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for message in output.split(0) {
                let Ok(message) = message else { return };
                let message = serde_json::from_slice(&message).unwrap();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            pipe: child.stdin.take().unwrap(),
            child,
            messages,
            session: String::new(),
            last: 0,
            requests: Vec::new(),
            troubles: Vec::new(),
            _profile: profile,
        };
        let targets = browser.call("Target.getTargets", &json!({}));
        let targets = targets["targetInfos"].as_array().unwrap();
        let page = targets.iter().find(|target| target["type"] == "page");
        let page = &page.expect("a page")["targetId"];
        let attach = json!({ "targetId": page, "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        browser.call("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if is_dark { "dark" } else { "light" };
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.call("Emulation.setEmulatedMedia", &scheme);
        browser
    }

    /// Sends a command and gives its result.
    #[track_caller]
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut command = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = self.session.as_str().into();
        }
        let command = command.to_string() + "\0";
        self.pipe.write_all(command.as_bytes()).unwrap();
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let message = message.unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    /// Keeps what an event says of requests and troubles.
    fn note(&mut self, event: &Value) {
        let what = &event["params"];
        let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => self.requests.push(words(&what["request"]["url"])),
            Some("Log.entryAdded") => self.troubles.push(what["entry"].to_string()),
            Some("Runtime.exceptionThrown") => self.troubles.push(what.to_string()),
            Some("Runtime.consoleAPICalled") => self.troubles.push(what["args"].to_string()),
            Some("Network.loadingFailed") => self.troubles.push(what.to_string()),
            _ => {}
        }
    }

    /// Goes to a page.
    pub(crate) fn open(&mut self, address: &str) {
        let answer = self.call("Page.navigate", &json!({ "url": address }));
        assert!(answer["errorText"].is_null(), "{address}: {answer}");
    }

    /// The value of an expression.
    #[track_caller]
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", &asked);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// What the first element of a selector says.
    #[track_caller]
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let expression = format!(
            "document.querySelector({selector:?})?.textContent.replace(/\\s+/g, ' ') ?? ''"
        );
        self.eval(&expression).as_str().unwrap().to_owned()
    }

    /// Waits until an element says that.
    #[track_caller]
    pub(crate) fn says(&mut self, selector: &str, words: &str) {
        let mut last = String::new();
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(&format!("{selector} says {words:?}"), || {
                last = self.text(selector);
                last.contains(words)
            });
        }));
        assert!(told.is_ok(), "{selector} says {last:?}, not {words:?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its own group: the shell has become the browser, which has children.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
