//! Sessions over loopback: a peer plays the client, another the server, the relay stands between.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

const MIB: usize = 1024 * 1024;

// === the rig ===

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Tcp,
    TlsClient,
    TlsServer,
    Unix,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Tcp, Self::TlsClient, Self::TlsServer, Self::Unix];

    fn is_plain(self) -> bool {
        matches!(self, Self::Tcp | Self::Unix)
    }
}

/// A connection of that kind on our end: (the peer's end, ours).
async fn connection(kind: Kind) -> (Stream, Stream) {
    match kind {
        Kind::Tcp => {
            let (peer, ours) = tcp().await;
            (Stream::Tcp(peer), Stream::Tcp(ours))
        }
        Kind::Unix => {
            let (peer, ours) = UnixStream::pair().unwrap();
            (Stream::Unix(peer), Stream::Unix(ours))
        }
        Kind::TlsServer => tls(tcp().await).await,
        Kind::TlsClient => {
            let (ours, peer) = tls(tcp().await).await;
            (peer, ours)
        }
    }
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (peer, accepted) = tokio::join!(connecting, listener.accept());
    let (peer, ours) = (peer.unwrap(), accepted.unwrap().0);
    peer.set_nodelay(true).unwrap();
    ours.set_nodelay(true).unwrap();
    (peer, ours)
}

/// TLS begun by the first of two ends.
async fn tls((beginner, answerer): (TcpStream, TcpStream)) -> (Stream, Stream) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let (began, answered) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect(name, beginner),
        TlsAcceptor::from(Arc::new(server)).accept(answerer),
    );
    (
        Stream::TlsClient(Box::new(began.unwrap())),
        Stream::TlsServer(Box::new(answered.unwrap())),
    )
}

struct Rig {
    relay: Relay,
    metrics: Metrics,
    tasks: Tasks,
}

impl Rig {
    fn new() -> Self {
        Self::with(Settings::default(), pipes::LIMIT)
    }

    fn with(settings: Settings, pipes: usize) -> Self {
        let metrics = Metrics::new().unwrap();
        let tasks = Tasks::new();
        Self {
            relay: Relay::with_pipes(settings, &metrics, tasks.clone(), pipes),
            metrics,
            tasks,
        }
    }

    /// Starts a session: (client, server, how it ends).
    async fn session(&self, client: Kind, server: Kind) -> (Stream, Stream, JoinHandle<Ended>) {
        let (client, ours) = connection(client).await;
        let (server, theirs) = connection(server).await;
        let run = self.relay.run(ours, theirs, self.tasks.cut_requested());
        (client, server, start(run))
    }

    fn octets(&self, mode: &str) -> u64 {
        ["to_client", "to_server"]
            .iter()
            .map(|direction| {
                self.metrics
                    .relay_bytes
                    .with_label_values(&[*direction, mode])
                    .get()
            })
            .sum()
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test wants the result of its task, which Tasks keeps to itself"
)]
fn start<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(future)
}

/// Octets that look random and are the same for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn chunk(&mut self, most: usize) -> Vec<u8> {
        let length = 1 + usize::try_from(self.next()).unwrap() % most;
        let mut octets = Vec::with_capacity(length + 8);
        while octets.len() < length {
            octets.extend_from_slice(&self.next().to_le_bytes());
        }
        octets.truncate(length);
        octets
    }
}

type Digest = [u8; 32];

/// Sends that much in chunks of 1 octet to 1 MiB, and says that it was all.
async fn send(stream: &mut (impl AsyncWrite + Unpin), seed: u64, mut left: usize) -> Digest {
    let mut noise = Noise(seed);
    let mut digest = Sha256::new();
    while left > 0 {
        let chunk = noise.chunk(left.min(MIB));
        digest.update(&chunk);
        stream.write_all(&chunk).await.unwrap();
        left -= chunk.len();
    }
    stream.shutdown().await.unwrap();
    digest.finalize().into()
}

/// Receives until the end of the stream.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> (usize, Digest) {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        let length = stream.read(&mut buffer).await.unwrap();
        if length == 0 {
            return (total, digest.finalize().into());
        }
        digest.update(&buffer[..length]);
        total += length;
    }
}

/// Sends until nobody takes any more: (how much, its digest). Paused time moves when nothing else does; only here, since
/// TCP's own timers don't follow it and it would run ahead of them to the deadlines.
async fn send_until_stuck(stream: &mut Stream, most: usize) -> (usize, Sha256) {
    let mut digest = Sha256::new();
    let mut noise = Noise(99);
    let mut total = 0;
    tokio::time::pause();
    while total < most {
        let chunk = noise.chunk(64 * 1024);
        match timeout(Duration::from_millis(10), stream.write(&chunk)).await {
            Ok(written) => {
                let written = written.unwrap();
                digest.update(&chunk[..written]);
                total += written;
            }
            Err(_) => {
                tokio::time::resume();
                return (total, digest);
            }
        }
    }
    panic!("{total} octets were taken though nobody reads");
}

/// A connection whose sockets take little.
async fn narrow(kind: Kind) -> (Stream, Stream) {
    let (peer, ours) = connection(kind).await;
    for end in [&peer, &ours] {
        let socket = match end {
            Stream::Tcp(stream) => SockRef::from(stream),
            Stream::TlsClient(stream) => SockRef::from(stream.get_ref().0),
            Stream::TlsServer(stream) => SockRef::from(stream.get_ref().0),
            Stream::Unix(stream) => SockRef::from(stream),
        };
        socket.set_send_buffer_size(32 * 1024).unwrap();
        socket.set_recv_buffer_size(32 * 1024).unwrap();
    }
    (peer, ours)
}

/// Lets everything move that can: paused time moves when nothing else does.
async fn settle() {
    tokio::time::pause();
    tokio::time::sleep(Duration::from_millis(10)).await;
    tokio::time::resume();
}

/// Starts a session whose client does not read and takes little, in the middle of a transfer to it: (client, server,
/// what is under way, its digest, how the session ends).
async fn stalled(
    rig: &Rig,
    client: Kind,
    server: Kind,
) -> (Stream, Stream, usize, Sha256, JoinHandle<Ended>) {
    let (client, ours) = narrow(client).await;
    let (mut server, theirs) = connection(server).await;
    // Before the relay begins, so that there is more than the client's socket can take.
    let (taken, digest) = send_until_stuck(&mut server, 64 * MIB).await;
    let run = start(rig.relay.run(ours, theirs, rig.tasks.cut_requested()));
    settle().await;
    (client, server, taken, digest, run)
}

async fn say(stream: &mut Stream, words: &[u8]) {
    stream.write_all(words).await.unwrap();
    stream.flush().await.unwrap();
}

async fn hear(stream: &mut Stream, words: &[u8]) {
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, words);
}

async fn hear_end(stream: &mut Stream) {
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

/// Closes with RST instead of FIN.
fn reset(stream: Stream) {
    let Stream::Tcp(stream) = stream else {
        panic!("only TCP can be reset");
    };
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

// === content ===

/// Both directions at once through one pair of kinds.
async fn carries(client: Kind, server: Kind, total: usize) {
    let rig = Rig::new();
    let (client_end, server_end, run) = rig.session(client, server).await;
    let (mut from_client, mut to_client) = tokio::io::split(client_end);
    let (mut from_server, mut to_server) = tokio::io::split(server_end);
    let (asked, answered, question, answer) = tokio::join!(
        send(&mut to_client, 7, total),
        send(&mut to_server, 8, total),
        receive(&mut from_server),
        receive(&mut from_client),
    );
    assert_eq!(question, (total, asked), "{client:?} to {server:?}");
    assert_eq!(answer, (total, answered), "{server:?} to {client:?}");
    let ended = run.await.unwrap();
    assert_eq!(ended.to_client, total as u64);
    assert_eq!(ended.to_server, total as u64);
    assert!(matches!(ended.by, End::Client | End::Server), "{ended:?}");
    let (copied, spliced) = (rig.octets("copy"), rig.octets("splice"));
    assert_eq!(copied + spliced, 2 * total as u64);
    let plain = client.is_plain() && server.is_plain();
    assert_eq!(spliced > 0, plain, "{client:?}, {server:?}: {spliced}");
    let (made, free) = rig.relay.shared.pipes.counts();
    assert_eq!(made, free, "every pipe is given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_of_kinds_carries_both_directions() {
    for client in Kind::ALL {
        for server in Kind::ALL {
            carries(client, server, 3 * MIB).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transfer_arrives_whole() {
    carries(Kind::Tcp, Kind::Tcp, 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_pipes_everything_is_copied() {
    let rig = Rig::with(Settings::default(), 0);
    let (mut client, mut server, run) = rig.session(Kind::Tcp, Kind::Unix).await;
    let (sent, received) = tokio::join!(send(&mut server, 3, 8 * MIB), receive(&mut client));
    assert_eq!(received, (8 * MIB, sent));
    client.shutdown().await.unwrap();
    assert!(matches!(run.await.unwrap().by, End::Server));
    assert_eq!(rig.octets("splice"), 0);
    assert_eq!(rig.octets("copy"), 8 * MIB as u64);
}

/// rustls may have decrypted more than was read from it; no socket will ever become readable for that.
#[tokio::test]
async fn what_tls_had_decrypted_before_is_not_forgotten() {
    for kind in [Kind::TlsServer, Kind::TlsClient] {
        let rig = Rig::new();
        let (mut client, mut ours) = connection(kind).await;
        let (mut server, theirs) = connection(Kind::Tcp).await;
        say(&mut client, b"a1 NOOP\r\na2 NOOP\r\n").await;
        hear(&mut ours, b"a1 NOOP\r\n").await;
        let run = start(rig.relay.run(ours, theirs, std::future::pending()));
        hear(&mut server, b"a2 NOOP\r\n").await;
        drop((client, server));
        run.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_talk_at_once() {
    let rig = Rig::new();
    let mut talks = JoinSet::new();
    let mut runs = Vec::new();
    for i in 0..500_u32 {
        let server = if i % 2 == 0 { Kind::Tcp } else { Kind::Unix };
        let (mut client, mut server, run) = rig.session(Kind::Unix, server).await;
        runs.push(run);
        talks.spawn(async move {
            for round in 0..20_u32 {
                let words = (i * 1000 + round).to_be_bytes();
                say(&mut client, &words).await;
                hear(&mut server, &words).await;
                say(&mut server, &words).await;
                hear(&mut client, &words).await;
            }
        });
    }
    while let Some(talk) = talks.join_next().await {
        talk.unwrap();
    }
    for run in runs {
        let ended = run.await.unwrap();
        assert_eq!((ended.to_client, ended.to_server), (80, 80));
    }
    assert_eq!(rig.octets("splice"), 0, "small talk needs no pipe");
}

// === slow receivers ===

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    for (client, server) in [
        (Kind::Tcp, Kind::Tcp),
        (Kind::Unix, Kind::Unix),
        (Kind::TlsServer, Kind::Tcp),
        (Kind::Tcp, Kind::TlsClient),
    ] {
        let rig = Rig::new();
        let (mut client, mut server, run) = rig.session(client, server).await;
        let (taken, mut digest) = send_until_stuck(&mut server, 64 * MIB).await;
        // All of it arrives while the sender waits for an answer; no end of stream pushes it out.
        let mut received = vec![0; taken + 8];
        let ((), read) = tokio::join!(
            say(&mut server, b"the rest"),
            client.read_exact(&mut received),
        );
        read.unwrap();
        digest.update(b"the rest");
        assert!(Sha256::digest(&received) == digest.finalize());
        server.shutdown().await.unwrap();
        hear_end(&mut client).await;
        client.shutdown().await.unwrap();
        assert!(matches!(run.await.unwrap().by, End::Server));
    }
}

/// rustls takes octets for a full socket and keeps them; after the last of them only a flush brings them out. How much a
/// socket takes is the kernel's secret, so all sizes are tried around it.
#[tokio::test]
async fn what_tls_keeps_back_goes_out_when_the_source_is_dry() {
    for kib in (16..=288).step_by(16) {
        let rig = Rig::new();
        let (mut client, ours) = narrow(Kind::TlsServer).await;
        let (mut server, theirs) = connection(Kind::Unix).await;
        let run = start(rig.relay.run(ours, theirs, std::future::pending()));
        let (sent, mut received) = (vec![7; kib * 1024], vec![0; kib * 1024]);
        // How much fits before anything is read is the kernel's secret too.
        let read = async {
            settle().await;
            timeout(Duration::from_secs(20), client.read_exact(&mut received)).await
        };
        let ((), read) = tokio::join!(say(&mut server, &sent), read);
        read.expect("something is kept back").unwrap();
        drop((client, server));
        run.await.unwrap();
    }
}

#[tokio::test]
async fn a_stalled_transfer_keeps_its_pipe_and_others_copy() {
    let rig = Rig::with(Settings::default(), 1);
    let pipes = &rig.relay.shared.pipes;
    let (client, server, .., stalled) = stalled(&rig, Kind::Unix, Kind::Unix).await;
    assert_eq!(pipes.counts(), (1, 0));
    let spliced = rig.octets("splice");

    let (mut other, mut source, run) = rig.session(Kind::Tcp, Kind::Tcp).await;
    let (sent, received) = tokio::join!(send(&mut source, 5, 8 * MIB), receive(&mut other));
    assert_eq!(received, (8 * MIB, sent));
    drop(other);
    run.await.unwrap();
    assert_eq!(rig.octets("splice"), spliced);

    // A pipe with octets in it is never lent again.
    stalled.abort();
    assert!(stalled.await.unwrap_err().is_cancelled());
    assert_eq!(pipes.counts(), (0, 0));
    drop((client, server));
}

// === ends ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_goes_on_after_the_client_has_ended() {
    for kind in Kind::ALL {
        let rig = Rig::new();
        let (mut client, mut server, run) = rig.session(kind, Kind::Tcp).await;
        say(&mut client, b"a FETCH 1 BODY[]\r\n").await;
        client.shutdown().await.unwrap();
        hear(&mut server, b"a FETCH 1 BODY[]\r\n").await;
        hear_end(&mut server).await;
        let (sent, received) = tokio::join!(send(&mut server, 4, 20 * MIB), receive(&mut client));
        assert_eq!(received, (20 * MIB, sent), "{kind:?}");
        let ended = run.await.unwrap();
        assert!(matches!(ended.by, End::Client), "{kind:?}: {ended:?}");
        assert_eq!(ended.to_client, 20 * MIB as u64);
    }
}

#[tokio::test]
async fn a_server_that_closes_with_octets_under_way_is_read_to_the_end() {
    for (client, server) in [(Kind::Tcp, Kind::Tcp), (Kind::TlsServer, Kind::TlsClient)] {
        let rig = Rig::new();
        let plain = client.is_plain();
        let (mut client, mut server, taken, digest, run) = stalled(&rig, client, server).await;
        let under_way = rig.relay.shared.pipes.counts();
        assert_eq!(under_way, if plain { (1, 0) } else { (0, 0) });
        // What TLS has taken may still lie in it: this end must at least be able to send it.
        let (closed, received) = tokio::join!(server.shutdown(), receive(&mut client));
        closed.unwrap();
        drop(server);
        assert_eq!(received, (taken, digest.finalize().into()));
        drop(client);
        assert!(matches!(run.await.unwrap().by, End::Server));
    }
}

#[tokio::test]
async fn tls_that_ends_without_close_notify_has_ended() {
    let rig = Rig::new();
    let (mut client, mut server, run) = rig.session(Kind::TlsServer, Kind::Unix).await;
    say(&mut server, b"* OK\r\n").await;
    // This reads the session tickets too: closing with unread octets would be RST, not FIN.
    hear(&mut client, b"* OK\r\n").await;
    say(&mut client, b"a LOGOUT\r\n").await;
    let Stream::TlsClient(tls) = client else {
        panic!("a TLS client was asked for");
    };
    // Only the socket is closed; rustls has no chance to say anything.
    drop(tls.into_inner().0);
    hear(&mut server, b"a LOGOUT\r\n").await;
    hear_end(&mut server).await;
    drop(server);
    let ended = run.await.unwrap();
    assert!(matches!(ended.by, End::Client), "{ended:?}");
}

/// A reader of TLS gets an error, not an end, when close_notify is missing: `hear_end` tells them apart.
#[tokio::test]
async fn the_end_reaches_a_tls_peer_as_close_notify() {
    for kind in [Kind::TlsClient, Kind::TlsServer] {
        let rig = Rig::new();
        let (mut client, server, run) = rig.session(kind, Kind::Tcp).await;
        drop(server);
        hear_end(&mut client).await;
        drop(client);
        assert!(matches!(run.await.unwrap().by, End::Server));
    }
}

// === errors ===

#[tokio::test]
async fn a_client_that_is_cut_off_is_to_blame() {
    let rig = Rig::new();
    let (mut client, mut server, run) = rig.session(Kind::Tcp, Kind::Tcp).await;
    say(&mut client, b"a IDLE\r\n").await;
    hear(&mut server, b"a IDLE\r\n").await;
    reset(client);
    hear_end(&mut server).await;
    drop(server);
    let ended = run.await.unwrap();
    assert!(matches!(&ended.by, End::ClientError(e) if e.kind() == io::ErrorKind::ConnectionReset));
    assert_eq!((ended.to_client, ended.to_server), (0, 8));
}

#[tokio::test]
async fn what_a_client_said_before_it_was_cut_off_reaches_the_server() {
    for server in [Kind::Tcp, Kind::TlsClient] {
        let rig = Rig::new();
        let (mut client, mut server, run) = rig.session(Kind::Tcp, server).await;
        send_until_stuck(&mut client, 64 * MIB).await;
        reset(client);
        let (heard, _) = receive(&mut server).await;
        drop(server);
        let ended = run.await.unwrap();
        assert!(matches!(ended.by, End::ClientError(_)), "{ended:?}");
        assert_eq!(heard as u64, ended.to_server);
        assert!(heard > 0);
    }
}

#[tokio::test]
async fn a_client_cut_off_in_the_middle_of_a_transfer_harms_nobody() {
    let rig = Rig::new();
    let (client, mut server, .., run) = stalled(&rig, Kind::Tcp, Kind::Tcp).await;
    assert_eq!(rig.relay.shared.pipes.counts(), (1, 0));
    reset(client);
    hear_end(&mut server).await;
    drop(server);
    let ended = run.await.unwrap();
    assert!(matches!(ended.by, End::ClientError(_)), "{ended:?}");
    assert_eq!(rig.relay.shared.pipes.counts(), (0, 0));
    carries(Kind::Tcp, Kind::Tcp, MIB).await;
}

#[tokio::test]
async fn the_last_words_of_a_server_that_is_cut_off_reach_the_client() {
    let rig = Rig::new();
    let (mut client, mut server, run) = rig.session(Kind::Tcp, Kind::Tcp).await;
    say(&mut client, b"a NOOP\r\n").await;
    hear(&mut server, b"a").await;
    say(&mut server, b"* BYE\r\n").await;
    hear(&mut client, b"* BYE\r\n").await;
    // Closed with unread octets: the kernel sends RST by itself.
    drop(server);
    hear_end(&mut client).await;
    drop(client);
    let ended = run.await.unwrap();
    assert!(matches!(ended.by, End::ServerError(_)), "{ended:?}");
    assert_eq!((ended.to_client, ended.to_server), (7, 8));
}

// === deadlines ===

const IDLE: Duration = Duration::from_secs(35 * 60);
const HALF: Duration = Duration::from_secs(60);
const TICKS: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn a_silent_session_is_closed_and_a_talking_one_is_not() {
    let rig = Rig::new();
    let (mut quiet, _server, quiet_run) = rig.session(Kind::Unix, Kind::Unix).await;
    let (mut client, mut server, run) = rig.session(Kind::Unix, Kind::Unix).await;
    let begin = Instant::now();
    // Ten times in either direction alone, each within the limit. (Paused time: it runs from tick to tick.)
    for _ in 0..10 {
        tokio::time::sleep(IDLE / 2).await;
        say(&mut server, b"* 1 EXISTS\r\n").await;
        hear(&mut client, b"* 1 EXISTS\r\n").await;
    }
    for _ in 0..10 {
        tokio::time::sleep(IDLE / 2).await;
        say(&mut client, b"DONE\r\n").await;
        hear(&mut server, b"DONE\r\n").await;
    }
    assert!(!run.is_finished());
    assert!(quiet_run.is_finished());
    assert!(matches!(quiet_run.await.unwrap().by, End::Idle));
    hear_end(&mut quiet).await;

    let last = Instant::now();
    assert!(matches!(run.await.unwrap().by, End::Idle));
    assert!(last.elapsed() >= IDLE && last.elapsed() <= IDLE + TICKS);
    assert!(begin.elapsed() > 10 * IDLE);
    hear_end(&mut client).await;
    hear_end(&mut server).await;
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_session_is_closed_sooner() {
    let rig = Rig::new();
    let (mut client, mut server, run) = rig.session(Kind::Unix, Kind::Unix).await;
    client.shutdown().await.unwrap();
    hear_end(&mut server).await;
    for _ in 0..5 {
        tokio::time::sleep(HALF / 2).await;
        say(&mut server, b"* still here\r\n").await;
        hear(&mut client, b"* still here\r\n").await;
    }
    let last = Instant::now();
    assert!(matches!(run.await.unwrap().by, End::HalfClosedIdle));
    assert!(last.elapsed() >= HALF && last.elapsed() <= HALF + TICKS);
    hear_end(&mut client).await;
}

/// What is sent to a side that is gone is no sign of life.
#[tokio::test(start_paused = true)]
async fn a_server_that_talks_to_nobody_is_closed() {
    let rig = Rig::new();
    let (client, mut server, run) = rig.session(Kind::Tcp, Kind::Unix).await;
    reset(client);
    hear_end(&mut server).await;
    let begin = Instant::now();
    while server.write_all(b"* 1 EXISTS\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begin.elapsed() <= HALF + TICKS);
    }
    assert!(matches!(run.await.unwrap().by, End::ClientError(_)));
    assert!(begin.elapsed() >= HALF);
}

#[tokio::test]
async fn a_fast_sweep_closes_in_real_time() {
    let settings = Settings {
        idle: Duration::from_millis(60),
        half_closed_idle: Duration::from_millis(30),
    };
    let rig = Rig::with(settings, 1);
    let (mut client, _server, run) = rig.session(Kind::TlsServer, Kind::Tcp).await;
    hear_end(&mut client).await;
    assert!(matches!(run.await.unwrap().by, End::Idle));
}

// === being stopped ===

#[tokio::test(start_paused = true)]
async fn a_session_that_a_drain_cuts_still_tells_its_counts() {
    let rig = Rig::new();
    let (mut client, ours) = connection(Kind::TlsServer).await;
    let (mut server, theirs) = connection(Kind::Unix).await;
    let run = rig.relay.run(ours, theirs, rig.tasks.cut_requested());
    let (outcome, told) = tokio::sync::oneshot::channel();
    rig.tasks.spawn("session", async move {
        outcome.send(run.await).unwrap();
    });
    say(&mut client, b"a NOOP\r\n").await;
    hear(&mut server, b"a NOOP\r\n").await;
    assert_eq!(rig.tasks.drain(Duration::from_secs(5)).await, 1);
    let ended = told.await.unwrap();
    assert!(matches!(ended.by, End::Stopped));
    assert_eq!((ended.to_client, ended.to_server), (0, 8));
    hear_end(&mut client).await;
    hear_end(&mut server).await;
}

#[tokio::test(start_paused = true)]
async fn the_sweep_does_not_hold_back_a_drain() {
    let rig = Rig::new();
    let (client, server, run) = rig.session(Kind::Unix, Kind::Unix).await;
    drop((client, server));
    run.await.unwrap();
    let begin = Instant::now();
    assert_eq!(rig.tasks.drain(Duration::from_secs(60)).await, 0);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_session_is_a_small_future() {
    let rig = Rig::new();
    let (_client, ours) = connection(Kind::Unix).await;
    let (_server, theirs) = connection(Kind::Unix).await;
    let run = rig.relay.run(ours, theirs, rig.tasks.cut_requested());
    let size = size_of_val(&run);
    assert!(size <= 640, "{size} octets");
}
