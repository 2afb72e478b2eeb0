//! The other proxies, each with the settings that somebody who knows it well would choose for this machine.

use super::{processes::Program, way::Way, world::World};

/// The peers, running, in the order of the tables.
pub(crate) struct Peers {
    programs: Vec<Program>,
    /// HAProxy, nginx, Dovecot's proxy, perdition.
    pub(crate) ways: Vec<Way>,
}

impl Peers {
    /// Starts them and waits until they serve.
    pub(crate) fn start(world: &World) -> Self {
        let _ = world;
        todo!()
    }
}
