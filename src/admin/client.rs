//! A command's side of the front's Unix socket: one request, one answer.
//!
//! HTTP by hand, since there is one server to understand and that is ours: it closes the connection after its answer,
//! which is never sent in chunks. (The HTTP library's own client needs an event loop, which a command has not.)
//!
//! Limits: 5 seconds of silence, 1 MiB of answer. On failure an [`AskError`], which says in one line what to look at.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::socket::{CACHED, Whom};
use crate::{names::Login, proto::lmtp::Address};

const SILENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Why the front did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It could not be asked, or broke off.
    #[error("cannot ask the front at {path}")]
    Failed {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It does not understand or does not want to.
    #[error("the front refuses: {0}")]
    Refused(String),
    /// What answers there is no front of this version.
    #[error("what answers at {0} is no front of this version")]
    Stranger(PathBuf),
}

/// What the front remembers of somebody: an object with a list for `login` and one for `address`.
///
/// # Errors
///
/// When it does not say.
pub fn cached(
    socket: &Path,
    login: Option<&Login>,
    address: Option<&Address>,
) -> Result<Value, AskError> {
    let whom = Whom {
        login: login.map(ToString::to_string),
        address: address.map(ToString::to_string),
    };
    let stranger = || AskError::Stranger(socket.to_owned());
    let request = serde_json::to_string(&whom).map_err(|_| stranger())?;
    let answer = post(socket, CACHED, &request).map_err(|source| AskError::Failed {
        path: socket.to_owned(),
        source,
    })?;
    let (status, text) = read(&answer).ok_or_else(stranger)?;
    if status != 200 {
        let words = text.trim_end().replace(char::is_control, " ");
        return Err(AskError::Refused(format!("{words} ({status})")));
    }
    serde_json::from_str(text).map_err(|_| stranger())
}

/// All that comes back.
fn post(socket: &Path, path: &str, body: &str) -> io::Result<Vec<u8>> {
    // A front that hangs may have its backlog full.
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.connect(&SockAddr::unix(socket)?)?;
    let mut stream = UnixStream::from(stream);
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: front\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let done = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer));
    match done {
        Ok(_) => Ok(answer),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
        }
        Err(error) => Err(error),
    }
}

/// Status and body of an answer.
pub(super) fn read(answer: &[u8]) -> Option<(u16, &str)> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.strip_prefix("HTTP/1.1 ")?.split(' ');
    let status = words.next()?.parse().ok()?;
    let is_whole = head.lines().any(|line| {
        let field = line.split_once(": ");
        field.is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("content-length") && value.parse() == Ok(body.len())
        })
    });
    is_whole.then_some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_is_read() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(read(good), Some((200, "{}")));
        for bad in [
            &b""[..],
            b"220 mx.example.org\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\n\r\n{}",
            b"HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\xff",
        ] {
            assert_eq!(read(bad), None, "{}", bad.escape_ascii());
        }
    }
}
