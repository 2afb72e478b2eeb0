//! What of an entry is compared when it is said to have changed, and whether a session may go on.
//!
//! Values are kept as marks, which mean nothing outside of this process: a stored password is not kept for this. What is not
//! shown, before or now, is not compared: an attribute that is hidden from us by a slip in an access rule moves nobody. Of an
//! account with several names none is, since servers give values in any order.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hash},
    num::NonZeroU64,
    sync::{Arc, LazyLock},
};

use super::{Access, Account, Found, Status};
use crate::{proto::content_sync::EntryUuid, secret::Secret};

/// What marks are made with.
static MARKS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Which entry.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum EntryId {
    /// Whatever becomes of its name.
    Uuid(EntryUuid),
    /// By a digest of its name, where its UUID is not shown to us: that it is gone cannot be followed.
    Name(u64),
}

/// Which of an account's parts the entry says, and does not leave to a default.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    /// Its name, and no other besides.
    pub(super) name: bool,
    pub(super) home: bool,
    pub(super) uid: bool,
    pub(super) gid: bool,
}

/// What of an entry is compared, as marks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) entry: EntryId,
    /// Of all that is in use.
    mark: Mark,
    pub(super) parts: Parts,
}

/// What sessions are compared by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// Of its name, home, uid and gid.
    place: [Option<Mark>; 4],
    /// Of its stored password, and of when that was changed.
    password: [Option<Mark>; 2],
}

/// A digest that is good for comparing within this process.
type Mark = NonZeroU64;

/// What an entry is now.
#[derive(Clone, Debug)]
pub(super) enum Now {
    /// There is none any more, or what accounts are searched by does not match it.
    Gone,
    Is(Standing),
    /// It is there, and no account can be read from it.
    Unreadable,
}

/// What sessions of an account are judged by.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) facts: Facts,
    pub(super) home_node: Option<Arc<str>>,
    pub(super) login: Status,
    /// None: in any way.
    pub(super) access: Option<Arc<Access>>,
}

fn mark(value: impl Hash) -> Mark {
    NonZeroU64::new(MARKS.hash_one(value)).unwrap_or(NonZeroU64::MIN)
}

impl EntryId {
    /// Of a name that means the entry as long as it is there.
    pub(super) fn of_name(name: &str) -> Self {
        Self::Name(mark(name).get())
    }
}

impl Shown {
    pub(super) const ALL: Self = Self {
        name: true,
        home: true,
        uid: true,
        gid: true,
    };
}

impl Facts {
    /// Of an account; `names` is what else it is found by.
    pub(super) fn new(
        entry: EntryId,
        account: &Account,
        shown: Shown,
        mut names: Vec<Vec<u8>>,
        passwords: [&[Secret]; 2],
    ) -> Self {
        let password = passwords.map(|values| {
            // Servers give values in any order.
            let mut values: Vec<_> = values.iter().map(Secret::expose).collect();
            values.sort_unstable();
            (!values.is_empty()).then(|| mark(values))
        });
        names.sort_unstable();
        Self {
            entry,
            mark: mark((account, names, password)),
            parts: Parts {
                place: [
                    shown.name.then(|| mark(&account.name)),
                    shown.home.then(|| mark(&account.home)),
                    shown.uid.then(|| mark(account.uid)),
                    shown.gid.then(|| mark(account.gid)),
                ],
                password,
            },
        }
    }

    /// Whether nothing has changed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.mark == other.mark
    }

    /// What stands for the password as it was when the account was read; none where nothing of it is shown.
    pub(super) fn password(&self) -> Option<u64> {
        let is_shown = self.parts.password.iter().any(Option::is_some);
        is_shown.then(|| mark(self.parts.password).get())
    }
}

impl Parts {
    /// Whether the mailbox is elsewhere at its node.
    pub(super) fn has_moved(&self, now: &Self) -> bool {
        differ(&self.place, &now.place)
    }

    /// Whether the password is another one.
    pub(super) fn has_other_password(&self, now: &Self) -> bool {
        differ(&self.password, &now.password)
    }
}

/// Whether something is shown both before and now, and differs.
fn differ(before: &[Option<Mark>], now: &[Option<Mark>]) -> bool {
    let mut both = before.iter().zip(now);
    both.any(|pair| matches!(pair, (Some(before), Some(now)) if before != now))
}

impl Now {
    pub(super) fn of(found: &Found) -> Self {
        let access = &found.account.access;
        let is_open = *access == Access::default();
        Self::Is(Standing {
            facts: found.facts,
            home_node: found.account.home_node.as_deref().map(Arc::from),
            login: found.account.login,
            access: (!is_open).then(|| Arc::new(access.clone())),
        })
    }
}
