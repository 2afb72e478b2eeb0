//! A connection that was begun ahead of the login that will use it, and that nobody has waited for yet.
//!
//! ```text
//! begin ─> the kernel connects, the node says hello ─> hello() ─> into_stream()     a login takes it
//!                                                 └──> connected()                  the keeper proves it
//! ```
//!
//! While logins follow one another, each begins the connection that a later one takes. It is not known to the event loop
//! in between, so that neither its being connected nor the node's `hello` wakes anybody. Only for plain TCP: where `open` may
//! travel with the proof, proving ahead saves no round trip.
//!
//! Limits: a node has few places for peers that have not proven themselves, over all its fronts, so a front has [`LIMIT`] of
//! these per node, over all workers. One that nobody needs says the preface and closes, so that its node takes it for what it
//! is. On failure: what the system says; a node that closed is an error as well.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    net::{self, Stream},
    proto::link::record::{HEADER_BYTES, Kind, PREFACE, body_len},
};

/// Of one front at one node, until they are proven.
pub(super) const LIMIT: usize = 8;

/// A connection that was begun.
#[derive(Debug)]
pub(super) struct Begun {
    socket: TcpStream,
    place: OwnedSemaphorePermit,
}

impl Begun {
    /// Begins to connect; nothing if `places` has no room.
    pub(super) fn begin(
        to: SocketAddr,
        source: Option<IpAddr>,
        places: &Arc<Semaphore>,
    ) -> io::Result<Option<Self>> {
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            return Ok(None);
        };
        let socket = Socket::new(
            Domain::for_address(to),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        net::tune_socket(&socket, net::LINK)?;
        if let Some(source) = source {
            net::bind_source(&socket, source)?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(Some(Self {
            socket: socket.into(),
            place,
        }))
    }

    /// The node's `hello`, or nothing if it is not there yet. To be called until it is there.
    pub(super) fn hello(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut header = [0; HEADER_BYTES];
        match self.socket.peek(&mut header) {
            Ok(HEADER_BYTES) => {}
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(None),
            Err(error) => return Err(error),
        }
        let body = body_len(header, Kind::Hello)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut record = vec![0; HEADER_BYTES.saturating_add(body)];
        // It came in one piece, or the link is not worth the trouble.
        self.socket.read_exact(&mut record)?;
        Ok(Some(record))
    }

    /// Whether the node has said something.
    #[cfg(test)]
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.socket.peek(&mut [0]), Ok(1))
    }

    /// Closes it, as one that is not needed.
    pub(super) fn retire(mut self) {
        // With `hello` unread the node would see a reset, and the preface might not arrive.
        if let Ok(Some(_)) = self.hello() {
            // A new connection has room for it; if not, the node logs a peer that left.
            let _ = self.socket.write(&PREFACE);
        }
    }

    /// Gives it to the event loop; with its place, to be held until it is proven.
    pub(super) fn into_stream(self) -> io::Result<(Stream, OwnedSemaphorePermit)> {
        let stream = tokio::net::TcpStream::from_std(self.socket)?;
        Ok((Stream::Tcp(stream), self.place))
    }

    /// The same, once it is connected.
    pub(super) async fn connected(self) -> io::Result<(Stream, OwnedSemaphorePermit)> {
        let stream = tokio::net::TcpStream::from_std(self.socket)?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok((Stream::Tcp(stream), self.place)),
        }
    }
}
