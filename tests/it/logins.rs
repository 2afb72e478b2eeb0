//! Every way to log in, on every channel, at every kind of node, over plain and encrypted links; and what is read
//! afterwards is, octet by octet, what was delivered to that node.

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually},
};

/// What lies in a mailbox: lines that IMAP could trip over, and all octets from 128 up.
fn message(user: &User) -> Vec<u8> {
    let mut message = format!(
        "From: <a@example.org>\r\nSubject: for {} at {}\r\n\r\n* BYE not really\r\nt1 OK neither\r\n{{5}}\r\n",
        user.name, user.node
    )
    .into_bytes();
    message.extend(128..=255);
    message.extend_from_slice(b"\r\n.\r\n");
    message
}

fn matrix(link_tls: bool, kinds: [Kind; 2]) {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::build()
        .node(NodeSpec::new("n1", kinds[0]))
        .node(NodeSpec::new("n2", kinds[1]))
        .link_tls(link_tls)
        .user(&ann)
        .user(&bob)
        .start();
    let users = [&ann, &bob];
    for user in users {
        cluster.deliver(user, &message(user));
    }
    for channel in Channel::ALL {
        for method in Method::ALL {
            for user in users {
                let case = format!("{channel:?} {method:?} {}", user.name);
                let mut client = Client::connect(&cluster, channel);
                let reply = client.login(method, &user.name, &user.password);
                assert!(reply.status.starts_with("OK"), "{case}: {reply:?}");
                let reply = client.command("SELECT INBOX");
                assert!(
                    reply.untagged.contains(&"* 1 EXISTS".to_owned()),
                    "{case}: {reply:?}"
                );
                let reply = client.command("FETCH 1 BODY.PEEK[]").ok();
                assert!(reply.literals == [message(user)], "{case}: {reply:?}");
                let reply = client.command("LOGOUT").ok();
                assert!(reply.untagged[0].starts_with("* BYE"), "{case}: {reply:?}");
                assert_eq!(client.rest(), b"", "{case}");
            }
        }
    }
    for user in users {
        let sessions = Channel::ALL.len() * Method::ALL.len();
        eventually("one line per session, with its node", || {
            let lines = cluster.sessions(&user.name);
            let node = format!("node={}", user.node);
            lines.len() == sessions && lines.iter().all(|line| line.contains(&node))
        });
    }
}

#[test]
fn over_tls_links() {
    matrix(true, [Kind::Login, Kind::ImapMaster]);
}

#[test]
fn over_tls_links_with_the_kinds_swapped() {
    matrix(true, [Kind::ImapMaster, Kind::Login]);
}

#[test]
fn over_plain_links() {
    matrix(false, [Kind::Login, Kind::ImapMaster]);
}

#[test]
fn over_plain_links_with_the_kinds_swapped() {
    matrix(false, [Kind::ImapMaster, Kind::Login]);
}

#[test]
fn the_capabilities_told_at_login_are_those_of_the_session() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::usual().user(&ann).user(&bob).start();
    for user in [&ann, &bob] {
        let mut client = Client::connect(&cluster, Channel::Implicit);
        let status = client
            .login(Method::PlainInitial, &user.name, &user.password)
            .ok()
            .status;
        let told = status
            .split_once("[CAPABILITY ")
            .and_then(|(_, rest)| rest.split_once(']'))
            .map(|(list, _)| list.to_owned())
            .unwrap_or_else(|| panic!("no capabilities in {status}"));
        let asked = client.command("CAPABILITY").ok().untagged;
        assert_eq!(asked, [format!("* CAPABILITY {told}")]);
        assert!(
            told.contains("IDLE") && !told.contains("STARTTLS"),
            "{told}"
        );
    }
}

/// The real server's own log knows the client's session by the id that our line has.
#[test]
fn the_session_id_leads_from_our_log_to_dovecots() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::usual().user(&ann).user(&bob).start();
    for user in [&ann, &bob] {
        let mut client = Client::logged_in(&cluster, Channel::Implicit, user);
        client.command("LOGOUT").ok();
        drop(client);
        eventually("the session's line", || {
            cluster.sessions(&user.name).len() == 1
        });
        let line = &cluster.sessions(&user.name)[0];
        let id = line
            .split_whitespace()
            .find_map(|field| field.strip_prefix("session="))
            .unwrap_or_else(|| panic!("no session id in {line}"));
        eventually("Dovecot's line with the same id", || {
            cluster.dovecot_log(&user.node).contains(&format!("<{id}>"))
        });
    }
}

#[test]
fn over_tls_links_to_started_servers() {
    matrix(true, [Kind::Exec, Kind::Courier]);
}

#[test]
fn over_plain_links_to_started_servers() {
    matrix(false, [Kind::Exec, Kind::Courier]);
}
