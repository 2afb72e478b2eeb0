//! How many sessions each account has on this node, over all kinds and protocols.
//!
//! ```text
//! reserve ──> SessionGuard ──┬── held by whoever relays, or looks after a process; dropped at its end
//!                            └── give_away(guard, witness): kept here until the socket is dead
//! ```
//!
//! A sweep asks the kernel about all sockets that were given away; an account that is at its limit has its own asked at
//! once, so that a client which has just closed one session may open the next. What can live on when this process ends is
//! also written down ([`super::journal`]), and counts again when it is back. Where another process may take this one's
//! place, all sessions are: those that go on here then count there, and are asked for like those that were given away.
//!
//! It does not end sessions and knows nothing of other nodes. Limits: one entry per open session. Nothing here fails, except a
//! reservation above the limit, and the start when the journal can't be used.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::IntGaugeVec;

use super::{
    journal::{Journal, JournalError, Record},
    witness::{Kernel, Witness},
};
use crate::{
    names::{AccountName, Protocol},
    tasks::Tasks,
};

/// How often dead sockets are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The sessions of a node.
#[derive(Debug)]
pub(super) struct Sessions {
    open: Arc<Open>,
    given: Mutex<Vec<Given>>,
    /// None when no session is given away, and none was.
    book: Option<Arc<Mutex<Book>>>,
    kernel: Mutex<Kernel>,
    /// Held while others' sessions are learned: who reserves meanwhile waits until they count.
    learning: Mutex<()>,
}

/// One session of an account, counted until this is dropped.
#[derive(Debug)]
pub struct SessionGuard {
    open: Arc<Open>,
    account: AccountName,
    protocol: Protocol,
    written: Option<Written>,
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

/// What is written down: the journal, and which of its lines are about living sessions.
#[derive(Debug)]
struct Book {
    journal: Journal,
    living: HashMap<u64, Record>,
}

/// A living session's entry, by the cookie of its socket.
#[derive(Debug)]
struct Written {
    book: Arc<Mutex<Book>>,
    cookie: u64,
}

// === impl Sessions ===

impl Sessions {
    /// Those that an earlier process has given away and that live on, as the journal has them; none without a journal.
    /// `gauge` is `sessions_open{protocol}`.
    /// `theirs` is the lock of the journal of a process whose place this one takes.
    pub(super) fn new(
        gauge: IntGaugeVec,
        journal: Option<&Path>,
        theirs: Option<OwnedFd>,
    ) -> Result<Self, JournalError> {
        let journal = journal.map(|path| Journal::open(path, theirs));
        let (journal, left) = match journal.transpose()? {
            Some((journal, left)) => (Some(journal), left),
            None => (None, Vec::new()),
        };
        let book = journal.map(|journal| {
            let living = HashMap::new();
            Arc::new(Mutex::new(Book { journal, living }))
        });
        let sessions = Self {
            open: Arc::new(Open {
                counts: Mutex::default(),
                gauge,
            }),
            given: Mutex::default(),
            book,
            kernel: Mutex::new(Kernel::probe()),
            learning: Mutex::default(),
        };
        for record in left {
            sessions.restore(record);
        }
        sessions.sweep(None);
        let living = lock(&sessions.given).len();
        if living > 0 {
            tracing::info!(sessions = living, "sessions of an earlier process live on");
        }
        Ok(sessions)
    }

    /// Counts a session that the journal has.
    fn restore(&self, record: Record) {
        // It is there, whatever the limit says now.
        let session = self.count(&record.account, record.protocol, 0);
        let (Some(mut session), Some(book)) = (session, &self.book) else {
            return;
        };
        let witness = record.witness.clone();
        session.written = Some(Written::new(book, record, false));
        lock(&self.given).push(Given { witness, session });
    }

    /// Counts one more session of `account`, unless it has `limit` already; 0: no limit. At the limit it asks the kernel,
    /// and may wait for a sweep that does: not for the event loop.
    pub(super) fn reserve(
        &self,
        account: &AccountName,
        protocol: Protocol,
        limit: u32,
    ) -> Option<SessionGuard> {
        self.try_reserve(account, protocol, limit).or_else(|| {
            self.sweep(Some(account));
            self.try_reserve(account, protocol, limit)
        })
    }

    /// The same without asking the kernel.
    pub(super) fn try_reserve(
        &self,
        account: &AccountName,
        protocol: Protocol,
        limit: u32,
    ) -> Option<SessionGuard> {
        self.catch_up();
        self.count(account, protocol, limit)
    }

    fn count(&self, account: &AccountName, protocol: Protocol, limit: u32) -> Option<SessionGuard> {
        if !self.open.add(account, limit) {
            return None;
        }
        self.open
            .gauge
            .with_label_values(&[protocol.as_str()])
            .inc();
        Some(SessionGuard {
            open: Arc::clone(&self.open),
            account: account.clone(),
            protocol,
            written: None,
        })
    }

    /// Whether sessions of `account` were given away, so that some may be over without our knowing.
    pub(super) fn has_given_away(&self, account: &AccountName) -> bool {
        lock(&self.given)
            .iter()
            .any(|given| given.session.account == *account)
    }

    /// Counts a session until its socket, which another process has now, is dead.
    pub(super) fn give_away(&self, mut session: SessionGuard, witness: Witness) {
        self.write_down(&mut session, witness.clone());
        lock(&self.given).push(Given { witness, session });
    }

    /// Has a session count in the next process too, unless its guard has gone before or its socket is dead by then.
    pub(super) fn write_down(&self, session: &mut SessionGuard, witness: Witness) {
        let Some(book) = &self.book else { return };
        let record = Record {
            witness,
            protocol: session.protocol,
            account: session.account.clone(),
        };
        session.written = Some(Written::new(book, record, true));
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

    /// Counts what the process before this one, or after it, has begun since.
    fn catch_up(&self) {
        self.learn(Journal::news);
    }

    fn learn(&self, news: fn(&mut Journal) -> Vec<Record>) {
        let Some(book) = &self.book else { return };
        let _one = lock(&self.learning);
        let news: Vec<_> = {
            let Book { journal, living } = &mut *lock(book);
            let mut news = news(journal);
            news.retain(|record| !living.contains_key(&record.witness.cookie()));
            news
        };
        // Most of a file's lines are about sessions that are over: none of those may count, not even for a moment.
        let asked: Vec<_> = news.iter().map(|record| record.witness.clone()).collect();
        if asked.is_empty() {
            return;
        }
        let dead = lock(&self.kernel).dead(&asked);
        let living = |record: &Record| !dead.contains(&record.witness.cookie());
        for record in news.into_iter().filter(living) {
            self.restore(record);
        }
    }

    /// What makes the journal this process's, for its successor.
    pub(super) fn lock(&self) -> io::Result<Option<OwnedFd>> {
        match &self.book {
            Some(book) => lock(book).journal.lock(),
            None => Ok(None),
        }
    }

    /// The successor has the journal now.
    pub(super) fn release(&self) {
        if let Some(book) = &self.book {
            lock(book).journal.release();
        }
    }

    /// Writes the journal anew if that is due and nobody else has it.
    pub(super) fn tidy(&self) {
        self.learn(Journal::last_news);
        if let Some(book) = &self.book {
            let Book { journal, living } = &mut *lock(book);
            journal.tidy(living.values());
        }
    }

    /// Which accounts have how many sessions; accounts without one are not in it.
    pub(super) fn counts(&self) -> HashMap<AccountName, u32> {
        lock(&self.open.counts).clone()
    }
}

// === impl Written ===

impl Written {
    /// Enters a session, which the journal has already unless `is_new`.
    fn new(book: &Arc<Mutex<Book>>, record: Record, is_new: bool) -> Self {
        let cookie = record.witness.cookie();
        let Book { journal, living } = &mut *lock(book);
        if is_new {
            journal.add(&record);
        }
        living.insert(cookie, record);
        Self {
            book: Arc::clone(book),
            cookie,
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        lock(&self.book).living.remove(&self.cookie);
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

/// Looks for dead sockets, for as long as the process runs; lets go of the journal when it has been replaced.
pub(super) async fn look_after(sessions: Arc<Sessions>, tasks: Tasks) {
    let mut replaced = pin!(tasks.replaced());
    let mut is_replaced = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
            () = &mut replaced, if !is_replaced => {
                is_replaced = true;
                sessions.release();
            }
        }
        let sessions = Arc::clone(&sessions);
        // It panics only if we do; the guard of that task has said so.
        let _ = tokio::task::spawn_blocking(move || {
            sessions.catch_up();
            sessions.sweep(None);
            sessions.tidy();
        })
        .await;
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
    use crate::{handover::tests::soon, metrics::Metrics};

    fn sessions(gauge: &IntGaugeVec) -> Sessions {
        Sessions::new(gauge.clone(), None, None).unwrap()
    }

    fn nobody_is_left(sessions: &Sessions) {
        soon("nobody is left", || {
            sessions.sweep(None);
            sessions.counts().is_empty().then_some(())
        });
    }

    #[test]
    fn sessions_count_until_dropped_or_dead() {
        let gauge = Metrics::new().unwrap().sessions_open;
        let sessions = sessions(&gauge);
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
        let third = soon("there is room", || {
            sessions.reserve(&ann, Protocol::Imap, 2)
        });
        assert!(sessions.reserve(&ann, Protocol::Imap, 2).is_none());
        drop(relayed);
        assert!(sessions.reserve(&ann, Protocol::Imap, 2).is_some());

        let (socket, _peer) = UnixStream::pair().unwrap();
        sessions.give_away(third, Witness::unix(&socket).unwrap());
        sessions.sweep(None);
        assert_eq!(sessions.counts().get(&ann), Some(&1));
        drop((socket, other));
        nobody_is_left(&sessions);
        assert_eq!(open(), 0);
    }

    #[test]
    fn what_was_given_away_counts_again_in_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        let gauge = Metrics::new().unwrap().sessions_open;
        let (ann, bea) = (
            AccountName::parse("ann").unwrap(),
            AccountName::parse("bea").unwrap(),
        );
        let sockets = [(); 3].map(|()| UnixStream::pair().unwrap());
        let first = Sessions::new(gauge.clone(), Some(&path), None).unwrap();
        for (account, (socket, _)) in [&ann, &ann, &bea].into_iter().zip(&sockets) {
            let session = first.reserve(account, Protocol::Pop3, 2).unwrap();
            first.give_away(session, Witness::unix(socket).unwrap());
        }
        // One that is relayed ends with the process.
        let relayed = first.reserve(&bea, Protocol::Imap, 2).unwrap();
        drop((first, relayed));

        let [ended, lives, bea_lives] = sockets;
        drop(ended);
        let second = soon("the journal is free", || {
            Sessions::new(gauge.clone(), Some(&path), None).ok()
        });
        let expected = HashMap::from([(ann.clone(), 1), (bea, 1)]);
        soon("the socket that ended is dead", || {
            second.sweep(None);
            (second.counts() == expected).then_some(())
        });
        assert!(second.reserve(&ann, Protocol::Imap, 1).is_none());
        drop(lives);
        soon("there is room", || second.reserve(&ann, Protocol::Imap, 1));
        drop(bea_lives);
        nobody_is_left(&second);
    }

    #[test]
    fn sessions_of_a_process_that_was_replaced_count_in_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        let gauge = || Metrics::new().unwrap().sessions_open;
        let ann = AccountName::parse("ann").unwrap();
        let old = Sessions::new(gauge(), Some(&path), None).unwrap();
        let begin = || {
            let (socket, peer) = UnixStream::pair().unwrap();
            let mut session = old.reserve(&ann, Protocol::Imap, 0).unwrap();
            old.write_down(&mut session, Witness::unix(&socket).unwrap());
            (session, socket, peer)
        };
        let before = begin();
        let lock = old.lock().unwrap();
        let new = Sessions::new(gauge(), Some(&path), lock).unwrap();
        assert_eq!(new.counts().get(&ann), Some(&1));
        old.release();
        let after = begin();
        new.catch_up();
        assert_eq!(new.counts().get(&ann), Some(&2));
        // Its own it has counted already.
        let (socket, _peer) = UnixStream::pair().unwrap();
        let mut own = new.reserve(&ann, Protocol::Imap, 3).unwrap();
        new.write_down(&mut own, Witness::unix(&socket).unwrap());
        new.catch_up();
        assert_eq!(new.counts().get(&ann), Some(&3));
        drop((before, after, own, old));
        nobody_is_left(&new);
    }

    /// However many of them the file has, nobody is at his limit for them while they are read.
    #[test]
    fn what_is_over_does_not_count_while_it_is_learned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        let gauge = || Metrics::new().unwrap().sessions_open;
        let ann = AccountName::parse("ann").unwrap();
        let old = Sessions::new(gauge(), Some(&path), None).unwrap();
        let new = Sessions::new(gauge(), Some(&path), old.lock().unwrap()).unwrap();
        old.release();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    new.catch_up();
                }
            });
            for _ in 0..300 {
                let (socket, _peer) = UnixStream::pair().unwrap();
                let mut session = old.count(&ann, Protocol::Imap, 0).unwrap();
                old.write_down(&mut session, Witness::unix(&socket).unwrap());
                drop((socket, session));
            }
            for _ in 0..300 {
                let one = new.reserve(&ann, Protocol::Imap, 1);
                assert!(one.is_some(), "{:?}", new.counts());
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn no_limit_is_none() {
        let sessions = sessions(&Metrics::new().unwrap().sessions_open);
        let ann = AccountName::parse("ann").unwrap();
        let many: Vec<_> = (0..100)
            .map(|_| sessions.reserve(&ann, Protocol::Imap, 0).unwrap())
            .collect();
        assert_eq!(sessions.counts().get(&ann), Some(&100));
        drop(many);
    }
}
