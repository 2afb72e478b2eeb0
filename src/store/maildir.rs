//! A Maildir, as its owner: its folders, its names, and how a message gets into it.
//!
//! ```text
//! open O_EXCL tmp/NAME -> write... -> fsync -> rename, not over anything, new/NAME,S=..,W=.. -> fsync new -> stored
//! ```
//!
//! Each folder is opened right below one that is held, never through a symbolic link (openat2: beneath, none at all), and
//! what is done in it goes by the descriptor; so nothing that is swapped in meanwhile is touched. Where a folder is missing it
//! is made, 0700, and the folder above is synced. Everything here happens with the owner's rights, so what lies there
//! without being the owner's is reached as far as the owner could reach it.
//!
//! A name is `SECONDS.M<microseconds>P<process>Q<number>.<host>`: no two of one process have the same number, no two processes
//! of one host and moment the same id. `/`, `:` and `,` in the host's name become `\057`, `\072`, `\054`, as they mean
//! something in paths and names.
//!
//! On failure before the rename the file in `tmp` is removed; what a killed process leaves there, `leftovers` removes. If `new`
//! can't be synced after it, the message is taken out again: an MTA that keeps a message must not find it delivered as
//! well. Where even that fails, the message may be there twice later.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};

use super::{
    StoreError,
    text::{Sizes, Text},
};
use crate::spool::Spooled;

/// Makes names different from each other.
static STORED: AtomicU64 = AtomicU64::new(0);

/// A moment between two steps, for tests that meddle there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moment {
    /// The home is open, the owner's rights are taken.
    Home,
    /// The folders are open.
    Open,
    /// The file in `tmp` is written and synced.
    Written,
    /// It is in `new`, which is not synced yet.
    Renamed,
}

/// Called at each moment.
pub(super) type Watch<'a> = &'a mut dyn FnMut(Moment);

/// An open Maildir.
#[derive(Debug)]
pub(super) struct Maildir {
    /// The Maildir itself.
    pub(super) root: OwnedFd,
    /// Where messages are written.
    pub(super) tmp: OwnedFd,
    new: OwnedFd,
}

/// What names need from outside.
#[derive(Clone, Debug)]
pub(super) struct Host(String);

impl Host {
    /// This machine.
    pub(super) fn here() -> Self {
        Self::named(&rustix::system::uname().nodename().to_string_lossy())
    }

    fn named(name: &str) -> Self {
        let escaped = name.chars().filter(|c| !c.is_control());
        Self(escaped.fold(String::new(), |mut text, c| {
            match c {
                '/' => text.push_str("\\057"),
                ':' => text.push_str("\\072"),
                ',' => text.push_str("\\054"),
                c => text.push(c),
            }
            text
        }))
    }

    /// A name that nobody has had.
    pub(super) fn unique_name(&self) -> String {
        let now = jiff::Timestamp::now();
        format!(
            "{}.M{}P{}Q{}.{}",
            now.as_second(),
            now.subsec_microsecond(),
            std::process::id(),
            STORED.fetch_add(1, Ordering::Relaxed),
            self.0
        )
    }
}

impl Maildir {
    /// Opens the Maildir of a home, or makes it.
    pub(super) fn open(home: BorrowedFd<'_>, path: &str) -> Result<Self, StoreError> {
        let mut root = reopen(home).map_err(StoreError::system("open the home"))?;
        if path != "." {
            let mut shown = String::new();
            for name in path.split('/') {
                shown = if shown.is_empty() {
                    name.to_owned()
                } else {
                    shown + "/" + name
                };
                root = open_or_make(root.as_fd(), name, OFlags::PATH, &shown)?;
            }
        }
        let below = |name: &str, access| {
            open_or_make(root.as_fd(), name, access, &format!("{path}/{name}"))
        };
        // `new` last: readers take a folder that has it for a Maildir.
        let tmp = below("tmp", OFlags::RDONLY)?;
        below("cur", OFlags::PATH)?;
        let new = below("new", OFlags::RDONLY)?;
        Ok(Self { root, tmp, new })
    }

    /// Stores a message. `is_wanted` is asked once more before it appears.
    pub(super) fn store(
        &self,
        name: &str,
        text: Text,
        octets: &Spooled,
        is_wanted: impl Fn() -> bool,
        watch: Watch<'_>,
    ) -> Result<Sizes, StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.tmp, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(StoreError::system("make a file in tmp"))?;
        let written = write(file.into(), text, octets).and_then(|sizes| {
            watch(Moment::Written);
            if !is_wanted() {
                return Err(StoreError::Abandoned);
            }
            let last = format!("{name},S={},W={}", sizes.file, sizes.wire);
            self.rename_to_new(name, &last)
                .map_err(StoreError::system("move the message into new"))?;
            Ok((sizes, last))
        });
        let (sizes, last) = written.inspect_err(|_| {
            let _ = rustix::fs::unlinkat(&self.tmp, name, AtFlags::empty());
        })?;
        watch(Moment::Renamed);
        let synced = rustix::fs::fsync(&self.new).map_err(StoreError::system("sync new"));
        synced.inspect_err(|_| {
            let _ = rustix::fs::unlinkat(&self.new, last, AtFlags::empty());
        })?;
        Ok(sizes)
    }

    fn rename_to_new(&self, from: &str, to: &str) -> Result<(), Errno> {
        let (tmp, new) = (&self.tmp, &self.new);
        match rustix::fs::renameat_with(tmp, from, new, to, RenameFlags::NOREPLACE) {
            // NFS has no such flag. A second name never replaces anything.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(tmp, from, new, to, AtFlags::empty())?;
                // The message is in `new`: what stays in `tmp` is a leftover.
                let _ = rustix::fs::unlinkat(tmp, from, AtFlags::empty());
                Ok(())
            }
            renamed => renamed,
        }
    }
}

fn write(mut file: File, mut text: Text, octets: &Spooled) -> Result<Sizes, StoreError> {
    let mut offset = 0;
    loop {
        let piece = octets.read_blocking(offset).map_err(StoreError::Read)?;
        offset += piece.len() as u64;
        if piece.is_empty() {
            text.end();
        }
        text.push(&piece);
        file.write_all(text.ready())
            .map_err(StoreError::system("write the message"))?;
        text.clear();
        if piece.is_empty() {
            break;
        }
    }
    file.sync_all()
        .map_err(StoreError::system("sync the message"))?;
    Ok(text.sizes())
}

/// A folder as its owner opens it, from a place that was opened as somebody else.
fn reopen(folder: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    openat(folder, ".", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Opens what lies right below a folder, never through a symbolic link.
pub(super) fn openat(
    folder: impl AsFd,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        folder,
        name,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        mode,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens a folder or makes it: then the one above is synced, as a message below one that is gone after a power failure
/// is gone too.
fn open_or_make(
    above: BorrowedFd<'_>,
    name: &str,
    access: OFlags,
    path: &str,
) -> Result<OwnedFd, StoreError> {
    let open = || openat(above, name, access | OFlags::DIRECTORY, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) => {
            match rustix::fs::mkdirat(above, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(StoreError::system("make a folder")(errno)),
            }
            openat(
                above,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY,
                Mode::empty(),
            )
            .and_then(rustix::fs::fsync)
            .map_err(StoreError::system("sync a folder"))?;
            open()
        }
        opened => opened,
    };
    opened.map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => StoreError::NotFolder(path.to_owned()),
        errno => StoreError::system("open a folder")(errno),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_breaks_no_name() {
        assert_eq!(Host::named("a/b:c,d\n.org").0, "a\\057b\\072c\\054d.org");
        let name = Host::named("n1.example.org").unique_name();
        assert!(name.ends_with(".n1.example.org"), "{name}");
    }
}
