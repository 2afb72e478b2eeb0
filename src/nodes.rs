//! The table of nodes, and which of them is an account's home.
//! (stub)

use std::net::IpAddr;

use crate::{
    names::{KeyId, NodeName},
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
}

/// The nodes of a cluster, as configuration gives them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The table; names and host names are unique.
    pub nodes: Vec<Node>,
    /// The home of accounts without one; none: such accounts are refused for now.
    pub default: Option<NodeName>,
}
