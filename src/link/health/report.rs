//! How nodes do, for people: what status pages and commands show.
//!
//! Words and numbers alone; what they come from is the module above.

use std::time::Duration;

use jiff::Timestamp;

use super::Errand;
use crate::names::NodeName;

/// What a node that is down does not serve.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outage {
    /// It is not reached, or not proven.
    Everything,
    /// Its real server does not serve the prober's account.
    Logins,
}

/// Where a node is between up and down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodeState {
    /// It serves, as far as anybody knows.
    Up,
    /// It serves again, so many at one time.
    Rising,
    /// It is left alone.
    Down,
    /// It is down, and just being tried.
    Trying,
}

/// How one node does.
#[derive(Clone, Debug)]
pub struct NodeHealth {
    /// Which.
    pub name: NodeName,
    /// Where it is.
    pub state: NodeState,
    /// What it does not serve, if it is down.
    pub outage: Option<Outage>,
    /// Since when it has been up, or down.
    pub since: Timestamp,
    /// What failed last; of a node that is up, before it came back.
    pub last_error: Option<String>,
    /// How long its last probe took.
    pub last_probe: Option<Duration>,
}

impl Outage {
    /// The word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Logins => "logins",
        }
    }

    pub(super) fn concerns(self, errand: Errand) -> bool {
        self == Self::Everything || errand == Errand::Login
    }
}

impl NodeState {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Rising => "rising",
            Self::Down => "down",
            Self::Trying => "trying",
        }
    }
}
