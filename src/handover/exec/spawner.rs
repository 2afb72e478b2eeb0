//! The one thread that starts servers.
//!
//! A started server must have the rights of its user and nothing else, and `std` promises to drop supplementary groups only
//! when the process is root's, and capabilities not at all. So the servers are started by a thread that has given up, for itself
//! alone, what they must not get: supplementary groups, ambient and inheritable capabilities. It keeps the capabilities to
//! become another user; the kernel takes those away when the server's program is executed, since none is inheritable or
//! ambient and no file brings any.
//!
//! ```text
//! session ──Order──> queue ──> thread: fork, become the user, change folder, exec ──Fresh──> session
//!                                └── nobody waits any more: not started, or ended ──> reaped here
//! ```
//!
//! What a server begins with: descriptors 0 and 1 as ordered, 2 for errors, no other (what this process inherited is
//! marked close-on-exec once, at start); the environment ordered and no variable else; a process group of its own; no
//! blocked signal, and every signal at its default but those that whoever started this process had ignored, SIGPIPE not
//! among them. `no_new_privs` and the bounding set are as in this process: redirecting mail from within a server may
//! need a set-gid program. Limits of resources are this process's too.
//!
//! The thread starts no thread and does not call into the runtime. It waits inside `fork` and `exec`; a home whose file
//! system stops answering in just that moment holds up everyone behind it, until their deadlines. Limits: orders in the
//! queue. A process that can't give these rights up can't start servers, which is found at start.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process_group},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        set_capabilities, set_thread_groups,
    },
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

/// Orders that may wait, each with its sockets: more than could be done before their deadlines.
const MAX_WAITING: usize = 4096;

/// The first descriptor that a started server must not have.
const FIRST_OTHER: i32 = 3;

/// How often processes that nobody waits for are looked at, when there are some.
const REAP_INTERVAL: Duration = Duration::from_millis(100);
/// The same, for those that were left while none was known.
const NO_HURRY: Duration = Duration::from_secs(60);

/// Why this process can't start servers.
#[derive(Debug, thiserror::Error)]
pub enum SpawnerError {
    /// It can't become another user.
    #[error(
        "kind \"exec\" starts servers as their users, which needs root or the capabilities CAP_SETUID and CAP_SETGID"
    )]
    Capabilities,
    /// It can't give up what a server must not get.
    #[error("cannot give up groups and capabilities before servers are started")]
    GiveUp(#[source] io::Error),
    /// The thread can't be started.
    #[error("cannot start the thread that starts servers")]
    Thread(#[source] io::Error),
}

/// What to start, and as whom.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) folder: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) input: OwnedFd,
    pub(super) output: OwnedFd,
    pub(super) errors: OwnedFd,
}

/// The way to the thread. Clones share it; it ends with the last one.
#[derive(Clone, Debug)]
pub(in super::super) struct Spawner(SyncSender<Request>);

/// A server that was started; ended when this is dropped, unless it was kept.
#[derive(Debug)]
pub(super) struct Fresh {
    child: Option<Child>,
    ended: Ended,
}

#[derive(Debug)]
struct Request {
    order: Order,
    /// Who waits; none: nobody ever does.
    reply: Option<oneshot::Sender<io::Result<Fresh>>>,
}

/// Processes that nobody waits for and that have not been reaped yet.
type Ended = Arc<Mutex<Vec<Child>>>;

// === impl Spawner ===

impl Spawner {
    /// Starts the thread.
    pub(in super::super) fn new() -> Result<Self, SpawnerError> {
        let (orders, requests) = sync_channel(MAX_WAITING);
        let (said, heard) = sync_channel(1);
        let thread = std::thread::Builder::new().name("spawner".to_owned());
        let serve = move || {
            let ready = give_up();
            let go_on = ready.is_ok();
            // Somebody waits for it, below.
            let _ = said.send(ready);
            if go_on {
                run(&requests);
            }
        };
        thread.spawn(serve).map_err(SpawnerError::Thread)?;
        let died = |_| Err(SpawnerError::Thread(io::ErrorKind::BrokenPipe.into()));
        heard.recv().unwrap_or_else(died)?;
        Ok(Self(orders))
    }

    /// Has a server started, and waits until its program runs or can't.
    pub(super) async fn start(&self, order: Order, deadline: Instant) -> io::Result<Fresh> {
        let (reply, answer) = oneshot::channel();
        self.send(order, Some(reply))?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(started)) => started,
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Has a program started that nobody waits for.
    pub(super) fn start_alone(&self, order: Order) -> io::Result<()> {
        self.send(order, None)
    }

    fn send(
        &self,
        order: Order,
        reply: Option<oneshot::Sender<io::Result<Fresh>>>,
    ) -> io::Result<()> {
        self.0
            .try_send(Request { order, reply })
            .map_err(|_| io::Error::other("too many servers wait to be started"))
    }
}

/// Gives up, for this thread alone, what no server of its must have.
fn give_up() -> Result<(), SpawnerError> {
    let failed = |errno: rustix::io::Errno| SpawnerError::GiveUp(errno.into());
    let own = capabilities(None).map_err(failed)?;
    if !own
        .effective
        .contains(CapabilitySet::SETUID | CapabilitySet::SETGID)
    {
        return Err(SpawnerError::Capabilities);
    }
    set_thread_groups(&[]).map_err(failed)?;
    clear_ambient_capability_set().map_err(failed)?;
    let sets = CapabilitySets {
        inheritable: CapabilitySet::empty(),
        ..own
    };
    set_capabilities(None, sets).map_err(failed)?;
    close_fds::set_fds_cloexec_threadsafe(FIRST_OTHER, &[]);
    Ok(())
}

/// The thread: one order after the other, until nobody can give any more.
fn run(requests: &Receiver<Request>) {
    let ended = Ended::default();
    loop {
        lock(&ended).retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let wait = if lock(&ended).is_empty() {
            NO_HURRY
        } else {
            REAP_INTERVAL
        };
        match requests.recv_timeout(wait) {
            Ok(request) => request.serve(&ended),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn lock(ended: &Ended) -> std::sync::MutexGuard<'_, Vec<Child>> {
    // Whoever panicked had added or removed whole entries.
    ended.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Request ===

impl Request {
    fn serve(self, ended: &Ended) {
        let Self { order, reply } = self;
        if reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return;
        }
        let started = order.start();
        match (reply, started) {
            (Some(reply), started) => {
                let fresh = started.map(|child| Fresh {
                    child: Some(child),
                    ended: Arc::clone(ended),
                });
                // Who does not wait any more does not get it: dropped here, and so ended.
                let _ = reply.send(fresh);
            }
            (None, Ok(child)) => lock(ended).push(child),
            (None, Err(error)) => tracing::warn!(%error, "cannot start a program"),
        }
    }
}

// === impl Order ===

impl Order {
    fn start(self) -> io::Result<Child> {
        Command::new(self.program)
            .args(self.arguments)
            .env_clear()
            .envs(self.environment)
            .current_dir(self.folder)
            .gid(self.gid)
            .uid(self.uid)
            .process_group(0)
            .stdin(self.input)
            .stdout(self.output)
            .stderr(self.errors)
            .spawn()
    }
}

// === impl Fresh ===

impl Fresh {
    /// Its pid.
    pub(super) fn pid(&self) -> Option<Pid> {
        let child = self.child.as_ref()?;
        Pid::from_raw(i32::try_from(child.id()).ok()?)
    }

    /// Lets it live; from here on the caller reaps it.
    pub(super) fn keep(mut self) {
        self.child = None;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // It is not reaped yet, so the pid is still its own. What has ended already needs no signal.
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        lock(&self.ended).extend(self.child.take());
    }
}
