//! Sessions whose sockets were given away, written down: they live on when the node process ends, and must count again
//! when it is back.
//!
//! ```text
//! pigeonair sessions 1 BOOT-ID
//! COOKIE INODE tcp LOCAL PEER PROTOCOL ACCOUNT
//! COOKIE INODE unix - - PROTOCOL ACCOUNT
//! ```
//!
//! A line is added with each session, in one write before the session counts as given away; what has ended is not
//! taken out but left out when the file is written anew, which happens at start and when most of its lines are about
//! ended sessions. The new file takes the old one's place in one step. Nothing is synced to a disk: the file means
//! something until the machine restarts and not longer, since sockets are named by cookies of the running kernel. So it
//! belongs on a memory file system, below `/run`.
//!
//! A line that was cut off by the end of the process is passed over, and so is a file of another boot or another
//! version. One process at a time: `FILE.lock` is held for as long as the journal is.
//!
//! A process that takes another's place is given that very lock. Both then add lines to the one file, each reads what the
//! other adds, and nobody writes it anew until the successor is alone: each holds a shared lock on the file itself, so
//! whoever gets that for itself is. Who asks for it is without the shared one for a moment, and what is opened before the
//! file is replaced would be the old one: so all of that is done by one at a time, who has `FILE.turn`. The predecessor lets
//! go of `FILE.lock` when it has been replaced. A successor with another file would know of no session, and is refused.
//!
//! A file that was removed is written anew with the next sweep of the process that has it alone.
//!
//! It does not know which sessions live: that is asked of the kernel ([`super::witness`]). Limits: none of its own, a
//! line per session. When a line can't be written the session goes on, the log says so once, and the whole file is
//! tried anew with the next sweep.

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::witness::Witness;
use crate::names::{AccountName, Protocol};

/// What a file begins with, before the id of the boot.
const HEADER: &str = "pigeonair sessions 1 ";

/// Names this boot of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Lines about ended sessions that may stand in the file before it is written anew, beside as many as live.
const SPARE_LINES: usize = 1000;

/// Why sessions can't be written down.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error(
        "{path} is in use by another process (expected a sessions_file of its own for each node)"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The process before this one has another.
    #[error(
        "{path} is not the sessions_file of the process whose place this one is to take (expected the same; another needs a start)"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It can't be read or written.
    #[error("cannot use {path} to remember sessions")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// One session as it is written down.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Record {
    pub(super) witness: Witness,
    pub(super) protocol: Protocol,
    pub(super) account: AccountName,
}

/// The file, held open.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    boot: String,
    lines: usize,
    /// Something is missing in the file.
    is_torn: bool,
    /// None once another process has this one's place.
    lock: Option<File>,
    /// For as long as another process may add lines.
    shared: Option<Shared>,
}

/// Nobody else opens the file for adding, asks whether it is alone, or replaces the file while this is there.
struct Turn(File);

/// What is known of the lines of a file to which two processes add.
#[derive(Debug, Default)]
struct Shared {
    /// So many octets have been read.
    read: u64,
    /// Behind which stand lines about these sessions of our own.
    own: HashSet<u64>,
}

// === impl Journal ===

impl Journal {
    /// Takes the file, made with its folder if it is missing, and reads what an earlier process has left there.
    /// `lock` is the predecessor's, if there is one that has it open.
    pub(super) fn open(
        path: &Path,
        lock: Option<OwnedFd>,
    ) -> Result<(Self, Vec<Record>), JournalError> {
        let failed = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        let boot = fs::read_to_string(BOOT_ID).map_err(failed)?;
        let boot = boot.trim().to_owned();
        if let Some(lock) = lock.map(File::from) {
            if !is_lock_of(&lock, path).map_err(failed)? {
                return Err(JournalError::Foreign {
                    path: path.to_owned(),
                });
            }
            return Self::share(path, boot, lock).map_err(failed);
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::DirBuilder::new()
                .mode(0o755)
                .create(folder)
                .map_err(failed)?;
        }
        let lock = create(&beside(path, "lock")).map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(JournalError::InUse {
                path: path.to_owned(),
            });
        }
        let left = match fs::read(path) {
            Ok(octets) => read(&String::from_utf8_lossy(&octets), &boot),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let file = replace(path, &boot, left.iter()).map_err(failed)?;
        let journal = Self {
            path: path.to_owned(),
            file,
            boot,
            lines: left.len(),
            is_torn: false,
            lock: Some(lock),
            shared: None,
        };
        Ok((journal, left))
    }

    /// The file as the predecessor has it.
    fn share(path: &Path, boot: String, lock: File) -> io::Result<(Self, Vec<Record>)> {
        let mut journal = Self {
            path: path.to_owned(),
            file: attach(path)?,
            boot,
            lines: 0,
            is_torn: false,
            lock: Some(lock),
            shared: Some(Shared::default()),
        };
        let text = journal.unread()?;
        let left = read(&text, &journal.boot);
        journal.lines = left.len();
        Ok((journal, left))
    }

    /// Sessions that the other process has added since.
    pub(super) fn news(&mut self) -> Vec<Record> {
        // What can't be read now is read next time.
        let text = self.unread().unwrap_or_default();
        let records: Vec<_> = text.lines().filter_map(Record::parse).collect();
        let Some(shared) = &mut self.shared else {
            return Vec::new();
        };
        let others = records
            .into_iter()
            .filter(|record| !shared.own.remove(&record.witness.cookie()));
        let others: Vec<_> = others.collect();
        self.lines = self.lines.saturating_add(others.len());
        others
    }

    /// Whole lines that were added since this was asked last.
    fn unread(&mut self) -> io::Result<String> {
        let Some(shared) = &mut self.shared else {
            return Ok(String::new());
        };
        let length = self.file.metadata()?.len().saturating_sub(shared.read);
        if length == 0 {
            return Ok(String::new());
        }
        let mut octets = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_exact_at(&mut octets, shared.read)?;
        let end = octets.iter().rposition(|octet| *octet == b'\n');
        octets.truncate(end.map_or(0, |end| end.saturating_add(1)));
        shared.read = shared.read.saturating_add(octets.len() as u64);
        Ok(String::from_utf8_lossy(&octets).into_owned())
    }

    /// The turn, if no other process has the file open: none will until the turn is over.
    fn alone(&self) -> io::Result<Option<Turn>> {
        let turn = Turn::open(&self.path)?;
        if flock(&turn.0, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let is_alone = flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Nobody can have taken it meanwhile: that takes the turn.
        flock(&self.file, FlockOperation::NonBlockingLockShared)?;
        Ok(is_alone.then_some(turn))
    }

    /// What makes the file this process's, for its successor.
    pub(super) fn lock(&self) -> io::Result<Option<OwnedFd>> {
        let lock = self.lock.as_ref().map(File::try_clone).transpose()?;
        Ok(lock.map(OwnedFd::from))
    }

    /// The last look at what another process has added, if that has gone.
    pub(super) fn last_news(&mut self) -> Vec<Record> {
        if self.shared.is_none() || self.lock.is_none() {
            return Vec::new();
        }
        // What can't be told now is asked again with the next sweep.
        let Ok(Some(_turn)) = self.alone() else {
            return Vec::new();
        };
        let news = self.news();
        self.shared = None;
        news
    }

    /// The successor has it now: what is added here is for it to read, and what it adds is read here. That may stand
    /// anywhere, so all is read once more.
    pub(super) fn release(&mut self) {
        self.lock = None;
        self.shared = Some(Shared::default());
    }

    /// Adds a session.
    pub(super) fn add(&mut self, record: &Record) {
        if self.is_torn {
            return;
        }
        match self.file.write_all(format!("{record}\n").as_bytes()) {
            Ok(()) => {
                self.lines = self.lines.saturating_add(1);
                if let Some(shared) = &mut self.shared {
                    shared.own.insert(record.witness.cookie());
                }
            }
            Err(error) => self.tear(&error),
        }
    }

    /// Writes it anew with those that are alive, if that is due and no other process has it open.
    pub(super) fn tidy<'r>(&mut self, alive: impl ExactSizeIterator<Item = &'r Record>) {
        if !self.is_due(alive.len()) {
            return;
        }
        match self.alone() {
            Ok(Some(_turn)) => self.rewrite(alive),
            Ok(None) => {}
            Err(error) => self.tear(&error),
        }
    }

    /// Whether it should be written anew, with so many sessions alive.
    fn is_due(&self, alive: usize) -> bool {
        let is_long = self.lines > alive.saturating_mul(2).saturating_add(SPARE_LINES);
        // While another process has the file, it is not replaced.
        self.lock.is_some()
            && self.shared.is_none()
            && (self.is_torn || is_long || self.is_removed())
    }

    /// Whether somebody has removed the file, and no other process has made one of that name.
    fn is_removed(&self) -> bool {
        let is_there = match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(own)) => is_same(&there, &own),
            _ => false,
        };
        let is_ours = |lock| matches!(is_lock_of(lock, &self.path), Ok(true));
        !is_there && self.lock.as_ref().is_some_and(is_ours)
    }

    fn rewrite<'r>(&mut self, alive: impl ExactSizeIterator<Item = &'r Record>) {
        let lines = alive.len();
        match replace(&self.path, &self.boot, alive) {
            Ok(file) => {
                self.file = file;
                self.lines = lines;
                self.is_torn = false;
            }
            Err(error) => self.tear(&error),
        }
    }

    fn tear(&mut self, error: &io::Error) {
        if !self.is_torn {
            tracing::error!(%error, path = %self.path.display(), "sessions are not written down: after a restart they do not count");
        }
        self.is_torn = true;
    }
}

// === impl Turn ===

impl Turn {
    /// Not taken yet.
    fn open(path: &Path) -> io::Result<Self> {
        create(&beside(path, "turn")).map(Self)
    }
}

/// Puts a file with these sessions in the old one's place.
fn replace<'r>(
    path: &Path,
    boot: &str,
    records: impl Iterator<Item = &'r Record>,
) -> io::Result<File> {
    let mut text = format!("{HEADER}{boot}\n");
    for record in records {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{record}");
    }
    let new = beside(path, "new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = for_lines().create_new(true).open(&new)?;
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)?;
    Ok(file)
}

/// Opens the file that others have open, and will not replace from now on.
fn attach(path: &Path) -> io::Result<File> {
    let turn = Turn::open(path)?;
    // Nobody has it for longer than it takes to write the file.
    flock(&turn.0, FlockOperation::LockExclusive)?;
    let file = for_lines().open(path)?;
    flock(&file, FlockOperation::LockShared)?;
    Ok(file)
}

/// Whether this is the lock of that file. One that was removed itself is, as long as there is no other.
fn is_lock_of(lock: &File, path: &Path) -> io::Result<bool> {
    let own = lock.metadata()?;
    match fs::metadata(beside(path, "lock")) {
        Ok(there) => Ok(is_same(&there, &own)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(own.nlink() == 0),
        Err(error) => Err(error),
    }
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Each line in one write, behind whatever is there.
fn for_lines() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).append(true).mode(0o600);
    options
}

fn create(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// `FILE.suffix`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The sessions of this boot: whole lines that are records.
fn read(text: &str, boot: &str) -> Vec<Record> {
    let mut lines = text
        .split_inclusive('\n')
        .map_while(|line| line.strip_suffix('\n'));
    if lines.next().and_then(|line| line.strip_prefix(HEADER)) != Some(boot) {
        return Vec::new();
    }
    lines.filter_map(Record::parse).collect()
}

// === impl Record ===

impl Record {
    fn parse(line: &str) -> Option<Self> {
        // The account comes last: it may hold blanks.
        let mut words = line.splitn(7, ' ');
        let mut next = || words.next();
        let place = [next()?, next()?, next()?, next()?, next()?];
        Some(Self {
            witness: Witness::from_words(place)?,
            protocol: Protocol::parse(next()?)?,
            account: AccountName::parse(next()?).ok()?,
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            witness,
            protocol,
            account,
        } = self;
        write!(f, "{witness} {} {}", protocol.as_str(), account.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::handover::tests::soon;

    fn records() -> Vec<Record> {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let tcp = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (unix, _peer) = UnixStream::pair().unwrap();
        let record = |witness, protocol, account| Record {
            witness,
            protocol,
            account: AccountName::parse(account).unwrap(),
        };
        vec![
            record(
                Witness::tcp(&tcp).unwrap(),
                Protocol::Imap,
                "ann@example.org",
            ),
            record(Witness::unix(&unix).unwrap(), Protocol::Pop3, "bea b. 北"),
        ]
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/sessions");
        (folder, path)
    }

    /// The journal when nobody else has it any more.
    fn reopen(path: &Path) -> (Journal, Vec<Record>) {
        soon("the journal is free", || Journal::open(path, None).ok())
    }

    #[test]
    fn what_is_added_is_there_for_the_next_process() {
        let (_folder, path) = folder();
        let (mut journal, left) = Journal::open(&path, None).unwrap();
        assert_eq!(left, []);
        for record in records() {
            journal.add(&record);
        }
        let added = fs::read_to_string(&path).unwrap();
        drop(journal);
        let (mut journal, left) = reopen(&path);
        assert_eq!(left.len(), 2);
        assert_eq!(fs::read_to_string(&path).unwrap(), added);
        journal.rewrite(left[1..].iter());
        journal.add(&left[0]);
        drop(journal);
        let again = reopen(&path).1;
        assert_eq!(again, [left[1].clone(), left[0].clone()]);
    }

    #[test]
    fn cut_and_foreign_lines_are_passed_over() {
        let (records, boot) = (records(), "b-1");
        let whole = format!("{HEADER}{boot}\n{}\n{}\n", records[0], records[1]);
        for end in 0..whole.len() {
            let Some(cut) = whole.get(..end) else {
                continue;
            };
            let lines = cut.matches('\n').count().saturating_sub(1);
            assert_eq!(read(cut, boot), records[..lines], "{cut:?}");
        }
        assert_eq!(read(&whole, "b-2"), []);
        assert_eq!(read(&whole.replace(" 1 ", " 2 "), boot), []);
        for (from, to) in [
            ("tcp", "udp"),
            ("imap", "smtp"),
            (" ", "  "),
            ("[::1]", "[::x]"),
        ] {
            let spoilt = format!(
                "{HEADER}{boot}\n{}\n{}\n",
                records[0].to_string().replacen(from, to, 1),
                records[1]
            );
            assert_eq!(read(&spoilt, boot), records[1..], "{spoilt}");
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let (_folder, path) = folder();
        let first = Journal::open(&path, None).unwrap();
        let error = Journal::open(&path, None).unwrap_err();
        assert!(matches!(error, JournalError::InUse { .. }), "{error}");
        drop(first);
        reopen(&path);
    }

    #[test]
    fn it_is_written_anew_when_most_of_it_is_over_or_something_is_missing() {
        let (_folder, path) = folder();
        let (mut journal, _) = Journal::open(&path, None).unwrap();
        let records = records();
        let lines = || fs::read_to_string(&path).unwrap().lines().count();
        for _ in 0..SPARE_LINES + 2 {
            journal.add(&records[0]);
        }
        journal.tidy(records[..1].iter());
        assert_eq!(lines(), SPARE_LINES + 3);
        journal.add(&records[0]);
        journal.tidy(records[..1].iter());
        assert_eq!(lines(), 2);
        assert!(!journal.is_due(1));

        // A file that can't be written is tried again as a whole.
        fs::create_dir(beside(&path, "new")).unwrap();
        journal.rewrite(records.iter());
        assert!(journal.is_due(usize::MAX));
        journal.add(&records[0]);
        fs::remove_dir(beside(&path, "new")).unwrap();
        journal.tidy(records.iter());
        assert!(!journal.is_due(2));
        drop(journal);
        assert_eq!(reopen(&path).1, records);
    }

    #[test]
    fn it_is_written_anew_when_it_was_removed() {
        let (_folder, path) = folder();
        let (mut journal, _) = Journal::open(&path, None).unwrap();
        let records = records();
        fs::remove_file(&path).unwrap();
        journal.tidy(records[..1].iter());
        journal.add(&records[1]);
        // A successor finds it, and all that is in it.
        let lock = journal.lock().unwrap();
        assert_eq!(Journal::open(&path, lock).unwrap().1, records);

        // But not in the place of another process's.
        fs::remove_file(&path).unwrap();
        fs::remove_file(beside(&path, "lock")).unwrap();
        let (mut other, _) = Journal::open(&path, None).unwrap();
        journal.tidy([].iter());
        other.add(&records[0]);
        drop(other);
        assert_eq!(reopen(&path).1, records[..1]);
    }

    #[test]
    fn a_successor_shares_it_until_it_is_alone() {
        let (_folder, path) = folder();
        let (mut old, _) = Journal::open(&path, None).unwrap();
        let records = records();
        old.add(&records[0]);
        let lock = old.lock().unwrap();
        let (mut new, left) = Journal::open(&path, lock).unwrap();
        assert_eq!(left, records[..1]);
        assert_eq!(new.news(), []);

        // Each adds, one reads what the other does, and nobody replaces the file.
        old.add(&records[1]);
        new.add(&records[0]);
        assert_eq!(new.news(), records[1..]);
        assert_eq!(new.news(), []);
        for _ in 0..SPARE_LINES * 2 {
            old.add(&records[1]);
        }
        let length = fs::metadata(&path).unwrap().len();
        new.tidy([].iter());
        old.tidy([].iter());
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
        old.release();
        old.add(&records[1]);
        drop(old);
        let news = soon("the old one has gone", || {
            let news = new.last_news();
            new.shared.is_none().then_some(news)
        });
        assert!(news.iter().all(|record| *record == records[1]));
        assert!(new.is_due(0));

        // The lock is the new one's alone.
        let error = Journal::open(&path, None).unwrap_err();
        assert!(matches!(error, JournalError::InUse { .. }), "{error}");
        drop(new);
        reopen(&path);
    }

    /// However what both do falls together: what a successor adds is in the file, and it knows that it is not alone.
    #[test]
    fn it_is_not_replaced_under_a_successor() {
        const ROUNDS: usize = 200;
        let (_folder, path) = folder();
        let records = records();
        for _ in 0..ROUNDS {
            let (mut old, _) = reopen(&path);
            let lock = old.lock().unwrap();
            let start = std::sync::Barrier::new(2);
            let mut new = std::thread::scope(|scope| {
                let successor = scope.spawn(|| {
                    start.wait();
                    let (mut new, _) = Journal::open(&path, lock).unwrap();
                    for _ in 0..20 {
                        new.last_news();
                    }
                    new
                });
                start.wait();
                for _ in 0..20 {
                    old.is_torn = true;
                    old.tidy(records[..1].iter());
                }
                successor.join().unwrap()
            });
            assert!(new.shared.is_some(), "takes itself to be alone");
            new.add(&records[1]);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(&records[1].to_string()), "{text}");
        }
    }

    #[test]
    fn a_successor_has_the_same_file() {
        let (folder, path) = folder();
        let (old, _) = Journal::open(&path, None).unwrap();
        let other = folder.path().join("run/other");
        let foreign = || {
            let error = Journal::open(&other, old.lock().unwrap()).unwrap_err();
            assert!(matches!(error, JournalError::Foreign { .. }), "{error}");
        };
        foreign();
        // One that is there from another time is no better.
        drop(reopen(&other));
        foreign();
        assert!(Journal::open(&path, old.lock().unwrap()).is_ok());
    }
}
