//! Sessions over loopback: a peer plays the client, another the server, the relay stands between.

mod content;
mod ends;
mod limits;
mod pace;
mod slow;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

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

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below that, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }

    /// From 1 to that, small numbers as likely as large ones.
    fn size(&mut self, most: usize) -> usize {
        let bits = self.below(usize::try_from(most.ilog2()).unwrap() + 1);
        (1 << bits | self.below(1 << bits)).min(most)
    }
}

/// Octets that look random. Each depends on the seed and on its place alone, so that they can be cut anywhere, and what
/// is lost, doubled or out of order is found at its place.
#[derive(Clone)]
struct Content(Arc<[u8]>);

impl Content {
    /// Prime, so that no mistake about whole pages, buffers or pipes goes unseen.
    const PERIOD: usize = 65_537;

    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let octets = (0..=Self::PERIOD / 8).flat_map(|_| dice.roll().to_le_bytes());
        Self(octets.take(Self::PERIOD).collect())
    }

    /// At least one octet, and no more than that.
    fn piece(&self, place: usize, most: usize) -> &[u8] {
        let piece = &self.0[place % Self::PERIOD..];
        &piece[..most.min(piece.len())]
    }

    /// As many octets as asked for.
    fn octets(&self, mut place: usize, length: usize) -> Vec<u8> {
        let mut octets = Vec::with_capacity(length);
        while octets.len() < length {
            let piece = self.piece(place, length - octets.len());
            octets.extend_from_slice(piece);
            place += piece.len();
        }
        octets
    }

    /// Panics if these octets don't belong there.
    fn check(&self, mut place: usize, mut octets: &[u8]) {
        while !octets.is_empty() {
            let piece = self.piece(place, octets.len());
            let (these, rest) = octets.split_at(piece.len());
            if let Some(wrong) = (0..piece.len()).find(|at| these[*at] != piece[*at]) {
                panic!("octet {} is wrong", place + wrong);
            }
            (place, octets) = (place + piece.len(), rest);
        }
    }
}

/// Sends that much in chunks of 1 octet to 1 MiB, and says that it was all.
async fn send(stream: &mut (impl AsyncWrite + Unpin), content: &Content, total: usize) {
    let (mut dice, mut sent) = (Dice(total as u64), 0);
    while sent < total {
        let chunk = content.octets(sent, (1 + dice.below(MIB)).min(total - sent));
        stream.write_all(&chunk).await.unwrap();
        sent += chunk.len();
    }
    stream.shutdown().await.unwrap();
}

/// Receives until the end of the stream: how much.
async fn receive(stream: &mut (impl AsyncRead + Unpin), content: &Content) -> usize {
    let mut buffer = vec![0; 256 * KIB];
    let mut total = 0;
    loop {
        let length = stream.read(&mut buffer).await.unwrap();
        if length == 0 {
            return total;
        }
        content.check(total, &buffer[..length]);
        total += length;
    }
}

/// What was taken from a sender.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    octets: usize,
    /// Under TLS: of at most 16 KiB each, and none of them spans two writes.
    records: usize,
}

impl Taken {
    /// Goes on sending until nobody takes any more. Paused time moves when nothing else does; only here, since TCP's
    /// own timers don't follow it and it would run ahead of them to the deadlines.
    async fn until_stuck(mut self, stream: &mut Stream, content: &Content) -> Self {
        tokio::time::pause();
        let mut silent = 0;
        // The kernel may still be moving octets between two sockets when we are idle.
        while silent < 3 {
            let chunk = content.piece(self.octets, 64 * KIB);
            match timeout(Duration::from_millis(10), stream.write(chunk)).await {
                Ok(written) => {
                    let written = written.unwrap();
                    self.octets += written;
                    self.records += written.div_ceil(16 * KIB);
                    silent = 0;
                }
                Err(_) => silent += 1,
            }
            let taken = self.octets;
            assert!(
                taken < 64 * MIB,
                "{taken} octets were taken though nobody reads"
            );
        }
        tokio::time::resume();
        self
    }
}

/// A connection whose sockets take little.
async fn narrow(kind: Kind) -> (Stream, Stream) {
    let (peer, ours) = connection(kind).await;
    for end in [&peer, &ours] {
        socket(end).set_send_buffer_size(32 * KIB).unwrap();
        socket(end).set_recv_buffer_size(32 * KIB).unwrap();
    }
    (peer, ours)
}

/// The same, and what the relay writes is taken in small pieces only.
async fn tight(kind: Kind) -> (Stream, Stream) {
    let (peer, ours) = narrow(kind).await;
    socket(&ours).set_send_buffer_size(4 * KIB).unwrap();
    (peer, ours)
}

/// What lies below a stream.
fn socket(stream: &Stream) -> SockRef<'_> {
    match stream {
        Stream::Tcp(stream) => SockRef::from(stream),
        Stream::TlsClient(stream) => SockRef::from(stream.get_ref().0),
        Stream::TlsServer(stream) => SockRef::from(stream.get_ref().0),
        Stream::Unix(stream) => SockRef::from(stream),
    }
}

/// Lets everything move that can: paused time moves when nothing else does.
async fn settle() {
    tokio::time::pause();
    tokio::time::sleep(Duration::from_millis(10)).await;
    tokio::time::resume();
}

/// Starts a session whose client does not read and takes little, in the middle of a transfer to it: (client, server,
/// what is under way, how the session ends).
async fn stalled(
    rig: &Rig,
    client: Kind,
    server: Kind,
    content: &Content,
) -> (Stream, Stream, Taken, JoinHandle<Ended>) {
    let (client, ours) = narrow(client).await;
    let (mut server, theirs) = connection(server).await;
    // Before the relay begins, so that there is more than the client's socket can take.
    let taken = Taken::default().until_stuck(&mut server, content).await;
    let run = start(rig.relay.run(ours, theirs, rig.tasks.cut_requested()));
    settle().await;
    (client, server, taken, run)
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
