//! PigeonAir: an IMAP/POP3 redirecting proxy for mail clusters.
//!
//! Mailboxes live on many storage nodes; users and sending servers see one machine. The *front* process
//! authenticates a user against LDAP, resolves the user's *home* node, opens a proven *link* to it and then only
//! moves bytes. The *node* process admits links and hands each session to the real IMAP/POP3 server.
//!
//! # Words
//!
//! | word | meaning |
//! | --- | --- |
//! | front, node | the two processes: one faces the internet and the MTA, the other faces only links |
//! | proxy | the front's role that serves IMAP and POP3 clients |
//! | acceptor | the node's role that admits links and hands sessions to the real server |
//! | login | the name a client typed; it names nobody until the directory has answered |
//! | account | who that is: the directory's own name, home, uid and gid |
//! | home | the node that keeps an account's mailbox |
//! | link | the connection from front to node, proven by a shared key on both sides |
//! | context | what the front knows of user and client, sent when a link is opened |
//! | verdict | the node's answer to it |
//! | opening | what the real server says first on a session handed to it |
//! | denial | the answer to a client that is not served, in the words of its protocol |
//! | outcome | how a session ended, whose doing it was, and what it cost |
//!
//! # The house
//!
//! Dependencies point downward only, which `tests/tidy.rs` keeps by reading this picture: a row may use the rows below
//! it; within a row a name may use those to its left, but where arrows stand, those to its right; the stories (proxy,
//! acceptor) never use each other.
//!
//! ```text
//! main -> cli -> app -> config -> admin, log  start-up, commands, wiring, drain
//! proxy   acceptor                            the stories; each `serve` reads top to bottom
//! link    relay   handover                    dial / admit; splice or copy; start a real server
//! net   outcome   directory   nodes           sockets and TLS; how it ended; accounts; homes
//! proto                                       protocols as bytes in, events and bytes out
//! names   secret   metrics   tasks            words that cannot be invalid; secrets; counters; tasks
//! ```

pub mod acceptor;
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod directory;
pub mod handover;
pub mod link;
pub mod log;
pub mod metrics;
pub mod names;
pub mod net;
pub mod nodes;
pub mod outcome;
pub mod proto;
pub mod proxy;
pub mod relay;
pub mod secret;
pub mod tasks;
