//! LMTP, both halves: how a message goes from the MTA to its home (RFC 2033).
//!
//! LMTP is SMTP for mailboxes: it has no queue behind it, so behind the final dot there is one reply for each recipient, and
//! each is the last word. The [`Server`] takes messages from an MTA or out of a link; the [`Client`] hands them to a node or to
//! the real server there. Both stream: neither holds more of a message than what lies in its caller's buffers.
//!
//! | module | what |
//! | --- | --- |
//! | `server`, [`client`] | the two halves |
//! | `command` | commands and their parameters; [`Envelope`] |
//! | `address` | addresses |
//! | `body` | the message: dots, the final one, and what does not end it |
//! | `reply`, `cause` | replies, and why something is refused |
//! | `lines` | lines, with a limit |
//!
//! It does not know accounts, homes or files, look into messages, or keep time.
//! Offered: 8BITMIME, ENHANCEDSTATUSCODES, PIPELINING, SIZE, SMTPUTF8. Limits and failures: each half tells its own.

mod address;
mod body;
mod cause;
pub mod client;
mod command;
mod lines;
#[cfg(any(fuzzing, test))]
mod property;
mod reply;
mod server;
#[cfg(test)]
mod tests;

#[cfg(any(fuzzing, test))]
pub use self::property::fuzz;
pub use self::{
    address::{Address, AddressError, MAX_PATH_BYTES},
    body::LineEnds,
    cause::Cause,
    client::{Client, ClientError, Fate, SendError},
    command::{Body, Envelope, Recipient},
    reply::{Class, Reply, ReplyError},
    server::{Closed, Event, Server, Settings},
};
