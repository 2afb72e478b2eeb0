//! POP3 before login as transcripts; their form is that of [`transcript`].

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
    max_bad_commands: 3,
    max_attempts: 3,
};

const UNKNOWN: &str = "-ERR Unknown command, or not before login.";
const PRIVACY: &str = "-ERR [AUTH] Passwords are taken only on an encrypted connection.";

fn wrong() -> Answer {
    Answer::Deny(Denial::BadCredentials)
}

fn welcome() -> Answer {
    Answer::Accept(None)
}

fn check(settings: Settings, channel: Channel, answers: &[Answer], script: &str) {
    transcript::check(|| Server::new(settings, channel), answers, script);
}

// === greeting, capabilities, the small commands ===

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
        check(SMALL, channel, &[], &script);
    }
}

#[test]
fn quit_ends_it_and_what_follows_is_not_read() {
    check(
        SMALL,
        PLAIN,
        &[],
        "
        C: quit
        S: +OK Logging out.
        E: Logout
        ",
    );
    check(
        SMALL,
        PLAIN,
        &[],
        "
        c: QUIT\\r\\nUSER ann\\r\\n
        S: +OK Logging out.
        E: Logout
        ",
    );
}

// === wrong commands ===

#[test]
fn what_is_no_command_before_login_is_refused() {
    for line in [
        "",
        " ",
        " USER ann",
        "NOOP",
        "STAT",
        "LIST",
        "RETR 1",
        "DELE 1",
        "RSET",
        "UIDL",
        "TOP 1 0",
        "LAST",
        "APOP ann c4c9334bac560ecc979e58001b3e22fb",
        "UTF8",
        "LANG",
        "XCLIENT ADDR=192.0.2.1",
        "USERX ann",
        "USE",
        "USER\\x09ann",
        "QUIT\\0",
        "\\xff",
        "\\0",
        "a LOGIN ann pw",
    ] {
        let script = format!("C: {line}\nS: {UNKNOWN}\nC: QUIT\nS: +OK Logging out.\nE: Logout");
        check(SMALL, PLAIN, &[], &script);
    }
}

#[test]
fn wrong_arguments_are_refused() {
    for line in [
        "CAPA ",
        "CAPA x",
        "QUIT ",
        "QUIT now",
        "STLS ",
        "STLS x",
        "USER",
        "PASS",
        "USER a\\0n",
        "USER ann\\r",
        "AUTH ",
        "AUTH  PLAIN",
        "AUTH PLAIN ",
        "AUTH PLAIN\\0",
        "AUTH PLAIN AGFu\\rbgBwdw==",
    ] {
        let script = format!(
            "C: {line}
            S: -ERR Wrong arguments.
            C: QUIT
            S: +OK Logging out.
            E: Logout"
        );
        check(SMALL, LOOPBACK, &[], &script);
    }
    for password in ["\\0", "p\\0w", "pw\\r", "p\\rw"] {
        let script = format!(
            "C: USER ann
            S: +OK And the password?
            C: PASS {password}
            S: -ERR Wrong arguments.
            C: PASS pw
            S: -ERR USER comes first."
        );
        check(SMALL, PLAIN, &[], &script);
    }
}

#[test]
fn too_many_bad_commands_end_the_conversation() {
    check(
        SMALL,
        PLAIN,
        &[],
        &format!(
            "C: NOOP
            S: {UNKNOWN}
            C: CAPA x
            S: -ERR Wrong arguments.
            C: USER ann
            S: +OK And the password?
            c: STAT\\r\\nQUIT\\r\\n
            S: -ERR Too many bad commands.
            E: Misbehaved(\"bad-commands\")"
        ),
    );
}

#[test]
fn a_bare_lf_ends_the_conversation() {
    for line in [
        "CAPA\\n",
        "\\n",
        "USER ann\\nPASS pw\\r\\n",
        "QUIT\\r\\r\\n\\n",
    ] {
        let before = if line.starts_with("QUIT") {
            format!("S: {UNKNOWN}\n")
        } else {
            String::new()
        };
        check(
            SMALL,
            PLAIN,
            &[],
            &format!(
                "c: {line}
                {before}
                S: -ERR Lines end in CRLF.
                E: Misbehaved(\"bare-lf\")"
            ),
        );
    }
    check(
        SMALL,
        PLAIN,
        &[],
        "
        C: AUTH PLAIN
        S: +\u{20}
        c: AGFubgBwdw==\\n
        S: -ERR Lines end in CRLF.
        E: Misbehaved(\"bare-lf\")
        ",
    );
}

#[test]
fn a_line_too_long_ends_the_conversation() {
    let end = "S: -ERR Line too long.\nE: Misbehaved(\"line\")";
    let long = "x".repeat(64);
    for line in [&long, &format!("USER {long}"), &format!("PASS {long}")] {
        check(SMALL, PLAIN, &[], &format!("c: {line}\n{end}"));
    }
    let script = format!("C: AUTH PLAIN\nS: +\u{20}\nc: {long}\n{end}");
    check(SMALL, PLAIN, &[], &script);
    // 62 octets and CRLF are 64.
    let longest = "x".repeat(62 - "USER ".len());
    let script = format!("C: USER {longest}\nS: +OK And the password?");
    check(SMALL, PLAIN, &[], &script);
}

#[test]
fn names_and_passwords_of_255_octets_fit() {
    let (name, password) = ("n".repeat(255), "p".repeat(255));
    check(
        Settings::default(),
        PLAIN,
        &[welcome()],
        &format!(
            "C: USER {name}
            S: +OK And the password?
            C: PASS {password}
            E: command {name} as none with \"{password}\"
            S: +OK Logged in."
        ),
    );
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

// === USER and PASS ===

#[test]
fn names_and_passwords_are_taken_as_they_are() {
    for (user, pass, name, password) in [
        ("ann", "pw", "ann", "pw"),
        ("ann@example.org", "p w", "ann@example.org", "p w"),
        (" ann ", " pw ", " ann ", " pw "),
        ("a n", "  ", "a n", "  "),
        ("ann", "", "ann", ""),
        ("\\\\\"*%{3}", "\\\\\"<>", "\\\"*%{3}", "\\\\\\\"<>"),
        (
            "Zo\\xc3\\xab",
            "\\xe9\\xff\\x01\\x09",
            "Zoë",
            "\\xe9\\xff\\x01\\t",
        ),
        ("PASS x", "USER y", "PASS x", "USER y"),
    ] {
        check(
            SMALL,
            PLAIN,
            &[welcome()],
            &format!(
                "C: USER {user}
                S: +OK And the password?
                C: PASS {pass}
                E: command {name} as none with \"{password}\"
                S: +OK Logged in."
            ),
        );
    }
    check(
        SMALL,
        PLAIN,
        &[welcome()],
        "
        C: uSeR ann
        S: +OK And the password?
        C: pass PW
        E: command ann as none with \"PW\"
        S: +OK Logged in.
        ",
    );
}

#[test]
fn names_that_nobody_can_have_are_refused_not_cut() {
    let long = "x".repeat(256);
    for name in [
        "",
        "a\\x01",
        "ann\\x7f",
        "a\\x09n",
        "a\\xffn",
        "a\\xc2\\x85n",
        &long,
    ] {
        check(
            Settings::default(),
            PLAIN,
            &[welcome()],
            &format!(
                "C: USER {name}
                S: -ERR [AUTH] This is not a user name.
                C: PASS pw
                S: -ERR USER comes first."
            ),
        );
    }
}

#[test]
fn pass_needs_user_right_before_it() {
    check(
        Settings::default(),
        LOOPBACK,
        &[wrong(), welcome()],
        &format!(
            "C: PASS pw
            S: -ERR USER comes first.
            C: USER ann
            S: +OK And the password?
            C: NOOP
            S: {UNKNOWN}
            C: PASS pw
            S: -ERR USER comes first.
            C: USER ann
            S: +OK And the password?
            C: AUTH CRAM-MD5
            S: -ERR Unknown mechanism.
            C: PASS pw
            S: -ERR USER comes first.
            C: USER eve
            S: +OK And the password?
            C: USER ann
            S: +OK And the password?
            C: PASS pw
            E: command ann as none with \"pw\"
            S: -ERR [AUTH] Wrong user name or password.
            C: PASS pw2
            S: -ERR USER comes first.
            C: USER ann
            S: +OK And the password?
            C: AUTH PLAIN
            S: +\u{20}
            C: *
            S: -ERR Cancelled.
            C: PASS pw
            S: -ERR USER comes first."
        ),
    );
}

#[test]
fn pipelined_commands_are_left_to_the_real_server() {
    check(
        SMALL,
        PLAIN,
        &[welcome()],
        "
        c: USER ann\\r\\nPASS pw\\r\\nSTAT\\r\\nRETR 1\\nQU
        S: +OK And the password?
        E: command ann as none with \"pw\"
        S: +OK Logged in.
        L: STAT\\r\\nRETR 1\\nQU
        ",
    );
    check(
        SMALL,
        PLAIN,
        &[welcome()],
        "
        c: CAPA\\r\\nAUTH PLAIN\\r\\nAGFubgBwdw==\\r\\n\\0STAT\\r\\n
        S: +OK Capability list follows.
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: PIPELINING
        S: AUTH-RESP-CODE
        S: USER
        S: SASL PLAIN LOGIN
        S: .
        S: +\u{20}
        E: plain ann as none with \"pw\"
        S: +OK Logged in.
        L: \\0STAT\\r\\n
        ",
    );
    // After a refusal they are ours.
    check(
        SMALL,
        PLAIN,
        &[wrong(), welcome()],
        &format!(
            "c: USER ann\\r\\nPASS pw\\r\\nSTAT\\r\\nUSER ann\\r\\nPASS pw2\\r\\nQUIT\\r\\n
            S: +OK And the password?
            E: command ann as none with \"pw\"
            S: -ERR [AUTH] Wrong user name or password.
            S: {UNKNOWN}
            S: +OK And the password?
            E: command ann as none with \"pw2\"
            S: +OK Logged in.
            L: QUIT\\r\\n"
        ),
    );
}

// === AUTH ===

#[test]
fn auth_with_and_without_initial_response() {
    for script in [
        "C: AUTH PLAIN
        S: +\u{20}
        C: AGFubgBwdw==
        E: plain ann as none with \"pw\"",
        "C: auth plain AGFubgBwdw==
        E: plain ann as none with \"pw\"",
        "C: AUTH PLAIN Ym9iAGFubgBwdw==
        E: plain ann as bob with \"pw\"",
        "C: AUTH PLAIN AGFubgA=
        E: plain ann as none with \"\"",
        "C: AUTH LOGIN
        S: + VXNlcm5hbWU6
        C: YW5u
        S: + UGFzc3dvcmQ6
        C: cHc=
        E: login ann as none with \"pw\"",
        "C: AUTH LOGIN YW5u
        S: + UGFzc3dvcmQ6
        C:
        E: login ann as none with \"\"",
    ] {
        let script = format!("{script}\nS: +OK Logged in.");
        check(SMALL, ENCRYPTED, &[welcome()], &script);
    }
}

/// A transcript up to its last answer, and that answer.
const FAILED_EXCHANGES: &[(&str, &str)] = &[
    ("C: AUTH PLAIN\nS: + \nC: *", "Cancelled."),
    ("C: AUTH LOGIN\nS: + VXNlcm5hbWU6\nC: *", "Cancelled."),
    ("C: AUTH LOGIN YW5u\nS: + UGFzc3dvcmQ6\nC: *", "Cancelled."),
    (
        "C: AUTH PLAIN\nS: + \nC: QUIT",
        "The response does not follow the mechanism.",
    ),
    (
        "C: AUTH PLAIN\nS: + \nC: PASS pw",
        "The response is not base64.",
    ),
    (
        "C: AUTH PLAIN\nS: + \nC: ",
        "The response does not follow the mechanism.",
    ),
    ("C: AUTH PLAIN\nS: + \nC: =", "The response is not base64."),
    (
        "C: AUTH PLAIN =",
        "The response does not follow the mechanism.",
    ),
    (
        "C: AUTH PLAIN AGFubgBwdwA=",
        "The response does not follow the mechanism.",
    ),
    ("C: AUTH PLAIN AGFubgBwdw", "The response is not base64."),
    (
        "C: AUTH PLAIN AGFubgBwdw==AGFu",
        "The response is not base64.",
    ),
    ("C: AUTH PLAIN *", "The response is not base64."),
    ("C: AUTH PLAIN AGFu bgBwdw==", "The response is not base64."),
    ("C: AUTH PLAIN  AGFubgBwdw==", "The response is not base64."),
    (
        "C: AUTH PLAIN AGFubgkAcHc=",
        "[AUTH] This is not a user name.",
    ),
    (
        "C: AUTH PLAIN CQBhbm4AcHc=",
        "[AUTH] This is not a user name.",
    ),
    ("C: AUTH PLAIN AABwdw==", "[AUTH] This is not a user name."),
    ("C: AUTH LOGIN =", "[AUTH] This is not a user name."),
    ("C: AUTH CRAM-MD5", "Unknown mechanism."),
    ("C: AUTH XOAUTH2 dXNlcj0=", "Unknown mechanism."),
    ("C: AUTH PLAIN\\x09", "Unknown mechanism."),
];

#[test]
fn an_exchange_that_fails_leaves_the_conversation_usable() {
    for (script, answer) in FAILED_EXCHANGES {
        let script = format!("{script}\nS: -ERR {answer}\nC: QUIT\nS: +OK Logging out.\nE: Logout");
        check(SMALL, ENCRYPTED, &[], &script);
    }
}

// === passwords in clear, STLS ===

#[test]
fn passwords_are_not_taken_in_clear() {
    for command in [
        "USER ann",
        "USER ",
        "PASS pw",
        "AUTH PLAIN",
        "AUTH PLAIN AGFubgBwdw==",
        "AUTH LOGIN YW5u",
    ] {
        let script = format!("C: {command}\nS: {PRIVACY}\nC: QUIT\nS: +OK Logging out.\nE: Logout");
        check(SMALL, STLS, &[welcome()], &script);
    }
    check(
        SMALL,
        STLS,
        &[],
        &format!(
            "C: AUTH CRAM-MD5
            S: -ERR Unknown mechanism.
            c: USER ann\\r\\nPASS pw\\r\\nSTAT\\r\\n
            S: {PRIVACY}
            S: -ERR Too many bad commands.
            E: Misbehaved(\"bad-commands\")"
        ),
    );
}

#[test]
fn what_came_in_clear_behind_stls_is_never_executed() {
    for injected in [
        "",
        "CAPA\\r\\n",
        "USER eve\\r\\n",
        "USER eve\\r\\nPASS pw\\r\\n",
        "AUTH PLAIN\\r\\n",
        "QUI",
        "\\x16\\x03\\x01",
    ] {
        check(
            SMALL,
            LOOPBACK,
            &[welcome()],
            &format!(
                "c: STLS\\r\\n{injected}
                S: +OK Begin TLS negotiation now.
                E: StartTls
                T:
                C: STLS
                S: -ERR STLS is not possible here.
                C: USER ann
                S: +OK And the password?
                C: PASS pw
                E: command ann as none with \"pw\"
                S: +OK Logged in."
            ),
        );
    }
}

#[test]
fn a_name_said_in_clear_is_forgotten_under_tls() {
    check(
        SMALL,
        LOOPBACK,
        &[welcome()],
        "
        C: USER eve
        S: +OK And the password?
        C: STLS
        S: +OK Begin TLS negotiation now.
        E: StartTls
        T:
        C: PASS pw
        S: -ERR USER comes first.
        ",
    );
}

#[test]
fn nothing_said_in_clear_counts_under_tls() {
    check(
        SMALL,
        LOOPBACK,
        &[wrong()],
        &format!(
            "C: FOO
            S: {UNKNOWN}
            C: FOO
            S: {UNKNOWN}
            C: AUTH PLAIN AGFubgBwdw==
            E: plain ann as none with \"pw\"
            S: -ERR [AUTH] Wrong user name or password.
            C: AUTH PLAIN AGFubgBwdw==
            E: plain ann as none with \"pw\"
            S: -ERR [AUTH] Wrong user name or password.
            C: STLS
            S: +OK Begin TLS negotiation now.
            E: StartTls
            T:
            C: AUTH PLAIN AGFubgBwdw==
            E: plain ann as none with \"pw\"
            S: -ERR [AUTH] Wrong user name or password.
            C: FOO
            S: {UNKNOWN}"
        ),
    );
}

#[test]
fn stls_is_refused_where_it_is_not_offered() {
    for channel in [PLAIN, ENCRYPTED] {
        let script = "C: STLS\nS: -ERR STLS is not possible here.\nC: AUTH PLAIN\nS: +\u{20}";
        check(SMALL, channel, &[], script);
    }
}

// === denials and ends ===

#[test]
fn failed_logins_end_the_conversation() {
    check(
        SMALL,
        PLAIN,
        &[
            wrong(),
            Answer::Deny(Denial::AuthorizationFailed),
            Answer::Deny(Denial::Unavailable),
            wrong(),
        ],
        "
        c: USER ann\\r\\nPASS pw\\r\\n
        S: +OK And the password?
        E: command ann as none with \"pw\"
        S: -ERR [AUTH] Wrong user name or password.
        C: AUTH PLAIN Ym9iAGFubgBwdw==
        E: plain ann as bob with \"pw\"
        S: -ERR [AUTH] You may not act as that user.
        C: AUTH PLAIN AGFubgBwdw==
        E: plain ann as none with \"pw\"
        S: -ERR [SYS/TEMP] Your mailbox is not reachable just now, please try again later.
        c: AUTH PLAIN AGFubgBwdw==\\r\\nQUIT\\r\\n
        E: plain ann as none with \"pw\"
        S: -ERR [AUTH] Wrong user name or password.
        E: Attempts
        ",
    );
}

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
        check(SMALL, PLAIN, slice::from_ref(&answer), &script);
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
            SMALL,
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
