//! One probe of a node, from its beginning to what came of it. One that is broken off, as when another configuration is taken,
//! comes to nothing, and another is due at once.

use std::time::Duration;

use tokio::time::Instant;

use super::{super::error::LinkError, Health};
use crate::outcome::chain;

/// How a probe failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::link) enum ProbeError {
    /// The link.
    #[error("{}", chain(.0))]
    Link(LinkError),
    /// The session behind it.
    #[error("probe login: {0}")]
    Login(String),
    /// Who would have logged in is not known just now.
    #[error("no probe login: the directory does not say who that is")]
    Undecided,
}

/// A probe that is going on. If it is dropped before it has ended, another is due.
#[derive(Debug)]
pub(in crate::link) struct Attempt<'h> {
    health: &'h Health,
    has_ended: bool,
}

impl<'h> Attempt<'h> {
    pub(super) const fn of(health: &'h Health) -> Self {
        Self {
            health,
            has_ended: false,
        }
    }

    /// Notes how it ended.
    pub(in crate::link) fn ended(mut self, result: &Result<(), ProbeError>, took: Duration) {
        self.has_ended = true;
        self.health.probed(result, took);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = self.health.lock();
            state.is_trying = false;
            state.probe_at = Some(Instant::now());
            drop(state);
            self.health.probe_moved.notify_one();
        }
    }
}
