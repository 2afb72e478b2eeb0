//! What the processes may do beyond their own user: the manual's table, read from the kernel while they serve.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User},
};

const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;

/// The capabilities of one thread, by the kernel's name of the set.
type Sets = BTreeMap<String, u64>;

/// Of each thread of a process.
fn threads(pid: i32) -> Vec<Sets> {
    let folder = format!("/proc/{pid}/task");
    let threads: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|thread| sets(&fs::read_to_string(thread.unwrap().path().join("status")).unwrap()))
        .collect();
    assert!(!threads.is_empty());
    threads
}

fn sets(status: &str) -> Sets {
    status
        .lines()
        .filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t"))
        .map(|(name, set)| (name.to_owned(), u64::from_str_radix(set, 16).unwrap()))
        .collect()
}

/// Every thread has these capabilities and can get no others, but for what a program could that is executed.
fn assert_has(pid: i32, kept: u64, bounding: u64) {
    let threads = threads(pid);
    for sets in &threads {
        let found = ["Eff", "Prm", "Inh", "Amb", "Bnd"].map(|name| sets[name]);
        assert_eq!(found, [kept, kept, 0, 0, bounding], "of {}", threads.len());
    }
}

/// The processes that a process has started.
fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .flat_map(|thread| {
            let children = fs::read_to_string(thread.unwrap().path().join("children")).unwrap();
            let ids = children.split_whitespace().map(|id| id.parse().unwrap());
            ids.collect::<Vec<_>>()
        })
        .collect()
}

/// Serves somebody whose home has to be made, and looks meanwhile.
fn serve(kind: Kind, node_may: u64, programs_may: u64) {
    let user = User::new("ann", "n1", 20901);
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", kind))
        .user(&user)
        .front_as_root()
        .start();
    assert!(!cluster.home(&user).exists());
    let mut client = Client::logged_in(&cluster, Channel::Implicit, &user);
    client.command("SELECT INBOX").ok();
    let home = fs::metadata(cluster.home(&user)).unwrap();
    assert_eq!((home.uid(), home.gid()), (20901, 20901));

    let all = sets(&fs::read_to_string("/proc/self/status").unwrap())["Bnd"];
    assert_ne!(
        all & !node_may,
        0,
        "the premise: there is something to lose"
    );
    assert_has(cluster.front().id().as_raw_pid(), 0, 0);
    let node = cluster.node("n1").acceptor().id().as_raw_pid();
    assert_has(node, node_may, all & programs_may);
    let started = children(node);
    assert_eq!(!started.is_empty(), kind == Kind::Exec);
    for server in started {
        assert_has(server, 0, all);
    }
    client.command("LOGOUT").ok();
}

#[test]
fn kind_login_makes_homes() {
    serve(Kind::Login, CHOWN, CHOWN);
}

#[test]
fn kind_imap_master_makes_homes() {
    serve(Kind::ImapMaster, CHOWN, CHOWN);
}

#[test]
fn kind_exec_starts_and_ends_servers_as_their_users() {
    serve(Kind::Exec, CHOWN | KILL | SETGID | SETUID, u64::MAX);
}

/// A node with these sections in place of real servers.
fn mailstore(sections: &str, node_may: u64) {
    let user = User::new("ann", "n1", 20902);
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login).servers(sections))
        .user(&user)
        .start();
    let node = cluster.node("n1").acceptor().id().as_raw_pid();
    assert_has(node, node_may, node_may);

    // And it has no sessions to offer, which the front and the log hear.
    let mut client = Client::connect(&cluster, Channel::Implicit);
    client
        .login(Method::Login, &user.name, &user.password)
        .no("UNAVAILABLE");
    let log = cluster.node_log("n1");
    let refused = log.lines().find(|line| line.contains("link refused"));
    let refused = refused.unwrap_or_else(|| panic!("not said: {log}"));
    assert!(
        refused.ends_with("key=front service=imap reason=\"service is not served here\""),
        "{refused}"
    );
}

#[test]
fn a_mailstore_of_maildirs_becomes_users() {
    mailstore("[mailstore]\nkind = \"maildir\"\n", CHOWN | SETGID | SETUID);
}

#[test]
fn a_mailstore_before_a_server_makes_homes() {
    mailstore(
        "[mailstore]\nkind = \"lmtp\"\nserver = \"/run/dovecot/lmtp\"\n",
        CHOWN,
    );
}
