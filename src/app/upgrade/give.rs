//! The predecessor's half: answers at the upgrade socket until another process serves in this one's place.
//!
//! Root and the process's own user are heard, nobody else. Whoever asks who is there is told so; one at a time is given the
//! sockets. Until it says that it serves, this process goes on as if nobody had asked, whatever becomes of it.
//!
//! Limits: 8 connections, 5 seconds for a question and for its answer, 10 minutes until the successor serves.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::IntGaugeVec;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{Notifier, Process},
    Program, WORD_TIMEOUT,
    record::{Record, RecordError, Records, Role, VERSION, Wants},
};
use crate::{names::Protocol, outcome::chain, tasks::Tasks};

const MAX_CONNECTIONS: usize = 8;
/// For this process to be where commands find it; less than the successor waits for an answer.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(3);
/// For all that a successor does until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause after an accept error, so that a lasting one does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const READ_OCTETS: usize = 1024;

/// What answers.
pub(super) struct Giver {
    role: Role,
    held: Mutex<Held>,
    sessions_open: IntGaugeVec,
    tasks: Tasks,
    notifier: Notifier,
    stands_aside: CancellationToken,
    connections: Arc<Semaphore>,
    /// For the one that is given the sockets.
    turn: Semaphore,
}

/// What is given.
#[derive(Default)]
struct Held {
    sockets: Vec<Arc<OwnedFd>>,
    lock: Option<Arc<OwnedFd>>,
}

/// Why a successor did not take over.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error("it ended or broke off")]
    Broken(#[from] io::Error),
    #[error("it says something unexpected")]
    Protocol(#[from] RecordError),
    #[error("it says something at the wrong time")]
    Unexpected,
    #[error("it did not answer in time")]
    TimedOut(#[from] tokio::time::error::Elapsed),
    #[error("this process is stopping")]
    Stopping,
    #[error("the service manager cannot be told of it")]
    Untold(#[source] io::Error),
}

impl GiveError {
    /// What the other process must know, lest it serve beside this one, or where nobody should any more.
    const fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::TimedOut(_) => Some("the start took too long"),
            Self::Stopping => Some("it is stopping"),
            Self::Untold(_) => Some("the service manager cannot be told of another process"),
            _ => None,
        }
    }
}

/// A conversation.
struct Talk {
    stream: UnixStream,
    records: Records,
}

impl Giver {
    pub(super) fn new(
        role: Role,
        sockets: Vec<OwnedFd>,
        lock: Option<OwnedFd>,
        process: &Process,
    ) -> Self {
        Self {
            role,
            held: Mutex::new(Held {
                sockets: sockets.into_iter().map(Arc::new).collect(),
                lock: lock.map(Arc::new),
            }),
            sessions_open: process.metrics.sessions_open.clone(),
            tasks: process.tasks.clone(),
            stands_aside: process.stands_aside.clone(),
            notifier: process.notifier.clone(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            turn: Semaphore::new(1),
        }
    }

    /// Answers until another process does.
    pub(super) async fn serve(self: Arc<Self>, listener: UnixListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.tasks.retired() => return,
            };
            let Ok((stream, _)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                continue;
            };
            let giver = Arc::clone(&self);
            // Waited for at the end: a successor waits for its last word.
            self.tasks.spawn("upgrade", async move {
                giver.answer(stream).await;
                drop(permit);
            });
        }
    }

    async fn answer(&self, stream: UnixStream) {
        let Ok(peer) = stream.peer_cred() else { return };
        let (uid, pid) = (peer.uid(), peer.pid());
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            tracing::warn!(uid, pid, "whoever asks for the sockets may not have them");
            return;
        }
        let mut talk = Talk::new(stream);
        let asked = timeout(WORD_TIMEOUT, talk.next()).await;
        let Ok(Ok(Record::Ask {
            version,
            role,
            wants,
        })) = asked
        else {
            // Not one that could be told.
            return;
        };
        match (self.refusal(version, role, wants), wants) {
            (Some(why), _) => refuse(talk, why).await,
            (None, Wants::Sockets) => match self.turn.try_acquire() {
                Ok(_turn) => self.hand_over(talk, uid, pid).await,
                Err(_) => refuse(talk, "another process is taking over".to_owned()).await,
            },
            _ => {
                let _ = timeout(WORD_TIMEOUT, talk.say(&identity(), None)).await;
            }
        }
    }

    /// Why somebody does not get what it wants.
    fn refusal(&self, version: u8, role: Role, wants: Wants) -> Option<String> {
        if version != VERSION {
            return Some(format!(
                "this process ({}) speaks version {VERSION} of the upgrade, not {version}: a restart is needed once",
                env!("CARGO_PKG_VERSION")
            ));
        }
        if role != self.role {
            let (own, asked) = (self.role.as_str(), role.as_str());
            return Some(format!("this is a {own}, not a {asked}"));
        }
        if let Wants::Other(number) = wants {
            return Some(format!("unknown question {number}"));
        }
        None
    }

    async fn hand_over(&self, talk: Talk, uid: u32, pid: Option<i32>) {
        tracing::info!(uid, pid, "handing over to another process");
        match self.give(talk, pid).await {
            Ok(sessions) => tracing::info!(uid, pid, sessions, "replaced: accepting no more"),
            Err(error) => tracing::warn!(
                uid,
                pid,
                reason = chain(&error),
                "the other process has not taken over, going on"
            ),
        }
    }

    /// Gives the sockets, waits until the successor serves, and retires. How many sessions are left.
    async fn give(&self, mut talk: Talk, pid: Option<i32>) -> Result<u32, GiveError> {
        let given = tokio::select! {
            biased;
            () = self.tasks.leaving() => Err(GiveError::Stopping),
            given = self.give_all(&mut talk) => given,
        };
        // First, and by this process: the manager takes its end for the service's before, and hears nobody else.
        let told = given.and_then(|()| self.notifier.give_way(pid).map_err(GiveError::Untold));
        if let Err(error) = told {
            if let Some(why) = error.refusal() {
                refuse(talk, why.to_owned()).await;
            }
            return Err(error);
        }
        self.tasks.retire();
        // What the successor does not want is closed with these.
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Held::default();
        // Else a command that the successor hears first would find nobody here to tell.
        let _ = timeout(ASIDE_TIMEOUT, self.stands_aside.cancelled()).await;
        let sessions = sessions(&self.sessions_open);
        let yours = Record::Yours { sessions };
        // It serves, whether it hears this or not.
        let _ = timeout(WORD_TIMEOUT, talk.say(&yours, None)).await;
        Ok(sessions)
    }

    async fn give_all(&self, talk: &mut Talk) -> Result<(), GiveError> {
        let (sockets, lock) = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            (held.sockets.clone(), held.lock.clone())
        };
        let mut count = 0_u16;
        timeout(WORD_TIMEOUT, talk.say(&identity(), None)).await??;
        let sockets = sockets.iter().map(|socket| (Record::Socket, socket));
        for (record, descriptor) in sockets.chain(lock.iter().map(|lock| (Record::Lock, lock))) {
            timeout(WORD_TIMEOUT, talk.say(&record, Some(descriptor.as_fd()))).await??;
            count = count.saturating_add(1);
        }
        timeout(WORD_TIMEOUT, talk.say(&Record::All(count), None)).await??;
        match timeout(START_TIMEOUT, talk.next()).await?? {
            Record::Ready => Ok(()),
            _ => Err(GiveError::Unexpected),
        }
    }
}

async fn refuse(mut talk: Talk, why: String) {
    tracing::warn!(why, "the sockets are not handed over");
    let _ = timeout(WORD_TIMEOUT, talk.say(&Record::Refused(why), None)).await;
}

/// How many sessions there are, of all protocols.
pub(in crate::app) fn sessions(open: &IntGaugeVec) -> u32 {
    let open = [Protocol::Imap, Protocol::Pop3]
        .map(|protocol| open.with_label_values(&[protocol.as_str()]).get());
    u32::try_from(open.iter().sum::<i64>()).unwrap_or_default()
}

fn identity() -> Record {
    Record::Who {
        pid: std::process::id(),
        program: Program::own(),
    }
}

// === impl Talk ===

impl Talk {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            records: Records::default(),
        }
    }

    async fn next(&mut self) -> Result<Record, GiveError> {
        let mut octets = Vec::with_capacity(READ_OCTETS);
        loop {
            if let Some(record) = self.records.next()? {
                return Ok(record);
            }
            octets.clear();
            // Descriptors that are sent to us are closed by the kernel.
            if self.stream.read_buf(&mut octets).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.records.feed(&octets);
        }
    }

    /// The descriptor, if there is one, travels with the first octet.
    async fn say(&mut self, record: &Record, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let octets = record.encode();
        let sent = match descriptor {
            None => 0,
            Some(descriptor) => {
                let stream = &self.stream;
                let send = || send(stream, &octets, descriptor);
                stream.async_io(Interest::WRITABLE, send).await?
            }
        };
        let rest = octets.get(sent..).unwrap_or_default();
        self.stream.write_all(rest).await
    }
}

fn send(stream: &UnixStream, octets: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let octets = [IoSlice::new(octets)];
    Ok(sendmsg(stream, &octets, &mut control, SendFlags::NOSIGNAL)?)
}
