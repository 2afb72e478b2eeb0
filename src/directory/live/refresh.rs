//! Who is there: entries of sessions that a refresh has not named yet.
//!
//! It only counts; what becomes of those that are missing is `Live`'s to decide. Entries without a UUID are none of them: a
//! refresh does not name those.

use std::collections::HashSet;

use crate::directory::facts::EntryId;

/// So many accounts in use that are not named after a refresh are believed to be gone, if they are not half of all.
const FEW: usize = 20;

/// What is known of a refresh while it goes on: entries of sessions when it began, which those are that were not named since, and
/// whether anybody was.
///
/// Whoever is missing at its end is gone, if somebody was named and the missing are few: one, or not more than half of all
/// who have sessions, and then `FEW` or a twentieth of them.
pub(in crate::directory) struct Refresh {
    pub(super) base: usize,
    pub(super) all: usize,
    pub(super) suspects: HashSet<EntryId>,
    pub(super) has_named: bool,
}

impl Refresh {
    /// It is there.
    pub(in crate::directory) fn name(&mut self, entry: EntryId) {
        self.has_named = true;
        self.suspects.remove(&entry);
    }

    /// Somebody is there.
    pub(in crate::directory) fn name_somebody(&mut self) {
        self.has_named = true;
    }

    /// Who was not named so far.
    pub(in crate::directory) fn suspects(&self) -> impl Iterator<Item = EntryId> {
        self.suspects.iter().copied()
    }

    /// Whether anybody was named.
    pub(in crate::directory) fn has_named(&self) -> bool {
        self.has_named
    }

    pub(super) fn is_believed(&self) -> bool {
        let missing = self.suspects.len();
        let are_few = missing <= 1 || missing * 2 <= self.all && missing <= FEW.max(self.all / 20);
        self.has_named && are_few
    }
}
