//! HTTP for a few peers on this machine, over TCP or a Unix socket.
//!
//! Limits: on each listener 32 connections at one time (more are closed unanswered), one request on each, 10 seconds
//! for all of it (60 on a Unix socket), 8 KiB of header, 8 KiB of body. RFC 9110, RFC 9112.
//!
//! A connection that fails ends alone, unlogged; when accepting fails (no file descriptors left), the next try waits
//! a moment.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, UnixListener, unix::UCred},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{net::Stream, tasks::Tasks};

pub(super) type Response = hyper::Response<Full<Bytes>>;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";

pub(super) const MAX_CONNECTIONS: usize = 32;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a command, which may have to wait for files or the directory.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The least that the HTTP library allows.
const MAX_HEADER_BYTES: usize = 8192;
const MAX_BODY_BYTES: usize = 8192;
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a request is not answered, in a line.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
}

/// Where requests come from.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// The next connection; on a Unix socket with whose it is.
    async fn accept(&self) -> io::Result<(Stream, Option<UCred>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Tcp(stream), None))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                Ok((Stream::Unix(stream), Some(peer)))
            }
        }
    }
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: &str) -> Self {
        let text = format!("{text}\n");
        Self { status, text }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        response(refusal.status, TEXT, refusal.text)
    }
}

/// Answers requests until the process ends, a drain included.
pub(super) async fn serve<A, F>(listener: Listener, answer: A, tasks: Tasks)
where
    A: Fn(Request<Incoming>, Option<UCred>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let limit = match listener {
        Listener::Tcp(_) => CONNECTION_TIMEOUT,
        Listener::Unix(_) => COMMAND_TIMEOUT,
    };
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let answer = answer.clone();
        tasks.background("admin connection", async move {
            let answered = connection(stream, move |request| answer(request, peer));
            // Whoever is that slow is not a monitor.
            let _ = timeout(limit, answered).await;
            drop(permit);
        });
    }
}

async fn connection<F>(stream: Stream, answer: impl Fn(Request<Incoming>) -> F)
where
    F: Future<Output = Response>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
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

/// The whole body of a request, or the answer to whoever sends too much of it or breaks off.
pub(super) async fn body<B>(request: Request<B>) -> Result<Bytes, Response>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(response(
            StatusCode::PAYLOAD_TOO_LARGE,
            TEXT,
            "the request is too large\n".to_owned(),
        )),
        Err(_) => Err(response(
            StatusCode::BAD_REQUEST,
            TEXT,
            "the request is not complete\n".to_owned(),
        )),
    }
}

pub(super) fn response(status: StatusCode, content: &'static str, text: String) -> Response {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content = HeaderValue::from_static(content);
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}

/// The answer to another method than these.
pub(super) fn not_allowed(methods: &'static str) -> Response {
    let text = "method not allowed\n".to_owned();
    let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
    let methods = HeaderValue::from_static(methods);
    response.headers_mut().insert(ALLOW, methods);
    response
}
