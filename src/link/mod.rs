//! Dialling and admitting links: the two halves of `proto::link` on sockets.
//!
//! [`Dialer`] is the front's: it connects, proves, opens, and keeps a few links per node made ahead. [`Admitter`] is
//! the node's: it takes an accepted connection through the handshake until `open` is read. Both add what the protocol
//! lacks: nonces, deadlines, quotas, TLS 1.3 with throw-away certificates, counters.
//!
//! ```text
//! Dialer:   pool (ready) or connect -> [TLS] -> hello -> preface, prove, proven -> open -> verdict -> Opened
//! Gate:     who may connect -> a place -> Admitter -> whoever serves it
//! Admitter: quota -> [TLS] -> hello, preface, prove -> proven -> wait for open -> Admitted -> verdict (by the caller)
//! ```
//!
//! How each node does, `health` knows, and a prober finds out: what is down is not dialled for anybody.
//!
//! Exactly the link's records are read, never an octet more: what follows belongs to client and real server. Neither
//! half decides what a link is for or which node is whose home; who may connect to a listener at all, [`Gate`] knows. Nothing
//! here logs a peer's octets.
//!
//! On failure: [`LinkError`] says whose fault it is and what to check; [`AdmitError`] is for counter and log, the peer
//! is closed without a word. Limits: every wait has a deadline, a link that died in the pool is replaced once.

mod admitter;
mod begun;
mod connect;
mod dial;
mod dialer;
mod error;
mod gate;
mod health;
mod pool;
mod prober;
#[cfg(test)]
mod tests;
mod tls;
mod unproven;
mod wire;

use std::time::Duration;

pub use self::{
    admitter::{AdmitError, Admitted, Admitter},
    dialer::{Dialer, Opened},
    error::{LinkError, Mismatch, NotProven, Step},
    gate::{Gate, GateParts, GateSettings, Listener},
    health::{NodeHealth, NodeState, Outage},
    prober::Accounts,
    tls::SetupError,
};
pub use crate::proto::link::node::NodeKey;

use crate::names::NodeName;

/// What a front dials with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DialSettings {
    /// Until TCP is connected; default 3 s.
    pub connect_timeout: Duration,
    /// From connected (TLS included) to proven; default 5 s.
    pub prove_timeout: Duration,
    /// From `open` to the verdict; default 15 s.
    pub verdict_timeout: Duration,
    /// Links made ahead, per node and worker; default 2; 0 dials each at its login.
    pub ready: usize,
    /// When a node is down, and how that is found out.
    pub health: HealthSettings,
}

/// When a node is down, and how that is found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HealthSettings {
    /// So many failures in a row; default 3.
    pub down_after: u32,
    /// How often each node is probed while it is up; default 10 s; none: only while it is down.
    pub probe_every: Option<Duration>,
    /// Whether a node is down for logins when its probe login fails; default yes.
    pub probe_login_counts: bool,
    /// For how long a node that is up again does not get all at once; default 10 s, 0 for not at all.
    pub slow_start: Duration,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            down_after: 3,
            probe_every: Some(Duration::from_secs(10)),
            probe_login_counts: true,
            slow_start: Duration::from_secs(10),
        }
    }
}

impl Default for DialSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            prove_timeout: Duration::from_secs(5),
            verdict_timeout: Duration::from_secs(15),
            ready: 2,
            health: HealthSettings::default(),
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
    /// Unproven peers at one time, at most half of them from one address or IPv6 prefix of 64 bits; default 256.
    pub max_unproven: usize,
    /// Until a peer is proven; default 5 s.
    pub prove_timeout: Duration,
    /// How long a proven peer may wait before it opens; announced in `hello`; default 60 s.
    pub idle_limit: Duration,
}
