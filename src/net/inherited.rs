//! Sockets that somebody else has opened and this process listens on: the service manager (`LISTEN_FDS`), so that it needs
//! no right to, or the process whose place it takes.
//!
//! Each belongs to the listener that has its address in the configuration: the same IP address and port, or the same
//! path; there may be several for one address. What nobody asks for is left. Of the service manager's, that is named: a process that
//! would listen there and never accept makes clients wait for nothing. Of a predecessor's, it is a listener that the
//! configuration no longer has, and closed.
//!
//! Backlog, mode and options that are set before `listen` are those of whoever opened it; keepalive and the like are set here.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use socket2::{SockAddr, Socket};

use super::{Patience, tune_socket};

/// The sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    place: Place,
    socket: Socket,
    from: Giver,
}

#[derive(Debug, Eq, PartialEq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Giver {
    Manager,
    Predecessor,
}

impl Inherited {
    /// Those that the service manager has passed; none, if it has none.
    ///
    /// # Errors
    ///
    /// When something was passed that is no TCP or Unix socket with an address.
    pub fn from_environment() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let count = passed.len();
        let take = |index| {
            if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
                return Passed::new(socket.into(), Giver::Manager);
            }
            let socket = passed.take_unix_listener(index)?;
            let socket = socket.ok_or(io::ErrorKind::InvalidInput)?;
            Passed::new(socket.into(), Giver::Manager)
        };
        let sockets = (0..count).map(take);
        sockets.collect::<io::Result<_>>().map(Self)
    }

    /// Adds one of the process whose place this one takes.
    ///
    /// # Errors
    ///
    /// When it is no TCP or Unix socket that listens at an address.
    pub fn add(&mut self, socket: OwnedFd) -> io::Result<()> {
        let passed = Passed::new(socket.into(), Giver::Predecessor)?;
        if !passed.socket.is_listener()? {
            return Err(does_not_listen());
        }
        self.0.push(passed);
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sockets of this address, in the order in which they came; none, if nobody listened there.
    ///
    /// # Errors
    ///
    /// When one can't be used as a listener of ours.
    pub fn take(
        &mut self,
        address: SocketAddr,
        patience: Patience,
    ) -> io::Result<Vec<TcpListener>> {
        let sockets = self.remove(&Place::Tcp(address)).into_iter().map(|socket| {
            let socket = usable(socket)?;
            tune_socket(&socket, patience)?;
            Ok(TcpListener::from(socket))
        });
        sockets.collect()
    }

    /// The same for a path, where there is one at most.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn take_unix(&mut self, path: &Path) -> io::Result<Option<UnixListener>> {
        let socket = self.remove(&Place::Unix(path.to_owned())).pop();
        socket
            .map(|socket| Ok(UnixListener::from(usable(socket)?)))
            .transpose()
    }

    /// The address of one that is left of the service manager's.
    pub fn left(&self) -> Option<String> {
        let left = self.0.iter().find(|passed| passed.from == Giver::Manager);
        left.map(|passed| passed.place.to_string())
    }

    /// The addresses of those that are left of a predecessor's.
    pub fn no_longer_wanted(&self) -> Vec<String> {
        let left = self
            .0
            .iter()
            .filter(|passed| passed.from == Giver::Predecessor);
        left.map(|passed| passed.place.to_string()).collect()
    }

    fn remove(&mut self, place: &Place) -> Vec<Socket> {
        let wanted = self.0.extract_if(.., |passed| passed.place == *place);
        wanted.map(|passed| passed.socket).collect()
    }
}

// === impl Passed ===

impl Passed {
    fn new(socket: Socket, from: Giver) -> io::Result<Self> {
        let place = place(&socket.local_addr()?).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            place,
            socket,
            from,
        })
    }
}

fn place(address: &SockAddr) -> Option<Place> {
    let path = address
        .as_pathname()
        .map(|path| Place::Unix(path.to_owned()));
    path.or_else(|| address.as_socket().map(Place::Tcp))
}

fn usable(socket: Socket) -> io::Result<Socket> {
    if !socket.is_listener()? {
        return Err(does_not_listen());
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn does_not_listen() -> io::Error {
    io::Error::other("the socket that was passed does not listen")
}

// === impl Place ===

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(socket: impl Into<Socket>, from: Giver) -> Passed {
        Passed::new(socket.into(), from).unwrap()
    }

    #[test]
    fn sockets_are_taken_by_their_address_once() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        let mut inherited = Inherited(vec![
            passed(socket.try_clone().unwrap(), Giver::Manager),
            passed(unix, Giver::Manager),
            passed(socket, Giver::Predecessor),
        ]);
        let other = SocketAddr::new(address.ip(), 1);
        let mut take = |address| inherited.take(address, super::super::CLIENT).unwrap();
        assert!(take(other).is_empty());
        let sockets = take(address);
        assert_eq!(sockets.len(), 2);
        assert!(take(address).is_empty());
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

    #[test]
    fn what_a_predecessor_listened_on_need_not_be_wanted() {
        let socket = TcpListener::bind("[::1]:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut inherited = Inherited::default();
        inherited.add(socket.into()).unwrap();
        assert_eq!(inherited.left(), None);
        assert_eq!(inherited.no_longer_wanted(), [address.to_string()]);
    }

    #[test]
    fn only_what_listens_at_an_address_is_a_listener() {
        let mut inherited = Inherited::default();
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for descriptor in [OwnedFd::from(one), client.into(), file.into()] {
            inherited.add(descriptor).unwrap_err();
        }
        assert!(inherited.is_empty());
    }
}
