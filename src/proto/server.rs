//! The server half before login, of whichever protocol a listener speaks: one type for drivers that need not know which.
//!
//! It adds nothing to [`imap::Server`] and [`pop3::Server`]: each method is theirs, with their contract.

use bytes::BytesMut;

use super::{
    denial::Denial,
    imap, pop3,
    talk::{Bye, Channel, Closed, Event},
};
use crate::names::{Login, Protocol};

/// Limits of the conversation before login.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Of IMAP.
    pub imap: imap::Settings,
    /// Of POP3.
    pub pop3: pop3::Settings,
}

/// One client's conversation before login.
#[derive(Debug)]
pub enum Server {
    /// In IMAP.
    Imap(imap::Server),
    /// In POP3.
    Pop3(pop3::Server),
}

macro_rules! each {
    ($self:expr, $server:ident => $call:expr) => {
        match $self {
            Server::Imap($server) => $call,
            Server::Pop3($server) => $call,
        }
    };
}

impl Server {
    /// Begins a conversation in `protocol` on `channel`.
    pub fn new(protocol: Protocol, settings: Settings, channel: Channel) -> Self {
        match protocol {
            Protocol::Imap => Self::Imap(imap::Server::new(settings.imap, channel)),
            Protocol::Pop3 => Self::Pop3(pop3::Server::new(settings.pop3, channel)),
        }
    }

    /// Writes the greeting.
    pub fn greet(&mut self, out: &mut BytesMut) {
        each!(self, server => server.greet(out));
    }

    /// Reads what it uses of `input` and writes replies into `out`.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Event {
        each!(self, server => server.step(input, out))
    }

    /// Answers the pending credentials with a denial; `Some`: that was the last one.
    pub fn deny(&mut self, denial: Denial, out: &mut BytesMut) -> Option<Closed> {
        each!(self, server => server.deny(denial, out))
    }

    /// Answers the pending credentials: the client is logged in.
    pub fn accept(&mut self, capabilities: Option<&str>, out: &mut BytesMut) {
        match self {
            Self::Imap(server) => server.accept(capabilities, out),
            // POP3 names no capabilities there.
            Self::Pop3(server) => server.accept(out),
        }
    }

    /// TLS is up: nothing that was said before counts.
    pub fn encrypted(&mut self) {
        each!(self, server => server.encrypted());
    }

    /// TLS is up, and the client's certificate stands for this login, or for none.
    pub fn certified(&mut self, login: Option<Login>) {
        each!(self, server => server.certified(login));
    }

    /// Says why the driver closes now.
    pub fn bye(&mut self, bye: Bye, out: &mut BytesMut) {
        each!(self, server => server.bye(bye, out));
    }
}
