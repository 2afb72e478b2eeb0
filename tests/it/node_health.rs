//! Nodes that are killed, frozen, or dead behind a living acceptor: what it costs those who live there, that it costs nobody
//! else anything, that nobody is asked to find out that they are back; and what the log and the counters say.
//!
//! Nothing here is measured in time: whether somebody waited for a node is seen from what was dialled, and from the reason
//! in the log.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, Store, User, eventually, http_status, metric, metric_sum},
    smtp::lmtp,
};

/// Ann's node has the trouble, bob's has not; the prober may be the third.
fn people() -> [User; 3] {
    [
        User::new("ann", "n1", 20001),
        User::new("bob", "n2", 20002),
        User::new("probe-n1", "n1", 20003),
    ]
}

fn is_up(cluster: &Cluster, node: &str) -> bool {
    let line = format!("pigeonair_node_up{{node=\"{node}\"}}");
    metric(cluster.front_admin(), &line) == Some(1.0)
}

/// What the front has dialled at a node, however that ended.
fn dials(cluster: &Cluster, node: &str) -> f64 {
    let label = format!("node=\"{node}\"");
    metric_sum(
        cluster.front_admin(),
        "pigeonair_node_connects_total",
        &label,
    )
}

fn probes(cluster: &Cluster, node: &str) -> f64 {
    let label = format!("node=\"{node}\"");
    metric_sum(cluster.front_admin(), "pigeonair_node_probes_total", &label)
}

/// The front's lines with this sentence about a node.
fn lines(cluster: &Cluster, sentence: &str, node: &str) -> Vec<String> {
    let field = format!(" node={node} ");
    let log = cluster.front_log();
    let lines = log.lines().map(|line| format!("{line} "));
    lines
        .filter(|line| line.contains(sentence) && line.contains(&field))
        .collect()
}

#[track_caller]
fn unavailable(cluster: &Cluster, user: &User) {
    Client::connect(cluster, Channel::Plain)
        .login(Method::PlainInitial, &user.name, &user.password)
        .no("UNAVAILABLE");
}

fn served(cluster: &Cluster, user: &User) {
    let mut client = Client::logged_in(cluster, Channel::Plain, user);
    client.command("SELECT INBOX").ok();
}

/// A node that is known to be down is dialled by the prober alone, whoever wants to go there.
fn costs_nothing(cluster: &Cluster, user: &User) {
    let known = || dials(cluster, &user.node) - probes(cluster, &user.node);
    let before = known();
    let logins = lines(cluster, "login failed", &user.node).len();
    for _ in 0..40 {
        unavailable(cluster, user);
    }
    // One probe may have dialled and not be over, at either end.
    let after = known();
    assert!(after <= before + 1.0, "{before} to {after}");
    let failed = lines(cluster, "login failed", &user.node);
    assert_eq!(failed.len(), logins + 40);
    for line in &failed[logins..] {
        assert!(
            line.contains("reason=\"the node is down since ") && line.contains(" blame=node "),
            "{line}"
        );
    }
    assert_eq!(lines(cluster, "ERROR node is down", &user.node).len(), 1);
}

#[test]
fn a_node_that_is_killed_costs_nothing_once_that_is_known() {
    let [ann, bob, _] = people();
    let mut cluster = Cluster::usual().user(&ann).user(&bob).start();
    served(&cluster, &ann);
    assert!(is_up(&cluster, "n1") && is_up(&cluster, "n2"));
    cluster.node("n1").acceptor().kill();
    unavailable(&cluster, &ann);
    eventually("the node is known to be down", || !is_up(&cluster, "n1"));
    costs_nothing(&cluster, &ann);
    served(&cluster, &bob);
    let down = lines(&cluster, "ERROR node is down", "n1");
    assert!(
        down[0].contains("ERROR ")
            && down[0].contains(" outage=everything ")
            && down[0].contains("Connection refused"),
        "{down:?}"
    );
    // Another front would see the same.
    cluster.node("n2").acceptor().kill();
    eventually("so is the other", || {
        let _ = Client::connect(&cluster, Channel::Plain).login(
            Method::PlainInitial,
            &bob.name,
            &bob.password,
        );
        !is_up(&cluster, "n2")
    });
    assert_eq!(http_status(cluster.front_admin(), "/readyz"), Some(200));
    // Nobody has to find out that it is back.
    let failed = lines(&cluster, "login failed", "n1").len();
    cluster.restart_acceptor("n1");
    eventually("the node is known to be up", || is_up(&cluster, "n1"));
    for _ in 0..10 {
        served(&cluster, &ann);
    }
    assert_eq!(lines(&cluster, "login failed", "n1").len(), failed);
    assert_eq!(lines(&cluster, "ERROR node is down", "n1").len(), 1);
    let up = lines(&cluster, "node is up again", "n1");
    assert!(up.len() == 1 && up[0].contains(" down_s="), "{up:?}");
}

#[test]
fn a_frozen_node_is_waited_for_by_those_alone_who_came_before_it_was_known() {
    let [ann, bob, _] = people();
    let mut cluster = Cluster::usual().user(&ann).user(&bob).start();
    served(&cluster, &ann);
    cluster.node("n1").acceptor().freeze();
    let mut waiting: Vec<Client> = (0..100)
        .map(|_| Client::connect(&cluster, Channel::Plain))
        .collect();
    for client in &mut waiting {
        client.send(format!("a LOGIN {} \"{}\"\r\n", ann.name, ann.password));
    }
    // A hundred in front of him, and bob is served.
    served(&cluster, &bob);
    for client in &mut waiting {
        client.reply("a").no("UNAVAILABLE");
    }
    eventually("the node is known to be down", || !is_up(&cluster, "n1"));
    costs_nothing(&cluster, &ann);
    let down = lines(&cluster, "ERROR node is down", "n1");
    assert!(down[0].contains("took too long for"), "{down:?}");
    cluster.node("n1").acceptor().thaw();
    eventually("the node is known to be up", || is_up(&cluster, "n1"));
    served(&cluster, &ann);
}

#[test]
fn a_frozen_node_is_found_out_without_a_login() {
    let mut cluster = Cluster::usual().nodes("probe_every = \"1s\"").start();
    eventually("both are probed", || {
        probes(&cluster, "n1") >= 1.0 && probes(&cluster, "n2") >= 1.0
    });
    cluster.node("n1").acceptor().freeze();
    eventually("it is known", || !is_up(&cluster, "n1"));
    assert!(is_up(&cluster, "n2"));
    let line = "pigeonair_node_probes_total{node=\"n1\",result=\"timed-out\"}";
    assert!(metric(cluster.front_admin(), line) >= Some(3.0));
    cluster.node("n1").acceptor().thaw();
    eventually("it is back", || is_up(&cluster, "n1"));
}

#[test]
fn mail_for_a_node_that_is_down_is_put_off_at_once() {
    let [ann, bob, _] = people();
    let mut cluster = Cluster::mail()
        .nodes("probe_every = \"1s\"")
        .user(&ann)
        .user(&bob)
        .start();
    let mut mta = lmtp(cluster.lmtp());
    let message = b"Subject: hi\r\n\r\nhi\r\n";
    let to = [ann.address(), bob.address()];
    let mut deliver = |to: &[&str]| mta.deliver("s@example.net", to, message);
    // The link is kept, and looks well, when the node freezes.
    deliver(&[&to[0]])[0].says("250 ");
    cluster.node("n1").acceptor().freeze();
    eventually("the node is known to be down", || !is_up(&cluster, "n1"));
    let before = dials(&cluster, "n1") - probes(&cluster, "n1");
    for _ in 0..20 {
        let answers = deliver(&[&to[0], &to[1]]);
        answers[0].says("451 4.4.1 ");
        answers[1].says("250 ");
    }
    let after = dials(&cluster, "n1") - probes(&cluster, "n1");
    assert!(after <= before + 1.0, "{before} to {after}");
    let log = cluster.front_log();
    let put_off: Vec<_> = log
        .lines()
        .filter(|line| line.contains("message not delivered"))
        .collect();
    assert_eq!(put_off.len(), 20);
    for line in put_off {
        assert!(line.contains("reason=\"the node is down since "), "{line}");
    }
    cluster.node("n1").acceptor().thaw();
    eventually("the node is known to be up", || is_up(&cluster, "n1"));
    deliver(&[&to[0]])[0].says("250 ");
}

#[test]
fn a_wrong_key_is_found_out_by_a_probe() {
    let cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login).wrong_key_at_node())
        .nodes("probe_every = \"1s\"")
        .start();
    eventually("the node is down", || !is_up(&cluster, "n1"));
    let before = probes(&cluster, "n1");
    eventually("it is tried again", || probes(&cluster, "n1") > before);
    let down = lines(&cluster, "ERROR node is down", "n1");
    assert!(
        down.len() == 1 && down[0].contains("closed the link on our proof"),
        "{down:?}"
    );
    // Nor is the node's own log full of it.
    let log = cluster.node_log("n1");
    let complaints = log.lines().filter(|line| line.contains("not admitted"));
    assert_eq!(complaints.count(), 1);
}

/// The acceptor proves itself all the while, and takes mail.
#[test]
fn a_dead_real_server_is_found_out_by_a_probe_login() {
    for (kind, tls) in [
        (Kind::Login, true),
        (Kind::ImapMaster, false),
        (Kind::Login, false),
    ] {
        let [ann, bob, probe] = people();
        let mut cluster = Cluster::build()
            .node(
                NodeSpec::new("n1", kind)
                    .store(Store::Maildir)
                    .entry("probe_login = \"probe-n1\""),
            )
            .node(NodeSpec::new("n2", Kind::Login))
            .link_tls(tls)
            .delivery("")
            .nodes("probe_every = \"1s\"")
            .user(&ann)
            .user(&bob)
            .user(&probe)
            .start();
        let admin = cluster.front_admin();
        let count = |result: &str| {
            let line = format!("pigeonair_node_probes_total{{node=\"n1\",result=\"{result}\"}}");
            metric(admin, &line).unwrap_or(0.0)
        };
        eventually("it has logged in", || {
            let log = cluster.node_log("n1");
            let mut lines = log.lines();
            count("ok") >= 2.0
                && lines.any(|line| {
                    line.contains("session ended") && line.contains(" account=probe-n1 ")
                })
        });
        cluster.node("n1").dovecot.process.stop();
        eventually("the node is down", || !is_up(&cluster, "n1"));
        assert!(count("login") >= 3.0);
        let down = lines(&cluster, "ERROR node is down", "n1");
        assert!(
            down.len() == 1
                && down[0].contains(" outage=logins ")
                && down[0].contains("probe login: "),
            "{down:?}"
        );
        costs_nothing(&cluster, &ann);
        served(&cluster, &bob);
        let message = b"Subject: hi\r\n\r\nhi\r\n";
        let mut mta = lmtp(cluster.lmtp());
        mta.deliver("s@example.net", &[&ann.address()], message)[0].says("250 ");
        cluster.node("n1").dovecot.restart();
        eventually("the node is up", || is_up(&cluster, "n1"));
        served(&cluster, &ann);
    }
}

#[test]
fn an_account_that_is_of_no_use_to_probes_is_said_once_and_hurts_nobody() {
    let [ann, bob, _] = people();
    let cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login).entry("probe_login = \"bob\""))
        .node(NodeSpec::new("n2", Kind::Login).entry("probe_login = \"nobody\""))
        .nodes("probe_every = \"1s\"")
        .user(&ann)
        .user(&bob)
        .start();
    eventually("both are probed", || {
        probes(&cluster, "n1") >= 3.0 && probes(&cluster, "n2") >= 3.0
    });
    for (node, reason) in [("n1", "its home is n2"), ("n2", "unknown user")] {
        let warnings = lines(&cluster, "no probe login", node);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("WARN ") && warnings[0].contains(reason),
            "{warnings:?}"
        );
        assert!(is_up(&cluster, node));
        assert!(!cluster.node_log(node).contains("session ended"));
    }
    served(&cluster, &ann);
    served(&cluster, &bob);
}

/// Clients that come all at once when a node is back are all served, each in his turn.
#[test]
fn a_crowd_that_waits_for_a_node_is_served_when_it_is_back() {
    const CROWD: usize = 24;
    let [ann, bob, _] = people();
    let mut cluster = Cluster::usual()
        .nodes("slow_start = \"2s\"")
        .user(&ann)
        .user(&bob)
        .start();
    cluster.node("n1").acceptor().kill();
    unavailable(&cluster, &ann);
    eventually("the node is known to be down", || !is_up(&cluster, "n1"));
    cluster.restart_acceptor("n1");
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| {
                eventually("one of the crowd is served", || {
                    let reply = Client::connect(&cluster, Channel::Plain).login(
                        Method::Login,
                        &ann.name,
                        &ann.password,
                    );
                    reply.status.starts_with("OK")
                });
                served.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(served.load(Ordering::Relaxed), CROWD);
    assert_eq!(lines(&cluster, "node is up again", "n1").len(), 1);
}
