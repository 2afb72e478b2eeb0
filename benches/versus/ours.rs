//! PigeonAir: a front, and an acceptor for each node, per row of the tables.

use super::{processes::Program, way::Way, world::World};

/// A front and its acceptors, running.
pub(crate) struct Ours {
    programs: Vec<Program>,
    pub(crate) way: Way,
}
