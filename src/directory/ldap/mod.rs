//! Accounts in LDAP (RFC 4511): search for the entry, then bind as it or read its `userPassword`.
//!
//! A worker has connections of its own. Its searches share one, bound as the service account (or anonymous), many in flight at a time up to a bound.
//! Binding as a user takes a connection for itself, so those come from a pool, and never serve a search. Both kinds are made on
//! use and dropped when they failed or kept somebody waiting too long; a kept connection that turns out to be dead is replaced
//! once, silently, within the same deadline. There is no back-off: a refused connection costs nothing, a silent
//! one the deadline of those who ask.
//!
//! ```text
//! find:  login, or address -> its filter -> search base (subtree, 2 entries at most) -> exactly one entry -> account
//! bind:  the entry's own DN, password -> 0 | 32 48 49: wrong | 53: locked | anything else: not available
//! ```
//!
//! It follows no referrals: to be sent elsewhere is to find nothing here. It never makes a DN from what a client typed.
//! Limits: searches in flight, connections for binds, one deadline per question. The LDAP library has no limit on the size
//! of an answer, so the server is trusted with that; where it panics on a malformed one, the connection is taken for dead.
//! When the server goes away it is logged once, and once when it is back.

mod connection;
mod entry;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

pub use connection::LdapSetupError;

use super::{
    Attributes, Found, LdapSettings, LookupError, Question, Verify, Wrong, template::Template,
};
use crate::{secret::Secret, tasks::Tasks};
use connection::{Broken, Connection, Connector, Reply, Search};
use entry::{Defaults, Entry};

/// Searches in flight. One slapd of two cores is busy with 64 (9,000 searches a second); more would only wait there, not here.
const MAX_SEARCHES: usize = 64;

/// A set of connections to an LDAP server: one per worker, so that no answer travels from one thread to another.
pub(super) struct Ldap {
    server: Arc<Server>,
    searches: Semaphore,
    shared: Mutex<Option<Shared>>,
    /// Held by whoever makes the next one.
    connecting: tokio::sync::Mutex<()>,
    /// How many were made.
    made: AtomicU64,
    binds: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// An LDAP server and how its entries are read.
struct Server {
    connector: Connector,
    base: String,
    filter: Template,
    delivery_filter: Template,
    verify: Verify,
    attributes: Attributes,
    /// What a search asks for.
    wanted: Vec<String>,
    defaults: Defaults,
    /// The DN and password that searches are bound with.
    service: Option<(String, Secret)>,
    bind_connections: usize,
    is_away: AtomicBool,
}

/// The connection that searches share.
#[derive(Clone)]
struct Shared {
    connection: Connection,
    /// Which one it is, so that nobody drops the successor of the one that failed.
    number: u64,
}

/// LDAP result codes (RFC 4511, 4.1.9).
mod code {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const SIZE_LIMIT_EXCEEDED: u32 = 4;
    pub(super) const NO_SUCH_OBJECT: u32 = 32;
    pub(super) const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
    pub(super) const INVALID_CREDENTIALS: u32 = 49;
    pub(super) const INSUFFICIENT_ACCESS_RIGHTS: u32 = 50;
    pub(super) const UNWILLING_TO_PERFORM: u32 = 53;
}

impl Ldap {
    /// Checks the settings; connects to nothing.
    pub(super) fn new(settings: LdapSettings, tasks: Tasks) -> Result<Arc<Self>, LdapSetupError> {
        let filter = Template::parse(&settings.filter).map_err(LdapSetupError::Filter)?;
        let delivery_filter = Template::parse(&settings.delivery_filter);
        let delivery_filter = delivery_filter.map_err(LdapSetupError::DeliveryFilter)?;
        let connector = Connector::new(&settings, tasks)?;
        let attributes = settings.attributes;
        let mut wanted: Vec<String> = [
            &attributes.name,
            &attributes.home_node,
            &attributes.uid,
            &attributes.gid,
            &attributes.home,
            &attributes.quota,
            &attributes.status,
        ]
        .map(Clone::clone)
        .into();
        if settings.verify == Verify::Hash {
            wanted.push(attributes.password.clone());
        }
        let service = settings.bind_dn.map(|dn| {
            let password = settings.bind_password.unwrap_or_default();
            (dn, password)
        });
        if let Some((_, password)) = &service
            && (password.is_empty() || std::str::from_utf8(password.expose()).is_err())
        {
            return Err(LdapSetupError::BindPassword);
        }
        let server = Server {
            connector,
            base: settings.base,
            filter,
            delivery_filter,
            verify: settings.verify,
            attributes,
            wanted,
            defaults: Defaults {
                uid: settings.default_uid,
                gid: settings.default_gid,
            },
            service,
            bind_connections: settings.bind_connections.max(1),
            is_away: AtomicBool::new(false),
        };
        Ok(Self::with_share(Arc::new(server), 1))
    }

    /// The same server with connections of its own: for one of so many workers, its share of all that there may be.
    pub(super) fn for_worker(&self, workers: usize) -> Arc<Self> {
        Self::with_share(Arc::clone(&self.server), workers.max(1))
    }

    fn with_share(server: Arc<Server>, workers: usize) -> Arc<Self> {
        let binds = server.bind_connections.div_ceil(workers);
        Arc::new(Self {
            server,
            searches: Semaphore::new(MAX_SEARCHES.div_ceil(workers)),
            shared: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            made: AtomicU64::new(0),
            binds: Semaphore::new(binds),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Whether the server verifies passwords.
    pub(super) fn verifies(&self) -> bool {
        self.server.verify == Verify::Bind
    }

    /// The one entry that matches.
    pub(super) async fn find(
        &self,
        question: Question<'_>,
        deadline: Instant,
    ) -> Result<Found, LookupError> {
        let filter = match question {
            Question::Login(login) => self.server.filter.render(login.as_str()),
            Question::Recipient(mailbox) => {
                self.server.delivery_filter.render(&mailbox.to_string())
            }
        };
        let search = Search {
            base: &self.server.base,
            subtree: true,
            filter: &filter,
            attributes: &self.server.wanted,
        };
        let reply = self.search(&search, deadline).await;
        self.note(reply.as_ref().err());
        let mut reply = reply.map_err(|broken| LookupError::Unavailable(broken.to_string()))?;
        let more = reply.code == code::SIZE_LIMIT_EXCEEDED && !reply.entries.is_empty();
        if more || reply.entries.len() > 1 {
            match question {
                Question::Login(login) => {
                    tracing::warn!(%login, "more than one entry matches a login");
                }
                Question::Recipient(recipient) => {
                    tracing::warn!(%recipient, "more than one entry matches an address");
                }
            }
            return Err(LookupError::Ambiguous);
        }
        if reply.code != code::SUCCESS {
            return Err(LookupError::Unavailable(format!("search: {reply}")));
        }
        let entry = reply.entries.pop().ok_or(Wrong::Unknown)?;
        let mut entry = Entry::from_tag(entry)
            .ok_or_else(|| LookupError::Unavailable("search: malformed entry".to_owned()))?;
        Ok(Found {
            account: Arc::new(entry.account(&self.server.attributes, self.server.defaults)?),
            passwords: match self.server.verify {
                Verify::Bind => Vec::new(),
                Verify::Hash => entry.take_passwords(&self.server.attributes.password),
            },
            id: entry.dn,
        })
    }

    /// Binds as the entry `dn`, which says whether `password` is its password.
    pub(super) async fn bind(
        &self,
        dn: &str,
        password: &Secret,
        deadline: Instant,
    ) -> Result<(), LookupError> {
        // An empty one would be an unauthenticated bind (RFC 4513, 5.1.2), which succeeds whoever asks.
        let password = match std::str::from_utf8(password.expose()) {
            Ok(password) if !password.is_empty() && !dn.is_empty() => password,
            Ok(_) | Err(_) => return Err(Wrong::Password.into()),
        };
        let reply = self.bind_on_pool(dn, password, deadline).await;
        self.note(reply.as_ref().err());
        let reply = reply.map_err(|broken| LookupError::Unavailable(broken.to_string()))?;
        match reply.code {
            code::SUCCESS => Ok(()),
            // The entry is gone since it was found, has no password, or has another one.
            code::NO_SUCH_OBJECT
            | code::INAPPROPRIATE_AUTHENTICATION
            | code::INVALID_CREDENTIALS => Err(Wrong::Password.into()),
            // How 389 Directory Server and others say that an account is locked; about the entry, since the server binds others.
            code::UNWILLING_TO_PERFORM => Err(Wrong::Disabled.into()),
            // Without the server's own words, which follow from what the client sent.
            other => Err(LookupError::Unavailable(format!(
                "bind as {dn}: result code {other}"
            ))),
        }
    }

    /// Whether the server answers: the search connection can be had and says anything about the root entry.
    pub(super) async fn is_reachable(&self, deadline: Instant) -> bool {
        let attributes = ["1.1".to_owned()];
        let search = Search {
            base: "",
            subtree: false,
            filter: "(objectClass=*)",
            attributes: &attributes,
        };
        let reply = self.search(&search, deadline).await;
        self.note(reply.as_ref().err());
        reply.is_ok_and(|reply| {
            matches!(
                reply.code,
                code::SUCCESS | code::NO_SUCH_OBJECT | code::INSUFFICIENT_ACCESS_RIGHTS
            )
        })
    }

    async fn search(&self, search: &Search<'_>, deadline: Instant) -> Result<Reply, Broken> {
        let turn = timeout_at(deadline, self.searches.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Broken::Late("waiting for a turn to search"));
        };
        let (shared, is_new) = self.connection(deadline).await?;
        let broken = match shared.connection.clone().search(search, deadline).await {
            Ok(reply) => return Ok(reply),
            Err(broken) => broken,
        };
        self.drop_shared(shared.number);
        if is_new || !broken.is_dead_connection() {
            return Err(broken);
        }
        let (shared, _) = self.connection(deadline).await?;
        let mut connection = shared.connection;
        let reply = connection.search(search, deadline).await;
        if reply.is_err() {
            self.drop_shared(shared.number);
        }
        reply
    }

    /// The connection for searches, and whether it was made just now.
    async fn connection(&self, deadline: Instant) -> Result<(Shared, bool), Broken> {
        if let Some(shared) = self.live_shared() {
            return Ok((shared, false));
        }
        // All who wait want the same connection, and none waits longer than its own deadline.
        let Ok(_connecting) = timeout_at(deadline, self.connecting.lock()).await else {
            return Err(Broken::Late("waiting for a connection"));
        };
        if let Some(shared) = self.live_shared() {
            return Ok((shared, false));
        }
        let mut connection = self.server.connector.connect(deadline).await?;
        if let Some((dn, password)) = &self.server.service {
            let password = std::str::from_utf8(password.expose()).unwrap_or_default();
            let reply = connection.bind(dn, password, deadline).await?;
            if reply.code != code::SUCCESS {
                return Err(Broken::Service(reply));
            }
        }
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let shared = Shared { connection, number };
        *lock(&self.shared) = Some(shared.clone());
        Ok((shared, true))
    }

    fn live_shared(&self) -> Option<Shared> {
        let mut shared = lock(&self.shared).clone()?;
        (!shared.connection.is_closed()).then_some(shared)
    }

    fn drop_shared(&self, number: u64) {
        let mut slot = lock(&self.shared);
        if slot.as_ref().is_some_and(|shared| shared.number == number) {
            *slot = None;
        }
    }

    async fn bind_on_pool(
        &self,
        dn: &str,
        password: &str,
        deadline: Instant,
    ) -> Result<Reply, Broken> {
        let turn = timeout_at(deadline, self.binds.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Broken::Late("waiting for a connection to bind on"));
        };
        if let Some(mut kept) = self.take_idle() {
            match kept.bind(dn, password, deadline).await {
                Ok(reply) => {
                    self.keep_idle(kept);
                    return Ok(reply);
                }
                Err(broken) if !broken.is_dead_connection() => return Err(broken),
                Err(_) => {}
            }
        }
        let mut connection = self.server.connector.connect(deadline).await?;
        let reply = connection.bind(dn, password, deadline).await?;
        self.keep_idle(connection);
        Ok(reply)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        while let Some(mut connection) = idle.pop() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep_idle(&self, connection: Connection) {
        lock(&self.idle).push(connection);
    }

    /// How many connections wait to be bound on.
    #[cfg(test)]
    pub(super) fn kept_for_binds(&self) -> usize {
        lock(&self.idle).len()
    }

    /// Logs that the server went away, or that it is back: once each.
    fn note(&self, broken: Option<&Broken>) {
        let was_away = self
            .server
            .is_away
            .swap(broken.is_some(), Ordering::Relaxed);
        let server = &self.server.connector.server;
        match broken {
            Some(error) if !was_away => {
                tracing::warn!(%server, %error, "directory is not available");
            }
            None if was_away => tracing::info!(%server, "directory is available again"),
            Some(_) | None => {}
        }
    }
}

/// Nothing that is kept under these locks can be left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
