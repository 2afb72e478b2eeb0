//! How many sessions each account has on this node, over all kinds and protocols.
//!
//! ```text
//! reserve ──> SessionGuard ──┬── held by whoever relays; dropped at its end
//!                            └── give_away(guard, witness): kept here until the socket is dead
//! ```
//!
//! A sweep asks the kernel about all sockets that were given away; an account that is at its limit has its own asked at
//! once, so that a client which has just closed one session may open the next.
//!
//! It does not end sessions and knows nothing of other nodes. Limits: one entry per open session. Nothing here fails, except a
//! reservation above the limit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus::IntGaugeVec;

use super::witness::{Kernel, Witness};
use crate::names::{AccountName, Protocol};

/// The sessions of a node.
#[derive(Debug)]
pub(super) struct Sessions {
    open: Arc<Open>,
    given: Mutex<Vec<Given>>,
    kernel: Mutex<Kernel>,
}

/// One session of an account, counted until this is dropped.
#[derive(Debug)]
pub struct SessionGuard {
    open: Arc<Open>,
    account: AccountName,
    protocol: Protocol,
}

#[derive(Debug)]
struct Open {
    counts: Mutex<HashMap<AccountName, u32>>,
    gauge: IntGaugeVec,
}

/// A session whose socket was given away.
#[derive(Debug)]
struct Given {
    witness: Witness,
    session: SessionGuard,
}

// === impl Sessions ===

impl Sessions {
    /// None yet; `gauge` is `sessions_open{protocol}`.
    pub(super) fn new(gauge: IntGaugeVec) -> Self {
        Self {
            open: Arc::new(Open {
                counts: Mutex::default(),
                gauge,
            }),
            given: Mutex::default(),
            kernel: Mutex::new(Kernel::probe()),
        }
    }

    /// Counts one more session of `account`, unless it has `limit` already; 0: no limit.
    pub(super) fn reserve(
        &self,
        account: &AccountName,
        protocol: Protocol,
        limit: u32,
    ) -> Option<SessionGuard> {
        if !self.open.add(account, limit) {
            self.sweep(Some(account));
            if !self.open.add(account, limit) {
                return None;
            }
        }
        self.open
            .gauge
            .with_label_values(&[protocol.as_str()])
            .inc();
        Some(SessionGuard {
            open: Arc::clone(&self.open),
            account: account.clone(),
            protocol,
        })
    }

    /// Counts a session until its socket, which another process has now, is dead.
    pub(super) fn give_away(&self, session: SessionGuard, witness: Witness) {
        lock(&self.given).push(Given { witness, session });
    }

    /// Forgets sessions whose sockets are dead: of one account, or of all.
    pub(super) fn sweep(&self, account: Option<&AccountName>) {
        let asked: Vec<_> = lock(&self.given)
            .iter()
            .filter(|given| account.is_none_or(|account| given.session.account == *account))
            .map(|given| given.witness.clone())
            .collect();
        if asked.is_empty() {
            return;
        }
        let dead = lock(&self.kernel).dead(&asked);
        lock(&self.given).retain(|given| !dead.contains(&given.witness.cookie()));
    }

    /// Which accounts have how many sessions; accounts without one are not in it.
    pub(super) fn counts(&self) -> HashMap<AccountName, u32> {
        lock(&self.open.counts).clone()
    }
}

// === impl SessionGuard ===

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.open.remove(&self.account);
        self.open
            .gauge
            .with_label_values(&[self.protocol.as_str()])
            .dec();
    }
}

// === impl Open ===

impl Open {
    fn add(&self, account: &AccountName, limit: u32) -> bool {
        let mut counts = lock(&self.counts);
        let count = counts.get(account).copied().unwrap_or(0);
        if limit != 0 && count >= limit {
            return false;
        }
        counts.insert(account.clone(), count.saturating_add(1));
        true
    }

    fn remove(&self, account: &AccountName) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(account);
            }
        }
    }
}

/// A task that panicked while it counted has left the counts whole: every change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn sessions_count_until_dropped_or_dead() {
        let gauge = Metrics::new().unwrap().sessions_open;
        let sessions = Sessions::new(gauge.clone());
        let (ann, bea) = (
            AccountName::parse("ann").unwrap(),
            AccountName::parse("bea").unwrap(),
        );
        let open = || gauge.with_label_values(&["imap"]).get();

        let relayed = sessions.reserve(&ann, Protocol::Imap, 2).unwrap();
        let (socket, _peer) = UnixStream::pair().unwrap();
        let given = sessions.reserve(&ann, Protocol::Imap, 2).unwrap();
        sessions.give_away(given, Witness::unix(&socket).unwrap());
        assert!(sessions.reserve(&ann, Protocol::Imap, 2).is_none());
        let other = sessions.reserve(&bea, Protocol::Imap, 2).unwrap();
        assert_eq!(open(), 3);
        assert_eq!(
            sessions.counts(),
            HashMap::from([(ann.clone(), 2), (bea, 1)])
        );

        // At its limit, an account's dead sockets make room at once.
        drop(socket);
        let third = sessions.reserve(&ann, Protocol::Imap, 2).unwrap();
        assert!(sessions.reserve(&ann, Protocol::Imap, 2).is_none());
        drop(relayed);
        assert!(sessions.reserve(&ann, Protocol::Imap, 2).is_some());

        let (socket, _peer) = UnixStream::pair().unwrap();
        sessions.give_away(third, Witness::unix(&socket).unwrap());
        sessions.sweep(None);
        assert_eq!(sessions.counts().get(&ann), Some(&1));
        drop((socket, other));
        sessions.sweep(None);
        assert!(sessions.counts().is_empty());
        assert_eq!(open(), 0);
    }

    #[test]
    fn no_limit_is_none() {
        let sessions = Sessions::new(Metrics::new().unwrap().sessions_open);
        let ann = AccountName::parse("ann").unwrap();
        let many: Vec<_> = (0..100)
            .map(|_| sessions.reserve(&ann, Protocol::Imap, 0).unwrap())
            .collect();
        assert_eq!(sessions.counts().get(&ann), Some(&100));
        drop(many);
    }
}
