//! Changes in the directory as they happen: what is kept of an account that changed is not believed any more, and its
//! sessions end.
//!
//! ```text
//! follower: entry is now so, entry is gone ──> heard ── differs from what a session began with ──> the session is revoked
//!                                                └──── differs from what the cache keeps ───────> the directory is asked again
//! ```
//!
//! Only what is in use is compared (`facts`): the account, what its entry is found by, its stored password or when that was
//! changed. So entries that change at every login (last login, failed tries) change nothing here.
//!
//! What is heard and what is asked may come from two servers, of which one lags behind. An answer that differs from what was
//! heard is used and not believed longer, for [`LAG`] after the change; a later answer is the newer one. Whoever was let in by
//! such an answer is judged again after that time.
//!
//! A session is revoked when its account is gone or may not log in like this any more, when its mailbox is elsewhere (node,
//! folder, uid, gid or the account's own name), or when its password is another one, where that can be seen. "Not now" revokes
//! nothing: some directories say so after too many wrong passwords, which anybody can type. Nor does an entry that became
//! unreadable: a slip in one attribute must not end sessions.
//!
//! After a refresh, entries of sessions that were not named are gone, unless those are too many to be believed ([`Refresh`]): a
//! directory that shows us little does not mean that everybody was deleted. What is said of one entry, that it is gone, is always
//! believed.
//!
//! Limits: what was heard is remembered of entries that the cache has learned of, for as long as it may keep them, and of all
//! others for [`RECENT`]. It does no I/O.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use moka::policy::EvictionPolicy;
use prometheus::IntCounterVec;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{
    CacheSettings, Found, Status, Visit,
    facts::{EntryId, Now, Parts},
};
use crate::{metrics::Metrics, names::NodeName, tasks::Tasks};

/// How much later than a change a server that lags behind may still answer with what was before.
pub(super) const LAG: Duration = Duration::from_secs(5);

/// How long it is remembered what was heard of entries that nobody has asked for: an answer may be on its way.
const RECENT: Duration = Duration::from_secs(15);

/// So many accounts in use that are not named after a refresh are believed to be gone, if they are not half of all.
const FEW: usize = 20;

/// Which node the value of a home attribute means, or that there is none; none for no node.
pub type Homes = Box<dyn Fn(Option<&str>) -> Option<NodeName> + Send + Sync>;

/// What was heard of an entry.
#[derive(Clone, Debug)]
struct Heard {
    now: Now,
    /// Below which base.
    base: usize,
    at: Instant,
}

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

/// What becomes of sessions that are revoked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sessions {
    /// They end, each account's at a random time within so long.
    End(Duration),
    /// They go on.
    Leave,
}

/// What was heard, and the sessions that it may concern.
pub(super) struct Live {
    /// Entries that the cache may keep.
    known: moka::sync::Cache<EntryId, ()>,
    /// What was heard of those.
    heard: moka::sync::Cache<EntryId, Heard>,
    /// What was heard of all.
    recent: moka::sync::Cache<EntryId, Heard>,
    sessions: Sessions,
    seats: Mutex<HashMap<EntryId, Seats>>,
    changes: IntCounterVec,
    revoked: IntCounterVec,
    /// By base, when all that was learned before was taken for out of date, in milliseconds since `started`.
    outdated: Box<[AtomicU64]>,
    started: Instant,
    homes: OnceLock<Homes>,
    /// Whether entries are in use that do not show their UUIDs.
    is_nameless: AtomicBool,
    tasks: Tasks,
}

/// The sessions of an entry.
#[derive(Default)]
struct Seats {
    all: Vec<Seat>,
    /// What they will be judged by in a while.
    pending: Option<(usize, Now)>,
}

/// A session.
struct Seat {
    base: usize,
    parts: Parts,
    home_node: Option<Box<str>>,
    visit: Visit,
    revoke: oneshot::Sender<Revoked>,
}

/// A session's ear for changes of its account; dropping it leaves.
#[derive(Default)]
pub struct Watch(Option<Listening>);

struct Listening {
    entry: EntryId,
    live: Arc<Live>,
    revoked: oneshot::Receiver<Revoked>,
    /// Once it has been heard.
    why: Option<Revoked>,
}

/// What is known of a refresh while it goes on: entries of sessions when it began, which those are that were not named since, and
/// whether anybody was.
///
/// Whoever is missing at its end is gone, if somebody was named and the missing are few: one, or not more than half of all
/// who have sessions, and then [`FEW`] or a twentieth of them.
pub(super) struct Refresh {
    base: usize,
    all: usize,
    suspects: HashSet<EntryId>,
    has_named: bool,
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

// === impl Live ===

impl Live {
    /// Nothing was heard yet.
    pub(super) fn new(
        cache: CacheSettings,
        sessions: Sessions,
        bases: usize,
        metrics: &Metrics,
        tasks: Tasks,
    ) -> Arc<Self> {
        let oldest = cache.ttl.saturating_add(cache.max_stale).max(RECENT);
        // The cache has two tables with so many.
        let entries = cache.entries.saturating_mul(2).max(1000);
        Arc::new(Self {
            known: moka::sync::Cache::builder()
                .max_capacity(entries)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(oldest)
                .build(),
            heard: moka::sync::Cache::builder()
                .max_capacity(entries)
                // What is new counts, however rarely it is asked for.
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(oldest)
                .build(),
            recent: moka::sync::Cache::builder()
                .max_capacity(entries)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(RECENT)
                .build(),
            sessions,
            seats: Mutex::default(),
            changes: metrics.directory_changes.clone(),
            revoked: metrics.sessions_revoked.clone(),
            outdated: (0..bases).map(|_| AtomicU64::new(0)).collect(),
            started: Instant::now(),
            homes: OnceLock::new(),
            is_nameless: AtomicBool::new(false),
            tasks,
        })
    }

    /// Two values of a home attribute may mean the same node: says which.
    pub(super) fn know_homes(&self, homes: Homes) {
        // Whoever was first has said the same.
        let _ = self.homes.set(homes);
    }

    /// The cache may keep it from now on, so that what is heard of it is remembered.
    pub(super) fn learned(&self, found: &Found) {
        let entry = found.facts.entry;
        if matches!(entry, EntryId::Name(_)) {
            self.is_nameless.store(true, Relaxed);
        }
        self.known.insert(entry, ());
        // It came while the answer was on its way.
        if let Some(heard) = self.recent.get(&entry) {
            self.heard.insert(entry, heard);
        }
    }

    fn latest(&self, entry: &EntryId) -> Option<Heard> {
        self.recent.get(entry).or_else(|| self.heard.get(entry))
    }

    /// Whether something else was heard since that was learned.
    pub(super) fn contradicts(&self, found: &Found) -> bool {
        let Some(heard) = self.latest(&found.facts.entry) else {
            return false;
        };
        let differs = match &heard.now {
            Now::Gone => heard.base == found.base,
            Now::Unreadable => true,
            Now::Is(now) => !now.facts.is_same(&found.facts),
        };
        differs && found.learned < heard.at + LAG
    }

    /// Whether it was learned before a time of which nobody knows what changed.
    pub(super) fn is_outdated(&self, found: &Found) -> bool {
        let since = self.outdated.get(found.base);
        let since = since.map_or(0, |since| since.load(Relaxed));
        self.started + Duration::from_millis(since) > found.learned
    }

    /// What was learned below a base until now may have changed unheard.
    pub(super) fn outdate(&self, base: usize) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(since) = self.outdated.get(base) {
            since.store(now, Relaxed);
        }
    }

    /// Listens for changes of an account, on behalf of a session.
    pub(super) fn watch(self: &Arc<Self>, found: &Found, visit: Visit) -> Watch {
        if self.sessions == Sessions::Leave {
            return Watch::default();
        }
        let entry = found.facts.entry;
        let (revoke, revoked) = oneshot::channel();
        let seat = Seat {
            base: found.base,
            parts: found.facts.parts,
            home_node: found.account.home_node.as_deref().map(Box::from),
            visit,
            revoke,
        };
        let mut all = self.lock();
        let seats = &mut all.entry(entry).or_default().all;
        // Most have one session or a few: room for four would be for nothing.
        seats.reserve_exact(1);
        seats.push(seat);
        drop(all);
        Watch(Some(Listening {
            entry,
            live: Arc::clone(self),
            revoked,
            why: None,
        }))
    }

    /// Runs something a little later, when a server that lags behind has caught up.
    pub(super) fn after_lag(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.background("second look", async move {
            sleep(LAG).await;
            task.await;
        });
    }

    /// An entry below a base is now so.
    pub(super) fn hear(self: &Arc<Self>, base: usize, entry: EntryId, now: Now) {
        let before = self.latest(&entry);
        let is_same = match (before.as_ref().map(|heard| &heard.now), &now) {
            (Some(Now::Is(before)), Now::Is(now)) => before.facts.is_same(&now.facts),
            _ => false,
        };
        let word = match &now {
            Now::Gone => "gone",
            Now::Unreadable => "unreadable",
            Now::Is(_) if is_same => "same",
            Now::Is(_) => "heard",
        };
        self.changes.with_label_values(&[word]).inc();
        if !is_same {
            let heard = Heard {
                now: now.clone(),
                base,
                at: Instant::now(),
            };
            // Before the sessions are looked at: one that begins now looks at this after it has sat down.
            if self.known.contains_key(&entry) {
                self.heard.insert(entry, heard.clone());
            }
            self.recent.insert(entry, heard);
        }
        // They may have begun on something else than was heard last.
        self.judge_all(base, entry, now);
    }

    /// Whether what becomes of an entry may concern anybody now. One without a UUID of ours to see may be any.
    pub(super) fn may_concern(&self, entry: EntryId) -> bool {
        self.is_nameless.load(Relaxed)
            || self.known.contains_key(&entry)
            || self.lock().contains_key(&entry)
    }

    /// Judges the sessions of an entry, at once or in a while.
    pub(super) fn judge_all(self: &Arc<Self>, base: usize, entry: EntryId, now: Now) {
        let (Sessions::End(within), false) = (self.sessions, matches!(now, Now::Unreadable)) else {
            return;
        };
        let mut all = self.lock();
        let Some(seats) = all.get_mut(&entry) else {
            return;
        };
        if seats.pending.is_some() {
            seats.pending = Some((base, now));
            return;
        }
        let mut seated = seats.all.iter();
        if !seated.any(|seat| self.judge(seat, base, &now).is_some()) {
            return;
        }
        if within.is_zero() {
            self.revoke(&mut all, entry, base, &now);
            return;
        }
        seats.pending = Some((base, now));
        drop(all);
        let live = Arc::clone(self);
        self.tasks.background("revocation", async move {
            let part = getrandom::u32().unwrap_or_default();
            sleep(within.mul_f64(f64::from(part) / f64::from(u32::MAX))).await;
            let mut all = live.lock();
            // None where all sessions have ended meanwhile.
            let pending = all.get_mut(&entry).and_then(|seats| seats.pending.take());
            if let Some((base, now)) = pending {
                live.revoke(&mut all, entry, base, &now);
            }
        });
    }

    /// Tells the sessions that may not go on.
    fn revoke(&self, all: &mut HashMap<EntryId, Seats>, entry: EntryId, base: usize, now: &Now) {
        let Some(seats) = all.remove(&entry) else {
            return;
        };
        let mut left = Vec::new();
        for seat in seats.all {
            match self.judge(&seat, base, now) {
                None => left.push(seat),
                Some(why) => {
                    if seat.revoke.send(why).is_ok() {
                        self.revoked.with_label_values(&[why.as_str()]).inc();
                    }
                }
            }
        }
        if !left.is_empty() {
            let (all_left, pending) = (left, None);
            all.insert(
                entry,
                Seats {
                    all: all_left,
                    pending,
                },
            );
        }
    }

    /// Why a session may not go on, if so.
    fn judge(&self, seat: &Seat, base: usize, now: &Now) -> Option<Revoked> {
        let now = match now {
            Now::Gone => return (seat.base == base).then_some(Revoked::Deleted),
            Now::Unreadable => return None,
            Now::Is(now) => now,
        };
        let mut access = now.access.iter();
        let is_barred = access.any(|access| access.check(seat.visit).is_err());
        if now.login == Status::Refused || is_barred {
            return Some(Revoked::Disabled);
        }
        let (before, after) = (seat.home_node.as_deref(), now.home_node.as_deref());
        if seat.parts.has_moved(&now.facts.parts) || self.is_another_node(before, after) {
            return Some(Revoked::Moved);
        }
        let is_another = seat.parts.has_other_password(&now.facts.parts);
        is_another.then_some(Revoked::Password)
    }

    /// Whether a session at one home would now be at another one. A value that is not shown any more, or that means no node, is
    /// more likely a slip than a move.
    fn is_another_node(&self, before: Option<&str>, now: Option<&str>) -> bool {
        let Some(word) = now else {
            return false;
        };
        if before.is_some_and(|before| before.eq_ignore_ascii_case(word)) {
            return false;
        }
        match self.homes.get() {
            None => true,
            Some(homes) => homes(now).is_some_and(|node| homes(before) != Some(node)),
        }
    }

    /// A refresh of a base begins.
    pub(super) fn refresh(&self, base: usize) -> Refresh {
        let mut suspects: HashSet<_> = self.watched(base).into_iter().collect();
        suspects.retain(|entry| matches!(entry, EntryId::Uuid(_)));
        Refresh {
            base,
            all: suspects.len(),
            suspects,
            has_named: false,
        }
    }

    /// A refresh has named everybody who is there.
    pub(super) fn conclude(self: &Arc<Self>, refresh: Refresh) {
        let (base, missing) = (refresh.base, refresh.suspects.len());
        if missing == 0 {
            return;
        }
        if !refresh.is_believed() {
            let of = refresh.all;
            tracing::warn!(
                base,
                missing,
                of,
                "so many accounts with sessions are not in the directory any more, which is not believed: they go on"
            );
            return;
        }
        tracing::info!(
            base,
            missing,
            "accounts with sessions are not in the directory any more"
        );
        for entry in refresh.suspects {
            self.hear(base, entry, Now::Gone);
        }
    }

    /// The entries of sessions, below one of the bases.
    pub(super) fn watched(&self, base: usize) -> Vec<EntryId> {
        let seats = self.lock();
        let is_below = |seats: &&Seats| seats.all.iter().any(|seat| seat.base == base);
        let watched = seats.iter().filter(|(_, seats)| is_below(seats));
        watched.map(|(entry, _)| *entry).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EntryId, Seats>> {
        // A panic cannot leave it half changed.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Refresh ===

impl Refresh {
    /// It is there.
    pub(super) fn name(&mut self, entry: EntryId) {
        self.has_named = true;
        self.suspects.remove(&entry);
    }

    /// Somebody is there.
    pub(super) fn name_somebody(&mut self) {
        self.has_named = true;
    }

    /// Who was not named so far.
    pub(super) fn suspects(&self) -> impl Iterator<Item = EntryId> {
        self.suspects.iter().copied()
    }

    /// Whether anybody was named.
    pub(super) fn has_named(&self) -> bool {
        self.has_named
    }

    fn is_believed(&self) -> bool {
        let missing = self.suspects.len();
        let are_few = missing <= 1 || missing * 2 <= self.all && missing <= FEW.max(self.all / 20);
        self.has_named && are_few
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
        let mut seats = self.live.lock();
        if let Some(here) = seats.get_mut(&self.entry) {
            here.all.retain(|seat| !seat.revoke.is_closed());
            if here.all.is_empty() {
                seats.remove(&self.entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        directory::{
            Access, Account,
            facts::{Facts, Shown},
        },
        names::{AccountName, Protocol},
        secret::Secret,
    };

    const UUID: EntryId = EntryId::Uuid([7; 16]);
    const VISIT: Visit = Visit {
        protocol: Protocol::Imap,
        client: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    };

    fn live(sessions: Sessions) -> Arc<Live> {
        let metrics = Metrics::new().unwrap();
        Live::new(
            CacheSettings::default(),
            sessions,
            1,
            &metrics,
            Tasks::new(),
        )
    }

    fn account() -> Account {
        Account {
            name: AccountName::parse("ann").unwrap(),
            home_node: Some("node1".to_owned()),
            uid: 1,
            gid: 1,
            home: "ann".to_owned(),
            quota: None,
            login: Status::Allowed,
            delivery: Status::Allowed,
            access: Access::default(),
        }
    }

    /// An entry with this account and these passwords, as the directory has just said.
    fn found(account: Account, passwords: &[&[u8]]) -> Found {
        showing(account, Shown::ALL, passwords)
    }

    fn showing(account: Account, shown: Shown, passwords: &[&[u8]]) -> Found {
        let secrets = passwords.iter().map(|octets| Secret::new(octets.to_vec()));
        let secrets: Vec<_> = secrets.collect();
        let names = vec![b"uid=ann".to_vec()];
        Found {
            facts: Facts::new(UUID, &account, shown, names, [&secrets, &[]]),
            account: Arc::new(account),
            id: "uid=ann".to_owned(),
            passwords: Vec::new(),
            server: 0,
            base: 0,
            learned: Instant::now(),
        }
    }

    fn usual() -> Found {
        found(account(), &[b"1"])
    }

    /// Another account than the usual one.
    fn but(change: impl FnOnce(&mut Account)) -> Found {
        let mut account = account();
        change(&mut account);
        found(account, &[b"1"])
    }

    async fn verdict(watch: &mut Watch) -> Option<Revoked> {
        // What was sent is there at once.
        let _ = tokio::time::timeout(Duration::ZERO, watch.revoked()).await;
        watch.why()
    }

    #[tokio::test]
    async fn a_session_is_judged_by_what_concerns_it() {
        let protocols = |words: &str| Some(Access::read_protocols([words].into_iter()));
        for (now, expected) in [
            (usual(), None),
            (but(|account| account.quota = Some(1)), None),
            (but(|account| account.delivery = Status::Refused), None),
            (but(|account| account.login = Status::TryLater), None),
            (
                but(|account| account.home_node = Some("NODE1".to_owned())),
                None,
            ),
            // Not shown any more.
            (but(|account| account.home_node = None), None),
            (found(account(), &[]), None),
            (
                but(|account| account.access.protocols = protocols("imap")),
                None,
            ),
            (
                but(|account| account.access.protocols = protocols("pop3")),
                Some(Revoked::Disabled),
            ),
            (
                but(|account| account.login = Status::Refused),
                Some(Revoked::Disabled),
            ),
            (
                but(|account| account.home_node = Some("node2".to_owned())),
                Some(Revoked::Moved),
            ),
            (
                but(|account| account.home = "ann2".to_owned()),
                Some(Revoked::Moved),
            ),
            (but(|account| account.uid = 2), Some(Revoked::Moved)),
            (but(|account| account.gid = 2), Some(Revoked::Moved)),
            (found(account(), &[b"2"]), Some(Revoked::Password)),
            (found(account(), &[b"1", b"2"]), Some(Revoked::Password)),
        ] {
            let live = live(Sessions::End(Duration::ZERO));
            let mut watch = live.watch(&usual(), VISIT);
            live.hear(0, UUID, Now::of(&now));
            assert_eq!(verdict(&mut watch).await, expected, "{:?}", now.account);
        }
        for (now, expected) in [(Now::Gone, Some(Revoked::Deleted)), (Now::Unreadable, None)] {
            let live = live(Sessions::End(Duration::ZERO));
            let mut watch = live.watch(&usual(), VISIT);
            live.hear(0, UUID, now);
            assert_eq!(verdict(&mut watch).await, expected);
        }
    }

    #[tokio::test]
    async fn what_is_hidden_from_us_moves_nobody() {
        type Hide = fn(&mut Shown);
        let hides: [Hide; 4] = [
            |shown| shown.name = false,
            |shown| shown.home = false,
            |shown| shown.uid = false,
            |shown| shown.gid = false,
        ];
        for hide in hides {
            let mut shown = Shown::ALL;
            hide(&mut shown);
            // By its default.
            let other = || {
                let mut account = account();
                account.name = AccountName::parse("anna").unwrap();
                (account.home, account.uid, account.gid) = ("anna".to_owned(), 5000, 5000);
                account
            };
            let live = live(Sessions::End(Duration::ZERO));
            let mut watch = live.watch(&usual(), VISIT);
            let all_hidden = Shown {
                name: false,
                home: false,
                uid: false,
                gid: false,
            };
            live.hear(0, UUID, Now::of(&showing(other(), all_hidden, &[b"1"])));
            assert_eq!(verdict(&mut watch).await, None);
            live.hear(0, UUID, Now::of(&showing(other(), shown, &[b"1"])));
            assert_eq!(verdict(&mut watch).await, Some(Revoked::Moved), "{shown:?}");
        }
    }

    #[tokio::test]
    async fn what_was_said_before_is_said_to_later_sessions_too() {
        let live = live(Sessions::End(Duration::ZERO));
        let disabled = but(|account| account.login = Status::Refused);
        live.hear(0, UUID, Now::of(&disabled));
        // Let in by a server that lags behind.
        let mut watch = live.watch(&usual(), VISIT);
        live.hear(0, UUID, Now::of(&disabled));
        assert_eq!(verdict(&mut watch).await, Some(Revoked::Disabled));
    }

    #[tokio::test]
    async fn gone_from_one_base_is_not_gone_from_another() {
        let live = live(Sessions::End(Duration::ZERO));
        let found = usual();
        let mut watch = live.watch(&found, VISIT);
        live.hear(1, UUID, Now::Gone);
        assert_eq!(verdict(&mut watch).await, None);
        assert!(!live.contradicts(&found));
        live.hear(0, UUID, Now::Gone);
        assert_eq!(verdict(&mut watch).await, Some(Revoked::Deleted));
        assert!(live.contradicts(&found));
    }

    #[tokio::test]
    async fn what_is_in_use_is_not_driven_out_by_what_is_not() {
        let live = live(Sessions::Leave);
        let found = usual();
        live.learned(&found);
        live.hear(0, UUID, Now::Gone);
        for number in 0..300_000u32 {
            let [a, b, c, d] = number.to_be_bytes();
            let other = EntryId::Uuid([a, b, c, d, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
            live.hear(0, other, Now::Unreadable);
        }
        live.recent.run_pending_tasks();
        live.heard.run_pending_tasks();
        assert!(live.contradicts(&found));
        assert!(live.recent.entry_count() <= 200_000);
        // What was heard while an answer was on its way is kept for it.
        let mut late = usual();
        late.facts.entry = EntryId::Uuid([3; 16]);
        live.hear(0, late.facts.entry, Now::Gone);
        live.learned(&late);
        live.recent.invalidate(&late.facts.entry);
        assert!(live.contradicts(&late));
    }

    #[tokio::test]
    async fn so_many_who_are_missing_are_not_believed() {
        let entry = |number: u16| {
            let [high, low] = number.to_be_bytes();
            EntryId::Uuid([high, low, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
        };
        for (all, missing, is_believed) in [
            (1, 1, true),
            (2, 1, true),
            (2, 2, false),
            (10, 5, true),
            (10, 6, false),
            (1000, 50, true),
            (1000, 51, false),
        ] {
            let live = live(Sessions::End(Duration::ZERO));
            let mut watches = Vec::new();
            for number in 0..all {
                let mut found = usual();
                found.facts.entry = entry(number);
                watches.push(live.watch(&found, VISIT));
            }
            let mut refresh = live.refresh(0);
            refresh.name(UUID);
            for number in missing..all {
                refresh.name(entry(number));
            }
            live.conclude(refresh);
            let mut ended = 0;
            for watch in &mut watches {
                ended += u16::from(verdict(watch).await.is_some());
            }
            assert_eq!(
                ended,
                if is_believed { missing } else { 0 },
                "{missing} of {all}"
            );
        }
    }

    #[tokio::test]
    async fn another_word_for_the_same_node_is_no_move() {
        let node = |name: &str| Some(NodeName::parse(name).unwrap());
        let live = live(Sessions::End(Duration::ZERO));
        live.know_homes(Box::new(move |word| match word {
            None | Some("node1" | "mail1.example.org") => node("node1"),
            Some("node2") => node("node2"),
            Some(_) => None,
        }));
        let at = |word: Option<&str>| but(|account| account.home_node = word.map(str::to_owned));
        for before in [None, Some("node1"), Some("mail1.example.org")] {
            let mut watch = live.watch(&at(before), VISIT);
            for same in [
                None,
                Some("mail1.example.org"),
                Some("node1"),
                Some("slip of a pen"),
            ] {
                live.hear(0, UUID, Now::of(&at(same)));
                assert_eq!(verdict(&mut watch).await, None, "{before:?} {same:?}");
            }
            live.hear(0, UUID, Now::of(&at(Some("node2"))));
            assert_eq!(
                verdict(&mut watch).await,
                Some(Revoked::Moved),
                "{before:?}"
            );
        }
    }

    #[tokio::test]
    async fn values_in_another_order_are_the_same() {
        let ordered = |names: [&str; 2], passwords: [&[u8]; 2]| {
            let names = names.map(|name| name.as_bytes().to_vec()).to_vec();
            let passwords = passwords.map(|octets| Secret::new(octets.to_vec()));
            Facts::new(UUID, &account(), Shown::ALL, names, [&passwords, &[]])
        };
        let facts = ordered(["mail=a", "mail=b"], [b"1", b"2"]);
        assert!(facts.is_same(&ordered(["mail=b", "mail=a"], [b"2", b"1"])));
        assert!(!facts.is_same(&ordered(["mail=a", "mail=c"], [b"1", b"2"])));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_learned_before_a_change_or_right_after_it_is_doubted() {
        let live = live(Sessions::Leave);
        let (old, new) = (usual(), but(|account| account.uid = 2));
        assert!(!live.contradicts(&old));
        sleep(Duration::from_secs(10)).await;
        live.hear(0, UUID, Now::of(&new));
        assert!(live.contradicts(&old));
        assert!(!live.contradicts(&new));
        // From a server that lags behind.
        sleep(LAG / 2).await;
        assert!(live.contradicts(&usual()));
        // It was changed back, and we have not heard of it.
        sleep(LAG).await;
        assert!(!live.contradicts(&usual()));
        assert!(live.contradicts(&old));
        for now in [Now::Gone, Now::Unreadable] {
            live.hear(0, UUID, now);
            assert!(live.contradicts(&new));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_learned_before_nobody_knows_what_is_out_of_date() {
        let live = live(Sessions::Leave);
        let old = usual();
        assert!(!live.is_outdated(&old));
        sleep(Duration::from_secs(1)).await;
        live.outdate(0);
        assert!(live.is_outdated(&old));
        assert!(!live.is_outdated(&usual()));
    }

    #[tokio::test]
    async fn who_is_not_named_is_gone_unless_nobody_is() {
        let live = live(Sessions::End(Duration::ZERO));
        let mut watch = live.watch(&usual(), VISIT);
        live.conclude(live.refresh(0));
        assert_eq!(verdict(&mut watch).await, None);
        // Of another base.
        let mut refresh = live.refresh(1);
        refresh.name(EntryId::Uuid([8; 16]));
        live.conclude(refresh);
        assert_eq!(verdict(&mut watch).await, None);
        let mut refresh = live.refresh(0);
        refresh.name(UUID);
        // One that came while it went on.
        let mut later = usual();
        later.facts.entry = EntryId::Uuid([9; 16]);
        let mut late = live.watch(&later, VISIT);
        live.conclude(refresh);
        assert_eq!(verdict(&mut watch).await, None);
        let mut refresh = live.refresh(0);
        refresh.name(EntryId::Uuid([9; 16]));
        live.conclude(refresh);
        assert_eq!(verdict(&mut watch).await, Some(Revoked::Deleted));
        assert_eq!(verdict(&mut late).await, None);
    }

    #[tokio::test]
    async fn an_entry_without_a_uuid_is_never_missed() {
        let live = live(Sessions::End(Duration::ZERO));
        let mut nameless = usual();
        nameless.facts.entry = EntryId::of_name("uid=ann");
        let mut watch = live.watch(&nameless, VISIT);
        let mut refresh = live.refresh(0);
        refresh.name(UUID);
        live.conclude(refresh);
        assert_eq!(verdict(&mut watch).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_are_spread_and_a_change_that_is_taken_back_ends_nothing() {
        let within = Duration::from_secs(60);
        let live = live(Sessions::End(within));
        let mut watches: Vec<_> = (0..100u8)
            .map(|number| {
                let mut found = usual();
                found.facts.entry = EntryId::Uuid([number; 16]);
                (number, live.watch(&found, VISIT))
            })
            .collect();
        for (number, _) in &watches {
            live.hear(0, EntryId::Uuid([*number; 16]), Now::Gone);
        }
        // The first changes its mind.
        live.hear(0, EntryId::Uuid([0; 16]), Now::of(&usual()));
        sleep(within / 2).await;
        let mut ended = 0;
        for (_, watch) in &mut watches {
            ended += u8::from(verdict(watch).await.is_some());
        }
        assert!(
            (20..80).contains(&ended),
            "{ended} of 100 after half of the time"
        );
        sleep(within).await;
        for (number, watch) in &mut watches {
            let expected = (*number != 0).then_some(Revoked::Deleted);
            assert_eq!(verdict(watch).await, expected, "{number}");
        }
    }

    #[tokio::test]
    async fn nothing_is_left_of_sessions_that_ended() {
        let live = live(Sessions::End(Duration::ZERO));
        let watches: Vec<_> = (0..10).map(|_| live.watch(&usual(), VISIT)).collect();
        assert_eq!(live.lock().len(), 1);
        drop(watches);
        assert!(live.lock().is_empty());
        let revoked = live.watch(&usual(), VISIT);
        live.hear(0, UUID, Now::Gone);
        assert!(live.lock().is_empty());
        drop(revoked);
        assert_eq!(live.watched(0), []);
        // Where they are left, nobody listens.
        let live = self::live(Sessions::Leave);
        let _watch = live.watch(&usual(), VISIT);
        assert!(live.lock().is_empty());
    }
}
