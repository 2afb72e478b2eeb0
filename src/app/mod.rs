//! Putting a process together, and taking it down in order.
//!
//! ```text
//! front:  bind all ─> directory, nodes, links ─> accept ─> SIGTERM ─> stop accepting ─> wait ─> close what is left
//! node:   bind all ─> real servers checked    ─> accept ─> SIGTERM ─> stop accepting ─> wait ─> close what is left
//! ```
//!
//! Clients and links are served by one thread per core (`workers`), all else by a common runtime.
//!
//! Everything is bound before anything is served: a process that starts serves all of its listeners or none. A second
//! signal during the drain ends it at once. Whatever fails is returned, with the address or file it failed on; the exit
//! code is `main`'s affair.

mod front;
mod node;
mod rights;
#[cfg(test)]
mod tests;
mod workers;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
};

use self::{front::Front, node::Node, rights::Rights};
use crate::{
    admin,
    config::Config,
    directory::{self, Directory},
    handover,
    link::SetupError,
    mailstore,
    metrics::Metrics,
    names::Login,
    net::{self, Patience, tls},
    policy,
    proto::lmtp::Address,
    tasks::Tasks,
};

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
    /// Messages cannot be stored as configured.
    #[error("cannot set up the mailstore")]
    Mailstore(#[source] mailstore::StartError),
    /// Counters cannot be set up.
    #[error("cannot set up metrics")]
    Metrics(#[source] prometheus::Error),
    /// The policy server cannot be asked as configured.
    #[error("cannot use [proxy.policy]")]
    Policy(#[source] policy::SetupError),
    /// Capabilities that no role needs cannot be given up.
    #[error("cannot give up capabilities that are not needed")]
    Rights(#[source] io::Error),
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
    let front = config.front.ok_or(AppError::Role(
        "the configuration has no [proxy] and no [delivery] section",
    ))?;
    let front = Front::bind(front, config.admin)?;
    Rights::NONE.keep().map_err(AppError::Rights)?;
    runtime()?.block_on(front.serve())
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
    let rights = Rights::of_node(&node);
    let node = Node::bind(node, config.admin.node)?;
    rights.keep().map_err(AppError::Rights)?;
    runtime()?.block_on(node.serve())
}

/// Tries the LDAP servers of a front.
///
/// # Errors
///
/// Whatever keeps it from asking them.
pub fn examine_directory(
    settings: directory::Settings,
) -> Result<Vec<directory::Examined>, AppError> {
    let metrics = Metrics::new().map_err(AppError::Metrics)?;
    let examined = directory::examine(settings, &metrics);
    runtime()?.block_on(examined).map_err(AppError::Directory)
}

/// What the directory says of a login and of an address.
type Explanations = [Option<Result<directory::Explained, directory::LookupError>>; 2];

/// Asks the directory of a front who that is.
///
/// # Errors
///
/// Whatever keeps it from asking.
pub fn explain(
    mut settings: directory::Settings,
    login: Option<&Login>,
    address: Option<&Address>,
) -> Result<Explanations, AppError> {
    // It is over before anything can change.
    settings.follow.by = directory::Follow::Off;
    let metrics = Metrics::new().map_err(AppError::Metrics)?;
    runtime()?.block_on(async {
        let directory = Directory::start(settings, metrics, Tasks::new());
        let directory = directory.map_err(AppError::Directory)?;
        let by_login = match login {
            Some(login) => Some(directory.explain(login).await),
            None => None,
        };
        let by_address = match address {
            Some(address) => Some(directory.explain_recipient(address).await),
            None => None,
        };
        Ok([by_login, by_address])
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, AppError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(AppError::Runtime)
}

/// What front and node have in common.
struct Process {
    metrics: Metrics,
    tasks: Tasks,
    interrupt: Signal,
    terminate: Signal,
    /// Caught and not looked at: a file too large for our limits is an error for whoever writes it, not our end.
    _file_size: Signal,
}

impl Process {
    fn new() -> Result<Self, AppError> {
        Ok(Self {
            metrics: Metrics::new().map_err(AppError::Metrics)?,
            tasks: Tasks::new(),
            interrupt: signal(SignalKind::interrupt()).map_err(AppError::Runtime)?,
            terminate: signal(SignalKind::terminate()).map_err(AppError::Runtime)?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
                .map_err(AppError::Runtime)?,
        })
    }

    /// Answers monitors, and administrators on this machine: not ready while it stops, or for what `trouble` says.
    fn answer<F>(
        &self,
        monitors: Option<Tcp>,
        administrators: Option<(Unix, admin::Requests)>,
        trouble: impl Fn() -> F + Clone + Send + Sync + 'static,
    ) -> Result<(), AppError>
    where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        let tasks = self.tasks.clone();
        let readiness = move || {
            let stopping = tasks.is_stopping().then(|| "stopping".to_owned());
            let trouble = trouble();
            async move { stopping.into_iter().chain(trouble.await).collect() }
        };
        let (metrics, tasks) = (&self.metrics, &self.tasks);
        if let Some(mut socket) = monitors {
            let (socket, readiness) = (socket.listen()?, readiness.clone());
            let answers = admin::serve(socket, metrics.clone(), readiness, tasks.clone());
            tasks.background("admin", answers);
        }
        if let Some((socket, requests)) = administrators {
            let socket = socket.listen()?;
            let answers =
                admin::serve_socket(socket, metrics.clone(), readiness, requests, tasks.clone());
            tasks.background("admin socket", answers);
        }
        Ok(())
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

/// A bound TCP address, with a socket for each worker.
struct Tcp {
    sockets: Vec<std::net::TcpListener>,
    address: SocketAddr,
}

impl Tcp {
    fn bind(address: SocketAddr, patience: Patience, workers: usize) -> Result<Self, AppError> {
        let sockets = net::listen(address, patience, workers);
        let sockets = sockets.map_err(|source| AppError::Bind {
            address: address.to_string(),
            source,
        })?;
        Ok(Self { sockets, address })
    }

    /// Hands the next socket to the runtime that is entered; each has one.
    fn listen(&mut self) -> Result<TcpListener, AppError> {
        let socket = self.sockets.pop();
        let socket = socket.ok_or_else(|| io::Error::other("more workers than sockets"));
        socket
            .and_then(TcpListener::from_std)
            .map_err(AppError::Runtime)
    }
}

/// A bound Unix socket.
struct Unix {
    socket: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl Unix {
    fn bind(path: &Path, mode: u32) -> Result<Self, AppError> {
        let socket = net::listen_unix(path, mode).map_err(|source| AppError::Bind {
            address: path.display().to_string(),
            source,
        })?;
        let path = path.to_owned();
        Ok(Self { socket, path })
    }

    /// Hands it to the runtime that is entered; any number of them may share it.
    fn listen(&self) -> Result<UnixListener, AppError> {
        let socket = self.socket.try_clone();
        socket
            .and_then(UnixListener::from_std)
            .map_err(AppError::Runtime)
    }
}

/// A bound socket of either kind.
enum Socket {
    Tcp(Tcp),
    Unix(Unix),
}

impl Socket {
    fn bind_unix(path: &Path, mode: u32) -> Result<Self, AppError> {
        Unix::bind(path, mode).map(Self::Unix)
    }
}
