//! What a client hears when a node or the directory is away, silent, or does not trust us: `[UNAVAILABLE]`, within
//! bounds, never "wrong password"; and the same connection works again when what was away is back.

use std::time::{Duration, Instant};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually, http_status, metric},
    pop3,
};

/// No stage of these clusters may take longer than five seconds, no login more than two of them.
const BOUND: Duration = Duration::from_secs(15);

/// Ann's node has the trouble, bob's has not.
fn people() -> [User; 2] {
    [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)]
}

#[track_caller]
fn unavailable(client: &mut Client, user: &User) {
    let start = Instant::now();
    client
        .login(Method::PlainInitial, &user.name, &user.password)
        .no("UNAVAILABLE");
    assert!(start.elapsed() < BOUND, "took {:?}", start.elapsed());
}

/// The node in trouble is unavailable, a wrong password stays one, and others are served.
fn only_that_node(troubled: NodeSpec) {
    let [ann, bob] = people();
    let cluster = Cluster::build()
        .node(troubled)
        .node(NodeSpec::new("n2", Kind::Login))
        .user(&ann)
        .user(&bob)
        .start();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    unavailable(&mut client, &ann);
    client
        .login(Method::PlainInitial, &ann.name, "wrong")
        .no("AUTHENTICATIONFAILED");
    client
        .login(Method::PlainInitial, &bob.name, &bob.password)
        .ok();
    client.command("SELECT INBOX").ok();
}

#[test]
fn node_that_accepts_and_says_nothing() {
    only_that_node(NodeSpec::new("n1", Kind::Login).silent());
}

#[test]
fn wrong_key_at_the_front() {
    only_that_node(NodeSpec::new("n1", Kind::Login).wrong_key_at_front());
}

#[test]
fn wrong_key_at_the_node() {
    only_that_node(NodeSpec::new("n1", Kind::ImapMaster).wrong_key_at_node());
}

#[test]
fn wrong_master_password() {
    only_that_node(NodeSpec::new("n1", Kind::Login).wrong_master_password());
}

/// Dovecot takes the password and then does not want the user: `OK Logged in, but initialization failed`, and BYE.
#[test]
fn dovecot_refuses_late_at_a_login() {
    let node = NodeSpec::new("n1", Kind::Login).dovecot("first_valid_uid = 30000");
    only_that_node(node);
}

/// A server that was started and ends without a word to the client.
#[test]
fn started_server_that_dies() {
    for (tls, status) in [(true, 75), (false, 75), (true, 0), (false, 0)] {
        let servers = ["imap", "pop3"].map(|service| {
            let opening = if service == "imap" { "preauth" } else { "plus-ok" };
            format!(
                "[acceptor.{service}]\nkind = \"exec\"\nopening = \"{opening}\"\n\
                 command = [\"/bin/sh\", \"-c\", \"echo one >&2; echo no luck, $0 >&2; exit {status}\", \"%u\"]\n"
            )
        });
        let [ann, _] = people();
        let node = NodeSpec::new("n1", Kind::Exec).servers(&servers.concat());
        let cluster = Cluster::build().node(node).link_tls(tls).user(&ann).start();
        let mut client = Client::connect(&cluster, Channel::Implicit);
        unavailable(&mut client, &ann);
        let heard = pop3::say(
            &cluster,
            &format!("USER {}\r\nPASS {}\r\nQUIT\r\n", ann.name, ann.password),
        );
        assert!(heard.contains("\r\n-ERR [SYS/TEMP] "), "{heard}");
        // Whether it had said anything is seen where the node is in the path.
        let (level, outcome) = if status == 0 && !tls {
            (" INFO ", " outcome=served ")
        } else {
            (" WARN ", " outcome=failed ")
        };
        let reason = format!("\"real server ended with status {status}: no luck, ann\"");
        for service in ["imap", "pop3"] {
            eventually("the node says how it ended", || {
                cluster.node_log("n1").lines().any(|line| {
                    line.contains(&format!("{level}session ended "))
                        && line.contains(" account=ann ")
                        && line.contains(&format!(" protocol={service} "))
                        && line.contains(outcome)
                        && line.contains(&reason)
                })
            });
        }
        let said = format!(
            "real server may not be ready protocol=imap kind=exec error=\"real server ended with status {status}: no luck, pigeonair-trial: "
        );
        eventually("the trial at start says so too", || {
            cluster.node_log("n1").contains(&said)
        });
    }
}

/// What a started server says in place of its opening reaches the client in the words of its protocol.
#[test]
fn started_server_that_refuses() {
    let says = |service: &str, opening: &str, words: &str| {
        format!(
            "[acceptor.{service}]\nkind = \"exec\"\nopening = \"{opening}\"\n\
             command = [\"/bin/sh\", \"-c\", \"printf %%b '{words}\\\\r\\\\n'\"]\n"
        )
    };
    let servers = says("imap", "preauth", "* BYE [LIMIT] Full.")
        + &says("pop3", "silent", "-ERR [IN-USE] Locked.");
    let [ann, _] = people();
    let node = NodeSpec::new("n1", Kind::Exec).servers(&servers);
    let cluster = Cluster::build().node(node).user(&ann).start();
    Client::connect(&cluster, Channel::Implicit)
        .login(Method::Login, &ann.name, &ann.password)
        .no("LIMIT");
    let heard = pop3::say(
        &cluster,
        &format!("USER {}\r\nPASS {}\r\nQUIT\r\n", ann.name, ann.password),
    );
    assert!(heard.contains("\r\n-ERR [IN-USE] "), "{heard}");
}

/// Dovecot takes the socket and then does not want the user, or can't open the mailbox.
#[test]
fn dovecot_refuses_late_with_a_socket() {
    for settings in [
        "first_valid_uid = 30000",
        "mail_location = no-such-format:~/Mail",
        "mail_plugins = no-such-plugin",
    ] {
        only_that_node(NodeSpec::new("n1", Kind::ImapMaster).dovecot(settings));
    }
}

#[test]
fn a_front_without_tls_at_a_node_with_tls_is_told_apart_from_a_wrong_password() {
    only_that_node(NodeSpec::new("n1", Kind::Login).tls_at_node_only());
}

#[test]
fn node_of_an_account_that_nobody_knows() {
    let lost = User::new("lost", "elsewhere", 20003);
    let cluster = Cluster::usual().user(&lost).start();
    unavailable(&mut Client::connect(&cluster, Channel::Plain), &lost);
}

#[test]
fn node_down_and_back() {
    for kind in Kind::ALL {
        let [ann, bob] = people();
        let mut cluster = Cluster::build()
            .node(NodeSpec::new("n1", kind))
            .node(NodeSpec::new("n2", Kind::Login))
            .user(&ann)
            .user(&bob)
            .start();
        let mut client = Client::connect(&cluster, Channel::Implicit);
        cluster.node("n1").acceptor().kill();
        unavailable(&mut client, &ann);
        Client::logged_in(&cluster, Channel::Plain, &bob);
        cluster.restart_acceptor("n1");
        client.login(Method::Login, &ann.name, &ann.password).ok();
        client.command("SELECT INBOX").ok();
    }
}

#[test]
fn dovecot_down() {
    for kind in [Kind::Login, Kind::ImapMaster] {
        let [ann, bob] = people();
        let mut cluster = Cluster::build()
            .node(NodeSpec::new("n1", kind))
            .node(NodeSpec::new("n2", Kind::Login))
            .user(&ann)
            .user(&bob)
            .start();
        cluster.node("n1").dovecot.process.stop();
        let mut client = Client::connect(&cluster, Channel::Implicit);
        unavailable(&mut client, &ann);
        client.login(Method::Login, &bob.name, &bob.password).ok();
    }
}

#[test]
fn node_frozen_and_back() {
    let [ann, bob] = people();
    let mut cluster = Cluster::usual().user(&ann).user(&bob).start();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    cluster.node("n1").acceptor().freeze();
    unavailable(&mut client, &ann);
    cluster.node("n1").acceptor().thaw();
    client.login(Method::Login, &ann.name, &ann.password).ok();
}

#[test]
fn directory_down_and_back() {
    let [ann, bob] = people();
    let mut cluster = Cluster::usual().user(&ann).user(&bob).start();
    cluster.slapd().process.stop();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    unavailable(&mut client, &ann);
    cluster.slapd().restart();
    client.login(Method::Login, &ann.name, &ann.password).ok();
    client.command("SELECT INBOX").ok();
    Client::logged_in(&cluster, Channel::Plain, &bob);
}

#[test]
fn directory_hangs_and_comes_back() {
    let [ann, bob] = people();
    let mut cluster = Cluster::usual()
        .directory("timeout = \"1s\"")
        .user(&ann)
        .user(&bob)
        .start();
    // One session before, so that connections to slapd are open when it hangs.
    let mut before = Client::logged_in(&cluster, Channel::Plain, &bob);
    cluster.slapd().process.freeze();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    unavailable(&mut client, &ann);
    before.command("SELECT INBOX").ok();
    cluster.slapd().process.thaw();
    client.login(Method::Login, &ann.name, &ann.password).ok();
    client.command("SELECT INBOX").ok();
}

/// Many at once while the directory hangs: every one is answered within its bound, none waits for the others.
#[test]
fn directory_hangs_for_many() {
    const CLIENTS: usize = 30;
    let [ann, _] = people();
    let mut cluster = Cluster::usual()
        .directory("timeout = \"1s\"")
        .user(&ann)
        .start();
    cluster.slapd().process.freeze();
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(&cluster, Channel::Plain))
        .collect();
    let start = Instant::now();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("a LOGIN user{number} password\r\n"));
    }
    for client in &mut clients {
        client.reply("a").no("UNAVAILABLE");
    }
    assert!(start.elapsed() < BOUND, "took {:?}", start.elapsed());
}

/// Who was known is served, nobody is told that a password is wrong, and the front stays in the balancer.
#[test]
fn directory_down_and_served_from_memory() {
    let [ann, bob] = people();
    // Servers that need no directory themselves.
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Exec))
        .node(NodeSpec::new("n2", Kind::Exec))
        .directory("[directory.cache]\nttl = \"10ms\"\nnegative_ttl = \"10ms\"")
        .user(&ann)
        .user(&bob)
        .start();
    let admin = cluster.front_admin();
    Client::logged_in(&cluster, Channel::Implicit, &ann);
    cluster.slapd().process.stop();
    let stale = || metric(admin, "pigeonair_directory_stale");
    assert_eq!(stale(), Some(0.0));
    eventually("the front serves from memory", || {
        Client::logged_in(&cluster, Channel::Implicit, &ann);
        stale() == Some(1.0)
    });
    let mut client = Client::connect(&cluster, Channel::Implicit);
    client
        .login(Method::Login, &ann.name, "wrong")
        .no("UNAVAILABLE");
    unavailable(&mut client, &bob);
    client.login(Method::Login, &ann.name, &ann.password).ok();
    client.command("SELECT INBOX").ok();
    assert_eq!(http_status(admin, "/readyz"), Some(200));
    cluster.slapd().restart();
    Client::logged_in(&cluster, Channel::Implicit, &bob);
    assert_eq!(stale(), Some(0.0));
}
