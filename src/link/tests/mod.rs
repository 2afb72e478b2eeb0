//! Both halves over loopback TCP, TLS and Unix sockets, and peers that misbehave.
//!
//! Deadlines that must not pass are long, those that must are short, and every wait of a test has [`PATIENCE`].

mod health;

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{Semaphore, mpsc},
};

use super::{begun::Begun, *};
use crate::{
    metrics::Metrics,
    names::{AccountName, ClientAddr, KeyId, LocalAddr, Protocol, Service, SessionId},
    net::{Address, Stream},
    nodes::{self, Node},
    outcome::Blame,
    proto::{
        denial::Denial,
        link::{
            Channel, Context, MailContext, Opening, Purpose, Refusal, Verdict,
            context::OpenBody,
            dialer as machine, node as peer,
            record::{Kind, PREFACE},
        },
    },
    secret::Key,
    tasks::Tasks,
};

/// Longer than any sound test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A deadline that passes in a test.
const SHORT: Duration = Duration::from_millis(100);

/// One that does not: longer than the patience.
const LONG: Duration = Duration::from_secs(60);

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("out of patience")
}

/// Waits until `is_true`, letting every other task run in between.
async fn until(is_true: impl Fn() -> bool) {
    patiently(async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Over {
    Plain,
    Tls,
    Unix,
}

const ALL: [Over; 3] = [Over::Plain, Over::Tls, Over::Unix];

fn node_settings() -> AdmitSettings {
    AdmitSettings {
        node: NodeName::parse("node1").unwrap(),
        keys: vec![NodeKey {
            id: KeyId::parse("proxy1").unwrap(),
            key: Key::new([7; 32]),
            services: vec![Service::Imap, Service::Mailstore],
            from: Vec::new(),
            not_after: None,
        }],
        max_unproven: 16,
        prove_timeout: LONG,
        idle_limit: LONG,
    }
}

fn dial_settings() -> DialSettings {
    DialSettings {
        connect_timeout: LONG,
        prove_timeout: LONG,
        verdict_timeout: LONG,
        ready: 0,
        health: HealthSettings {
            probe_every: None,
            ..HealthSettings::default()
        },
    }
}

fn context() -> Context {
    Context {
        account: AccountName::parse("ann").unwrap(),
        session: SessionId::from_random([5; 12]),
        client: ClientAddr("192.0.2.77:4242".parse().unwrap()),
        local: LocalAddr("192.0.2.1:143".parse().unwrap()),
        protocol: Protocol::Imap,
        tls: None,
        uid: 1001,
        gid: 1001,
        home: "a/ann".to_owned(),
        quota: None,
        hops: 0,
    }
}

fn ready() -> Verdict {
    Verdict::Ok(Opening::Ready("IMAP4rev1".to_owned()))
}

/// A node that admits whoever comes.
struct Server {
    address: Address,
    over: Over,
    metrics: Metrics,
    ended: mpsc::UnboundedReceiver<Result<Admitted, AdmitError>>,
    _dir: tempfile::TempDir,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> (Stream, Option<IpAddr>) {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await.unwrap();
                (Stream::Tcp(stream), Some(peer.ip()))
            }
            Self::Unix(listener) => (Stream::Unix(listener.accept().await.unwrap().0), None),
        }
    }
}

impl Server {
    async fn start(over: Over, settings: AdmitSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (listener, address) = if over == Over::Unix {
            let path = dir.path().join("link");
            let listener = UnixListener::bind(&path).unwrap();
            (Listener::Unix(listener), Address::Unix(path))
        } else {
            let (listener, address) = listen().await;
            (Listener::Tcp(listener), address)
        };
        let metrics = Metrics::new().unwrap();
        let admitter = Admitter::new(settings, metrics.clone()).unwrap();
        let (sender, ended) = mpsc::unbounded_channel();
        let tasks = Tasks::new();
        let admissions = tasks.clone();
        tasks.spawn("listener", async move {
            loop {
                let (stream, peer) = listener.accept().await;
                let (admitter, sender) = (admitter.clone(), sender.clone());
                admissions.spawn("admission", async move {
                    let result = admitter.admit(stream, over == Over::Tls, peer).await;
                    let _ = sender.send(result);
                });
            }
        });
        Self {
            address,
            over,
            metrics,
            ended,
            _dir: dir,
        }
    }

    fn node(&self) -> Node {
        node_at(self.address.clone(), self.over == Over::Tls)
    }

    /// How the next admission ended.
    async fn ended(&mut self) -> Result<Admitted, AdmitError> {
        patiently(self.ended.recv()).await.unwrap()
    }

    /// The next link that is opened: a front probes a node whose links die, and closes what it has proven.
    async fn opened(&mut self) -> Admitted {
        loop {
            match self.ended().await {
                Ok(admitted) => return admitted,
                Err(error) => assert!(error.is_ordinary(), "{error}"),
            }
        }
    }

    /// Gives the next opened link its verdict, and `more` behind it.
    async fn answer(&mut self, verdict: Verdict, more: &[u8]) -> Admitted {
        let mut admitted = self.ended().await.unwrap();
        let octets = [&admitted.verdict(&verdict), more].concat();
        admitted.stream.write_all(&octets).await.unwrap();
        admitted.stream.flush().await.unwrap();
        admitted
    }

    fn handshakes(&self, result: &str) -> u64 {
        let counter = &self.metrics.handshakes;
        counter.with_label_values(&["node", result]).get()
    }
}

async fn listen() -> (TcpListener, Address) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
    };
    (listener, address)
}

fn node_at(address: Address, tls: bool) -> Node {
    Node {
        name: NodeName::parse("node1").unwrap(),
        hosts: Vec::new(),
        address,
        source: None,
        key_id: KeyId::parse("proxy1").unwrap(),
        key: Key::new([7; 32]),
        tls,
        probe_login: None,
    }
}

/// A front that knows one node.
struct Front {
    node: Node,
    dialer: Dialer,
    metrics: Metrics,
    tasks: Tasks,
}

impl Front {
    fn new(node: Node, settings: DialSettings) -> Self {
        let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::new());
        let nodes = nodes::Settings {
            nodes: vec![node.clone()],
            default: None,
        };
        let dialer = Dialer::new(&nodes, settings, metrics.clone(), tasks.clone()).unwrap();
        Self {
            node,
            dialer,
            metrics,
            tasks,
        }
    }

    /// With one link proven ahead, once a first session was opened and closed.
    async fn with_one_ready(server: &mut Server) -> Self {
        let settings = DialSettings {
            ready: 1,
            ..dial_settings()
        };
        let front = Self::new(server.node(), settings);
        let (opened, _) = tokio::join!(front.open(), server.answer(ready(), b""));
        opened.unwrap();
        until(|| front.ready() == 1).await;
        front
    }

    async fn open(&self) -> Result<Opened, LinkError> {
        patiently(self.dialer.open(&self.node, &context())).await
    }

    async fn fail(&self) -> LinkError {
        self.open().await.expect_err("opened")
    }

    fn ready(&self) -> i64 {
        let gauge = &self.metrics.links_ready;
        gauge.with_label_values(&["node1"]).get()
    }

    fn dials(&self) -> u64 {
        let counter = &self.metrics.node_connects;
        counter.with_label_values(&["node1", "ok"]).get()
    }

    fn handshakes(&self, result: &str) -> u64 {
        let counter = &self.metrics.handshakes;
        counter.with_label_values(&["dialer", result]).get()
    }
}

async fn read(stream: &mut Stream, expected: &[u8]) {
    let mut octets = vec![0; expected.len()];
    patiently(stream.read_exact(&mut octets)).await.unwrap();
    assert_eq!(octets, expected);
}

/// Octets pass in both directions, from the first one after the verdict on.
async fn assert_through(mut opened: Opened, mut admitted: Admitted) {
    read(&mut opened.stream, b"* said at once\r\n").await;
    opened.stream.write_all(b"a NOOP\r\n").await.unwrap();
    opened.stream.flush().await.unwrap();
    read(&mut admitted.stream, b"a NOOP\r\n").await;
}

#[tokio::test]
async fn a_fresh_link_opens_over_everything() {
    for over in ALL {
        let mut server = Server::start(over, node_settings()).await;
        let front = Front::new(server.node(), dial_settings());
        let (opened, admitted) =
            tokio::join!(front.open(), server.answer(ready(), b"* said at once\r\n"));
        let opened = opened.unwrap();
        assert_eq!(opened.opening, Opening::Ready("IMAP4rev1".to_owned()));
        assert_eq!(admitted.purpose, Purpose::Session(context()));
        assert_eq!(admitted.key_id.as_str(), "proxy1");
        assert_eq!(
            matches!(admitted.stream, Stream::TlsServer(_)),
            over == Over::Tls
        );
        assert_through(opened, admitted).await;
        assert_eq!((front.handshakes("ok"), server.handshakes("ok")), (1, 1));
        assert_eq!(front.dials(), 1);
    }
}

#[tokio::test]
async fn a_link_proven_ahead_is_used_and_replaced() {
    for over in ALL {
        let mut server = Server::start(over, node_settings()).await;
        let front = Front::with_one_ready(&mut server).await;
        for round in 1..4 {
            until(|| front.ready() == 1).await;
            assert!(front.dials() <= 1 + round, "{over:?}");
            let (opened, admitted) =
                tokio::join!(front.open(), server.answer(ready(), b"* said at once\r\n"));
            assert_through(opened.unwrap(), admitted).await;
            assert!(front.dials() > round, "{over:?}");
        }
    }
}

#[tokio::test]
async fn a_link_that_a_login_began_is_proven_when_no_other_takes_it() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let front = Front::with_one_ready(&mut server).await;
    let (opened, admitted) =
        tokio::join!(front.open(), server.answer(ready(), b"* said at once\r\n"));
    assert_through(opened.unwrap(), admitted).await;
    // It is in the pool at once, before anybody has heard of it.
    assert_eq!(front.ready(), 1);
    let proven = front.handshakes("ok");
    until(|| front.handshakes("ok") == proven + 1).await;
    assert_eq!(front.ready(), 1);
    let (opened, admitted) =
        tokio::join!(front.open(), server.answer(ready(), b"* said at once\r\n"));
    assert_through(opened.unwrap(), admitted).await;
}

#[tokio::test]
async fn a_begun_link_that_is_not_needed_is_retired() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let Address::Tcp { port, .. } = server.address else {
        panic!("no port")
    };
    let to = (Ipv4Addr::LOCALHOST, port).into();
    let places = Arc::new(Semaphore::new(1));
    let link = Begun::begin(to, None, &places).unwrap().unwrap();
    // `hello` is there when anything can be read.
    until(|| link.is_answered()).await;
    assert!(Begun::begin(to, None, &places).unwrap().is_none());
    link.retire();
    let error = server.ended().await.unwrap_err();
    assert!(matches!(error, AdmitError::Retired) && error.is_ordinary());
    assert!(Begun::begin(to, None, &places).unwrap().is_some());
}

#[tokio::test]
async fn a_begun_link_whose_node_has_gone_is_not_used() {
    let (listener, address) = listen().await;
    let settings = DialSettings {
        ready: 1,
        ..dial_settings()
    };
    let front = Front::new(node_at(address, false), settings);
    // Nobody speaks for the node: what is begun connects, and is closed at once.
    front.tasks.spawn("closes", async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    for _ in 0..3 {
        let error = front.fail().await;
        assert!(matches!(error, LinkError::NotProven(_)), "{error}");
    }
}

#[tokio::test]
async fn a_refusal_says_why() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let front = Front::new(server.node(), dial_settings());
    for (refusal, denial) in [
        (Refusal::Forbidden, Denial::Misconfigured),
        (Refusal::InUse, Denial::InUse),
        (Refusal::Limit, Denial::Limit),
        (Refusal::Unavailable, Denial::Unavailable),
    ] {
        let (error, _) = tokio::join!(front.fail(), server.answer(Verdict::Refused(refusal), b""));
        assert!(matches!(error, LinkError::Refused(said) if said == refusal));
        assert_eq!(error.denial(), denial);
    }
}

/// One link carries many messages, so it begins and ends like any other: only what it is opened with differs.
#[tokio::test]
async fn links_are_opened_for_mail_too() {
    let mail = MailContext {
        session: SessionId::from_random([6; 12]),
    };
    for over in ALL {
        let mut server = Server::start(over, node_settings()).await;
        let ahead = Front::with_one_ready(&mut server).await;
        let fresh = Front::new(server.node(), dial_settings());
        let open = |front: &Front| {
            let (dialer, node, mail) = (front.dialer.clone(), front.node.clone(), mail.clone());
            patiently(async move { dialer.open_mail(&node, &mail).await })
        };
        for front in [&ahead, &fresh] {
            let silent = Verdict::Ok(Opening::Silent);
            let (stream, admitted) =
                tokio::join!(open(front), server.answer(silent, b"220 hello\r\n"));
            assert_eq!(admitted.purpose, Purpose::Mail(mail.clone()));
            assert_eq!(admitted.purpose.service(), Service::Mailstore);
            read(&mut stream.unwrap(), b"220 hello\r\n").await;
        }
        let (wrong, _) = tokio::join!(open(&fresh), server.answer(ready(), b""));
        assert!(matches!(wrong, Err(LinkError::Opening)));
        let refuse = async {
            let admitted = server.ended().await.unwrap();
            admitted.refuse(Refusal::Unavailable).await;
        };
        let (refused, ()) = tokio::join!(open(&fresh), refuse);
        assert!(matches!(
            refused,
            Err(LinkError::Refused(Refusal::Unavailable))
        ));
    }
}

#[tokio::test]
async fn what_follows_open_in_one_write_stays_in_the_stream() {
    for over in [Over::Plain, Over::Unix] {
        let mut server = Server::start(over, node_settings()).await;
        let mut stream = match &server.address {
            Address::Tcp { port, .. } => Stream::Tcp(
                TcpStream::connect((Ipv4Addr::LOCALHOST, *port))
                    .await
                    .unwrap(),
            ),
            Address::Unix(path) => {
                Stream::Unix(tokio::net::UnixStream::connect(path).await.unwrap())
            }
        };
        let proving = greeted(&mut stream).await;
        let body = OpenBody::session(&context()).unwrap();
        let (mut octets, _) = proving.open_early(&body).unwrap();
        octets.extend_from_slice(b"a1 SELECT INBOX\r\n");
        stream.write_all(&octets).await.unwrap();
        let mut admitted = server.ended().await.unwrap();
        read(&mut admitted.stream, b"a1 SELECT INBOX\r\n").await;
    }
}

/// A dialer by hand, up to its proof.
async fn greeted(stream: &mut Stream) -> machine::Proving {
    stream.write_all(&PREFACE).await.unwrap();
    let hello = patiently(wire::read_record(stream, Kind::Hello))
        .await
        .unwrap();
    machine::Dialer {
        node: NodeName::parse("node1").unwrap(),
        key_id: KeyId::parse("proxy1").unwrap(),
        key: Key::new([7; 32]),
        channel: Channel::None,
        nonce: [1; 32],
    }
    .hello(&hello)
    .unwrap()
}

#[tokio::test]
async fn a_wrong_key_is_closed_without_a_word() {
    for over in ALL {
        let mut server = Server::start(over, node_settings()).await;
        let mut node = server.node();
        node.key = Key::new([8; 32]);
        let front = Front::new(node, dial_settings());
        let (error, ended) = tokio::join!(front.fail(), server.ended());
        assert!(
            matches!(error, LinkError::NotProven(NotProven::ClosedAtProof)),
            "{error:?}"
        );
        assert_eq!(error.blame(), Blame::Node);
        assert_eq!(error.denial(), Denial::Unavailable);
        assert!(matches!(
            ended,
            Err(AdmitError::Refused(peer::Error::Mac {
                kind: Kind::Prove,
                ..
            }))
        ));
        assert_eq!(server.handshakes("mac"), 1);
        assert_eq!(front.handshakes("not-proven"), 1);
    }
}

#[tokio::test]
async fn every_kind_of_unwelcome_key_looks_the_same_from_outside() {
    type Change = fn(&mut NodeKey);
    let cases: [(Change, &str); 3] = [
        (
            |key| key.id = KeyId::parse("proxy2").unwrap(),
            "unknown-key",
        ),
        (|key| key.from = vec!["10.0.0.0/8".parse().unwrap()], "from"),
        (|key| key.not_after = Some(Timestamp::UNIX_EPOCH), "expired"),
    ];
    for (change, word) in cases {
        let mut settings = node_settings();
        change(&mut settings.keys[0]);
        let mut server = Server::start(Over::Plain, settings).await;
        let front = Front::new(server.node(), dial_settings());
        let (error, ended) = tokio::join!(front.fail(), server.ended());
        assert!(matches!(
            error,
            LinkError::NotProven(NotProven::ClosedAtProof)
        ));
        assert_eq!(ended.unwrap_err().as_str(), word);
    }
}

#[tokio::test]
async fn a_key_without_the_service_is_closed_without_a_verdict() {
    let mut settings = node_settings();
    settings.keys[0].services = vec![Service::Pop3];
    let mut server = Server::start(Over::Plain, settings).await;
    let front = Front::new(server.node(), dial_settings());
    let (error, ended) = tokio::join!(front.fail(), server.ended());
    assert!(matches!(error, LinkError::Lost { began: false, .. }));
    assert!(matches!(
        ended,
        Err(AdmitError::Refused(peer::Error::Service(_)))
    ));
}

#[tokio::test]
async fn another_node_at_the_address_is_refused() {
    let mut settings = node_settings();
    settings.node = NodeName::parse("node2").unwrap();
    let server = Server::start(Over::Tls, settings).await;
    let error = Front::new(server.node(), dial_settings()).fail().await;
    assert!(matches!(
        error,
        LinkError::NotProven(NotProven::Wrong(machine::Error::Name { .. }))
    ));
}

#[tokio::test]
async fn a_plain_dialer_at_a_tls_node_is_told_at_once() {
    let mut server = Server::start(Over::Tls, node_settings()).await;
    let mut node = server.node();
    node.tls = false;
    let front = Front::new(node, dial_settings());
    let (error, ended) = tokio::join!(front.fail(), server.ended());
    assert!(
        matches!(error, LinkError::Mismatch(Mismatch::NodeIsTls)),
        "{error:?}"
    );
    assert!(matches!(ended, Err(AdmitError::PeerIsPlain)), "{ended:?}");
}

#[tokio::test]
async fn a_tls_dialer_at_a_plain_node_is_told_at_once() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let mut node = server.node();
    node.tls = true;
    let front = Front::new(node, dial_settings());
    let (error, ended) = tokio::join!(front.fail(), server.ended());
    assert!(
        matches!(error, LinkError::Mismatch(Mismatch::NodeIsPlain)),
        "{error:?}"
    );
    assert!(matches!(ended, Err(AdmitError::PeerIsTls)), "{ended:?}");
}

#[tokio::test]
async fn noise_is_no_link() {
    for (over, word) in [(Over::Plain, "preface"), (Over::Tls, "mismatch")] {
        let mut server = Server::start(over, node_settings()).await;
        let Address::Tcp { port, .. } = server.address else {
            panic!("no port")
        };
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(server.ended().await.unwrap_err().as_str(), word);
    }
}

#[tokio::test]
async fn a_node_speaks_no_older_tls() {
    let mut server = Server::start(Over::Tls, node_settings()).await;
    let Address::Tcp { port, .. } = server.address else {
        panic!("no port")
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let name = tls::server_name().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    assert!(patiently(connector.connect(name, socket)).await.is_err());
    assert!(matches!(server.ended().await, Err(AdmitError::Tls(_))));
}

/// Somebody who ends TLS on both sides: what the dialer says is read and passed on.
#[tokio::test]
async fn a_man_in_the_middle_of_tls_is_found_out() {
    let mut server = Server::start(Over::Tls, node_settings()).await;
    let Address::Tcp { port, .. } = server.address else {
        panic!("no port")
    };
    let (listener, address) = listen().await;
    let tasks = Tasks::new();
    tasks.spawn("man in the middle", async move {
        let (socket, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls::server().unwrap()));
        let mut dialer = acceptor.accept(socket).await.unwrap();
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls::client().unwrap()));
        let name = tls::server_name().unwrap();
        let mut node = connector.connect(name, socket).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut dialer, &mut node).await;
    });
    let front = Front::new(node_at(address, true), dial_settings());
    let (error, ended) = tokio::join!(front.fail(), server.ended());
    assert!(matches!(
        error,
        LinkError::NotProven(NotProven::ClosedAtProof)
    ));
    assert_eq!(ended.unwrap_err().as_str(), "mac");
}

#[tokio::test]
async fn a_squatter_is_closed_when_its_time_is_up() {
    for over in [Over::Plain, Over::Tls] {
        let settings = AdmitSettings {
            prove_timeout: SHORT,
            ..node_settings()
        };
        let mut server = Server::start(over, settings).await;
        let Address::Tcp { port, .. } = server.address else {
            panic!("no port")
        };
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let mut heard = Vec::new();
        patiently(stream.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard.is_empty(), over == Over::Tls);
        assert!(matches!(server.ended().await, Err(AdmitError::TimedOut)));
    }
}

#[tokio::test]
async fn a_flood_fills_a_quota_and_nothing_else() {
    let settings = AdmitSettings {
        max_unproven: 4,
        ..node_settings()
    };
    let mut server = Server::start(Over::Plain, settings).await;
    let Address::Tcp { port, .. } = server.address else {
        panic!("no port")
    };
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    // Two proven links do not count.
    let front = Front::new(server.node(), dial_settings());
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let (opened, admitted) = tokio::join!(front.open(), server.answer(ready(), b""));
        sessions.push((opened.unwrap(), admitted));
    }
    let mut squatters = Vec::new();
    for _ in 0..2 {
        let mut squatter = connect().await.unwrap();
        patiently(squatter.read_u8()).await.unwrap();
        squatters.push(squatter);
    }
    // Half of the quota is all that one address gets: the first of them makes room.
    let mut third = connect().await.unwrap();
    patiently(third.read_u8()).await.unwrap();
    assert!(matches!(server.ended().await, Err(AdmitError::Crowded)));
    let mut first = squatters.remove(0);
    patiently(first.read_to_end(&mut Vec::new())).await.unwrap();
    // So whoever proves itself gets in, from elsewhere and from there.
    let mut elsewhere = server.node();
    elsewhere.source = Some("127.0.0.2".parse().unwrap());
    let elsewhere = Front::new(elsewhere, dial_settings());
    let (opened, _) = tokio::join!(elsewhere.open(), server.answer(ready(), b""));
    opened.unwrap();
    let (opened, _) = tokio::join!(front.open(), async {
        assert!(matches!(server.ended().await, Err(AdmitError::Crowded)));
        server.answer(ready(), b"").await
    });
    opened.unwrap();
    // Who was not the first is still there.
    drop(third);
    assert!(matches!(server.ended().await, Err(AdmitError::Closed(_))));
    assert_eq!(server.handshakes("crowded"), 2);
}

#[tokio::test]
async fn a_link_that_is_never_opened_is_closed_at_the_idle_limit() {
    let settings = AdmitSettings {
        idle_limit: SHORT,
        ..node_settings()
    };
    let mut server = Server::start(Over::Plain, settings).await;
    let Address::Tcp { port, .. } = server.address else {
        panic!("no port")
    };
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let mut stream = Stream::Tcp(socket);
    let proving = greeted(&mut stream).await;
    stream.write_all(proving.prove()).await.unwrap();
    let error = server.ended().await.unwrap_err();
    assert!(matches!(error, AdmitError::Idle) && error.is_ordinary());
}

#[tokio::test]
async fn a_link_proven_ahead_retires_before_the_node_closes_it() {
    let settings = AdmitSettings {
        idle_limit: Duration::from_secs(1),
        ..node_settings()
    };
    let mut server = Server::start(Over::Plain, settings).await;
    let front = Front::with_one_ready(&mut server).await;
    let error = server.ended().await.unwrap_err();
    assert!(matches!(error, AdmitError::Retired) && error.is_ordinary());
    // And another one takes its place.
    until(|| front.ready() == 1 && front.dials() >= 3).await;
}

#[tokio::test]
async fn a_pooled_link_that_dies_is_tried_once_more() {
    for over in ALL {
        let mut server = Server::start(over, node_settings()).await;
        let front = Front::with_one_ready(&mut server).await;
        let (opened, ()) = tokio::join!(front.open(), async {
            // The node takes `open` and dies.
            drop(server.ended().await.unwrap());
            server.answer(ready(), b"").await;
        });
        opened.unwrap();
    }
}

#[tokio::test]
async fn it_is_tried_exactly_once_more() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let front = Front::with_one_ready(&mut server).await;
    let (error, ()) = tokio::join!(front.fail(), async {
        drop(server.ended().await.unwrap());
        drop(server.ended().await.unwrap());
    });
    assert!(matches!(error, LinkError::Lost { began: false, .. }));
    assert!(server.ended.try_recv().is_err());
}

#[tokio::test]
async fn once_a_verdict_has_begun_nothing_is_tried_again() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let front = Front::with_one_ready(&mut server).await;
    let (error, ()) = tokio::join!(front.fail(), async {
        let mut admitted = server.ended().await.unwrap();
        let verdict = admitted.verdict(&ready());
        admitted.stream.write_all(&verdict[..1]).await.unwrap();
    });
    assert!(matches!(error, LinkError::Lost { began: true, .. }));
    assert!(server.ended.try_recv().is_err());
}

#[tokio::test]
async fn a_link_dies_at_every_octet_of_its_verdict() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let front = Front::new(server.node(), dial_settings());
    let mut len = 0;
    loop {
        let (error, is_complete) = tokio::join!(front.open(), async {
            let mut admitted = server.opened().await;
            let verdict = admitted.verdict(&ready());
            admitted.stream.write_all(&verdict[..len]).await.unwrap();
            len == verdict.len()
        });
        if is_complete {
            error.unwrap();
            break;
        }
        let error = error.unwrap_err();
        assert!(
            matches!(error, LinkError::Lost { began, .. } if began == (len > 0)),
            "{len}: {error:?}"
        );
        len += 1;
    }
}

#[tokio::test]
async fn an_altered_verdict_is_refused() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let front = Front::new(server.node(), dial_settings());
    let (error, ()) = tokio::join!(front.fail(), async {
        let mut admitted = server.ended().await.unwrap();
        let mut verdict = admitted.verdict(&Verdict::Refused(Refusal::Limit));
        verdict[5] = 4;
        admitted.stream.write_all(&verdict).await.unwrap();
    });
    assert!(matches!(
        error,
        LinkError::Verdict(machine::Error::Mac(Kind::Verdict))
    ));
}

#[tokio::test]
async fn links_closed_by_the_node_leave_the_pool() {
    for over in ALL {
        // It proves, and then closes at its own limit, before ours of three quarters of a second.
        let settings = AdmitSettings {
            idle_limit: SHORT,
            ..node_settings()
        };
        let mut server = Server::start(over, settings).await;
        let front = Front::with_one_ready(&mut server).await;
        assert!(matches!(server.ended().await, Err(AdmitError::Idle)));
        until(|| front.ready() == 0).await;
    }
}

#[tokio::test]
async fn a_drain_drops_the_links_proven_ahead() {
    let mut server = Server::start(Over::Tls, node_settings()).await;
    let front = Front::with_one_ready(&mut server).await;
    front.dialer.close_ready();
    assert_eq!(front.ready(), 0);
    assert!(matches!(server.ended().await, Err(AdmitError::Retired)));
    assert_eq!(patiently(front.tasks.drain(PATIENCE)).await, 0);
    // Sessions that are still logging in go on.
    let (opened, _) = tokio::join!(front.open(), server.answer(ready(), b""));
    opened.unwrap();
}

#[tokio::test]
async fn stopping_the_process_ends_the_keepers() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let front = Front::with_one_ready(&mut server).await;
    assert_eq!(patiently(front.tasks.drain(PATIENCE)).await, 0);
    assert_eq!(front.ready(), 0);
}

#[tokio::test]
async fn a_node_that_is_away_is_unreachable_and_not_dialled_in_a_storm() {
    let (listener, address) = listen().await;
    drop(listener);
    let settings = DialSettings {
        ready: 2,
        ..dial_settings()
    };
    let front = Front::new(node_at(address, true), settings);
    let error = front.fail().await;
    assert!(matches!(error, LinkError::Unreachable(_)), "{error:?}");
    assert_eq!(error.denial(), Denial::Unavailable);
    let dials = || {
        let counter = &front.metrics.node_connects;
        counter.with_label_values(&["node1", "unreachable"]).get()
    };
    // The login's, the keeper's first, and one after half a second at most.
    until(|| dials() >= 2).await;
    assert!(dials() <= 3, "{}", dials());
}

/// A node that accepts, reads, and says only what it is told to.
async fn silent(says: Vec<u8>, tls: bool) -> Front {
    let (listener, address) = listen().await;
    let front = Front::new(
        node_at(address, tls),
        DialSettings {
            prove_timeout: SHORT,
            verdict_timeout: SHORT,
            ..dial_settings()
        },
    );
    front.tasks.spawn("silent", async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(&says).await.unwrap();
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard).await;
    });
    front
}

#[tokio::test]
async fn a_silent_node_is_given_up_at_every_step() {
    let (hello, _) = peer::Node {
        name: NodeName::parse("node1").unwrap(),
        idle_limit: LONG,
        channel: Channel::None,
        nonce: [3; 32],
    }
    .greet();
    for (says, tls, expected) in [
        (Vec::new(), true, Step::Tls),
        (Vec::new(), false, Step::Hello),
        (hello[..10].to_vec(), false, Step::Hello),
        (hello, false, Step::Proven),
    ] {
        let error = silent(says, tls).await.fail().await;
        assert!(
            matches!(error, LinkError::TimedOut { step } if step == expected),
            "{error:?}"
        );
        assert_eq!(error.denial(), Denial::Unavailable);
    }
}

#[tokio::test]
async fn a_node_silent_after_open_is_given_up() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let settings = DialSettings {
        verdict_timeout: SHORT,
        ..dial_settings()
    };
    let front = Front::new(server.node(), settings);
    let (error, _admitted) = tokio::join!(front.fail(), server.ended());
    assert!(matches!(
        error,
        LinkError::TimedOut {
            step: Step::Verdict
        }
    ));
}

#[tokio::test]
async fn a_link_comes_from_its_source_address() {
    let mut settings = node_settings();
    settings.keys[0].from = vec!["127.0.0.2/32".parse().unwrap()];
    let mut server = Server::start(Over::Plain, settings).await;
    let mut node = server.node();
    node.source = Some("127.0.0.2".parse().unwrap());
    let front = Front::new(node.clone(), dial_settings());
    let (opened, _) = tokio::join!(front.open(), server.answer(ready(), b""));
    opened.unwrap();
    // No address of the node's is of the source's family.
    node.source = Some("::1".parse().unwrap());
    let error = Front::new(node, dial_settings()).fail().await;
    assert!(matches!(error, LinkError::Unreachable(_)));
}

#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    // Only 127.0.0.1 listens, whatever comes first in the machine's hosts file.
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let mut node = server.node();
    let Address::Tcp { host, .. } = &mut node.address else {
        panic!("no host")
    };
    *host = "localhost".to_owned();
    let front = Front::new(node, dial_settings());
    let (opened, _) = tokio::join!(front.open(), server.answer(ready(), b""));
    opened.unwrap();
}

#[tokio::test]
async fn what_cannot_be_dialled_is_said_before_dialling() {
    let (_listener, address) = listen().await;
    let front = Front::new(node_at(address, false), dial_settings());
    let stranger = Node {
        name: NodeName::parse("node9").unwrap(),
        ..front.node.clone()
    };
    let error = front.dialer.open(&stranger, &context()).await.unwrap_err();
    assert!(matches!(error, LinkError::UnknownNode(_)));
    let context = Context {
        home: "a\nb".to_owned(),
        ..context()
    };
    let error = front.dialer.open(&front.node, &context).await.unwrap_err();
    assert!(matches!(error, LinkError::Context(_)));
    assert_eq!(error.blame(), Blame::Directory);
    assert_eq!(front.dials(), 0);
}

#[tokio::test]
async fn nodes_that_did_not_change_keep_their_links_and_others_give_them_up() {
    let mut server = Server::start(Over::Tls, node_settings()).await;
    let front = Front::with_one_ready(&mut server).await;
    let settings = DialSettings {
        ready: 1,
        ..dial_settings()
    };
    let table = |node: Node| nodes::Settings {
        nodes: vec![node],
        default: None,
    };
    let after = |before: &Dialer, node: Node| {
        let (metrics, tasks) = (front.metrics.clone(), front.tasks.clone());
        Dialer::after(Some(before), &table(node), settings, metrics, tasks).unwrap()
    };
    let renamed = Node {
        hosts: vec!["mail.example.org".to_owned()],
        ..front.node.clone()
    };
    let same = after(&front.dialer, renamed);
    front.dialer.give_way(&same);
    assert_eq!(front.ready(), 1);
    // A worker has those that it had before.
    let worker = same.for_worker(None);
    let next = after(&same, front.node.clone());
    let context = context();
    let (opened, _) = tokio::join!(
        patiently(worker.open(&front.node, &context)),
        server.answer(ready(), b"")
    );
    opened.unwrap();
    until(|| front.ready() == 2).await;
    let next_worker = next.for_worker(Some(&worker));
    worker.give_way(&next_worker);
    assert_eq!(front.ready(), 2);
    // With another key, its links are worth nothing.
    let other = Node {
        key: Key::new([9; 32]),
        ..front.node.clone()
    };
    let other = after(&next, other);
    next_worker.give_way(&other.for_worker(Some(&next_worker)));
    next.give_way(&other);
    assert_eq!(front.ready(), 0);
}

#[tokio::test]
async fn a_link_that_was_proven_by_a_key_that_is_gone_is_not_opened() {
    let (listener, address) = listen().await;
    let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::new());
    let parts = |settings: AdmitSettings| GateParts {
        from: vec!["127.0.0.0/8".parse().unwrap()],
        peers: Vec::new(),
        admitter: Admitter::new(settings, metrics.clone()).unwrap(),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    };
    let gate = Gate::new(parts(node_settings()));
    let (sender, mut opened) = mpsc::unbounded_channel();
    let serve = move |admitted: Admitted, _| {
        let sender = sender.clone();
        async move {
            let verdict = admitted.verdict(&ready());
            let mut stream = admitted.stream;
            stream.write_all(&verdict).await.unwrap();
            sender.send(stream).unwrap();
        }
    };
    tasks.spawn("listener", gate.clone().listen(listener, || false, serve));
    let node = Node {
        address,
        tls: false,
        ..Server::start(Over::Plain, node_settings()).await.node()
    };
    let settings = DialSettings {
        ready: 1,
        ..dial_settings()
    };
    let front = Front::new(node, settings);
    front.open().await.unwrap();
    opened.recv().await.unwrap();
    until(|| front.ready() == 1).await;
    // The same keys made anew: what was proven is good.
    gate.change(parts(node_settings()));
    front.open().await.unwrap();
    opened.recv().await.unwrap();
    until(|| front.ready() == 1).await;
    let mut other = node_settings();
    for key in &mut other.keys {
        key.key = Key::new([9; 32]);
    }
    gate.change(parts(other));
    front.fail().await;
    assert!(opened.try_recv().is_err());
}
