//! Handing a session to the real server of this node.
//!
//! Three kinds: `login` and `exec` for IMAP and POP3, `dovecot-imap-master` for IMAP. For each session: the context is checked against the node's own bounds, the session is
//! counted (`sessions`), the home is opened or made (`home`), the real server gets it (`login`, `exec`, `imap_master`), and the
//! verdict goes to the front.
//!
//! | kind | the real server gets | then | verdict written by | log of the real server |
//! | --- | --- | --- | --- | --- |
//! | `login` | a connection of ours, a master login, the client in `ID`, `XCLIENT` or a PROXY header | we relay | us | at login: `imap-login: Info: Login: user=<u>, method=PLAIN, rip=CLIENT, lip=LOCAL, ..., session=<ID>`; at the end `imap(u)<pid><ID>` (client address and id need `login_trusted_networks`; for POP3 `lip` is Dovecot's own); what Cyrus and Courier log is in the manual |
//! | `exec`, plain link | the link's socket, as the user | we look after the process | us | on its error stream, which goes to our log; for Dovecot as below, but for the id |
//! | `exec`, link under TLS | one end of a socket pair, as the user | we relay, and look after the process | us | the same |
//! | `dovecot-imap-master`, plain link | the link's socket | we are out | Dovecot | no login line; at the end `imap(u)<pid><ID>`; the client address only where `mail_log_prefix` has `%r` |
//! | `dovecot-imap-master`, link under TLS | one end of a socket pair | we relay | Dovecot, through the relay | the same |
//!
//! ```text
//! bounds ──> count ──> home ──> real server ──┬── Handed::Relay   the verdict is written, or comes out of `server`
//!    │         │        │           │         ├── Handed::Started a process has it; relayed where the link is under TLS
//!    │         │        │           │         └── Handed::Gone    the socket is Dovecot's
//!    └─────────┴────────┴───────────┴──> Refused, and a verdict that says so
//! ```
//!
//! It does not admit links and does not relay. It reads nothing from the link: what follows the link's records belongs to
//! the real server. It trusts no name of the context: uid 0 is refused whatever the bounds say.
//!
//! Limits: `timeout` for all of it; `sessions_per_account`. On failure the front hears one of four words ([`Refused::refusal`])
//! and the caller has the cause for the log. When nobody knows whether Dovecot has the socket, it is shut down and the
//! front sees the end of the stream.

mod exec;
mod imap_master;
mod journal;
mod login;
mod plain;
mod sessions;
mod settings;
mod trial;
mod version;
mod witness;

use std::{collections::HashMap, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout, timeout_at},
};

use self::{
    exec::Spawner, imap_master::Passed, login::LoggedIn, sessions::Sessions, witness::Witness,
};
pub use self::{
    exec::{ExecSettings, Exit, Server, SpawnerError},
    imap_master::MasterError,
    journal::JournalError,
    login::LoginSettings,
    sessions::SessionGuard,
    settings::{Kind, Settings},
    version::{VersionError, check_exec, check_imap_master},
};
use crate::{
    home::{Home, HomeError},
    metrics::Metrics,
    names::{AccountName, Protocol, Service},
    net::{Address, Stream},
    proto::{
        encode::EncodeError,
        link::{Context, Opening, Refusal, Verdict},
        login::LoginError,
        template::Values,
    },
    tasks::Tasks,
};

/// For the verdict of a session that is refused; the front may be gone.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// In place of a timeout that is longer than the clock can say.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// Between the node process before this one and the one after.
#[derive(Debug, Default)]
pub struct Succession {
    /// What makes `sessions_file` the predecessor's, if there is one that has it.
    pub lock: Option<OwnedFd>,
    /// Whether another process may take this one's place: then all sessions are written down.
    pub is_expected: bool,
}

/// A session that the real server has.
#[derive(Debug)]
pub enum Handed {
    /// With its socket: nothing is left to do. It stays counted until the socket is dead.
    Gone,
    /// With a process of its own, which is to be looked after until it exits.
    Started {
        /// That process. It counts the session.
        server: Server,
        /// The front and the real server's socket, to relay between; none: the process has the link itself.
        relayed: Option<(Stream, Stream)>,
    },
    /// Relay between these until both have ended; first write `pending` to the link.
    Relay {
        /// The front.
        link: Stream,
        /// The real server.
        server: Stream,
        /// What it said past its login.
        pending: Bytes,
        /// Counts the session; dropped when the relay has ended.
        session: SessionGuard,
    },
}

/// Why sessions can't be handed over as configured.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// They can't be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// This process can't start servers.
    #[error(transparent)]
    Spawner(#[from] SpawnerError),
    /// The installed server can't do it.
    #[error(transparent)]
    Version(#[from] VersionError),
}

/// Why a session was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The context asks for what this node does not give.
    #[error("{0}")]
    Bounds(&'static str),
    /// The real server can't be reached.
    #[error("cannot connect to {server}")]
    Connect {
        /// Where it should listen.
        server: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something of the context can't be written in the real server's protocol.
    #[error("cannot name the session to the real server")]
    Encode(#[from] EncodeError),
    /// The home can't be used.
    #[error("home is not usable")]
    Home(#[from] HomeError),
    /// The account has as many sessions as it may.
    #[error("account has {0} sessions, as many as it may")]
    Limit(u32),
    /// The front is gone, or its socket is broken.
    #[error("link failed")]
    Link(#[source] io::Error),
    /// The real server does not log the account in.
    #[error("login at the real server failed")]
    Login(#[source] LoginError),
    /// Dovecot does not take the socket.
    #[error("dovecot does not take the session")]
    Master(#[from] MasterError),
    /// The connection to the real server failed.
    #[error("real server failed")]
    Server(#[source] io::Error),
    /// This node does not serve that.
    #[error("service {} is not served here", .0.as_str())]
    Service(Service),
    /// Its process could not be started.
    #[error("cannot start the real server")]
    Start(#[source] io::Error),
    /// It took too long.
    #[error("real server gave no answer in time")]
    Timeout,
    /// It does not begin as configured.
    #[error("{exit}")]
    Trial {
        /// How its process ended.
        exit: Exit,
        /// What is wrong with its opening.
        #[source]
        error: io::Error,
    },
}

impl Refused {
    /// What the front hears of it.
    pub const fn refusal(&self) -> Refusal {
        match self {
            Self::Bounds(_) => Refusal::Forbidden,
            Self::Home(error) if error.is_forbidden() => Refusal::Forbidden,
            Self::Limit(_) => Refusal::Limit,
            Self::Login(LoginError::Refused { refusal, .. }) => *refusal,
            Self::Connect { .. }
            | Self::Encode(_)
            | Self::Home(_)
            | Self::Link(_)
            | Self::Login(_)
            | Self::Master(_)
            | Self::Server(_)
            | Self::Service(_)
            | Self::Start(_)
            | Self::Timeout
            | Self::Trial { .. } => Refusal::Unavailable,
        }
    }
}

/// A session that was not handed over, with what is left of it.
struct Failed {
    refused: Refused,
    /// The link, if a verdict can still be written to it.
    link: Option<Stream>,
}

impl Failed {
    fn new(link: Stream, refused: impl Into<Refused>) -> Self {
        Self {
            refused: refused.into(),
            link: Some(link),
        }
    }

    fn without_link(refused: impl Into<Refused>) -> Self {
        Self {
            refused: refused.into(),
            link: None,
        }
    }
}

/// Hands sessions over. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Handover {
    settings: Arc<Settings>,
    sessions: Arc<Sessions>,
    /// What starts servers, if a kind needs that.
    spawner: Option<Spawner>,
    metrics: Metrics,
    /// Whether sessions that this process relays are written down too.
    writes_all: bool,
}

impl Handover {
    /// Checks that the real server can do what is configured, starts looking after sockets that were given away, and tries
    /// the configured kind once (the result goes to the log: the real server may start later than this process). Called
    /// from within the runtime.
    ///
    /// # Errors
    ///
    /// When the installed Dovecot does not have the configured kind, sessions can't be written down, or this process can't
    /// start servers and is to.
    pub fn new(
        settings: Settings,
        succession: Succession,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        settings.check()?;
        let starts_servers = settings.starts_servers();
        let spawner = starts_servers.then(Spawner::new).transpose()?;
        let gives_away = settings.gives_away();
        // Sessions live on that a kind has given away which is not configured any more.
        let Succession { lock, is_expected } = succession;
        let journal = (gives_away || is_expected || settings.sessions_file.exists())
            .then_some(settings.sessions_file.as_path());
        let sessions = match Sessions::new(metrics.sessions_open.clone(), journal, lock) {
            // What another process has is about its own sessions, and we need none.
            Err(JournalError::InUse { .. }) if !gives_away => {
                Sessions::new(metrics.sessions_open.clone(), None, None)?
            }
            sessions => sessions?,
        };
        let sessions = Arc::new(sessions);
        let swept = sessions::look_after(Arc::clone(&sessions), tasks.clone());
        tasks.background("session sweep", swept);
        let lasting = (sessions, is_expected);
        Ok(Self::with_sessions(
            settings, lasting, spawner, metrics, tasks,
        ))
    }

    /// The same sessions, handed over otherwise from now on. Kinds that start servers or give sessions away need what was set up
    /// for such kinds at the start.
    ///
    /// # Errors
    ///
    /// When an installed server does not have the configured kind.
    pub fn with(&self, settings: Settings, tasks: &Tasks) -> Result<Self, StartError> {
        settings.check()?;
        let lasting = (Arc::clone(&self.sessions), self.writes_all);
        let (spawner, metrics) = (self.spawner.clone(), self.metrics.clone());
        Ok(Self::with_sessions(
            settings, lasting, spawner, metrics, tasks,
        ))
    }

    fn with_sessions(
        settings: Settings,
        (sessions, writes_all): (Arc<Sessions>, bool),
        spawner: Option<Spawner>,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Self {
        let settings = Arc::new(settings);
        for protocol in [Protocol::Imap, Protocol::Pop3] {
            let test = trial::report(protocol, Arc::clone(&settings), spawner.clone());
            tasks.background("handover self-test", test);
        }
        Self {
            settings,
            sessions,
            spawner,
            metrics,
            writes_all,
        }
    }

    /// What makes `sessions_file` this process's, for the one that takes its place.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn lock(&self) -> io::Result<Option<OwnedFd>> {
        self.sessions.lock()
    }

    /// Which accounts have how many sessions here, over all kinds.
    pub fn sessions(&self) -> HashMap<AccountName, u32> {
        self.sessions.counts()
    }

    /// Starts the session of `context` at the real server of `service`. `verdict` makes the record that tells the front,
    /// for whoever writes it to `link`.
    ///
    /// # Errors
    ///
    /// When the session is refused or fails; the front has been told, as far as it could be.
    pub async fn hand_over(
        &self,
        link: Stream,
        service: Service,
        context: &Context,
        verdict: impl Fn(&Verdict) -> Vec<u8>,
    ) -> Result<Handed, Refused> {
        let kind = self.settings.kind(service);
        let label = kind.map_or("none", Kind::as_str);
        let seconds = self.metrics.stage_seconds.with_label_values(&["hand-over"]);
        let timer = seconds.start_timer();
        let result = match kind {
            Some(kind) => self.start(link, service, kind, context, &verdict).await,
            None => Err(Failed::new(link, Refused::Service(service))),
        };
        let count = |result| {
            self.metrics
                .handovers
                .with_label_values(&[label, result])
                .inc()
        };
        match result {
            Ok(handed) => {
                timer.observe_duration();
                count("ok");
                Ok(handed)
            }
            Err(Failed { refused, link }) => {
                timer.stop_and_discard();
                let refusal = refused.refusal();
                count(result_label(refusal));
                if let Some(mut link) = link {
                    let record = verdict(&Verdict::Refused(refusal));
                    // The front may be gone; the cause is told to the caller either way.
                    let _ = timeout(REFUSAL_TIMEOUT, write(&mut link, &record)).await;
                }
                Err(refused)
            }
        }
    }

    async fn start(
        &self,
        link: Stream,
        service: Service,
        kind: &Kind,
        context: &Context,
        verdict: &impl Fn(&Verdict) -> Vec<u8>,
    ) -> Result<Handed, Failed> {
        // A deadline beyond what the clock can say is none.
        let deadline = Instant::now()
            .checked_add(self.settings.timeout)
            .unwrap_or_else(|| Instant::now() + NO_DEADLINE);
        let prepared = timeout_at(deadline, self.prepare(context)).await;
        let (mut session, home) = match prepared.unwrap_or(Err(Refused::Timeout)) {
            Ok(prepared) => prepared,
            Err(refused) => return Err(Failed::new(link, refused)),
        };
        let is_relayed = match (&link, kind) {
            (_, Kind::Login(_)) | (Stream::TlsClient(_) | Stream::TlsServer(_), _) => true,
            (Stream::Tcp(_) | Stream::Unix(_), _) => false,
        };
        if self.writes_all
            && is_relayed
            && let Ok(witness) = Witness::link(&link)
        {
            self.sessions.write_down(&mut session, witness);
        }
        match kind {
            Kind::DovecotImapMaster { .. } if service != Service::Imap => {
                Err(Failed::new(link, Refused::Service(service)))
            }
            Kind::DovecotImapMaster { socket } => {
                let output = verdict(&Verdict::Ok(Opening::Capability));
                let request = imap_master::Request {
                    context,
                    home: &home,
                    output: &output,
                };
                let passed = imap_master::pass(link, socket, &request, deadline).await?;
                Ok(self.handed(passed, session))
            }
            Kind::Exec(settings) => {
                let Some(spawner) = &self.spawner else {
                    return Err(Failed::new(link, Refused::Service(service)));
                };
                let home = &home;
                let values = Values { context, home };
                let start = exec::Start {
                    spawner,
                    settings,
                    values: &values,
                    sessions: &self.sessions,
                    deadline,
                };
                start.run(link, session, verdict).await
            }
            Kind::Login(settings) => {
                let started = login::start(service, settings, context, &home);
                let started = timeout_at(deadline, started).await;
                match started.unwrap_or(Err(Refused::Timeout)) {
                    Ok(logged_in) => relay(link, logged_in, session, deadline, verdict).await,
                    Err(refused) => Err(Failed::new(link, refused)),
                }
            }
        }
    }

    /// Checks what the context asks for, counts the session, opens or makes the home; its path is absolute.
    async fn prepare(&self, context: &Context) -> Result<(SessionGuard, String), Refused> {
        let bounds = &self.settings.bounds;
        let (uid, gid) = (context.uid, context.gid);
        bounds.check(uid, gid).map_err(Refused::Bounds)?;
        let home = Home::locate(&bounds.home_root, &context.home)?;
        let path = home.path();
        let limit = self.settings.sessions_per_account;
        let (account, protocol) = (context.account.clone(), context.protocol);
        let sessions = Arc::clone(&self.sessions);
        // As soon as it can be: what waits for a thread counts too.
        let reserved = sessions.try_reserve(&account, protocol, limit);
        if reserved.is_none() && !sessions.has_given_away(&account) {
            return Err(Refused::Limit(limit));
        }
        let reserved = match reserved {
            Some(session) if home.is_at_hand(uid) => return Ok((session, path)),
            reserved => reserved,
        };
        // A file system that hangs must not hang the event loop, nor must the kernel's answer about sockets. The thread keeps
        // the session counted even when nobody waits any more: threads are bounded in number, and one account's home must
        // not take them all.
        let prepared = tokio::task::spawn_blocking(move || {
            let session = reserved
                .or_else(|| sessions.reserve(&account, protocol, limit))
                .ok_or(Refused::Limit(limit))?;
            home.prepare(uid, gid)?;
            Ok(session)
        });
        match prepared.await {
            Ok(prepared) => prepared.map(|session| (session, path)),
            Err(error) => Err(Refused::Home(HomeError::Io {
                path,
                source: io::Error::other(error),
            })),
        }
    }

    fn handed(&self, passed: Passed, session: SessionGuard) -> Handed {
        match passed {
            Passed::Link(witness) => {
                self.sessions.give_away(session, witness);
                Handed::Gone
            }
            Passed::Pair { link, server } => Handed::Relay {
                link,
                server,
                pending: Bytes::new(),
                session,
            },
        }
    }
}

/// Tells the front that its session is logged in.
async fn relay(
    mut link: Stream,
    logged_in: LoggedIn,
    session: SessionGuard,
    deadline: Instant,
    verdict: &impl Fn(&Verdict) -> Vec<u8>,
) -> Result<Handed, Failed> {
    let LoggedIn {
        server,
        capabilities,
        pending,
    } = logged_in;
    let record = verdict(&Verdict::Ok(Opening::Ready(capabilities)));
    match timeout_at(deadline, write(&mut link, &record)).await {
        Ok(Ok(())) => Ok(Handed::Relay {
            link,
            server,
            pending,
            session,
        }),
        // A record that was written in part can't be followed by another.
        Ok(Err(error)) => Err(Failed::without_link(Refused::Link(error))),
        Err(_) => Err(Failed::without_link(Refused::Link(
            io::ErrorKind::TimedOut.into(),
        ))),
    }
}

async fn write(link: &mut Stream, octets: &[u8]) -> io::Result<()> {
    link.write_all(octets).await?;
    link.flush().await
}

const fn result_label(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Forbidden => "forbidden",
        Refusal::InUse => "in-use",
        Refusal::Limit => "limit",
        Refusal::Unavailable => "unavailable",
    }
}

#[cfg(test)]
mod tests;
