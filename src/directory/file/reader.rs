//! Reading one `[[account]]` table: every problem is noted, and one that has any is no account.

use std::sync::Arc;

use tokio::time::Instant;
use toml::{Table, Value};

use super::Named;
use crate::{
    directory::{
        Access, Account, Found, STATUS_WORDS, Status,
        address::Rules,
        facts::{EntryId, Facts, Shown},
        is_home, parse_status,
        password::Stored,
    },
    names::{AccountName, Login, Protocol},
    proto::lmtp::Address,
    secret::Secret,
};

/// The keys of an account.
const KEYS: [&str; 12] = [
    "name",
    "aliases",
    "addresses",
    "password",
    "uid",
    "gid",
    "home",
    "home_node",
    "quota",
    "status",
    "protocols",
    "networks",
];

/// Reads one account and notes what is wrong with it.
pub(super) struct Reader<'a> {
    table: &'a Table,
    place: String,
    rules: &'a Rules,
    problems: &'a mut Vec<String>,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) fn new(
        table: &'a Table,
        index: usize,
        rules: &'a Rules,
        problems: &'a mut Vec<String>,
    ) -> Self {
        let name = table.get("name").and_then(Value::as_str);
        let name = name.and_then(|name| AccountName::parse(name).ok());
        let place = name.map_or_else(
            || format!("account {}", index + 1),
            |name| format!("account {} ({name})", index + 1),
        );
        Self {
            table,
            place,
            rules,
            problems,
        }
    }

    /// The account; none where something is wrong with it.
    pub(super) fn account(&mut self) -> Option<Named> {
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
        let (aliases, addresses) = (self.aliases(), self.addresses());
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
        let quota = self.quota();
        let (login, delivery) = self.status();
        let access = self.access();
        if self.problems.len() > before {
            return None;
        }
        let account = Account {
            name: name?,
            home_node,
            uid: uid?,
            gid: gid?,
            home: home?,
            quota,
            login,
            delivery,
            access,
        };
        let (id, passwords) = (account.name.as_str().to_owned(), vec![password?]);
        let entry = EntryId::of_name(&id);
        let found = Found {
            facts: Facts::new(entry, &account, Shown::ALL, Vec::new(), [&passwords, &[]]),
            id,
            passwords,
            server: 0,
            base: 0,
            learned: Instant::now(),
            account: Arc::new(account),
        };
        Some(Named {
            found,
            aliases,
            addresses,
        })
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

    fn status(&mut self) -> (Status, Status) {
        let Some(word) = self.text("status") else {
            return (Status::Allowed, Status::Allowed);
        };
        parse_status(word).unwrap_or_else(|| {
            self.problem("status", &format!("expected {STATUS_WORDS}"));
            (Status::TryLater, Status::TryLater)
        })
    }

    fn access(&mut self) -> Access {
        let mut access = Access::default();
        if self.table.contains_key("protocols") {
            let words = self.strings("protocols");
            if words.iter().any(|word| Protocol::parse(word).is_none()) {
                self.problem("protocols", "expected imap or pop3");
            }
            access.protocols = Some(Access::read_protocols(words.into_iter()));
        }
        if self.table.contains_key("networks") {
            access.networks = Access::read_networks(self.strings("networks").into_iter());
            if access.networks.is_none() {
                self.problem("networks", "expected networks, as 10.0.0.0/8 or ::1");
            }
        }
        access
    }

    fn aliases(&mut self) -> Vec<String> {
        let mut aliases = Vec::new();
        for text in self.strings("aliases") {
            match Login::parse(text) {
                Ok(alias) => aliases.push(alias.as_str().to_owned()),
                Err(error) => self.problem("aliases", &format!("one {error}")),
            }
        }
        aliases
    }

    fn addresses(&mut self) -> Vec<String> {
        let mut addresses = Vec::new();
        for text in self.strings("addresses") {
            match Address::parse(text) {
                Ok(address) => match (address.domain(), address.local()) {
                    (None, local) if !local.contains('@') => addresses.push(local.to_lowercase()),
                    (domain, local) => match self.rules.mailbox(local, domain) {
                        Some(mailbox) => addresses.push(mailbox.to_string().to_lowercase()),
                        None => {
                            let text = format!("{text:?} has none of the directory's domains");
                            self.problem("addresses", &text);
                        }
                    },
                },
                Err(error) => self.problem("addresses", &format!("{text:?} {error}")),
            }
        }
        addresses
    }

    /// The strings of a list.
    fn strings(&mut self, key: &str) -> Vec<&'a str> {
        let values = match self.table.get(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(_) => {
                self.problem(key, "expected a list of strings");
                return Vec::new();
            }
        };
        let strings: Vec<_> = values.iter().filter_map(Value::as_str).collect();
        for _ in strings.len()..values.len() {
            self.problem(key, "expected a list of strings");
        }
        strings
    }
}
