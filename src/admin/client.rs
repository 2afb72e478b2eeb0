//! A command's side of a process's Unix socket: one request, one answer.
//!
//! HTTP by hand, since there is one server to understand and that is ours: it closes the connection after its answer,
//! which is never sent in chunks. (The HTTP library's own client needs an event loop, which a command has not.)
//!
//! Limits: 30 seconds of silence, since the front may have to ask the directory, 65 for a reload; 1 MiB of answer, which is more
//! than a page of sessions. On failure an [`AskError`], which says in one line what to look at.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    reload::RELOAD,
    request::{Question, Whom},
};
use crate::{names::Login, proto::lmtp::Address};

const SILENCE: Duration = Duration::from_secs(30);
/// The server cuts it off before.
const RELOAD_SILENCE: Duration = Duration::from_secs(65);
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Why the process did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It could not be asked, or broke off.
    #[error("cannot ask the {process} at {path}")]
    Failed {
        /// Which.
        process: &'static str,
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It does not understand or does not want to.
    #[error("the {process} refuses: {words} ({status})")]
    Refused {
        /// Which.
        process: &'static str,
        /// The status of its answer, as in HTTP.
        status: u16,
        /// What it says.
        words: String,
    },
    /// What answers there is none of this version.
    #[error("what answers at {path} is no {process} of this version")]
    Stranger {
        /// What was expected.
        process: &'static str,
        /// Where.
        path: PathBuf,
    },
}

/// Whom a command asks.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'p> {
    /// What it is called.
    pub process: &'static str,
    /// Its socket.
    pub socket: &'p Path,
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
    ask(socket, &whom)
}

/// Asks the front, or has it do something: what it answers.
///
/// # Errors
///
/// When it cannot be asked, or does not want to.
pub fn ask<Q: Question>(socket: &Path, question: &Q) -> Result<Value, AskError> {
    let process = "front";
    let peer = Peer { process, socket };
    let request = serde_json::to_string(question).map_err(|_| peer.stranger())?;
    let (status, text) = peer.ask(Q::PATH, &request, SILENCE)?;
    if status != 200 {
        return Err(peer.refused(status, &text));
    }
    serde_json::from_str(&text).map_err(|_| peer.stranger())
}

/// Has a process read its configuration again: what it has taken; else a line for each problem.
///
/// # Errors
///
/// When it does not say.
pub fn reload(peer: Peer<'_>) -> Result<Result<Value, Vec<String>>, AskError> {
    let (status, text) = peer.ask(RELOAD, "", RELOAD_SILENCE)?;
    match status {
        200 => serde_json::from_str(&text)
            .map(Ok)
            .map_err(|_| peer.stranger()),
        422 => {
            let answer: Result<Problems, _> = serde_json::from_str(&text);
            let answer = answer.map_err(|_| peer.stranger())?;
            Ok(Err(answer.problems))
        }
        status => Err(peer.refused(status, &text)),
    }
}

/// What a reload that is not taken is answered with.
#[derive(Debug, Deserialize)]
struct Problems {
    problems: Vec<String>,
}

impl Peer<'_> {
    /// Status and body of its answer.
    fn ask(self, path: &str, body: &str, silence: Duration) -> Result<(u16, String), AskError> {
        let answer = post(self.socket, path, body, silence).map_err(|source| AskError::Failed {
            process: self.process,
            path: self.socket.to_owned(),
            source,
        })?;
        if answer.is_empty() {
            let words = "it broke off without an answer; its log may say more";
            return Err(AskError::Failed {
                process: self.process,
                path: self.socket.to_owned(),
                source: io::Error::new(io::ErrorKind::UnexpectedEof, words),
            });
        }
        let read = read(&answer).map(|(status, text)| (status, text.to_owned()));
        read.ok_or_else(|| self.stranger())
    }

    fn refused(self, status: u16, text: &str) -> AskError {
        AskError::Refused {
            process: self.process,
            status,
            words: text.trim_end().replace(char::is_control, " "),
        }
    }

    fn stranger(self) -> AskError {
        AskError::Stranger {
            process: self.process,
            path: self.socket.to_owned(),
        }
    }
}

/// All that comes back.
fn post(socket: &Path, path: &str, body: &str, silence: Duration) -> io::Result<Vec<u8>> {
    // A front that hangs may have its backlog full.
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    stream.set_write_timeout(Some(silence))?;
    stream.set_read_timeout(Some(silence))?;
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
