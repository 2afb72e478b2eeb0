//! What became of a message for one recipient: the answer, the line in the log and the counter.
//!
//! One line for each recipient of each message, `message stored` or `message not stored`. Trouble of this node is an
//! error or a warning; what is the sender's or the mailbox' own is not.

use tokio::time::Instant;

use crate::{
    home::HomeError,
    metrics::Metrics,
    names::{ClientAddr, SessionId},
    outcome::chain,
    proto::{
        link::context::mail::{MessageFacts, RecipientFacts},
        lmtp::{Address, Cause, Reply},
    },
    store::StoreError,
};

/// Somebody that a message is for.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) facts: RecipientFacts,
    pub(super) address: Address,
}

/// A message as far as its lines go.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) session: SessionId,
    pub(super) client: Option<ClientAddr>,
    pub(super) size: u64,
    pub(super) begun: Instant,
}

/// What became of a message for one recipient.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Nobody waits for an answer.
    Broken(String),
    /// The server refused for now.
    Deferred(Reply),
    /// Not stored.
    Failed(Cause, String),
    /// The server refused for good.
    Refused(Reply),
    /// Stored, with the server's answer if it is the server's.
    Stored(Option<Reply>),
}

/// Logs and counts.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) metrics: Metrics,
    /// How this node stores.
    pub(super) kind: &'static str,
}

// === impl Subject ===

impl Subject {
    pub(super) fn new(facts: &MessageFacts) -> Self {
        Self {
            session: facts.session.clone(),
            client: Some(facts.client),
            size: 0,
            begun: Instant::now(),
        }
    }

    /// One that has not said what it is: it has the id of the delivery that opened the link.
    pub(super) fn unknown(opened: &SessionId) -> Self {
        Self {
            session: opened.clone(),
            client: None,
            size: 0,
            begun: Instant::now(),
        }
    }
}

// === impl Verdict ===

impl Verdict {
    pub(super) fn misconfigured(reason: impl Into<String>) -> Self {
        Self::Failed(Cause::Misconfigured, reason.into())
    }

    /// What the front is told.
    pub(super) fn reply(&self) -> Reply {
        match self {
            Self::Broken(_) => Cause::Failed.reply(),
            Self::Deferred(reply) | Self::Refused(reply) | Self::Stored(Some(reply)) => {
                reply.clone()
            }
            Self::Failed(cause, _) => cause.reply(),
            Self::Stored(None) => Reply::delivered("Stored."),
        }
    }

    /// The word for counters.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Broken(_) => "broken",
            Self::Deferred(_) => "deferred",
            Self::Failed(cause, _) => cause.as_str(),
            Self::Refused(_) => "refused",
            Self::Stored(_) => "stored",
        }
    }

    /// The same for logs, where a message that was stored has no cause.
    fn cause(&self) -> Option<&'static str> {
        (!matches!(self, Self::Stored(_))).then(|| self.as_str())
    }

    fn reason(&self) -> Option<String> {
        match self {
            Self::Broken(reason) | Self::Failed(_, reason) => Some(reason.clone()),
            Self::Deferred(reply) | Self::Refused(reply) => Some(reply.to_string()),
            Self::Stored(reply) => reply.as_ref().map(Reply::to_string),
        }
    }
}

impl From<HomeError> for Verdict {
    fn from(error: HomeError) -> Self {
        let error = StoreError::from(error);
        Self::Failed(error.cause(), chain(&error))
    }
}

// === impl Reporter ===

/// Logs the line of one recipient.
macro_rules! line {
    ($level:ident, $subject:ident, $account:ident, $address:ident, $verdict:ident, $message:literal) => {
        tracing::$level!(
            session = %$subject.session,
            account = $account,
            recipient = %$address,
            client = $subject.client.map(|client| client.to_string()),
            size = $subject.size,
            duration_ms = u64::try_from($subject.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            cause = $verdict.cause(),
            reason = $verdict.reason(),
            $message
        )
    };
}

impl Reporter {
    /// One recipient's end.
    pub(super) fn tell(&self, subject: &Subject, target: &Target, verdict: &Verdict) {
        let account = target.facts.account.as_str();
        self.tell_of(subject, Some(account), &target.address, verdict);
    }

    /// The same for one who may have no account here.
    pub(super) fn tell_of(
        &self,
        subject: &Subject,
        account: Option<&str>,
        address: &Address,
        verdict: &Verdict,
    ) {
        let counted = [self.kind, verdict.as_str()];
        self.metrics.stored.with_label_values(&counted).inc();
        match verdict {
            Verdict::Stored(_) => {
                line!(info, subject, account, address, verdict, "message stored");
            }
            Verdict::Failed(Cause::Misconfigured, _) => {
                line!(
                    error,
                    subject,
                    account,
                    address,
                    verdict,
                    "message not stored"
                );
            }
            Verdict::Failed(
                Cause::DiskFull
                | Cause::Failed
                | Cause::NodeDown
                | Cause::TimedOut
                | Cause::Uncertain,
                _,
            ) => line!(
                warn,
                subject,
                account,
                address,
                verdict,
                "message not stored"
            ),
            Verdict::Broken(_)
            | Verdict::Deferred(_)
            | Verdict::Failed(..)
            | Verdict::Refused(_) => {
                line!(
                    info,
                    subject,
                    account,
                    address,
                    verdict,
                    "message not stored"
                );
            }
        }
    }
}
