//! One message to one home: over a kept link or a fresh one, and what came of it for each recipient.
//!
//! ```text
//! begin ─ a kept link ─ died before any octet of the message ─┐
//!    └──── none ───────────────────────────────────────> a fresh link ─> Data(Sending) ─body, finish─> verdicts
//!                                                                   └──> Done(verdicts)
//! ```
//!
//! A kept link is replaced once, while no octet of the message is out: nothing can have been stored then. Behind that, what a
//! broken link leaves is an answer: before the final dot the node has stored nothing (451 4.4.1), behind it nobody
//! knows (451 4.4.2), and the MTA tries again: twice is allowed, lost never. A [`Sending`] that is dropped closes its link
//! without the dot, so that the node stores nothing.
//!
//! Limits: [`Timeouts`] for each wait on the node; the octets of one piece in memory. It does not know which recipients
//! there are elsewhere, and answers nobody.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    kept::Kept,
    message::Home,
    report::{Failure, Stage, Verdict},
};
use crate::{
    link::{Dialer, LinkError},
    lmtp::{Begun, Timeouts, Transfer, TransferError},
    names::SessionId,
    net::Stream,
    nodes::Node,
    orders::Orders,
    outcome::{Blame, chain},
    proto::{
        link::{
            Refusal,
            context::{MailContext, mail::KEYWORD},
        },
        lmtp::{Cause, Envelope, Fate, LineEnds, Recipient, SendError, client},
    },
    spool::Spooled,
    tasks::Tasks,
};

/// Brings messages to nodes. Clones share the kept links.
#[derive(Clone, Debug)]
pub(super) struct Forwarder {
    dialer: Dialer,
    settings: client::Settings,
    timeouts: Timeouts,
    kept: Arc<Kept>,
}

/// How a message to a home began.
#[derive(Debug)]
pub(super) enum Start {
    /// The node takes it.
    Data(Box<Sending>),
    /// It is done with before its octets.
    Done(Vec<Verdict>),
}

/// A message on its way to a home.
#[derive(Debug)]
pub(super) struct Sending {
    transfer: Transfer,
    node: Arc<Node>,
    kept: Arc<Kept>,
}

impl Forwarder {
    /// Nothing is dialled before the first message.
    pub(super) fn new(
        dialer: Dialer,
        hostname: String,
        timeouts: Timeouts,
        (kept_links, kept_for): (usize, Duration),
        tasks: &Tasks,
    ) -> Self {
        let kept = Arc::new(Kept::new(kept_links, kept_for));
        let (watched, stop) = (Arc::clone(&kept), tasks.clone());
        tasks.spawn("kept-links", async move {
            watched.watch(stop.retired()).await;
        });
        Self {
            dialer,
            settings: client::Settings {
                hostname,
                line_ends: LineEnds::Exact,
                private: Some(KEYWORD),
            },
            timeouts,
            kept,
        }
    }

    /// Tells the node sender and recipients.
    pub(super) async fn begin(
        &self,
        node: &Arc<Node>,
        session: &SessionId,
        envelope: Envelope<Recipient>,
    ) -> Start {
        let count = envelope.recipients.len();
        if let Some(error) = self.dialer.refusal_of_mail(&node.name) {
            // What is kept would be waited for, too.
            self.kept.forget(&node.name);
            return Start::Done(vec![Verdict::Failed(no_link(&error)); count]);
        }
        if let Some(mut transfer) = self.kept.take(&node.name) {
            match transfer.begin(envelope.clone()).await {
                // 421 for a message is the end of the link, not of the message.
                Ok(Begun::Done(_)) if !transfer.is_open() => {}
                Ok(begun) => return self.begun(node, transfer, begun).await,
                Err(TransferError::Send(error)) => {
                    return self.unsendable(node, transfer, count, error).await;
                }
                Err(_) => {}
            }
            tracing::debug!(session = %session, node = %node.name, "a kept link died, dialling afresh");
            self.kept.forget(&node.name);
        }
        let mut transfer = match self.connect(node, session).await {
            Ok(transfer) => transfer,
            Err(failure) => return Start::Done(vec![Verdict::Failed(failure); count]),
        };
        match transfer.begin(envelope).await {
            Ok(begun) => self.begun(node, transfer, begun).await,
            Err(TransferError::Send(error)) => self.unsendable(node, transfer, count, error).await,
            Err(error) => Start::Done(broken(transfer, Stage::Envelope, &error)),
        }
    }

    /// The whole of a spooled message, unless orders that are given meanwhile stand against it.
    pub(super) async fn deliver(
        &self,
        home: Home,
        session: &SessionId,
        octets: &Spooled,
        orders: &Orders,
    ) -> Vec<Verdict> {
        let mut envelope = home.envelope.clone();
        if let Some(failures) = home.forbidden(orders) {
            return failures.into_iter().map(Verdict::Failed).collect();
        }
        envelope.size = Some(octets.len());
        let mut sending = match self.begin(&home.node, session, envelope).await {
            Start::Data(sending) => sending,
            Start::Done(verdicts) => return verdicts,
        };
        // The MTA has sent its dot and waits: a node may not take for ever, little by little.
        let deadline = Instant::now() + self.timeouts.answer;
        let mut offset = 0_u64;
        loop {
            let piece = match octets.read(offset).await {
                Ok(piece) => piece,
                Err(error) => return sending.given_up(&spool_failure(&error)),
            };
            if piece.is_empty() {
                return match home.forbidden(orders) {
                    Some(failures) => sending.withdrawn(failures),
                    None => sending.finish().await,
                };
            }
            offset = offset.saturating_add(piece.len() as u64);
            let sent = timeout_at(deadline, sending.body(&piece))
                .await
                .unwrap_or(Err(TransferError::TimedOut));
            if let Err(error) = sent {
                return sending.broken(&error);
            }
        }
    }

    async fn begun(&self, node: &Arc<Node>, transfer: Transfer, begun: Begun) -> Start {
        match begun {
            Begun::Data => Start::Data(Box::new(Sending {
                transfer,
                node: Arc::clone(node),
                kept: Arc::clone(&self.kept),
            })),
            Begun::Done(fates) => {
                if transfer.is_open() {
                    self.kept.put(&node.name, transfer).await;
                }
                let lost = failure(Cause::NodeDown, Stage::Envelope, "node closed the link");
                Start::Done(verdicts(fates, &lost))
            }
        }
    }

    /// The node can't take this message; the link is as it was.
    async fn unsendable(
        &self,
        node: &Node,
        transfer: Transfer,
        count: usize,
        error: SendError,
    ) -> Start {
        self.kept.put(&node.name, transfer).await;
        let (cause, blame) = match error {
            SendError::EightBit => (Cause::EightBit, Blame::Client),
            SendError::NotReady => (Cause::NodeDown, Blame::Node),
            SendError::Private => (Cause::Misconfigured, Blame::Node),
            SendError::TooBig => (Cause::TooBig, Blame::Client),
            SendError::Utf8 => (Cause::Utf8, Blame::Client),
        };
        let failure = Failure {
            cause,
            stage: Stage::Envelope,
            blame,
            reason: error.to_string(),
        };
        Start::Done(vec![Verdict::Failed(failure); count])
    }

    /// A fresh link, greeted.
    async fn connect(&self, node: &Node, session: &SessionId) -> Result<Transfer, Failure> {
        let stream = self.open(node, session).await;
        let stream = stream.map_err(|error| no_link(&error))?;
        Transfer::greet(stream, self.settings.clone(), self.timeouts)
            .await
            .map_err(|error| trouble(Stage::Link, &error))
    }

    async fn open(&self, node: &Node, session: &SessionId) -> Result<Stream, LinkError> {
        let context = MailContext {
            session: session.clone(),
        };
        self.dialer.open_mail(node, &context).await
    }

    /// How many links are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }
}

impl Sending {
    /// Passes some of the message on: as fast as the node takes it.
    ///
    /// # Errors
    ///
    /// Then `broken` tells the verdicts.
    pub(super) async fn body(&mut self, octets: &[u8]) -> Result<(), TransferError> {
        self.transfer.body(octets).await
    }

    /// Sends the dot, and hears what became of the message.
    pub(super) async fn finish(mut self) -> Vec<Verdict> {
        match self.transfer.finish().await {
            Ok(fates) => {
                if self.transfer.is_open() {
                    self.kept.put(&self.node.name, self.transfer).await;
                }
                let lost = failure(Cause::Uncertain, Stage::Answer, "node closed the link");
                verdicts(fates, &lost)
            }
            Err(error) => broken(self.transfer, Stage::Answer, &error),
        }
    }

    /// What becomes of a message whose link broke before the dot.
    pub(super) fn broken(self, error: &TransferError) -> Vec<Verdict> {
        broken(self.transfer, Stage::Body, error)
    }

    /// The same where it must not end there now; what each recipient is told. The node throws away what it has of it.
    pub(super) fn withdrawn(self, each: Vec<Failure>) -> Vec<Verdict> {
        each.into_iter().map(Verdict::Failed).collect()
    }

    /// The same where it is we who can't go on.
    pub(super) fn given_up(self, failure: &Failure) -> Vec<Verdict> {
        verdicts(self.transfer.broken(), failure)
    }
}

/// What it is that there is no link.
fn no_link(error: &LinkError) -> Failure {
    Failure {
        cause: match error {
            LinkError::Opening
            // A node without [mailstore] says that it can't.
            | LinkError::Refused(Refusal::Forbidden | Refusal::Unavailable)
            | LinkError::UnknownNode(_) => Cause::Misconfigured,
            _ => Cause::NodeDown,
        },
        stage: Stage::Link,
        blame: error.blame(),
        reason: chain(error),
    }
}

/// What a failure to read or write the spool is.
pub(super) fn spool_failure(error: &std::io::Error) -> Failure {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    Failure {
        cause: match error.kind() {
            QuotaExceeded | StorageFull => Cause::DiskFull,
            _ => Cause::Failed,
        },
        stage: Stage::Spool,
        blame: Blame::Local,
        reason: format!("spool: {error}"),
    }
}

fn failure(cause: Cause, stage: Stage, reason: &str) -> Failure {
    Failure {
        cause,
        stage,
        blame: Blame::Node,
        reason: reason.to_owned(),
    }
}

/// What a link that is of no further use means for those who have heard nothing, before the dot.
fn trouble(stage: Stage, error: &TransferError) -> Failure {
    let cause = match error {
        TransferError::TimedOut => Cause::TimedOut,
        TransferError::Closed
        | TransferError::Io(_)
        | TransferError::Protocol(_)
        | TransferError::Send(_) => Cause::NodeDown,
    };
    failure(cause, stage, &chain(error))
}

fn broken(transfer: Transfer, stage: Stage, error: &TransferError) -> Vec<Verdict> {
    verdicts(transfer.broken(), &trouble(stage, error))
}

/// The verdicts of fates; `lost` is for those that nobody decided.
fn verdicts(fates: Vec<Fate>, lost: &Failure) -> Vec<Verdict> {
    let verdict = |fate| match fate {
        Fate::Broken => Verdict::Failed(lost.clone()),
        Fate::Delivered(reply) => Verdict::Delivered(reply),
        Fate::Permanent(reply) => Verdict::Refused(reply),
        Fate::Temporary(reply) => Verdict::Deferred(reply),
        Fate::Uncertain => Verdict::Failed(Failure {
            cause: Cause::Uncertain,
            stage: Stage::Answer,
            ..lost.clone()
        }),
    };
    fates.into_iter().map(verdict).collect()
}
