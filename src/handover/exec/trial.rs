//! Trying the command of this kind once, when the process starts.
//!
//! ```text
//! mkdir ──> server on a pair, in that home ──> its opening ──> close ──> it exits, or is killed ──> rm
//! ```
//!
//! It runs as the lowest uid and gid of the node's bounds, on behalf of an account that no directory has. The home is made
//! under the system's folder for temporary files and removed again, both by programs of the system's that run as that user
//! too: no right to give folders away is needed, and nothing is ever deleted with more rights than the user's own.
//!
//! It says nothing of other homes, whose Maildirs may be missing. Limits: the hand-over's timeout for the opening, some
//! seconds for each other step. On failure the reason, with the last line of the server's error stream; whatever was begun
//! is undone.

use std::{fs::File, io, os::fd::OwnedFd, path::PathBuf, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{Instant, timeout},
};

use super::{
    ExecSettings, Exit, Running, Server,
    server::error_stream,
    spawner::{Order, Spawner},
};
use crate::{
    handover::{Refused, plain::Plain},
    home::Bounds,
    names::{AccountName, ClientAddr, LocalAddr, Protocol, SessionId},
    net::Stream,
    proto::{
        link::{Context, Opening},
        opening::{Reader, Step},
        template::Values,
    },
};

/// For the home to be made, and for the server to exit when its client has gone.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

const MKDIR: &str = "/bin/mkdir";
const RM: &str = "/bin/rm";

/// Starts the server once and reads its opening.
pub(in super::super) async fn try_once(
    protocol: Protocol,
    settings: &ExecSettings,
    spawner: &Spawner,
    bounds: &Bounds,
    limit: Duration,
) -> Result<(), Refused> {
    let mut octets = [0; 12];
    getrandom::fill(&mut octets).map_err(|error| Refused::Start(io::Error::other(error)))?;
    let session = SessionId::from_random(octets);
    let nobody = ([127, 0, 0, 1], 0).into();
    let mut context = Context {
        account: AccountName::parse("pigeonair-trial").map_err(other)?,
        client: ClientAddr(nobody),
        local: LocalAddr(nobody),
        protocol,
        tls: None,
        uid: *bounds.uids.start(),
        gid: *bounds.gids.start(),
        home: String::new(),
        quota: None,
        hops: 0,
        session,
    };
    let folder = std::env::temp_dir().join(format!("pigeonair-trial-{}", context.session));
    context.home = folder.display().to_string();
    let home = Home::make(spawner, &context, folder).await?;
    let tried = serve(settings, spawner, &context, limit).await;
    drop(home);
    tried
}

async fn serve(
    settings: &ExecSettings,
    spawner: &Spawner,
    context: &Context,
    limit: Duration,
) -> Result<(), Refused> {
    let values = Values {
        context,
        home: &context.home,
    };
    let told = settings.tell(&values)?;
    let (ours, theirs) = UnixStream::pair().map_err(Refused::Start)?;
    let theirs = Plain::take(Stream::Unix(theirs)).and_then(Plain::into_blocking);
    let theirs = theirs.map_err(Refused::Start)?;
    let deadline = Instant::now() + limit.min(STEP_TIMEOUT);
    let started = settings.start(spawner, told, &values, theirs, deadline);
    let Running { fresh, errors } = started.await.map_err(Refused::Start)?;
    let mut server = Server::new(fresh, errors, &context.session, None).map_err(Refused::Start)?;
    let opened = timeout(limit, opening(ours, &settings.opening)).await;
    let exit = end(&mut server).await;
    match opened {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Refused::Trial { exit, error }),
        Err(_) => Err(Refused::Timeout),
    }
}

/// Waits until it has exited, and kills it when it takes too long.
async fn end(server: &mut Server) -> Exit {
    if let Ok(exit) = timeout(STEP_TIMEOUT, server.exit()).await {
        return exit;
    }
    server.kill();
    server.exit().await
}

/// Reads the opening, and closes.
async fn opening(mut server: UnixStream, opening: &Opening) -> io::Result<()> {
    let (mut reader, mut input) = (Reader::new(opening), BytesMut::new());
    server.write_all(reader.ask()).await?;
    while reader.step(&mut input).map_err(io::Error::other)? == Step::More {
        if server.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Refused {
    Refused::Start(io::Error::other(error))
}

/// A home for one trial, removed when dropped.
struct Home<'a> {
    spawner: &'a Spawner,
    context: &'a Context,
    folder: PathBuf,
}

// === impl Home ===

impl<'a> Home<'a> {
    async fn make(
        spawner: &'a Spawner,
        context: &'a Context,
        folder: PathBuf,
    ) -> Result<Self, Refused> {
        let (errors, theirs) = error_stream().map_err(Refused::Start)?;
        let order =
            order(MKDIR, &["-m", "0700"], context, &folder, theirs).map_err(Refused::Start)?;
        // From here on there is something to remove, perhaps.
        let home = Self {
            spawner,
            context,
            folder,
        };
        let deadline = Instant::now() + STEP_TIMEOUT;
        let fresh = spawner
            .start(order, deadline)
            .await
            .map_err(Refused::Start)?;
        let mut made =
            Server::new(fresh, errors, &context.session, None).map_err(Refused::Start)?;
        let exit = end(&mut made).await;
        if exit.is_success() {
            Ok(home)
        } else {
            Err(other(format!("cannot make a home to try it in: {exit}")))
        }
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        let remove = error_stream().and_then(|(_, theirs)| {
            let order = order(RM, &["-r", "-f"], self.context, &self.folder, theirs)?;
            self.spawner.start_alone(order)
        });
        if let Err(error) = remove {
            tracing::warn!(%error, folder = %self.folder.display(), "cannot remove the home of a trial");
        }
    }
}

/// A program of the system's that does something with a folder.
fn order(
    program: &str,
    options: &[&str],
    context: &Context,
    folder: &std::path::Path,
    errors: OwnedFd,
) -> io::Result<Order> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut arguments: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
    arguments.extend(["--".to_owned(), folder.display().to_string()]);
    Ok(Order {
        program: program.into(),
        arguments,
        environment: Vec::new(),
        folder: "/".into(),
        uid: context.uid,
        gid: context.gid,
        input: null.try_clone()?.into(),
        output: null.into(),
        errors,
    })
}
