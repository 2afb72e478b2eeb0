//! Links to one node that are ready before the logins that will use them.
//!
//! ```text
//! missing --a login begins one------------> begun --take()--> used
//!    |                                        |--nobody took it--> ripe --keeper proves it--\
//!    \-----keeper proves one--> proven <------------------------------------------------/
//!                                  |--take()--> used
//!                                  |--the peer closed it, or it grew old--> missing
//! ```
//!
//! A worker has a pool of its own for each node, so that a link is served where it was made. A login takes a link straight
//! from the list, and begins the next where that is worth it ([`Begun`]). One keeper task per node (`dialer` spawns it) does
//! the rest: it watches all proven links at once, drops what is over, proves what nobody took and what is missing. The pool
//! does not dial.
//!
//! Limits: `ready` links; a link retires at three quarters of the node's idle limit, so that the node never closes one
//! in the moment that it is taken; one that was begun is ripe after [`RIPE`], well before the node gives up on it, and is dropped
//! if the node was down since. Only a keeper that waits for the node comes later, so that a begun link which has died speaks
//! against nobody. After trouble (a dial failed, or a link was closed from the other end before its time) the keeper waits
//! half a second, then doubles up to 30 s, with jitter, until a link is taken or retires in good health, or the node is back
//! after it was down; nothing is begun meanwhile. On failure: a login finds the pool empty and dials itself.

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

use super::{begun::Begun, wire::poll_over};
use crate::{net::Stream, proto::link::dialer::Ready};

/// The first wait after trouble.
const BACK_OFF_FIRST: Duration = Duration::from_millis(500);

/// The longest.
const BACK_OFF_LAST: Duration = Duration::from_secs(30);

/// When a link that was begun is proven if no login has taken it, and how often the keeper looks while there are logins.
const RIPE: Duration = Duration::from_secs(1);

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
    /// A login came since the keeper looked.
    used: bool,
    is_closed: bool,
}

/// A link in the list.
#[derive(Debug)]
enum Waiting {
    Begun {
        link: Begun,
        ripe: Instant,
    },
    Proven {
        stream: Stream,
        ready: Box<Ready>,
        retires: Instant,
    },
}

/// A link for a login.
#[derive(Debug)]
pub(super) enum Taken {
    /// With the node's `hello`.
    Begun(Begun, Vec<u8>),
    Proven(Stream, Box<Ready>),
}

/// What a keeper has to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Nothing any more.
    Closed,
    /// To prove a link ahead.
    Missing,
    /// To prove this one.
    Ripe(Begun),
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
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = self.lock();
        let now = Instant::now();
        let mut taken = None;
        let mut early = Vec::new();
        while taken.is_none()
            && let Some(link) = state.waiting.pop_front()
        {
            match link {
                Waiting::Begun { mut link, ripe } => match link.hello() {
                    Ok(Some(hello)) => taken = Some(Taken::Begun(link, hello)),
                    Ok(None) => early.push(Waiting::Begun { link, ripe }),
                    Err(_) => state.trouble = state.trouble.saturating_add(1),
                },
                Waiting::Proven {
                    stream,
                    ready,
                    retires,
                } => {
                    // The keeper sees an end a moment after the kernel does; this look costs nothing when nothing came.
                    let mut no_waker = Context::from_waker(std::task::Waker::noop());
                    if poll_over(&stream, &mut no_waker).is_ready() {
                        state.trouble = state.trouble.saturating_add(1);
                    } else if retires > now {
                        taken = Some(Taken::Proven(stream, ready));
                    }
                }
            }
        }
        if taken.is_some() {
            state.trouble = 0;
        }
        for link in early.into_iter().rev() {
            state.waiting.push_front(link);
        }
        self.count(&mut state);
        drop(state);
        taken
    }

    /// Says that a login came, and fills its place with what `begin` gives, if anything. The keeper need not know each time.
    pub(super) fn refill(&self, begin: impl FnOnce() -> Option<Begun>) {
        let mut state = self.lock();
        let wants = !state.is_closed && state.trouble == 0 && state.waiting.len() < self.ready;
        if wants && let Some(link) = begin() {
            let ripe = Instant::now() + RIPE;
            state.waiting.push_back(Waiting::Begun { link, ripe });
            self.count(&mut state);
        }
        let is_full = state.waiting.len() >= self.ready;
        let is_known = std::mem::replace(&mut state.used, true);
        drop(state);
        if !is_full || !is_known {
            self.changed.notify_one();
        }
    }

    /// Adds a link that was just proven.
    pub(super) fn put(&self, stream: Stream, ready: Ready) {
        let mut state = self.lock();
        if !state.is_closed {
            let retires = Instant::now() + ready.idle_limit() * 3 / 4;
            state.waiting.push_back(Waiting::Proven {
                stream,
                ready: Box::new(ready),
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

    /// Forgets failures, and drops what was begun before the node was down: it is back.
    pub(super) fn renew(&self) {
        let mut state = self.lock();
        state.trouble = 0;
        state.drop_where(|link| matches!(link, Waiting::Begun { .. }));
        self.count(&mut state);
    }

    /// Drops all links, for good.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.drop_where(|_| true);
        self.count(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// Watches until there is something to do.
    pub(super) async fn work(&self) -> Work {
        self.watch(|state| {
            let now = Instant::now();
            let ripe = state
                .waiting
                .iter()
                .position(|link| matches!(link, Waiting::Begun { ripe, .. } if *ripe <= now));
            if let Some(Waiting::Begun { link, .. }) =
                ripe.and_then(|index| state.waiting.remove(index))
            {
                return Some(Work::Ripe(link));
            }
            (state.waiting.len() < self.ready).then_some(Work::Missing)
        })
        .await
    }

    /// Watches until it is closed.
    pub(super) async fn closed(&self) {
        self.watch(|_| None).await;
    }

    /// Waits before the next dial, until the trouble is over.
    pub(super) async fn rest(&self, random: u32) {
        let end = Instant::now() + self.back_off(random);
        // A login that takes a link ends it, and begins another, which is ripe soon.
        while Instant::now() < end && !self.back_off(random).is_zero() {
            sleep_until(end.min(Instant::now() + RIPE)).await;
        }
    }

    /// How long to wait before the next dial; `random` spreads the dialers of a cluster over half of it.
    fn back_off(&self, random: u32) -> Duration {
        let Some(doublings) = self.lock().trouble.checked_sub(1) else {
            return Duration::ZERO;
        };
        let full = BACK_OFF_FIRST
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(BACK_OFF_LAST);
        full - full / 2 * (random >> 16) / (1 << 16)
    }

    /// Drops what is over or old until `find` finds work, or the pool is closed.
    async fn watch(&self, find: impl Fn(&mut State) -> Option<Work>) -> Work {
        loop {
            let wake = {
                let mut state = self.lock();
                if state.is_closed {
                    return Work::Closed;
                }
                self.retire(&mut state);
                let work = find(&mut state);
                self.count(&mut state);
                if let Some(work) = work {
                    return work;
                }
                let now = Instant::now();
                // A link that is ripe already waits for a keeper that is busy with another.
                let ends = state.waiting.iter().map(Waiting::ends);
                let end = ends.filter(|end| *end > now).min().unwrap_or(now + FAR);
                // While logins come and go, one look a second is enough for all of them.
                if std::mem::take(&mut state.used) {
                    end.min(now + RIPE)
                } else {
                    end
                }
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
        state
            .waiting
            .retain(|link| !matches!(link, Waiting::Proven { retires, .. } if *retires <= now));
        if state.waiting.len() < before {
            state.trouble = 0;
            self.count(state);
        }
    }

    /// Drops the links that the peer closed; ready when there was one.
    fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let before = state.waiting.len();
        state.waiting.retain(|link| match link {
            Waiting::Begun { .. } => true,
            Waiting::Proven { stream, .. } => poll_over(stream, cx).is_pending(),
        });
        if state.waiting.len() == before {
            return Poll::Pending;
        }
        state.trouble = state.trouble.saturating_add(1);
        self.count(&mut state);
        Poll::Ready(())
    }
}

impl State {
    /// Drops some links, as not needed.
    fn drop_where(&mut self, is_over: impl Fn(&Waiting) -> bool) {
        for link in std::mem::take(&mut self.waiting) {
            match link {
                link if !is_over(&link) => self.waiting.push_back(link),
                Waiting::Begun { link, .. } => link.retire(),
                Waiting::Proven { .. } => {}
            }
        }
    }
}

impl Waiting {
    /// When the keeper has to do something about it.
    fn ends(&self) -> Instant {
        match self {
            Self::Begun { ripe, .. } => *ripe,
            Self::Proven { retires, .. } => *retires,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn pool() -> Pool {
        Pool::new(2, IntGauge::new("links_ready", "test").unwrap())
    }

    fn begin(listener: &std::net::TcpListener) -> Option<Begun> {
        let places = Arc::new(Semaphore::new(1));
        Begun::begin(listener.local_addr().unwrap(), None, &places).unwrap()
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

    /// Time stands still unless everybody sleeps: who looks again and again never gets to the end.
    #[tokio::test(start_paused = true)]
    async fn a_ripe_link_keeps_nobody_awake_who_can_do_nothing_about_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pool = pool();
        pool.refill(|| begin(&listener));
        tokio::time::advance(2 * RIPE).await;
        let patience = tokio::time::timeout(FAR / 2, pool.closed());
        patience.await.expect_err("closed");
        assert!(matches!(pool.work().await, Work::Ripe(_)));
        assert!(matches!(pool.work().await, Work::Missing));
    }

    /// A node that has not said hello yet is not waited for; what it said is there for the next login.
    #[tokio::test]
    async fn only_a_link_whose_node_has_spoken_is_taken() {
        use std::io::Write as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pool = pool();
        pool.refill(|| begin(&listener));
        let (mut node, _) = listener.accept().unwrap();
        assert!(pool.take().is_none());
        let hello = [1, 1, 0, 3, 7, 8, 9];
        node.write_all(&hello).unwrap();
        // Loopback delivers before the write returns.
        let Some(Taken::Begun(_, heard)) = pool.take() else {
            panic!("not taken");
        };
        assert_eq!(heard, hello);
        pool.refill(|| begin(&listener));
        drop(listener.accept().unwrap());
        assert!(pool.take().is_none());
        assert!(pool.back_off(0) > Duration::ZERO);
        // Nothing more is begun until the keeper has found out.
        pool.refill(|| panic!("begun"));
    }

    /// Otherwise what a login begins in that time would not be looked at while the node waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_keeper_rests_no_longer_than_there_is_trouble() {
        let pool = pool();
        (0..40).for_each(|_| pool.note_failure());
        let began = Instant::now();
        pool.rest(0).await;
        assert!(began.elapsed() >= BACK_OFF_LAST);
        let began = Instant::now();
        tokio::join!(pool.rest(0), async {
            tokio::task::yield_now().await;
            pool.renew();
        });
        assert!(began.elapsed() <= RIPE);
        pool.rest(0).await;
        assert!(began.elapsed() <= RIPE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_pool_ends_its_keeper_and_takes_nothing() {
        let pool = pool();
        assert!(matches!(pool.work().await, Work::Missing));
        tokio::join!(pool.closed(), async { pool.close() });
        assert!(matches!(pool.work().await, Work::Closed));
        assert!(pool.take().is_none());
    }
}
