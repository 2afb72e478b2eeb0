//! Names that mean something in a filter (RFC 4515), in a DN (RFC 4514) or in our own templates, against a real slapd: a name is
//! one value, whatever it is made of. Nobody has such a name, or exactly one account has it, and nobody else logs in by it.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

use super::*;

/// Each is nobody, although a filter into which it was put as it is would find somebody.
const ATTACKS: [&str; 22] = [
    "*",
    "**",
    "an*",
    "*n",
    "a*n",
    "ann)(uid=*",
    "ann)(objectClass=*",
    "*)(uid=*))(|(uid=*",
    "x)(|(uid=ann)",
    "ann))",
    "ann)(!(uid=x))",
    "x)(!(uid=x)",
    "ann)%00",
    "\\2a",
    "\\2A",
    "\\61nn",
    "a\\6en",
    "\\",
    "ann\\",
    "ann\\00",
    ":caseExactMatch:=ann",
    "ann)(uid:dn:2.5.13.2:=ann",
];

/// Names that are unlike each other for slapd, too, which takes case, blanks around and composition for nothing.
const NAMES: [&str; 58] = [
    "*",
    "**",
    "a*",
    "*)",
    "(",
    ")",
    "()",
    "(uid=*)",
    "\\",
    "\\\\",
    "\\2a",
    "\\5c2a",
    "\\0",
    "&",
    "|",
    "!",
    "=",
    "==",
    "<",
    ">",
    ">=",
    "~=",
    "~",
    "a=b",
    "uid=a",
    "cn=ann,ou=people,dc=example,dc=org",
    "a,b",
    ",",
    "a+b",
    "+",
    "+mail=x",
    ";",
    "a;binary",
    "\"",
    "\"a\"",
    "'",
    "'a'",
    "#",
    "#04024869",
    "a#",
    "/",
    "a/b",
    "..",
    "%",
    "%u",
    "%n@%d",
    "%%",
    "a@b@c",
    "@",
    "a b",
    "$(id)",
    "`id`",
    // Two, three and four octets, and a letter that is composed of two.
    "\u{e9}",
    "\u{20ac}",
    "\u{1f54a}",
    "n\u{303}",
    "\u{5d0}",
    "\u{202e}ann",
];

/// Those that are not somebody's name, too.
fn unnamed() -> impl Iterator<Item = &'static str> {
    let is_nobody = |attack: &&str| !NAMES.contains(&&*attack.to_lowercase());
    ATTACKS.into_iter().filter(is_nobody)
}

/// Names that slapd takes for others, and whose.
const ALIKE: [(&str, &str); 9] = [
    ("  a   b ", "a b"),
    (" *", "*"),
    ("* ", "*"),
    ("e\u{301}", "\u{e9}"),
    ("E\u{301}", "\u{e9}"),
    ("\u{c9}", "\u{e9}"),
    ("\u{f1}", "n\u{303}"),
    ("A;Binary", "a;binary"),
    ("%U", "%u"),
];

fn password(name: &str) -> String {
    format!("password of {name}")
}

/// The name as the value of an RDN: every octet escaped.
fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, octet| {
        write!(text, "\\{octet:02x}").unwrap();
        text
    })
}

/// An entry of each name, called by its name, unless that is longer than slapd's database takes a DN.
fn named<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let entry = |name: &str| {
        let rdn = if name.len() < 100 {
            format!("uid={}", escaped(name))
        } else {
            format!("cn={} octets", name.len())
        };
        let hash = STANDARD.encode(Sha1::digest(password(name)));
        format!(
            "dn: {rdn},{PEOPLE}\nobjectClass: inetOrgPerson\nsn: x\ncn: x\nuid:: {}\nuserPassword: {{SHA}}{hash}\n\n",
            STANDARD.encode(name)
        )
    };
    names.map(entry).collect()
}

/// Filters with places in every position, each for the same names.
const FILTERS: [&str; 4] = [
    "(uid=%u)",
    "(&(objectClass=inetOrgPerson)(|(uid=%u)(mail=%u)))",
    "(|(!(!(uid=%u)))(mail=%u@example.org))",
    "(&(uid=%u)(!(cn=%u)))",
];

fn filtered(slapd: &Slapd, verify: Verify, filter: &str) -> Directory {
    start(but(settings(slapd.uri(), verify), |ldap| {
        ldap.schema.filters = vec![filter.to_owned()];
    }))
}

#[tokio::test]
async fn an_attack_is_nobody() {
    let slapd = Slapd::new();
    for filter in FILTERS {
        let directory = filtered(&slapd, Verify::Bind, filter);
        // But for the one that would not have her.
        let ann = if filter.contains("cn=") {
            "unknown user"
        } else {
            "ok Ann"
        };
        assert_eq!(log_in(&directory, "ann", "secret").await, ann);
        let long = "\u{1f54a}".repeat(63) + "***";
        let names = ATTACKS.into_iter().chain(NAMES).chain([long.as_str()]);
        for name in names {
            for password in ["secret", "*"] {
                let answer = log_in(&directory, name, password).await;
                assert_eq!(answer, "unknown user", "{name:?} by {filter}");
            }
        }
    }
}

/// These never come as far as a filter.
#[test]
fn names_with_control_characters_or_too_long_are_none() {
    for name in [
        "ann\0", "\0", "a\0*", "ann\r\n", "\r\nann", "a\tb", "\u{7f}", "\u{85}",
    ] {
        assert!(Login::parse(name).is_err(), "{name:?}");
        assert!(Address::parse(name).is_err(), "{name:?}");
        assert!(
            Address::parse(&format!("\"{name}\"@example.org")).is_err(),
            "{name:?}"
        );
    }
    for octets in [
        &b"\xff"[..],
        b"ann\xc0\xaa",
        b"\xed\xa0\x80",
        b"\xf8\x88\x80\x80\x80",
    ] {
        assert!(Login::from_bytes(octets).is_err(), "{octets:?}");
    }
    assert!(Login::parse(&"*".repeat(255)).is_ok());
    assert!(Login::parse(&"*".repeat(256)).is_err());
}

#[tokio::test]
async fn each_logs_in_by_exactly_his_name() {
    let (stars, letters) = ("*".repeat(255), "\u{1f54b}".repeat(63) + ",+");
    let names: Vec<_> = NAMES.into_iter().chain([&*stars, &*letters]).collect();
    let slapd = Slapd::with_schema("", &named(names.iter().copied()));
    for verify in [Verify::Bind, Verify::Hash] {
        for filter in &FILTERS[..2] {
            let directory = filtered(&slapd, verify, filter);
            for (at, name) in names.iter().enumerate() {
                let ours = log_in(&directory, name, &password(name)).await;
                assert_eq!(ours, format!("ok {name}"));
                let next = names[(at + 1) % names.len()];
                let other = log_in(&directory, name, &password(next)).await;
                assert_eq!(other, "wrong password", "{name:?}");
            }
            for (like, name) in ALIKE {
                // By the name that the directory has, never by what was typed.
                let answer = log_in(&directory, like, &password(name)).await;
                assert_eq!(answer, format!("ok {name}"), "{like:?}");
            }
            for attack in unnamed() {
                let answer = log_in(&directory, attack, &password("*")).await;
                assert_eq!(answer, "unknown user", "{attack:?}");
            }
        }
    }
}

/// An address for this name at a domain, and its local part in quotes where it needs them.
fn addresses(name: &str) -> [Result<Address, crate::proto::lmtp::AddressError>; 2] {
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    [
        Address::parse(&format!("{name}@example.org")),
        Address::parse(&format!("\"{quoted}\"@example.org")),
    ]
}

#[tokio::test]
async fn mail_goes_to_exactly_that_address() {
    let owned: Vec<_> = NAMES
        .iter()
        .map(|name| format!("{name}@example.org"))
        .collect();
    let slapd = Slapd::with_schema("", &named(owned.iter().map(String::as_str)));
    let directory = start(settings(slapd.uri(), Verify::Bind));
    let (mut plain, mut quoted) = (0, 0);
    for (name, owner) in NAMES.iter().zip(&owned) {
        let [as_is, in_quotes] = addresses(name);
        plain += usize::from(as_is.is_ok());
        quoted += usize::from(in_quotes.is_ok());
        // What is quoted by itself is the name in quotes.
        let as_is = as_is.ok().filter(|_| !name.starts_with('"'));
        for address in as_is.into_iter().chain(in_quotes.ok()) {
            let found = directory.find_recipient(&address).await;
            let found = found.map(|account| account.name.as_str().to_owned());
            assert_eq!(found.as_ref().ok(), Some(owner), "{address}: {found:?}");
        }
    }
    // What the parser lets through.
    assert_eq!((plain, quoted), (34, NAMES.len()));
    for attack in unnamed() {
        for address in addresses(attack).into_iter().flatten() {
            let found = directory.find_recipient(&address).await;
            assert!(
                matches!(found, Err(LookupError::Wrong(Wrong::Unknown))),
                "{address}: {found:?}"
            );
        }
    }
}
