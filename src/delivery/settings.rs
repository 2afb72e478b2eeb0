//! What the delivery role is told.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::{lmtp::Timeouts, proto::lmtp, spool};

/// Where MTAs connect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listener {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix {
        /// Its file.
        path: PathBuf,
        /// Who may connect: the file's mode; default 0666.
        mode: u32,
    },
}

/// The settings of the delivery role.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens: at least one.
    pub listeners: Vec<Listener>,
    /// Networks that MTAs may come from, over TCP; default loopback.
    pub from: Vec<IpNet>,
    /// Our name, and the limits of a message.
    pub lmtp: lmtp::Settings,
    /// How long an MTA may take. Its `answer` is not used.
    pub mta: Timeouts,
    /// How long a node may take, each time; default 30 seconds, 3 minutes, 4 minutes. Together below the 10 minutes that an
    /// MTA waits behind its dot, so that it hears how it ended.
    pub node: Timeouts,
    /// MTAs' connections at one time; default 256.
    pub max_connections: usize,
    /// Homes that one message is forwarded to at one time; default 16.
    pub homes_at_once: usize,
    /// Idle links kept for the next message, per node; default 8.
    pub kept_links: usize,
    /// How long one is kept; default 30 seconds. Below what a node waits for the next command.
    pub kept_for: Duration,
    /// Where messages for several homes wait.
    pub spool: spool::Settings,
    /// How long a drain waits for messages; default 30 seconds.
    pub drain_timeout: Duration,
}
