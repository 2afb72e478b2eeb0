//! Dialling and admitting links. (stub: settings shared with configuration)

use std::time::Duration;

pub use crate::proto::link::node::NodeKey;

use crate::names::NodeName;

/// What a front dials with.
#[derive(Clone, Copy, Debug)]
pub struct DialSettings {
    /// Until TCP is connected; default 3 s.
    pub connect_timeout: Duration,
    /// From connected (TLS included) to proven; default 5 s.
    pub prove_timeout: Duration,
    /// From `open` to the verdict; default 15 s.
    pub verdict_timeout: Duration,
    /// Links proven ahead, per node; default 2; 0 proves each at its login.
    pub ready: usize,
}

impl Default for DialSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            prove_timeout: Duration::from_secs(5),
            verdict_timeout: Duration::from_secs(15),
            ready: 2,
        }
    }
}

/// What a node admits links with.
#[derive(Clone, Debug)]
pub struct AdmitSettings {
    /// This node's name.
    pub node: NodeName,
    /// The keys it knows.
    pub keys: Vec<NodeKey>,
    /// Unproven peers at one time; default 256.
    pub max_unproven: usize,
    /// Until a peer is proven; default 5 s.
    pub prove_timeout: Duration,
    /// How long a proven peer may wait before it opens; announced in `hello`; default 60 s.
    pub idle_limit: Duration,
}
