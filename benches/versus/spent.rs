//! CPU time by box: the proxy, the acceptors behind it, the real servers.
//!
//! A server that an acceptor has started (the kind `exec`) is a real server, not a part of the acceptor; what it
//! takes to start it is shared between both: the acceptor's `fork` is the acceptor's, what the new process does is
//! the server's.

use std::time::Duration;

use super::{
    processes::{Group, Used},
    way::Way,
    world::Node,
};

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
        let groups = || {
            nodes
                .iter()
                .map(|node| node.group)
                .chain(way.acceptors.clone())
        };
        let used = || groups().map(Group::used).collect::<Vec<Used>>();
        std::thread::sleep(SETTLED);
        let before = used();
        let spent = Self::by(way, work);
        Self {
            // The acceptors themselves are no servers.
            servers: since(&used(), &before) - spent.acceptors,
            ..spent
        }
    }

    /// What work costs along a way.
    pub(crate) fn by(way: &Way, work: impl FnOnce()) -> Self {
        let proxy = || {
            way.proxy
                .iter()
                .map(|group| group.used())
                .collect::<Vec<Used>>()
        };
        let acceptors = || {
            let alone = way.acceptors.iter().map(|group| group.used_alone());
            alone.collect::<Vec<Used>>()
        };
        std::thread::sleep(SETTLED);
        let before = (proxy(), acceptors());
        work();
        std::thread::sleep(SETTLED);
        Self {
            proxy: since(&proxy(), &before.0),
            acceptors: since(&acceptors(), &before.1),
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

fn since(after: &[Used], before: &[Used]) -> f64 {
    let both = after.iter().zip(before);
    // Of nothing it is 0, which `sum` takes for -0.
    both.map(|(after, before)| after.since(before))
        .fold(0.0, |sum, seconds| sum + seconds)
}
