//! Hand-over to a real Dovecot 2.3 by each kind, to a real Cyrus by `login`, to a real Courier by `login` and `exec`. Run as root.

mod courier;
mod cyrus;
mod dovecot;
mod exec;

use std::{
    fs,
    io::IoSliceMut,
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use bytes::BytesMut;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use self::dovecot::{Dovecot, FIRST_UID, SECRET, home, master_at};
use super::{trial::TrialError, witness::Witness, *};
use crate::{
    home::Bounds,
    names::{ClientAddr, LocalAddr, SessionId},
    outcome::chain,
    proto::{
        link::context::ClientTls,
        opening::{Reader, Step},
        proxy_header::Version,
    },
    secret::Secret,
};

/// How long any single answer may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until there is something. What is closed here lives on for a moment in a process that another test has just forked
/// and that has not become its program yet.
pub(super) fn soon<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a link can be made of.
#[derive(Clone, Copy, Debug)]
enum LinkKind {
    Tcp,
    Tls,
    Unix,
}

const LINKS: [LinkKind; 3] = [LinkKind::Tcp, LinkKind::Tls, LinkKind::Unix];

/// The front's end of a link.
struct Front {
    stream: Stream,
    input: BytesMut,
    name: String,
}

impl Front {
    /// A link: the front's end and the node's.
    async fn link(kind: LinkKind) -> (Self, Stream) {
        let (front, node) = match kind {
            LinkKind::Unix => {
                let (front, node) = UnixStream::pair().unwrap();
                (Stream::Unix(front), Stream::Unix(node))
            }
            LinkKind::Tcp => {
                let (front, node) = tcp().await;
                (Stream::Tcp(front), Stream::Tcp(node))
            }
            LinkKind::Tls => tls().await,
        };
        let front = Self {
            stream: front,
            input: BytesMut::new(),
            name: format!("{kind:?}"),
        };
        (front, node)
    }

    async fn send(&mut self, text: &str) {
        write(&mut self.stream, text.as_bytes()).await.unwrap();
    }

    async fn fill(&mut self) -> usize {
        timeout(PATIENCE, self.stream.read_buf(&mut self.input))
            .await
            .unwrap_or_else(|_| panic!("{} said no more than {:?}", self.name, self.input))
            .unwrap_or(0)
    }

    /// Reads up to and with a line that begins so.
    async fn until(&mut self, start: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.input).into_owned();
            let mut end = 0;
            for line in text.split_inclusive('\n') {
                end += line.len();
                if line.starts_with(start) && line.ends_with('\n') {
                    let _ = self.input.split_to(end);
                    return text[..end].to_owned();
                }
            }
            assert_ne!(self.fill().await, 0, "no {start} in {text:?}");
        }
    }

    /// Reads to the end.
    async fn end(&mut self) -> String {
        while self.fill().await > 0 {}
        String::from_utf8_lossy(&self.input).into_owned()
    }

    /// Reads the opening that the verdict announced.
    async fn opening(&mut self, opening: &Opening) -> String {
        let mut reader = Reader::new(opening);
        loop {
            match reader.step(&mut self.input).unwrap() {
                Step::Done { capabilities } => return capabilities.unwrap(),
                Step::More => assert_ne!(self.fill().await, 0, "no opening"),
            }
        }
    }
}

/// A verdict record that can be read by eye.
fn verdict(verdict: &Verdict) -> Vec<u8> {
    match verdict {
        Verdict::Ok(Opening::Ready(_)) => b"verdict ready\r\n".to_vec(),
        other => format!("verdict {other:?}\r\n").into_bytes(),
    }
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let front = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    (front, listener.accept().await.unwrap().0)
}

async fn tls() -> (Stream, Stream) {
    use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};
    let made = rcgen::generate_simple_self_signed(["node".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![made.cert.der().clone()],
            made.signing_key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    let (front, node) = tcp().await;
    let (front, node) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect("node".try_into().unwrap(), front),
        TlsAcceptor::from(Arc::new(server)).accept(node),
    );
    (
        Stream::TlsClient(Box::new(front.unwrap())),
        Stream::TlsServer(Box::new(node.unwrap())),
    )
}

fn context(number: u32) -> Context {
    Context {
        account: AccountName::parse(&format!("u{number}")).unwrap(),
        session: SessionId::parse(&format!("session-{number}")).unwrap(),
        client: ClientAddr(([192, 0, 2, 77], 4242).into()),
        local: LocalAddr(([192, 0, 2, 1], 993).into()),
        protocol: Protocol::Imap,
        tls: None,
        uid: FIRST_UID + number,
        gid: FIRST_UID + number,
        home: format!("u{number}"),
        quota: None,
        hops: 1,
    }
}

fn pop3_context(number: u32) -> Context {
    Context {
        protocol: Protocol::Pop3,
        local: LocalAddr(([192, 0, 2, 1], 995).into()),
        ..context(number)
    }
}

fn settings(kind: Kind, home_root: PathBuf) -> Settings {
    Settings {
        imap: Some(kind),
        pop3: None,
        sessions_file: sessions_file(&home_root),
        bounds: Bounds {
            uids: 1000..=u32::MAX - 1,
            gids: 1000..=u32::MAX - 1,
            home_root,
        },
        timeout: PATIENCE,
        sessions_per_account: 50,
    }
}

/// Among the homes, in the test's own folder, and of each [`Handover`] its own.
fn sessions_file(home_root: &Path) -> PathBuf {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    home_root.join(format!("sessions-{number}"))
}

fn login_kind(server: Address) -> Kind {
    Kind::Login(master_at(server))
}

fn start(settings: Settings) -> Handover {
    Handover::new(
        settings,
        Succession::default(),
        Metrics::new().unwrap(),
        &Tasks::new(),
    )
    .unwrap()
}

fn both(dovecot: &Dovecot) -> [Handover; 2] {
    [
        login_kind(dovecot.address()),
        Kind::DovecotImapMaster {
            socket: dovecot.socket(),
        },
    ]
    .map(|kind| start(settings(kind, dovecot.homes())))
}

/// Relays or looks after a process as the acceptor would, until the session is over.
async fn relay_on(handed: Handed) {
    if let Handed::Started {
        mut server,
        relayed,
    } = handed
    {
        let relay = async {
            if let Some((mut link, mut end)) = relayed {
                let _ = tokio::io::copy_bidirectional(&mut link, &mut end).await;
            }
        };
        tokio::join!(server.exit(), relay);
    } else if let Handed::Relay {
        mut link,
        mut server,
        pending,
        session,
    } = handed
    {
        write(&mut link, &pending).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut link, &mut server).await;
        drop(session);
    }
}

/// One whole session: verdict, opening, SELECT, LOGOUT, end.
async fn session(handover: &Handover, link: LinkKind, number: u32) -> String {
    let (mut front, node) = Front::link(link).await;
    // What the front sent early is for the real server, once, in order.
    front.send("a NOOP\r\nb SELECT INBOX\r\n").await;
    let context = context(number);
    let serve = async {
        relay_on(
            handover
                .hand_over(node, Service::Imap, &context, verdict)
                .await
                .unwrap(),
        )
        .await;
    };
    let talk = async move {
        let told = front.until("verdict ").await;
        let capabilities = match told.trim_end() {
            "verdict ready" => String::new(),
            "verdict Ok(Capability)" => front.opening(&Opening::Capability).await,
            other => panic!("{other}"),
        };
        assert!(front.until("a ").await.contains("a OK"));
        let selected = front.until("b ").await;
        assert!(
            selected.contains("* 0 EXISTS") && selected.contains("b OK"),
            "{selected}"
        );
        assert_eq!(count(handover, number), 1);
        front.send("c LOGOUT\r\n").await;
        // The end comes as soon as the server ends: nobody keeps a duplicate of the socket.
        assert!(front.end().await.contains("c OK"));
        drop(front);
        capabilities
    };
    let both = async { tokio::join!(serve, talk).1 };
    timeout(PATIENCE, both).await.expect("a session that ends")
}

/// A session that says these lines, each time reading up to and with a line that begins so. What the server said.
async fn converse(handover: &Handover, context: &Context, lines: &[(&str, &str)]) -> String {
    let (mut front, node) = Front::link(LinkKind::Tcp).await;
    let service = match context.protocol {
        Protocol::Imap => Service::Imap,
        Protocol::Pop3 => Service::Pop3,
    };
    let serve = async {
        let handed = handover.hand_over(node, service, context, verdict).await;
        relay_on(handed.unwrap_or_else(|error| panic!("{}", chain(&error)))).await;
    };
    let talk = async {
        assert_eq!(front.until("verdict ").await, "verdict ready\r\n");
        let mut said = String::new();
        for (line, end) in lines {
            front.send(&format!("{line}\r\n")).await;
            said += &front.until(end).await;
        }
        said += &front.end().await;
        drop(front);
        said
    };
    let both = async { tokio::join!(serve, talk).1 };
    timeout(PATIENCE, both).await.expect("a session that ends")
}

fn count(handover: &Handover, number: u32) -> u32 {
    let counts = handover.sessions();
    counts.get(&context(number).account).copied().unwrap_or(0)
}

/// Waits until all sessions are known to be over: Dovecot closes its sockets in its own time.
async fn all_over(handover: &Handover) {
    timeout(PATIENCE, async {
        while !handover.sessions().is_empty() {
            handover.sessions.sweep(None);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("no session is left");
}

#[tokio::test]
async fn users_with_different_uids_are_served_one_after_the_other() {
    let dovecot = Dovecot::start("").await;
    for handover in both(&dovecot) {
        for (link, number) in LINKS.into_iter().zip(1..) {
            let capabilities = session(&handover, link, number).await;
            assert!(
                capabilities.is_empty() || capabilities.contains("IMAP4rev1"),
                "{capabilities}"
            );
            let id = FIRST_UID + number;
            let maildir = fs::metadata(dovecot.homes().join(format!("u{number}/Maildir"))).unwrap();
            assert_eq!((maildir.uid(), maildir.gid()), (id, id));
            dovecot
                .logged(&[
                    &format!("imap(u{number})<"),
                    &format!("<session-{number}> rip=192.0.2.77 lip=192.0.2.1: Info: Disconnected"),
                ])
                .await;
        }
        all_over(&handover).await;
    }
    dovecot
        .logged(&[
            "Login: user=<u1>",
            "rip=192.0.2.77, lip=192.0.2.1",
            "session=<session-1>",
        ])
        .await;
}

#[tokio::test]
async fn users_with_different_uids_are_served_side_by_side() {
    let dovecot = Dovecot::start("").await;
    for handover in both(&dovecot) {
        let served = (1..=9).map(|number| {
            let link = if number % 2 == 0 {
                LinkKind::Tcp
            } else {
                LinkKind::Unix
            };
            let handover = handover.clone();
            async move { session(&handover, link, number).await }
        });
        let mut tasks = tokio::task::JoinSet::new();
        for serve in served {
            tasks.spawn(serve);
        }
        while let Some(served) = tasks.join_next().await {
            served.unwrap();
        }
        for number in 1..=9 {
            let maildir = dovecot.homes().join(format!("u{number}/Maildir"));
            assert_eq!(fs::metadata(maildir).unwrap().uid(), FIRST_UID + number);
        }
        all_over(&handover).await;
        let open = handover.metrics.sessions_open.with_label_values(&["imap"]);
        assert_eq!(open.get(), 0);
    }
}

#[tokio::test]
async fn a_session_counts_until_its_client_has_closed() {
    let dovecot = Dovecot::start("").await;
    for kind in both(&dovecot).map(|handover| handover.settings.imap.clone().unwrap()) {
        let mut settings = settings(kind, dovecot.homes());
        settings.sessions_per_account = 1;
        let handover = start(settings);
        let (mut front, node) = Front::link(LinkKind::Tcp).await;
        let first = context(1);
        let handed = handover
            .hand_over(node, Service::Imap, &first, verdict)
            .await
            .unwrap();
        let relay = relay_on(handed);
        let talk = async move {
            front.until("verdict ").await;
            let error = refused(&handover, LinkKind::Tcp, &context(1), "Refused(Limit)").await;
            assert!(matches!(error, Refused::Limit(1)), "{error}");
            assert_eq!(count(&handover, 1), 1);
            // The client closes without a word. Its session makes room without waiting for the sweep.
            drop(front);
            handover
        };
        let handover = timeout(PATIENCE, async { tokio::join!(relay, talk).1 })
            .await
            .unwrap();
        timeout(PATIENCE, async {
            let account = &context(1).account;
            while handover
                .sessions
                .reserve(account, Protocol::Imap, 1)
                .is_none()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("room for the next session");
        let label = handover.settings.imap.as_ref().unwrap().as_str();
        for result in ["ok", "limit"] {
            let counter = handover
                .metrics
                .handovers
                .with_label_values(&[label, result]);
            assert_eq!(counter.get(), 1, "{label} {result}");
        }
    }
}

/// Hands over what is refused, and checks what the front hears: one verdict, if any, and the end.
async fn refused(handover: &Handover, link: LinkKind, context: &Context, told: &str) -> Refused {
    let (mut front, node) = Front::link(link).await;
    let result = handover.hand_over(node, context.protocol.service(), context, verdict);
    let (result, heard) = tokio::join!(timeout(PATIENCE, result), front.end());
    let error = result.unwrap().unwrap_err();
    let record = if told.is_empty() {
        String::new()
    } else {
        format!("verdict {told}\r\n")
    };
    assert_eq!(heard, record, "{link:?} {}", chain(&error));
    error
}

#[tokio::test]
async fn contexts_outside_the_bounds_are_refused_before_anything_is_done() {
    let dovecot = Dovecot::start("").await;
    let homes = dovecot.homes();
    fs::create_dir(homes.join("real")).unwrap();
    symlink("real", homes.join("link")).unwrap();
    home(&homes.join("other"), 2);
    let handovers = both(&dovecot);
    let entries = || fs::read_dir(&homes).unwrap().count();
    let before = entries();
    for handover in handovers {
        let with = |change: &dyn Fn(&mut Context)| {
            let mut context = context(1);
            change(&mut context);
            context
        };
        for bad in [
            with(&|context| context.uid = 0),
            with(&|context| context.uid = 999),
            with(&|context| context.uid = u32::MAX),
            with(&|context| context.gid = 0),
            with(&|context| context.gid = 999),
            with(&|context| context.home = "../u1".to_owned()),
            with(&|context| context.home = "/etc".to_owned()),
            with(&|context| context.home = "link".to_owned()),
            with(&|context| context.home = "link/u1".to_owned()),
            with(&|context| context.home = "other".to_owned()),
        ] {
            for link in LINKS {
                let error = refused(&handover, link, &bad, "Refused(Forbidden)").await;
                assert_eq!(error.refusal(), Refusal::Forbidden);
            }
        }
        assert!(handover.sessions().is_empty());
    }
    assert!(fs::read_dir(homes.join("real")).unwrap().next().is_none());
    assert_eq!(entries(), before);
    assert!(!dovecot.log().contains("session-1"));
}

#[tokio::test]
async fn zero_is_no_uid_whatever_the_bounds_say() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(
        login_kind(Address::Unix("/nonexistent".into())),
        dir.path().to_owned(),
    );
    settings.bounds.uids = 0..=10;
    settings.bounds.gids = 0..=10;
    let handover = start(settings);
    for (uid, gid) in [(0, 1), (1, 0)] {
        let mut context = context(1);
        (context.uid, context.gid) = (uid, gid);
        let error = refused(&handover, LinkKind::Unix, &context, "Refused(Forbidden)").await;
        assert!(matches!(error, Refused::Bounds(_)));
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_and_no_reason_not_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let tcp = Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    };
    let unix = dir.path().join("nobody");
    for kind in [
        login_kind(tcp),
        login_kind(Address::Unix(unix.clone())),
        Kind::DovecotImapMaster {
            socket: unix.clone(),
        },
    ] {
        let handover = start(settings(kind, dir.path().to_owned()));
        for link in LINKS {
            let error = refused(&handover, link, &context(1), "Refused(Unavailable)").await;
            assert_eq!(error.refusal(), Refusal::Unavailable);
        }
        assert!(handover.sessions().is_empty());
    }
}

#[tokio::test]
async fn what_is_not_served_is_unavailable() {
    let handover = start(Settings {
        imap: None,
        ..settings(login_kind(Address::Unix("/nonexistent".into())), "/".into())
    });
    for service in [Service::Imap, Service::Pop3, Service::Mailstore] {
        let (mut front, node) = Front::link(LinkKind::Tcp).await;
        let error = handover
            .hand_over(node, service, &context(1), verdict)
            .await
            .unwrap_err();
        assert!(matches!(error, Refused::Service(_)));
        assert_eq!(front.end().await, "verdict Refused(Unavailable)\r\n");
    }
}

#[tokio::test]
async fn a_wrong_master_password_is_never_told_as_the_clients() {
    let dovecot = Dovecot::start("").await;
    let wrong = |server| {
        Kind::Login(LoginSettings {
            password: Secret::new(b"wrong".to_vec()),
            ..master_at(server)
        })
    };
    let mut settings = settings(wrong(dovecot.address()), dovecot.homes());
    settings.pop3 = Some(wrong(dovecot.pop3()));
    // Dovecot lets whoever gives a wrong password wait.
    settings.timeout = Duration::from_millis(1500);
    let handover = start(settings);
    for context in [context(1), pop3_context(1)] {
        let error = refused(&handover, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
        let master = matches!(error, Refused::Login(LoginError::Master(_)));
        assert!(
            master || matches!(error, Refused::Timeout),
            "{}",
            chain(&error)
        );
    }
    assert!(handover.sessions().is_empty());
    assert!(!dovecot.log().contains(SECRET));
}

#[tokio::test]
async fn an_account_that_dovecot_does_not_know_is_unavailable() {
    let dovecot = Dovecot::start("").await;
    let [login, _] = both(&dovecot);
    let mut context = context(1);
    context.account = AccountName::parse("nobody").unwrap();
    let error = refused(&login, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
    assert_eq!(error.refusal(), Refusal::Unavailable);
    assert!(login.sessions().is_empty());
}

#[tokio::test]
async fn nobody_but_the_master_user_logs_in_on_the_nodes_port() {
    let dovecot = Dovecot::start("").await;
    let Address::Tcp { host, port } = dovecot.address() else {
        unreachable!()
    };
    let mut front = Front {
        stream: Stream::Tcp(TcpStream::connect((host, port)).await.unwrap()),
        input: BytesMut::new(),
        name: "client".to_owned(),
    };
    front.send("a LOGIN u1 u1\r\n").await;
    assert!(front.until("a ").await.contains("a NO"));
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("silent");
    let silent = UnixListener::bind(&path).unwrap();
    for kind in [
        login_kind(Address::Unix(path.clone())),
        Kind::DovecotImapMaster {
            socket: path.clone(),
        },
    ] {
        let mut settings = settings(kind, dir.path().to_owned());
        settings.timeout = Duration::from_millis(200);
        let handover = start(settings);
        for link in LINKS {
            let error = refused(&handover, link, &context(1), "Refused(Unavailable)").await;
            assert!(matches!(error, Refused::Timeout), "{}", chain(&error));
        }
        assert!(handover.sessions().is_empty());
    }
    drop(silent);
}

/// A listener whose backlog is full, and what fills it.
fn crowded(path: &Path) -> (std::os::unix::net::UnixListener, Vec<socket2::Socket>) {
    let socket = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let address = socket2::SockAddr::unix(path).unwrap();
    let listener = socket().unwrap();
    listener.bind(&address).unwrap();
    listener.listen(1).unwrap();
    let mut crowd = Vec::new();
    loop {
        let one = socket().unwrap();
        one.set_nonblocking(true).unwrap();
        match one.connect(&address) {
            Ok(()) => crowd.push(one),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return (listener.into(), crowd);
            }
        }
    }
}

#[tokio::test]
async fn a_full_backlog_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crowded");
    let (listener, crowd) = crowded(&path);
    let address = Address::Unix(path.clone());
    let mut login = std::pin::pin!(login::connect(&address));
    let mut master = std::pin::pin!(imap_master::try_connect(&path));
    // Neither has an answer yet, and a refusal would be one.
    assert!(timeout(Duration::ZERO, &mut login).await.is_err());
    assert!(timeout(Duration::ZERO, &mut master).await.is_err());
    for _ in crowd {
        listener.accept().unwrap();
    }
    listener.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(listener).unwrap();
    let greet = async {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            write_all(&mut stream, b"VERSION\timap-master\t1\t0\n").await;
        }
    };
    let all = async { tokio::join!(login, master, greet) };
    let (login, master, ()) = timeout(PATIENCE, all).await.unwrap();
    assert!(login.is_ok() && master.is_ok(), "{login:?} {master:?}");
}

/// Takes one request as `imap-master` does, with its socket, and answers so. A connection without a request is a test at
/// start.
async fn fake_master(listener: UnixListener, answer: &[u8]) -> (UnixStream, Vec<OwnedFd>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        write_all(&mut stream, b"VERSION\timap-master\t1\t0\n").await;
        let received = stream
            .async_io(Interest::READABLE, || receive(&stream))
            .await;
        let sockets = received.unwrap();
        if !sockets.is_empty() {
            write_all(&mut stream, answer).await;
            return (stream, sockets);
        }
    }
}

async fn write_all(stream: &mut UnixStream, octets: &[u8]) {
    // The test at start may be gone already.
    let _ = stream.write_all(octets).await;
}

fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut octets = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let octets = &mut [IoSliceMut::new(&mut octets)];
    rustix::net::recvmsg(stream, octets, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    Ok(control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        })
        .flatten()
        .collect())
}

#[tokio::test]
async fn an_unclear_answer_ends_the_link_without_a_verdict() {
    for (link, told) in [
        (LinkKind::Tcp, ""),
        (LinkKind::Unix, ""),
        // What Dovecot may have is not the link.
        (LinkKind::Tls, "Refused(Unavailable)"),
    ] {
        for answer in [&b""[..], b"what\n"] {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("master");
            let listener = UnixListener::bind(&socket).unwrap();
            let kind = Kind::DovecotImapMaster { socket };
            let mut settings = settings(kind, dir.path().to_owned());
            settings.timeout = Duration::from_millis(300);
            let handover = start(settings);
            let context = context(1);
            // The other side keeps the socket, and the front sees the end of the stream nevertheless.
            let (_kept, error) = tokio::join!(
                fake_master(listener, answer),
                refused(&handover, link, &context, told)
            );
            let unclear = matches!(error, Refused::Master(MasterError::Unclear(_)));
            assert!(unclear, "{}", chain(&error));
            assert!(handover.sessions().is_empty());
        }
    }
}

#[tokio::test]
async fn a_uid_that_dovecot_refuses_is_unavailable() {
    let dovecot = Dovecot::start("first_valid_uid = 20002\n").await;
    for handover in both(&dovecot) {
        for link in LINKS {
            let error = refused(&handover, link, &context(1), "Refused(Unavailable)").await;
            let master = matches!(error, Refused::Master(MasterError::Refused(_)));
            let login = matches!(error, Refused::Login(LoginError::Refused { .. }));
            assert!(master || login, "{}", chain(&error));
        }
        assert!(handover.sessions().is_empty());
        for link in LINKS {
            session(&handover, link, 2).await;
            all_over(&handover).await;
        }
    }
}

#[tokio::test]
async fn a_late_refusal_of_dovecots_is_no_good_opening() {
    let dovecot = Dovecot::start("mail_location = nosuch:~/Maildir\n").await;
    let [login, master] = both(&dovecot);
    for link in LINKS {
        let error = refused(&login, link, &context(1), "Refused(Unavailable)").await;
        assert!(matches!(error, Refused::Login(LoginError::Refused { .. })));

        let (mut front, node) = Front::link(link).await;
        let serve = async {
            let context = context(1);
            let handed = master
                .hand_over(node, Service::Imap, &context, verdict)
                .await;
            relay_on(handed.unwrap()).await;
        };
        let hear = async move { front.end().await };
        let ((), heard) = tokio::join!(serve, hear);
        // A verdict, perhaps; then the end, or a BYE.
        assert!(!heard.contains("x OK"), "{heard}");
    }
    all_over(&login).await;
    all_over(&master).await;
}

/// A node for POP3 alone.
fn pop3(dovecot: &Dovecot, sessions_per_account: u32) -> Handover {
    start(Settings {
        imap: None,
        pop3: Some(login_kind(dovecot.pop3())),
        sessions_per_account,
        ..settings(login_kind(dovecot.pop3()), dovecot.homes())
    })
}

#[tokio::test]
async fn pop3_sessions_reach_their_mailboxes() {
    let dovecot = Dovecot::start("").await;
    let handover = pop3(&dovecot, 1);
    for (link, number) in LINKS.into_iter().zip(1..) {
        let (mut front, node) = Front::link(link).await;
        // What the front sent early is for the real server, once, in order.
        front.send("STAT\r\n").await;
        let context = pop3_context(number);
        let serve = async {
            let handed = handover.hand_over(node, Service::Pop3, &context, verdict);
            relay_on(handed.await.unwrap()).await;
        };
        let talk = async {
            assert_eq!(front.until("verdict ").await, "verdict ready\r\n");
            assert_eq!(front.until("+OK").await, "+OK 0 0\r\n");
            let error = refused(&handover, link, &context, "Refused(Limit)").await;
            assert!(matches!(error, Refused::Limit(1)), "{error}");
            front.send("QUIT\r\n").await;
            assert!(front.end().await.starts_with("+OK"));
            drop(front);
        };
        timeout(PATIENCE, async { tokio::join!(serve, talk) })
            .await
            .expect("a session that ends");
        let maildir = fs::metadata(dovecot.homes().join(format!("u{number}/Maildir"))).unwrap();
        assert_eq!(maildir.uid(), FIRST_UID + number);
        let login = format!("Login: user=<u{number}>");
        let session = format!("session=<session-{number}>");
        let end = format!("pop3(u{number})<");
        let id = format!("<session-{number}> rip=192.0.2.77");
        dovecot.logged(&[&login, "rip=192.0.2.77", &session]).await;
        dovecot
            .logged(&[&end, &id, "Disconnected: Logged out"])
            .await;
    }
    all_over(&handover).await;
}

#[tokio::test]
async fn pop3_sessions_that_dovecot_ends_late_are_refused() {
    let dovecot = Dovecot::start("mail_location = nosuch:~/Maildir\n").await;
    let handover = pop3(&dovecot, 50);
    for link in LINKS {
        let error = refused(&handover, link, &pop3_context(1), "Refused(Unavailable)").await;
        let ended = matches!(
            error,
            Refused::Server(_) | Refused::Login(LoginError::Refused { .. })
        );
        assert!(ended, "{}", chain(&error));
    }
    assert!(handover.sessions().is_empty());
}

#[tokio::test]
async fn pop3_has_no_socket_to_pass() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("master");
    let kind = Kind::DovecotImapMaster { socket };
    let mut settings = settings(kind.clone(), dir.path().to_owned());
    settings.pop3 = Some(kind);
    let handover = start(settings);
    let error = refused(
        &handover,
        LinkKind::Unix,
        &pop3_context(1),
        "Refused(Unavailable)",
    )
    .await;
    assert!(matches!(error, Refused::Service(Service::Pop3)), "{error}");
}

/// The doors of `config/dovecot/haproxy.conf` on these ports, and further settings.
fn haproxy_doors(imap: u16, pop3: u16, extra: &str) -> String {
    let sample = include_str!("../../../config/dovecot/haproxy.conf");
    assert!(sample.contains("port = 10144") && sample.contains("port = 10111"));
    sample
        .replace("port = 10144", &format!("port = {imap}"))
        .replace("port = 10111", &format!("port = {pop3}"))
        + extra
}

/// Logins through doors that read a header: of each version, and each protocol.
async fn login_by_header(extra: &str, logged: impl Fn(&Context) -> Vec<String>) {
    let ports = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [imap, pop3] = ports.map(|port| port.local_addr().unwrap().port());
    let dovecot = Dovecot::start(&haproxy_doors(imap, pop3, extra)).await;
    for (version, number) in [(Version::V1, 1), (Version::V2, 2)] {
        let [imap, pop3] = [imap, pop3].map(|port| {
            let host = "127.0.0.1".to_owned();
            LoginSettings {
                proxy_header: Some(version),
                ..master_at(Address::Tcp { host, port })
            }
        });
        for (protocol, login) in [(Protocol::Imap, &imap), (Protocol::Pop3, &pop3)] {
            let tried = trial::run(protocol, login, PATIENCE).await;
            tried.unwrap_or_else(|error| panic!("{version:?}: {}", chain(&error)));
        }
        let handover = start(Settings {
            pop3: Some(Kind::Login(pop3)),
            ..settings(Kind::Login(imap), dovecot.homes())
        });
        for mut context in [context(number), pop3_context(number)] {
            context.tls = Some(ClientTls {
                version: "TLSv1.3".to_owned(),
                cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
            });
            let lines: &[_] = match context.protocol {
                Protocol::Imap => &[("a SELECT INBOX", "a OK"), ("b LOGOUT", "b OK")],
                Protocol::Pop3 => &[("STAT", "+OK 0 0"), ("QUIT", "+OK")],
            };
            converse(&handover, &context, lines).await;
            let mut words = logged(&context);
            words.push(format!(
                "{}-login: Info: Login: user=<u{number}>",
                context.protocol.as_str()
            ));
            words.push("rip=192.0.2.77, lip=192.0.2.1,".to_owned());
            if version == Version::V2 {
                words.push(", secured,".to_owned());
            }
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            dovecot.logged(&words).await;
        }
        all_over(&handover).await;
    }
}

#[tokio::test]
async fn dovecot_learns_the_client_from_a_header_alone() {
    login_by_header("login_trusted_networks =\n", |_| Vec::new()).await;
}

#[tokio::test]
async fn dovecot_learns_the_session_from_a_trusted_client_of_a_header() {
    login_by_header(
        "login_trusted_networks = 127.0.0.0/8 192.0.2.0/24\n",
        |context| vec![format!("session=<{}>", context.session)],
    )
    .await;
}

#[tokio::test]
async fn a_door_that_reads_a_header_says_nothing_without() {
    let ports = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [imap, pop3] = ports.map(|port| port.local_addr().unwrap().port());
    let dovecot = Dovecot::start(&haproxy_doors(imap, pop3, "haproxy_timeout = 1s\n")).await;
    for (protocol, port) in [(Protocol::Imap, imap), (Protocol::Pop3, pop3)] {
        let host = "127.0.0.1".to_owned();
        let login = master_at(Address::Tcp { host, port });
        let error = trial::run(protocol, &login, PATIENCE).await.unwrap_err();
        assert!(!error.is_misconfiguration());
        let error = chain(&error).to_string();
        assert!(error.contains("set proxy_protocol"), "{error}");
    }
    // And the other way round.
    for (protocol, server) in [
        (Protocol::Imap, dovecot.address()),
        (Protocol::Pop3, dovecot.pop3()),
    ] {
        for version in [Version::V1, Version::V2] {
            let login = LoginSettings {
                proxy_header: Some(version),
                ..master_at(server.clone())
            };
            let error = trial::run(protocol, &login, PATIENCE).await.unwrap_err();
            assert!(error.is_misconfiguration(), "{}", chain(&error));
        }
    }
}

#[tokio::test]
async fn sessions_of_a_kind_that_is_not_configured_any_more_count() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = dir.path().join("nobody");
    let login = || settings(login_kind(Address::Unix(nobody.clone())), dir.path().into());
    let gauge = || Metrics::new().unwrap().sessions_open;
    let file = sessions_file(dir.path());
    let before = Sessions::new(gauge(), Some(&file), None).unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let session = before.reserve(&context(1).account, Protocol::Imap, 0);
    before.give_away(session.unwrap(), Witness::unix(&socket).unwrap());

    // Another process has the file: its sessions are not ours.
    let with_file = || Settings {
        sessions_file: file.clone(),
        ..login()
    };
    assert_eq!(count(&start(with_file()), 1), 0);
    drop(before);
    let handover = soon("the session that lives on", || {
        let handover = start(with_file());
        (count(&handover, 1) == 1).then_some(handover)
    });
    drop(socket);
    soon("the socket is dead", || {
        handover.sessions.sweep(None);
        handover.sessions().is_empty().then_some(())
    });

    // No file is made for a kind that gives nothing away.
    let settings = login();
    let unmade = settings.sessions_file.clone();
    start(settings);
    assert!(!unmade.exists());
}

/// A file system that hangs keeps one of our threads for each try, and the whole process has only so many of them.
#[test]
fn a_home_that_hangs_is_counted_until_it_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let homes = tempfile::tempdir().unwrap();
        // In place of the file system, the only thread that could make the home hangs.
        let (release, hung) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || hung.recv());
        let nobody = Address::Unix(homes.path().join("nobody"));
        let handover = start(Settings {
            timeout: Duration::from_millis(50),
            sessions_per_account: 1,
            ..settings(login_kind(nobody), homes.path().into())
        });
        let attempt = async || {
            let (_front, node) = Front::link(LinkKind::Unix).await;
            let context = context(1);
            let handed = handover.hand_over(node, Service::Imap, &context, verdict);
            handed.await.unwrap_err()
        };
        assert!(matches!(attempt().await, Refused::Timeout));
        assert!(matches!(attempt().await, Refused::Limit(1)));
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        all_over(&handover).await;

        // Nor is the kernel asked on the event loop whether a session that was given away is over.
        let (release, hung) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || hung.recv());
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let account = &context(1).account;
        let session = handover.sessions.try_reserve(account, Protocol::Imap, 1);
        let witness = Witness::unix(&socket).unwrap();
        handover.sessions.give_away(session.unwrap(), witness);
        assert!(matches!(attempt().await, Refused::Timeout));
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
    });
}
