//! Who is served: accounts added while the cluster runs, and uids and homes that a node refuses.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually, metric},
    pop3,
};

#[test]
fn an_account_added_while_it_runs_logs_in_at_once() {
    let mut cluster = Cluster::usual().start();
    for (node, uid) in [("n1", 20301), ("n2", 20302)] {
        let user = User::new(&format!("new{uid}"), node, uid);
        assert!(!cluster.home(&user).exists());
        cluster.add(&user);
        let mut client = Client::logged_in(&cluster, Channel::Implicit, &user);
        client.command("SELECT INBOX").ok();
        client.send("a APPEND INBOX {2+}\r\nhi\r\n");
        client.reply("a").ok();
        let home = fs::metadata(cluster.home(&user)).unwrap();
        assert_eq!((home.uid(), home.gid()), (uid, uid));
        assert_eq!(home.mode() & 0o777, 0o700);
    }
}

#[test]
fn a_home_may_lie_deeper() {
    let mut cluster = Cluster::usual().start();
    for (node, uid) in [("n1", 20303), ("n2", 20304)] {
        let user = User::new(&format!("deep{uid}"), node, uid).home(&format!("a/b/{uid}"));
        cluster.add(&user);
        let mut client = Client::logged_in(&cluster, Channel::Plain, &user);
        client.command("SELECT INBOX").ok();
        assert_eq!(fs::metadata(cluster.home(&user)).unwrap().uid(), uid);
        // What leads there belongs to nobody's user.
        let above = cluster.home(&user).parent().unwrap().to_owned();
        assert_eq!(fs::metadata(above).unwrap().uid(), 0);
    }
}

/// Whoever can write the directory is not thereby root of a node.
#[test]
fn uids_and_homes_out_of_bounds_are_refused() {
    for kind in Kind::ALL {
        let cases = [
            User::new("root", "n1", 0),
            User::new("daemon", "n1", 1),
            User::new("low", "n1", 999),
            User::new("up", "n1", 20401).home("../up"),
            User::new("upper", "n1", 20402).home("a/../../up"),
            User::new("outside", "n1", 20403).home("/tmp/outside"),
            User::new("etc", "n1", 20404).home("/etc"),
            User::new("dot", "n1", 20405).home("."),
        ];
        let mut builder = Cluster::build().node(NodeSpec::new("n1", kind));
        for user in &cases {
            builder = builder.user(user);
        }
        let cluster = builder.start();
        for user in &cases {
            let mut client = Client::connect(&cluster, Channel::Plain);
            let reply = client.login(Method::PlainInitial, &user.name, &user.password);
            assert!(
                reply.status.starts_with("NO [CONTACTADMIN]"),
                "{kind:?} {user:?}: {reply:?}"
            );
            eventually("both sides have logged it", || {
                let node = cluster.node_log("n1").lines().any(|line| {
                    line.contains("outcome=refused")
                        && line.contains(&format!("account={} ", user.name))
                });
                let front = cluster.front_log().lines().any(|line| {
                    line.contains("login failed") && line.contains(&format!("login={} ", user.name))
                });
                node && front
            });
        }
        assert!(
            !cluster.nodes[0]
                .home_root
                .parent()
                .unwrap()
                .join("up")
                .exists()
        );
        assert!(!fs::exists("/tmp/outside").unwrap());
    }
}

#[test]
fn a_home_that_is_a_symbolic_link_is_refused() {
    for kind in Kind::ALL {
        let last = User::new("last", "n1", 20501).home("link");
        let middle = User::new("middle", "n1", 20502).home("link/home");
        let cluster = Cluster::build()
            .node(NodeSpec::new("n1", kind))
            .user(&last)
            .user(&middle)
            .start();
        let elsewhere = cluster.scratch();
        symlink(&elsewhere, cluster.home(&last)).unwrap();
        for user in [&last, &middle] {
            let mut client = Client::connect(&cluster, Channel::Plain);
            client
                .login(Method::PlainInitial, &user.name, &user.password)
                .no("CONTACTADMIN");
        }
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        assert_eq!(fs::metadata(&elsewhere).unwrap().uid(), 0);
    }
}

/// Counted where all sessions of an account meet, and given back when they end.
#[test]
fn an_account_has_as_many_sessions_as_it_may() {
    for kind in Kind::ALL {
        let ann = User::new("ann", "n1", 20001);
        let bob = User::new("bob", "n1", 20002);
        let cluster = Cluster::build()
            .node(NodeSpec::new("n1", kind))
            .user(&ann)
            .user(&bob)
            .acceptor("sessions_per_account = 2")
            .start();
        let first = Client::logged_in(&cluster, Channel::Plain, &ann);
        let _second = Client::logged_in(&cluster, Channel::Implicit, &ann);
        let mut third = Client::connect(&cluster, Channel::Plain);
        third
            .login(Method::Login, &ann.name, &ann.password)
            .no("LIMIT");
        Client::logged_in(&cluster, Channel::Plain, &bob);
        drop(first);
        eventually("the session that ended makes room", || {
            let mut client = Client::connect(&cluster, Channel::Plain);
            let reply = client.login(Method::Login, &ann.name, &ann.password);
            reply.status.starts_with("OK")
        });
    }
}

/// IMAP and POP3 sessions are counted together, and each protocol says it in its own word.
#[test]
fn the_limit_counts_both_protocols() {
    let ann = User::new("ann", "n1", 20001);
    let cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::ImapMaster))
        .link_tls(false)
        .user(&ann)
        .acceptor("sessions_per_account = 1")
        .start();
    let log_in = format!("USER {}\r\nPASS {}\r\nQUIT\r\n", ann.name, ann.password);
    let client = Client::logged_in(&cluster, Channel::Plain, &ann);
    let heard = pop3::say(&cluster, &log_in);
    assert!(heard.contains("\r\n-ERR [IN-USE] "), "{heard}");
    drop(client);
    eventually("the session that ended makes room", || {
        pop3::say(&cluster, &log_in).contains("+OK Logged in.")
    });
}

/// Sessions that the real server has whole live on when the node process ends, however it ends, and count when it is back.
#[test]
fn sessions_given_away_count_again_after_a_restart() {
    for kind in [Kind::ImapMaster, Kind::Exec] {
        count_again_after_a_restart(kind);
    }
}

fn count_again_after_a_restart(kind: Kind) {
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", kind))
        .link_tls(false)
        .user(&ann)
        .acceptor("sessions_per_account = 2")
        .start();
    let mut living = Client::logged_in(&cluster, Channel::Plain, &ann);
    let mut ending = Client::logged_in(&cluster, Channel::Implicit, &ann);
    ending.command("SELECT INBOX").ok();
    for kill in [true, false] {
        let acceptor = cluster.node("n1").acceptor();
        if kill {
            acceptor.kill();
        } else {
            acceptor.stop();
        }
        living.command("NOOP").ok();
        cluster.restart_acceptor("n1");
        assert_eq!(open_at(&cluster), Some(2.0));
        Client::connect(&cluster, Channel::Plain)
            .login(Method::Login, &ann.name, &ann.password)
            .no("LIMIT");
        living.command("SELECT INBOX").ok();
    }
    // One of them ends while nobody looks.
    cluster.node("n1").acceptor().kill();
    ending.command("LOGOUT").ok();
    drop(ending);
    cluster.restart_acceptor("n1");
    eventually("one session is left", || open_at(&cluster) == Some(1.0));
    let third = Client::logged_in(&cluster, Channel::Plain, &ann);
    living.command("LOGOUT").ok();
    drop((living, third));
    eventually("none is left", || open_at(&cluster) == Some(0.0));
}

/// IMAP sessions that the node counts.
fn open_at(cluster: &Cluster) -> Option<f64> {
    metric(
        cluster.node_admin("n1"),
        "pigeonair_sessions_open{protocol=\"imap\"}",
    )
}

/// The home attribute may hold a host name, in whatever case; without it an account lives on the default node.
#[test]
fn a_home_is_a_node_by_name_by_host_name_or_by_default() {
    let users = [
        ("byname", "n2", "n2"),
        ("uppercase", "N2", "n2"),
        ("byhost", "mail2.example.org", "n2"),
        ("byhostcase", "MAIL2.Example.Org.", "n2"),
        ("nowhere", "", "n1"),
    ];
    let mut builder = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login))
        .node(NodeSpec::new("n2", Kind::ImapMaster).entry("hosts = [\"Mail2.example.org\"]"))
        .nodes("default = \"n1\"");
    let people: Vec<(User, &str)> = (20701..)
        .zip(users)
        .map(|(uid, (name, attribute, node))| (User::new(name, attribute, uid), node))
        .collect();
    for (user, _) in &people {
        builder = builder.user(user);
    }
    let cluster = builder.start();
    for (user, node) in &people {
        let mut client = Client::logged_in(&cluster, Channel::Plain, user);
        client.command("SELECT INBOX").ok();
        client.command("LOGOUT").ok();
        let home = |node: &str| {
            let node = cluster.nodes.iter().find(|found| found.name == node);
            node.unwrap().home_root.join(&user.home).exists()
        };
        assert!(home(node), "{user:?}");
        assert_eq!(home("n1"), *node == "n1", "{user:?}");
    }
}

/// Only nodes of the table are ever dialled, whatever the directory says.
#[test]
fn a_home_that_is_missing_or_unknown_is_refused_for_now() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let cases = [
        ("missing", "", "names no home node"),
        ("unknown", "n3", "is not in [nodes]"),
        ("address", address.as_str(), "is not in [nodes]"),
        ("path", "/run/link.sock", "is not in [nodes]"),
    ];
    let mut builder = Cluster::usual();
    let people: Vec<(User, &str)> = (20801..)
        .zip(cases)
        .map(|(uid, (name, node, reason))| (User::new(name, node, uid), reason))
        .collect();
    for (user, _) in &people {
        builder = builder.user(user);
    }
    let cluster = builder.start();
    for (user, reason) in &people {
        let mut client = Client::connect(&cluster, Channel::Plain);
        client
            .login(Method::Login, &user.name, &user.password)
            .no("UNAVAILABLE");
        // The password is looked at all the same.
        client
            .login(Method::Login, &user.name, "wrong")
            .no("AUTHENTICATIONFAILED");
        let log = cluster.front_log();
        assert!(
            log.lines().any(|line| line.contains("ERROR ")
                && line.contains(&format!(" login={} ", user.name))
                && line.contains(" stage=resolve blame=directory denial=unavailable ")
                && line.contains(reason)),
            "{log}"
        );
    }
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}
