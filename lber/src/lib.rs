//! BER as LDAP uses it (RFC 4511, 5.1): values into octets, and octets that a server sent into values, within limits.
//!
//! It stands in for the crate `lber`, which the LDAP client `ldap3` is built on, and has as much of its interface as that needs. That
//! crate's parser calls itself for each level that a server nests, without a limit, so that a few thousand octets of an
//! answer end the process, and waits for more octets where a nested value claims to be longer than what it is in. Here both
//! are errors, which end the connection.
//!
//! [`parse`] has the limits. There are none on what is written: that is ours.

pub mod common;
pub mod parse;
pub mod structure;
pub mod structures;
pub mod universal;
pub mod write;

pub use nom::{Err, IResult};
pub use parse::Parser;
