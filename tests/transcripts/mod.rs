//! What clients say before they log in, and what they hear: the transcripts in the folders beside this file, read.
//!
//! Two play them: the tests of `proto` against the machines alone, with every cut, and `hostile` in `tests/it` against the
//! built program, in plain and under TLS. Both know the same [`ACCOUNTS`].
//!
//! A file begins with what it shows. `#` begins a comment, a blank line ends a conversation. Lines of one:
//!
//! ```text
//! on: starttls tls    where it holds, up to the next such line: see Listener; `all` is plain, starttls and tls
//! each: NOOP => OK    it is played once for each such line; @1 and @2 stand for its parts
//! C: a NOOP           the client says a line
//! c: a NOOP\r\n       it says octets
//! S: a OK             the server says a line; [CAPABILITY ...] is whatever the real server can do
//! E: Logout           the driver of the machine sees an event
//! T:                  TLS is established
//! L: b NOOP\r\n       this is left to the real server, and what it answers is its own affair
//! ```
//!
//! In `C c S L`, `\r \n \0 \s \\ \xNN` are escapes; anywhere, `\(x*300)` is 300 times `x`. The greeting is not part of a
//! conversation. All limits are the default ones. What is no transcript fails the test that reads it.

use std::{fs, path::Path};

/// Somebody whom transcripts may log in: name, password, and what comes of it.
pub(crate) const ACCOUNTS: [(&str, &str, Standing); 7] = [
    ("Zo\u{eb}", "p\u{e4}ss", Standing::Served),
    ("a n", "  p w ", Standing::Served),
    ("ann", "pw", Standing::Served),
    ("gone", "pw", Standing::Away),
    ("lost", "pw", Standing::Misconfigured),
    ("off", "pw", Standing::Disabled),
    ("quo\"te\\", "\\\"{3}", Standing::Served),
];

/// What an account is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// Its node is not there.
    Away,
    /// It may not log in.
    Disabled,
    /// Its node does not serve it.
    Misconfigured,
    /// All is well.
    Served,
}

/// A kind of listener, as its client sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Listener {
    /// Knows no TLS and takes passwords.
    Plain,
    /// Offers STARTTLS and takes no passwords before it.
    Private,
    /// Offers STARTTLS and takes passwords all the same.
    Starttls,
    /// TLS from the first octet, or after STARTTLS.
    Tls,
}

/// A conversation.
#[derive(Debug)]
pub(crate) struct Script {
    /// File and line.
    pub(crate) name: String,
    pub(crate) on: Vec<Listener>,
    pub(crate) steps: Vec<Step>,
}

/// One line of it.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Client(Vec<u8>),
    Event(String),
    Left(Vec<u8>),
    Server(String),
    Tls,
}

/// Reads all transcripts of a protocol.
pub(crate) fn load(protocol: &str) -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = fs::read_dir(folder.join(protocol))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&folder).unwrap().display().to_string();
            read(&name, &fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn read(file: &str, text: &str) -> Vec<Script> {
    let mut scripts = Vec::new();
    let mut on = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    for (number, line) in (1..).zip(text.lines().chain([""])) {
        if !line.is_empty() {
            block.push(line);
            continue;
        }
        let mut values = Vec::new();
        block.retain(|line| {
            if let Some(words) = line.strip_prefix("on: ") {
                on = words.split(' ').flat_map(listeners).collect();
            } else if let Some(value) = line.strip_prefix("each:") {
                values.push(value.strip_prefix(' ').unwrap_or(value));
            } else {
                return !line.starts_with('#');
            }
            false
        });
        let said = block.join("\n");
        block.clear();
        if said.is_empty() {
            assert!(values.is_empty(), "{file}:{number}: each of nothing");
            continue;
        }
        if values.is_empty() {
            values.push("");
        }
        for value in values {
            let (first, second) = value.split_once(" => ").unwrap_or((value, ""));
            scripts.push(Script {
                name: format!("{file}, before line {number}, {value:?}"),
                on: on.clone(),
                steps: parse(&said.replace("@1", first).replace("@2", second)),
            });
        }
    }
    assert!(!scripts.is_empty(), "{file} has no conversation");
    scripts
}

fn listeners(word: &str) -> Vec<Listener> {
    match word {
        "all" => vec![Listener::Plain, Listener::Starttls, Listener::Tls],
        "plain" => vec![Listener::Plain],
        "private" => vec![Listener::Private],
        "starttls" => vec![Listener::Starttls],
        "tls" => vec![Listener::Tls],
        _ => panic!("{word:?} is no kind of listener"),
    }
}

/// Reads the lines of one conversation; blanks in front of them do not count.
pub(crate) fn parse(text: &str) -> Vec<Step> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let line = repeated(line);
            let (who, text) = line.split_at(2);
            let text = text.strip_prefix(' ').unwrap_or(text);
            match who {
                "C:" => Step::Client([unescaped(text).as_slice(), b"\r\n"].concat()),
                "c:" => Step::Client(unescaped(text)),
                "E:" => Step::Event(text.to_owned()),
                "L:" => Step::Left(unescaped(text)),
                "S:" => Step::Server(String::from_utf8(unescaped(text)).unwrap()),
                "T:" => Step::Tls,
                _ => panic!("{line}"),
            }
        })
        .collect()
}

/// Writes out each `\(text*number)`.
fn repeated(line: &str) -> String {
    let Some((before, rest)) = line.split_once("\\(") else {
        return line.to_owned();
    };
    let (repetition, after) = rest.split_once(')').unwrap();
    let (text, number) = repetition.rsplit_once('*').unwrap();
    before.to_owned() + &text.repeat(number.parse().unwrap()) + &repeated(after)
}

/// The octets that a text with escapes stands for.
pub(crate) fn unescaped(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            octets.push(octet);
            continue;
        }
        octets.push(match rest.next().unwrap() {
            b'r' => b'\r',
            b'n' => b'\n',
            b's' => b' ',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("\\{} is no escape", char::from(other)),
        });
    }
    octets
}
