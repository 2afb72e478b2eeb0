//! The status page: what a process does now and has done in the last minutes, for people to look at and for programs.
//!
//! ```text
//! GET / or /status   the page; it asks for /status.json every two seconds, and for nothing anywhere else
//! GET /status.css, /status.js
//! GET /status.json   all that the page shows: an object with
//!   process, host, node, version     what it is; `node` has its name, on a node
//!   now, started                     seconds since 1970
//!   ready, trouble                   as /readyz
//!   window_s                         how far back "recent" and the times of stages go: five minutes, less after a start
//!   sessions, connections, memory, descriptors, panics, certificates, directory, delivery
//!   nodes                            of the front's table: name, state, sessions, links_ready, open
//!   counts                           tables of counters; each row with `total` since the start and `recent`
//!   stages                           how often and how long, with p50_s, p95_s, p99_s in seconds
//!   history                          times, and curves with a value for each
//! ```
//!
//! A node's `state` is `up`, `down` (nothing but failures lately), `troubled` (some, or connections that lead to nothing) or `quiet`
//! (nobody wanted it); where it is probed, that decides over up and down.
//!
//! It changes nothing and names no user and no client: TCP has no access control. Nothing is loaded from elsewhere, which
//! the page's own policy forbids as well. Limits: a sample every five seconds, for five minutes.

mod ask;
mod figures;
mod history;

use std::sync::{Arc, Mutex, PoisonError};

use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use serde_json::{Value, json};
use tokio::sync::watch;

pub use self::ask::{Place, StatusError, figures_at};
use self::{
    figures::Figures,
    history::{History, PERIOD, Sample, full, number},
};
use super::http::{Response, response};
use crate::{
    metrics::Metrics,
    names::{NodeName, Protocol},
    nodes::Nodes,
    tasks::Tasks,
};

/// The page and its parts, but for the figures: path, type, content.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page.html")),
    (
        "/status",
        "text/html; charset=utf-8",
        include_str!("page.html"),
    ),
    (
        "/status.css",
        "text/css; charset=utf-8",
        include_str!("status.css"),
    ),
    (
        "/status.js",
        "text/javascript; charset=utf-8",
        include_str!("status.js"),
    ),
];

/// The path of the figures.
pub(super) const FIGURES: &str = "/status.json";

/// What the page may load and do: its own files, and an icon that it has with it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Which process it is about.
#[derive(Clone, Debug)]
pub enum About {
    /// A front, with its nodes as they are now.
    Front(watch::Receiver<Nodes>),
    /// A node, with its name.
    Node(NodeName),
}

/// What a process tells of itself. Clones share the last minutes.
#[derive(Clone)]
pub struct Status {
    pub(super) metrics: Metrics,
    about: About,
    host: String,
    started: f64,
    history: Arc<Mutex<History>>,
}

impl Status {
    /// Nothing has happened yet.
    pub fn new(about: About, metrics: Metrics) -> Self {
        let host = rustix::system::uname();
        Self {
            metrics,
            about,
            host: host.nodename().to_string_lossy().into_owned(),
            started: now(),
            history: Arc::default(),
        }
    }

    /// Remembers the last minutes, until the process ends.
    pub async fn watch(self, tasks: Tasks) {
        loop {
            let sample = Sample::new(now(), &self.figures());
            self.with_history(|history| history.push(sample));
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = tasks.cut_requested() => return,
            }
        }
    }

    fn figures(&self) -> Figures {
        Figures::new(self.metrics.gather())
    }

    fn with_history<T>(&self, work: impl FnOnce(&mut History) -> T) -> T {
        work(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The page, or one of its files.
    pub(super) fn file(path: &str) -> Option<Response> {
        let file = FILES.iter().find(|(name, _, _)| *name == path);
        let (_, content, text) = file?;
        Some(guarded(response(
            StatusCode::OK,
            content,
            (*text).to_owned(),
        )))
    }

    /// The figures, with the reasons why the process is not ready.
    pub(super) fn answer(&self, trouble: &[String]) -> Response {
        let text = self.json(trouble).to_string() + "\n";
        guarded(response(StatusCode::OK, "application/json", text))
    }

    fn json(&self, trouble: &[String]) -> Value {
        let figures = self.figures();
        let now = Sample::new(now(), &figures);
        self.with_history(|history| {
            let then = history.oldest().unwrap_or(&now);
            let mut answer = self.facts(&figures, trouble);
            let (process, more) = match &self.about {
                About::Front(nodes) => {
                    let nodes = self::nodes(&nodes.borrow(), &figures, &now, then);
                    let more = json!({ "nodes": nodes, "directory": directory(&figures) });
                    ("front", more)
                }
                About::Node(name) => ("node", json!({ "node": name.as_str() })),
            };
            let common = json!({
                "process": process,
                "window_s": number(history.span(&now).round()),
                "counts": now.counts(then),
                "stages": now.stages(then),
                "history": history.curves(&now),
            });
            for part in [more, common] {
                if let (Value::Object(answer), Value::Object(part)) = (&mut answer, part) {
                    answer.extend(part);
                }
            }
            answer
        })
    }

    fn facts(&self, figures: &Figures, trouble: &[String]) -> Value {
        let gauge = |name: &str| figures.sum(&full(name)).map(number);
        let certificates = figures.by(
            &full("tls_certificate_expiry_timestamp_seconds"),
            &["certificate"],
        );
        let certificates = certificates
            .iter()
            .map(|(name, expires)| json!({ "name": name.first(), "expires": number(*expires) }));
        json!({
            "host": self.host,
            "version": env!("CARGO_PKG_VERSION"),
            "now": number(now()),
            "started": number(self.started),
            "ready": trouble.is_empty(),
            "trouble": trouble,
            "sessions": protocols(figures, "sessions_open", None),
            "connections": {
                "open": gauge("connections_open"),
                "unauthenticated": gauge("connections_unauthenticated"),
                "limit": gauge("connections_limit"),
            },
            "memory": {
                "used": gauge("process_resident_memory_bytes"),
                "limit": gauge("memory_limit_bytes"),
            },
            "descriptors": { "open": gauge("process_open_fds"), "limit": gauge("process_max_fds") },
            "panics": gauge("panics_total"),
            "certificates": certificates.collect::<Vec<_>>(),
            "delivery": {
                "connections": gauge("delivery_connections_open"),
                "uncertain": gauge("delivery_uncertain_total"),
            },
        })
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status")
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

/// Seconds since 1970, to a thousandth.
fn now() -> f64 {
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    (now * 1000.0).round() / 1000.0
}

/// Sessions of each protocol, of all nodes or of one.
fn protocols(figures: &Figures, family: &str, node: Option<&str>) -> Value {
    let table = figures.by(&full(family), &["protocol", "node"]);
    let count = |protocol: Protocol| {
        let rows = table.iter().filter(|(key, _)| {
            let mut key = key.iter();
            let is_protocol = key.next().is_some_and(|one| one == protocol.as_str());
            is_protocol && node.is_none_or(|node| key.next().is_some_and(|one| one == node))
        });
        number(rows.map(|(_, value)| value).sum())
    };
    json!({ "imap": count(Protocol::Imap), "pop3": count(Protocol::Pop3) })
}

fn nodes(nodes: &Nodes, figures: &Figures, now: &Sample, then: &Sample) -> Vec<Value> {
    let ready = figures.by(&full("links_ready"), &["node"]);
    let probed = figures.by(&full("node_up"), &["node"]);
    let dialled = figures.by(&full("node_connects_total"), &["node", "result"]);
    let of = |table: &figures::Table, name: &str| table.get(&[name.to_owned()][..]).copied();
    let each = nodes.names().into_iter().map(|name| {
        let name = name.as_str();
        let (mut ok, mut failed) = (0.0, 0.0);
        for key in dialled.keys() {
            if let [node, result] = key.as_slice()
                && node == name
            {
                let sum = if result == "ok" { &mut ok } else { &mut failed };
                *sum += now.added(then, "links", &[node, result]);
            }
        }
        let (count, open) = now.opens(then, name);
        let ready = of(&ready, name).unwrap_or(0.0);
        let serves = ready > 0.0 || count > 0;
        let state = match (of(&probed, name), serves, failed > 0.0) {
            (Some(0.0), _, _) | (None, false, true) => "down",
            (_, true, true) => "troubled",
            (Some(_), _, _) | (None, true, false) => "up",
            (None, false, false) if ok > 0.0 => "troubled",
            (None, false, false) => "quiet",
        };
        json!({
            "name": name,
            "state": state,
            "sessions": protocols(figures, "node_sessions_open", Some(name)),
            "links_ready": number(ready),
            "links": { "ok": number(ok), "failed": number(failed) },
            "open": open,
        })
    });
    each.collect()
}

fn directory(figures: &Figures) -> Value {
    let servers = figures.by(&full("ldap_server_up"), &["server"]);
    let servers = servers
        .iter()
        .map(|(name, up)| json!({ "name": name.first(), "up": *up > 0.0 }));
    let followed = figures.by(&full("directory_followed"), &["by"]);
    let followed = followed
        .iter()
        .map(|(by, count)| json!({ "by": by.first(), "count": number(*count) }));
    json!({
        "servers": servers.collect::<Vec<_>>(),
        "followed": followed.collect::<Vec<_>>(),
        "stale": figures.sum(&full("directory_stale")).is_some_and(|stale| stale > 0.0),
    })
}

/// With what keeps a browser from doing more with it than showing it.
fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
