//! The sockets that a process listens on: bound before it gives up what that may need.
//!
//! A Unix socket is bound as the user that the process becomes: its file is that user's from the start, in a folder
//! where that user may make it. TCP is bound with all rights.
//!
//! A socket that the service manager has opened (`LISTEN_FDS`) is taken in place of one that is bound; one for which
//! there is no listener is an error.
//!
//! Each worker gets a TCP socket of its own, and a Unix socket is shared.

use std::{
    io,
    net::SocketAddr,
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
}

impl<'a> Sockets<'a> {
    /// Of a process that becomes this user.
    pub(super) fn of(user: Option<&'a User>) -> Result<Self, AppError> {
        let inherited = Inherited::from_environment().map_err(AppError::Inherited)?;
        Ok(Self { user, inherited })
    }

    pub(super) fn tcp(
        &mut self,
        address: SocketAddr,
        patience: Patience,
        workers: usize,
    ) -> Result<Tcp, AppError> {
        let passed = self.inherited.take(address, patience, workers);
        let sockets = passed.and_then(|passed| match passed {
            Some(sockets) => Ok(sockets),
            None => net::listen(address, patience, workers),
        });
        let sockets = sockets.map_err(|source| AppError::Bind {
            address: address.to_string(),
            source,
        })?;
        Ok(Tcp { sockets, address })
    }

    pub(super) fn unix(&mut self, path: &Path, mode: u32) -> Result<Unix, AppError> {
        let passed = self.inherited.take_unix(path);
        let socket = passed.and_then(|passed| match (passed, self.user) {
            (Some(socket), _) => Ok(socket),
            (None, Some(user)) => user.act(|| net::listen_unix(path, mode))?,
            (None, None) => net::listen_unix(path, mode),
        });
        let socket = socket.map_err(|source| AppError::Bind {
            address: path.display().to_string(),
            source,
        })?;
        let path = path.to_owned();
        Ok(Unix { socket, path })
    }

    /// All listeners have their sockets.
    pub(super) fn finish(self) -> Result<(), AppError> {
        match self.inherited.left() {
            Some(address) => Err(AppError::Unwanted(address)),
            None => Ok(()),
        }
    }
}

/// A bound TCP address, with a socket for each worker.
pub(super) struct Tcp {
    sockets: Vec<std::net::TcpListener>,
    pub(super) address: SocketAddr,
}

impl Tcp {
    /// Hands the next socket to the runtime that is entered; each has one.
    pub(super) fn listen(&mut self) -> Result<TcpListener, AppError> {
        let socket = self.sockets.pop();
        let socket = socket.ok_or_else(|| io::Error::other("more workers than sockets"));
        socket
            .and_then(TcpListener::from_std)
            .map_err(AppError::Runtime)
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
