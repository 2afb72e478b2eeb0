//! Failed logins: counted by network, by account, and by account in a network where it is known.

use std::{sync::Arc, time::Duration};

use super::{
    Hash, Hashes, Settings,
    table::{Row, Table},
};
use crate::secret::Secret;

/// Rows of each table: networks, accounts, accounts known in a network. Together some 10 MiB when full.
const NETWORKS: usize = 1 << 16;
const ACCOUNTS: usize = 1 << 16;
const KNOWN: usize = 1 << 18;
/// Wrong passwords of an account that are recognised: a few devices that were forgotten when it was changed.
const RECENT: usize = 8;
/// A count ends at so many times its limit: it must drain in a time that a person can wait for.
const FULL: f32 = 4.0;

/// What a repeated wrong password counts for its network, and for its account where that is known: a phone that asks each
/// minute may go on, a flood may not.
const REPEATED: f32 = 0.05;

/// How a failed login is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failed {
    /// How long after its arrival.
    pub after: Duration,
    /// This very password was wrong before.
    pub is_repeated: bool,
}

/// Why a login is not even tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Held {
    /// Too many have failed for this account.
    #[error("too many failed logins of this account")]
    Account,
    /// Too many have failed from this network.
    #[error("too many failed logins from this network")]
    Network,
}

#[derive(Debug)]
pub(super) struct Failures {
    networks: Arc<Table<Level>>,
    accounts: Arc<Table<Account>>,
    known: Arc<Table<Known>>,
    network: Limit,
    account: Limit,
    delay: Duration,
    max_delay: Duration,
    /// Seconds.
    remember: u32,
}

/// So many, and how fast they are forgotten.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// 0: none.
    most: f32,
    /// Of a count, each second.
    drain: f32,
}

/// Of networks, accounts, and accounts that are known in networks.
type Tables = (Arc<Table<Level>>, Arc<Table<Account>>, Arc<Table<Known>>);

/// A count that drains.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    count: f32,
    at: u32,
}

/// What is remembered of an account.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    failed: Level,
    /// Tries under way.
    trying: u16,
    /// The next of `recent` to be overwritten.
    next: u8,
    recent: [u32; RECENT],
}

/// An account that has logged in from a network.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    failed: Level,
    /// When it did so last.
    seen: u32,
}

/// A login that is being tried. It says how it ended, or is dropped: then nothing is learned.
#[derive(Debug)]
pub struct Try<'d> {
    failures: &'d Failures,
    hashes: &'d Hashes,
    now: u32,
    /// None of a trusted one.
    network: Option<Hash>,
    /// What was typed.
    login: Hash,
    /// Whose it is, when the directory has said so and it differs.
    account: Option<Hash>,
    /// Counted among an account's tries.
    is_counted: bool,
}

impl Failures {
    pub(super) fn new(settings: &Settings) -> Self {
        let tables = (
            Table::new(NETWORKS).into(),
            Table::new(ACCOUNTS).into(),
            Table::new(KNOWN).into(),
        );
        Self::of(tables, settings)
    }

    /// The same counts with other limits.
    pub(super) fn with(&self, settings: &Settings) -> Self {
        let Self {
            networks,
            accounts,
            known,
            ..
        } = self;
        let tables = (networks.clone(), accounts.clone(), known.clone());
        Self::of(tables, settings)
    }

    fn of((networks, accounts, known): Tables, settings: &Settings) -> Self {
        let limit = |most| Limit::new(most, settings.failure_window);
        Self {
            networks,
            accounts,
            known,
            network: limit(settings.max_failures_per_network),
            account: limit(settings.max_failures_per_account),
            delay: settings.failure_delay,
            max_delay: settings.max_failure_delay,
            remember: u32::try_from(settings.remember.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// What all tables take when they are full, in octets.
    #[cfg(test)]
    pub(super) fn memory() -> usize {
        let known = KNOWN * Table::<Known>::ROW_BYTES;
        NETWORKS * Table::<Level>::ROW_BYTES + ACCOUNTS * Table::<Account>::ROW_BYTES + known
    }

    pub(super) fn begin<'d>(
        &'d self,
        hashes: &'d Hashes,
        now: u32,
        network: Option<Hash>,
        login: &str,
    ) -> Result<Try<'d>, Held> {
        let mut begun = Try {
            failures: self,
            hashes,
            now,
            network,
            login: hashes.name(login),
            account: None,
            is_counted: false,
        };
        let Some(network) = network else {
            return Ok(begun);
        };
        if let Some(known) = self.known(now, hashes.known(network, begun.login)) {
            return known.map(|()| begun);
        }
        if self.is_full(network, now) {
            return Err(Held::Network);
        }
        let limit = self.account;
        let may = self.accounts.row(begun.login, now, |account| {
            let may = !limit.is_reached(account.failed, f32::from(account.trying), now);
            account.trying = account.trying.saturating_add(u16::from(may));
            may
        });
        if may == Some(false) {
            return Err(Held::Account);
        }
        begun.is_counted = true;
        Ok(begun)
    }

    fn is_full(&self, network: Hash, now: u32) -> bool {
        let limit = self.network;
        let full = |level: &mut Level| limit.is_reached(*level, 0.0, now);
        self.networks.peek(network, full).unwrap_or(false)
    }

    /// Whether the account is known in the network, and if so, whether it may try there.
    fn known(&self, now: u32, known: Hash) -> Option<Result<(), Held>> {
        let limit = self.account;
        let look = |known: &mut Known| {
            let is_fresh = now.saturating_sub(known.seen) <= self.remember;
            is_fresh.then(|| limit.is_reached(known.failed, 0.0, now))
        };
        let is_full = self.known.peek(known, look).flatten()?;
        Some(if is_full { Err(Held::Account) } else { Ok(()) })
    }

    /// Whether this very password was wrong for the account a while ago; it is from now on.
    fn is_repeated(&self, account: Hash, password: u32, now: u32) -> bool {
        let look = |account: &mut Account| {
            if account.recent.contains(&password) {
                return true;
            }
            let next = usize::from(account.next) % RECENT;
            if let Some(place) = account.recent.get_mut(next) {
                *place = password;
            }
            account.next = account.next.wrapping_add(1);
            false
        };
        self.accounts.row(account, now, look).unwrap_or(false)
    }

    /// The first failure's time, doubled with each that was counted before.
    fn delay(&self, before: f32) -> Duration {
        let doubled = self.delay.mul_f32(before.clamp(0.0, 16.0).floor().exp2());
        doubled.min(self.max_delay).max(self.delay)
    }
}

// === impl Try ===

impl Try<'_> {
    /// Whose login it is: another spelling of a name has the counts of its account.
    pub fn is_of(&mut self, account: &str) {
        let account = self.hashes.name(account);
        self.account = (account != self.login).then_some(account);
    }

    /// Whether it would be held if it came now: the account was spelled otherwise, or others have failed meanwhile. Whoever
    /// has guessed its password must not see it.
    pub fn is_too_late(&self) -> bool {
        let (failures, now) = (self.failures, self.now);
        let Some(network) = self.network else {
            return false;
        };
        let known = |name| failures.known(now, self.hashes.known(network, name));
        if let Some(known) = self.names().find_map(known) {
            return known.is_err();
        }
        let limit = failures.account;
        let full = |account: &mut Account| limit.is_reached(account.failed, 0.0, now);
        let is_full = |name| failures.accounts.peek(name, full).unwrap_or(false);
        failures.is_full(network, now) || self.names().any(is_full)
    }

    /// The password was wrong.
    pub fn failed(self, password: &Secret) -> Failed {
        let (failures, now) = (self.failures, self.now);
        let Some(network) = self.network else {
            let after = failures.delay;
            return Failed {
                after,
                is_repeated: false,
            };
        };
        let mut is_repeated = false;
        for account in self.names() {
            let password = self.hashes.password(account, password);
            is_repeated |= failures.is_repeated(account, password, now);
        }
        // What is typed shows in the delay, and not whose it is: that would tell who is there.
        let mut before = 0.0_f32;
        let here = if is_repeated { REPEATED } else { 1.0 };
        failures.networks.row(network, now, |level| {
            before = before.max(failures.network.drained(*level, now));
            failures.network.add(level, here, now);
        });
        for account in self.names() {
            let known = self.hashes.known(network, account);
            let limit = failures.account;
            let everywhere = f32::from(u8::from(!is_repeated));
            failures.accounts.row(account, now, |row| {
                if account == self.login {
                    before = before.max(limit.drained(row.failed, now));
                }
                limit.add(&mut row.failed, everywhere, now);
            });
            // The network's count does not hold it.
            failures
                .known
                .peek(known, |known| limit.add(&mut known.failed, here, now));
        }
        let after = failures.delay(before);
        Failed { after, is_repeated }
    }

    /// The password was right, and the account may log in.
    pub fn succeeded(self) {
        let Some(network) = self.network else {
            return;
        };
        for account in self.names() {
            let known = self.hashes.known(network, account);
            let now = self.now;
            self.failures
                .known
                .row(known, now, |known| known.seen = now);
        }
    }

    fn names(&self) -> impl Iterator<Item = Hash> + use<> {
        std::iter::once(self.login).chain(self.account)
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            let end = |account: &mut Account| account.trying = account.trying.saturating_sub(1);
            self.failures.accounts.peek(self.login, end);
        }
    }
}

// === impl Limit ===

impl Limit {
    fn new(most: u32, window: Duration) -> Self {
        let most = f32::from(u16::try_from(most).unwrap_or(u16::MAX));
        let drain = most / window.as_secs_f32().max(1.0);
        Self { most, drain }
    }

    fn drained(self, level: Level, now: u32) -> f32 {
        let passed = Duration::from_secs(now.saturating_sub(level.at).into());
        (level.count - passed.as_secs_f32() * self.drain).max(0.0)
    }

    /// Whether one more would be too many.
    fn is_reached(self, level: Level, more: f32, now: u32) -> bool {
        self.most > 0.0 && self.drained(level, now) + more > self.most - 1.0
    }

    fn add(self, level: &mut Level, count: f32, now: u32) {
        // A slow try must not turn its clock back.
        let now = now.max(level.at);
        let count = self.drained(*level, now) + count;
        *level = Level {
            count: count.min(self.most.max(1.0) * FULL),
            at: now,
        };
    }
}

// === impl Row ===

// What weighs is the count as it was: who was counted long ago weighs less by his own drain, which a table need not know.
impl Row for Level {
    fn weight(&self, now: u32) -> f32 {
        weight(self.count, self.at, now)
    }
}

impl Row for Account {
    fn weight(&self, now: u32) -> f32 {
        // Whoever is being tried must be found again at the end.
        weight(self.failed.count, self.failed.at, now) + f32::from(self.trying)
    }
}

impl Row for Known {
    fn weight(&self, now: u32) -> f32 {
        let age = Duration::from_secs(now.saturating_sub(self.seen).into());
        1.0 / (1.0 + age.as_secs_f32())
    }
}

/// Halved with each quarter of an hour.
fn weight(count: f32, at: u32, now: u32) -> f32 {
    let age = Duration::from_secs(now.saturating_sub(at).into());
    count / (age.as_secs_f32() / 900.0).exp2()
}
