//! Connecting to a node: name resolution, every address in turn, source address, Unix sockets.
//!
//! All of it together has one limit; an address that does not answer gets an even share of what is left, so that a dead
//! first address of a name does not use up the time of a living second. No TLS and no link records here.
//!
//! On failure: the error of the last address tried, [`io::ErrorKind::TimedOut`] when the limit has passed.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream, UnixStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};

use crate::net::{self, Address, Stream};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Connects within `limit`, over TCP from `source` if there is one.
pub(super) async fn connect(
    address: &Address,
    source: Option<IpAddr>,
    limit: Duration,
) -> io::Result<Stream> {
    match address {
        Address::Unix(path) => Ok(Stream::Unix(
            timeout(limit, UnixStream::connect(path)).await??,
        )),
        Address::Tcp { host, port } => {
            let end = Instant::now() + limit;
            let found = timeout_at(end, lookup_host((host.as_str(), *port))).await??;
            let usable = found
                .filter(|to| source.is_none_or(|from| from.is_ipv4() == to.is_ipv4()))
                .take(MAX_ADDRESSES)
                .collect::<Vec<_>>();
            let socket = connect_any(&usable, source, end).await?;
            net::tune(&socket, net::LINK)?;
            Ok(Stream::Tcp(socket))
        }
    }
}

/// The one address that there is to dial, if none has to be looked up or chosen.
pub(super) fn sole(address: &Address, source: Option<IpAddr>) -> Option<SocketAddr> {
    let Address::Tcp { host, port } = address else {
        return None;
    };
    let to = SocketAddr::new(host.parse().ok()?, *port);
    source
        .is_none_or(|from| from.is_ipv4() == to.is_ipv4())
        .then_some(to)
}

async fn connect_any(
    addresses: &[SocketAddr],
    source: Option<IpAddr>,
    end: Instant,
) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        "the name has no address that can be dialled from the source address",
    );
    for (left, address) in (1..=addresses.len()).rev().zip(addresses) {
        let share =
            end.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        match timeout(share, connect_one(*address, source)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => failure = error,
            Err(elapsed) => failure = elapsed.into(),
        }
    }
    Err(failure)
}

async fn connect_one(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = source {
        net::bind_source(&SockRef::from(&socket), source)?;
    }
    socket.connect(address).await
}
