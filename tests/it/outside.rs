//! What can be seen from outside: `/metrics`, `/healthz`, `/readyz`, and the log's line of a session.

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually, http_status, metric},
};

#[test]
fn sessions_are_counted() {
    let ann = User::new("ann", "n1", 20001);
    let cluster = Cluster::usual().user(&ann).start();
    let admin = cluster.front_admin();
    let client = Client::logged_in(&cluster, Channel::Plain, &ann);
    let open = "pigeonair_sessions_open{protocol=\"imap\"}";
    eventually("one session is open", || metric(admin, open) == Some(1.0));
    drop(client);
    eventually("it has ended", || metric(admin, open) == Some(0.0));
    let mut client = Client::connect(&cluster, Channel::Plain);
    client
        .login(Method::Login, "ann", "wrong")
        .no("AUTHENTICATIONFAILED");
    drop(client);
    for (node, outcome) in [("n1", "served"), ("", "denied")] {
        let line = format!(
            "pigeonair_sessions_total{{node=\"{node}\",outcome=\"{outcome}\",protocol=\"imap\"}}"
        );
        eventually(&line, || metric(admin, &line) == Some(1.0));
    }
}

#[test]
fn ready_is_who_reaches_the_directory() {
    let mut cluster = Cluster::usual().start();
    let admin = cluster.front_admin();
    assert_eq!(http_status(admin, "/healthz"), Some(200));
    cluster.slapd().process.stop();
    eventually("not ready without a directory", || {
        http_status(admin, "/readyz") == Some(503)
    });
    assert_eq!(http_status(admin, "/healthz"), Some(200));
    cluster.slapd().restart();
    eventually("ready again", || http_status(admin, "/readyz") == Some(200));
}

/// One line has the whole session.
#[test]
fn the_line_of_a_session_is_complete() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::usual().user(&ann).user(&bob).start();
    for user in [&ann, &bob] {
        let mut client = Client::connect(&cluster, Channel::Implicit);
        // What was denied before is not the fault of this session.
        client
            .login(Method::Login, &user.name, "wrong")
            .no("AUTHENTICATIONFAILED");
        client.login(Method::Login, &user.name, &user.password).ok();
        client.command("LOGOUT").ok();
        drop(client);
        eventually("the session's line", || {
            cluster.sessions(&user.name).len() == 1
        });
        let line = &cluster.sessions(&user.name)[0];
        for field in [
            " session=",
            &format!(" account={} ", user.name),
            &format!(" login={} ", user.name),
            " client=127.0.0.1:",
            &format!(" local={} ", cluster.imaps()),
            " protocol=imap ",
            " tls=TLSv1.3 ",
            " cipher=TLS_",
            &format!(" node={} ", user.node),
            " outcome=served ",
            " reason=\"",
            " bytes_out=",
            " bytes_in=11 ",
            " duration_ms=",
        ] {
            assert!(line.contains(field), "no {field} in {line}");
        }
        assert!(!line.contains("blame="), "{line}");
        assert!(!line.contains("bytes_out=0 "), "{line}");
        // And the node's own, with the same id.
        let id = line
            .split(' ')
            .find(|field| field.starts_with("session="))
            .unwrap();
        eventually("the node's line", || {
            cluster.node_log(&user.node).lines().any(|line| {
                line.contains("session ended")
                    && line.contains(id)
                    && line.contains(" client=127.0.0.1:")
                    && line.contains(" tls=TLSv1.3 ")
                    && line.contains(" key=front ")
            })
        });
    }
}

/// Whoever watches the log need not wait until the client hangs up.
#[test]
fn a_failure_is_logged_when_it_happens_with_whose_fault_it_is() {
    let ann = User::new("ann", "n1", 20001);
    let lost = User::new("lost", "elsewhere", 20002);
    let away = User::new("away", "n2", 20003);
    let mut cluster = Cluster::usual().user(&ann).user(&lost).user(&away).start();
    cluster.node("n2").acceptor().kill();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    for (name, password, level, stage, blame) in [
        ("ann", "wrong", " INFO ", "authenticate", "client"),
        (
            "lost",
            lost.password.as_str(),
            "ERROR ",
            "resolve",
            "directory",
        ),
        ("away", away.password.as_str(), "ERROR ", "link", "node"),
    ] {
        client.login(Method::PlainInitial, name, password);
        eventually("the failure's line, with the client still there", || {
            cluster.front_log().lines().any(|line| {
                line.contains("login failed")
                    && line.contains(level)
                    && line.contains(&format!(" login={name} "))
                    && line.contains(" tls=TLSv1.3 ")
                    && line.contains(&format!(" stage={stage} blame={blame} denial="))
                    && line.contains(" reason=")
            })
        });
    }
    cluster.slapd().process.stop();
    client.login(Method::PlainInitial, "other", "x");
    eventually("the directory's", || {
        cluster.front_log().lines().any(|line| {
            line.contains(" login=other ") && line.contains(" stage=authenticate blame=directory ")
        })
    });
}

#[test]
fn a_silent_session_is_closed_without_a_word_and_logged() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::usual()
        .proxy("idle_timeout = \"1s\"")
        .user(&ann)
        .user(&bob)
        .start();
    for user in [&ann, &bob] {
        let mut client = Client::logged_in(&cluster, Channel::Plain, user);
        assert_eq!(client.rest(), b"");
        eventually("its line", || {
            cluster
                .sessions(&user.name)
                .iter()
                .any(|line| line.contains(" outcome=idle "))
        });
    }
}

/// What a started server says is in the node's log with the session's id, and so is its end.
#[test]
fn a_started_server_is_followed_to_its_end() {
    for tls in [true, false] {
        let ann = User::new("ann", "n1", 20001);
        let cluster = Cluster::build()
            .node(NodeSpec::new("n1", Kind::Exec))
            .link_tls(tls)
            .user(&ann)
            .start();
        let ready = "real server answers protocol=pop3 kind=exec";
        eventually("the trial at start", || {
            cluster.node_log("n1").contains(ready)
        });
        let open = "pigeonair_sessions_open{protocol=\"imap\"}";
        let mut client = Client::logged_in(&cluster, Channel::Plain, &ann);
        client.command("NOOP").ok();
        assert_eq!(metric(cluster.node_admin("n1"), open), Some(1.0));
        client.command("LOGOUT").ok();
        drop(client);
        eventually("the session's line", || cluster.sessions("ann").len() == 1);
        let line = &cluster.sessions("ann")[0];
        let session = line.split(" session=").nth(1).unwrap();
        let session = format!(" session={} ", session.split(' ').next().unwrap());
        eventually("both lines on the node", || {
            let log = cluster.node_log("n1");
            let has = |words: &[&str]| {
                log.lines().any(|line| {
                    line.contains(&session) && words.iter().all(|word| line.contains(word))
                })
            };
            has(&[
                "real server says",
                "imap(ann)<",
                "Disconnected: Logged out",
                "rip=127.0.0.1",
            ]) && has(&["INFO session ended", " account=ann ", " outcome=served "])
        });
        eventually("nobody is on", || {
            metric(cluster.node_admin("n1"), open) == Some(0.0)
        });
    }
}
