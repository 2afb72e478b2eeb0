//! The few threads that start servers.
//!
//! A started server must have the rights of its user and nothing else, and `std` promises to drop supplementary groups only
//! when the process is root's, and capabilities not at all. So the servers are started by threads that have given up, for themselves
//! alone, what they must not get: supplementary groups, ambient and inheritable capabilities. They keep the capabilities to
//! become another user; the kernel takes those away when the server's program is executed, since none is inheritable or
//! ambient and no file brings any.
//!
//! ```text
//! session ──Order──> queue ──> a thread: fork, become the user, change folder, exec ──Fresh──> session
//!                                └── nobody waits any more: not started, or ended ──> reaped here
//! ```
//!
//! What a server begins with: descriptors 0 and 1 as ordered, 2 for errors, no other (what this process inherited is
//! marked close-on-exec once, at start); the environment ordered and no variable else; a process group of its own; no
//! blocked signal, and every signal at its default but those that whoever started this process had ignored, SIGPIPE not
//! among them. `no_new_privs` and the bounding set are as in this process: redirecting mail from within a server may
//! need a set-gid program. Limits of resources are this process's too.
//!
//! A thread starts no thread and does not call into the runtime. It waits inside `fork` and `exec`: a home whose file
//! system stops answering in just that moment holds it up. No second thread is taken for the same home, so it needs as many
//! such homes as there are threads to hold up everyone, until their deadlines. (A second thread that forks in the very moment
//! that the first does may wait with it: its pipe to the new process is open in the other's, until that executes its program.)
//! Limits: orders in the queue, which an order leaves at its deadline. A process that can't give these rights up can't start
//! servers, which is found at start.

use std::{
    collections::VecDeque,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
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

/// Threads: homes whose file systems may stop answering before everyone waits.
const THREADS: usize = 4;

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
    /// A thread can't be started.
    #[error("cannot start the threads that start servers")]
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

/// The way to the threads. Clones share it; they end with the last one.
#[derive(Clone, Debug)]
pub(in super::super) struct Spawner(Arc<Entrance>);

/// Closes the queue when nobody can give any more.
#[derive(Debug)]
struct Entrance(Arc<Queue>);

/// What the threads share.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// An order came, or the queue was closed.
    changed: Condvar,
    ended: Ended,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Request>,
    /// Homes that a thread is starting a server in.
    busy: Vec<PathBuf>,
    closed: bool,
}

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
    /// Starts the threads.
    pub(in super::super) fn new() -> Result<Self, SpawnerError> {
        let entrance = Entrance(Arc::default());
        let (said, heard) = sync_channel(THREADS);
        for _ in 0..THREADS {
            start_thread(Arc::clone(&entrance.0), said.clone())?;
        }
        let died = |_| Err(SpawnerError::Thread(io::ErrorKind::BrokenPipe.into()));
        drop(said);
        for _ in 0..THREADS {
            heard.recv().unwrap_or_else(died)?;
        }
        Ok(Self(Arc::new(entrance)))
    }

    /// Has a server started, and waits until its program runs or can't.
    pub(super) async fn start(&self, order: Order, deadline: Instant) -> io::Result<Fresh> {
        let (reply, answer) = oneshot::channel();
        self.send(order, Some(reply))?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(started)) => started,
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => {
                self.0.0.state().forget();
                Err(io::ErrorKind::TimedOut.into())
            }
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
        let queue = &self.0.0;
        let mut state = queue.state();
        if state.waiting.len() >= MAX_WAITING {
            return Err(io::Error::other("too many servers wait to be started"));
        }
        state.waiting.push_back(Request { order, reply });
        drop(state);
        queue.changed.notify_one();
        Ok(())
    }
}

fn start_thread(
    queue: Arc<Queue>,
    said: SyncSender<Result<(), SpawnerError>>,
) -> Result<(), SpawnerError> {
    let serve = move || {
        let ready = give_up();
        let go_on = ready.is_ok();
        // Nobody hears it when another thread has failed.
        let _ = said.send(ready);
        drop(said);
        if go_on {
            run(&queue);
        }
    };
    let thread = std::thread::Builder::new().name("spawner".to_owned());
    thread.spawn(serve).map_err(SpawnerError::Thread)?;
    Ok(())
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
    give_up_capabilities().map_err(SpawnerError::GiveUp)?;
    close_fds::set_fds_cloexec_threadsafe(FIRST_OTHER, &[]);
    Ok(())
}

/// Gives up, for this thread alone, the capabilities that a program would get from it.
pub(in super::super) fn give_up_capabilities() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let sets = CapabilitySets {
        inheritable: CapabilitySet::empty(),
        ..capabilities(None)?
    };
    Ok(set_capabilities(None, sets)?)
}

/// A thread: one order after the other, until nobody can give any more.
fn run(queue: &Queue) {
    while let Some(request) = queue.take() {
        let home = request.order.folder.clone();
        request.serve(&queue.ended);
        queue.state().busy.retain(|busy| *busy != home);
    }
}

fn lock(ended: &Ended) -> MutexGuard<'_, Vec<Child>> {
    // Whoever panicked had added or removed whole entries.
    ended.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Queue ===

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // The same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an order, and reaps meanwhile; none when there will be no more.
    fn take(&self) -> Option<Request> {
        loop {
            let wait = self.reap();
            let mut state = self.state();
            if let Some(request) = state.take() {
                return Some(request);
            }
            // What still waits does so for a home of another thread's, which takes it next.
            if state.closed {
                return None;
            }
            drop(self.changed.wait_timeout(state, wait));
        }
    }

    /// Reaps what has ended; how long to wait before the next time.
    fn reap(&self) -> Duration {
        let mut ended = lock(&self.ended);
        ended.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if ended.is_empty() {
            NO_HURRY
        } else {
            REAP_INTERVAL
        }
    }
}

// === impl State ===

impl State {
    /// The first order for a home that no thread is busy with; from here on one is.
    fn take(&mut self) -> Option<Request> {
        let is_free = |request: &Request| !self.busy.contains(&request.order.folder);
        let position = self.waiting.iter().position(is_free)?;
        let request = self.waiting.remove(position)?;
        self.busy.push(request.order.folder.clone());
        Some(request)
    }

    /// Drops the orders that nobody waits for any more, and with them their sockets.
    fn forget(&mut self) {
        self.waiting.retain(|request| !request.is_left());
    }
}

// === impl Entrance ===

impl Drop for Entrance {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

// === impl Request ===

impl Request {
    fn is_left(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    fn serve(self, ended: &Ended) {
        if self.is_left() {
            return;
        }
        let Self { order, reply } = self;
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    type Answer = oneshot::Receiver<io::Result<Fresh>>;

    fn request(program: &str, home: &str) -> (Request, Answer) {
        let null = || File::open("/dev/null").unwrap().into();
        let order = Order {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: home.into(),
            uid: 0,
            gid: 0,
            input: null(),
            output: null(),
            errors: null(),
        };
        let (reply, answer) = oneshot::channel();
        let reply = Some(reply);
        (Request { order, reply }, answer)
    }

    fn taken(state: &mut State) -> Option<String> {
        let request = state.take()?;
        Some(request.order.program.display().to_string())
    }

    #[test]
    fn a_home_takes_one_thread_and_holds_up_no_other() {
        let mut state = State::default();
        let orders = [("1", "/a"), ("2", "/a"), ("3", "/b"), ("4", "/a")];
        let orders = orders.map(|(program, home)| request(program, home));
        let mut answers: Vec<_> = orders
            .into_iter()
            .map(|(request, answer)| {
                state.waiting.push_back(request);
                answer
            })
            .collect();
        assert_eq!(taken(&mut state).as_deref(), Some("1"));
        assert_eq!(taken(&mut state).as_deref(), Some("3"));
        assert_eq!(taken(&mut state), None);
        // Who gives up leaves the queue, whatever the thread does.
        answers.remove(1);
        state.forget();
        assert_eq!(state.waiting.len(), 1);
        state.busy.retain(|home| home.to_str() == Some("/b"));
        assert_eq!(taken(&mut state).as_deref(), Some("4"));
    }
}
