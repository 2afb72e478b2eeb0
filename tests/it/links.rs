//! Whoever comes to a link port and is no proxy, or one that may not: closed without a word, counted, logged once per
//! address and minute; and meanwhile those who may are served.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually, metric},
};

/// Strangers come from here, proxies from 127.0.0.1.
const STRANGER: &str = "127.66.77.88";

/// The longest `hello`: the one record that everybody hears on a plain link.
const HELLO: usize = 4 + 102;

fn dial(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: IpAddr = STRANGER.parse().unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Everything up to the end.
fn hear(mut stream: TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    heard
}

pub(crate) fn shed(cluster: &Cluster, node: &str) -> f64 {
    let line = "pigeonair_connections_shed_total{reason=\"link\"}";
    metric(cluster.node_admin(node), line).unwrap_or(0.0)
}

pub(crate) fn handshakes(cluster: &Cluster, node: &str, result: &str) -> f64 {
    let line = format!("pigeonair_handshakes_total{{result=\"{result}\",side=\"node\"}}");
    metric(cluster.node_admin(node), &line).unwrap_or(0.0)
}

/// Lines of the node about somebody it did not admit.
pub(crate) fn complaints(cluster: &Cluster, node: &str, address: &str) -> Vec<String> {
    let peer = format!("peer={address} ");
    cluster
        .node_log(node)
        .lines()
        .filter(|line| line.contains("link not admitted") && line.contains(&peer))
        .map(str::to_owned)
        .collect()
}

fn people() -> [User; 2] {
    [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)]
}

fn served(cluster: &Cluster) {
    for user in people() {
        let mut client = Client::logged_in(cluster, Channel::Plain, &user);
        client.command("SELECT INBOX").ok();
    }
}

/// What strangers say, and what the node counts it as on a plain link and on one with TLS.
const SAYINGS: [(&[u8], &str, &str); 5] = [
    (b"a LOGIN ann password\r\n", "preface", "mismatch"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "preface", "mismatch"),
    (&[0; 4096], "preface", "mismatch"),
    (b"", "timed-out", "timed-out"),
    (b"PGNLINK1", "timed-out", "mismatch"),
];

#[test]
fn strangers_are_closed_without_a_word_counted_and_logged_once() {
    for tls in [false, true] {
        let [ann, bob] = people();
        let cluster = Cluster::usual()
            .link_tls(tls)
            .acceptor("prove_timeout = \"700ms\"")
            .user(&ann)
            .user(&bob)
            .start();
        let address = cluster.link_address("n1");
        for (say, plain, under_tls) in SAYINGS {
            let result = if tls { under_tls } else { plain };
            let before = handshakes(&cluster, "n1", result);
            let mut stream = dial(address);
            let start = Instant::now();
            // It may be closed before all is said.
            let _ = stream.write_all(say);
            let heard = hear(stream);
            assert!(start.elapsed() < Duration::from_secs(5), "{result}");
            if tls {
                // An alert of TLS is seven octets, and says nothing of links.
                assert!(heard.len() <= 7, "{heard:?}");
            } else {
                // The node's name and a nonce, never an answer.
                assert!(
                    heard.len() <= HELLO && heard.starts_with(&[1, 1]),
                    "{heard:?}"
                );
            }
            eventually("it is counted by what it was", || {
                handshakes(&cluster, "n1", result) == before + 1.0
            });
        }
        assert_eq!(shed(&cluster, "n1"), SAYINGS.len() as f64);
        let complaints = complaints(&cluster, "n1", STRANGER);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains(" WARN "), "{complaints:?}");
        served(&cluster);
    }
}

#[test]
fn a_front_that_stops_is_nobody_to_complain_of() {
    let [ann, bob] = people();
    let mut cluster = Cluster::usual()
        .link_tls(false)
        .user(&ann)
        .user(&bob)
        .start();
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    session.command("SELECT INBOX").ok();
    session.command("LOGOUT").ok();
    drop(session);
    cluster.front().terminate();
    assert_eq!(cluster.front().exit_code(), Some(0));
    eventually("the links that waited have ended", || {
        handshakes(&cluster, "n1", "retired") >= 1.0
    });
    let complaints = complaints(&cluster, "n1", "127.0.0.1");
    assert!(complaints.is_empty(), "{complaints:?}");
    assert_eq!(shed(&cluster, "n1"), 0.0);
}

#[test]
fn a_flood_is_bounded_and_ends_with_its_time() {
    let [ann, bob] = people();
    let cluster = Cluster::usual()
        .link_tls(false)
        .acceptor("max_unproven = 8")
        .acceptor("prove_timeout = \"2s\"")
        .user(&ann)
        .user(&bob)
        .start();
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    let address = cluster.link_address("n1");
    let flood: Vec<TcpStream> = (0..60).map(|_| dial(address)).collect();
    eventually("most find no place", || {
        handshakes(&cluster, "n1", "crowded") >= 52.0
    });
    // Who is in stays in; who comes now is told to wait, and never hangs.
    session.command("SELECT INBOX").ok();
    let mut client = Client::connect(&cluster, Channel::Plain);
    let reply = client.login(Method::Login, &ann.name, &ann.password);
    assert!(
        reply.status.starts_with("OK") || reply.status.starts_with("NO [UNAVAILABLE]"),
        "{reply:?}"
    );
    drop(client);
    for stream in flood {
        assert!(hear(stream).len() <= HELLO);
    }
    let complaints = complaints(&cluster, "n1", STRANGER);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    served(&cluster);
}

#[test]
fn an_address_outside_from_hears_nothing_at_all() {
    for tls in [false, true] {
        let [ann, bob] = people();
        let cluster = Cluster::usual()
            .link_tls(tls)
            .acceptor("from = [\"127.0.0.1\", \"10.0.0.0/8\"]")
            .user(&ann)
            .user(&bob)
            .start();
        for _ in 0..3 {
            assert_eq!(hear(dial(cluster.link_address("n2"))), b"");
        }
        assert_eq!(shed(&cluster, "n2"), 3.0);
        let complaints = complaints(&cluster, "n2", STRANGER);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains("[acceptor] from"), "{complaints:?}");
        served(&cluster);
    }
}

/// A right key that may not do this: the front hears no more than one with a wrong key would.
fn unwelcome(spec: NodeSpec, result: &str, reason: &str, front: &str) {
    for tls in [false, true] {
        let [ann, _] = people();
        let cluster = Cluster::build()
            .node(spec.clone())
            .link_tls(tls)
            .user(&ann)
            .start();
        let mut client = Client::connect(&cluster, Channel::Plain);
        client
            .login(Method::Login, &ann.name, &ann.password)
            .no("UNAVAILABLE");
        eventually("the node has counted and logged it", || {
            handshakes(&cluster, "n1", result) >= 1.0
                && shed(&cluster, "n1") >= 1.0
                && complaints(&cluster, "n1", "127.0.0.1")
                    .iter()
                    .any(|line| line.contains(reason))
        });
        assert_eq!(complaints(&cluster, "n1", "127.0.0.1").len(), 1);
        let log = cluster.front_log();
        assert!(
            log.lines().any(|line| line.contains("login failed")
                && line.contains(" stage=link blame=node ")
                && line.contains(front)),
            "{log}"
        );
    }
}

#[test]
fn a_key_without_the_service_opens_nothing() {
    let spec = NodeSpec::new("n1", Kind::ImapMaster).key("services = [\"pop3\"]");
    unwelcome(spec, "service", "may not open", "the node closed the link");
}

#[test]
fn a_key_from_another_place_opens_nothing() {
    let spec = NodeSpec::new("n1", Kind::Login).key("from = [\"10.0.0.0/8\"]");
    unwelcome(spec, "from", "address", "closed the link on our proof");
}

#[test]
fn a_key_past_its_end_opens_nothing() {
    let spec = NodeSpec::new("n1", Kind::Login).key("not_after = \"2020-01-01T00:00:00Z\"");
    unwelcome(spec, "expired", "expired", "closed the link on our proof");
}

#[test]
fn a_wrong_key_on_either_side_is_told_by_both_logs() {
    let spec = NodeSpec::new("n1", Kind::Login);
    let words = "closed the link on our proof";
    unwelcome(spec.clone().wrong_key_at_front(), "mac", "MAC", words);
    unwelcome(spec.wrong_key_at_node(), "mac", "MAC", words);
}

#[test]
fn a_process_that_is_no_peer_of_a_unix_socket_hears_nothing() {
    let ann = User::new("ann", "local", 20001);
    let cluster = Cluster::build().single(Kind::Login).user(&ann).start();
    for _ in 0..3 {
        let output = Command::new("setpriv")
            .args(["--reuid=64199", "--regid=64199", "--clear-groups", "--"])
            .args(["curl", "-sS", "--max-time", "20", "--unix-socket"])
            .arg(cluster.link_socket())
            .arg("http://localhost/")
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    eventually("all are counted", || shed(&cluster, "local") == 3.0);
    let complaints = complaints(&cluster, "local", "127.0.0.1");
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("uid 64199"), "{complaints:?}");
    Client::logged_in(&cluster, Channel::Plain, &ann)
        .command("SELECT INBOX")
        .ok();
}
