//! The successor's half: takes sockets, and later says that it serves.
//!
//! It runs before this process has a second thread or has become its user, and waits for each word of the predecessor
//! for five seconds. On failure: a [`TakeError`], and nothing has changed at the predecessor.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg,
    sockopt::socket_peercred,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    super::Notifier,
    Program, WORD_TIMEOUT,
    record::{Record, RecordError, Records, Role, VERSION, Wants},
};
use crate::{net, user::User};

/// More of them than ever come with one record.
const MAX_DESCRIPTORS: usize = 16;
const READ_OCTETS: usize = 4096;

/// Why a running process is not succeeded.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It broke off, or is not what it should be.
    #[error("the running process broke off")]
    Broken(#[source] io::Error),
    /// Nobody is there.
    #[error(
        "cannot ask the running process at {path}: does one run, and with this upgrade_socket?"
    )]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not all descriptors came.
    #[error("{missing} of the running process's sockets did not come")]
    Incomplete {
        /// How many.
        missing: usize,
    },
    /// There is no place to meet.
    #[error(
        "the configuration names no place to ask the running process at (expected [process] front_upgrade_socket or node_upgrade_socket)"
    )]
    NoSocket,
    /// It says something else than it should.
    #[error("the running process speaks another protocol")]
    Protocol(#[from] RecordError),
    /// Its words are in order, but not in this one.
    #[error("the running process says something unexpected")]
    Unexpected,
    /// It does not want to.
    #[error("the running process refuses: {0}")]
    Refused(String),
    /// Somebody else listens there.
    #[error(
        "what listens at {path} belongs to uid {uid}, not to root or to whom this process is or becomes"
    )]
    Stranger {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// What it passed is no listening socket.
    #[error("a socket of the running process cannot be listened on")]
    Useless(#[source] io::Error),
}

/// A predecessor that has given its sockets and waits.
pub(super) struct Taken {
    stream: UnixStream,
    pub(super) pid: u32,
    pub(super) program: Program,
    /// What makes `sessions_file` the predecessor's.
    pub(super) lock: Option<OwnedFd>,
}

/// A conversation.
struct Talk {
    stream: UnixStream,
    records: Records,
    descriptors: VecDeque<OwnedFd>,
}

/// Takes the sockets of the process that listens at `path`. `user` is whom it has become, and this process will.
pub(super) fn take(
    path: &Path,
    role: Role,
    user: Option<&User>,
) -> Result<(Taken, Vec<OwnedFd>), TakeError> {
    // Before there are so many more.
    net::raise_descriptor_limit();
    let mut talk = Talk::begin(path, user)?;
    talk.ask(role, Wants::Sockets)?;
    let Record::Who { pid, program } = talk.next()? else {
        return Err(TakeError::Unexpected);
    };
    let (mut sockets, mut lock) = (Vec::new(), None);
    // One more than can be counted: whoever says more has nothing to give.
    for _ in 0..=u16::MAX {
        match talk.next()? {
            Record::Socket => sockets.push(talk.descriptor()?),
            Record::Lock => lock = Some(talk.descriptor()?),
            Record::All(count) => {
                let got = sockets.len().saturating_add(usize::from(lock.is_some()));
                let missing = usize::from(count).saturating_sub(got);
                if missing > 0 {
                    return Err(TakeError::Incomplete { missing });
                }
                let taken = Taken {
                    stream: talk.stream,
                    pid,
                    program,
                    lock,
                };
                return Ok((taken, sockets));
            }
            _ => return Err(TakeError::Unexpected),
        }
    }
    Err(TakeError::Unexpected)
}

/// Process id and program of the process that listens at `path`.
pub(super) fn who(
    path: &Path,
    role: Role,
    user: Option<&User>,
) -> Result<(u32, Program), TakeError> {
    let mut talk = Talk::begin(path, user)?;
    talk.ask(role, Wants::Who)?;
    match talk.next()? {
        Record::Who { pid, program } => Ok((pid, program)),
        _ => Err(TakeError::Unexpected),
    }
}

// === impl Talk ===

impl Talk {
    fn begin(path: &Path, user: Option<&User>) -> Result<Self, TakeError> {
        let failed = |source| TakeError::Connect {
            path: path.to_owned(),
            source,
        };
        // Root without all of its rights is nobody to a socket of the user's.
        let stream = match user {
            Some(user) => user.act(|| connect(path)).and_then(|connected| connected),
            None => connect(path),
        };
        let stream = stream.map_err(failed)?;
        let uid = socket_peercred(&stream).map_err(|errno| failed(errno.into()))?;
        let uid = uid.uid.as_raw();
        let own = rustix::process::geteuid().as_raw();
        if uid != 0 && uid != own && user.is_none_or(|user| user.uid != uid) {
            return Err(TakeError::Stranger {
                path: path.to_owned(),
                uid,
            });
        }
        Ok(Self {
            stream,
            records: Records::default(),
            descriptors: VecDeque::new(),
        })
    }

    fn ask(&mut self, role: Role, wants: Wants) -> Result<(), TakeError> {
        let ask = Record::Ask {
            version: VERSION,
            role,
            wants,
        };
        self.stream
            .write_all(&ask.encode())
            .map_err(TakeError::Broken)
    }

    /// The next record that is no refusal.
    fn next(&mut self) -> Result<Record, TakeError> {
        loop {
            match self.records.next()? {
                Some(Record::Refused(why)) => return Err(TakeError::Refused(why)),
                Some(record) => return Ok(record),
                None => self.receive().map_err(TakeError::Broken)?,
            }
        }
    }

    /// The descriptor of the record that was read last: they come in the order of their records.
    fn descriptor(&mut self) -> Result<OwnedFd, TakeError> {
        let descriptor = self.descriptors.pop_front();
        descriptor.ok_or(TakeError::Incomplete { missing: 1 })
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut octets = [0; READ_OCTETS];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut octets)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(&self.stream, &mut parts, &mut control, flags) {
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            received => received?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other(
                "a descriptor was lost: is the limit on them (LimitNOFILE) too low?",
            ));
        }
        match octets.get(..received.bytes) {
            None | Some([]) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(octets) => {
                self.records.feed(octets);
                Ok(())
            }
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    // A process that hangs may have its backlog full.
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    stream.set_write_timeout(Some(WORD_TIMEOUT))?;
    stream.set_read_timeout(Some(WORD_TIMEOUT))?;
    stream.connect(&SockAddr::unix(path)?)?;
    Ok(stream.into())
}

// === impl Taken ===

impl Taken {
    /// This process serves, and speaks to the service manager once the predecessor accepts no more or is gone. An error: it goes on,
    /// or was told to stop.
    pub(super) async fn replace(self, notifier: &Notifier) -> Result<(), TakeError> {
        let pid = self.pid;
        match timeout(WORD_TIMEOUT, self.say_ready()).await {
            Ok(Ok(sessions)) => {
                tracing::info!(
                    pid,
                    sessions,
                    "took over: the process before this one has so many sessions to end"
                );
            }
            Ok(Err(error @ TakeError::Refused(_))) => return Err(error),
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    pid,
                    error,
                    "the process before this one has ended: serving alone"
                );
            }
            Err(_) => {
                tracing::error!(
                    pid,
                    "the process before this one does not answer and may still accept: stop it"
                );
            }
        }
        // Where it could not say so itself, who has started this process tells the manager.
        notifier.is_main();
        Ok(())
    }

    /// How many sessions the predecessor has.
    async fn say_ready(self) -> Result<u32, TakeError> {
        let broken = TakeError::Broken;
        self.stream.set_nonblocking(true).map_err(broken)?;
        let mut stream = tokio::net::UnixStream::from_std(self.stream).map_err(broken)?;
        let ready = Record::Ready.encode();
        // Whoever does not listen any more may have said why.
        let said = stream.write_all(&ready).await;
        let mut records = Records::default();
        let mut octets = Vec::with_capacity(READ_OCTETS);
        loop {
            match records.next()? {
                Some(Record::Yours { sessions }) => return Ok(sessions),
                Some(Record::Refused(why)) => return Err(TakeError::Refused(why)),
                Some(_) => return Err(TakeError::Unexpected),
                None => {}
            }
            octets.clear();
            if stream.read_buf(&mut octets).await.map_err(broken)? == 0 {
                let end = said.err().unwrap_or(io::ErrorKind::UnexpectedEof.into());
                return Err(broken(end));
            }
            records.feed(&octets);
        }
    }
}
