//! Accounts in LDAP (RFC 4511): search for the entry, then bind as it or read its `userPassword`.
//!
//! ```text
//! find:  login, or address -> its filters, at each base (subtree, 2 entries at most) -> exactly one entry -> account
//! bind:  the entry's own DN, password -> 0 | 32 48 49: wrong | 53: locked | anything else: not available
//! ```
//!
//! `schema` knows what to search for and reads entries, `servers` asks several servers with the same entries, `server` keeps
//! the connections to one of them, `connection` runs one operation.
//!
//! Referrals are followed to servers that are configured, and to no others. It never makes a DN from what a client typed.
//! Limits: one deadline per question; an answer's message has 16 MiB, 16 levels and 262,144 values at most (`lber`, which stands in for
//! the LDAP library's own reader of BER: that one let a server end the process by nesting). How many messages an answer has is
//! not limited but by its deadline. Where the library panics on a malformed one, the connection is taken for dead.

mod connection;
mod entry;
mod follow;
mod news;
mod schema;
mod server;
mod servers;
mod uri;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub use connection::LdapSetupError;
pub use uri::LdapUri;

use super::{
    Examined, Follow, FollowSettings, Found, LdapSettings, LookupError, Question, ServiceAccount,
    Verify, Wrong, live::Live,
};
use crate::{metrics::Metrics, secret::Secret, tasks::Tasks};
use connection::{Connector, Request, client_config};
use follow::Follower;
use schema::Schema;
use server::{Known, Server};
use servers::Servers;

/// LDAP servers with connections of one worker's own, so that no answer travels from one thread to another.
pub(super) struct Ldap {
    common: Arc<Common>,
    servers: Servers,
}

/// What all workers share.
struct Common {
    schema: Schema,
    servers: Vec<Arc<Known>>,
    hedge_after: Duration,
    bind_connections: usize,
    tasks: Tasks,
}

/// LDAP result codes (RFC 4511, 4.1.9).
mod code {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const PROTOCOL_ERROR: u32 = 2;
    pub(super) const TIME_LIMIT_EXCEEDED: u32 = 3;
    pub(super) const SIZE_LIMIT_EXCEEDED: u32 = 4;
    pub(super) const ADMIN_LIMIT_EXCEEDED: u32 = 11;
    pub(super) const UNAVAILABLE_CRITICAL_EXTENSION: u32 = 12;
    pub(super) const CONSTRAINT_VIOLATION: u32 = 19;
    pub(super) const NO_SUCH_OBJECT: u32 = 32;
    pub(super) const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
    pub(super) const INVALID_CREDENTIALS: u32 = 49;
    pub(super) const INSUFFICIENT_ACCESS_RIGHTS: u32 = 50;
    pub(super) const BUSY: u32 = 51;
    pub(super) const UNAVAILABLE: u32 = 52;
    pub(super) const UNWILLING_TO_PERFORM: u32 = 53;
    /// RFC 4533, 2.6.
    pub(super) const SYNC_REFRESH_REQUIRED: u32 = 4096;
    pub(super) const REFERRAL: u32 = 10;

    /// What a code that says no is called, of those that searches and binds get.
    pub(super) const fn name(code: u32) -> Option<&'static str> {
        Some(match code {
            1 => "operationsError",
            PROTOCOL_ERROR => "protocolError",
            TIME_LIMIT_EXCEEDED => "timeLimitExceeded",
            SIZE_LIMIT_EXCEEDED => "sizeLimitExceeded",
            7 => "authMethodNotSupported",
            8 => "strongerAuthRequired",
            REFERRAL => "referral",
            ADMIN_LIMIT_EXCEEDED => "adminLimitExceeded",
            UNAVAILABLE_CRITICAL_EXTENSION => "unavailableCriticalExtension",
            13 => "confidentialityRequired",
            18 => "inappropriateMatching",
            CONSTRAINT_VIOLATION => "constraintViolation",
            NO_SUCH_OBJECT => "noSuchObject",
            34 => "invalidDNSyntax",
            INAPPROPRIATE_AUTHENTICATION => "inappropriateAuthentication",
            INVALID_CREDENTIALS => "invalidCredentials",
            INSUFFICIENT_ACCESS_RIGHTS => "insufficientAccessRights",
            BUSY => "busy",
            UNAVAILABLE => "unavailable",
            UNWILLING_TO_PERFORM => "unwillingToPerform",
            80 => "other",
            SYNC_REFRESH_REQUIRED => "e-syncRefreshRequired",
            _ => return None,
        })
    }
}

impl Ldap {
    /// Checks the settings; connects to nothing. Where changes are followed, more is asked for of each entry.
    pub(super) fn new(
        settings: LdapSettings,
        follows: bool,
        metrics: &Metrics,
        tasks: Tasks,
    ) -> Result<Arc<Self>, LdapSetupError> {
        if let ServiceAccount::Simple { password, .. } = &settings.service
            && (password.is_empty() || std::str::from_utf8(password.expose()).is_err())
        {
            return Err(LdapSetupError::BindPassword);
        }
        if settings.servers.is_empty() {
            return Err(LdapSetupError::NoServer);
        }
        let schema = Schema::new(settings.schema, follows)?;
        let is_encrypted = settings.start_tls || settings.servers.iter().any(|uri| uri.tls);
        let tls = is_encrypted
            .then(|| client_config(settings.ca_file.as_deref(), settings.client.as_ref()));
        let tls = tls.transpose()?.map(Arc::new);
        let service = Arc::new(settings.service);
        let servers = settings.servers.into_iter().map(|uri| {
            let connector = Connector::new(uri, tls.clone(), settings.start_tls, tasks.clone());
            let service = Arc::clone(&service);
            let probe = schema.probe();
            let known = Known::new(connector, service, probe, metrics.clone(), tasks.clone());
            Arc::new(known)
        });
        let servers = servers.collect();
        let common = Common {
            schema,
            servers,
            hedge_after: settings.hedge_after,
            bind_connections: settings.bind_connections.max(1),
            tasks,
        };
        Ok(Self::with_share(Arc::new(common), 1))
    }

    /// The same servers with connections of its own: for one of so many workers, its share of all that there may be.
    pub(super) fn for_worker(&self, workers: usize) -> Arc<Self> {
        Self::with_share(Arc::clone(&self.common), workers.max(1))
    }

    fn with_share(common: Arc<Common>, workers: usize) -> Arc<Self> {
        let server = |known| {
            Arc::new(Server::new(
                Arc::clone(known),
                common.bind_connections,
                workers,
            ))
        };
        let servers = common.servers.iter().map(server).collect();
        Arc::new(Self {
            servers: Servers::new(servers, common.hedge_after, common.tasks.clone()),
            common,
        })
    }

    /// Follows what changes below each base, for as long as the process runs.
    pub(super) fn follow(
        &self,
        live: &Arc<Live>,
        settings: FollowSettings,
        timeout: Duration,
        metrics: &Metrics,
    ) {
        for base in 0..self.common.schema.bases() {
            let (common, live) = (Arc::clone(&self.common), Arc::clone(live));
            let follower = Follower::new(common, base, live, (settings, timeout), metrics);
            self.common.tasks.background("follower", follower.run());
        }
    }

    /// Tries each server with what it will be asked, and how changes can be followed at it.
    pub(super) async fn examine(&self, timeout: Duration, by: Follow) -> Vec<Examined> {
        let (mut all, schema) = (Vec::new(), &self.common.schema);
        for server in &self.common.servers {
            let begun = Instant::now();
            let mut problems = server.examine(schema, begun + timeout).await;
            let took = begun.elapsed();
            let mut notes = Vec::new();
            if problems.is_empty() {
                let deadline = Instant::now() + timeout;
                let found = follow::examine(server, schema, by, deadline).await;
                (problems, notes) = (found.problems, found.notes);
            }
            all.push(Examined {
                server: server.name.clone(),
                took,
                problems,
                notes,
            });
        }
        all
    }

    /// What the servers are called.
    pub(super) fn server_names(&self) -> impl Iterator<Item = &str> {
        self.common
            .servers
            .iter()
            .map(|server| server.name.as_str())
    }

    /// What a server is called, by its place in the list.
    pub(super) fn server_name(&self, place: usize) -> Option<String> {
        let server = self.common.servers.get(place)?;
        Some(server.name.clone())
    }

    /// Whether the servers verify passwords.
    pub(super) fn verifies(&self) -> bool {
        self.common.schema.verify == Verify::Bind
    }

    /// The one entry that matches.
    pub(super) async fn find(
        &self,
        question: Question<'_>,
        deadline: Instant,
    ) -> Result<Found, LookupError> {
        for (base, search) in self.common.schema.searches(question) {
            let search = Request::Search(search);
            let answer = self.servers.ask(search, 0, deadline).await;
            let (reply, server) = answer.map_err(LookupError::Unavailable)?;
            match self.common.schema.found(question, base, reply) {
                Err(LookupError::Wrong(Wrong::Unknown)) => {}
                found => return found.map(|found| Found { server, ..found }),
            }
        }
        Err(Wrong::Unknown.into())
    }

    /// Binds as the entry that was found, which says whether `password` is its password.
    pub(super) async fn bind(
        &self,
        found: &Found,
        password: &Secret,
        deadline: Instant,
    ) -> Result<(), LookupError> {
        // An empty one would be an unauthenticated bind (RFC 4513, 5.1.2), which succeeds whoever asks.
        let is_text = std::str::from_utf8(password.expose()).is_ok();
        if !is_text || password.is_empty() || found.id.is_empty() {
            return Err(Wrong::Password.into());
        }
        let bind = Request::Bind {
            dn: found.id.clone(),
            password: password.clone(),
        };
        let answer = self.servers.ask(bind, found.server, deadline).await;
        let (reply, _) = answer.map_err(LookupError::Unavailable)?;
        match reply.code {
            code::SUCCESS => Ok(()),
            // How 389 Directory Server and others say that an account is locked; about the entry, since the server binds others.
            code::UNWILLING_TO_PERFORM => Err(Wrong::Disabled.into()),
            // And that there were too many wrong passwords: another server, which counts for itself, is not asked.
            code::CONSTRAINT_VIOLATION => {
                let text = format!("{}: the server takes no more tries for now", found.id);
                Err(LookupError::Entry(text))
            }
            // The entry is gone since it was found, has no password, or has another one.
            _ => Err(Wrong::Password.into()),
        }
    }

    /// Whether a server answers: a connection for searches can be had, and it looks for a name.
    pub(super) async fn is_reachable(&self, deadline: Instant) -> bool {
        let probe = Request::Probe(self.common.schema.probe());
        self.servers.ask(probe, 0, deadline).await.is_ok()
    }

    /// Whether no server is up, as far as is known.
    pub(super) fn is_away(&self) -> bool {
        !self.common.servers.iter().any(|server| server.is_up())
    }

    /// How many connections wait to be bound on.
    #[cfg(test)]
    pub(super) fn kept_for_binds(&self) -> usize {
        self.servers.kept_for_binds()
    }

    /// How many questions go on although another server has answered.
    #[cfg(test)]
    pub(super) fn count_overtaken(&self) -> usize {
        self.servers.count_overtaken()
    }
}

/// Nothing that is kept under these locks can be left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
