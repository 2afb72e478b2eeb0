//! The PROXY protocol: HAProxy in front of the front, with clients of their own addresses behind it; and whoever says
//! to be somebody else, where he may not, or after he may.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, pki_types::ServerName};

use crate::{
    client::{Client, Method, dial_from},
    lab::{Builder, Cluster, Process, User, eventually, metric},
};

/// HAProxy and everybody who plays one come from here, and the front lists nobody else.
const BALANCER: &str = "127.0.0.1";
/// A client of HAProxy's.
const CLIENT: &str = "127.0.0.77";
/// Somebody who is not listed.
const STRANGER: &str = "127.66.77.88";

/// Listeners that require a header: with STARTTLS; without TLS; with nothing but TLS; with TLS that the balancer has
/// ended.
const STARTTLS: u16 = 3143;
const PLAIN: u16 = 3145;
const TLS: u16 = 3993;
const TRUSTING: u16 = 3144;

const V1: &[u8] = b"PROXY TCP4 192.0.2.77 198.51.100.1 4242 143\r\n";
const V1_NEAR: &[u8] = b"PROXY TCP4 127.0.0.9 127.0.0.8 4242 143\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x4d\xc6\x33\x64\x01\x10\x92\0\x8f";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
/// The client of [`V1`] and [`V2`] in the log.
const NAMED: &str = " client=192.0.2.77:4242 local=198.51.100.1:143 balancer=127.0.0.1:";

fn ann() -> User {
    User::new("ann", "n1", 20001)
}

fn balanced() -> Builder {
    let required = "proxy_protocol = \"required\"\n";
    let imap = |more: &str| format!("protocol = \"imap\"\n{required}{more}");
    Cluster::usual()
        .user(&ann())
        .proxy("balancers = [\"127.0.0.1\", \"10.0.0.0/8\"]")
        .listener(STARTTLS, &imap(""))
        .listener(PLAIN, &imap("tls = \"off\""))
        .listener(TLS, &imap("tls = \"implicit\""))
        .listener(
            TRUSTING,
            &imap("cleartext = \"never\"\nbalancer_tls = true"),
        )
}

fn shed(cluster: &Cluster, reason: &str) -> f64 {
    let line = format!("pigeonair_connections_shed_total{{reason=\"{reason}\"}}");
    metric(cluster.front_admin(), &line).unwrap_or(0.0)
}

/// Lines about connections that were refused.
fn refusals(cluster: &Cluster, address: &str) -> Vec<String> {
    let peer = format!("peer={address} ");
    let log = cluster.front_log();
    log.lines()
        .filter(|line| line.contains("connection refused") && line.contains(&peer))
        .map(str::to_owned)
        .collect()
}

/// Waits for the line of a session that has these words.
fn ended(cluster: &Cluster, words: &[&str]) -> String {
    let mut found = None;
    eventually(&format!("a session with {words:?}"), || {
        let log = cluster.front_log();
        let mut lines = log.lines().filter(|line| line.contains("session ended"));
        found = lines
            .find(|line| words.iter().all(|word| line.contains(word)))
            .map(str::to_owned);
        found.is_some()
    });
    found.unwrap()
}

/// Everything up to the end.
fn hear(mut stream: TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    heard
}

/// A connection of the balancer's that begins with these octets.
fn said(address: SocketAddr, octets: &[u8]) -> TcpStream {
    let mut stream = dial_from(BALANCER, address);
    stream.write_all(octets).unwrap();
    stream
}

// === HAProxy ===

const DEFAULTS: &str = "\
global
    log stdout format raw local0
defaults
    mode tcp
    log global
    option log-health-checks
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    unique-id-format %{+X}o\\ %ci:%cp_%Ts_%rt
";

/// A client of HAProxy's, once that listens, and the client's address.
fn through(
    cluster: &Cluster,
    haproxy: &mut Process,
    address: SocketAddr,
    tls: bool,
) -> (Client, SocketAddr) {
    eventually("HAProxy listens", || {
        assert!(haproxy.lives(), "{}", haproxy.log());
        TcpStream::connect(address).is_ok()
    });
    let tcp = dial_from(CLIENT, address);
    let from = tcp.local_addr().unwrap();
    let client = if tls {
        Client::tls_over(cluster, tcp)
    } else {
        Client::over(tcp)
    };
    (client, from)
}

#[test]
fn haproxy_says_who_the_client_is_in_both_versions() {
    let cluster = balanced().start();
    let mut haproxy = cluster.haproxy(&format!(
        "{DEFAULTS}
listen v1
    bind @IP@:2001
    server front @IP@:{STARTTLS} send-proxy
listen v2
    bind @IP@:2002
    server front @IP@:{STARTTLS} send-proxy-v2
listen v2-more
    bind @IP@:2003
    server front @IP@:{PLAIN} send-proxy-v2 proxy-v2-options unique-id,crc32c,authority
listen tls-behind
    bind @IP@:2004
    server front @IP@:{TLS} send-proxy-v2 proxy-v2-options unique-id,crc32c
"
    ));
    let ann = ann();
    for (port, id, tls) in [
        (2001, false, false),
        (2002, false, false),
        (2003, true, false),
        (2004, true, true),
    ] {
        let address = cluster.port(port);
        let (mut client, from) = through(&cluster, &mut haproxy, address, tls);
        client.login(Method::Login, &ann.name, &ann.password).ok();
        client.command("SELECT INBOX").ok();
        client.command("LOGOUT").ok();
        drop(client);
        let client = format!(" client={from} ");
        let line = ended(
            &cluster,
            &[
                &client,
                &format!(" local={address} balancer=127.0.0.1:"),
                " account=ann ",
                " outcome=served ",
            ],
        );
        // As HAProxy makes it: address and port of the client, in hexadecimal.
        let expected = format!(" balancer_id=7F00004D:{:04X}_", from.port());
        assert_eq!(line.contains(&expected), id, "{expected}: {line}");
        assert_eq!(line.contains(" tls=TLSv1.3 "), tls, "{line}");
        eventually("the node has heard of the client", || {
            let log = cluster.node_log("n1");
            log.lines()
                .any(|line| line.contains("session ended") && line.contains(&client))
        });
    }
    eventually("so has Dovecot", || {
        cluster.dovecot_log("n1").contains("rip=127.0.0.77")
    });
    assert_eq!(shed(&cluster, "balancer") + shed(&cluster, "header"), 0.0);
}

#[test]
fn tls_that_the_balancer_has_ended_counts_where_it_is_trusted() {
    let private = 3146;
    let lines = "protocol = \"imap\"\ncleartext = \"never\"\nproxy_protocol = \"required\"";
    let cluster = balanced().listener(private, lines).start();
    let mut haproxy = cluster.haproxy(&format!(
        "{DEFAULTS}
listen trusted
    bind @IP@:2001 ssl crt @CERTIFICATE@
    server front @IP@:{TRUSTING} send-proxy-v2-ssl proxy-v2-options ssl,ssl-cipher
listen trusted-without-cipher
    bind @IP@:2002 ssl crt @CERTIFICATE@
    server front @IP@:{TRUSTING} send-proxy-v2-ssl
listen trusted-in-clear
    bind @IP@:2003
    server front @IP@:{TRUSTING} send-proxy-v2-ssl
listen not-trusted
    bind @IP@:2004 ssl crt @CERTIFICATE@
    server front @IP@:{private} send-proxy-v2-ssl
"
    ));
    let ann = ann();
    for (port, tls, welcome, words) in [
        (2001, true, true, " tls=TLSv1.3 cipher=TLS_"),
        (2002, true, true, " tls=TLSv1.3 cipher=unknown "),
        (2003, false, false, " protocol=imap outcome="),
        (2004, true, false, " protocol=imap outcome="),
    ] {
        let (mut client, from) = through(&cluster, &mut haproxy, cluster.port(port), tls);
        let from = format!(" client={from} ");
        let offers = client.greeting.contains("STARTTLS");
        assert_eq!(offers, !welcome, "{}", client.greeting);
        let reply = client.login(Method::PlainInitial, &ann.name, &ann.password);
        if welcome {
            reply.ok();
            client.command("LOGOUT").ok();
        } else {
            reply.no("PRIVACYREQUIRED");
        }
        drop(client);
        ended(&cluster, &[&from, words]);
        if welcome {
            eventually("the node has heard of it", || {
                let log = cluster.node_log("n1");
                let mut lines = log.lines().filter(|line| line.contains("session ended"));
                lines.any(|line| line.contains(&from) && line.contains(words.trim_end()))
            });
        }
    }
}

#[test]
fn health_checks_of_haproxy_succeed_and_refuse_nobody() {
    let cluster = balanced().start();
    let check = "check inter 200ms rise 1 fall 1";
    let haproxy = cluster.haproxy(&format!(
        "{DEFAULTS}
listen connects
    bind @IP@:2001
    server v1 @IP@:{STARTTLS} send-proxy {check}
    server v2 @IP@:{STARTTLS} send-proxy-v2 {check}
listen expects
    bind @IP@:2002
    option tcp-check
    tcp-check expect string OK
    server v1 @IP@:{STARTTLS} send-proxy {check}
    server v2 @IP@:{STARTTLS} send-proxy-v2 {check}
listen asks
    bind @IP@:2003
    option httpchk GET /readyz
    server v2 @IP@:{STARTTLS} send-proxy-v2 port 9143 {check}
"
    ));
    // A balancer that does no more than connect.
    drop(dial_from(BALANCER, cluster.port(STARTTLS)));
    for server in [
        "connects/v1",
        "connects/v2",
        "expects/v1",
        "expects/v2",
        "asks/v2",
    ] {
        eventually(server, || {
            let log = haproxy.log();
            let words = format!("Health check for server {server} succeeded");
            log.lines().any(|line| line.contains(&words))
        });
    }
    let log = haproxy.log();
    assert!(!log.contains(" failed"), "{log}");
    ended(&cluster, &[" client=127.0.0.1:", " balancer=127.0.0.1:"]);
    assert_eq!(shed(&cluster, "balancer") + shed(&cluster, "header"), 0.0);
    assert_eq!(refusals(&cluster, BALANCER), Vec::<String>::new());
}

// === those who say to be somebody else ===

#[test]
fn a_header_from_an_address_that_is_not_listed_is_not_read() {
    let cluster = balanced().start();
    for (count, port) in (1..).zip([STARTTLS, PLAIN, TLS, TRUSTING]) {
        let mut stream = dial_from(STRANGER, cluster.port(port));
        // It may be closed before all is said.
        let _ = stream.write_all(V1);
        assert_eq!(hear(stream), b"");
        assert_eq!(shed(&cluster, "balancer"), f64::from(count));
    }
    let refusals = refusals(&cluster, STRANGER);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals[0].contains(" WARN ") && refusals[0].contains("[proxy] balancers"));
    assert!(!cluster.front_log().contains("192.0.2.77"));
}

#[test]
fn what_is_no_header_is_closed_without_a_word() {
    let cluster = balanced().start();
    let mut spaced = V1.to_vec();
    spaced.insert(5, b' ');
    let unix = [&V2[..13], b"\x31", &V2[14..]].concat();
    let sayings: [&[u8]; 7] = [
        b"a NOOP\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        // TLS, before any header.
        b"\x16\x03\x01\x02\0\x01",
        &spaced,
        &unix,
        &[0; 4096],
        &V1[..10],
    ];
    for (count, say) in (1..).zip(sayings) {
        let address = cluster.port(if count % 2 == 0 { TLS } else { PLAIN });
        let stream = said(address, say);
        // What is cut off ends; what is wrong may have been closed already.
        let _ = stream.shutdown(Shutdown::Write);
        assert_eq!(hear(stream), b"");
        eventually("it is counted", || {
            shed(&cluster, "header") == f64::from(count)
        });
    }
    let refusals = refusals(&cluster, BALANCER);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals[0].contains("no PROXY header"), "{refusals:?}");
}

#[test]
fn a_header_that_does_not_come_is_waited_for_no_longer_than_seconds() {
    let cluster = balanced().start();
    let start = Instant::now();
    let waiting = [
        said(cluster.port(STARTTLS), b""),
        said(cluster.port(STARTTLS), &V1[..20]),
        said(cluster.port(TLS), &V2[..V2.len() - 1]),
    ];
    for stream in waiting {
        assert_eq!(hear(stream), b"");
    }
    let waited = start.elapsed();
    assert!((4..12).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(shed(&cluster, "header"), 3.0);
}

#[test]
fn where_no_header_is_wanted_it_is_a_bad_command() {
    let cluster = balanced().start();
    for (header, outcome) in [
        (V1, " outcome=left "),
        (V1_NEAR, " outcome=left "),
        // It has bare ends of lines.
        (V2, " outcome=misbehaved "),
    ] {
        // From an address that is listed, too, and in the same segment as what follows.
        let stream = said(cluster.imap(), &[header, b"a NOOP\r\n"].concat());
        let from = format!(" client={} ", stream.local_addr().unwrap());
        let mut client = Client::over(stream);
        assert!(client.greeting.starts_with("* OK"), "{}", client.greeting);
        let line = client.line();
        assert!(line.contains(" BAD "), "{line}");
        if header != V2 {
            client.reply("a").ok();
        }
        drop(client);
        let line = ended(&cluster, &[&from, outcome]);
        assert!(!line.contains("balancer="), "{line}");
    }
    // After the greeting.
    let mut client = Client::connect_to(cluster.imap_private());
    client.send(V1_NEAR);
    let line = client.line();
    assert!(line.contains(" BAD "), "{line}");
    let ann = ann();
    let reply = client.login(Method::Login, &ann.name, &ann.password);
    reply.no("PRIVACYREQUIRED");
    assert!(!cluster.front_log().contains("192.0.2.77"));
}

#[test]
fn a_second_header_is_the_clients_own() {
    let cluster = balanced().start();
    let other = b"PROXY TCP4 203.0.113.9 203.0.113.8 1 2\r\n";
    // At once, and after the greeting.
    let mut client = Client::over(said(cluster.port(PLAIN), &[V1, other].concat()));
    let line = client.line();
    assert!(line.contains(" BAD "), "{line}");
    client.send(other);
    let line = client.line();
    assert!(line.contains(" BAD "), "{line}");
    drop(client);
    ended(&cluster, &[NAMED]);
    // Inside TLS.
    let tcp = said(cluster.port(TLS), V2);
    let mut client = Client::tls_over(&cluster, tcp);
    client.send(other);
    let line = client.line();
    assert!(line.contains(" BAD "), "{line}");
    drop(client);
    ended(&cluster, &[NAMED, " tls=TLSv1.3 "]);
    // Instead of TLS.
    let stream = said(cluster.port(TLS), &[V1, other].concat());
    // An alert of TLS, and no greeting.
    assert!(hear(stream).len() <= 7);
    ended(&cluster, &[NAMED, " outcome=tls "]);
    assert!(!cluster.front_log().contains("203.0.113"));
}

#[test]
fn a_header_may_come_in_pieces_or_with_what_follows() {
    let cluster = balanced().start();
    let ann = ann();
    for header in [V1_NEAR, V1, V2] {
        let mut stream = dial_from(BALANCER, cluster.port(TLS));
        for octet in header {
            stream.write_all(&[*octet]).unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        let mut client = Client::tls_over(&cluster, stream);
        client.login(Method::Login, &ann.name, &ann.password).ok();
        client.command("LOGOUT").ok();
        // With the client's first octets of TLS, in one segment.
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(cluster.trust(), name).unwrap();
        let mut first = header.to_vec();
        tls.write_tls(&mut first).unwrap();
        let mut stream = said(cluster.port(TLS), &first);
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).unwrap();
        }
        let mut greeting = [0; 4];
        let mut tls = rustls::StreamOwned::new(tls, stream);
        tls.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"* OK");
        // And with a whole login.
        let login = format!("a LOGIN ann {{{}}}\r\n", ann.password.len());
        let stream = said(cluster.port(PLAIN), &[V1_NEAR, login.as_bytes()].concat());
        let mut client = Client::over(stream);
        assert!(client.line().starts_with('+'));
        client.send(format!("{}\r\n", ann.password));
        client.reply("a").ok();
        client.command("LOGOUT").ok();
    }
    assert_eq!(shed(&cluster, "header"), 0.0);
}

#[test]
fn passwords_in_clear_are_a_matter_of_the_client_in_the_header() {
    let cluster = balanced().start();
    let ann = ann();
    let unknown = b"PROXY UNKNOWN\r\n";
    for (header, welcome) in [
        (V1_NEAR, true),
        (V1, false),
        (V2, false),
        (V2_LOCAL, false),
        (&unknown[..], false),
    ] {
        for port in [STARTTLS, PLAIN] {
            let mut client = Client::over(said(cluster.port(port), header));
            let reply = client.login(Method::Login, &ann.name, &ann.password);
            if welcome {
                reply.ok();
                client.command("LOGOUT").ok();
            } else {
                reply.no("PRIVACYREQUIRED");
            }
        }
    }
}
