//! Flaws that were published of other mail servers and proxies, each tried on this one by name: the built program, with a
//! real slapd and Dovecot behind it.

#![allow(
    clippy::too_many_lines,
    reason = "a test is the list of what it tries, which is read as one"
)]

mod login;
mod names;
mod smuggling;
mod tls;

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use crate::{
    client::Client,
    lab::{Cluster, User},
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
