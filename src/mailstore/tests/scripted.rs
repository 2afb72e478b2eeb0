//! The kind `lmtp` before a server that a few lines play: what it is told, and what is made of whatever it says.

use std::{
    os::unix::fs::MetadataExt as _,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixListener,
};

use super::*;

/// A server on a Unix socket.
struct Scripted {
    folder: tempfile::TempDir,
    listener: UnixListener,
    /// What it heard, connection after connection, without the octets of messages.
    heard: Arc<Mutex<Vec<String>>>,
}

/// How it behaves.
#[derive(Clone, Default)]
struct Manners {
    /// What LHLO lists besides 8BITMIME and PIPELINING.
    offers: &'static str,
    /// It closes behind so many of its replies, over all connections.
    closes_after: Option<usize>,
    /// What follows a message for each of its recipients.
    answer: Option<&'static str>,
}

impl Scripted {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            listener: UnixListener::bind(folder.path().join("lmtp")).unwrap(),
            folder,
            heard: Arc::default(),
        }
    }

    fn address(&self) -> Endpoint {
        Endpoint::parse(self.folder.path().join("lmtp").to_str().unwrap()).unwrap()
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// Serves for as long as it is polled.
    #[allow(clippy::too_many_lines, reason = "a table of commands")]
    async fn serve(&self, manners: Manners) {
        let mut left = manners.closes_after.unwrap_or(usize::MAX);
        loop {
            let (stream, _) = self.listener.accept().await.unwrap();
            self.heard.lock().unwrap().push("connected".to_owned());
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            let mut recipients = 0;
            let mut pending = vec!["220 real".to_owned()];
            'connection: loop {
                for reply in pending.drain(..) {
                    if left == 0 {
                        break 'connection;
                    }
                    left -= 1;
                    let _ = writer.write_all((reply + "\r\n").as_bytes()).await;
                }
                if left == 0 {
                    break;
                }
                let Ok(Some(line)) = lines.next_line().await else {
                    break;
                };
                let verb = line.split([' ', ':']).next().unwrap().to_owned();
                self.heard.lock().unwrap().push(line.clone());
                match verb.as_str() {
                    "LHLO" => pending.push(format!(
                        "250-real\r\n250-8BITMIME{}\r\n250 PIPELINING",
                        manners.offers
                    )),
                    "MAIL" => {
                        recipients = 0;
                        pending.push("250 2.1.0 OK".to_owned());
                    }
                    "RCPT" if line.contains("unknown") => {
                        pending.push("550 5.1.1 <unknown> User doesn't exist".to_owned());
                    }
                    "RCPT" if line.contains("full") => {
                        pending.push("552 5.2.2 <full> Quota exceeded".to_owned());
                    }
                    "RCPT" => {
                        recipients += 1;
                        pending.push("250 2.1.5 OK".to_owned());
                    }
                    "DATA" if recipients == 0 => pending.push("503 5.5.1 No recipients".to_owned()),
                    "DATA" => {
                        if left == 0 || writer.write_all(b"354 OK\r\n").await.is_err() {
                            break;
                        }
                        left -= 1;
                        let mut ended = false;
                        while left > 0
                            && let Ok(Some(line)) = lines.next_line().await
                        {
                            if line == "." {
                                ended = true;
                                break;
                            }
                        }
                        if !ended {
                            self.heard.lock().unwrap().push("aborted".to_owned());
                            break;
                        }
                        self.heard.lock().unwrap().push(".".to_owned());
                        let answer = manners.answer.unwrap_or("250 2.0.0 <x> Saved");
                        pending.extend((0..recipients).map(|_| answer.to_owned()));
                    }
                    _ => pending.push("250 2.0.0 OK".to_owned()),
                }
            }
        }
    }

    /// What a front does over one link to a mailstore before this server.
    async fn with_front<T>(
        &self,
        mailstore: &Mailstore,
        manners: Manners,
        work: impl AsyncFnOnce(&mut Transfer) -> T,
    ) -> T {
        let all = async {
            tokio::select! {
                result = mailstore.with_front(work) => result,
                () = self.serve(manners) => panic!("it serves for ever"),
            }
        };
        Box::pin(all).await
    }
}

/// The lines that say what, without greeting lines.
fn said(heard: &[String], verb: &str) -> Vec<String> {
    heard
        .iter()
        .filter(|line| line.starts_with(verb))
        .cloned()
        .collect()
}

#[tokio::test]
async fn accounts_are_told_with_details_and_one_connection_serves_a_link() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Account);
    server
        .with_front(&mailstore, Manners::default(), async |front| {
            for _ in 0..3 {
                let envelope = envelope(&["u1@a.example", "u2+lists@a.example"]);
                assert_eq!(send(front, envelope, MAIL).await, [STORED, STORED]);
            }
        })
        .await;
    let mut expected = vec!["connected", "LHLO node1"];
    let message = [
        "MAIL FROM:<sue@b.example>",
        "RCPT TO:<u1>",
        "RCPT TO:<u2+lists>",
        "DATA",
        ".",
    ];
    expected.extend([message; 3].concat());
    // Its QUIT may come behind all that this server hears.
    let heard: Vec<_> = server
        .heard()
        .into_iter()
        .filter(|line| line != "QUIT")
        .collect();
    assert_eq!(heard, expected);
    assert_eq!(lab.counted("lmtp", "stored"), 6);
}

#[tokio::test]
async fn addresses_are_told_as_they_came_if_set_so() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Address);
    server
        .with_front(&mailstore, Manners::default(), async |front| {
            send(front, envelope(&["u2+lists@a.example"]), MAIL).await
        })
        .await;
    assert_eq!(
        said(&server.heard(), "RCPT"),
        ["RCPT TO:<u2+lists@a.example>"]
    );
}

#[tokio::test]
async fn the_servers_replies_are_passed_on() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Address);
    let names = ["u1@a.example", "unknown1@a.example", "full1@a.example"];
    let manners = Manners {
        answer: Some("452 4.3.1 Disk full"),
        ..Manners::default()
    };
    server
        .with_front(&mailstore, manners, async |front| {
            let heard = send(front, envelope(&names), MAIL).await;
            assert_eq!(heard, ["452 4.3.1", "550 5.1.1", "552 5.2.2"]);
            // All refused alike: the message need not come.
            let begun = front.begin(envelope(&["unknown1@a.example"])).await;
            let Begun::Done(fates) = begun.unwrap() else {
                panic!("begun")
            };
            assert_eq!(
                fates.into_iter().map(codes).collect::<Vec<_>>(),
                ["550 5.1.1"]
            );
            // Each for another reason: DATA has one reply only.
            let heard = send(front, envelope(&names[1..]), MAIL).await;
            assert_eq!(heard, ["550 5.1.1", "552 5.2.2"]);
        })
        .await;
    assert_eq!(lab.counted("lmtp", "refused"), 5);
    assert_eq!(lab.counted("lmtp", "deferred"), 1);
}

#[tokio::test]
async fn homes_are_made_for_the_server() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Account);
    fs::create_dir(lab.root.path().join("u2")).unwrap();
    let heard = server
        .with_front(&mailstore, Manners::default(), async |front| {
            let all = envelope(&["u1@a.example", "u2@a.example"]);
            send(front, all, MAIL).await
        })
        .await;
    // u2's is root's.
    assert_eq!(heard, [STORED, "451 4.3.5"]);
    let stat = fs::metadata(lab.root.path().join("u1")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (FIRST_UID + 1, FIRST_UID + 1));
}

#[tokio::test]
async fn a_loop_is_refused_for_those_whom_the_header_names() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Account);
    let header = "Subject: x\r\nDelivered-To: <U1@a.example>\r\nDelivered-To: u2\r\n";
    let mail = format!("{header}{}\r\n", "X: y\r\n".repeat(1000));
    server
        .with_front(&mailstore, Manners::default(), async |front| {
            let both = envelope(&["u1@a.example", "u2@a.example"]);
            let heard = send(front, both, mail.as_bytes()).await;
            // A name without a domain is no sign.
            assert_eq!(heard, ["554 5.4.6", STORED]);
            let heard = send(front, envelope(&["u1@a.example"]), mail.as_bytes()).await;
            assert_eq!(heard, ["554 5.4.6"]);
            let heard = send(front, envelope(&["u1@a.example"]), MAIL).await;
            assert_eq!(heard, [STORED]);
        })
        .await;
    let heard = server.heard();
    assert_eq!(said(&heard, "aborted").len(), 2, "{heard:?}");
    assert_eq!(said(&heard, ".").len(), 2, "{heard:?}");
    assert_eq!(lab.counted("lmtp", "loop"), 2);
}

#[tokio::test]
async fn what_the_server_can_not_take_is_refused_alone() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Address);
    let facts = recipient_facts("u1@a.example");
    let utf8 = Envelope {
        smtputf8: true,
        recipients: vec![
            recipient("zo\u{eb}@a.example", &facts),
            recipient("u1@a.example", &facts),
        ],
        ..envelope(&[])
    };
    let sender = Envelope {
        smtputf8: true,
        sender: Some(Address::parse("zo\u{eb}@a.example").unwrap()),
        ..envelope(&["u1@a.example"])
    };
    server
        .with_front(&mailstore, Manners::default(), async |front| {
            assert_eq!(send(front, utf8.clone(), MAIL).await, ["554 5.6.7", STORED]);
            assert_eq!(send(front, sender, MAIL).await, ["554 5.6.7"]);
        })
        .await;
    let capable = Scripted::new();
    let mailstore = lab.before(capable.address(), Naming::Address);
    let manners = Manners {
        offers: "\r\n250-SMTPUTF8",
        ..Manners::default()
    };
    capable
        .with_front(&mailstore, manners, async |front| {
            assert_eq!(send(front, utf8, MAIL).await, [STORED, STORED]);
        })
        .await;
}

#[tokio::test]
async fn another_delivery_is_told_the_facts() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Address);
    let manners = Manners {
        offers: "\r\n250-PIGEONAIR",
        ..Manners::default()
    };
    server
        .with_front(&mailstore, manners, async |front| {
            send(front, envelope(&["u1@a.example"]), MAIL).await
        })
        .await;
    let heard = server.heard();
    assert_eq!(said(&heard, "RCPT"), ["RCPT TO:<u1@a.example>"]);
    let mail = said(&heard, "MAIL");
    assert!(mail[0].contains(" PIGEONAIR=+02+00+07session"), "{mail:?}");
}

#[tokio::test]
async fn a_server_that_breaks_off_anywhere_is_an_answer() {
    // Greeting, LHLO, MAIL, RCPT, RCPT, DATA, two answers.
    for at in 0..=8 {
        let (lab, server) = (Lab::new(), Scripted::new());
        let mailstore = lab.before(server.address(), Naming::Account);
        let manners = Manners {
            closes_after: Some(at),
            ..Manners::default()
        };
        let heard = server
            .with_front(&mailstore, manners, async |front| {
                let heard = send(front, envelope(&["u1@a.example", "u2@a.example"]), MAIL).await;
                assert!(front.is_open());
                heard
            })
            .await;
        let expected = match at {
            0..6 => ["451 4.3.0", "451 4.3.0"],
            // The test's server does not read the message then.
            6 => ["451 4.3.0 or 451 4.4.2"; 2],
            7 => [STORED, "451 4.4.2"],
            _ => [STORED, STORED],
        };
        for (codes, expected) in heard.iter().zip(expected) {
            assert!(expected.contains(codes.as_str()), "{at}: {heard:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_died_between_messages_is_replaced_once() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Account);
    let one = async |front: &mut Transfer| send(front, envelope(&["u1@a.example"]), MAIL).await;
    let work = async {
        mailstore
            .with_front(async |front| {
                // The server is gone behind the first message, and is there again.
                for _ in 0..2 {
                    let heard = tokio::select! {
                        heard = one(front) => heard,
                        () = server.serve(Manners::default()) => panic!("it serves for ever"),
                    };
                    assert_eq!(heard, [STORED]);
                }
            })
            .await;
    };
    Box::pin(work).await;
    assert_eq!(said(&server.heard(), ".").len(), 2);
    // Gone for good.
    let folder = server.folder;
    drop(server.listener);
    mailstore
        .with_front(async |front| {
            let begun = front.begin(envelope(&["u1@a.example"])).await;
            let Begun::Done(fates) = begun.unwrap() else {
                panic!("begun")
            };
            assert_eq!(
                fates.into_iter().map(codes).collect::<Vec<_>>(),
                ["451 4.3.0"]
            );
        })
        .await;
    drop(folder);
}

#[tokio::test]
async fn a_front_that_leaves_before_its_dot_ends_no_message_at_the_server() {
    let (lab, server) = (Lab::new(), Scripted::new());
    let mailstore = lab.before(server.address(), Naming::Account);
    let (front, serve) = mailstore.link();
    let work = async {
        let mut front = greet(Stream::Unix(front)).await.unwrap();
        let begun = front.begin(envelope(&["u1@a.example"])).await;
        assert!(matches!(begun, Ok(Begun::Data)));
        front.body(&[b'x'; 90_000]).await.unwrap();
        drop(front);
    };
    let all = async {
        join!(work, serve);
        while said(&server.heard(), "aborted").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let all = Box::pin(timeout(PATIENCE, all));
    tokio::select! {
        end = all => end.expect("out of patience"),
        () = server.serve(Manners::default()) => panic!("it serves for ever"),
    }
    assert_eq!(said(&server.heard(), "."), Vec::<String>::new());
    assert_eq!(lab.counted("lmtp", "broken"), 1);
}
