//! What IMAP and POP3 before login have in common: the channel they run on, the credentials they end in, the events
//! that tell their driver what to do.
//!
//! ```text
//!             greet            step                       deny
//! driver ──> [Server] ──> More | StartTls | Credentials ──────────> step ...
//!                              | Close              └── accept ──> relay
//! ```
//!
//! After each call the driver writes what was put into `out`, then does what the event says.

use crate::{names::Login, secret::Secret};

/// What the connection is, as far as a password is concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Channel {
    /// TLS is established.
    pub encrypted: bool,
    /// The listener offers STARTTLS / STLS (meaningless once encrypted).
    pub starttls: bool,
    /// Passwords may travel unencrypted here.
    pub cleartext: bool,
}

impl Channel {
    /// Whether a password may be taken now.
    pub const fn takes_passwords(self) -> bool {
        self.encrypted || self.cleartext
    }
}

/// How the client gave its credentials.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Mechanism {
    /// IMAP's LOGIN command, POP3's USER and PASS.
    Command,
    /// SASL LOGIN (draft-murchison-sasl-login).
    Login,
    /// SASL PLAIN (RFC 4616).
    Plain,
}

impl Mechanism {
    /// The word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Login => "login",
            Self::Plain => "plain",
        }
    }
}

/// What a client proves itself with.
#[derive(Debug)]
pub struct Credentials {
    /// The authentication identity.
    pub login: Login,
    /// The authorization identity, if it named one (an empty one is none).
    pub authorize: Option<Login>,
    /// The password: never empty.
    pub password: Secret,
    /// How they came.
    pub mechanism: Mechanism,
}

/// What the driver does next, after writing what is in `out`.
#[derive(Debug)]
pub enum Event {
    /// Close: everything was said.
    Close(Closed),
    /// Authenticate these, then call `accept` or `deny`. Octets left in the input belong to whoever comes next.
    Credentials(Credentials),
    /// Read more input and step again.
    More,
    /// Drop the rest of the input unread, negotiate TLS, then call `encrypted`.
    StartTls,
}

/// Why the conversation is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// The client said LOGOUT or QUIT.
    Logout,
    /// It broke a limit: line, literal, bad commands.
    Misbehaved(&'static str),
    /// It failed to authenticate too often.
    Attempts,
}
