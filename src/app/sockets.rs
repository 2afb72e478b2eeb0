//! The sockets that a process listens on: bound before it gives up what that may need.
//!
//! A Unix socket is bound as the user that the process becomes: its file is that user's from the start, in a folder
//! where that user may make it. TCP is bound with all rights.
//!
//! A socket that somebody else has opened is taken in place of one that is bound: the service manager (`LISTEN_FDS`), or the
//! process whose place this one takes. One of the service manager's for which there is no listener is an error.
//!
//! Each worker gets a TCP socket of its own, and a Unix socket is shared. Where TCP sockets are taken, there may be more
//! or fewer than workers. None may be left, since connections wait in the queue of each: a worker then has several. Too
//! few are shared by duplicates: each connection wakes all who share, where sockets of their own would wake one.
//!
//! A process that another one may succeed holds a second descriptor of each.

use std::{
    fs, io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

use super::AppError;
use crate::{
    net::{self, Inherited, Patience},
    user::User,
};

/// What binds the sockets of a process.
pub(super) struct Sockets<'a> {
    user: Option<&'a User>,
    inherited: Inherited,
    /// A second descriptor of each, for a successor.
    held: Option<Vec<OwnedFd>>,
}

impl<'a> Sockets<'a> {
    /// Of a process that becomes this user.
    pub(super) fn of(user: Option<&'a User>) -> Result<Self, AppError> {
        let inherited = Inherited::from_environment().map_err(AppError::Inherited)?;
        Ok(Self {
            user,
            inherited,
            held: None,
        })
    }

    /// Those that were opened by others.
    pub(super) fn inherited(&mut self) -> &mut Inherited {
        &mut self.inherited
    }

    /// From now on, keeps what a successor will be given.
    pub(super) fn hold(&mut self) {
        self.held = Some(Vec::new());
    }

    /// How many descriptors of each socket there are.
    pub(super) const fn each(&self) -> usize {
        if self.held.is_some() { 2 } else { 1 }
    }

    pub(super) fn tcp(
        &mut self,
        address: SocketAddr,
        patience: Patience,
        workers: usize,
    ) -> Result<Tcp, AppError> {
        let passed = self.inherited.take(address, patience);
        let shares = passed.and_then(|passed| {
            let sockets = if passed.is_empty() {
                net::listen(address, patience, workers)?
            } else {
                passed
            };
            if let Some(held) = &mut self.held {
                for socket in &sockets {
                    held.push(socket.try_clone()?.into());
                }
            }
            share(sockets, workers)
        });
        let shares = shares.map_err(|source| AppError::Bind {
            address: address.to_string(),
            source,
        })?;
        Ok(Tcp { shares, address })
    }

    pub(super) fn unix(&mut self, path: &Path, mode: u32) -> Result<Unix, AppError> {
        let passed = self.inherited.take_unix(path);
        let socket = passed.and_then(|passed| {
            let socket = match (passed, self.user) {
                (Some(socket), _) => {
                    stays(path, mode);
                    socket
                }
                (None, Some(user)) => user.act(|| net::listen_unix(path, mode))??,
                (None, None) => net::listen_unix(path, mode)?,
            };
            if let Some(held) = &mut self.held {
                held.push(socket.try_clone()?.into());
            }
            Ok(socket)
        });
        let socket = socket.map_err(|source| AppError::Bind {
            address: path.display().to_string(),
            source,
        })?;
        let path = path.to_owned();
        Ok(Unix { socket, path })
    }

    /// All listeners have their sockets: what a successor will be given.
    pub(super) fn finish(self) -> Result<Vec<OwnedFd>, AppError> {
        if let Some(address) = self.inherited.left() {
            return Err(AppError::Unwanted(address));
        }
        for address in self.inherited.no_longer_wanted() {
            tracing::info!(address, "no longer listened on");
        }
        Ok(self.held.unwrap_or_default())
    }
}

/// Says that the mode of a socket that somebody else has bound is not the configuration's.
fn stays(path: &Path, mode: u32) {
    let now = fs::metadata(path).map(|file| file.permissions().mode() & 0o777);
    if let Ok(now) = now
        && now != mode
    {
        let path = path.display();
        tracing::info!(
            %path,
            mode = format!("{now:04o}"),
            configured = format!("{mode:04o}"),
            "the mode of the socket is that of whoever has bound it"
        );
    }
}

/// Divides sockets among so many workers, each with one at least and none left over.
fn share(
    sockets: Vec<std::net::TcpListener>,
    workers: usize,
) -> io::Result<Vec<Vec<std::net::TcpListener>>> {
    let workers = workers.max(1);
    let mut shares: Vec<Vec<_>> = Vec::new();
    shares.resize_with(workers, Vec::new);
    // Those that are still without one once all sockets are divided.
    let missing = workers.saturating_sub(sockets.len());
    let duplicates = sockets.iter().cycle().take(missing);
    let duplicates = duplicates.map(std::net::TcpListener::try_clone);
    let duplicates: Vec<_> = duplicates.collect::<io::Result<_>>()?;
    for (number, socket) in sockets.into_iter().chain(duplicates).enumerate() {
        if let Some(share) = shares.get_mut(number.checked_rem(workers).unwrap_or_default()) {
            share.push(socket);
        }
    }
    Ok(shares)
}

/// A bound TCP address, with a share of its sockets for each worker.
pub(super) struct Tcp {
    shares: Vec<Vec<std::net::TcpListener>>,
    pub(super) address: SocketAddr,
}

impl Tcp {
    /// Hands the next share to the runtime that is entered; each has one.
    pub(super) fn listen(&mut self) -> Result<Vec<TcpListener>, AppError> {
        let share = self.shares.pop();
        let share = share.ok_or_else(|| io::Error::other("more workers than sockets"));
        let share = share.and_then(|share| share.into_iter().map(TcpListener::from_std).collect());
        share.map_err(AppError::Runtime)
    }
}

/// A bound Unix socket.
pub(super) struct Unix {
    socket: std::os::unix::net::UnixListener,
    pub(super) path: PathBuf,
}

impl Unix {
    /// Hands it to the runtime that is entered; any number of them may share it.
    pub(super) fn listen(&self) -> Result<UnixListener, AppError> {
        let socket = self.socket.try_clone();
        socket
            .and_then(UnixListener::from_std)
            .map_err(AppError::Runtime)
    }
}

/// A bound socket of either kind.
pub(super) enum Socket {
    Tcp(Tcp),
    Unix(Unix),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(count: usize) -> Vec<std::net::TcpListener> {
        net::listen("127.0.0.1:0".parse().unwrap(), net::CLIENT, count).unwrap()
    }

    #[test]
    fn every_socket_has_a_worker_and_every_worker_a_socket() {
        for (there, workers, expected) in [
            (1, 1, &[1][..]),
            (3, 3, &[1, 1, 1]),
            (5, 2, &[3, 2]),
            (2, 5, &[1, 1, 1, 1, 1]),
            (1, 0, &[1]),
        ] {
            let sockets = sockets(there);
            let address = sockets[0].local_addr().unwrap();
            let shares = share(sockets, workers).unwrap();
            let lengths: Vec<usize> = shares.iter().map(Vec::len).collect();
            assert_eq!(lengths, expected, "{there} for {workers}");
            // Whichever queue the kernel puts a connection into, somebody looks there.
            for _ in 0..32 {
                let _client = std::net::TcpStream::connect(address).unwrap();
                let accepted = shares.iter().flatten().any(|it| it.accept().is_ok());
                assert!(accepted, "{there} for {workers}");
            }
        }
    }

    #[test]
    fn what_is_held_is_what_is_listened_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut sockets = Sockets::of(None).unwrap();
        sockets.hold();
        let address = "127.0.0.1:0".parse().unwrap();
        let _tcp = sockets.tcp(address, net::CLIENT, 3).unwrap();
        let _unix = sockets.unix(&dir.path().join("unix"), 0o600).unwrap();
        assert_eq!(sockets.finish().unwrap().len(), 4);
    }
}
