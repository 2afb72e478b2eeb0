//! The cache in front of an LDAP directory: who a login is, and which passwords were right a moment ago.
//!
//! Three tables, bounded by count and age. *Answers* maps a login, as typed, or an address to what the directory said: an entry (believed
//! for `ttl`, or up to a fifth less, so that not all of them end at once) or "unknown" (for `negative_ttl`); lookups of one
//! login at one time share one search, and failures are handed to all who waited but never kept. *Last* holds the same answers
//! for `max_stale` longer: they count only while no server answers. *Proven* holds a keyed digest (HMAC-SHA-256, the key
//! made at start and never leaving the process) of entry, stored passwords and the password that was right; never a password.
//!
//! ```text
//! asked ──> answers ── not there ──> search ── no server answers ──> last ── not there ──> failure
//! ```
//!
//! The digest covers the entry, and when its password was changed, rather than the login: when a login comes to mean somebody else, what was proven for the
//! one before is worth nothing. A new password is unknown here, so the directory is asked at once; an old one is believed
//! no longer than `ttl` after it was last verified, or `max_stale` longer while no server answers.
//!
//! With no entries or no `ttl` nothing is kept, and single flight remains. It does no I/O and has no deadline of its own.

use std::{
    borrow::Cow,
    collections::{HashSet, hash_map::RandomState},
    future::Future,
    hash::BuildHasher as _,
    sync::Arc,
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{CacheSettings, Found, LookupError, Wrong, facts::EntryId};
use crate::secret::{Key, Secret};

/// The cache.
pub(super) struct Cache {
    answers: moka::future::Cache<String, Answer>,
    /// None: nothing is served from memory alone.
    last: Option<moka::future::Cache<String, Arc<Found>>>,
    /// Who was unknown, in a table of its own: whoever guesses names must not drive out those who exist.
    unknown: Option<moka::future::Cache<String, Instant>>,
    /// Whose it is, and when it was right.
    proven: moka::future::Cache<[u8; 32], (EntryId, Instant)>,
    key: Key,
    ttl: Duration,
    keeps: bool,
    ages: Ages,
    /// How long an answer counts while no server answers.
    oldest: Duration,
}

/// What the directory said.
#[derive(Clone)]
enum Answer {
    Found(Arc<Found>),
    /// Since when.
    Unknown(Instant),
}

/// What is known without asking.
pub(super) struct Peeked {
    /// None: nobody has that name.
    pub(super) found: Option<Arc<Found>>,
    pub(super) age: Duration,
    /// How long it is still believed, if it is.
    pub(super) believed: Option<Duration>,
    /// How long it still counts while no server answers, if it does.
    pub(super) remembered: Option<Duration>,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// It was kept, or somebody else was just fetching it.
    Cache,
    /// The directory, just now.
    Directory,
    /// No server answers: it was so once.
    Memory,
}

#[derive(Clone)]
struct Ages {
    ttl: Duration,
    negative_ttl: Duration,
    /// Spreads the ends of what was learned at one time.
    spread: RandomState,
}

impl moka::Expiry<String, Answer> for Ages {
    fn expire_after_create(&self, key: &String, answer: &Answer, _: Instant) -> Option<Duration> {
        Some(self.of(key, answer))
    }
}

impl Ages {
    /// How long an answer is believed.
    fn of(&self, key: &str, answer: &Answer) -> Duration {
        match answer {
            Answer::Found(_) => {
                let part = u32::try_from(self.spread.hash_one(key) % 256).unwrap_or_default();
                self.ttl - self.ttl / 5 * part / 256
            }
            Answer::Unknown(_) => self.negative_ttl,
        }
    }
}

impl Answer {
    fn into_result(self) -> Result<Arc<Found>, LookupError> {
        match self {
            Self::Found(found) => Ok(found),
            Self::Unknown(_) => Err(LookupError::Wrong(Wrong::Unknown)),
        }
    }

    fn learned(&self) -> Instant {
        match self {
            Self::Found(found) => found.learned.into_std(),
            Self::Unknown(since) => *since,
        }
    }
}

impl Cache {
    /// An empty cache; `key` is random.
    pub(super) fn new(settings: CacheSettings, key: Key) -> Self {
        let keeps = settings.entries > 0 && !settings.ttl.is_zero();
        let is_used = settings.entries > 0;
        let kept = |age: Duration| if is_used { age } else { Duration::ZERO };
        let ages = Ages {
            ttl: kept(settings.ttl),
            negative_ttl: kept(settings.negative_ttl),
            spread: RandomState::new(),
        };
        let oldest = settings.ttl.saturating_add(settings.max_stale);
        let has_memory = keeps && !settings.max_stale.is_zero();
        let last = || {
            moka::future::Cache::builder()
                .max_capacity(settings.entries)
                .time_to_live(oldest)
                .build()
        };
        let unknown = || {
            moka::future::Cache::builder()
                .max_capacity((settings.entries / 8).max(1))
                .time_to_live(oldest)
                .build()
        };
        // At least one, or a value would be evicted before those who wait for it have read it.
        let entries = settings.entries.max(1);
        Self {
            answers: moka::future::Cache::builder()
                .max_capacity(entries)
                .expire_after(ages.clone())
                .build(),
            last: has_memory.then(last),
            unknown: has_memory.then(unknown),
            proven: moka::future::Cache::builder()
                .max_capacity(entries)
                .time_to_live(oldest)
                .build(),
            key,
            ttl: settings.ttl,
            keeps,
            ages,
            oldest,
        }
    }

    /// Who that is; asks by `search` when it is not known. That somebody is unknown is no answer from memory: it may be wrong
    /// by now, and is only good for going on to the next question.
    pub(super) async fn look_up(
        &self,
        key: &str,
        search: impl Future<Output = Result<Found, LookupError>>,
    ) -> (Origin, Result<Arc<Found>, LookupError>) {
        let asked = async {
            match search.await {
                Ok(found) => Ok(Answer::Found(Arc::new(found))),
                Err(LookupError::Wrong(Wrong::Unknown)) => Ok(Answer::Unknown(Instant::now())),
                Err(error) => Err(error),
            }
        };
        match self
            .answers
            .entry_by_ref(key)
            .or_try_insert_with(asked)
            .await
        {
            Err(error) => {
                // What it says now counts, not what it said once.
                if let (LookupError::Ambiguous | LookupError::Entry(_), Some(last)) =
                    (&*error, &self.last)
                {
                    last.invalidate(key).await;
                }
                (Origin::Directory, Err(LookupError::clone(&error)))
            }
            Ok(entry) => {
                let origin = if entry.is_fresh() {
                    Origin::Directory
                } else {
                    Origin::Cache
                };
                let answer = entry.into_value();
                if origin == Origin::Directory {
                    self.remember(key, &answer).await;
                }
                (origin, answer.into_result())
            }
        }
    }

    /// Keeps an answer for while no server answers.
    async fn remember(&self, key: &str, answer: &Answer) {
        let (Some(last), Some(unknown)) = (&self.last, &self.unknown) else {
            return;
        };
        match answer {
            Answer::Found(found) => {
                last.insert(key.to_owned(), Arc::clone(found)).await;
                unknown.invalidate(key).await;
            }
            Answer::Unknown(since) => {
                last.invalidate(key).await;
                unknown.insert(key.to_owned(), *since).await;
            }
        }
    }

    /// What is known without asking, by who knows that no server would answer.
    pub(super) async fn recall(
        &self,
        key: &str,
    ) -> Option<(Origin, Result<Arc<Found>, LookupError>)> {
        if let Some(kept) = self.answers.get(key).await {
            return Some((Origin::Cache, kept.into_result()));
        }
        if let Some(found) = self.last.as_ref()?.get(key).await {
            return Some((Origin::Memory, Ok(found)));
        }
        let since = self.unknown.as_ref()?.get(key).await?;
        Some((Origin::Memory, Answer::Unknown(since).into_result()))
    }

    /// What is known without asking, and for how long, by who only looks.
    pub(super) async fn peek(&self, key: &str) -> Option<Peeked> {
        let last = match (&self.last, &self.unknown) {
            (Some(last), Some(unknown)) => match last.get(key).await {
                Some(found) => Some(Answer::Found(found)),
                None => unknown.get(key).await.map(Answer::Unknown),
            },
            _ => None,
        };
        let kept = self.answers.get(key).await;
        let left = |answer: &Answer, age: Duration| age.saturating_sub(answer.learned().elapsed());
        let believed = kept
            .as_ref()
            .map(|kept| left(kept, self.ages.of(key, kept)));
        let remembered = last.as_ref().map(|last| left(last, self.oldest));
        let answer = kept.or(last)?;
        let age = answer.learned().elapsed();
        Some(Peeked {
            found: answer.into_result().ok(),
            age,
            believed,
            remembered,
        })
    }

    /// Whether somebody would be known if no server answered.
    pub(super) async fn remembers(&self) -> bool {
        let Some(last) = &self.last else {
            return false;
        };
        // What is too old is counted until then.
        last.run_pending_tasks().await;
        last.entry_count() > 0
    }

    /// Forgets who that is, so that the directory is asked again.
    pub(super) async fn forget(&self, key: &str) {
        self.answers.invalidate(key).await;
    }

    /// Forgets everything; how many names.
    pub(super) fn forget_all(&self) -> usize {
        let count = self.names(|_, _| true).len();
        self.answers.invalidate_all();
        self.last
            .iter()
            .for_each(moka::future::Cache::invalidate_all);
        self.unknown
            .iter()
            .for_each(moka::future::Cache::invalidate_all);
        self.proven.invalidate_all();
        count
    }

    /// Forgets who has these names, and all else of the same accounts or of one called so; how many names.
    pub(super) async fn forget_who(&self, keys: &[Cow<'_, str>], account: &str) -> usize {
        let mut accounts = HashSet::from([account.to_owned()]);
        for key in keys {
            let peeked = self.peek(key).await;
            let found = peeked.and_then(|peeked| peeked.found);
            accounts.extend(found.map(|found| found.account.name.to_string()));
        }
        let mut entries = HashSet::new();
        let names = self.names(|key, found| {
            let is_theirs = found.is_some_and(|found| {
                let is_theirs = accounts.contains(found.account.name.as_str());
                if is_theirs {
                    entries.insert(found.facts.entry);
                }
                is_theirs
            });
            is_theirs || keys.iter().any(|one| one == key)
        });
        for name in &names {
            self.answers.invalidate(name.as_str()).await;
            if let (Some(last), Some(unknown)) = (&self.last, &self.unknown) {
                last.invalidate(name.as_str()).await;
                unknown.invalidate(name.as_str()).await;
            }
        }
        for (digest, (entry, _)) in &self.proven {
            if entries.contains(&entry) {
                self.proven.invalidate(&*digest).await;
            }
        }
        names.len()
    }

    /// The names of which something is kept, and that are wanted.
    fn names(
        &self,
        mut is_wanted: impl FnMut(&str, Option<&Found>) -> bool,
    ) -> HashSet<Arc<String>> {
        let mut names = HashSet::new();
        for (name, answer) in &self.answers {
            let found = match &answer {
                Answer::Found(found) => Some(&**found),
                Answer::Unknown(_) => None,
            };
            if is_wanted(&name, found) {
                names.insert(name);
            }
        }
        for (name, found) in self.last.iter().flatten() {
            if is_wanted(&name, Some(&found)) {
                names.insert(name);
            }
        }
        for (name, _) in self.unknown.iter().flatten() {
            if is_wanted(&name, None) {
                names.insert(name);
            }
        }
        names
    }

    /// Whether `password` was right for this entry a moment ago.
    pub(super) async fn is_proven(&self, found: &Found, password: &Secret) -> bool {
        let proven = self.proven(found, password).await;
        proven.is_some_and(|at| at.elapsed() < self.ttl)
    }

    /// Whether it was right, at most `max_stale` before that: for while no server answers.
    pub(super) async fn was_proven(&self, found: &Found, password: &Secret) -> bool {
        self.proven(found, password).await.is_some()
    }

    async fn proven(&self, found: &Found, password: &Secret) -> Option<Instant> {
        let (_, at) = self.proven.get(&self.digest(found, password)?).await?;
        Some(at)
    }

    /// Remembers that it is right.
    pub(super) async fn prove(&self, found: &Found, password: &Secret) {
        if let Some(digest) = self.digest(found, password) {
            let proven = (found.facts.entry, Instant::now());
            self.proven.insert(digest, proven).await;
        }
    }

    /// Forgets that it was right: it is not any more.
    pub(super) async fn disprove(&self, found: &Found, password: &Secret) {
        if let Some(digest) = self.digest(found, password) {
            self.proven.invalidate(&digest).await;
        }
    }

    /// What stands for a right password; none when nothing is kept.
    fn digest(&self, found: &Found, password: &Secret) -> Option<[u8; 32]> {
        if !self.keeps {
            return None;
        }
        // HMAC takes keys of any length, so there always is one.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.expose()).ok()?;
        // Each part with its length, so that no two lists of parts give the same octets.
        let changed = found.facts.password().map(u64::to_be_bytes);
        for part in std::iter::once(found.id.as_bytes())
            .chain(changed.iter().map(<[u8; 8]>::as_slice))
            .chain(found.passwords.iter().map(Secret::expose))
            .chain(std::iter::once(password.expose()))
        {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Some(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;
    use crate::{
        directory::{
            Access, Account, Status,
            facts::{EntryId, Facts, Shown},
        },
        names::AccountName,
    };

    fn found(name: &str, stored: &str) -> Found {
        let account = Account {
            name: AccountName::parse(name).unwrap(),
            home_node: None,
            uid: 1000,
            gid: 1000,
            home: name.to_owned(),
            quota: None,
            login: Status::Allowed,
            delivery: Status::Allowed,
            access: Access::default(),
        };
        let entry = EntryId::of_name(name);
        let passwords = vec![Secret::new(stored.into())];
        Found {
            facts: Facts::new(entry, &account, Shown::ALL, Vec::new(), [&passwords, &[]]),
            account: Arc::new(account),
            id: format!("uid={name}"),
            passwords,
            server: 0,
            base: 0,
            learned: tokio::time::Instant::now(),
        }
    }

    fn cache(entries: u64, ttl: Duration, negative_ttl: Duration) -> Cache {
        let settings = CacheSettings {
            entries,
            ttl,
            negative_ttl,
            max_stale: Duration::ZERO,
        };
        Cache::new(settings, Key::new([7; 32]))
    }

    const LONG: Duration = Duration::from_secs(3600);

    /// A directory that counts how often it is asked.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Counting {
        async fn answer(&self, answer: Result<Found, LookupError>) -> Result<Found, LookupError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            answer
        }

        fn asked(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_login_is_asked_for_once() {
        let (cache, directory) = (cache(10, LONG, LONG), Counting::default());
        for expected in [Origin::Directory, Origin::Cache, Origin::Cache] {
            let (origin, answer) = cache
                .look_up("ann", directory.answer(Ok(found("ann", ""))))
                .await;
            assert_eq!(origin, expected);
            assert_eq!(answer.unwrap().account.name.as_str(), "ann");
        }
        assert_eq!(directory.asked(), 1);
        cache.forget("ann").await;
        let (origin, _) = cache
            .look_up("ann", directory.answer(Ok(found("ann", ""))))
            .await;
        assert_eq!((origin, directory.asked()), (Origin::Directory, 2));
    }

    #[tokio::test]
    async fn lookups_of_one_login_share_one_search() {
        let (cache, directory) = (
            Arc::new(cache(10, LONG, LONG)),
            Arc::new(Counting::default()),
        );
        let gate = Arc::new(Notify::new());
        let tasks = crate::tasks::Tasks::new();
        for _ in 0..50 {
            let (cache, directory, gate) = (cache.clone(), directory.clone(), gate.clone());
            tasks.spawn("lookup", async move {
                let search = async {
                    directory.0.fetch_add(1, Ordering::Relaxed);
                    gate.notified().await;
                    Ok(found("ann", ""))
                };
                cache.look_up("ann", search).await.1.unwrap();
            });
        }
        // Everybody has asked before the first answer comes.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, 0);
        assert_eq!(directory.asked(), 1);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept_and_unknown_is() {
        let (cache, directory) = (cache(10, LONG, LONG), Counting::default());
        let away = || Err(LookupError::Unavailable("away".to_owned()));
        let (_, answer) = cache.look_up("ann", directory.answer(away())).await;
        assert!(matches!(answer, Err(LookupError::Unavailable(_))));
        let two = directory.answer(Err(LookupError::Ambiguous));
        let (_, answer) = cache.look_up("ann", two).await;
        assert!(matches!(answer, Err(LookupError::Ambiguous)));
        for _ in 0..3 {
            let unknown = directory.answer(Err(LookupError::Wrong(Wrong::Unknown)));
            let (_, answer) = cache.look_up("ann", unknown).await;
            assert!(matches!(answer, Err(LookupError::Wrong(Wrong::Unknown))));
        }
        assert_eq!(directory.asked(), 3);
    }

    #[tokio::test]
    async fn answers_age() {
        let (cache, directory) = (
            cache(10, Duration::from_millis(30), LONG),
            Counting::default(),
        );
        let patience = Instant::now() + Duration::from_secs(20);
        while directory.asked() < 3 {
            assert!(Instant::now() < patience, "the answer never aged");
            let answer = cache.look_up("ann", directory.answer(Ok(found("ann", ""))));
            answer.await.1.unwrap();
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn no_entries_or_no_ttl_keep_nothing() {
        for cache in [
            cache(0, LONG, LONG),
            cache(10, Duration::ZERO, Duration::ZERO),
        ] {
            let directory = Counting::default();
            for _ in 0..3 {
                let answer = cache.look_up("ann", directory.answer(Ok(found("ann", ""))));
                answer.await.1.unwrap();
                let unknown = directory.answer(Err(LookupError::Wrong(Wrong::Unknown)));
                cache.look_up("bob", unknown).await.1.unwrap_err();
            }
            assert_eq!(directory.asked(), 6);
            let password = Secret::new(b"secret".to_vec());
            cache.prove(&found("ann", ""), &password).await;
            assert!(!cache.is_proven(&found("ann", ""), &password).await);
        }
    }

    #[tokio::test]
    async fn it_is_bounded() {
        let cache = cache(100, LONG, LONG);
        for number in 0..1000 {
            let login = format!("user{number}");
            let answer = cache.look_up(&login, async { Ok(found("ann", "")) });
            answer.await.1.unwrap();
            let password = Secret::new(format!("{number}").into_bytes());
            cache.prove(&found("ann", ""), &password).await;
        }
        cache.answers.run_pending_tasks().await;
        cache.proven.run_pending_tasks().await;
        assert!(cache.answers.entry_count() <= 100);
        assert!(cache.proven.entry_count() <= 100);
    }

    #[tokio::test]
    async fn proven_is_one_password_of_one_entry() {
        let cache = cache(10, LONG, LONG);
        let right = Secret::new(b"secret".to_vec());
        cache.prove(&found("ann", "{SSHA}1"), &right).await;
        assert!(cache.is_proven(&found("ann", "{SSHA}1"), &right).await);
        // A wrong password; another entry; the same entry after a change of its stored password.
        let wrong = Secret::new(b"Secret".to_vec());
        assert!(!cache.is_proven(&found("ann", "{SSHA}1"), &wrong).await);
        assert!(!cache.is_proven(&found("bob", "{SSHA}1"), &right).await);
        assert!(!cache.is_proven(&found("ann", "{SSHA}2"), &right).await);
        // Nothing of it depends on where one part ends and the next begins.
        let shifted = Secret::new(b"1secret".to_vec());
        assert!(!cache.is_proven(&found("ann", "{SSHA}"), &shifted).await);
    }
}
