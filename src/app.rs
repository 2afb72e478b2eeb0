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
    handover::{Handover, VersionError},
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
    Handover(#[source] VersionError),
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
    let (metrics, tasks) = (Metrics::new().map_err(AppError::Metrics)?, Tasks::new());
    let mut signals = Signals::new()?;
    let limit = Arc::new(Semaphore::new(connections(settings.max_connections)));
    let mut sockets = Vec::new();
    for listener in &settings.listeners {
        sockets.push((bind(listener.address)?, *listener));
    }
    let admin = admin.map(bind).transpose()?;
    let tls = settings
        .tls
        .as_ref()
        .map(tls::server_config)
        .transpose()
        .map_err(AppError::Tls)?;
    let directory =
        Directory::start(directory, metrics.clone(), tasks.clone()).map_err(AppError::Directory)?;
    let dialer = Dialer::new(&nodes, settings.dial, metrics.clone(), tasks.clone())
        .map_err(AppError::Link)?;
    let (drain, relay) = (settings.drain_timeout, settings.relay);
    let proxy = Proxy::new(proxy::Parts {
        settings,
        tls,
        directory: directory.clone(),
        nodes: Nodes::new(&nodes),
        dialer: dialer.clone(),
        relay: Relay::new(relay, metrics.clone(), tasks.clone()),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    });
    for (socket, listener) in sockets {
        tracing::info!(address = %listener.address, protocol = listener.protocol.as_str(), "listening");
        tasks.spawn(
            "listener",
            proxy.clone().listen(socket, listener, Arc::clone(&limit)),
        );
    }
    if let Some(socket) = admin {
        let stopping = tasks.clone();
        let ready = move || {
            let (directory, stopping) = (directory.clone(), stopping.clone());
            async move {
                let mut reasons = Vec::new();
                if stopping.is_stopping() {
                    reasons.push("stopping".to_owned());
                }
                if !directory.is_reachable().await {
                    reasons.push("directory is not reachable".to_owned());
                }
                reasons
            }
        };
        tasks.background(
            "admin",
            admin::serve(socket, metrics.clone(), ready, tasks.clone()),
        );
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "front is up");
    signals.first().await;
    tasks.stop();
    dialer.close_ready();
    wind_down(&tasks, drain, signals).await;
    Ok(())
}

async fn serve_node(
    settings: acceptor::Settings,
    admin: Option<SocketAddr>,
) -> Result<(), AppError> {
    let (metrics, tasks) = (Metrics::new().map_err(AppError::Metrics)?, Tasks::new());
    let mut signals = Signals::new()?;
    net::raise_descriptor_limit();
    let mut sockets = Vec::new();
    for listener in &settings.listeners {
        sockets.push(Socket::bind(listener)?);
    }
    let admin = admin.map(bind).transpose()?;
    let handover =
        Handover::new(settings.handover, metrics.clone(), &tasks).map_err(AppError::Handover)?;
    let name = settings.admit.node.clone();
    let acceptor = Acceptor::new(acceptor::Parts {
        from: settings.from,
        peers: settings.peers,
        admitter: Admitter::new(settings.admit, metrics.clone()).map_err(AppError::Link)?,
        handover,
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
    if let Some(socket) = admin {
        let stopping = tasks.clone();
        let ready = move || {
            let stopping = stopping.is_stopping();
            async move {
                if stopping {
                    vec!["stopping".to_owned()]
                } else {
                    Vec::new()
                }
            }
        };
        tasks.background(
            "admin",
            admin::serve(socket, metrics.clone(), ready, tasks.clone()),
        );
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %name, "node is up");
    signals.first().await;
    wind_down(&tasks, settings.drain_timeout, signals).await;
    Ok(())
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

/// The signals that end a process.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, AppError> {
        let interrupt = signal(SignalKind::interrupt()).map_err(AppError::Runtime)?;
        let terminate = signal(SignalKind::terminate()).map_err(AppError::Runtime)?;
        Ok(Self {
            interrupt,
            terminate,
        })
    }

    /// Ends at the first of them.
    async fn first(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Stops accepting, waits for sessions, closes those that are left; a second signal cuts the wait short.
async fn wind_down(tasks: &Tasks, limit: Duration, mut signals: Signals) {
    tracing::info!(
        sessions = tasks.len(),
        limit_s = limit.as_secs(),
        "stopping"
    );
    tasks.stop();
    let left = tokio::select! {
        left = tasks.drain(limit) => left,
        () = signals.first() => tasks.drain(Duration::ZERO).await,
    };
    tracing::info!(cut = left, "stopped");
}
