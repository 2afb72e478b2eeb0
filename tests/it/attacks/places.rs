//! Clients that go away, or hardly go on, at every point of the conversation: each place and descriptor is free again.

use std::{
    io::Write as _,
    net::{Shutdown, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConnection, pki_types::ServerName};
use socket2::SockRef;

use super::{cluster, dial, hear, rest, wait_for_nobody};
use crate::{
    client::{Channel, Client},
    lab::{Cluster, User, eventually, metric},
};

/// How a client ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It says no more, and listens.
    Half,
    Close,
    Reset,
}

/// What is said, and where it may be cut: at every so many octets.
struct Way {
    address: SocketAddr,
    said: Vec<u8>,
    step: usize,
}

fn ways(cluster: &Cluster, ann: &User) -> Vec<Way> {
    let password = &ann.password;
    let encoded = STANDARD.encode(password);
    let hello = hello(cluster);
    let way = |address, said: Vec<u8>, step| Way {
        address,
        said,
        step,
    };
    vec![
        way(
            cluster.imap(),
            format!(
                "a LOGIN {{3}}\r\nann {{{}+}}\r\n{password}\r\nb NOOP\r\n",
                password.len()
            )
            .into(),
            1,
        ),
        way(
            cluster.imap(),
            format!("a AUTHENTICATE LOGIN\r\nYW5u\r\n{encoded}\r\nb LOGOUT\r\n").into(),
            1,
        ),
        way(
            cluster.imap(),
            b"a LOGIN ann wrong\r\nb LOGOUT\r\n".to_vec(),
            1,
        ),
        way(
            cluster.pop3(),
            format!("USER ann\r\nPASS {password}\r\nQUIT\r\n").into(),
            1,
        ),
        way(
            cluster.pop3(),
            b"AUTH PLAIN\r\nAGFubgB3cm9uZw==\r\nQUIT\r\n".to_vec(),
            1,
        ),
        way(cluster.imap(), [b"a STARTTLS\r\n", &*hello].concat(), 9),
        way(cluster.pop3(), [b"STLS\r\n", &*hello].concat(), 9),
        way(cluster.imaps(), hello, 9),
    ]
}

fn hello(cluster: &Cluster) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(cluster.trust(), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

fn leave(way: &Way, cut: usize, end: End) {
    let mut stream = dial(way.address);
    // A server that has ended is not written to.
    let _ = stream.write_all(&way.said[..cut]);
    match end {
        End::Half => {
            let _ = stream.shutdown(Shutdown::Write);
            rest(&mut stream);
        }
        End::Close => (),
        End::Reset => SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap(),
    }
}

#[test]
fn whoever_leaves_at_any_point_leaves_no_place_taken() {
    const THREADS: usize = 8;
    let people = [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)];
    let [ann, bob] = &people;
    let mut cluster = Cluster::usual()
        .user(ann)
        .user(bob)
        .proxy("failure_delay = \"5ms\"")
        .start();
    let ways = ways(&cluster, ann);
    let all: Vec<_> = ways
        .iter()
        .flat_map(|way| {
            (0..=way.said.len())
                .step_by(way.step)
                .map(move |cut| (way, cut))
        })
        .flat_map(|(way, cut)| [End::Half, End::Close, End::Reset].map(|end| (way, cut, end)))
        .collect();
    let start = Instant::now();
    // Once for what is opened and stays open, links and connections to the directory; then nothing may be added.
    let descriptors = [(); 2].map(|()| {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while let Some((way, cut, end)) = all.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        leave(way, *cut, *end);
                    }
                });
            }
        });
        wait_for_nobody(&cluster);
        wait_for_links(&cluster);
        cluster.front().descriptors()
    });
    let count = all.len();
    eprintln!(
        "{count} clients left, twice, within {:?}: {descriptors:?} descriptors",
        start.elapsed()
    );
    // A stage that kept one would have kept dozens.
    assert!(descriptors[1] <= descriptors[0] + 4, "{descriptors:?}");
    Client::logged_in(&cluster, Channel::Implicit, bob);
}

/// Those made ahead, of which a login takes one, are all there: two of each core that has dialled.
fn wait_for_links(cluster: &Cluster) {
    let mut before = None;
    eventually("links stand ready", || {
        let line = "pigeonair_links_ready{node=\"n1\"}";
        let now = metric(cluster.front_admin(), line);
        let settled = before == now && now >= Some(2.0);
        before = now;
        settled
    });
}

/// The same while the directory says nothing, so that nobody hears that the client has gone.
#[test]
fn whoever_leaves_while_it_is_logged_in_leaves_no_place_taken() {
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::usual()
        .user(&ann)
        .directory("timeout = \"1s\"")
        .proxy("failure_delay = \"5ms\"")
        .start();
    Client::logged_in(&cluster, Channel::Plain, &ann);
    wait_for_nobody(&cluster);
    cluster.slapd().process.freeze();
    let ways = ways(&cluster, &ann);
    let left = thread::scope(|scope| {
        let ways = ways
            .iter()
            .flat_map(|way| [End::Half, End::Close, End::Reset].map(|end| (way, end)));
        let threads: Vec<_> = ways
            .map(|(way, end)| scope.spawn(move || leave(way, way.said.len(), end)))
            .collect();
        threads.len()
    });
    cluster.slapd().process.thaw();
    wait_for_nobody(&cluster);
    eprintln!("{left} clients left while the directory was frozen");
    eventually("the directory is asked again", || {
        let mut client = Client::connect(&cluster, Channel::Plain);
        client.send(format!("a LOGIN ann \"{}\"\r\n", ann.password));
        client.reply("a").status.starts_with("OK")
    });
}

/// An octet now and then buys no time, wherever the conversation is.
#[test]
fn a_slow_client_ends_in_time() {
    const LIMIT: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(100);
    let (cluster, [_, bob]) = cluster("login_timeout = \"2s\"");
    let (imap, pop3) = (cluster.imap(), cluster.pop3());
    let hello = hello(&cluster);
    let begun = [
        (imap, ""),
        (imap, "a AUTHENTICATE "),
        (imap, "a AUTHENTICATE PLAIN\r\n"),
        (imap, "a AUTHENTICATE LOGIN\r\nYW5u\r\n"),
        (imap, "a LOGIN {4000+}\r\n"),
        (imap, "a LOGIN ann wrong\r\nb LOGIN ann "),
        (imap, "a ID (\"key\" \""),
        (pop3, "AUTH "),
        (pop3, "AUTH PLAIN\r\n"),
        (pop3, "USER ann\r\nPASS "),
        (imap, "a STARTTLS\r\n"),
        (pop3, "STLS\r\n"),
    ];
    thread::scope(|scope| {
        for (address, begun) in begun {
            let begins_tls = begun.ends_with("TLS\r\n") || begun.ends_with("STLS\r\n");
            let drops = if begins_tls {
                hello.clone()
            } else {
                vec![b'A'; 1000]
            };
            scope.spawn(move || {
                let mut stream = dial(address);
                let start = Instant::now();
                stream.write_all(begun.as_bytes()).unwrap();
                if begins_tls {
                    // What came with the command would be dropped.
                    hear(&mut stream, "negotiation now.");
                }
                for octet in drops {
                    if stream.write_all(&[octet]).is_err() {
                        break;
                    }
                    thread::sleep(PAUSE);
                }
                let lasted = start.elapsed();
                let heard = String::from_utf8_lossy(&rest(&mut stream)).into_owned();
                // The server listens for a second to what was on its way before it resets.
                assert!(
                    lasted > LIMIT && lasted < LIMIT * 4,
                    "{begun:?}: {lasted:?} {heard}"
                );
                assert!(!heard.contains("Logged in"), "{begun:?}: {heard}");
            });
        }
        Client::logged_in(&cluster, Channel::StartTls, &bob);
    });
    wait_for_nobody(&cluster);
    let log = cluster.front_log();
    let slow = log.lines().filter(|line| {
        line.contains("session ended")
            && (line.contains(" outcome=slow ") || line.contains(" outcome=tls "))
    });
    assert_eq!(slow.count(), begun.len(), "{log}");
}
