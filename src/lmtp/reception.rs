//! The server: events of one connection, one after the other.
//!
//! Replies are written when the machine needs more input, not one by one: a pipelined envelope gets its answers in one piece.
//!
//! Limits: 64 KiB read at one time inside a message and 4 KiB between messages, so that a connection which only waits holds
//! little, and so that what is answered in one piece is bounded too.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};

use super::Timeouts;
use crate::{
    net::Stream,
    proto::lmtp::{Envelope, Event, Reply, Server, Settings},
};

/// Read at one time inside a message, in octets.
const READ_BYTES: usize = 64 * 1024;

/// Read at one time between messages.
const READ_IDLE_BYTES: usize = 4 * 1024;

/// Why a conversation ended without QUIT.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The client closed the connection.
    #[error("client closed the connection")]
    Closed,
    /// The connection failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// The client was silent for too long, or took too long to read.
    #[error("client is too slow")]
    TimedOut,
}

/// One client's conversation.
#[derive(Debug)]
pub struct Reception<R> {
    stream: Stream,
    server: Server<R>,
    timeouts: Timeouts,
    input: BytesMut,
    out: BytesMut,
}

impl<R> Reception<R> {
    /// Begins a conversation: the greeting is written with the first wait.
    pub fn new(stream: Stream, settings: Settings, timeouts: Timeouts) -> Self {
        let mut server = Server::new(settings);
        let mut out = BytesMut::new();
        server.greet(&mut out);
        Self {
            stream,
            server,
            timeouts,
            input: BytesMut::new(),
            out,
        }
    }

    /// The next event; never [`Event::More`]. An answer that it asks for is given before the next call. A call that is
    /// dropped while it waits has taken nothing.
    ///
    /// # Errors
    ///
    /// The conversation is over.
    pub async fn next(&mut self) -> Result<Event<R>, Interrupted> {
        loop {
            match self.server.step(&mut self.input, &mut self.out) {
                Event::More => {}
                event => {
                    if matches!(event, Event::Close(_)) {
                        // It may have gone with its QUIT.
                        let _ = self.write().await;
                    }
                    return Ok(event);
                }
            }
            self.write().await?;
            let (limit, most) = if self.server.is_in_message() {
                (self.timeouts.data, READ_BYTES)
            } else {
                if self.input.is_empty() && self.input.capacity() > READ_IDLE_BYTES {
                    self.input = BytesMut::new();
                }
                (self.timeouts.command, READ_IDLE_BYTES)
            };
            self.input.reserve(most);
            let read = timeout_at(
                Instant::now() + limit,
                self.stream.read_buf(&mut self.input),
            )
            .await
            .map_err(|_| Interrupted::TimedOut)??;
            if read == 0 {
                return Err(Interrupted::Closed);
            }
        }
    }

    /// The envelope of the pending recipient.
    pub fn envelope(&self) -> Option<&Envelope<R>> {
        self.server.envelope()
    }

    /// Takes the pending recipient.
    pub fn accept_recipient(&mut self, recipient: R) {
        self.server.accept_recipient(recipient, &mut self.out);
    }

    /// Takes the message that is about to begin.
    pub fn accept_message(&mut self) {
        self.server.accept_message(&mut self.out);
    }

    /// Refuses the pending recipient or message.
    pub fn refuse(&mut self, reply: &Reply) {
        self.server.refuse(reply, &mut self.out);
    }

    /// Says what became of the message for the next recipient.
    pub fn answer(&mut self, reply: &Reply) {
        self.server.answer(reply, &mut self.out);
    }

    /// Says that it is over, for a reason of ours; as RFC 5321, 3.8 has it, by a 421 at any time.
    pub async fn bye(mut self, reply: &Reply) {
        reply.write(&mut self.out);
        // It is over, whether it was heard or not.
        let _ = self.write().await;
    }

    /// Room for octets, in both directions.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.input.capacity().saturating_add(self.out.capacity())
    }

    /// Writes what there is to write.
    ///
    /// # Errors
    ///
    /// The conversation is over.
    pub async fn write(&mut self) -> Result<(), Interrupted> {
        if self.out.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all_buf(&mut self.out).await?;
            self.stream.flush().await
        };
        timeout_at(Instant::now() + self.timeouts.command, write)
            .await
            .map_err(|_| Interrupted::TimedOut)?
            .map_err(Interrupted::Io)
    }
}
