//! Requests that only the Unix socket answers.
//!
//! ```text
//! POST /cached  {"login": "ann", "address": "ann+x@example.org"}, either of which may be missing
//!          200  {"login": [ ... ], "address": [ ... ]}: what is remembered of each name that would be looked up
//! ```
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
//! What is wrong with a request is a line of text with status 400, 405 or 413. Who asked is logged with uid and pid, as
//! `debug` where nothing is changed.

use hyper::{
    Method, Request, StatusCode,
    body::{Body, Bytes},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::unix::UCred;

use super::{
    account::fields,
    http::{self, Response, TEXT, not_allowed, response},
};
use crate::{
    directory::{Cached, Directory},
    names::Login,
    nodes::Nodes,
    proto::lmtp::Address,
};

/// What they are answered from. Clones share it.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Of the front, with what it remembers.
    pub directory: Directory,
    /// Where homes are.
    pub nodes: Nodes,
}

/// Who asks.
pub(super) struct Caller(pub(super) Option<UCred>);

/// Whom `/cached` is asked about.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whom {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) login: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
}

/// Its path.
pub(super) const CACHED: &str = "/cached";

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
        if request.uri().path() != CACHED {
            return Err(request);
        }
        if request.method() != Method::POST {
            return Ok(not_allowed("POST"));
        }
        let whom = match http::body(request).await {
            Ok(body) => serde_json::from_slice(&body),
            Err(refusal) => return Ok(refusal),
        };
        Ok(match whom {
            Ok(whom) => self.cached(&whom, &caller).await,
            Err(error) => bad_request(&error.to_string()),
        })
    }

    async fn cached(&self, whom: &Whom, caller: &Caller) -> Response {
        let login = whom.login.as_deref().map(Login::parse).transpose();
        let Ok(login) = login else {
            return bad_request("login: no name that could be one");
        };
        let address = whom.address.as_deref().map(Address::parse).transpose();
        let Ok(address) = address else {
            return bad_request("address: not an address");
        };
        tracing::debug!(
            uid = caller.uid(),
            pid = caller.pid(),
            login = whom.login,
            address = whom.address,
            "asked what is remembered"
        );
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
        let text = Value::from(answer).to_string() + "\n";
        response(StatusCode::OK, "application/json", text)
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

fn bad_request(error: &str) -> Response {
    response(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n"))
}

impl Caller {
    pub(super) fn uid(&self) -> Option<u32> {
        self.0.map(|peer| peer.uid())
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.0.and_then(|peer| peer.pid())
    }
}
