//! What the acceptor role is configured with.

use crate::{handover, relay};

/// The acceptor role.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The real servers.
    pub handover: handover::Settings,
    /// The relay, for kinds that need one.
    pub relay: relay::Settings,
}
