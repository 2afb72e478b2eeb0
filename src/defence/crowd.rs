//! Connections: how many a network has, and who leaves when there are too many guests.
//!
//! A guest *waits* while it is its turn to say something, and while its failed login is not answered yet; while it is being
//! logged in it does not, and is not sent away. When room is needed, a guest leaves of the network that has most of those that
//! wait, the one that came first. So networks share what room there is, and in a flood from everywhere it goes by time (within a part). Trusted
//! clients leave last.
//!
//! Networks are kept in parts with a lock of their own; each part says how many wait of its largest network, so that room is
//! made by looking into one part only.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use super::{Hash, Settings};
use crate::metrics::Metrics;

/// Parts with a lock of their own.
const PARTS: usize = 16;
/// How often room is looked for, when others take it first.
const MAX_TRIES: usize = 4;

#[derive(Debug)]
pub(super) struct Crowd {
    parts: Box<[Part]>,
    /// In all parts.
    guests: IntGauge,
    sent_away: IntCounter,
    next: AtomicU64,
    is_short_of_memory: AtomicBool,
}

/// How many there may be.
#[derive(Debug)]
pub(super) struct Limits {
    max_guests: i64,
    max_guests_per_network: usize,
    max_connections_per_network: usize,
}

#[derive(Debug, Default)]
struct Part {
    networks: Mutex<Networks>,
    /// One more than how many wait of its largest network; 0 if nobody waits.
    largest: AtomicUsize,
}

/// Those that have connections; all trusted clients are one.
#[derive(Debug, Default)]
struct Networks {
    all: HashMap<Option<Hash>, Network>,
    /// Those of which somebody waits.
    ranks: BTreeSet<Rank>,
}

#[derive(Debug, Default)]
struct Network {
    connections: usize,
    guests: usize,
    /// By the order in which they came.
    waiting: BTreeMap<u64, Arc<Seat>>,
}

/// Of the greatest, a guest leaves first: how many wait (of trusted ones none), then who came first.
type Rank = (usize, Reverse<u64>, Option<Hash>);

/// A guest's place.
#[derive(Debug)]
struct Seat {
    number: u64,
    network: Option<Hash>,
    leave: Notify,
}

/// Why a connection cannot stay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// There are too many guests, and all are being logged in.
    Guests,
    /// Its network has too many connections.
    Connections,
    /// Memory is short.
    Memory,
    /// Its network has too many guests, and all are being logged in.
    NetworkGuests,
}

impl Refused {
    /// The word for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guests => "unauthenticated",
            Self::Connections => "network",
            Self::Memory => "memory",
            Self::NetworkGuests => "network-unauthenticated",
        }
    }
}

/// A connection that has not logged in; counted for as long as this lives.
#[derive(Debug)]
pub struct Guest {
    crowd: Arc<Crowd>,
    seat: Arc<Seat>,
    /// It is being logged in, and does not wait.
    is_busy: bool,
    /// It has become a resident, which is dropped for itself.
    has_moved: bool,
}

/// A connection that has logged in; counted for as long as this lives.
#[derive(Debug)]
pub struct Resident {
    crowd: Arc<Crowd>,
    network: Option<Hash>,
}

/// What is not to happen to a guest who was sent away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SentAway;

// === impl Crowd ===

impl Crowd {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Part::default()).collect(),
            guests: metrics.connections_unauthenticated.clone(),
            sent_away: metrics.connections_shed.with_label_values(&["displaced"]),
            next: AtomicU64::new(0),
            is_short_of_memory: AtomicBool::new(false),
        }
    }

    pub(super) fn admit(
        self: &Arc<Self>,
        network: Option<Hash>,
        limits: &Limits,
    ) -> Result<Guest, Refused> {
        if self.is_short_of_memory.load(Ordering::Relaxed) {
            return Err(Refused::Memory);
        }
        if self.guests.get() >= limits.max_guests {
            // Nobody leaves for one who cannot stay, or whose own network makes room.
            let has_own = self.change(network, |counts| limits.displace(network, counts))?;
            if !has_own && !self.make_room() {
                return Err(Refused::Guests);
            }
        }
        let seat = Arc::new(Seat {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            network,
            leave: Notify::new(),
        });
        let displaced = self.change(network, |counts| {
            let displaced = if limits.displace(network, counts)? {
                counts.guests = counts.guests.saturating_sub(1);
                counts.waiting.pop_first().map(|(_, first)| first)
            } else {
                None
            };
            counts.connections += 1;
            counts.guests += 1;
            counts.waiting.insert(seat.number, Arc::clone(&seat));
            Ok(displaced)
        })?;
        self.guests.inc();
        if let Some(displaced) = displaced {
            self.leaves(&displaced);
        }
        Ok(Guest {
            crowd: Arc::clone(self),
            seat,
            is_busy: false,
            has_moved: false,
        })
    }

    /// Sends a guest away; false if none waits.
    pub(super) fn make_room(&self) -> bool {
        for _ in 0..MAX_TRIES {
            let first = self.next.fetch_add(1, Ordering::Relaxed);
            let (before, after) = self.parts.split_at(Self::place(first));
            // Of parts that are alike it is another one each time.
            let parts = after.iter().chain(before);
            let largest = parts.max_by_key(|part| part.largest.load(Ordering::Relaxed));
            let Some(part) = largest.filter(|part| part.largest.load(Ordering::Relaxed) > 0) else {
                return false;
            };
            let mut networks = part.lock();
            let Some((.., network)) = networks.ranks.last().copied() else {
                continue;
            };
            let seat = networks.change(network, |counts| {
                counts.guests = counts.guests.saturating_sub(1);
                counts.waiting.pop_first()
            });
            part.has_changed(&networks);
            drop(networks);
            if let Some((_, seat)) = seat {
                self.leaves(&seat);
                return true;
            }
        }
        false
    }

    pub(super) fn is_short_of_memory(&self, is_short: bool) {
        self.is_short_of_memory.store(is_short, Ordering::Relaxed);
        if is_short {
            // A quarter of them, and at last all.
            let leaving = self.guests.get() / 4 + 1;
            for _ in 0..leaving {
                if !self.make_room() {
                    break;
                }
            }
        }
    }

    /// Is no guest any more; its connection is closed as soon as its task is polled.
    fn leaves(&self, seat: &Seat) {
        self.guests.dec();
        self.sent_away.inc();
        seat.leave.notify_one();
    }

    /// A guest is none any more, unless it was sent away before; nor a connection, if it `has_ended`.
    fn is_gone(&self, seat: &Seat, is_busy: bool, has_ended: bool) {
        let was_guest = self.change(seat.network, |counts| {
            let was_guest = counts.waiting.remove(&seat.number).is_some() || is_busy;
            counts.guests = counts.guests.saturating_sub(was_guest.into());
            counts.connections = counts.connections.saturating_sub(has_ended.into());
            was_guest
        });
        if was_guest {
            self.guests.dec();
        }
    }

    fn change<T>(&self, network: Option<Hash>, change: impl FnOnce(&mut Network) -> T) -> T {
        #[allow(
            clippy::indexing_slicing,
            reason = "there are as many parts as `place` knows"
        )]
        let part = &self.parts[Self::place(network.map_or(0, Hash::get))];
        let mut networks = part.lock();
        let changed = networks.change(network, change);
        part.has_changed(&networks);
        changed
    }

    /// Whether nobody is there.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let mut parts = self.parts.iter().map(Part::lock);
        parts.all(|networks| networks.all.is_empty() && networks.ranks.is_empty())
    }

    fn place(number: u64) -> usize {
        usize::try_from(number % PARTS as u64).unwrap_or(0)
    }
}

// === impl Limits ===

impl Limits {
    pub(super) fn new(settings: &Settings) -> Self {
        let limit = |limit: usize| if limit == 0 { usize::MAX } else { limit };
        Self {
            max_guests: i64::try_from(limit(settings.max_guests)).unwrap_or(i64::MAX),
            max_guests_per_network: limit(settings.max_guests_per_network),
            max_connections_per_network: limit(settings.max_connections_per_network),
        }
    }

    /// Whether one more of a network takes the place of another of its guests.
    fn displace(&self, network: Option<Hash>, counts: &Network) -> Result<bool, Refused> {
        if network.is_none() {
            return Ok(false);
        }
        if counts.connections >= self.max_connections_per_network {
            return Err(Refused::Connections);
        }
        match counts.guests >= self.max_guests_per_network {
            true if counts.waiting.is_empty() => Err(Refused::NetworkGuests),
            is_full => Ok(is_full),
        }
    }
}

// === impl Part ===

impl Part {
    fn lock(&self) -> MutexGuard<'_, Networks> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_changed(&self, networks: &Networks) {
        let largest = networks.ranks.last().map_or(0, |(waiting, ..)| waiting + 1);
        self.largest.store(largest, Ordering::Relaxed);
    }
}

// === impl Networks ===

impl Networks {
    /// Changes one, and keeps its rank; without a connection it is forgotten.
    fn change<T>(&mut self, network: Option<Hash>, change: impl FnOnce(&mut Network) -> T) -> T {
        let mut entry = match self.all.entry(network) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(Network::default()),
        };
        let before = entry.get().rank(network);
        let changed = change(entry.get_mut());
        let after = entry.get().rank(network);
        if before != after {
            if let Some(rank) = before {
                self.ranks.remove(&rank);
            }
            self.ranks.extend(after);
        }
        if entry.get().connections == 0 {
            entry.remove();
        }
        changed
    }
}

impl Network {
    fn rank(&self, network: Option<Hash>) -> Option<Rank> {
        let (first, _) = self.waiting.first_key_value()?;
        let waiting = match network {
            Some(_) => self.waiting.len(),
            None => 0,
        };
        Some((waiting, Reverse(*first), network))
    }
}

// === impl Guest ===

impl Guest {
    /// Ends when it has to leave, since another needs its place.
    pub fn sent_away(&self) -> impl Future<Output = ()> + Send + use<> {
        let seat = Arc::clone(&self.seat);
        async move { seat.leave.notified().await }
    }

    /// It is being logged in from now on: it will not be sent away.
    ///
    /// # Errors
    ///
    /// When it was.
    pub fn starts_login(&mut self) -> Result<(), SentAway> {
        let Seat {
            number, network, ..
        } = &*self.seat;
        let waited = self
            .crowd
            .change(*network, |counts| counts.waiting.remove(number));
        waited.ok_or(SentAway)?;
        self.is_busy = true;
        Ok(())
    }

    /// It was not logged in, and waits again.
    pub fn waits(&mut self) {
        if self.is_busy {
            self.is_busy = false;
            let seat = Arc::clone(&self.seat);
            self.crowd.change(seat.network, |counts| {
                counts.waiting.insert(seat.number, Arc::clone(&seat));
            });
        }
    }

    /// It has logged in.
    pub fn moves_in(mut self) -> Resident {
        self.crowd.is_gone(&self.seat, self.is_busy, false);
        self.has_moved = true;
        Resident {
            crowd: Arc::clone(&self.crowd),
            network: self.seat.network,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.has_moved {
            self.crowd.is_gone(&self.seat, self.is_busy, true);
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.crowd.change(self.network, |counts| {
            counts.connections = counts.connections.saturating_sub(1);
        });
    }
}
