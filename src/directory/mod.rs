//! Where accounts are: LDAP for clusters, a file for a single machine; a cache in front of the first.
//!
//! It answers four questions: [`authenticate`](Directory::authenticate) a login and password,
//! [`admit`](Directory::admit) a login that was proven without one,
//! [`find`](Directory::find) an account without one (an authorization identity), and
//! [`find_recipient`](Directory::find_recipient), whose an address is. Each time the answer is the account by the
//! directory's own name, never by what was typed.
//!
//! ```text
//! login -> cache -> source (search) -> entry -> may it log in? -> proven a moment ago? -> source (bind, or hash) -> now? -> account
//! address -> rules (domain, detail) -> cache -> source (search by another filter) -> entry -> account
//! ```
//!
//! Changes are followed as they happen (`live`): what is kept of an account that changed is not believed any more, and whoever
//! has a session is told, by [`Watch`], when it may not go on.
//!
//! A refusal that rests on a kept entry is never the last word: the directory is asked again, and only if nothing changed
//! does the refusal stand. So a changed password, a moved or an enabled entry work at once; where changes cannot be followed, a
//! disabled account, an old password or an old home is believed for [`CacheSettings::ttl`] at most.
//!
//! While no server answers, who was known and whose password was right is served from memory, up to
//! [`CacheSettings::max_stale`] longer: that is logged when it begins and when it ends. From memory comes no refusal: whoever
//! would be refused by it is told to come again later.
//!
//! It does not decide which node a home is, does not limit attempts and does not delay failures: whoever drives it answers
//! them on a schedule counted from the attempt's arrival, so that "unknown", "wrong" and "disabled" take the same. Every
//! question has one deadline for all it needs (connect, search, bind, hash). Nothing of a password reaches a log or an
//! error; what libraries copy of one cannot be wiped (LDAP's client keeps the request until it is sent).

mod account;
mod address;
mod answer;
mod cache;
mod cached;
mod error;
mod explain;
mod facts;
mod file;
mod ldap;
mod live;
mod memory;
mod password;
mod preset;
mod settings;
mod template;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

pub use account::{Access, Account, Status, Visit};
pub use cached::{Cached, Kept, Who};
pub use error::{LookupError, StartError, Wrong};
pub use explain::Explained;
pub use file::FileError;
pub use ldap::{LdapSetupError, LdapUri};
pub use live::{Homes, Sessions, Watch};
pub use preset::Preset;
pub use settings::{
    AddressSettings, Attributes, CacheSettings, FileSettings, Follow, FollowSettings, LdapSettings,
    SchemaSettings, ServiceAccount, Settings, Source, Verify,
};
pub use template::TemplateError;

use crate::{
    metrics::Metrics,
    names::Login,
    proto::lmtp::Address,
    secret::{Key, Secret},
    tasks::{Part, Tasks},
};
use account::{STATUS_WORDS, is_home, parse_status};
use address::{Mailbox, Rules};
use cache::{Cache, Origin};
use facts::Facts;
use file::File;
use ldap::Ldap;
use live::{Bases, Live};
use memory::{Memory, from_memory};
use password::{CheckError, Checker};

/// Deadline of a question to the accounts file: only a slow password scheme needs any time.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long monitors wait to hear whether the directory answers.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// How much later than its own deadline a question is cut off. What waits inside ends first and so can drop the connection
/// it waited on; the cut is for those who wait for somebody else's search.
const CUT_AFTER: Duration = Duration::from_millis(100);

/// Who may log in, and where they live. Clones share everything.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    accounts: Accounts,
    rules: Arc<Rules>,
    checker: Arc<Checker>,
    cache: Arc<Cache>,
    timeout: Duration,
    metrics: Metrics,
    memory: Arc<Memory>,
    live: Arc<Live>,
    /// What a following directory is compared with.
    reading: Reading,
    follow: FollowSettings,
    /// What serves it ends with it.
    part: Part,
}

/// How entries are read.
#[derive(Clone, Debug, PartialEq)]
enum Reading {
    File,
    Ldap(Arc<SchemaSettings>),
}

/// Who has logged in.
#[derive(Debug)]
pub struct Admitted {
    /// Who that is.
    pub account: Arc<Account>,
    /// Says when the session may not go on.
    pub watch: Watch,
}

enum Accounts {
    File(Arc<File>),
    Ldap(Arc<Ldap>),
}

/// What an entry is searched by.
#[derive(Clone, Copy, Debug)]
enum Question<'q> {
    /// What a client typed.
    Login(&'q Login),
    /// What mail is for.
    Recipient(&'q Mailbox),
}

/// What shows that a login is who it says.
#[derive(Clone, Copy, Debug)]
enum Proof<'p> {
    /// Whoever asks has seen to it.
    Made,
    /// The account's password.
    Password(&'p Secret),
}

/// What a source holds about a login: the account, and what it takes to verify its password.
#[derive(Debug)]
struct Found {
    account: Arc<Account>,
    /// What the entry is called in its source: a DN, or a name in the file.
    id: String,
    /// Stored passwords; none when the source verifies by itself.
    passwords: Vec<Secret>,
    /// Which of several servers knew it: that one can verify its password, others may lag behind.
    server: usize,
    /// Below which of several bases it is.
    base: usize,
    /// What is compared when it is said to have changed.
    facts: Facts,
    /// When the source said so.
    learned: Instant,
}

/// How an LDAP server did when it was tried.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Its URI.
    pub server: String,
    /// How long it took.
    pub took: Duration,
    /// What it does not do: the operation, with LDAP's own result code and text.
    pub problems: Vec<String>,
    /// How changes are followed at it, and what of them is not seen.
    pub notes: Vec<String>,
}

/// Tries each LDAP server with what it will be asked, within a Tokio runtime; none for a file.
///
/// # Errors
///
/// What the settings name does not exist or has a wrong form.
pub async fn examine(settings: Settings, metrics: &Metrics) -> Result<Vec<Examined>, StartError> {
    let Source::Ldap(ldap) = settings.source else {
        return Ok(Vec::new());
    };
    let timeout = ldap.timeout;
    let follows = settings.follow.by != Follow::Off;
    let ldap = Ldap::new(*ldap, follows, metrics, Tasks::new()).map_err(StartError::Ldap)?;
    Ok(ldap.examine(timeout, settings.follow.by).await)
}

/// Tries an accounts file, as [`Directory::start`] would read it.
///
/// # Errors
///
/// All that is wrong with it.
pub fn check_accounts(
    settings: FileSettings,
    addresses: &AddressSettings,
) -> Result<(), FileError> {
    File::open(settings, Arc::new(Rules::new(addresses))).map(drop)
}

// === impl Directory ===

impl Directory {
    /// Sets the directory up, within a Tokio runtime. The accounts file must be readable and right; an LDAP server need not be
    /// there yet.
    ///
    /// # Errors
    ///
    /// What the settings name does not exist or has a wrong form.
    pub fn start(settings: Settings, metrics: Metrics, tasks: Tasks) -> Result<Self, StartError> {
        let directory = Self::prepare(settings, None, metrics, tasks)?;
        directory.begin(None);
        Ok(directory)
    }

    /// Sets up what [`start`](Self::start) does, to take the place of another directory if there is one. Changes are not
    /// followed before it [begins](Self::begin).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn prepare(
        settings: Settings,
        before: Option<&Self>,
        metrics: Metrics,
        tasks: Tasks,
    ) -> Result<Self, StartError> {
        let mut key = [0; Key::BYTES];
        getrandom::fill(&mut key).map_err(StartError::Random)?;
        let rules = Arc::new(Rules::new(&settings.addresses));
        let part = tasks.part();
        let follow = settings.follow;
        let follows = follow.by != Follow::Off;
        let (accounts, timeout, reading) = match settings.source {
            Source::File(file) => {
                let file = File::open(file, Arc::clone(&rules)).map_err(StartError::File)?;
                (Accounts::File(Arc::new(file)), FILE_TIMEOUT, Reading::File)
            }
            Source::Ldap(ldap) => {
                let timeout = ldap.timeout;
                let reading = Reading::Ldap(Arc::new(ldap.schema.clone()));
                let ldap = Ldap::new(*ldap, follows, &metrics, part.tasks().clone());
                let ldap = ldap.map_err(StartError::Ldap)?;
                (Accounts::Ldap(ldap), timeout, reading)
            }
        };
        let sessions = if follows {
            follow.sessions
        } else {
            Sessions::Leave
        };
        let gauge = metrics.directory_stale.clone();
        let cache = Arc::new(Cache::new(settings.cache, Key::new(key)));
        let (bases, table) = reading.after(before);
        // What becomes of sessions outlives a directory.
        let live = Live::new(settings.cache, sessions, bases, table, &metrics, tasks);
        Ok(Self(Arc::new(Inner {
            accounts,
            rules,
            checker: Arc::new(Checker::new()),
            cache,
            timeout,
            memory: Arc::new(Memory::new(settings.cache.max_stale, gauge)),
            metrics,
            live,
            reading,
            follow,
            part,
        })))
    }

    /// Follows changes from now on, for as long as anybody has it; for the sessions that began with the directory before, too.
    pub fn begin(&self, before: Option<&Self>) {
        let Inner {
            accounts,
            timeout,
            metrics,
            live,
            follow,
            part,
            ..
        } = &*self.0;
        live.take_over();
        if let Some(before) = before {
            // It has not found out yet whether anybody answers.
            metrics.directory_stale.set(0);
            let gone = before
                .servers()
                .filter(|name| !self.servers().any(|it| it == *name));
            for name in gone {
                // It may not have been seen yet.
                let _ = metrics.ldap_server_up.remove_label_values(&[name]);
            }
        }
        match accounts {
            _ if follow.by == Follow::Off => {}
            Accounts::Ldap(ldap) => ldap.follow(live, *follow, *timeout, metrics),
            Accounts::File(file) => {
                let follower = Arc::clone(file).follow(Arc::clone(live), metrics.clone());
                part.tasks().background("follower", follower);
            }
        }
    }

    /// Whether both are the same, be they of different workers.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.live, &other.0.live)
    }

    /// What the LDAP servers are called.
    fn servers(&self) -> impl Iterator<Item = &str> {
        let ldap = match &self.0.accounts {
            Accounts::File(_) => None,
            Accounts::Ldap(ldap) => Some(ldap),
        };
        ldap.into_iter().flat_map(|ldap| ldap.server_names())
    }

    /// Tells it which node a value of the home attribute means: another word for the same node moves nobody.
    pub fn know_homes(&self, homes: Homes) {
        self.0.live.know_homes(homes);
    }

    /// The same directory for one of so many workers: with connections of its own, its share of all that there may be.
    /// What is remembered stays common.
    #[must_use]
    pub fn for_worker(&self, workers: usize) -> Self {
        let inner = &*self.0;
        let accounts = match &inner.accounts {
            Accounts::File(file) => Accounts::File(Arc::clone(file)),
            Accounts::Ldap(ldap) => Accounts::Ldap(ldap.for_worker(workers)),
        };
        Self(Arc::new(Inner {
            accounts,
            rules: Arc::clone(&inner.rules),
            checker: Arc::clone(&inner.checker),
            cache: Arc::clone(&inner.cache),
            timeout: inner.timeout,
            metrics: inner.metrics.clone(),
            memory: Arc::clone(&inner.memory),
            live: Arc::clone(&inner.live),
            reading: inner.reading.clone(),
            follow: inner.follow,
            part: inner.part.clone(),
        }))
    }

    /// The account of `login`, if `password` is its password and it may log in like this.
    ///
    /// An empty password is wrong for every account and is never shown to an LDAP server, many of which take it for an
    /// anonymous bind. So is a password that is not UTF-8, when verifying means binding: LDAP has no such passwords.
    ///
    /// # Errors
    ///
    /// [`LookupError::Wrong`] is the client's doing, everything else is not and may pass.
    pub async fn authenticate(
        &self,
        login: &Login,
        password: &Secret,
        visit: Visit,
    ) -> Result<Admitted, LookupError> {
        let deadline = self.deadline();
        let asked = self.0.authenticate(login, password, visit, deadline);
        self.answer(deadline, asked).await
    }

    /// The account of `login`, which was proven by other means than a password, if it may log in like this.
    ///
    /// # Errors
    ///
    /// As [`authenticate`](Self::authenticate).
    pub async fn admit(&self, login: &Login, visit: Visit) -> Result<Admitted, LookupError> {
        let deadline = self.deadline();
        let asked = self.0.judge(login, Proof::Made, visit, deadline);
        self.answer(deadline, asked).await
    }

    /// The account of `login`, whatever its status: for authorization identities.
    ///
    /// # Errors
    ///
    /// As [`authenticate`](Self::authenticate), but of [`Wrong`] only [`Wrong::Unknown`].
    pub async fn find(&self, login: &Login) -> Result<Arc<Account>, LookupError> {
        let deadline = self.deadline();
        let asked = async {
            let (origin, found) = self.0.look_up(Question::Login(login), deadline).await;
            let found = found.map(|found| Arc::clone(&found.account));
            from_memory(origin, found)
        };
        self.answer(deadline, asked).await
    }

    /// The account that mail for `address` belongs to, whatever its status: [`Account::delivery`] says whether to take it.
    /// The whole address is tried first, then the address without detail.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find); an address of a domain that is not ours is [`Wrong::Unknown`].
    pub async fn find_recipient(&self, address: &Address) -> Result<Arc<Account>, LookupError> {
        let deadline = self.deadline();
        let asked = self.0.find_recipient(address, deadline);
        self.answer(deadline, asked).await
    }

    /// Whether somebody can be served: the directory answers, or there is somebody in memory. Takes three seconds at
    /// most.
    pub async fn is_ready(&self) -> bool {
        let is_away = matches!(&self.0.accounts, Accounts::Ldap(ldap) if ldap.is_away());
        if is_away && self.0.cache.remembers().await {
            return true;
        }
        let reachable = timeout_at(Instant::now() + READY_TIMEOUT, self.is_reachable());
        reachable.await.unwrap_or(false) || self.0.cache.remembers().await
    }

    /// Whether the directory answers right now.
    async fn is_reachable(&self) -> bool {
        match &self.0.accounts {
            Accounts::File(_) => true,
            Accounts::Ldap(ldap) => ldap.is_reachable(self.deadline()).await,
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.timeout
    }

    /// Cuts a question off that its own deadlines did not end, and counts how it ended.
    async fn answer<T>(
        &self,
        deadline: Instant,
        asked: impl Future<Output = Result<T, LookupError>>,
    ) -> Result<T, LookupError> {
        let answer = timeout_at(deadline + CUT_AFTER, asked)
            .await
            .unwrap_or_else(|_| Err(LookupError::Unavailable("no answer in time".to_owned())));
        let result = match &answer {
            Ok(_) => "ok",
            Err(LookupError::Ambiguous) => "ambiguous",
            Err(LookupError::Entry(_)) => "entry",
            Err(LookupError::NotNow(_)) => "not-now",
            Err(LookupError::Unavailable(_)) => "unavailable",
            Err(LookupError::Wrong(_)) => "wrong",
        };
        let lookups = &self.0.metrics.directory_lookups;
        lookups.with_label_values(&[result]).inc();
        answer
    }
}

impl Reading {
    /// Where entries are, and the sessions, if a directory takes the place of another.
    fn after(&self, before: Option<&Directory>) -> (Bases, Arc<live::Table>) {
        let names = match self {
            Self::File => vec!["accounts file".to_owned()],
            Self::Ldap(schema) => schema.bases.clone(),
        };
        let Some(before) = before else {
            return (Bases::new(names), Arc::default());
        };
        let live = &before.0.live;
        let bases = if before.0.reading == *self {
            live.bases().clone()
        } else {
            Bases {
                names: names.into(),
                reading: live.bases().reading.wrapping_add(1),
            }
        };
        (bases, live.table())
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.accounts {
            Accounts::File(_) => "Directory(file)",
            Accounts::Ldap(_) => "Directory(ldap)",
        })
    }
}
