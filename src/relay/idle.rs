//! Deadlines of all relayed sessions, by one sweep.
//!
//! Time is a count of ticks. A session notes the tick in which it last moved something: one load, and a store at most
//! once per tick. Every tick the sweep wakes the sessions that have been silent for longer than their limit; they see
//! for themselves that they are overdue and end. There is no timer per session, and a sweep over 10000 sessions is
//! 10000 loads.
//!
//! Coarse by intent: a session ends no earlier than its limit and at most two ticks later. A tick is 10 s, or a sixth
//! of the shortest limit if that is less.
//!
//! The sweep is a task only while there are sessions, so it never holds back a drain: the first session starts it, and
//! the end of the last one ends it. A process that was suspended does not catch up on ticks: its sessions get their time.
//!
//! Does not close anything, and does not notice a dead peer: that is TCP keepalive's.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::Settings;
use crate::tasks::Tasks;

/// The longest tick.
const TICK: Duration = Duration::from_secs(10);

/// The sessions of one relay and the tick they live in.
#[derive(Debug)]
pub(super) struct Idle {
    tick: Duration,
    /// In ticks.
    idle: u32,
    /// In ticks.
    half_closed_idle: u32,
    now: AtomicU32,
    sessions: Mutex<Sessions>,
    /// The last session has left.
    deserted: Notify,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Sessions {
    /// Those that have left are still here until the next tick.
    seats: Vec<Weak<Seat>>,
    /// How many have not left.
    present: usize,
    sweeping: bool,
}

/// What the sweep sees of a session.
#[derive(Debug)]
struct Seat {
    last: AtomicU32,
    limit: AtomicU32,
    waker: Mutex<Option<Waker>>,
}

/// A session's place in the sweep; dropping it leaves.
#[derive(Debug)]
pub(super) struct Watch {
    idle: Arc<Idle>,
    seat: Arc<Seat>,
    waker: Option<Waker>,
}

impl Idle {
    pub(super) fn new(settings: Settings, tasks: Tasks) -> Self {
        let shortest = settings.idle.min(settings.half_closed_idle);
        let tick = TICK.min(shortest / 6).max(Duration::from_millis(1));
        let ticks = |limit: Duration| {
            u32::try_from(limit.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u32::MAX)
        };
        Self {
            tick,
            idle: ticks(settings.idle),
            half_closed_idle: ticks(settings.half_closed_idle),
            now: AtomicU32::new(0),
            sessions: Mutex::default(),
            deserted: Notify::new(),
            tasks,
        }
    }

    /// A place for a session that starts now.
    pub(super) fn enter(self: &Arc<Self>) -> Watch {
        let seat = Arc::new(Seat {
            last: AtomicU32::new(self.now.load(Relaxed)),
            limit: AtomicU32::new(self.idle),
            waker: Mutex::new(None),
        });
        let mut sessions = self.lock();
        sessions.seats.push(Arc::downgrade(&seat));
        sessions.present += 1;
        if !sessions.sweeping {
            sessions.sweeping = true;
            self.tasks
                .background("relay sweep", Arc::clone(self).sweep_while_needed());
        }
        drop(sessions);
        Watch {
            idle: Arc::clone(self),
            seat,
            waker: None,
        }
    }

    async fn sweep_while_needed(self: Arc<Self>) {
        let mut ticks = interval_at(Instant::now() + self.tick, self.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.sweep(),
                () = self.deserted.notified() => {}
            }
            let mut sessions = self.lock();
            if sessions.present == 0 {
                *sessions = Sessions::default();
                return;
            }
        }
    }

    fn sweep(&self) {
        let now = self.now.fetch_add(1, Relaxed).wrapping_add(1);
        // Taken out, so that sessions come and go meanwhile.
        let mut seats = std::mem::take(&mut self.lock().seats);
        seats.retain(|seat| {
            let Some(seat) = seat.upgrade() else {
                return false;
            };
            if seat.is_overdue(now) {
                seat.wake();
            }
            true
        });
        self.lock().seats.append(&mut seats);
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // Poisoned means that a push or a count was cut short by a panic elsewhere: both leave it usable.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Whether more ticks have begun than the limit has: the tick of `last` was already under way, so it does not count.
    fn is_overdue(&self, now: u32) -> bool {
        now.wrapping_sub(self.last.load(Relaxed)) > self.limit.load(Relaxed)
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = waker.as_ref() {
            waker.wake_by_ref();
        }
    }
}

impl Watch {
    /// Whom to wake when overdue; to be called in every poll, cheap when it stays the same.
    pub(super) fn wake_with(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            self.waker = Some(waker.clone());
            let mut seen = self
                .seat
                .waker
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *seen = Some(waker.clone());
        }
    }

    /// Something was moved.
    pub(super) fn touch(&self) {
        let now = self.idle.now.load(Relaxed);
        if self.seat.last.load(Relaxed) != now {
            self.seat.last.store(now, Relaxed);
        }
    }

    /// From now on the limit for half-closed sessions counts.
    pub(super) fn half_close(&self) {
        self.seat.limit.store(self.idle.half_closed_idle, Relaxed);
        self.touch();
    }

    /// Whether the session has been silent for too long.
    pub(super) fn is_overdue(&self) -> bool {
        self.seat.is_overdue(self.idle.now.load(Relaxed))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut sessions = self.idle.lock();
        sessions.present = sessions.present.saturating_sub(1);
        if sessions.present == 0 {
            self.idle.deserted.notify_one();
        }
    }
}
