//! Tracked tasks: the one place that spawns.
//!
//! Every task has a name; a panic in one ends that task alone, is counted and logged; and the process can stop
//! accepting, then wait until the last task has ended, with a limit.
//!
//! ```text
//! running --stop()--> stopping: listeners end, sessions go on --drain(limit)--> all ended, or cut at the limit
//!    \----retire()--> retired: listeners end, all else goes on as if nothing had happened --stop()--> as above
//! ```
//!
//! A process retires when another one accepts in its place: a client that is about to log in must not notice.
//!
//! A task that watches [`Tasks::cut_requested`] is polled once more when it is cut, so it can end with a word about
//! itself; it can't wait for anything any more.

use std::{future::Future, time::Duration};

use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    retire: CancellationToken,
    replace: CancellationToken,
    stop: CancellationToken,
    cut: CancellationToken,
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

    /// Starts a task that serves the others: it runs until a drain is over, which does not wait for it.
    pub fn background<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cut = self.cut.clone();
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the place the ban points to"
        )]
        tokio::spawn(async move {
            let _guard = PanicGuard(name);
            tokio::select! {
                () = future => {}
                () = cut.cancelled() => {}
            }
        });
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

    /// Ends when a drain has reached its limit: whoever awaits it in a task of ours may finish what needs no waiting.
    pub fn cut_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        self.cut.clone().cancelled_owned()
    }

    /// How many tasks are running.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is running.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits for all tasks, at most `limit`; cuts those that are left and returns how many that were.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.stop();
        self.tracker.close();
        // What is left when the limit has passed; nothing, if the wait ended before.
        let waited = tokio::time::timeout(limit, self.tracker.wait()).await;
        let left = if waited.is_ok() {
            0
        } else {
            self.tracker.len()
        };
        self.cut.cancel();
        self.tracker.wait().await;
        left
    }
}

/// Logs a task that ends by panicking: tokio keeps the panic in a handle that nobody reads.
struct PanicGuard(&'static str);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "task panicked");
            crate::metrics::PANICS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    async fn who_retires_tells_listeners_and_nobody_else() {
        let tasks = Tasks::new();
        let (listener, session) = (tasks.clone(), tasks.clone());
        tasks.spawn("listener", async move { listener.retired().await });
        tasks.spawn("session", async move { session.stopped().await });
        tasks.retire();
        let wait = tokio::time::timeout(Duration::from_secs(5), tasks.ended());
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
        assert!(crate::metrics::PANICS.load(std::sync::atomic::Ordering::Relaxed) > 0);
    }
}
