//! What keeps one client from hurting the others: how many connections a network has, how many logins may fail.
//!
//! ```text
//! connection ─> admit ─> too many of its network? ─ yes ─> refused
//!                 └─ no ─> a guest ─> room for guests? ─ no ─> one of the largest network leaves
//! login ─> begin ─> known here? ─ yes ─> its own count ──────────────┐
//!             └─ no ─> the network's count, the account's count ─────┴─ too many? ─> held: "try later", unasked
//!             └─> directory ─> wrong, or nobody can say ─> failed: counted, and hardly if it is the same password again; answered later each time
//!                        ├───> right, but too late: others have failed meanwhile, or by another spelling ─> answered as wrong
//!                        └───> right ─> succeeded: this account is known in this network from now on
//! ```
//!
//! A *network* is an IPv4 address or an IPv6 prefix; trusted ones (webmail) are neither counted nor held. A *guest* is a
//! client that has not logged in. An account is *known* in networks from which its password was given: an attacker who
//! uses up an account's or a network's failures does not keep the owner's own devices out.
//!
//! Failures are counted in leaky buckets: a count of so many per window drains evenly, so nobody is ever locked out for
//! good, and a guesser gets no more than the limit and then one try each window/limit. Tries under way by a name that is not known
//! where they come from count as failures of that name until they end; whatever the name, what is known of failures is looked at once more
//! before anybody is let in, so a thousand at once are no way around it. What somebody typed and whom the directory knows by it are both counted: other spellings of a name are no other
//! account; but what is answered, and when, hangs on what was typed alone, so that nobody learns who is there.
//!
//! Limits: all tables have a fixed size and forget what is lightest (`table`): a million addresses cost no more memory than
//! some. Keys are hashes with a key of this process: nobody can choose what falls together. Counters are this process's
//! own: several fronts count each for itself. They stay when limits change. It knows no protocol, asks nobody and does not wait; nothing here fails.

mod crowd;
mod failures;
mod table;
#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::time::Instant;

pub use crowd::{Guest, Refused, Resident, SentAway};
pub use failures::{Failed, Held, Try};

use crate::{metrics::Metrics, net::Quiet, secret::Secret};
use crowd::{Crowd, Limits};
use failures::Failures;

/// What runs on this machine, as a webmail may, has its own defence: it is one client for all its users, so a count of its failures,
/// or of an account's there, would let one user lock out others. Whoever has a shell here is trusted as well.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// What is allowed. A limit of 0 is none.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Networks that are neither counted nor held; default loopback.
    pub trusted: Vec<IpNet>,
    /// Bits of an IPv6 address that make a network; default 64.
    pub ipv6_prefix: u8,
    /// Connections of one network at one time, logged in or not; default 1,000.
    pub max_connections_per_network: usize,
    /// Guests at one time; default 5,000.
    pub max_guests: usize,
    /// Guests of one network at one time; default 200.
    pub max_guests_per_network: usize,
    /// When the first failed login of a network is answered, counted from its arrival; default 2 s.
    pub failure_delay: Duration,
    /// When a failed login is answered at the latest, as the time doubles with each; default 15 s.
    pub max_failure_delay: Duration,
    /// Failed logins of one network in a window; default 60.
    pub max_failures_per_network: u32,
    /// Failed logins of one account in a window; default 30.
    pub max_failures_per_account: u32,
    /// The window; default 1 hour.
    pub failure_window: Duration,
    /// How long an account is known in a network after a login; default 30 days.
    pub remember: Duration,
    /// Resident memory of the process, in octets, from which on nobody is admitted; by default what the system allows.
    pub max_memory: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trusted: LOOPBACK.to_vec(),
            ipv6_prefix: 64,
            max_connections_per_network: 1000,
            max_guests: 5000,
            max_guests_per_network: 200,
            failure_delay: Duration::from_secs(2),
            max_failure_delay: Duration::from_secs(15),
            max_failures_per_network: 60,
            max_failures_per_account: 30,
            failure_window: Duration::from_secs(3600),
            remember: Duration::from_secs(30 * 86400),
            max_memory: None,
        }
    }
}

/// The counts of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct Defence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    hashes: Arc<Hashes>,
    crowd: Arc<Crowd>,
    limits: Limits,
    failures: Failures,
    quiet: Arc<Quiet>,
    metrics: Metrics,
    started: Instant,
}

/// A client's network, an account, or both, as a hash with a key of this process.
type Hash = NonZeroU64;

#[derive(Debug)]
struct Hashes(RandomState);

impl Defence {
    /// Nobody has done anything yet.
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            hashes: Arc::new(Hashes(RandomState::new())),
            crowd: Arc::new(Crowd::new(&metrics)),
            limits: Limits::new(&settings),
            failures: Failures::new(&settings),
            quiet: Arc::default(),
            metrics,
            started: Instant::now(),
            settings,
        }))
    }

    /// The same counts with other limits.
    #[must_use]
    pub fn with(&self, settings: Settings) -> Self {
        let inner = &*self.0;
        Self(Arc::new(Inner {
            hashes: Arc::clone(&inner.hashes),
            crowd: Arc::clone(&inner.crowd),
            limits: Limits::new(&settings),
            failures: inner.failures.with(&settings),
            quiet: Arc::clone(&inner.quiet),
            metrics: inner.metrics.clone(),
            started: inner.started,
            settings,
        }))
    }

    /// A connection of `client`.
    ///
    /// # Errors
    ///
    /// When there are too many of its network, or of guests that are all being logged in, or memory is short.
    pub fn admit(&self, client: IpAddr) -> Result<Guest, Refused> {
        let admitted = self.0.crowd.admit(self.network(client), &self.0.limits);
        if let Err(refused) = admitted {
            let reason = refused.as_str();
            let shed = &self.0.metrics.connections_shed;
            shed.with_label_values(&[reason]).inc();
            if self.0.quiet.is_news(client) {
                tracing::warn!(%client, reason, "too many connections, refusing some");
            }
        }
        admitted
    }

    /// Makes room for another connection: a guest leaves who is not just being logged in. False if there is none.
    pub fn make_room(&self) -> bool {
        self.0.crowd.make_room()
    }

    /// Whether memory is short: then nobody is admitted, and each time it is said, some of the guests leave.
    pub fn is_short_of_memory(&self, is_short: bool) {
        self.0.crowd.is_short_of_memory(is_short);
    }

    /// A login of `client` is to be tried, by a name that it typed.
    ///
    /// # Errors
    ///
    /// When it may not be tried now.
    pub fn begin(&self, client: IpAddr, login: &str) -> Result<Try<'_>, Held> {
        let inner = &*self.0;
        let network = self.network(client);
        let failures = &inner.failures;
        failures.begin(&inner.hashes, self.now(), network, login)
    }

    /// How long after its arrival a login that is held is answered.
    pub fn hold_delay(&self) -> Duration {
        self.0.settings.failure_delay
    }

    fn network(&self, client: IpAddr) -> Option<Hash> {
        let client = client.to_canonical();
        let settings = &self.0.settings;
        if settings.trusted.iter().any(|it| it.contains(&client)) {
            return None;
        }
        let octets = match client {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => {
                let host = u32::from(128 - settings.ipv6_prefix.min(128));
                address.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)
            }
        };
        Some(self.0.hashes.of(&("network", octets)))
    }

    /// Seconds since the start.
    fn now(&self) -> u32 {
        u32::try_from(self.0.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

impl Hashes {
    fn of(&self, what: &impl std::hash::Hash) -> Hash {
        Hash::new(self.0.hash_one(what)).unwrap_or(Hash::MIN)
    }

    /// Directories compare names without case and spaces, mostly.
    fn name(&self, name: &str) -> Hash {
        let letters = name.chars().filter(|letter| !letter.is_whitespace());
        let letters: String = letters.flat_map(char::to_lowercase).collect();
        self.of(&("name", letters))
    }

    fn known(&self, network: Hash, name: Hash) -> Hash {
        self.of(&("known", network, name))
    }

    /// Enough of a password to see that it is the same again, and far too little to find it.
    fn password(&self, name: Hash, password: &Secret) -> u32 {
        let hash = self.of(&("password", name, password.expose()));
        u32::try_from(hash.get() >> 32).unwrap_or(u32::MAX)
    }
}
