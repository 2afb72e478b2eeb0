//! Sockets and TLS: listening, accepting whatever the load, one stream type for every connection.
//!
//! It does not know a protocol: what to say to a client that cannot be served comes from the caller, as octets.
//!
//! Limits: accepted connections are counted against the caller's limit; at the process's descriptor limit a reserve
//! descriptor lets us say so and close, so that waiting clients are told instead of hanging. Dead peers are found by
//! TCP keepalive and TCP_USER_TIMEOUT ([`tune`]).

mod address;
mod connect;
mod inherited;
mod listen;
mod places;
mod quiet;
mod stream;
pub mod tls;

pub use address::Address;
pub use connect::{connect, connect_unix};
pub use inherited::Inherited;
pub use listen::{
    Accepted, accept_each, is_descriptor_limit, listen, listen_unix, raise_descriptor_limit, refuse,
};
pub use places::Places;
pub use quiet::Quiet;
pub use stream::{Plain, Stream};

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::TcpStream;

/// When a silent peer is taken for dead.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Silence before the kernel asks whether the peer is there.
    idle: Duration,
    /// Between such questions.
    interval: Duration,
    /// How long octets or questions may stay unacknowledged.
    unanswered: Duration,
}

/// For clients: a phone may sleep through a minute, not through five.
pub const CLIENT: Patience = Patience {
    idle: Duration::from_secs(300),
    interval: Duration::from_secs(60),
    unanswered: Duration::from_secs(300),
};

/// For links: longer than a switch takes to reboot, shorter than a user takes to give up.
pub const LINK: Patience = Patience {
    idle: Duration::from_secs(120),
    interval: Duration::from_secs(30),
    unanswered: Duration::from_secs(180),
};

/// Has a connection begin at one of our addresses.
///
/// # Errors
///
/// When the address is not ours.
pub(crate) fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    // A bound port is otherwise taken from every other connection of this source, wherever it leads to, and 28,000 would
    // be all.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Sets what every TCP connection of ours has: no Nagle delay, keepalive, and an end to unacknowledged octets. Accepted
/// ones have it from their listener.
///
/// # Errors
///
/// When the peer has reset the connection already.
pub fn tune(stream: &TcpStream, patience: Patience) -> io::Result<()> {
    tune_socket(&SockRef::from(stream), patience)
}

pub(crate) fn tune_socket(socket: &Socket, patience: Patience) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(patience.idle)
        .with_interval(patience.interval);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(patience.unanswered))
}
