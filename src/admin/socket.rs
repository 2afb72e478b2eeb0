//! Requests that only the Unix socket answers: which path has which.
//!
//! ```text
//! POST /cached  {"login": "ann", "address": "ann+x@example.org"}, either of which may be missing
//!          200  {"login": [ ... ], "address": [ ... ]}: what is remembered of each name that would be looked up
//! POST /who     {"which": {"user": "ann", "node": "n1", "network": "192.0.2.0/24", "protocol": "imap"}, "from": 0}
//!          200  {"sessions": [ ... ], "next": 500}: a page, and where the next one begins
//! POST /orders  {}
//!          200  {"orders": [ ... ], "are_kept": true}
//! POST /kick /hold /release /drain /undrain /flush
//!          200  what was done (`act`)
//! ```
//!
//! `request` has what each of them takes.
//!
//! One that is remembered has `looked_up`, `state`, `age_ms`, and how long it still counts: `believed_ms` without
//! asking, `remembered_ms` while no server answers. Of somebody who exists all follows that the directory said, but no
//! password and no hash.
//!
//! | `state` | means |
//! | --- | --- |
//! | `kept` | that is who it is, without asking |
//! | `unknown` | nobody has that name, without asking |
//! | `memory`, `memory-unknown` | the same, but only while no server answers |
//! | `outdated` | it has changed in the directory since, so that is asked |
//! | `nothing` | the directory is asked; `reason` says why it always is |
//!
//! What is wrong with a request is a line of text with status 400, 405 or 413; 403 is for whoever may not act, 404 for a name
//! that means nobody. Who asked is logged with uid and pid, as `debug` where nothing is changed.

use hyper::{
    Method, Request, StatusCode,
    body::{Body, Bytes},
};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::net::unix::UCred;

use super::{
    account::fields,
    http::{self, Refusal, Response, not_allowed, response},
    request::{Drain, Flush, Hold, InForce, Kick, Question, Release, Undrain, Who, Whom},
};
use crate::{
    directory::{Cached, Directory},
    names::Login,
    nodes::Nodes,
    orders::{Orders, Subject},
    proto::lmtp::Address,
    sessions::Sessions,
    tasks::Tasks,
};

/// What they are answered from. Clones share it.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Of the front, with what it remembers.
    pub directory: Directory,
    /// Where homes are.
    pub nodes: Nodes,
    /// Who is on.
    pub sessions: Sessions,
    /// What was ordered.
    pub orders: Orders,
    /// Where commands are carried out.
    pub tasks: Tasks,
}

/// Who asks, and where.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub(super) peer: Option<UCred>,
    /// Whether at the socket that processes take over from each other.
    pub(super) is_at_common: bool,
}

/// The paths that are answered here.
const PATHS: [&str; 9] = [
    Drain::PATH,
    Flush::PATH,
    Hold::PATH,
    InForce::PATH,
    Kick::PATH,
    Release::PATH,
    Undrain::PATH,
    Who::PATH,
    Whom::PATH,
];

impl Requests {
    /// The answer to a request of this kind; others are given back.
    pub(super) async fn answer<B>(
        &self,
        request: Request<B>,
        caller: Caller,
    ) -> Result<Response, Request<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some(path) = PATHS.into_iter().find(|path| *path == request.uri().path()) else {
            return Err(request);
        };
        if request.method() != Method::POST {
            return Ok(not_allowed("POST"));
        }
        let body = match http::body(request).await {
            Ok(body) => body,
            Err(refusal) => return Ok(refusal),
        };
        let mut reply = self.reply(path, &body, caller).await;
        if caller.is_at_common && self.tasks.is_replaced() {
            // It may be about sessions of the other one, who has not heard of it.
            let text =
                "another process has taken this one's place meanwhile: give the command again";
            reply = Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        Ok(match reply {
            Ok(said) => response(StatusCode::OK, "application/json", said.to_string() + "\n"),
            Err(refusal) => refusal.into(),
        })
    }

    async fn reply(&self, path: &str, body: &[u8], caller: Caller) -> Result<Value, Refusal> {
        if let Some(done) = self.act(path, body, caller).await {
            return done;
        }
        match path {
            Who::PATH => {
                let who: Who = parse(body)?;
                caller.asks("who is on", &who.which);
                self.who(&who).await
            }
            InForce::PATH => {
                let all: InForce = parse(body)?;
                caller.asks("what is in force", &all);
                Ok(self.in_force())
            }
            _ => {
                let whom: Whom = parse(body)?;
                caller.asks("what is remembered", &whom);
                self.cached(&whom).await
            }
        }
    }

    fn in_force(&self) -> Value {
        let list = self.orders.list().into_iter();
        let orders: Vec<Value> = list
            .map(|(subject, order)| {
                let (word, name) = match &subject {
                    Subject::Account(name) => ("hold", Some(name.as_str())),
                    Subject::Front => ("drain proxy", None),
                    Subject::Node(name) => ("drain node", Some(name.as_str())),
                };
                let since = Timestamp::from_second(order.since).unwrap_or_default();
                json!({ "order": word, "name": name, "since": since.to_string(), "uid": order.uid })
            })
            .collect();
        json!({ "orders": orders, "are_kept": self.orders.are_kept() })
    }

    async fn cached(&self, whom: &Whom) -> Result<Value, Refusal> {
        let login = whom.login.as_deref().map(Login::parse).transpose();
        let Ok(login) = login else {
            return Err(bad_request("login: no name that could be one"));
        };
        let address = whom.address.as_deref().map(Address::parse).transpose();
        let Ok(address) = address else {
            return Err(bad_request("address: not an address"));
        };
        let mut answer = Map::new();
        if let Some(login) = login {
            let cached = self.directory.cached(&login).await;
            answer.insert("login".to_owned(), vec![self.show(&cached)].into());
        }
        if let Some(address) = address {
            let cached = self.directory.cached_recipient(&address).await;
            let forms: Vec<Value> = cached.iter().map(|one| self.show(one)).collect();
            answer.insert("address".to_owned(), forms.into());
        }
        Ok(answer.into())
    }

    fn show(&self, cached: &Cached) -> Value {
        let mut shown = Map::new();
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        put("looked_up", cached.asked.as_str().into());
        let Some(kept) = &cached.kept else {
            put("state", "nothing".into());
            if !self.directory.has_cache() {
                put("reason", "accounts come from a file".into());
            }
            return shown.into();
        };
        let state = match (&kept.who, kept.believed, kept.remembered) {
            (Some(_), Some(_), _) => "kept",
            (Some(_), None, Some(_)) => "memory",
            (Some(_), None, None) => "outdated",
            (None, Some(_), _) => "unknown",
            (None, None, _) => "memory-unknown",
        };
        put("state", state.into());
        put("age_ms", json!(kept.age.as_millis()));
        for (name, left) in [
            ("believed_ms", kept.believed),
            ("remembered_ms", kept.remembered),
        ] {
            put(name, json!(left.map(|left| left.as_millis())));
        }
        if let Some(who) = &kept.who {
            put("account", who.account.name.as_str().into());
            put("entry", who.entry.as_str().into());
            put("server", json!(who.server));
            for (name, value) in fields(&who.account, &self.nodes) {
                put(name, value);
            }
        }
        shown.into()
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| bad_request(&error.to_string()))
}

pub(super) fn bad_request(error: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, error)
}

impl Caller {
    /// Whether that is root or the process's own user.
    pub(super) fn may_act(self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        self.uid().is_some_and(|uid| uid == 0 || uid == own)
    }

    /// Leaves a line of who wants to know what, of whom.
    fn asks(self, what: &str, whom: &impl Serialize) {
        let (uid, pid) = (self.uid(), self.pid());
        let whom = serde_json::to_string(whom).unwrap_or_default();
        tracing::debug!(uid, pid, whom, "asked {what}");
    }

    pub(super) fn uid(self) -> Option<u32> {
        self.peer.map(|peer| peer.uid())
    }

    pub(super) fn pid(self) -> Option<i32> {
        self.peer.and_then(|peer| peer.pid())
    }
}
