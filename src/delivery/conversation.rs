//! One connection of an MTA: its recipients, its messages, one after the other.
//!
//! ```text
//! Begin ─ one home ─ begin there ─┬─ takes it: 354 ─ octets go through as they come ─ dot ─ its replies
//!   │                             └─ refuses all ─ alike: that reply for DATA; else 354, drop, a reply for each
//!   └─ several homes ─ 354 ─ spool ─ dot ─ forward to all side by side ─ each reply as soon as those before it are known
//! ```
//!
//! Back-pressure: a node that takes slowly is read for slowly. What comes for a message that is lost already is read and
//! dropped: an MTA listens only behind its dot. An MTA that vanishes before the dot has delivered nothing: the links are
//! closed without one. One that vanishes behind it changes nothing, and sends the message again.
//!
//! Limits: those of [`Server`](crate::proto::lmtp::Server); [`Timeouts`](crate::lmtp::Timeouts). When the process stops the
//! next command hears 421; a message that has begun is finished.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use super::{
    Inner,
    forward::{Sending, Start, spool_failure},
    message::{Home, Message},
    recipient::{self, Accepted},
    report::{self, Failure, Report, Stage, Verdict},
};
use crate::{
    lmtp::{Interrupted, Reception},
    names::{ClientAddr, SessionId},
    net::Stream,
    outcome::Blame,
    proto::{
        link::context::mail::{KEYWORD, MAX_HOPS, MAX_LINE_BYTES, MessageFacts},
        lmtp::{Address, Cause, Closed, Envelope, Event, Reply},
    },
    spool::{Spool, Spooled},
};

/// One connection.
pub(super) struct Conversation {
    delivery: Arc<Inner>,
    reception: Reception<Accepted>,
    client: ClientAddr,
    /// The id of the next message, and of its recipients before it.
    session: SessionId,
}

/// Where the octets of a message go.
enum Sink {
    Home(Box<Sending>),
    /// Nowhere: it is known what becomes of the message.
    Known(Vec<Verdict>),
    Spool(Spool),
}

/// How the octets of a message ended.
enum Received {
    Complete(Sink),
    /// The server says so itself.
    Discarded(Cause),
}

impl Conversation {
    /// Begins one; none without randomness for its id.
    pub(super) fn new(delivery: Arc<Inner>, stream: Stream, client: ClientAddr) -> Option<Self> {
        let mut settings = delivery.settings.lmtp.clone();
        settings.private = Some(KEYWORD);
        settings.max_line_bytes = settings.max_line_bytes.max(MAX_LINE_BYTES);
        Some(Self {
            reception: Reception::new(stream, settings, delivery.settings.mta),
            session: session()?,
            delivery,
            client,
        })
    }

    /// Serves it to its end.
    pub(super) async fn run(mut self) {
        let delivery = Arc::clone(&self.delivery);
        loop {
            let event = tokio::select! {
                biased;
                () = delivery.tasks.stopped() => {
                    return self.reception.bye(&Cause::Shutdown.reply()).await;
                }
                event = self.reception.next() => event,
            };
            let went_on = match event {
                Ok(Event::Recipient(recipient)) => {
                    self.recipient(recipient.address).await;
                    Ok(())
                }
                Ok(Event::Begin(envelope)) => self.message(envelope).await,
                Ok(Event::Close(closed)) => return self.closed(closed),
                // The machine tells nothing else outside a message.
                Ok(Event::Body(_) | Event::Discard(_) | Event::End | Event::More) => Ok(()),
                Err(interrupted) => Err(interrupted),
            };
            if let Err(interrupted) = went_on {
                let (session, client) = (&self.session, self.client);
                tracing::debug!(%session, %client, reason = %interrupted, "an MTA's connection ended");
                return;
            }
        }
    }

    fn closed(&self, closed: Closed) {
        if let Closed::Misbehaved(reason) = closed {
            tracing::info!(client = %self.client, reason, "an MTA's connection was closed");
        }
    }

    /// Answers RCPT.
    async fn recipient(&mut self, address: Address) {
        let Inner {
            directory,
            nodes,
            orders,
            metrics,
            ..
        } = &*self.delivery;
        match recipient::find(directory, nodes, orders, address.clone()).await {
            Ok(accepted) => self.reception.accept_recipient(accepted),
            Err(unaccepted) => {
                let failure = &unaccepted.failure;
                report::refused(
                    metrics,
                    (&self.session, self.client),
                    &address,
                    unaccepted.account.as_ref(),
                    failure,
                );
                self.reception.refuse(&failure.cause.reply());
            }
        }
    }

    /// A message, from DATA to its last reply.
    async fn message(&mut self, envelope: Envelope<Accepted>) -> Result<(), Interrupted> {
        let next = session().ok_or(Interrupted::Closed)?;
        let session = std::mem::replace(&mut self.session, next);
        let report = Report {
            session,
            client: self.client,
            sender: envelope
                .sender
                .as_ref()
                .map_or(String::new(), Address::to_string),
            size: 0,
            started: Instant::now(),
        };
        let metrics = self.delivery.metrics.clone();
        let hops = hops(&envelope);
        let facts = MessageFacts {
            session: report.session.clone(),
            client: self.client,
            hops: *hops.as_ref().unwrap_or(&MAX_HOPS),
        };
        let (mut message, homes) = Message::new(metrics, report, envelope, &facts);
        // All of them come again: nothing was sent yet.
        let forbidden = message.forbidden(&self.delivery.orders);
        let forbidden =
            forbidden.and_then(|each| each.into_iter().find(|it| it.cause != Cause::Failed));
        if let Some(failure) = hops.err().or(forbidden) {
            self.reception.refuse(&failure.cause.reply());
            message.or_else(Verdict::Failed(failure));
            return Ok(());
        }
        match <[Home; 1]>::try_from(homes) {
            Ok([home]) => self.straight(message, home).await,
            Err(homes) => self.spooled(message, homes).await,
        }
    }

    /// A message for one home.
    async fn straight(&mut self, mut message: Message, home: Home) -> Result<(), Interrupted> {
        let forwarder = &self.delivery.forwarder;
        let session = &message.report.session;
        let start = forwarder.begin(&home.node, session, home.envelope).await;
        let sink = match start {
            Start::Data(sending) => Sink::Home(sending),
            Start::Done(verdicts) => {
                if let Some(reply) = same_reply(&verdicts) {
                    for verdict in &verdicts {
                        message.tell(verdict);
                    }
                    self.reception.refuse(&reply);
                    return Ok(());
                }
                Sink::Known(verdicts)
            }
        };
        let Some(sink) = self.receive(&mut message, sink).await? else {
            return Ok(());
        };
        let verdicts = match sink {
            Sink::Home(sending) => match message.forbidden(&self.delivery.orders) {
                // Whoever has ordered that waits for what the node may have, and it has no end of this.
                Some(failures) => sending.withdrawn(failures),
                None => {
                    message.or_else(Verdict::unknown());
                    sending.finish().await
                }
            },
            Sink::Known(verdicts) => verdicts,
            Sink::Spool(_) => Vec::new(),
        };
        self.answer(message, vec![Coming::here(verdicts)]).await
    }

    /// A message for several homes.
    async fn spooled(&mut self, mut message: Message, homes: Vec<Home>) -> Result<(), Interrupted> {
        let spool = Spool::new(self.delivery.settings.spool.clone());
        let sink = Sink::Spool(spool);
        let Some(sink) = self.receive(&mut message, sink).await? else {
            return Ok(());
        };
        let octets = match sink {
            Sink::Spool(spool) => spool.finish().await,
            Sink::Known(verdicts) => {
                return self.answer(message, vec![Coming::here(verdicts)]).await;
            }
            Sink::Home(_) => return Ok(()),
        };
        match octets {
            Ok(octets) => {
                message.or_else(Verdict::unknown());
                let coming = self.spread(&message.report, homes, &octets);
                self.answer(message, coming).await
            }
            Err(error) => {
                let verdicts = vec![Verdict::Failed(spool_failure(&error)); message.len()];
                self.answer(message, vec![Coming::here(verdicts)]).await
            }
        }
    }

    /// Takes the octets of a message; none when the server answers for it itself.
    async fn receive(
        &mut self,
        message: &mut Message,
        sink: Sink,
    ) -> Result<Option<Sink>, Interrupted> {
        self.reception.accept_message();
        match self.octets(message, sink).await {
            Ok(Received::Complete(sink)) => Ok(Some(sink)),
            Ok(Received::Discarded(cause)) => {
                message.or_else(Verdict::Failed(Failure {
                    cause,
                    stage: Stage::Body,
                    blame: Blame::Client,
                    reason: "the rest of the message is not read".to_owned(),
                }));
                Ok(None)
            }
            Err(interrupted) => {
                message.or_else(Verdict::Abandoned(interrupted.to_string()));
                Err(interrupted)
            }
        }
    }

    async fn octets(
        &mut self,
        message: &mut Message,
        mut sink: Sink,
    ) -> Result<Received, Interrupted> {
        loop {
            match self.reception.next().await? {
                Event::Body(octets) => {
                    let size = &mut message.report.size;
                    *size = size.saturating_add(octets.len() as u64);
                    sink = sink.take(octets, message).await;
                }
                Event::Discard(cause) => return Ok(Received::Discarded(cause)),
                Event::End => return Ok(Received::Complete(sink)),
                // The machine tells nothing else within a message.
                Event::Begin(_) | Event::Close(_) | Event::More | Event::Recipient(_) => {
                    return Err(Interrupted::Closed);
                }
            }
        }
    }

    /// Forwards a message to all of its homes: a task for each, so many at a time.
    fn spread(&self, report: &Report, homes: Vec<Home>, octets: &Spooled) -> Vec<Coming> {
        let Inner {
            metrics,
            settings,
            tasks,
            forwarder,
            orders,
            ..
        } = &*self.delivery;
        let place = if octets.is_in_file() {
            "file"
        } else {
            "memory"
        };
        metrics.spooled.with_label_values(&[place]).inc();
        metrics.spooled_bytes.inc_by(octets.len());
        let limit = Arc::new(Semaphore::new(settings.homes_at_once));
        let start = |home: Home| {
            let (told, coming) = oneshot::channel();
            let (forwarder, limit) = (forwarder.clone(), Arc::clone(&limit));
            let orders = orders.clone();
            let (session, octets) = (report.session.clone(), octets.clone());
            let forwarding = Box::pin(async move {
                let _permit = limit.acquire_owned().await;
                let verdicts = forwarder.deliver(home, &session, &octets, &orders).await;
                // When nobody hears it the process is being cut.
                let _ = told.send(verdicts);
            });
            tasks.spawn("forward", forwarding);
            Coming::Awaited(coming)
        };
        homes.into_iter().map(start).collect()
    }

    /// Answers in the order of the recipients, each as soon as those before it are known.
    async fn answer(
        &mut self,
        mut message: Message,
        mut coming: Vec<Coming>,
    ) -> Result<(), Interrupted> {
        let mut gone = Ok(());
        while let Some(home) = message.next_home() {
            // What is known of all recipients at once comes as if from one home.
            let home = if coming.len() == 1 { 0 } else { home };
            let verdict = match coming.get_mut(home) {
                Some(coming) => {
                    if !coming.is_here() && gone.is_ok() {
                        // A home that takes its time keeps nobody from hearing what is known.
                        gone = self.reception.write().await;
                    }
                    coming.next().await
                }
                None => Verdict::unknown(),
            };
            self.reception.answer(&message.tell(&verdict));
        }
        // At once, whatever was sent behind the dot.
        gone?;
        self.reception.write().await
    }
}

// === impl Sink ===

impl Sink {
    /// Passes some octets on, or drops them.
    async fn take(self, octets: Bytes, message: &Message) -> Self {
        match self {
            Self::Home(mut sending) => match sending.body(&octets).await {
                Ok(()) => Self::Home(sending),
                Err(error) => Self::Known(sending.broken(&error)),
            },
            Self::Known(verdicts) => Self::Known(verdicts),
            Self::Spool(mut spool) => match spool.write(octets).await {
                Ok(()) => Self::Spool(spool),
                Err(error) => {
                    let verdict = Verdict::Failed(spool_failure(&error));
                    Self::Known(vec![verdict; message.len()])
                }
            },
        }
    }
}

/// What becomes of a message at one home.
enum Coming {
    Awaited(oneshot::Receiver<Vec<Verdict>>),
    Here(std::vec::IntoIter<Verdict>),
}

impl Coming {
    fn here(verdicts: Vec<Verdict>) -> Self {
        Self::Here(verdicts.into_iter())
    }

    const fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// The verdict for the next recipient there.
    async fn next(&mut self) -> Verdict {
        if let Self::Awaited(coming) = self {
            let verdicts = coming.await.unwrap_or_default();
            *self = Self::here(verdicts);
        }
        let verdict = match self {
            Self::Here(verdicts) => verdicts.next(),
            Self::Awaited(_) => None,
        };
        // A task that panicked tells nothing.
        verdict.unwrap_or_else(Verdict::unknown)
    }
}

/// How many deliveries a message has passed, this one included. Of what somebody in front says only that is believed.
fn hops(envelope: &Envelope<Accepted>) -> Result<u8, Failure> {
    let failed = |cause, reason: String| Failure {
        cause,
        stage: Stage::Message,
        blame: Blame::Client,
        reason,
    };
    let passed = match &envelope.private {
        Some(octets) => {
            MessageFacts::decode(octets)
                .map_err(|error| failed(Cause::Failed, error.to_string()))?
                .hops
        }
        None => 0,
    };
    if passed >= MAX_HOPS {
        let reason = format!("has passed {passed} deliveries already");
        return Err(failed(Cause::Loop, reason));
    }
    Ok(passed.saturating_add(1))
}

/// The reply that all verdicts have in common.
fn same_reply(verdicts: &[Verdict]) -> Option<Reply> {
    let (first, others) = verdicts.split_first()?;
    let reply = first.reply();
    others
        .iter()
        .all(|verdict| verdict.reply() == reply)
        .then_some(reply)
}

fn session() -> Option<SessionId> {
    let mut octets = [0; 12];
    if let Err(error) = getrandom::fill(&mut octets) {
        tracing::error!(%error, "the kernel gives no randomness, closing a connection");
        return None;
    }
    Some(SessionId::from_random(octets))
}
