//! A bounded pool of pipes for splice(2).
//!
//! splice(2) moves pages between a socket and a pipe without copying them to user space. A direction with much to move
//! borrows a pipe until its source runs dry; an idle one has none. A pipe that still holds octets when it is given back
//! (its session failed) is closed, so the next borrower can never see them.
//!
//! Limits: [`LIMIT`] pipes at a time. Receivers that stop reading in the middle of a transfer keep theirs; then others
//! are served by copying, which is dearer but never waits. A pipe that the kernel makes too small (past
//! fs.pipe-user-pages-soft) is not used, nor is one that can't be made (no descriptors left).
//!
//! Does not wait and does not fail: no pipe is an answer.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

use crate::net::Plain;

/// Pipes at a time: as many of [`SIZE`] as Linux gives an unprivileged user by default (64 MiB of pipes).
pub(super) const LIMIT: usize = 64;

/// What a pipe is asked to hold: the most that an unprivileged user gets by default (fs.pipe-max-size).
const SIZE: usize = 1024 * 1024;

/// What a pipe must hold to be worth its system calls: the kernel's default for a pipe.
const MIN_SIZE: usize = 64 * 1024;

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// The pool.
#[derive(Debug)]
pub(super) struct Pipes {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Empty pipes that nobody uses.
    free: Vec<Ends>,
    /// How many exist, free or lent.
    made: usize,
}

#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// A borrowed pipe; dropping it gives it back, or closes it if it is not empty.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Only taken when dropped.
    ends: Option<Ends>,
    /// Octets in it.
    len: usize,
    pool: Arc<Pipes>,
}

impl Pipes {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// An empty pipe, unless all are lent or none can be made.
    pub(super) fn borrow(self: &Arc<Self>) -> Option<Pipe> {
        let ends = {
            let mut state = self.lock();
            let free = state.free.pop();
            if free.is_none() {
                if state.made >= self.limit {
                    return None;
                }
                state.made += 1;
            }
            free
        };
        let Some(ends) = ends.or_else(Ends::new) else {
            self.lock().made -= 1;
            return None;
        };
        Some(Pipe {
            ends: Some(ends),
            len: 0,
            pool: Arc::clone(self),
        })
    }

    /// How many pipes exist and how many of them are free.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.made, state.free.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    fn new() -> Option<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Refused when the user has many pipes already: whatever size there is may do.
        let size = fcntl_setpipe_size(&writer, SIZE)
            .or_else(|_| fcntl_getpipe_size(&writer))
            .ok()?;
        (size >= MIN_SIZE).then_some(Self { reader, writer })
    }
}

impl Pipe {
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes in what `source` has, as much as fits: 0 is its end of stream.
    ///
    /// Only for an empty pipe: with octets in it, "would block" could as well mean that the pipe is full, and the
    /// caller would wait for a source that has long been ready.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: Plain<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty());
        let Some(ends) = &self.ends else {
            return Poll::Ready(Ok(0));
        };
        source
            .poll_read_with(cx, |socket| {
                Ok(splice(socket, None, &ends.writer, None, SIZE, FLAGS)?)
            })
            .map_ok(|octets| {
                self.len = octets;
                octets
            })
    }

    /// Lets `sink` have what it takes; more than 0.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        sink: Plain<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        };
        sink.poll_write_with(cx, |socket| {
            match splice(&ends.reader, None, socket, None, self.len, FLAGS)? {
                0 => Err(io::ErrorKind::WriteZero.into()),
                octets => Ok(octets),
            }
        })
        .map_ok(|octets| {
            self.len = self.len.saturating_sub(octets);
            octets
        })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        match self.ends.take() {
            Some(ends) if self.len == 0 => state.free.push(ends),
            ends => {
                state.made -= 1;
                drop(state);
                drop(ends);
            }
        }
    }
}
