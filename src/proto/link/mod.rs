//! The link between front and node: records, key schedule and both halves, without I/O.
//! (stub: types shared with others)

pub mod context;

pub use context::Context;

/// What the real server says first on a session handed to it, and so what the proxy reads before it says OK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Opening {
    /// A `CAPABILITY` command tagged [`CAPABILITY_TAG`] was put in front of the client's octets; its answer comes first.
    Capability,
    /// `+OK` of a POP3 server.
    PlusOk,
    /// `* PREAUTH`, after any untagged lines.
    Preauth,
    /// Nothing more: the session has begun, and these are its capabilities (without the word CAPABILITY).
    Ready(String),
    /// Nothing until asked (Dovecot's pop3).
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

/// A node's answer to `open`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The session is handed over.
    Ok(Opening),
    /// It is not.
    Refused(Refusal),
}
