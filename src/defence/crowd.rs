//! Connections: how many a network has, and who leaves when there are too many guests.
//!
//! A guest *waits* while it is its turn to say something, and while its failed login is not answered yet; while it is being
//! logged in it does not, and is not sent away. Guests stand in the order in which they came, in parts by network. Of the
//! newcomer's part, or of the next that has any, one leaves: of the network that has the most guests, the first that came. So
//! networks share what room there is, and in a flood from everywhere it goes by time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use super::{Hash, Settings};
use crate::metrics::Metrics;

/// Parts with a lock of their own.
const PARTS: usize = 16;

#[derive(Debug)]
pub(super) struct Crowd {
    parts: Box<[Mutex<Part>]>,
    /// In all parts.
    guests: IntGauge,
    sent_away: IntCounter,
    next: AtomicU64,
    is_short_of_memory: AtomicBool,
    max_guests: i64,
    max_guests_per_network: usize,
    max_connections_per_network: usize,
}

#[derive(Debug, Default)]
struct Part {
    networks: HashMap<Hash, Network>,
    /// By the order in which they came.
    waiting: BTreeMap<u64, Arc<Seat>>,
}

#[derive(Debug, Default)]
struct Network {
    connections: usize,
    guests: usize,
}

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
    pub(super) fn new(settings: &Settings, metrics: &Metrics) -> Self {
        let limit = |limit: usize| if limit == 0 { usize::MAX } else { limit };
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            guests: metrics.connections_unauthenticated.clone(),
            sent_away: metrics.connections_shed.with_label_values(&["displaced"]),
            next: AtomicU64::new(0),
            is_short_of_memory: AtomicBool::new(false),
            max_guests: i64::try_from(limit(settings.max_guests)).unwrap_or(i64::MAX),
            max_guests_per_network: limit(settings.max_guests_per_network),
            max_connections_per_network: limit(settings.max_connections_per_network),
        }
    }

    pub(super) fn admit(self: &Arc<Self>, network: Option<Hash>) -> Result<Guest, Refused> {
        if self.is_short_of_memory.load(Ordering::Relaxed) {
            return Err(Refused::Memory);
        }
        if self.guests.get() >= self.max_guests && !self.send_away(network) {
            return Err(Refused::Guests);
        }
        let seat = Arc::new(Seat {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            network,
            leave: Notify::new(),
        });
        let mut part = self.part(network);
        if let Some(network) = network {
            let counts = part.networks.entry(network).or_default();
            if counts.connections >= self.max_connections_per_network {
                return Err(Refused::Connections);
            }
            if counts.guests >= self.max_guests_per_network {
                let first = part.waiting.values().find(|it| it.network == Some(network));
                let first = first.cloned().ok_or(Refused::NetworkGuests)?;
                self.leaves(&mut part, &first);
            }
            let counts = part.networks.entry(network).or_default();
            counts.connections += 1;
            counts.guests += 1;
        }
        self.guests.inc();
        part.waiting.insert(seat.number, Arc::clone(&seat));
        drop(part);
        Ok(Guest {
            crowd: Arc::clone(self),
            seat,
            is_busy: false,
            has_moved: false,
        })
    }

    /// Sends a guest away; of the part of `network` if there is one.
    fn send_away(&self, network: Option<Hash>) -> bool {
        let (before, after) = self.parts.split_at(Self::place(network));
        for part in after.iter().chain(before) {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(seat) = part.most_dispensable() {
                self.leaves(&mut part, &seat);
                return true;
            }
        }
        false
    }

    pub(super) fn make_room(&self) -> bool {
        // Any part: the next number is as good as any.
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.send_away(Hash::new(next))
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

    /// It is no guest any more from now on; its connection is closed as soon as its task is polled.
    fn leaves(&self, part: &mut Part, seat: &Seat) {
        part.waiting.remove(&seat.number);
        self.is_no_guest(part, seat.network);
        self.sent_away.inc();
        seat.leave.notify_one();
    }

    /// A guest is none any more, unless it was sent away before.
    fn is_gone(&self, part: &mut Part, seat: &Seat, is_busy: bool) {
        if part.waiting.remove(&seat.number).is_some() || is_busy {
            self.is_no_guest(part, seat.network);
        }
    }

    fn is_no_guest(&self, part: &mut Part, network: Option<Hash>) {
        self.guests.dec();
        if let Some(counts) = network.and_then(|network| part.networks.get_mut(&network)) {
            counts.guests = counts.guests.saturating_sub(1);
        }
    }

    /// Whether nobody is there.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let mut parts = self.parts.iter().map(|part| part.lock().unwrap());
        parts.all(|part| part.networks.is_empty() && part.waiting.is_empty())
    }

    fn part(&self, network: Option<Hash>) -> MutexGuard<'_, Part> {
        #[allow(
            clippy::indexing_slicing,
            reason = "there are as many parts as `place` knows"
        )]
        let part = &self.parts[Self::place(network)];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(network: Option<Hash>) -> usize {
        let number = network.map_or(0, Hash::get);
        usize::try_from(number % PARTS as u64).unwrap_or(0)
    }

    /// A connection of `network` has ended.
    fn has_ended(&self, part: &mut Part, network: Option<Hash>) {
        let Some(network) = network else {
            return;
        };
        if let Some(counts) = part.networks.get_mut(&network) {
            counts.connections = counts.connections.saturating_sub(1);
            if counts.connections == 0 {
                part.networks.remove(&network);
            }
        }
    }
}

// === impl Part ===

impl Part {
    fn most_dispensable(&self) -> Option<Arc<Seat>> {
        let guests = |network| {
            let counts = self.networks.get(&network);
            counts.map_or(0, |counts| counts.guests)
        };
        // Of equals the last is taken.
        let seats = self.waiting.values().rev();
        let seat = seats.max_by_key(|seat| seat.network.map_or(0, guests));
        seat.cloned()
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
    pub fn is_busy(&mut self) -> Result<(), SentAway> {
        let mut part = self.crowd.part(self.seat.network);
        part.waiting.remove(&self.seat.number).ok_or(SentAway)?;
        self.is_busy = true;
        Ok(())
    }

    /// It was not logged in, and waits again.
    pub fn waits(&mut self) {
        if self.is_busy {
            self.is_busy = false;
            let mut part = self.crowd.part(self.seat.network);
            part.waiting
                .insert(self.seat.number, Arc::clone(&self.seat));
        }
    }

    /// It has logged in.
    pub fn moves_in(mut self) -> Resident {
        let mut part = self.crowd.part(self.seat.network);
        self.crowd.is_gone(&mut part, &self.seat, self.is_busy);
        drop(part);
        self.has_moved = true;
        Resident {
            crowd: Arc::clone(&self.crowd),
            network: self.seat.network,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.has_moved {
            return;
        }
        let network = self.seat.network;
        let mut part = self.crowd.part(network);
        self.crowd.is_gone(&mut part, &self.seat, self.is_busy);
        self.crowd.has_ended(&mut part, network);
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let mut part = self.crowd.part(self.network);
        self.crowd.has_ended(&mut part, self.network);
    }
}
