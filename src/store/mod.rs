//! Writing messages into Maildirs, durably, as their owners.

use std::io;

use crate::{
    home::{Bounds, HomeError},
    names::{AccountName, SessionId},
    proto::lmtp::Cause,
    spool::Spooled,
};

/// How messages are stored.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What accounts may ask for.
    pub bounds: Bounds,
    /// The Maildir, relative to the home; `.` is the home itself; default `Maildir`.
    pub folder: String,
    /// Threads that store, so many messages at a time; default 16.
    pub threads: usize,
    /// Whether mail for a full mailbox is refused for good (552 5.2.2) or stays in the MTA's queue (452 4.2.2, the default).
    pub over_quota_is_permanent: bool,
}

/// Writes messages. Clones share the threads.
#[derive(Clone, Debug)]
pub struct Store {}

/// Whose message it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The account.
    pub account: AccountName,
    /// Its uid.
    pub uid: u32,
    /// Its gid.
    pub gid: u32,
    /// Its home: absolute, or relative to `home_root`.
    pub home: String,
    /// Its quota in octets.
    pub quota: Option<u64>,
}

/// A message for one owner.
#[derive(Clone, Debug)]
pub struct Message {
    /// The delivery's id, for logs.
    pub session: SessionId,
    /// The sender as in a command, without `<` and `>`; empty for none: `Return-Path`.
    pub sender: String,
    /// The recipient as in a command: `Delivered-To`.
    pub recipient: String,
    /// Its octets, lines ending in CRLF.
    pub octets: Spooled,
}

/// Why messages can't be stored as configured.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread can't be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Why a message was not stored. Nothing of it is in `new`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The owner is outside the node's bounds.
    #[error("{0}")]
    Bounds(&'static str),
    /// The home can't be used.
    #[error("home is not usable")]
    Home(#[from] HomeError),
    /// The system failed.
    #[error("cannot store")]
    Io(#[from] io::Error),
}

impl Store {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// Whatever keeps messages from being stored.
    pub fn start(_settings: Settings) -> Result<Self, StartError> {
        Ok(Self {})
    }

    /// Stores a message: when it returns well, file and folder are on disk.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn deliver(&self, _owner: Owner, _message: Message) -> Result<(), StoreError> {
        Err(StoreError::Io(io::ErrorKind::Unsupported.into()))
    }
}

impl StoreError {
    /// What the MTA hears.
    pub const fn cause(&self) -> Cause {
        Cause::Failed
    }
}
