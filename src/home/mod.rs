//! An account's home folder: where it may lie, and making it.
//!
//! A home is a path below `home_root`: relative to it, or absolute and lexically below it; no `.`, no `..`, no empty component,
//! no control character. It is opened one component at a time from a held descriptor (openat2: beneath, no symbolic
//! links at all), so that nothing swapped in between two steps leads elsewhere. A home that exists belongs to the
//! account's uid, or is refused.
//!
//! What is missing is made: the home 0700 and given to uid and gid, folders above it 0755 and ours. Each is made under a
//! temporary name, checked to be what was made, given away by descriptor, and only then renamed into place: a home appears
//! with its owner or not at all, whoever else makes it at the same time and whenever this process ends.
//!
//! ```text
//! mkdir .pigeonair-PID-N -> open -> ours, 0700? -> fchmod, fchown -> rename, not over anything -> fsync -> home
//! ```
//!
//! Nothing is made below a folder that others than root and this process can write to or own: they could swap what was made.
//! Nothing is ever written into a home, and none is removed.
//!
//! It trusts `home_root` as configured, symbolic links in it included. The real server opens the home again by its path, as
//! the account: what an account does to its own home after this hurts itself alone.
//!
//! Limits: 1024 octets, 16 components of 255 octets. These calls block; the caller runs them off the event loop, all but
//! [`Home::is_at_hand`], which answers from what the kernel has in memory: that is the home of nearly every session, and
//! a thread for it would cost more than all else that is done here.

use std::{
    io,
    ops::RangeInclusive,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, StatxFlags, Uid},
    io::Errno,
};

/// The longest home, in octets.
const MAX_HOME_BYTES: usize = 1024;

/// The most components below `home_root`.
const MAX_COMPONENTS: usize = 16;

/// NAME_MAX.
const MAX_COMPONENT_BYTES: usize = 255;

/// Temporary names tried: one left behind by a process of our number that was killed is in the way once.
const MAX_ATTEMPTS: usize = 8;

/// Makes temporary names different from each other.
static MADE: AtomicU64 = AtomicU64::new(0);

/// What a front may ask for on this node.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Default 1000 and up.
    pub uids: RangeInclusive<u32>,
    /// Default 1000 and up.
    pub gids: RangeInclusive<u32>,
    /// All homes lie below it.
    pub home_root: PathBuf,
}

impl Bounds {
    /// Whether somebody may be served. Zero is refused whatever is configured, and so is -1: to the kernel it says
    /// "as before".
    ///
    /// # Errors
    ///
    /// Which bound is broken.
    pub fn check(&self, uid: u32, gid: u32) -> Result<(), &'static str> {
        if uid == 0 || uid == u32::MAX || !self.uids.contains(&uid) {
            return Err("uid is outside this node's bounds");
        }
        if gid == 0 || gid == u32::MAX || !self.gids.contains(&gid) {
            return Err("gid is outside this node's bounds");
        }
        Ok(())
    }
}

/// Why a home is not used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The path breaks the rules.
    #[error("home folder {0}")]
    Path(&'static str),
    /// `home_root` can't be opened.
    #[error("cannot open home_root {path}")]
    Root {
        /// The folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A component is a symbolic link or no folder.
    #[error("{path} is a symbolic link, or not a folder")]
    NotFolder {
        /// Up to that component.
        path: String,
    },
    /// The home belongs to somebody else.
    #[error("{path} belongs to uid {owner} (expected {uid})")]
    Owner {
        /// The home.
        path: String,
        /// Who owns it.
        owner: u32,
        /// Who should.
        uid: u32,
    },
    /// Something is missing, and its parent is no place to make it in.
    #[error(
        "{path} has to be made, but its parent has owner {owner} and mode {mode:04o} (expected root or ourselves, not writable by others)"
    )]
    Parent {
        /// What is missing.
        path: String,
        /// Who owns its parent.
        owner: u32,
        /// The parent's permission bits.
        mode: u32,
    },
    /// What was opened is not what was made just before.
    #[error("{path} was swapped while it was made")]
    Swapped {
        /// What was to be made.
        path: String,
    },
    /// The system failed.
    #[error("cannot open or make {path}")]
    Io {
        /// Up to the component that failed.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl HomeError {
    /// Whether the account is at fault, or someone who meddles with its home; otherwise the node is.
    pub const fn is_forbidden(&self) -> bool {
        match self {
            Self::Path(_)
            | Self::NotFolder { .. }
            | Self::Owner { .. }
            | Self::Parent { .. }
            | Self::Swapped { .. } => true,
            Self::Root { .. } | Self::Io { .. } => false,
        }
    }
}

/// A moment between two steps, for tests that meddle there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moment {
    /// Before this component is opened.
    Open,
    /// After it was found missing.
    Missing,
    /// A temporary folder was made and is not open yet.
    Made,
    /// It is about to get its name.
    Rename,
}

/// A home folder whose path keeps the rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Home {
    /// Without a slash at its end: empty for the file system's root.
    root: String,
    components: Vec<String>,
}

impl Home {
    /// Checks a home, relative or absolute, against the rules.
    ///
    /// # Errors
    ///
    /// Which rule it breaks.
    pub fn locate(root: &Path, home: &str) -> Result<Self, HomeError> {
        if home.len() > MAX_HOME_BYTES {
            return Err(HomeError::Path("is longer than 1024 octets"));
        }
        if home.chars().any(char::is_control) {
            return Err(HomeError::Path("has a control character"));
        }
        let root = root
            .to_str()
            .ok_or(HomeError::Path("is below a home_root that is not UTF-8"))?
            .trim_end_matches('/');
        let below = if home.starts_with('/') {
            home.strip_prefix(root)
                .and_then(|below| below.strip_prefix('/'))
                .ok_or(HomeError::Path("is not below home_root"))?
        } else {
            home
        };
        let components: Vec<_> = below.split('/').map(str::to_owned).collect();
        if components.len() > MAX_COMPONENTS {
            return Err(HomeError::Path("has more than 16 components"));
        }
        for component in &components {
            if component.is_empty() {
                return Err(HomeError::Path("has an empty component"));
            }
            if component == "." || component == ".." {
                return Err(HomeError::Path("has a component . or .."));
            }
            if component.len() > MAX_COMPONENT_BYTES {
                return Err(HomeError::Path("has a component longer than 255 octets"));
            }
        }
        Ok(Self {
            root: root.to_owned(),
            components,
        })
    }

    /// The absolute path.
    pub fn path(&self) -> String {
        self.up_to(self.components.len())
    }

    /// Whether the home is there and belongs to that uid, as far as the kernel knows without asking a disk or a file
    /// server. Does not block. "No" means nothing: ask [`Home::prepare`].
    pub fn is_at_hand(&self, uid: u32) -> bool {
        self.find_cached(uid).unwrap_or(false)
    }

    fn find_cached(&self, uid: u32) -> Result<bool, Errno> {
        let root = self.root.clone() + "/";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder =
            rustix::fs::openat2(CWD, root, flags, Mode::empty(), ResolveFlags::CACHED)?;
        for component in &self.components {
            folder = open_by(
                folder.as_fd(),
                component,
                OFlags::PATH,
                ResolveFlags::CACHED,
            )?;
        }
        // Not synchronised: a file server is not asked for what its client holds to be true.
        let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(&folder, "", how, StatxFlags::UID)?;
        Ok(found.stx_mask & StatxFlags::UID.bits() != 0 && found.stx_uid == uid)
    }

    /// Opens the home or makes it. Blocks.
    ///
    /// # Errors
    ///
    /// Whatever makes it no home of that uid.
    pub fn prepare(&self, uid: u32, gid: u32) -> Result<(), HomeError> {
        self.open(uid, gid).map(drop)
    }

    /// The same, for who works in it: the descriptor names the folder that was checked, whatever its path leads to later.
    /// It is a mere place (`O_PATH`): what is done from it needs its own rights. Blocks.
    ///
    /// # Errors
    ///
    /// Whatever makes it no home of that uid.
    pub fn open(&self, uid: u32, gid: u32) -> Result<OwnedFd, HomeError> {
        self.open_watched(uid, gid, &mut |_, _| {})
    }

    fn open_watched(
        &self,
        uid: u32,
        gid: u32,
        watch: &mut dyn FnMut(Moment, &str),
    ) -> Result<OwnedFd, HomeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder =
            rustix::fs::open(self.root.clone() + "/", flags, Mode::empty()).map_err(|errno| {
                HomeError::Root {
                    path: self.root.clone() + "/",
                    source: errno.into(),
                }
            })?;
        for (index, component) in self.components.iter().enumerate() {
            let depth = index.saturating_add(1);
            let owner = (depth == self.components.len()).then_some((uid, gid));
            watch(Moment::Open, component);
            folder = match open(folder.as_fd(), component, OFlags::PATH) {
                Err(Errno::NOENT) => {
                    watch(Moment::Missing, component);
                    self.make(folder.as_fd(), component, depth, owner, watch)?
                }
                opened => opened.map_err(|errno| self.failed(depth, errno))?,
            };
        }
        let path = self.path();
        let stat = rustix::fs::fstat(&folder)
            .map_err(|errno| self.failed(self.components.len(), errno))?;
        if stat.st_uid == uid {
            Ok(folder)
        } else {
            Err(HomeError::Owner {
                path,
                owner: stat.st_uid,
                uid,
            })
        }
    }

    /// Makes one component, or opens what somebody else has made there meanwhile.
    fn make(
        &self,
        parent: BorrowedFd<'_>,
        component: &str,
        depth: usize,
        owner: Option<(u32, u32)>,
        watch: &mut dyn FnMut(Moment, &str),
    ) -> Result<OwnedFd, HomeError> {
        let failed = |errno| self.failed(depth, errno);
        let stat = rustix::fs::fstat(parent).map_err(failed)?;
        self.check_parent(depth, &stat)?;
        let temporary = mkdir_temporary(parent).map_err(failed)?;
        watch(Moment::Made, &temporary);
        let result = self
            .give(parent, &temporary, depth, owner)
            .and_then(|made| {
                watch(Moment::Rename, component);
                rename(parent, &temporary, component).map_err(failed)?;
                sync(parent).map_err(failed)?;
                Ok(made)
            });
        match result {
            Err(HomeError::Io { source, .. })
                if [Errno::EXIST, Errno::NOTEMPTY].contains(&errno_of(&source)) =>
            {
                remove(parent, &temporary);
                open(parent, component, OFlags::PATH).map_err(failed)
            }
            Err(error) => {
                remove(parent, &temporary);
                Err(error)
            }
            Ok(made) => Ok(made),
        }
    }

    /// Gives a folder that was just made its mode and owner, through a descriptor of it.
    fn give(
        &self,
        parent: BorrowedFd<'_>,
        temporary: &str,
        depth: usize,
        owner: Option<(u32, u32)>,
    ) -> Result<OwnedFd, HomeError> {
        let failed = |errno| self.failed(depth, errno);
        let swapped = || HomeError::Swapped {
            path: self.up_to(depth),
        };
        let made = match open(parent, temporary, OFlags::RDONLY) {
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => return Err(swapped()),
            made => made.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&made).map_err(failed)?;
        if stat.st_uid != us() || stat.st_mode & 0o777 != 0o700 {
            return Err(swapped());
        }
        // The mode first: once it is somebody else's, changing it takes one more capability. Setting it also undoes
        // what our umask and a set-group-id bit of the parent did.
        let mode = if owner.is_some() { 0o700 } else { 0o755 };
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode)).map_err(failed)?;
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(&made, Some(uid), Some(gid)).map_err(failed)?;
        }
        Ok(made)
    }

    fn check_parent(&self, depth: usize, stat: &Stat) -> Result<(), HomeError> {
        let mode = stat.st_mode & 0o7777;
        let ours = stat.st_uid == 0 || stat.st_uid == us();
        // In a sticky folder others can't rename what is ours.
        if ours && (mode & 0o022 == 0 || mode & 0o1000 != 0) {
            return Ok(());
        }
        Err(HomeError::Parent {
            path: self.up_to(depth),
            owner: stat.st_uid,
            mode,
        })
    }

    fn failed(&self, depth: usize, errno: Errno) -> HomeError {
        let path = self.up_to(depth);
        match errno {
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => HomeError::NotFolder { path },
            errno => HomeError::Io {
                path,
                source: errno.into(),
            },
        }
    }

    fn up_to(&self, depth: usize) -> String {
        self.components
            .iter()
            .take(depth)
            .fold(self.root.clone(), |path, component| path + "/" + component)
    }
}

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Opens a folder right below another: never through a link, never anything that is no folder.
fn open(parent: BorrowedFd<'_>, name: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    open_by(parent, name, access, ResolveFlags::empty())
}

fn open_by(
    parent: BorrowedFd<'_>,
    name: &str,
    access: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        parent,
        name,
        access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

fn mkdir_temporary(parent: BorrowedFd<'_>) -> Result<String, Errno> {
    let pid = std::process::id();
    for _ in 0..MAX_ATTEMPTS {
        let name = format!(".pigeonair-{pid}-{}", MADE.fetch_add(1, Ordering::Relaxed));
        match rustix::fs::mkdirat(parent, &name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => return made.map(|()| name),
        }
    }
    Err(Errno::EXIST)
}

fn rename(parent: BorrowedFd<'_>, from: &str, to: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        // NFS has no such flag. A plain rename of a folder replaces nothing but an empty folder.
        Err(Errno::INVAL) => rustix::fs::renameat(parent, from, parent, to),
        renamed => renamed,
    }
}

/// What was made is to be there after a power failure too: mail may be acknowledged in it.
fn sync(parent: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsync(open(parent, ".", OFlags::RDONLY)?)
}

/// Removes a temporary folder. What fails leaves an empty folder behind, and that is all.
fn remove(parent: BorrowedFd<'_>, temporary: &str) {
    let _ = rustix::fs::unlinkat(parent, temporary, AtFlags::REMOVEDIR);
}

#[cfg(test)]
mod tests;
