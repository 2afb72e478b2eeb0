//! The mailStore-forward listener's role on a node: from an admitted link to mailboxes.

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    home::Bounds,
    metrics::Metrics,
    names::KeyId,
    net::Stream,
    proto::link::{MailContext, node::VerdictSeal},
    tasks::Tasks,
};

/// What the mailstore role is configured with.
#[derive(Clone, Debug)]
pub struct Settings {}

/// Why messages can't be stored as configured.
#[derive(Debug, thiserror::Error)]
pub enum StartError {}

/// What the mailstore role works with.
#[derive(Debug)]
pub struct Parts {
    /// How messages are stored.
    pub settings: Settings,
    /// What a front may ask for.
    pub bounds: Bounds,
    /// Counters.
    pub metrics: Metrics,
    /// Tasks.
    pub tasks: Tasks,
}

/// The mailstore role. Clones share everything.
#[derive(Clone, Debug)]
pub struct Mailstore {}

impl Mailstore {
    /// Puts the role together.
    ///
    /// # Errors
    ///
    /// When messages can't be stored as configured.
    pub fn new(_parts: Parts) -> Result<Self, StartError> {
        Ok(Self {})
    }

    /// One link that is opened for mail, from its verdict until its last message is done with; `permit` is its place.
    pub async fn serve(
        self,
        _stream: Stream,
        _context: MailContext,
        _key_id: KeyId,
        _seal: VerdictSeal,
        _permit: OwnedSemaphorePermit,
    ) {
    }
}
