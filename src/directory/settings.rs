//! What a directory is configured with.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{LdapUri, Sessions};
use crate::{net::tls, secret::Secret};

/// A directory and its cache.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where accounts are.
    pub source: Source,
    /// How addresses are read.
    pub addresses: AddressSettings,
    /// The cache in front.
    pub cache: CacheSettings,
    /// How changes are followed.
    pub follow: FollowSettings,
}

/// How changes in the directory are followed.
#[derive(Clone, Copy, Debug)]
pub struct FollowSettings {
    /// By what means; default `auto`.
    pub by: Follow,
    /// How often LDAP servers are asked for what was modified, where they cannot tell by themselves; default 1 s.
    pub poll_every: Duration,
    /// What becomes of sessions whose account changed; by default they end at once.
    pub sessions: Sessions,
}

/// By what means changes are followed. An accounts file is looked at every second, unless they are not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Follow {
    /// By content synchronisation, by polling where a server has none.
    Auto,
    /// By content synchronisation alone (RFC 4533).
    Sync,
    /// By asking for what was modified since.
    Poll,
    /// Not at all.
    Off,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self {
            by: Follow::Auto,
            poll_every: Duration::from_secs(1),
            sessions: Sessions::End(Duration::ZERO),
        }
    }
}

/// What of an address is looked up. Domains are compared without regard to case.
#[derive(Clone, Debug)]
pub struct AddressSettings {
    /// Characters, each of which begins the detail of a local part; empty: there is no detail; default `+`.
    pub recipient_delimiter: String,
    /// The domains whose addresses are looked up; empty (the default): those of every domain.
    pub domains: Vec<String>,
    /// Other names of domains.
    pub domain_aliases: BTreeMap<String, String>,
    /// The domain of addresses that have none, and one of `domains`; none (the default): those are looked up as they are.
    pub default_domain: Option<String>,
}

impl Default for AddressSettings {
    fn default() -> Self {
        Self {
            recipient_delimiter: "+".to_owned(),
            domains: Vec::new(),
            domain_aliases: BTreeMap::new(),
            default_domain: None,
        }
    }
}

/// Where accounts are.
#[derive(Clone, Debug)]
pub enum Source {
    /// A TOML file (`[[account]]` tables), re-read when it changes.
    File(FileSettings),
    /// LDAP servers.
    Ldap(Box<LdapSettings>),
}

/// The accounts file.
#[derive(Clone, Debug)]
pub struct FileSettings {
    /// Its path; refused when others than owner and group may read it.
    pub path: PathBuf,
}

/// LDAP servers and how their entries are read.
#[derive(Clone, Debug)]
pub struct LdapSettings {
    /// The servers, which all have the same entries, in the order in which they are preferred; at least one.
    pub servers: Vec<LdapUri>,
    /// StartTLS on `ldap://` connections; default off.
    pub start_tls: bool,
    /// PEM file of the authorities that sign the servers' certificates; none: the system's bundle
    /// (`/etc/ssl/certs/ca-certificates.crt`).
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, for servers that want one (RFC 4513, 3.1.3).
    pub client: Option<tls::Files>,
    /// Who searches.
    pub service: ServiceAccount,
    /// Where entries are and what they look like.
    pub schema: SchemaSettings,
    /// Deadline of one whole lookup or authentication, in which everything (connect, search, bind) must fit, at however
    /// many servers; default 5 s.
    pub timeout: Duration,
    /// How long one server is waited for alone, before the next is asked besides; default 500 ms.
    pub hedge_after: Duration,
    /// Connections to each server for binding as users, so many binds at a time; default 8, at least 1.
    pub bind_connections: usize,
}

/// Who searches.
#[derive(Clone, Debug)]
pub enum ServiceAccount {
    /// Nobody in particular.
    Anonymous,
    /// Whom the client certificate or the Unix socket's peer credentials name: SASL EXTERNAL (RFC 4422, appendix A).
    External,
    /// A DN with a password.
    Simple {
        /// The DN.
        dn: String,
        /// Its password.
        password: Secret,
    },
}

/// Where entries are and what they look like.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemaSettings {
    /// Where searches start, one after the other until something is found; at least one.
    pub bases: Vec<String>,
    /// Search filters, likewise; each is tried at all bases before the next. `%u` is the whole login, `%n` the part before
    /// the last `@`, `%d` the part after it, each escaped; `%%` a percent sign.
    pub filters: Vec<String>,
    /// The same for an address that mail is for.
    pub delivery_filters: Vec<String>,
    /// How a password is verified.
    pub verify: Verify,
    /// Attribute names.
    pub attributes: Attributes,
    /// Octets of one unit of a quota that is a mere number; default 1.
    pub quota_unit: u64,
    /// uid of accounts whose entry has none; none: such entries are refused.
    pub default_uid: Option<u32>,
    /// The same for the gid.
    pub default_gid: Option<u32>,
    /// Home folder of accounts whose entry has none, with `%u`, `%n` and `%d` of the account's name; default `%u`.
    pub default_home: String,
}

/// How a password is verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verify {
    /// By binding as the entry found (the default): no hash ever leaves the LDAP server.
    Bind,
    /// Here, against `userPassword`, which the service account must be able to read.
    Hash,
}

/// Attribute names of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes {
    /// The account's name; default `uid`.
    pub name: String,
    /// The home node; default `mailHost`.
    pub home_node: String,
    /// default `uidNumber`
    pub uid: String,
    /// default `gidNumber`
    pub gid: String,
    /// Home folder; default `homeDirectory`.
    pub home: String,
    /// Quota, 0 for none; default `mailQuotaSize`.
    pub quota: String,
    /// A word that says what the account may do (any case); missing means active, an unknown one "try again later"; default
    /// `accountStatus`.
    pub status: String,
    /// default `userPassword`
    pub password: String,
    /// What changes with the password, where changes are followed; default `pwdChangedTime`.
    pub password_changed: String,
    /// Names of the protocols that the account may use, others being refused; none: all may be.
    pub protocols: Option<String>,
    /// The networks that it may log in from; none: from all.
    pub networks: Option<String>,
    /// A flag that refuses IMAP.
    pub no_imap: Option<String>,
    /// One that refuses POP3.
    pub no_pop3: Option<String>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            name: "uid".to_owned(),
            home_node: "mailHost".to_owned(),
            uid: "uidNumber".to_owned(),
            gid: "gidNumber".to_owned(),
            home: "homeDirectory".to_owned(),
            quota: "mailQuotaSize".to_owned(),
            status: "accountStatus".to_owned(),
            password: "userPassword".to_owned(),
            password_changed: "pwdChangedTime".to_owned(),
            protocols: None,
            networks: None,
            no_imap: None,
            no_pop3: None,
        }
    }
}

/// The cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheSettings {
    /// Accounts and successful authentications kept; default 100,000; 0 switches the cache off.
    pub entries: u64,
    /// How long an account is believed; default 30 s.
    pub ttl: Duration,
    /// How long "unknown user" is believed; default 5 s.
    pub negative_ttl: Duration,
    /// How much longer accounts, and passwords that were right, are believed while no server answers; default 1 h; 0: no
    /// longer.
    pub max_stale: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            entries: 100_000,
            ttl: Duration::from_secs(30),
            negative_ttl: Duration::from_secs(5),
            max_stale: Duration::from_secs(3600),
        }
    }
}
