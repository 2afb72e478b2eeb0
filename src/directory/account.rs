//! Who an account is, and the words that sources have for what it may do.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Wrong;
use crate::names::{AccountName, Protocol};

/// How somebody comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Visit {
    /// What is spoken.
    pub protocol: Protocol,
    /// Where from.
    pub client: IpAddr,
}

/// How an account may be used; by default in any way.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Access {
    /// By these protocols alone; none: by all.
    pub protocols: Option<Vec<Protocol>>,
    /// From these networks alone; none: from all.
    pub networks: Option<Vec<IpNet>>,
}

impl Access {
    /// Why somebody who comes like this is refused.
    pub(super) fn check(&self, visit: Visit) -> Result<(), Wrong> {
        let is_allowed = |protocols: &Vec<Protocol>| protocols.contains(&visit.protocol);
        if !self.protocols.as_ref().is_none_or(is_allowed) {
            return Err(Wrong::Protocol);
        }
        let client = visit.client.to_canonical();
        let is_inside = |networks: &Vec<IpNet>| {
            let mut networks = networks.iter();
            networks.any(|network| network.contains(&client))
        };
        if !self.networks.as_ref().is_none_or(is_inside) {
            return Err(Wrong::Network);
        }
        Ok(())
    }

    /// Reads names of protocols, with blanks or commas between; `imaps` and `pop3s` mean `imap` and `pop3`, `*` and `all` mean
    /// all, others are somebody else's.
    pub(super) fn read_protocols<'v>(values: impl Iterator<Item = &'v str>) -> Vec<Protocol> {
        let mut protocols = Vec::new();
        for word in values.flat_map(words) {
            protocols.extend(match word.to_ascii_lowercase().as_str() {
                "imap" | "imaps" => &[Protocol::Imap][..],
                "pop3" | "pop3s" | "pop" => &[Protocol::Pop3],
                "*" | "all" => &[Protocol::Imap, Protocol::Pop3],
                _ => &[],
            });
        }
        protocols
    }

    /// Reads networks and addresses, with blanks or commas between; none if one of them is neither.
    pub(super) fn read_networks<'v>(values: impl Iterator<Item = &'v str>) -> Option<Vec<IpNet>> {
        let network = |word: &str| {
            let address = || word.parse::<IpAddr>().ok().map(IpNet::from);
            word.parse().ok().or_else(address)
        };
        values.flat_map(words).map(network).collect()
    }
}

fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split([',', ' ']).filter(|word| !word.is_empty())
}

/// What an account may do, for one kind of use.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Status {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
    /// Not now: the answer is "try again later".
    TryLater,
}

/// An account as the directory holds it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Account {
    /// The directory's own name of it.
    pub name: AccountName,
    /// The value of the home attribute: a node's name or host name.
    pub home_node: Option<String>,
    /// uid of its mailbox.
    pub uid: u32,
    /// gid of its mailbox.
    pub gid: u32,
    /// Home folder: absolute, or relative to the node's `home_root`.
    pub home: String,
    /// Quota in octets; none when the directory has none, or 0.
    pub quota: Option<u64>,
    /// Whether it may log in.
    pub login: Status,
    /// Whether mail for it is taken.
    pub delivery: Status,
    /// How and from where it may log in.
    pub access: Access,
}

/// Reads a status word of any schema that is known: whether the account may log in, and whether mail for it is taken. An
/// unknown word means that nobody can say.
pub(super) fn parse_status(word: &str) -> Option<(Status, Status)> {
    match word.to_ascii_lowercase().as_str() {
        "active" | "enabled" => Some((Status::Allowed, Status::Allowed)),
        // qmail-ldap: noaccess, nopop; Zimbra: locked.
        "noaccess" | "nopop" | "locked" => Some((Status::Refused, Status::Allowed)),
        // Zimbra, after too many wrong passwords.
        "lockout" => Some((Status::TryLater, Status::Allowed)),
        // Zimbra: pending; Sun's schema: inactive, hold.
        "pending" | "inactive" | "hold" => Some((Status::Refused, Status::TryLater)),
        "maintenance" => Some((Status::TryLater, Status::TryLater)),
        // Zimbra: closed.
        "deleted" | "disabled" | "closed" => Some((Status::Refused, Status::Refused)),
        _ => None,
    }
}

/// The words for people.
pub(super) const STATUS_WORDS: &str = "active, noaccess, nopop, locked, lockout, pending, inactive, hold, maintenance, disabled, closed or deleted";

/// Whether a home is one that a link can carry: some text without control characters.
pub(super) fn is_home(home: &str) -> bool {
    !home.is_empty() && home.len() <= MAX_HOME_BYTES && !home.chars().any(char::is_control)
}

/// The longest home, in octets: `PATH_MAX` would fit no link.
const MAX_HOME_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn access(protocols: Option<&str>, networks: Option<&str>) -> Access {
        Access {
            protocols: protocols.map(|text| Access::read_protocols([text].into_iter())),
            networks: networks.map(|text| Access::read_networks([text].into_iter()).unwrap()),
        }
    }

    #[test]
    fn protocols_and_networks_are_both_asked() {
        let check = |access: &Access, protocol, client: &str| {
            access.check(Visit {
                protocol,
                client: client.parse().unwrap(),
            })
        };
        let anything = Access::default();
        assert_eq!(check(&anything, Protocol::Pop3, "::1"), Ok(()));
        for words in ["imap", "IMAPS smtp", "sieve,imap"] {
            let imap = access(Some(words), None);
            assert_eq!(check(&imap, Protocol::Imap, "::1"), Ok(()), "{words}");
            let refused = Err(Wrong::Protocol);
            assert_eq!(check(&imap, Protocol::Pop3, "::1"), refused, "{words}");
        }
        for words in ["all", "*", "pop3s imap"] {
            let both = access(Some(words), None);
            assert_eq!(check(&both, Protocol::Pop3, "::1"), Ok(()), "{words}");
        }
        let none = access(Some("smtp"), None);
        assert_eq!(check(&none, Protocol::Imap, "::1"), Err(Wrong::Protocol));
        let office = access(None, Some("10.0.0.0/8, 2001:db8::1"));
        for inside in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
            assert_eq!(check(&office, Protocol::Imap, inside), Ok(()), "{inside}");
        }
        for outside in ["11.0.0.1", "2001:db8::2", "::1"] {
            let refused = Err(Wrong::Network);
            assert_eq!(
                check(&office, Protocol::Imap, outside),
                refused,
                "{outside}"
            );
        }
        for wrong in ["10.0.0.0/33", "office", "10.0.0.0/8,x"] {
            assert_eq!(Access::read_networks([wrong].into_iter()), None, "{wrong}");
        }
    }
}
