//! Handing a session to the real server. (stub: settings shared with configuration)

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::{net::Address, secret::Secret};

/// How sessions reach the real servers of a node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How IMAP sessions do; none: the node does not serve IMAP.
    pub imap: Option<Kind>,
    /// What a context may ask for.
    pub bounds: Bounds,
    /// From the verdict's question to the real server's answer; default 10 s.
    pub timeout: Duration,
    /// Sessions that one account may have on this node, over all protocols; default 50; 0: no limit.
    pub sessions_per_account: u32,
}

/// A way to hand a session over.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Pass the socket to Dovecot's `imap-master` (Dovecot 2.3 to 2.4.2).
    DovecotImapMaster {
        /// That socket.
        socket: PathBuf,
    },
    /// Log in on behalf of the user with a master credential that works only from this host, then relay.
    Login {
        /// Where the real server listens.
        server: Address,
        /// The master user.
        user: String,
        /// Its password.
        password: Secret,
    },
}

/// What a context may ask for on this node.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Default 1000 and up.
    pub uids: RangeInclusive<u32>,
    /// Default 1000 and up.
    pub gids: RangeInclusive<u32>,
    /// All homes lie below it.
    pub home_root: PathBuf,
}
