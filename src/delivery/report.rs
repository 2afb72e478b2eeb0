//! What becomes of a message for one recipient, and the line and the counts that say so.
//!
//! A [`Verdict`] is the last word for one recipient: the node's own reply, or a [`Failure`] of ours, which says at which
//! stage, whose doing, what the MTA hears and what really happened. Each leaves exactly one line, and counts once.
//!
//! Levels: what a node says to a message, and what is the sender's or the MTA's doing, is info; what an operator must look
//! at (directory, node, ourselves) is error. Texts of a peer stand in fields, where the log quotes them.

use std::time::Instant;

use crate::{
    metrics::Metrics,
    names::{AccountName, ClientAddr, SessionId},
    nodes::Node,
    outcome::Blame,
    proto::lmtp::{Address, Cause, Reply},
};

/// Where in its story a recipient or a message was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// From the final dot to the node's reply.
    Answer,
    /// Receiving the octets, and passing them on.
    Body,
    /// Telling the node sender and recipients.
    Envelope,
    /// Dialling the node, up to its LMTP greeting.
    Link,
    /// Asking the directory.
    Lookup,
    /// Looking at what MAIL said.
    Message,
    /// Finding the home node.
    Resolve,
    /// Keeping the octets for several homes.
    Spool,
}

/// Why a message is not delivered to a recipient, as far as it is not the node that says so.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// What the MTA hears.
    pub(super) cause: Cause,
    /// Where.
    pub(super) stage: Stage,
    /// Whose doing.
    pub(super) blame: Blame,
    /// What happened, for the operator: the whole chain of causes.
    pub(super) reason: String,
}

/// The last word for one recipient.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The MTA is gone: nobody hears it, and nothing was delivered.
    Abandoned(String),
    /// The node does not take it for now, and says why.
    Deferred(Reply),
    /// The node has it.
    Delivered(Reply),
    /// We say why not.
    Failed(Failure),
    /// The node refuses it, and says why.
    Refused(Reply),
}

/// What is known of a message.
#[derive(Debug)]
pub(super) struct Report {
    /// The delivery's id.
    pub(super) session: SessionId,
    /// The MTA.
    pub(super) client: ClientAddr,
    /// Who sends it; empty for nobody.
    pub(super) sender: String,
    /// Octets of it that have come.
    pub(super) size: u64,
    /// When DATA came.
    pub(super) started: Instant,
}

impl Stage {
    /// The word for logs.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Body => "body",
            Self::Envelope => "envelope",
            Self::Link => "link",
            Self::Lookup => "lookup",
            Self::Message => "message",
            Self::Resolve => "resolve",
            Self::Spool => "spool",
        }
    }
}

impl Verdict {
    /// What the MTA hears.
    pub(super) fn reply(&self) -> Reply {
        match self {
            // Nobody does; but never a word that could be taken for success.
            Self::Abandoned(_) => Cause::Failed.reply(),
            Self::Deferred(reply) | Self::Delivered(reply) | Self::Refused(reply) => reply.clone(),
            Self::Failed(failure) => failure.cause.reply(),
        }
    }

    /// The word for logs and metrics.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Abandoned(_) => "abandoned",
            Self::Deferred(_) => "deferred",
            Self::Delivered(_) => "delivered",
            Self::Failed(failure) => failure.cause.as_str(),
            Self::Refused(_) => "refused",
        }
    }

    /// Nobody can say what became of the message: a fault of ours.
    pub(super) fn unknown() -> Self {
        Self::Failed(Failure {
            cause: Cause::Uncertain,
            stage: Stage::Answer,
            blame: Blame::Local,
            reason: "the task that forwards it ended".to_owned(),
        })
    }

    fn count(&self, metrics: &Metrics) {
        metrics.deliveries.with_label_values(&[self.as_str()]).inc();
        if let Self::Failed(Failure {
            cause: Cause::Uncertain,
            ..
        }) = self
        {
            metrics.delivery_uncertain.inc();
        }
    }
}

impl Report {
    /// Logs and counts the last word for a recipient.
    pub(super) fn conclude(
        &self,
        metrics: &Metrics,
        (recipient, account, node): (&Address, &AccountName, &Node),
        verdict: &Verdict,
    ) {
        verdict.count(metrics);
        let failure = match verdict {
            Verdict::Failed(failure) => Some(failure),
            _ => None,
        };
        let reason = match verdict {
            Verdict::Abandoned(reason) => Some(reason),
            _ => failure.map(|failure| &failure.reason),
        };
        let reply = match verdict {
            Verdict::Abandoned(_) => None,
            _ => Some(verdict.reply()),
        };
        macro_rules! line {
            ($level:ident, $sentence:literal) => {
                tracing::$level!(
                    session = %self.session,
                    client = %self.client,
                    sender = self.sender,
                    recipient = %recipient,
                    account = account.as_str(),
                    node = %node.name,
                    result = verdict.as_str(),
                    reply = reply.as_ref().map(tracing::field::display),
                    stage = failure.map(|failure| failure.stage.as_str()),
                    blame = failure.map(|failure| failure.blame.as_str()),
                    reason,
                    size = self.size,
                    duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    $sentence
                )
            };
        }
        match (verdict, failure.map(|failure| failure.blame)) {
            (Verdict::Delivered(_), _) => line!(info, "message delivered"),
            (
                _,
                Some(Blame::Directory | Blame::Entry | Blame::Local | Blame::Node | Blame::Policy),
            ) => {
                line!(error, "message not delivered");
            }
            (_, Some(Blame::Administrator | Blame::Client) | None) => {
                line!(info, "message not delivered")
            }
        }
    }
}

/// Logs and counts a recipient that is refused before there is a message.
pub(super) fn refused(
    metrics: &Metrics,
    (session, client): (&SessionId, ClientAddr),
    recipient: &Address,
    account: Option<&AccountName>,
    failure: &Failure,
) {
    let cause = failure.cause.as_str();
    metrics.deliveries.with_label_values(&[cause]).inc();
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                session = %session,
                client = %client,
                recipient = %recipient,
                account = account.map(AccountName::as_str),
                result = cause,
                reply = %failure.cause.reply(),
                stage = failure.stage.as_str(),
                blame = failure.blame.as_str(),
                reason = failure.reason,
                "recipient refused"
            )
        };
    }
    match failure.blame {
        Blame::Administrator | Blame::Client => line!(info),
        Blame::Entry => line!(warn),
        Blame::Directory | Blame::Local | Blame::Node | Blame::Policy => line!(error),
    }
}
