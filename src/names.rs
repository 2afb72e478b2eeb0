//! Words that cannot be invalid: names, identifiers and addresses as types.
//!
//! Each type is made by parsing, so holding one is proof that its rules were checked; nothing here does I/O. Clones of a name
//! share its text: a session has the same ones in many places.
//! Two addresses of one connection never have the same type, so a client's address cannot be logged as ours.
//!
//! Limits: logins and account names 1 to 255 octets of UTF-8 without control characters; node names, key ids and
//! session ids 1 to 64 characters of small alphabets, so that they need no escaping in any protocol or log.

use std::{fmt, net::SocketAddr, sync::Arc};

/// The longest login or account name, in octets. Longer than any mail address can be (RFC 5321, 4.5.3.1: 64 + 1 + 255
/// is the theory, 254 the practice), short enough for every protocol that carries it.
pub const MAX_NAME_BYTES: usize = 255;

/// The longest node name, key id or session id, in characters. Dovecot takes 64 for a session id.
pub const MAX_ID_CHARS: usize = 64;

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// It holds a character that the kind of name does not allow.
    #[error("has a character that is not allowed here")]
    Character,
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It is longer than its kind allows.
    #[error("is too long")]
    Long,
    /// It is not UTF-8.
    #[error("is not UTF-8")]
    Utf8,
}

fn checked(text: &str, max: usize, allowed: impl Fn(char) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::Long);
    }
    if !text.chars().all(allowed) {
        return Err(NameError::Character);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $max:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` against the rules of this kind of name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                checked(text, $max, $allowed)?;
                Ok(Self(text.into()))
            }

            /// The same for octets, which must be UTF-8.
            pub fn from_bytes(octets: &[u8]) -> Result<Self, NameError> {
                Self::parse(std::str::from_utf8(octets).map_err(|_| NameError::Utf8)?)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn printable(c: char) -> bool {
    !c.is_control()
}

fn id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+' | '=' | ':')
}

name! {
    /// The directory's own name of an account. The cache, limits, logs and the real server all use this one.
    AccountName, MAX_NAME_BYTES, printable
}
name! {
    /// Names one shared key of a link.
    KeyId, MAX_ID_CHARS, id_char
}
name! {
    /// What a client typed as its user name: not yet anybody.
    Login, MAX_NAME_BYTES, printable
}
name! {
    /// The name of a storage node: lower-case letters, digits, dots, hyphens, underscores.
    NodeName, MAX_ID_CHARS, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_')
}
name! {
    /// One session, from the proxy to the real server's log.
    SessionId, MAX_ID_CHARS, id_char
}

impl SessionId {
    /// Makes an id from twelve random octets: 96 bits, written as 24 hexadecimal digits.
    pub fn from_random(octets: [u8; 12]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(24);
        for octet in octets {
            // Writing to a String cannot fail.
            let _ = write!(text, "{octet:02x}");
        }
        Self(text.into())
    }
}

/// The address that a balancer connected from, on behalf of a client.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BalancerAddr(pub SocketAddr);

/// The address a client connected from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ClientAddr(pub SocketAddr);

/// The address of ours that a client connected to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LocalAddr(pub SocketAddr);

impl fmt::Display for BalancerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LocalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A client protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// IMAP4rev1 (RFC 3501) and IMAP4rev2 (RFC 9051).
    Imap,
    /// POP3 (RFC 1939).
    Pop3,
}

impl Protocol {
    /// The word for logs, metrics and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
        }
    }

    /// Reads that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Imap, Self::Pop3]
            .into_iter()
            .find(|protocol| protocol.as_str() == word)
    }

    /// The service that a link is opened for to carry this protocol.
    pub const fn service(self) -> Service {
        match self {
            Self::Imap => Service::Imap,
            Self::Pop3 => Service::Pop3,
        }
    }
}

/// What a link is opened for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Service {
    /// An IMAP session.
    Imap,
    /// Messages, by LMTP.
    Mailstore,
    /// A POP3 session.
    Pop3,
}

impl Service {
    /// The word for logs, metrics, configuration and the link.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Mailstore => "mailstore",
            Self::Pop3 => "pop3",
        }
    }

    /// Reads that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Imap, Self::Mailstore, Self::Pop3]
            .into_iter()
            .find(|service| service.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_their_alphabet_lacks() {
        assert_eq!(Login::from_bytes(b"a\0b"), Err(NameError::Character));
        assert_eq!(Login::from_bytes(b"a\x7fb"), Err(NameError::Character));
        assert_eq!(
            Login::from_bytes("a\u{85}b".as_bytes()),
            Err(NameError::Character)
        );
        assert_eq!(Login::from_bytes(b"\xff"), Err(NameError::Utf8));
        assert_eq!(Login::parse(""), Err(NameError::Empty));
        assert_eq!(Login::parse(&"x".repeat(256)), Err(NameError::Long));
        assert_eq!(NodeName::parse("Node1"), Err(NameError::Character));
        assert_eq!(KeyId::parse("a b"), Err(NameError::Character));
        assert!(Login::parse("Zoë O'Neil \\ \"*)").is_ok());
    }

    #[test]
    fn session_ids_are_valid_by_their_own_rules() {
        let id = SessionId::from_random([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 254, 255]);
        assert_eq!(id.as_str(), "00010203040506070809feff");
        assert_eq!(SessionId::parse(id.as_str()), Ok(id));
    }
}
