//! The node's half: from an accepted connection to an `open` that was read and verified.
//!
//! ```text
//! accepted --quota--> [TLS] --hello, preface, prove--> proven: leaves the quota --open--> Admitted
//!          at most `max_unproven`       within `prove_timeout`       within `idle_limit`
//! ```
//!
//! In the quota somebody makes room for who comes (`unproven`), so that nobody who only waits can keep the fronts out.
//!
//! Whoever fails is closed without a word; the one exception is a proven peer with a malformed context, which gets its
//! verdict. Who may connect at all (`[acceptor] from`, the peers of a Unix socket) is decided before, and whether a
//! context is within bounds after.
//!
//! Exactly the link's records are read from the stream: what follows `open` is the client's. On failure: an
//! [`AdmitError`] for counter and log; [`AdmitError::is_ordinary`] tells the ends that are nobody's fault.

use std::{future::Future, io, net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    AdmitSettings,
    tls::{self, SetupError},
    unproven::Unproven,
    wire::{WireError, nonce, read_exactly, read_record, write},
};
use crate::{
    metrics::Metrics,
    names::KeyId,
    net::Stream,
    proto::link::{
        Channel, Purpose, Refusal, Verdict,
        node::{self, Keys, Node, Proven, VerdictSeal},
        record::{Kind, PREFACE, PrefaceError, RecordError, check_preface},
    },
    secret::Key,
};

/// How long a refusal may take to be written.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Admits links. Clones share quota, keys and certificate.
#[derive(Clone, Debug)]
pub struct Admitter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: AdmitSettings,
    keys: Keys,
    tls: Arc<ServerConfig>,
    unproven: Unproven,
    metrics: Metrics,
}

/// A link that was proven and opened, and waits for its verdict.
#[derive(Debug)]
pub struct Admitted {
    /// The next octet is the client's.
    pub stream: Stream,
    /// What it is opened for; checked in form, not against the node's bounds.
    pub purpose: Purpose,
    /// Which key proved the dialer.
    pub key_id: KeyId,
    /// Makes the verdict.
    pub seal: VerdictSeal,
}

/// Why a connection is not a link.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The peer left before it had proven itself, as a health check does.
    #[error("the peer closed the connection before it was proven")]
    Closed(#[source] Option<io::Error>),
    /// Had to make room: there were too many unproven peers, in all or from this network.
    #[error("too many peers that have not proven themselves")]
    Crowded,
    /// A proven dialer did not open its link in time.
    #[error("the dialer did not open its link within the idle limit")]
    Idle,
    /// This side speaks TLS, the peer does not.
    #[error(
        "the peer speaks plain, this side is configured for TLS: if it is a proxy, `tls` must be the same in [[nodes.node]] there and [[acceptor.listen]] here"
    )]
    PeerIsPlain,
    /// The peer speaks TLS, this side does not.
    #[error(
        "the peer speaks TLS, this side is configured plain: if it is a proxy, `tls` must be the same in [[nodes.node]] there and [[acceptor.listen]] here"
    )]
    PeerIsTls,
    /// The peer speaks something else.
    #[error("the peer does not speak the link protocol")]
    Preface,
    /// The kernel gives no randomness.
    #[error("cannot get randomness from the kernel")]
    Random(#[source] getrandom::Error),
    /// What the peer said is not accepted.
    #[error(transparent)]
    Refused(node::Error),
    /// A dialer closed a link that it had not opened, as it does with those it made ahead.
    #[error("the dialer retired its link")]
    Retired,
    /// Not proven within the limit.
    #[error("the peer did not prove itself in time")]
    TimedOut,
    /// The TLS handshake failed.
    #[error("no TLS with the peer")]
    Tls(#[source] io::Error),
    /// A fault of this program.
    #[error("impossible: {0}")]
    Unreachable(&'static str),
}

impl AdmitError {
    /// The word for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::Crowded => "crowded",
            Self::Idle => "idle",
            Self::PeerIsPlain | Self::PeerIsTls => "mismatch",
            Self::Preface => "preface",
            Self::Random(_) => "random",
            Self::Refused(error) => error.as_str(),
            Self::Retired => "retired",
            Self::TimedOut => "timed-out",
            Self::Tls(_) => "tls",
            Self::Unreachable(_) => "bug",
        }
    }

    /// Whether it is how links that were made ahead end anyway: not worth a line in the log.
    pub const fn is_ordinary(&self) -> bool {
        matches!(self, Self::Idle | Self::Retired)
    }
}

impl From<WireError> for AdmitError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed { source, .. } => Self::Closed(source),
            WireError::Record(RecordError::Tls(_)) => Self::PeerIsTls,
            WireError::Record(error) => Self::Refused(error.into()),
        }
    }
}

// === impl Admitter ===

impl Admitter {
    /// Makes the certificate and takes the keys over.
    pub fn new(settings: AdmitSettings, metrics: Metrics) -> Result<Self, SetupError> {
        Ok(Self {
            inner: Arc::new(Inner {
                keys: Keys {
                    known: settings.keys.clone(),
                    dummy: Key::new(nonce().map_err(SetupError::Random)?),
                },
                tls: Arc::new(tls::server()?),
                unproven: Unproven::new(settings.max_unproven),
                settings,
                metrics,
            }),
        })
    }

    /// The whole handshake on an accepted connection, until `open` is read and verified.
    ///
    /// `stream` is plain TCP or a Unix socket as accepted; `tls` is the listener's (and means nothing on a Unix
    /// socket); `peer` is none on a Unix socket.
    pub async fn admit(
        &self,
        stream: Stream,
        tls: bool,
        peer: Option<IpAddr>,
    ) -> Result<Admitted, AdmitError> {
        let result = self.inner.admit(stream, tls, peer).await;
        let word = result.as_ref().map_or_else(AdmitError::as_str, |_| "ok");
        self.inner
            .metrics
            .handshakes
            .with_label_values(&["node", word])
            .inc();
        result
    }

    /// Whether a link that another one has admitted would be admitted by this one, too.
    pub(super) fn would_admit(&self, by: &Self, admitted: &Admitted, peer: Option<IpAddr>) -> bool {
        if Arc::ptr_eq(&self.inner, &by.inner) {
            return true;
        }
        let key = |admitter: &Self| {
            let mut known = admitter.inner.keys.known.iter();
            known.find(|key| key.id == admitted.key_id).cloned()
        };
        let (Some(own), Some(other)) = (key(self), key(by)) else {
            return false;
        };
        let (service, now) = (admitted.purpose.service(), Timestamp::now());
        own.key.is_same(&other.key) && own.opens(service, peer, now)
    }
}

impl Inner {
    async fn admit(
        &self,
        stream: Stream,
        tls: bool,
        peer: Option<IpAddr>,
    ) -> Result<Admitted, AdmitError> {
        let mut place = self.unproven.enter(peer);
        let end = Instant::now() + self.settings.prove_timeout;
        let proving = before(end, AdmitError::TimedOut, async {
            let (mut stream, channel) = self.secure(stream, tls).await?;
            let proven = self.prove(&mut stream, channel, peer).await?;
            Ok((stream, proven))
        });
        let (stream, proven) = tokio::select! {
            // Whoever has proven itself by now may stay.
            biased;
            proven = proving => proven?,
            () = place.sent_away() => return Err(AdmitError::Crowded),
        };
        drop(place);
        self.unproven.proved(peer);
        self.open(stream, proven).await
    }

    /// TLS, if the listener has it.
    async fn secure(&self, stream: Stream, tls: bool) -> Result<(Stream, Channel), AdmitError> {
        match stream {
            Stream::Tcp(socket) => {
                if tls {
                    Box::pin(self.accept_tls(socket)).await
                } else {
                    Ok((Stream::Tcp(socket), Channel::None))
                }
            }
            Stream::Unix(_) => Ok((stream, Channel::None)),
            Stream::TlsClient(_) | Stream::TlsServer(_) => Err(AdmitError::Unreachable(
                "a link under TLS that was not accepted here",
            )),
        }
    }

    async fn accept_tls(&self, socket: TcpStream) -> Result<(Stream, Channel), AdmitError> {
        let tls = TlsAcceptor::from(Arc::clone(&self.tls))
            .accept(socket)
            .await
            .map_err(|error| match error {
                error if tls::is_not_tls(&error) => AdmitError::PeerIsPlain,
                error if tls::is_closed(&error) => AdmitError::Closed(Some(error)),
                error => AdmitError::Tls(error),
            })?;
        let exporter = tls::exporter(tls.get_ref().1)
            .map_err(|error| AdmitError::Tls(io::Error::other(error)))?;
        Ok((
            Stream::TlsServer(Box::new(tls)),
            Channel::TlsExporter(exporter),
        ))
    }

    /// `hello` to `proven`.
    async fn prove(
        &self,
        stream: &mut Stream,
        channel: Channel,
        peer: Option<IpAddr>,
    ) -> Result<Proven, AdmitError> {
        let machine = Node {
            name: self.settings.node.clone(),
            idle_limit: self.settings.idle_limit,
            channel,
            nonce: nonce().map_err(AdmitError::Random)?,
        };
        let (hello, greeted) = machine.greet();
        let closed = |error| AdmitError::Closed(Some(error));
        write(stream, &hello).await.map_err(closed)?;
        let mut preface = [0; PREFACE.len()];
        read_exactly(stream, &mut preface, false).await?;
        check_preface(preface).map_err(|error| match error {
            PrefaceError::Tls => AdmitError::PeerIsTls,
            PrefaceError::Other => AdmitError::Preface,
        })?;
        // A front that had begun a link and needs it no more says so by ending here.
        let record = read_record(stream, Kind::Prove)
            .await
            .map_err(|error| match error {
                WireError::Closed {
                    began: false,
                    source: None,
                } => AdmitError::Retired,
                error => error.into(),
            })?;
        let proven = greeted
            .prove(&record, &self.keys, peer, Timestamp::now())
            .map_err(AdmitError::Refused)?;
        write(stream, proven.proven()).await.map_err(closed)?;
        Ok(proven)
    }

    /// Waits for `open` on a proven link.
    async fn open(&self, mut stream: Stream, proven: Proven) -> Result<Admitted, AdmitError> {
        let end = Instant::now() + self.settings.idle_limit;
        let record = before(end, AdmitError::Idle, async {
            read_record(&mut stream, Kind::Open)
                .await
                .map_err(|error| match error {
                    WireError::Closed { began: false, .. } => AdmitError::Retired,
                    error => error.into(),
                })
        })
        .await?;
        match proven.open(&record, Timestamp::now()) {
            Ok(opened) => Ok(Admitted {
                stream,
                purpose: opened.purpose,
                key_id: opened.key_id,
                seal: opened.seal,
            }),
            Err(error) => {
                if let node::Error::Context { refusal, .. } = &error {
                    // Whether it arrives is the dialer's affair: it has a deadline of its own.
                    let _ = timeout(REFUSAL_TIMEOUT, write(&mut stream, refusal)).await;
                }
                Err(AdmitError::Refused(error))
            }
        }
    }
}

async fn before<T>(
    end: Instant,
    late: AdmitError,
    work: impl Future<Output = Result<T, AdmitError>>,
) -> Result<T, AdmitError> {
    timeout_at(end, work).await.unwrap_or(Err(late))
}

// === impl Admitted ===

impl Admitted {
    /// Tells the dialer that it is not served, and closes.
    pub async fn refuse(mut self, refusal: Refusal) {
        let verdict = self.verdict(&Verdict::Refused(refusal));
        // Whether it arrives is the dialer's affair: it has a deadline of its own.
        let _ = timeout(REFUSAL_TIMEOUT, write(&mut self.stream, &verdict)).await;
    }

    /// The octets of the `verdict` record, for us or another program to write.
    ///
    /// A capability text of more than 4096 octets or with control characters cannot be said: the verdict is then
    /// `Refused(Unavailable)`.
    pub fn verdict(&self, verdict: &Verdict) -> Vec<u8> {
        self.seal.verdict(verdict)
    }
}
