//! Who an account is, and the words that sources have for what it may do.

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
    /// Quota in octets; none when the directory has none, or 0.
    pub quota: Option<u64>,
    /// Whether it may log in.
    pub login: Status,
    /// Whether mail for it is taken.
    pub delivery: Status,
}

/// Reads a status word of any schema that is known: whether the account may log in, and whether mail for it is taken. An
/// unknown word means that nobody can say.
pub(super) fn parse_status(word: &str) -> Option<(Status, Status)> {
    match word.to_ascii_lowercase().as_str() {
        "active" | "enabled" => Some((Status::Allowed, Status::Allowed)),
        // qmail-ldap: noaccess, nopop; Zimbra: locked.
        "noaccess" | "nopop" | "locked" => Some((Status::Refused, Status::Allowed)),
        // Zimbra, after too many wrong passwords.
        "lockout" => Some((Status::TryLater, Status::Allowed)),
        // Zimbra: pending; Sun's schema: inactive, hold.
        "pending" | "inactive" | "hold" => Some((Status::Refused, Status::TryLater)),
        "maintenance" => Some((Status::TryLater, Status::TryLater)),
        // Zimbra: closed.
        "deleted" | "disabled" | "closed" => Some((Status::Refused, Status::Refused)),
        _ => None,
    }
}

/// The words for people.
pub(super) const STATUS_WORDS: &str = "active, noaccess, nopop, locked, lockout, pending, inactive, hold, maintenance, disabled, closed or deleted";

/// Whether a home is one that a link can carry: some text without control characters.
pub(super) fn is_home(home: &str) -> bool {
    !home.is_empty() && home.len() <= MAX_HOME_BYTES && !home.chars().any(char::is_control)
}

/// The longest home, in octets: `PATH_MAX` would fit no link.
const MAX_HOME_BYTES: usize = 1024;
