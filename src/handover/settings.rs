//! What the hand-over is configured with.

use std::{path::PathBuf, time::Duration};

use super::{ExecSettings, LoginSettings, StartError, check_exec, check_imap_master};
use crate::{home::Bounds, names::Service};

/// How sessions reach the real servers of a node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How IMAP sessions do; none: the node does not serve IMAP.
    pub imap: Option<Kind>,
    /// How POP3 sessions do; none: the node does not serve POP3.
    pub pop3: Option<Kind>,
    /// What a context may ask for.
    pub bounds: Bounds,
    /// From the verdict's question to the real server's answer; default 10 s.
    pub timeout: Duration,
    /// Sessions that one account may have on this node, over all protocols; default 50; 0: no limit.
    pub sessions_per_account: u32,
    /// Where sessions are written down that live on when this process ends; default `/run/pigeonair-node/sessions`. Not made when
    /// no kind gives sessions away and no other process may take this one's place, but read when it is there: those of a kind that
    /// was configured before count too.
    pub sessions_file: PathBuf,
}

impl Settings {
    /// Whether it takes a process of its own for each session.
    pub fn starts_servers(&self) -> bool {
        [&self.imap, &self.pop3]
            .into_iter()
            .flatten()
            .any(|kind| matches!(kind, Kind::Exec(_)))
    }

    /// Whether sessions may live on without this process.
    pub fn gives_away(&self) -> bool {
        let mut kinds = [&self.imap, &self.pop3].into_iter().flatten();
        kinds.any(Kind::gives_away)
    }

    /// Finds out whether the installed servers can do what is configured.
    pub(super) fn check(&self) -> Result<(), StartError> {
        for kind in [&self.imap, &self.pop3].into_iter().flatten() {
            match kind {
                Kind::DovecotImapMaster { .. } => check_imap_master()?,
                Kind::Exec(settings) => check_exec(settings)?,
                Kind::Login(_) => {}
            }
        }
        Ok(())
    }
}

/// A way to hand a session over.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Pass the socket to Dovecot's `imap-master` (Dovecot 2.3 to 2.4.2).
    DovecotImapMaster {
        /// That socket.
        socket: PathBuf,
    },
    /// Start a server as the user.
    Exec(ExecSettings),
    /// Log in on behalf of the user with a master credential that works only from this host, then relay.
    Login(LoginSettings),
}

// === impl Settings ===

impl Settings {
    pub(super) fn kind(&self, service: Service) -> Option<&Kind> {
        match service {
            Service::Imap => self.imap.as_ref(),
            Service::Pop3 => self.pop3.as_ref(),
            Service::Mailstore => None,
        }
    }
}

// === impl Kind ===

impl Kind {
    /// Whether sessions may live on without this process.
    pub const fn gives_away(&self) -> bool {
        match self {
            Self::DovecotImapMaster { .. } | Self::Exec(_) => true,
            Self::Login(_) => false,
        }
    }

    /// The word for configuration, logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::DovecotImapMaster { .. } => "dovecot-imap-master",
            Self::Exec(_) => "exec",
            Self::Login(_) => "login",
        }
    }
}
