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

use std::{io, os::fd::OwnedFd, path::PathBuf};

use tokio::{
    net::UnixStream,
    time::{Instant, timeout_at},
};

use self::spawner::{Fresh, Order};
pub use self::{
    server::{Exit, Server},
    spawner::SpawnerError,
};
pub(super) use self::{
    spawner::{Spawner, give_up_capabilities},
    trial::try_once,
};
use super::{
    Failed, Handed, Refused,
    plain::Plain,
    sessions::{SessionGuard, Sessions},
    write,
};
use crate::{
    net::Stream,
    proto::{
        encode::EncodeError,
        link::{Opening, Verdict},
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

/// All that starting the server of a session takes.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) spawner: &'a Spawner,
    pub(super) settings: &'a ExecSettings,
    pub(super) values: &'a Values<'a>,
    pub(super) sessions: &'a Sessions,
    pub(super) deadline: Instant,
}

/// Writes the verdict; a record that was written in part can't be followed by another.
async fn tell(mut link: Stream, record: &[u8], deadline: Instant) -> Result<Stream, Failed> {
    let told = timeout_at(deadline, write(&mut link, record)).await;
    match told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(()) => Ok(link),
        Err(error) => Err(Failed::without_link(Refused::Link(error))),
    }
}

// === impl Start ===

impl Start<'_> {
    /// Starts it on the session's link, or on the end of a pair in its place.
    pub(super) async fn run(
        self,
        link: Stream,
        session: SessionGuard,
        verdict: &impl Fn(&Verdict) -> Vec<u8>,
    ) -> Result<Handed, Failed> {
        let told = match self.settings.tell(self.values) {
            Ok(told) => told,
            Err(error) => return Err(Failed::new(link, error)),
        };
        let record = verdict(&Verdict::Ok(self.settings.opening.clone()));
        match link {
            Stream::Tcp(_) | Stream::Unix(_) => self.on_link(link, told, session, &record).await,
            Stream::TlsClient(_) | Stream::TlsServer(_) => {
                self.on_pair(link, told, session, &record).await
            }
        }
    }

    async fn on_link(
        self,
        link: Stream,
        told: Told,
        mut session: SessionGuard,
        record: &[u8],
    ) -> Result<Handed, Failed> {
        let broken = |error| Failed::without_link(Refused::Link(error));
        let link = tell(link, record, self.deadline).await?;
        let link = Plain::take(link).map_err(broken)?;
        let witness = link.witness().map_err(broken)?;
        let socket = link.into_blocking().map_err(broken)?;
        let running = self.start(told, socket).await;
        let running = running.map_err(Failed::without_link)?;
        self.sessions.write_down(&mut session, witness);
        let server = self.look_after(running, session)?;
        Ok(Handed::Started {
            server,
            relayed: None,
        })
    }

    async fn on_pair(
        self,
        link: Stream,
        told: Told,
        session: SessionGuard,
        record: &[u8],
    ) -> Result<Handed, Failed> {
        let pair = UnixStream::pair().and_then(|(ours, theirs)| {
            let theirs = Plain::take(Stream::Unix(theirs))?;
            Ok((ours, theirs.into_blocking()?))
        });
        let (ours, theirs) = match pair {
            Ok(pair) => pair,
            Err(error) => return Err(Failed::new(link, Refused::Start(error))),
        };
        let running = match self.start(told, theirs).await {
            Ok(running) => running,
            Err(refused) => return Err(Failed::new(link, refused)),
        };
        let link = tell(link, record, self.deadline).await?;
        let server = self.look_after(running, session)?;
        Ok(Handed::Started {
            server,
            relayed: Some((link, Stream::Unix(ours))),
        })
    }

    async fn start(&self, told: Told, socket: OwnedFd) -> Result<Running, Refused> {
        let Self {
            spawner,
            settings,
            values,
            deadline,
            ..
        } = self;
        let running = settings.start(spawner, told, values, socket, *deadline);
        running.await.map_err(Refused::Start)
    }

    fn look_after(&self, running: Running, session: SessionGuard) -> Result<Server, Failed> {
        let Running { fresh, errors } = running;
        Server::new(fresh, errors, &self.values.context.session, Some(session))
            .map_err(|error| Failed::without_link(Refused::Start(error)))
    }
}

// === impl ExecSettings ===

impl ExecSettings {
    pub(super) fn tell(&self, values: &Values<'_>) -> Result<Told, EncodeError> {
        let arguments = self
            .arguments
            .iter()
            .map(|template| template.render_argument(values));
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
