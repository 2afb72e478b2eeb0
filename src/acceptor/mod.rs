//! The acceptor: from an accepted link to a session with the real server.
//!
//! ```text
//! accept ─> may it come from there? ─> admit: prove, open ─> hand over, verdict ─┬─> step aside
//!                                                                                ├─> look after a process ─> outcome line
//!                                                                                └─> relay ────────────────> outcome line
//! ```
//!
//! A peer that is no proxy is closed without a word, counted, and logged at most once per address and minute. A proven
//! peer always gets a verdict. Nothing past the link's own records is read: it belongs to the real server. A server that was
//! started for a session is looked after until it exits or this process stops, and lives on then, unless it needs the relay.
//!
//! Limits: networks (`from`) or peer credentials before anything else; unproven peers to a quota and a few seconds,
//! proven ones to the announced idle limit; links and relayed sessions together; sessions per account.

mod quiet;
mod settings;
#[cfg(test)]
mod tests;

pub use settings::{Listener, Settings};

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    handover::{Exit, Handed, Handover, Refused, Server, SessionGuard},
    link::{Admitted, Admitter},
    metrics::Metrics,
    names::KeyId,
    net::{Accepted, Stream, accept_each},
    outcome::{Outcome, chain},
    proto::link::{Context, Refusal},
    relay::{End, Ended, Relay},
    tasks::Tasks,
};

use self::quiet::Quiet;

/// Links at one time, waiting ones and relayed ones together: far above what a node can serve, so that it is memory
/// that this bounds, not service.
const MAX_LINKS: usize = 100_000;
/// How long a front may take for what the real server said right behind its login.
const PENDING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept error, so that a lasting one does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The acceptor role. Clones share everything.
#[derive(Clone, Debug)]
pub struct Acceptor {
    parts: Arc<Parts>,
    /// Places for links, over all listeners.
    places: Arc<Semaphore>,
}

/// What the acceptor works with.
#[derive(Debug)]
pub struct Parts {
    /// Networks that links may come from.
    pub from: Vec<IpNet>,
    /// Uids that may connect to a Unix socket.
    pub peers: Vec<u32>,
    /// The handshake.
    pub admitter: Admitter,
    /// The way to the real servers.
    pub handover: Handover,
    /// What moves the bytes where a kind needs that.
    pub relay: Relay,
    /// Counters.
    pub metrics: Metrics,
    /// Tasks.
    pub tasks: Tasks,
}

impl Acceptor {
    /// Puts the acceptor together.
    pub fn new(parts: Parts) -> Self {
        Self::with_places(MAX_LINKS, parts)
    }

    fn with_places(places: usize, parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Serves one TCP listener until the process stops.
    pub async fn listen(self, socket: TcpListener, tls: bool) {
        let Parts { metrics, tasks, .. } = &*self.parts;
        let (metrics, tasks) = (metrics.clone(), tasks.clone());
        let limit = Arc::clone(&self.places);
        let quiet = Arc::new(Quiet::default());
        accept_each(
            socket,
            limit,
            Vec::new(),
            metrics,
            tasks.clone(),
            move |accepted| {
                let Accepted {
                    stream,
                    client,
                    permit,
                    ..
                } = accepted;
                if !self
                    .parts
                    .from
                    .iter()
                    .any(|network| network.contains(&client.ip()))
                {
                    self.turn_away(&quiet, client.ip(), "address is not in [acceptor] from");
                    return;
                }
                let (acceptor, quiet) = (self.clone(), Arc::clone(&quiet));
                tasks.spawn("link", async move {
                    acceptor
                        .serve(Stream::Tcp(stream), tls, Some(client), &quiet, permit)
                        .await;
                });
            },
        )
        .await;
    }

    /// Serves a Unix socket until the process stops.
    pub async fn listen_unix(self, socket: UnixListener) {
        let (quiet, trouble) = (Arc::new(Quiet::default()), Quiet::default());
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = self.parts.tasks.stopped() => return,
            };
            match accepted {
                Ok((stream, _)) => self.begin_unix(stream, &quiet),
                Err(error) => {
                    if trouble.is_news(address_of(None)) {
                        tracing::error!(%error, "cannot accept links");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Starts a link that came over a Unix socket, if its peer may have one and there is a place.
    fn begin_unix(&self, stream: UnixStream, quiet: &Arc<Quiet>) {
        if !self.knows(&stream, quiet) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            self.turn_away(quiet, address_of(None), "there are too many links");
            return;
        };
        let (acceptor, quiet) = (self.clone(), Arc::clone(quiet));
        self.parts.tasks.spawn("link", async move {
            let stream = Stream::Unix(stream);
            acceptor.serve(stream, false, None, &quiet, permit).await;
        });
    }

    /// One link, from accept to its log line.
    async fn serve(
        self,
        stream: Stream,
        tls: bool,
        peer: Option<SocketAddr>,
        quiet: &Quiet,
        permit: OwnedSemaphorePermit,
    ) {
        let Some(admitted) = self.admit(stream, tls, peer, quiet).await else {
            return;
        };
        let started = Instant::now();
        let Admitted {
            stream,
            service,
            context,
            key_id,
            seal,
        } = admitted;
        let handed = self
            .parts
            .handover
            .hand_over(stream, service, &context, |verdict| seal.verdict(verdict))
            .await;
        let session = Session {
            context,
            key_id,
            started,
        };
        match handed {
            Ok(Handed::Gone) => session.line("handed over", None),
            Ok(Handed::Started {
                server,
                relayed: None,
            }) => {
                let watched = watch(server, session, self.parts.tasks.clone());
                self.parts.tasks.spawn("started server", watched);
            }
            Ok(Handed::Started {
                server: process,
                relayed: Some((link, server)),
            }) => self.begin_relay(session, link, server, Behind::Process(process), permit),
            Ok(Handed::Relay {
                mut link,
                server,
                pending,
                session: guard,
            }) => match write_pending(&mut link, &pending).await {
                Ok(()) => {
                    let behind = Behind::Login {
                        guard,
                        told: pending.len(),
                    };
                    self.begin_relay(session, link, server, behind, permit);
                }
                Err(error) => {
                    session.line(Outcome::Broken.as_str(), Some(&not_begun(error)));
                }
            },
            Err(refused) => session.refused_line(&refused),
        }
    }

    fn begin_relay(
        self,
        session: Session,
        link: Stream,
        server: Stream,
        behind: Behind,
        permit: OwnedSemaphorePermit,
    ) {
        let relayed = Relayed {
            session,
            link,
            server,
            behind,
            _permit: permit,
        };
        let tasks = self.parts.tasks.clone();
        tasks.spawn("session", self.relay(Box::new(relayed)));
    }

    /// The handshake until `open`; none when it fails, or when the process stops first: what is not open is nobody's
    /// session, and a front that opens it in that moment hears what it would from a node that is down.
    async fn admit(
        &self,
        stream: Stream,
        tls: bool,
        peer: Option<SocketAddr>,
        quiet: &Quiet,
    ) -> Option<Admitted> {
        let address = peer.map(|peer| peer.ip());
        let admitted = tokio::select! {
            biased;
            admitted = self.parts.admitter.admit(stream, tls, address) => admitted,
            () = self.parts.tasks.stopped() => return None,
        };
        match admitted {
            Ok(admitted) => Some(admitted),
            // A proxy that closes a link it kept ready has done nothing wrong.
            Err(error) if error.is_ordinary() => None,
            Err(error) => {
                self.turn_away(quiet, address_of(peer), &chain(&error));
                None
            }
        }
    }

    /// Moves bytes for a session whose kind keeps us in the path.
    async fn relay(self, relayed: Box<Relayed>) {
        let Relayed {
            session,
            link,
            server,
            behind,
            _permit,
        } = *relayed;
        let Parts { relay, tasks, .. } = &*self.parts;
        let moved = relay.run(link, server, tasks.cut_requested());
        match behind {
            Behind::Login { guard, told } => {
                let ended = moved.await.after(told, 0);
                drop(guard);
                session.line(ended.outcome().as_str(), Some(&ended));
            }
            Behind::Process(mut server) => {
                // Its end is waited for even when both sides have closed; a drain that is over waits no more.
                let exit = async {
                    tokio::select! {
                        biased;
                        exit = server.exit() => Some(exit),
                        () = tasks.cut_requested() => None,
                    }
                };
                match tokio::join!(moved, exit) {
                    // A server that has said nothing has served nobody.
                    (ended, Some(exit)) if !exit.is_success() || ended.to_client == 0 => {
                        session.failed_line(&exit, Some(&ended));
                    }
                    (ended, _) => session.line(ended.outcome().as_str(), Some(&ended)),
                }
            }
        }
    }

    /// Whether the process at the other end may open links.
    fn knows(&self, stream: &UnixStream, quiet: &Quiet) -> bool {
        let uid = stream.peer_cred().map(|peer| peer.uid()).ok();
        let known = uid.is_some_and(|uid| self.parts.peers.contains(&uid));
        if !known {
            let reason = format!(
                "uid {} is not in [acceptor] peers",
                uid.map_or("?".to_owned(), |uid| uid.to_string())
            );
            self.turn_away(quiet, address_of(None), &reason);
        }
        known
    }

    /// Counts a peer that is closed without a word, and logs it if its address has been quiet.
    fn turn_away(&self, quiet: &Quiet, address: IpAddr, reason: &str) {
        self.parts
            .metrics
            .connections_shed
            .with_label_values(&["link"])
            .inc();
        if quiet.is_news(address) {
            tracing::warn!(peer = %address, reason, "link not admitted");
        }
    }
}

/// A session that was opened, for its line.
struct Session {
    context: Context,
    key_id: KeyId,
    started: Instant,
}

/// A session that needs us in the path.
struct Relayed {
    session: Session,
    link: Stream,
    server: Stream,
    behind: Behind,
    /// The link's place under the limit.
    _permit: OwnedSemaphorePermit,
}

/// What is behind the real server's socket, and counts the session.
enum Behind {
    /// With the octets that the server has said right behind its login.
    Login {
        guard: SessionGuard,
        told: usize,
    },
    Process(Server),
}

/// Looks after a server that has the link itself, for as long as this process is there to do so.
async fn watch(mut server: Server, session: Session, tasks: Tasks) {
    let exit = tokio::select! {
        biased;
        exit = server.exit() => exit,
        () = tasks.stopped() => return session.line("handed over", None),
    };
    if exit.is_success() {
        session.served_line(&exit);
    } else {
        session.failed_line(&exit, None);
    }
}

/// Gives the front what the real server said right behind its login.
async fn write_pending(link: &mut Stream, pending: &[u8]) -> io::Result<()> {
    let write = async {
        link.write_all(pending).await?;
        link.flush().await
    };
    timeout(PENDING_TIMEOUT, write).await?
}

/// The end of a session whose front has gone before the relay began.
const fn not_begun(error: io::Error) -> Ended {
    Ended {
        to_client: 0,
        to_server: 0,
        by: End::ClientError(error),
    }
}

// === impl Session ===

/// Logs a session's one line on the node.
macro_rules! line {
    ($level:ident, $session:ident, $outcome:expr, $reason:expr, $ended:expr) => {{
        let Session { context, key_id, started } = $session;
        let ended: Option<&Ended> = $ended;
        tracing::$level!(
            session = %context.session,
            account = context.account.as_str(),
            client = %context.client,
            local = %context.local,
            protocol = context.protocol.as_str(),
            tls = context.tls.as_ref().map(|tls| tls.version.as_str()),
            cipher = context.tls.as_ref().map(|tls| tls.cipher.as_str()),
            key = %key_id,
            outcome = $outcome,
            reason = $reason,
            bytes_out = ended.map(|ended| ended.to_client),
            bytes_in = ended.map(|ended| ended.to_server),
            duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "session ended"
        )
    }};
}

impl Session {
    /// The line of a session that was handed over.
    fn line(&self, outcome: &str, ended: Option<&Ended>) {
        let reason = ended.map(|ended| ended.by.to_string());
        line!(info, self, outcome, reason, ended);
    }

    /// The line of a session whose server has ended as it should, as far as that can be seen from here.
    fn served_line(&self, exit: &Exit) {
        line!(info, self, Outcome::Served.as_str(), exit.to_string(), None);
    }

    /// The line of a session whose server did not end as it should.
    fn failed_line(&self, exit: &Exit, ended: Option<&Ended>) {
        line!(warn, self, "failed", exit.to_string(), ended);
    }

    /// The line of a session that was not handed over: a limit or a mailbox in use is no trouble of ours, and a front that has
    /// gone none of the node's.
    fn refused_line(&self, refused: &Refused) {
        let reason = chain(refused);
        match (refused, refused.refusal()) {
            (_, Refusal::InUse | Refusal::Limit) => line!(info, self, "refused", reason, None),
            (Refused::Link(_), _) => line!(warn, self, "refused", reason, None),
            (_, _) => line!(error, self, "refused", reason, None),
        }
    }
}

/// The address that stands for a peer in the log; processes on this machine are loopback.
fn address_of(peer: Option<SocketAddr>) -> IpAddr {
    peer.map_or(IpAddr::from([127, 0, 0, 1]), |peer| peer.ip())
}
