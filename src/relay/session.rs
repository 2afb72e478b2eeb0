//! The two directions of a relayed session together: who ended first, what an error leaves standing, deadlines.
//!
//! An end of stream on one side is passed to the other, and the other direction goes on; from then on the shorter
//! deadline counts. An error of one side means: nothing more can come from it or reach it. What had been read from it is
//! still written to the other side, followed by an end of stream; what the other side still says is read and dropped
//! until it ends too. That waiting counts as silence, whatever is dropped meanwhile.
//!
//! Limits: `half_closed_idle` after the first end or error, as long as nothing is moved; `idle` before.
//!
//! Does not judge: an error after an end of stream is common (a peer that closes without reading to the end), so the
//! first event alone decides what [`Ended`] says.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::AsyncWrite as _;

use super::{
    End, Ended, Shared,
    idle::Watch,
    way::{Fault, Way},
};
use crate::net::Stream;

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    watch: Watch,
    client: Stream,
    server: Stream,
    to_client: Way,
    to_server: Way,
    /// What happened first, of the things that end a session.
    first: Option<End>,
    answer: Answer,
}

/// How far a session is with the first answer of its server, which is timed.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Nobody has said anything.
    Unasked,
    /// The client has, at that time.
    Asked(Instant),
    /// The server has.
    Heard,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Server,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, client: Stream, server: Stream) -> Self {
        Self {
            watch: shared.idle.enter(),
            shared,
            client,
            server,
            to_client: Way::default(),
            to_server: Way::default(),
            first: None,
            answer: Answer::Unasked,
        }
    }

    /// Moves what can be moved; ready when there will be nothing more to move.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.watch.wake_with(cx.waker());
        let before = self.to_client.moved() + self.to_server.moved();
        // Each fault ends a direction, or what is left of it: no more than a few rounds.
        let done = loop {
            match self.pump(cx) {
                Ok(done) => break done,
                Err((source, fault)) => self.fail(source, fault, cx),
            }
        };
        if self.to_client.moved() + self.to_server.moved() != before {
            self.watch.touch();
            self.time_answer();
        }
        if done {
            let by = self.first.take().unwrap_or(End::Stopped);
            return Poll::Ready(self.ended(by));
        }
        if self.watch.is_overdue() {
            let by = match self.first.take() {
                None => End::Idle,
                Some(End::Client | End::Server) => End::HalfClosedIdle,
                Some(error) => error,
            };
            self.part(cx);
            return Poll::Ready(self.ended(by));
        }
        Poll::Pending
    }

    /// Notes how long the server took for its first answer.
    fn time_answer(&mut self) {
        let is_heard = self.to_client.moved() > 0;
        self.answer = match self.answer {
            Answer::Unasked if !is_heard => Answer::Asked(Instant::now()),
            Answer::Asked(since) if is_heard => {
                let took = since.elapsed().as_secs_f64();
                self.shared.first_answer.observe(took);
                Answer::Heard
            }
            Answer::Asked(since) => Answer::Asked(since),
            Answer::Unasked | Answer::Heard => Answer::Heard,
        };
    }

    /// Ends the session because the caller wants it.
    pub(super) fn stop(&mut self, cx: &mut Context<'_>) -> Ended {
        self.part(cx);
        self.ended(End::Stopped)
    }

    /// Both directions, until neither can move: whether both are done.
    fn pump(&mut self, cx: &mut Context<'_>) -> Result<bool, (Side, Fault)> {
        let to_server = self
            .to_server
            .pump(
                cx,
                &mut self.client,
                &mut self.server,
                &self.shared.to_server,
                &self.shared.pipes,
            )
            .map_err(|fault| (Side::Client, fault))?;
        if !self.to_server.is_flowing() {
            self.begin_end(End::Client);
        }
        let to_client = self
            .to_client
            .pump(
                cx,
                &mut self.server,
                &mut self.client,
                &self.shared.to_client,
                &self.shared.pipes,
            )
            .map_err(|fault| (Side::Server, fault))?;
        if !self.to_client.is_flowing() {
            self.begin_end(End::Server);
        }
        Ok(to_server.is_ready() && to_client.is_ready())
    }

    /// Something failed in the direction that comes from `source`.
    fn fail(&mut self, source: Side, fault: Fault, cx: &mut Context<'_>) {
        let (from, to) = match source {
            Side::Client => (&mut self.to_server, &mut self.to_client),
            Side::Server => (&mut self.to_client, &mut self.to_server),
        };
        let (culprit, error) = match fault {
            Fault::Source(error) => {
                from.end();
                to.discard();
                (source, error)
            }
            // The other direction goes on: what the failed side had sent before may still lie in its socket.
            Fault::Sink(error) => {
                from.discard();
                (source.other(), error)
            }
        };
        let (gone, end) = match culprit {
            Side::Client => (&mut self.client, End::ClientError(error)),
            Side::Server => (&mut self.server, End::ServerError(error)),
        };
        // Under TLS a side that failed may still be there to hear it.
        let _ = Pin::new(gone).poll_shutdown(cx);
        self.begin_end(end);
    }

    fn begin_end(&mut self, end: End) {
        if self.first.is_none() {
            self.first = Some(end);
            self.watch.half_close();
        }
    }

    /// Says goodbye as far as that needs no waiting: a TLS peer can then tell the end from a cut wire.
    fn part(&mut self, cx: &mut Context<'_>) {
        for (way, sink) in [
            (&self.to_client, &mut self.client),
            (&self.to_server, &mut self.server),
        ] {
            if way.is_drained() {
                let _ = Pin::new(sink).poll_shutdown(cx);
            }
        }
    }

    fn ended(&self, by: End) -> Ended {
        Ended {
            to_client: self.to_client.moved(),
            to_server: self.to_server.moved(),
            by,
        }
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}
