//! POP3 from a client to the mailbox at home: plain, STLS and implicit TLS.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    process::Command,
};

use crate::lab::{Builder, Cluster, Kind, NodeSpec, User, eventually};

const MESSAGE: &[u8] = b"From: a@example.org\r\nSubject: by pop3\r\n\r\n.dot\r\nHello.\r\n";

fn cluster() -> (Cluster, [User; 2]) {
    of(Cluster::usual())
}

/// The same with servers that are started: Dovecot's is silent at first, Courier's is not.
fn started() -> (Cluster, [User; 2]) {
    of(Cluster::build()
        .node(NodeSpec::new("n1", Kind::Exec))
        .node(NodeSpec::new("n2", Kind::Courier)))
}

fn of(mut builder: Builder) -> (Cluster, [User; 2]) {
    let users = [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)];
    for user in &users {
        builder = builder.user(user);
    }
    let cluster = builder.start();
    for user in &users {
        cluster.deliver(user, MESSAGE);
    }
    (cluster, users)
}

/// Says everything at once, the session included, and hears everything.
pub(crate) fn say(cluster: &Cluster, text: &str) -> String {
    let mut stream = TcpStream::connect(cluster.pop3()).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    let _ = stream.shutdown(Shutdown::Both);
    heard
}

#[test]
fn a_whole_session_sent_at_once_is_answered_in_order() {
    let clusters = [cluster(), started()];
    for (cluster, user) in clusters
        .iter()
        .flat_map(|(cluster, users)| users.iter().map(move |user| (cluster, user)))
    {
        let heard = say(
            cluster,
            &format!(
                "CAPA\r\nUSER {}\r\nPASS {}\r\nSTAT\r\nRETR 1\r\nQUIT\r\n",
                user.name, user.password
            ),
        );
        let expected = format!(
            "+OK Logged in.\r\n+OK 1 {}\r\n+OK {} octets\r\nFrom: a@example.org\r\n\
             Subject: by pop3\r\n\r\n..dot\r\nHello.\r\n.\r\n+OK ",
            MESSAGE.len(),
            MESSAGE.len()
        );
        let heard = heard.replace(" octets follow.", " octets");
        assert!(heard.contains(&expected), "{heard}");
        eventually("the session's line", || {
            cluster.front_log().lines().any(|line| {
                line.contains("session ended")
                    && line.contains(&format!("account={} ", user.name))
                    && line.contains("protocol=pop3 ")
                    && line.contains(&format!("node={} ", user.node))
                    && line.contains("outcome=served ")
            })
        });
    }
}

#[test]
fn a_wrong_password_and_a_node_that_is_away_are_told_apart() {
    let (mut cluster, [ann, bob]) = cluster();
    let heard = say(&cluster, "USER ann\r\nPASS wrong\r\nQUIT\r\n");
    assert!(heard.contains("\r\n-ERR [AUTH] "), "{heard}");
    cluster.node("n1").acceptor().kill();
    let try_in = |user: &User| format!("USER {}\r\nPASS {}\r\nQUIT\r\n", user.name, user.password);
    let heard = say(&cluster, &try_in(&ann));
    assert!(heard.contains("\r\n-ERR [SYS/TEMP] "), "{heard}");
    let heard = say(&cluster, &try_in(&bob));
    assert!(heard.contains("+OK Logged in."), "{heard}");
}

#[test]
fn curl_fetches_under_tls() {
    let (cluster, users) = cluster();
    for user in &users {
        for base in [
            format!("pop3s://{}", cluster.pop3s()),
            format!("pop3://{}", cluster.pop3()),
        ] {
            let output = Command::new("curl")
                .args(["-sS", "--max-time", "30", "--ssl-reqd", "--cacert"])
                .arg(cluster.ca_file())
                .args(["-u", &format!("{}:{}", user.name, user.password)])
                .arg(format!("{base}/1"))
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            assert_eq!(output.stdout, MESSAGE, "{base}");
        }
    }
}
