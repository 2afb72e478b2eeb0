//! What a session is judged by, and its ear for that.

use std::{fmt, sync::Arc};

use super::table::Table;
use crate::{
    directory::{
        Visit,
        facts::{EntryId, Parts},
    },
    sessions::{Ending, Seat},
};

/// What a session is judged by.
pub(super) struct Judged {
    pub(super) base: usize,
    pub(super) parts: Parts,
    pub(super) home_node: Option<Arc<str>>,
    /// Whether these two were read as entries are read now.
    pub(super) is_comparable: bool,
    pub(super) visit: Visit,
    pub(super) seat: Arc<Seat>,
}

/// A session's ear for changes of its account, and for all others who may end it; dropping it leaves.
#[derive(Default)]
pub struct Watch {
    pub(super) seat: Arc<Seat>,
    /// None: changes of the account end nothing.
    pub(super) judged: Option<(EntryId, Arc<Table>)>,
}

// === impl Watch ===

impl Watch {
    /// Where the session sits, for those who may end it.
    pub fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Ends when the session may not go on.
    pub async fn ended(&self) {
        self.seat.ended().await;
    }

    /// Why [`ended`](Self::ended) has ended; none if it has not.
    pub fn why(&self) -> Option<Ending> {
        self.seat.why()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.why()).finish()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seat.leave();
        let Some((entry, table)) = &self.judged else {
            return;
        };
        let judged = &mut table.lock().seats;
        if let Some(here) = judged.get_mut(entry) {
            here.all.retain(|one| !Arc::ptr_eq(&one.seat, &self.seat));
            if here.all.is_empty() {
                judged.remove(entry);
            }
        }
    }
}
