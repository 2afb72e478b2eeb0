//! The table of nodes, and which of them is an account's home.
//!
//! The home attribute may hold a node's name or one of its host names, without regard to case; a trailing dot of a host
//! name does not count. Only nodes of the table are ever dialled: a value that is not in it is a refusal, never an
//! address. An account without the attribute lives on the default node, if there is one.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    directory::Account,
    names::{KeyId, Login, NodeName},
    net::Address,
    secret::Key,
};

/// A storage node, as a front knows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name: what the node itself says in `hello`.
    pub name: NodeName,
    /// Host names that a home attribute may hold instead of the name; compared without case.
    pub hosts: Vec<String>,
    /// Where its acceptor listens.
    pub address: Address,
    /// The local address to dial from, if not the system's choice.
    pub source: Option<IpAddr>,
    /// Which key proves us to it.
    pub key_id: KeyId,
    /// That key.
    pub key: Key,
    /// TLS under the link; default on. Never on a Unix socket.
    pub tls: bool,
    /// Whom the prober logs in as, to see whether the real server serves.
    pub probe_login: Option<Login>,
}

impl Node {
    /// Whether this is the same node, reached and proven in the same way.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.address == other.address
            && self.source == other.source
            && self.key_id == other.key_id
            && self.key.is_same(&other.key)
            && self.tls == other.tls
    }
}

/// The nodes of a cluster, as configuration gives them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The table; names and host names are unique.
    pub nodes: Vec<Node>,
    /// The home of accounts without one; none: such accounts are refused for now.
    pub default: Option<NodeName>,
}

/// The nodes of a cluster. Clones share the table.
#[derive(Clone, Debug)]
pub struct Nodes {
    by_word: Arc<HashMap<String, Arc<Node>>>,
    default: Option<Arc<Node>>,
}

/// Why an account has no home that we can reach.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoHome {
    /// Its entry names none, and there is no default node.
    #[error("entry names no home node and [nodes] default is not set")]
    Missing,
    /// Its entry names a node that is not in the table.
    #[error("home node \"{0}\" is not in [nodes]")]
    Unknown(String),
}

impl Nodes {
    /// Builds the table.
    pub fn new(settings: &Settings) -> Self {
        let mut by_word = HashMap::new();
        for node in &settings.nodes {
            let shared = Arc::new(node.clone());
            for word in node
                .hosts
                .iter()
                .map(String::as_str)
                .chain([node.name.as_str()])
            {
                by_word.insert(normal(word), Arc::clone(&shared));
            }
        }
        let default = settings
            .default
            .as_ref()
            .and_then(|name| by_word.get(name.as_str()).cloned());
        Self {
            by_word: Arc::new(by_word),
            default,
        }
    }

    /// The names of all, in order.
    pub fn names(&self) -> BTreeSet<NodeName> {
        self.by_word
            .values()
            .map(|node| node.name.clone())
            .collect()
    }

    /// The node where an account's mailbox is.
    ///
    /// # Errors
    ///
    /// When there is none: the account cannot be served until directory or table change.
    pub fn home(&self, account: &Account) -> Result<Arc<Node>, NoHome> {
        self.meant_by(account.home_node.as_deref())
    }

    /// The node that the value of a home attribute means, or that there is no value.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn meant_by(&self, word: Option<&str>) -> Result<Arc<Node>, NoHome> {
        match word {
            Some(word) => self
                .by_word
                .get(&normal(word))
                .cloned()
                .ok_or_else(|| NoHome::Unknown(word.escape_debug().take(160).collect())),
            None => self.default.clone().ok_or(NoHome::Missing),
        }
    }
}

fn normal(word: &str) -> String {
    word.strip_suffix('.').unwrap_or(word).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        directory::{Access, Status},
        names::AccountName,
    };

    fn account(home_node: Option<&str>) -> Account {
        Account {
            name: AccountName::parse("ann").unwrap(),
            home_node: home_node.map(str::to_owned),
            uid: 1000,
            gid: 1000,
            home: "ann".to_owned(),
            quota: None,
            login: Status::Allowed,
            delivery: Status::Allowed,
            access: Access::default(),
        }
    }

    fn nodes(default: Option<&str>) -> Nodes {
        let node = |name: &str, host: &str| Node {
            name: NodeName::parse(name).unwrap(),
            hosts: vec![host.to_owned()],
            address: Address::parse("127.0.0.1:7143").unwrap(),
            source: None,
            key_id: KeyId::parse("k").unwrap(),
            key: Key::new([0; 32]),
            tls: true,
            probe_login: None,
        };
        Nodes::new(&Settings {
            nodes: vec![
                node("n1", "Mail1.example.org"),
                node("n2", "mail2.example.org"),
            ],
            default: default.map(|name| NodeName::parse(name).unwrap()),
        })
    }

    #[test]
    fn a_home_is_found_by_name_and_by_host_name() {
        for word in ["n1", "N1", "mail1.example.org", "MAIL1.EXAMPLE.ORG."] {
            assert_eq!(
                nodes(None)
                    .home(&account(Some(word)))
                    .unwrap()
                    .name
                    .as_str(),
                "n1"
            );
        }
    }

    #[test]
    fn nothing_outside_the_table_is_a_home() {
        for word in ["n3", "127.0.0.1", "127.0.0.1:7143", ""] {
            let expected = Err(NoHome::Unknown(word.to_owned()));
            assert_eq!(
                nodes(Some("n2"))
                    .home(&account(Some(word)))
                    .map(|node| node.name.clone()),
                expected
            );
        }
        assert_eq!(
            nodes(None)
                .home(&account(None))
                .map(|node| node.name.clone()),
            Err(NoHome::Missing)
        );
        assert_eq!(
            nodes(Some("n2"))
                .home(&account(None))
                .unwrap()
                .name
                .as_str(),
            "n2"
        );
    }
}
