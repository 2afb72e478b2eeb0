//! Changes in the directory as they happen: what is kept of an account that changed is not believed any more, and its
//! sessions end.
//!
//! ```text
//! follower: entry is now so, entry is gone ──> heard ── differs from what a session began with ──> the session is revoked
//!                                                └──── differs from what the cache keeps ───────> the directory is asked again
//! ```
//!
//! Only what is in use is compared: the account, who its names are, its stored password or when that was changed. So entries
//! that change at every login (last login, failed tries) change nothing here.
//!
//! What is heard and what is asked may come from two servers, of which one lags behind. An answer that differs from what was
//! heard is used and not believed longer, for [`LAG`] after the change; a later answer is the newer one.
//!
//! A session is revoked when its account is gone or may not log in like this any more, when its mailbox is elsewhere (node,
//! folder, uid, gid or the account's own name), or when its password is another one, where that can be seen. "Not now" revokes
//! nothing: some directories say so after too many wrong passwords, which anybody can type. Nor does an entry that became
//! unreadable: a slip in one attribute must not end sessions.
//!
//! After a refresh, entries in use that were not named are gone, unless nobody at all was named: a directory that
//! shows us nothing does not mean that everybody was deleted.
//!
//! Limits: as many changes are remembered as the cache keeps accounts, for as long as it may keep them. It does no I/O.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    fmt,
    hash::{BuildHasher as _, Hash},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::policy::EvictionPolicy;
use prometheus::IntCounterVec;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{Access, Account, CacheSettings, Found, Status, Visit};
use crate::{metrics::Metrics, names::NodeName, proto::content_sync::EntryUuid, tasks::Tasks};

/// How much later than a change a server that lags behind may still answer with what was before.
const LAG: Duration = Duration::from_secs(5);

/// What marks are made with: they mean nothing outside of this process.
static MARKS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Which entry.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum EntryId {
    /// Whatever becomes of its name.
    Uuid(EntryUuid),
    /// By a digest of its name, where its UUID is not shown to us: that it is gone cannot be followed.
    Name(u64),
}

/// What of an entry is compared, as marks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) entry: EntryId,
    /// Of all that is in use.
    mark: u64,
    /// Of its name, folder, uid and gid.
    place: u64,
    /// Of its password or when that was changed; none where neither is shown.
    password: Option<u64>,
}

/// What an entry is now.
#[derive(Clone, Debug)]
pub(super) enum Now {
    /// There is none any more, or what accounts are searched by does not match it.
    Gone,
    Is(Standing),
    /// It is there, and no account can be read from it.
    Unreadable,
}

/// What sessions of an account are judged by.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    facts: Facts,
    home_node: Option<Arc<str>>,
    login: Status,
    /// None: in any way.
    access: Option<Arc<Access>>,
}

#[derive(Clone, Debug)]
struct Heard {
    now: Now,
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
    heard: moka::sync::Cache<EntryId, Heard>,
    sessions: Sessions,
    seats: Mutex<HashMap<EntryId, Vec<Seat>>>,
    changes: IntCounterVec,
    revoked: IntCounterVec,
    /// By base, when all that was learned before was taken for out of date, in milliseconds since `started`.
    outdated: Box<[AtomicU64]>,
    started: Instant,
    homes: OnceLock<Homes>,
    tasks: Tasks,
}

/// Which node the value of a home attribute means, or that there is none; none for no node.
pub type Homes = Box<dyn Fn(Option<&str>) -> Option<NodeName> + Send + Sync>;

/// A session.
struct Seat {
    base: usize,
    facts: Facts,
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

/// What is known of a refresh while it goes on.
pub(super) struct Refresh {
    base: usize,
    /// In use when it began, and not named since.
    suspects: HashSet<EntryId>,
    /// Whether anybody was named.
    has_named: bool,
}

// === impl EntryId ===

impl EntryId {
    pub(super) fn of_name(name: &str) -> Self {
        Self::Name(mark(name))
    }
}

/// A digest that is good for comparing within this process.
fn mark(value: impl Hash) -> u64 {
    MARKS.hash_one(value)
}

// === impl Facts ===

impl Facts {
    /// Of an account; `names` is what else it is found by, `password` what changes with its password.
    pub(super) fn new(
        entry: EntryId,
        account: &Account,
        mut names: Vec<Vec<u8>>,
        password: &[&[u8]],
    ) -> Self {
        let mut password = password.to_vec();
        // Servers give values in any order.
        names.sort_unstable();
        password.sort_unstable();
        Self {
            entry,
            mark: mark((account, names, &password)),
            place: mark((&account.name, &account.home, account.uid, account.gid)),
            password: (!password.is_empty()).then(|| mark(&password)),
        }
    }

    /// Whether nothing has changed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.mark == other.mark
    }

    /// What stands for the password that was stored when the account was read.
    pub(super) fn password(&self) -> Option<u64> {
        self.password
    }
}

impl Now {
    pub(super) fn of(found: &Found) -> Self {
        let access = &found.account.access;
        let is_open = *access == Access::default();
        Self::Is(Standing {
            facts: found.facts,
            home_node: found.account.home_node.as_deref().map(Arc::from),
            login: found.account.login,
            access: (!is_open).then(|| Arc::new(access.clone())),
        })
    }
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
        let oldest = cache.ttl.saturating_add(cache.max_stale).max(LAG);
        Arc::new(Self {
            heard: moka::sync::Cache::builder()
                .max_capacity(cache.entries.max(1000))
                // What is new counts, however rarely it is asked for.
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(oldest)
                .build(),
            sessions,
            seats: Mutex::default(),
            changes: metrics.directory_changes.clone(),
            revoked: metrics.sessions_revoked.clone(),
            outdated: (0..bases).map(|_| AtomicU64::new(0)).collect(),
            started: Instant::now(),
            homes: OnceLock::new(),
            tasks,
        })
    }

    /// Two values of a home attribute may mean the same node: says which.
    pub(super) fn know_homes(&self, homes: Homes) {
        // Whoever was first has said the same.
        let _ = self.homes.set(homes);
    }

    /// Whether a session at one home would now be at another one. A value that is not shown any more, or that means no node, is
    /// more likely a slip than a move.
    fn has_moved(&self, before: Option<&str>, now: Option<&str>) -> bool {
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

    /// Whether something else was heard since that was learned.
    pub(super) fn contradicts(&self, found: &Found) -> bool {
        let Some(heard) = self.heard.get(&found.facts.entry) else {
            return false;
        };
        let differs = match &heard.now {
            Now::Gone | Now::Unreadable => true,
            Now::Is(now) => now.facts.mark != found.facts.mark,
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
            facts: found.facts,
            home_node: found.account.home_node.as_deref().map(Box::from),
            visit,
            revoke,
        };
        self.lock().entry(entry).or_default().push(seat);
        Watch(Some(Listening {
            entry,
            live: Arc::clone(self),
            revoked,
            why: None,
        }))
    }

    /// An entry is now so.
    pub(super) fn hear(self: &Arc<Self>, entry: EntryId, now: Now) {
        let is_same = match (self.heard.get(&entry), &now) {
            (None, _) => None,
            (
                Some(Heard {
                    now: Now::Is(before),
                    ..
                }),
                Now::Is(now),
            ) => Some(before.facts.mark == now.facts.mark),
            (Some(_), _) => Some(false),
        };
        let word = match (&now, is_same) {
            (Now::Gone, _) => "gone",
            (Now::Unreadable, _) => "unreadable",
            (Now::Is(_), Some(true)) => "same",
            (Now::Is(_), _) => "heard",
        };
        self.changes.with_label_values(&[word]).inc();
        if is_same == Some(true) {
            return;
        }
        self.note(entry, now);
    }

    /// An entry is there, as a refresh of everything says: that concerns nobody but those who use it.
    pub(super) fn hear_in_passing(self: &Arc<Self>, entry: EntryId, now: Now, refresh: &Refresh) {
        let is_used = refresh.suspects.contains(&entry)
            || self.heard.contains_key(&entry)
            || self.lock().contains_key(&entry);
        if is_used {
            self.hear(entry, now);
        }
    }

    fn note(self: &Arc<Self>, entry: EntryId, now: Now) {
        let heard = Heard {
            now,
            at: Instant::now(),
        };
        // Before the sessions are looked at: one that begins now looks at this after it has sat down.
        self.heard.insert(entry, heard.clone());
        let Sessions::End(within) = self.sessions else {
            return;
        };
        if !self.concerns(entry, &heard.now) {
            return;
        }
        if within.is_zero() {
            return self.revoke(entry, &heard.now);
        }
        let live = Arc::clone(self);
        self.tasks.background("revocation", async move {
            let part = getrandom::u32().unwrap_or_default();
            sleep(within.mul_f64(f64::from(part) / f64::from(u32::MAX))).await;
            // It may have changed its mind.
            let latest = live.heard.get(&entry).unwrap_or(heard);
            live.revoke(entry, &latest.now);
        });
    }

    fn concerns(&self, entry: EntryId, now: &Now) -> bool {
        let seats = self.lock();
        let seats = seats.get(&entry);
        seats.is_some_and(|seats| seats.iter().any(|seat| self.judge(seat, now).is_some()))
    }

    /// Tells the sessions that may not go on.
    fn revoke(&self, entry: EntryId, now: &Now) {
        let mut seats = self.lock();
        let Some(all) = seats.remove(&entry) else {
            return;
        };
        let mut left = Vec::new();
        for seat in all {
            match self.judge(&seat, now) {
                None => left.push(seat),
                Some(why) => {
                    if seat.revoke.send(why).is_ok() {
                        self.revoked.with_label_values(&[why.as_str()]).inc();
                    }
                }
            }
        }
        if !left.is_empty() {
            seats.insert(entry, left);
        }
    }

    /// Why a session may not go on, if so.
    fn judge(&self, seat: &Seat, now: &Now) -> Option<Revoked> {
        let now = match now {
            Now::Gone => return Some(Revoked::Deleted),
            Now::Unreadable => return None,
            Now::Is(now) => now,
        };
        let is_barred = |access: &Arc<Access>| access.check(seat.visit).is_err();
        if now.login == Status::Refused || now.access.as_ref().is_some_and(is_barred) {
            return Some(Revoked::Disabled);
        }
        let has_moved = self.has_moved(seat.home_node.as_deref(), now.home_node.as_deref());
        if now.facts.place != seat.facts.place || has_moved {
            return Some(Revoked::Moved);
        }
        let passwords = seat.facts.password.zip(now.facts.password);
        let is_another = passwords.is_some_and(|(before, now)| before != now);
        is_another.then_some(Revoked::Password)
    }

    /// A refresh of a base begins; `kept` is what else is in use besides the entries of sessions.
    pub(super) fn refresh(&self, base: usize, kept: impl IntoIterator<Item = EntryId>) -> Refresh {
        let mut suspects: HashSet<_> = self.watched(base).into_iter().collect();
        suspects.extend(kept);
        suspects.retain(|entry| matches!(entry, EntryId::Uuid(_)));
        Refresh {
            base,
            suspects,
            has_named: false,
        }
    }

    /// A refresh has named everybody who is there.
    pub(super) fn conclude(self: &Arc<Self>, refresh: Refresh) {
        let Refresh {
            base,
            suspects,
            has_named,
        } = refresh;
        if suspects.is_empty() {
            return;
        }
        if !has_named {
            let missing = suspects.len();
            tracing::warn!(
                base,
                missing,
                "the directory shows no account at all, which is not believed"
            );
            return;
        }
        tracing::info!(
            base,
            gone = suspects.len(),
            "accounts in use are not in the directory any more"
        );
        for entry in suspects {
            self.hear(entry, Now::Gone);
        }
    }

    /// The entries of sessions, below one of the bases.
    pub(super) fn watched(&self, base: usize) -> Vec<EntryId> {
        let seats = self.lock();
        let is_below = |seats: &&Vec<Seat>| seats.iter().any(|seat| seat.base == base);
        let watched = seats.iter().filter(|(_, seats)| is_below(seats));
        watched.map(|(entry, _)| *entry).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EntryId, Vec<Seat>>> {
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
}

// === impl Watch ===

impl Watch {
    /// Ends when the session may not go on; never, if nobody listens.
    pub async fn revoked(&mut self) {
        if let Some(listening) = &mut self.0
            && listening.why.is_none()
            && let Ok(why) = (&mut listening.revoked).await
        {
            listening.why = Some(why);
            return;
        }
        std::future::pending().await
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
            here.retain(|seat| !seat.revoke.is_closed());
            if here.is_empty() {
                seats.remove(&self.entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{AccountName, Protocol};

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

    /// An entry with this account and this password, as the directory has just said.
    fn found(account: Account, password: &[&[u8]]) -> Found {
        Found {
            facts: Facts::new(UUID, &account, vec![b"uid=ann".to_vec()], password),
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
            live.hear(UUID, Now::of(&now));
            assert_eq!(verdict(&mut watch).await, expected, "{:?}", now.account);
        }
        for (now, expected) in [(Now::Gone, Some(Revoked::Deleted)), (Now::Unreadable, None)] {
            let live = live(Sessions::End(Duration::ZERO));
            let mut watch = live.watch(&usual(), VISIT);
            live.hear(UUID, now);
            assert_eq!(verdict(&mut watch).await, expected);
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
                live.hear(UUID, Now::of(&at(same)));
                assert_eq!(verdict(&mut watch).await, None, "{before:?} {same:?}");
            }
            live.hear(UUID, Now::of(&at(Some("node2"))));
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
            Facts::new(UUID, &account(), names, &passwords)
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
        live.hear(UUID, Now::of(&new));
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
            live.hear(UUID, now);
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
        live.conclude(live.refresh(0, []));
        assert_eq!(verdict(&mut watch).await, None);
        // Of another base.
        let mut refresh = live.refresh(1, []);
        refresh.name(EntryId::Uuid([8; 16]));
        live.conclude(refresh);
        assert_eq!(verdict(&mut watch).await, None);
        let mut refresh = live.refresh(0, []);
        refresh.name(UUID);
        // One that came while it went on.
        let mut later = usual();
        later.facts.entry = EntryId::Uuid([9; 16]);
        let mut late = live.watch(&later, VISIT);
        live.conclude(refresh);
        assert_eq!(verdict(&mut watch).await, None);
        let mut refresh = live.refresh(0, []);
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
        let mut refresh = live.refresh(0, []);
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
            live.hear(EntryId::Uuid([*number; 16]), Now::Gone);
        }
        // The first changes its mind.
        live.hear(EntryId::Uuid([0; 16]), Now::of(&usual()));
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
        live.hear(UUID, Now::Gone);
        assert!(live.lock().is_empty());
        drop(revoked);
        assert_eq!(live.watched(0), []);
        // Where they are left, nobody listens.
        let live = self::live(Sessions::Leave);
        let _watch = live.watch(&usual(), VISIT);
        assert!(live.lock().is_empty());
    }
}
