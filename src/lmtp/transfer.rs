//! The client: messages over one connection, one after the other.
//!
//! ```text
//! greet ─> Transfer ─begin─┬─> Done(fates) ─────────────────────────> Transfer, if `is_open`
//!                          └─> Data ─body, body, finish─> fates ────> Transfer, if `is_open`
//! ```
//!
//! A message is written as it comes: what the server does not take in time ends it ([`Timeouts::data`]). What the server says
//! meanwhile is heard at once. A reply before the dot is its last word: the rest of the message is dropped, and `finish` tells
//! what it said. A server that closes in the middle may have said why just before, which is read before that is given up.
//!
//! Limits: less than 16 KiB of a message wait for more of it; between messages hardly anything is held.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
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

/// For a reason that a server which has closed may have left behind, and for QUIT.
const SHORT: Duration = Duration::from_secs(1);

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

/// What came first while a message was written.
enum Exchange {
    Heard,
    Written,
}

/// One connection to a server.
#[derive(Debug)]
pub struct Transfer {
    stream: Stream,
    client: Client,
    timeouts: Timeouts,
    input: BytesMut,
    out: BytesMut,
    /// What became of the message on its way, if the server has said so before the dot.
    early: Option<Vec<Fate>>,
    /// Something was said that nobody had asked for.
    is_spoiled: bool,
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
            early: None,
            is_spoiled: false,
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
        // What was heard together with the reply to DATA waits in the input.
        if self.early.is_some() || !self.input.is_empty() && self.hears_the_end()? {
            return Ok(());
        }
        self.client.body(octets, &mut self.out);
        if self.out.len() < WRITE_BYTES {
            return Ok(());
        }
        let deadline = Instant::now() + self.timeouts.data;
        let error = loop {
            let exchange = poll_fn(|cx| self.poll_exchange(cx));
            match timeout_at(deadline, exchange).await {
                Ok(Ok(Exchange::Written)) => return Ok(()),
                Ok(Ok(Exchange::Heard)) if self.hears_the_end()? => return Ok(()),
                Ok(Ok(Exchange::Heard)) => {}
                Ok(Err(error)) => break error,
                Err(_) => return Err(TransferError::TimedOut),
            }
        };
        if self.last_words().await {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Ends the message and hears what became of it: one fate for each recipient.
    ///
    /// # Errors
    ///
    /// Nobody knows what became of it: ask `broken`.
    pub async fn finish(&mut self) -> Result<Vec<Fate>, TransferError> {
        if let Some(fates) = self.early.take() {
            return Ok(fates);
        }
        self.client.finish(&mut self.out);
        match self.step(Instant::now() + self.timeouts.answer).await? {
            Step::Done(fates) => {
                // What nobody asked for would be taken for the next message's replies.
                self.is_spoiled |= !self.input.is_empty();
                // A connection that waits for its next message holds nothing of the last one.
                (self.input, self.out) = (BytesMut::new(), BytesMut::new());
                Ok(fates)
            }
            Step::Data | Step::More | Step::Ready => Err(TransferError::Closed),
        }
    }

    /// Whether it takes MAIL's and RCPT's private parameter.
    pub fn takes_private(&self) -> bool {
        self.client.takes_private()
    }

    /// Whether it takes addresses that are not ASCII.
    pub fn takes_utf8(&self) -> bool {
        self.client.takes_utf8()
    }

    /// Whether another message may be sent.
    pub fn is_open(&self) -> bool {
        self.client.is_open() && !self.is_spoiled
    }

    /// The connection is over: one fate for each recipient of the message that was on its way.
    pub fn broken(self) -> Vec<Fate> {
        self.early.unwrap_or_else(|| self.client.broken())
    }

    /// Room for octets, in both directions.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.input.capacity().saturating_add(self.out.capacity())
    }

    /// Says QUIT, if that can be done at once.
    pub async fn quit(mut self) {
        self.client.quit(&mut self.out);
        let deadline = Instant::now() + SHORT;
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

    /// Writes and listens until all is written, or something was heard. A server may say its last word before it has read
    /// everything, and then read no more.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exchange, TransferError>> {
        let stream = &mut self.stream;
        let mut space = [0; READ_BYTES];
        let mut heard = ReadBuf::new(&mut space);
        if Pin::new(&mut *stream).poll_read(cx, &mut heard)?.is_ready() {
            self.input.extend_from_slice(heard.filled());
            return Poll::Ready(if heard.filled().is_empty() {
                Err(TransferError::Closed)
            } else {
                Ok(Exchange::Heard)
            });
        }
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(TransferError::Closed));
            }
            self.out.advance(written);
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        Poll::Ready(Ok(Exchange::Written))
    }

    /// Whether what was heard in the middle of a message is the end of it.
    fn hears_the_end(&mut self) -> Result<bool, TransferError> {
        match self.client.step(&mut self.input, &mut self.out)? {
            Step::Done(fates) => {
                self.early = Some(fates);
                (self.input, self.out) = (BytesMut::new(), BytesMut::new());
                Ok(true)
            }
            Step::More => Ok(false),
            Step::Data | Step::Ready => Err(TransferError::Closed),
        }
    }

    /// Whether a server that takes no more had said why.
    async fn last_words(&mut self) -> bool {
        let deadline = Instant::now() + SHORT;
        loop {
            if let Ok(true) | Err(_) = self.hears_the_end() {
                return self.early.is_some();
            }
            let read = self.stream.read_buf(&mut self.input);
            if !matches!(timeout_at(deadline, read).await, Ok(Ok(1..))) {
                return false;
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
