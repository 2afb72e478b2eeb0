//! What IMAP and POP3 before login have in common: the channel they run on, the credentials they end in, the events
//! that tell their driver what to do.
//!
//! ```text
//!             greet            step                       deny
//! driver ──> [Server] ──> More | StartTls | Credentials ──────────> step ...
//!                              | Close              └── accept ──> relay
//! ```
//!
//! After each call the driver writes what was put into `out`, then does what the event says. While credentials are
//! pending it may hold more input, but does not call `step`. A machine that said [`Event::More`] has used up its input,
//! so the driver's buffer never grows beyond one read.

use super::denial::Denial;
use crate::{
    names::{Login, NameError},
    secret::Secret,
};

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
    /// SASL EXTERNAL (RFC 4422, appendix A): there is no password, the client's certificate was verified.
    External,
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
            Self::External => "external",
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
    /// The password, without NUL. It may be empty: the directory refuses that before any bind, and in the time that
    /// any other wrong password takes. With [`Mechanism::External`] it is always empty.
    pub password: Secret,
    /// How they came.
    pub mechanism: Mechanism,
}

impl Credentials {
    /// Puts them together from what a client sent; an empty `authorize` is none.
    pub fn new(
        login: &[u8],
        authorize: &[u8],
        password: Secret,
        mechanism: Mechanism,
    ) -> Result<Self, NameError> {
        Ok(Self {
            login: Login::from_bytes(login)?,
            authorize: match authorize {
                [] => None,
                name => Some(Login::from_bytes(name)?),
            },
            password,
            mechanism,
        })
    }
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
    /// Negotiate TLS, then call `encrypted`. Octets that came with the command are already dropped unread; none that
    /// the driver still holds may reach the machine either.
    StartTls,
}

/// Why the conversation is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// The client said LOGOUT or QUIT.
    Logout,
    /// It broke a limit; the word, for logs, says which: `line`, `literal`, `bare-lf`, `bad-commands`,
    /// `commands`, `http` (what speaks is a browser); its driver adds `input`.
    Misbehaved(&'static str),
    /// It failed to authenticate too often.
    Attempts,
}

/// Why a driver ends a conversation.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Bye {
    /// There are too many connections.
    Busy,
    /// The client has not logged in within its time.
    Idle,
    /// The client has sent more than a login needs.
    Input,
    /// This process ends.
    Shutdown,
}

impl Bye {
    /// Response code and text after an IMAP `BYE`.
    pub const fn imap(self) -> &'static str {
        match self {
            Self::Busy => "[UNAVAILABLE] Too many connections, please try again later.",
            Self::Idle => "Not logged in for too long.",
            Self::Input => "Too much before a login.",
            Self::Shutdown => "[UNAVAILABLE] Going down, please try again later.",
        }
    }

    /// Response code and text after a POP3 `-ERR`; none where nothing is said: RFC 1939, 3 has a server close silently
    /// then, and what a client sends at that moment would otherwise be answered by it.
    pub const fn pop3(self) -> Option<&'static str> {
        match self {
            Self::Busy => Some("[SYS/TEMP] Too many connections, please try again later."),
            Self::Idle | Self::Input => None,
            Self::Shutdown => Some("[SYS/TEMP] Going down, please try again later."),
        }
    }
}

/// Whether a line that is no command here is a request line of HTTP: a browser that somebody has led to this port, whose
/// further lines may be commands that somebody else wrote (RFC 9112, 3; the attack is known as ALPACA, CVE-2021-3618).
pub(super) fn is_http(line: &[u8]) -> bool {
    let version = line.rsplit(|octet| *octet == b' ').next();
    let digits = version.and_then(|word| word.strip_prefix(b"HTTP/"));
    line.first().is_some_and(u8::is_ascii_uppercase)
        && digits.is_some_and(|digits| digits.first().is_some_and(u8::is_ascii_digit))
}

/// Answers "not now" before the end: enough for a client that tries again while a node comes back, and an end to it.
pub(super) const MAX_POSTPONED: u32 = 10;

/// Counts what goes wrong in one conversation, until it is too much.
#[derive(Debug, Default)]
pub(super) struct Patience {
    commands: u32,
    bad_commands: u32,
    attempts: u32,
    postponed: u32,
}

impl Patience {
    /// One more command, right or wrong; true beyond the limit.
    pub(super) fn command(&mut self, limit: u32) -> bool {
        self.commands = self.commands.saturating_add(1);
        self.commands > limit
    }

    /// One more bad command; true at the limit.
    pub(super) fn bad_command(&mut self, limit: u32) -> bool {
        count(&mut self.bad_commands, limit)
    }

    /// One more failed login; true when there were `max_attempts` that were the client's doing, or too many others.
    pub(super) fn denied(&mut self, denial: Denial, max_attempts: u32) -> bool {
        match denial {
            Denial::AuthorizationFailed
            | Denial::BadCredentials
            | Denial::Held
            | Denial::PrivacyRequired => count(&mut self.attempts, max_attempts),
            Denial::InUse | Denial::Limit | Denial::Misconfigured | Denial::Unavailable => {
                count(&mut self.postponed, MAX_POSTPONED)
            }
        }
    }
}

fn count(counter: &mut u32, limit: u32) -> bool {
    *counter = counter.saturating_add(1);
    *counter >= limit
}
