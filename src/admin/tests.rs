//! Real HTTP over loopback, written by hand.

use std::{
    future::ready,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use super::*;
use crate::{
    directory::{
        AddressSettings, CacheSettings, Directory, FileSettings, Settings as Accounts, Source,
    },
    metrics::Metrics,
    names::{AccountName, Login, NodeName, Protocol, SessionId},
    nodes::{self, Nodes},
    orders::Orders,
    proto::lmtp::Address,
    sessions::{Seat, Sessions},
};

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
        let about = About::Front(watch::channel(Nodes::new(&nodes::Settings::default())).1);
        let status = Status::new(about, metrics.clone());
        let serving = serve(listener, status, readiness, tasks.clone());
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
        talk(TcpStream::connect(self.address).await.unwrap(), request).await
    }

    async fn get(&self, path: &str) -> (String, String, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await
    }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> (String, String, String) {
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
    assert_eq!(server.get("/x").await.0, "HTTP/1.1 404 Not Found");
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

/// A server on a Unix socket in this folder; accounts are in a file.
fn serve_in(folder: &std::path::Path, tasks: &Tasks) -> PathBuf {
    let sessions = Sessions::new(&Metrics::new().unwrap(), tasks.clone());
    serve_with(folder, tasks, sessions)
}

/// The same with these sessions.
fn serve_with(folder: &std::path::Path, tasks: &Tasks, sessions: Sessions) -> PathBuf {
    let accounts = folder.join("accounts.toml");
    std::fs::write(&accounts, "").unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&accounts, mode).unwrap();
    let metrics = Metrics::new().unwrap();
    let settings = Accounts {
        source: Source::File(FileSettings { path: accounts }),
        addresses: AddressSettings::default(),
        cache: CacheSettings::default(),
        follow: crate::directory::FollowSettings::default(),
    };
    let requests = Requests {
        directory: Directory::start(settings, metrics.clone(), tasks.clone()).unwrap(),
        nodes: Nodes::new(&nodes::Settings::default()),
        sessions,
        orders: Orders::open(None).unwrap(),
        tasks: tasks.clone(),
    };
    let path = folder.join("front.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let readiness = || ready(Vec::new());
    let about = About::Front(watch::channel(requests.nodes.clone()).1);
    let status = Status::new(about, metrics);
    let (reloads, mut asked) = Reloads::new();
    // Every second one is taken.
    tasks.background("reloads", async move {
        while let Some(one) = asked.recv().await {
            let taken = Taken {
                changed: vec!["nodes"],
                warnings: Vec::new(),
            };
            one.send(Ok(taken)).unwrap();
            let Some(other) = asked.recv().await else {
                return;
            };
            other
                .send(Err(vec!["file: key: wrong".to_owned()]))
                .unwrap();
        }
    });
    let asked = (Some(watch::channel(requests).1), reloads);
    let serving = serve_socket(
        (Answering::Common, listener),
        status,
        readiness,
        asked,
        tasks.clone(),
    );
    tasks.background("admin", serving);
    path
}

fn post(body: &str) -> String {
    post_to("/cached", body)
}

fn post_to(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_reload_is_asked_for_on_the_socket() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let path = serve_in(folder.path(), &tasks);
    let ask = async |request: &str| {
        let stream = UnixStream::connect(&path).await.unwrap();
        talk(stream, request).await
    };
    let post = "POST /reload HTTP/1.1\r\nHost: x\r\n\r\n";
    let taken = ask(post).await;
    assert_eq!(taken.2, "{\"changed\":[\"nodes\"],\"warnings\":[]}\n");
    let refused = ask(post).await;
    assert_eq!(refused.0, "HTTP/1.1 422 Unprocessable Entity");
    assert_eq!(refused.2, "{\"problems\":[\"file: key: wrong\"]}\n");
    let get = ask(&post.replace("POST", "GET")).await;
    assert_eq!(get.0, "HTTP/1.1 405 Method Not Allowed");
    let by_command = || {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            let (process, socket) = ("front", &*path);
            reload(Peer { process, socket })
        })
    };
    let taken = by_command().await.unwrap().unwrap().unwrap();
    assert_eq!(taken["changed"][0], "nodes");
    let refused = by_command().await.unwrap().unwrap();
    assert_eq!(refused, Err(vec!["file: key: wrong".to_owned()]));
}

#[tokio::test]
async fn a_socket_answers_more_than_monitors_ask() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let path = serve_in(folder.path(), &tasks);
    let ask = async |request: &str| {
        let stream = UnixStream::connect(&path).await.unwrap();
        talk(stream, request).await
    };
    let health = ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(health.2, "ok\n");
    let (status, header, body) =
        ask(&post(r#"{"login": "ann", "address": "a+b@c.example"}"#)).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(header.contains("content-type: application/json"));
    let nothing = |name: &str| {
        let reason = "accounts come from a file";
        serde_json::json!({ "looked_up": name, "state": "nothing", "reason": reason })
    };
    let expected = serde_json::json!({
        "login": [nothing("ann")],
        "address": [nothing("a+b@c.example"), nothing("a@c.example")],
    });
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, expected);
    // Nobody but the socket.
    let server = Server::start().await;
    let (status, _, body) = server.ask(&post("{}")).await;
    assert_eq!(
        (status.as_str(), body.as_str()),
        ("HTTP/1.1 404 Not Found", "not found\n")
    );
}

#[tokio::test]
async fn wrong_requests_are_told_so() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let path = serve_in(folder.path(), &tasks);
    let large = format!(r#"{{"login": "{}"}}"#, "a".repeat(9000));
    for (body, status) in [
        ("{}", "200 OK"),
        ("", "400 Bad Request"),
        ("ann", "400 Bad Request"),
        (r#"{"login": 1}"#, "400 Bad Request"),
        (r#"{"login": ""}"#, "400 Bad Request"),
        (r#"{"login": "a\u0000"}"#, "400 Bad Request"),
        (r#"{"address": "@"}"#, "400 Bad Request"),
        (r#"{"name": "ann"}"#, "400 Bad Request"),
        (&large, "413 Payload Too Large"),
    ] {
        let stream = UnixStream::connect(&path).await.unwrap();
        let answer = talk(stream, &post(body)).await;
        assert_eq!(answer.0, format!("HTTP/1.1 {status}"), "{body}");
    }
    let stream = UnixStream::connect(&path).await.unwrap();
    let (status, header, _) = talk(stream, "GET /cached HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status, "HTTP/1.1 405 Method Not Allowed");
    assert!(header.contains("allow: post"));
}

/// The other side of the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn commands_understand_the_answer() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let path = serve_in(folder.path(), &tasks);
    let asked = tokio::task::spawn_blocking(move || {
        let login = Login::parse("\"ann\u{e4}").unwrap();
        let address = Address::parse("\"ann b\"@c.example").unwrap();
        let both = cached(&path, Some(&login), Some(&address)).unwrap();
        assert_eq!(both["login"][0]["looked_up"], "\"ann\u{e4}");
        assert_eq!(both["address"][0]["looked_up"], "ann b@c.example");
        let nobody = path.with_file_name("nobody.sock");
        let error = cached(&nobody, Some(&login), None).unwrap_err();
        assert!(matches!(error, AskError::Failed { .. }), "{error:?}");
        // Whatever listens there.
        let listener = std::os::unix::net::UnixListener::bind(&nobody).unwrap();
        std::thread::spawn(move || {
            use std::io::Write as _;
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"220 mx.example.org\r\n").unwrap();
            let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut std::io::sink());
        });
        cached(&nobody, Some(&login), None).unwrap_err()
    });
    let error = asked.await.unwrap();
    assert!(
        matches!(error, AskError::Failed { .. } | AskError::Stranger { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_status_page_has_its_files_and_figures_and_may_load_no_others() {
    let server = Server::start().await;
    for (path, content, word) in [
        ("/", "text/html", "<!doctype html>"),
        ("/status", "text/html", "<!doctype html>"),
        ("/status.css", "text/css", "prefers-color-scheme"),
        ("/status.js", "text/javascript", "status.json"),
        ("/status.json", "application/json", "\"process\":\"front\""),
    ] {
        let (status, header, body) = server.get(path).await;
        assert_eq!(status, "HTTP/1.1 200 OK", "{path}");
        assert!(
            header.contains(&format!("content-type: {content}")),
            "{header}"
        );
        assert!(header.contains("content-security-policy: default-src 'none'; "));
        assert!(!header.contains("unsafe"), "{header}");
        assert!(header.contains("x-content-type-options: nosniff"));
        assert!(body.contains(word), "{path}: {body}");
        let post = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(server.ask(&post).await.0, "HTTP/1.1 405 Method Not Allowed");
    }
    *server.reasons.lock().unwrap() = vec!["directory is away".to_owned()];
    server.metrics.connections_open.set(7);
    let (_, _, body) = server.get("/status.json").await;
    let figures: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(figures["ready"], false);
    assert_eq!(figures["trouble"][0], "directory is away");
    assert_eq!(figures["connections"]["open"], 7);
    assert_eq!(
        figures["history"]["tracks"]["connections"]
            .as_array()
            .unwrap()
            .last()
            .unwrap(),
        7
    );
}

/// The status of each request, and its answer where that is JSON.
async fn statuses(path: &PathBuf, requests: &[(&str, &str)]) -> Vec<(String, serde_json::Value)> {
    let mut answers = Vec::new();
    for (place, body) in requests {
        let stream = UnixStream::connect(path).await.unwrap();
        let (status, _, body) = talk(stream, &post_to(place, body)).await;
        let status = status.trim_start_matches("HTTP/1.1 ")[..3].to_owned();
        answers.push((status, serde_json::from_str(&body).unwrap_or_default()));
    }
    answers
}

#[tokio::test]
async fn commands_are_strict_about_what_they_are_asked_for() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let path = serve_in(folder.path(), &tasks);
    let ann = r#"{"user": "ann", "as_account": true}"#;
    let cases = [
        ("/who", "{}", "200"),
        ("/who", r#"{"which": {"network": "::1"}}"#, "200"),
        ("/who", r#"{"which": {"network": "here"}}"#, "400"),
        ("/who", r#"{"which": {"protocol": "smtp"}}"#, "400"),
        ("/who", r#"{"which": {"node": "N 1"}}"#, "400"),
        ("/who", r#"{"what": 1}"#, "400"),
        ("/kick", "{}", "400"),
        ("/kick", r#"{"all": true, "which": {"node": "n1"}}"#, "400"),
        ("/kick", r#"{"all": true, "within_ms": 86400001}"#, "400"),
        ("/kick", r#"{"which": {"as_account": true}}"#, "400"),
        ("/kick", r#"{"all": true}"#, "200"),
        ("/hold", "{}", "404"),
        ("/hold", r#"{"user": "nobody"}"#, "404"),
        ("/hold", r#"{"user": "a\u0000", "as_account": true}"#, "400"),
        ("/hold", ann, "200"),
        ("/release", ann, "200"),
        ("/release", ann, "404"),
        ("/drain", r#"{"node": "n1"}"#, "404"),
        ("/drain", "{}", "200"),
        ("/undrain", r#"{"node": "n1"}"#, "404"),
        ("/undrain", "{}", "200"),
        ("/undrain", "{}", "404"),
        ("/flush", "{}", "200"),
        ("/orders", "[1]", "400"),
    ];
    let asked: Vec<_> = cases.iter().map(|case| (case.0, case.1)).collect();
    let answers = statuses(&path, &asked).await;
    for ((path, body, expected), (status, _)) in cases.iter().zip(&answers) {
        assert_eq!(status, expected, "{path} {body}");
    }
}

#[tokio::test]
async fn orders_are_listed_until_they_are_taken_back() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let path = serve_in(folder.path(), &tasks);
    let ann = r#"{"user": "ann", "as_account": true}"#;
    let answers = statuses(
        &path,
        &[
            ("/hold", ann),
            ("/hold", ann),
            ("/orders", "{}"),
            ("/release", ann),
            ("/orders", "{}"),
        ],
    )
    .await;
    assert_eq!(answers[0].1["is_new"], true);
    assert_eq!(answers[1].1["is_new"], false);
    let orders = &answers[2].1["orders"];
    assert_eq!(orders[0]["order"], "hold");
    assert_eq!(orders[0]["name"], "ann");
    assert_eq!(orders[0]["uid"], rustix::process::geteuid().as_raw());
    assert_eq!(answers[4].1["orders"], serde_json::json!([]));
}

/// With the longest names that there can be, which all need escaping.
#[tokio::test]
async fn who_is_on_comes_page_by_page_and_fits() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let sessions = Sessions::new(&Metrics::new().unwrap(), tasks.clone());
    let path = serve_with(folder.path(), &tasks, sessions.clone());
    let on = |number: usize| {
        let name = format!("{number:04}{}", "\"".repeat(251));
        let who = crate::sessions::Who {
            session: SessionId::parse(&"s".repeat(64)).unwrap(),
            account: AccountName::parse(&name).unwrap(),
            protocol: Protocol::Imap,
            client: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
                .parse()
                .unwrap(),
            has_tls: false,
            node: NodeName::parse(&"n".repeat(64)).unwrap(),
            since: jiff::Timestamp::now(),
        };
        sessions.enter(&Seat::new(), who)
    };
    let all: Vec<_> = (0..1200).map(on).collect();
    let (mut names, mut from) = (std::collections::HashSet::new(), Some(0));
    while let Some(begin) = from {
        let body = format!(r#"{{"from": {begin}}}"#);
        let stream = UnixStream::connect(&path).await.unwrap();
        let (_, _, body) = talk(stream, &post_to("/who", &body)).await;
        assert!(body.len() < 1 << 19, "{}", body.len());
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        for session in page["sessions"].as_array().unwrap() {
            assert!(names.insert(session["account"].to_string()));
        }
        from = page["next"].as_u64();
    }
    assert_eq!(names.len(), all.len());
}
