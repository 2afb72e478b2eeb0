//! Putting a process together, and taking it down in order.
//!
//! ```text
//! front:  bind all ─> user, rights, sandbox ─> directory, nodes, links ─> accept ─> SIGTERM ─> stop accepting ─> wait ─> close the rest
//! node:   bind all ─> user, rights ─> real servers checked    ─> accept ─> SIGTERM ─> stop accepting ─> wait ─> close the rest
//! ```
//!
//! Another process may take a running one's place without a connection lost: `upgrade` has how.
//!
//! Clients and links are served by one thread per core (`workers`), all else by a common runtime.
//!
//! Everything is bound before anything is served: a process that starts serves all of its listeners or none. A second
//! signal during the drain ends it at once. Whatever fails is returned, with the address or file it failed on; the exit
//! code is `main`'s affair.

mod front;
mod memory;
mod node;
mod rights;
mod sandbox;
mod sockets;
#[cfg(test)]
mod tests;
mod upgrade;
mod workers;

use std::{io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use self::{
    front::Front,
    node::Node,
    rights::Rights,
    sandbox::Sandbox,
    sockets::{Socket, Sockets, Tcp, Unix},
    upgrade::{Succeeded, Succession},
};
pub use self::{
    sandbox::SandboxError,
    upgrade::{RecordError, Start, TakeError, who_runs},
};
use crate::{
    admin,
    config::{self, Config, Role},
    directory::{self, Directory},
    handover,
    link::SetupError,
    mailstore,
    metrics::Metrics,
    names::Login,
    net::tls,
    policy,
    proto::lmtp::Address,
    tasks::Tasks,
    user::User,
};

/// Between two lines about the sessions of a process that was replaced.
const REPLACED_PAUSE: Duration = Duration::from_secs(60);

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
    /// What the service manager has passed is no socket to listen on.
    #[error("cannot take the sockets that were passed (LISTEN_FDS)")]
    Inherited(#[source] io::Error),
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
    /// What no role needs cannot be given up.
    #[error("cannot give up rights that are not needed")]
    Rights(#[source] io::Error),
    /// The configuration has no section for this process.
    #[error("{0}")]
    Role(&'static str),
    /// The runtime or its signal handlers cannot be set up.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The sandbox cannot be entered.
    #[error("cannot enter the sandbox ([process] sandbox)")]
    Sandbox(#[source] SandboxError),
    /// The place of the running process cannot be taken.
    #[error("cannot take over")]
    TakeOver(#[source] TakeError),
    /// A socket was passed that no listener has the address of.
    #[error(
        "no listener of the configuration has the address {0}, for which a socket was passed (LISTEN_FDS)"
    )]
    Unwanted(String),
    /// Certificates, or what belongs to them, cannot be used.
    #[error("cannot use the files of [proxy.tls]")]
    Tls(#[source] tls::TlsError),
    /// The process cannot become the user that it should.
    #[error("cannot become {user}")]
    User {
        /// Who.
        user: User,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Runs the front until a signal ends it, or until another has taken its place and its sessions are over.
///
/// # Errors
///
/// Whatever keeps it from starting.
pub fn run_front(config: Config, start: Start) -> Result<(), AppError> {
    let front = config.front.ok_or(AppError::Role(
        "the configuration has no [proxy] and no [delivery] section",
    ))?;
    let user = config.process.front_user.as_ref();
    if user.is_none() && rustix::process::geteuid().is_root() {
        tracing::warn!(
            "the front runs as root, without capabilities but as the owner of root's files: name a user in [process] front_user"
        );
    }
    let mut sockets = Sockets::of(user)?;
    let succession = Succession::begin(&config.process, Role::Front, start, &mut sockets)?;
    let front = Front::bind(front, config.admin, &mut sockets)?;
    let succession = succession.bound(sockets)?;
    Rights::NONE.keep(user)?;
    if config.process.sandbox {
        front.sandbox(config.process.front_reads).enter()?;
    }
    runtime()?.block_on(front.serve(succession))
}

/// Runs the node until a signal ends it, or until another has taken its place and its sessions are over.
///
/// # Errors
///
/// Whatever keeps it from starting.
pub fn run_node(config: Config, start: Start) -> Result<(), AppError> {
    let node = config.node.ok_or(AppError::Role(
        "the configuration has no [acceptor] section",
    ))?;
    let rights = Rights::of_node(&node);
    let user = config.process.node_user.as_ref();
    let mut sockets = Sockets::of(user)?;
    let succession = Succession::begin(&config.process, Role::Node, start, &mut sockets)?;
    let node = Node::bind(node, config.admin.node, &mut sockets)?;
    let succession = succession.bound(sockets)?;
    rights.keep(user)?;
    runtime()?.block_on(node.serve(succession))
}

/// Becomes the user that a front would be, so that its files are read as it would read them.
///
/// # Errors
///
/// When root can't become that user.
pub fn become_front(process: &config::Process) -> Result<(), AppError> {
    match &process.front_user {
        Some(user) if rustix::process::geteuid().is_root() => rights::become_user(user),
        _ => Ok(()),
    }
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
            for socket in socket.listen()? {
                let readiness = readiness.clone();
                let answers = admin::serve(socket, metrics.clone(), readiness, tasks.clone());
                tasks.background("admin", self.unless_replaced(answers));
            }
        }
        if let Some((socket, requests)) = administrators {
            let socket = socket.listen()?;
            let answers =
                admin::serve_socket(socket, metrics.clone(), readiness, requests, tasks.clone());
            tasks.background("admin socket", self.unless_replaced(answers));
        }
        Ok(())
    }

    /// Answers until another process does: through a drain, but not once the sockets have changed hands.
    fn unless_replaced(
        &self,
        answers: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let tasks = self.tasks.clone();
        async move {
            tokio::select! {
                () = answers => {}
                () = tasks.replaced() => {}
            }
        }
    }

    /// Runs until a signal; then stops accepting, waits for sessions and closes those that are left. A second signal
    /// cuts the wait short. Before that, another process may take over; then only the first signal counts.
    async fn run(mut self, drain: Duration, succession: Succeeded) -> Result<(), AppError> {
        let limit = succession.settle(&self).await?;
        let tasks = self.tasks.clone();
        let is_replaced = tokio::select! {
            () = self.signal() => false,
            () = tasks.retired() => {
                self.outlive(limit).await;
                true
            }
        };
        self.tasks.stop();
        tracing::info!(
            tasks = self.tasks.len(),
            limit_s = drain.as_secs(),
            "stopping"
        );
        let tasks = self.tasks.clone();
        let cut = tokio::select! {
            cut = tasks.drain(drain) => cut,
            // A service manager tells a replaced process twice: with the main one, and when that has ended.
            () = self.signal(), if !is_replaced => tasks.drain(Duration::ZERO).await,
        };
        tracing::info!(cut, "stopped");
        Ok(())
    }

    /// Lets sessions go on while another process accepts in this one's place: until the last has ended, for so long at
    /// most, or until a signal. Nobody else can say how many they are.
    async fn outlive(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        let tasks = self.tasks.clone();
        let open = self.metrics.sessions_open.clone();
        loop {
            tokio::select! {
                () = tasks.ended() => return,
                () = self.signal() => return,
                () = sleep_until(end) => return,
                () = sleep(REPLACED_PAUSE) => tracing::info!(
                    sessions = upgrade::sessions(&open),
                    tasks = tasks.len(),
                    left_s = end.saturating_duration_since(Instant::now()).as_secs(),
                    "replaced, sessions go on"
                ),
            }
        }
    }

    /// Ends at SIGINT or SIGTERM.
    async fn signal(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
