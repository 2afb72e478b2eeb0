//! What a client must not do before it has logged in: each is answered as it should be, ends in `BYE`, and stands in the
//! log with whose doing it was.

use std::io::{Read as _, Write as _};

use crate::{
    client::{Channel, Client},
    lab::{Cluster, User, eventually},
};

/// What clients may say before they log in, and the older mechanism.
#[test]
fn small_talk_and_authenticate_login() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let ann = User::new("ann", "n1", 20001);
    let cluster = Cluster::usual().user(&ann).start();
    for channel in Channel::ALL {
        let mut client = Client::connect(&cluster, channel);
        assert!(client.greeting.starts_with("* OK [CAPABILITY IMAP4rev1 "));
        for capability in ["LITERAL+", "SASL-IR", "ID", "AUTH=PLAIN", "AUTH=LOGIN"] {
            assert!(client.greeting.contains(capability), "{}", client.greeting);
        }
        client.command("NOOP").ok();
        let id = client.command("ID (\"name\" \"test\")").ok();
        assert!(id.untagged[0].starts_with("* ID "), "{id:?}");
        client.send("a AUTHENTICATE LOGIN\r\n");
        assert!(client.line().starts_with('+'));
        client.send("*\r\n");
        assert!(client.reply("a").status.starts_with("BAD"));
        client.send("b AUTHENTICATE LOGIN\r\n");
        assert!(client.line().starts_with('+'));
        client.send(STANDARD.encode(&ann.name) + "\r\n");
        assert!(client.line().starts_with('+'));
        client.send(STANDARD.encode(&ann.password) + "\r\n");
        client.reply("b").ok();
        client.command("SELECT INBOX").ok();
    }
    let mut client = Client::connect(&cluster, Channel::Plain);
    let bye = client.command("LOGOUT").ok();
    assert!(bye.untagged[0].starts_with("* BYE"), "{bye:?}");
    assert_eq!(client.rest(), b"");
}

/// The reason in the log, what is sent, and how the answer begins.
fn cases() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    vec![
        ("bare-lf", b"a NOOP\n".to_vec(), "a BAD"),
        ("bare-lf", b"a NOOP\r\nb NOOP\nc NOOP\r\n".to_vec(), "a OK"),
        ("line", vec![b'x'; 9000], "* BAD"),
        (
            "line",
            [b"a LOGIN ann ".as_slice(), &[b'x'; 9000], b"\r\n"].concat(),
            "a BAD",
        ),
        ("literal", b"a LOGIN {5000+}\r\n".to_vec(), "a BAD"),
        ("literal", b"a LOGIN {1000000}\r\n".to_vec(), "a BAD"),
        ("bad-commands", b"a NONSENSE\r\n".repeat(10), "a BAD"),
    ]
}

#[test]
fn limits_of_the_conversation_end_it_with_bye() {
    let cluster = Cluster::usual().start();
    let mut ended = 0;
    for channel in Channel::ALL {
        for (reason, say, first) in cases() {
            let mut client = Client::connect(&cluster, channel);
            client.send(say);
            let heard = String::from_utf8(client.rest()).unwrap();
            assert!(heard.starts_with(first), "{channel:?} {reason}: {heard}");
            let last = heard.lines().last().unwrap();
            assert!(last.starts_with("* BYE "), "{channel:?} {reason}: {heard}");
            // What stood behind it was not carried out.
            assert!(!heard.contains("c OK"), "{heard}");
            ended += 1;
            eventually("its line, with the reason", || {
                let log = cluster.front_log();
                let lines: Vec<&str> = log
                    .lines()
                    .filter(|line| line.contains("outcome=misbehaved "))
                    .collect();
                let fields = format!("stage=talk blame=client reason={reason} ");
                lines.len() == ended && lines.last().is_some_and(|line| line.contains(&fields))
            });
        }
    }
}

/// A socket closed with octets unread is reset: a client that is still writing would fail, and not read why.
#[test]
fn last_words_are_not_overtaken_by_a_reset() {
    let cluster = Cluster::usual().start();
    let mut stream = std::net::TcpStream::connect(cluster.imap()).unwrap();
    stream
        .write_all(&[b"a LOGIN ".as_slice(), &vec![b'x'; 8 << 20]].concat())
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert!(
        heard.lines().last().unwrap().starts_with("* BYE "),
        "{heard}"
    );
}

#[test]
fn silence_ends_a_conversation_in_time() {
    let cluster = Cluster::usual()
        .proxy("login_timeout = \"1s\"")
        .proxy("tls_timeout = \"1s\"")
        .start();
    for channel in Channel::ALL {
        let mut client = Client::connect(&cluster, channel);
        let heard = String::from_utf8(client.rest()).unwrap();
        assert!(
            heard.starts_with("* BYE ") && heard.ends_with("\r\n"),
            "{heard}"
        );
        assert_eq!(heard.lines().count(), 1, "{heard}");
    }
    eventually("their lines", || {
        let log = cluster.front_log();
        log.lines()
            .filter(|line| line.contains(" outcome=slow "))
            .count()
            == 3
    });
    // Silent where TLS should begin, and in the middle of a login.
    let mut stream = std::net::TcpStream::connect(cluster.imaps()).unwrap();
    let mut heard = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut heard).unwrap();
    assert_eq!(heard, b"");
    eventually("its line", || {
        cluster
            .front_log()
            .lines()
            .any(|line| line.contains(" outcome=tls ") && line.contains(" blame=client "))
    });
    let mut client = Client::connect(&cluster, Channel::Plain);
    client.send("a LOGIN {3}\r\n");
    assert!(client.line().starts_with('+'));
    let heard = String::from_utf8(client.rest()).unwrap();
    assert!(heard.starts_with("* BYE "), "{heard}");
}

/// Many clients that send without an end cost no more memory than what a line may have.
#[test]
fn memory_is_bounded_before_login() {
    const CLIENTS: usize = 200;
    let mut cluster = Cluster::usual().start();
    let line = vec![b'x'; 8000];
    let id = cluster.front().id();
    let resident = || {
        let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<usize>().unwrap()
    };
    let before = resident();
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(&cluster, Channel::Plain))
        .collect();
    for client in &mut clients {
        client.send(&line);
    }
    // Each has been read once it is answered.
    for client in &mut clients {
        client.send("\r\n");
        assert!(client.line().contains("BAD"));
        client.send(&line);
    }
    let kib = resident().saturating_sub(before);
    assert!(kib < CLIENTS * 64, "{kib} KiB for {CLIENTS} clients");
}
