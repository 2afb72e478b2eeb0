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
//! | follower | what hears of changes in the directory, so that sessions of changed accounts are *revoked* |
//! | generation | what is built from one configuration; a *reload* puts the next one in its place, and sessions go on |
//! | worker | a thread that serves sessions from accept to end, with an event loop of its own; one per core |
//! | link | the connection from front to node, proven by a shared key on both sides |
//! | successor | a process that takes a running one's place and its listening sockets; the one that is replaced *retires* |
//! | context | what the front knows of user and client, sent when a link is opened |
//! | verdict | the node's answer to it |
//! | opening | what the real server says first on a session handed to it |
//! | denial | the answer to a client that is not served, in the words of its protocol |
//! | order | what an administrator wants and has not taken back: an account *held*, a node or the front *drained* |
//! | seat | a session past login, as all see it that may end it |
//! | outcome | how a session ended, whose doing it was, and what it cost |
//!
//! # The house
//!
//! Dependencies point downward only, which `tests/tidy.rs` keeps by reading this picture: a row may use the rows below
//! it; within a row a name may use those to its left, but where arrows stand, those to its right; the stories (proxy,
//! acceptor, delivery, mailstore) never use each other.
//!
//! ```text
//! main -> cli -> app -> config -> admin, log  start-up, commands, wiring, drain
//! proxy  acceptor  delivery  mailstore        the stories; each `serve` reads top to bottom
//! link  relay  handover  lmtp  spool  store   dial / admit; splice or copy; start a real server; messages: move, hold, store
//! net  outcome  sessions  orders  directory  nodes  home  policy  defence   sockets, TLS; how it ended; who is on, what was ordered; accounts; their nodes, folders; may they try
//! proto                                       protocols as bytes in, events and bytes out
//! names   secret   metrics   tasks   user     words that cannot be invalid; secrets; counters; tasks; another user
//! ```

pub mod acceptor;
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod defence;
pub mod delivery;
pub mod directory;
pub mod handover;
pub mod home;
pub mod link;
pub mod lmtp;
pub mod log;
pub mod mailstore;
pub mod metrics;
pub mod names;
pub mod net;
pub mod nodes;
pub mod orders;
pub mod outcome;
pub mod policy;
pub mod proto;
pub mod proxy;
pub mod relay;
pub mod secret;
pub mod sessions;
pub mod spool;
pub mod store;
pub mod tasks;
pub mod user;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{config, proto};

    type Property = fn(&[u8]);

    /// The properties by the names of their fuzz targets.
    const TARGETS: [(&str, Property); 10] = [
        ("config", config::fuzz),
        ("content_sync", proto::content_sync::fuzz),
        ("encode", proto::encode::property),
        ("imap", proto::imap::fuzz),
        ("link", proto::link::fuzz),
        ("lmtp", proto::lmtp::fuzz),
        ("pop3", proto::pop3::fuzz),
        ("proxy_header", proto::proxy_header::fuzz),
        ("sasl", proto::sasl::fuzz),
        ("server", |data| {
            proto::login::fuzz(data);
            proto::pop3::login::fuzz(data);
            proto::opening::fuzz(data);
            proto::survey::fuzz(data);
        }),
    ];

    /// The names in a folder of `fuzz`, sorted.
    fn names(folder: &str) -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz")
            .join(folder);
        let mut names: Vec<_> = fs::read_dir(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_fuzz_target_has_a_corpus_that_is_replayed() {
        let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("corpus"), targets);
        let files: Vec<_> = targets.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names("fuzz_targets"), files);
    }

    #[test]
    fn the_corpora_hold_their_properties() {
        for (name, property) in TARGETS {
            let folder = format!("corpus/{name}");
            let files = names(&folder);
            assert!(files.len() > 3, "{folder} is too small");
            for file in files {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
                let octets = fs::read(path.join(&folder).join(&file)).unwrap();
                if std::panic::catch_unwind(|| property(&octets)).is_err() {
                    panic!("{folder}/{file} breaks its property");
                }
            }
        }
    }
}
