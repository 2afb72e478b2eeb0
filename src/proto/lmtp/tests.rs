//! LMTP as transcripts, for both halves, and both halves against each other.
//!
//! `C:` the client sends a line, `c:` octets; `S:` the server sends a line; `E:` the driver sees an event. In `C` and `c`,
//! `\r \n \0 \\ \xNN` are escapes. What the driver says goes by how a local part begins: `nobody`, `later`, `full`, `slow`,
//! and for a sender `nowhere`.

use bytes::BytesMut;

use super::{
    address::Address,
    body::LineEnds,
    cause::Cause,
    client::{self, Client, ClientError, Fate, SendError, Step},
    command::{Body, Envelope, Recipient},
    property::{Conversation, answer, fuzz, refusal},
    reply::{MAX_LINE_BYTES, Reply, ReplyError},
    server::{Closed, Event, Server, Settings},
};
use crate::proto::{conversation::pieces, reply::at_every_split, transcript::unescape};

/// A small server.
fn small() -> Settings {
    Settings {
        max_line_bytes: 80,
        max_message_bytes: 40,
        max_recipients: 3,
        max_bad_commands: 3,
        private: Some("XOURS"),
        ..Settings::default()
    }
}

/// Plays a transcript as written (every reply must come where it stands), and at every split, behind LHLO.
fn check(settings: &Settings, script: &str) {
    let begin = || {
        let mut conversation = Conversation::new(settings);
        conversation.hear(b"LHLO mta\r\n");
        conversation.log.clear();
        conversation
    };
    let mut written = begin();
    let (mut said, mut log) = (Vec::new(), String::new());
    for line in script
        .lines()
        .map(str::trim_start)
        .filter(|l| !l.is_empty())
    {
        let (who, text) = line.split_at(2);
        let text = text.strip_prefix(' ').unwrap_or(text);
        match who {
            "C:" | "c:" => {
                assert_eq!(written.log, log, "before {line}");
                let mut octets = unescape(text);
                if who == "C:" {
                    octets.extend_from_slice(b"\r\n");
                }
                written.hear(&octets);
                said.extend_from_slice(&octets);
            }
            "S:" => log.push_str(&format!("{text}\r\n")),
            "E:" => log.push_str(&format!("E: {text}\r\n")),
            _ => panic!("{line}"),
        }
    }
    assert_eq!(written.log, log, "as written");
    at_every_split(&said, |parts| {
        let mut conversation = begin();
        for part in parts {
            conversation.hear(part);
        }
        assert_eq!(conversation.log, log, "in {} parts", parts.len());
    });
}

// === server ===

#[test]
fn a_server_says_what_it_can() {
    let mut server = Server::<()>::new(Settings {
        hostname: "mx.example".to_owned(),
        ..small()
    });
    let mut out = BytesMut::new();
    server.greet(&mut out);
    let mut input = BytesMut::from(&b"LHLO mta\r\n"[..]);
    assert!(matches!(server.step(&mut input, &mut out), Event::More));
    assert_eq!(
        out,
        "220 mx.example PigeonAir LMTP\r\n\
         250-mx.example\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n\
         250-SIZE 40\r\n250-XOURS\r\n250 SMTPUTF8\r\n"
    );
}

#[test]
fn one_reply_per_recipient() {
    check(
        &small(),
        "
        C: MAIL FROM:<eve@b.example> SIZE=20 BODY=8BITMIME
        S: 250 2.1.0 Sender OK.
        C: RCPT TO:<ann@a.example>
        E: recipient <ann@a.example>
        S: 250 2.1.5 Recipient OK.
        C: RCPT TO:<nobody@a.example>
        E: recipient <nobody@a.example>
        S: 550 5.1.1 No such user here.
        C: RCPT TO:<full@a.example> XOURS=uid+3D1001+FF
        E: recipient <full@a.example> with uid=1001\\xff
        S: 250 2.1.5 Recipient OK.
        C: RCPT TO:<ann@a.example>
        E: recipient <ann@a.example>
        S: 250 2.1.5 Recipient OK.
        C: DATA
        E: begin <eve@b.example> size 20 8bit <ann@a.example> <full@a.example> with uid=1001\\xff <ann@a.example>
        S: 354 Go on, end with a dot.
        c: S: x\\r\\n\\r\\n..\\xeb.\\r\\n.a\\r\\n.\\r\\n
        E: end \"S: x\\r\\n\\r\\n.\\xeb.\\r\\na\\r\\n\"
        S: 250 2.0.0 <ann@a.example> saved.
        S: 552 5.2.2 The mailbox is full.
        S: 250 2.0.0 <ann@a.example> saved.
        C: QUIT
        S: 221 2.0.0 Bye.
        E: Quit
        ",
    );
}

#[test]
fn pipelined_commands_wait_for_the_driver() {
    check(
        &small(),
        "
        c: MAIL FROM:<>\\r\\nRCPT TO:<later>\\r\\nRCPT TO:<ann>\\r\\nDATA\\r\\n\\r\\n.\\r\\nRSET\\r\\nMAIL FROM:<nowhere>\\r\\nRCPT TO:<bob>\\r\\nDATA\\r\\nNOOP\\r\\nQUIT\\r\\nNOOP\\r\\n
        S: 250 2.1.0 Sender OK.
        E: recipient <later>
        S: 450 4.2.1 This mailbox takes no mail just now.
        E: recipient <ann>
        S: 250 2.1.5 Recipient OK.
        E: begin <> <ann>
        S: 354 Go on, end with a dot.
        E: end \"\\r\\n\"
        S: 250 2.0.0 <ann> saved.
        S: 250 2.0.0 OK
        S: 250 2.1.0 Sender OK.
        E: recipient <bob>
        S: 250 2.1.5 Recipient OK.
        E: begin <nowhere> <bob>
        S: 451 4.4.1 The mailbox is not reachable just now.
        S: 250 2.0.0 OK
        S: 221 2.0.0 Bye.
        E: Quit
        ",
    );
}

#[test]
fn commands_have_an_order() {
    check(
        &small(),
        "
        C: RCPT TO:<ann>
        S: 503 5.5.1 Not in this order.
        C: DATA
        S: 503 5.5.1 Not in this order.
        C: MAIL FROM:<ann>
        S: 250 2.1.0 Sender OK.
        C: MAIL FROM:<eve>
        S: 503 5.5.1 Not in this order.
        C: DATA
        S: 503 5.5.1 No recipient was accepted.
        C: VRFY ann
        S: 252 2.5.0 Try to deliver.
        C: HELP
        S: 214 2.0.0 See RFC 2033.
        C: NOOP x
        S: 250 2.0.0 OK
        C: RCPT TO:<ann>
        E: recipient <ann>
        S: 250 2.1.5 Recipient OK.
        C: RSET
        S: 250 2.0.0 OK
        C: DATA
        S: 503 5.5.1 Not in this order.
        C: MAIL FROM:<eve>
        S: 250 2.1.0 Sender OK.
        C: LHLO again
        S: 250-localhost
        S: 250-8BITMIME
        S: 250-ENHANCEDSTATUSCODES
        S: 250-PIPELINING
        S: 250-SIZE 40
        S: 250-XOURS
        S: 250 SMTPUTF8
        C: RCPT TO:<ann>
        S: 503 5.5.1 Not in this order.
        ",
    );
    let mut conversation = Conversation::new(&small());
    conversation.hear(b"MAIL FROM:<ann>\r\n");
    assert_eq!(conversation.log, "503 5.5.1 Not in this order.\r\n");
}

#[test]
fn utf8_addresses_need_smtputf8() {
    check(
        &small(),
        "
        C: MAIL FROM:<zo\\xc3\\xab@a.example>
        S: 553 5.6.7 This address needs SMTPUTF8.
        C: MAIL FROM:<ann@a.example>
        S: 250 2.1.0 Sender OK.
        C: RCPT TO:<ann@b\\xc3\\xbccher.example>
        S: 553 5.6.7 This address needs SMTPUTF8.
        C: RSET
        S: 250 2.0.0 OK
        C: MAIL FROM:<zo\\xc3\\xab@a.example> SMTPUTF8
        S: 250 2.1.0 Sender OK.
        C: RCPT TO:<zo\\xc3\\xab@a.example>
        E: recipient <zo\u{eb}@a.example>
        S: 250 2.1.5 Recipient OK.
        C: DATA
        E: begin <zo\u{eb}@a.example> utf8 <zo\u{eb}@a.example>
        S: 354 Go on, end with a dot.
        C: .
        E: end \"\"
        S: 250 2.0.0 <zo??@a.example> saved.
        ",
    );
}

#[test]
fn limits_are_told_and_the_conversation_goes_on() {
    // The dot that is added on the way does not count: 18 + 2 + 18 + 2.
    let (long, dots) = ("x".repeat(80), ".".repeat(18));
    check(
        &small(),
        &format!(
            "C: MAIL FROM:<eve> SIZE=41
            S: 552 5.3.4 The message is too big.
            C: MAIL FROM:<eve> SIZE=40
            S: 250 2.1.0 Sender OK.
            c: RCPT TO:<{long}>\\r\\nRCPT TO:<a>\\r\\nRCPT TO:<full>\\r\\nRCPT TO:<b>\\r\\nRCPT TO:<c>\\r\\nDATA\\r\\n
            S: 500 5.5.2 Line too long.
            E: recipient <a>
            S: 250 2.1.5 Recipient OK.
            E: recipient <full>
            S: 250 2.1.5 Recipient OK.
            E: recipient <b>
            S: 250 2.1.5 Recipient OK.
            S: 452 4.5.3 Too many recipients.
            E: begin <eve> size 40 <a> <full> <b>
            S: 354 Go on, end with a dot.
            c: {}\\r\\n{}\\r\\n.\\r\\n
            E: end \"{}\\r\\n{}\\r\\n\"
            S: 250 2.0.0 <a> saved.
            S: 552 5.2.2 The mailbox is full.
            S: 250 2.0.0 <b> saved.
            c: MAIL FROM:<eve>\\r\\nRCPT TO:<a>\\r\\nRCPT TO:<b>\\r\\nDATA\\r\\n
            S: 250 2.1.0 Sender OK.
            E: recipient <a>
            S: 250 2.1.5 Recipient OK.
            E: recipient <b>
            S: 250 2.1.5 Recipient OK.
            E: begin <eve> <a> <b>
            S: 354 Go on, end with a dot.
            c: {}\\r\\n{}\\r\\n
            E: discard too-big
            c: QUIT\\r\\n.\\r\\n
            S: 552 5.3.4 The message is too big.
            S: 552 5.3.4 The message is too big.
            C: NOOP
            S: 250 2.0.0 OK",
            "a".repeat(18),
            format_args!(".{dots}"),
            "a".repeat(18),
            dots,
            "a".repeat(18),
            "b".repeat(19),
        ),
    );
}

#[test]
fn unknown_commands_have_an_end() {
    check(
        &small(),
        "
        C: HELO x
        S: 500 5.5.1 This is LMTP, say LHLO.
        C: RCPT TO:<
        S: 501 5.1.3 This is not a recipient.
        C: FOO
        S: 500 5.5.2 Unknown command.
        C: MAIL FROM:<> RET=HDRS
        S: 555 5.5.4 Unknown parameter.
        c: FOO\\r\\nQUIT\\r\\n
        S: 421 4.7.0 Too many bad commands.
        E: Misbehaved(\"bad-commands\")
        ",
    );
    check(
        &small(),
        "
        c: NOOP\\nQUIT\\r\\n
        S: 500 5.5.2 Lines end in CRLF.
        E: Misbehaved(\"bare-lf\")
        ",
    );
}

/// Ends of a message that are none: as sent, and as seen by the driver.
const SMUGGLED: &[(&str, &str)] = &[
    ("\\n.\\n", "\\n.\\n"),
    ("\\n.\\r\\n", "\\n.\\r\\n"),
    ("\\r.\\r", "\\r.\\r"),
    ("\\r.\\r\\n", "\\r.\\r\\n"),
    ("\\r\\n.\\n", "\\r\\n\\n"),
    ("\\r\\n.\\r", "\\r\\n\\r"),
    ("\\r\\r\\n\\n.\\r\\n", "\\r\\r\\n\\n.\\r\\n"),
];

#[test]
fn smuggled_ends_are_text_or_refused() {
    for (end, kept) in SMUGGLED {
        let start = "c: MAIL FROM:<>\\r\\nRCPT TO:<a>\\r\\nRCPT TO:<b>\\r\\nDATA\\r\\n
            S: 250 2.1.0 Sender OK.
            E: recipient <a>
            S: 250 2.1.5 Recipient OK.
            E: recipient <b>
            S: 250 2.1.5 Recipient OK.
            E: begin <> <a> <b>
            S: 354 Go on, end with a dot.";
        check(
            &small(),
            &format!(
                "{start}
                c: a{end}MAIL FROM:<eve>\\r\\n.\\r\\n
                E: end \"a{kept}MAIL FROM:<eve>\\r\\n\"
                S: 250 2.0.0 <a> saved.
                S: 250 2.0.0 <b> saved."
            ),
        );
        let strict = Settings {
            refuse_bare_line_ends: true,
            ..small()
        };
        check(
            &strict,
            &format!(
                "{start}
                c: a{end}MAIL FROM:<eve>\\r\\n
                E: discard bare-line-end
                c: .\\r\\nNOOP\\r\\n
                S: 554 5.6.0 Lines end in CRLF, here is a CR or LF alone.
                S: 554 5.6.0 Lines end in CRLF, here is a CR or LF alone.
                S: 250 2.0.0 OK"
            ),
        );
    }
}

#[test]
fn nothing_pending_nothing_answered() {
    let mut server = Server::<()>::new(small());
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    server.accept_recipient((), &mut out);
    server.accept_message(&mut out);
    server.answer(&Cause::Loop.reply(), &mut out);
    server.refuse(&Cause::Loop.reply(), &mut out);
    assert!(matches!(server.step(&mut input, &mut out), Event::More));
    assert!(out.is_empty());
    for said in ["QUIT\r\nNOOP\r\n", "NOOP\r\n"] {
        input.extend_from_slice(said.as_bytes());
        let event = server.step(&mut input, &mut out);
        assert!(matches!(event, Event::Close(Closed::Quit)) && input.is_empty());
    }
    assert_eq!(out, "221 2.0.0 Bye.\r\n");
}

// === client ===

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
    Client::new(client::Settings {
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

#[test]
fn every_recipient_has_its_fate() {
    for (said, fates, writes_message, open) in [
        (
            "250 a\r\n250 b\r\n251 c\r\n354 d\r\n250 e\r\n250 f\r\n",
            "delivered 250, delivered 250",
            true,
            true,
        ),
        (
            "250 a\r\n250 b\r\n550 c\r\n354 d\r\n450 e\r\n",
            "temporary 450, permanent 550",
            true,
            true,
        ),
        (
            "250 a\r\n450 b\r\n250-c\r\n250 c\r\n354 d\r\n552-5.2.2 e\r\n552 5.2.2 e\r\n",
            "temporary 450, permanent 552",
            true,
            true,
        ),
        (
            "250 a\r\n550 b\r\n450 c\r\n503 d\r\n",
            "permanent 550, temporary 450",
            false,
            true,
        ),
        (
            "550 a\r\n503 b\r\n503 c\r\n503 d\r\n",
            "permanent 550, permanent 550",
            false,
            true,
        ),
        (
            "452 a\r\n503 b\r\n503 c\r\n503 d\r\n",
            "temporary 452, temporary 452",
            false,
            true,
        ),
        (
            "250 a\r\n250 b\r\n550 c\r\n451 d\r\n",
            "temporary 451, permanent 550",
            false,
            true,
        ),
        // 421 at any time.
        ("421 a\r\n", "temporary 421, temporary 421", false, false),
        (
            "250 a\r\n550 b\r\n421 c\r\n",
            "permanent 550, temporary 421",
            false,
            false,
        ),
        (
            "250 a\r\n250 b\r\n250 c\r\n421 d\r\n",
            "temporary 421, temporary 421",
            false,
            false,
        ),
        (
            "250 a\r\n250 b\r\n250 c\r\n354 d\r\n250 e\r\n421 f\r\n",
            "delivered 250, temporary 421",
            true,
            false,
        ),
        (
            "250 a\r\n250 b\r\n250 c\r\n354 d\r\n421 e\r\n",
            "temporary 421, uncertain",
            true,
            false,
        ),
        // The connection ends.
        ("", "broken, broken", false, false),
        ("250 a\r\n550 b\r\n", "permanent 550, broken", false, false),
        (
            "250 a\r\n250 b\r\n550 c\r\n",
            "broken, permanent 550",
            false,
            false,
        ),
        (
            "250 a\r\n250 b\r\n250 c\r\n354 d\r\n",
            "uncertain, uncertain",
            true,
            false,
        ),
        (
            "250 a\r\n250 b\r\n250 c\r\n354 d\r\n250 e\r\n250",
            "delivered 250, uncertain",
            true,
            false,
        ),
    ] {
        let input = format!("{GREETING}{LHLO}{said}");
        at_every_split(input.as_bytes(), |parts| {
            let (result, out, reusable) =
                deliver(&envelope(&["ann@a.example", "bob@a.example"]), parts);
            assert_eq!(words(&result.unwrap()), fates, "{said}");
            let message = if writes_message { MESSAGE } else { "" };
            assert_eq!(out, format!("{COMMANDS}{message}"), "{said}");
            assert_eq!(reusable, open, "{said}");
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

#[test]
fn a_message_is_not_sent_where_its_needs_are_not_met() {
    let plain = envelope(&["ann@a.example"]);
    let eight_bit = Envelope {
        body: Body::EightBit,
        ..plain.clone()
    };
    let utf8 = Envelope {
        smtputf8: true,
        ..plain.clone()
    };
    let utf8_sender = Envelope {
        sender: Some(Address::parse("zo\u{eb}@b.example").unwrap()),
        ..utf8.clone()
    };
    let private = Envelope {
        recipients: vec![Recipient {
            private: Some(b"a=b".to_vec()),
            ..recipient("ann@a.example")
        }],
        ..plain.clone()
    };
    let big = Envelope {
        size: Some(101),
        ..plain.clone()
    };
    for (message, offers, expected) in [
        (&plain, "", Ok("MAIL FROM:<eve@b.example>")),
        (&plain, "SIZE", Ok("MAIL FROM:<eve@b.example> SIZE=9")),
        (&eight_bit, "", Err(SendError::EightBit)),
        (
            &eight_bit,
            "8BITMIME",
            Ok("MAIL FROM:<eve@b.example> BODY=8BITMIME"),
        ),
        (&utf8, "", Err(SendError::EightBit)),
        (
            &utf8,
            "8BITMIME",
            Ok("MAIL FROM:<eve@b.example> BODY=8BITMIME"),
        ),
        (
            &utf8,
            "8BITMIME SMTPUTF8",
            Ok("MAIL FROM:<eve@b.example> BODY=8BITMIME SMTPUTF8"),
        ),
        (&utf8_sender, "8BITMIME", Err(SendError::Utf8)),
        (
            &utf8_sender,
            "8BITMIME SMTPUTF8",
            Ok("MAIL FROM:<zo\u{eb}@b.example> BODY=8BITMIME SMTPUTF8"),
        ),
        (&private, "XOTHER", Err(SendError::Private)),
        (&private, "XOURS", Ok("MAIL FROM:<eve@b.example>")),
        (&big, "SIZE=x", Ok("MAIL FROM:<eve@b.example>")),
        (&big, "SIZE-100", Err(SendError::TooBig)),
        (&big, "SIZE-0", Ok("MAIL FROM:<eve@b.example> SIZE=101")),
    ] {
        let mut lhlo = "250-mx\r\n".to_owned();
        for offer in offers.split(' ') {
            lhlo.push_str(&format!("250-{}\r\n", offer.replace('-', " ")));
        }
        let mut input = BytesMut::from(format!("{GREETING}{lhlo}250 \r\n").as_bytes());
        let mut client = new_client();
        assert_eq!(
            client.step(&mut input, &mut BytesMut::new()),
            Ok(Step::Ready)
        );
        let mut out = BytesMut::new();
        let sent = client.send(message.clone(), &mut out);
        let line = String::from_utf8(out.to_vec()).unwrap();
        let expected = expected.map(|line| format!("{line}\r\n"));
        assert_eq!(sent.map(|()| line), expected, "{offers}");
        // Another one may still be sent.
        assert_eq!(client.is_open(), expected.is_err());
    }
}

#[test]
fn a_server_that_does_not_wait_for_the_dot_ends_the_connection() {
    for (said, fates) in [
        ("552 5.3.4 big\r\n", "permanent 552, temporary 450"),
        ("421 bye\r\n", "temporary 421, temporary 450"),
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

// === both halves ===

/// Numbers from a seed: xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn octets(&mut self, words: &[&[u8]], most: usize) -> Vec<u8> {
        let count = self.below(most);
        (0..count)
            .flat_map(|_| words[self.below(words.len())].to_vec())
            .collect()
    }
}

const TEXT: [&[u8]; 10] = [
    b"\r\n",
    b"\r\n.",
    b".",
    b".\r\n",
    b"\r",
    b"\n",
    b"a",
    b"\xeb",
    b"\0",
    b"some words",
];

/// A server with a driver, and what it got.
struct Peer {
    server: Server<Recipient>,
    recipients: Vec<Recipient>,
    message: Vec<u8>,
    got: Vec<(Envelope<Recipient>, Vec<u8>)>,
}

impl Peer {
    fn hear(&mut self, input: &mut BytesMut, out: &mut BytesMut) {
        loop {
            match self.server.step(input, out) {
                Event::More => return,
                Event::Body(octets) => self.message.extend_from_slice(&octets),
                Event::Recipient(recipient) => match refusal(&recipient) {
                    Some(cause) => self.server.refuse(&cause.reply(), out),
                    None => self.server.accept_recipient(recipient, out),
                },
                Event::Begin(envelope) => {
                    self.recipients.clone_from(&envelope.recipients);
                    self.got.push((envelope, Vec::new()));
                    self.server.accept_message(out);
                }
                Event::End => {
                    self.got.last_mut().unwrap().1 = std::mem::take(&mut self.message);
                    for recipient in self.recipients.drain(..) {
                        self.server.answer(&answer(&recipient), out);
                    }
                }
                event @ (Event::Close(_) | Event::Discard(_)) => panic!("{event:?}"),
            }
        }
    }
}

/// Moves some of what was written to the other side.
fn transfer(dice: &mut Dice, from: &mut BytesMut, to: &mut BytesMut) {
    if !from.is_empty() {
        let count = 1 + dice.below(from.len().min(400));
        to.extend_from_slice(&from.split_to(count));
    }
}

fn random_envelope(dice: &mut Dice) -> Envelope<Recipient> {
    const LOCALS: [&str; 8] = [
        "ann", "nobody", "later", "full", "slow", "\"a b>\"", "zo\u{eb}", ".x.",
    ];
    let recipients = (0..dice.below(200))
        .map(|at| Recipient {
            address: Address::parse(&format!("{}@d{at}.example", LOCALS[dice.below(8)])).unwrap(),
            private: (dice.below(2) == 0).then(|| dice.octets(&TEXT, 9)),
        })
        .map(|recipient| Recipient {
            private: recipient.private.filter(|octets| !octets.is_empty()),
            ..recipient
        })
        .collect();
    Envelope {
        sender: (dice.below(3) > 0).then(|| Address::parse("eve@b.example").unwrap()),
        recipients,
        size: (dice.below(2) == 0).then(|| dice.below(4000) as u64),
        body: Body::EightBit,
        smtputf8: true,
        private: None,
    }
}

#[test]
fn what_one_half_sends_the_other_gets() {
    for seed in 1..=60 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut peer = Peer {
            server: Server::new(Settings {
                private: Some("XOURS"),
                ..Settings::default()
            }),
            recipients: Vec::new(),
            message: Vec::new(),
            got: Vec::new(),
        };
        let mut client = new_client();
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        let (mut server_in, mut client_in) = (BytesMut::new(), BytesMut::new());
        peer.server.greet(&mut down);
        let mut done = 0;
        let mut sent: Vec<(Envelope<Recipient>, Vec<u8>)> = Vec::new();
        while done < 4 {
            transfer(&mut dice, &mut up, &mut server_in);
            peer.hear(&mut server_in, &mut down);
            transfer(&mut dice, &mut down, &mut client_in);
            let fates = match client.step(&mut client_in, &mut up).unwrap() {
                Step::More => continue,
                Step::Data => {
                    let message = &sent.last().unwrap().1;
                    for piece in pieces(message, || 1 + dice.below(50)) {
                        client.body(piece, &mut up);
                    }
                    client.finish(&mut up);
                    continue;
                }
                Step::Ready => Vec::new(),
                Step::Done(fates) => {
                    done += 1;
                    let envelope = &sent.last().unwrap().0;
                    assert_fates(envelope, &fates);
                    fates
                }
            };
            drop(fates);
            let mut message = dice.octets(&TEXT, 300);
            message.extend_from_slice(b"\r\n");
            let envelope = random_envelope(&mut dice);
            client.send(envelope.clone(), &mut up).unwrap();
            sent.push((envelope, message));
        }
        // What nobody takes never begins; the last one is on its way.
        sent.pop();
        for (envelope, _) in &mut sent {
            envelope
                .recipients
                .retain(|recipient| refusal(recipient).is_none());
        }
        sent.retain(|(envelope, _)| !envelope.recipients.is_empty());
        peer.got.truncate(sent.len());
        assert_eq!(peer.got, sent, "seed {seed}");
    }
}

fn assert_fates(envelope: &Envelope<Recipient>, fates: &[Fate]) {
    let expected: Vec<_> = envelope
        .recipients
        .iter()
        .map(|recipient| {
            let reply = match refusal(recipient) {
                Some(cause) => cause.reply(),
                None => answer(recipient),
            };
            fate(reply)
        })
        .collect();
    assert_eq!(fates, expected);
}

fn fate(reply: Reply) -> Fate {
    match reply.code() {
        250 => Fate::Delivered(reply),
        400..500 => Fate::Temporary(reply),
        _ => Fate::Permanent(reply),
    }
}

// === any input ===

#[test]
fn the_property_holds_for_babble() {
    const WORDS: [&[u8]; 24] = [
        b"LHLO x\r\n",
        b"MAIL FROM:<eve@b.example>\r\n",
        b"MAIL FROM:<> SIZE=9 SMTPUTF8\r\n",
        b"RCPT TO:<ann@a.example>\r\n",
        b"RCPT TO:<full@a.example> XOURS=a+3Db\r\n",
        b"RCPT TO:<nobody>\r\n",
        b"DATA\r\n",
        b"DATA\r\n",
        b"RSET\r\n",
        b"\r\n.\r\n",
        b"\r\n",
        b".",
        b"\n",
        b"\r",
        b"QUIT\r\n",
        b"220 mx\r\n",
        b"250-mx\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
        b"250 mx\r\n",
        b"250 2.1.5 OK\r\n250 OK\r\n",
        b"354 go\r\n",
        b"550-5.1.1 a\r\n550 5.1.1 b\r\n",
        b"450 no\r\n",
        b"421 bye\r\n",
        b"some words of a message that are not too few",
    ];
    for seed in 1..=3_000 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut octets = vec![dice.below(256) as u8, dice.below(256) as u8];
        let begins: [&[u8]; 3] = [
            b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<ann>\r\nDATA\r\n",
            b"220 mx\r\n250-mx\r\n250-8BITMIME\r\n250 PIPELINING\r\n250 OK\r\n",
            b"",
        ];
        octets.extend_from_slice(begins[dice.below(3)]);
        octets.extend_from_slice(&dice.octets(&WORDS, 30));
        fuzz(&octets);
    }
}
