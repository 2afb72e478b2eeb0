//! Where accounts are: LDAP for clusters, a file for a single machine; a cache in front of both.
//! (stub: types shared with others)

mod settings;

pub use settings::{
    Attributes, CacheSettings, FileSettings, LdapSettings, Settings, Source, Verify,
};

use crate::names::AccountName;

/// What an account may do, for one kind of use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
    /// Not now: the answer is "try again later".
    TryLater,
}

/// An account as the directory holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// The directory's own name of it.
    pub name: AccountName,
    /// The value of the home attribute: a node's name or host name.
    pub home_node: Option<String>,
    /// uid of its mailbox.
    pub uid: u32,
    /// gid of its mailbox.
    pub gid: u32,
    /// Home folder: absolute, or relative to the node's `home_root`.
    pub home: String,
    /// Quota in octets.
    pub quota: Option<u64>,
    /// Whether it may log in.
    pub login: Status,
}

/// Why the directory did not give an account.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// Two or more entries match: nobody can say who that is.
    #[error("more than one entry matches")]
    Ambiguous,
    /// The entry lacks an attribute or has one with a bad value.
    #[error("entry is not usable: {0}")]
    Entry(String),
    /// The directory did not answer in time, or not sensibly.
    #[error("directory is not available: {0}")]
    Unavailable(String),
    /// No entry matches, or the password is wrong; which of them is for the log alone.
    #[error("{0}")]
    Wrong(Wrong),
}

/// Why credentials are wrong: one answer for the client, three words for the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Wrong {
    /// The account may not log in.
    #[error("account may not log in")]
    Disabled,
    /// The password does not match.
    #[error("wrong password")]
    Password,
    /// No such account.
    #[error("unknown user")]
    Unknown,
}
