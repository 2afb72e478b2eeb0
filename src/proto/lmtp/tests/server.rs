//! The server half as transcripts.
//!
//! `C:` the client sends a line, `c:` octets; `S:` the server sends a line; `E:` the driver sees an event. In `C` and `c`,
//! `\r \n \0 \\ \xNN` are escapes. What the driver says goes by how a local part begins: `nobody`, `later`, `full`, `slow`,
//! and for a sender `nowhere`.

use bytes::BytesMut;

use crate::proto::{
    lmtp::{Cause, Closed, Event, Server, Settings, property::Conversation},
    reply::at_every_split,
    script::unescaped,
};

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
                let mut octets = unescaped(text);
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
