//! POP3 before login: the transcripts of `tests/transcripts/pop3`, and what those can't show because it depends on
//! settings, on the driver, or on who looks.

use std::slice;

use super::{property::fuzz, *};
use crate::proto::{conversation::Answer, talk::MAX_POSTPONED, transcript};

const ENCRYPTED: Channel = Channel {
    encrypted: true,
    starttls: false,
    cleartext: false,
};
/// Like port 110 seen from the internet.
const STLS: Channel = Channel {
    encrypted: false,
    starttls: true,
    cleartext: false,
};
/// Like port 110 seen from loopback.
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
    max_commands: 100,
    max_bad_commands: 3,
    max_attempts: 3,
};

fn check(channel: Channel, answers: &[Answer], script: &str) {
    transcript::check(|| Server::new(SMALL, channel), answers, script);
}

#[test]
fn the_transcripts() {
    transcript::check_all("pop3", |channel| Server::new(Settings::default(), channel));
}

// === greeting, capabilities ===

#[test]
fn the_greeting_has_no_timestamp() {
    let mut out = BytesMut::new();
    Server::new(SMALL, PLAIN).greet(&mut out);
    // RFC 1939, 7: `<...>` in it would offer APOP.
    assert_eq!(out, "+OK PigeonAir ready.\r\n");
}

#[test]
fn capabilities_and_mechanisms_depend_on_the_channel() {
    let passwords = ["USER", "SASL PLAIN LOGIN"];
    let cases = [
        (ENCRYPTED, "", true),
        (STLS, "STLS", false),
        (LOOPBACK, "STLS", true),
        (PLAIN, "", true),
        (
            Channel {
                cleartext: false,
                ..PLAIN
            },
            "",
            false,
        ),
        // STLS twice is never offered.
        (
            Channel {
                encrypted: true,
                ..STLS
            },
            "",
            true,
        ),
    ];
    for (channel, stls, takes_passwords) in cases {
        let mut lines = vec![
            "+OK Capability list follows.",
            "TOP",
            "UIDL",
            "RESP-CODES",
            "PIPELINING",
            "AUTH-RESP-CODE",
            stls,
        ];
        lines.extend(passwords.iter().filter(|_| takes_passwords));
        lines.push(".");
        let capa: String = lines
            .iter()
            .filter(|line| !line.is_empty())
            .map(|line| format!("S: {line}\n"))
            .collect();
        let auth = if takes_passwords {
            "S: +OK Mechanisms follow.\nS: PLAIN\nS: LOGIN\nS: ."
        } else {
            "S: +OK Mechanisms follow.\nS: ."
        };
        let script = format!("C: CAPA\n{capa}C: capa\n{capa}C: AUTH\n{auth}");
        check(channel, &[], &script);
    }
}

// === settings ===

#[test]
fn limits_are_those_of_the_settings() {
    let long = "x".repeat(64);
    let longest = "x".repeat(62 - "USER ".len());
    for script in [
        format!("c: {long}\nS: -ERR Line too long.\nE: Misbehaved(\"line\")"),
        // 62 octets and CRLF are 64.
        format!("C: USER {longest}\nS: +OK And the password?"),
        "C: NOOP
        S: -ERR Unknown command, or not before login.
        C: CAPA x
        S: -ERR Wrong arguments.
        C: USER ann
        S: +OK And the password?
        c: STAT\\r\\nQUIT\\r\\n
        S: -ERR Too many bad commands.
        E: Misbehaved(\"bad-commands\")"
            .to_owned(),
    ] {
        check(PLAIN, &[], &script);
    }
}

#[test]
fn responses_of_auth_may_be_longer_than_commands_of_old() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let password = "p".repeat(2000);
    let response = STANDARD.encode(format!("\0ann\0{password}"));
    let mut server = Server::new(Settings::default(), PLAIN);
    for said in [
        format!("AUTH PLAIN\r\n{response}\r\n"),
        format!("AUTH PLAIN {response}\r\n"),
    ] {
        let (mut input, mut out) = (BytesMut::from(said.as_bytes()), BytesMut::new());
        let Event::Credentials(credentials) = server.step(&mut input, &mut out) else {
            panic!("{out:?}");
        };
        assert_eq!(credentials.password.expose(), password.as_bytes());
        assert_eq!(server.deny(Denial::BadCredentials, &mut out), None);
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
        C: CAPA
        S: +OK Capability list follows.
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: PIPELINING
        S: AUTH-RESP-CODE
        S: USER
        S: SASL PLAIN LOGIN EXTERNAL
        S: .
        C: AUTH
        S: +OK Mechanisms follow.
        S: PLAIN
        S: LOGIN
        S: EXTERNAL
        S: .
        C: AUTH EXTERNAL Ym9i
        E: external ann as bob with \"\"
        S: -ERR [AUTH] Wrong user name or password.
        C: AUTH EXTERNAL
        S: +\x20
        C: 
        E: external ann as none with \"\"
        S: +OK Logged in.";
    let answers = [Answer::Deny(Denial::BadCredentials), Answer::Accept(None)];
    transcript::check(|| certified(ENCRYPTED), &answers, script);
    let refused = "
        C: AUTH EXTERNAL =
        S: -ERR Unknown mechanism.";
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

// === denials and ends ===

#[test]
fn answers_that_are_not_the_users_fault_have_an_end_too() {
    for denial in [
        Denial::InUse,
        Denial::Limit,
        Denial::Misconfigured,
        Denial::Unavailable,
    ] {
        let once = format!(
            "C: AUTH PLAIN AGFubgBwdw==
            E: plain ann as none with \"pw\"
            S: -ERR {}\n",
            denial.pop3()
        );
        let script = once.repeat(MAX_POSTPONED as usize) + "E: Attempts";
        let answer = Answer::Deny(denial);
        check(PLAIN, slice::from_ref(&answer), &script);
    }
}

#[test]
fn nothing_pending_nothing_answered() {
    let mut server = Server::new(SMALL, PLAIN);
    let mut out = BytesMut::new();
    assert_eq!(server.deny(Denial::BadCredentials, &mut out), None);
    server.accept(&mut out);
    assert!(out.is_empty());
    for said in ["QUIT\r\nUSER ann", "CAPA\r\n"] {
        let mut input = BytesMut::from(said.as_bytes());
        let event = server.step(&mut input, &mut out);
        assert!(matches!(event, Event::Close(Closed::Logout)));
        assert!(input.is_empty());
    }
    assert_eq!(out, "+OK Logging out.\r\n");
}

#[test]
fn capabilities_are_not_part_of_a_welcome() {
    for capabilities in [None, Some("TOP UIDL"), Some("\r\n")] {
        check(
            PLAIN,
            &[Answer::Accept(capabilities.map(str::to_owned))],
            "
            C: AUTH PLAIN AGFubgBwdw==
            E: plain ann as none with \"pw\"
            S: +OK Logged in.
            ",
        );
    }
}

#[test]
fn byes_are_greetings_too() {
    for (bye, text) in [
        (
            Bye::Busy,
            "-ERR [SYS/TEMP] Too many connections, please try again later.\r\n",
        ),
        (Bye::Idle, ""),
        (
            Bye::Shutdown,
            "-ERR [SYS/TEMP] Going down, please try again later.\r\n",
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
    let mut input = BytesMut::from(&b"USER ann\r\nPASS hunter"[..]);
    let _ = server.step(&mut input, &mut out);
    assert!(!format!("{server:?}").contains("hunt"));
    input.extend_from_slice(b"2\r\n");
    let event = server.step(&mut input, &mut out);
    assert!(matches!(event, Event::Credentials(_)));
    assert!(!format!("{event:?}{server:?}{out:?}").contains("hunt"));
}

// === any input ===

/// Octets that look like POP3 often enough to get past its first checks, from a seed.
fn babble(mut seed: u64) -> Vec<u8> {
    const WORDS: [&[u8]; 16] = [
        b"USER ",
        b"PASS ",
        b"AUTH ",
        b"AUTH",
        b"PLAIN",
        b"LOGIN ",
        b"CAPA",
        b"STLS\r\n",
        b"QUIT",
        b"\r\n",
        b"\r\n",
        b"\n",
        b" ",
        b"AGFubgBwdw==",
        b"*\r\n",
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
            1..4 => octets.extend_from_slice(b"USER ann\r\nPASS pw\r\n"),
            _ => octets.extend_from_slice(WORDS[(next() % 16) as usize]),
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
