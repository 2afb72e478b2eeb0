//! A link's socket outside the event loop, on its way to another process.
//!
//! Registered there it would be woken by what is another's. TLS can't leave: what belongs to it is in this process.

use std::{
    io,
    net::Shutdown,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use tokio::net::{TcpStream, UnixStream};

use super::witness::Witness;
use crate::net::Stream;

/// A socket, still non-blocking.
#[derive(Debug)]
pub(super) enum Plain {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

// === impl Plain ===

impl Plain {
    /// Takes it out of the event loop.
    pub(super) fn take(stream: Stream) -> io::Result<Self> {
        match stream {
            Stream::Tcp(socket) => socket.into_std().map(Self::Tcp),
            Stream::Unix(socket) => socket.into_std().map(Self::Unix),
            Stream::TlsClient(_) | Stream::TlsServer(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }

    /// Names the socket for good.
    pub(super) fn witness(&self) -> io::Result<Witness> {
        match self {
            Self::Tcp(socket) => Witness::tcp(socket),
            Self::Unix(socket) => Witness::unix(socket),
        }
    }

    /// Back into the event loop.
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(socket) => TcpStream::from_std(socket).map(Stream::Tcp),
            Self::Unix(socket) => UnixStream::from_std(socket).map(Stream::Unix),
        }
    }

    /// For a process that waits in its reads and writes.
    pub(super) fn into_blocking(self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(false).map(|()| socket.into()),
            Self::Unix(socket) => socket.set_nonblocking(false).map(|()| socket.into()),
        }
    }

    /// Ends the connection for everyone who has the socket.
    pub(super) fn shut_down(&self) {
        // What can't be shut down is not connected any more.
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}
