//! What the processes may do beyond their own user: the manual's table, read from the kernel while they serve.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, FRONT_UID, Kind, NodeSpec, Process, User, eventually},
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

/// Nothing that it executes gets more rights than it has, and its memory is written to no file.
fn assert_is_shut(process: &Process, no_new_privs: bool, writes_cores: bool) {
    let expected = if no_new_privs { "1" } else { "0" };
    assert_eq!(process.status("NoNewPrivs"), [expected]);
    let id = process.id().as_raw_pid();
    let limits = fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let is_none = cores.unwrap().split_whitespace().nth(5) == Some("0");
    assert_eq!(is_none, !writes_cores, "{limits}");
    // What is not dumpable is root's, whoever it runs as.
    let owner = fs::metadata(format!("/proc/{id}/environ")).unwrap().uid();
    assert_eq!(owner, 0);
}

/// All ids of a process.
fn assert_is(process: &Process, uid: u32, groups: &[u32]) {
    let id = uid.to_string();
    for name in ["Uid", "Gid"] {
        assert_eq!(process.status(name), [id.as_str(); 4], "{name}");
    }
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    assert_eq!(process.status("Groups"), groups);
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
    assert_is_shut(cluster.front(), true, false);
    assert_eq!(cluster.front().status("Seccomp"), ["2"]);
    assert!(cluster.front_log().contains("the front runs as root"));
    let starts_servers = kind == Kind::Exec;
    assert_is_shut(
        cluster.node("n1").acceptor(),
        !starts_servers,
        starts_servers,
    );
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

#[test]
fn a_front_that_root_starts_becomes_its_user() {
    let user = User::new("ann", "n1", 20903);
    let mut cluster = Cluster::usual()
        .user(&user)
        .front_becomes_its_user()
        .start();
    let front = cluster.front();
    assert_is(front, FRONT_UID, &[]);
    assert_has(front.id().as_raw_pid(), 0, 0);
    assert_is_shut(front, true, false);
    assert_eq!(front.status("Seccomp"), ["2"]);
    assert!(!cluster.front_log().contains("the front runs as root"));
    let mut client = Client::logged_in(&cluster, Channel::Implicit, &user);
    client.command("SELECT INBOX").ok();

    // Its socket is its own, and answers.
    let socket = fs::metadata(cluster.front_socket()).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o777), (FRONT_UID, 0o600));
    let (code, out, notes) = cluster.ask(&["explain", "ann"]);
    assert_eq!(code, Some(0), "{notes}");
    assert!(out.contains("cached          ann: kept"), "{out}");
    client.command("LOGOUT").ok();

    // Once more, over the socket that the first one left.
    cluster.restart_front();
    Client::logged_in(&cluster, Channel::Implicit, &user);
}

#[test]
fn files_that_the_fronts_user_cannot_read_keep_it_from_starting() {
    let mut cluster = Cluster::usual().front_becomes_its_user().start();
    let key = cluster.front_socket().with_file_name("server.key");
    std::os::unix::fs::chown(&key, Some(0), Some(0)).unwrap();
    let (code, said) = cluster.start_front_in_vain();
    assert_eq!(code, Some(78));
    let expected = format!(
        "proxy.tls.key: cannot read {}: Permission denied (os error 13), read as user {FRONT_UID}",
        key.display()
    );
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_front_of_an_ordinary_user_needs_nothing_else() {
    // As all other tests have it.
    let user = User::new("ann", "n1", 20904);
    let mut cluster = Cluster::usual().user(&user).start();
    let front = cluster.front();
    assert_is(front, FRONT_UID, &[]);
    assert_is_shut(front, true, false);
    for sets in threads(front.id().as_raw_pid()) {
        assert_eq!(["Eff", "Prm", "Inh", "Amb"].map(|name| sets[name]), [0; 4]);
    }
    Client::logged_in(&cluster, Channel::Implicit, &user);
}

/// A node of a user of its own, with its kind's capabilities all the same, makes a home and serves.
fn node_of_a_user(kind: Kind, node_may: u64, programs_may: u64) {
    const NODE_UID: u32 = 64144;
    let user = User::new("ann", "n1", 20905);
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", kind))
        .user(&user)
        .nodes_become(NODE_UID)
        .start();
    let mut client = Client::logged_in(&cluster, Channel::Implicit, &user);
    client.command("SELECT INBOX").ok();
    let home = fs::metadata(cluster.home(&user)).unwrap();
    assert_eq!((home.uid(), home.gid()), (20905, 20905));
    let all = sets(&fs::read_to_string("/proc/self/status").unwrap())["Bnd"];
    let node = cluster.node("n1").acceptor();
    assert_is(node, NODE_UID, &[]);
    let id = node.id().as_raw_pid();
    assert_has(id, node_may, all & programs_may);
    for server in children(id) {
        assert_has(server, 0, all);
    }
    client.command("LOGOUT").ok();
}

#[test]
fn a_node_of_kind_login_may_have_a_user_of_its_own() {
    node_of_a_user(Kind::Login, CHOWN, CHOWN);
}

#[test]
fn a_node_of_kind_exec_may_have_a_user_of_its_own() {
    node_of_a_user(Kind::Exec, CHOWN | KILL | SETGID | SETUID, u64::MAX);
}

#[test]
fn a_sandbox_may_be_switched_off() {
    let user = User::new("ann", "n1", 20906);
    let mut cluster = Cluster::usual()
        .user(&user)
        .process("sandbox = \"off\"")
        .start();
    assert_eq!(cluster.front().status("Seccomp"), ["0"]);
    assert_is_shut(cluster.front(), true, false);
    Client::logged_in(&cluster, Channel::Implicit, &user);
}

#[test]
fn a_front_without_rights_takes_the_sockets_that_it_is_passed() {
    let user = User::new("ann", "n1", 20907);
    let mut cluster = Cluster::usual().user(&user).front_takes_sockets().start();
    let front = cluster.front();
    assert_is(front, FRONT_UID, &[]);
    for sets in threads(front.id().as_raw_pid()) {
        assert_eq!(["Eff", "Prm", "Inh", "Amb"].map(|name| sets[name]), [0; 4]);
    }
    // At the port that was passed, and at one that it has bound.
    let mut client = Client::connect_to(cluster.imap_privileged());
    client.login(Method::Login, &user.name, &user.password).ok();
    Client::logged_in(&cluster, Channel::Implicit, &user);
    let (code, _, notes) = cluster.ask(&["explain", "ann"]);
    assert_eq!(code, Some(0), "{notes}");

    // One that it has no use for is a mistake.
    let address = cluster.pass_useless_socket();
    let knock = move || std::net::TcpStream::connect(address).is_ok();
    let knocking = std::thread::spawn(move || eventually("a manager listens", knock));
    let (code, said) = cluster.start_front_in_vain();
    knocking.join().unwrap();
    assert_eq!(code, Some(78), "{said}");
    let expected = format!("no listener of the configuration has the address {address}");
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_node_that_writes_mail_may_have_a_user_of_its_own() {
    const NODE_UID: u32 = 64145;
    let maildir = "[mailstore]\nkind = \"maildir\"\n";
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login).servers(maildir))
        .nodes_become(NODE_UID)
        .start();
    let node = cluster.node("n1").acceptor();
    assert_is(node, NODE_UID, &[]);
    let kept = CHOWN | SETGID | SETUID;
    assert_has(node.id().as_raw_pid(), kept, kept);
    assert_is_shut(node, true, false);
}
