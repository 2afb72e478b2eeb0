//! Protocols without I/O: bytes and events in, bytes and events out.
//!
//! Nothing below this module touches a socket, a clock, randomness or a log; nonces and limits are arguments. A parser
//! that has not seen enough says so and consumes nothing it will need again; what it does not need it leaves in the
//! caller's buffer, so that octets a peer sent early are handed on, never lost.
//!
//! | module | protocol |
//! | --- | --- |
//! | [`framing`] | lines and literals, with limits |
//! | [`imap`] | IMAP before login, server half |
//! | [`pop3`] | POP3 before login, server half; [`pop3::login`], client half |
//! | [`lmtp`] | LMTP, both halves |
//! | [`sasl`] | PLAIN and LOGIN, server half; PLAIN, client half |
//! | [`denial`] | why a client is not served, in each protocol's words |
//! | [`content_sync`] | what an LDAP server says beside the entries of a search that follows changes |
//! | [`link`] | the link between front and node, both halves |
//! | [`encode`] | what is written into real servers' protocols, one encoder per form |
//! | [`proxy_header`] | the PROXY protocol's header, versions 1 and 2 |
//! | [`template`] | arguments and environment of a server that is started |
//! | [`reply`] | replies of a real IMAP server, one at a time |
//! | [`login`] | logging in to a real IMAP server, client half |
//! | [`opening`] | what a real server says first on a session handed to it |
//! | [`server`] | IMAP or POP3 before login, as one type |
//! | [`survey`] | what a real server says of itself before a login, client half |
//! | [`talk`] | what IMAP and POP3 before login have in common |

pub mod content_sync;
#[cfg(any(fuzzing, test))]
mod conversation;
pub mod denial;
pub mod encode;
pub mod framing;
pub mod imap;
pub mod link;
pub mod lmtp;
pub mod login;
pub mod opening;
pub mod pop3;
pub mod proxy_header;
pub mod reply;
pub mod sasl;
#[cfg(test)]
#[path = "../../tests/transcripts/mod.rs"]
mod script;
pub mod server;
pub mod survey;
pub mod talk;
pub mod template;
#[cfg(test)]
mod transcript;
