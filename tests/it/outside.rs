//! What can be seen from outside (`/metrics`, `/healthz`, `/readyz`), and what a stranger at a link port sees: nothing.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, User, eventually, http_get, http_status},
};

/// The value of a line of `/metrics`.
fn metric(admin: SocketAddr, line: &str) -> Option<f64> {
    http_get(admin, "/metrics")?
        .lines()
        .find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

#[test]
fn sessions_are_counted() {
    let ann = User::new("ann", "n1", 20001);
    let cluster = Cluster::usual().user(&ann).start();
    let admin = cluster.front_admin();
    let client = Client::logged_in(&cluster, Channel::Plain, &ann);
    let open = "pigeonair_sessions_open{protocol=\"imap\"}";
    eventually("one session is open", || metric(admin, open) == Some(1.0));
    drop(client);
    eventually("it has ended", || metric(admin, open) == Some(0.0));
    let mut client = Client::connect(&cluster, Channel::Plain);
    client
        .login(Method::Login, "ann", "wrong")
        .no("AUTHENTICATIONFAILED");
    drop(client);
    for outcome in ["served", "denied"] {
        let line = format!("pigeonair_sessions_total{{outcome=\"{outcome}\",protocol=\"imap\"}}");
        eventually(&line, || metric(admin, &line) == Some(1.0));
    }
}

#[test]
fn ready_is_who_reaches_the_directory() {
    let mut cluster = Cluster::usual().start();
    let admin = cluster.front_admin();
    assert_eq!(http_status(admin, "/healthz"), Some(200));
    cluster.slapd().process.stop();
    eventually("not ready without a directory", || {
        http_status(admin, "/readyz") == Some(503)
    });
    assert_eq!(http_status(admin, "/healthz"), Some(200));
    cluster.slapd().restart();
    eventually("ready again", || http_status(admin, "/readyz") == Some(200));
}

/// Whoever can't prove anything is closed without a word that would tell why, and soon.
#[test]
fn strangers_at_a_link_port_are_closed_and_logged_once() {
    let cluster = Cluster::usual().link_tls(false).start();
    for say in [
        &b"a LOGIN ann password\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 4096],
        &[0xff; 4096],
        b"",
    ] {
        let mut stream = TcpStream::connect(cluster.link_address("n1")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // It may be closed before all is said.
        let _ = stream.write_all(say);
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        // What everybody hears is the node's one record: its name and a nonce, never an answer.
        assert!(heard.len() < 300, "{}", heard.len());
    }
    let log = cluster.node_log("n1");
    let lines = log
        .lines()
        .filter(|line| line.contains("127.0.0.1") && line.contains("WARN"))
        .count();
    assert_eq!(lines, 1, "once per address and minute: {log}");
}
