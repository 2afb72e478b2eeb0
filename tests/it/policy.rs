//! A policy server of the test's own that judges clients by where they come from, and hears what became of them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::{
    client::{Channel, Client, Method},
    lab::{Builder, Cluster, User, eventually, metric},
};

/// The front's user reads the secrets.
const FRONT_UID: u32 = 64143;
const KEY: &str = "key-of-the-policy-server";
/// Whoever comes from there is refused.
const REFUSED: &str = "127.0.0.66";
/// And from there has to wait.
const DELAYED: &str = "127.0.0.67";

/// Request lines, keys and bodies.
type Heard = Arc<Mutex<Vec<(String, String, Value)>>>;

/// Judges until the test ends.
fn judge() -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Heard::default());
    let hearing = Arc::clone(&heard);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, heard) = (stream.unwrap(), Arc::clone(&hearing));
            thread::spawn(move || serve(stream, &heard));
        }
    });
    (address, heard)
}

fn serve(mut stream: TcpStream, heard: &Heard) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut first, mut key, mut length) = (String::new(), String::new(), 0);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("x-api-key", value)) => value.clone_into(&mut key),
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let answer = match body["remote"].as_str().unwrap() {
            REFUSED => json!({"status": -1, "msg": "too many\r\nbad logins", "r_attrs": {}}),
            DELAYED => json!({"status": 1, "msg": ""}),
            _ => json!({"status": 0, "msg": ""}),
        };
        let answer = answer.to_string();
        heard.lock().unwrap().push((first, key, body));
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )
        .unwrap();
    }
}

/// The usual cluster, with a policy server there.
fn cluster(users: &[User], server: SocketAddr, more: &str) -> (TempDir, Builder) {
    let secrets = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .unwrap();
    for (name, content) in [("nonce", "a nonce of this test"), ("header", KEY)] {
        let path = secrets.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(FRONT_UID), None).unwrap();
    }
    let folder = secrets.path().display();
    let builder = users
        .iter()
        .fold(Cluster::usual(), |builder, user| builder.user(user))
        .proxy("[proxy.policy]")
        .proxy(&format!("url = \"http://{server}/\""))
        .proxy(&format!("nonce_file = \"{folder}/nonce\""))
        .proxy(&format!("header_file = \"{folder}/header\""))
        .proxy(more);
    (secrets, builder)
}

/// Logs in from this address, in clear: what it hears, and after how long.
fn log_in(cluster: &Cluster, from: &str, user: &User) -> (String, Duration) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&cluster.imap_plain().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let patience = Duration::from_secs(20);
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("* OK"), "{line}");
    let begun = Instant::now();
    write!(stream, "a LOGIN {} \"{}\"\r\n", user.name, user.password).unwrap();
    line.clear();
    reader.read_line(&mut line).unwrap();
    (line, begun.elapsed())
}

/// Each try was asked about, and what became of it was told.
fn assert_reports(heard: &Heard) {
    // Two requests for each of twelve logins.
    eventually("all requests", || heard.lock().unwrap().len() >= 24);
    let heard = heard.lock().unwrap().clone();
    let reports: Vec<_> = heard
        .iter()
        .filter(|(first, ..)| first.starts_with("POST /?command=report HTTP/1.1"))
        .collect();
    assert_eq!((heard.len(), reports.len()), (24, 12), "{heard:#?}");
    assert!(heard.iter().all(|(_, key, _)| key == KEY));
    let reported = |login: &str, success: bool, reject: bool, tls: bool| {
        let found = reports.iter().filter(|(_, _, body)| {
            body["login"] == login
                && body["success"] == success
                && body["policy_reject"] == reject
                && body["tls"] == tls
                && body["protocol"] == "imap"
        });
        found.count()
    };
    assert_eq!(reported("ann", false, true, false), 1);
    assert_eq!(reported("ann", true, false, true), 1);
    assert_eq!(reported("ann", true, false, false), 1);
    assert_eq!(reported("bob", false, false, false), 1);
    assert_eq!(reported("bob", true, false, false), 8);
}

#[test]
fn one_client_is_refused_another_waits_and_the_others_are_served() {
    let (server, heard) = judge();
    let users = [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)];
    let [ann, bob] = &users;
    let (_secrets, builder) = cluster(&users, server, "");
    let cluster = builder.start();
    let (said, _) = log_in(&cluster, REFUSED, ann);
    assert!(said.starts_with("a NO [AUTHENTICATIONFAILED]"), "{said}");
    assert!(!said.contains("too many"), "{said}");
    let mut client = Client::logged_in(&cluster, Channel::Implicit, ann);
    client.command("SELECT INBOX").ok();
    Client::connect(&cluster, Channel::Plain)
        .login(Method::Login, "Bob", "not the password")
        .no("AUTHENTICATIONFAILED");
    // Meanwhile others are served: waiting takes no thread.
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| log_in(&cluster, DELAYED, bob)))
            .collect();
        drop(Client::logged_in(&cluster, Channel::Plain, ann));
        for waiting in waiting {
            let (said, took) = waiting.join().unwrap();
            assert!(said.starts_with("a OK"), "{said}");
            assert!(took >= Duration::from_secs(1), "{took:?}");
        }
    });
    assert_reports(&heard);
    let counted = |command: &str, result: &str| {
        let line = format!(
            "pigeonair_policy_requests_total{{command=\"{command}\",result=\"{result}\"}} "
        );
        metric(cluster.front_admin(), &line)
    };
    assert_eq!(counted("allow", "accept"), Some(3.0));
    assert_eq!(counted("allow", "reject"), Some(1.0));
    assert_eq!(counted("allow", "tarpit"), Some(8.0));
    // Nobody waited for these.
    eventually("all is reported", || counted("report", "ok") == Some(12.0));
    let log = cluster.front_log();
    let line = log.lines().find(|line| line.contains("stage=policy"));
    let line = line.expect("a line of the refusal");
    for word in [
        "login failed",
        "blame=client",
        "reason=\"policy: too many  bad logins\"",
    ] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert!(!log.contains(KEY));
}

#[test]
fn without_an_answer_it_is_as_configured() {
    // Nobody listens there any more.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    drop(listener);
    let users = [User::new("ann", "n1", 20001)];
    for (more, code) in [("", None), ("on_failure = \"reject\"", Some("UNAVAILABLE"))] {
        let (_secrets, builder) = cluster(&users, server, more);
        let cluster = builder.start();
        for _ in 0..5 {
            let mut client = Client::connect(&cluster, Channel::Implicit);
            let reply = client.login(Method::Login, &users[0].name, &users[0].password);
            match code {
                None => drop(reply.ok()),
                Some(code) => drop(reply.no(code)),
            }
        }
        // Of questions and, where anybody was let in, of reports.
        let expected = if code.is_some() { 1 } else { 2 };
        eventually("the log's lines", || {
            let log = cluster.front_log();
            log.matches("WARN policy server is away").count() == expected
        });
    }
}
