//! What a process says about itself over HTTP, to monitors and to administrators on the same machine.
//!
//! ```text
//! TCP, Unix socket:  GET /metrics   200  the counters, Prometheus text format 0.0.4
//!                    GET /healthz   200  "ok": the process answers
//!                    GET /readyz    200  "ready", or 503 with one reason per line
//!                    GET /          200  the status page; `status` has its files and figures
//! Unix socket only:  what `socket` has, for the commands of this program (`client`)
//! ```
//!
//! TCP has no access control and nothing secret: it listens on loopback unless configuration says otherwise. It changes
//! nothing; what names somebody or acts is answered on the Unix socket alone, which only root and the front's own user
//! may open, and leaves a line in the log with who asked.
//!
//! A process that was replaced answers at a socket of its `own` for as long as it lives.
//!
//! `http` has the limits of both. `account` has the words that answers have for an account, `act` who may do what.

mod account;
mod act;
mod client;
mod http;
mod own;
mod reload;
mod request;
mod socket;
mod status;
mod who;

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hyper::{Method, Request, StatusCode};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    time::timeout,
};

pub use self::{
    account::{Fields, fields},
    client::{AskError, Peer, ask, cached, reload},
    own::{OwnSocket, has_ended, replaced},
    reload::{Asked, Reloaded, Reloads, Taken},
    request::{Drain, Flush, Hold, InForce, Kick, Question, Release, Undrain, Which, Who},
    socket::Requests,
    status::{About, Place, Status, StatusError, figures_at},
};
use self::{
    http::{Listener, Response, TEXT, not_allowed, response},
    socket::Caller,
};
use crate::tasks::Tasks;

/// Where the processes answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The front; default 127.0.0.1:9143; none: nowhere.
    pub front: Option<SocketAddr>,
    /// The front, to commands on its machine: a Unix socket; none (the default): nowhere.
    pub front_socket: Option<PathBuf>,
    /// Where the front keeps orders that outlive it; none (the default): nowhere.
    pub orders_file: Option<PathBuf>,
    /// The node; default 127.0.0.1:9144; none: nowhere.
    pub node: Option<SocketAddr>,
    /// The node, to commands on its machine; none (the default): nowhere.
    pub node_socket: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = |port| Some((Ipv4Addr::LOCALHOST, port).into());
        Self {
            front: loopback(9143),
            front_socket: None,
            orders_file: None,
            node: loopback(9144),
            node_socket: None,
        }
    }
}

const READINESS_TIMEOUT: Duration = Duration::from_secs(4);

/// Answers monitors on `listener`, through a drain as well: a balancer must be told that this process is not ready.
///
/// `readiness` gives the reasons why the process cannot serve now; none means that it can.
pub async fn serve<R, F>(listener: TcpListener, status: Status, readiness: R, tasks: Tasks)
where
    R: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Vec<String>> + Send + 'static,
{
    let answer = move |request: Request<_>, _| {
        let (status, readiness) = (status.clone(), readiness.clone());
        async move { monitor(&request, &status, readiness).await }
    };
    http::serve(Listener::Tcp(listener), answer, tasks).await;
}

/// A Unix socket of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answering {
    /// The one that processes take over from each other.
    Common,
    /// The one that is its own, once another process has the common one.
    Own,
}

/// Answers the same on a Unix socket, and requests that only a socket answers, by what they are answered from now.
pub async fn serve_socket<R, F>(
    (at, listener): (Answering, UnixListener),
    status: Status,
    readiness: R,
    (requests, reloads): (Option<watch::Receiver<Requests>>, Reloads),
    tasks: Tasks,
) where
    R: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Vec<String>> + Send + 'static,
{
    let answer = move |request: Request<_>, peer| {
        let (status, readiness) = (status.clone(), readiness.clone());
        let requests = requests.as_ref().map(|now| now.borrow().clone());
        let reloads = reloads.clone();
        async move {
            let caller = Caller {
                peer,
                is_at_common: at == Answering::Common,
            };
            let request = match reloads.answer(request, caller).await {
                Ok(response) => return response,
                Err(request) => request,
            };
            let request = match requests {
                Some(requests) => match requests.answer(request, caller).await {
                    Ok(response) => return response,
                    Err(request) => request,
                },
                None => request,
            };
            monitor(&request, &status, readiness).await
        }
    };
    http::serve(Listener::Unix(listener), answer, tasks).await;
}

/// What everybody is answered.
async fn monitor<B, R, F>(request: &Request<B>, status: &Status, readiness: R) -> Response
where
    R: Fn() -> F,
    F: Future<Output = Vec<String>>,
{
    let path = request.uri().path();
    let file = Status::file(path);
    if file.is_none() && !matches!(path, "/metrics" | "/healthz" | "/readyz" | status::FIGURES) {
        return response(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD");
    }
    if let Some(file) = file {
        return file;
    }
    let trouble = async || {
        let reasons = timeout(READINESS_TIMEOUT, readiness()).await;
        reasons.unwrap_or_else(|_| vec!["the question took too long".to_owned()])
    };
    match path {
        "/metrics" => response(
            StatusCode::OK,
            "text/plain; version=0.0.4",
            status.metrics.render(),
        ),
        status::FIGURES => status.answer(&trouble().await),
        "/readyz" => {
            let reasons = trouble().await;
            if reasons.is_empty() {
                response(StatusCode::OK, TEXT, "ready\n".to_owned())
            } else {
                let text = reasons.iter().fold(String::new(), |text, reason| {
                    text + &reason.replace(char::is_control, " ") + "\n"
                });
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
            }
        }
        _ => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
    }
}

#[cfg(test)]
mod tests;
