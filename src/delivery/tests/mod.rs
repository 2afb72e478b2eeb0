//! The delivery role between an MTA and nodes that misbehave, over real links.
//!
//! Deadlines that must not pass are long, those that must are short, and every wait of a test has its patience.

mod breaks;
mod lab;
mod limits;

use std::sync::atomic::Ordering;

use self::lab::{Cut, LONG, Lab, Mta, patiently, timeouts, until};
use super::{
    Settings,
    recipient::{self},
    report::Verdict,
};
use crate::proto::lmtp::{Address, Cause, Reply};

const HELLO: &[u8] = b"Subject: hello\r\n\r\nHello.\r\n";

const TAKEN: &str = "250 2.1.5 Recipient OK.";
const GO_ON: &str = "354 Go on, end with a dot.";
const NODE_DOWN: &str = "451 4.4.1 The mailbox is not reachable just now.";
const UNCERTAIN: &str = "451 4.4.2 The mailbox did not say whether it has the message.";
const TIMED_OUT: &str = "451 4.4.2 The mailbox did not answer in time.";

#[tokio::test]
async fn a_message_for_one_goes_straight_to_its_home() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    assert_eq!(
        mta.deliver(&["ann"], HELLO).await,
        ["250 2.0.0 ann@a.example has it"]
    );
    let stored = lab.nodes[0].stored();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].octets, HELLO);
    assert_eq!(stored[0].mail, "FROM:<eve@b.example>");
    assert_eq!(stored[0].message.hops, 1);
    assert_eq!(stored[0].message.client.0, "127.0.0.1:0".parse().unwrap());
    let facts = &stored[0].facts[0];
    assert_eq!(facts.account.as_str(), "ann");
    assert_eq!((facts.uid, facts.gid), (20_001, 20_001));
    assert_eq!((facts.home.as_str(), facts.quota), ("ann", Some(1000)));
    assert_eq!(lab.nodes[1].links(), 0);
    assert_eq!(lab.count("delivered"), 1);
}

/// One message, every kind of recipient, at two nodes and one that is down: each reply is its own recipient's.
#[tokio::test]
async fn replies_are_each_recipients_own_and_in_order() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    let recipients = [
        "carl", "full1", "ann", "unknown", "dead", "no3", "gone", "bob", "later1", "lost", "full2",
        "dora", "dead2",
    ];
    let (taken, data) = mta.envelope(&recipients).await;
    let refused = [
        (3, "550 5.1.1 No such user here."),
        (6, "550 5.2.1 This mailbox takes no mail."),
        (9, "451 4.3.5 This mailbox is not set up correctly."),
    ];
    for (at, reply) in taken.iter().enumerate() {
        let expected = refused.iter().find(|(place, _)| *place == at);
        assert_eq!(reply, expected.map_or(TAKEN, |(_, reply)| reply), "{at}");
    }
    assert_eq!(data, GO_ON);
    mta.write(HELLO).await.unwrap();
    mta.write(b".\r\n").await.unwrap();
    assert_eq!(
        mta.lines(10).await,
        [
            "250 2.0.0 carl@a.example has it",
            "552 5.2.2 full1@a.example is full",
            "250 2.0.0 ann@a.example has it",
            NODE_DOWN,
            "550 5.7.1 not no3@a.example",
            "250 2.0.0 bob@a.example has it",
            "450 4.2.0 not now later1@a.example",
            "552 5.2.2 full2@a.example is full",
            "250 2.0.0 dora@a.example has it",
            NODE_DOWN,
        ]
    );
    let [one, two] = [0, 1].map(|at| lab.nodes[at].stored());
    assert_eq!(one[0].octets, HELLO);
    assert_eq!(two[0].octets, HELLO);
    assert_eq!(one[0].message.session, two[0].message.session);
    for (result, count) in [
        ("delivered", 4),
        ("refused", 3),
        ("deferred", 1),
        ("node-down", 2),
        ("no-such-user", 1),
        ("account-disabled", 1),
        ("misconfigured", 1),
    ] {
        assert_eq!(lab.count(result), count, "{result}");
    }
    assert_eq!(lab.metrics.spooled.with_label_values(&["memory"]).get(), 1);
    assert_eq!(lab.metrics.spooled_bytes.get(), HELLO.len() as u64);
    // The conversation goes on.
    let answer = mta.deliver(&["zoe"], HELLO).await;
    assert_eq!(answer, ["250 2.0.0 zoe@a.example has it"]);
    assert_ne!(
        lab.nodes[0].stored()[1].message.session,
        one[0].message.session
    );
}

#[tokio::test]
async fn what_the_home_refuses_for_all_alike_is_the_reply_to_data() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    assert_eq!(
        mta.deliver(&["no1"], HELLO).await,
        ["550 5.7.1 not no1@a.example"]
    );
    assert_eq!(mta.deliver(&["dead"], HELLO).await, [NODE_DOWN]);
    assert_eq!(mta.deliver(&["dead", "dead2"], HELLO).await, [NODE_DOWN]);
    // Not alike: then the message is heard, and each gets its own.
    assert_eq!(
        mta.deliver(&["no1", "later1", "no2"], HELLO).await,
        [
            "550 5.7.1 not no1@a.example",
            "450 4.2.0 not now later1@a.example",
            "550 5.7.1 not no2@a.example",
        ]
    );
    // The node's link is as good as before.
    assert_eq!(
        mta.deliver(&["ann"], HELLO).await,
        ["250 2.0.0 ann@a.example has it"]
    );
    assert_eq!(lab.nodes[0].links(), 1);
    assert_eq!(lab.nodes[0].stored().len(), 1);
}

/// Octets that are no dot, no line end, no ASCII, on both ways, byte for byte.
#[tokio::test]
async fn both_ways_give_the_node_the_same_octets() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    let large = b"..\r\n.x\r\n\xff\xfe\r\n".repeat(10_000);
    let messages: [&[u8]; 9] = [
        b"",
        b"\r\n",
        b".\r\n",
        b"..\r\n...\r\n.\r\n",
        b"a\n.\nb\r\nc\n.\r\nd\r.\re\r.\r\n",
        b"\r\r\n\n\r\n\r\n",
        b"\0\x01\x80\xff zo\xc3\xab\r\n",
        b"MAIL FROM:<eve@b.example>\r\nRSET\r\nQUIT\r\n",
        &large,
    ];
    for message in messages {
        let sent = with_dots(message);
        for recipients in [&["ann"][..], &["ann", "carl"]] {
            for reply in mta.deliver(recipients, &sent).await {
                assert!(reply.starts_with("250 "), "{reply}");
            }
        }
        let [one, two] = [0, 1].map(|at| lab.nodes[at].stored());
        for stored in one[one.len() - 2..].iter().chain(two.last()) {
            assert!(stored.octets == message, "{message:?}: {stored:?}");
        }
    }
    assert_eq!(lab.metrics.spooled.with_label_values(&["file"]).get(), 1);
}

fn with_dots(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, octet) in message.iter().enumerate() {
        if *octet == b'.' && (at == 0 || message[..at].ends_with(b"\r\n")) {
            out.push(b'.');
        }
        out.push(*octet);
    }
    out
}

#[tokio::test]
async fn what_mail_says_reaches_the_node() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    let commands = "MAIL FROM:<zo\u{eb}@b.example> BODY=8BITMIME SMTPUTF8 SIZE=1234\r\n\
                    RCPT TO:<ann+li\u{ff}ts@a.example>\r\nDATA\r\n";
    mta.write(commands.as_bytes()).await.unwrap();
    assert_eq!(mta.lines(3).await[2], GO_ON);
    mta.write(b".\r\n").await.unwrap();
    assert_eq!(
        mta.line().await,
        "250 2.0.0 ann+li?ts@a.example has it".replace('?', "??")
    );
    let stored = lab.nodes[0].stored();
    assert_eq!(
        stored[0].mail,
        "FROM:<zo\u{eb}@b.example> SIZE=1234 BODY=8BITMIME SMTPUTF8"
    );
    // Nobody is the sender of bounces.
    mta.write(b"MAIL FROM:<>\r\nRCPT TO:<ann@a.example>\r\nDATA\r\n.\r\n")
        .await
        .unwrap();
    assert!(mta.lines(4).await[3].starts_with("250 "));
    assert_eq!(lab.nodes[0].stored()[1].mail, "FROM:<>");
}

#[tokio::test]
async fn links_are_kept_and_used_again() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    for _ in 0..5 {
        mta.deliver(&["ann"], HELLO).await;
        mta.deliver(&["ann", "carl"], HELLO).await;
    }
    assert_eq!([0, 1].map(|at| lab.nodes[at].links()), [1, 1]);
    // More at one time than are kept.
    lab.nodes[0].answers.send_replace(false);
    let mut mtas = Vec::new();
    for at in 1..=4 {
        let mut mta = lab.mta().await;
        assert_eq!(mta.envelope(&["bob"]).await.1, GO_ON);
        mta.write(b".\r\n").await.unwrap();
        until(|| lab.nodes[0].open() == at).await;
        mtas.push(mta);
    }
    lab.nodes[0].answers.send_replace(true);
    for mta in &mut mtas {
        assert_eq!(mta.line().await, "250 2.0.0 bob@a.example has it");
    }
    until(|| lab.nodes[0].open() == 2).await;
    assert_eq!(lab.kept(), 3);
    assert_eq!(lab.nodes[0].quits.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn links_that_nobody_needs_are_closed() {
    let short = std::time::Duration::from_millis(50);
    let lab = Lab::with(|settings| settings.kept_for = short).await;
    let mut mta = lab.mta().await;
    mta.deliver(&["ann", "carl"], HELLO).await;
    until(|| lab.nodes[0].open() + lab.nodes[1].open() == 0).await;
    let quits = [0, 1].map(|at| lab.nodes[at].quits.load(Ordering::SeqCst));
    assert_eq!((quits, lab.kept()), ([1, 1], 0));
    mta.deliver(&["ann"], HELLO).await;
    assert_eq!(lab.nodes[0].links(), 2);
}

/// A slow home keeps nobody in front of it from hearing what is known.
#[tokio::test]
async fn replies_do_not_wait_for_those_behind_them() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    lab.nodes[1].answers.send_replace(false);
    assert_eq!(mta.envelope(&["ann", "carl", "bob"]).await.1, GO_ON);
    mta.write(b".\r\n").await.unwrap();
    assert_eq!(mta.line().await, "250 2.0.0 ann@a.example has it");
    lab.nodes[1].answers.send_replace(true);
    assert_eq!(mta.line().await, "250 2.0.0 carl@a.example has it");
    assert_eq!(mta.line().await, "250 2.0.0 bob@a.example has it");
}

#[test]
fn statuses_are_answered_each_in_its_way() {
    use crate::{
        directory::{Access, Account, Status},
        names::AccountName,
        nodes::Nodes,
    };
    for (delivery, cause) in [
        (Status::Refused, Cause::AccountDisabled),
        (Status::TryLater, Cause::AccountSuspended),
        (Status::Allowed, Cause::Misconfigured),
    ] {
        let account = Account {
            name: AccountName::parse("ann").unwrap(),
            home_node: None,
            uid: 1001,
            gid: 1001,
            home: "ann".to_owned(),
            quota: None,
            login: Status::Allowed,
            delivery,
            access: Access::default(),
        };
        let nodes = Nodes::new(&crate::nodes::Settings::default());
        let address = Address::parse("ann@a.example").unwrap();
        let refused = recipient::accept(&account, &nodes, address).unwrap_err();
        assert_eq!(refused.cause, cause);
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One line for each recipient, with all that is known of it.
#[tokio::test]
async fn the_log_has_a_line_for_each_recipient() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // With a single subscriber in the process, tracing lets whichever thread comes first decide for all whether an event is
    // wanted, and the other tests' threads want none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    mta.envelope(&["ann", "unknown", "dead", "full1", "lost"])
        .await;
    mta.write(b"\r\n.\r\n").await.unwrap();
    mta.lines(3).await;
    let session = lab.nodes[0].stored()[0].message.session.clone();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("recipient=") && line.contains(session.as_str()))
        .map(|line| {
            let end = line.find(" duration_ms=").unwrap_or(line.len());
            line[..end].replace(session.as_str(), "ID")
        })
        .collect();
    lines.sort();
    let client = "session=ID client=127.0.0.1:0";
    let message = format!("{client} sender=\"eve@b.example\"");
    let expected = [
        format!(
            " INFO message delivered {message} recipient=ann@a.example account=\"ann\" node=n1 \
             result=\"delivered\" reply=250 2.0.0 ann@a.example has it size=2"
        ),
        format!(
            " INFO message not delivered {message} recipient=full1@a.example account=\"full1\" node=n1 \
             result=\"refused\" reply=552 5.2.2 full1@a.example is full size=2"
        ),
        format!(
            " INFO recipient refused {client} recipient=unknown@a.example result=\"no-such-user\" \
             reply=550 5.1.1 No such user here. stage=\"lookup\" blame=\"client\" reason=\"unknown user\""
        ),
        format!(
            "ERROR message not delivered {message} recipient=dead@a.example account=\"dead\" node=n3 \
             result=\"node-down\" reply={NODE_DOWN} stage=\"link\" blame=\"node\" \
             reason=\"cannot connect to the node: No such file or directory (os error 2)\" size=2"
        ),
        format!(
            "ERROR recipient refused {client} recipient=lost@a.example account=\"lost\" \
             result=\"misconfigured\" reply=451 4.3.5 This mailbox is not set up correctly. stage=\"resolve\" \
             blame=\"directory\" reason=\"home node \\\"nowhere\\\" is not in [nodes]\""
        ),
    ];
    assert_eq!(lines, expected);
}
