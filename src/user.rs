//! Another user: whom a process becomes once it has bound its listeners, or is for as long as it reads its files.
//!
//! ```text
//! root ──act──> effective ids and groups of the user, no capability in effect ──> root again     (files, Unix sockets)
//! root ──become──> all ids and the groups of the user, for good                                  (before the first thread)
//! ```
//!
//! What is read or made in [`act`](User::act) is so with the user's rights, all of them and no others: whatever works
//! there works when the process has become the user. Both are of the calling thread alone, as the kernel has it, so a
//! process becomes somebody while it has one thread, and those that come later are the same.
//!
//! It knows nothing of the system's lists of users (`config` reads them). A thread that can't return from `act` would
//! go on with the wrong rights: it says so and ends the process.

use std::{fmt, fs, io};

use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    process::{getegid, geteuid, getgid, getgroups, getuid},
    thread::{set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// A user of this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// As the configuration calls it.
    pub name: String,
    /// Never 0.
    pub uid: u32,
    /// Its primary group, or another that was named.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, uid, gid, .. } = self;
        write!(f, "user {name} (uid {uid}, gid {gid})")
    }
}

/// This thread's own identity, to which it returns.
struct Own {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl User {
    /// Does something with the user's rights, if this process is root's; else with its own.
    ///
    /// # Errors
    ///
    /// When this process may not.
    pub fn act<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        if !geteuid().is_root() {
            return Ok(work());
        }
        // From here on, whatever happens is undone.
        let _own = Own {
            uid: geteuid(),
            gid: getegid(),
            groups: getgroups()?,
        };
        set_thread_groups(&self.groups())?;
        set_thread_res_gid(None, Gid::from_raw(self.gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(self.uid), None)?;
        if geteuid().as_raw() != self.uid || getegid().as_raw() != self.gid {
            return Err(Errno::PERM.into());
        }
        Ok(work())
    }

    /// Becomes the user for good, and keeps the permitted capabilities: the caller gives them up. Nothing is done if
    /// this process is the user already.
    ///
    /// # Errors
    ///
    /// When this process may not, or has more than one thread: the others would go on as they are.
    pub fn become_for_good(&self) -> io::Result<()> {
        if self.is_this_process() {
            return Ok(());
        }
        // Where there is no /proc, nobody can tell.
        let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads > 1 {
            return Err(io::Error::other("there is more than one thread already"));
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_keep_capabilities(true)?;
        set_thread_groups(&self.groups())?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        set_keep_capabilities(false)?;
        if self.is_this_process() {
            Ok(())
        } else {
            Err(Errno::PERM.into())
        }
    }

    fn is_this_process(&self) -> bool {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        [getuid(), geteuid()] == [uid; 2] && [getgid(), getegid()] == [gid; 2]
    }

    fn groups(&self) -> Vec<Gid> {
        self.groups.iter().copied().map(Gid::from_raw).collect()
    }
}

impl Own {
    fn return_to_self(&self) -> io::Result<()> {
        // The real and saved ids never changed, so the first needs no capability and gives back the others.
        set_thread_res_uid(None, self.uid, None)?;
        set_thread_res_gid(None, self.gid, None)?;
        set_thread_groups(&self.groups)?;
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = self.return_to_self() {
            tracing::error!(%error, "cannot become root again, the process ends");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn user() -> User {
        User {
            name: "somebody".to_owned(),
            uid: 20_501,
            gid: 20_502,
            groups: vec![20_503],
        }
    }

    #[test]
    fn what_is_done_as_somebody_has_its_rights_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let [roots, group] = ["roots", "group"].map(|name| dir.path().join(name));
        for (path, mode, gid) in [(&roots, 0o600, 0), (&group, 0o640, 20_503)] {
            fs::write(path, "x").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(path, None, Some(gid)).unwrap();
        }
        let made = dir.path().join("made");
        let before = (geteuid(), getegid(), getgroups().unwrap());
        let done = user().act(|| {
            assert!(fs::read(&group).is_ok());
            assert!(fs::write(&made, "x").is_err());
            fs::read(&roots).map_err(|error| error.kind())
        });
        assert_eq!(done.unwrap(), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(before, (geteuid(), getegid(), getgroups().unwrap()));
        // And all of root's rights are back.
        fs::write(&made, "x").unwrap();
        assert_eq!(fs::metadata(&made).unwrap().uid(), 0);
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o0)).unwrap();
        assert!(fs::read(&roots).is_ok());
    }

    #[test]
    fn a_process_with_threads_becomes_nobody_else() {
        // The test itself runs in one.
        let error = user().become_for_good().unwrap_err();
        assert!(
            error.to_string().contains("more than one thread"),
            "{error}"
        );
        assert!(geteuid().is_root());
    }
}
