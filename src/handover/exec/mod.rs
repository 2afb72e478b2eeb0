//! The kind `exec`: start a server on the link's socket as the user, and leave the data path.
//!
//! For any server that serves one session on its standard input and output: Dovecot's `imap` and `pop3`, Courier's `imapd` and
//! `courierpop3d`, whatever inetd could start. Arguments and environment are
//! [templates](crate::proto::template). `spawner` starts it, `server` looks after it until it exits, `trial` tries
//! the command at start.
//!
//! ```text
//! plain link       verdict ──> spawn(socket) ──> Started, nothing of the socket is left here
//! link under TLS   pair ──> spawn(other end) ──> verdict ──> Started, to be relayed
//! ```
//!
//! A server may write its opening the moment it runs, so on a plain link the verdict must be there before it is started:
//! what the verdict announces is what the server will say, not that it runs. When it can't be started after that, the link
//! is closed, and the front reports what it does for a server that dies before its opening ("unavailable"): it says OK to
//! no client before the opening is complete, so nobody has been promised anything. Under TLS the server talks into a pair
//! that nobody reads yet; there the front hears of the failure in the verdict.
//!
//! It does not read from the link, nor keep a duplicate of its socket: the client sees the end when the server ends.
//! Limits: the caller's deadline for all of it. On failure before the verdict, the link is the caller's as before.

mod server;
mod spawner;
mod trial;

use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use tokio::{
    net::UnixStream,
    time::{Instant, timeout_at},
};

use self::{
    server::Counted,
    spawner::{Fresh, Order},
};
pub use self::{
    server::{Exit, Server},
    spawner::SpawnerError,
};
pub(super) use self::{spawner::Spawner, trial::try_once};
use super::{
    Failed, Handed, Refused,
    sessions::{SessionGuard, Sessions},
    witness::Witness,
    write,
};
use crate::{
    net::Stream,
    proto::{
        encode::EncodeError,
        link::{Context, Opening, Verdict},
        template::{Template, Values},
    },
};

/// How to start a server.
#[derive(Clone, Debug)]
pub struct ExecSettings {
    /// The program, absolute.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub arguments: Vec<Template>,
    /// Its whole environment.
    pub environment: Vec<(String, Template)>,
    /// What it says first.
    pub opening: Opening,
}

/// A started server whose error stream has a reader.
#[derive(Debug)]
pub(super) struct Running {
    fresh: Fresh,
    errors: OwnedFd,
}

/// What a server is to know, as text.
#[derive(Debug)]
pub(super) struct Told {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A session whose server runs and that nobody looks after yet: ended when this is dropped.
#[derive(Debug)]
pub(super) struct Begun {
    running: Running,
    held: Held,
}

/// What the server has.
#[derive(Debug)]
enum Held {
    /// The link's socket.
    Link(Witness),
    /// One end of a pair; these are the link, and the other end.
    Pair(Stream, Stream),
}

/// Starts the server of a session on its link, or on the end of a pair in its place.
pub(super) async fn start(
    link: Stream,
    spawner: &Spawner,
    settings: &ExecSettings,
    values: &Values<'_>,
    deadline: Instant,
    verdict: &impl Fn(&Verdict) -> Vec<u8>,
) -> Result<Begun, Failed> {
    let told = match settings.tell(values) {
        Ok(told) => told,
        Err(error) => return Err(Failed::new(link, error)),
    };
    let record = verdict(&Verdict::Ok(settings.opening.clone()));
    let start = async |socket: OwnedFd| {
        let running = settings.start(spawner, told, values, socket, deadline);
        running.await.map_err(Refused::Start)
    };
    match link {
        Stream::Tcp(_) | Stream::Unix(_) => {
            let link = tell(link, &record, deadline).await?;
            let (socket, witness) =
                blocking(link).map_err(|error| Failed::without_link(Refused::Link(error)))?;
            let running = start(socket).await.map_err(Failed::without_link)?;
            let held = Held::Link(witness);
            Ok(Begun { running, held })
        }
        Stream::TlsClient(_) | Stream::TlsServer(_) => {
            let pair = UnixStream::pair()
                .and_then(|(ours, theirs)| Ok((ours, blocking(Stream::Unix(theirs))?.0)));
            let (ours, theirs) = match pair {
                Ok(pair) => pair,
                Err(error) => return Err(Failed::new(link, Refused::Start(error))),
            };
            let running = match start(theirs).await {
                Ok(running) => running,
                Err(refused) => return Err(Failed::new(link, refused)),
            };
            let link = tell(link, &record, deadline).await?;
            let held = Held::Pair(link, Stream::Unix(ours));
            Ok(Begun { running, held })
        }
    }
}

/// Writes the verdict; a record that was written in part can't be followed by another.
async fn tell(mut link: Stream, record: &[u8], deadline: Instant) -> Result<Stream, Failed> {
    let told = timeout_at(deadline, write(&mut link, record)).await;
    match told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(()) => Ok(link),
        Err(error) => Err(Failed::without_link(Refused::Link(error))),
    }
}

/// Takes a socket out of the event loop, for a process that waits in its reads.
fn blocking(stream: Stream) -> io::Result<(OwnedFd, Witness)> {
    match stream {
        Stream::Tcp(stream) => {
            let socket = stream.into_std()?;
            socket.set_nonblocking(false)?;
            let witness = Witness::tcp(&socket)?;
            Ok((socket.into(), witness))
        }
        Stream::Unix(stream) => {
            let socket = stream.into_std()?;
            socket.set_nonblocking(false)?;
            let witness = Witness::unix(&socket)?;
            Ok((socket.into(), witness))
        }
        Stream::TlsClient(_) | Stream::TlsServer(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

// === impl Begun ===

impl Begun {
    /// Follows the process from now on, and counts its session until it has exited: where it lives on without us, together
    /// with those that other kinds have given away.
    pub(super) fn look_after(
        self,
        context: &Context,
        session: SessionGuard,
        sessions: &Arc<Sessions>,
    ) -> Result<Handed, Failed> {
        let Running { fresh, errors } = self.running;
        let (counted, relayed) = match self.held {
            Held::Link(witness) => {
                let cookie = witness.cookie();
                sessions.give_away(session, witness);
                (Counted::Given(Arc::clone(sessions), cookie), None)
            }
            Held::Pair(link, server) => (Counted::Guard(session), Some((link, server))),
        };
        // On failure the process is killed, and a session that was given away is found dead by the next sweep.
        let server = Server::new(fresh, errors, &context.session, counted)
            .map_err(|error| Failed::without_link(Refused::Start(error)))?;
        Ok(Handed::Started { server, relayed })
    }
}

// === impl ExecSettings ===

impl ExecSettings {
    pub(super) fn tell(&self, values: &Values<'_>) -> Result<Told, EncodeError> {
        let arguments = self
            .arguments
            .iter()
            .map(|template| template.render(values));
        let environment = self
            .environment
            .iter()
            .map(|(name, template)| Ok((name.clone(), template.render(values)?)));
        Ok(Told {
            arguments: arguments.collect::<Result<_, _>>()?,
            environment: environment.collect::<Result<_, _>>()?,
        })
    }

    pub(super) async fn start(
        &self,
        spawner: &Spawner,
        told: Told,
        values: &Values<'_>,
        socket: OwnedFd,
        deadline: Instant,
    ) -> io::Result<Running> {
        let (errors, theirs) = server::error_stream()?;
        let order = Order {
            program: self.program.clone(),
            arguments: told.arguments,
            environment: told.environment,
            folder: values.home.into(),
            uid: values.context.uid,
            gid: values.context.gid,
            output: socket.try_clone()?,
            input: socket,
            errors: theirs,
        };
        let fresh = spawner.start(order, deadline).await?;
        Ok(Running { fresh, errors })
    }
}
