//! What an administrator changes in LDAP reaches those who are logged in.

use std::time::{Duration, Instant};

use crate::{
    client::{Channel, Client, Method},
    lab::{Builder, Cluster, Kind, NodeSpec, User, eventually, metric},
};

fn people() -> [User; 3] {
    [
        User::new("ann", "n1", 20001),
        User::new("bob", "n2", 20002),
        User::new("cyd", "n1", 20003),
    ]
}

/// Servers that need no directory themselves, and nothing that ends by its age.
fn cluster(users: &[User]) -> Cluster {
    let builder = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Exec))
        .node(NodeSpec::new("n2", Kind::Exec))
        .directory("[directory.cache]\nttl = \"1h\"\nnegative_ttl = \"1h\"");
    let cluster = users.iter().fold(builder, Builder::user).start();
    let admin = cluster.front_admin();
    eventually("changes are followed", || {
        metric(admin, "pigeonair_directory_followed{by=\"sync\"}") == Some(1.0)
    });
    cluster
}

/// A session is closed without a word.
fn ends(mut client: Client) {
    assert_eq!(String::from_utf8_lossy(&client.rest()), "");
}

#[test]
fn sessions_end_where_the_mailbox_moves_or_logins_are_refused() {
    let [ann, bob, cyd] = people();
    let mut cluster = cluster(&[ann.clone(), bob.clone(), cyd.clone()]);
    let mut idle = Client::logged_in(&cluster, Channel::Implicit, &ann);
    idle.command("SELECT INBOX").ok();
    idle.send("i IDLE\r\n");
    assert!(idle.line().starts_with('+'));
    let plain = Client::logged_in(&cluster, Channel::Plain, &ann);
    let mut other = Client::logged_in(&cluster, Channel::Implicit, &bob);
    let disabled = Client::logged_in(&cluster, Channel::Implicit, &cyd);

    cluster.slapd().change(&ann, "mailHost", "n2");
    ends(idle);
    ends(plain);
    cluster.slapd().change(&cyd, "employeeType", "disabled");
    ends(disabled);
    eventually("three sessions ended", || {
        cluster.sessions("ann").len() == 2 && cluster.sessions("cyd").len() == 1
    });
    for line in cluster.sessions("ann") {
        assert!(line.contains("outcome=revoked"), "{line}");
        assert!(line.contains("the mailbox has moved"), "{line}");
    }
    let admin = cluster.front_admin();
    let revoked = |reason| {
        let name = format!("pigeonair_sessions_revoked_total{{reason=\"{reason}\"}}");
        metric(admin, &name)
    };
    assert_eq!(revoked("moved"), Some(2.0));
    assert_eq!(revoked("disabled"), Some(1.0));

    drop(Client::logged_in(&cluster, Channel::Implicit, &ann));
    eventually("the new home was used", || {
        cluster
            .sessions("ann")
            .iter()
            .any(|line| line.contains("node=n2"))
    });
    let mut refused = Client::connect(&cluster, Channel::Implicit);
    refused
        .login(Method::Login, &cyd.name, &cyd.password)
        .no("AUTHENTICATIONFAILED");
    other.command("NOOP").ok();
}

#[test]
fn a_directory_that_restarts_ends_no_session_and_is_followed_again() {
    let [ann, bob, _] = people();
    let mut cluster = cluster(&[ann.clone(), bob.clone()]);
    let moved = Client::logged_in(&cluster, Channel::Implicit, &ann);
    let mut other = Client::logged_in(&cluster, Channel::Implicit, &bob);
    cluster.slapd().restart();
    other.command("NOOP").ok();
    cluster.slapd().change(&ann, "mailHost", "n2");
    ends(moved);
    other.command("NOOP").ok();
}

/// Prints how long it takes from a change to the end of a session.
#[test]
fn a_change_takes_effect_soon() {
    let [ann, ..] = people();
    let mut cluster = cluster(std::slice::from_ref(&ann));
    let mut times: Vec<Duration> = Vec::new();
    for node in ["n2", "n1"].repeat(5) {
        let client = Client::logged_in(&cluster, Channel::Implicit, &ann);
        let began = Instant::now();
        cluster.slapd().change(&ann, "mailHost", node);
        ends(client);
        times.push(began.elapsed());
    }
    times.sort();
    eprintln!("ldapmodify, from its start, to the end of the session: {times:?}");
}
