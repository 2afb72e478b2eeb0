//! The client half: what a server says, and what becomes of the recipients.

use bytes::BytesMut;

use crate::proto::{
    lmtp::{
        Address, Body, Client, ClientError, Envelope, Fate, LineEnds, Recipient, ReplyError,
        SendError,
        client::{Settings, Step},
        reply::MAX_LINE_BYTES,
    },
    reply::at_every_split,
};

const GREETING: &str = "220 mx ready\r\n";
const LHLO: &str =
    "250-mx\r\n250-PIPELINING\r\n250-size 100\r\n250-8BITMIME\r\n250-XOURS\r\n250 SMTPUTF8\r\n";

fn recipient(address: &str) -> Recipient {
    Recipient {
        address: Address::parse(address).unwrap(),
        private: None,
    }
}

fn envelope(addresses: &[&str]) -> Envelope<Recipient> {
    Envelope {
        sender: Some(Address::parse("eve@b.example").unwrap()),
        recipients: addresses.iter().map(|address| recipient(address)).collect(),
        size: Some(9),
        body: Body::SevenBit,
        smtputf8: false,
        private: None,
    }
}

fn new_client() -> Client {
    Client::new(Settings {
        hostname: "front".to_owned(),
        line_ends: LineEnds::Exact,
        private: Some("XOURS"),
    })
}

/// Sends `message` over a connection on which the server says `said`: the fates or the error, what was written, and
/// whether the connection may be used again.
fn deliver(
    message: &Envelope<Recipient>,
    parts: &[&[u8]],
) -> (Result<Vec<Fate>, ClientError>, String, bool) {
    let mut client = new_client();
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut result = None;
    for part in parts {
        input.extend_from_slice(part);
        while result.is_none() {
            match client.step(&mut input, &mut out) {
                Ok(Step::More) => break,
                Ok(Step::Ready) => client.send(message.clone(), &mut out).unwrap(),
                Ok(Step::Data) => {
                    client.body(b"a\r\n.b\r\n", &mut out);
                    client.finish(&mut out);
                }
                Ok(Step::Done(fates)) => result = Some(Ok(fates)),
                Err(error) => result = Some(Err(error)),
            }
        }
    }
    let open = client.is_open();
    let result = result.unwrap_or_else(|| Ok(client.broken()));
    (result, String::from_utf8(out.to_vec()).unwrap(), open)
}

/// Fates as words with codes.
fn words(fates: &[Fate]) -> String {
    let words: Vec<_> = fates
        .iter()
        .map(|fate| match fate {
            Fate::Broken => "broken".to_owned(),
            Fate::Delivered(reply) => format!("delivered {}", reply.code()),
            Fate::Permanent(reply) => format!("permanent {}", reply.code()),
            Fate::Temporary(reply) => format!("temporary {}", reply.code()),
            Fate::Uncertain => "uncertain".to_owned(),
        })
        .collect();
    words.join(", ")
}

const COMMANDS: &str = "LHLO front\r\nMAIL FROM:<eve@b.example> SIZE=9\r\n\
                        RCPT TO:<ann@a.example>\r\nRCPT TO:<bob@a.example>\r\nDATA\r\n";
const MESSAGE: &str = "a\r\n..b\r\n.\r\n";

/// What a server says behind LHLO, one reply per `|`, what becomes of two recipients, and whether the message is written
/// and the connection may be used again.
const CASES: &[(&str, &str, bool, bool)] = &[
    (
        "250|250|251|354|250|250|",
        "delivered 250, delivered 250",
        true,
        true,
    ),
    (
        "250|250|550|354|450|",
        "temporary 450, permanent 550",
        true,
        true,
    ),
    (
        "250|450|250-|250|354|552-5.2.2 x|552 5.2.2 y|",
        "temporary 450, permanent 552",
        true,
        true,
    ),
    (
        "250|550|450|503|",
        "permanent 550, temporary 450",
        false,
        true,
    ),
    (
        "550|503|503|503|",
        "permanent 550, permanent 550",
        false,
        true,
    ),
    (
        "452|503|503|503|",
        "temporary 452, temporary 452",
        false,
        true,
    ),
    (
        "250|250|550|451|",
        "temporary 451, permanent 550",
        false,
        true,
    ),
    // 421 at any time; as a fate it is 451, which ends nobody else's conversation.
    ("421|", "temporary 451, temporary 451", false, false),
    ("250|550|421|", "permanent 550, temporary 451", false, false),
    (
        "250|250|250|421|",
        "temporary 451, temporary 451",
        false,
        false,
    ),
    (
        "250|250|250|354|250|421|",
        "delivered 250, temporary 451",
        true,
        false,
    ),
    (
        "250|250|250|354|421|",
        "temporary 451, uncertain",
        true,
        false,
    ),
    // The connection ends.
    ("", "broken, broken", false, false),
    ("250|550|", "permanent 550, broken", false, false),
    ("250|250|550|", "broken, permanent 550", false, false),
    ("250|250|250|354|", "uncertain, uncertain", true, false),
    (
        "250|250|250|354|250|250",
        "delivered 250, uncertain",
        true,
        false,
    ),
];

#[test]
fn every_recipient_has_its_fate() {
    for (said, fates, written, open) in CASES {
        let input = format!("{GREETING}{LHLO}{}", said.replace('|', "\r\n"));
        at_every_split(input.as_bytes(), |parts| {
            let message = envelope(&["ann@a.example", "bob@a.example"]);
            let (result, out, reusable) = deliver(&message, parts);
            assert_eq!(words(&result.unwrap()), *fates, "{said}");
            let octets = if *written { MESSAGE } else { "" };
            assert_eq!(out, format!("{COMMANDS}{octets}"), "{said}");
            assert_eq!(reusable, *open, "{said}");
        });
    }
}

#[test]
fn what_no_server_should_say_is_an_error() {
    let greeted = format!("{GREETING}{LHLO}");
    let begun = format!("{greeted}250 a\r\n250 b\r\n250 c\r\n");
    for (said, error) in [
        (
            "421 4.3.2 busy\r\n".to_owned(),
            "server refuses: 421 4.3.2 busy",
        ),
        ("554 no\r\n".to_owned(), "server refuses: 554 5.0.0 no"),
        ("250 hi\r\n".to_owned(), "unexpected reply: 250 2.0.0 hi"),
        ("* OK\r\n".to_owned(), "server can't be understood"),
        (
            format!("{GREETING}500 what\r\n"),
            "server refuses: 500 5.0.0 what",
        ),
        (
            format!("{GREETING}354 go\r\n"),
            "unexpected reply: 354 3.0.0 go",
        ),
        (format!("{begun}250 d\r\n"), "unexpected reply: 250 2.0.0 d"),
        (
            format!("{greeted}354 a\r\n"),
            "unexpected reply: 354 3.0.0 a",
        ),
        (
            format!("{greeted}250 a\r\n550 b\r\n550 c\r\n354 d\r\n"),
            "unexpected reply: 354 3.0.0 d",
        ),
        (
            format!("{begun}354 d\r\n354 e\r\n"),
            "unexpected reply: 354 3.0.0 e",
        ),
        (format!("{begun}x\r\n"), "server can't be understood"),
    ] {
        at_every_split(said.as_bytes(), |parts| {
            let (result, _, _) = deliver(&envelope(&["ann", "bob"]), parts);
            assert_eq!(result.unwrap_err().to_string(), error, "{said}");
        });
    }
    let endless = "2".repeat(MAX_LINE_BYTES) + "\r\n";
    let (result, _, _) = deliver(&envelope(&["ann"]), &[endless.as_bytes()]);
    assert_eq!(result, Err(ClientError::Reply(ReplyError::TooLong)));
}

#[test]
fn without_pipelining_each_command_waits() {
    let mut client = new_client();
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut say = |client: &mut Client, said: &str| {
        input.extend_from_slice(said.as_bytes());
        let step = client.step(&mut input, &mut out).unwrap();
        (step, String::from_utf8(out.split().to_vec()).unwrap())
    };
    assert_eq!(say(&mut client, GREETING).1, "LHLO front\r\n");
    assert_eq!(say(&mut client, "250 mx\r\n").0, Step::Ready);
    let mut first = BytesMut::new();
    client.send(envelope(&["ann", "bob"]), &mut first).unwrap();
    // Nor is SIZE said.
    assert_eq!(first, "MAIL FROM:<eve@b.example>\r\n");
    assert_eq!(say(&mut client, "250\r\n").1, "RCPT TO:<ann>\r\n");
    assert_eq!(say(&mut client, "550\r\n").1, "RCPT TO:<bob>\r\n");
    // Nobody is left: no DATA, and the next message begins with RSET.
    let (step, out) = say(&mut client, "450\r\n");
    assert!(matches!(step, Step::Done(fates) if words(&fates) == "permanent 550, temporary 450"));
    assert_eq!(out, "");
    let mut second = BytesMut::new();
    client.send(envelope(&["ann"]), &mut second).unwrap();
    assert_eq!(second, "RSET\r\n");
    assert_eq!(
        say(&mut client, "250\r\n").1,
        "MAIL FROM:<eve@b.example>\r\n"
    );
    assert_eq!(say(&mut client, "250\r\n").1, "RCPT TO:<ann>\r\n");
    assert_eq!(say(&mut client, "250\r\n").1, "DATA\r\n");
    assert_eq!(say(&mut client, "354\r\n").0, Step::Data);
    let mut third = BytesMut::new();
    client.finish(&mut third);
    assert!(matches!(say(&mut client, "250\r\n").0, Step::Done(_)));
    client.send(envelope(&["ann"]), &mut third).unwrap();
    assert_eq!(third, ".\r\nMAIL FROM:<eve@b.example>\r\n");
    assert_eq!(
        client.send(envelope(&["ann"]), &mut third),
        Err(SendError::NotReady)
    );
}

/// What MAIL FROM is made of for `message`, where the server offers that.
fn mail(message: &Envelope<Recipient>, offers: &[&str]) -> Result<String, SendError> {
    let offers: String = offers
        .iter()
        .map(|offer| format!("250-{offer}\r\n"))
        .collect();
    let mut input = BytesMut::from(format!("{GREETING}250-mx\r\n{offers}250 HELP\r\n").as_bytes());
    let (mut client, mut out) = (new_client(), BytesMut::new());
    assert_eq!(client.step(&mut input, &mut out), Ok(Step::Ready));
    out.clear();
    let sent = client.send(message.clone(), &mut out);
    // What can't be sent leaves room for another.
    assert_eq!(client.is_open(), sent.is_err());
    assert_eq!(out.is_empty(), sent.is_err());
    sent?;
    let line = String::from_utf8(out.to_vec()).unwrap();
    Ok(line.trim_end().trim_start_matches("MAIL FROM:").to_owned())
}

fn sent(text: &str) -> Result<String, SendError> {
    Ok(text.to_owned())
}

#[test]
fn a_message_is_not_sent_where_its_needs_are_not_met() {
    let plain = envelope(&["ann@a.example"]);
    assert_eq!(mail(&plain, &[]), sent("<eve@b.example>"));
    assert_eq!(mail(&plain, &["SIZE"]), sent("<eve@b.example> SIZE=9"));

    let mut big = plain.clone();
    big.size = Some(101);
    assert_eq!(mail(&big, &["SIZE 100"]), Err(SendError::TooBig));
    assert_eq!(mail(&big, &["SIZE 101"]), sent("<eve@b.example> SIZE=101"));
    assert_eq!(mail(&big, &["SIZE 0"]), sent("<eve@b.example> SIZE=101"));
    assert_eq!(mail(&big, &["SIZES 100"]), sent("<eve@b.example>"));

    let mut private = plain;
    private.recipients[0].private = Some(b"a=b".to_vec());
    assert_eq!(mail(&private, &["XOTHER"]), Err(SendError::Private));
    assert_eq!(mail(&private, &["XOURS"]), sent("<eve@b.example>"));
}

#[test]
fn eight_bit_and_utf8_need_their_extensions() {
    const EIGHT_BIT: &[&str] = &["8BITMIME"];
    const BOTH: &[&str] = &["8bitmime", "smtputf8"];
    let mut message = envelope(&["ann@a.example"]);
    message.size = None;
    let as_8bit = sent("<eve@b.example> BODY=8BITMIME");
    message.body = Body::EightBit;
    assert_eq!(mail(&message, &[]), Err(SendError::EightBit));
    assert_eq!(mail(&message, EIGHT_BIT), as_8bit);

    // Header fields in UTF-8 are octets.
    message.body = Body::SevenBit;
    message.smtputf8 = true;
    assert_eq!(mail(&message, &[]), Err(SendError::EightBit));
    assert_eq!(mail(&message, EIGHT_BIT), as_8bit);
    assert_eq!(
        mail(&message, BOTH),
        sent("<eve@b.example> BODY=8BITMIME SMTPUTF8")
    );

    // Addresses are not.
    message.sender = Some(Address::parse("zo\u{eb}@b.example").unwrap());
    assert_eq!(mail(&message, EIGHT_BIT), Err(SendError::Utf8));
    assert_eq!(
        mail(&message, BOTH),
        sent("<zo\u{eb}@b.example> BODY=8BITMIME SMTPUTF8")
    );
    let mut message = envelope(&["ann@b\u{fc}cher.example"]);
    message.size = None;
    assert_eq!(mail(&message, EIGHT_BIT), Err(SendError::Utf8));
    assert_eq!(
        mail(&message, BOTH),
        sent("<eve@b.example> BODY=8BITMIME SMTPUTF8")
    );
}

#[test]
fn a_server_that_does_not_wait_for_the_dot_ends_the_connection() {
    for (said, fates) in [
        ("552 5.3.4 big\r\n", "permanent 552, temporary 450"),
        ("421 bye\r\n", "temporary 451, temporary 450"),
    ] {
        let mut client = new_client();
        let mut input = BytesMut::from(format!("{GREETING}{LHLO}").as_bytes());
        let mut out = BytesMut::new();
        assert_eq!(client.step(&mut input, &mut out), Ok(Step::Ready));
        client.send(envelope(&["ann", "bob"]), &mut out).unwrap();
        input.extend_from_slice(b"250 a\r\n250 b\r\n450 c\r\n354 d\r\n");
        assert_eq!(client.step(&mut input, &mut out), Ok(Step::Data));
        client.body(b"a", &mut out);
        input.extend_from_slice(said.as_bytes());
        let step = client.step(&mut input, &mut out);
        assert!(matches!(step, Ok(Step::Done(found)) if words(&found) == fates));
        assert!(!client.is_open());
    }
    // What is said between messages is an error.
    for (said, error) in [
        ("421 bye\r\n", "server refuses: 421 4.0.0 bye"),
        ("250 hi\r\n", "unexpected reply: 250 2.0.0 hi"),
    ] {
        let mut client = new_client();
        let mut input = BytesMut::from(format!("{GREETING}{LHLO}").as_bytes());
        let mut out = BytesMut::new();
        assert_eq!(client.step(&mut input, &mut out), Ok(Step::Ready));
        input.extend_from_slice(said.as_bytes());
        let step = client.step(&mut input, &mut out);
        assert_eq!(step.unwrap_err().to_string(), error);
    }
}
