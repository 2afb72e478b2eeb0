//! Programs that people use, each run as they run it, in every TLS mode that it has.
//!
//! A [`Bench`] is one cluster with an account for each case: protocol, channel, and home (`n1` of kind `login`, `n2` of
//! kind `dovecot-imap-master`). Each inbox holds the same three messages; one is nasty, one large. A test runs its
//! client on each case, compares octet by octet what arrived, and asks the front's log whether that was the protocol,
//! the channel and the node that were meant. A client that can verify certificates does, and must refuse the
//! certificate of somebody else's authority.
//!
//! | client | protocols | files |
//! | --- | --- | --- |
//! | curl | IMAP, POP3 | `curl` |
//! | fetchmail, getmail | IMAP, POP3 | `fetch` |
//! | mbsync, offlineimap | IMAP | `sync` |
//! | mutt, neomutt | IMAP; IMAP, POP3 | `mutt` |
//! | imapflow, node-pop3 | IMAP; POP3 | `node`, `npm/` |
//! | Python's imaplib and poplib | IMAP; POP3 | `python`, `imap.py`, `pop3.py` |
//!
//! A client that is not there fails its test; one that hangs is ended after [`PATIENCE`].

mod curl;
mod fetch;
mod mutt;
mod node;
mod python;
mod sync;

use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::{
    client::Channel,
    lab::{Cluster, User, eventually},
};

/// How long a client may run, in seconds, as `timeout` reads it.
const PATIENCE: &str = "60";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Imap,
    Pop3,
}

/// One way to one mailbox.
#[derive(Debug)]
struct Case {
    protocol: Protocol,
    channel: Channel,
    user: User,
    address: SocketAddr,
    /// A folder of its own, which the client takes for its home.
    dir: PathBuf,
    /// Its client was seen to refuse a foreign authority.
    distrusts: Cell<bool>,
}

/// A cluster, and an account for each case.
#[derive(Debug)]
struct Bench {
    cluster: Cluster,
    cases: Vec<Case>,
    messages: Vec<Vec<u8>>,
}

impl Bench {
    /// Every channel of every protocol, at both nodes.
    fn start(ways: &[(Protocol, &[Channel])]) -> Self {
        let mut users = Vec::new();
        let mut builder = Cluster::usual();
        for (protocol, channels) in ways {
            for channel in *channels {
                for node in ["n1", "n2"] {
                    let name = format!("{protocol:?}-{channel:?}-{node}").to_lowercase();
                    let uid = 20001 + u32::try_from(users.len()).unwrap();
                    let user = User::new(&name, node, uid);
                    builder = builder.user(&user);
                    users.push((*protocol, *channel, user));
                }
            }
        }
        let cluster = builder.start();
        let messages = messages();
        let cases = users
            .into_iter()
            .map(|(protocol, channel, user)| {
                for message in &messages {
                    cluster.deliver(&user, message);
                }
                let dir = cluster.scratch().join(&user.name);
                fs::create_dir(&dir).unwrap();
                let address = match (protocol, channel) {
                    (Protocol::Imap, Channel::Implicit) => cluster.imaps(),
                    (Protocol::Imap, Channel::Plain | Channel::StartTls) => cluster.imap(),
                    (Protocol::Pop3, Channel::Implicit) => cluster.pop3s(),
                    (Protocol::Pop3, Channel::Plain | Channel::StartTls) => cluster.pop3(),
                };
                Case {
                    protocol,
                    channel,
                    user,
                    address,
                    dir,
                    distrusts: Cell::new(channel == Channel::Plain),
                }
            })
            .collect();
        Self {
            cluster,
            cases,
            messages,
        }
    }

    /// Runs a client with the right authority; the first time with a wrong one before, which it must not believe.
    #[track_caller]
    fn run(&self, case: &Case, client: impl Fn(&Path) -> Command) -> Output {
        if !case.distrusts.replace(true) {
            let mut command = client(&self.cluster.foreign_ca_file());
            let output = output(&mut command);
            assert!(
                !output.status.success() && self.cluster.sessions(&case.user.name).is_empty(),
                "{}: {command:?} believes a foreign authority\n{}",
                case.user.name,
                said(&output)
            );
        }
        let mut command = client(&self.cluster.ca_file());
        let output = output(&mut command);
        assert!(
            output.status.success(),
            "{}: {command:?}: {}\n{}",
            case.user.name,
            output.status,
            said(&output)
        );
        output
    }

    /// The front's log has sessions of this case, each of them as it was meant.
    #[track_caller]
    fn sessions_were_as_meant(&self, case: &Case) {
        let Case {
            protocol,
            channel,
            user,
            ..
        } = case;
        let protocol = format!(" protocol={protocol:?} ").to_lowercase();
        let node = format!(" node={} ", user.node);
        eventually("the session's line", || {
            !self.cluster.sessions(&user.name).is_empty()
        });
        for line in self.cluster.sessions(&user.name) {
            assert!(
                line.contains(&protocol)
                    && line.contains(&node)
                    && line.contains(" outcome=served ")
                    && line.contains(" tls=TLS") == (*channel != Channel::Plain),
                "{}: {line}",
                user.name
            );
        }
    }

    /// What the node keeps of an account's inbox now, as a folder of files with their lines ended as Unix does.
    fn kept(&self, case: &Case) -> Vec<Vec<u8>> {
        maildir(&self.cluster.home(&case.user).join("Maildir"))
            .iter()
            .map(|message| unix(message))
            .collect()
    }

    /// The messages as a client on Unix writes them to its files.
    fn unix_messages(&self) -> Vec<Vec<u8>> {
        self.messages.iter().map(|message| unix(message)).collect()
    }
}

impl Case {
    fn host(&self) -> String {
        self.address.ip().to_string()
    }

    fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// A program that thinks itself at home in the case's folder, with the words of this machine in English.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", PATIENCE, name])
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Writes a file that only its owner may read, as clients want their configuration.
    fn write(&self, name: &str, content: &str) -> PathBuf {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let path = self.dir.join(name);
        fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()))
            .unwrap();
        path
    }

    /// An empty Maildir in its folder.
    fn make_maildir(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        for folder in ["cur", "new", "tmp"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        path
    }
}

fn output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// All messages in `cur` and `new`.
fn maildir(path: &Path) -> Vec<Vec<u8>> {
    ["cur", "new"]
        .iter()
        .flat_map(|folder| files(&path.join(folder)))
        .collect()
}

/// The contents of all files in a folder.
fn files(path: &Path) -> Vec<Vec<u8>> {
    fs::read_dir(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect()
}

/// CR LF becomes LF; a CR elsewhere stays.
fn unix(message: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(message.len());
    for (index, octet) in message.iter().enumerate() {
        if *octet != b'\r' || message.get(index + 1) != Some(&b'\n') {
            text.push(*octet);
        }
    }
    text
}

/// The same messages, in whatever order.
#[track_caller]
fn assert_same(case: &Case, mut found: Vec<Vec<u8>>, expected: &[Vec<u8>]) {
    let mut expected = expected.to_vec();
    found.sort();
    expected.sort();
    // Not assert_eq: nobody wants to see them whole.
    for (found, expected) in found.iter().zip(&expected) {
        if found == expected {
            continue;
        }
        let at = found
            .iter()
            .zip(expected)
            .take_while(|(a, b)| a == b)
            .count();
        let part = |message: &[u8]| {
            let end = message.len().min(at + 60);
            message[at.saturating_sub(60)..end]
                .escape_ascii()
                .to_string()
        };
        panic!(
            "{}: {} octets for {}, not the same from {at}:\n{}\n{}",
            case.user.name,
            found.len(),
            expected.len(),
            part(found),
            part(expected)
        );
    }
    assert_eq!(found.len(), expected.len(), "{}", case.user.name);
}

/// What each inbox holds: an ordinary message, a nasty one, a large one.
fn messages() -> Vec<Vec<u8>> {
    let head = |subject: &str, number: u32| {
        format!(
            "Return-Path: <a@example.org>\r\nFrom: Somebody <a@example.org>\r\nTo: b@example.org\r\nDate: Thu, 01 Jan 2026 00:00:0{number} +0000\r\n\
             Message-ID: <{number}.of.a.test@example.org>\r\nSubject: {subject}\r\n"
        )
        .into_bytes()
    };
    let mut ordinary = head("ordinary", 1);
    ordinary.extend_from_slice(b"\r\nHello.\r\n");

    let mut nasty = head("nasty", 2);
    nasty.extend_from_slice(b"X-Octets: \xe4\xf6\xfc \xff\r\nX-Folded: one\r\n\ttwo\r\n\r\n");
    nasty.extend_from_slice(
        b".\r\n..\r\n.dot\r\n...\r\n \r\n\t\r\nb OK FETCH completed.\r\n+OK\r\n",
    );
    nasty.extend(0x80..=0xffu8);
    nasty.extend_from_slice(b"\r\n{10}\r\n* BYE\r\nFrom here on it is longer:\r\n");
    // fetchmail puts octets of its own into lines of more than its buffer.
    for length in [998, 1023, 4096, 8000] {
        nasty.extend((0u8..26).cycle().take(length).map(|letter| b'a' + letter));
        nasty.extend_from_slice(b"\r\n");
    }
    // The lone dot again, where a chunk of a relay's buffer may end, and as the last line.
    while nasty.len() < 70_000 {
        nasty.extend_from_slice(b".\r\n");
    }
    nasty.extend_from_slice(b"\r\n\r\n.\r\n");

    let mut large = head("large", 3);
    large.extend_from_slice(b"\r\n");
    for number in 0u64.. {
        if large.len() > 1_300_000 {
            break;
        }
        let scrambled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        large.extend_from_slice(format!("{number:020} {scrambled:016x} and so on\r\n").as_bytes());
    }
    vec![ordinary, nasty, large]
}
