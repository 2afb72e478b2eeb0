//! A session's seat: who sits there, and whether that one may stay.
//!
//! One allocation for all who have to do with a session after its login: the session itself, which is woken when it may not go
//! on; the directory, which judges it when its account changes; the table, for administrators. Whoever is first says why.

use std::{
    fmt,
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire},
        },
    },
    task::{Context, Poll, Waker},
};

use jiff::Timestamp;

use crate::{
    names::{AccountName, NodeName, Protocol, SessionId},
    outcome::Outcome,
};

/// Why a session may not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Its account is gone.
    Deleted,
    /// Its account may not log in any more, or not by this protocol or from there.
    Disabled,
    /// An administrator drains this front.
    FrontDrained,
    /// An administrator holds its account.
    Held,
    /// An administrator ends it.
    Kicked,
    /// Its mailbox is elsewhere.
    Moved,
    /// An administrator drains its node.
    NodeDrained,
    /// Its password is another one.
    Password,
}

/// All of them, each at the place that its code says.
const ENDINGS: [Ending; 8] = [
    Ending::Deleted,
    Ending::Disabled,
    Ending::FrontDrained,
    Ending::Held,
    Ending::Kicked,
    Ending::Moved,
    Ending::NodeDrained,
    Ending::Password,
];

/// The code of a session that nobody ends: one more than that of any [`Ending`].
const GOES_ON: u8 = 8;

/// The code of one that has ended by itself.
const GONE: u8 = 9;

/// Who has a session.
#[derive(Clone, Debug)]
pub struct Who {
    /// Its id.
    pub session: SessionId,
    /// Whose it is.
    pub account: AccountName,
    /// What the client speaks.
    pub protocol: Protocol,
    /// Where it came from.
    pub client: SocketAddr,
    /// Whether the client has TLS.
    pub has_tls: bool,
    /// The home.
    pub node: NodeName,
    /// When the password was right.
    pub since: Timestamp,
}

/// A session, as all see it that may end it.
#[derive(Debug)]
pub struct Seat {
    ending: AtomicU8,
    waker: Mutex<Option<Waker>>,
    who: OnceLock<Who>,
}

impl Ending {
    /// The word for metrics: what has changed, or what was ordered.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Disabled => "disabled",
            Self::FrontDrained | Self::NodeDrained => "drain",
            Self::Held => "hold",
            Self::Kicked => "kick",
            Self::Moved => "moved",
            Self::Password => "password",
        }
    }

    /// What becomes of the session.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Deleted | Self::Disabled | Self::Moved | Self::Password => Outcome::Revoked,
            Self::FrontDrained | Self::Held | Self::Kicked | Self::NodeDrained => Outcome::Kicked,
        }
    }

    /// `ENDINGS` has them in this order.
    const fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "the account is not in the directory any more",
            Self::Disabled => "the account may not log in any more",
            Self::FrontDrained => "this front is drained by an administrator",
            Self::Held => "the account is held by an administrator",
            Self::Kicked => "kicked by an administrator",
            Self::Moved => "the mailbox has moved",
            Self::NodeDrained => "the node is drained by an administrator",
            Self::Password => "the password was changed",
        })
    }
}

impl Default for Seat {
    fn default() -> Self {
        Self {
            ending: AtomicU8::new(GOES_ON),
            waker: Mutex::default(),
            who: OnceLock::new(),
        }
    }
}

impl Seat {
    /// Nobody sits here yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Ends the session; false if it has ended, or somebody else was first.
    pub fn end(&self, why: Ending) -> bool {
        let is_first = self.become_code(why.code());
        if is_first && let Some(waker) = self.waker().take() {
            waker.wake();
        }
        is_first
    }

    /// The session has ended by itself: nobody ends it any more.
    pub fn leave(&self) {
        self.become_code(GONE);
    }

    /// Why it may not go on; none as long as it may.
    pub fn why(&self) -> Option<Ending> {
        let code = self.ending.load(Acquire);
        ENDINGS.get(usize::from(code)).copied()
    }

    /// Ends when the session may not go on.
    pub async fn ended(&self) {
        poll_fn(|context| self.poll_ended(context)).await;
    }

    /// The same, for whoever waits for something else besides; the last one who asks is woken.
    pub fn poll_ended(&self, context: &Context<'_>) -> Poll<()> {
        {
            let mut waker = self.waker();
            let is_known = |waker: &Waker| waker.will_wake(context.waker());
            if !waker.as_ref().is_some_and(is_known) {
                *waker = Some(context.waker().clone());
            }
        }
        // After the waker is there, so that no end is missed.
        match self.why() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }

    /// Who sits here; none before the table knows.
    pub fn who(&self) -> Option<&Who> {
        self.who.get()
    }

    pub(super) fn sit_down(&self, who: Who) {
        // A seat is of one session, which sits down once.
        let _ = self.who.set(who);
    }

    fn become_code(&self, code: u8) -> bool {
        let changed = self.ending.compare_exchange(GOES_ON, code, AcqRel, Acquire);
        changed.is_ok()
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        // A panic cannot leave it half changed.
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_ending_has_a_code_of_its_own() {
        for (code, ending) in (0..).zip(ENDINGS) {
            assert_eq!(ending.code(), code);
            let seat = Seat::new();
            assert!(seat.end(ending));
            assert_eq!(seat.why(), Some(ending));
        }
        assert_eq!(usize::from(GOES_ON), ENDINGS.len());
        const { assert!(GONE > GOES_ON) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_who_ends_a_session_is_believed_and_wakes_it() {
        let seat = Seat::new();
        assert!(
            tokio::time::timeout(Duration::ZERO, seat.ended())
                .await
                .is_err()
        );
        let other = Arc::clone(&seat);
        let ended = tokio::time::timeout(Duration::from_secs(60), seat.ended());
        let (ended, is_first) = tokio::join!(ended, async { other.end(Ending::Held) });
        assert!(ended.is_ok() && is_first);
        assert!(!seat.end(Ending::Moved));
        seat.leave();
        assert_eq!(seat.why(), Some(Ending::Held));
    }

    #[test]
    fn whoever_has_left_is_not_ended() {
        let seat = Seat::new();
        seat.leave();
        assert!(!seat.end(Ending::Kicked));
        assert_eq!(seat.why(), None);
    }
}
