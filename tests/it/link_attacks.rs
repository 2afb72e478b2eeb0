//! Attacks on links, each by its name, against the built program; a few that need the insides stand elsewhere.
//!
//! | attack | test |
//! | --- | --- |
//! | no key, an id that is not known | `without_a_key_nobody_gets_in` |
//! | a wrong key | `with_a_wrong_key_nobody_gets_in` |
//! | replay of a capture, in plain and under TLS | `a_capture_is_of_no_use_on_another_connection` |
//! | a proof made for one TLS session, in another | `a_proof_belongs_to_one_session_of_tls` |
//! | a man in the middle of TLS | `link::tests::a_man_in_the_middle_of_tls_is_found_out` |
//! | reflection, to the node | `a_nodes_own_words_prove_nothing_to_it` |
//! | reflection, to the front | `a_fronts_own_proof_is_none_of_the_node` |
//! | relay to another node | `a_proof_for_one_node_is_none_for_another` |
//! | old versions | `other_versions_are_refused` |
//! | taking TLS off | `link::tests::a_plain_dialer_at_a_tls_node_is_told_at_once`, `proto::link::tests` |
//! | cut behind each octet | `a_handshake_that_is_cut_leaves_nothing_behind` |
//! | every bit flipped, every record cut or in another's place | `proto::link::tests` |
//! | squatting | `squatters_cannot_keep_the_fronts_out` |
//! | flooding | `links::a_flood_is_bounded_and_ends_with_its_time` |
//! | a key that was taken off or replaced | `a_key_that_was_taken_off_opens_nothing` |
//! | a key that has ended meanwhile | `a_key_that_ends_between_proof_and_opening_opens_nothing` |
//! | a key without the service | `a_key_opens_no_other_service` |
//! | a key from a network that is not its own | `links::a_key_from_another_place_opens_nothing` |
//! | any key from a network that is not listed | `links::an_address_outside_from_hears_nothing_at_all` |
//!
//! Each attacker has an address of its own, hears nothing but what everybody hears, is counted by the name of what was
//! wrong, and logged with it once. Afterwards those who may are served.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use pigeonair::{
    names::{AccountName, ClientAddr, KeyId, LocalAddr, NodeName, Protocol, SessionId},
    proto::link::{
        Channel, Context, EXPORTER_BYTES, EXPORTER_LABEL, Verdict,
        context::OpenBody,
        dialer::{Dialer, Proving, Ready},
        record::{HEADER_BYTES, MAC_BYTES, PREFACE},
    },
    secret::Key,
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    client::{self, Client, Method, dial_from},
    lab::{Builder, Cluster, Kind, NodeSpec, User, eventually, write_private},
    links::{complaints, handshakes, shed},
};

// === the attacker's means ===

/// What an attacker says to a node.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// An attacker's connection, past the node's `hello`.
struct Wire {
    stream: Box<dyn Stream>,
    channel: Channel,
    hello: Vec<u8>,
}

impl Wire {
    fn dial(source: &str, node: SocketAddr, tls: bool) -> Self {
        let tcp = dial_from(source, node);
        let (stream, channel): (Box<dyn Stream>, _) = if tls {
            let (stream, channel) = handshake(tcp);
            (Box::new(stream), channel)
        } else {
            (Box::new(tcp), Channel::None)
        };
        let mut wire = Self {
            stream,
            channel,
            hello: Vec::new(),
        };
        wire.hello = wire.record();
        wire
    }

    fn send(&mut self, octets: &[u8]) {
        // The node may have closed already.
        let _ = self.stream.write_all(octets);
        let _ = self.stream.flush();
    }

    fn record(&mut self) -> Vec<u8> {
        let mut record = vec![0; HEADER_BYTES];
        self.stream.read_exact(&mut record).unwrap();
        let length = u16::from_be_bytes([record[2], record[3]]);
        record.resize(HEADER_BYTES + usize::from(length), 0);
        self.stream.read_exact(&mut record[HEADER_BYTES..]).unwrap();
        record
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut heard) {
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
        heard
    }

    /// A dialer of this connection that knows the key, or not.
    fn dialer(&self, node: &str, id: &str, key: Key) -> Dialer {
        static NONCES: AtomicU8 = AtomicU8::new(1);
        Dialer {
            node: NodeName::parse(node).unwrap(),
            key_id: KeyId::parse(id).unwrap(),
            key,
            channel: self.channel.clone(),
            nonce: [NONCES.fetch_add(1, Ordering::Relaxed); 32],
        }
    }

    fn proving(&self, id: &str, key: Key) -> Proving {
        self.dialer("n1", id, key).hello(&self.hello).unwrap()
    }

    /// Proves itself as a front does.
    fn proven(&mut self, id: &str, key: Key) -> Ready {
        let proving = self.proving(id, key);
        self.send(&[&PREFACE, proving.prove()].concat());
        proving.proven(&self.record()).unwrap()
    }

    /// All that a front does, until the node's verdict.
    fn opened(&mut self, id: &str, key: Key) -> Verdict {
        let (open, waiting) = self.proven(id, key).open(&body());
        self.send(&open);
        waiting.verdict(&self.record()).unwrap()
    }
}

fn handshake(mut tcp: TcpStream) -> (rustls::StreamOwned<ClientConnection, TcpStream>, Channel) {
    let mut tls = tls();
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).unwrap();
    }
    let value = tls
        .export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, None)
        .unwrap();
    (
        rustls::StreamOwned::new(tls, tcp),
        Channel::TlsExporter(value),
    )
}

fn tls() -> ClientConnection {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// Whose certificate it is does not matter to an attacker.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The right key: the octets from 0 to 31.
fn key() -> Key {
    Key::new(std::array::from_fn(|octet| u8::try_from(octet).unwrap()))
}

fn wrong_key() -> Key {
    Key::new([0x55; 32])
}

fn ann() -> User {
    User::new("ann", "n1", 20001)
}

fn body() -> OpenBody {
    let context = Context {
        account: AccountName::parse("ann").unwrap(),
        session: SessionId::from_random([5; 12]),
        client: ClientAddr("192.0.2.77:4242".parse().unwrap()),
        local: LocalAddr("192.0.2.1:143".parse().unwrap()),
        protocol: Protocol::Imap,
        tls: None,
        uid: 20001,
        gid: 20001,
        home: ann().home,
        quota: None,
        hops: 1,
    };
    OpenBody::session(&context).unwrap()
}

// === what becomes of it ===

/// A node, and a front that has its key.
fn build(tls: bool) -> Builder {
    Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login))
        .link_tls(tls)
        .user(&ann())
}

/// An address that nobody has had yet.
fn fresh_address() -> String {
    static ATTACKERS: AtomicU8 = AtomicU8::new(1);
    format!("127.66.0.{}", ATTACKERS.fetch_add(1, Ordering::Relaxed))
}

/// Attacks node `n1`: nothing is heard, it is counted as `result`, and logged with the reason.
fn attack(
    cluster: &Cluster,
    tls: bool,
    (result, reason): (&str, &str),
    say: impl FnOnce(&mut Wire),
) {
    let source = fresh_address();
    let before = (handshakes(cluster, "n1", result), shed(cluster, "n1"));
    let mut wire = Wire::dial(&source, cluster.link_address("n1"), tls);
    say(&mut wire);
    assert_eq!(wire.rest(), b"", "{result}");
    denied(cluster, &source, before, (result, reason));
}

fn denied(
    cluster: &Cluster,
    source: &str,
    (counted, turned_away): (f64, f64),
    (result, reason): (&str, &str),
) {
    eventually(&format!("it is counted as {result} and logged"), || {
        handshakes(cluster, "n1", result) == counted + 1.0
            && shed(cluster, "n1") == turned_away + 1.0
            && complaints(cluster, "n1", source).len() == 1
    });
    let complaint = &complaints(cluster, "n1", source)[0];
    assert!(complaint.contains(reason), "{reason}: {complaint}");
    assert!(complaint.contains(" WARN "), "{complaint}");
}

fn served(cluster: &Cluster) {
    let mut client = Client::logged_in(cluster, client::Channel::Plain, &ann());
    client.command("SELECT INBOX").ok();
    client.command("LOGOUT").ok();
}

fn not_served(cluster: &Cluster) {
    let mut client = Client::connect(cluster, client::Channel::Plain);
    client
        .login(Method::Login, "ann", &ann().password)
        .no("UNAVAILABLE");
}

// === no key, wrong key ===

#[test]
fn without_a_key_nobody_gets_in() {
    for tls in [false, true] {
        let cluster = build(tls).start();
        // Not even with octets that are a key of somebody else's.
        for key in [key(), wrong_key()] {
            let expected = ("unknown-key", "there is no key nobody");
            attack(&cluster, tls, expected, |wire| {
                let proving = wire.proving("nobody", key);
                wire.send(&[&PREFACE, proving.prove()].concat());
            });
        }
        served(&cluster);
    }
}

#[test]
fn with_a_wrong_key_nobody_gets_in() {
    for tls in [false, true] {
        let cluster = build(tls).start();
        attack(&cluster, tls, ("mac", "prove has a wrong MAC"), |wire| {
            let proving = wire.proving("front", wrong_key());
            wire.send(&[&PREFACE, proving.prove()].concat());
        });
        served(&cluster);
    }
}

// === capture, replay, reflection, relay ===

/// What a dialer said on its first connection that was passed on.
type Capture = Arc<Mutex<Option<Vec<u8>>>>;

/// Stands between front and node, and keeps what the front said; what the node says first is altered.
fn between(at: SocketAddr, source: String, node: SocketAddr, alter: fn(&mut Vec<u8>)) -> Capture {
    let listener = TcpListener::bind(at).unwrap();
    let capture = Capture::default();
    let captured = Arc::clone(&capture);
    thread::spawn(move || {
        for front in listener.incoming() {
            let (mut front, mut node) = (front.unwrap(), dial_from(&source, node));
            let (mut to_front, mut from_node) =
                (front.try_clone().unwrap(), node.try_clone().unwrap());
            thread::spawn(move || {
                let mut first = vec![0; 4096];
                let count = from_node.read(&mut first).unwrap_or(0);
                first.truncate(count);
                alter(&mut first);
                let _ = to_front.write_all(&first);
                let _ = std::io::copy(&mut from_node, &mut to_front);
                let _ = to_front.shutdown(Shutdown::Both);
            });
            let captured = Arc::clone(&captured);
            thread::spawn(move || {
                let mut said = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = front.read(&mut buffer) {
                    said.extend_from_slice(&buffer[..count]);
                    if node.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = node.shutdown(Shutdown::Both);
                captured.lock().unwrap().get_or_insert(said);
            });
        }
    });
    capture
}

/// A cluster whose front dials [`BETWEEN`], one link for each login.
fn tapped(tls: bool) -> Builder {
    build(tls).through(BETWEEN).nodes("ready_links = 0")
}

const BETWEEN: u16 = 7600;

#[test]
fn a_capture_is_of_no_use_on_another_connection() {
    for tls in [false, true] {
        let cluster = tapped(tls).start();
        let node = cluster.link_address("n1");
        let capture = between(cluster.port(BETWEEN), fresh_address(), node, |_| ());
        served(&cluster);
        eventually("the front's link has ended", || {
            capture.lock().unwrap().is_some()
        });
        let said = capture.lock().unwrap().clone().unwrap();
        assert!(said.len() > 200);
        for _ in 0..2 {
            let source = fresh_address();
            let (result, reason) = if tls {
                ("tls", "no TLS with the peer")
            } else {
                ("mac", "prove has a wrong MAC")
            };
            let before = (handshakes(&cluster, "n1", result), shed(&cluster, "n1"));
            let mut stream = dial_from(&source, node);
            stream.write_all(&said).unwrap();
            let mut heard = Vec::new();
            // Closed with octets unread.
            let _ = stream.read_to_end(&mut heard);
            // In plain, `hello`; under TLS the node's part of a handshake that the attacker can't go on with.
            assert!(tls || heard.len() <= 4 + 102, "{heard:?}");
            denied(&cluster, &source, before, (result, reason));
        }
        served(&cluster);
    }
}

#[test]
fn a_proof_belongs_to_one_session_of_tls() {
    let cluster = build(true).start();
    let node = cluster.link_address("n1");
    let mut other = Wire::dial(&fresh_address(), node, true);
    let proof = other.proving("front", key()).prove().to_vec();
    attack(&cluster, true, ("mac", "prove has a wrong MAC"), |wire| {
        wire.send(&[&PREFACE, &proof[..]].concat());
    });
    // Nor with the nonce of the right connection and the channel of another one.
    attack(&cluster, true, ("mac", "prove has a wrong MAC"), |wire| {
        wire.channel = other.channel.clone();
        let proving = wire.proving("front", key());
        wire.send(&[&PREFACE, proving.prove()].concat());
    });
    // Where it belongs, it is good.
    other.send(&[&PREFACE, &proof[..]].concat());
    assert_eq!(other.record().len(), HEADER_BYTES + MAC_BYTES);
    served(&cluster);
}

#[test]
fn a_nodes_own_words_prove_nothing_to_it() {
    for tls in [false, true] {
        let cluster = build(tls).start();
        // `hello` for `prove`.
        attack(
            &cluster,
            tls,
            ("record", "a record of kind 1 came"),
            |wire| {
                let hello = wire.hello.clone();
                wire.send(&[&PREFACE, &hello[..]].concat());
            },
        );
        // Its own proof, from a connection on which somebody had the key, under its own nonce.
        let mut other = Wire::dial(&fresh_address(), cluster.link_address("n1"), tls);
        let proving = other.proving("front", key());
        other.send(&[&PREFACE, proving.prove()].concat());
        let proven = other.record();
        let mac = &proven[proven.len() - MAC_BYTES..];
        attack(&cluster, tls, ("mac", "prove has a wrong MAC"), |wire| {
            let mut prove = wire.proving("front", wrong_key()).prove().to_vec();
            // Channel kind and idle limit stand before the nonce of `hello`; nothing before that of `prove`.
            let nonce = &wire.hello[HEADER_BYTES + 5..][..32];
            prove[HEADER_BYTES..][..32].copy_from_slice(nonce);
            let end = prove.len() - MAC_BYTES;
            prove[end..].copy_from_slice(mac);
            wire.send(&[&PREFACE, &prove[..]].concat());
        });
        served(&cluster);
    }
}

/// Somebody in the node's place, who has no key and gives the front's own proof back.
#[test]
fn a_fronts_own_proof_is_none_of_the_node() {
    let cluster = tapped(false).start();
    let mut genuine = Wire::dial(&fresh_address(), cluster.link_address("n1"), false);
    let hello = genuine.hello.clone();
    let listener = TcpListener::bind(cluster.port(BETWEEN)).unwrap();
    let impostor = thread::spawn(move || {
        let (mut front, _) = listener.accept().unwrap();
        front.write_all(&hello).unwrap();
        let mut said = vec![0; PREFACE.len() + HEADER_BYTES];
        front.read_exact(&mut said).unwrap();
        let length = u16::from_be_bytes([said[PREFACE.len() + 2], said[PREFACE.len() + 3]]);
        let mut prove = vec![0; usize::from(length)];
        front.read_exact(&mut prove).unwrap();
        let mut proven = vec![1, 3, 0, 32];
        proven.extend_from_slice(&prove[prove.len() - MAC_BYTES..]);
        front.write_all(&proven).unwrap();
        let mut rest = Vec::new();
        let _ = front.read_to_end(&mut rest);
    });
    not_served(&cluster);
    impostor.join().unwrap();
    let log = cluster.front_log();
    let complains = |line: &str| {
        line.contains("login failed")
            && line.contains(" stage=link blame=node ")
            && line.contains("proven has a wrong MAC")
    };
    assert!(log.lines().any(complains), "{log}");
    genuine.send(b"");
}

/// Two clusters with the same key: the front of one dials its n2 and comes to the other's n1.
#[test]
fn a_proof_for_one_node_is_none_for_another() {
    let bob = User::new("bob", "n2", 20002);
    let others = build(false).start();
    let node = others.link_address("n1");
    let pass: fn(&mut Vec<u8>) = |_| ();
    let rename: fn(&mut Vec<u8>) = |hello| {
        let end = hello.len();
        assert_eq!(&hello[end - 3..], b"\x02n1");
        hello[end - 1] = b'2';
    };
    for (alter, is_renamed) in [(pass, false), (rename, true)] {
        let cluster = Cluster::build()
            .node(NodeSpec::new("n2", Kind::Login))
            .link_tls(false)
            .user(&bob)
            .through(BETWEEN)
            .nodes("ready_links = 0")
            .start();
        let source = fresh_address();
        let before = (handshakes(&others, "n1", "mac"), shed(&others, "n1"));
        let _capture = between(cluster.port(BETWEEN), source.clone(), node, alter);
        let mut client = Client::connect(&cluster, client::Channel::Plain);
        client
            .login(Method::Login, "bob", &bob.password)
            .no("UNAVAILABLE");
        let reason = if is_renamed {
            denied(&others, &source, before, ("mac", "prove has a wrong MAC"));
            "closed the link on our proof"
        } else {
            "n1"
        };
        let log = cluster.front_log();
        let mut lines = log.lines().filter(|line| line.contains("login failed"));
        let complains =
            |line: &str| line.contains(" stage=link blame=node ") && line.contains(reason);
        assert!(lines.any(complains), "{log}");
    }
    assert_eq!(handshakes(&others, "n1", "ok"), 0.0);
}

// === versions, cuts, floods ===

#[test]
fn other_versions_are_refused() {
    for tls in [false, true] {
        let cluster = build(tls).start();
        for preface in [b"PGNLINK0", b"PGNLINK2", b"pgnlink1"] {
            let expected = ("preface", "does not speak the link protocol");
            attack(&cluster, tls, expected, |wire| {
                let proving = wire.proving("front", key());
                wire.send(&[preface, proving.prove()].concat());
            });
        }
        for version in [0, 2, 255] {
            attack(&cluster, tls, ("record", "version"), |wire| {
                let mut prove = wire.proving("front", key()).prove().to_vec();
                prove[0] = version;
                wire.send(&[&PREFACE, &prove[..]].concat());
            });
        }
        served(&cluster);
    }
}

/// Begins links and leaves behind each octet of what a front says, up to the last but one of `open`; says how many. Waits
/// now and then until all are `counted`, since one address may have no more than so many at a time.
fn cut_everywhere(node: SocketAddr, tls: bool, counted: impl Fn(f64)) -> f64 {
    const AT_A_TIME: f64 = 16.0;
    let mut cuts = 0.0;
    let mut cut = |octets: &[u8], stream: &mut dyn Stream| {
        stream.write_all(octets).unwrap();
        stream.flush().unwrap();
        cuts += 1.0;
        if cuts % AT_A_TIME == 0.0 {
            // The last one is still open.
            counted(cuts - 1.0);
        }
    };
    if tls {
        let mut hello = Vec::new();
        self::tls().write_tls(&mut hello).unwrap();
        for length in 0..hello.len() {
            cut(&hello[..length], &mut dial_from(&shared_address(), node));
        }
    }
    for length in 0.. {
        let mut wire = Wire::dial(&shared_address(), node, tls);
        let proving = wire.proving("front", key());
        let prove = [&PREFACE, proving.prove()].concat();
        if length <= prove.len() {
            cut(&prove[..length], &mut wire.stream);
            continue;
        }
        wire.send(&prove);
        let ready = proving.proven(&wire.record()).unwrap();
        let (open, _) = ready.open(&body());
        let length = length - prove.len();
        // The last one says nothing more: whole, it would be a session.
        let is_last = length == open.len();
        cut(
            if is_last { b"" } else { &open[..length] },
            &mut wire.stream,
        );
        if is_last {
            break;
        }
    }
    cuts
}

/// No place of the few that there are stays taken, no descriptor stays open, and each cut is counted.
#[test]
fn a_handshake_that_is_cut_leaves_nothing_behind() {
    for tls in [false, true] {
        let mut cluster = build(tls)
            .acceptor("max_unproven = 64")
            .nodes("ready_links = 0\nprobe_every = \"off\"")
            .start();
        served(&cluster);
        let node = cluster.link_address("n1");
        // What is whole but for its opening ends as links do that nobody needs.
        let counted = |cluster: &Cluster| -> f64 {
            let results = ["closed", "retired"];
            let counts = results.map(|result| handshakes(cluster, "n1", result));
            counts.iter().sum()
        };
        let before = counted(&cluster);
        let descriptors = cluster.node("n1").acceptor().descriptors();
        let all_counted = |cuts: f64| {
            eventually(&format!("all of {cuts} cuts are counted"), || {
                counted(&cluster) >= before + cuts
            });
        };
        let cuts = cut_everywhere(node, tls, all_counted);
        assert!(cuts > 200.0, "{cuts}");
        all_counted(cuts);
        assert_eq!(counted(&cluster), before + cuts);
        for result in ["crowded", "timed-out", "record", "mac", "bug"] {
            assert_eq!(handshakes(&cluster, "n1", result), 0.0, "{result}");
        }
        eventually("no descriptor stays open", || {
            cluster.node("n1").acceptor().descriptors() <= descriptors
        });
        // All places are free: as many as one address may have.
        let source = fresh_address();
        let waiting: Vec<Wire> = (0..32).map(|_| Wire::dial(&source, node, tls)).collect();
        assert_eq!(handshakes(&cluster, "n1", "crowded"), 0.0);
        drop(waiting);
        served(&cluster);
    }
}

/// One of those that attackers share who need none of their own.
fn shared_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    format!(
        "127.67.0.{}",
        NEXT.fetch_add(1, Ordering::Relaxed) % 100 + 1
    )
}

#[test]
fn squatters_cannot_keep_the_fronts_out() {
    for tls in [false, true] {
        let cluster = build(tls)
            .acceptor("max_unproven = 8")
            .acceptor("prove_timeout = \"30s\"")
            .nodes("ready_links = 0")
            .start();
        let (node, source) = (cluster.link_address("n1"), fresh_address());
        // Half of the places, and not one more: the first of them makes room for the fifth.
        let mut squatters: Vec<Wire> = (0..4).map(|_| Wire::dial(&source, node, tls)).collect();
        let before = (handshakes(&cluster, "n1", "crowded"), shed(&cluster, "n1"));
        squatters.push(Wire::dial(&source, node, tls));
        let expected = ("crowded", "too many peers");
        denied(&cluster, &source, before, expected);
        let _ = squatters[0].stream.read_to_end(&mut Vec::new());
        served(&cluster);
        // Nor can many that have few each, however many come: who waits longest makes room.
        for _ in 0..20 {
            squatters.push(Wire::dial(&fresh_address(), node, tls));
        }
        served(&cluster);
        drop(squatters);
        served(&cluster);
    }
}

// === keys ===

#[test]
fn a_key_that_was_taken_off_opens_nothing() {
    for tls in [false, true] {
        let mut cluster = build(tls).start();
        let node = cluster.link_address("n1");
        let file = cluster.scratch().join("new.key");
        write_private(&file, &format!("{}\n", "55".repeat(32)));
        let new = format!(
            "[[acceptor.key]]\nid = \"new\"\nfile = \"{}\"\n",
            file.display()
        );
        // Both, while fronts are told the new one.
        cluster.reconfigure_acceptor("n1", |text| {
            text.replacen(
                "[[acceptor.key]]\n",
                &format!("{new}\n[[acceptor.key]]\n"),
                1,
            )
        });
        served(&cluster);
        for (id, key) in [("front", key()), ("new", wrong_key())] {
            let verdict = Wire::dial(&fresh_address(), node, tls).opened(id, key);
            assert!(matches!(verdict, Verdict::Ok(_)), "{verdict:?}");
        }
        // A key under the id of the other one.
        attack(&cluster, tls, ("mac", "for key new"), |wire| {
            let proving = wire.proving("new", key());
            wire.send(&[&PREFACE, proving.prove()].concat());
        });
        // The new one alone: also for who has proven the old one and waits.
        let mut waiting = Wire::dial(&fresh_address(), node, tls);
        let ready = waiting.proven("front", key());
        cluster.reconfigure_acceptor("n1", |text| {
            text.replacen("id = \"front\"", "id = \"old\"", 1).replacen(
                "front.key\"",
                "front.key\"\nnot_after = \"2020-01-01T00:00:00Z\"",
                1,
            )
        });
        waiting.send(&ready.open(&body()).0);
        assert_eq!(waiting.rest(), b"");
        not_served(&cluster);
        // It goes on trying to make links ahead, which would be counted with the attacks.
        cluster.front().stop();
        for (id, result, reason) in [
            ("front", "unknown-key", "there is no key front"),
            ("old", "expired", "key old has expired"),
        ] {
            attack(&cluster, tls, (result, reason), |wire| {
                let proving = wire.proving(id, key());
                wire.send(&[&PREFACE, proving.prove()].concat());
            });
        }
        let verdict = Wire::dial(&fresh_address(), node, tls).opened("new", wrong_key());
        assert!(matches!(verdict, Verdict::Ok(_)), "{verdict:?}");
    }
}

#[test]
fn a_key_that_ends_between_proof_and_opening_opens_nothing() {
    for tls in [false, true] {
        let mut cluster = build(tls).start();
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
        cluster.reconfigure_acceptor("n1", |text| {
            let line = format!("id = \"front\"\nnot_after = \"{end}\"");
            text.replacen("id = \"front\"", &line, 1)
        });
        // So that none of its own tries is counted with the attack.
        cluster.front().stop();
        attack(
            &cluster,
            tls,
            ("expired", "key front has expired"),
            |wire| {
                let ready = wire.proven("front", key());
                eventually("the key has ended", || jiff::Timestamp::now() > end);
                wire.send(&ready.open(&body()).0);
            },
        );
        cluster.restart_front();
        not_served(&cluster);
    }
}

#[test]
fn a_key_opens_no_other_service() {
    for tls in [false, true] {
        let spec = NodeSpec::new("n1", Kind::Login).key("services = [\"pop3\"]");
        let cluster = Cluster::build()
            .node(spec)
            .link_tls(tls)
            .user(&ann())
            .start();
        attack(
            &cluster,
            tls,
            ("service", "key front may not open"),
            |wire| {
                let ready = wire.proven("front", key());
                wire.send(&ready.open(&body()).0);
            },
        );
        not_served(&cluster);
    }
}
