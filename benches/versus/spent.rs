//! CPU time by box: the proxy, the acceptors behind it, the real servers.
//!
//! A server that an acceptor has started (the kind `exec`) is a real server, not a part of the acceptor; what it takes to
//! start it is shared between both: the acceptor's `fork` is the acceptor's, what the new process does is the server's.

use std::time::Duration;

use super::{way::Way, world::Node};

/// After the work, processes write their logs and wait for those that they started.
const SETTLED: Duration = Duration::from_millis(100);

/// CPU time in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) proxy: f64,
    pub(crate) acceptors: f64,
    /// Zero where nobody asked for it.
    pub(crate) servers: f64,
}

impl Spent {
    /// What work costs along a way, where that of the servers is of interest.
    pub(crate) fn with_servers(way: &Way, nodes: &[Node], work: impl FnOnce()) -> Self {
        let servers = || {
            let started = way
                .acceptors
                .iter()
                .map(|group| group.cpu() - group.own_cpu());
            started.sum::<f64>() + nodes.iter().map(|node| node.group.cpu()).sum::<f64>()
        };
        std::thread::sleep(SETTLED);
        let before = servers();
        let spent = Self::by(way, work);
        Self {
            servers: servers() - before,
            ..spent
        }
    }

    /// What work costs along a way.
    pub(crate) fn by(way: &Way, work: impl FnOnce()) -> Self {
        std::thread::sleep(SETTLED);
        let before = Self::until_now(way);
        work();
        std::thread::sleep(SETTLED);
        let after = Self::until_now(way);
        Self {
            proxy: after.proxy - before.proxy,
            acceptors: after.acceptors - before.acceptors,
            servers: 0.0,
        }
    }

    fn until_now(way: &Way) -> Self {
        Self {
            proxy: way.proxy.iter().map(|group| group.cpu()).sum(),
            acceptors: way.acceptors.iter().map(|group| group.own_cpu()).sum(),
            servers: 0.0,
        }
    }

    /// Proxy and acceptors.
    pub(crate) fn path(self) -> f64 {
        self.proxy + self.acceptors
    }

    pub(crate) fn all(self) -> f64 {
        self.path() + self.servers
    }
}
