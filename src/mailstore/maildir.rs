//! The kind `maildir`: the message is received whole, then stored for each of its recipients.
//!
//! ```text
//! 354 ─> spool ─ dot ─> store: a few recipients at one time ─> answers, in order, each as soon as it and those before are known
//! ```
//!
//! Nothing is stored before the dot was there. Who is not stored in time gets 451: if it had begun nobody knows
//! (`uncertain`), else it never begins (`timed-out`). A front that has gone is not waited for: what has begun ends, the rest
//! does not begin.
//!
//! Limits: as many recipients of one message at one time as there are threads; the spool's memory for each message.
//! A spool that fails is the message's end for all of its recipients; the rest of its octets is read and dropped.

use std::{
    io::{self, ErrorKind},
    ops::Range,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{
    Message,
    ordered::Ordered,
    report::{Reporter, Subject, Target, Verdict},
};
use crate::{
    lmtp::{Interrupted, Reception},
    names::SessionId,
    outcome::chain,
    proto::lmtp::{Cause, Event},
    spool::{self, Spool, Spooled},
    store::{self, Owner, Store},
};

/// Stores messages as files.
#[derive(Debug)]
pub(super) struct Maildir {
    pub(super) store: Store,
    pub(super) spool: spool::Settings,
    /// Recipients of one message at one time.
    pub(super) at_once: usize,
    /// For all recipients of a message.
    pub(super) limit: Duration,
}

/// How the octets of a message ended.
enum End {
    /// The server half has said why to everybody.
    Discarded(Cause),
    /// All are there; or they could not be kept.
    Dot(Result<Spooled, io::Error>),
}

impl Maildir {
    /// Takes a message, stores it and answers.
    pub(super) async fn receive(
        &self,
        reception: &mut Reception<Target>,
        message: Message,
        reporter: &Reporter,
    ) -> Result<(), Interrupted> {
        let mut message = message;
        let tell_all = |message: &Message, verdict: &Verdict| {
            for target in &message.envelope.recipients {
                reporter.tell(&message.subject, target, verdict);
            }
        };
        reception.accept_message();
        match self.spool(reception, &mut message.subject).await {
            Ok(End::Dot(Ok(octets))) => {
                return self.deliver(reception, &message, &octets, reporter).await;
            }
            Ok(End::Dot(Err(error))) => {
                let verdict = Verdict::Failed(cause_of(&error), format!("spool: {error}"));
                for _ in &message.envelope.recipients {
                    reception.answer(&verdict.reply());
                }
                tell_all(&message, &verdict);
            }
            Ok(End::Discarded(cause)) => {
                tell_all(&message, &Verdict::Failed(cause, "discarded".to_owned()));
            }
            Err(error) => {
                tell_all(&message, &Verdict::Broken(chain(&error)));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn spool(
        &self,
        reception: &mut Reception<Target>,
        subject: &mut Subject,
    ) -> Result<End, Interrupted> {
        let mut spool = Ok(Spool::new(self.spool.clone()));
        loop {
            match reception.next().await? {
                Event::Body(octets) => {
                    subject.size = subject.size.saturating_add(octets.len() as u64);
                    if let Ok(open) = &mut spool
                        && let Err(error) = open.write(octets).await
                    {
                        spool = Err(error);
                    }
                }
                Event::Discard(cause) => return Ok(End::Discarded(cause)),
                Event::End => {
                    return Ok(End::Dot(match spool {
                        Ok(spool) => spool.finish().await,
                        Err(error) => Err(error),
                    }));
                }
                Event::Begin(_) | Event::Close(_) | Event::More | Event::Recipient(_) => {
                    return Err(Interrupted::Closed);
                }
            }
        }
    }

    /// Stores for everybody, and answers in order.
    async fn deliver(
        &self,
        reception: &mut Reception<Target>,
        message: &Message,
        octets: &Spooled,
        reporter: &Reporter,
    ) -> Result<(), Interrupted> {
        let deadline = Instant::now() + self.limit;
        let targets = &message.envelope.recipients;
        let mut waiting: Range<usize> = 0..targets.len();
        let mut running = Ordered::new();
        let mut end = Ok(());
        let mut late = false;
        for target in targets {
            while !late && end.is_ok() && running.len() < self.at_once.max(1) {
                let Some(next) = waiting.next().and_then(|at| targets.get(at)) else {
                    break;
                };
                running.push(self.store(message, next, octets));
            }
            if !running.is_ready() && end.is_ok() {
                end = reception.write().await;
            }
            let verdict = match timeout_at(deadline, running.next()).await {
                Ok(Some(verdict)) => verdict,
                Ok(None) if late => timed_out(Cause::TimedOut),
                Ok(None) => Verdict::Broken("front has gone".to_owned()),
                Err(_) => {
                    late = true;
                    running.give_up_first();
                    timed_out(Cause::Uncertain)
                }
            };
            reporter.tell(&message.subject, target, &verdict);
            reception.answer(&verdict.reply());
        }
        end
    }

    fn store(
        &self,
        message: &Message,
        target: &Target,
        octets: &Spooled,
    ) -> impl Future<Output = Verdict> + Send + use<> {
        let facts = target.facts.clone();
        let owner = Owner {
            account: facts.account,
            uid: facts.uid,
            gid: facts.gid,
            home: facts.home,
            quota: facts.quota,
        };
        let sender = message.envelope.sender.as_ref();
        let session: SessionId = message.subject.session.clone();
        let stored = store::Message {
            session,
            sender: sender.map(ToString::to_string).unwrap_or_default(),
            recipient: target.address.to_string(),
            octets: octets.clone(),
        };
        let store = self.store.clone();
        async move {
            match store.deliver(owner, stored).await {
                Ok(()) => Verdict::Stored(None),
                Err(error) => Verdict::Failed(error.cause(), chain(&error)),
            }
        }
    }
}

fn timed_out(cause: Cause) -> Verdict {
    Verdict::Failed(cause, "not stored in time".to_owned())
}

/// What a spool that fails means.
fn cause_of(error: &io::Error) -> Cause {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Cause::DiskFull,
        _ => Cause::Failed,
    }
}
