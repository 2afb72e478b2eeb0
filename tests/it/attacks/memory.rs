//! What clients can make the front hold: as much as a bound allows for each, and nothing once they are gone.
//!
//! Figures are of resident memory, printed (`--nocapture`) and compared with what the limits of `[proxy]` add up to.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{cluster, dial, resident, wait_for_nobody};
use crate::{
    client::{Channel, Client},
    lab::{Cluster, User, eventually},
};

const CLIENTS: usize = 1000;
/// A connection with a command that is not complete: 8 KiB of a line in a vector that doubles, two reads, its task.
const MOST_KIB_EACH: usize = 48;
/// What allocators keep, and other things that happen meanwhile.
const NOISE_KIB: usize = 4 << 10;

/// Reads until so many lines begin with this tag; a greeting is one line of its own.
fn hear_tagged(stream: &mut TcpStream, tag: &str, count: usize) {
    let (mut heard, mut octets) = (String::new(), [0; 4096]);
    while heard.lines().filter(|line| line.starts_with(tag)).count() < count {
        match stream.read(&mut octets) {
            Ok(0) => panic!("closed: {heard}"),
            Ok(length) => heard += &String::from_utf8_lossy(&octets[..length]),
            // A read with a timeout is not taken up again after a signal, signal(7).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}: {heard}"),
        }
    }
}

/// All send as much as one may before a login, in commands that are as long as they may be, and stay in the middle of one.
#[test]
fn a_thousand_pipeline_before_a_login() {
    let (mut cluster, [ann, _]) = cluster("");
    let command = format!("a ID (\"key\" \"{}\")\r\n", "x".repeat(7500));
    let commands = command.repeat(8);
    let unfinished = [
        format!("a LOGIN {{4000+}}\r\n{}", "x".repeat(3990)),
        format!("a LOGIN \"{}", "x".repeat(4900)),
    ];
    let before = resident(&mut cluster);
    let mut peaks = Vec::new();
    let start = Instant::now();
    for round in 0..2 {
        let mut streams: Vec<_> = (0..CLIENTS).map(|_| dial(cluster.imap())).collect();
        for (stream, last) in streams.iter_mut().zip(unfinished.iter().cycle()) {
            stream.write_all(commands.as_bytes()).unwrap();
            stream.write_all(last.as_bytes()).unwrap();
        }
        for stream in &mut streams {
            hear_tagged(stream, "a OK", 8);
        }
        peaks.push(resident(&mut cluster).saturating_sub(before));
        drop(streams);
        wait_for_nobody(&cluster);
        let after = resident(&mut cluster).saturating_sub(before);
        eprintln!(
            "{CLIENTS} clients with 64 KiB each, round {round}: {} KiB more, {after} KiB after them, {:?}",
            peaks[round],
            start.elapsed()
        );
    }
    assert!(peaks[0] < CLIENTS * MOST_KIB_EACH, "{peaks:?}");
    // The same again costs nothing more: what was freed is used anew.
    assert!(peaks[1] < peaks[0] + peaks[0] / 10 + NOISE_KIB, "{peaks:?}");
    Client::logged_in(&cluster, Channel::Plain, &ann);
}

/// Sends as much as the other side takes without being waited for.
fn push(stream: &mut TcpStream, octets: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while sent < octets.len() {
        match stream.write(&octets[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Behind a login that waits for the directory nothing is read: what a client sends stays in the kernel.
#[test]
fn pipelining_behind_a_login_while_the_directory_is_frozen() {
    const WAITING: usize = 300;
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::usual()
        .user(&ann)
        .directory("timeout = \"2s\"")
        .start();
    let behind = format!("b NOOP {}\r\n", "x".repeat(8000)).repeat(130);
    let before = resident(&mut cluster);
    cluster.slapd().process.freeze();
    let mut streams: Vec<_> = (0..WAITING).map(|_| dial(cluster.imap())).collect();
    let mut sent = 0;
    for stream in &mut streams {
        stream
            .write_all(format!("a LOGIN ann \"{}\"\r\n", ann.password).as_bytes())
            .unwrap();
        sent += push(stream, behind.as_bytes());
    }
    let mut peak = 0;
    let answered = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let mut heard = [0; 4096];
        let count = stream.peek(&mut heard).unwrap_or(0);
        stream.set_nonblocking(false).unwrap();
        heard[..count].windows(4).any(|window| window == b"\r\na ")
    };
    eventually("the first one is answered", || {
        peak = peak.max(resident(&mut cluster).saturating_sub(before));
        answered(&streams[0])
    });
    eprintln!(
        "{} KiB behind {WAITING} logins: {peak} KiB more",
        sent >> 10
    );
    assert!(sent > WAITING << 16, "{sent}");
    assert!(peak < WAITING * MOST_KIB_EACH, "{peak} KiB");
    cluster.slapd().process.thaw();
    for stream in &mut streams {
        hear_tagged(stream, "a ", 1);
    }
    drop(streams);
    wait_for_nobody(&cluster);
    let after = resident(&mut cluster).saturating_sub(before);
    assert!(after < WAITING * MOST_KIB_EACH, "{after} KiB");
    Client::logged_in(&cluster, Channel::Plain, &ann);
}

/// An exchange that is given up, refused, or left in the middle leaves nothing behind.
#[test]
fn aborted_exchanges_are_forgotten() {
    const ROUNDS: usize = 3;
    let (mut cluster, _) = cluster("failure_delay = \"1ms\"");
    let name = "YW5u".repeat(50);
    let imap = [
        format!("a AUTHENTICATE LOGIN\r\n{name}\r\n*\r\n"),
        "a AUTHENTICATE PLAIN\r\n*\r\n".to_owned(),
        format!("a AUTHENTICATE PLAIN {name}\r\n"),
        format!("a AUTHENTICATE LOGIN {name}\r\n!\r\n"),
    ]
    .concat();
    let pop3 = format!(
        "AUTH LOGIN\r\n{name}\r\n*\r\nAUTH PLAIN\r\n*\r\nAUTH PLAIN {name}\r\nUSER {name}\r\n"
    );
    let ends = [
        "a AUTHENTICATE LOGIN\r\n",
        "a AUTHENTICATE LOGIN\r\nYW5u\r\n",
        "a AUTHENTICATE PLAIN\r\nAGFu",
    ];
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        for number in 0..300 {
            abort(cluster.imap(), &format!("{imap}{imap}{}", ends[number % 3]));
            abort(
                cluster.pop3(),
                &format!("{pop3}{pop3}AUTH LOGIN\r\nYW5u\r\n"),
            );
        }
        wait_for_nobody(&cluster);
        figures.push(resident(&mut cluster));
    }
    eprintln!("after each {} aborted exchanges: {figures:?} KiB", 300 * 15);
    assert!(figures[ROUNDS - 1] < figures[0] + NOISE_KIB, "{figures:?}");
}

fn abort(address: SocketAddr, said: &str) {
    let mut stream = dial(address);
    stream.write_all(said.as_bytes()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // The greeting, and whatever was answered by then.
    let _ = stream.read(&mut [0; 512]).unwrap();
}
