//! A request of the Unix sockets to read the configuration again.
//!
//! ```text
//! POST /reload  200  {"changed": ["nodes"], "warnings": []}: in force from now on; of what sections, and what is risky in them
//!               422  {"problems": ["FILE: KEY: what is wrong"]}: nothing is taken
//!               403  to others than root and the process's own user
//!               503  the process is stopping
//! ```

use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{
    http::{Response, TEXT, not_allowed, response},
    socket::Caller,
};

/// Its path.
pub(super) const RELOAD: &str = "/reload";

/// Reloads that wait for their turn.
const WAITING: usize = 8;

/// What a reload has taken.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Taken {
    /// Names of the sections that say something else than before.
    pub changed: Vec<&'static str>,
    /// What works but should be known.
    pub warnings: Vec<String>,
}

/// What came of a reload; a line for each problem if nothing is taken.
pub type Reloaded = Result<Taken, Vec<String>>;

/// Somebody who waits for a reload.
pub type Asked = oneshot::Sender<Reloaded>;

/// The way to whoever reloads. Clones share it.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<Asked>);

impl Reloads {
    /// With its other end.
    pub fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// The answer to a request of this kind; others are given back.
    pub(super) async fn answer<B>(
        &self,
        request: Request<B>,
        caller: Caller,
    ) -> Result<Response, Request<B>> {
        if request.uri().path() != RELOAD {
            return Err(request);
        }
        if request.method() != Method::POST {
            return Ok(not_allowed("POST"));
        }
        if !caller.may_act() {
            let (uid, pid) = (caller.uid(), caller.pid());
            tracing::warn!(uid, pid, command = RELOAD, "a command was refused");
            let text = "only root and the process's own user may do that\n".to_owned();
            return Ok(response(StatusCode::FORBIDDEN, TEXT, text));
        }
        tracing::info!(uid = caller.uid(), pid = caller.pid(), "asked to reload");
        let (asked, answer) = oneshot::channel();
        let reloaded = match self.0.send(asked).await {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        let (status, body) = match reloaded {
            Some(Ok(Taken { changed, warnings })) => {
                let body = json!({"changed": changed, "warnings": warnings});
                (StatusCode::OK, body)
            }
            Some(Err(problems)) => {
                let body = json!({"problems": problems});
                (StatusCode::UNPROCESSABLE_ENTITY, body)
            }
            None => {
                let text = "the process is stopping\n".to_owned();
                return Ok(response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text));
            }
        };
        Ok(response(status, "application/json", format!("{body}\n")))
    }
}
