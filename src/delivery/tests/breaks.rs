//! Links that break at every step, MTAs that vanish, and the drain: exact codes, nothing stored by half.

use super::*;

/// Delivers to two recipients at one home whose next links end like that: the replies, and how many links it took.
async fn broken(lab: &Lab, cuts: &[Cut]) -> (Vec<String>, usize) {
    let before = lab.nodes[0].links();
    lab.nodes[0].cut(cuts);
    let replies = lab.mta().await.deliver(&["ann", "bob"], HELLO).await;
    (replies, lab.nodes[0].links() - before)
}

const DELIVERED: [&str; 2] = [
    "250 2.0.0 ann@a.example has it",
    "250 2.0.0 bob@a.example has it",
];

#[tokio::test]
async fn a_fresh_link_that_breaks_is_an_answer_for_now() {
    for (cut, replies) in [
        (Cut::Greeting, &[NODE_DOWN][..]),
        (Cut::Lhlo, &[NODE_DOWN]),
        (Cut::Mail, &[NODE_DOWN]),
        (Cut::Rcpt, &[NODE_DOWN]),
        (Cut::Data, &[NODE_DOWN]),
        (Cut::Bye, &["451 4.3.2 going down"]),
        (Cut::Dot, &[UNCERTAIN, UNCERTAIN]),
        (Cut::Replies, &[DELIVERED[0], UNCERTAIN]),
    ] {
        let lab = Lab::start().await;
        assert_eq!(broken(&lab, &[cut]).await, (owned(replies), 1), "{cut:?}");
        let uncertain = replies.iter().filter(|r| **r == UNCERTAIN).count() as u64;
        assert_eq!(lab.metrics.delivery_uncertain.get(), uncertain, "{cut:?}");
        assert_eq!(lab.count("uncertain"), uncertain, "{cut:?}");
        assert_eq!(lab.kept(), 0, "{cut:?}");
        // And the next one is delivered.
        assert_eq!(broken(&lab, &[]).await, (owned(&DELIVERED), 1), "{cut:?}");
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn a_kept_link_that_died_is_replaced_once_while_nothing_is_sent() {
    for cut in [Cut::Mail, Cut::Rcpt, Cut::Data, Cut::Bye] {
        let lab = Lab::start().await;
        assert_eq!(broken(&lab, &[]).await, (owned(&DELIVERED), 1));
        assert_eq!(lab.kept(), 1);
        // The link that is kept ends like that now.
        lab.nodes[0].set_cut_of_open(cut);
        assert_eq!(broken(&lab, &[]).await, (owned(&DELIVERED), 1), "{cut:?}");
        assert_eq!(lab.nodes[0].stored().len(), 2, "{cut:?}");
        // Not twice.
        lab.nodes[0].set_cut_of_open(cut);
        let (replies, links) = broken(&lab, &[Cut::Mail]).await;
        assert_eq!((replies, links), (owned(&[NODE_DOWN]), 1), "{cut:?}");
        assert_eq!(lab.nodes[0].stored().len(), 2, "{cut:?}");
    }
}

#[tokio::test]
async fn a_kept_link_that_breaks_behind_the_dot_is_not_replaced() {
    let lab = Lab::start().await;
    for (cut, replies) in [
        (Cut::Dot, [UNCERTAIN, UNCERTAIN]),
        (Cut::Replies, [DELIVERED[0], UNCERTAIN]),
    ] {
        broken(&lab, &[]).await;
        let before = lab.nodes[0].stored().len();
        lab.nodes[0].set_cut_of_open(cut);
        assert_eq!(broken(&lab, &[]).await, (owned(&replies), 0), "{cut:?}");
        let stored = lab.nodes[0].stored().len() - before;
        assert_eq!(stored, usize::from(cut == Cut::Replies), "{cut:?}");
    }
}

/// The rest of the message is read and dropped, whatever its size, and the conversation goes on.
#[tokio::test]
async fn a_link_that_breaks_in_mid_message_is_an_answer_for_now() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    let large = b"0123456789abcdef\r\n".repeat(200_000);
    for kept in [false, true] {
        if kept {
            mta.deliver(&["ann"], HELLO).await;
            lab.nodes[0].set_cut_of_open(Cut::Body);
        } else {
            lab.nodes[0].cut(&[Cut::Body]);
        }
        let before = lab.nodes[0].stored().len();
        let replies = mta.deliver(&["ann", "bob"], &large).await;
        assert_eq!(replies, [NODE_DOWN, NODE_DOWN], "{kept}");
        assert_eq!(lab.nodes[0].stored().len(), before);
    }
    // One home of two: the other one has it.
    lab.nodes[0].cut(&[Cut::Body]);
    let replies = mta.deliver(&["ann", "carl", "bob"], &large).await;
    let has_it = "250 2.0.0 carl@a.example has it";
    assert_eq!(replies, [NODE_DOWN, has_it, NODE_DOWN]);
    assert!(lab.nodes[1].stored()[0].octets == large);
    assert_eq!(lab.metrics.delivery_uncertain.get(), 0);
}

#[tokio::test]
async fn of_two_homes_each_breaks_for_itself() {
    for (cut, at_first) in [
        (Cut::Greeting, [NODE_DOWN, NODE_DOWN]),
        (Cut::Mail, [NODE_DOWN, NODE_DOWN]),
        (Cut::Data, [NODE_DOWN, NODE_DOWN]),
        (Cut::Dot, [UNCERTAIN, UNCERTAIN]),
        (Cut::Replies, [DELIVERED[0], UNCERTAIN]),
    ] {
        let lab = Lab::start().await;
        lab.nodes[0].cut(&[cut]);
        let recipients = ["ann", "carl", "bob", "dora"];
        let replies = lab.mta().await.deliver(&recipients, HELLO).await;
        assert_eq!([&replies[0], &replies[2]], at_first, "{cut:?}");
        for (at, name) in [(1, "carl"), (3, "dora")] {
            assert_eq!(replies[at], format!("250 2.0.0 {name}@a.example has it"));
        }
    }
}

#[tokio::test]
async fn a_node_that_is_silent_is_an_answer_for_now() {
    let short = std::time::Duration::from_millis(100);
    let lab = Lab::with(|settings| settings.node = timeouts(short)).await;
    assert_eq!(broken(&lab, &[Cut::Silent]).await.0, [TIMED_OUT]);
    lab.nodes[0].answers.send_replace(false);
    assert_eq!(broken(&lab, &[]).await.0, [UNCERTAIN, UNCERTAIN]);
    assert_eq!(lab.count("timed-out"), 2);
    assert_eq!(lab.count("uncertain"), 2);
}

/// Nothing of a message is stored whose MTA is gone before the dot.
#[tokio::test]
async fn an_mta_that_vanishes_has_delivered_nothing() {
    let lab = Lab::start().await;
    let part = b"0123456789abcdef\r\n".repeat(10_000);
    for recipients in [&["ann"][..], &["ann", "carl"]] {
        let before = lab.count("abandoned");
        let mut mta = lab.mta().await;
        assert_eq!(mta.envelope(recipients).await.1, GO_ON);
        mta.write(&part).await.unwrap();
        drop(mta);
        let count = recipients.len() as u64;
        until(|| lab.count("abandoned") == before + count).await;
    }
    until(|| lab.nodes[0].open() + lab.nodes[1].open() == 0).await;
    assert!(lab.nodes[0].stored().is_empty() && lab.nodes[1].stored().is_empty());
    assert_eq!(lab.nodes[1].links(), 0, "forwarded without its end");
    // One that vanishes behind the dot has: it sends the message again.
    lab.nodes[0].answers.send_replace(false);
    let mut mta = lab.mta().await;
    assert_eq!(mta.envelope(&["ann"]).await.1, GO_ON);
    mta.write(b".\r\n").await.unwrap();
    drop(mta);
    lab.nodes[0].answers.send_replace(true);
    until(|| lab.count("delivered") == 1).await;
    until(|| lab.metrics.delivery_connections_open.get() == 0).await;
}

#[tokio::test]
async fn a_drain_finishes_messages_and_takes_no_new_ones() {
    let lab = Lab::start().await;
    let mut idle = lab.mta().await;
    let mut envelope = lab.mta().await;
    envelope.say("MAIL FROM:<eve@b.example>").await;
    envelope.line().await;
    let mut sending = lab.mta().await;
    assert_eq!(sending.envelope(&["ann"]).await.1, GO_ON);
    let mut spooling = lab.mta().await;
    assert_eq!(spooling.envelope(&["bob", "carl"]).await.1, GO_ON);
    lab.tasks.stop();
    const BYE: &str = "421 4.3.2 Going down, please try again later.";
    for mta in [&mut idle, &mut envelope] {
        assert_eq!(mta.line().await, BYE);
        assert_eq!(patiently(mta.try_line()).await, None);
    }
    sending.write(HELLO).await.unwrap();
    sending.write(b".\r\nMAIL FROM:<>\r\n").await.unwrap();
    assert_eq!(sending.line().await, "250 2.0.0 ann@a.example has it");
    assert_eq!(sending.line().await, BYE);
    spooling.write(b".\r\n").await.unwrap();
    assert_eq!(spooling.line().await, "250 2.0.0 bob@a.example has it");
    assert_eq!(spooling.line().await, "250 2.0.0 carl@a.example has it");
    assert_eq!(spooling.line().await, BYE);
    assert_eq!(lab.tasks.drain(LONG).await, 0);
    assert_eq!(lab.kept(), 0);
}

#[tokio::test]
async fn a_drain_that_is_over_cuts_what_is_left() {
    let lab = Lab::start().await;
    let mut mta = lab.mta().await;
    assert_eq!(mta.envelope(&["ann"]).await.1, GO_ON);
    mta.write(HELLO).await.unwrap();
    assert_eq!(lab.tasks.drain(std::time::Duration::ZERO).await, 1);
    assert_eq!(patiently(mta.try_line()).await, None);
    assert_eq!(lab.count("abandoned"), 1);
    assert!(lab.nodes[0].stored().is_empty());
}
