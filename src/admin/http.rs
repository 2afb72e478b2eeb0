//! HTTP for a few peers on this machine, over TCP or a Unix socket.
//!
//! Limits: on each listener 32 connections at one time, one request on each, 10 seconds for all of it (60 on a Unix
//! socket), 8 KiB of header, 8 KiB of body. RFC 9110, RFC 9112. When all places are taken, the first connection that has not
//! asked anything yet makes room, so that nobody keeps monitors out by being silent; where all have asked, who comes is
//! closed unanswered.
//!
//! A connection that fails ends alone, unlogged; when accepting fails (no file descriptors left), the next try waits
//! a moment.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
    sync::oneshot,
    task::yield_now,
    time::{sleep, timeout},
};

use crate::{net::Stream, tasks::Tasks};

pub(super) type Response = hyper::Response<Full<Bytes>>;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";

const MAX_CONNECTIONS: usize = 32;
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
    let places = Arc::new(Places::default());
    let limit = match listener {
        Listener::Tcp(_) => CONNECTION_TIMEOUT,
        Listener::Unix(_) => COMMAND_TIMEOUT,
    };
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some((place, sent_away)) = places.enter() else {
            continue;
        };
        let answer = answer.clone();
        tasks.background("admin connection", async move {
            let answered = connection(stream, |request| {
                place.asks();
                answer(request, peer)
            });
            tokio::select! {
                // Whoever is that slow is not a monitor.
                _ = timeout(limit, answered) => {}
                _ = sent_away => {}
            }
        });
        // What it has sent already is read before the next one takes a place.
        yield_now().await;
    }
}

/// The connections of a listener.
#[derive(Default)]
struct Places(Mutex<Present>);

#[derive(Default)]
struct Present {
    next: u64,
    /// By when they came.
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    has_asked: bool,
    /// Dropped to send it away.
    _stays: oneshot::Sender<()>,
}

/// A connection's place, until dropped.
struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    /// A place, and what ends when it is needed for another; none if all have asked something.
    fn enter(self: &Arc<Self>) -> Option<(Place, oneshot::Receiver<()>)> {
        let mut present = self.lock();
        if present.connections.len() >= MAX_CONNECTIONS {
            let mut connections = present.connections.iter();
            let (first, _) = connections.find(|(_, connection)| !connection.has_asked)?;
            let first = *first;
            present.connections.remove(&first);
        }
        let number = present.next;
        present.next = number.wrapping_add(1);
        let (stays, sent_away) = oneshot::channel();
        let connection = Connection {
            has_asked: false,
            _stays: stays,
        };
        present.connections.insert(number, connection);
        let places = Arc::clone(self);
        Some((Place { places, number }, sent_away))
    }

    /// Every change under it is whole.
    fn lock(&self) -> MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Its request has come: it keeps its place.
    fn asks(&self) {
        let mut present = self.places.lock();
        if let Some(connection) = present.connections.get_mut(&self.number) {
            connection.has_asked = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().connections.remove(&self.number);
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::Semaphore,
    };

    use super::*;

    /// A server whose answers wait until `gate` lets them; `asked` gets a permit of each request.
    async fn start(asked: &Arc<Semaphore>, gate: &Arc<Semaphore>, tasks: &Tasks) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, gate) = (Arc::clone(asked), Arc::clone(gate));
        let answer = move |_, _| {
            let gate = Arc::clone(&gate);
            asked.add_permits(1);
            async move {
                let _passed = gate.acquire().await.unwrap();
                response(StatusCode::OK, TEXT, "ok\n".to_owned())
            }
        };
        let serving = serve(Listener::Tcp(listener), answer, tasks.clone());
        tasks.background("server", serving);
        address
    }

    async fn ask(stream: &mut TcpStream) {
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
    }

    async fn heard(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        // One that was sent away may be reset.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn who_is_silent_makes_room_for_who_asks() {
        let [asked, gate] = [0, 1].map(|permits| Arc::new(Semaphore::new(permits)));
        let tasks = Tasks::new();
        let address = start(&asked, &gate, &tasks).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Nor does half of a request keep a place.
            stream.write_all(b"GET / HTT").await.unwrap();
            silent.push(stream);
        }
        for _ in 0..100 {
            let mut monitor = TcpStream::connect(address).await.unwrap();
            ask(&mut monitor).await;
            assert!(heard(monitor).await.ends_with("ok\n"));
        }
        // Those that were there first have left, one for each.
        assert_eq!(heard(silent.remove(0)).await, "");
        let mut last = silent.pop().unwrap();
        last.write_all(b"P/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(heard(last).await.ends_with("ok\n"));
    }

    #[tokio::test]
    async fn who_has_asked_is_answered_and_who_finds_no_place_is_closed() {
        let [asked, gate] = [0, 0].map(|permits| Arc::new(Semaphore::new(permits)));
        let tasks = Tasks::new();
        let address = start(&asked, &gate, &tasks).await;
        let mut waiting = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            ask(&mut stream).await;
            waiting.push(stream);
            asked.acquire().await.unwrap().forget();
        }
        let over = TcpStream::connect(address).await.unwrap();
        assert_eq!(heard(over).await, "");
        gate.add_permits(1);
        for stream in waiting {
            assert!(heard(stream).await.ends_with("ok\n"));
        }
    }
}
