//! Sockets and TLS: listening, accepting whatever the load, one stream type for every connection.
//!
//! It does not know a protocol: what to say to a client that cannot be served comes from the caller, as octets.
//!
//! Limits: accepted connections are counted against the caller's limit; at the process's descriptor limit a reserve
//! descriptor lets us say so and close, so that waiting clients are told instead of hanging. Dead peers are found by
//! TCP keepalive and TCP_USER_TIMEOUT ([`tune`]).

mod address;
mod listen;
mod stream;
pub mod tls;

pub use address::Address;
pub use listen::{Accepted, accept_each, listen, listen_unix, raise_descriptor_limit};
pub use stream::{Plain, Stream};

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence before the kernel asks whether the peer is alive.
const KEEPALIVE_TIME: Duration = Duration::from_secs(300);
/// Between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// How long octets or questions may stay unacknowledged: a phone may sleep through a minute, not through five.
const USER_TIMEOUT: Duration = Duration::from_secs(300);

/// Sets what every TCP connection of ours has: no Nagle delay, keepalive, and an end to unacknowledged octets.
///
/// # Errors
///
/// When the peer has reset the connection already.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}
