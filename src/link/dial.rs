//! One node as a worker dials it: connect, prove, open, and keep a pool full.
//!
//! The preface travels with `prove`, unless the node says nothing. On a plain link `prove` and `open` travel in one write,
//! too: a new link costs two round trips, one that was begun or proven ahead costs one.
//! Under TLS `open` waits for `proven`: until then somebody in between could be reading. It never sends a password, and
//! does not read what follows the verdict.
//!
//! Limits: connecting, proving and the verdict have a deadline each ([`DialSettings`]); of fresh links [`TURNS`] are under way, and
//! who is over waits for as long as connecting may take. On failure a [`LinkError`]; it does not ask whether the node is down,
//! nor try anything twice: that is the dialer's.

use std::{
    future::Future,
    io,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    DialSettings,
    begun::{self, Begun},
    connect::{connect, sole},
    dialer::Opened,
    error::{LinkError, Mismatch, NotProven, Step},
    health::Health,
    pool::{Pool, Work},
    tls,
    wire::{WireError, nonce, read_record, readable, write},
};
use crate::{
    metrics::Metrics,
    net::{Address, Stream},
    nodes::Node,
    proto::link::{
        Channel, Opening, Verdict,
        context::OpenBody,
        dialer::{self, Proving, Ready, Waiting},
        record::{Kind, PREFACE},
    },
};

/// How long a node may take for `hello` before it hears the preface alone: longer than most round trips.
const HELLO_PAUSE: Duration = Duration::from_millis(100);

/// Fresh links under way to a node at one time until it is proven, over all workers. A node gives one network 128 of its places
/// for unproven peers by default, and has its first peer make room for one that is over; this leaves room for what is begun, for a prober, and for
/// another front behind the same address.
const TURNS: usize = 48;

/// One node, and how to dial it.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) node: Node,
    pub(super) settings: DialSettings,
    /// None: plain.
    tls: Option<Arc<ClientConfig>>,
    pub(super) metrics: Metrics,
    pub(super) pool: Pool,
    /// Places for links that were begun, over all workers.
    begun: Arc<Semaphore>,
    /// For fresh ones, but for the prober's.
    turns: Arc<Semaphore>,
    pub(super) is_kept: AtomicBool,
    /// Of all workers.
    pub(super) health: Arc<Health>,
}

/// An empty pool of a node's.
fn pool(node: &Node, settings: DialSettings, metrics: &Metrics) -> Pool {
    let gauge = metrics.links_ready.with_label_values(&[node.name.as_str()]);
    Pool::new(settings.ready, gauge)
}

/// Runs a step with a deadline.
pub(super) async fn within<T>(
    end: Instant,
    step: Step,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout_at(end, work)
        .await
        .unwrap_or(Err(LinkError::TimedOut { step }))
}

impl Dial {
    pub(super) fn new(
        node: Node,
        settings: DialSettings,
        config: Arc<ClientConfig>,
        metrics: Metrics,
        health: Arc<Health>,
    ) -> Self {
        let is_tcp = matches!(node.address, Address::Tcp { .. });
        if is_tcp && !node.tls {
            tracing::warn!(
                node = %node.name,
                "the link to this node is plain: whoever can alter packets on that wire can take over sessions"
            );
        }
        Self {
            tls: (is_tcp && node.tls).then_some(config),
            pool: pool(&node, settings, &metrics),
            begun: Arc::new(Semaphore::new(begun::LIMIT)),
            turns: Arc::new(Semaphore::new(TURNS)),
            node,
            settings,
            metrics,
            is_kept: AtomicBool::new(false),
            health,
        }
    }

    /// Whether it goes on as it is for this node and these settings. Host names are for others to know.
    pub(super) fn serves(&self, node: &Node, settings: DialSettings) -> bool {
        let is_same = self.node.is_same(node) && self.node.probe_login == node.probe_login;
        is_same && self.settings == settings
    }

    /// Whether one was made [for a worker](Self::for_worker) after the other, or both after a third.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.begun, &other.begun)
    }

    /// The same for another worker, with a pool of its own.
    pub(super) fn for_worker(&self) -> Self {
        Self {
            node: self.node.clone(),
            settings: self.settings,
            tls: self.tls.clone(),
            metrics: self.metrics.clone(),
            pool: pool(&self.node, self.settings, &self.metrics),
            begun: Arc::clone(&self.begun),
            turns: Arc::clone(&self.turns),
            is_kept: AtomicBool::new(false),
            health: Arc::clone(&self.health),
        }
    }

    /// Keeps the pool full until it is closed. Of a node that is down it waits for the return, and what was begun before
    /// that is of no use.
    pub(super) async fn keep(&self) {
        let mut is_shut = self.health.is_shut();
        loop {
            let mut ripe = match self.pool.work().await {
                Work::Closed => return,
                Work::Missing => None,
                Work::Ripe(link) => Some(link),
            };
            let attempt = async {
                if ripe.is_none() {
                    self.pool.rest(getrandom::u32().unwrap_or_default()).await;
                }
                if Health::opened(&mut is_shut).await {
                    self.pool.renew();
                    ripe.take().into_iter().for_each(Begun::retire);
                }
                (ripe.is_some(), self.prove_in_turn(ripe).await)
            };
            tokio::select! {
                (was_begun, proven) = Box::pin(attempt) => {
                    // One that was begun, the node may have closed in the meantime, however it does now.
                    if was_begun && proven.is_err() {
                        self.health.doubt();
                    } else {
                        self.health.note(&proven, None);
                    }
                    match proven {
                        Ok((stream, ready)) => self.pool.put(stream, ready),
                        Err(error) => {
                            self.pool.note_failure();
                            let error: &dyn std::error::Error = &error;
                            tracing::debug!(node = %self.node.name, error, "no link proven ahead");
                        }
                    }
                }
                () = self.pool.closed() => {}
            }
        }
    }

    /// Begins a connection that a later login finds ready, where that is as good as one that is proven.
    pub(super) fn begin(&self) -> Option<Begun> {
        if self.tls.is_some() {
            return None;
        }
        let to = sole(&self.node.address, self.node.source)?;
        let begun = Begun::begin(to, self.node.source, &self.begun);
        begun
            .inspect_err(|error| {
                tracing::debug!(node = %self.node.name, %error, "no connection made ahead");
            })
            .ok()?
    }

    /// One's turn to dial, to be held until the node is proven.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, LinkError> {
        let limit = self.settings.connect_timeout;
        match timeout(limit, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(LinkError::NoTurn),
        }
    }

    /// For the pool. One that was begun has its place already, and keeps it until it is proven.
    async fn prove_in_turn(&self, begun: Option<Begun>) -> Result<(Stream, Ready), LinkError> {
        let _turn = match &begun {
            Some(_) => None,
            None => Some(self.turn().await?),
        };
        self.prove_ahead(begun).await
    }

    /// A link that is proven now: one that was begun, or a new one.
    pub(super) async fn prove_ahead(
        &self,
        begun: Option<Begun>,
    ) -> Result<(Stream, Ready), LinkError> {
        let (stream, _place) = match begun {
            Some(begun) => {
                let limit = self.settings.connect_timeout;
                let connected = timeout(limit, begun.connected()).await;
                let connected = connected.unwrap_or_else(|elapsed| Err(elapsed.into()));
                let (stream, place) = self.connected(connected)?;
                (stream, Some(place))
            }
            None => (self.connect().await?, None),
        };
        let end = Instant::now() + self.settings.prove_timeout;
        self.shaken(async {
            let (mut stream, preface, proving) = self.greet(stream, end).await?;
            let ready = prove(&mut stream, preface, proving, end).await?;
            Ok((stream, ready))
        })
        .await
    }

    /// A link that was begun ahead and whose node has said `hello`, proven and opened in one go.
    pub(super) async fn open_begun(
        &self,
        link: Begun,
        hello: &[u8],
        body: &OpenBody,
    ) -> Result<Opened, LinkError> {
        let (mut stream, place) = self.connected(link.into_stream())?;
        let end = Instant::now() + self.settings.prove_timeout;
        let waiting = self
            .shaken(async {
                let proving = self.machine(Channel::None)?.hello(hello);
                let proving = proving.map_err(LinkError::wrong)?;
                // Never given back: the channel is plain.
                let opened = proving.open_early(body).map_err(|_| LinkError::Opening)?;
                let (octets, early) = opened;
                let record = exchange_proofs(&mut stream, &PREFACE, &octets, end).await?;
                early.proven(&record).map_err(LinkError::wrong)
            })
            .await?;
        drop(place);
        self.hear_verdict(&mut stream, waiting)
            .await
            .map(|opening| Opened { stream, opening })
    }

    /// A fresh link, opened.
    pub(super) async fn open_fresh(
        &self,
        turn: SemaphorePermit<'_>,
        body: &OpenBody,
    ) -> Result<Opened, LinkError> {
        let stream = self.connect().await?;
        let end = Instant::now() + self.settings.prove_timeout;
        let (mut stream, waiting) = self
            .shaken(async {
                let (mut stream, preface, proving) = self.greet(stream, end).await?;
                let waiting = match proving.open_early(body) {
                    Ok((octets, early)) => {
                        let record = exchange_proofs(&mut stream, preface, &octets, end).await?;
                        early.proven(&record).map_err(LinkError::wrong)?
                    }
                    Err(proving) => {
                        let ready = prove(&mut stream, preface, *proving, end).await?;
                        let (open, waiting) = ready.open(body);
                        within(end, Step::Verdict, write_open(&mut stream, &open)).await?;
                        waiting
                    }
                };
                Ok((stream, waiting))
            })
            .await?;
        drop(turn);
        self.hear_verdict(&mut stream, waiting)
            .await
            .map(|opening| Opened { stream, opening })
    }

    /// A link proven ahead, opened.
    pub(super) async fn open_ready(
        &self,
        mut stream: Stream,
        ready: Ready,
        body: &OpenBody,
    ) -> Result<Opened, LinkError> {
        let (open, waiting) = ready.open(body);
        let end = Instant::now() + self.settings.verdict_timeout;
        within(end, Step::Verdict, write_open(&mut stream, &open)).await?;
        self.hear_verdict(&mut stream, waiting)
            .await
            .map(|opening| Opened { stream, opening })
    }

    async fn connect(&self) -> Result<Stream, LinkError> {
        let limit = self.settings.connect_timeout;
        self.connected(connect(&self.node.address, self.node.source, limit).await)
    }

    /// Counts how connecting ended.
    fn connected<T>(&self, connected: io::Result<T>) -> Result<T, LinkError> {
        let connected = connected.map_err(|source| match source.kind() {
            io::ErrorKind::TimedOut => LinkError::TimedOut {
                step: Step::Connect,
            },
            _ => LinkError::Unreachable(source),
        });
        self.metrics
            .node_connects
            .with_label_values(&[self.node.name.as_str(), result_word(&connected)])
            .inc();
        connected
    }

    /// Counts how a handshake ended.
    async fn shaken<T>(
        &self,
        handshake: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let result = handshake.await;
        self.metrics
            .handshakes
            .with_label_values(&["dialer", result_word(&result)])
            .inc();
        result
    }

    /// The protocol's half of a handshake.
    fn machine(&self, channel: Channel) -> Result<dialer::Dialer, LinkError> {
        Ok(dialer::Dialer {
            node: self.node.name.clone(),
            key_id: self.node.key_id.clone(),
            key: self.node.key.clone(),
            channel,
            nonce: nonce().map_err(LinkError::Random)?,
        })
    }

    /// TLS if configured, and `hello`. Gives back the preface if it has not been sent: it goes out with the proof.
    async fn greet(
        &self,
        stream: Stream,
        end: Instant,
    ) -> Result<(Stream, &'static [u8], Proving), LinkError> {
        let (mut stream, channel) = match (stream, &self.tls) {
            (Stream::Tcp(socket), Some(config)) => {
                let tls = within(end, Step::Tls, handshake(config, socket)).await?;
                let exporter = tls::exporter(tls.get_ref().1).map_err(LinkError::tls)?;
                let stream = Stream::TlsClient(Box::new(tls));
                (stream, Channel::TlsExporter(exporter))
            }
            (stream, _) => (stream, Channel::None),
        };
        let is_plain = matches!(channel, Channel::None);
        let machine = self.machine(channel)?;
        let mut preface = PREFACE.as_slice();
        let proving = within(end, Step::Hello, async {
            // The node speaks first. One that waits for TLS does not, and must hear that we have none.
            if is_plain && timeout(HELLO_PAUSE, readable(&stream)).await.is_err() {
                // A node that is about to close may have said why: its octets are looked at even if ours do not arrive.
                let _ = write(&mut stream, std::mem::take(&mut preface)).await;
            }
            let hello = read_record(&mut stream, Kind::Hello)
                .await
                .map_err(|error| LinkError::unproven(error, NotProven::ClosedAtHello))?;
            machine.hello(&hello).map_err(LinkError::wrong)
        })
        .await?;
        Ok((stream, preface, proving))
    }

    async fn hear_verdict(
        &self,
        stream: &mut Stream,
        waiting: Waiting,
    ) -> Result<Opening, LinkError> {
        let end = Instant::now() + self.settings.verdict_timeout;
        let record = within(end, Step::Verdict, async {
            read_record(stream, Kind::Verdict)
                .await
                .map_err(|error| match error {
                    WireError::Closed { began, source } => LinkError::Lost { began, source },
                    WireError::Record(error) => LinkError::Verdict(error.into()),
                })
        })
        .await?;
        match waiting.verdict(&record).map_err(LinkError::Verdict)? {
            Verdict::Ok(opening) => Ok(opening),
            Verdict::Refused(refusal) => Err(LinkError::Refused(refusal)),
        }
    }
}

async fn handshake(
    config: &Arc<ClientConfig>,
    socket: TcpStream,
) -> Result<TlsStream<TcpStream>, LinkError> {
    TlsConnector::from(Arc::clone(config))
        .connect(tls::server_name().map_err(LinkError::tls)?, socket)
        .await
        .map_err(|error| match error {
            error if tls::is_not_tls(&error) => LinkError::Mismatch(Mismatch::NodeIsPlain),
            error if tls::is_closed(&error) => LinkError::NotProven(NotProven::ClosedAtHello),
            error => LinkError::Tls(error),
        })
}

fn result_word<T>(result: &Result<T, LinkError>) -> &'static str {
    result.as_ref().map_or_else(LinkError::as_str, |_| "ok")
}

async fn prove(
    stream: &mut Stream,
    preface: &[u8],
    proving: Proving,
    end: Instant,
) -> Result<Ready, LinkError> {
    let record = exchange_proofs(stream, preface, proving.prove(), end).await?;
    proving.proven(&record).map_err(LinkError::wrong)
}

/// Writes the preface, if it is due, and our proof; reads the node's.
async fn exchange_proofs(
    stream: &mut Stream,
    preface: &[u8],
    proof: &[u8],
    end: Instant,
) -> Result<Vec<u8>, LinkError> {
    within(end, Step::Proven, async {
        let _ = write(stream, &[preface, proof].concat()).await;
        read_record(stream, Kind::Proven)
            .await
            .map_err(|error| LinkError::unproven(error, NotProven::ClosedAtProof))
    })
    .await
}

async fn write_open(stream: &mut Stream, open: &[u8]) -> Result<(), LinkError> {
    write(stream, open).await.map_err(|source| LinkError::Lost {
        began: false,
        source: Some(source),
    })
}
