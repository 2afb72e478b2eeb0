//! A session's ear for changes of its account, and why it may have to end.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::table::Table;
use crate::directory::{
    Visit,
    facts::{EntryId, Parts},
};

/// Why a session may not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Revoked {
    /// Its account is gone.
    Deleted,
    /// Its account may not log in any more, or not by this protocol or from there.
    Disabled,
    /// Its mailbox is elsewhere.
    Moved,
    /// Its password is another one.
    Password,
}

/// A session.
pub(super) struct Seat {
    pub(super) base: usize,
    pub(super) parts: Parts,
    pub(super) home_node: Option<Box<str>>,
    /// Whether these two were read as entries are read now.
    pub(super) is_comparable: bool,
    pub(super) visit: Visit,
    pub(super) revoke: oneshot::Sender<Revoked>,
}

/// A session's ear for changes of its account; dropping it leaves.
#[derive(Default)]
pub struct Watch(pub(super) Option<Listening>);

pub(super) struct Listening {
    pub(super) entry: EntryId,
    pub(super) table: Arc<Table>,
    pub(super) revoked: oneshot::Receiver<Revoked>,
    /// Once it has been heard.
    pub(super) why: Option<Revoked>,
}

// === impl Revoked ===

impl Revoked {
    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Disabled => "disabled",
            Self::Moved => "moved",
            Self::Password => "password",
        }
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "the account is not in the directory any more",
            Self::Disabled => "the account may not log in any more",
            Self::Moved => "the mailbox has moved",
            Self::Password => "the password was changed",
        })
    }
}

// === impl Watch ===

impl Watch {
    /// Ends when the session may not go on; never, if nobody listens.
    pub async fn revoked(&mut self) {
        poll_fn(|context| self.poll_revoked(context)).await;
    }

    /// The same, for whoever waits for something else besides.
    pub fn poll_revoked(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(listening) = &mut self.0
            && listening.why.is_none()
        {
            match ready!(Pin::new(&mut listening.revoked).poll(context)) {
                Ok(why) => {
                    listening.why = Some(why);
                    return Poll::Ready(());
                }
                // Nobody will say anything any more.
                Err(_) => self.0 = None,
            }
        }
        Poll::Pending
    }

    /// Why [`revoked`](Self::revoked) has ended; none if it has not.
    pub fn why(&self) -> Option<Revoked> {
        self.0.as_ref()?.why
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.why()).finish()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.revoked.close();
        let seats = &mut self.table.lock().seats;
        if let Some(here) = seats.get_mut(&self.entry) {
            here.all.retain(|seat| !seat.revoke.is_closed());
            if here.all.is_empty() {
                seats.remove(&self.entry);
            }
        }
    }
}
