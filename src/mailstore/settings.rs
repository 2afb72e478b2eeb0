//! What the mailstore role is configured with.

use std::time::Duration;

use crate::{lmtp, net::Address, spool};

/// The mailstore role.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How messages are stored.
    pub kind: Kind,
    /// What we call ourselves; default the system's host name.
    pub hostname: String,
    /// Largest message in octets; default 100 MiB, above what a front takes, so that there it is refused early.
    pub max_message_bytes: u64,
    /// Most recipients of one message; default 1000.
    pub max_recipients: usize,
    /// How long a link may be idle between messages; default 5 minutes, longer than a front keeps one.
    pub idle_timeout: Duration,
    /// How long the next octets of a message may take to come, or to be taken by the server; default 3 minutes.
    pub data_timeout: Duration,
    /// From the end of a message until it is stored for all of its recipients; default 3 minutes, so that the front hears
    /// the truth before it gives up.
    pub store_timeout: Duration,
}

/// How messages are stored.
#[derive(Clone, Debug)]
pub enum Kind {
    /// By the node's own server, in LMTP.
    Lmtp(ServerSettings),
    /// As files, by us.
    Maildir(MaildirSettings),
}

/// How messages become files.
#[derive(Clone, Debug)]
pub struct MaildirSettings {
    /// The Maildir below a home; default `Maildir`.
    pub folder: String,
    /// Messages stored at one time; default 16.
    pub threads: usize,
    /// Whether mail for a full mailbox is refused for good; default no.
    pub over_quota_is_permanent: bool,
    /// Where a message waits until it is complete.
    pub spool: spool::Settings,
}

/// How messages reach the node's own server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerSettings {
    /// Where it speaks LMTP.
    pub server: Address,
    /// What it is told.
    pub recipient: Naming,
    /// What sets off the detail of a recipient's address, which the account's name then gets too; empty: it has none; default `+`.
    pub recipient_delimiter: String,
    /// Until it has greeted, and for its answers to an envelope; default 20 seconds.
    pub server_timeout: Duration,
}

/// What the node's server is told as recipient.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Naming {
    /// The account's name, with the detail of the address. Default: a userdb knows it.
    Account,
    /// The address that the MTA gave.
    Address,
}

impl Settings {
    /// How long the front may take.
    pub(super) fn link_timeouts(&self) -> lmtp::Timeouts {
        lmtp::Timeouts {
            command: self.idle_timeout,
            data: self.data_timeout,
            answer: self.store_timeout,
        }
    }
}
