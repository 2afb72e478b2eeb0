//! A mail client that does what it is told, and as little besides as it can.

use std::net::SocketAddr;

use super::way::{Channel, Protocol};

/// A connection.
pub(crate) struct Client {}

impl Client {
    /// Connects, negotiates TLS and reads the greeting.
    pub(crate) fn connect(address: SocketAddr, protocol: Protocol, channel: Channel) -> Self {
        let _ = (address, protocol, channel);
        todo!()
    }
}
