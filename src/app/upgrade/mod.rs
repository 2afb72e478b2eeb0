//! One process takes another's place, and nobody who connects in that moment notices.
//!
//! ```text
//! successor                                     predecessor
//!   `run --take-over`
//!   ask for sockets ───────────────────────────>  own uid or root's? same version, same role, nobody else?
//!                   <──── who, socket ..., all    goes on serving
//!   binds what is new, builds everything,
//!   asks the directory whether it is there
//!   ready ─────────────────────────────────────>  tells the service manager who is the main process now
//!                                                 retires: accepts no more, and is nobody's answer to monitors
//!                   <──────────────────── yours   its sessions go on, `upgrade_drain_timeout` at most
//!   accepts
//!   "took over", speaks to the manager            then as after SIGTERM: `drain_timeout`, the end
//! ```
//!
//! Connections that wait in the queue of a listening socket are reset when its last descriptor is closed. So it is the very
//! sockets that change hands, all of them: both processes have them for a while, and either may accept. Paths of
//! Unix sockets stay where they are, the one of this conversation too. `record` has the form of what is said.
//!
//! The successor is started from outside: a front can't execute a program. Until it has said `ready` it may fail or vanish at
//! any step, and the predecessor has done nothing that would have to be undone. A predecessor that was told to stop says so at
//! once, and the successor ends, too: whoever stops a service means both. One that breaks off without a word is gone, so the
//! successor serves on, and says so; whom it can't name to the manager any more, the command does that has started it.
//!
//! What is in memory does not change hands: counts of the defence, what is remembered of the directory, counters.
//!
//! Limits: one successor at a time, 10 minutes for its start, 5 seconds for each word of either side, 8 connections.

mod give;
mod program;
mod record;
mod take;
#[cfg(test)]
mod tests;

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

pub(super) use self::give::sessions;
use self::{give::Giver, record::Role, take::Taken};
pub use self::{program::Program, record::RecordError, take::TakeError};
use super::{AppError, Process, Sockets, Unix};
use crate::{config, user::User};

/// Sockets are told to root and to the process's own user.
const SOCKET_MODE: u32 = 0o600;
/// For one word of the other side.
const WORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How a process comes to its sockets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// It binds them.
    Afresh,
    /// From the running process, whose place it takes.
    TakeOver,
}

/// A process's place between the one before it and the one after.
pub(super) struct Succession {
    role: Role,
    socket: Option<PathBuf>,
    /// How long sessions may go on once another process accepts.
    pub(super) drain_timeout: Duration,
    predecessor: Option<Taken>,
}

/// The same once all sockets are bound.
pub(super) struct Succeeded {
    succession: Succession,
    socket: Option<Unix>,
    held: Vec<OwnedFd>,
    /// What makes `sessions_file` this process's.
    pub(super) lock: Option<OwnedFd>,
}

/// Which process of the machine is asked.
fn role(role: config::Role) -> Role {
    match role {
        config::Role::Front => Role::FRONT,
        config::Role::Node => Role::NODE,
    }
}

/// Who answers at the upgrade socket of a running process: its id, and its program.
///
/// # Errors
///
/// When nobody does.
pub fn who_runs(process: &config::Process, of: config::Role) -> Result<(u32, Program), TakeError> {
    let path = process.upgrade_socket(of).ok_or(TakeError::NoSocket)?;
    take::who(path, role(of), process.user(of))
}

impl Succession {
    /// Takes the sockets of the running process, if it is to; they are then there for whoever binds.
    pub(super) fn begin(
        process: &config::Process,
        of: config::Role,
        start: Start,
        sockets: &mut Sockets<'_>,
    ) -> Result<Self, AppError> {
        let mut succession = Self {
            role: role(of),
            socket: process.upgrade_socket(of).cloned(),
            drain_timeout: process.upgrade_drain_timeout,
            predecessor: None,
        };
        if succession.socket.is_some() {
            sockets.hold();
        }
        if start == Start::TakeOver {
            let taken = succession.take(process.user(of), sockets);
            succession.predecessor = Some(taken.map_err(AppError::TakeOver)?);
        }
        Ok(succession)
    }

    fn take(&self, user: Option<&User>, sockets: &mut Sockets<'_>) -> Result<Taken, TakeError> {
        let path = self.socket.as_ref().ok_or(TakeError::NoSocket)?;
        let (taken, descriptors) = take::take(path, self.role, user)?;
        let inherited = sockets.inherited();
        for socket in descriptors {
            inherited.add(socket).map_err(TakeError::Useless)?;
        }
        let Taken { pid, program, .. } = &taken;
        let sockets = inherited.len();
        tracing::info!(
            pid,
            version = program.version,
            sockets,
            "taking over from the running process"
        );
        Ok(taken)
    }

    /// All other sockets are bound: binds the one that a successor asks at.
    pub(super) fn bound(self, mut sockets: Sockets<'_>) -> Result<Succeeded, AppError> {
        let path = self.socket.clone();
        let socket = path.map(|path| sockets.unix(&path, SOCKET_MODE));
        Ok(Succeeded {
            socket: socket.transpose()?,
            held: sockets.finish()?,
            succession: self,
            lock: None,
        })
    }
}

impl Succeeded {
    /// What makes `sessions_file` the predecessor's, for whoever needs it to be this process's as well.
    pub(super) fn take_lock(&mut self) -> Option<OwnedFd> {
        self.succession.predecessor.as_mut()?.lock.take()
    }

    /// Whether this process takes another one's place.
    pub(super) const fn takes_over(&self) -> bool {
        self.succession.predecessor.is_some()
    }

    /// Whether another process may take this one's place.
    pub(super) const fn is_expected(&self) -> bool {
        self.socket.is_some()
    }

    /// This process serves: tells the one before it, and waits for the one after it. How long sessions may then go on.
    pub(super) async fn settle(self, process: &Process) -> Result<Duration, AppError> {
        let Self {
            succession,
            socket,
            held,
            lock,
        } = self;
        if let Some(predecessor) = succession.predecessor {
            let replaced = predecessor.replace(&process.notifier).await;
            replaced.map_err(AppError::TakeOver)?;
        }
        if let Some(socket) = socket {
            let giver = Giver::new(succession.role, held, lock, process);
            let answers = Arc::new(giver).serve(socket.listen()?);
            process.tasks.background("upgrade socket", answers);
        }
        Ok(succession.drain_timeout)
    }
}
