//! A command's side of the status page: asks a process for its figures, over the front's Unix socket or over TCP.
//!
//! HTTP as in `client`: one request, one answer, with a length. Limits: 5 seconds of silence, 4 MiB of answer. On failure a
//! [`StatusError`], which says in one line what to look at.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::FIGURES;
use crate::admin::client::read;

const SILENCE: Duration = Duration::from_secs(5);
/// A table of a thousand nodes fits.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// Where a process answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// Over HTTP for monitors.
    Tcp(SocketAddr),
    /// On the front's socket.
    Unix(PathBuf),
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// It could not be asked, or broke off.
    #[error("cannot ask at {place}: does the process run, and may you ask it?")]
    Failed {
        /// Where.
        place: Place,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something else answers there, or another version.
    #[error("what answers at {0} does not tell its status")]
    Stranger(Place),
}

/// The figures of the process that answers there: what its status page shows.
///
/// # Errors
///
/// When it does not say.
pub fn figures_at(place: &Place) -> Result<Value, StatusError> {
    let answer = get(place).map_err(|source| StatusError::Failed {
        place: place.clone(),
        source,
    })?;
    let stranger = || StatusError::Stranger(place.clone());
    let (status, text) = read(&answer).ok_or_else(stranger)?;
    let figures: Value = serde_json::from_str(text).map_err(|_| stranger())?;
    if status != 200 || !figures.is_object() {
        return Err(stranger());
    }
    Ok(figures)
}

/// All that comes back.
fn get(place: &Place) -> io::Result<Vec<u8>> {
    let (domain, address) = match place {
        Place::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        Place::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let mut socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_write_timeout(Some(SILENCE))?;
    socket.set_read_timeout(Some(SILENCE))?;
    match place {
        Place::Tcp(_) => socket.connect_timeout(&address, SILENCE)?,
        // A process that hangs may have its backlog full; the write timeout counts for this.
        Place::Unix(_) => socket.connect(&address)?,
    }
    let request = format!("GET {FIGURES} HTTP/1.1\r\nHost: status\r\n\r\n");
    let mut answer = Vec::new();
    let done = socket
        .write_all(request.as_bytes())
        .and_then(|()| socket.take(MAX_ANSWER_BYTES).read_to_end(&mut answer));
    match done {
        Ok(_) => Ok(answer),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
        }
        Err(error) => Err(error),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
