//! Ten thousand connections that mean no good, from a hundred networks, at the same time: silent ones, garbage, half a TLS
//! handshake, failed logins. Somebody who just wants to read mail logs in over and over.
//!
//! How often that worked, and how much memory the front took, is printed (`--nocapture`); that it always worked is
//! asserted.

use std::{
    collections::VecDeque,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    client::{Channel, Client, dial_from},
    lab::{Cluster, User, eventually, metric},
};

const CONNECTIONS: usize = 10_000;
/// How long they last: those that were closed are replaced by others.
const DURATION: Duration = Duration::from_secs(12);
/// Between two replacements of one thread, once all are there.
const PAUSE: Duration = Duration::from_millis(5);
const NETWORKS: usize = 100;
const THREADS: usize = 8;
/// Of the front, when all of them are there: mostly what TLS keeps of its handshakes.
const MAX_MEMORY: u64 = 256 << 20;

/// What one of them does, and then stays as long as it may.
fn attack(cluster: &Cluster, number: usize) -> TcpStream {
    let address = match number % 4 {
        2 => cluster.imaps(),
        _ => cluster.imap(),
    };
    let network = number % NETWORKS + 1;
    let mut stream = dial_from(&format!("127.201.0.{network}"), address);
    let said = match number % 4 {
        // A command that never ends.
        0 => b"a LOGIN a".to_vec(),
        1 => noise(number),
        // The beginning of a ClientHello.
        2 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        _ => format!("a LOGIN user{number} guess{number}\r\n").into_bytes(),
    };
    // It may have been closed already.
    let _ = stream.write_all(&said);
    stream
}

/// Octets without order or line end.
fn noise(seed: usize) -> Vec<u8> {
    let mut state = seed as u64 | 1;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    let octets = std::iter::repeat_with(next).take(300);
    octets.filter(|octet| *octet != b'\n').collect()
}

/// How many connections this process may have, other tests beside it: all of them if the limit can be raised so far.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let possible = limit
        .maximum
        .map_or(usize::MAX, |it| usize::try_from(it).unwrap());
    CONNECTIONS.min(possible.saturating_sub(2000))
}

fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024
}

#[test]
fn whoever_just_wants_to_read_mail_gets_in() {
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::usual()
        .user(&ann)
        .proxy("failure_delay = \"2s\"")
        .proxy("[proxy.defence]\ntrusted_networks = []")
        .start();
    let pid = cluster.front().id().as_raw_nonzero().get();
    let (cluster, ann) = (&cluster, &ann);
    let most = descriptors();
    let begun = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let (tried, served) = thread::scope(|scope| {
        let attackers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut held = VecDeque::new();
                    while start.elapsed() < DURATION {
                        let number = begun.fetch_add(1, Ordering::Relaxed);
                        held.push_back(attack(cluster, number));
                        if held.len() > most / THREADS {
                            held.pop_front();
                            thread::sleep(PAUSE);
                        }
                    }
                    held
                })
            })
            .collect();
        let good = scope.spawn(|| good_user(cluster, ann, &over));
        let held: Vec<_> = attackers.into_iter().map(|it| it.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        let counts = good.join().unwrap();
        let held: usize = held.iter().map(VecDeque::len).sum();
        assert!(held + THREADS >= most, "{held} at the same time");
        counts
    });
    let memory = memory(pid);
    eprintln!(
        "{most} connections at a time, {} in all, within {:?}: {served} of {tried} logins served; {} MiB at most",
        begun.load(Ordering::Relaxed),
        start.elapsed(),
        memory >> 20,
    );
    let displaced = shed(cluster);
    let log = cluster.front_log();
    let ended = log
        .lines()
        .filter(|line| line.contains("session ended") && line.contains("client=127.0.0.1:"));
    for line in ended
        .filter(|line| !line.contains("outcome=served"))
        .take(3)
    {
        eprintln!("{line}");
    }
    assert!(tried >= 5, "there was no time to try");
    assert_eq!(served, tried);
    assert!(memory < MAX_MEMORY, "{memory} octets");
    assert!(displaced > 0.0);
}

/// Says how many connections were closed unserved; of how many that was to make room.
fn shed(cluster: &Cluster) -> f64 {
    let count = |reason: &str| {
        let line = format!("pigeonair_connections_shed_total{{reason=\"{reason}\"}}");
        let count = metric(cluster.front_admin(), &line).unwrap_or(0.0);
        eprintln!("{reason}: {count}");
        count
    };
    for reason in [
        "descriptors",
        "limit",
        "network",
        "network-unauthenticated",
        "unauthenticated",
    ] {
        count(reason);
    }
    count("displaced")
}

/// Logs in until it is over: how often it tried, and how often it was served.
fn good_user(cluster: &Cluster, ann: &User, over: &AtomicBool) -> (usize, usize) {
    let (mut tried, mut served) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        tried += 1;
        let channel = Channel::ALL[tried % 3];
        // What is closed under it is a panic of the client's.
        let session = thread::scope(|scope| {
            let session = scope.spawn(|| {
                let mut client = Client::logged_in(cluster, channel, ann);
                client.command("SELECT INBOX").ok();
            });
            session.join()
        });
        served += usize::from(session.is_ok());
    }
    (tried, served)
}

/// The same for one network that nobody else is in: no more than its share.
#[test]
fn one_network_takes_no_more_than_its_share() {
    let ann = User::new("ann", "n1", 20001);
    let cluster = Cluster::usual()
        .user(&ann)
        .proxy("[proxy.defence]\ntrusted_networks = []\nmax_unauthenticated_per_network = 50")
        .start();
    let address: SocketAddr = cluster.imap();
    let all: Vec<_> = (0..500)
        .map(|_| dial_from("127.202.0.1", address))
        .collect();
    let is_open = |stream: &&TcpStream| {
        let mut stream: &TcpStream = stream;
        // Whoever was displaced reads the end behind the greeting.
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut heard = Vec::new();
        let end = stream.read_to_end(&mut heard);
        end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    eventually("no more than fifty stay", || {
        all.iter().filter(is_open).count() <= 50
    });
    let unauthenticated = metric(
        cluster.front_admin(),
        "pigeonair_connections_unauthenticated",
    );
    assert!(unauthenticated <= Some(50.0));
    Client::logged_in(&cluster, Channel::Implicit, &ann);
}
