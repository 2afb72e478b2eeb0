//! The server: events of one connection, one after the other.
//!
//! Replies are written when the machine needs more input, not one by one: a pipelined envelope gets its answers in one piece.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};

use super::Timeouts;
use crate::{
    net::Stream,
    proto::lmtp::{Event, Reply, Server, Settings},
};

/// Read at one time, in octets.
const READ_BYTES: usize = 64 * 1024;

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
    in_message: bool,
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
            in_message: false,
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
                        self.write().await?;
                    }
                    self.in_message = matches!(event, Event::Body(_) | Event::Discard(_));
                    return Ok(event);
                }
            }
            self.write().await?;
            let limit = if self.in_message {
                self.timeouts.data
            } else {
                self.timeouts.command
            };
            self.input.reserve(READ_BYTES);
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

    /// Takes the pending recipient.
    pub fn accept_recipient(&mut self, recipient: R) {
        self.server.accept_recipient(recipient, &mut self.out);
    }

    /// Takes the message that is about to begin.
    pub fn accept_message(&mut self) {
        self.in_message = true;
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
