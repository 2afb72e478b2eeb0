//! Idle links that the next message to the same node may use: no handshake for each message.
//!
//! ```text
//! a message is done ─put─> kept ─take─> the next message
//!                           ├─ kept for long enough ─> QUIT
//!                           └─ the process stops ────> QUIT, and nothing is kept any more
//! ```
//!
//! The one that was used last is taken first, so those that are not needed grow old. Nobody looks whether the node has closed
//! one meanwhile: whoever takes one must be ready to use a fresh one instead.
//!
//! Limits: so many for each node, so long. When it is full the link is closed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{lmtp::Transfer, names::NodeName};

/// How long to sleep with nothing to watch if nobody wakes us.
const FAR: Duration = Duration::from_secs(3600);

/// The kept links of all nodes.
#[derive(Debug)]
pub(super) struct Kept {
    per_node: usize,
    keep: Duration,
    links: Mutex<Links>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Links {
    by_node: HashMap<NodeName, Vec<Idle>>,
    is_closed: bool,
}

#[derive(Debug)]
struct Idle {
    transfer: Transfer,
    retires: Instant,
}

impl Kept {
    /// None yet.
    pub(super) fn new(per_node: usize, keep: Duration) -> Self {
        Self {
            per_node,
            keep,
            links: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link to `node` that was used last.
    pub(super) fn take(&self, node: &NodeName) -> Option<Transfer> {
        let now = Instant::now();
        let mut links = self.lock();
        let idle = links.by_node.get_mut(node)?.pop()?;
        // One whose time has come is closed; those below it are older.
        (idle.retires > now).then_some(idle.transfer)
    }

    /// Keeps a link if there is room; else it is closed.
    pub(super) async fn put(&self, node: &NodeName, transfer: Transfer) {
        if let Some(transfer) = self.keep_or_return(node, transfer) {
            transfer.quit().await;
        }
    }

    fn keep_or_return(&self, node: &NodeName, transfer: Transfer) -> Option<Transfer> {
        let mut links = self.lock();
        if links.is_closed {
            return Some(transfer);
        }
        let idle = links.by_node.entry(node.clone()).or_default();
        if idle.len() >= self.per_node {
            return Some(transfer);
        }
        let retires = Instant::now() + self.keep;
        idle.push(Idle { transfer, retires });
        self.changed.notify_one();
        None
    }

    /// Drops the links to a node of which one has died: so have the others, most probably.
    pub(super) fn forget(&self, node: &NodeName) {
        self.lock().by_node.remove(node);
    }

    /// Closes links whose time has come, until `stopped`; then all of them.
    pub(super) async fn watch(&self, stopped: impl Future<Output = ()>) {
        tokio::pin!(stopped);
        loop {
            let (old, next) = self.old();
            for transfer in old {
                transfer.quit().await;
            }
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.changed.notified() => {}
                () = &mut stopped => break,
            }
        }
        let links = {
            let mut links = self.lock();
            links.is_closed = true;
            std::mem::take(&mut links.by_node)
        };
        for idle in links.into_values().flatten() {
            idle.transfer.quit().await;
        }
    }

    /// The links whose time has come, and when the next one's comes.
    fn old(&self) -> (Vec<Transfer>, Instant) {
        let now = Instant::now();
        let (mut old, mut next) = (Vec::new(), now + FAR);
        for idle in self.lock().by_node.values_mut() {
            // Those in front were put there first.
            let count = idle.partition_point(|link| link.retires <= now);
            old.extend(idle.drain(..count).map(|link| link.transfer));
            if let Some(first) = idle.first() {
                next = next.min(first.retires);
            }
        }
        (old, next)
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().by_node.values().map(Vec::len).sum()
    }
}
