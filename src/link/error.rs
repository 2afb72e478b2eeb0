//! Why a dialer has no link: whose doing, what the client hears, what the operator should look at.
//!
//! Every text is for the operator of the front and says which side to check; nothing of it reaches a client, who hears
//! a [`Denial`] and never that its password was wrong. The enum does not decide about a second try: that is the
//! dialer's, and only [`LinkError::Lost`] with nothing begun allows it.
//!
//! Limits: texts hold names of the configuration, numbers and words of this program, never a peer's octets.

use std::io;

use jiff::Timestamp;

use super::wire::WireError;
use crate::{
    names::NodeName,
    net,
    outcome::Blame,
    proto::{
        denial::Denial,
        link::{Refusal, context::ContextError, dialer, record::RecordError},
    },
};

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The context cannot be sent: what the directory says of the account is out of range.
    #[error("the account's data cannot be sent to a node")]
    Context(#[source] ContextError),
    /// Nobody dialled: its last answer failed, and enough others wait for the next.
    #[error("enough others wait for the node already, whose last answer was: {why}")]
    Crowded {
        /// How the last answer failed.
        why: String,
    },
    /// Nobody dialled: it is down.
    #[error("the node is down since {since}: {why}")]
    Down {
        /// When that was found out.
        since: Timestamp,
        /// The last failure.
        why: String,
    },
    /// The node ended the link after `open`, without a complete verdict.
    #[error("the node closed the link before its verdict was complete")]
    Lost {
        /// Whether some of the verdict had come.
        began: bool,
        /// What the system said, if it was more than an end of stream.
        #[source]
        source: Option<io::Error>,
    },
    /// One side speaks TLS, the other does not.
    #[error(transparent)]
    Mismatch(Mismatch),
    /// Nobody dialled: the turn to do so did not come.
    #[error(
        "no turn to dial the node in time: it has just come back, or proves itself slowly to all who log in at once"
    )]
    NoTurn,
    /// The node did not prove itself, or did not take our proof.
    #[error("the node is not proven")]
    NotProven(#[source] NotProven),
    /// A node opens a link for mail with something else than LMTP: a fault of the node.
    #[error("the node does not begin with LMTP")]
    Opening,
    /// The kernel gives no randomness.
    #[error("cannot get randomness from the kernel")]
    Random(#[source] getrandom::Error),
    /// The node is proven, and says no.
    #[error("the node refuses the session: {}", .0.as_str())]
    Refused(Refusal),
    /// A deadline passed.
    #[error("the node took too long for {step}")]
    TimedOut {
        /// What was waited for.
        step: Step,
    },
    /// The TLS handshake failed.
    #[error("no TLS with the node")]
    Tls(#[source] io::Error),
    /// The node is not in the table that this dialer was made with.
    #[error("node {0} is not in the table")]
    UnknownNode(NodeName),
    /// No connection.
    #[error("cannot connect to the node")]
    Unreachable(#[source] io::Error),
    /// The verdict is not what it must be: somebody altered it, or a fault of the node.
    #[error("the node's verdict cannot be taken")]
    Verdict(#[source] dialer::Error),
}

/// Which side speaks TLS when the other does not.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// The node answers in plain.
    #[error(
        "the node speaks plain, this side is configured for TLS: `tls` must be the same in [[nodes.node]] here and [[acceptor.listen]] there"
    )]
    NodeIsPlain,
    /// The node answers in TLS.
    #[error(
        "the node speaks TLS, this side is configured plain: `tls` must be the same in [[nodes.node]] here and [[acceptor.listen]] there"
    )]
    NodeIsTls,
}

/// Why a node and we are not proven to each other.
#[derive(Debug, thiserror::Error)]
pub enum NotProven {
    /// Closed in place of `hello`.
    #[error(
        "the node closed the link at once: does its [acceptor] `from` allow our address, does it take more peers at one time (`max_unproven`), does it speak the link at all?"
    )]
    ClosedAtHello,
    /// Closed in place of `proven`: it did not take our proof.
    #[error(
        "the node closed the link on our proof: are key and key id the same on both sides, and the key's `from` and `not_after` on the node right?"
    )]
    ClosedAtProof,
    /// What it said is wrong.
    #[error(transparent)]
    Wrong(dialer::Error),
}

/// What a dialer waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// A TCP connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// `hello`.
    Hello,
    /// `proven`.
    Proven,
    /// `verdict`.
    Verdict,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "the connection",
            Self::Tls => "the TLS handshake",
            Self::Hello => "its hello (does it speak the link at all?)",
            Self::Proven => "its proof",
            Self::Verdict => "its verdict",
        })
    }
}

/// What a failure says of the node's health.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sign {
    /// It is not reached, or not proven: whoever it is for.
    Bad,
    /// It may be the node, or what this very account has behind it, or a crowd before it: the prober finds out.
    Doubt,
    /// It is well.
    Good,
    /// Nothing.
    None,
}

impl LinkError {
    /// The word for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Context(_) => "context",
            Self::Crowded { .. } => "crowded",
            Self::Down { .. } => "down",
            Self::Lost { .. } => "lost",
            Self::Mismatch(_) => "mismatch",
            Self::NoTurn => "no-turn",
            Self::NotProven(_) => "not-proven",
            Self::Opening => "opening",
            Self::Random(_) => "random",
            Self::Refused(_) => "refused",
            Self::TimedOut { .. } => "timed-out",
            Self::Tls(_) => "tls",
            Self::UnknownNode(_) => "unknown-node",
            Self::Unreachable(_) => "unreachable",
            Self::Verdict(_) => "verdict",
        }
    }

    /// Whose doing it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unreachable(error) if net::is_descriptor_limit(error) => Blame::Local,
            Self::Context(_) => Blame::Directory,
            Self::Random(_) | Self::UnknownNode(_) => Blame::Local,
            Self::Refused(Refusal::InUse | Refusal::Limit) => Blame::Client,
            Self::Crowded { .. }
            | Self::Down { .. }
            | Self::Lost { .. }
            | Self::Mismatch(_)
            | Self::NoTurn
            | Self::NotProven(_)
            | Self::Opening
            | Self::Refused(Refusal::Forbidden | Refusal::Unavailable)
            | Self::TimedOut { .. }
            | Self::Tls(_)
            | Self::Unreachable(_)
            | Self::Verdict(_) => Blame::Node,
        }
    }

    /// What the client hears: never that its password was wrong.
    pub const fn denial(&self) -> Denial {
        match self {
            Self::Refused(refusal) => Denial::of(*refusal),
            Self::Context(_)
            | Self::Crowded { .. }
            | Self::Down { .. }
            | Self::Lost { .. }
            | Self::Mismatch(_)
            | Self::NoTurn
            | Self::NotProven(_)
            | Self::Opening
            | Self::Random(_)
            | Self::TimedOut { .. }
            | Self::Tls(_)
            | Self::UnknownNode(_)
            | Self::Unreachable(_)
            | Self::Verdict(_) => Denial::Unavailable,
        }
    }

    /// What it says of the node's health.
    pub(super) fn sign(&self) -> Sign {
        match self {
            Self::Unreachable(error) if net::is_descriptor_limit(error) => Sign::None,
            Self::Context(_)
            | Self::Crowded { .. }
            | Self::Down { .. }
            | Self::NoTurn
            | Self::Random(_)
            | Self::UnknownNode(_) => Sign::None,
            Self::Mismatch(_)
            | Self::NotProven(NotProven::Wrong(_))
            | Self::TimedOut {
                step: Step::Connect | Step::Tls | Step::Hello | Step::Proven,
            }
            | Self::Tls(_)
            | Self::Unreachable(_) => Sign::Bad,
            Self::Lost { .. }
            | Self::NotProven(NotProven::ClosedAtHello | NotProven::ClosedAtProof)
            | Self::Opening
            | Self::Refused(Refusal::Unavailable)
            | Self::TimedOut {
                step: Step::Verdict,
            }
            | Self::Verdict(_) => Sign::Doubt,
            Self::Refused(Refusal::Forbidden | Refusal::InUse | Refusal::Limit) => Sign::Good,
        }
    }

    /// What failed before a proof was complete.
    pub(super) fn unproven(error: WireError, closed: NotProven) -> Self {
        match error {
            WireError::Closed { .. } => Self::NotProven(closed),
            WireError::Record(RecordError::Tls(_)) => Self::Mismatch(Mismatch::NodeIsTls),
            WireError::Record(error) => Self::NotProven(NotProven::Wrong(error.into())),
        }
    }

    pub(super) fn tls(error: rustls::Error) -> Self {
        Self::Tls(io::Error::other(error))
    }

    pub(super) fn wrong(error: dialer::Error) -> Self {
        Self::NotProven(NotProven::Wrong(error))
    }
}
