//! Whatever clients say before they have logged in, to the built program: all transcripts, in plain and under TLS; and
//! TLS that is begun and not carried out.
//!
//! What a transcript says of events is checked by the tests of `proto`; here the octets count, the ends, and the log.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{ClientConnection, pki_types::ServerName};

use crate::{
    client::Client,
    lab::{Cluster, Kind, NodeSpec, User, eventually},
    transcripts::{ACCOUNTS, Listener, Script, Standing, Step, load},
};

/// Conversations at one time.
const THREADS: usize = 8;
/// What is longer is sent in pieces of [`PIECE`] octets in place of one.
const LONG: usize = 2000;
const PIECE: usize = 97;

// === transcripts ===

/// How a client comes in.
#[derive(Clone, Copy, Debug)]
enum Door {
    Clear(SocketAddr),
    Implicit(SocketAddr),
    StartTls(SocketAddr),
}

/// One way to play a transcript.
struct Play<'s> {
    script: &'s Script,
    protocol: &'static str,
    door: Door,
    whole: bool,
}

/// What is said and heard before STARTTLS, or after it.
#[derive(Default)]
struct Part {
    said: Vec<u8>,
    heard: String,
}

/// Each one whole and octet by octet in plain, whole under implicit TLS, octet by octet after STARTTLS.
#[test]
fn transcripts_hold_for_the_built_program() {
    let cluster = cluster_of_accounts();
    let scripts = [("imap", load("imap")), ("pop3", load("pop3"))];
    let plays: Vec<Play<'_>> = scripts
        .iter()
        .flat_map(|(protocol, scripts)| scripts.iter().map(move |script| (*protocol, script)))
        .flat_map(|(protocol, script)| ways(&cluster, protocol, script))
        .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(play) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _named = Named(play);
                    play.run(&cluster);
                }
            });
        }
    });
    check_log(&cluster, &plays);
}

fn cluster_of_accounts() -> Cluster {
    let users = (20901..)
        .zip(ACCOUNTS)
        .map(|(uid, (name, password, standing))| {
            let node = if standing == Standing::Away {
                "n9"
            } else {
                "n1"
            };
            let user = User::new(name, node, uid).password(password);
            match standing {
                Standing::Away | Standing::Served => user,
                Standing::Disabled => user.status("disabled"),
                Standing::Misconfigured => user.home("../up"),
            }
        });
    users
        .fold(Cluster::build(), |builder, user| builder.user(&user))
        .node(NodeSpec::new("n1", Kind::Login))
        .proxy("failure_delay = \"5ms\"")
        .start()
}

fn ways<'s>(cluster: &Cluster, protocol: &'static str, script: &'s Script) -> Vec<Play<'s>> {
    let [plain, private, starttls, tls] = match protocol {
        "imap" => [
            cluster.imap_plain(),
            cluster.imap_private(),
            cluster.imap(),
            cluster.imaps(),
        ],
        _ => [
            cluster.pop3_plain(),
            cluster.pop3_private(),
            cluster.pop3(),
            cluster.pop3s(),
        ],
    };
    // What is said to two listeners alike need not be said to both.
    let on = |listener| script.on.contains(&listener);
    let clear = if on(Listener::Starttls) {
        Some(starttls)
    } else {
        on(Listener::Plain).then_some(plain)
    };
    let clear = clear
        .into_iter()
        .chain(on(Listener::Private).then_some(private));
    let mut doors: Vec<(Door, bool)> = clear
        .flat_map(|address| [(Door::Clear(address), true), (Door::Clear(address), false)])
        .collect();
    if on(Listener::Tls) {
        doors.extend([
            (Door::Implicit(tls), true),
            (Door::StartTls(private), false),
        ]);
    }
    doors
        .into_iter()
        .map(|(door, whole)| Play {
            script,
            protocol,
            door,
            whole,
        })
        .collect()
}

/// Every conversation that misbehaved stands in the log with its reason.
fn check_log(cluster: &Cluster, plays: &[Play<'_>]) {
    for reason in ["bad-commands", "bare-lf", "http", "line", "literal"] {
        for protocol in ["imap", "pop3"] {
            let event = format!("Misbehaved(\"{reason}\")");
            let played = plays
                .iter()
                .filter(|play| play.protocol == protocol && play.ended_by_server() == Some(&event))
                .count();
            let fields = format!("stage=talk blame=client reason={reason} ");
            eventually(&format!("{played} lines of {reason} in {protocol}"), || {
                let logged = cluster
                    .front_log()
                    .lines()
                    .filter(|line| {
                        line.contains("outcome=misbehaved ")
                            && line.contains(&format!("protocol={protocol} "))
                            && line.contains(&fields)
                    })
                    .count();
                assert!(logged <= played, "{logged} lines of {reason} in {protocol}");
                logged == played
            });
        }
    }
}

/// Says on standard error what was played when a play fails.
struct Named<'p>(&'p Play<'p>);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let Play {
                script,
                door,
                whole,
                ..
            } = self.0;
            eprintln!("--- {} at {door:?}, whole: {whole}", script.name);
        }
    }
}

impl Play<'_> {
    fn run(&self, cluster: &Cluster) {
        let mut client = self.connect(cluster);
        let (clear, secured) = self.parts();
        let mut last = clear;
        if let Some(secured) = secured {
            // What an injector sends must come with the command: later it is what a handshake chokes on. So where there is
            // more than one line they come together.
            let whole = self.whole || last.said.windows(3).any(|three| three.starts_with(b"\r\n"));
            say(&mut client, &last.said, whole);
            let heard = client.up_to(last.heard.len());
            assert_eq!(String::from_utf8_lossy(&heard), last.heard, "before TLS");
            client.encrypt(cluster);
            last = secured;
        }
        say(&mut client, &last.said, self.whole);
        let (accepted, ended) = (self.is_accepted(), self.ended_by_server().is_some());
        if !ended {
            client.finish_sending();
        }
        let heard = any_capabilities(&String::from_utf8_lossy(&client.rest()));
        if accepted {
            // What follows is the real server's.
            assert!(heard.starts_with(&last.heard), "{heard}");
        } else {
            assert_eq!(heard, last.heard);
        }
    }

    fn connect(&self, cluster: &Cluster) -> Client {
        let client = match self.door {
            Door::Clear(address) => Client::connect_to(address),
            Door::Implicit(address) => Client::connect_tls(cluster, address),
            Door::StartTls(address) => {
                let mut client = Client::connect_to(address);
                client.send(match self.protocol {
                    "imap" => "a STARTTLS\r\n",
                    _ => "STLS\r\n",
                });
                assert!(client.line().ends_with("OK Begin TLS negotiation now."));
                client.encrypt(cluster);
                client
            }
        };
        let ready = match self.protocol {
            "imap" => "* OK [CAPABILITY ",
            _ => "+OK ",
        };
        assert!(client.greeting.starts_with(ready), "{}", client.greeting);
        // RFC 1939, 7: such a mark would offer APOP.
        assert!(!client.greeting.contains('<'), "{}", client.greeting);
        client
    }

    fn parts(&self) -> (Part, Option<Part>) {
        let (mut clear, mut secured) = (Part::default(), None);
        for step in &self.script.steps {
            let part = secured.as_mut().unwrap_or(&mut clear);
            match step {
                Step::Client(octets) => part.said.extend_from_slice(octets),
                Step::Event(_) => (),
                Step::Left(octets) => assert!(part.said.ends_with(octets), "never said"),
                Step::Server(text) => part.heard += &format!("{text}\r\n"),
                Step::Tls => secured = Some(Part::default()),
            }
        }
        (clear, secured)
    }

    fn is_accepted(&self) -> bool {
        let told = self.script.steps.iter().rev().find_map(|step| match step {
            Step::Server(text) => Some(text),
            _ => None,
        });
        told.is_some_and(|text| text.ends_with(" Logged in."))
    }

    /// What it says when the server closes first.
    fn ended_by_server(&self) -> Option<&String> {
        match self.script.steps.last() {
            Some(Step::Event(event)) if event != "StartTls" => Some(event),
            _ => None,
        }
    }
}

fn say(client: &mut Client, octets: &[u8], whole: bool) {
    let size = match octets.len() {
        length if whole => length.max(1),
        LONG.. => PIECE,
        _ => 1,
    };
    for piece in octets.chunks(size) {
        // A server that has had enough may be gone already; what it said is read all the same.
        if client.try_send(piece).is_err() {
            return;
        }
    }
}

/// The capabilities of a session are the real server's affair.
fn any_capabilities(heard: &str) -> String {
    let Some((before, rest)) = heard.split_once(" OK [CAPABILITY ") else {
        return heard.to_owned();
    };
    let (_, after) = rest.split_once(']').unwrap();
    format!("{before} OK [CAPABILITY ...]{after}")
}

// === TLS that is begun and not carried out ===

/// Where TLS begins, and how a client gets there.
fn beginnings(cluster: &Cluster) -> [(SocketAddr, &'static str); 4] {
    [
        (cluster.imap(), "a STARTTLS\r\n"),
        (cluster.imaps(), ""),
        (cluster.pop3(), "STLS\r\n"),
        (cluster.pop3s(), ""),
    ]
}

/// A connection whose next octet is the first one of TLS.
fn begin((address, command): (SocketAddr, &str)) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    if !command.is_empty() {
        stream.write_all(command.as_bytes()).unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"negotiation now.\r\n") {
            let mut octet = [0];
            stream.read_exact(&mut octet).unwrap();
            heard.extend_from_slice(&octet);
        }
    }
    stream
}

/// What a client of ours begins with.
fn client_hello(cluster: &Cluster) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(&cluster.trust()), name).unwrap();
    let mut octets = Vec::new();
    connection.write_tls(&mut octets).unwrap();
    octets
}

/// Up to the end, which may be a reset: a server need not read what no TLS library wants.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => (),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    heard
}

fn wait_for_lines(cluster: &Cluster, count: usize) {
    eventually("a line for each, with whose doing it was", || {
        let log = cluster.front_log();
        let lines = log.lines().filter(|line| {
            line.contains("session ended")
                && line.contains(" outcome=tls ")
                && line.contains(" stage=tls blame=client ")
        });
        lines.count() == count
    });
}

/// STARTTLS does not buy time: there is one deadline for all that comes before a login.
#[test]
fn silence_after_starttls_ends_with_the_time_to_log_in() {
    let cluster = Cluster::build()
        .single(Kind::Login)
        .proxy("login_timeout = \"1s\"")
        .proxy("tls_timeout = \"10m\"")
        .start();
    let hello = client_hello(&cluster);
    let mut streams = Vec::new();
    for begun in [&hello[..0], &hello[..1], &hello[..hello.len() / 2]] {
        for beginning in beginnings(&cluster) {
            let mut stream = begin(beginning);
            stream.write_all(begun).unwrap();
            streams.push((stream, beginning));
        }
    }
    for (stream, beginning) in &mut streams {
        // Nothing that a client could take for an answer, in clear or under TLS.
        assert_eq!(rest(stream), b"", "{beginning:?}");
    }
    wait_for_lines(&cluster, streams.len());
}

#[test]
fn what_is_no_tls_is_not_answered_in_clear() {
    let cluster = Cluster::build().single(Kind::Login).start();
    let hello = client_hello(&cluster);
    let mut broken = hello.clone();
    // The length of the handshake message, which is inside the first record.
    broken[6] = 0xff;
    let mut count = 0;
    for said in [
        &b"a NOOP\r\n"[..],
        b"a LOGIN ann pw\r\n",
        b"CAPA\r\n",
        b"USER ann\r\nPASS pw\r\n",
        b"\r\n",
        b"\0",
        // An alert, application data before any handshake, a record longer than any may be, SSL 2.
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x02ab",
        b"\x16\x03\x01\xff\xff\x01",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
        &broken,
        // Half of what it should be, and then no more.
        &hello[..hello.len() / 2],
        &hello[..1],
        b"",
    ] {
        for beginning in beginnings(&cluster) {
            let mut stream = begin(beginning);
            stream.write_all(said).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let heard = rest(&mut stream);
            // An alert at most.
            let said = said.escape_ascii();
            assert!(
                heard.is_empty() || heard.starts_with(b"\x15\x03"),
                "{said}: {}",
                heard.escape_ascii()
            );
            assert!(heard.len() < 16, "{said}: {}", heard.escape_ascii());
            count += 1;
        }
    }
    wait_for_lines(&cluster, count);
}

/// Octets that are no record, put into a channel that is established: it ends, and they are not carried out.
#[test]
fn plain_text_under_tls_is_not_carried_out() {
    let cluster = Cluster::build().single(Kind::Login).start();
    let config = cluster.trust();
    let mut count = 0;
    for said in ["a LOGOUT\r\n", "QUIT\r\n", "a NOOP\r\na LOGOUT\r\n"] {
        for beginning in beginnings(&cluster) {
            let mut stream = begin(beginning);
            let name = ServerName::try_from("localhost").unwrap();
            let mut connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
            while connection.is_handshaking() || connection.wants_write() {
                connection.complete_io(&mut stream).unwrap();
            }
            stream.write_all(said.as_bytes()).unwrap();
            let mut heard = String::new();
            loop {
                match connection.read_tls(&mut stream) {
                    Ok(0) => break,
                    Ok(_) => (),
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                    Err(error) => panic!("not closed: {error}"),
                }
                let done = connection.process_new_packets().is_err();
                let mut octets = [0; 1024];
                while let Ok(length @ 1..) = connection.reader().read(&mut octets) {
                    heard += &String::from_utf8_lossy(&octets[..length]);
                }
                if done {
                    break;
                }
            }
            // A greeting, where it was already on its way.
            assert!(heard.lines().count() <= 1, "{said:?}: {heard}");
            assert!(!heard.contains("Logging out"), "{said:?}: {heard}");
            count += 1;
        }
    }
    eventually("a line for each", || {
        let log = cluster.front_log();
        log.lines()
            .filter(|line| line.contains("session ended"))
            .count()
            == count
    });
}
