//! Who is on: the sessions of a front past login, and their ends by command.
//!
//! ```text
//! password right ─> Seat ─> enter ─> listed ─> the session ends, Entered is dropped ─> not listed
//!                    └── end(why), by whoever is first ──> the session's task is woken and closes it
//! ```
//!
//! - `seat`: one session, shared by all that may end it.
//!
//! A session costs its seat and a slot here, and does nothing here while it goes on. Slots do not move, so that whoever reads
//! the table page by page meets each session that was there all the time exactly once. The table is locked for as long as
//! it takes to copy a thousand pointers.
//!
//! Ends are spread: each session ends at a random moment within the time that was given, so that its client does not come
//! back together with all others. One task walks along the moments of all sessions of a command.
//!
//! Limits: [`MAX_WALKS`] commands that spread their ends at one time. It knows nobody's orders and writes no log.

mod seat;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use ipnet::IpNet;
use prometheus::IntCounterVec;
use tokio::time::{Instant, sleep_until};

pub use seat::{Ending, Seat, Who};

use crate::{
    metrics::Metrics,
    names::{AccountName, NodeName, Protocol},
    tasks::Tasks,
};

/// Commands that spread their ends at one time.
pub const MAX_WALKS: usize = 32;

/// Slots that are looked at while the table is locked.
const CHUNK: usize = 1024;

/// The table of sessions. Clones share it.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    slots: Mutex<Slots>,
    walks: AtomicUsize,
    kicked: IntCounterVec,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Option<Arc<Seat>>>,
    /// Of those, the empty ones.
    free: Vec<usize>,
}

/// A session's place in the table; dropping it leaves.
#[derive(Debug)]
pub struct Entered {
    sessions: Sessions,
    slot: usize,
}

/// Which sessions are meant; by default all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Of this account.
    pub account: Option<AccountName>,
    /// At this node.
    pub node: Option<NodeName>,
    /// Whose client is in this network.
    pub network: Option<IpNet>,
    /// By this protocol.
    pub protocol: Option<Protocol>,
}

/// Some of the sessions.
#[derive(Clone, Debug)]
pub struct Page {
    /// In the order of their slots.
    pub seats: Vec<Arc<Seat>>,
    /// Where the next page begins; none: this was the last one.
    pub next: Option<usize>,
}

/// Too many commands are still ending sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{MAX_WALKS} commands are still ending sessions: wait until they are done")]
pub struct TooMany;

impl Filter {
    /// Whether that session is meant.
    pub fn matches(&self, who: &Who) -> bool {
        let is = |wanted: Option<bool>| wanted.unwrap_or(true);
        let client = who.client.ip().to_canonical();
        is(self.account.as_ref().map(|account| *account == who.account))
            && is(self.node.as_ref().map(|node| *node == who.node))
            && is(self.network.map(|network| network.contains(&client)))
            && is(self.protocol.map(|protocol| protocol == who.protocol))
    }
}

impl Sessions {
    /// Nobody is on.
    pub fn new(metrics: &Metrics, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            slots: Mutex::default(),
            walks: AtomicUsize::new(0),
            kicked: metrics.sessions_kicked.clone(),
            tasks,
        }))
    }

    /// Lists a session for as long as the result lives.
    pub fn enter(&self, seat: &Arc<Seat>, who: Who) -> Entered {
        seat.sit_down(who);
        let taken = Some(Arc::clone(seat));
        let mut slots = self.lock();
        let free = slots.free.pop();
        let slot = free.unwrap_or(slots.all.len());
        match slots.all.get_mut(slot) {
            Some(empty) => *empty = taken,
            None => slots.all.push(taken),
        }
        drop(slots);
        Entered {
            sessions: self.clone(),
            slot,
        }
    }

    /// The sessions that are meant, from a slot on, at most so many.
    pub fn page(&self, filter: &Filter, from: usize, most: usize) -> Page {
        let mut seats = Vec::new();
        let mut next = from;
        while let Some(chunk) = self.chunk(next) {
            for seat in chunk {
                if seats.len() >= most {
                    return Page {
                        seats,
                        next: Some(next),
                    };
                }
                next = next.saturating_add(1);
                let is_meant = |seat: &Arc<Seat>| seat.who().is_some_and(|who| filter.matches(who));
                seats.extend(seat.filter(is_meant));
            }
        }
        Page { seats, next: None }
    }

    /// All the sessions that are meant.
    pub fn all(&self, filter: &Filter) -> Vec<Arc<Seat>> {
        self.page(filter, 0, usize::MAX).seats
    }

    /// What is in some slots; none behind the last one.
    fn chunk(&self, from: usize) -> Option<Vec<Option<Arc<Seat>>>> {
        let slots = self.lock();
        let rest = slots.all.get(from..).filter(|rest| !rest.is_empty())?;
        Some(rest.iter().take(CHUNK).cloned().collect())
    }

    /// Ends sessions, each at a random moment within so long, for as long as that `is_wanted`.
    ///
    /// # Errors
    ///
    /// When too many commands are at that.
    pub fn end(
        &self,
        seats: Vec<Arc<Seat>>,
        why: Ending,
        within: Duration,
        is_wanted: impl Fn() -> bool + Send + 'static,
    ) -> Result<(), TooMany> {
        if within.is_zero() || seats.is_empty() {
            for seat in seats {
                self.end_one(&seat, why);
            }
            return Ok(());
        }
        let walk = self.begin_walk()?;
        let start = Instant::now();
        let mut moments: Vec<(Instant, Weak<Seat>)> = seats
            .iter()
            .map(|seat| (start + part_of(within), Arc::downgrade(seat)))
            .collect();
        moments.sort_unstable_by_key(|(at, _)| Reverse(*at));
        let sessions = self.clone();
        self.0.tasks.background("ends by command", async move {
            let _walk = walk;
            while let Some((at, seat)) = moments.pop() {
                sleep_until(at).await;
                if !is_wanted() {
                    return;
                }
                // None where it has ended meanwhile.
                if let Some(seat) = seat.upgrade() {
                    sessions.end_one(&seat, why);
                }
            }
        });
        Ok(())
    }

    fn end_one(&self, seat: &Seat, why: Ending) {
        if seat.end(why) {
            self.0.kicked.with_label_values(&[why.as_str()]).inc();
        }
    }

    fn begin_walk(&self) -> Result<Walk, TooMany> {
        let walk = Walk(Arc::clone(&self.0));
        // It is taken back when the walk is dropped, refused or not.
        if self.0.walks.fetch_add(1, Relaxed) < MAX_WALKS {
            Ok(walk)
        } else {
            Err(TooMany)
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // A panic cannot leave it half changed.
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A random part of a time.
fn part_of(within: Duration) -> Duration {
    // Without randomness they end at once, which is what was asked for in the end.
    let part = getrandom::u32().unwrap_or_default();
    within.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

/// A command that spreads its ends.
struct Walk(Arc<Inner>);

impl Drop for Walk {
    fn drop(&mut self) {
        self.0.walks.fetch_sub(1, Relaxed);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut slots = self.sessions.lock();
        let left = slots.all.get_mut(self.slot).and_then(Option::take);
        slots.free.push(self.slot);
        drop(slots);
        if let Some(seat) = left {
            seat.leave();
        }
    }
}
