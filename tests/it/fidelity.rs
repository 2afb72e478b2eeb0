//! What the proxy changes in a session: nothing.
//!
//! The scripts `fidelity/imap.txt` and `fidelity/pop3.txt` are said twice, on two fresh accounts of one node: directly at
//! the node's Dovecot, by a master login, and through front and node. What is heard after the answer to the login must
//! be the same, octet by octet, after [`normalise`]. Each script is said once command by command, each answered before
//! the next is sent, and once in a single write behind the login.
//!
//! A line of a script is a command, which gets the next tag. Others begin with a sign:
//!
//! | line | is |
//! | --- | --- |
//! | `#` | a comment |
//! | `-` | a command that is left out of the single write |
//! | `=tag ...` | a command with this tag |
//! | `@answer@...` | sent as it stands, answered by a line that begins so |
//! | `@⟨tag⟩@...` | a command whose last line announces a literal that never comes, as none is wished for |
//!
//! In it stand `⏎` for CR LF, `␣` for a blank at an end, `⟨hh⟩` for an octet, `⟦name⟧` for a literal with the message or
//! text of that name, `⟦name+⟧` for one that waits for no `+`. At the end of the IMAP script said one by one stands
//! COMPRESS; commands in stored blocks (RFC 1951, 3.2.4) follow, and what is heard is inflated.
//!
//! What differs by right stays outside: the greeting, and the answer to the login itself.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    client::{Channel, Client},
    lab::{Cluster, Kind, MASTER_PASSWORD, NodeSpec, User},
};

const IMAP: &str = include_str!("fidelity/imap.txt");
const POP3: &str = include_str!("fidelity/pop3.txt");
const COMPRESS_PLUGIN: &str = "protocol imap {\n  mail_plugins = $mail_plugins imap_zlib\n}\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// How a script is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pace {
    AllAtOnce,
    OneByOne,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Imap,
    Pop3,
}

// === scripts ===

/// What is sent, and what is awaited after it.
#[derive(Debug)]
struct Step {
    /// After each but the last the server must wish for more.
    pieces: Vec<Vec<u8>>,
    /// How the line begins that ends the answer.
    answer: String,
}

fn parse(script: &str, protocol: Protocol, pace: Pace) -> Vec<Step> {
    let lines = script
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    // Where an answer fills the connection, Dovecot begins the next one before it ends the first, or not.
    let lines = lines.filter_map(|line| match line.strip_prefix('-') {
        Some(line) => (pace == Pace::OneByOne).then_some(line),
        None => Some(line),
    });
    lines
        .zip(1..)
        .map(|(line, number)| {
            let tag = format!("t{number}");
            let (answer, line) = match (line.strip_prefix('@'), line.strip_prefix('=')) {
                (Some(rest), _) => match rest.split_once('@').unwrap() {
                    ("⟨tag⟩", rest) => (format!("{tag} "), format!("{tag} {rest}")),
                    (answer, rest) => (answer.to_owned(), rest.to_owned()),
                },
                (_, Some(rest)) => {
                    let tag = rest.split(' ').next().unwrap();
                    (format!("{tag} "), rest.to_owned())
                }
                _ if protocol == Protocol::Pop3 => (String::new(), line.to_owned()),
                _ => (format!("{tag} "), format!("{tag} {line}")),
            };
            Step {
                pieces: pieces(&format!("{line}⏎")),
                answer,
            }
        })
        .collect()
}

/// The octets of a line, cut where the server must say `+`.
fn pieces(line: &str) -> Vec<Vec<u8>> {
    let mut pieces = vec![Vec::new()];
    let mut rest = line;
    while let Some(sign) = rest.chars().next() {
        rest = &rest[sign.len_utf8()..];
        let piece = pieces.last_mut().unwrap();
        match sign {
            '⏎' => {
                piece.extend_from_slice(b"\r\n");
                let waits = piece.ends_with(b"}\r\n") && !piece.ends_with(b"+}\r\n")
                    || piece.ends_with(b" IDLE\r\n");
                if waits && !rest.is_empty() {
                    pieces.push(Vec::new());
                }
            }
            '␣' => piece.push(b' '),
            '⟨' => {
                let (octet, after) = rest.split_once('⟩').unwrap();
                piece.push(u8::from_str_radix(octet, 16).unwrap());
                rest = after;
            }
            '⟦' => {
                let (name, after) = rest.split_once('⟧').unwrap();
                rest = after;
                if name == "long-line" {
                    piece.extend(std::iter::repeat_n(b'x', 70_000));
                    continue;
                }
                let plain = name.trim_end_matches('+');
                let content = content(plain);
                let plus = &name[plain.len()..];
                piece.extend_from_slice(format!("{{{}{plus}}}\r\n", content.len()).as_bytes());
                if plus.is_empty() {
                    pieces.push(content);
                } else {
                    piece.extend_from_slice(&content);
                }
            }
            _ => piece.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    pieces
}

/// What a name in a script stands for.
fn content(name: &str) -> Vec<u8> {
    let head = |number: u32, subject: &str| {
        format!(
            "From: Somebody <a@example.org>\r\nTo: b@example.org, \"C. C.\" <c@example.org>\r\nCc: d@example.org\r\n\
             Date: Fri, 0{number} Jan 2026 00:00:0{number} +0000\r\nMessage-ID: <{number}@example.org>\r\n\
             Subject: {subject}\r\n"
        )
        .into_bytes()
    };
    match name {
        "literal" => b"lit \"eral\"".to_vec(),
        "utf8" => "Öl".as_bytes().to_vec(),
        "long" => vec![b'y'; 10_000],
        "small" => [head(1, "small"), b"\r\nHello.\r\n".to_vec()].concat(),
        "nasty" => nasty(head(2, "nasty")),
        "mime" => [head(3, "=?utf-8?q?=C3=96l?="), MIME.to_vec()].concat(),
        "reply" => [
            head(4, "Re: small"),
            b"In-Reply-To: <1@example.org>\r\nReferences: <0@example.org> <1@example.org>\r\n\r\nYes.\r\n".to_vec(),
        ]
        .concat(),
        "binary" => [
            head(6, "binary"),
            b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\
              Content-Transfer-Encoding: base64\r\n\r\nAAECAwQFBgcICQoLDA0ODw==\r\n"
                .to_vec(),
        ]
        .concat(),
        "large" => large(head(7, "large")),
        _ => panic!("nothing is called {name}"),
    }
}

fn nasty(mut message: Vec<u8>) -> Vec<u8> {
    message.extend_from_slice(b"X-Octets: \xe4\xf6\xfc\r\n\r\nA lone dot:\r\n.\r\n..\r\n.dot\r\n");
    message.extend_from_slice(b"t1 OK done\r\n+ go on\r\n* BYE\r\n{10}\r\n+OK\r\n-ERR\r\n");
    message.extend(0x80..=0xffu8);
    message.extend_from_slice(b"\r\n");
    message.extend((0u8..26).cycle().take(20_000).map(|letter| b'a' + letter));
    message.extend_from_slice(b"\r\n\r\n.\r\n");
    message
}

fn large(mut message: Vec<u8>) -> Vec<u8> {
    message.extend_from_slice(b"\r\n");
    for number in 0u64..20_000 {
        let scrambled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        message
            .extend_from_slice(format!("{number:020} {scrambled:016x} and so on\r\n").as_bytes());
    }
    message
}

const MIME: &[u8] = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_b\"\r\n\r\n\
Before all parts.\r\n--=_b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\
Content-Language: en, de\r\n\r\nA =C3=96l.\r\n--=_b\r\nContent-Type: application/octet-stream; name=\"a b.bin\"\r\n\
Content-Disposition: attachment; filename=\"a b.bin\"; size=4\r\nContent-Transfer-Encoding: base64\r\n\
Content-MD5: abc\r\nContent-ID: <part@example.org>\r\n\r\nAP8KDQ==\r\n--=_b\r\nContent-Type: message/rfc822\r\n\r\n\
From: e@example.org\r\nSubject: inside\r\nContent-Type: text/html\r\n\r\n<p>inside</p>\r\n--=_b--\r\nAfter all parts.\r\n";

// === a session ===

/// A connection that keeps all it hears.
struct Talk {
    stream: TcpStream,
    heard: Vec<u8>,
    /// Up to here it was looked at.
    at: usize,
}

impl Talk {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            heard: Vec::new(),
            at: 0,
        }
    }

    fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).unwrap();
    }

    /// Reads what there is; false at the end.
    fn fill(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.heard.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) => panic!("{error}, after {}", self.end()),
        }
    }

    /// The last that was heard, for people.
    fn end(&self) -> String {
        let start = self.heard.len().saturating_sub(300);
        self.heard[start..].escape_ascii().to_string()
    }

    /// The next line as it came.
    fn line(&mut self) -> Vec<u8> {
        loop {
            let unseen = &self.heard[self.at..];
            if let Some(end) = unseen.windows(2).position(|pair| pair == b"\r\n") {
                let line = unseen[..end].to_vec();
                self.at += end + 2;
                return line;
            }
            assert!(self.fill(), "closed after {}", self.end());
        }
    }

    /// Reads responses up to one that begins in one of two ways; whether it was the first.
    fn response(&mut self, first: &str, second: &str) -> bool {
        loop {
            let mut line = self.line();
            let found = [first, second].map(|start| line.starts_with(start.as_bytes()));
            while let Some(length) = literal_length(&line) {
                while self.heard.len() - self.at < length {
                    assert!(self.fill(), "closed after {}", self.end());
                }
                self.at += length;
                line = self.line();
            }
            if found != [false; 2] {
                return found[0];
            }
        }
    }

    /// All up to the end, from a place on.
    fn rest(mut self, start: usize) -> Vec<u8> {
        while self.fill() {}
        self.heard.split_off(start)
    }

    fn say_imap(&mut self, steps: &[Step]) {
        for step in steps {
            for (number, piece) in (1..).zip(&step.pieces) {
                self.send(piece);
                let more = if number == step.pieces.len() {
                    // Never at the beginning of a line.
                    "\r"
                } else {
                    "+"
                };
                if self.response(&step.answer, more) {
                    break;
                }
            }
        }
    }

    fn say_pop3(&mut self, steps: &[Step]) {
        for step in steps {
            let command = &step.pieces[0];
            self.send(command);
            let line = self.line();
            let words: Vec<&[u8]> = command.trim_ascii().split(|octet| *octet == b' ').collect();
            let long = match words[0].to_ascii_uppercase().as_slice() {
                b"CAPA" | b"RETR" | b"TOP" => true,
                b"LIST" | b"UIDL" => words.len() == 1,
                _ => false,
            };
            while long && line.starts_with(b"+OK") && self.line() != b"." {}
        }
    }
}

/// `{123}` or `~{123}` at the end of a line.
fn literal_length(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"}")?;
    let start = line.iter().rposition(|octet| *octet == b'{')?;
    std::str::from_utf8(&line[start + 1..]).ok()?.parse().ok()
}

/// Logs in by SASL PLAIN, says the script and returns all that was heard behind the answer to the login.
fn session(
    address: SocketAddr,
    protocol: Protocol,
    pace: Pace,
    credentials: &str,
    steps: &[Step],
) -> Vec<u8> {
    let mut talk = Talk::connect(address);
    talk.line();
    let response = STANDARD.encode(credentials);
    let (login, ok) = match protocol {
        Protocol::Imap => (
            format!("login AUTHENTICATE PLAIN {response}\r\n"),
            "login OK ",
        ),
        Protocol::Pop3 => (format!("AUTH PLAIN {response}\r\n"), "+OK"),
    };
    let sender = if pace == Pace::AllAtOnce {
        let mut stream = talk.stream.try_clone().unwrap();
        let commands = steps.iter().flat_map(|step| step.pieces.concat());
        let all: Vec<u8> = login.bytes().chain(commands).collect();
        Some(thread::spawn(move || stream.write_all(&all)))
    } else {
        talk.send(login.as_bytes());
        None
    };
    let answer = talk.line();
    assert!(
        answer.starts_with(ok.as_bytes()),
        "{}",
        answer.escape_ascii()
    );
    let start = talk.at;
    match (sender, protocol) {
        (Some(sender), _) => {
            let heard = talk.rest(start);
            sender.join().unwrap().unwrap();
            heard
        }
        (None, Protocol::Imap) => {
            talk.say_imap(steps);
            let deflated = talk.at;
            talk.send(&deflated_commands());
            let mut heard = talk.rest(start);
            let deflated = heard.split_off(deflated - start);
            heard.extend_from_slice(&inflated(deflated));
            heard
        }
        (None, Protocol::Pop3) => {
            talk.say_pop3(steps);
            talk.rest(start)
        }
    }
}

/// How a script ends. Dovecot stops answering when octets for COMPRESS come with the command itself.
fn last(protocol: Protocol, pace: Pace) -> &'static str {
    match (protocol, pace) {
        (Protocol::Imap, Pace::AllAtOnce) => "LOGOUT",
        (Protocol::Imap, Pace::OneByOne) => "COMPRESS DEFLATE",
        (Protocol::Pop3, _) => "QUIT",
    }
}

/// Commands for a connection with COMPRESS, in blocks that are stored.
fn deflated_commands() -> Vec<u8> {
    [
        "c1 NOOP",
        "c2 SELECT INBOX",
        "c3 FETCH 1:* BODY.PEEK[]",
        "c4 LOGOUT",
    ]
    .iter()
    .flat_map(|command| {
        let line = format!("{command}\r\n");
        let length = u16::try_from(line.len()).unwrap();
        [
            &[0][..],
            &length.to_le_bytes(),
            &(!length).to_le_bytes(),
            line.as_bytes(),
        ]
        .concat()
    })
    .collect()
}

fn inflated(deflated: Vec<u8>) -> Vec<u8> {
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", "import sys, zlib; i, o = sys.stdin.buffer, sys.stdout.buffer; o.write(zlib.decompressobj(-15).decompress(i.read()))"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = python.stdin.take().unwrap();
    let writer = thread::spawn(move || input.write_all(&deflated));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

// === comparison ===

/// Takes out what differs between two sessions by right, and nothing else:
///
/// - how long a command took, `(0.001 + 0.000 secs)`;
/// - the UIDVALIDITY of a mailbox, which is the second in which it was made: in `UIDVALIDITY 123`, `[APPENDUID 123 ...]`,
///   `[COPYUID 123 ...]`, and as the second half of the 16 hexadecimal digits that Dovecot's POP3 calls a message by.
fn normalise(heard: &[u8], protocol: Protocol) -> Vec<u8> {
    let mut text = Vec::with_capacity(heard.len());
    for line in heard.split_inclusive(|octet| *octet == b'\n') {
        let line = without_times(line.to_vec());
        let line = match protocol {
            Protocol::Imap => ["UIDVALIDITY ", "[APPENDUID ", "[COPYUID "]
                .iter()
                .fold(line, |line, before| without_number(&line, before)),
            Protocol::Pop3 => without_hexadecimal(line),
        };
        text.extend_from_slice(&line);
    }
    text
}

fn without_times(line: Vec<u8>) -> Vec<u8> {
    let Some(length) = line.strip_suffix(b" secs).\r\n").map(<[u8]>::len) else {
        return line;
    };
    let start = line[..length]
        .iter()
        .rposition(|octet| *octet == b'(')
        .unwrap();
    let is_time = line[start + 1..length]
        .iter()
        .all(|octet| octet.is_ascii_digit() || b". +".contains(octet));
    if is_time {
        [&line[..=start], b"#", &line[length..]].concat()
    } else {
        line
    }
}

fn without_number(line: &[u8], before: &str) -> Vec<u8> {
    let Some(found) = line
        .windows(before.len())
        .position(|part| part == before.as_bytes())
    else {
        return line.to_vec();
    };
    let start = found + before.len();
    let digits = line[start..]
        .iter()
        .take_while(|octet| octet.is_ascii_digit())
        .count();
    let rest = without_number(&line[start + digits..], before);
    [&line[..start], b"#", &rest].concat()
}

fn without_hexadecimal(line: Vec<u8>) -> Vec<u8> {
    let Some(text) = line.strip_suffix(b"\r\n") else {
        return line;
    };
    let start = text.len().saturating_sub(16);
    let is_name = text.len() > 16
        && text[start - 1] == b' '
        && text[start..].starts_with(b"0000")
        && text[start..].iter().all(u8::is_ascii_hexdigit);
    if is_name {
        [&text[..start + 8], b"#\r\n"].concat()
    } else {
        line
    }
}

#[track_caller]
fn assert_same(case: &str, direct: &[u8], proxied: &[u8]) {
    let direct: Vec<_> = direct.split_inclusive(|octet| *octet == b'\n').collect();
    let proxied: Vec<_> = proxied.split_inclusive(|octet| *octet == b'\n').collect();
    let show = |lines: &[&[u8]], at: usize| {
        let end = lines.len().min(at + 2);
        lines[at.saturating_sub(3).min(end)..end]
            .iter()
            .map(|line| format!("  {}\n", line[..line.len().min(300)].escape_ascii()))
            .collect::<String>()
    };
    let at = direct
        .iter()
        .zip(&proxied)
        .take_while(|(one, other)| one == other)
        .count();
    assert!(
        at == direct.len() && at == proxied.len(),
        "{case}: line {at} of {} and {}\ndirectly:\n{}through the proxy:\n{}",
        direct.len(),
        proxied.len(),
        show(&direct, at),
        show(&proxied, at)
    );
}

/// Says a script at a node in both ways and at both paces.
fn compare(kind: Kind, protocol: Protocol, script: &str, at_least: usize) {
    let users: Vec<User> = (0..)
        .zip(["one-direct", "one-proxied", "all-direct", "all-proxied"])
        .map(|(index, name)| User::new(name, "n", 20001 + index))
        .collect();
    let mut builder = Cluster::build().node(NodeSpec::new("n", kind).dovecot(COMPRESS_PLUGIN));
    for user in &users {
        builder = builder.user(user);
    }
    let mut cluster = builder.start();
    for user in &users {
        // The acceptor makes homes, and Dovecot does not.
        Client::logged_in(&cluster, Channel::Plain, user)
            .command("LOGOUT")
            .ok();
    }
    if protocol == Protocol::Pop3 {
        for user in &users {
            for name in ["small", "nasty", "large"] {
                cluster.deliver(user, &content(name));
            }
        }
    }
    let dovecot = &cluster.node("n").dovecot;
    let (direct, front) = match protocol {
        Protocol::Imap => (dovecot.address, cluster.imap()),
        Protocol::Pop3 => (dovecot.pop3, cluster.pop3()),
    };
    for (pace, users) in [Pace::OneByOne, Pace::AllAtOnce]
        .into_iter()
        .zip(users.chunks(2))
    {
        let steps = parse(&(script.to_owned() + last(protocol, pace)), protocol, pace);
        assert!(steps.len() >= at_least, "{} commands", steps.len());
        let master = format!("{}\0acceptor\0{MASTER_PASSWORD}", users[0].name);
        let direct = session(direct, protocol, pace, &master, &steps);
        let last = direct
            .trim_ascii_end()
            .rsplit(|octet| *octet == b'\n')
            .next();
        let last = String::from_utf8_lossy(last.unwrap()).to_ascii_lowercase();
        assert!(
            last.contains("ok log"),
            "the whole script was not said: {last}"
        );
        let own = format!("\0{}\0{}", users[1].name, users[1].password);
        let proxied = session(front, protocol, pace, &own, &steps);
        assert_same(
            &format!("{kind:?} {protocol:?} {pace:?}"),
            &normalise(&direct, protocol),
            &normalise(&proxied, protocol),
        );
    }
}

#[test]
fn imap_at_a_node_of_kind_login() {
    compare(Kind::Login, Protocol::Imap, IMAP, 250);
}

#[test]
fn imap_at_a_node_of_kind_dovecot_imap_master() {
    compare(Kind::ImapMaster, Protocol::Imap, IMAP, 250);
}

#[test]
fn pop3() {
    compare(Kind::Login, Protocol::Pop3, POP3, 60);
}
