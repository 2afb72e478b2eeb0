//! The kind `dovecot-imap-master`: pass a socket to Dovecot, with all it needs to serve an account on it.
//!
//! ```text
//! Dovecot   VERSION imap-master 1 0      a process of its is listening: the socket is still ours until here
//! us        VERSION imap-master 1 0
//!           request line                 in one sendmsg, with the descriptor
//! Dovecot   +                            it has the socket;  -reason: it does not want it
//! ```
//!
//! Dovecot then becomes the user, writes the verdict to the socket itself, and answers the CAPABILITY command that was put
//! in front of the client's octets. It says `+` before it has set the session up: when it gives up after that, the front reads
//! the verdict, perhaps, and then the end of the stream or a BYE in place of the opening.
//!
//! This is an interface between processes of Dovecot's (it wakes sessions that hibernate), which Dovecot 2.4.3 closed to
//! others. Whoever can open the socket can be any user but root: it belongs to root, mode 0600.
//!
//! Limits: 8 KiB for Dovecot's two lines. On failure before the descriptor is sent, the socket is the caller's as before;
//! after that and without a clear `-`, nobody knows who has it, and [`MasterError::is_unclear`] says so.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use bytes::BytesMut;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
    time::{Instant, timeout_at},
};

use super::{Failed, Refused, plain::Plain, witness::Witness};
use crate::{
    net::{self, Stream},
    proto::{
        encode::{IMAP_MASTER_VERSION, ImapMaster},
        link::{CAPABILITY_TAG, Context},
        reply,
    },
};

/// The longest pair of lines that Dovecot may answer with.
const MAX_ANSWER_BYTES: usize = 8192;

/// Why Dovecot does not have the socket, or why nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// Its socket can't be connected to.
    #[error("cannot connect to imap-master")]
    Connect(#[source] io::Error),
    /// It speaks another version, or something else.
    #[error("imap-master speaks another protocol: {0}")]
    Protocol(String),
    /// It gave a reason.
    #[error("imap-master refuses the session: {0}")]
    Refused(String),
    /// The request could not be sent.
    #[error("cannot send to imap-master")]
    Send(#[source] io::Error),
    /// It was sent, and no clear answer came.
    #[error("imap-master gave no answer")]
    Unclear(#[source] io::Error),
}

impl MasterError {
    /// Whether Dovecot may have the socket nevertheless.
    pub const fn is_unclear(&self) -> bool {
        match self {
            Self::Unclear(_) => true,
            Self::Connect(_) | Self::Protocol(_) | Self::Refused(_) | Self::Send(_) => false,
        }
    }
}

/// What Dovecot is to know of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) context: &'a Context,
    /// The home folder, absolute.
    pub(super) home: &'a str,
    /// The verdict record.
    pub(super) output: &'a [u8],
}

/// What Dovecot has.
#[derive(Debug)]
pub(super) enum Passed {
    /// The link's socket.
    Link(Witness),
    /// One end of a pair, since a link under TLS can't be given away.
    Pair {
        /// The link.
        link: Stream,
        /// The other end.
        server: Stream,
    },
}

/// Passes the link to Dovecot, or the end of a pair in its place.
pub(super) async fn pass(
    link: Stream,
    socket: &Path,
    request: &Request<'_>,
    deadline: Instant,
) -> Result<Passed, Failed> {
    let master = match timeout_at(deadline, Master::connect(socket)).await {
        Ok(Ok(master)) => master,
        Ok(Err(error)) => return Err(Failed::new(link, error)),
        Err(_) => return Err(Failed::new(link, Refused::Timeout)),
    };
    let pass = async |socket: BorrowedFd<'_>| {
        let line = request
            .line(socket)
            .map_err(|errno| MasterError::Send(errno.into()))?;
        timeout_at(deadline, master.pass(&line, socket))
            .await
            .unwrap_or_else(|_| Err(MasterError::Unclear(io::ErrorKind::TimedOut.into())))
    };
    match link {
        Stream::Tcp(_) | Stream::Unix(_) => pass_link(Plain::take(link), pass).await,
        Stream::TlsClient(_) | Stream::TlsServer(_) => pass_pair(link, pass).await,
    }
}

async fn pass_link(
    link: io::Result<Plain>,
    pass: impl AsyncFnOnce(BorrowedFd<'_>) -> Result<(), MasterError>,
) -> Result<Passed, Failed> {
    let broken = |error| Failed::without_link(Refused::Link(error));
    // It has left the event loop: registered there, it would be woken by what is Dovecot's.
    let link = link.map_err(broken)?;
    let witness = link.witness().map_err(broken)?;
    match pass(link.as_fd()).await {
        Ok(()) => Ok(Passed::Link(witness)),
        Err(error) if error.is_unclear() => {
            link.shut_down();
            Err(Failed::without_link(error))
        }
        Err(error) => Err(match link.into_stream() {
            Ok(link) => Failed::new(link, error),
            Err(_) => Failed::without_link(error),
        }),
    }
}

async fn pass_pair(
    link: Stream,
    pass: impl AsyncFnOnce(BorrowedFd<'_>) -> Result<(), MasterError>,
) -> Result<Passed, Failed> {
    let pair = UnixStream::pair().and_then(|(ours, theirs)| Ok((ours, theirs.into_std()?)));
    let (ours, theirs) = match pair {
        Ok(pair) => pair,
        Err(error) => return Err(Failed::new(link, Refused::Server(error))),
    };
    match pass(theirs.as_fd()).await {
        Ok(()) => Ok(Passed::Pair {
            link,
            server: Stream::Unix(ours),
        }),
        // Whoever has the other end, the link is ours.
        Err(error) => Err(Failed::new(link, error)),
    }
}

/// Whether a process of Dovecot's listens: the test of this kind at start.
pub(super) async fn try_connect(socket: &Path) -> Result<(), Refused> {
    Master::connect(socket).await?;
    Ok(())
}

// === impl Request ===

impl Request<'_> {
    fn line(&self, socket: BorrowedFd<'_>) -> rustix::io::Result<Vec<u8>> {
        let stat = rustix::fs::fstat(socket)?;
        let context = self.context;
        let input = format!("{CAPABILITY_TAG} CAPABILITY\r\n");
        Ok(ImapMaster {
            account: &context.account,
            client: context.client,
            local: context.local,
            session: &context.session,
            created: jiff::Timestamp::now().as_second(),
            device: (
                rustix::fs::major(stat.st_dev),
                rustix::fs::minor(stat.st_dev),
            ),
            inode: stat.st_ino,
            uid: context.uid,
            gid: context.gid,
            home: self.home,
            output: self.output,
            input: input.as_bytes(),
        }
        .line())
    }
}

/// A connection on which Dovecot has said its version, and nothing else yet.
#[derive(Debug)]
pub(super) struct Master {
    stream: UnixStream,
    input: BytesMut,
}

impl Master {
    /// Connects, and waits until a process of Dovecot's is there.
    pub(super) async fn connect(socket: &Path) -> Result<Self, MasterError> {
        let stream = net::connect_unix(socket)
            .await
            .map_err(MasterError::Connect)?;
        let mut master = Self {
            stream,
            input: BytesMut::new(),
        };
        let version = master.line().await.map_err(MasterError::Connect)?;
        // Minor versions only add to what is understood.
        if !version.starts_with(IMAP_MASTER_VERSION.as_bytes()) {
            return Err(MasterError::Protocol(reply::shown(&version)));
        }
        Ok(master)
    }

    /// Sends the request with the socket, and waits for the answer. Cut off before it has ended, it is unclear who has
    /// the socket.
    pub(super) async fn pass(
        mut self,
        request: &[u8],
        socket: BorrowedFd<'_>,
    ) -> Result<(), MasterError> {
        let octets = [IMAP_MASTER_VERSION.as_bytes(), b"0\n", request].concat();
        let sent = self
            .stream
            .async_io(Interest::WRITABLE, || send(&self.stream, &octets, socket))
            .await
            .map_err(MasterError::Send)?;
        let rest = octets.get(sent..).unwrap_or_default();
        self.stream
            .write_all(rest)
            .await
            .map_err(MasterError::Unclear)?;
        let answer = self.line().await.map_err(MasterError::Unclear)?;
        match answer.split_first() {
            Some((b'+', _)) => Ok(()),
            Some((b'-', reason)) => Err(MasterError::Refused(reply::shown(reason))),
            Some(_) | None => Err(MasterError::Unclear(io::Error::other(reply::shown(
                &answer,
            )))),
        }
    }

    /// Reads one line, without its end.
    async fn line(&mut self) -> io::Result<BytesMut> {
        loop {
            if let Some(end) = self.input.iter().position(|octet| *octet == b'\n') {
                let mut line = self.input.split_to(end.saturating_add(1));
                line.truncate(end);
                return Ok(line);
            }
            if self.input.len() >= MAX_ANSWER_BYTES {
                return Err(io::Error::other("line is too long"));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// One sendmsg: the descriptor travels with the first octet.
fn send(stream: &UnixStream, octets: &[u8], socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket];
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let octets = [IoSlice::new(octets)];
    let sent = rustix::net::sendmsg(stream.as_fd(), &octets, &mut control, SendFlags::NOSIGNAL)?;
    Ok(sent)
}
