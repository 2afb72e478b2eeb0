//! Maildir++ quota: the file `maildirsize`, which all programs that deliver into a Maildir or serve it share.
//!
//! ```text
//! 100000000S          the limit: octets; others may add messages, as ",1000C"
//! 81725 21            octets and messages as they were counted
//! 3425 1              what came or (with a minus) went since
//! ```
//!
//! It is believed as long as the message fits. The Maildir is counted anew, and the file replaced, when it is missing,
//! malformed, longer than 5120 octets or of another limit; and when the message does not fit and the file is more than one
//! count or older than 15 minutes. Counted are `cur` and `new` of the Maildir and of each folder `.Name` in it by the size in
//! a file's name (`,S=`), else its length. As in Dovecot, Trash and messages with the flag T count too: they lie on the disk.
//! A limit of messages is kept in the file and not checked. After a delivery a line is added.
//!
//! Nothing is locked: several at once may all find room for themselves, and what is added while another counts may be
//! missed until the next count. The owner can write what he likes into it; against that stand the disk's own quotas.
//! It is opened without following links or waiting, and used if it is a regular file.
//!
//! Limits: 1,000,000 messages, 10,000 folders are counted; more is free. If the file can't be written, the count holds for
//! this message and the next counts again. A missing line is no failure either: the message is stored.

use std::{fs::File, io::Write as _, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::maildir::{Maildir, openat};

const NAME: &str = "maildirsize";

/// The file is replaced when it is longer.
const MAX_FILE_BYTES: usize = 5120;

/// A count that says "full" is believed so long, in seconds.
const MAX_AGE: i64 = 15 * 60;

const MAX_MESSAGES: u64 = 1_000_000;
const MAX_FOLDERS: u64 = 10_000;

/// What is used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Usage {
    octets: u64,
    messages: u64,
}

/// The file as it was read.
#[derive(Debug, Eq, PartialEq)]
struct Reading {
    usage: Usage,
    /// It says no more than one count did.
    is_count: bool,
}

/// The mailbox is full.
#[derive(Debug)]
pub(super) struct Full;

/// Whether a message fits below the limit. `temporary` is a name to use in `tmp`; `now` in seconds;
/// whether to believe a count of some minutes ago that says no: not where that would send mail back.
pub(super) fn check(
    maildir: &Maildir,
    limit: u64,
    size: u64,
    temporary: &str,
    now: i64,
    believe: bool,
) -> Result<(), Full> {
    let fits = |usage: Usage| usage.octets.saturating_add(size) <= limit;
    let (text, age) = read(maildir, now).unwrap_or_default();
    if let Some(reading) = parse(&text, limit) {
        if fits(reading.usage) {
            return Ok(());
        }
        if believe && reading.is_count && age <= MAX_AGE {
            return Err(Full);
        }
    }
    let usage = count(maildir);
    if let Err(error) = replace(maildir, &definition(&text, limit), usage, temporary) {
        tracing::warn!(%error, "cannot write maildirsize");
    }
    if fits(usage) { Ok(()) } else { Err(Full) }
}

/// Notes a message that was stored, if the file is there.
pub(super) fn add(maildir: &Maildir, size: u64) {
    let flags = OFlags::WRONLY | OFlags::APPEND;
    let added = open(maildir, flags).and_then(|file| {
        // One write: lines of several writers do not mix.
        let line = format!("{size} 1\n");
        rustix::io::write(&file, line.as_bytes()).map(drop)
    });
    match added {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => tracing::warn!(%error, "cannot add to maildirsize"),
    }
}

fn open(maildir: &Maildir, flags: OFlags) -> Result<OwnedFd, Errno> {
    let file = openat(&maildir.root, NAME, flags | OFlags::NONBLOCK, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        Ok(file)
    } else {
        Err(Errno::INVAL)
    }
}

/// The file and its age in seconds; none: it is missing or nothing to read.
fn read(maildir: &Maildir, now: i64) -> Option<(Vec<u8>, i64)> {
    let file = open(maildir, OFlags::RDONLY).ok()?;
    let modified = rustix::fs::fstat(&file).ok()?.st_mtime;
    let mut text = Vec::new();
    let mut buffer = [0; MAX_FILE_BYTES + 1];
    while text.len() <= MAX_FILE_BYTES {
        let octets = rustix::io::read(&file, &mut buffer).ok()?;
        if octets == 0 {
            break;
        }
        text.extend_from_slice(buffer.get(..octets)?);
    }
    #[allow(
        clippy::useless_conversion,
        reason = "the type differs between architectures"
    )]
    let age = now.saturating_sub(i64::try_from(modified).ok()?);
    Some((text, age))
}

/// Adds up a file of this limit; none: it is to be replaced.
fn parse(text: &[u8], limit: u64) -> Option<Reading> {
    if text.len() > MAX_FILE_BYTES {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    // What has no line end is still being written.
    let (complete, _) = text.rsplit_once('\n')?;
    let mut lines = complete.split('\n');
    let is_limit = |part: &str| part.strip_suffix('S').and_then(|n| n.parse().ok()) == Some(limit);
    if !lines.next()?.trim().split(',').any(is_limit) {
        return None;
    }
    let (mut octets, mut messages, mut count) = (0_i64, 0_i64, 0_u32);
    for line in lines {
        let mut numbers = line.split_ascii_whitespace();
        octets = octets.checked_add(numbers.next()?.parse().ok()?)?;
        messages = messages.checked_add(numbers.next()?.parse().ok()?)?;
        count += 1;
    }
    Some(Reading {
        usage: Usage {
            octets: octets.try_into().ok()?,
            messages: messages.try_into().ok()?,
        },
        is_count: count == 1,
    })
}

/// The first line of a new file: the limit, and what else the old one had.
fn definition(old: &[u8], limit: u64) -> String {
    let mut line = format!("{limit}S");
    let first = old.split(|octet| *octet == b'\n').next();
    let parts = first.and_then(|line| std::str::from_utf8(line).ok());
    for part in parts.unwrap_or_default().trim().split(',') {
        let number = part.strip_suffix('C').and_then(|n| n.parse::<u64>().ok());
        if let Some(messages) = number {
            line += &format!(",{messages}C");
        }
    }
    line
}

fn replace(
    maildir: &Maildir,
    definition: &str,
    usage: Usage,
    temporary: &str,
) -> std::io::Result<()> {
    let text = format!("{definition}\n{} {}\n", usage.octets, usage.messages);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = openat(&maildir.tmp, temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let written = File::from(file).write_all(text.as_bytes()).and_then(|()| {
        let renamed = rustix::fs::renameat(&maildir.tmp, temporary, &maildir.root, NAME);
        Ok(renamed?)
    });
    written.inspect_err(|_| {
        let _ = rustix::fs::unlinkat(&maildir.tmp, temporary, AtFlags::empty());
    })
}

/// Counts the whole Maildir. What can't be read is not counted.
fn count(maildir: &Maildir) -> Usage {
    let mut usage = Usage::default();
    count_folder(&maildir.root, &mut usage);
    let mut folders = 0;
    for name in names(&maildir.root, ".") {
        if !name.starts_with('.') || folders >= MAX_FOLDERS {
            continue;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        if let Ok(folder) = openat(&maildir.root, &name, flags, Mode::empty()) {
            folders += 1;
            count_folder(&folder, &mut usage);
        }
    }
    usage
}

fn count_folder(folder: &OwnedFd, usage: &mut Usage) {
    for part in ["cur", "new"] {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let Ok(part) = openat(folder, part, flags, Mode::empty()) else {
            continue;
        };
        for name in names(&part, ".") {
            if name.starts_with('.') || usage.messages >= MAX_MESSAGES {
                continue;
            }
            if let Some(octets) = size_in_name(&name).or_else(|| length(&part, &name)) {
                usage.octets = usage.octets.saturating_add(octets);
                usage.messages += 1;
            }
        }
    }
}

/// The names in a folder, `.` and `..` aside; those that are not UTF-8 are nobody's.
fn names(folder: &OwnedFd, path: &str) -> impl Iterator<Item = String> + use<> {
    openat(
        folder,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )
    .and_then(Dir::new)
    .into_iter()
    .flatten()
    .map_while(Result::ok)
    .filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned()))
    .filter(|name| name != "." && name != "..")
}

fn size_in_name(name: &str) -> Option<u64> {
    let (_, tail) = name.split_once(",S=")?;
    tail.split([',', ':']).next()?.parse().ok()
}

fn length(folder: &OwnedFd, name: &str) -> Option<u64> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_file.then_some(stat.st_size.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(octets: u64, messages: u64, is_count: bool) -> Option<Reading> {
        let usage = Usage { octets, messages };
        Some(Reading { usage, is_count })
    }

    #[test]
    fn files_of_all_programs_are_read() {
        let long = "1000S\n".to_owned() + &"1 1\n".repeat(1300);
        for (text, expected) in [
            ("1000S\n10 1\n", reading(10, 1, true)),
            ("1000S\n10 1\n5 1\n-3 -1\n", reading(12, 1, false)),
            ("1000S,7C\n        10            1\n", reading(10, 1, true)),
            ("7C,1000S\n10 1\n", reading(10, 1, true)),
            ("1000S\n", reading(0, 0, false)),
            ("1000S\n10 1\n99 1", reading(10, 1, true)),
            ("2000S\n10 1\n", None),
            ("7C\n10 1\n", None),
            ("1000S\n10\n", None),
            ("1000S\nx y\n", None),
            ("1000S\n10 1\n\n", None),
            ("1000S\n10 1\n-11 -1\n", None),
            ("1000S\n9223372036854775807 1\n1 1\n", None),
            ("1000S", None),
            ("", None),
            ("\0\0\0\n", None),
            (&long, None),
        ] {
            assert_eq!(parse(text.as_bytes(), 1000), expected, "{text:?}");
        }
    }

    #[test]
    fn a_new_file_keeps_what_others_limit() {
        for (old, line) in [
            ("", "5S"),
            ("9S\n1 1\n", "5S"),
            ("9S,7C\n1 1\n", "5S,7C"),
            ("7C", "5S,7C"),
            ("garbage,xC\n", "5S"),
        ] {
            assert_eq!(definition(old.as_bytes(), 5), line);
        }
    }

    #[test]
    fn names_tell_sizes() {
        for (name, size) in [
            ("1.M2P3Q4.h,S=10,W=11:2,S", Some(10)),
            ("1.h,S=10", Some(10)),
            ("1.h,W=11,S=10:2,", Some(10)),
            ("1.h,S=x", None),
            ("1.h,S=10x:2,", None),
            ("1.h:2,S", None),
        ] {
            assert_eq!(size_in_name(name), size, "{name}");
        }
    }
}
