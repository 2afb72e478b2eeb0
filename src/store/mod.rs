//! Writing messages into Maildirs, durably, as their owners.
//!
//! `deliver` hands a message to one of a few threads that do nothing else and answers when it is on the disk: file synced,
//! renamed into `new`, `new` synced. The threads are no part of the event loop, since each becomes the owner while it writes.
//!
//! ```text
//! deliver -> queue -> thread: bounds, loop -> home, as ourselves -> becomes the owner: folders, leftovers, quota,
//!            tmp, sync, new, sync, quota -> is itself again -> answer
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | `identity` | who a thread is, and what it may do |
//! | `maildir` | folders, names, the order of writing |
//! | `text` | octets: fields, line ends, sizes, loops |
//! | `quota` | Maildir++: `maildirsize` |
//! | `leftovers` | what killed writers left in `tmp` |
//!
//! It knows no protocol and no directory, takes sender and recipient as they are, and tries nothing twice.
//! Limits: as many messages at a time as threads, a quarter of them for one owner, twice as many wait in the queue, all others with their callers. Who gives
//! up waiting before a message is in `new` has not delivered it: it is skipped, or removed again.
//! On failure a `StoreError`; nothing of the message is in `new` then.

mod identity;
mod leftovers;
mod maildir;
mod quota;
#[cfg(test)]
mod tests;
mod text;

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering, mpsc::sync_channel},
};

use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::{
    identity::Identity,
    leftovers::Leftovers,
    maildir::{Host, Maildir, Moment, Watch},
    text::Text,
};
use crate::{
    home::{Bounds, Home, HomeError},
    metrics::PANICS,
    names::{AccountName, SessionId},
    proto::lmtp::Cause,
    spool::Spooled,
};

/// Owners remembered before those without a message are forgotten.
const MAX_OWNERS: usize = 1024;

/// How messages are stored.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What accounts may ask for.
    pub bounds: Bounds,
    /// The Maildir, relative to the home; `.` is the home itself; default `Maildir`.
    pub folder: String,
    /// Threads that store, so many messages at a time; default 16.
    pub threads: usize,
    /// Whether mail for a full mailbox is refused for good (552 5.2.2) or stays in the MTA's queue (452 4.2.2, the default).
    pub over_quota_is_permanent: bool,
}

/// Writes messages. Clones share the threads, which end when the last clone is gone.
#[derive(Clone, Debug)]
pub struct Store {
    queue: mpsc::Sender<Job>,
    owners: Arc<Owners>,
}

/// Whose message it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The account.
    pub account: AccountName,
    /// Its uid.
    pub uid: u32,
    /// Its gid.
    pub gid: u32,
    /// Its home: absolute, or relative to `home_root`.
    pub home: String,
    /// Its quota in octets; 0 is none, as in Dovecot and Courier.
    pub quota: Option<u64>,
}

/// A message for one owner.
#[derive(Clone, Debug)]
pub struct Message {
    /// The delivery's id, for logs.
    pub session: SessionId,
    /// The sender as in a command, without `<` and `>`; empty for none: `Return-Path`.
    pub sender: String,
    /// The recipient as in a command: `Delivered-To`.
    pub recipient: String,
    /// Its octets, lines ending in CRLF.
    pub octets: Spooled,
}

/// Why messages can't be stored as configured.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder is no path below a home.
    #[error("the Maildir's folder is not a relative path without . and ..")]
    Folder,
    /// Rights can't be given up.
    #[error("cannot give up groups and capabilities before mail is stored")]
    GiveUp(#[source] io::Error),
    /// A thread can't be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Why a message was not stored. Nothing of it is in `new`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Whoever asked for it is gone, or the threads are.
    #[error("nobody waits for it any more")]
    Abandoned,
    /// The owner is outside the node's bounds.
    #[error("{0}")]
    Bounds(&'static str),
    /// The home can't be used.
    #[error("home is not usable")]
    Home(#[from] HomeError),
    /// The system failed.
    #[error("cannot {step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The recipient is named in its header as one it was delivered to.
    #[error("the message was delivered to this recipient before")]
    Loop,
    /// The Maildir or a folder of its is none.
    #[error("{0} is a symbolic link, or not a folder")]
    NotFolder(String),
    /// The mailbox is full, or the disk's quota for its owner.
    #[error("over quota")]
    OverQuota {
        /// Whether that is for good.
        permanent: bool,
        /// What the disk said, if it was the disk.
        #[source]
        source: Option<io::Error>,
    },
    /// The message can't be read back.
    #[error("cannot read the message")]
    Read(#[source] io::Error),
    /// This process can't become the owner.
    #[error(
        "cannot store as uid {uid}: this process is uid {own} without CAP_SETUID and CAP_SETGID"
    )]
    Rights {
        /// The owner.
        uid: u32,
        /// This process.
        own: u32,
    },
}

/// A message on its way to a thread.
#[derive(Debug)]
struct Job {
    owner: Owner,
    message: Message,
    answer: oneshot::Sender<Result<(), StoreError>>,
    /// The owner's place; the thread keeps it until it is done, whoever waits.
    place: OwnedSemaphorePermit,
}

/// Places for each owner: a home that hangs must not take all threads.
#[derive(Debug)]
struct Owners {
    each: usize,
    places: Mutex<HashMap<u32, Weak<Semaphore>>>,
}

impl Owners {
    fn new(each: usize) -> Self {
        Self {
            each,
            places: Mutex::default(),
        }
    }

    /// The places of a uid.
    fn of(&self, uid: u32) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = places.get(&uid).and_then(Weak::upgrade) {
            return found;
        }
        if places.len() >= MAX_OWNERS {
            places.retain(|_, places| places.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(self.each));
        places.insert(uid, Arc::downgrade(&new));
        new
    }
}

/// What a thread needs.
#[derive(Debug)]
struct Writer {
    settings: Settings,
    host: Host,
    leftovers: Arc<Leftovers>,
    identity: Identity,
}

type Queue = Mutex<mpsc::Receiver<Job>>;

impl Store {
    /// Starts the threads. A process without the right to become others can store for its own uid only, and says so.
    ///
    /// # Errors
    ///
    /// Whatever keeps messages from being stored.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let is_folder = |name: &str| !["", ".", ".."].contains(&name) && !name.contains('\0');
        if settings.folder != "." && !settings.folder.split('/').all(is_folder) {
            return Err(StartError::Folder);
        }
        let threads = settings.threads.max(1);
        let (queue, jobs) = mpsc::channel(threads.saturating_mul(2));
        let jobs = Arc::new(Mutex::new(jobs));
        let leftovers = Arc::new(Leftovers::default());
        let (said, heard) = sync_channel(threads);
        for _ in 0..threads {
            let (settings, jobs, leftovers) = (settings.clone(), jobs.clone(), leftovers.clone());
            let said = said.clone();
            let work = move || {
                let settled = Identity::settle();
                let (said_of, ready) = match settled {
                    Ok(identity) => (Ok(identity.only_for()), Some(identity)),
                    Err(error) => (Err(error), None),
                };
                // Nobody hears it when another thread has failed.
                let _ = said.send(said_of);
                drop(said);
                if let Some(identity) = ready {
                    let host = Host::here();
                    let writer = Writer {
                        settings,
                        host,
                        leftovers,
                        identity,
                    };
                    writer.run(&jobs);
                }
            };
            let thread = std::thread::Builder::new().name("store".to_owned());
            thread.spawn(work).map_err(StartError::Thread)?;
        }
        drop(said);
        let mut only = None;
        for settled in heard {
            only = only.or(settled.map_err(StartError::GiveUp)?);
        }
        if let Some(uid) = only {
            tracing::warn!(
                uid,
                "mail can be stored for this uid only: no capabilities to become others"
            );
        }
        let owners = Arc::new(Owners::new((threads / 4).max(1)));
        Ok(Self { queue, owners })
    }

    /// Stores a message: when it returns well, file and folder are on disk. Dropped before, it gives up.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn deliver(&self, owner: Owner, message: Message) -> Result<(), StoreError> {
        let place = self.owners.of(owner.uid).acquire_owned().await;
        let (answer, answered) = oneshot::channel();
        let job = Job {
            owner,
            message,
            answer,
            place: place.map_err(|_| StoreError::Abandoned)?,
        };
        let queued = self.queue.send(job).await;
        queued.map_err(|_| StoreError::Abandoned)?;
        answered.await.map_err(|_| StoreError::Abandoned)?
    }
}

impl Writer {
    /// A thread: one message after the other, until nobody can give any more.
    fn run(&self, jobs: &Queue) {
        while let Some(job) = next(jobs) {
            let Job {
                owner,
                message,
                answer,
                place,
            } = job;
            if answer.is_closed() {
                continue;
            }
            let wanted = || !answer.is_closed();
            // A thread that panics stays: what it was is undone as it unwinds, or the process has ended.
            let store = || self.store(&owner, &message, wanted, &mut |_| {});
            let stored = catch_unwind(AssertUnwindSafe(store)).unwrap_or_else(|_| {
                PANICS.fetch_add(1, Ordering::Relaxed);
                Err(StoreError::Abandoned)
            });
            drop(place);
            // Only here is the thread itself again: hearing this may make others work.
            let _ = answer.send(stored);
        }
    }

    fn store(
        &self,
        owner: &Owner,
        message: &Message,
        is_wanted: impl Fn() -> bool,
        watch: Watch<'_>,
    ) -> Result<(), StoreError> {
        let (uid, gid) = (owner.uid, owner.gid);
        let bounds = &self.settings.bounds;
        bounds.check(uid, gid).map_err(StoreError::Bounds)?;
        if text::is_loop(&message.octets, &message.recipient).map_err(StoreError::Read)? {
            return Err(StoreError::Loop);
        }
        let home = Home::locate(&bounds.home_root, &owner.home)?.open(uid, gid);
        let written = home.map_err(StoreError::Home).and_then(|home| {
            let own = self.identity.uid();
            let acting = self.identity.become_owner(uid, gid);
            let acting = acting.map_err(StoreError::system("become the owner"))?;
            let _acting = acting.ok_or(StoreError::Rights { uid, own })?;
            watch(Moment::Home);
            let maildir = Maildir::open(home.as_fd(), &self.settings.folder)?;
            watch(Moment::Open);
            self.write(&maildir, owner, message, is_wanted, watch)
        });
        written.map_err(|error| error.with_quota(self.settings.over_quota_is_permanent))
    }

    /// All that happens in the Maildir, as its owner.
    fn write(
        &self,
        maildir: &Maildir,
        owner: &Owner,
        message: &Message,
        is_wanted: impl Fn() -> bool,
        watch: Watch<'_>,
    ) -> Result<(), StoreError> {
        let now = jiff::Timestamp::now().as_second();
        self.leftovers.clean(&maildir.tmp, now);
        let text = Text::begin(&message.sender, &message.recipient);
        let name = self.host.unique_name();
        if let Some(limit) = owner.quota.filter(|limit| *limit > 0) {
            // Before it is written its size in the file is not known; as it came it is hardly larger.
            let size = text.len().saturating_add(message.octets.len());
            let permanent = self.settings.over_quota_is_permanent;
            let fits = quota::check(maildir, limit, size, &name, now, !permanent);
            fits.map_err(|_| StoreError::OverQuota {
                permanent,
                source: None,
            })?;
        }
        let sizes = maildir.store(&name, text, &message.octets, is_wanted, watch)?;
        quota::add(maildir, sizes.file);
        Ok(())
    }
}

/// Waits for a job. One thread waits for it, the others for that one.
fn next(jobs: &Queue) -> Option<Job> {
    let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
    jobs.blocking_recv()
}

impl StoreError {
    fn system<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Io {
            step,
            source: error.into(),
        }
    }

    /// A disk's quota is a quota, whoever met it.
    fn with_quota(self, permanent: bool) -> Self {
        match self {
            Self::Io { source, .. } | Self::Home(HomeError::Io { source, .. })
                if errno_of(&source) == Some(Errno::DQUOT) =>
            {
                Self::OverQuota {
                    permanent,
                    source: Some(source),
                }
            }
            error => error,
        }
    }

    /// What the MTA hears.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Bounds(_) | Self::NotFolder(_) | Self::Rights { .. } => Cause::Misconfigured,
            Self::Home(error) if error.is_forbidden() => Cause::Misconfigured,
            Self::Home(HomeError::Io { source, .. }) | Self::Io { source, .. } => system(source),
            Self::Loop => Cause::Loop,
            Self::OverQuota {
                permanent: true, ..
            } => Cause::OverQuota,
            Self::OverQuota {
                permanent: false, ..
            } => Cause::OverQuotaForNow,
            Self::Abandoned | Self::Home(_) | Self::Read(_) => Cause::Failed,
        }
    }
}

fn system(error: &io::Error) -> Cause {
    match errno_of(error) {
        Some(Errno::NOSPC) => Cause::DiskFull,
        // A limit of the file system or of this process for one file.
        Some(Errno::FBIG) => Cause::TooBig,
        // The owner has no right to his own folders.
        Some(Errno::ACCESS | Errno::PERM) => Cause::Misconfigured,
        _ => Cause::Failed,
    }
}

fn errno_of(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}
