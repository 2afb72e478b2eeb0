//! Who a storing thread is: itself between two jobs, the owner of a Maildir during one.
//!
//! ```text
//! settle once: ambient, inheritable, groups gone; permitted = what was there of SETUID, SETGID, CHOWN
//!     itself: euid, egid of the process; effective = permitted
//!       │ become: setresgid, setresuid (effective ids only), effective capabilities none        ▲ drop: the same backwards
//!       ▼                                                                                       │
//!     owner: euid, egid, and so the ids that files are opened and made with, are the owner's ───┘
//! ```
//!
//! All of it is of one thread: the system calls themselves know no processes, only the C library's functions of those names
//! carry them to all threads, and they are not used. A thread started by one that is somebody else would be somebody else
//! too, so nothing that runs as the owner starts threads or wakes what does.
//! CAP_SYS_RESOURCE, with which a disk quota does not count, and CAP_DAC_* are never kept.
//!
//! Each change is read back. A thread that can't become itself again would do the next owner's work, or the Home's, with
//! the wrong rights: it says so and ends the process.
//! A process without the two capabilities can store for its own uid only, with its own gid and groups.

use std::io;

use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    process::{getegid, geteuid},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// What a thread needs to become others.
const SWITCH: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// Who this thread is, and what it may do.
#[derive(Debug)]
pub(super) struct Identity {
    uid: u32,
    gid: u32,
    permitted: CapabilitySet,
}

/// This thread is somebody else until this is dropped.
#[derive(Debug)]
pub(super) struct Acting<'a> {
    identity: &'a Identity,
}

impl Identity {
    /// Gives up, for this thread alone, all that storing does not need.
    pub(super) fn settle() -> io::Result<Self> {
        clear_ambient_capability_set()?;
        let permitted = capabilities(None)?.permitted & (SWITCH | CapabilitySet::CHOWN);
        let identity = Self {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            permitted,
        };
        identity.set_effective(permitted)?;
        if identity.can_become_others() {
            set_thread_groups(&[])?;
        }
        Ok(identity)
    }

    /// Whether it may store for others than itself.
    const fn can_become_others(&self) -> bool {
        self.permitted.contains(SWITCH)
    }

    /// The only uid that it may store for, if it may not store for others.
    pub(super) const fn only_for(&self) -> Option<u32> {
        if self.can_become_others() {
            None
        } else {
            Some(self.uid)
        }
    }

    /// Who it is itself.
    pub(super) const fn uid(&self) -> u32 {
        self.uid
    }

    /// Becomes the owner, with no capability in effect. None: it has no right to.
    pub(super) fn become_owner(&self, uid: u32, gid: u32) -> io::Result<Option<Acting<'_>>> {
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL.into());
        }
        // From here on, whatever fails is undone.
        let acting = Acting { identity: self };
        if self.can_become_others() {
            set_ids(uid, gid, Order::GroupFirst)?;
        } else if uid != self.uid {
            return Ok(None);
        }
        self.set_effective(CapabilitySet::empty())?;
        Ok(Some(acting))
    }

    fn set_effective(&self, effective: CapabilitySet) -> io::Result<()> {
        let sets = CapabilitySets {
            effective,
            permitted: self.permitted,
            inheritable: CapabilitySet::empty(),
        };
        Ok(set_capabilities(None, sets)?)
    }

    fn return_to_self(&self) -> io::Result<()> {
        // The real ids never changed, so this needs no capability.
        set_ids(self.uid, self.gid, Order::UserFirst)?;
        self.set_effective(self.permitted)
    }
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.identity.return_to_self() {
            tracing::error!(%error, "a storing thread cannot become itself again, the process ends");
            std::process::abort();
        }
    }
}

/// Which id is set while the thread still has the right to.
#[derive(Clone, Copy, Debug)]
enum Order {
    GroupFirst,
    UserFirst,
}

fn set_ids(uid: u32, gid: u32, order: Order) -> io::Result<()> {
    let set_uid = || set_thread_res_uid(None, Uid::from_raw(uid), None);
    let set_gid = || set_thread_res_gid(None, Gid::from_raw(gid), None);
    match order {
        Order::GroupFirst => set_gid().and_then(|()| set_uid())?,
        Order::UserFirst => set_uid().and_then(|()| set_gid())?,
    }
    if geteuid().as_raw() == uid && getegid().as_raw() == gid {
        Ok(())
    } else {
        Err(Errno::PERM.into())
    }
}
