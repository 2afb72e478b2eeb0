//! What a process says about itself over HTTP: `/metrics`, `/healthz`, `/readyz`.
//!
//! ```text
//! GET /metrics   200  the counters, Prometheus text format 0.0.4
//! GET /healthz   200  "ok": the process answers
//! GET /readyz    200  "ready", or 503 with one reason per line
//! ```
//!
//! It has no access control and nothing secret: it listens on loopback unless configuration says otherwise. It
//! changes nothing; what acts is not here.
//!
//! Limits: 32 connections at one time (more are closed unanswered), one request on each, 10 seconds for all of it,
//! 8 KiB of header, 4 seconds for the answer of `/readyz`. RFC 9110, RFC 9112.
//!
//! A connection that fails ends alone, unlogged; when accepting fails (no file descriptors left), the next try waits
//! a moment.

use std::{
    convert::Infallible,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{metrics::Metrics, tasks::Tasks};

/// Where the processes answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The front; default 127.0.0.1:9143; none: nowhere.
    pub front: Option<SocketAddr>,
    /// The node; default 127.0.0.1:9144; none: nowhere.
    pub node: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = |port| Some((Ipv4Addr::LOCALHOST, port).into());
        Self {
            front: loopback(9143),
            node: loopback(9144),
        }
    }
}

const MAX_CONNECTIONS: usize = 32;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const READINESS_TIMEOUT: Duration = Duration::from_secs(4);
/// The least that the HTTP library allows.
const MAX_HEADER_BYTES: usize = 8192;
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers on `listener`, through a drain as well: a balancer must be told that this process is not ready.
///
/// `readiness` gives the reasons why the process cannot serve now; none means that it can.
pub async fn serve<R, F>(listener: TcpListener, metrics: Metrics, readiness: R, tasks: Tasks)
where
    R: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Vec<String>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        tasks.background("admin connection", async move {
            let answered = connection(stream, metrics, readiness);
            // Whoever is that slow is not a monitor.
            let _ = timeout(CONNECTION_TIMEOUT, answered).await;
            drop(permit);
        });
    }
}

async fn connection<R, F>(stream: TcpStream, metrics: Metrics, readiness: R)
where
    R: Fn() -> F,
    F: Future<Output = Vec<String>>,
{
    let service = service_fn(|request| {
        let answer = answer(request, &metrics, &readiness);
        async { Ok::<_, Infallible>(answer.await) }
    });
    // What a peer does wrong with HTTP is answered by the library and of no interest here.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer<R, F>(
    request: Request<Incoming>,
    metrics: &Metrics,
    readiness: &R,
) -> Response<Full<Bytes>>
where
    R: Fn() -> F,
    F: Future<Output = Vec<String>>,
{
    const TEXT: &str = "text/plain; charset=utf-8";
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return response(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let text = "method not allowed\n".to_owned();
        let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
        let methods = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, methods);
        return response;
    }
    match path {
        "/metrics" => response(
            StatusCode::OK,
            "text/plain; version=0.0.4",
            metrics.render(),
        ),
        "/readyz" => {
            let reasons = timeout(READINESS_TIMEOUT, readiness())
                .await
                .unwrap_or_else(|_| vec!["the question took too long".to_owned()]);
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

fn response(status: StatusCode, content: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content = HeaderValue::from_static(content);
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}

#[cfg(test)]
mod tests;
