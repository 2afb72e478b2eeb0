//! Links to one node that are proven ahead of the logins that will use them.
//!
//! ```text
//! missing --keeper proves one--> waiting --take()--> used
//!                                   |--the peer closed it, or it grew old--> missing
//! ```
//!
//! A worker has a pool of its own for each node, so that a link is served where it was made. One keeper task per node (`dialer` spawns it) watches all waiting links at once, drops what is over, and
//! fills up. A login takes a link straight from the list: no other task has a part in it. The pool does not dial.
//!
//! Limits: `ready` links; a link retires at three quarters of the node's idle limit, so that the node never closes one
//! in the moment that it is taken. After trouble (a dial failed, or a link was closed from the other end before its
//! time) the keeper waits half a second, then doubles up to 30 s, with jitter, until a link is taken or retires in
//! good health. On failure: a login finds the pool empty and dials itself.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::wire::poll_over;
use crate::{net::Stream, proto::link::dialer::Ready};

/// The first wait after trouble.
const BACK_OFF_FIRST: Duration = Duration::from_millis(500);

/// The longest.
const BACK_OFF_LAST: Duration = Duration::from_secs(30);

/// How long a keeper with nothing to watch sleeps if nobody wakes it.
const FAR: Duration = Duration::from_secs(3600);

/// The links of one node.
#[derive(Debug)]
pub(super) struct Pool {
    ready: usize,
    gauge: IntGauge,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// How many of them the gauge knows of.
    counted: i64,
    /// Failures in a row.
    trouble: u32,
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    stream: Stream,
    ready: Ready,
    retires: Instant,
}

impl Pool {
    /// An empty pool for `ready` links.
    pub(super) fn new(ready: usize, gauge: IntGauge) -> Self {
        Self {
            ready,
            gauge,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the gauge up to date: other workers have pools for the same node, which count in it too.
    fn count(&self, state: &mut State) {
        let waiting = i64::try_from(state.waiting.len()).unwrap_or(i64::MAX);
        self.gauge.add(waiting - state.counted);
        state.counted = waiting;
    }

    /// The longest waiting link that is still good.
    pub(super) fn take(&self) -> Option<(Stream, Ready)> {
        let mut state = self.lock();
        let now = Instant::now();
        let mut taken = None;
        while let Some(link) = state.waiting.pop_front() {
            // The keeper sees an end a moment after the kernel does; this look costs nothing when nothing came.
            let mut no_waker = Context::from_waker(std::task::Waker::noop());
            let is_over = poll_over(&link.stream, &mut no_waker).is_ready();
            if is_over {
                state.trouble = state.trouble.saturating_add(1);
            } else if link.retires > now {
                state.trouble = 0;
                taken = Some((link.stream, link.ready));
                break;
            }
        }
        self.count(&mut state);
        drop(state);
        self.changed.notify_one();
        taken
    }

    /// Adds a link that was just proven.
    pub(super) fn put(&self, stream: Stream, ready: Ready) {
        let mut state = self.lock();
        if !state.is_closed {
            let retires = Instant::now() + ready.idle_limit() * 3 / 4;
            state.waiting.push_back(Waiting {
                stream,
                ready,
                retires,
            });
            self.count(&mut state);
        }
    }

    /// Notes that a link could not be proven ahead.
    pub(super) fn note_failure(&self) {
        let mut state = self.lock();
        state.trouble = state.trouble.saturating_add(1);
    }

    /// Drops all links, for good.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.waiting.clear();
        self.count(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// Watches until a link is missing; false: closed.
    pub(super) async fn missing(&self) -> bool {
        self.watch(|state| state.waiting.len().lt(&self.ready))
            .await
    }

    /// Watches until it is closed.
    pub(super) async fn closed(&self) {
        self.watch(|_| false).await;
    }

    /// How long to wait before the next dial; `random` spreads the dialers of a cluster over half of it.
    pub(super) fn back_off(&self, random: u32) -> Duration {
        let Some(doublings) = self.lock().trouble.checked_sub(1) else {
            return Duration::ZERO;
        };
        let full = BACK_OFF_FIRST
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(BACK_OFF_LAST);
        full - full / 2 * (random >> 16) / (1 << 16)
    }

    /// Drops what is over or old until `enough` is true of what is left; false: closed.
    async fn watch(&self, enough: impl Fn(&State) -> bool) -> bool {
        loop {
            let wake = {
                let mut state = self.lock();
                if state.is_closed {
                    return false;
                }
                self.retire(&mut state);
                if enough(&state) {
                    return true;
                }
                let next = state.waiting.iter().map(|link| link.retires).min();
                next.unwrap_or_else(|| Instant::now() + FAR)
            };
            tokio::select! {
                () = poll_fn(|cx| self.poll_over(cx)) => {}
                () = self.changed.notified() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn retire(&self, state: &mut State) {
        let now = Instant::now();
        let before = state.waiting.len();
        state.waiting.retain(|link| link.retires > now);
        if state.waiting.len() < before {
            state.trouble = 0;
            self.count(state);
        }
    }

    /// Drops the links that the peer closed; ready when there was one.
    fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let before = state.waiting.len();
        state
            .waiting
            .retain(|link| poll_over(&link.stream, cx).is_pending());
        if state.waiting.len() == before {
            return Poll::Pending;
        }
        state.trouble = state.trouble.saturating_add(1);
        self.count(&mut state);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(2, IntGauge::new("links_ready", "test").unwrap())
    }

    #[test]
    fn trouble_is_waited_out_longer_each_time_and_never_for_long() {
        let pool = pool();
        assert_eq!(pool.back_off(0), Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..40 {
            pool.note_failure();
            let (full, spread) = (pool.back_off(0), pool.back_off(u32::MAX));
            assert!(
                spread <= full && spread >= full / 2,
                "{spread:?} of {full:?}"
            );
            waits.push(full);
        }
        assert_eq!(waits[..3], [500, 1000, 2000].map(Duration::from_millis));
        assert_eq!(waits[39], BACK_OFF_LAST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_pool_ends_its_keeper_and_takes_nothing() {
        let pool = pool();
        assert!(pool.missing().await);
        tokio::join!(pool.closed(), async { pool.close() });
        assert!(!pool.missing().await);
        assert!(pool.take().is_none());
    }
}
