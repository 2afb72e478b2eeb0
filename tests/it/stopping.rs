//! SIGTERM: what goes on, what is told, what is cut; and that the process then ends with success.

use std::net::TcpStream;

use crate::{
    client::{Channel, Client},
    lab::{Cluster, Kind, NodeSpec, User, eventually, http_status},
};

fn people() -> [User; 2] {
    [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)]
}

#[test]
fn a_front_lets_sessions_finish() {
    let [ann, bob] = people();
    let mut cluster = Cluster::usual().user(&ann).user(&bob).start();
    let admin = cluster.front_admin();
    let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
    let mut talking = Client::connect(&cluster, Channel::Plain);
    cluster.front().terminate();
    eventually("monitors are told", || {
        http_status(admin, "/readyz") == Some(503)
    });
    assert_eq!(http_status(admin, "/healthz"), Some(200));
    let bye = talking.line();
    assert!(bye.starts_with("* BYE [UNAVAILABLE]"), "{bye}");
    eventually("nobody new is let in", || {
        TcpStream::connect(cluster.imap()).is_err()
    });
    session.command("SELECT INBOX").ok();
    session.send("a APPEND INBOX {2+}\r\nhi\r\n");
    session.reply("a").ok();
    assert!(cluster.front().lives());
    session.command("LOGOUT").ok();
    drop(session);
    assert_eq!(cluster.front().exit_code(), Some(0));
    let lines = cluster.sessions(&ann.name);
    assert!(
        lines.len() == 1 && lines[0].contains(" outcome=served "),
        "{lines:?}"
    );
}

#[test]
fn a_front_cuts_what_is_left_and_says_so() {
    let [ann, bob] = people();
    let mut cluster = Cluster::usual()
        .proxy("drain_timeout = \"1s\"")
        .user(&ann)
        .user(&bob)
        .start();
    let mut sessions: Vec<Client> = [(Channel::Implicit, &ann), (Channel::Plain, &bob)]
        .map(|(channel, user)| Client::logged_in(&cluster, channel, user))
        .into();
    for session in &mut sessions {
        session.command("NOOP").ok();
    }
    cluster.front().terminate();
    // Not a word of ours: nobody knows whether the client is inside a literal.
    for session in &mut sessions {
        assert_eq!(session.rest(), b"");
    }
    assert_eq!(cluster.front().exit_code(), Some(0));
    for user in [&ann, &bob] {
        let lines = cluster.sessions(&user.name);
        assert!(
            lines.len() == 1
                && lines[0].contains(" outcome=cut ")
                && !lines[0].contains(" bytes_out=0 "),
            "{lines:?}"
        );
    }
    assert!(cluster.front_log().contains("stopped cut=2"));
}

/// A second signal does not wait.
#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let [ann, _] = people();
    let mut cluster = Cluster::usual().user(&ann).start();
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    cluster.front().terminate();
    eventually("the drain has begun", || {
        cluster.front_log().contains("stopping")
    });
    assert!(cluster.front().lives());
    cluster.front().terminate();
    assert_eq!(session.rest(), b"");
    assert_eq!(cluster.front().exit_code(), Some(0));
}

#[test]
fn a_node_that_relays_lets_sessions_finish_and_cuts_the_rest() {
    for finish in [true, false] {
        let [ann, _] = people();
        let limit = if finish { "30s" } else { "1s" };
        let mut cluster = Cluster::usual()
            .acceptor(&format!("drain_timeout = \"{limit}\""))
            .user(&ann)
            .start();
        let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
        cluster.node("n1").acceptor().terminate();
        eventually("the drain has begun", || {
            cluster.node_log("n1").contains("stopping")
        });
        let outcome = if finish {
            session.command("SELECT INBOX").ok();
            session.command("LOGOUT").ok();
            drop(session);
            " outcome=served "
        } else {
            assert_eq!(session.rest(), b"");
            " outcome=cut "
        };
        assert_eq!(cluster.node("n1").acceptor().exit_code(), Some(0));
        let log = cluster.node_log("n1");
        assert!(
            log.lines().any(|line| line.contains("session ended")
                && line.contains(" account=ann ")
                && line.contains(outcome)),
            "{log}"
        );
    }
}

/// Where the real server has the socket itself, a node can be replaced under its sessions.
#[test]
fn a_node_out_of_the_path_takes_no_session_along() {
    for kind in [Kind::ImapMaster, Kind::Exec] {
        let [ann, _] = people();
        let mut cluster = Cluster::build()
            .node(NodeSpec::new("n1", kind))
            .link_tls(false)
            .user(&ann)
            .start();
        let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
        cluster.node("n1").acceptor().terminate();
        assert_eq!(cluster.node("n1").acceptor().exit_code(), Some(0));
        let log = cluster.node_log("n1");
        assert!(log.contains("stopped cut=0"));
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains("session ended"))
            .collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(" outcome=\"handed over\" "), "{lines:?}");
        session.command("SELECT INBOX").ok();
        cluster.restart_acceptor("n1");
        Client::logged_in(&cluster, Channel::Implicit, &ann);
        session.command("LOGOUT").ok();
    }
}
