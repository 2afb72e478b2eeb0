//! Sizes, counts, hops, networks, and what a slow node costs.

use std::sync::{Arc, atomic::AtomicUsize};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;
use crate::{
    delivery::Delivery,
    names::{ClientAddr, SessionId},
    net::Stream,
    proto::link::context::mail::MessageFacts,
};

#[tokio::test]
async fn messages_have_a_largest_size() {
    let lab = Lab::with(|settings| settings.lmtp.max_message_bytes = 100).await;
    let mut mta = lab.mta().await;
    const TOO_BIG: &str = "552 5.3.4 The message is too big.";
    mta.say("MAIL FROM:<> SIZE=101").await;
    assert_eq!(mta.line().await, TOO_BIG);
    let large = b"0123456789\r\n".repeat(10);
    for recipients in [&["ann", "bob"][..], &["ann", "carl"]] {
        let replies = mta.deliver(recipients, &large).await;
        assert_eq!(replies, [TOO_BIG, TOO_BIG]);
    }
    assert_eq!(lab.count("too-big"), 4);
    until(|| lab.nodes[0].open() + lab.nodes[1].open() == 0).await;
    assert!(lab.nodes[0].stored().is_empty() && lab.nodes[1].stored().is_empty());
    let fits = b"0123456789\r\n".repeat(8);
    assert_eq!(
        mta.deliver(&["ann"], &fits).await,
        ["250 2.0.0 ann@a.example has it"]
    );
}

#[tokio::test]
async fn line_ends_that_are_none_are_refused_where_that_is_wanted() {
    let lab = Lab::with(|settings| settings.lmtp.refuse_bare_line_ends = true).await;
    let replies = lab.mta().await.deliver(&["ann"], b"a\nb\r\n").await;
    assert_eq!(
        replies,
        ["554 5.6.0 Lines end in CRLF, here is a CR or LF alone."]
    );
    assert_eq!(lab.count("bare-line-end"), 1);
    until(|| lab.nodes[0].open() == 0).await;
    assert!(lab.nodes[0].stored().is_empty());
}

#[tokio::test]
async fn messages_have_a_largest_count_of_recipients() {
    let lab = Lab::with(|settings| settings.lmtp.max_recipients = 2).await;
    let mut mta = lab.mta().await;
    let (replies, data) = mta.envelope(&["ann", "bob", "zoe"]).await;
    assert_eq!(replies, [TAKEN, TAKEN, "452 4.5.3 Too many recipients."]);
    assert_eq!(data, GO_ON);
    mta.write(b".\r\n").await.unwrap();
    mta.lines(2).await;
}

#[tokio::test]
async fn a_thousand_recipients_have_a_thousand_replies() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    let recipients: Vec<_> = ["ann", "carl", "bob", "full1", "dora"]
        .into_iter()
        .cycle()
        .take(1000)
        .collect();
    let replies = mta.deliver(&recipients, HELLO).await;
    for (recipient, reply) in recipients.iter().zip(&replies) {
        let expected = if recipient.starts_with("full") {
            format!("552 5.2.2 {recipient}@a.example is full")
        } else {
            format!("250 2.0.0 {recipient}@a.example has it")
        };
        assert_eq!(*reply, expected);
    }
    assert_eq!(lab.count("delivered"), 800);
}

#[tokio::test]
async fn connections_have_a_limit_over_all_listeners() {
    let lab = Lab::with(|settings| settings.max_connections = 2).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, current) = watch::channel(lab.delivery.clone());
    lab.tasks
        .spawn("listener", Delivery::listen(current, listener));
    let one = lab.mta().await;
    let mut two = over_tcp(TcpStream::connect(address).await.unwrap());
    assert!(two.line().await.starts_with("220 "));
    assert_eq!(lab.metrics.delivery_connections_open.get(), 2);
    const BUSY: &str = "421 4.3.2 Too many connections, please try again later.";
    assert_eq!(lab.stranger().await.line().await, BUSY);
    let mut three = over_tcp(TcpStream::connect(address).await.unwrap());
    assert_eq!(three.line().await, BUSY);
    drop(one);
    until(|| lab.metrics.delivery_connections_open.get() == 1).await;
    lab.mta().await;
}

fn over_tcp(stream: TcpStream) -> Mta {
    Mta {
        stream: Stream::Tcp(stream),
        input: bytes::BytesMut::new(),
    }
}

#[tokio::test]
async fn other_networks_are_closed_without_a_word() {
    let lab = Lab::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, current) = watch::channel(lab.delivery.clone());
    lab.tasks
        .spawn("listener", Delivery::listen(current, listener));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stranger = over_tcp(socket.connect(address).await.unwrap());
    assert_eq!(patiently(stranger.try_line()).await, None);
    let shed = &lab.metrics.connections_shed;
    assert_eq!(shed.with_label_values(&["address"]).get(), 1);
    let mut friend = over_tcp(TcpStream::connect(address).await.unwrap());
    assert!(friend.line().await.starts_with("220 "));
}

/// What a delivery in front of us would say.
fn facts(hops: u8) -> String {
    let facts = MessageFacts {
        session: SessionId::from_random([9; 12]),
        client: ClientAddr("192.0.2.9:9".parse().unwrap()),
        hops,
    };
    let octets = facts.encode();
    let xtext = octets.iter().map(|octet| format!("+{octet:02X}"));
    xtext.collect()
}

#[tokio::test]
async fn a_message_passes_five_deliveries() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    for (parameter, reply) in [
        (facts(4), GO_ON),
        (facts(5), "554 5.4.6 This message has been here before."),
        (facts(255), "554 5.4.6 This message has been here before."),
        (
            "nonsense".to_owned(),
            "451 4.3.0 The message could not be stored.",
        ),
    ] {
        let commands =
            format!("MAIL FROM:<> PIGEONAIR={parameter}\r\nRCPT TO:<ann@a.example>\r\nDATA\r\n");
        mta.write(commands.as_bytes()).await.unwrap();
        assert_eq!(mta.lines(3).await[2], reply);
        if reply == GO_ON {
            mta.write(b".\r\n").await.unwrap();
            mta.line().await;
        }
    }
    let stored = lab.nodes[0].stored();
    assert_eq!((stored.len(), stored[0].message.hops), (1, 5));
    // Nothing else of it is believed.
    assert_eq!(stored[0].message.client.0, "127.0.0.1:0".parse().unwrap());
    assert_ne!(stored[0].message.session, SessionId::from_random([9; 12]));
    assert_eq!(lab.count("loop"), 2);
}

/// A node that reads slowly slows the MTA: what is between them does not grow with the message.
#[tokio::test]
async fn a_slow_node_slows_the_mta() {
    const PIECES: usize = 256;
    const MOST: usize = 4 << 20;
    let lab = Lab::start().await;
    lab.nodes[0].yields.store(20, Ordering::SeqCst);
    let mut mta = lab.mta().await;
    assert_eq!(mta.envelope(&["ann"]).await.1, GO_ON);
    let piece = b"0123456789abcdef0123456789abcd\r\n".repeat(2048);
    let written = Arc::new(AtomicUsize::new(0));
    let mut most = 0;
    for _ in 0..PIECES {
        mta.write(&piece).await.unwrap();
        let written = written.fetch_add(piece.len(), Ordering::SeqCst) + piece.len();
        most = most.max(written - lab.nodes[0].read.load(Ordering::SeqCst));
    }
    mta.write(b".\r\n").await.unwrap();
    assert_eq!(mta.line().await, "250 2.0.0 ann@a.example has it");
    assert!(most < MOST, "{most} octets were under way");
    let stored = lab.nodes[0].stored();
    assert_eq!(stored[0].octets.len(), PIECES * piece.len());
}

#[tokio::test]
async fn a_spool_that_can_not_be_written_is_an_answer_for_now() {
    let lab = Lab::with(|settings: &mut Settings| {
        settings.spool.folder = settings.spool.folder.join("missing");
    })
    .await;
    let mut mta = lab.mta().await;
    let large = b"0123456789\r\n".repeat(10_000);
    const FAILED: &str = "451 4.3.0 The message could not be stored.";
    let replies = mta.deliver(&["ann", "carl"], &large).await;
    assert_eq!(replies, [FAILED, FAILED]);
    // What fits memory, and what needs no spool, is delivered.
    for (recipients, octets) in [(&["ann", "carl"][..], HELLO), (&["ann"], &large)] {
        for reply in mta.deliver(recipients, octets).await {
            assert!(reply.starts_with("250 "), "{reply}");
        }
    }
    let error = std::io::Error::from_raw_os_error(28);
    let failure = super::super::forward::spool_failure(&error);
    assert_eq!(failure.cause, Cause::DiskFull);
    let reply: Reply = Verdict::Failed(failure).reply();
    assert_eq!(reply.code(), 452);
}
