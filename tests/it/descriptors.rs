//! No file descriptor left: new sessions are refused politely, old ones go on, and all is well afterwards.

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually, metric},
};

fn people() -> [User; 2] {
    [User::new("ann", "n1", 20001), User::new("bob", "n1", 20002)]
}

fn works(session: &mut Client) {
    session.command("SELECT INBOX").ok();
    session.send("a APPEND INBOX {2+}\r\nhi\r\n");
    session.reply("a").ok();
}

/// Logs in until the front says that there is no room: those who were let in.
fn fill(cluster: &Cluster, user: &User, most: usize) -> Vec<Client> {
    let mut let_in = Vec::new();
    loop {
        assert!(let_in.len() <= most, "nobody was refused");
        let mut client = Client::connect_to(cluster.imap());
        if client.greeting.starts_with("* OK") {
            let reply = client.login(Method::Login, &user.name, &user.password);
            if reply.status.starts_with("OK") {
                let_in.push(client);
                continue;
            }
            // Who is let in and finds no link hears so, and may try again.
            assert!(reply.status.starts_with("NO [UNAVAILABLE]"), "{reply:?}");
            return let_in;
        }
        assert!(
            client.greeting.starts_with("* BYE [UNAVAILABLE] "),
            "{}",
            client.greeting
        );
        assert_eq!(client.rest(), b"");
        return let_in;
    }
}

fn logs_in(cluster: &Cluster, user: &User) {
    eventually("new sessions are served again", || {
        let mut client = Client::connect_to(cluster.imap());
        client.greeting.starts_with("* OK")
            && client
                .login(Method::Login, &user.name, &user.password)
                .status
                .starts_with("OK")
    });
}

/// The front counts what its limit allows, so that it never gets into trouble in the first place.
#[test]
fn a_front_with_few_descriptors_serves_fewer_clients() {
    let [ann, bob] = people();
    let cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::ImapMaster))
        .user(&ann)
        .user(&bob)
        .descriptors(316)
        .start();
    let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
    // Who does not log in makes room for the next.
    let guests: Vec<_> = (0..40)
        .map(|_| Client::connect_to(cluster.imap()))
        .collect();
    for guest in &guests {
        assert!(guest.greeting.starts_with("* OK"), "{}", guest.greeting);
    }
    let let_in = fill(&cluster, &bob, 22);
    drop(guests);
    works(&mut session);
    let shed = "pigeonair_connections_shed_total{reason=\"limit\"}";
    assert!(metric(cluster.front_admin(), shed) >= Some(1.0));
    let log = cluster.front_log();
    assert!(log.contains("the descriptor limit is too low"), "{log}");
    assert!(log.contains("connection limit reached"), "{log}");
    drop(let_in);
    logs_in(&cluster, &bob);
    works(&mut session);
}

#[test]
fn a_front_without_descriptors_refuses_and_recovers() {
    for link_tls in [false, true] {
        let [ann, bob] = people();
        let mut cluster = Cluster::build()
            .node(NodeSpec::new("n1", Kind::ImapMaster))
            .link_tls(link_tls)
            .user(&ann)
            .user(&bob)
            .start();
        let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
        let open = cluster.front().descriptors();
        cluster.front().limit_descriptors(open + 6);
        // Whoever has not logged in makes room for the next.
        let mut guests: Vec<_> = (0..20)
            .map(|_| Client::connect_to(cluster.imap()))
            .collect();
        for guest in &guests {
            let word = &guest.greeting;
            let is_told = word.starts_with("* BYE [UNAVAILABLE] ");
            assert!(is_told || word.starts_with("* OK"), "{word}");
        }
        works(&mut session);
        // Who is let in and finds no link hears so, and may try again.
        let last = guests.last_mut().unwrap();
        if last.greeting.starts_with("* OK") {
            let status = last.login(Method::Login, &bob.name, &bob.password).status;
            let is_told = status.starts_with("NO [UNAVAILABLE]");
            assert!(is_told || status.starts_with("OK"), "{status}");
        }
        let shed = |reason: &str| {
            let line = format!("pigeonair_connections_shed_total{{reason=\"{reason}\"}}");
            metric(cluster.front_admin(), &line).unwrap_or(0.0)
        };
        eventually("it is counted and logged", || {
            cluster.front_log().contains("out of file descriptors")
        });
        drop(guests);
        logs_in(&cluster, &bob);
        works(&mut session);
        assert!(shed("descriptors") + shed("displaced") >= 1.0);
    }
}

#[test]
fn a_node_without_descriptors_refuses_and_recovers() {
    for kind in Kind::ALL {
        let [ann, bob] = people();
        let mut cluster = Cluster::build()
            .node(NodeSpec::new("n1", kind))
            .user(&ann)
            .user(&bob)
            .start();
        let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
        // The links proven ahead stand again, so that none of them takes what is left for sessions.
        let ready = "pigeonair_links_ready{node=\"n1\"}";
        eventually("the login's link is replaced", || {
            metric(cluster.front_admin(), ready) == Some(2.0)
        });
        let open = cluster.node("n1").acceptor().descriptors();
        // Room for more than one: starting a server takes several at a time, and the next link one more.
        cluster.node("n1").acceptor().limit_descriptors(open + 12);
        let mut let_in = Vec::new();
        loop {
            assert!(let_in.len() <= 12, "nobody was refused");
            let mut client = Client::connect(&cluster, Channel::Plain);
            let reply = client.login(Method::Login, &bob.name, &bob.password);
            if !reply.status.starts_with("OK") {
                assert!(reply.status.starts_with("NO [UNAVAILABLE]"), "{reply:?}");
                break;
            }
            let_in.push(client);
        }
        assert!(!let_in.is_empty(), "{kind:?}: nobody was let in");
        works(&mut session);
        for client in &mut let_in {
            client.command("NOOP").ok();
        }
        drop(let_in);
        logs_in(&cluster, &bob);
        works(&mut session);
    }
}
