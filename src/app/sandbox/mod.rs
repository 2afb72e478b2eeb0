//! The sandbox of a front: what the kernel refuses it even if somebody else's code runs in it.
//!
//! ```text
//! bind ─> become the user ─> files: Landlock ─> system calls: seccomp ─> first thread
//! ```
//!
//! A front never executes a program, changes who it is or makes a namespace: `calls` has the list. Of files it needs a
//! few, and it has exactly these with Landlock, whatever their modes say:
//!
//! - reading: what resolvers, TLS and the C library read ([`SYSTEM`]), the folders of the files that the configuration
//!   names, and those of what these lead to (a certificate in `live/` is a symbolic link to one in `archive/`, and its
//!   successor will lie there too);
//! - writing: the folder of large messages and that of orders in force; nothing else;
//! - binding a Unix socket, and removing one: the folder of that for commands, for when another process has taken its place.
//!   All others are bound by then.
//!
//! Signals and abstract Unix sockets of others are out of reach too, where the kernel knows how. Connecting is not
//! restricted: LDAP servers and nodes may be anywhere.
//!
//! A node has no sandbox: real servers and mailboxes are what it is for. A kernel without one of the two is a warning,
//! and everything works; whatever else fails is an error, and nothing is served.

mod calls;

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::AppError;

/// What libraries read: resolver, name services, authorities, time zones, random octets, facts about the machine.
const SYSTEM: [&str; 10] = [
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/nix/store",
    "/proc",
    "/run",
    "/sys",
    "/usr",
    "/var/lib/sss",
];

/// The newest rules that this program knows; an older kernel keeps those that it knows.
const NEWEST: ABI = ABI::V6;

/// What a front may still use.
#[derive(Debug, Default)]
pub(super) struct Sandbox {
    /// Files that it may read again.
    pub(super) reads: Vec<PathBuf>,
    /// Folders that it writes to.
    pub(super) writes: Vec<PathBuf>,
    /// Folders that it binds sockets in.
    pub(super) binds: Vec<PathBuf>,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Files.
    #[error("files (Landlock)")]
    Files(#[from] RulesetError),
    /// System calls.
    #[error("system calls (seccomp)")]
    Calls(#[from] seccompiler::Error),
}

impl Sandbox {
    /// Shuts this thread in, and those that it starts.
    pub(super) fn enter(&self) -> Result<(), AppError> {
        self.shut_in().map_err(AppError::Sandbox)
    }

    fn shut_in(&self) -> Result<(), SandboxError> {
        if self.restrict_files()?.ruleset == RulesetStatus::NotEnforced {
            tracing::warn!("this kernel has no Landlock: the front may open whatever its user may");
        }
        if !calls::refuse()? {
            tracing::warn!("this kernel cannot filter system calls: the front may make them all");
        }
        Ok(())
    }

    fn restrict_files(&self) -> Result<RestrictionStatus, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
        let bind = AccessFs::MakeSock | AccessFs::RemoveFile;
        let folders = self.reads.iter().flat_map(|file| surroundings(file));
        Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules(folders, read))?
            .add_rules(path_beneath_rules(&self.binds, bind))?
            .add_rules(self.writes.iter().filter_map(|folder| {
                let folder = PathFd::new(folder).ok()?;
                Some(Ok::<_, RulesetError>(PathBeneath::new(folder, write)))
            }))?
            .restrict_self()
    }
}

/// The folder of a file, by its name and by what that leads to; the file itself where the folder would be everything.
fn surroundings(file: &Path) -> Vec<PathBuf> {
    let target = file.canonicalize().ok();
    let paths = [Some(file.to_owned()), target].into_iter().flatten();
    paths
        .map(|path| match path.parent() {
            Some(folder) if folder != Path::new("/") => folder.to_owned(),
            _ => path,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        os::unix::{fs::symlink, net::UnixListener},
        process::Command,
        thread,
    };

    use super::*;

    /// Does something in a thread that is shut in, as a front would be.
    fn shut_in<T: Send>(sandbox: &Sandbox, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let work = || {
                sandbox.enter().unwrap();
                work()
            };
            scope.spawn(work).join().unwrap()
        })
    }

    fn kind<T>(done: io::Result<T>) -> Option<io::ErrorKind> {
        done.err().map(|error| error.kind())
    }

    const DENIED: Option<io::ErrorKind> = Some(io::ErrorKind::PermissionDenied);

    #[test]
    fn a_front_reads_what_it_needs_and_writes_where_it_must() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["live", "archive", "spool", "other", "run"] {
            fs::create_dir(path(folder)).unwrap();
        }
        for file in ["archive/cert1.pem", "other/mail", "live/README"] {
            fs::write(path(file), "x").unwrap();
        }
        symlink("../archive/cert1.pem", path("live/cert.pem")).unwrap();
        let sandbox = Sandbox {
            reads: vec![path("live/cert.pem")],
            writes: vec![path("spool")],
            binds: vec![path("run")],
        };
        // Renewed from without, while it runs.
        fs::write(path("archive/cert2.pem"), "y").unwrap();
        let renew = || {
            fs::remove_file(path("live/cert.pem")).unwrap();
            symlink("../archive/cert2.pem", path("live/cert.pem")).unwrap();
        };
        shut_in(&sandbox, || {
            assert_eq!(fs::read_to_string(path("live/cert.pem")).unwrap(), "x");
            thread::scope(|_| assert_eq!(kind(fs::remove_file(path("live/README"))), DENIED));
        });
        renew();
        shut_in(&sandbox, || {
            assert_eq!(fs::read_to_string(path("live/cert.pem")).unwrap(), "y");
            assert!(fs::read("/etc/passwd").is_ok());
            assert_eq!(kind(fs::read(path("other/mail"))), DENIED);
            assert_eq!(kind(fs::write(path("other/new"), "x")), DENIED);
            assert_eq!(kind(fs::write("/etc/pigeonair-test", "x")), DENIED);
            assert_eq!(kind(fs::read_dir("/root")), DENIED);
            tempfile::tempfile_in(path("spool")).unwrap();
            drop(UnixListener::bind(path("run/sock")).unwrap());
            fs::remove_file(path("run/sock")).unwrap();
            assert_eq!(kind(fs::write(path("run/new"), "x")), DENIED);
        });
        // The test's own threads are as before.
        assert!(fs::read(path("other/mail")).is_ok());
    }

    #[test]
    fn a_front_executes_nothing_and_becomes_nobody() {
        let executed = shut_in(&Sandbox::default(), || {
            // Threads are another matter.
            assert_eq!(thread::scope(|scope| scope.spawn(|| 1).join().unwrap()), 1);
            let own = rustix::process::geteuid();
            let become_self = rustix::thread::set_thread_res_uid(own, own, own);
            assert_eq!(become_self, Err(rustix::io::Errno::PERM));
            Command::new("/bin/true").status()
        });
        assert_eq!(kind(executed), DENIED);
    }

    #[test]
    fn the_root_folder_is_never_all_of_a_files_surroundings() {
        assert_eq!(
            surroundings(Path::new("/no-such-key")),
            [Path::new("/no-such-key")]
        );
        assert_eq!(
            surroundings(Path::new("/etc/passwd")),
            [Path::new("/etc"), Path::new("/etc")]
        );
    }
}
