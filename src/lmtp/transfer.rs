//! The client: messages over one connection, one after the other.
//!
//! ```text
//! greet ─> Transfer ─begin─┬─> Done(fates) ─────────────────────────> Transfer, if `is_open`
//!                          └─> Data ─body, body, finish─> fates ────> Transfer, if `is_open`
//! ```
//!
//! A message is written as it comes: what the server does not take in time ends it ([`Timeouts::data`]). While a message is
//! written the server may speak too; that is heard behind the dot.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};

use super::Timeouts;
use crate::{
    net::Stream,
    proto::lmtp::{
        Client, ClientError, Envelope, Fate, Recipient, SendError,
        client::{Settings, Step},
    },
};

/// Read at one time, in octets.
const READ_BYTES: usize = 4096;

/// Less of a message than that waits for more of it: one that comes in small pieces costs no write for each.
const WRITE_BYTES: usize = 16 * 1024;

/// Why a connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The server closed it.
    #[error("server closed the connection")]
    Closed,
    /// The connection failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// The server does not keep to the protocol, or refuses to serve.
    #[error(transparent)]
    Protocol(#[from] ClientError),
    /// This message can't be sent to this server; nothing was.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The server took too long.
    #[error("server did not answer in time")]
    TimedOut,
}

/// How a message began.
#[derive(Debug)]
pub enum Begun {
    /// The server takes it: `body`, then `finish`.
    Data,
    /// It is done with before its octets: one fate for each recipient.
    Done(Vec<Fate>),
}

/// One connection to a server.
#[derive(Debug)]
pub struct Transfer {
    stream: Stream,
    client: Client,
    timeouts: Timeouts,
    input: BytesMut,
    out: BytesMut,
}

impl Transfer {
    /// Hears the greeting and says LHLO.
    ///
    /// # Errors
    ///
    /// When the server does not become ready.
    pub async fn greet(
        stream: Stream,
        settings: Settings,
        timeouts: Timeouts,
    ) -> Result<Self, TransferError> {
        let mut transfer = Self {
            stream,
            client: Client::new(settings),
            timeouts,
            input: BytesMut::new(),
            out: BytesMut::new(),
        };
        match transfer.step(Instant::now() + timeouts.command).await? {
            Step::Ready => Ok(transfer),
            Step::Data | Step::Done(_) | Step::More => Err(TransferError::Closed),
        }
    }

    /// Sends the envelope.
    ///
    /// # Errors
    ///
    /// [`TransferError::Send`] leaves the connection as it was; behind every other one, ask `broken`.
    pub async fn begin(&mut self, envelope: Envelope<Recipient>) -> Result<Begun, TransferError> {
        self.client.send(envelope, &mut self.out)?;
        match self.step(Instant::now() + self.timeouts.command).await? {
            Step::Data => Ok(Begun::Data),
            Step::Done(fates) => Ok(Begun::Done(fates)),
            Step::More | Step::Ready => Err(TransferError::Closed),
        }
    }

    /// Sends some of the message; a little may wait for the next call or for `finish`.
    ///
    /// # Errors
    ///
    /// The message is broken: ask `broken`.
    pub async fn body(&mut self, octets: &[u8]) -> Result<(), TransferError> {
        self.client.body(octets, &mut self.out);
        if self.out.len() < WRITE_BYTES {
            return Ok(());
        }
        self.write(Instant::now() + self.timeouts.data).await
    }

    /// Ends the message and hears what became of it: one fate for each recipient.
    ///
    /// # Errors
    ///
    /// Nobody knows what became of it: ask `broken`.
    pub async fn finish(&mut self) -> Result<Vec<Fate>, TransferError> {
        self.client.finish(&mut self.out);
        match self.step(Instant::now() + self.timeouts.answer).await? {
            Step::Done(fates) => {
                // A connection that waits for its next message holds nothing of the last one.
                (self.input, self.out) = (BytesMut::new(), BytesMut::new());
                Ok(fates)
            }
            Step::Data | Step::More | Step::Ready => Err(TransferError::Closed),
        }
    }

    /// Whether another message may be sent.
    pub fn is_open(&self) -> bool {
        self.client.is_open()
    }

    /// The connection is over: one fate for each recipient of the message that was on its way.
    pub fn broken(self) -> Vec<Fate> {
        self.client.broken()
    }

    /// Says QUIT, if that can be done at once.
    pub async fn quit(mut self) {
        self.client.quit(&mut self.out);
        let deadline = Instant::now() + std::time::Duration::from_secs(1);
        // Nothing depends on it.
        let _ = timeout_at(deadline, async {
            self.stream.write_all(&self.out).await?;
            self.stream.shutdown().await
        })
        .await;
    }

    /// Until the machine has something to tell.
    async fn step(&mut self, deadline: Instant) -> Result<Step, TransferError> {
        loop {
            let step = self.client.step(&mut self.input, &mut self.out)?;
            self.write(deadline).await?;
            if step != Step::More {
                return Ok(step);
            }
            self.input.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.input);
            let read = timeout_at(deadline, read)
                .await
                .map_err(|_| TransferError::TimedOut)??;
            if read == 0 {
                return Err(TransferError::Closed);
            }
        }
    }

    async fn write(&mut self, deadline: Instant) -> Result<(), TransferError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all_buf(&mut self.out).await?;
            self.stream.flush().await
        };
        timeout_at(deadline, write)
            .await
            .map_err(|_| TransferError::TimedOut)?
            .map_err(TransferError::Io)
    }
}
