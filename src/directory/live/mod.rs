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
//! - `watch`: what a session is judged by, and its ear.
//! - `refresh`: who has not been named yet.
//! - `table`: the seats of all sessions, which outlive a directory.
//!
//! Limits: what was heard is remembered of entries that the cache has learned of, for as long as it may keep them, and of all
//! others for [`RECENT`]. It does no I/O.

mod refresh;
mod table;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::policy::EvictionPolicy;
use prometheus::{IntCounterVec, IntGauge};
use tokio::time::{Instant, sleep};

pub(super) use refresh::Refresh;
pub(super) use table::{Bases, Table};
pub use watch::Watch;

use self::{table::Seats, watch::Judged};
use super::{
    CacheSettings, Found, Status, Visit,
    facts::{EntryId, Now},
};
use crate::{
    metrics::Metrics,
    names::NodeName,
    sessions::{Ending, Seat},
    tasks::Tasks,
};

/// How much later than a change a server that lags behind may still answer with what was before.
pub(super) const LAG: Duration = Duration::from_secs(5);

/// How long it is remembered what was heard of entries that nobody has asked for: an answer may be on its way.
const RECENT: Duration = Duration::from_secs(15);

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
    bases: Bases,
    table: Arc<Table>,
    changes: IntCounterVec,
    revoked: IntCounterVec,
    /// By base, when all that was learned before was taken for out of date, in milliseconds since `started`.
    outdated: Box<[AtomicU64]>,
    started: Instant,
    homes: RwLock<Option<Homes>>,
    /// Whether entries are in use that do not show their UUIDs.
    is_nameless: AtomicBool,
    tasks: Tasks,
}

/// A base, or the accounts file, counts as followed for as long as this is there.
pub(super) struct Followed(IntGauge);

impl Followed {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Live {
    /// Nothing was heard yet. `table` has the sessions, those that began with another directory too.
    pub(super) fn new(
        cache: CacheSettings,
        sessions: Sessions,
        bases: Bases,
        table: Arc<Table>,
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
            table,
            changes: metrics.directory_changes.clone(),
            revoked: metrics.sessions_revoked.clone(),
            outdated: bases.names.iter().map(|_| AtomicU64::new(0)).collect(),
            bases,
            started: Instant::now(),
            homes: RwLock::new(None),
            is_nameless: AtomicBool::new(false),
            tasks,
        })
    }

    /// Two values of a home attribute may mean the same node: says which.
    pub(super) fn know_homes(&self, homes: Homes) {
        *self.homes.write().unwrap_or_else(PoisonError::into_inner) = Some(homes);
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

    /// The same of all bases.
    pub(super) fn outdate_all(&self) {
        (0..self.outdated.len()).for_each(|base| self.outdate(base));
    }

    /// Listens for changes of an account, on behalf of a session.
    pub(super) fn watch(self: &Arc<Self>, found: &Found, visit: Visit) -> Watch {
        if self.sessions == Sessions::Leave {
            return Watch::default();
        }
        let entry = found.facts.entry;
        let seat = Seat::new();
        let home_node = found.account.home_node.as_deref();
        let mut all = self.table.lock();
        let judged = Judged {
            base: found.base,
            parts: found.facts.parts,
            home_node: home_node.map(|word| all.shared(word)),
            is_comparable: true,
            visit,
            seat: Arc::clone(&seat),
        };
        let is_judged = all.sit(entry, judged, &self.bases);
        drop(all);
        Watch {
            seat,
            judged: is_judged.then(|| (entry, Arc::clone(&self.table))),
        }
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
            || self.table.lock().seats.contains_key(&entry)
    }

    /// Judges the sessions of an entry, at once or in a while.
    pub(super) fn judge_all(self: &Arc<Self>, base: usize, entry: EntryId, now: Now) {
        let (Sessions::End(within), false) = (self.sessions, matches!(now, Now::Unreadable)) else {
            return;
        };
        let mut all = self.table.lock();
        // What an older directory says means something else to those who sit here now.
        if !all.is_of(&self.bases) {
            return;
        }
        let Some(seats) = all.seats.get_mut(&entry) else {
            return;
        };
        if let Now::Is(now) = &now {
            seats.learn(now);
        }
        if seats.pending.is_some() {
            seats.pending = Some(Box::new((base, now)));
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
        seats.pending = Some(Box::new((base, now)));
        drop(all);
        let live = Arc::clone(self);
        self.tasks.background("revocation", async move {
            let part = getrandom::u32().unwrap_or_default();
            sleep(within.mul_f64(f64::from(part) / f64::from(u32::MAX))).await;
            let mut all = live.table.lock();
            // Another directory judges by its own.
            if !all.is_of(&live.bases) {
                return;
            }
            // None where all sessions have ended meanwhile.
            let pending = all
                .seats
                .get_mut(&entry)
                .and_then(|seats| seats.pending.take());
            if let Some((base, now)) = pending.map(|pending| *pending) {
                live.revoke(&mut all, entry, base, &now);
            }
        });
    }

    /// Tells the sessions that may not go on.
    fn revoke(&self, all: &mut table::All, entry: EntryId, base: usize, now: &Now) {
        let Some(seats) = all.seats.remove(&entry) else {
            return;
        };
        let mut left = Vec::new();
        for judged in seats.all {
            match self.judge(&judged, base, now) {
                None => left.push(judged),
                Some(why) => {
                    if judged.seat.end(why) {
                        self.revoked.with_label_values(&[why.as_str()]).inc();
                    }
                }
            }
        }
        if !left.is_empty() {
            let (all_left, pending) = (left, None);
            all.seats.insert(
                entry,
                Seats {
                    all: all_left,
                    pending,
                },
            );
        }
    }

    /// Why a session may not go on, if so.
    fn judge(&self, seat: &Judged, base: usize, now: &Now) -> Option<Ending> {
        let now = match now {
            Now::Gone => return (seat.base == base).then_some(Ending::Deleted),
            Now::Unreadable => return None,
            Now::Is(now) => now,
        };
        let mut access = now.access.iter();
        let is_barred = access.any(|access| access.check(seat.visit).is_err());
        if now.login == Status::Refused || is_barred {
            return Some(Ending::Disabled);
        }
        if !seat.is_comparable {
            return None;
        }
        let (before, after) = (seat.home_node.as_deref(), now.home_node.as_deref());
        if seat.parts.has_moved(&now.facts.parts) || self.is_another_node(before, after) {
            return Some(Ending::Moved);
        }
        let is_another = seat.parts.has_other_password(&now.facts.parts);
        is_another.then_some(Ending::Password)
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
        let homes = self.homes.read().unwrap_or_else(PoisonError::into_inner);
        match homes.as_ref() {
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
        let all = self.table.lock();
        if !all.is_of(&self.bases) {
            return Vec::new();
        }
        let is_below = |seats: &&Seats| seats.all.iter().any(|seat| seat.base == base);
        let watched = all.seats.iter().filter(|(_, seats)| is_below(seats));
        watched.map(|(entry, _)| *entry).collect()
    }

    /// The sessions, for the directory that takes the place of this one.
    pub(super) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }

    /// What entries are read by here.
    pub(super) fn bases(&self) -> &Bases {
        &self.bases
    }

    /// Sessions that began with another directory are judged by this one from now on.
    pub(super) fn take_over(&self) {
        let lost = self.table.lock().become_of(&self.bases);
        if lost > 0 {
            tracing::warn!(
                sessions = lost,
                "sessions that began with another directory are not ended any more when their account changes"
            );
        }
    }
}
