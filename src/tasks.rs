//! Tracked tasks: the one place that spawns.
//!
//! Every task has a name; a panic in one ends that task alone, is counted and logged; and the process can stop
//! accepting, then wait until the last task has ended, with a limit.
//!
//! ```text
//! starting --begin()-> running: listeners accept
//! running --leave()---> leaving: monitors are told, all goes on
//!         --retire()--> retired: listeners end, all else goes on as if nothing had happened
//!         --stop()----> stopping: listeners end, sessions go on
//!         --drain()---> all ended, or asked to end at the limit, some after others, and then cut
//! ```
//!
//! A process retires when another one accepts in its place, and is replaced then: a client that is about to log in must not notice.
//! Listeners end at a stop as well, so one that stops has retired; it is replaced only if it was before that.
//!
//! A task that watches [`Tasks::cut_requested`] is asked to end before it is cut, at its turn: who would connect again elsewhere
//! does not do so in the same moment as all others. It can end with a word about itself; it can't wait for anything any more.
//!
//! A [`Part`] of the process may end before the whole does, as what was built from a configuration that is not in force any
//! more: its background tasks end when nobody has it any more.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How many turns there are to be asked to end.
const TURNS: usize = 256;

/// The least time between two sessions that are closed: few are closed sooner than the time for it has passed.
const BETWEEN: Duration = Duration::from_millis(10);

/// The tasks of one process, or of a part of it. Clones share them.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    begin: CancellationToken,
    leave: CancellationToken,
    retire: CancellationToken,
    replace: CancellationToken,
    stop: CancellationToken,
    turns: Arc<Turns>,
    cut: CancellationToken,
    /// Of background tasks.
    end: CancellationToken,
}

/// When tasks are asked to end.
#[derive(Debug)]
struct Turns {
    next: AtomicUsize,
    all: [CancellationToken; TURNS],
}

/// What may end before the process does. Clones share it; the last one ends its background tasks.
#[derive(Clone, Debug)]
pub struct Part(Arc<Whole>);

#[derive(Debug)]
struct Whole(Tasks);

impl Default for Tasks {
    fn default() -> Self {
        let cut = CancellationToken::new();
        Self {
            tracker: TaskTracker::new(),
            begin: CancellationToken::new(),
            leave: CancellationToken::new(),
            retire: CancellationToken::new(),
            replace: CancellationToken::new(),
            stop: CancellationToken::new(),
            turns: Arc::new(Turns {
                next: AtomicUsize::new(0),
                all: std::array::from_fn(|_| CancellationToken::new()),
            }),
            end: cut.clone(),
            cut,
        }
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that a drain waits for and that is cut when its limit has passed.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cut = self.cut.clone();
        // Boxed: the block below would have room for it twice, as what it was given and as what it polls.
        let future = Box::pin(future);
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the place the ban points to"
        )]
        let task = tokio::spawn(self.tracker.track_future(async move {
            let _guard = PanicGuard(name);
            tokio::select! {
                // The task first: what it does on `cut_requested` without waiting is still done.
                biased;
                () = future => {}
                () = cut.cancelled() => {}
            }
        }));
        task.abort_handle()
    }

    /// Starts a task that accepts, once the process has begun to: until then who connects waits in the listener's queue.
    pub fn listen<F>(&self, accept: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        self.spawn("listener", async move {
            tokio::select! {
                () = tasks.begun() => {}
                () = tasks.retired() => return,
            }
            accept.await;
        });
    }

    /// Starts a task that serves the others: it runs until a drain is over, which does not wait for it, or until its part ends.
    pub fn background<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let end = self.end.clone();
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the place the ban points to"
        )]
        tokio::spawn(async move {
            let _guard = PanicGuard(name);
            tokio::select! {
                () = future => {}
                () = end.cancelled() => {}
            }
        });
    }

    /// A part that may end before the rest.
    #[must_use]
    pub fn part(&self) -> Part {
        Part(Arc::new(Whole(Self {
            retire: self.retire.child_token(),
            stop: self.stop.child_token(),
            end: self.end.child_token(),
            ..self.clone()
        })))
    }

    /// Has listeners accept from now on.
    pub fn begin(&self) {
        self.begin.cancel();
    }

    /// Ends when [`begin`](Self::begin) has been called.
    pub async fn begun(&self) {
        self.begin.cancelled().await;
    }

    /// Says that the process will stop before long; all goes on.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// Whether [`leave`](Self::leave) or [`stop`](Self::stop) has been called.
    pub fn is_leaving(&self) -> bool {
        self.leave.is_cancelled() || self.is_stopping()
    }

    /// Ends when [`leave`](Self::leave) or [`stop`](Self::stop) has been called.
    pub async fn leaving(&self) {
        tokio::select! {
            () = self.leave.cancelled() => {}
            () = self.stopped() => {}
        }
    }

    /// Tells listeners to stop; what they have accepted is not told, and goes on for as long as it likes.
    pub fn retire(&self) {
        if !self.is_stopping() {
            self.replace.cancel();
        }
        self.retire.cancel();
    }

    /// Ends when nothing more may be accepted: when [`retire`](Self::retire) or [`stop`](Self::stop) has been called.
    pub async fn retired(&self) {
        self.retire.cancelled().await;
    }

    /// Whether [`retire`](Self::retire) has been called before [`stop`](Self::stop).
    pub fn is_replaced(&self) -> bool {
        self.replace.is_cancelled()
    }

    /// Ends when [`retire`](Self::retire) has been called before [`stop`](Self::stop).
    pub async fn replaced(&self) {
        self.replace.cancelled().await;
    }

    /// Ends when no task is running, for a process that has retired and begins none by itself.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Tells listeners to stop; sessions go on.
    pub fn stop(&self) {
        self.retire.cancel();
        self.stop.cancel();
    }

    /// Ends when [`stop`](Self::stop) has been called.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether [`stop`](Self::stop) has been called.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends when a drain has reached its limit and it is this one's turn: whoever awaits it in a task of ours may finish what
    /// needs no waiting.
    pub fn cut_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let turn = self.turns.next.fetch_add(1, Relaxed) % TURNS;
        let turn = self.turns.all.get(turn).unwrap_or(&self.cut);
        turn.clone().cancelled_owned()
    }

    /// How many tasks are running.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is running.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits for all tasks, at most `limit`; cuts those that are left, and returns how many that were.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.drain_over(limit, Duration::ZERO).await
    }

    /// The same, but those that are left are asked to end before, one after the other, over at most the time `over`.
    pub async fn drain_over(&self, limit: Duration, over: Duration) -> usize {
        self.stop();
        self.tracker.close();
        // What is left when the limit has passed; nothing, if the wait ended before.
        let waited = timeout(limit, self.tracker.wait()).await;
        let left = if waited.is_ok() {
            0
        } else {
            self.tracker.len()
        };
        self.ask_to_end(left, over).await;
        self.cut.cancel();
        self.tracker.wait().await;
        left
    }

    /// Asks one turn after the other, until nobody is left.
    async fn ask_to_end(&self, left: usize, over: Duration) {
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let over = BETWEEN.saturating_mul(left).min(over);
        let pause = over / u32::try_from(TURNS).unwrap_or(u32::MAX);
        let mut next = Instant::now();
        let mut is_over = pause.is_zero();
        for turn in &self.turns.all {
            turn.cancel();
            next += pause;
            is_over = is_over || timeout_at(next, self.tracker.wait()).await.is_ok();
        }
    }
}

impl Part {
    /// Its tasks: those in the background end with it, others hear that they should stop.
    pub fn tasks(&self) -> &Tasks {
        &self.0.0
    }

    /// Tells its tasks that they should stop, before it ends.
    pub fn stop(&self) {
        self.0.0.stop();
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.0.stop();
        self.0.end.cancel();
    }
}

/// Logs a task that ends by panicking: tokio keeps the panic in a handle that nobody reads.
struct PanicGuard(&'static str);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "task panicked");
            crate::metrics::PANICS.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn listeners_accept_from_the_beginning_on() {
        let tasks = Tasks::new();
        let accepts = CancellationToken::new();
        let (begun, accepting) = (accepts.clone(), tasks.clone());
        tasks.listen(async move {
            begun.cancel();
            accepting.retired().await;
        });
        let accepted = timeout(Duration::from_secs(60), accepts.cancelled());
        assert!(accepted.await.is_err());
        tasks.begin();
        accepts.cancelled().await;
        tasks.retire();
        tasks.ended().await;

        // A process that ends before it has begun has accepted nobody.
        let tasks = Tasks::new();
        tasks.listen(std::future::pending());
        assert_eq!(tasks.drain(Duration::from_secs(60)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_the_quick_and_cuts_the_slow() {
        let tasks = Tasks::new();
        tasks.spawn("quick", tokio::time::sleep(Duration::from_secs(1)));
        tasks.spawn("slow", std::future::pending());
        assert_eq!(tasks.len(), 2);
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 1);
        assert!(tasks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_cut_can_say_its_last_word() {
        let tasks = Tasks::new();
        let (word, heard) = tokio::sync::oneshot::channel();
        let cut = tasks.cut_requested();
        tasks.spawn("session", async move {
            cut.await;
            word.send("ended").unwrap();
        });
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 1);
        assert_eq!(heard.await, Ok("ended"));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_left_end_one_after_the_other() {
        let tasks = Tasks::new();
        let started = Instant::now();
        let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..1000 {
            let (cut, ended) = (tasks.cut_requested(), ended.clone());
            tasks.spawn("session", async move {
                cut.await;
                ended.send(started.elapsed()).unwrap();
            });
        }
        drop(ended);
        let (limit, over) = (Duration::from_secs(5), Duration::from_secs(4));
        assert_eq!(tasks.drain_over(limit, over).await, 1000);
        let mut by_second = [0; 9];
        while let Some(at) = ends.recv().await {
            by_second[usize::try_from(at.as_secs()).unwrap()] += 1;
        }
        assert_eq!(by_second[..5], [0; 5]);
        let spread = &by_second[5..];
        assert!(
            spread.iter().all(|count| (200..300).contains(count)),
            "{spread:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_not_kept_waiting_for_their_turn() {
        let tasks = Tasks::new();
        tasks.spawn("session", tasks.cut_requested());
        let started = Instant::now();
        let over = Duration::from_secs(600);
        assert_eq!(tasks.drain_over(Duration::ZERO, over).await, 1);
        assert!(started.elapsed() <= BETWEEN * 2, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_ends_when_nobody_has_it_and_the_rest_goes_on() {
        let tasks = Tasks::new();
        let part = tasks.part();
        let alive = Arc::new(());
        for tasks in [&tasks, part.tasks()] {
            let alive = Arc::clone(&alive);
            tasks.background("endless", async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            });
        }
        let stopped = part.tasks().clone();
        let other = part.clone();
        drop(part);
        assert!(!stopped.is_stopping());
        drop(other);
        stopped.stopped().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&alive), 2);
        // The process goes on accepting.
        assert!(!tasks.is_stopping() && !tasks.retire.is_cancelled());
        // And with the whole.
        let part = tasks.part();
        tasks.stop();
        part.tasks().stopped().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_retires_tells_listeners_and_nobody_else() {
        let tasks = Tasks::new();
        let (listener, session) = (tasks.clone(), tasks.clone());
        tasks.spawn("listener", async move { listener.retired().await });
        tasks.spawn("session", async move { session.stopped().await });
        tasks.retire();
        let wait = timeout(Duration::from_secs(5), tasks.ended());
        assert!(wait.await.is_err());
        assert_eq!(tasks.len(), 1);
        assert!(!tasks.is_stopping());
        tasks.stop();
        tasks.ended().await;
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_task_alone() {
        let tasks = Tasks::new();
        tasks.spawn("panics", async { panic!("on purpose") });
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
        assert!(crate::metrics::PANICS.load(Relaxed) > 0);
    }
}
