//! IMAP before login: the transcripts of `tests/transcripts/imap`, and what those can't show because it depends on
//! settings, on the driver, or on who looks.

use std::slice;

use super::{property::fuzz, *};
use crate::proto::{conversation::Answer, talk::MAX_POSTPONED, transcript};

const ENCRYPTED: Channel = Channel {
    encrypted: true,
    starttls: false,
    cleartext: false,
};
/// Like port 143 seen from the internet.
const STARTTLS: Channel = Channel {
    encrypted: false,
    starttls: true,
    cleartext: false,
};
/// Like port 143 seen from loopback.
const LOOPBACK: Channel = Channel {
    encrypted: false,
    starttls: true,
    cleartext: true,
};
const PLAIN: Channel = Channel {
    encrypted: false,
    starttls: false,
    cleartext: true,
};

const SMALL: Settings = Settings {
    max_line_bytes: 64,
    max_literal_bytes: 16,
    max_commands: 100,
    max_bad_commands: 3,
    max_attempts: 3,
};

fn check(channel: Channel, answers: &[Answer], script: &str) {
    transcript::check(|| Server::new(SMALL, channel), answers, script);
}

#[test]
fn the_transcripts() {
    transcript::check_all("imap", |channel| Server::new(Settings::default(), channel));
}

// === capabilities ===

#[test]
fn capabilities_depend_on_the_channel() {
    let cases = [
        (ENCRYPTED, "AUTH=PLAIN AUTH=LOGIN"),
        (STARTTLS, "STARTTLS LOGINDISABLED"),
        (LOOPBACK, "STARTTLS AUTH=PLAIN AUTH=LOGIN"),
        (PLAIN, "AUTH=PLAIN AUTH=LOGIN"),
        (
            Channel {
                cleartext: false,
                ..PLAIN
            },
            "LOGINDISABLED",
        ),
        // STARTTLS twice is never offered.
        (
            Channel {
                encrypted: true,
                ..STARTTLS
            },
            "AUTH=PLAIN AUTH=LOGIN",
        ),
    ];
    for (channel, rest) in cases {
        let all = format!("IMAP4rev1 LITERAL+ SASL-IR ID {rest}");
        let mut out = BytesMut::new();
        Server::new(Settings::default(), channel).greet(&mut out);
        let greeting = format!("* OK [CAPABILITY {all}] PigeonAir ready.\r\n");
        assert_eq!(out, greeting.as_bytes());
        check(
            channel,
            &[],
            &format!(
                "C: a1 capability
                S: * CAPABILITY {all}
                S: a1 OK Capabilities listed."
            ),
        );
    }
}

/// On a channel that is encrypted, and for this conversation alone.
#[test]
fn external_is_offered_to_whom_a_certificate_stands_for() {
    let certified = |channel| {
        let mut server = Server::new(SMALL, channel);
        server.certified(Login::parse("ann").ok());
        server
    };
    let script = "
        C: a1 CAPABILITY
        S: * CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID AUTH=PLAIN AUTH=LOGIN AUTH=EXTERNAL
        S: a1 OK Capabilities listed.
        C: a2 AUTHENTICATE EXTERNAL =
        E: external ann as none with \"\"
        S: a2 NO [AUTHENTICATIONFAILED] Wrong user name or password.
        C: a3 AUTHENTICATE external Ym9i
        E: external ann as bob with \"\"
        S: a3 NO [AUTHORIZATIONFAILED] You may not act as that user.
        C: a4 AUTHENTICATE PLAIN AGFubgBwdw==
        E: plain ann as none with \"pw\"
        S: a4 NO [UNAVAILABLE] Your mailbox is not reachable just now, please try again later.
        C: a5 AUTHENTICATE EXTERNAL
        S: +\x20
        C: *
        S: a5 BAD Cancelled.
        C: a6 AUTHENTICATE EXTERNAL
        S: +\x20
        C: 
        E: external ann as none with \"\"
        S: a6 OK Logged in.";
    let answers = [
        Answer::Deny(Denial::BadCredentials),
        Answer::Deny(Denial::AuthorizationFailed),
        Answer::Deny(Denial::Unavailable),
        Answer::Accept(None),
    ];
    transcript::check(|| certified(ENCRYPTED), &answers, script);
    let refused = "
        C: a AUTHENTICATE EXTERNAL =
        S: a NO [CANNOT] Unknown mechanism.";
    check(ENCRYPTED, &[], refused);
    for channel in [PLAIN, LOOPBACK] {
        transcript::check(|| certified(channel), &[], refused);
    }
    let again = || {
        let mut server = certified(ENCRYPTED);
        server.encrypted();
        server
    };
    transcript::check(again, &[], refused);
}

#[test]
fn capabilities_that_are_unknown_or_broken_are_not_named() {
    for capabilities in [
        None,
        Some("IMAP4rev1]"),
        Some("IMAP4rev1\r\na OK"),
        Some("\0"),
    ] {
        check(
            PLAIN,
            &[Answer::Accept(capabilities.map(str::to_owned))],
            "
            C: a LOGIN ann pw
            E: command ann as none with \"pw\"
            S: a OK Logged in.
            ",
        );
    }
}

// === settings ===

#[test]
fn limits_are_those_of_the_settings() {
    let name = "x".repeat(64);
    let longest = "x".repeat(62 - "a NOOP ".len());
    for script in [
        format!(
            "c: a LOGIN ann {name}\nS: a BAD Line too long.\nS: * BYE Line too long.\nE: Misbehaved(\"line\")"
        ),
        // 62 octets and CRLF are 64.
        format!("C: a NOOP {longest}\nS: a BAD Wrong arguments."),
        "c: a LOGIN {17+}\\r\\nx
        S: a BAD Literal too large.
        S: * BYE Literal too large.
        E: Misbehaved(\"literal\")"
            .to_owned(),
        "C: a ID ({16+}
        C: 1234567890123456 {16+}
        C: 1234567890123456 {1+}
        S: a BAD Literal too large.
        S: * BYE Literal too large.
        E: Misbehaved(\"literal\")"
            .to_owned(),
        "C: a FOO
        S: a BAD Unknown command, or not before login.
        C: b NOOP
        S: b OK Nothing done.
        C:
        S: * BAD A command begins with a tag.
        C: c FOO
        S: c BAD Unknown command, or not before login.
        S: * BYE Too many bad commands.
        E: Misbehaved(\"bad-commands\")"
            .to_owned(),
    ] {
        check(PLAIN, &[], &script);
    }
}

// === denials and ends ===

#[test]
fn answers_that_are_not_the_users_fault_have_an_end_too() {
    for denial in [
        Denial::InUse,
        Denial::Limit,
        Denial::Misconfigured,
        Denial::Unavailable,
    ] {
        let mut script = String::new();
        for at in 1..=MAX_POSTPONED {
            script.push_str(&format!(
                "C: a{at} LOGIN ann pw
                E: command ann as none with \"pw\"
                S: a{at} NO {}\n",
                denial.imap()
            ));
        }
        script.push_str("S: * BYE Too many failed logins.\nE: Attempts");
        check(PLAIN, slice::from_ref(&Answer::Deny(denial)), &script);
    }
}

#[test]
fn nothing_pending_nothing_answered() {
    let mut server = Server::new(SMALL, PLAIN);
    let mut out = BytesMut::new();
    assert_eq!(server.deny(Denial::BadCredentials, &mut out), None);
    server.accept(None, &mut out);
    assert!(out.is_empty());
    let event = server.step(&mut BytesMut::from(&b"a LOGOUT\r\nb"[..]), &mut out);
    assert!(matches!(event, Event::Close(Closed::Logout)));
    let mut input = BytesMut::from(&b"c NOOP\r\n"[..]);
    let event = server.step(&mut input, &mut out);
    assert!(matches!(event, Event::Close(Closed::Logout)));
    assert!(input.is_empty());
}

#[test]
fn byes_are_greetings_too() {
    for (bye, text) in [
        (
            Bye::Busy,
            "* BYE [UNAVAILABLE] Too many connections, please try again later.\r\n",
        ),
        (Bye::Idle, "* BYE Not logged in for too long.\r\n"),
        (
            Bye::Shutdown,
            "* BYE [UNAVAILABLE] Going down, please try again later.\r\n",
        ),
    ] {
        let mut out = BytesMut::new();
        Server::new(SMALL, PLAIN).bye(bye, &mut out);
        assert_eq!(out, text.as_bytes());
    }
}

#[test]
fn nothing_secret_is_printed() {
    let mut server = Server::new(SMALL, PLAIN);
    let mut out = BytesMut::new();
    let mut input = BytesMut::from(&b"a LOGIN ann hunter"[..]);
    let _ = server.step(&mut input, &mut out);
    assert!(!format!("{server:?}").contains("hunt"));
    input.extend_from_slice(b"2\r\n");
    let event = server.step(&mut input, &mut out);
    assert!(matches!(event, Event::Credentials(_)));
    assert!(!format!("{event:?}{server:?}").contains("hunt"));
}

// === any input ===

/// Octets that look like IMAP often enough to get past its first checks, from a seed.
fn babble(mut seed: u64) -> Vec<u8> {
    const WORDS: [&[u8]; 28] = [
        b"a ",
        b"b ",
        b"LOGIN ",
        b"AUTHENTICATE ",
        b"PLAIN",
        b"PLAIN ",
        b"LOGIN",
        b"ID ",
        b"NOOP",
        b"STARTTLS",
        b"CAPABILITY",
        b"LOGOUT",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"{3}\r\n",
        b"{8+}\r\n",
        b"{99999999999999999999}\r\n",
        b"\"",
        b"\\",
        b"AGFubgBwdw==",
        b"=",
        b"(",
        b") ",
        b" pw",
        b"\0",
    ];
    let mut next = || {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut octets = next().to_le_bytes()[..3].to_vec();
    for _ in 0..next() % 40 {
        match next() % 16 {
            0 => octets.push(next().to_le_bytes()[0]),
            1..4 => octets.extend_from_slice(b"a LOGIN ann pw\r\n"),
            _ => octets.extend_from_slice(WORDS[(next() % 28) as usize]),
        }
    }
    octets
}

#[test]
fn the_property_holds_for_babble() {
    for seed in 1..=20_000 {
        fuzz(&babble(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)));
    }
}
