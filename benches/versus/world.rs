//! What all ways have in common: slapd with the accounts, the Dovecot nodes, a certificate.
//!
//! Accounts are `u000000` and on, even ones at home on the first node and odd ones on the second, all with the mail uid
//! [`MAIL_UID`]; and [`OWN_UIDS`] more, `p000000` and on, each with a uid of its own, on the third node. The third Dovecot
//! starts a process per session, since its processes can't change from one uid to the next; the first two use theirs again.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::processes::{Group, Program};

pub(crate) const LDAP_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 9);
pub(crate) const LDAP_PORT: u16 = 10389;
pub(crate) const PEOPLE: &str = "ou=people,dc=example,dc=org";
/// May read everything, hashes included.
pub(crate) const SERVICE_DN: &str = "cn=pigeonair,ou=services,dc=example,dc=org";
pub(crate) const SERVICE_PASSWORD: &str = "password-of-the-service";
/// Of every account.
pub(crate) const PASSWORD: &str = "secret";
/// Who may log in as anybody at the nodes.
pub(crate) const MASTER_USER: &str = "acceptor";
pub(crate) const MASTER_PASSWORD: &str = "password-of-the-acceptor";
pub(crate) const MAIL_UID: u32 = 20_000;
/// Accounts with a uid of their own; the first has the uid after [`MAIL_UID`].
pub(crate) const OWN_UIDS: usize = 500;

/// A running Dovecot.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    /// Where it listens, on the ports [`super::way::IMAP`] and [`super::way::POP3`]; also the value of `mailHost`.
    pub(crate) ip: Ipv4Addr,
    /// Its socket for sessions that are passed to it.
    pub(crate) imap_master: PathBuf,
    /// What its `imap` and `pop3` are started with by others.
    pub(crate) exec_conf: PathBuf,
    /// All homes of the node lie below it.
    pub(crate) home_root: PathBuf,
    pub(crate) group: Group,
}

/// All that runs.
pub(crate) struct World {
    dir: tempfile::TempDir,
    /// Two for the accounts of the mail uid, one for the others.
    pub(crate) nodes: [Node; 3],
    /// How many `u…` there are.
    pub(crate) accounts: usize,
    programs: Vec<Program>,
}

impl World {
    /// Starts it all and waits until it serves.
    pub(crate) fn start(accounts: usize) -> Self {
        let _ = accounts;
        todo!()
    }

    /// A new folder of this name for somebody's files, mode 0755.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let _ = name;
        todo!()
    }

    /// A certificate with a P-256 key, for every way alike: chain and key in PEM, in two files.
    pub(crate) fn certificate(&self) -> (&Path, &Path) {
        todo!()
    }
}

/// The name of an account of the mail uid.
pub(crate) fn user(number: usize) -> String {
    format!("u{number:06}")
}

/// The name of an account with a uid of its own.
pub(crate) fn user_with_own_uid(number: usize) -> String {
    format!("p{number:06}")
}
