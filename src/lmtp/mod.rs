//! LMTP on sockets: the two halves of `proto::lmtp`, with deadlines.
//!
//! [`Transfer`] is the client: it brings messages over one connection, one after the other. [`Reception`] is the server: it
//! hands its caller one event after the other. Both write what the machine has to say before they wait, and read no more at a
//! time than fits the buffer.
//!
//! Who is a recipient, what becomes of a message and what is tried again is the caller's business. On failure: a
//! [`TransferError`] or an [`Interrupted`]; what is then known of a message's recipients, `Transfer::broken` says.

mod reception;
mod transfer;

use std::time::Duration;

pub use self::{
    reception::{Interrupted, Reception},
    transfer::{Begun, Transfer, TransferError},
};

/// How long each wait may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the next command, or for a reply to one; RFC 5321, 4.5.3.2 has 5 minutes.
    pub command: Duration,
    /// For the next octets of a message, or until some are taken; default 3 minutes.
    pub data: Duration,
    /// From the final dot to each reply; default 10 minutes (RFC 5321, 4.5.3.2.6).
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(300),
            data: Duration::from_secs(180),
            answer: Duration::from_secs(600),
        }
    }
}

#[cfg(test)]
mod tests;
