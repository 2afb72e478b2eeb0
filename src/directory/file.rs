//! Accounts in a TOML file: `[[account]]` tables, for a machine that has no LDAP.
//!
//! The file is read whole when the process starts and again when it changed (device, inode, size and times of the file are
//! compared on use, at most once a second). A new version with a problem is logged once and the old accounts stay; at
//! start it is an error. All problems of a version are reported at once.
//!
//! A login is compared octet by octet with names and aliases; no two accounts may share one. The file must not be
//! readable by others than owner and group, nor writable by others than its owner, since it holds password hashes; what
//! is checked is the open file, not its path. At most 64 MiB are read. Error texts name account and key, never a value.

use std::{
    collections::HashMap,
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::{
    Account, FileSettings, Found, LookupError, Status, Wrong, is_home, parse_status,
    password::Stored,
};
use crate::{
    names::{AccountName, Login},
    secret::Secret,
};

/// How often the file is looked at, at most.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The largest accounts file, in octets.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The keys of an account.
const KEYS: [&str; 9] = [
    "name",
    "aliases",
    "password",
    "uid",
    "gid",
    "home",
    "home_node",
    "quota",
    "status",
];

/// The accounts file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    accounts: Arc<Logins>,
    /// Of the version that was last read, good or bad; none when there was no file.
    stamp: Option<Stamp>,
    checked: Instant,
}

/// What each login means.
type Logins = HashMap<String, Arc<Found>>;

/// What changes when a file changes: device, inode, size, modification and change time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp([i64; 4], u64, u64, u64);

/// Why an accounts file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
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
    pub(super) fn open(settings: FileSettings) -> Result<Self, FileError> {
        let path = settings.path;
        let (file, stamp) = open(&path)?;
        let state = State {
            accounts: Arc::new(load(file, &path)?),
            stamp: Some(stamp),
            checked: Instant::now(),
        };
        Ok(Self {
            path,
            state: Mutex::new(state),
        })
    }

    /// Who `login` is.
    pub(super) async fn find(&self, login: &Login) -> Result<Arc<Found>, LookupError> {
        if let Some(known) = self.is_due() {
            let path = self.path.clone();
            let changed = tokio::task::spawn_blocking(move || reload(&path, known)).await;
            if let Ok(Some((stamp, accounts))) = changed {
                self.take(stamp, accounts);
            }
        }
        let accounts = Arc::clone(&self.lock().accounts);
        accounts
            .get(login.as_str())
            .map(Arc::clone)
            .ok_or(LookupError::Wrong(Wrong::Unknown))
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

    fn take(&self, stamp: Option<Stamp>, accounts: Result<Logins, FileError>) {
        let mut state = self.lock();
        state.stamp = stamp;
        match accounts {
            Ok(accounts) => {
                tracing::info!(accounts = accounts.len(), "accounts file was read again");
                state.accounts = Arc::new(accounts);
            }
            Err(error) => {
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
fn reload(path: &Path, known: Option<Stamp>) -> Option<(Option<Stamp>, Result<Logins, FileError>)> {
    // Asked by path first: an unchanged file needs no opening, and one that cannot be opened is complained of once.
    let stamp = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
    if stamp == known {
        return None;
    }
    Some(match open(path) {
        Ok((file, stamp)) => (Some(stamp), load(file, path)),
        Err(error) => (stamp, Err(error)),
    })
}

fn load(file: fs::File, path: &Path) -> Result<Logins, FileError> {
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
    read_accounts(&table).map_err(|problems| FileError::Accounts {
        path: path.to_owned(),
        problems,
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|octet| **octet == b'\n').count()
}

fn read_accounts(table: &Table) -> Result<Logins, Vec<String>> {
    let mut problems = Vec::new();
    for key in table.keys().filter(|key| *key != "account") {
        problems.push(format!("{key}: is not a key of this file"));
    }
    let mut logins = Logins::new();
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
        let mut reader = Reader::new(account, index, &mut problems);
        let Some((found, aliases)) = reader.account() else {
            continue;
        };
        let name = found.id.clone();
        let found = Arc::new(found);
        for login in std::iter::once(name).chain(aliases) {
            if logins.insert(login.clone(), Arc::clone(&found)).is_some() {
                problems.push(format!(
                    "account {}: {login:?} is the name or alias of an account before it",
                    index + 1
                ));
            }
        }
    }
    if problems.is_empty() {
        Ok(logins)
    } else {
        Err(problems)
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

/// Reads one account and notes what is wrong with it.
struct Reader<'a> {
    table: &'a Table,
    place: String,
    problems: &'a mut Vec<String>,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(table: &'a Table, index: usize, problems: &'a mut Vec<String>) -> Self {
        let name = table.get("name").and_then(Value::as_str);
        let name = name.and_then(|name| AccountName::parse(name).ok());
        let place = name.map_or_else(
            || format!("account {}", index + 1),
            |name| format!("account {} ({name})", index + 1),
        );
        Self {
            table,
            place,
            problems,
        }
    }

    fn account(&mut self) -> Option<(Found, Vec<String>)> {
        let before = self.problems.len();
        for key in self.table.keys() {
            if !KEYS.contains(&key.as_str()) {
                self.problem(key, "is not a key of an account");
            }
        }
        let name = self.required("name").and_then(|name| {
            AccountName::parse(name)
                .map_err(|error| self.problem("name", &error.to_string()))
                .ok()
        });
        let aliases = self.aliases();
        let password = self.required("password").and_then(|stored| {
            Stored::parse(stored.as_bytes())
                .map_err(|error| self.problem("password", &error.to_string()))
                .ok()?;
            Some(Secret::new(stored.into()))
        });
        let (uid, gid) = (self.id("uid"), self.id("gid"));
        let home = self.text("home").map(ToOwned::to_owned);
        let home = home.or_else(|| Some(name.as_ref()?.as_str().to_owned()));
        if home.as_deref().is_some_and(|home| !is_home(home)) {
            self.problem("home", "is empty, too long or has a control character");
        }
        let home_node = self.text("home_node").map(ToOwned::to_owned);
        let (quota, login) = (self.quota(), self.status());
        if self.problems.len() > before {
            return None;
        }
        let name = name?;
        let found = Found {
            id: name.as_str().to_owned(),
            passwords: vec![password?],
            account: Arc::new(Account {
                name,
                home_node,
                uid: uid?,
                gid: gid?,
                home: home?,
                quota,
                login,
            }),
        };
        Some((found, aliases))
    }

    fn problem(&mut self, key: &str, what: &str) {
        self.problems.push(format!("{}: {key}: {what}", self.place));
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        let text = self.table.get(key)?;
        if text.as_str().is_none() {
            self.problem(key, "expected a string");
        }
        text.as_str()
    }

    fn required(&mut self, key: &str) -> Option<&'a str> {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.text(key)
    }

    fn id(&mut self, key: &str) -> Option<u32> {
        let id = self.table.get(key).and_then(Value::as_integer);
        let id = id.and_then(|id| u32::try_from(id).ok());
        if id.is_none() {
            self.problem(key, "expected a number from 0 to 4294967295");
        }
        id
    }

    fn quota(&mut self) -> Option<u64> {
        let quota = self.table.get("quota")?.as_integer();
        let quota = quota.and_then(|quota| u64::try_from(quota).ok());
        if quota.is_none() {
            self.problem("quota", "expected a number of octets, or 0 for none");
        }
        quota.filter(|quota| *quota > 0)
    }

    fn status(&mut self) -> Status {
        let Some(word) = self.text("status") else {
            return Status::Allowed;
        };
        parse_status(word).unwrap_or_else(|| {
            self.problem("status", "expected active, noaccess, disabled or deleted");
            Status::TryLater
        })
    }

    fn aliases(&mut self) -> Vec<String> {
        let values = match self.table.get("aliases") {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(_) => {
                self.problem("aliases", "expected a list of strings");
                return Vec::new();
            }
        };
        let mut aliases = Vec::new();
        for value in values {
            match value.as_str().map(Login::parse) {
                None => self.problem("aliases", "expected a list of strings"),
                Some(Err(error)) => self.problem("aliases", &format!("one {error}")),
                Some(Ok(alias)) => aliases.push(alias.as_str().to_owned()),
            }
        }
        aliases
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

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

    async fn name_of(file: &File, login: &str) -> Option<String> {
        let found = file.find(&Login::parse(login).unwrap()).await;
        match found {
            Ok(found) => Some(found.account.name.as_str().to_owned()),
            Err(LookupError::Wrong(Wrong::Unknown)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn accounts_are_found_by_name_and_alias() {
        let (_folder, settings) = folder(&format!("{ANN}{BOB}"));
        let file = File::open(settings).unwrap();
        for login in ["ann", "ann@example.org", "Änn"] {
            assert_eq!(name_of(&file, login).await.as_deref(), Some("ann"));
        }
        for login in ["Ann", "ann ", "änn", "carl", "*"] {
            assert_eq!(name_of(&file, login).await, None);
        }
        let ann = file.find(&Login::parse("ann").unwrap()).await.unwrap();
        let expected = Account {
            name: AccountName::parse("ann").unwrap(),
            home_node: None,
            uid: 20001,
            gid: 20002,
            home: "ann".to_owned(),
            quota: None,
            login: Status::Allowed,
        };
        assert_eq!(*ann.account, expected);
        let bob = file.find(&Login::parse("bob").unwrap()).await.unwrap();
        let expected = Account {
            name: AccountName::parse("bob").unwrap(),
            home_node: Some("node2".to_owned()),
            uid: 0,
            gid: 1,
            home: "/srv/bob".to_owned(),
            quota: Some(1000),
            login: Status::Refused,
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
        let error = File::open(settings).unwrap_err();
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
            "account 2: aliases: one has a character that is not allowed here",
            "account 2: aliases: expected a list of strings",
            "account 2: password: has a scheme that is not verified here",
            "account 2: home: is empty, too long or has a control character",
            "account 2: quota: expected a number of octets, or 0 for none",
            "account 2: status: expected active, noaccess, disabled or deleted",
            "account 3: \"dora\" is the name or alias of an account before it",
            "account 4: \"dora\" is the name or alias of an account before it",
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn a_file_that_is_no_toml_shows_no_password() {
        let (_folder, settings) = folder("[[account]]\npassword = \"hunter2\n");
        let error = File::open(settings).unwrap_err();
        assert!(matches!(error, FileError::Toml { line: 2, .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let (_folder, settings) = folder(ANN);
        for mode in [0o644, 0o604, 0o660, 0o700, 0o602] {
            fs::set_permissions(&settings.path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = File::open(settings.clone());
            assert!(matches!(refused, Err(FileError::Mode { mode: m, .. }) if m == mode));
        }
        fs::set_permissions(&settings.path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(File::open(settings).is_ok());
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let (folder, mut settings) = folder(ANN);
        settings.path = folder.path().join("none");
        assert!(matches!(File::open(settings), Err(FileError::Io { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again_within_a_second() {
        let (_folder, settings) = folder(ANN);
        let path = settings.path.clone();
        let file = File::open(settings).unwrap();
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
        let file = File::open(settings).unwrap();
        let versions: [&dyn Fn(); 4] = [
            &|| write(&path, "nonsense"),
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
        match File::open(settings) {
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
