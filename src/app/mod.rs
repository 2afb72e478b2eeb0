//! Putting a process together, and taking it down in order.
//!
//! ```text
//! front:  bind all ─> user, rights, sandbox ─> directory, nodes, links ─> accept ─> SIGTERM ─> stop accepting ─> wait ─> close the rest
//! node:   bind all ─> user, rights ─> real servers checked    ─> accept ─> SIGTERM ─> stop accepting ─> wait ─> close the rest
//! ```
//!
//! What is built from the configuration is a `generation`; a `reload` puts another in its place, while listeners and sessions
//! stay. Another process may take a running one's place without a connection lost: `upgrade` has how.
//!
//! Clients and links are served by one thread per core (`workers`), all else by a common runtime.
//!
//! Everything is bound before anything is served: a process that starts serves all of its listeners or none. A second
//! signal during the drain ends it at once. Whatever fails is returned, with the address or file it failed on; the exit
//! code is `main`'s affair.

mod front;
mod generation;
mod memory;
mod node;
mod notify;
mod pulse;
mod reload;
mod rights;
mod sandbox;
mod sockets;
#[cfg(test)]
mod tests;
mod upgrade;
mod workers;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    front::Front,
    node::Node,
    notify::Notifier,
    pulse::Pulse,
    reload::{Reload, Source},
    rights::Rights,
    sandbox::Sandbox,
    sockets::{Socket, Sockets, Tcp, Unix},
    upgrade::{Succeeded, Succession},
    workers::Workers,
};
pub use self::{
    notify::name_main,
    sandbox::SandboxError,
    upgrade::{Program, RecordError, Start, TakeError, who_runs},
};
use crate::{
    admin::{self, Answering, OwnSocket},
    config::{self, Config, Leave, Role},
    directory::{self, Directory},
    handover,
    link::SetupError,
    mailstore,
    metrics::Metrics,
    names::Login,
    net::tls,
    orders::OrdersError,
    policy,
    proto::lmtp::Address,
    tasks::Tasks,
    user::User,
};

/// For the directory to answer a process that is to take another's place.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two questions to it.
const READY_PAUSE: Duration = Duration::from_millis(500);
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
    /// It could take the running process's place, and not serve.
    #[error("cannot take over, since this process could not serve: {0}")]
    NotReady(String),
    /// What was ordered before cannot be read.
    #[error("cannot use [admin] orders_file")]
    Orders(#[source] OrdersError),
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

const NO_FRONT: &str = "the configuration has no [proxy] and no [delivery] section";
const NO_NODE: &str = "the configuration has no [acceptor] section";

/// Where a process answers once another has taken its place, and where that socket is then waited for.
struct Own {
    /// The common socket, which the other one has.
    beside: PathBuf,
    bound: oneshot::Sender<UnixListener>,
}

/// Whoever acts is root or the process's own user, and so is whoever hears who somebody is.
const ADMIN_SOCKET_MODE: u32 = 0o600;

/// Runs the front until a signal ends it, or until another has taken its place and its sessions are over; `path` is the file that
/// its configuration came from.
///
/// # Errors
///
/// Whatever keeps it from starting.
pub fn run_front(config: Config, path: &Path, start: Start) -> Result<(), AppError> {
    let front = config.front.clone().ok_or(AppError::Role(NO_FRONT))?;
    // Before the sandbox, which some of its sockets are out of reach from.
    let notifier = Notifier::from_environment(start);
    let source = Source::new(Role::Front, path)?;
    let user = config.process.front_user.as_ref();
    if user.is_none() && rustix::process::geteuid().is_root() {
        tracing::warn!(
            "the front runs as root, without capabilities but as the owner of root's files: name a user in [process] front_user"
        );
    }
    let mut sockets = Sockets::of(user)?;
    let succession = Succession::begin(&config.process, Role::Front, start, &mut sockets)?;
    let front = Front::bind(front, config.admin.clone(), &mut sockets)?;
    let succession = succession.bound(sockets)?;
    Rights::NONE.keep(user)?;
    if config.process.sandbox {
        let mut reads = config.process.front_reads.clone();
        reads.push(source.path.clone());
        front.sandbox(reads).enter()?;
    }
    run(front.serve(notifier, source, config, succession))
}

/// Runs the node until a signal ends it, or until another has taken its place and its sessions are over; `path` is the file that
/// its configuration came from.
///
/// # Errors
///
/// Whatever keeps it from starting.
pub fn run_node(config: Config, path: &Path, start: Start) -> Result<(), AppError> {
    let node = config.node.clone().ok_or(AppError::Role(NO_NODE))?;
    let notifier = Notifier::from_environment(start);
    let source = Source::new(Role::Node, path)?;
    let rights = Rights::of_node(&node);
    let user = config.process.node_user.as_ref();
    let mut sockets = Sockets::of(user)?;
    let succession = Succession::begin(&config.process, Role::Node, start, &mut sockets)?;
    let node = Node::bind(node, config.admin.clone(), &mut sockets)?;
    let succession = succession.bound(sockets)?;
    rights.keep(user)?;
    run(node.serve(notifier, source, config, succession))
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

/// Runs a process to its end, which waits for no file that hangs.
fn run(serve: impl Future<Output = Result<(), AppError>>) -> Result<(), AppError> {
    let runtime = runtime()?;
    let done = runtime.block_on(serve);
    runtime.shutdown_background();
    done
}

fn runtime() -> Result<tokio::runtime::Runtime, AppError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(AppError::Runtime)
}

/// Commands on this machine, and what answers them.
struct Administrators {
    socket: Unix,
    requests: Option<watch::Receiver<admin::Requests>>,
    reloads: admin::Reloads,
}

/// What front and node have in common.
struct Process {
    metrics: Metrics,
    tasks: Tasks,
    notifier: Notifier,
    interrupt: Signal,
    terminate: Signal,
    /// If it answers commands.
    own: Option<Own>,
    /// Cancelled once a process that was replaced is where commands find it.
    stands_aside: CancellationToken,
    /// Caught and not looked at: a file too large for our limits is an error for whoever writes it, not our end.
    _file_size: Signal,
}

impl Process {
    fn new(notifier: Notifier) -> Result<Self, AppError> {
        Ok(Self {
            metrics: Metrics::new().map_err(AppError::Metrics)?,
            tasks: Tasks::new(),
            notifier,
            interrupt: signal(SignalKind::interrupt()).map_err(AppError::Runtime)?,
            terminate: signal(SignalKind::terminate()).map_err(AppError::Runtime)?,
            own: None,
            stands_aside: CancellationToken::new(),
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
                .map_err(AppError::Runtime)?,
        })
    }

    /// Answers monitors, and administrators on this machine: not ready while it stops, when it was replaced, or for what `trouble`
    /// says.
    fn answer<F>(
        &mut self,
        monitors: Option<Tcp>,
        administrators: Option<Administrators>,
        about: admin::About,
        trouble: impl Fn() -> F + Clone + Send + Sync + 'static,
    ) -> Result<(), AppError>
    where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        let tasks = self.tasks.clone();
        let readiness = move || {
            let stopping = tasks.is_leaving().then(|| "stopping".to_owned());
            let replaced = tasks.is_replaced().then(|| "replaced".to_owned());
            let trouble = trouble();
            async move {
                let own = stopping.into_iter().chain(replaced);
                own.chain(trouble.await).collect()
            }
        };
        let tasks = &self.tasks;
        let status = admin::Status::new(about, self.metrics.clone());
        if monitors.is_some() || administrators.is_some() {
            tasks.background("status", status.clone().watch(tasks.clone()));
        }
        if let Some(mut socket) = monitors {
            for socket in socket.listen()? {
                let readiness = readiness.clone();
                let answers = admin::serve(socket, status.clone(), readiness, tasks.clone());
                tasks.background("admin", self.unless_replaced(answers));
            }
        }
        if let Some(administrators) = administrators {
            let Administrators {
                socket,
                requests,
                reloads,
            } = administrators;
            let serve = {
                let tasks = tasks.clone();
                move |at, socket| {
                    let asked = (requests.clone(), reloads.clone());
                    let (status, readiness) = (status.clone(), readiness.clone());
                    admin::serve_socket((at, socket), status, readiness, asked, tasks.clone())
                }
            };
            let answers = serve(Answering::Common, socket.listen()?);
            tasks.background("admin socket", self.unless_replaced(answers));
            let (bound, own) = oneshot::channel();
            tasks.background("own admin socket", async move {
                if let Ok(socket) = own.await {
                    serve(Answering::Own, socket).await;
                }
            });
            let beside = socket.path;
            self.own = Some(Own { beside, bound });
        }
        Ok(())
    }

    /// Answers at a socket of its own from now on, since another process has the common one.
    fn answer_apart(&mut self) -> Option<OwnSocket> {
        let Own { beside, bound } = self.own.take()?;
        let own = OwnSocket::bind(&beside);
        match own.and_then(|(file, socket)| Ok((file, UnixListener::from_std(socket)?))) {
            Ok((file, socket)) => {
                // Who waits for it does so for as long as the process lives.
                let _ = bound.send(socket);
                Some(file)
            }
            Err(error) => {
                let beside = beside.display();
                tracing::warn!(%error, %beside, "commands do not reach the sessions of this process any more");
                None
            }
        }
    }

    /// Answers from when this process accepts until another one does: through a drain, but not once the sockets have changed hands.
    fn unless_replaced(
        &self,
        answers: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let tasks = self.tasks.clone();
        async move {
            tasks.begun().await;
            tokio::select! {
                () = answers => {}
                () = tasks.replaced() => {}
            }
        }
    }

    /// Lets the service manager's watchdog hear of every event loop, if there is one.
    fn show_pulse(&self, workers: Option<&Workers>) {
        let Some(within) = self.notifier.watchdog() else {
            return;
        };
        let mut pulse = Pulse::new(within);
        for worker in workers.into_iter().flat_map(Workers::iter) {
            let _entered = worker.enter();
            pulse.beat(&self.tasks);
        }
        let watch = pulse.watch(self.notifier.clone());
        self.tasks.background("watchdog", watch);
    }

    /// Runs until a signal, and reloads when that is wanted. Then it is not ready any more, stops accepting a while later, waits for
    /// sessions and closes those that are left, one after the other. A second signal cuts all of it short. Before that, another
    /// process may take over; then only the first signal counts.
    async fn run(
        mut self,
        mut reload: Reload,
        mut serving: impl reload::Serving,
        succession: Succeeded,
    ) -> Result<(), AppError> {
        let takes_over = succession.takes_over();
        if takes_over {
            self.could_serve(&serving).await?;
        }
        let limit = succession.settle(&self).await?;
        let tasks = self.tasks.clone();
        tasks.begin();
        if takes_over {
            serving.alone();
            // The other one may have taken another configuration since this one has read it.
            reload.again();
        }
        self.notifier.ready("serving");
        let is_told = loop {
            let asked = tokio::select! {
                () = self.signal() => break true,
                () = tasks.retired() => break false,
                asked = reload.wanted() => asked,
            };
            self.notifier.reloading();
            let is_taken = tokio::select! {
                // Reading may hang where files are far away.
                () = self.signal() => break true,
                () = tasks.retired() => break false,
                is_taken = reload.run(&mut serving, asked) => is_taken,
            };
            self.notifier.ready(if is_taken {
                "serving"
            } else {
                "serving by an older configuration, since the last one has problems"
            });
        };
        let is_replaced = tasks.is_replaced();
        // Until the end.
        let mut _own = None;
        if is_replaced {
            // Commands that the other one hears come here as well; what it heard before is in the file.
            _own = self.answer_apart();
            serving.replaced();
            self.stands_aside.cancel();
        }
        let mut leave = reload.config().leave();
        // Whoever asks for a reload from now on hears that it is too late.
        drop(reload);
        if is_replaced {
            // Nobody is sent here any more.
            leave.pause = Duration::ZERO;
            if !is_told {
                self.outlive(limit).await;
            }
        }
        let cut = self.leave(leave, is_replaced).await;
        tracing::info!(cut, "stopped");
        drop(serving);
        Ok(())
    }

    /// Fails unless this process could serve before long: else nobody would be served any more, who is now.
    async fn could_serve(&mut self, serving: &impl reload::Serving) -> Result<(), AppError> {
        let end = Instant::now() + READY_TIMEOUT;
        while let Some(trouble) = serving.trouble().await {
            if Instant::now() > end {
                return Err(AppError::NotReady(trouble));
            }
            tokio::select! {
                () = sleep(READY_PAUSE) => {}
                () = self.signal() => return Err(AppError::NotReady("told to end".to_owned())),
            }
        }
        Ok(())
    }

    /// Takes the process out of service; how many sessions were closed.
    async fn leave(mut self, leave: Leave, is_replaced: bool) -> usize {
        let Leave { pause, limit, over } = leave;
        self.notifier.stopping("telling balancers");
        self.tasks.leave();
        if !pause.is_zero() {
            let pause_s = pause.as_secs();
            tracing::info!(pause_s, "not ready any more, still accepting");
            tokio::select! {
                () = sleep(pause) => {}
                () = self.signal() => return self.tasks.drain(Duration::ZERO).await,
            }
        }
        self.tasks.stop();
        self.notifier.status("waiting for sessions to end");
        tracing::info!(
            tasks = self.tasks.len(),
            limit_s = limit.as_secs(),
            "stopping"
        );
        let tasks = self.tasks.clone();
        tokio::select! {
            cut = tasks.drain_over(limit, over) => cut,
            // A service manager tells a replaced process twice: with the main one, and when that has ended.
            () = self.signal(), if !is_replaced => tasks.drain(Duration::ZERO).await,
        }
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
