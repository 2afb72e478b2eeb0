//! Why there is no account, or no directory.

use super::{FileError, LdapSetupError};

/// Why the directory did not give an account.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// Two or more entries match: nobody can say who that is.
    #[error("more than one entry matches")]
    Ambiguous,
    /// The entry lacks an attribute or has one with a bad value.
    #[error("entry is not usable: {0}")]
    Entry(String),
    /// The account is who it says, but its status is "try later". Nobody hears that without the password.
    #[error("{0}: its status says: not now")]
    NotNow(String),
    /// The directory did not answer in time, or not sensibly.
    #[error("directory is not available: {0}")]
    Unavailable(String),
    /// No entry matches, or the password is wrong; which of them is for the log alone.
    #[error("{0}")]
    Wrong(Wrong),
}

/// Why credentials are wrong: one answer for the client, words for the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Wrong {
    /// The account may not log in.
    #[error("account may not log in")]
    Disabled,
    /// The account may not log in from where the client is.
    #[error("account may not log in from this network")]
    Network,
    /// The password does not match.
    #[error("wrong password")]
    Password,
    /// The account may not use this protocol.
    #[error("account may not use this protocol")]
    Protocol,
    /// No such account.
    #[error("unknown user")]
    Unknown,
}

/// Why a directory could not be set up. An LDAP server that is away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The accounts file is not usable.
    #[error("cannot use the accounts file")]
    File(#[source] FileError),
    /// The LDAP settings are not usable.
    #[error("cannot use the LDAP settings")]
    Ldap(#[source] LdapSetupError),
    /// The system gives no random octets.
    #[error("cannot get random octets")]
    Random(#[source] getrandom::Error),
}

impl From<Wrong> for LookupError {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}
