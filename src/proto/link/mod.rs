//! The link between front and node: records, key schedule and both halves, without I/O.
//!
//! The two halves are called [`dialer`] (the front) and [`node`]. Each step of a half consumes a value and returns the
//! next step's type, so that no record can be sent or taken out of turn. Octets come in as whole records ([`record`]
//! says how long one is from its header alone) and go out as whole records; sockets, deadlines, the pool of links
//! proven ahead and the source of nonces are the business of the module `link`.
//!
//! ```text
//! dialer  preface                                       eight fixed octets
//! node    hello    channel, idle limit, nonce, name     sent on accept, before anything is read
//! dialer  prove    nonce, key id, MAC                   I know the key, for this node, these nonces, this channel
//! node    proven   MAC                                  so do I
//! dialer  open     service, context, MAC                exactly one per link: a session, or mail
//! node    verdict  ok + opening | refused + reason, MAC
//! ```
//!
//! Freshness is the two nonces; there is no clock in it. What a peer that fails hears is nothing: the node's errors are
//! for its counters and log. Limits: a record has at most 8 KiB ([`record::Kind::max_body`]).
//! `docs/link-protocol.md` is the specification, octet by octet, with test vectors that a test recomputes.
//! RFC 2104 (HMAC), RFC 5869 (HKDF), RFC 9266 (channel binding of TLS 1.3).

pub mod context;
pub mod dialer;
pub mod node;
pub mod record;
mod schedule;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::fmt;

pub use context::{Context, MailContext, Purpose};

/// What the real server says first on a session handed to it, and so what the proxy reads before it says OK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Opening {
    /// A `CAPABILITY` command tagged [`CAPABILITY_TAG`] was put in front of the client's octets; its answer comes first.
    Capability,
    /// `+OK` of a POP3 server.
    PlusOk,
    /// `* PREAUTH`, after any untagged lines.
    Preauth,
    /// Nothing more: the session has begun, and these are its capabilities (without the word CAPABILITY); at most
    /// [`record::MAX_CAPABILITY_BYTES`] octets without control characters.
    Ready(String),
    /// Nothing until asked (Dovecot's pop3); on a link for mail LMTP begins.
    Silent,
    /// A tagged OK, after any untagged lines.
    Tagged,
}

/// The tag of the command behind [`Opening::Capability`].
pub const CAPABILITY_TAG: &str = "x";

/// Why a node does not serve a proven front.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Refusal {
    /// The context is outside the node's bounds (uid, gid, home) or malformed.
    Forbidden,
    /// The mailbox is in use and the protocol allows one session.
    InUse,
    /// The account has as many sessions as it may.
    Limit,
    /// The real server is away or failed.
    Unavailable,
}

impl Refusal {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::InUse => "in-use",
            Self::Limit => "limit",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A node's answer to `open`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The session is handed over.
    Ok(Opening),
    /// It is not.
    Refused(Refusal),
}

/// What a link runs over, as far as it is part of the proofs.
#[derive(Clone, Eq, PartialEq)]
pub enum Channel {
    /// Nothing that could be bound: plain TCP on a private wire, or a Unix socket.
    None,
    /// TLS 1.3, by its exporter value: RFC 9266, label [`EXPORTER_LABEL`], zero-length context.
    TlsExporter([u8; EXPORTER_BYTES]),
}

/// The label of [`Channel::TlsExporter`] (RFC 9266, 4).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// The length of [`Channel::TlsExporter`], in octets (RFC 9266, 4).
pub const EXPORTER_BYTES: usize = 32;

impl Channel {
    /// The kind alone, as `hello` says it.
    pub const fn kind(&self) -> ChannelKind {
        match self {
            Self::None => ChannelKind::None,
            Self::TlsExporter(_) => ChannelKind::TlsExporter,
        }
    }

    fn value(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::TlsExporter(value) => value,
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)
    }
}

/// The kinds of [`Channel`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChannelKind {
    /// Nothing that could be bound.
    None,
    /// The exporter value of TLS 1.3.
    TlsExporter,
}

impl ChannelKind {
    const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TlsExporter => 1,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::None, Self::TlsExporter]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// The property that fuzzing checks: whatever decodes encodes to what decodes to the same again, and nothing panics.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    record::fuzz(data);
    context::fuzz(data);
}
