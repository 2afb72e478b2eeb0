//! Moving bytes between two streams: a client's and a server's, of any kind, until both have ended.
//!
//! What one side sends reaches the other unchanged and in order; an end of stream (FIN, close_notify) is passed on as
//! such and the other direction goes on. Nothing is ever added. Octets that were read before the relay began are the
//! caller's to write first. Socket options are whoever's made the sockets.
//!
//! ```text
//!            one side ends, or is cut off             the other ends too
//! both flow ---------------------------------> half ---------------------> Ended
//!     | silence of `idle`                       | silence of `half_closed_idle`
//!     +--> Ended                                +--> Ended                  `stop`: Ended, from everywhere
//! ```
//!
//! - `session`: the two directions together: ends, errors, deadlines.
//! - `way`: one direction: read, write, splice, what is held while the receiver is slow.
//! - `pipes`: the bounded pool that splicing borrows from.
//! - `idle`: deadlines for all sessions by one sweep.
//!
//! Cost: an idle session is two sockets and its future; no buffer, no pipe, no timer. A session with a slow receiver
//! holds what it had read when the receiver stopped taking it: at most 64 KiB, or one pipe of at most 1 MiB, per
//! direction; under TLS the library holds up to 64 KiB towards the receiver besides, and some records from the sender.
//! Linux only (splice(2)).
//!
//! Failure: an error of one side ends that side alone; what had been read from it is still written to the other, which
//! then sees an end of stream. [`Ended`] says whose doing it was and what had been moved.

mod idle;
mod pipes;
mod session;
#[cfg(test)]
mod tests;
mod way;

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use prometheus::{Histogram, IntCounter};

use self::{idle::Idle, pipes::Pipes, session::Session};
use crate::{
    metrics::Metrics,
    net::Stream,
    outcome::{Blame, Outcome},
    tasks::Tasks,
};

/// Limits of a relayed session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Silence in both directions before the session is closed; default 35 minutes (RFC 9051, 5.4: at least 30).
    pub idle: Duration,
    /// After one side has ended, silence of the other before the session is closed; default 60 s.
    pub half_closed_idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(35 * 60),
            half_closed_idle: Duration::from_secs(60),
        }
    }
}

/// How a relayed session ended.
#[derive(Debug)]
pub struct Ended {
    /// Octets written to the client.
    pub to_client: u64,
    /// Octets written to the server.
    pub to_server: u64,
    /// Whose doing it was: what happened first.
    pub by: End,
}

/// What ended a relayed session.
#[derive(Debug)]
pub enum End {
    /// The client closed, then the server.
    Client,
    /// Reading from or writing to the client failed.
    ClientError(io::Error),
    /// One side closed and the other was silent for too long.
    HalfClosedIdle,
    /// Neither side sent anything for too long.
    Idle,
    /// The server closed, then the client.
    Server,
    /// Reading from or writing to the server failed.
    ServerError(io::Error),
    /// The caller asked for it.
    Stopped,
}

impl Ended {
    /// Counts octets that the caller had passed on before the relay began.
    #[must_use]
    pub fn after(self, to_client: usize, to_server: usize) -> Self {
        let sum = |moved: u64, early: usize| {
            moved.saturating_add(u64::try_from(early).unwrap_or(u64::MAX))
        };
        Self {
            to_client: sum(self.to_client, to_client),
            to_server: sum(self.to_server, to_server),
            by: self.by,
        }
    }

    /// The word for logs and metrics.
    pub const fn outcome(&self) -> Outcome {
        match self.by {
            End::Client | End::Server => Outcome::Served,
            End::Idle | End::HalfClosedIdle => Outcome::Idle,
            End::ClientError(_) | End::ServerError(_) => Outcome::Broken,
            End::Stopped => Outcome::Cut,
        }
    }

    /// Whose connection broke, if one did.
    pub const fn blame(&self) -> Option<Blame> {
        match self.by {
            End::ClientError(_) => Some(Blame::Client),
            End::ServerError(_) => Some(Blame::Node),
            End::Client | End::HalfClosedIdle | End::Idle | End::Server | End::Stopped => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client closed"),
            Self::ClientError(error) => write!(f, "client: {error}"),
            Self::HalfClosedIdle => f.write_str("one side closed, the other was silent"),
            Self::Idle => f.write_str("both sides were silent"),
            Self::Server => f.write_str("server closed"),
            Self::ServerError(error) => write!(f, "server: {error}"),
            Self::Stopped => f.write_str("closed by us"),
        }
    }
}

/// The relay of one process. Clones share its pipes and its sweep.
#[derive(Clone, Debug)]
pub struct Relay {
    shared: Arc<Shared>,
}

/// What all sessions use.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    idle: Arc<Idle>,
    pipes: Arc<Pipes>,
    to_client: Counters,
    to_server: Counters,
    first_answer: Histogram,
}

/// Octets moved in one direction, by how.
#[derive(Debug)]
struct Counters {
    copied: IntCounter,
    spliced: IntCounter,
}

impl Relay {
    /// A relay without sessions. Needs no runtime yet; the sweep is started in `tasks` with the first session and
    /// ends with the last.
    pub fn new(settings: Settings, metrics: Metrics, tasks: Tasks) -> Self {
        Self::with_pipes(settings, &metrics, tasks, pipes::LIMIT)
    }

    /// The same, if its limits are these.
    #[must_use]
    pub fn with(&self, settings: Settings) -> Option<Self> {
        (self.shared.settings == settings).then(|| self.clone())
    }

    fn with_pipes(settings: Settings, metrics: &Metrics, tasks: Tasks, limit: usize) -> Self {
        let counters = |direction| Counters {
            copied: metrics.relay_bytes.with_label_values(&[direction, "copy"]),
            spliced: metrics
                .relay_bytes
                .with_label_values(&[direction, "splice"]),
        };
        Self {
            shared: Arc::new(Shared {
                settings,
                idle: Arc::new(Idle::new(settings, tasks)),
                pipes: Arc::new(Pipes::new(limit)),
                to_client: counters("to_client"),
                to_server: counters("to_server"),
                first_answer: metrics.stage_seconds.with_label_values(&["first-byte"]),
            }),
        }
    }

    /// Moves bytes until both sides have ended, a deadline has passed, or `stop` is ready; then closes both.
    ///
    /// The future is small and borrows nothing: spawn a fresh task with just this. To keep the counts of a session
    /// that is cut, give it a `stop` (`Tasks::cut_requested`, a token of its own) instead of dropping it.
    pub fn run<F>(
        &self,
        client: Stream,
        server: Stream,
        stop: F,
    ) -> impl Future<Output = Ended> + Send + use<F>
    where
        F: Future<Output = ()> + Send,
    {
        let mut session = Session::new(Arc::clone(&self.shared), client, server);
        async move {
            let mut stop = pin!(stop);
            poll_fn(|cx| {
                if let Poll::Ready(ended) = session.poll(cx) {
                    return Poll::Ready(ended);
                }
                stop.as_mut().poll(cx).map(|()| session.stop(cx))
            })
            .await
        }
    }
}
