//! One direction of a relayed session: from a source to a sink.
//!
//! ```text
//! Flow --source ends--> Drain --all written--> Shut --sink knows--> Done
//!   |                     |                                           ^
//!   +--sink cut off-------+--> Discard --source ends------------------+
//! ```
//!
//! Every read goes into one buffer per thread, which is never kept while waiting; what the sink does not take at once is
//! copied aside and dropped when written. Between two plain sockets a read that finds [`SMALL`] octets or more is a
//! transfer: a pipe is borrowed and pages are spliced through it until the source runs dry and the pipe is empty. Small
//! talk never sees a pipe, since two system calls beat four; a transfer never sees the buffer.
//!
//! Limits: [`BURST`] octets in one go, then the other sessions of the thread have their turn. Held at most: 64 KiB
//! aside, or one pipe.
//!
//! Under TLS an end of TCP without close_notify counts as an end of stream, as most mail clients end so; IMAP, POP3 and
//! LMTP say themselves when they are complete, and a message cut short is never taken as whole by the server.
//!
//! Failure: errors go up with the side that they belong to; what becomes of the rest is `session`'s to decide.

use std::{
    cell::RefCell,
    future::Future as _,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    task::yield_now,
};

use super::{
    Counters,
    pipes::{Pipe, Pipes},
};
use crate::net::Stream;

/// What a read between plain sockets asks for, and from when on it is a transfer.
const SMALL: usize = 16 * 1024;

/// What a read asks for under TLS, and in a transfer without a pipe.
const LARGE: usize = 64 * 1024;

/// Octets in one go. A fill of a pipe may exceed it by the size of the pipe.
const BURST: u64 = 512 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGE].into_boxed_slice());
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    phase: Phase,
    held: Held,
    /// The last read was a transfer's.
    transfer: bool,
    /// The sink may have something to flush.
    dirty: bool,
    /// Octets written to the sink.
    moved: u64,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    #[default]
    Flow,
    Drain,
    Shut,
    Discard,
    Done,
}

/// What was read and not yet written.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Octets(Bytes),
    Pipe(Pipe),
}

/// An error, by the side that it came from.
#[derive(Debug)]
pub(super) enum Fault {
    Sink(io::Error),
    Source(io::Error),
}

impl Way {
    /// Octets written to the sink.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether octets still come from the source that the sink will get.
    pub(super) fn is_flowing(&self) -> bool {
        self.phase == Phase::Flow
    }

    /// Whether everything that was read was written.
    pub(super) fn is_drained(&self) -> bool {
        match &self.held {
            Held::Nothing => true,
            Held::Octets(octets) => octets.is_empty(),
            Held::Pipe(pipe) => pipe.is_empty(),
        }
    }

    /// The source has ended: write what is held, pass the end on, be done.
    pub(super) fn end(&mut self) {
        if self.phase == Phase::Flow {
            self.phase = Phase::Drain;
        }
    }

    /// The sink is cut off: what is held is lost, and what the source still sends is read and dropped until it ends.
    /// (Closing a socket with unread octets would send RST, which can destroy what its peer has yet to read.)
    pub(super) fn discard(&mut self) {
        self.held = Held::Nothing;
        self.phase = match self.phase {
            Phase::Flow | Phase::Discard => Phase::Discard,
            Phase::Drain | Phase::Shut | Phase::Done => Phase::Done,
        };
    }

    /// Moves what can be moved; ready when this direction has ended and its sink knows.
    pub(super) fn pump(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        sink: &mut Stream,
        counters: &Counters,
        pipes: &Arc<Pipes>,
    ) -> Poll<Result<(), Fault>> {
        let start = self.moved;
        loop {
            match self.phase {
                Phase::Flow => {
                    ready!(self.write_held(cx, sink, counters))?;
                    if self.moved - start >= BURST {
                        // Again when the other sessions of the thread have had their turn, and sockets were looked at;
                        // to be woken at once would be to come before those that only now have something to do.
                        let _ = pin!(yield_now()).poll(cx);
                        return Poll::Pending;
                    }
                    if ready!(self.step(cx, source, sink, counters, pipes))? == 0 {
                        self.end();
                    }
                }
                Phase::Drain => {
                    ready!(self.write_held(cx, sink, counters))?;
                    self.held = Held::Nothing;
                    self.phase = Phase::Shut;
                }
                Phase::Shut => {
                    // A sink that can't be shut down is gone, which the other direction sees and tells.
                    let _ = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                    self.phase = Phase::Done;
                }
                Phase::Discard => {
                    // Whether it ends or fails: nothing of it would have gone anywhere.
                    if !matches!(ready!(drop_some(cx, source)), Ok(1..)) {
                        self.phase = Phase::Done;
                    }
                }
                Phase::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once, and writes what the sink takes: how much was read, 0 at the end of stream.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        sink: &mut Stream,
        counters: &Counters,
        pipes: &Arc<Pipes>,
    ) -> Poll<Result<usize, Fault>> {
        let Some(socket) = source.plain().filter(|_| sink.plain().is_some()) else {
            return self.copy(cx, LARGE, source, sink, counters);
        };
        if !self.transfer {
            return self.copy(cx, SMALL, source, sink, counters);
        }
        if matches!(self.held, Held::Nothing)
            && let Some(pipe) = pipes.borrow()
        {
            self.held = Held::Pipe(pipe);
        }
        let Held::Pipe(pipe) = &mut self.held else {
            return self.copy(cx, LARGE, source, sink, counters);
        };
        let read = pipe.poll_fill(cx, socket);
        if read.is_pending() {
            self.held = Held::Nothing;
            self.transfer = false;
        }
        read.map_err(Fault::Source)
    }

    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        size: usize,
        source: &mut Stream,
        sink: &mut Stream,
        counters: &Counters,
    ) -> Poll<Result<usize, Fault>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer.get_mut(..size).unwrap_or_default());
            let Poll::Ready(read) = poll_read(cx, source, &mut buffer) else {
                self.transfer = false;
                return self.flush(cx, sink);
            };
            read.map_err(Fault::Source)?;
            let mut octets = buffer.filled();
            let length = octets.len();
            self.transfer = length >= SMALL;
            while !octets.is_empty() {
                let Poll::Ready(written) = self.write(cx, octets, sink, counters) else {
                    self.held = Held::Octets(Bytes::copy_from_slice(octets));
                    break;
                };
                octets = octets.get(written?..).unwrap_or_default();
            }
            Poll::Ready(Ok(length))
        })
    }

    fn write_held(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Stream,
        counters: &Counters,
    ) -> Poll<Result<(), Fault>> {
        loop {
            match std::mem::take(&mut self.held) {
                Held::Octets(mut octets) if !octets.is_empty() => {
                    let written = self.write(cx, &octets, sink, counters);
                    if let Poll::Ready(Ok(written)) = written {
                        octets.advance(written.min(octets.len()));
                    }
                    self.held = Held::Octets(octets);
                    ready!(written)?;
                }
                Held::Nothing | Held::Octets(_) => return Poll::Ready(Ok(())),
                Held::Pipe(mut pipe) => {
                    let written = match sink.plain() {
                        Some(socket) if !pipe.is_empty() => pipe.poll_drain(cx, socket),
                        _ => {
                            self.held = Held::Pipe(pipe);
                            return Poll::Ready(Ok(()));
                        }
                    };
                    self.held = Held::Pipe(pipe);
                    let written = ready!(written).map_err(Fault::Sink)?;
                    self.moved += written as u64;
                    counters.spliced.inc_by(written as u64);
                }
            }
        }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        octets: &[u8],
        sink: &mut Stream,
        counters: &Counters,
    ) -> Poll<Result<usize, Fault>> {
        let written = ready!(Pin::new(sink).poll_write(cx, octets)).map_err(Fault::Sink)?;
        if written == 0 {
            return Poll::Ready(Err(Fault::Sink(io::ErrorKind::WriteZero.into())));
        }
        self.dirty = true;
        self.moved += written as u64;
        counters.copied.inc_by(written as u64);
        Poll::Ready(Ok(written))
    }

    /// The source has nothing: what TLS has kept back goes out. Pending unless that fails.
    fn flush(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Poll<Result<usize, Fault>> {
        if self.dirty {
            ready!(Pin::new(sink).poll_flush(cx)).map_err(Fault::Sink)?;
            self.dirty = false;
        }
        Poll::Pending
    }
}

fn poll_read(
    cx: &mut Context<'_>,
    source: &mut Stream,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    match ready!(Pin::new(source).poll_read(cx, buffer)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        result => Poll::Ready(result),
    }
}

fn drop_some(cx: &mut Context<'_>, source: &mut Stream) -> Poll<io::Result<usize>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        poll_read(cx, source, &mut buffer).map_ok(|()| buffer.filled().len())
    })
}
