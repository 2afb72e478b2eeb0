//! What the acceptor role is configured with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::{handover, link, relay};

/// The acceptor role.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where links arrive.
    pub listeners: Vec<Listener>,
    /// Networks that links may come from, checked before anything else; default loopback and private ranges.
    pub from: Vec<IpNet>,
    /// Who may connect to the Unix socket, by uid; default root and our own.
    pub peers: Vec<u32>,
    /// The handshake.
    pub admit: link::AdmitSettings,
    /// The real servers.
    pub handover: handover::Settings,
    /// The relay, for kinds that need one.
    pub relay: relay::Settings,
    /// How long a drain waits for sessions before it closes them; default 30 s.
    pub drain_timeout: Duration,
}

/// One listening socket for links.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listener {
    /// TCP, with TLS 1.3 or in plain.
    Tcp {
        /// Address and port.
        address: SocketAddr,
        /// Default on; off is for a private wire.
        tls: bool,
    },
    /// A Unix socket, made with mode 0666 (peers are checked by uid).
    Unix(PathBuf),
}
