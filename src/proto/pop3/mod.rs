//! POP3 before login, server half: from the greeting to credentials, or to the end.
//!
//! A [`Server`] answers CAPA, STLS and QUIT itself; USER with PASS, and AUTH (PLAIN, LOGIN, EXTERNAL), end in
//! [`Event::Credentials`], which its driver answers by [`Server::accept`] or [`Server::deny`]. What the client sends
//! behind its credentials stays in the input, in order, for whoever speaks to it next.
//!
//! It does not check passwords, measure time (the driver says [`Server::bye`]), keep anything over STLS, or know APOP:
//! the greeting has no timestamp. Its capability list is true for this conversation, and says TOP, UIDL and PIPELINING
//! for the server behind, as clients ask only once.
//!
//! ```text
//!                            PASS, initial response
//!                     ┌─────────────────────────────────┐
//!  greet   ┌───────────────┐ AUTH  ┌──────────┐         └>┌─────────┐ accept
//!  ───────>│ Command, name │──────>│ Exchange │──────────>│ Pending │───────> Accepted
//!          └───────────────┘<──────└──────────┘           └─────────┘
//!           │  ^ USER └┘   ^   cancel, bad response            │ deny
//!      STLS │  │           └───────────────────────────────────┘
//!           v  │ encrypted
//!         Handshake        QUIT, a limit (from Command, Exchange, Pending) ───> Closed
//! ```
//!
//! Limits: [`Settings`]; ten answers "not now" (`deny`); at most some 32 octets written per octet read.
//! RFC 1939 (POP3), RFC 2449 (CAPA, response codes), RFC 2595 (STLS), RFC 3206 (AUTH and SYS codes), RFC 5034 (AUTH).
//! On failure: `-ERR`, counted, then the end; at once where nobody knows where the next command begins (`broken`). A
//! command has one reply, so the last one before the end says why. The transcripts in `tests` walk all edges.

mod command;
pub mod login;
#[cfg(any(fuzzing, test))]
mod property;
#[cfg(test)]
mod tests;

use std::{fmt::Write as _, mem};

use bytes::BytesMut;

#[cfg(any(fuzzing, test))]
pub use property::fuzz;

use self::command::{Command, CommandError};
use super::{
    denial::Denial,
    framing::{self, Frame, FrameError, Limits, Reader},
    sasl::{Exchange, SaslError, Turn},
    talk::{self, Bye, Channel, Closed, Credentials, Event, Mechanism, Patience},
};
use crate::{names::Login, secret::Secret};

/// For a name that nobody can have (empty, over 255 octets, not UTF-8, with a control character): it is answered without
/// a look-up, for the answer tells nothing but what the client sent, and counts as a bad command, not as an attempt.
const NO_NAME: &str = "[AUTH] This is not a user name.";

/// Limits of the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Longest line, its end included, in octets; default 4096. RFC 2449, 4 asks for 255; a name of 255 octets and a
    /// response of AUTH need more.
    pub max_line_bytes: usize,
    /// Commands before a login; default 100.
    pub max_commands: u32,
    /// Bad commands before the end; default 10.
    pub max_bad_commands: u32,
    /// Failed logins before the end; default 3.
    pub max_attempts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_line_bytes: 4096,
            max_commands: 100,
            max_bad_commands: 10,
            max_attempts: 3,
        }
    }
}

/// One client's conversation.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    channel: Channel,
    reader: Reader,
    state: State,
    patience: Patience,
    /// Whom the client's certificate stands for.
    certified: Option<Login>,
}

#[derive(Debug)]
enum State {
    /// Logged in: the client's octets are not ours any more.
    Accepted,
    Closed(Closed),
    /// Reads commands; the name is there if the last one was USER.
    Command(Option<Login>),
    /// Reads responses of AUTH.
    Exchange(Exchange),
    /// STLS was answered: nothing is read until `encrypted`.
    Handshake,
    /// Credentials are with the driver: nothing is read until `accept` or `deny`.
    Pending,
}

impl Server {
    /// Begins a conversation on `channel`.
    pub fn new(settings: Settings, channel: Channel) -> Self {
        Self {
            settings,
            channel,
            reader: Reader::new(Limits {
                max_line_bytes: settings.max_line_bytes,
                max_literal_bytes: 0,
            }),
            state: State::Command(None),
            patience: Patience::default(),
            certified: None,
        }
    }

    /// Writes the greeting.
    pub fn greet(&mut self, out: &mut BytesMut) {
        ok(out, "PigeonAir ready.");
    }

    /// Reads what it uses of `input`, overwriting it, and writes replies into `out`.
    ///
    /// After `More` the input is empty. After `Credentials` it holds what the client sent behind them; until they are
    /// answered a further call reads nothing. After `Close` and `StartTls` the input is wiped and empty; a further call
    /// says the same again.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Event {
        loop {
            let event = match &self.state {
                State::Accepted | State::Pending => return Event::More,
                State::Closed(closed) => Some(Event::Close(*closed)),
                State::Handshake => Some(Event::StartTls),
                State::Command(_) | State::Exchange(_) => self.line(input, out),
            };
            if let Some(event) = event {
                if matches!(event, Event::Close(_) | Event::StartTls) {
                    // What was sent in clear behind STLS must never be seen as sent under TLS.
                    framing::consume(input, usize::MAX);
                }
                return event;
            }
        }
    }

    /// Answers the pending credentials with `-ERR`. When it says `Some`, that was the last one: close. Without pending
    /// credentials it does nothing.
    pub fn deny(&mut self, denial: Denial, out: &mut BytesMut) -> Option<Closed> {
        if !matches!(self.state, State::Pending) {
            return None;
        }
        err(out, denial.pop3());
        self.state = State::Command(None);
        if !self.patience.denied(denial, self.settings.max_attempts) {
            return None;
        }
        self.state = State::Closed(Closed::Attempts);
        Some(Closed::Attempts)
    }

    /// Answers the pending credentials with `+OK`. POP3 names no capabilities here: a client that wants those of this
    /// session asks the real server. Without pending credentials it does nothing.
    pub fn accept(&mut self, out: &mut BytesMut) {
        if matches!(self.state, State::Pending) {
            ok(out, "Logged in.");
            self.state = State::Accepted;
        }
    }

    /// Begins again, on a channel that is encrypted now: nothing that was said before counts (RFC 2595, 4), a name
    /// neither.
    pub fn encrypted(&mut self) {
        *self = Self::new(
            self.settings,
            Channel {
                encrypted: true,
                ..self.channel
            },
        );
    }

    /// The client's certificate was verified and stands for this login, or for none: with one, EXTERNAL is offered.
    pub fn certified(&mut self, login: Option<Login>) {
        self.certified = login.filter(|_| self.channel.encrypted);
    }

    /// Says why the driver closes now; as the greeting, or at any time before `accept`.
    pub fn bye(&mut self, bye: Bye, out: &mut BytesMut) {
        if let Some(words) = bye.pop3() {
            err(out, words);
        }
    }

    fn line(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Option<Event> {
        let message = match self.reader.read_line(input) {
            Ok(Frame::Incomplete) => return Some(Event::More),
            Ok(Frame::Message(message)) => message,
            // Lines have no literals.
            Ok(Frame::Offer) => return None,
            Err(error) => return Some(self.broken(error, out)),
        };
        match mem::replace(&mut self.state, State::Command(None)) {
            State::Command(name) => self.perform(name, message.octets(), out),
            State::Exchange(exchange) => self.turn(exchange.respond(message.octets()), out),
            // `step` reads in no other state.
            state @ (State::Accepted | State::Closed(_) | State::Handshake | State::Pending) => {
                self.state = state;
                None
            }
        }
    }

    fn perform(&mut self, name: Option<Login>, line: &[u8], out: &mut BytesMut) -> Option<Event> {
        if self.patience.command(self.settings.max_commands) {
            err(out, "Too many commands before a login.");
            return Some(self.close(Closed::Misbehaved("commands")));
        }
        match Command::parse(line) {
            Ok(Command::Auth(None)) => {
                self.list_mechanisms(out);
                None
            }
            Ok(Command::Auth(Some((mechanism, initial)))) => {
                self.authenticate(mechanism, initial, out)
            }
            Ok(Command::Capa) => {
                self.list_capabilities(out);
                None
            }
            Ok(Command::Quit) => {
                ok(out, "Logging out.");
                Some(self.close(Closed::Logout))
            }
            Ok(Command::Stls) => self.stls(out),
            Ok(Command::Pass(_) | Command::User(_)) if !self.channel.takes_passwords() => {
                self.refuse(Denial::PrivacyRequired.pop3(), out)
            }
            Ok(Command::Pass(password)) => self.pass(name, password, out),
            Ok(Command::User(name)) => self.user(name, out),
            Err(CommandError::Arguments) => self.refuse("Wrong arguments.", out),
            Err(CommandError::Unknown) if talk::is_http(line) => {
                err(out, "This is POP3.");
                Some(self.close(Closed::Misbehaved("http")))
            }
            Err(CommandError::Unknown) => self.refuse("Unknown command, or not before login.", out),
        }
    }

    /// RFC 2449, 5 and 6. What is not true here is not listed.
    fn list_capabilities(&self, out: &mut BytesMut) {
        ok(out, "Capability list follows.");
        for always in ["TOP", "UIDL", "RESP-CODES", "PIPELINING", "AUTH-RESP-CODE"] {
            line(out, format_args!("{always}"));
        }
        if self.channel.starttls && !self.channel.encrypted {
            line(out, format_args!("STLS"));
        }
        if self.channel.takes_passwords() {
            line(out, format_args!("USER"));
            let external = self.certified.as_ref().map_or("", |_| " EXTERNAL");
            line(out, format_args!("SASL PLAIN LOGIN{external}"));
        }
        line(out, format_args!("."));
    }

    /// AUTH without a mechanism: not in RFC 5034, but older clients ask that way.
    fn list_mechanisms(&self, out: &mut BytesMut) {
        ok(out, "Mechanisms follow.");
        if self.channel.takes_passwords() {
            line(out, format_args!("PLAIN"));
            line(out, format_args!("LOGIN"));
        }
        if self.certified.is_some() {
            line(out, format_args!("EXTERNAL"));
        }
        line(out, format_args!("."));
    }

    fn stls(&mut self, out: &mut BytesMut) -> Option<Event> {
        if self.channel.encrypted || !self.channel.starttls {
            return self.refuse("STLS is not possible here.", out);
        }
        ok(out, "Begin TLS negotiation now.");
        self.state = State::Handshake;
        Some(Event::StartTls)
    }

    /// The name is not looked up yet, so this says nothing of whether it exists (RFC 1939, 13).
    fn user(&mut self, name: &[u8], out: &mut BytesMut) -> Option<Event> {
        let Ok(login) = Login::from_bytes(name) else {
            return self.refuse(NO_NAME, out);
        };
        ok(out, "And the password?");
        self.state = State::Command(Some(login));
        None
    }

    fn pass(&mut self, name: Option<Login>, password: &[u8], out: &mut BytesMut) -> Option<Event> {
        let Some(login) = name else {
            return self.refuse("USER comes first.", out);
        };
        Some(self.pend(Credentials {
            login,
            authorize: None,
            password: Secret::new(password.to_vec()),
            mechanism: Mechanism::Command,
        }))
    }

    fn authenticate(
        &mut self,
        mechanism: &[u8],
        initial: Option<&[u8]>,
        out: &mut BytesMut,
    ) -> Option<Event> {
        let Some(exchange) = Exchange::with_certificate(mechanism, self.certified.as_ref()) else {
            return self.refuse("Unknown mechanism.", out);
        };
        if !self.channel.takes_passwords() {
            return self.refuse(Denial::PrivacyRequired.pop3(), out);
        }
        self.turn(exchange.start(initial), out)
    }

    fn turn(&mut self, turn: Result<Turn, SaslError>, out: &mut BytesMut) -> Option<Event> {
        let refusal = match turn {
            Ok(Turn::Challenge(text, exchange)) => {
                line(out, format_args!("+ {text}"));
                self.state = State::Exchange(exchange);
                return None;
            }
            Ok(Turn::Done(credentials)) => return Some(self.pend(credentials)),
            Err(SaslError::Base64) => "The response is not base64.",
            Err(SaslError::Cancelled) => "Cancelled.",
            Err(SaslError::Message) => "The response does not follow the mechanism.",
            Err(SaslError::Name(_)) => NO_NAME,
        };
        self.refuse(refusal, out)
    }

    fn pend(&mut self, credentials: Credentials) -> Event {
        self.state = State::Pending;
        Event::Credentials(credentials)
    }

    /// Answers a command that is wrong; if there were too many, with that.
    fn refuse(&mut self, answer: &str, out: &mut BytesMut) -> Option<Event> {
        if !self.patience.bad_command(self.settings.max_bad_commands) {
            err(out, answer);
            return None;
        }
        err(out, "Too many bad commands.");
        Some(self.close(Closed::Misbehaved("bad-commands")))
    }

    /// Answers input of which nobody knows where its next command begins, and drops the rest unread.
    fn broken(&mut self, error: FrameError, out: &mut BytesMut) -> Event {
        let (word, text) = match error {
            FrameError::BareLf => ("bare-lf", "Lines end in CRLF."),
            FrameError::Line | FrameError::Literal => ("line", "Line too long."),
        };
        err(out, text);
        self.close(Closed::Misbehaved(word))
    }

    fn close(&mut self, closed: Closed) -> Event {
        // What was read of an unfinished command is wiped now, not when the connection has gone.
        drop(self.reader.take());
        self.state = State::Closed(closed);
        Event::Close(closed)
    }
}

fn line(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    // Writing to a BytesMut fails only when memory ends.
    let _ = write!(out, "{text}\r\n");
}

fn ok(out: &mut BytesMut, text: &str) {
    line(out, format_args!("+OK {text}"));
}

fn err(out: &mut BytesMut, text: &str) {
    line(out, format_args!("-ERR {text}"));
}
