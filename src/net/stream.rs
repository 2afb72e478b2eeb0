//! One type for every connection of ours: to a client, over a link, to a real server.
//!
//! Reads and writes alike whatever lies below. Shutting down says that nothing more will be written: FIN on a plain
//! socket, close_notify and then FIN under TLS; reading goes on after it. Who makes a connection sets its socket
//! options (TCP_NODELAY, keepalive); nothing is set here.
//!
//! The relay asks a stream for its plain socket and splices when both ends have one. [`Plain`] waits for readiness and
//! runs a system call on the descriptor, so that the socket is never taken away from the event loop.
//!
//! Under TLS what was accepted for writing may still lie in this process: flush before waiting for an answer. A peer
//! that ends TCP without close_notify is seen by a reader as `UnexpectedEof`; what that means is the reader's to say.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{client, server};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS that we began.
    TlsClient(Box<client::TlsStream<TcpStream>>),
    /// TLS that the peer began.
    TlsServer(Box<server::TlsStream<TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
}

/// The socket of a stream that has nothing between it and the peer.
#[derive(Clone, Copy, Debug)]
pub enum Plain<'a> {
    /// Of [`Stream::Tcp`].
    Tcp(&'a TcpStream),
    /// Of [`Stream::Unix`].
    Unix(&'a UnixStream),
}

impl Stream {
    /// The plain socket, or nothing under TLS.
    pub fn plain(&self) -> Option<Plain<'_>> {
        match self {
            Self::Tcp(stream) => Some(Plain::Tcp(stream)),
            Self::Unix(stream) => Some(Plain::Unix(stream)),
            Self::TlsClient(_) | Self::TlsServer(_) => None,
        }
    }
}

impl Plain<'_> {
    /// Runs `call` once there may be something to read, and again after each `WouldBlock`, which must mean that the
    /// socket has run dry.
    ///
    /// # Errors
    ///
    /// What `call` returns, except `WouldBlock`.
    pub fn poll_read_with<T>(
        self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(match self {
                Self::Tcp(stream) => stream.poll_read_ready(cx),
                Self::Unix(stream) => stream.poll_read_ready(cx),
            })?;
            match self.try_io(Interest::READABLE, &mut call) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Runs `call` once there may be room to write, and again after each `WouldBlock`, which must mean that the socket
    /// is full.
    ///
    /// # Errors
    ///
    /// What `call` returns, except `WouldBlock`.
    pub fn poll_write_with<T>(
        self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(match self {
                Self::Tcp(stream) => stream.poll_write_ready(cx),
                Self::Unix(stream) => stream.poll_write_ready(cx),
            })?;
            match self.try_io(Interest::WRITABLE, &mut call) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn try_io<T>(
        self,
        interest: Interest,
        call: &mut impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, || call(stream.as_fd())),
            Self::Unix(stream) => stream.try_io(interest, || call(stream.as_fd())),
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::TlsClient($stream) => $call,
            Stream::TlsServer($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, octets))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
