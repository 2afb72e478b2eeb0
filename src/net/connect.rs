//! Connecting to a server beside us: TCP, or a Unix socket.
//!
//! There is no deadline here: the caller's covers more than connecting. On a Unix socket a full backlog is an error at
//! once, not a wait as with TCP: it is tried again for as long as that deadline lets it.
//!
//! Links to nodes are dialled elsewhere, address by address. On failure: what the system says.

use std::{io, path::Path, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    time::sleep,
};

use super::{Address, Stream};

/// Between two tries of a Unix socket whose backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(20);

/// Connects to a server.
///
/// # Errors
///
/// What the system says.
pub async fn connect(server: &Address) -> io::Result<Stream> {
    match server {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => connect_unix(path).await.map(Stream::Unix),
    }
}

/// Connects to a Unix socket.
///
/// # Errors
///
/// What the system says.
pub async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_PAUSE).await,
            connected => return connected,
        }
    }
}
