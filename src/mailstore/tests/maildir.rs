//! The kind `maildir`: what is stored, what is not, and what the front hears.

use std::os::unix::fs::{MetadataExt as _, symlink};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn mailstore(lab: &Lab) -> Mailstore {
    lab.mailstore_with(|_| {})
}

fn content(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn each_recipient_gets_a_file_of_his_own() {
    let lab = Lab::new();
    mailstore(&lab)
        .with_front(async |front| {
            for _ in 0..2 {
                let envelope = envelope(&["u1@a.example", "u2+detail@a.example"]);
                assert_eq!(send(front, envelope, MAIL).await, [STORED, STORED]);
            }
        })
        .await;
    for (user, uid, recipient) in [
        ("u1", FIRST_UID + 1, "u1@a.example"),
        ("u2", FIRST_UID + 2, "u2+detail@a.example"),
    ] {
        let mail = lab.mail(user);
        assert_eq!(mail.len(), 2);
        for path in mail {
            let stat = fs::metadata(&path).unwrap();
            assert_eq!((stat.uid(), stat.gid()), (uid, uid));
            assert_eq!(
                content(&path),
                format!(
                    "Return-Path: <sue@b.example>\nDelivered-To: {recipient}\nSubject: x\n\n.body\n"
                )
            );
        }
    }
    assert_eq!(lab.counted("maildir", "stored"), 4);
}

#[tokio::test]
async fn one_whose_home_is_bad_fails_alone() {
    let lab = Lab::new();
    fs::create_dir(lab.root.path().join("u2")).unwrap();
    chown(lab.root.path().join("u2"), Some(FIRST_UID + 7), None).unwrap();
    symlink("u1", lab.root.path().join("u4")).unwrap();
    let all = [
        "u1@a.example",
        "u2@a.example",
        "u3@a.example",
        "u4@a.example",
    ];
    let heard = mailstore(&lab)
        .with_front(async |front| send(front, envelope(&all), MAIL).await)
        .await;
    assert_eq!(heard, [STORED, "451 4.3.5", STORED, "451 4.3.5"]);
    let counts = ["u1", "u2", "u3", "u4"].map(|user| lab.mail(user).len());
    // What u4 seems to have is u1's.
    assert_eq!(counts, [1, 0, 1, 1]);
    assert_eq!(lab.counted("maildir", "misconfigured"), 2);
}

#[tokio::test]
async fn who_is_outside_the_bounds_is_refused_before_the_message() {
    let lab = Lab::new();
    let good = recipient_facts("u1@a.example");
    let root = RecipientFacts {
        uid: 0,
        ..good.clone()
    };
    let wheel = RecipientFacts {
        gid: 0,
        ..good.clone()
    };
    let beside = RecipientFacts {
        home: "../u1".to_owned(),
        ..good.clone()
    };
    let outside = RecipientFacts {
        home: "/etc".to_owned(),
        ..good.clone()
    };
    let mut envelope = envelope(&[]);
    for facts in [&root, &wheel, &beside, &good, &outside] {
        envelope.recipients.push(recipient("u1@a.example", facts));
    }
    // Not one of ours.
    let mut nobody = recipient("u1@a.example", &good);
    nobody.private = None;
    envelope.recipients.push(nobody.clone());
    nobody.private = Some(b"\x01\x00\x01".to_vec());
    envelope.recipients.push(nobody);
    let heard = mailstore(&lab)
        .with_front(async |front| send(front, envelope, MAIL).await)
        .await;
    let refused = "451 4.3.5";
    assert_eq!(
        heard,
        [refused, refused, refused, STORED, refused, refused, refused]
    );
    assert_eq!(lab.mail("u1").len(), 1);
    assert_eq!(lab.counted("maildir", "misconfigured"), 6);
}

#[tokio::test]
async fn a_message_without_facts_or_with_too_many_hops_is_not_begun() {
    let lab = Lab::new();
    mailstore(&lab)
        .with_front(async |front| {
            for (private, expected) in [
                (None, "451 4.3.5"),
                (Some(b"\xff".to_vec()), "451 4.3.5"),
                (Some(message_facts(6).encode()), "554 5.4.6"),
            ] {
                let envelope = Envelope {
                    private,
                    ..envelope(&["u1@a.example"])
                };
                let Begun::Done(fates) = front.begin(envelope).await.unwrap() else {
                    panic!("begun")
                };
                let heard: Vec<_> = fates.into_iter().map(codes).collect();
                assert_eq!(heard, [expected]);
            }
            let envelope = Envelope {
                private: Some(message_facts(5).encode()),
                ..envelope(&["u1@a.example"])
            };
            assert_eq!(send(front, envelope, MAIL).await, [STORED]);
        })
        .await;
    assert_eq!(lab.mail("u1").len(), 1);
    assert_eq!(lab.counted("maildir", "loop"), 1);
}

#[tokio::test]
async fn a_message_that_was_here_before_is_a_loop() {
    let lab = Lab::new();
    let heard = mailstore(&lab)
        .with_front(async |front| {
            let mail = b"Delivered-To: u1@a.example\r\n\r\nbody\r\n";
            let envelope = envelope(&["u1@a.example", "u2@a.example"]);
            send(front, envelope, mail).await
        })
        .await;
    assert_eq!(heard, ["554 5.4.6", STORED]);
    assert_eq!(lab.mail("u1").len(), 0);
}

#[tokio::test]
async fn a_full_mailbox_is_answered_as_set() {
    for (permanent, expected) in [(false, "452 4.2.2"), (true, "552 5.2.2")] {
        let lab = Lab::new();
        let mailstore = lab.mailstore_with(|settings| {
            let Kind::Maildir(maildir) = &mut settings.kind else {
                panic!("another kind")
            };
            maildir.over_quota_is_permanent = permanent;
        });
        let full = RecipientFacts {
            quota: Some(10),
            ..recipient_facts("u1@a.example")
        };
        let mut envelope = envelope(&["u2@a.example"]);
        envelope.recipients.push(recipient("u1@a.example", &full));
        let heard = mailstore
            .with_front(async |front| send(front, envelope, MAIL).await)
            .await;
        assert_eq!(heard, [STORED, expected]);
        assert_eq!(lab.mail("u1").len(), 0);
    }
}

#[tokio::test]
async fn a_message_too_big_is_refused_for_all_and_the_link_goes_on() {
    let lab = Lab::new();
    mailstore(&lab)
        .with_front(async |front| {
            let both = envelope(&["u1@a.example", "u2@a.example"]);
            let heard = send(front, both.clone(), &[b'x'; 100_001]).await;
            assert_eq!(heard, ["552 5.3.4", "552 5.3.4"]);
            assert_eq!(send(front, both, MAIL).await, [STORED, STORED]);
        })
        .await;
    assert_eq!((lab.mail("u1").len(), lab.mail("u2").len()), (1, 1));
}

#[tokio::test]
async fn many_recipients_are_answered_in_order() {
    let lab = Lab::new();
    let names: Vec<_> = (0..90)
        .map(|at| format!("u{}@a.example", at % 9 + 1))
        .collect();
    let mut envelope = envelope(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (at, one) in envelope.recipients.iter_mut().enumerate() {
        if at % 7 == 3 {
            // Its home is a file.
            let facts = RecipientFacts {
                home: "file".to_owned(),
                ..recipient_facts("u1@a.example")
            };
            one.private = Some(facts.encode().unwrap());
        }
    }
    fs::write(lab.root.path().join("file"), b"").unwrap();
    let heard = mailstore(&lab)
        .with_front(async |front| send(front, envelope, MAIL).await)
        .await;
    assert_eq!(heard.len(), 90);
    for (at, codes) in heard.iter().enumerate() {
        let expected = if at % 7 == 3 { "451 4.3.5" } else { STORED };
        assert_eq!(codes, expected, "{at}");
    }
    let stored: usize = (1..10)
        .map(|user| lab.mail(&format!("u{user}")).len())
        .sum();
    assert_eq!(
        stored,
        heard.iter().filter(|codes| *codes == STORED).count()
    );
}

/// All that a front sends for one message.
fn conversation() -> String {
    let mut xtext = [String::new(), String::new()];
    let facts = [
        message_facts(1).encode(),
        recipient_facts("u1@a.example").encode().unwrap(),
    ];
    for (text, octets) in xtext.iter_mut().zip(facts) {
        *text = octets.iter().map(|octet| format!("+{octet:02X}")).collect();
    }
    let [message, recipient] = xtext;
    format!(
        "LHLO front\r\nMAIL FROM:<> {KEYWORD}={message}\r\n\
         RCPT TO:<u1@a.example> {KEYWORD}={recipient}\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\n"
    )
}

#[tokio::test]
async fn a_front_that_breaks_off_anywhere_leaves_nothing_without_its_dot() {
    let lab = Lab::new();
    let mailstore = mailstore(&lab);
    let conversation = conversation();
    for at in 0..=conversation.len() {
        let (mut front, serve) = mailstore.link();
        let talk = async {
            front
                .write_all(&conversation.as_bytes()[..at])
                .await
                .unwrap();
            front.shutdown().await.unwrap();
            let mut heard = String::new();
            front.read_to_string(&mut heard).await.unwrap();
            heard
        };
        let (heard, ()) = join!(talk, serve);
        let whole = at == conversation.len();
        assert_eq!(heard.contains("250 2.0.0 Stored."), whole, "{heard}");
        assert_eq!(lab.mail("u1").len(), usize::from(whole));
    }
}

#[tokio::test]
async fn a_stop_closes_idle_links_and_lets_messages_end() {
    let lab = Lab::new();
    let mailstore = mailstore(&lab);
    let (idle, serve_idle) = mailstore.link();
    let (busy, serve_busy) = mailstore.link();
    let idle = async {
        let mut idle = greet(Stream::Unix(idle)).await.unwrap();
        let heard = send(&mut idle, envelope(&["u1@a.example"]), MAIL).await;
        assert_eq!(heard, [STORED]);
        idle
    };
    let work = async {
        let mut idle = idle.await;
        let mut busy = greet(Stream::Unix(busy)).await.unwrap();
        let begun = busy.begin(envelope(&["u2@a.example"])).await;
        assert!(matches!(begun, Ok(Begun::Data)));
        lab.tasks.stop();
        // Closed before anything of the next message.
        assert!(idle.begin(envelope(&["u1@a.example"])).await.is_err());
        assert_eq!(idle.broken(), [Fate::Broken]);
        busy.body(MAIL).await.unwrap();
        let heard: Vec<_> = busy
            .finish()
            .await
            .unwrap()
            .into_iter()
            .map(codes)
            .collect();
        assert_eq!(heard, [STORED]);
        assert!(busy.begin(envelope(&["u1@a.example"])).await.is_err());
    };
    let all = Box::pin(async { join!(work, serve_idle, serve_busy) });
    timeout(PATIENCE, all).await.expect("out of patience");
    assert_eq!((lab.mail("u1").len(), lab.mail("u2").len()), (1, 1));
}

/// Kept links are closed, so that the next message comes to the successor; a link that was opened for a message brings it.
#[tokio::test]
async fn who_is_replaced_closes_links_that_have_brought_a_message() {
    let lab = Lab::new();
    let mailstore = mailstore(&lab);
    let links = [(); 3].map(|()| mailstore.link());
    let [(kept, serve_kept), (busy, serve_busy), (fresh, serve_fresh)] = links;
    let work = async {
        let mut kept = greet(Stream::Unix(kept)).await.unwrap();
        let heard = send(&mut kept, envelope(&["u1@a.example"]), MAIL).await;
        assert_eq!(heard, [STORED]);
        let mut busy = greet(Stream::Unix(busy)).await.unwrap();
        let begun = busy.begin(envelope(&["u2@a.example"])).await;
        assert!(matches!(begun, Ok(Begun::Data)));
        lab.tasks.retire();
        assert!(kept.begin(envelope(&["u1@a.example"])).await.is_err());
        assert_eq!(kept.broken(), [Fate::Broken]);
        busy.body(MAIL).await.unwrap();
        let heard = busy.finish().await.unwrap();
        assert_eq!(heard.into_iter().map(codes).next().unwrap(), STORED);
        assert!(busy.begin(envelope(&["u2@a.example"])).await.is_err());
        // Ready at this process, and opened when that was replaced.
        let mut fresh = greet(Stream::Unix(fresh)).await.unwrap();
        let heard = send(&mut fresh, envelope(&["u3@a.example"]), MAIL).await;
        assert_eq!(heard, [STORED]);
        assert!(fresh.begin(envelope(&["u3@a.example"])).await.is_err());
    };
    let all = Box::pin(async { join!(work, serve_kept, serve_busy, serve_fresh) });
    timeout(PATIENCE, all).await.expect("out of patience");
    let counts = ["u1", "u2", "u3"].map(|user| lab.mail(user).len());
    assert_eq!(counts, [1, 1, 1]);
}

#[tokio::test]
async fn a_spool_that_fails_is_an_answer() {
    let lab = Lab::new();
    let mailstore = lab.mailstore_with(|settings| {
        let Kind::Maildir(maildir) = &mut settings.kind else {
            panic!("another kind")
        };
        maildir.spool = spool::Settings {
            memory: 4096,
            folder: "/nowhere".into(),
        };
    });
    mailstore
        .with_front(async |front| {
            let both = envelope(&["u1@a.example", "u2@a.example"]);
            let heard = send(front, both.clone(), &[b'x'; 50_000]).await;
            assert_eq!(heard, ["451 4.3.0", "451 4.3.0"]);
            assert_eq!(send(front, both, MAIL).await, [STORED, STORED]);
        })
        .await;
    assert_eq!(lab.counted("maildir", "failed"), 2);
}

#[tokio::test]
async fn who_is_not_stored_in_time_may_be() {
    let lab = Lab::new();
    let mailstore = lab.mailstore_with(|settings| settings.store_timeout = Duration::ZERO);
    let names: Vec<_> = (1..10).map(|at| format!("u{at}@a.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let heard = mailstore
        .with_front(async |front| send(front, envelope(&names), MAIL).await)
        .await;
    assert_eq!(heard.len(), 9);
    assert!(heard.iter().all(|codes| codes == "451 4.4.2"), "{heard:?}");
    // Three had begun, the others never do.
    assert_eq!(lab.counted("maildir", "uncertain"), 3);
    assert_eq!(lab.counted("maildir", "timed-out"), 6);
}
