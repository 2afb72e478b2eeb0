//! POP3 from a client to the mailbox at home: plain, STLS and implicit TLS.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    client::{Channel, Client},
    lab::{Builder, Cluster, Kind, NodeSpec, User, eventually},
};

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

/// In plain before the greeting is read; under TLS right behind the handshake.
#[test]
fn a_whole_session_sent_at_once_is_answered_in_order() {
    let clusters = [cluster(), started()];
    for (cluster, user) in clusters
        .iter()
        .flat_map(|(cluster, users)| users.iter().map(move |user| (cluster, user)))
    {
        let session = format!(
            "CAPA\r\nUSER {}\r\nPASS {}\r\nSTAT\r\nRETR 1\r\nQUIT\r\n",
            user.name, user.password
        );
        // One after the other: Courier takes mail away under a session beside it.
        let mut stls = Client::connect_to(cluster.pop3_private());
        stls.send("STLS\r\n");
        assert!(stls.line().starts_with("+OK "));
        stls.encrypt(cluster);
        let rest = |mut client: Client| {
            client.send(&session);
            String::from_utf8(client.rest()).unwrap()
        };
        let heard = [
            say(cluster, &session),
            rest(Client::connect_tls(cluster, cluster.pop3s())),
            rest(stls),
        ];
        for heard in heard {
            let expected = format!(
                "+OK Logged in.\r\n+OK 1 {}\r\n+OK {} octets\r\nFrom: a@example.org\r\n\
                 Subject: by pop3\r\n\r\n..dot\r\nHello.\r\n.\r\n+OK ",
                MESSAGE.len(),
                MESSAGE.len()
            );
            // Courier says a word more.
            let heard = heard.replace(" octets follow.", " octets");
            assert!(heard.contains(&expected), "{heard}");
        }
        eventually("the sessions' lines", || {
            let lines = cluster.sessions(&user.name);
            // What came behind the password counts.
            let fields = ["protocol=pop3 ", "outcome=served ", " bytes_in=20 "];
            let node = format!("node={} ", user.node);
            lines.len() == 3
                && lines.iter().all(|line| {
                    line.contains(&node) && fields.iter().all(|field| line.contains(field))
                })
        });
    }
}

/// Blanks belong to a name and to a password, from the client to the mailbox: these are four people.
#[test]
fn names_and_passwords_keep_their_blanks() {
    let users: Vec<User> = (20101..)
        .zip([
            ("ann", "pass word"),
            (" ann", " pass word"),
            ("ann ", "pass word "),
            ("  a  nn  ", "  pass  word  "),
        ])
        .map(|(uid, (name, password))| User::new(name, "local", uid).password(password))
        .collect();
    let builder = users
        .iter()
        .fold(Cluster::build().single(Kind::Login), |builder, user| {
            builder.user(user)
        });
    let cluster = builder.proxy("failure_delay = \"5ms\"").start();
    for user in &users {
        cluster.deliver(user, format!("Subject: of {}\r\n\r\n", user.uid).as_bytes());
    }
    for user in &users {
        for other in &users {
            let response = STANDARD.encode(format!("\0{}\0{}", user.name, other.password));
            for login in [
                format!("USER {}\r\nPASS {}\r\n", user.name, other.password),
                format!("AUTH PLAIN {response}\r\n"),
            ] {
                let heard = say(&cluster, &format!("{login}RETR 1\r\nQUIT\r\n"));
                if user.name == other.name {
                    let subject = format!("\r\nSubject: of {}\r\n", user.uid);
                    assert!(heard.contains(&subject), "{user:?}: {heard}");
                } else {
                    assert!(heard.contains("-ERR [AUTH] Wrong "), "{user:?}: {heard}");
                }
            }
        }
    }
}

/// RFC 1939, 3: whoever was silent for too long hears nothing, for it would be taken for the answer to what it says next.
#[test]
fn silence_ends_without_a_word() {
    let cluster = Cluster::build()
        .single(Kind::Login)
        .proxy("login_timeout = \"1s\"")
        .start();
    for (said, answered) in [
        ("", ""),
        ("US", ""),
        ("USER ann\r\n", "+OK And the password?\r\n"),
        ("AUTH PLAIN\r\n", "+ \r\n"),
    ] {
        let heard = say(&cluster, said);
        assert_eq!(heard, format!("+OK PigeonAir ready.\r\n{answered}"));
    }
    eventually("their lines", || {
        let log = cluster.front_log();
        let slow = |line: &&str| line.contains("protocol=pop3 ") && line.contains(" outcome=slow ");
        log.lines().filter(slow).count() == 4
    });
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

/// An account's limit is counted over both protocols, and told in the words of each.
#[test]
fn an_account_has_as_many_sessions_as_it_may() {
    let ann = User::new("ann", "local", 20001);
    let cluster = Cluster::build()
        .single(Kind::Login)
        .user(&ann)
        .acceptor("sessions_per_account = 1")
        .start();
    let try_in = format!("USER ann\r\nPASS {}\r\nQUIT\r\n", ann.password);
    let first = Client::logged_in(&cluster, Channel::Plain, &ann);
    let heard = say(&cluster, &try_in);
    assert!(heard.contains("\r\n-ERR [IN-USE] Too many "), "{heard}");
    assert!(heard.ends_with("\r\n+OK Logging out.\r\n"), "{heard}");
    drop(first);
    eventually("the session that ended makes room", || {
        say(&cluster, &try_in).contains("+OK Logged in.")
    });
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
