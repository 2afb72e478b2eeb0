//! The seats of all sessions. They outlive a directory: when another takes its place, its sessions are judged by that one.
//!
//! What a session began with can be compared only with what is read of its entry in the same way. When entries are read by other
//! attributes from now on, the next that is heard of one is what its sessions began with, and changes count from there; that
//! the account is gone or may not log in counts at once. When accounts come from another source, or a base is not searched any
//! more, sessions that began there go on and nobody says when they should not.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{super::facts::Standing, EntryId, Now, watch::Judged};

/// Words of home attributes that sessions share: there are hardly more than nodes.
const MAX_WORDS: usize = 1000;

/// Where entries are, and by which reading.
#[derive(Clone, Debug)]
pub(in crate::directory) struct Bases {
    /// What each is called; nobody else's is called so.
    pub(in crate::directory) names: Arc<[String]>,
    /// Another number when entries are read by other attributes.
    pub(in crate::directory) reading: u64,
}

/// The sessions of a process.
#[derive(Default)]
pub(in crate::directory) struct Table(Mutex<All>);

/// What is in it.
#[derive(Default)]
pub(super) struct All {
    /// That of all seats.
    bases: Option<Bases>,
    pub(super) seats: HashMap<EntryId, Seats>,
    /// Home words, each of them once.
    words: HashSet<Arc<str>>,
}

/// The sessions of an entry.
#[derive(Default)]
pub(super) struct Seats {
    pub(super) all: Vec<Judged>,
    /// What they will be judged by in a while. Boxed, since that is rare.
    pub(super) pending: Option<Box<(usize, Now)>>,
}

impl Bases {
    /// The first, of a process.
    pub(in crate::directory) fn new(names: Vec<String>) -> Self {
        Self {
            names: names.into(),
            reading: 0,
        }
    }
}

impl Table {
    pub(super) fn lock(&self) -> MutexGuard<'_, All> {
        // A panic cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// Whether the seats are of those bases.
    pub(super) fn is_of(&self, bases: &Bases) -> bool {
        let own = self.bases.as_ref();
        own.is_none_or(|own| own.reading == bases.reading)
    }

    /// A session begins that was read below one of those bases; false where nobody would ever say when it should end.
    pub(super) fn sit(&mut self, entry: EntryId, seat: Judged, from: &Bases) -> bool {
        let seat = match &self.bases {
            Some(own) if own.reading != from.reading => seat.moved(from, own),
            Some(_) => Some(seat),
            None => {
                self.bases = Some(from.clone());
                Some(seat)
            }
        };
        let Some(seat) = seat else { return false };
        let seats = &mut self.seats.entry(entry).or_default().all;
        // Most have one session or a few: room for four would be for nothing.
        seats.reserve_exact(1);
        seats.push(seat);
        true
    }

    /// The same word, which sessions have in common.
    pub(super) fn shared(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.words.get(word) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(word);
        if self.words.len() < MAX_WORDS {
            self.words.insert(Arc::clone(&new));
        }
        new
    }

    /// Entries are read below these bases from now on; how many sessions nobody can judge any more.
    pub(super) fn become_of(&mut self, bases: &Bases) -> usize {
        let before = self.bases.replace(bases.clone());
        let other = |before: &Bases| before.reading != bases.reading;
        let Some(before) = before.filter(other) else {
            return 0;
        };
        let mut lost = 0;
        self.seats.retain(|_, seats| {
            seats.pending = None;
            let all = std::mem::take(&mut seats.all);
            let count = all.len();
            let moved = all.into_iter();
            seats.all = moved
                .filter_map(|seat| seat.moved(&before, bases))
                .collect();
            lost += count - seats.all.len();
            !seats.all.is_empty()
        });
        lost
    }
}

impl Seats {
    /// The first that is heard of an entry since it is read otherwise is what its sessions began with.
    pub(super) fn learn(&mut self, now: &Standing) {
        for seat in &mut self.all {
            if !seat.is_comparable {
                seat.parts = now.facts.parts;
                seat.home_node = now.home_node.as_deref().map(Arc::from);
                seat.is_comparable = true;
            }
        }
    }
}

impl Judged {
    /// The same below other bases; none if its own is not one of them.
    fn moved(self, from: &Bases, to: &Bases) -> Option<Self> {
        let name = from.names.get(self.base)?;
        let base = to.names.iter().position(|other| other == name)?;
        Some(Self {
            base,
            is_comparable: false,
            ..self
        })
    }
}
