//! A few pieces of work at a time, and what comes of them in the order in which they began.
//!
//! They go on while somebody waits for the first; to drop them is to give them up. No tasks of their own: there is no end
//! of a task to be missed.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

/// Work under way.
pub(super) struct Ordered<F: Future>(VecDeque<Work<F>>);

enum Work<F: Future> {
    Done(F::Output),
    Running(Pin<Box<F>>),
}

impl<F: Future> Ordered<F> {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Adds one behind the others; it begins when somebody waits.
    pub(super) fn push(&mut self, work: F) {
        self.0.push_back(Work::Running(Box::pin(work)));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the first is done.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.0.front(), Some(Work::Done(_)))
    }

    /// Drops the first.
    pub(super) fn give_up_first(&mut self) {
        self.0.pop_front();
    }

    /// Waits for the first; nothing if there is none.
    pub(super) async fn next(&mut self) -> Option<F::Output> {
        poll_fn(|cx| self.poll_first(cx)).await
    }

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        for work in &mut self.0 {
            if let Work::Running(future) = work
                && let Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *work = Work::Done(output);
            }
        }
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(Work::Done(output)) => Poll::Ready(Some(output)),
            Some(running) => {
                self.0.push_front(running);
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_run_at_once_and_end_in_order() {
        let begun = Instant::now();
        let mut ordered = Ordered::new();
        for seconds in [3, 1, 2] {
            ordered.push(async move {
                sleep(Duration::from_secs(seconds)).await;
                seconds
            });
        }
        assert!(!ordered.is_ready());
        assert_eq!(ordered.next().await, Some(3));
        assert!(ordered.is_ready());
        assert_eq!(ordered.next().await, Some(1));
        assert_eq!(ordered.next().await, Some(2));
        assert_eq!(ordered.next().await, None);
        assert_eq!(begun.elapsed().as_secs(), 3);
    }
}
