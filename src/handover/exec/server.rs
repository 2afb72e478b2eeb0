//! A server that was started: what it says on its error stream, and how it ended.
//!
//! Its process is known by a pidfd, so a pid that the kernel has given to another process is never meant. The error stream
//! is a pipe of which the server itself holds both ends and which does not block: when this process goes away, the server
//! neither gets SIGPIPE nor waits for a reader. Lines go to the log as they come.
//!
//! It ends no session: when a [`Server`] is dropped, its process lives on. The session is counted until the process has exited.
//! One that was started on trial alone can be killed.
//!
//! Limits: 1 KiB of a line, the rest of it is left out; 100 lines at once and 10 a second after that, what is more is
//! counted and left out. A line that has not ended when the server has is a line.

use std::{
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::PipeFlags,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::unix::pipe,
    time::Instant,
};

use super::spawner::Fresh;
use crate::{handover::sessions::SessionGuard, names::SessionId};

/// The longest line that is logged, in octets.
const MAX_LINE_BYTES: usize = 1024;
/// Lines that are logged at once.
const MAX_LINES: u32 = 100;
/// One more line is logged after this time.
const LINE_INTERVAL: Duration = Duration::from_millis(100);
/// What a pipe holds at most.
const MAX_PIPE_BYTES: usize = 64 * 1024;
/// Room for one read of the error stream.
const READ_BYTES: usize = 4096;

/// A started server, until it has exited.
#[derive(Debug)]
pub struct Server {
    pid: Pid,
    process: AsyncFd<OwnedFd>,
    errors: Option<pipe::Receiver>,
    lines: Lines,
    /// Counts the session; dropped when the process has exited.
    guard: Option<SessionGuard>,
}

/// How a started server ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exit {
    end: End,
    /// The last line of its error stream.
    last: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Signal(i32),
    Status(i32),
    Unknown,
}

/// Both ends of an error stream: ours to read, and the server's.
pub(super) fn error_stream() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // For a server that opens /dev/stderr by its name; nobody but its user gets at it.
    rustix::fs::fchmod(&theirs, Mode::RUSR | Mode::WUSR | Mode::WGRP | Mode::WOTH)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&theirs));
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(path, flags, Mode::empty())?;
    Ok((ours, theirs))
}

// === impl Server ===

impl Server {
    /// Looks after a server from now on.
    pub(super) fn new(
        fresh: Fresh,
        errors: OwnedFd,
        session: &SessionId,
        guard: Option<SessionGuard>,
    ) -> io::Result<Self> {
        let pid = fresh.pid().ok_or(io::ErrorKind::InvalidData)?;
        let process = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "what makes it unsound is a type whose descriptor changes, which this one is not"
        )]
        let process = AsyncFd::with_interest(process, Interest::READABLE)?;
        let errors = Some(pipe::Receiver::from_owned_fd(errors)?);
        fresh.keep();
        tracing::debug!(session = %session, pid = pid.as_raw_nonzero(), "real server started");
        Ok(Self {
            pid,
            process,
            errors,
            lines: Lines::new(session.clone(), pid),
            guard,
        })
    }

    /// Waits until it has exited, and logs what it says until then.
    pub async fn exit(&mut self) -> Exit {
        loop {
            tokio::select! {
                biased;
                // A pidfd is readable when the process has exited, and stays so.
                _ = self.process.readable() => break,
                () = read(&mut self.errors, &mut self.lines) => {}
            }
        }
        // What it said last may be in the pipe still; whoever else holds the pipe is not waited for, nor heard for ever.
        if let Some(errors) = &self.errors {
            let mut reads = 0..MAX_PIPE_BYTES / READ_BYTES;
            while reads.next().is_some() && self.lines.take_now(errors).is_ok_and(|more| more) {}
        }
        let last = self.lines.end();
        let end = End::of(self.process.get_ref());
        self.guard = None;
        Exit { end, last }
    }

    /// Kills it and whatever it has started in its process group.
    pub(super) fn kill(&self) {
        // It has not been reaped, so the pid is its own; what has ended needs no signal.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

/// Reads the error stream once; without one, waits for ever.
async fn read(errors: &mut Option<pipe::Receiver>, lines: &mut Lines) {
    let Some(stream) = errors else {
        return std::future::pending().await;
    };
    let more = match stream.readable().await {
        Ok(()) => lines.take(stream),
        Err(error) => Err(error),
    };
    let ended = match more {
        Ok(more) => !more,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    if ended {
        *errors = None;
    }
}

// === impl Exit ===

impl Exit {
    /// Whether it ended as a server does that has served its session.
    pub const fn is_success(&self) -> bool {
        matches!(self.end, End::Status(0))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            End::Signal(number) => write!(f, "real server ended by signal {number}")?,
            End::Status(status) => write!(f, "real server ended with status {status}")?,
            End::Unknown => f.write_str("real server ended")?,
        }
        match &self.last {
            Some(last) => write!(f, ": {last}"),
            None => Ok(()),
        }
    }
}

// === impl End ===

impl End {
    /// Reaps it.
    fn of(process: &OwnedFd) -> Self {
        match waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Self::Status(status),
                (None, Some(signal)) => Self::Signal(signal),
                (None, None) => Self::Unknown,
            },
            Ok(None) | Err(_) => Self::Unknown,
        }
    }
}

/// The lines of an error stream on their way to the log.
#[derive(Debug)]
struct Lines {
    session: SessionId,
    pid: Pid,
    /// The start of a line whose end has not come.
    line: Vec<u8>,
    last: Option<String>,
    /// Lines that may be logged now, as of then.
    room: (u32, Instant),
    left_out: u64,
}

// === impl Lines ===

impl Lines {
    fn new(session: SessionId, pid: Pid) -> Self {
        Self {
            session,
            pid,
            line: Vec::new(),
            last: None,
            room: (MAX_LINES, Instant::now()),
            left_out: 0,
        }
    }

    /// Reads once; whether there is a next time.
    fn take(&mut self, stream: &pipe::Receiver) -> io::Result<bool> {
        let mut octets = [0; READ_BYTES];
        let count = stream.try_read(&mut octets)?;
        self.push(octets.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    /// The same of what lies in the pipe, whether or not the runtime has heard of it yet.
    fn take_now(&mut self, stream: &pipe::Receiver) -> io::Result<bool> {
        let mut octets = [0; READ_BYTES];
        let count = rustix::io::read(stream, &mut octets)?;
        self.push(octets.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    fn push(&mut self, octets: &[u8]) {
        for part in octets.split_inclusive(|octet| *octet == b'\n') {
            let (part, ended) = match part.split_last() {
                Some((b'\n', part)) => (part, true),
                Some(_) | None => (part, false),
            };
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
            self.line
                .extend_from_slice(part.get(..room).unwrap_or(part));
            if ended {
                self.log();
            }
        }
    }

    /// Takes the line as ended.
    fn log(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            return;
        }
        if self.has_room() {
            tracing::info!(session = %self.session, pid = self.pid.as_raw_nonzero(), line, "real server says");
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
        self.last = Some(line);
    }

    fn has_room(&mut self) -> bool {
        let (room, since) = self.room;
        let grown = since.elapsed().as_millis() / LINE_INTERVAL.as_millis();
        let grown = u32::try_from(grown).unwrap_or(u32::MAX);
        let since = if grown == 0 { since } else { Instant::now() };
        let room = room.saturating_add(grown).min(MAX_LINES);
        self.room = (room.saturating_sub(1), since);
        room > 0
    }

    /// The last line, when there will be no more.
    fn end(&mut self) -> Option<String> {
        self.log();
        if self.left_out > 0 {
            tracing::info!(session = %self.session, lines = self.left_out, "real server said more");
        }
        self.last.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        let session = SessionId::from_random([7; 12]);
        Lines::new(session, Pid::from_raw(1).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_line_counts_ended_or_not() {
        for (said, last) in [
            (&[&b""[..]][..], None),
            (&[b"one\r\n"], Some("one")),
            (&[b"one\ntw", b"o"], Some("two")),
            (&[b"one\n\n", b" \n"], Some("one")),
            (&[b"\xff\n"], Some("\u{fffd}")),
        ] {
            let mut lines = lines();
            said.iter().for_each(|octets| lines.push(octets));
            assert_eq!(lines.end().as_deref(), last, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_cut_and_the_next_is_whole() {
        let mut lines = lines();
        let long = [b'x'; MAX_LINE_BYTES - 1];
        lines.push(&long);
        lines.push(b"yz");
        lines.push(&long);
        assert_eq!(lines.line.len(), MAX_LINE_BYTES);
        lines.push(b"\n");
        let last = lines.last.clone().unwrap();
        assert!(
            last.len() == MAX_LINE_BYTES && last.ends_with("xy"),
            "{last}"
        );
        lines.push(b"next\n");
        assert_eq!(lines.end().as_deref(), Some("next"));
    }

    #[tokio::test(start_paused = true)]
    async fn lines_have_a_rate() {
        let mut lines = lines();
        let many = |lines: &mut Lines, count| {
            lines.left_out = 0;
            (0..count).for_each(|_| lines.push(b"again\n"));
            lines.left_out
        };
        assert_eq!(many(&mut lines, 150), 50);
        tokio::time::advance(LINE_INTERVAL * 7).await;
        assert_eq!(many(&mut lines, 10), 3);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(many(&mut lines, 101), 1);
    }
}
