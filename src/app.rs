//! Putting a process together, and taking it down in order.
//!
//! ```text
//! front:  bind all ─> directory, nodes, links ─> accept ─> SIGTERM ─> stop accepting ─> wait ─> close what is left
//! node:   bind all ─> real servers checked    ─> accept ─> SIGTERM ─> stop accepting ─> wait ─> close what is left
//! ```
//!
//! Everything is bound before anything is served: a process that starts serves all of its listeners or none. A second
//! signal during the drain ends it at once. Whatever fails is returned, with the address or file it failed on; the exit
//! code is `main`'s affair.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
};

use crate::{
    acceptor::{self, Acceptor},
    admin,
    config::{Config, Front},
    directory::{self, Directory},
    handover::{self, Handover},
    link::{Admitter, Dialer, SetupError},
    metrics::Metrics,
    net::{self, tls},
    nodes::Nodes,
    proxy::{self, Proxy},
    relay::Relay,
    tasks::Tasks,
};

/// Descriptors that are not client connections: listeners, directory, links kept ready, pipes, logs.
const SPARE_DESCRIPTORS: u64 = 256;
/// Descriptors of one proxied session: the client's socket and the link's.
const SESSION_DESCRIPTORS: u64 = 2;

/// Why a process did not start or could not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be set up.
    #[error("cannot set up the directory")]
    Directory(#[source] directory::StartError),
    /// The hand-over to a real server cannot work as configured.
    #[error("cannot set up the hand-over")]
    Handover(#[source] handover::StartError),
    /// Link cryptography cannot be set up.
    #[error("cannot set up the link")]
    Link(#[source] SetupError),
    /// Counters cannot be set up.
    #[error("cannot set up metrics")]
    Metrics(#[source] prometheus::Error),
    /// The configuration has no section for this process.
    #[error("{0}")]
    Role(&'static str),
    /// The runtime or its signal handlers cannot be set up.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The certificate cannot be used.
    #[error("cannot use the certificate of [proxy.tls]")]
    Tls(#[source] tls::TlsError),
}

/// Runs the front until a signal ends it.
///
/// # Errors
///
/// Whatever keeps it from starting.
pub fn run_front(config: Config) -> Result<(), AppError> {
    let front = config
        .front
        .ok_or(AppError::Role("the configuration has no [proxy] section"))?;
    runtime()?.block_on(serve_front(front, config.admin.front))
}

/// Runs the node until a signal ends it.
///
/// # Errors
///
/// Whatever keeps it from starting.
pub fn run_node(config: Config) -> Result<(), AppError> {
    let node = config.node.ok_or(AppError::Role(
        "the configuration has no [acceptor] section",
    ))?;
    runtime()?.block_on(serve_node(node, config.admin.node))
}

fn runtime() -> Result<tokio::runtime::Runtime, AppError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(AppError::Runtime)
}

async fn serve_front(front: Front, admin: Option<SocketAddr>) -> Result<(), AppError> {
    let Front {
        proxy: settings,
        directory,
        nodes,
    } = front;
    let process = Process::new()?;
    let Process { metrics, tasks, .. } = &process;
    let limit = Arc::new(Semaphore::new(connections(settings.max_connections)));
    let listeners = settings.listeners.clone();
    let sockets = listeners
        .iter()
        .map(|listener| bind(listener.address))
        .collect::<Result<Vec<_>, _>>()?;
    let admin = admin.map(bind).transpose()?;
    let directory =
        Directory::start(directory, metrics.clone(), tasks.clone()).map_err(AppError::Directory)?;
    let dialer = Dialer::new(&nodes, settings.dial, metrics.clone(), tasks.clone())
        .map_err(AppError::Link)?;
    let drain = settings.drain_timeout;
    let proxy = Proxy::new(proxy::Parts {
        tls: settings
            .tls
            .as_ref()
            .map(tls::server_config)
            .transpose()
            .map_err(AppError::Tls)?,
        directory: directory.clone(),
        nodes: Nodes::new(&nodes),
        dialer,
        imap_relay: Relay::new(settings.imap_relay, metrics.clone(), tasks.clone()),
        pop3_relay: Relay::new(settings.pop3_relay, metrics.clone(), tasks.clone()),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
        settings,
    });
    for (socket, listener) in sockets.into_iter().zip(listeners) {
        tracing::info!(address = %listener.address, protocol = listener.protocol.as_str(), "listening");
        tasks.spawn(
            "listener",
            proxy.clone().listen(socket, listener, Arc::clone(&limit)),
        );
    }
    process.answer(admin, move || {
        let directory = directory.clone();
        async move {
            let reachable = directory.is_reachable().await;
            (!reachable).then(|| "directory is not reachable".to_owned())
        }
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "front is up");
    process.run(drain).await;
    Ok(())
}

async fn serve_node(
    settings: acceptor::Settings,
    admin: Option<SocketAddr>,
) -> Result<(), AppError> {
    let process = Process::new()?;
    let Process { metrics, tasks, .. } = &process;
    net::raise_descriptor_limit();
    let sockets = settings
        .listeners
        .iter()
        .map(Socket::bind)
        .collect::<Result<Vec<_>, _>>()?;
    let admin = admin.map(bind).transpose()?;
    let name = settings.admit.node.clone();
    let acceptor = Acceptor::new(acceptor::Parts {
        from: settings.from,
        peers: settings.peers,
        admitter: Admitter::new(settings.admit, metrics.clone()).map_err(AppError::Link)?,
        handover: Handover::new(settings.handover, metrics.clone(), tasks)
            .map_err(AppError::Handover)?,
        relay: Relay::new(settings.relay, metrics.clone(), tasks.clone()),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    });
    for socket in sockets {
        let acceptor = acceptor.clone();
        match socket {
            Socket::Tcp(socket, tls) => tasks.spawn("listener", acceptor.listen(socket, tls)),
            Socket::Unix(socket) => tasks.spawn("listener", acceptor.listen_unix(socket)),
        };
    }
    process.answer(admin, || std::future::ready(None));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %name, "node is up");
    process.run(settings.drain_timeout).await;
    Ok(())
}

/// What front and node have in common.
struct Process {
    metrics: Metrics,
    tasks: Tasks,
    interrupt: Signal,
    terminate: Signal,
}

impl Process {
    fn new() -> Result<Self, AppError> {
        Ok(Self {
            metrics: Metrics::new().map_err(AppError::Metrics)?,
            tasks: Tasks::new(),
            interrupt: signal(SignalKind::interrupt()).map_err(AppError::Runtime)?,
            terminate: signal(SignalKind::terminate()).map_err(AppError::Runtime)?,
        })
    }

    /// Answers monitors: not ready while it stops, or for what `trouble` says.
    fn answer<F>(
        &self,
        socket: Option<TcpListener>,
        trouble: impl Fn() -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        let Some(socket) = socket else { return };
        let tasks = self.tasks.clone();
        let readiness = move || {
            let stopping = tasks.is_stopping().then(|| "stopping".to_owned());
            let trouble = trouble();
            async move { stopping.into_iter().chain(trouble.await).collect() }
        };
        let answers = admin::serve(socket, self.metrics.clone(), readiness, self.tasks.clone());
        self.tasks.background("admin", answers);
    }

    /// Runs until a signal; then stops accepting, waits for sessions and closes those that are left. A second signal
    /// cuts the wait short.
    async fn run(mut self, drain: Duration) {
        self.signal().await;
        self.tasks.stop();
        tracing::info!(
            tasks = self.tasks.len(),
            limit_s = drain.as_secs(),
            "stopping"
        );
        let tasks = self.tasks.clone();
        let cut = tokio::select! {
            cut = tasks.drain(drain) => cut,
            () = self.signal() => tasks.drain(Duration::ZERO).await,
        };
        tracing::info!(cut, "stopped");
    }

    /// Ends at SIGINT or SIGTERM.
    async fn signal(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A listening socket for links.
enum Socket {
    Tcp(TcpListener, bool),
    Unix(UnixListener),
}

impl Socket {
    fn bind(listener: &acceptor::Listener) -> Result<Self, AppError> {
        match listener {
            acceptor::Listener::Tcp { address, tls } => {
                let socket = bind(*address)?;
                tracing::info!(%address, tls, "listening for links");
                Ok(Self::Tcp(socket, *tls))
            }
            acceptor::Listener::Unix(path) => {
                let failed = |source| AppError::Bind {
                    address: path.display().to_string(),
                    source,
                };
                let socket = net::listen_unix(path).map_err(failed)?;
                tracing::info!(path = %path.display(), "listening for links");
                Ok(Self::Unix(socket))
            }
        }
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    net::listen(address).map_err(|source| AppError::Bind {
        address: address.to_string(),
        source,
    })
}

/// How many client connections there may be: what is configured, or what the descriptor limit allows.
fn connections(configured: usize) -> usize {
    let descriptors = net::raise_descriptor_limit();
    let possible = descriptors.saturating_sub(SPARE_DESCRIPTORS) / SESSION_DESCRIPTORS;
    let possible = usize::try_from(possible).unwrap_or(usize::MAX).max(1);
    if possible < configured {
        tracing::warn!(
            max_connections = configured,
            descriptors,
            possible,
            "the descriptor limit is too low for max_connections, serving fewer"
        );
    }
    configured.min(possible)
}
