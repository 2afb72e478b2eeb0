//! What administrators have ordered and not taken back: accounts that are held, nodes that are drained, the front itself.
//!
//! ```text
//! held account    logins and mail: try later
//! drained node    logins and mail for accounts at home there: try later
//! drained front   not ready for balancers; it serves whoever comes all the same
//! ```
//!
//! Orders last until they are taken back. With a file (`[admin] orders_file`) they outlive the process: a mailbox that is being
//! moved must not be used because a front was started anew. A change is written first (a temporary file, synced, renamed,
//! the folder synced) and in force after that; one that cannot be written is refused and changes nothing.
//!
//! The file is the truth: it is read again before each change, and when the process before this one may have written it, or the
//! one after it does. A process that was replaced [follows](Orders::follow) and writes no more: the other one has written by then
//! what this one is told.
//!
//! It ends no session and answers nobody: whoever lets somebody in asks here, after that one is [listed](crate::sessions), so that
//! an order and a login at the same time cannot miss each other.
//!
//! Limits: [`MAX_ORDERS`] of each kind. On failure an [`OrdersError`]; a file that is there and cannot be read keeps the front
//! from starting, as does a folder that is not there: orders that were given would be lost unnoticed.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    names::{AccountName, NodeName},
    sessions::{Ending, Filter},
};

/// Accounts that are held, and nodes that are drained.
pub const MAX_ORDERS: usize = 1000;

/// The largest file read, in octets: so many orders with the longest names fit.
const MAX_FILE_BYTES: u64 = 1 << 21;

/// The orders in force. Clones share them.
#[derive(Clone, Debug)]
pub struct Orders(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    all: RwLock<All>,
    /// Another process writes the file.
    follows: AtomicBool,
    /// The number of the last order: held while one is given, so that the file is written by one at a time.
    last: Mutex<u64>,
}

/// What the file holds.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct All {
    #[serde(default)]
    held: BTreeMap<String, Order>,
    #[serde(default)]
    drained: BTreeMap<String, Order>,
    #[serde(default)]
    front: Option<Order>,
}

/// When and by whom something was ordered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Seconds since 1970.
    pub since: i64,
    /// The user of this machine who asked for it.
    pub uid: u32,
    /// Sessions that there were go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_sessions: bool,
    /// Tells it from one that is given again. Of this process.
    #[serde(skip)]
    number: u64,
}

/// Whom an order is about.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    /// This account is held.
    Account(AccountName),
    /// This front is drained.
    Front,
    /// This node is drained.
    Node(NodeName),
}

impl Subject {
    /// The sessions that such an order is about.
    pub fn sessions(&self) -> Filter {
        let mut filter = Filter::default();
        match self {
            Self::Account(name) => filter.account = Some(name.clone()),
            Self::Front => {}
            Self::Node(name) => filter.node = Some(name.clone()),
        }
        filter
    }

    /// Why they end.
    pub const fn ending(&self) -> Ending {
        match self {
            Self::Account(_) => Ending::Held,
            Self::Front => Ending::FrontDrained,
            Self::Node(_) => Ending::NodeDrained,
        }
    }
}

/// What stands against serving an account.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Forbidden {
    /// The account is held.
    #[error("the account is held by an administrator")]
    Held,
    /// Its node is drained.
    #[error("the node is drained by an administrator")]
    NodeDrained,
}

/// An order that is in force from now on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Given {
    /// It was not in force before.
    pub is_new: bool,
    number: u64,
}

/// Why orders cannot be read or given.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    /// The file holds something else.
    #[error(
        "{path} is no file of orders: {reason}; set it right, or remove it if no account is held and nothing is drained"
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file, or its folder, cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There are too many.
    #[error("there are {MAX_ORDERS} orders of this kind, which is the most")]
    TooMany,
    /// The file cannot be written.
    #[error("cannot write {path}, so nothing has changed")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Orders {
    /// Those of the file, or none.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn open(file: Option<PathBuf>) -> Result<Self, OrdersError> {
        let all = match &file {
            Some(path) => read(path)?,
            None => All::default(),
        };
        Ok(Self(Arc::new(Inner {
            file,
            all: RwLock::new(all),
            follows: AtomicBool::new(false),
            last: Mutex::default(),
        })))
    }

    /// From now on another process writes the file. Waits for an order that is being written.
    pub fn follow(&self) {
        let _one = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.follows.store(true, Relaxed);
    }

    /// Whether they outlive this process.
    pub fn are_kept(&self) -> bool {
        self.0.file.is_some()
    }

    /// Whether an account may be served at a node now.
    ///
    /// # Errors
    ///
    /// What was ordered.
    pub fn check(&self, account: &AccountName, node: &NodeName) -> Result<(), Forbidden> {
        let all = self.read();
        if all.held.contains_key(account.as_str()) {
            return Err(Forbidden::Held);
        }
        if all.drained.contains_key(node.as_str()) {
            return Err(Forbidden::NodeDrained);
        }
        Ok(())
    }

    /// Whether that is in force.
    pub fn has(&self, subject: &Subject) -> bool {
        self.read().get(subject).is_some()
    }

    /// Whether that very order is still in force, and was not given anew.
    pub fn is_in_force(&self, subject: &Subject, given: Given) -> bool {
        let all = self.read();
        all.get(subject)
            .is_some_and(|order| order.number == given.number)
    }

    /// All of them: accounts and nodes by name.
    pub fn list(&self) -> Vec<(Subject, Order)> {
        let all = self.read();
        let held = all.held.iter().filter_map(|(name, order)| {
            let name = AccountName::parse(name).ok()?;
            Some((Subject::Account(name), order.clone()))
        });
        let drained = all.drained.iter().filter_map(|(name, order)| {
            let name = NodeName::parse(name).ok()?;
            Some((Subject::Node(name), order.clone()))
        });
        let front = all
            .front
            .iter()
            .map(|order| (Subject::Front, order.clone()));
        front.chain(drained).chain(held).collect()
    }

    /// Puts an order in force, which blocks while it is written. One that is in force already begins anew, but is as old as it
    /// was.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or there are too many.
    pub fn give(
        &self,
        subject: &Subject,
        uid: u32,
        keeps_sessions: bool,
    ) -> Result<Given, OrdersError> {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.saturating_add(1);
        let number = *last;
        let mut all = self.latest()?;
        let before = all.get(subject);
        let is_new = before.is_none();
        let order = Order {
            since: before.map_or_else(|| Timestamp::now().as_second(), |before| before.since),
            uid,
            keeps_sessions,
            number,
        };
        all.put(subject, order)?;
        self.replace(all)?;
        Ok(Given { is_new, number })
    }

    /// Takes an order back; false if there is none. Blocks as [`give`](Self::give) does.
    ///
    /// # Errors
    ///
    /// When that cannot be written.
    pub fn take_back(&self, subject: &Subject) -> Result<bool, OrdersError> {
        let _one = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.latest()?;
        let was_there = all.remove(subject);
        if was_there {
            self.replace(all)?;
        } else {
            self.set(all);
        }
        Ok(was_there)
    }

    /// Reads the file again, if there is one: the orders that are in force since and were not before, or that let sessions go on
    /// before and do not any more.
    ///
    /// # Errors
    ///
    /// When it cannot be read; then nothing has changed.
    pub fn refresh(&self) -> Result<Vec<(Subject, Order)>, OrdersError> {
        let _one = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.set(self.latest()?);
        let mut new = self.list();
        new.retain(|(subject, order)| {
            let known = before.get(subject);
            known.is_none_or(|known| known.keeps_sessions && !order.keeps_sessions)
        });
        Ok(new)
    }

    /// What the file holds now; orders that are known already are still the same ones.
    fn latest(&self) -> Result<All, OrdersError> {
        let known = self.read().clone();
        let Some(path) = &self.0.file else {
            return Ok(known);
        };
        let mut all = read(path)?;
        all.recognise(&known);
        Ok(all)
    }

    fn replace(&self, all: All) -> Result<(), OrdersError> {
        if let Some(path) = &self.0.file
            && !self.0.follows.load(Relaxed)
        {
            write(path, &all).map_err(|source| OrdersError::Write {
                path: path.clone(),
                source,
            })?;
        }
        self.set(all);
        Ok(())
    }

    /// Puts those in force in memory; what was until then.
    fn set(&self, all: All) -> All {
        let mut known = self.0.all.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut known, all)
    }

    fn read(&self) -> RwLockReadGuard<'_, All> {
        // A panic cannot leave it half changed.
        self.0.all.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn get(&self, subject: &Subject) -> Option<&Order> {
        match subject {
            Subject::Account(name) => self.held.get(name.as_str()),
            Subject::Front => self.front.as_ref(),
            Subject::Node(name) => self.drained.get(name.as_str()),
        }
    }

    fn put(&mut self, subject: &Subject, order: Order) -> Result<(), OrdersError> {
        let (orders, name) = match subject {
            Subject::Account(name) => (&mut self.held, name.as_str()),
            Subject::Node(name) => (&mut self.drained, name.as_str()),
            Subject::Front => {
                self.front = Some(order);
                return Ok(());
            }
        };
        if orders.len() >= MAX_ORDERS && !orders.contains_key(name) {
            return Err(OrdersError::TooMany);
        }
        orders.insert(name.to_owned(), order);
        Ok(())
    }

    fn remove(&mut self, subject: &Subject) -> bool {
        let removed = match subject {
            Subject::Account(name) => self.held.remove(name.as_str()),
            Subject::Front => self.front.take(),
            Subject::Node(name) => self.drained.remove(name.as_str()),
        };
        removed.is_some()
    }

    fn recognise(&mut self, known: &Self) {
        for (mine, theirs) in [
            (&mut self.held, &known.held),
            (&mut self.drained, &known.drained),
        ] {
            for (name, order) in mine {
                order.number = theirs.get(name).map_or(0, |order| order.number);
            }
        }
        if let (Some(order), Some(known)) = (&mut self.front, &known.front) {
            order.number = known.number;
        }
    }

    /// What of it nobody could have ordered.
    fn problem(&self) -> Option<String> {
        let held = self.held.keys().filter_map(|name| {
            let wrong = AccountName::parse(name).err()?;
            Some(format!("held: {name:?} {wrong}"))
        });
        let drained = self.drained.keys().filter_map(|name| {
            let wrong = NodeName::parse(name).err()?;
            Some(format!("drained: {name:?} {wrong}"))
        });
        held.chain(drained).next()
    }
}

fn read(path: &Path) -> Result<All, OrdersError> {
    let failed = |source| OrdersError::Read {
        path: path.to_owned(),
        source,
    };
    let mut octets = Vec::new();
    match File::open(path) {
        Ok(file) => {
            let read = file.take(MAX_FILE_BYTES).read_to_end(&mut octets);
            read.map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Nothing was ordered, if that is where it would be.
            return match fs::metadata(folder(path)) {
                Ok(_) => Ok(All::default()),
                Err(error) => Err(failed(error)),
            };
        }
        Err(error) => return Err(failed(error)),
    }
    let broken = |reason: String| OrdersError::Broken {
        path: path.to_owned(),
        reason,
    };
    let all: All = serde_json::from_slice(&octets).map_err(|error| broken(error.to_string()))?;
    match all.problem() {
        Some(problem) => Err(broken(problem)),
        None => Ok(all),
    }
}

/// After this the file holds either what it held or what it should, whatever happens meanwhile.
fn write(path: &Path, all: &All) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(all)?;
    text.push('\n');
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // One that a process left when it was killed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder(path))?.sync_all()
}

/// Where a file lies.
pub fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Subject {
        Subject::Account(AccountName::parse(name).unwrap())
    }

    fn node(name: &str) -> Subject {
        Subject::Node(NodeName::parse(name).unwrap())
    }

    fn check(orders: &Orders, account: &str, node: &str) -> Result<(), Forbidden> {
        let (account, node) = (AccountName::parse(account), NodeName::parse(node));
        orders.check(&account.unwrap(), &node.unwrap())
    }

    #[test]
    fn orders_stand_in_the_way_of_whom_they_are_about() {
        let orders = Orders::open(None).unwrap();
        assert!(!orders.are_kept());
        assert_eq!(check(&orders, "ann", "n1"), Ok(()));
        assert!(orders.give(&account("ann"), 7, false).unwrap().is_new);
        assert!(orders.give(&node("n2"), 7, false).unwrap().is_new);
        assert!(orders.give(&Subject::Front, 7, false).unwrap().is_new);
        assert_eq!(check(&orders, "ann", "n1"), Err(Forbidden::Held));
        assert_eq!(check(&orders, "bob", "n2"), Err(Forbidden::NodeDrained));
        assert_eq!(check(&orders, "bob", "n1"), Ok(()));
        let subjects: Vec<_> = orders
            .list()
            .into_iter()
            .map(|(subject, _)| subject)
            .collect();
        assert_eq!(subjects, [Subject::Front, node("n2"), account("ann")]);
        for subject in subjects {
            assert!(orders.take_back(&subject).unwrap());
            assert!(!orders.take_back(&subject).unwrap());
        }
        assert_eq!(check(&orders, "ann", "n2"), Ok(()));
    }

    #[test]
    fn an_order_that_is_given_again_is_another_one_and_as_old_as_before() {
        let orders = Orders::open(None).unwrap();
        let first = orders.give(&node("n1"), 0, false).unwrap();
        assert!(orders.is_in_force(&node("n1"), first));
        let since = orders.list()[0].1.since;
        let second = orders.give(&node("n1"), 1, false).unwrap();
        assert!(!second.is_new);
        assert!(!orders.is_in_force(&node("n1"), first));
        assert!(orders.is_in_force(&node("n1"), second));
        assert_eq!(
            (orders.list()[0].1.since, orders.list()[0].1.uid),
            (since, 1)
        );
        orders.take_back(&node("n1")).unwrap();
        assert!(!orders.is_in_force(&node("n1"), second));
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let orders = Orders::open(None).unwrap();
        for number in 0..MAX_ORDERS {
            orders
                .give(&account(&format!("u{number}")), 0, false)
                .unwrap();
        }
        let more = orders.give(&account("one more"), 0, false);
        assert!(matches!(more, Err(OrdersError::TooMany)));
        assert!(!orders.give(&account("u7"), 0, false).unwrap().is_new);
        assert!(orders.give(&node("n1"), 0, false).unwrap().is_new);
    }

    #[test]
    fn a_file_keeps_them_with_the_longest_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.json");
        // Left by whoever was killed.
        fs::write(dir.path().join("orders.json.new"), "{").unwrap();
        let orders = Orders::open(Some(path.clone())).unwrap();
        assert!(orders.are_kept() && !path.exists());
        orders.give(&node("n1"), 3, false).unwrap();
        orders.give(&Subject::Front, 3, false).unwrap();
        orders.give(&account("Zoë \"O'Neil\""), 3, false).unwrap();
        let again = Orders::open(Some(path.clone())).unwrap();
        assert_eq!(again.list().len(), 3);
        let named = |orders: &Orders| {
            let list = orders.list().into_iter();
            list.map(|(subject, order)| (subject, order.since, order.uid))
                .collect::<Vec<_>>()
        };
        assert_eq!(named(&again), named(&orders));
        again.take_back(&Subject::Front).unwrap();
        assert!(
            !Orders::open(Some(path.clone()))
                .unwrap()
                .has(&Subject::Front)
        );

        let mut all = All::default();
        for number in 0..MAX_ORDERS {
            let order = Order {
                keeps_sessions: false,
                since: i64::MAX,
                uid: u32::MAX,
                number: 0,
            };
            all.held
                .insert(format!("{number:04}{}", "\"".repeat(251)), order.clone());
            all.drained
                .insert(format!("{number:04}{}", "n".repeat(60)), order);
        }
        write(&path, &all).unwrap();
        assert_eq!(read(&path).unwrap(), all);
    }

    #[test]
    fn a_file_that_is_not_understood_or_not_there_at_all_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.json");
        for broken in [
            "",
            "{\"held\": {\"ann\"",
            "{\"held\": {}, \"more\": 1}",
            "{\"held\": {\"a\\u0000\": {\"since\": 1, \"uid\": 0}}}",
            "{\"drained\": {\"N1\": {\"since\": 1, \"uid\": 0}}}",
        ] {
            fs::write(&path, broken).unwrap();
            let error = Orders::open(Some(path.clone())).unwrap_err();
            assert!(matches!(error, OrdersError::Broken { .. }), "{broken}");
            assert!(error.to_string().contains("set it right"), "{error}");
        }
        let nowhere = dir.path().join("not/there/orders.json");
        let error = Orders::open(Some(nowhere)).unwrap_err();
        assert!(matches!(error, OrdersError::Read { .. }), "{error}");
    }

    #[test]
    fn an_order_that_cannot_be_written_is_not_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let orders = Orders::open(Some(folder.join("orders.json"))).unwrap();
        orders.give(&account("bob"), 0, false).unwrap();
        fs::rename(&folder, dir.path().join("away")).unwrap();
        let error = orders.give(&account("ann"), 0, false).unwrap_err();
        assert!(matches!(error, OrdersError::Read { .. }), "{error}");
        assert!(!orders.has(&account("ann")));
        assert!(orders.take_back(&account("bob")).is_err());
        assert!(orders.has(&account("bob")));
    }

    /// Of two processes one writes, and the other one learns of it.
    #[test]
    fn what_another_process_was_told_is_known_when_the_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = Some(dir.path().join("orders.json"));
        let [old, new] = [0, 1].map(|_| Orders::open(file.clone()).unwrap());
        old.give(&account("ann"), 7, true).unwrap();
        assert_eq!(check(&new, "ann", "n1"), Ok(()));
        let learned = new.refresh().unwrap();
        assert_eq!(learned.len(), 1);
        assert_eq!(learned[0].0, account("ann"));
        assert!(learned[0].1.keeps_sessions);
        assert!(new.refresh().unwrap().is_empty());
        // Given anew, it does not let them go on any more.
        let given = old.give(&account("ann"), 7, false).unwrap();
        assert_eq!(new.refresh().unwrap().len(), 1);
        assert_eq!(check(&new, "ann", "n1"), Err(Forbidden::Held));
        // Before it adds to them, too.
        old.give(&node("n2"), 7, false).unwrap();
        new.give(&node("n3"), 7, false).unwrap();
        assert_eq!(old.refresh().unwrap().len(), 1);
        for node in [node("n2"), node("n3")] {
            assert!(old.has(&node) && new.has(&node));
        }
        assert!(old.is_in_force(&account("ann"), given));
        assert!(new.take_back(&account("ann")).unwrap());
        assert!(old.refresh().unwrap().is_empty());
        assert!(!old.is_in_force(&account("ann"), given));
        fs::write(dir.path().join("orders.json"), "?").unwrap();
        assert!(old.refresh().is_err() && old.has(&node("n3")));
    }
}
