//! What the process may do beyond its own user: the capabilities that its roles need, and no others.
//!
//! | role | capabilities |
//! | --- | --- |
//! | front, once its listeners are bound | none |
//! | acceptor, any kind | `CHOWN`: a home that is made is given to its account |
//! | acceptor, kind `exec` | `SETUID`, `SETGID`: servers are started as their users; `KILL`: and ended |
//! | mailstore, kind `maildir` | `SETUID`, `SETGID`: mail is written as its user; `CHOWN` as above |
//! | mailstore, kind `lmtp` | `CHOWN` as above |
//!
//! Whatever else the process was started with is given up for good, in every set, while it has one thread: those that come
//! later get what this one has. What is kept is not inherited by programs that are started. For root that alone would mean
//! little, since root gets all of them back with the next program it executes; so the bounding set shrinks too, except for a node
//! that starts servers: one of those may call a set-user-id program, as the sendmail of some MTAs is.
//!
//! It does not change user or group, and asks for nothing that it lacks: roles find out what they miss themselves. Root without
//! `CAP_DAC_OVERRIDE` is a user like any other to files that are not its own. On failure an error, and nothing is served.

use std::io;

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    },
};

use crate::{config, mailstore};

/// Capabilities and how far programs that are started may get.
pub(super) struct Rights {
    kept: CapabilitySet,
    /// Whether set-user-id programs keep their meaning for what this process starts.
    bounds: bool,
}

impl Rights {
    /// None.
    pub(super) const NONE: Self = Self {
        kept: CapabilitySet::empty(),
        bounds: true,
    };

    /// What a node's roles need.
    pub(super) fn of_node(config: &config::Node) -> Self {
        let mut rights = Self::NONE;
        if let Some(acceptor) = &config.acceptor {
            rights.kept |= CapabilitySet::CHOWN;
            if acceptor.handover.starts_servers() {
                rights.kept |= CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
                rights.bounds = false;
            }
        }
        if let Some(mailstore) = &config.mailstore {
            rights.kept |= CapabilitySet::CHOWN;
            if let mailstore::Kind::Maildir(_) = mailstore.kind {
                rights.kept |= CapabilitySet::SETUID | CapabilitySet::SETGID;
            }
        }
        rights
    }

    /// Gives up all others, for this thread and those that it starts.
    pub(super) fn keep(self) -> io::Result<()> {
        let own = capabilities(None)?;
        clear_ambient_capability_set()?;
        if self.bounds && own.effective.contains(CapabilitySet::SETPCAP) {
            self.shrink_bounding_set()?;
        }
        let kept = own.permitted & self.kept;
        set_capabilities(
            None,
            CapabilitySets {
                effective: kept,
                permitted: kept,
                inheritable: CapabilitySet::empty(),
            },
        )?;
        Ok(())
    }

    /// All bits, since a kernel may be newer than this program.
    fn shrink_bounding_set(&self) -> io::Result<()> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.kept.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                // There are no more.
                Err(Errno::INVAL) => break,
                removed => removed?,
            }
        }
        Ok(())
    }
}
