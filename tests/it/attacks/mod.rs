//! Flaws that were published of other mail servers and proxies, each tried on this one by name: the built program, with a
//! real slapd and Dovecot behind it. Which ones, of whom, what is tried and what must hold stands in the table of
//! `README.md`; this module has what they share, and the test that the table and the tests are the same.
//!
#![doc = include_str!("README.md")]
#![allow(
    clippy::too_many_lines,
    reason = "a test is the list of what it tries, which is read as one"
)]

mod login;
mod memory;
mod names;
mod places;
mod smuggling;
mod tls;

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use crate::{
    client::Client,
    lab::{Cluster, User, eventually, metric},
};

/// How long a single answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The usual cluster with two accounts, one on each node.
fn cluster(proxy: &str) -> (Cluster, [User; 2]) {
    let people = [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)];
    let builder = people
        .iter()
        .fold(Cluster::usual(), |builder, user| builder.user(user));
    let builder = if proxy.contains("failure_delay") {
        builder
    } else {
        builder.proxy("failure_delay = \"5ms\"")
    };
    (builder.proxy(proxy).start(), people)
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What is heard up to the end, which may be a reset.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    heard
}

/// Reads on until this was said.
fn hear(stream: &mut TcpStream, words: &str) {
    let (mut heard, mut octet) = (Vec::new(), [0]);
    while !heard.ends_with(words.as_bytes()) {
        stream.read_exact(&mut octet).unwrap();
        heard.extend_from_slice(&octet);
    }
    // The line's end.
    stream.read_exact(&mut [0; 2]).unwrap();
}

/// Says all of it at once and ends; what came back behind the greeting.
fn answer(address: SocketAddr, said: impl AsRef<[u8]>) -> String {
    let mut stream = dial(address);
    // It may be closed before all is said.
    if stream.write_all(said.as_ref()).is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let heard = String::from_utf8_lossy(&rest(&mut stream)).into_owned();
    let (_greeting, heard) = heard.split_once("\r\n").unwrap();
    heard.to_owned()
}

/// The same line by line.
fn say<'l>(address: SocketAddr, lines: impl IntoIterator<Item = &'l String>) -> String {
    let lines: String = lines
        .into_iter()
        .map(|line| format!("{line}\r\n"))
        .collect();
    answer(address, lines)
}

/// Logs in with USER and PASS, and says QUIT.
fn pop3_login(client: &mut Client, user: &User) {
    for line in [
        format!("USER {}", user.name),
        format!("PASS {}", user.password),
        "QUIT".to_owned(),
    ] {
        client.send(format!("{line}\r\n"));
        let heard = client.line();
        assert!(heard.starts_with("+OK"), "{heard}");
    }
    client.rest();
}

/// What the directory was asked for on behalf of clients.
fn filters(cluster: &Cluster) -> BTreeSet<String> {
    let log = cluster.slapd_log();
    let filters = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once(" filter=\"")?;
        rest.strip_suffix('"').map(str::to_owned)
    });
    filters
        .filter(|filter| filter.contains("(uid=") || filter.contains("(mail="))
        .collect()
}

/// Resident memory of the front, in KiB.
fn resident(cluster: &mut Cluster) -> usize {
    cluster.front().status("VmRSS")[0].parse().unwrap()
}

/// Every client's place is free again.
fn wait_for_nobody(cluster: &Cluster) {
    let gauges = [
        "pigeonair_connections_open",
        "pigeonair_connections_unauthenticated",
        "pigeonair_sessions_open{protocol=\"imap\"}",
        "pigeonair_sessions_open{protocol=\"pop3\"}",
    ];
    for gauge in gauges {
        eventually(&format!("{gauge} is 0"), || {
            metric(cluster.front_admin(), gauge).unwrap_or(0.0) == 0.0
        });
    }
}

/// What the table names: files, and the tests in them.
fn named() -> BTreeSet<(String, Option<String>)> {
    let rows = include_str!("README.md")
        .lines()
        .filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "));
    cells
        .flat_map(|(_, cell)| cell.split('`').skip(1).step_by(2))
        .map(|name| match name.split_once("::") {
            Some((file, test)) => (whole(file), Some(test.to_owned())),
            None => (whole(name), None),
        })
        .collect()
}

fn whole(file: &str) -> String {
    if file.contains('/') {
        return file.to_owned();
    }
    format!("tests/it/attacks/{file}")
}

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The names behind `#[test]` or another attribute that ends so.
fn tests(text: &str) -> BTreeSet<&str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let after = lines
        .windows(2)
        .filter(|pair| pair[0].starts_with("#[") && pair[0].ends_with("test]"));
    let names = after.filter_map(|pair| {
        let (_, rest) = pair[1].split_once("fn ")?;
        rest.split_once('(').map(|(name, _)| name)
    });
    names.collect()
}

#[test]
fn the_table_names_tests_that_exist() {
    let named = named();
    assert!(named.len() > 40, "{named:?}");
    for (file, test) in &named {
        let text = read(file);
        if let Some(test) = test {
            assert!(tests(&text).contains(test.as_str()), "{file} has no {test}");
        }
    }
}

#[test]
fn every_attack_stands_in_the_table() {
    let named = named();
    for file in ["login", "memory", "names", "places", "smuggling", "tls"] {
        let file = format!("tests/it/attacks/{file}.rs");
        for test in tests(&read(&file)) {
            let row = (file.clone(), Some(test.to_owned()));
            assert!(named.contains(&row), "{file}: {test} is not in the table");
        }
    }
}
