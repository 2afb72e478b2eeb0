//! Real HTTP over loopback, written by hand.

use std::{future::ready, sync::Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A server whose readiness is what `reasons` holds.
struct Server {
    address: SocketAddr,
    metrics: Metrics,
    reasons: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Server {
    async fn start() -> Self {
        let reasons = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&reasons);
        Self::with(reasons, move || ready(told.lock().unwrap().clone())).await
    }

    async fn with<R, F>(reasons: Arc<Mutex<Vec<String>>>, readiness: R) -> Self
    where
        R: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Vec<String>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new().unwrap();
        let tasks = Tasks::new();
        let serving = serve(listener, metrics.clone(), readiness, tasks.clone());
        tasks.background("admin", serving);
        Self {
            address,
            metrics,
            reasons,
            tasks,
        }
    }

    /// Status, header (in lower case) and body of the answer.
    async fn ask(&self, request: &str) -> (String, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let (status, header) = head.split_once("\r\n").unwrap_or((head, ""));
        (
            status.to_owned(),
            header.to_ascii_lowercase(),
            body.to_owned(),
        )
    }

    async fn get(&self, path: &str) -> (String, String, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let server = Server::start().await;
    server.metrics.connections_open.set(7);
    let (status, header, body) = server.get("/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(header.contains("content-type: text/plain; version=0.0.4"));
    assert!(body.contains("\npigeonair_connections_open 7\n"), "{body}");
}

#[tokio::test]
async fn readiness_names_every_reason_on_its_own_line() {
    let server = Server::start().await;
    assert_eq!(server.get("/healthz").await.2, "ok\n");
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!(
        (status.as_str(), body.as_str()),
        ("HTTP/1.1 200 OK", "ready\n")
    );
    *server.reasons.lock().unwrap() = vec!["directory is away".to_owned(), "a\nb".to_owned()];
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body, "directory is away\na b\n");
    assert_eq!(server.get("/healthz").await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let server = Server::start().await;
    assert_eq!(server.get("/").await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(server.get("/metrics/x").await.0, "HTTP/1.1 404 Not Found");
    let request = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let (status, header, _) = server.ask(request).await;
    assert_eq!(status, "HTTP/1.1 405 Method Not Allowed");
    assert!(header.contains("allow: get, head"));
    let request = "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let (status, _, body) = server.ask(request).await;
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
    let (status, _, _) = server.ask("nonsense\r\n\r\n").await;
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
}

#[tokio::test]
async fn a_connection_carries_one_request() {
    let server = Server::start().await;
    let twice = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    let (_, header, body) = server.ask(&twice).await;
    assert!(header.contains("connection: close"), "{header}");
    assert_eq!(body, "ok\n");
}

#[tokio::test]
async fn too_many_connections_are_closed_unanswered() {
    let server = Server::start().await;
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    // Accepted in order: when this one is closed, those before it were counted.
    let mut over = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(over.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let mut first = held.swap_remove(0);
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn the_silent_and_the_slow_are_let_go() {
    let server = Server::start().await;
    let (status, _, _) = server.ask("GET /healthz HT").await;
    assert!(!status.contains("200"), "{status}");

    let reasons = Arc::default();
    let server = Server::with(reasons, std::future::pending::<Vec<String>>).await;
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body, "the question took too long\n");
}

#[tokio::test]
async fn it_answers_through_a_drain_which_does_not_wait_for_it() {
    let server = Server::start().await;
    server.tasks.stop();
    assert!(server.get("/healthz").await.0.starts_with("HTTP/1.1 200"));
    assert_eq!(server.tasks.drain(Duration::from_secs(5)).await, 0);
}
