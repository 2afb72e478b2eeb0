//! IMAP before login as transcripts; their form is that of [`transcript`].

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
    max_bad_commands: 3,
    max_attempts: 3,
};

fn wrong() -> Answer {
    Answer::Deny(Denial::BadCredentials)
}

fn welcome() -> Answer {
    Answer::Accept(Some("IMAP4rev1 IDLE".to_owned()))
}

fn check(settings: Settings, channel: Channel, answers: &[Answer], script: &str) {
    transcript::check(|| Server::new(settings, channel), answers, script);
}

// === greeting, capabilities, the small commands ===

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
            SMALL,
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

#[test]
fn small_commands_are_answered() {
    check(
        SMALL,
        STARTTLS,
        &[],
        r#"
        C: a NOOP
        S: a OK Nothing done.
        C: b nOoP
        S: b OK Nothing done.
        C: c ID NIL
        S: * ID ("name" "PigeonAir")
        S: c OK Pleased to meet you.
        C: d ID ()
        S: * ID ("name" "PigeonAir")
        S: d OK Pleased to meet you.
        C: e ID ("name" "x \\"y\\\\" "os" nil)
        S: * ID ("name" "PigeonAir")
        S: e OK Pleased to meet you.
        C: f ID ("name" {3}
        S: + OK
        C: a)b {2+}
        C: os NIL)
        S: * ID ("name" "PigeonAir")
        S: f OK Pleased to meet you.
        C: g LOGOUT
        S: * BYE Logging out.
        S: g OK Logged out.
        E: Logout
        "#,
    );
}

#[test]
fn what_follows_logout_is_not_read() {
    check(
        SMALL,
        PLAIN,
        &[],
        "
        c: a LOGOUT\\r\\nb NOOP\\r\\n
        S: * BYE Logging out.
        S: a OK Logged out.
        E: Logout
        ",
    );
}

#[test]
fn tags_may_be_anything_lawful() {
    for tag in [
        "1",
        "}",
        "]",
        "[a]",
        "!#$&',-./:;<=>?@^_`|~",
        "a.b-c",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghij",
    ] {
        let script = format!("C: {tag} NOOP\nS: {tag} OK Nothing done.");
        check(SMALL, PLAIN, &[], &script);
    }
    for tag in [
        "+",
        "a+",
        "+ OK",
        "*",
        "a*",
        "%",
        "(",
        ")",
        "{",
        "\"a\"",
        "\\\\",
        "\\x7f",
        "\\xc3\\xa9",
        "\\0",
        "a\\0",
        "\\t",
        "",
        " a",
    ] {
        let script = format!(
            "C: {} NOOP\nS: * BAD A command begins with a tag.",
            tag.replace("\\t", "\\x09")
        );
        check(SMALL, PLAIN, &[], &script);
    }
}

// === wrong commands ===

#[test]
fn wrong_commands_are_bad_and_counted() {
    for line in [
        "a",
        "a ",
        "a  NOOP",
        "a NOOPX",
        "a NOO",
        "a SELECT INBOX",
        "a DONE",
        "a {1",
        "a UID FETCH 1 ALL",
        "a \\xff",
        "a IDLE",
        "a LOGINX ann pw",
    ] {
        check(
            SMALL,
            LOOPBACK,
            &[],
            &format!("C: {line}\nS: a BAD Unknown command, or not before login."),
        );
    }
    check(
        SMALL,
        LOOPBACK,
        &[],
        "
        C: a SELECT INBOX
        S: a BAD Unknown command, or not before login.
        C: b NOOP
        S: b OK Nothing done.
        C:
        S: * BAD A command begins with a tag.
        C: c FETCH 1 ALL
        S: c BAD Unknown command, or not before login.
        S: * BYE Too many bad commands.
        E: Misbehaved(\"bad-commands\")
        ",
    );
}

const WRONG_ARGUMENTS: &[&str] = &[
    "NOOP ",
    "NOOP x",
    "NOOP {}",
    "CAPABILITY x",
    "LOGOUT x",
    "STARTTLS x",
    "STARTTLS ",
    "STARTTLS\\0",
    "ID",
    "ID x",
    "ID (",
    "ID NIL x",
    "ID NIL)",
    "ID (NIL \"a\")",
    "ID (\"a\")",
    "ID (\"a\" \"b\" )",
    "ID (\"a\" \"b\"",
    "ID ((\"a\" \"b\"))",
    "ID ((((((((((((((((((((((((((((((",
    "ID (a b)",
    "LOGIN",
    "LOGIN ",
    "LOGIN ann",
    "LOGIN ann ",
    "LOGIN  ann pw",
    "LOGIN ann  pw",
    "LOGIN ann pw ",
    "LOGIN ann pw x",
    "LOGIN ann \"pw",
    "LOGIN ann pw\"",
    "LOGIN \"ann\"pw",
    "LOGIN ann \"p\"w",
    // RFC 9051, 9: only quote and backslash may be quoted.
    "LOGIN ann \"p\\\\w\"",
    "LOGIN DOMAIN\\\\ann pw",
    "LOGIN ann p\\\\w",
    "LOGIN a*n pw",
    "LOGIN a%n pw",
    "LOGIN (ann) pw",
    "LOGIN ann p{w",
    "LOGIN a\\xc3\\xa9n pw",
    "LOGIN ann \"p\\0w\"",
    "LOGIN ann \"p\\rw\"",
    "LOGIN \"a\\0n\" pw",
    "LOGIN a\\0n pw",
    "LOGIN ann pw\\r",
    // Sizes that are none: the line ends here, nothing of what follows is taken as a literal.
    "LOGIN {}",
    "LOGIN {+}",
    "LOGIN {-1}",
    "LOGIN {-1+}",
    "LOGIN {3-}",
    "LOGIN {0x3}",
    "LOGIN { 3}",
    "LOGIN {3 }",
    "LOGIN {3} ",
    "LOGIN {3",
    "LOGIN 3}",
    "LOGIN {3}+",
    "LOGIN {3++}",
    "AUTHENTICATE",
    "AUTHENTICATE ",
    "AUTHENTICATE PLAIN ",
    "AUTHENTICATE \"PLAIN\"",
    "AUTHENTICATE  PLAIN",
    "AUTHENTICATE (PLAIN)",
];

#[test]
fn wrong_arguments_are_bad() {
    for line in WRONG_ARGUMENTS {
        check(
            SMALL,
            LOOPBACK,
            &[],
            &format!("C: a {line}\nS: a BAD Wrong arguments.\nC: b NOOP\nS: b OK Nothing done."),
        );
    }
}

#[test]
fn a_bare_lf_ends_the_conversation() {
    for (line, tag) in [
        ("a NOOP\\n", "a"),
        ("a LOGIN ann pw\\nb NOOP\\r\\n", "a"),
        ("a LOGIN \"ann\\nb LOGIN bob pw\\r\\n", "a"),
        ("a LOGIN {3}\\nann pw\\r\\n", "a"),
        ("a LOGIN {3+}\\nann pw\\r\\n", "a"),
        ("a\\n", "*"),
        ("\\n", "*"),
        ("+ NOOP\\n", "*"),
        // The CR belongs to the literal.
        ("a LOGIN ann {3+}\\r\\npw\\r\\n", "a"),
    ] {
        check(
            SMALL,
            PLAIN,
            &[],
            &format!(
                "c: {line}
                S: {tag} BAD Lines end in CRLF.
                S: * BYE Lines end in CRLF.
                E: Misbehaved(\"bare-lf\")"
            ),
        );
    }
    check(
        SMALL,
        PLAIN,
        &[],
        "
        C: a AUTHENTICATE PLAIN
        S: +\u{20}
        c: AGFubgBwdw==\\n
        S: a BAD Lines end in CRLF.
        S: * BYE Lines end in CRLF.
        E: Misbehaved(\"bare-lf\")
        ",
    );
}

#[test]
fn a_line_too_long_ends_the_conversation() {
    let end = "S: * BYE Line too long.\nE: Misbehaved(\"line\")";
    let name = "x".repeat(64);
    for (line, tag) in [
        (format!("a LOGIN ann {name}"), "a"),
        (name.clone(), "*"),
        (format!("a LOGIN {{1+}}\\r\\nx {name}"), "a"),
        // All of it is one command, however many literals there are.
        (format!("a ID ({}", "{0+}\\r\\n ".repeat(10)), "a"),
    ] {
        let script = format!("c: {line}\nS: {tag} BAD Line too long.\n{end}");
        check(SMALL, PLAIN, &[], &script);
    }
    check(
        SMALL,
        PLAIN,
        &[],
        &format!(
            "C: a AUTHENTICATE PLAIN
            S: +\u{20}
            c: {name}
            S: a BAD Line too long.
            {end}"
        ),
    );
    // 62 octets and CRLF are 64.
    let longest = "x".repeat(62 - "a NOOP ".len());
    check(
        SMALL,
        PLAIN,
        &[],
        &format!("C: a NOOP {longest}\nS: a BAD Wrong arguments."),
    );
}

#[test]
fn a_literal_too_large_ends_the_conversation() {
    for size in [
        "17",
        "017",
        "2147483647",
        "2147483648",
        "4294967295",
        "4294967296",
        "4294967299",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551619",
        "18446744073709551623",
        "1234567890123456789012345678901234567890",
    ] {
        for plus in ["", "+"] {
            for channel in [PLAIN, STARTTLS] {
                check(
                    SMALL,
                    channel,
                    &[],
                    &format!(
                        "c: a LOGIN {{{size}{plus}}}\\r\\nb NOOP\\r\\n
                        S: a BAD Literal too large.
                        S: * BYE Literal too large.
                        E: Misbehaved(\"literal\")"
                    ),
                );
            }
        }
    }
    check(
        SMALL,
        PLAIN,
        &[],
        "
        C: a ID ({16+}
        C: 1234567890123456 {16+}
        C: 1234567890123456 {1+}
        S: a BAD Literal too large.
        S: * BYE Literal too large.
        E: Misbehaved(\"literal\")
        ",
    );
}

// === LOGIN ===

#[test]
fn login_takes_every_form_of_string() {
    for (arguments, name, password) in [
        ("ann pw", "ann", "pw"),
        ("ann@example.org p]w}", "ann@example.org", "p]w}"),
        ("\"ann\" \"p w\"", "ann", "p w"),
        ("\"a(n)\" \"*%{3}\"", "a(n)", "*%{3}"),
        (
            "\"a\\\\\"\\\\\\\\n\" \"\\\\\\\\\\\\\"\"",
            "a\"\\n",
            "\\\\\\\"",
        ),
        ("\"Zo\\xc3\\xab\" \"\\xe9\\xff\"", "Zoë", "\\xe9\\xff"),
        ("{3+}\\r\\nann {2+}\\r\\npw", "ann", "pw"),
        ("{003+}\\r\\nann \"pw\"", "ann", "pw"),
        (
            "ann {9+}\\r\\np\"\\\\\\x01 *\\r\\n)",
            "ann",
            "p\\\"\\\\\\x01 *\\r\\n)",
        ),
        // Content that looks like markers and commands.
        ("ann {6+}\\r\\n{3+}\\r\\n", "ann", "{3+}\\r\\n"),
        ("{3+}\\r\\n{1} {3}\\r\\nb N", "{1}", "b N"),
        ("ann \"\"", "ann", ""),
        ("ann {0+}\\r\\n", "ann", ""),
        ("NIL NIL", "NIL", "NIL"),
    ] {
        let script = if arguments.contains("{3}\\r\\nb") {
            format!(
                "c: a LOGIN {}
                S: + OK
                C: b N",
                arguments.strip_suffix("b N").unwrap()
            )
        } else {
            format!("C: a LOGIN {arguments}")
        };
        check(
            SMALL,
            PLAIN,
            &[welcome()],
            &format!(
                "{script}
                E: command {name} as none with \"{password}\"
                S: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in."
            ),
        );
    }
}

#[test]
fn a_synchronising_literal_is_asked_for() {
    check(
        SMALL,
        ENCRYPTED,
        &[welcome()],
        "
        C: a LOGIN {3}
        S: + OK
        c: ann
        c:  {2}\\r\\n
        S: + OK
        C: pw
        E: command ann as none with \"pw\"
        S: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in.
        ",
    );
}

#[test]
fn a_literal_that_no_command_wants_is_refused_before_it_is_sent() {
    check(
        SMALL,
        LOOPBACK,
        &[],
        "
        C: a APPEND INBOX {10}
        S: a BAD Unknown command, or not before login.
        C: b NOOP {3}
        S: b BAD Wrong arguments.
        C: c NOOP
        S: c OK Nothing done.
        C: d AUTHENTICATE {5}
        S: d BAD Wrong arguments.
        S: * BYE Too many bad commands.
        E: Misbehaved(\"bad-commands\")
        ",
    );
}

#[test]
fn a_literal_that_comes_unasked_is_never_a_command() {
    check(
        SMALL,
        LOOPBACK,
        &[],
        "
        c: a APPEND INBOX {10+}\\r\\nb LOGOUT\\r\\n\\r\\n
        S: a BAD Unknown command, or not before login.
        c: c LOGIN \"ann {10+}\\r\\nd LOGOUT\\r\\n\" pw\\r\\n
        S: c BAD Wrong arguments.
        c: + {8+}\\r\\ne NOOP\\r\\n\\r\\n
        S: * BAD A command begins with a tag.
        S: * BYE Too many bad commands.
        E: Misbehaved(\"bad-commands\")
        ",
    );
}

#[test]
fn names_that_nobody_can_have_are_refused_not_cut() {
    let long = "x".repeat(256);
    for name in [
        "{4+}\\r\\nann\\x01",
        "\"ann\\x7f\"",
        "\"a\\x09n\"",
        "{5+}\\r\\nan\\r\\nn",
        "\"\"",
        "{0+}\\r\\n",
        "\"a\\xffn\"",
        "\"a\\xc2\\x85n\"",
        &long,
    ] {
        check(
            Settings::default(),
            PLAIN,
            &[wrong()],
            &format!("C: a LOGIN {name} pw\nS: a NO [CANNOT] This is not a user name."),
        );
    }
    // RFC 9051, 9: a literal holds no NUL at all.
    for arguments in ["{4+}\\r\\nann\\0 pw", "ann {3+}\\r\\np\\0w"] {
        let script = format!("C: a LOGIN {arguments}\nS: a BAD Wrong arguments.");
        check(SMALL, PLAIN, &[wrong()], &script);
    }
    let script = format!(
        "C: a LOGIN {} {}
        E: command {} as none with \"{}\"
        S: a NO [AUTHENTICATIONFAILED] Wrong user name or password.",
        &long[..255],
        long,
        &long[..255],
        long
    );
    check(Settings::default(), PLAIN, &[wrong()], &script);
}

#[test]
fn pipelined_commands_are_left_to_the_real_server() {
    check(
        SMALL,
        PLAIN,
        &[welcome()],
        "
        c: a LOGIN ann pw\\r\\nb SELECT INBOX\\r\\nc IDLE\\nDO
        E: command ann as none with \"pw\"
        S: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in.
        L: b SELECT INBOX\\r\\nc IDLE\\nDO
        ",
    );
    check(
        SMALL,
        PLAIN,
        &[welcome()],
        "
        C: a AUTHENTICATE PLAIN AGFubgBwdw==
        E: plain ann as none with \"pw\"
        S: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in.
        c: \\0{3+}\\r\\n
        L: \\0{3+}\\r\\n
        ",
    );
    // After a refusal they are ours.
    check(
        SMALL,
        PLAIN,
        &[wrong(), welcome()],
        "
        c: a LOGIN ann pw\\r\\nb NOOP\\r\\nc LOGIN ann pw2\\r\\nd
        E: command ann as none with \"pw\"
        S: a NO [AUTHENTICATIONFAILED] Wrong user name or password.
        S: b OK Nothing done.
        E: command ann as none with \"pw2\"
        S: c OK [CAPABILITY IMAP4rev1 IDLE] Logged in.
        L: d
        ",
    );
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
            SMALL,
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

// === AUTHENTICATE ===

#[test]
fn authenticate_with_and_without_initial_response() {
    for script in [
        "C: a AUTHENTICATE PLAIN
        S: +\u{20}
        C: AGFubgBwdw==
        E: plain ann as none with \"pw\"",
        "C: a authenticate plain AGFubgBwdw==
        E: plain ann as none with \"pw\"",
        "C: a AUTHENTICATE PLAIN Ym9iAGFubgBwdw==
        E: plain ann as bob with \"pw\"",
        "C: a AUTHENTICATE PLAIN YW5uAGFubgBwdw==
        E: plain ann as ann with \"pw\"",
        "C: a AUTHENTICATE PLAIN AGFubgA=
        E: plain ann as none with \"\"",
        "C: a AUTHENTICATE LOGIN
        S: + VXNlcm5hbWU6
        C: YW5u
        S: + UGFzc3dvcmQ6
        C: cHc=
        E: login ann as none with \"pw\"",
        "C: a AUTHENTICATE LOGIN YW5u
        S: + UGFzc3dvcmQ6
        C: cHc=
        E: login ann as none with \"pw\"",
        "C: a AUTHENTICATE LOGIN YW5u
        S: + UGFzc3dvcmQ6
        C:
        E: login ann as none with \"\"",
    ] {
        check(
            SMALL,
            ENCRYPTED,
            &[welcome()],
            &format!("{script}\nS: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in."),
        );
    }
}

/// A transcript up to the answer to `a`, and that answer.
const FAILED_EXCHANGES: &[(&str, &str)] = &[
    ("C: a AUTHENTICATE PLAIN\nS: + \nC: *", "BAD Cancelled."),
    (
        "C: a AUTHENTICATE LOGIN\nS: + VXNlcm5hbWU6\nC: *",
        "BAD Cancelled.",
    ),
    (
        "C: a AUTHENTICATE LOGIN YW5u\nS: + UGFzc3dvcmQ6\nC: *",
        "BAD Cancelled.",
    ),
    (
        "C: a AUTHENTICATE PLAIN\nS: + \nC: b LOGOUT",
        "BAD The response is not base64.",
    ),
    (
        "C: a AUTHENTICATE PLAIN\nS: + \nC: {3+}",
        "BAD The response is not base64.",
    ),
    (
        "C: a AUTHENTICATE PLAIN\nS: + \nC: ",
        "BAD The response does not follow the mechanism.",
    ),
    (
        "C: a AUTHENTICATE PLAIN =",
        "BAD The response does not follow the mechanism.",
    ),
    (
        "C: a AUTHENTICATE PLAIN AGFubgBwdwA=",
        "BAD The response does not follow the mechanism.",
    ),
    (
        "C: a AUTHENTICATE PLAIN AGFubgBwdw",
        "BAD The response is not base64.",
    ),
    (
        "C: a AUTHENTICATE PLAIN *",
        "BAD The response is not base64.",
    ),
    (
        "C: a AUTHENTICATE PLAIN AGFu bgBwdw==",
        "BAD The response is not base64.",
    ),
    (
        "C: a AUTHENTICATE PLAIN AGFubgk AHB3",
        "BAD The response is not base64.",
    ),
    (
        "C: a AUTHENTICATE PLAIN AGFubgkAcHc=",
        "NO [CANNOT] This is not a user name.",
    ),
    (
        "C: a AUTHENTICATE PLAIN CQBhbm4AcHc=",
        "NO [CANNOT] This is not a user name.",
    ),
    (
        "C: a AUTHENTICATE PLAIN AABwdw==",
        "NO [CANNOT] This is not a user name.",
    ),
    (
        "C: a AUTHENTICATE LOGIN =",
        "NO [CANNOT] This is not a user name.",
    ),
    (
        "C: a AUTHENTICATE CRAM-MD5",
        "NO [CANNOT] Unknown mechanism.",
    ),
    (
        "C: a AUTHENTICATE XOAUTH2 dXNlcj0=",
        "NO [CANNOT] Unknown mechanism.",
    ),
];

#[test]
fn an_exchange_that_fails_leaves_the_conversation_usable() {
    for (script, answer) in FAILED_EXCHANGES {
        check(
            SMALL,
            ENCRYPTED,
            &[],
            &format!("{script}\nS: a {answer}\nC: b NOOP\nS: b OK Nothing done."),
        );
    }
}

// === passwords in clear, STARTTLS ===

#[test]
fn passwords_are_not_taken_in_clear() {
    for command in [
        "LOGIN ann pw",
        "LOGIN ann",
        // The literal is not asked for: the name stays with the client.
        "LOGIN {3}",
        "LOGIN ann {2}",
        "LOGIN {3+}\\r\\nann {2+}\\r\\npw",
        "AUTHENTICATE PLAIN",
        "AUTHENTICATE PLAIN AGFubgBwdw==",
        "AUTHENTICATE LOGIN YW5u",
    ] {
        check(
            SMALL,
            STARTTLS,
            &[welcome()],
            &format!(
                "C: a {command}
                S: a NO [PRIVACYREQUIRED] Passwords are taken only on an encrypted connection.
                C: b NOOP
                S: b OK Nothing done."
            ),
        );
    }
    check(
        SMALL,
        STARTTLS,
        &[],
        "
        C: a LOGIN ann pw
        S: a NO [PRIVACYREQUIRED] Passwords are taken only on an encrypted connection.
        C: b LOGIN ann pw
        S: b NO [PRIVACYREQUIRED] Passwords are taken only on an encrypted connection.
        C: c LOGIN ann pw
        S: c NO [PRIVACYREQUIRED] Passwords are taken only on an encrypted connection.
        S: * BYE Too many bad commands.
        E: Misbehaved(\"bad-commands\")
        ",
    );
}

#[test]
fn what_came_in_clear_behind_starttls_is_never_executed() {
    for injected in [
        "",
        "b NOOP\\r\\n",
        "b LOGIN eve {100+}\\r\\n",
        "b AUTHENTICATE PLAIN\\r\\n",
        "b LOG",
        "\\x16\\x03\\x01",
    ] {
        check(
            SMALL,
            LOOPBACK,
            &[welcome()],
            &format!(
                "c: a STARTTLS\\r\\n{injected}
                S: a OK Begin TLS negotiation now.
                E: StartTls
                T:
                C: c CAPABILITY
                S: * CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID AUTH=PLAIN AUTH=LOGIN
                S: c OK Capabilities listed.
                C: d STARTTLS
                S: d BAD STARTTLS is not possible here.
                C: e LOGIN ann pw
                E: command ann as none with \"pw\"
                S: e OK [CAPABILITY IMAP4rev1 IDLE] Logged in."
            ),
        );
    }
}

#[test]
fn nothing_said_in_clear_counts_under_tls() {
    check(
        SMALL,
        LOOPBACK,
        &[wrong()],
        "
        C: a FOO
        S: a BAD Unknown command, or not before login.
        C: b FOO
        S: b BAD Unknown command, or not before login.
        C: c LOGIN ann pw
        E: command ann as none with \"pw\"
        S: c NO [AUTHENTICATIONFAILED] Wrong user name or password.
        C: d LOGIN ann pw
        E: command ann as none with \"pw\"
        S: d NO [AUTHENTICATIONFAILED] Wrong user name or password.
        C: e STARTTLS
        S: e OK Begin TLS negotiation now.
        E: StartTls
        T:
        C: f LOGIN ann pw
        E: command ann as none with \"pw\"
        S: f NO [AUTHENTICATIONFAILED] Wrong user name or password.
        C: g FOO
        S: g BAD Unknown command, or not before login.
        ",
    );
}

#[test]
fn starttls_is_refused_where_it_is_not_offered() {
    for channel in [PLAIN, ENCRYPTED] {
        check(
            SMALL,
            channel,
            &[],
            "C: a STARTTLS\nS: a BAD STARTTLS is not possible here.\nC: b NOOP\nS: b OK Nothing done.",
        );
    }
    check(
        SMALL,
        STARTTLS,
        &[],
        "C: a AUTHENTICATE CRAM-MD5\nS: a NO [CANNOT] Unknown mechanism.",
    );
}

// === denials and ends ===

#[test]
fn failed_logins_end_in_bye() {
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
        C: a LOGIN ann pw
        E: command ann as none with \"pw\"
        S: a NO [AUTHENTICATIONFAILED] Wrong user name or password.
        C: b AUTHENTICATE PLAIN Ym9iAGFubgBwdw==
        E: plain ann as bob with \"pw\"
        S: b NO [AUTHORIZATIONFAILED] You may not act as that user.
        C: c LOGIN ann pw
        E: command ann as none with \"pw\"
        S: c NO [UNAVAILABLE] Your mailbox is not reachable just now, please try again later.
        c: d LOGIN ann pw\\r\\ne LOGIN ann pw\\r\\n
        E: command ann as none with \"pw\"
        S: d NO [AUTHENTICATIONFAILED] Wrong user name or password.
        S: * BYE Too many failed logins.
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
        check(
            SMALL,
            PLAIN,
            slice::from_ref(&Answer::Deny(denial)),
            &script,
        );
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
