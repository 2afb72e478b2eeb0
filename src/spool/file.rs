//! A file without a name.
//!
//! `O_TMPFILE` makes one that never had any. File systems without it (NFS, overlayfs of old, FUSE) get a file with a random
//! name that is unlinked at once: what may stay behind of a process killed in between is an empty file of that name.
//!
//! It is opened for reading and writing, closed on exec, mode 0600. On failure what the system says, with nothing left.

use std::{io, path::Path};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

pub(super) use std::fs::File;

const MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const FLAGS: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC);

/// Makes one in `folder`.
pub(super) fn unnamed(folder: &Path) -> io::Result<File> {
    match rustix::fs::open(folder, FLAGS | OFlags::TMPFILE, MODE) {
        // A kernel or a file system that does not know the flag says one of these.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => unlinked(folder),
        made => Ok(made?.into()),
    }
}

/// The same where there are no files without a name.
pub(super) fn unlinked(folder: &Path) -> io::Result<File> {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets).map_err(io::Error::other)?;
    let path = folder.join(format!(".pigeonair-{:032x}", u128::from_ne_bytes(octets)));
    let new = FLAGS | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&path, new, MODE)?;
    std::fs::remove_file(&path)?;
    Ok(file.into())
}
