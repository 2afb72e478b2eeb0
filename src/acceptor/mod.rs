//! The acceptor: from an admitted link to a session with the real server.
//!
//! ```text
//! link, opened for a session ─> hand over, verdict ─┬─> step aside
//!                                                   ├─> look after a process ─> outcome line
//!                                                   └─> relay ────────────────> outcome line
//! ```
//!
//! A proven peer always gets a verdict. Nothing past the link's own records is read: it belongs to the real server. A server
//! that was started for a session is looked after until it exits or this process stops, and lives on then, unless it needs
//! the relay.
//!
//! It does not admit links: `link::gate` does, and gives each its place, which a relayed session keeps until it ends.
//! Limits: sessions per account.

mod settings;
#[cfg(test)]
mod tests;

pub use settings::Settings;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt as _, sync::OwnedSemaphorePermit, time::timeout};

use crate::{
    handover::{Exit, Handed, Handover, Refused, Server, SessionGuard},
    names::KeyId,
    net::Stream,
    outcome::{Outcome, chain},
    proto::link::{Context, Refusal, node::VerdictSeal},
    relay::{End, Ended, Relay},
    tasks::Tasks,
};

/// How long a front may take for what the real server said right behind its login.
const PENDING_TIMEOUT: Duration = Duration::from_secs(10);
/// The acceptor role. Clones share everything.
#[derive(Clone, Debug)]
pub struct Acceptor {
    parts: Arc<Parts>,
}

/// What the acceptor works with.
#[derive(Debug)]
pub struct Parts {
    /// The way to the real servers.
    pub handover: Handover,
    /// What moves the bytes where a kind needs that.
    pub relay: Relay,
    /// Tasks.
    pub tasks: Tasks,
}

impl Acceptor {
    /// Puts the acceptor together.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// The way to the real servers, for whoever takes the place of this one.
    pub fn handover(&self) -> &Handover {
        &self.parts.handover
    }

    /// What moves the bytes, likewise.
    pub fn relay(&self) -> &Relay {
        &self.parts.relay
    }

    /// One link that is opened for a session, from its verdict to its log line. `stream`'s next octet is the client's, `seal`
    /// makes the verdict, `permit` is the link's place.
    pub async fn serve(
        self,
        stream: Stream,
        context: Context,
        key_id: KeyId,
        seal: VerdictSeal,
        permit: OwnedSemaphorePermit,
    ) {
        let started = Instant::now();
        let service = context.protocol.service();
        let handed = self
            .parts
            .handover
            .hand_over(stream, service, &context, |verdict| seal.verdict(verdict))
            .await;
        let session = Session {
            context,
            key_id,
            started,
        };
        match handed {
            Ok(Handed::Gone) => session.line("handed over", None),
            Ok(Handed::Started {
                server,
                relayed: None,
            }) => {
                let watched = watch(server, session, self.parts.tasks.clone());
                self.parts.tasks.spawn("started server", watched);
            }
            Ok(Handed::Started {
                server: process,
                relayed: Some((link, server)),
            }) => self.begin_relay(session, link, server, Behind::Process(process), permit),
            Ok(Handed::Relay {
                mut link,
                server,
                pending,
                session: guard,
            }) => match write_pending(&mut link, &pending).await {
                Ok(()) => {
                    let behind = Behind::Login {
                        guard,
                        told: pending.len(),
                    };
                    self.begin_relay(session, link, server, behind, permit);
                }
                Err(error) => {
                    session.line(Outcome::Broken.as_str(), Some(&not_begun(error)));
                }
            },
            Err(refused) => session.refused_line(&refused),
        }
    }

    fn begin_relay(
        self,
        session: Session,
        link: Stream,
        server: Stream,
        behind: Behind,
        permit: OwnedSemaphorePermit,
    ) {
        let relayed = Relayed {
            session,
            link,
            server,
            behind,
            _permit: permit,
        };
        let tasks = self.parts.tasks.clone();
        tasks.spawn("session", self.serve_relayed(Box::new(relayed)));
    }

    /// Moves bytes for a session whose kind keeps us in the path.
    async fn serve_relayed(self, relayed: Box<Relayed>) {
        let Relayed {
            session,
            link,
            server,
            behind,
            _permit,
        } = *relayed;
        let Parts { relay, tasks, .. } = &*self.parts;
        let moved = relay.run(link, server, tasks.cut_requested());
        match behind {
            Behind::Login { guard, told } => {
                let ended = moved.await.after(told, 0);
                drop(guard);
                session.line(ended.outcome().as_str(), Some(&ended));
            }
            Behind::Process(mut server) => {
                // Its end is waited for even when both sides have closed; a drain that is over waits no more.
                let exit = async {
                    tokio::select! {
                        biased;
                        exit = server.exit() => Some(exit),
                        () = tasks.cut_requested() => None,
                    }
                };
                match tokio::join!(moved, exit) {
                    // A server that has said nothing has served nobody.
                    (ended, Some(exit)) if !exit.is_success() || ended.to_client == 0 => {
                        session.failed_line(&exit, Some(&ended));
                    }
                    (ended, _) => session.line(ended.outcome().as_str(), Some(&ended)),
                }
            }
        }
    }
}

/// A session that was opened, for its line.
struct Session {
    context: Context,
    key_id: KeyId,
    started: Instant,
}

/// A session that needs us in the path.
struct Relayed {
    session: Session,
    link: Stream,
    server: Stream,
    behind: Behind,
    /// The link's place under the limit.
    _permit: OwnedSemaphorePermit,
}

/// What is behind the real server's socket, and counts the session.
enum Behind {
    /// With the octets that the server has said right behind its login.
    Login {
        guard: SessionGuard,
        told: usize,
    },
    Process(Server),
}

/// Looks after a server that has the link itself, for as long as this process is there to do so.
async fn watch(mut server: Server, session: Session, tasks: Tasks) {
    let exit = tokio::select! {
        biased;
        exit = server.exit() => exit,
        () = tasks.retired() => return session.line("handed over", None),
    };
    if exit.is_success() {
        session.served_line(&exit);
    } else {
        session.failed_line(&exit, None);
    }
}

/// Gives the front what the real server said right behind its login.
async fn write_pending(link: &mut Stream, pending: &[u8]) -> io::Result<()> {
    let write = async {
        link.write_all(pending).await?;
        link.flush().await
    };
    timeout(PENDING_TIMEOUT, write).await?
}

/// The end of a session whose front has gone before the relay began.
const fn not_begun(error: io::Error) -> Ended {
    Ended {
        to_client: 0,
        to_server: 0,
        by: End::ClientError(error),
    }
}

// === impl Session ===

/// Logs a session's one line on the node.
macro_rules! line {
    ($level:ident, $session:ident, $outcome:expr, $reason:expr, $ended:expr) => {{
        let Session { context, key_id, started } = $session;
        let ended: Option<&Ended> = $ended;
        tracing::$level!(
            session = %context.session,
            account = context.account.as_str(),
            client = %context.client,
            local = %context.local,
            protocol = context.protocol.as_str(),
            tls = context.tls.as_ref().map(|tls| tls.version.as_str()),
            cipher = context.tls.as_ref().map(|tls| tls.cipher.as_str()),
            key = %key_id,
            outcome = $outcome,
            reason = $reason,
            bytes_out = ended.map(|ended| ended.to_client),
            bytes_in = ended.map(|ended| ended.to_server),
            duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "session ended"
        )
    }};
}

impl Session {
    /// The line of a session that was handed over.
    fn line(&self, outcome: &str, ended: Option<&Ended>) {
        let reason = ended.map(|ended| ended.by.to_string());
        line!(info, self, outcome, reason, ended);
    }

    /// The line of a session whose server has ended as it should, as far as that can be seen from here.
    fn served_line(&self, exit: &Exit) {
        line!(info, self, Outcome::Served.as_str(), exit.to_string(), None);
    }

    /// The line of a session whose server did not end as it should.
    fn failed_line(&self, exit: &Exit, ended: Option<&Ended>) {
        line!(warn, self, "failed", exit.to_string(), ended);
    }

    /// The line of a session that was not handed over: a limit or a mailbox in use is no trouble of ours, and a front that has
    /// gone none of the node's.
    fn refused_line(&self, refused: &Refused) {
        let reason = chain(refused);
        match (refused, refused.refusal()) {
            (_, Refusal::InUse | Refusal::Limit) => line!(info, self, "refused", reason, None),
            (Refused::Link(_), _) => line!(warn, self, "refused", reason, None),
            (_, _) => line!(error, self, "refused", reason, None),
        }
    }
}
