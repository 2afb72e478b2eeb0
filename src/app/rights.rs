//! What the process may do beyond its own user, and who that is: the user that the configuration names, the
//! capabilities that its roles need, and no others.
//!
//! | role | capabilities |
//! | --- | --- |
//! | front, once its listeners are bound | none |
//! | acceptor, any kind | `CHOWN`: a home that is made is given to its account |
//! | acceptor, kind `exec` | `SETUID`, `SETGID`: servers are started as their users; `KILL`: and ended |
//! | mailstore, kind `maildir` | `SETUID`, `SETGID`: mail is written as its user; `CHOWN` as above |
//! | mailstore, kind `lmtp` | `CHOWN` as above |
//!
//! Whatever else the process was started with is given up for good, in every set, while it has one thread: those that
//! come later get what this one has. What is kept is not inherited by programs that are started. For root that alone
//! would mean little, since root gets all of them back with the next program it executes; so the bounding set shrinks
//! too, and `no_new_privs` is set, except for a node that starts servers: one of those may call a set-user-id program,
//! as the sendmail of some MTAs is.
//!
//! Memory holds passwords and keys, so none of it is written to a core file, and no other process of the same user may
//! trace this one. Servers that are started are as they would be otherwise: the mark that says so does not outlive
//! their execution, and the limit on core files, which would, is lowered only where none are started.
//!
//! Without a user's name it does not change user or group, and it asks for nothing that it lacks: roles find out what
//! they miss themselves. Root without `CAP_DAC_OVERRIDE` is a user like any other to files that are not its own. On
//! failure an error, and nothing is served.

use std::io;

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use super::AppError;
use crate::{config, mailstore, user::User};

/// Capabilities and how far programs that are started may get.
pub(super) struct Rights {
    kept: CapabilitySet,
    /// Whether set-user-id programs lose their meaning for what this process starts.
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

    /// Becomes the user, if there is one, and gives up all others, for this thread and those that it starts.
    pub(super) fn keep(self, user: Option<&User>) -> Result<(), AppError> {
        self.shrink().map_err(AppError::Rights)?;
        if let Some(user) = user {
            become_user(user)?;
        }
        self.settle().map_err(AppError::Rights)
    }

    /// What needs a capability of its own.
    fn shrink(&self) -> io::Result<()> {
        clear_ambient_capability_set()?;
        let own = capabilities(None)?;
        if self.bounds && own.effective.contains(CapabilitySet::SETPCAP) {
            self.shrink_bounding_set()?;
        }
        Ok(())
    }

    /// What needs none.
    fn settle(&self) -> io::Result<()> {
        let kept = capabilities(None)?.permitted & self.kept;
        set_capabilities(
            None,
            CapabilitySets {
                effective: kept,
                permitted: kept,
                inheritable: CapabilitySet::empty(),
            },
        )?;
        if self.bounds {
            set_no_new_privs(true)?;
            let none = Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            setrlimit(Resource::Core, none)?;
        }
        // Last: it is undone by becoming somebody.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
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

/// Becomes somebody for good.
pub(super) fn become_user(user: &User) -> Result<(), AppError> {
    user.become_for_good().map_err(|source| AppError::User {
        user: user.clone(),
        source,
    })
}
