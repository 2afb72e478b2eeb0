//! The threads that serve clients and links: one per core, each with an event loop of its own.
//!
//! A session stays on the thread that accepted it, and so do the links and LDAP connections that it uses: nothing is handed
//! from one thread to another, and no thread is woken to look for work. The kernel spreads connections over the threads,
//! each of which has a listening socket of its own. What is not on the way of a session (monitors, signals, mail from MTAs)
//! runs on the process's common runtime.
//!
//! What is spawned while a worker is [entered](Worker::enter) runs there. Dropping the workers ends their threads; tasks that
//! are still there then end with them, so drain first.

use std::{io, num::NonZero, thread};

use tokio::{
    runtime::{Builder, EnterGuard, Handle},
    sync::oneshot,
};

/// All workers of a process.
#[derive(Debug)]
pub(super) struct Workers(Vec<Worker>);

/// One thread and its event loop.
#[derive(Debug)]
pub(super) struct Worker {
    runtime: Handle,
    /// Dropped to end the loop.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// How many there are: as many as cores that we may use, by affinity and by the cgroup's quota.
pub(super) fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

impl Workers {
    /// Starts so many.
    ///
    /// # Errors
    ///
    /// When the system gives no more threads or descriptors.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        (0..count)
            .map(Worker::start)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.0.iter()
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                // Ends when `stop` is dropped.
                let _ = runtime.block_on(stopped);
                // A password hash that is still being computed need not be waited for.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Makes this worker the one that tasks and sockets belong to, until the guard is dropped.
    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics only if tokio itself does, which has been logged.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spawned_runs_on_the_worker_that_was_entered() {
        let workers = Workers::start(2).unwrap();
        let (names, named) = std::sync::mpsc::channel();
        let tasks = crate::tasks::Tasks::new();
        for worker in workers.iter() {
            let _entered = worker.enter();
            let names = names.clone();
            tasks.spawn("name", async move {
                tokio::task::yield_now().await;
                let name = thread::current().name().unwrap().to_owned();
                names.send(name).unwrap();
            });
        }
        let mut names = [named.recv().unwrap(), named.recv().unwrap()];
        names.sort();
        assert_eq!(names, ["worker-0", "worker-1"]);
    }

    #[test]
    fn a_worker_ends_with_what_it_still_has_to_do() {
        let workers = Workers::start(1).unwrap();
        let (alive, ended) = std::sync::mpsc::channel::<()>();
        let tasks = crate::tasks::Tasks::new();
        for worker in workers.iter() {
            let _entered = worker.enter();
            let alive = alive.clone();
            tasks.spawn("endless", async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            });
        }
        drop((alive, workers));
        // Nobody holds the other end any more.
        assert!(ended.recv().is_err());
    }
}
