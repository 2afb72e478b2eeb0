//! Sockets that the service manager has opened for this process (`LISTEN_FDS`), so that it needs no right to.
//!
//! Each belongs to the listener that has its address in the configuration: the same IP address and port, or the same
//! path. What nobody asks for is left, and named: a process that would listen there and never accept makes clients
//! wait for nothing.
//!
//! Several workers share a TCP socket by duplicates of it, and its one queue: each connection wakes them all, where
//! sockets of their own would wake one. Backlog, mode and options that are set before `listen` are the manager's;
//! keepalive and the like are set here.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use socket2::Socket;

use super::{Patience, tune_socket};

/// The sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Passed>);

#[derive(Debug)]
enum Passed {
    Tcp(SocketAddr, TcpListener),
    Unix(PathBuf, UnixListener),
}

impl Inherited {
    /// Those of this process; none, if it was started without.
    ///
    /// # Errors
    ///
    /// When something was passed that is no listening TCP or Unix socket with an address.
    pub fn from_environment() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let count = passed.len();
        let take = |index| {
            if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
                return Ok(Passed::Tcp(socket.local_addr()?, socket));
            }
            let socket = passed.take_unix_listener(index)?;
            let socket = socket.ok_or(io::ErrorKind::InvalidInput)?;
            let address = socket.local_addr()?;
            let path = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
            Ok(Passed::Unix(path.to_owned(), socket))
        };
        let sockets = (0..count).map(take);
        sockets.collect::<io::Result<_>>().map(Self)
    }

    /// The socket of this address, once for each worker, as [`listen`](super::listen()) would give them.
    ///
    /// # Errors
    ///
    /// When it can't be used as a listener of ours.
    pub fn take(
        &mut self,
        address: SocketAddr,
        patience: Patience,
        workers: usize,
    ) -> io::Result<Option<Vec<TcpListener>>> {
        let is_wanted =
            |passed: &Passed| matches!(passed, Passed::Tcp(found, _) if *found == address);
        let Some(Passed::Tcp(_, socket)) = self.remove(is_wanted) else {
            return Ok(None);
        };
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            return Err(io::Error::other(
                "the socket that was passed does not listen",
            ));
        }
        socket.set_nonblocking(true)?;
        tune_socket(&socket, patience)?;
        let socket = TcpListener::from(socket);
        let sockets = (0..workers.max(1)).map(|_| socket.try_clone());
        sockets.collect::<io::Result<_>>().map(Some)
    }

    /// The same for a path.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn take_unix(&mut self, path: &Path) -> io::Result<Option<UnixListener>> {
        let is_wanted = |passed: &Passed| matches!(passed, Passed::Unix(found, _) if found == path);
        let Some(Passed::Unix(_, socket)) = self.remove(is_wanted) else {
            return Ok(None);
        };
        socket.set_nonblocking(true)?;
        Ok(Some(socket))
    }

    /// The address of one that is left.
    pub fn left(&self) -> Option<String> {
        self.0.first().map(|passed| match passed {
            Passed::Tcp(address, _) => address.to_string(),
            Passed::Unix(path, _) => path.display().to_string(),
        })
    }

    fn remove(&mut self, is_wanted: impl Fn(&Passed) -> bool) -> Option<Passed> {
        let position = self.0.iter().position(is_wanted)?;
        Some(self.0.swap_remove(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_by_its_address_once_and_shared_by_workers() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        let mut inherited = Inherited(vec![
            Passed::Tcp(address, socket),
            Passed::Unix(path.clone(), unix),
        ]);
        let other = SocketAddr::new(address.ip(), 1);
        let mut take = |address| inherited.take(address, super::super::CLIENT, 2).unwrap();
        assert!(take(other).is_none());
        let sockets = take(address).unwrap();
        assert_eq!(sockets.len(), 2);
        assert!(take(address).is_none());
        let _client = std::net::TcpStream::connect(address).unwrap();
        // Either may have it, and it has what our own listeners give.
        let (accepted, _) = sockets[1].accept().unwrap();
        assert!(socket2::SockRef::from(&accepted).keepalive().unwrap());
        let nobody = sockets[0].accept().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);

        assert_eq!(inherited.left(), Some(path.display().to_string()));
        assert!(inherited.take_unix(&path).unwrap().is_some());
        assert_eq!(inherited.left(), None);
    }
}
