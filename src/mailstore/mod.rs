//! The mailStore-forward listener's role on a node: from an admitted link to mailboxes.
//!
//! ```text
//! link, opened for mail ─> verdict, 220 ─> MAIL, RCPT, DATA ─┬─ maildir: spool ─> written as the account ──┬─> one answer
//!          ^                                                 └─ lmtp: straight on to the node's own server ─┘   for each
//!          └──────────────────────────────── the next message <────────────────────────────────────────────────┘
//! ```
//!
//! A link carries one message after the other. What is known of a message and of its recipients comes with it, in the
//! private parameter of MAIL and RCPT; who leaves it out is not one of our fronts, and stores nothing. What the front claims is
//! checked against the node's own bounds at RCPT: uid and gid, the home's place.
//!
//! 250 means stored, whatever breaks later; who hears anything else, or nothing, brings the message again. A message that has
//! passed more than [`MAX_HOPS`] deliveries goes in circles.
//!
//! Limits: size and recipients of a message, time for each step ([`Settings`]); links by the gate. When the process stops, links
//! between messages are closed, and messages under way get the time of the drain. When another process has taken its place, a link
//! is closed once it has brought a message, so that the next one comes to that process. What is closed so had no dot, or
//! has its answers.

mod header;
mod maildir;
mod ordered;
mod report;
mod server;
mod settings;
#[cfg(test)]
mod tests;

pub use self::settings::{Kind, MaildirSettings, Naming, ServerSettings, Settings};
pub use crate::store::StartError;

use std::sync::Arc;

use tokio::{
    io::AsyncWriteExt as _,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use self::{
    maildir::Maildir,
    report::{Reporter, Subject, Target, Verdict},
    server::Server,
};
use crate::{
    home::{Bounds, Home},
    lmtp::{Interrupted, Reception, Timeouts, Transfer},
    metrics::Metrics,
    names::{KeyId, SessionId},
    net::Stream,
    outcome::chain,
    proto::{
        link::{
            self, MailContext, Opening,
            context::mail::{KEYWORD, MAX_HOPS, MAX_LINE_BYTES, MessageFacts, RecipientFacts},
            node::VerdictSeal,
        },
        lmtp::{self, Cause, Closed, Envelope, Event, LineEnds, Recipient, client},
    },
    store::{self, Store},
    tasks::{Part, Tasks},
};

/// Homes that are opened or made at one time.
const HOMES_AT_ONCE: usize = 16;

/// The mailstore role. Clones share everything.
#[derive(Clone, Debug)]
pub struct Mailstore {
    inner: Arc<Inner>,
}

/// What the mailstore works with.
#[derive(Debug)]
pub struct Parts {
    /// Its settings.
    pub settings: Settings,
    /// What accounts may ask for.
    pub bounds: Bounds,
    /// Counters.
    pub metrics: Metrics,
    /// Tasks.
    pub tasks: Tasks,
}

#[derive(Debug)]
struct Inner {
    way: Way,
    lmtp: lmtp::Settings,
    timeouts: Timeouts,
    bounds: Bounds,
    /// Places for threads that open or make homes.
    homes: Arc<Semaphore>,
    reporter: Reporter,
    part: Part,
}

/// How messages are stored.
#[derive(Debug)]
enum Way {
    Lmtp(Server),
    Maildir(Maildir),
}

/// A message that its link is about to bring.
#[derive(Debug)]
struct Message {
    envelope: Envelope<Target>,
    facts: MessageFacts,
    subject: Subject,
}

/// What stays of a link between messages.
#[derive(Debug)]
struct Link {
    reception: Reception<Target>,
    /// The connection to the node's server, if that is how messages are stored.
    server: Option<Transfer>,
    /// It has brought what it was opened for.
    has_served: bool,
    /// Who opened it.
    session: SessionId,
    key_id: KeyId,
}

impl Mailstore {
    /// Puts the mailstore together. Whether the node's own server answers is tried in the background, and said if not.
    ///
    /// # Errors
    ///
    /// Whatever keeps messages from being stored as files.
    pub fn new(parts: Parts) -> Result<Self, StartError> {
        let mailstore = Self::assemble(parts)?;
        let inner = Arc::clone(&mailstore.inner);
        let check = async move { inner.way.check().await };
        let tasks = mailstore.inner.part.tasks();
        tasks.background("mailstore check", check);
        Ok(mailstore)
    }

    /// Another one takes its place: links between messages are closed, as when the process stops, so that the next message comes to
    /// that one.
    pub fn give_way(&self) {
        self.inner.part.stop();
    }

    fn assemble(parts: Parts) -> Result<Self, StartError> {
        let Parts {
            settings,
            bounds,
            metrics,
            tasks,
        } = parts;
        let timeouts = settings.link_timeouts();
        let Settings {
            hostname,
            max_message_bytes,
            max_recipients,
            ..
        } = settings;
        let (kind, way) = match settings.kind {
            Kind::Lmtp(server) => ("lmtp", Way::lmtp(server, &hostname, timeouts)),
            Kind::Maildir(maildir) => ("maildir", Way::maildir(maildir, &bounds, timeouts)?),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                way,
                lmtp: lmtp::Settings {
                    hostname,
                    max_line_bytes: MAX_LINE_BYTES,
                    max_message_bytes,
                    max_recipients,
                    private: Some(KEYWORD),
                    ..lmtp::Settings::default()
                },
                timeouts,
                bounds,
                homes: Arc::new(Semaphore::new(HOMES_AT_ONCE)),
                reporter: Reporter { metrics, kind },
                part: tasks.part(),
            }),
        })
    }

    /// One link that is opened for mail, until it ends; `permit` is its place.
    pub async fn serve(
        self,
        mut stream: Stream,
        context: MailContext,
        key_id: KeyId,
        seal: VerdictSeal,
        permit: OwnedSemaphorePermit,
    ) {
        let verdict = seal.verdict(&link::Verdict::Ok(Opening::Silent));
        let written = timeout(self.inner.timeouts.command, stream.write_all(&verdict));
        match written.await {
            Ok(Ok(())) => self.converse(stream, context.session, key_id).await,
            Ok(Err(error)) => {
                tracing::debug!(session = %context.session, key = %key_id, %error, "mail link broken");
            }
            Err(_) => {
                tracing::debug!(session = %context.session, key = %key_id, "mail link timed out");
            }
        }
        drop(permit);
    }

    /// LMTP, message after message.
    async fn converse(&self, stream: Stream, session: SessionId, key_id: KeyId) {
        let Inner {
            lmtp,
            timeouts,
            part,
            ..
        } = &*self.inner;
        let mut link = Link {
            reception: Reception::new(stream, lmtp.clone(), *timeouts),
            server: None,
            has_served: false,
            session,
            key_id,
        };
        let end = loop {
            let event = tokio::select! {
                biased;
                // The front has sent nothing of a message that it could not bring to another link.
                () = part.tasks().stopped() => break Ok(Closed::Quit),
                // For its first message it is not a kept one, which the front would replace.
                () = part.tasks().replaced(), if link.has_served => break Ok(Closed::Quit),
                event = link.reception.next() => event,
            };
            let went_on = match event {
                Ok(Event::Recipient(recipient)) => {
                    self.inner.recipient(&mut link, recipient).await;
                    Ok(())
                }
                Ok(Event::Begin(envelope)) => {
                    link.has_served = true;
                    // Boxed: a link between messages need not have room for one.
                    Box::pin(self.inner.message(&mut link, envelope)).await
                }
                Ok(Event::Close(closed)) => break Ok(closed),
                // What belongs to a message is heard where it is received; this is the rest of one that was refused.
                Ok(Event::Body(_) | Event::Discard(_) | Event::End | Event::More) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = went_on {
                break Err(error);
            }
        };
        link.end(end).await;
    }
}

impl Link {
    async fn end(self, end: Result<Closed, Interrupted>) {
        let Self {
            session, key_id, ..
        } = &self;
        match end {
            Ok(Closed::Quit) | Err(Interrupted::Closed) => {}
            Ok(Closed::Misbehaved(word)) => {
                tracing::warn!(%session, key = %key_id, reason = word, "mail link closed");
            }
            Err(error) => {
                tracing::debug!(%session, key = %key_id, reason = chain(&error), "mail link ended");
            }
        }
        if let Some(server) = self.server {
            server.quit().await;
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Decides about a recipient.
    async fn recipient(&self, link: &mut Link, recipient: Recipient) {
        let Recipient { address, private } = recipient;
        let facts = private.as_deref().map(RecipientFacts::decode);
        let account = match &facts {
            Some(Ok(facts)) => Some(facts.account.clone()),
            Some(Err(_)) | None => None,
        };
        let judged = match facts {
            Some(Ok(facts)) => self.judge(&facts).await.map(|()| facts),
            Some(Err(error)) => Err(Verdict::misconfigured(chain(&error))),
            None => Err(Verdict::misconfigured("RCPT without facts")),
        };
        match judged {
            Ok(facts) => link.reception.accept_recipient(Target { facts, address }),
            Err(verdict) => {
                let facts = link
                    .reception
                    .envelope()
                    .and_then(|envelope| MessageFacts::decode(envelope.private.as_deref()?).ok());
                let subject = match &facts {
                    Some(facts) => Subject::new(facts),
                    None => Subject::unknown(&link.session),
                };
                let account = account.as_ref().map(|account| account.as_str());
                self.reporter.tell_of(&subject, account, &address, &verdict);
                link.reception.refuse(&verdict.reply());
            }
        }
    }

    /// Whether this node serves such an account. A home that is missing is made for the node's own server, which as the
    /// account can't; the kind `maildir` makes it with the Maildir.
    async fn judge(&self, facts: &RecipientFacts) -> Result<(), Verdict> {
        let (uid, gid) = (facts.uid, facts.gid);
        self.bounds
            .check(uid, gid)
            .map_err(Verdict::misconfigured)?;
        let home = Home::locate(&self.bounds.home_root, &facts.home)?;
        let Way::Lmtp(server) = &self.way else {
            return Ok(());
        };
        let homes = Arc::clone(&self.homes);
        // A file system that hangs must not hang the event loop, nor take all threads of the process: whoever still sits in
        // it keeps his place, even when nobody waits any more.
        let prepared = async move {
            let place = homes.acquire_owned().await;
            let prepare = move || {
                let _place = place;
                home.prepare(uid, gid)
            };
            spawn_blocking(prepare).await
        };
        match timeout(server.settings.server_timeout, prepared).await {
            Ok(Ok(prepared)) => Ok(prepared?),
            Ok(Err(error)) => Err(Verdict::Failed(Cause::Failed, error.to_string())),
            Err(_) => {
                let reason = "the home could not be looked at in time".to_owned();
                Err(Verdict::Failed(Cause::TimedOut, reason))
            }
        }
    }

    /// One message, from DATA to its answers.
    async fn message(
        &self,
        link: &mut Link,
        envelope: Envelope<Target>,
    ) -> Result<(), Interrupted> {
        let facts = match envelope.private.as_deref().map(MessageFacts::decode) {
            Some(Ok(facts)) if facts.hops <= MAX_HOPS => Ok(facts),
            Some(Ok(facts)) => {
                let reason = format!("the message has passed {} deliveries", facts.hops);
                Err((Subject::new(&facts), Verdict::Failed(Cause::Loop, reason)))
            }
            Some(Err(error)) => Err((
                Subject::unknown(&link.session),
                Verdict::misconfigured(chain(&error)),
            )),
            None => Err((
                Subject::unknown(&link.session),
                Verdict::misconfigured("MAIL without facts"),
            )),
        };
        let message = match facts {
            Ok(facts) => Message {
                subject: Subject::new(&facts),
                envelope,
                facts,
            },
            Err((subject, verdict)) => {
                for target in &envelope.recipients {
                    self.reporter.tell(&subject, target, &verdict);
                }
                link.reception.refuse(&verdict.reply());
                return Ok(());
            }
        };
        let Link {
            reception, server, ..
        } = link;
        match &self.way {
            Way::Lmtp(way) => {
                way.receive(server, reception, message, &self.reporter)
                    .await?;
            }
            Way::Maildir(way) => way.receive(reception, message, &self.reporter).await?,
        }
        // At once, also when the process is stopping and nothing is read any more.
        reception.write().await
    }
}

// === impl Way ===

impl Way {
    fn lmtp(settings: ServerSettings, hostname: &str, timeouts: Timeouts) -> Self {
        Self::Lmtp(Server {
            timeouts: Timeouts {
                command: settings.server_timeout,
                ..timeouts
            },
            settings,
            client: client::Settings {
                hostname: hostname.to_owned(),
                line_ends: LineEnds::Crlf,
                private: Some(KEYWORD),
            },
        })
    }

    fn maildir(
        settings: MaildirSettings,
        bounds: &Bounds,
        timeouts: Timeouts,
    ) -> Result<Self, StartError> {
        let store = Store::start(store::Settings {
            bounds: bounds.clone(),
            folder: settings.folder,
            threads: settings.threads,
            over_quota_is_permanent: settings.over_quota_is_permanent,
        })?;
        Ok(Self::Maildir(Maildir {
            store,
            spool: settings.spool,
            at_once: settings.threads,
            limit: timeouts.answer,
        }))
    }

    /// Says so when the node's own server does not answer.
    async fn check(&self) {
        let Self::Lmtp(server) = self else { return };
        match server.connect().await {
            Ok(transfer) => transfer.quit().await,
            Err(error) => {
                tracing::warn!(error = chain(&error), "[mailstore] server does not answer");
            }
        }
    }
}
