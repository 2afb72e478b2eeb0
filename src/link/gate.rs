//! The node's gate: who may come near, and how many; what is admitted is served by whoever it is for.
//!
//! ```text
//! accept ─> may it come from there? ─> a place ─> admit: prove, open ─> serve
//!                    \──────────────────────\────────────\──> closed without a word, counted
//! ```
//!
//! A peer that is no front is closed without a word, counted, and logged at most once per address and minute. What is admitted
//! gets its verdict from the role that serves it.
//!
//! It does not know services, contexts or bounds. Limits: networks (`from`) or peer credentials before anything else;
//! unproven peers to a quota and a few seconds, proven ones to the announced idle limit; links that wait and links that are
//! served together, over all listeners.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{AdmitSettings, Admitted, Admitter};
use crate::{
    metrics::Metrics,
    net::{Accepted, Quiet, Stream, accept_each},
    outcome::chain,
    tasks::Tasks,
};

/// Links at one time, waiting ones and served ones together: far above what a node can serve, so that it is memory
/// that this bounds, not service.
const MAX_LINKS: usize = 100_000;
/// Pause after an accept error, so that a lasting one does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where links arrive, and who may bring them.
#[derive(Clone, Debug)]
pub struct GateSettings {
    /// Where links arrive.
    pub listeners: Vec<Listener>,
    /// Networks that links may come from, checked before anything else; default loopback and private ranges.
    pub from: Vec<IpNet>,
    /// Who may connect to the Unix socket, by uid; default root and our own.
    pub peers: Vec<u32>,
    /// The handshake.
    pub admit: AdmitSettings,
}

/// One listening socket for links.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listener {
    /// TCP, with TLS 1.3 or in plain.
    Tcp {
        /// Address and port.
        address: SocketAddr,
        /// Default on; off is for a private wire.
        tls: bool,
    },
    /// A Unix socket, made with mode 0666 (peers are checked by uid).
    Unix(PathBuf),
}

/// Lets links in. Clones share everything.
#[derive(Clone, Debug)]
pub struct Gate {
    /// What is in force now.
    parts: Arc<RwLock<Arc<GateParts>>>,
    tasks: Tasks,
    /// Places for links, over all listeners.
    places: Arc<Semaphore>,
    /// Whom the log has heard of.
    quiet: Arc<Quiet>,
}

/// What the gate works with.
#[derive(Debug)]
pub struct GateParts {
    /// Networks that links may come from.
    pub from: Vec<IpNet>,
    /// Uids that may connect to a Unix socket.
    pub peers: Vec<u32>,
    /// The handshake.
    pub admitter: Admitter,
    /// Counters.
    pub metrics: Metrics,
    /// Tasks.
    pub tasks: Tasks,
}

impl Gate {
    /// Puts the gate together.
    pub fn new(parts: GateParts) -> Self {
        Self::with_places(MAX_LINKS, parts)
    }

    pub(crate) fn with_places(places: usize, parts: GateParts) -> Self {
        Self {
            tasks: parts.tasks.clone(),
            parts: Arc::new(RwLock::new(Arc::new(parts))),
            places: Arc::new(Semaphore::new(places)),
            quiet: Arc::default(),
        }
    }

    /// From now on others may come, and prove themselves otherwise. Links that were proven before and are opened from now on are
    /// let in if they could still be proven like that.
    pub fn change(&self, parts: GateParts) {
        let parts = Arc::new(parts);
        *self.parts.write().unwrap_or_else(PoisonError::into_inner) = parts;
    }

    fn parts(&self) -> Arc<GateParts> {
        Arc::clone(&self.parts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets links in from one TCP listener until the process stops; `tls` says whether they have TLS now. What `serve` gives runs
    /// in a task of each link's own, and holds the link's place for as long as the link is served.
    pub async fn listen<F>(
        self,
        socket: TcpListener,
        tls: impl Fn() -> bool,
        serve: impl Fn(Admitted, OwnedSemaphorePermit) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let metrics = self.parts().metrics.clone();
        let (tasks, limit) = (self.tasks.clone(), Arc::clone(&self.places));
        let begin = |accepted| {
            let Accepted {
                stream,
                client,
                permit,
                ..
            } = accepted;
            let parts = self.parts();
            if !parts.comes_from(client.ip()) {
                self.turn_away(client.ip(), "address is not in [acceptor] from");
                return;
            }
            let (gate, serve, tls) = (self.clone(), serve.clone(), tls());
            self.tasks.spawn("link", async move {
                let stream = Stream::Tcp(stream);
                if let Some(admitted) = gate.admit(parts, stream, tls, Some(client)).await {
                    serve(admitted, permit).await;
                }
            });
        };
        accept_each(socket, limit, Vec::new, || false, metrics, tasks, begin).await;
    }

    /// The same for a Unix socket.
    pub async fn listen_unix<F>(
        self,
        socket: UnixListener,
        serve: impl Fn(Admitted, OwnedSemaphorePermit) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let trouble = Quiet::default();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = self.tasks.retired() => return,
            };
            match accepted {
                Ok((stream, _)) => self.begin_unix(stream, &serve),
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
    fn begin_unix<F>(
        &self,
        stream: UnixStream,
        serve: &(impl Fn(Admitted, OwnedSemaphorePermit) -> F + Clone + Send + 'static),
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let parts = self.parts();
        if !self.knows(&parts, &stream) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            self.turn_away(address_of(None), "there are too many links");
            return;
        };
        let (gate, serve) = (self.clone(), serve.clone());
        self.tasks.spawn("link", async move {
            let stream = Stream::Unix(stream);
            if let Some(admitted) = gate.admit(parts, stream, false, None).await {
                serve(admitted, permit).await;
            }
        });
    }

    /// The handshake until `open`; none when it fails, or when the process stops first: what is not open is nobody's
    /// session, and a front that opens it in that moment hears what it would from a node that is down.
    async fn admit(
        &self,
        parts: Arc<GateParts>,
        stream: Stream,
        tls: bool,
        peer: Option<SocketAddr>,
    ) -> Option<Admitted> {
        let address = peer.map(|peer| peer.ip());
        let admitted = tokio::select! {
            biased;
            admitted = parts.admitter.admit(stream, tls, address) => admitted,
            () = self.tasks.stopped() => return None,
        };
        match admitted {
            // It may have waited for long to be opened.
            Ok(admitted)
                if !self
                    .parts()
                    .admitter
                    .would_admit(&parts.admitter, &admitted, address) =>
            {
                let reason = format!(
                    "key {} is not what it was when the link was proven",
                    admitted.key_id
                );
                self.turn_away(address_of(peer), &reason);
                None
            }
            Ok(admitted) => Some(admitted),
            // A front that closes a link it kept ready has done nothing wrong.
            Err(error) if error.is_ordinary() => None,
            Err(error) => {
                self.turn_away(address_of(peer), &chain(&error));
                None
            }
        }
    }

    /// Whether the process at the other end may open links.
    fn knows(&self, parts: &GateParts, stream: &UnixStream) -> bool {
        let uid = stream.peer_cred().map(|peer| peer.uid()).ok();
        let known = uid.is_some_and(|uid| parts.peers.contains(&uid));
        if !known {
            let reason = format!(
                "uid {} is not in [acceptor] peers",
                uid.map_or("?".to_owned(), |uid| uid.to_string())
            );
            self.turn_away(address_of(None), &reason);
        }
        known
    }

    /// Counts a peer that is closed without a word, and logs it if its address has been quiet.
    fn turn_away(&self, address: IpAddr, reason: &str) {
        self.parts()
            .metrics
            .connections_shed
            .with_label_values(&["link"])
            .inc();
        if self.quiet.is_news(address) {
            tracing::warn!(peer = %address, reason, "link not admitted");
        }
    }
}

impl GateParts {
    fn comes_from(&self, address: IpAddr) -> bool {
        let mut from = self.from.iter();
        from.any(|network| network.contains(&address))
    }
}

/// The address that stands for a peer in the log; processes on this machine are loopback.
fn address_of(peer: Option<SocketAddr>) -> IpAddr {
    peer.map_or(IpAddr::from([127, 0, 0, 1]), |peer| peer.ip())
}
