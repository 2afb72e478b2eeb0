//! What writers that were killed have left in `tmp`: removed when it is older than 36 hours.
//!
//! A Maildir's `tmp` is looked through, as its owner, when mail is stored there, at most once an hour in one process. A file is
//! old when it was neither read nor written for that long; only regular files are removed, links and folders never.
//!
//! Limits: 1000 names in one visit, in the folder's order; what is behind them waits until some of these are gone. 65,536
//! Maildirs are remembered; with more all are forgotten, and visited sooner. Failures are passed over: the message counts.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::maildir::openat;

/// Age of a leftover, in seconds.
const MAX_AGE: i64 = 36 * 60 * 60;

const INTERVAL: Duration = Duration::from_secs(60 * 60);
const MAX_NAMES: usize = 1000;
const MAX_MAILDIRS: usize = 65_536;

/// When which `tmp` was visited, by device and inode.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    visited: Mutex<HashMap<(u64, u64), Instant>>,
}

impl Leftovers {
    /// Visits a `tmp` if its time has come; `now` in seconds.
    pub(super) fn clean(&self, tmp: &OwnedFd, now: i64) {
        if self.is_due(tmp, Instant::now()) {
            let _ = remove_old(tmp, now);
        }
    }

    fn is_due(&self, tmp: &OwnedFd, now: Instant) -> bool {
        let Ok(stat) = rustix::fs::fstat(tmp) else {
            return false;
        };
        let mut visited = self.visited.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (stat.st_dev, stat.st_ino);
        if let Some(last) = visited.get(&key)
            && now.saturating_duration_since(*last) < INTERVAL
        {
            return false;
        }
        if visited.len() >= MAX_MAILDIRS {
            visited.clear();
        }
        visited.insert(key, now);
        true
    }
}

fn remove_old(tmp: &OwnedFd, now: i64) -> rustix::io::Result<()> {
    let listed = openat(tmp, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    for entry in Dir::new(listed)?.take(MAX_NAMES) {
        let entry = entry?;
        let looked = rustix::fs::statat(tmp, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
        let Ok(stat) = looked else {
            // Its writer was faster.
            continue;
        };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && now.saturating_sub(stat.st_atime.max(stat.st_mtime)) > MAX_AGE {
            let _ = rustix::fs::unlinkat(tmp, entry.file_name(), AtFlags::empty());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_visited_once_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let tmp = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let leftovers = Leftovers::default();
        let start = Instant::now();
        assert!(leftovers.is_due(&tmp, start));
        assert!(!leftovers.is_due(&tmp, start + INTERVAL - Duration::from_secs(1)));
        assert!(leftovers.is_due(&tmp, start + INTERVAL));
        assert!(!leftovers.is_due(&tmp, start + INTERVAL));
    }
}
