//! A way from the load to a real server: one proxy, with what stands behind it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::processes::Group;

/// Where a way listens, on an address of its own.
pub(crate) const IMAP: u16 = 10143;
pub(crate) const IMAPS: u16 = 10993;
pub(crate) const POP3: u16 = 10110;
pub(crate) const POP3S: u16 = 10995;

/// How the load reaches it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Channel {
    Plain,
    /// From the first octet, TLS 1.3, a full handshake each time.
    Tls,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    Imap,
    Pop3,
}

impl fmt::Display for Channel {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Plain => "plain",
            Self::Tls => "TLS",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Imap => "IMAP",
            Self::Pop3 => "POP3",
        })
    }
}

/// A running proxy, and the acceptors behind it.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) ip: Ipv4Addr,
    /// The processes of the proxy: those that are taken for its cost.
    pub(crate) proxy: Vec<Group>,
    /// The processes of the acceptors behind it; empty where none stands there.
    pub(crate) acceptors: Vec<Group>,
}

impl Way {
    pub(crate) fn address(&self, protocol: Protocol, channel: Channel) -> SocketAddr {
        let port = match (protocol, channel) {
            (Protocol::Imap, Channel::Plain) => IMAP,
            (Protocol::Imap, Channel::Tls) => IMAPS,
            (Protocol::Pop3, Channel::Plain) => POP3,
            (Protocol::Pop3, Channel::Tls) => POP3S,
        };
        SocketAddr::new(IpAddr::V4(self.ip), port)
    }
}
