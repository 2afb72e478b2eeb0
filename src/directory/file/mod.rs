//! Accounts in a TOML file: `[[account]]` tables, for a machine that has no LDAP.
//!
//! The file is read whole when the process starts and again when it changed (device, inode, size and times of the file are
//! compared on use, at most once a second). A new version with a problem is logged once and the old accounts stay; at
//! start it is an error. All problems of a version are reported at once.
//!
//! What a new version says of accounts is told at once to those who follow. That one is missing is told when the file was
//! looked at again and was still the same: a script may have been in the middle of writing it.
//!
//! A login is compared octet by octet with names and aliases; no two accounts may share one. An address is compared
//! without regard to case with `addresses` and names, of which those without a domain are names at each domain that the
//! directory's settings name; no two accounts may share one of these either. The file must not be
//! readable by others than owner and group, nor writable by others than its owner, since it holds password hashes; what
//! is checked is the open file, not its path. At most 64 MiB are read. Error texts name account and key, and of values
//! only logins and addresses.

mod reader;

use std::{
    collections::HashMap,
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use toml::{Table, Value};
use zeroize::Zeroizing;

use reader::Reader;

use super::{
    FileSettings, Found, LookupError, Question, Wrong,
    address::Rules,
    facts::Now,
    live::{Followed, Live},
};
use crate::metrics::Metrics;

/// How often the file is looked at, at most.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// So many times all sessions are compared with a new version: until every login that read the one before is over, and once
/// more.
const LOOKS: u32 = 7;

/// The largest accounts file, in octets.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The accounts file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    rules: Arc<Rules>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    accounts: Arc<Accounts>,
    /// Of the version that was last read, good or bad; none when there was no file.
    stamp: Option<Stamp>,
    version: Version,
    checked: Instant,
}

/// What the file has been since it was last read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    /// Not usable.
    Bad,
    /// Nobody has looked again: it may be one that is still being written.
    New,
    /// It was the same when it was looked at again.
    Settled,
}

/// What each login and each address means.
#[derive(Debug, Default)]
struct Accounts {
    logins: HashMap<String, Arc<Found>>,
    /// In small letters, without quotes; without a domain where it is a name at each of our domains.
    addresses: HashMap<String, Arc<Found>>,
}

/// One account as it is read.
struct Named {
    found: Found,
    aliases: Vec<String>,
    addresses: Vec<String>,
}

/// What changes when a file changes: device, inode, size, modification and change time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp([i64; 4], u64, u64, u64);

/// Why an accounts file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It had accounts, and has none any more.
    #[error("no [[account]] is left in it")]
    Empty,
    /// It has accounts that are not right.
    #[error("{path} has problems: {}", problems.join("; "))]
    Accounts {
        /// The file.
        path: PathBuf,
        /// What is wrong, by account and key.
        problems: Vec<String>,
    },
    /// It cannot be opened or read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than its owner and group may read it, or others than its owner may write it.
    #[error(
        "{path} has mode {mode:04o} (expected 0600 or 0640: nobody but owner and group may open it)"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is larger than 64 MiB.
    #[error("{path} is larger than 64 MiB")]
    Size {
        /// The file.
        path: PathBuf,
    },
    /// It is not TOML.
    #[error("{path} is not TOML, at line {line}: {message}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
}

// === impl File ===

impl File {
    /// Reads the file for the first time.
    pub(super) fn open(settings: FileSettings, rules: Arc<Rules>) -> Result<Self, FileError> {
        let path = settings.path;
        let (file, stamp) = open(&path)?;
        let state = State {
            accounts: Arc::new(load(file, &path, &rules)?),
            stamp: Some(stamp),
            version: Version::New,
            checked: Instant::now(),
        };
        Ok(Self {
            path,
            rules,
            state: Mutex::new(state),
        })
    }

    /// Who that is.
    pub(super) async fn find(&self, question: Question<'_>) -> Result<Arc<Found>, LookupError> {
        let accounts = self.latest().await;
        let found = match question {
            Question::Login(login) => accounts.logins.get(login.as_str()),
            Question::Recipient(mailbox) => {
                let whole = accounts.addresses.get(&mailbox.to_string().to_lowercase());
                let name = mailbox.local_name().map(str::to_lowercase);
                whole.or_else(|| accounts.addresses.get(&name?))
            }
        };
        let found = found.map(Arc::clone);
        found.ok_or(LookupError::Wrong(Wrong::Unknown))
    }

    /// The accounts as the file has them, or had them a moment ago.
    async fn latest(&self) -> Arc<Accounts> {
        if let Some(known) = self.is_due() {
            let (path, rules) = (self.path.clone(), Arc::clone(&self.rules));
            let changed = tokio::task::spawn_blocking(move || reload(&path, &rules, known)).await;
            match changed {
                Ok(Some((stamp, accounts))) => self.take(stamp, accounts),
                Ok(None) => self.settle(known),
                Err(_) => {}
            }
        }
        Arc::clone(&self.lock().accounts)
    }

    /// Tells what changes, for as long as the process runs. Whoever is missing is not said to be gone before the version has
    /// settled. For [`LOOKS`] all are compared: who logged in by the version before may sit down only now.
    pub(super) async fn follow(self: Arc<Self>, live: Arc<Live>, metrics: Metrics) {
        let gauge = metrics.directory_followed.with_label_values(&["file"]);
        let _followed = Followed::new(&gauge);
        let mut known = Arc::clone(&self.lock().accounts);
        // Sessions may have begun by an earlier version, with the directory before.
        let mut looks = LOOKS;
        loop {
            sleep(CHECK_EVERY).await;
            let latest = self.latest().await;
            if !Arc::ptr_eq(&known, &latest) {
                known = latest;
                looks = LOOKS;
            }
            if looks == 0 {
                continue;
            }
            looks -= 1;
            let has_settled = self.has_settled(&known);
            let founds = known.logins.values();
            let here: HashMap<_, _> = founds.map(|found| (found.facts.entry, found)).collect();
            for entry in live.watched(0) {
                match here.get(&entry) {
                    Some(found) => live.hear(0, entry, Now::of(found)),
                    None if has_settled => live.hear(0, entry, Now::Gone),
                    None => {}
                }
            }
        }
    }

    /// Whether the file was the same when it was looked at again.
    fn has_settled(&self, accounts: &Arc<Accounts>) -> bool {
        let state = self.lock();
        state.version == Version::Settled && Arc::ptr_eq(&state.accounts, accounts)
    }

    /// It is as it was.
    fn settle(&self, known: Option<Stamp>) {
        let mut state = self.lock();
        if state.version == Version::New && state.stamp == known {
            state.version = Version::Settled;
        }
    }

    /// The stamp to compare with, if it is time to look at the file; then this caller does, and nobody else for a while.
    fn is_due(&self) -> Option<Option<Stamp>> {
        let mut state = self.lock();
        let now = Instant::now();
        if now.duration_since(state.checked) < CHECK_EVERY {
            return None;
        }
        state.checked = now;
        Some(state.stamp)
    }

    fn take(&self, stamp: Option<Stamp>, accounts: Result<Accounts, FileError>) {
        let mut state = self.lock();
        state.stamp = stamp;
        match accounts {
            Ok(accounts) => {
                tracing::info!(
                    accounts = accounts.logins.len(),
                    "accounts file was read again"
                );
                state.accounts = Arc::new(accounts);
                state.version = Version::New;
            }
            Err(error) => {
                state.version = Version::Bad;
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "accounts file is not usable, the accounts read before stay");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that can panic leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file and checks who else may.
fn open(path: &Path) -> Result<(fs::File, Stamp), FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o137 != 0 {
        return Err(FileError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok((file, Stamp::of(&metadata)))
}

/// The new version, if there is one. Its stamp is that of the file as it was opened, so that a change while it is read is
/// seen the next time.
fn reload(
    path: &Path,
    rules: &Rules,
    known: Option<Stamp>,
) -> Option<(Option<Stamp>, Result<Accounts, FileError>)> {
    // Asked by path first: an unchanged file needs no opening, and one that cannot be opened is complained of once.
    let stamp = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
    if stamp == known {
        return None;
    }
    Some(match open(path) {
        Ok((file, stamp)) => (Some(stamp), load(file, path, rules).and_then(not_empty)),
        Err(error) => (stamp, Err(error)),
    })
}

/// A file that lost all of its accounts is taken for one that is being written: nobody's mail goes back for that.
fn not_empty(accounts: Accounts) -> Result<Accounts, FileError> {
    if accounts.logins.is_empty() {
        return Err(FileError::Empty);
    }
    Ok(accounts)
}

fn load(file: fs::File, path: &Path, rules: &Rules) -> Result<Accounts, FileError> {
    let mut text = Zeroizing::new(String::new());
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    let read = read.map_err(|source| FileError::Io {
        path: path.to_owned(),
        source,
    })?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(FileError::Size {
            path: path.to_owned(),
        });
    }
    // The parser's own text quotes the line, which may hold a password.
    let table: Table = toml::from_str(&text).map_err(|error| FileError::Toml {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(&text, span.start)),
        message: error.message().to_owned(),
    })?;
    read_accounts(&table, rules).map_err(|problems| FileError::Accounts {
        path: path.to_owned(),
        problems,
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|octet| **octet == b'\n').count()
}

fn read_accounts(table: &Table, rules: &Rules) -> Result<Accounts, Vec<String>> {
    let mut problems = Vec::new();
    for key in table.keys().filter(|key| *key != "account") {
        problems.push(format!("{key}: is not a key of this file"));
    }
    let mut read = Accounts::default();
    let accounts = match table.get("account") {
        None => &Vec::new(),
        Some(Value::Array(accounts)) => accounts,
        Some(_) => {
            problems.push("account: expected [[account]] tables".to_owned());
            &Vec::new()
        }
    };
    for (index, value) in accounts.iter().enumerate() {
        let Value::Table(account) = value else {
            problems.push(format!("account {}: expected a table", index + 1));
            continue;
        };
        let mut reader = Reader::new(account, index, rules, &mut problems);
        if let Some(named) = reader.account() {
            for text in read.add(named, rules) {
                problems.push(format!("account {}: {text}", index + 1));
            }
        }
    }
    if problems.is_empty() {
        Ok(read)
    } else {
        Err(problems)
    }
}

// === impl Accounts ===

impl Accounts {
    /// Adds an account, and says what of it belongs to one before it.
    fn add(&mut self, named: Named, rules: &Rules) -> Vec<String> {
        let mut problems = Vec::new();
        let name = named.found.id.clone();
        let found = Arc::new(named.found);
        let mut addresses = named.addresses;
        // Whoever has a name twice need not hear of its addresses.
        if !self.logins.contains_key(&name) {
            addresses.extend(address_of_name(&name, rules));
        }
        for login in std::iter::once(name).chain(named.aliases) {
            let before = self.logins.insert(login.clone(), Arc::clone(&found));
            if before.is_some() {
                problems.push(format!(
                    "{login:?} is the name or alias of an account before it"
                ));
            }
        }
        for address in addresses {
            let before = self.addresses.insert(address.clone(), Arc::clone(&found));
            if let Some(before) = before.filter(|before| before.id != found.id) {
                let owner = &before.id;
                problems.push(format!(
                    "{address:?} is an address of the account {owner:?} before it"
                ));
            }
        }
        problems
    }
}

/// The address that a name is, if it is one of ours.
fn address_of_name(name: &str, rules: &Rules) -> Option<String> {
    match name.rsplit_once('@') {
        Some((local, domain)) => {
            let mailbox = rules.mailbox(local, Some(domain))?;
            Some(mailbox.to_string().to_lowercase())
        }
        None => Some(name.to_lowercase()),
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self(
            [
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ],
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{
        super::{Access, Account, AddressSettings, Status},
        *,
    };
    use crate::names::{AccountName, Login};

    const ANN: &str = r#"
        [[account]]
        name = "ann"
        aliases = ["ann@example.org", "Änn"]
        password = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
        uid = 20001
        gid = 20002
    "#;
    const BOB: &str = r#"
        [[account]]
        name = "bob"
        password = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
        uid = 0
        gid = 1
        home = "/srv/bob"
        home_node = "node2"
        quota = 1000
        status = "Disabled"
    "#;

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }

    fn folder(text: &str) -> (tempfile::TempDir, FileSettings) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        write(&path, text);
        (folder, FileSettings { path })
    }

    fn opened(settings: FileSettings) -> Result<File, FileError> {
        File::open(settings, Arc::new(Rules::new(&AddressSettings::default())))
    }

    async fn found(file: &File, login: &str) -> Arc<Found> {
        let login = Login::parse(login).unwrap();
        file.find(Question::Login(&login)).await.unwrap()
    }

    async fn name_of(file: &File, login: &str) -> Option<String> {
        let found = file
            .find(Question::Login(&Login::parse(login).unwrap()))
            .await;
        match found {
            Ok(found) => Some(found.account.name.as_str().to_owned()),
            Err(LookupError::Wrong(Wrong::Unknown)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn accounts_are_found_by_name_and_alias() {
        let (_folder, settings) = folder(&format!("{ANN}{BOB}"));
        let file = opened(settings).unwrap();
        for login in ["ann", "ann@example.org", "Änn"] {
            assert_eq!(name_of(&file, login).await.as_deref(), Some("ann"));
        }
        for login in ["Ann", "ann ", "änn", "carl", "*"] {
            assert_eq!(name_of(&file, login).await, None);
        }
        let ann = found(&file, "ann").await;
        let expected = Account {
            name: AccountName::parse("ann").unwrap(),
            home_node: None,
            uid: 20001,
            gid: 20002,
            home: "ann".to_owned(),
            quota: None,
            login: Status::Allowed,
            delivery: Status::Allowed,
            access: Access::default(),
        };
        assert_eq!(*ann.account, expected);
        let bob = found(&file, "bob").await;
        let expected = Account {
            name: AccountName::parse("bob").unwrap(),
            home_node: Some("node2".to_owned()),
            uid: 0,
            gid: 1,
            home: "/srv/bob".to_owned(),
            quota: Some(1000),
            login: Status::Refused,
            delivery: Status::Refused,
            access: Access::default(),
        };
        assert_eq!(*bob.account, expected);
    }

    #[test]
    fn all_problems_come_at_once_and_show_no_password() {
        let (_folder, settings) = folder(
            r#"
            colour = "green"
            [[account]]
            name = "ann"
            password = "hunter2"
            uid = -1
            shell = "/bin/sh"
            [[account]]
            password = "{PLAIN}hunter2"
            uid = 1
            gid = 1
            home = ""
            status = "asleep"
            quota = "much"
            aliases = ["a\u0000", 1]
            [[account]]
            name = "carl"
            aliases = ["dora", "dora"]
            password = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
            uid = 1
            gid = 1
            [[account]]
            name = "dora"
            password = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
            uid = 1
            gid = 1
            "#,
        );
        let error = opened(settings).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2"), "{text}");
        let FileError::Accounts { problems, .. } = error else {
            panic!("{text}");
        };
        let expected = [
            "colour: is not a key of this file",
            "account 1 (ann): shell: is not a key of an account",
            "account 1 (ann): password: has a scheme that is not verified here",
            "account 1 (ann): uid: expected a number from 0 to 4294967295",
            "account 1 (ann): gid: expected a number from 0 to 4294967295",
            "account 2: name: is missing",
            "account 2: aliases: expected a list of strings",
            "account 2: aliases: one has a character that is not allowed here",
            "account 2: password: has a scheme that is not verified here",
            "account 2: home: is empty, too long or has a control character",
            "account 2: quota: expected a number of octets, or 0 for none",
            "account 2: status: expected active, noaccess, nopop, locked, lockout, pending, inactive, hold, maintenance, disabled, closed or deleted",
            "account 3: \"dora\" is the name or alias of an account before it",
            "account 4: \"dora\" is the name or alias of an account before it",
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn a_file_that_is_no_toml_shows_no_password() {
        let (_folder, settings) = folder("[[account]]\npassword = \"hunter2\n");
        let error = opened(settings).unwrap_err();
        assert!(matches!(error, FileError::Toml { line: 2, .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let (_folder, settings) = folder(ANN);
        for mode in [0o644, 0o604, 0o660, 0o700, 0o602] {
            fs::set_permissions(&settings.path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = opened(settings.clone());
            assert!(matches!(refused, Err(FileError::Mode { mode: m, .. }) if m == mode));
        }
        fs::set_permissions(&settings.path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(opened(settings).is_ok());
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let (folder, mut settings) = folder(ANN);
        settings.path = folder.path().join("none");
        assert!(matches!(opened(settings), Err(FileError::Io { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again_within_a_second() {
        let (_folder, settings) = folder(ANN);
        let path = settings.path.clone();
        let file = opened(settings).unwrap();
        write(&path, BOB);
        assert_eq!(name_of(&file, "bob").await, None);
        tokio::time::advance(CHECK_EVERY).await;
        assert_eq!(name_of(&file, "bob").await.as_deref(), Some("bob"));
        assert_eq!(name_of(&file, "ann").await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_version_leaves_the_old_accounts() {
        let (folder, settings) = folder(ANN);
        let path = settings.path.clone();
        let file = opened(settings).unwrap();
        let versions: [&dyn Fn(); 5] = [
            &|| write(&path, "nonsense"),
            &|| write(&path, ""),
            &|| write(&path, &format!("{ANN}{ANN}")),
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap(),
            &|| fs::remove_file(&path).unwrap(),
        ];
        for version in versions {
            version();
            tokio::time::advance(CHECK_EVERY).await;
            assert_eq!(name_of(&file, "ann").await.as_deref(), Some("ann"));
        }
        // Replaced by rename, as editors do.
        let new = folder.path().join("new");
        write(&new, BOB);
        fs::rename(&new, &path).unwrap();
        tokio::time::advance(CHECK_EVERY).await;
        assert_eq!(name_of(&file, "bob").await.as_deref(), Some("bob"));
        assert_eq!(name_of(&file, "ann").await, None);
    }

    #[test]
    fn the_sample_is_read_but_for_its_placeholder() {
        let sample = fs::read_to_string("config/accounts.toml").unwrap();
        let (_folder, settings) = folder(&sample);
        match opened(settings) {
            Ok(_) => {}
            Err(FileError::Accounts { problems, .. }) => {
                assert!(
                    problems
                        .iter()
                        .all(|problem| problem.contains(": password: "))
                );
            }
            Err(error) => panic!("{error}"),
        }
    }
}
