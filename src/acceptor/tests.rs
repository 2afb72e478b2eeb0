//! Links over real sockets, up to a real server that a few lines play.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::{TcpListener, UnixListener, UnixStream},
};

use super::*;
use crate::{
    handover::{self, Succession},
    link::{AdmitSettings, Admitted, Admitter, DialSettings, Dialer, Gate, GateParts, NodeKey},
    metrics::Metrics,
    names::{AccountName, ClientAddr, LocalAddr, NodeName, Protocol, Service, SessionId},
    net::Address,
    nodes::{self, Node},
    proto::link::Purpose,
    relay,
    secret::{Key, Secret},
};

/// Longer than any sound test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("out of patience")
}

/// A real server as far as a login needs one: it answers every command with OK and stays.
async fn real_server(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (reader, mut writer) = stream.split();
        let mut lines = BufReader::new(reader).lines();
        let greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR] ready\r\n";
        writer.write_all(greeting).await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            let tag = line.split(' ').next().unwrap();
            let answer = format!("* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n");
            writer.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

/// The gate, and what serves each link that it lets in.
fn acceptor(
    places: usize,
    server: Address,
    home_root: &Path,
    tasks: &Tasks,
) -> (
    Gate,
    impl Fn(Admitted, OwnedSemaphorePermit) -> Serving + Clone + Send + 'static,
) {
    let metrics = Metrics::new().unwrap();
    let admit = AdmitSettings {
        node: NodeName::parse("node1").unwrap(),
        keys: vec![NodeKey {
            id: KeyId::parse("proxy1").unwrap(),
            key: Key::new([7; 32]),
            services: vec![Service::Imap],
            from: Vec::new(),
            not_after: None,
        }],
        max_unproven: 16,
        prove_timeout: PATIENCE * 2,
        idle_limit: PATIENCE * 2,
    };
    let handover = handover::Settings {
        imap: Some(handover::Kind::Login(handover::LoginSettings {
            server,
            user: Some("master".to_owned()),
            password: Secret::new(b"secret".to_vec()),
            proxy_header: None,
        })),
        pop3: None,
        bounds: crate::home::Bounds {
            uids: 1000..=60000,
            gids: 1000..=60000,
            home_root: home_root.to_owned(),
        },
        timeout: PATIENCE,
        sessions_file: home_root.join("sessions"),
        sessions_per_account: 0,
    };
    let acceptor = Acceptor::new(Parts {
        handover: Handover::new(handover, Succession::default(), metrics.clone(), tasks).unwrap(),
        relay: Relay::new(relay::Settings::default(), metrics.clone(), tasks.clone()),
        tasks: tasks.clone(),
    });
    let gate = GateParts {
        from: vec!["127.0.0.0/8".parse().unwrap()],
        peers: vec![rustix::process::geteuid().as_raw()],
        admitter: Admitter::new(admit, metrics.clone()).unwrap(),
        metrics,
        tasks: tasks.clone(),
    };
    let serve = move |admitted: Admitted, permit| -> Serving {
        let Purpose::Session(context) = admitted.purpose else {
            panic!("not a session");
        };
        let Admitted {
            stream,
            key_id,
            seal,
            ..
        } = admitted;
        Box::pin(
            acceptor
                .clone()
                .serve(stream, context, key_id, seal, permit),
        )
    };
    (Gate::with_places(places, gate), serve)
}

type Serving = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

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
        home: "ann".to_owned(),
        quota: None,
        hops: 1,
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn address(port: u16) -> Address {
    Address::parse(&format!("127.0.0.1:{port}")).unwrap()
}

/// A session that is relayed has its place until it ends, and links on a Unix socket need places as others do.
#[tokio::test]
async fn links_have_a_limit_sessions_included() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let (server, server_port) = listen().await;
    tasks.spawn("real server", real_server(server));
    let (gate, serve) = acceptor(1, address(server_port), dir.path(), &tasks);
    let (links, port) = listen().await;
    tasks.spawn(
        "listener",
        gate.clone().listen(links, || false, serve.clone()),
    );
    let path = dir.path().join("link.sock");
    let unix = UnixListener::bind(&path).unwrap();
    tasks.spawn("listener", gate.listen_unix(unix, serve));

    let node = Node {
        name: NodeName::parse("node1").unwrap(),
        hosts: Vec::new(),
        address: address(port),
        source: None,
        key_id: KeyId::parse("proxy1").unwrap(),
        key: Key::new([7; 32]),
        tls: false,
        probe_login: None,
    };
    let nodes = nodes::Settings {
        nodes: vec![node.clone()],
        default: None,
    };
    let settings = DialSettings {
        ready: 0,
        ..DialSettings::default()
    };
    let dialer = Dialer::new(&nodes, settings, Metrics::new().unwrap(), tasks.clone()).unwrap();
    let mut session = patiently(dialer.open(&node, &context())).await.unwrap();
    // An answer of the real server: the session has reached the relay.
    session.stream.write_all(b"a NOOP\r\n").await.unwrap();
    let mut answer = [0; 10];
    patiently(session.stream.read_exact(&mut answer))
        .await
        .unwrap();

    let mut heard = Vec::new();
    let mut refused = UnixStream::connect(&path).await.unwrap();
    patiently(refused.read_to_end(&mut heard)).await.unwrap();
    assert!(heard.is_empty(), "a place on the Unix socket");
    let mut refused = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    patiently(refused.read_to_end(&mut heard)).await.unwrap();
    assert!(heard.is_empty(), "a place on TCP");

    drop(session);
    patiently(async {
        // The place is free again when both directions have ended.
        while patiently(dialer.open(&node, &context())).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Fronts keep links proven ahead at every node: a node that stops must not wait until they are used or grow old.
#[tokio::test]
async fn links_that_are_not_open_do_not_hold_back_a_drain() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let nobody = Address::Unix(dir.path().join("nobody"));
    let (gate, serve) = acceptor(16, nobody, dir.path(), &tasks);
    let (links, port) = listen().await;
    tasks.spawn("listener", gate.listen(links, || false, serve));
    let mut link = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    patiently(link.read_u8()).await.unwrap();
    assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
}
