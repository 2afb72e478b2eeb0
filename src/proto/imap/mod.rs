//! IMAP before login, server half: from the greeting to credentials, or to BYE.
//!
//! A [`Server`] answers CAPABILITY, NOOP, ID, LOGOUT and STARTTLS itself; LOGIN and AUTHENTICATE (PLAIN, LOGIN, EXTERNAL) end in
//! [`Event::Credentials`], which its driver answers by [`Server::accept`] or [`Server::deny`]. What the client sends
//! behind its credentials stays in the input, in order, for whoever speaks to it next.
//!
//! It does not check passwords, measure time (the driver says [`Server::bye`]), or keep anything over STARTTLS.
//!
//! ```text
//!                     LOGIN, initial response
//!                ┌────────────────────────────────────┐
//!  greet   ┌─────────┐ AUTHENTICATE  ┌──────────┐     └>┌─────────┐ accept
//!  ───────>│ Command │──────────────>│ Exchange │──────>│ Pending │───────> Accepted
//!          └─────────┘<──────────────└──────────┘       └─────────┘
//!           │  ^    ^   cancel, bad response                │ deny
//!  STARTTLS │  │    └───────────────────────────────────────┘
//!           v  │ encrypted
//!         Handshake        LOGOUT, a limit (from Command, Exchange, Pending) ───> Closed
//! ```
//!
//! Limits: [`Settings`]; ten answers "not now" (`deny`); at most some 16 octets written per octet read.
//! RFC 3501, RFC 9051, RFC 2971 (ID), RFC 4959 (SASL-IR), RFC 5530 (response codes), RFC 7888 (LITERAL+).
//! On failure: BAD or NO, counted, then BYE; at once where nobody knows where the next command begins (`broken`).
//! The transcripts in `tests` walk all edges.

mod command;
#[cfg(any(fuzzing, test))]
mod property;
#[cfg(test)]
mod tests;

use std::{fmt, fmt::Write as _, mem};

use bytes::BytesMut;

#[cfg(any(fuzzing, test))]
pub use property::fuzz;

use self::command::{Command, Head, Tag, Verb};
use super::{
    denial::Denial,
    framing::{self, Frame, FrameError, Limits, Message, Reader},
    sasl::{Exchange, SaslError, Turn},
    talk::{self, Bye, Channel, Closed, Credentials, Event, Mechanism, Patience},
};
use crate::{names::Login, secret::Secret};

const BAD_ARGUMENTS: &str = "BAD Wrong arguments.";
const BAD_COMMAND: &str = "BAD Unknown command, or not before login.";
const BAD_TAG: &str = "BAD A command begins with a tag.";
/// For a name that nobody can have (empty, over 255 octets, not UTF-8, with a control character): it is answered without
/// a look-up, for the answer tells nothing but what the client sent, and counts as a bad command, not as an attempt.
const NO_NAME: &str = "NO [CANNOT] This is not a user name.";

/// Limits of the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Longest command line without the contents of its literals, line ends included, in octets; default 8192.
    pub max_line_bytes: usize,
    /// Largest literal taken, in octets; default 4096. All literals of a command together may have twice as many.
    pub max_literal_bytes: usize,
    /// Commands before a login; default 100.
    pub max_commands: u32,
    /// Bad commands before BYE; default 10.
    pub max_bad_commands: u32,
    /// Failed logins before BYE; default 3.
    pub max_attempts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_line_bytes: 8192,
            max_literal_bytes: 4096,
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
    /// Reads commands.
    Command,
    /// Reads responses of AUTHENTICATE.
    Exchange(Tag, Exchange),
    /// STARTTLS was answered: nothing is read until `encrypted`.
    Handshake,
    /// Credentials are with the driver: nothing is read until `accept` or `deny`.
    Pending(Tag),
}

/// What the client could do now, as the value of CAPABILITY.
struct Capabilities {
    channel: Channel,
    /// Whether a certificate stands for somebody.
    external: bool,
}

impl Server {
    /// Begins a conversation on `channel`.
    pub fn new(settings: Settings, channel: Channel) -> Self {
        Self {
            settings,
            channel,
            reader: Reader::new(Limits {
                max_line_bytes: settings.max_line_bytes,
                max_literal_bytes: settings.max_literal_bytes,
            }),
            state: State::Command,
            patience: Patience::default(),
            certified: None,
        }
    }

    /// Writes the greeting.
    pub fn greet(&mut self, out: &mut BytesMut) {
        let capabilities = self.capabilities();
        untagged(
            out,
            format_args!("OK [CAPABILITY {capabilities}] PigeonAir ready."),
        );
    }

    /// Reads what it uses of `input`, overwriting it, and writes replies into `out`.
    ///
    /// After `More` the input is empty. After `Credentials` it holds what the client sent behind them; until they are
    /// answered a further call reads nothing. After `Close` and `StartTls` the input is wiped and empty; a further call
    /// says the same again.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Event {
        loop {
            let event = match &self.state {
                State::Accepted | State::Pending(_) => return Event::More,
                State::Closed(closed) => Some(Event::Close(*closed)),
                State::Handshake => Some(Event::StartTls),
                State::Command => self.command(input, out),
                State::Exchange(..) => self.exchange(input, out),
            };
            if let Some(event) = event {
                if matches!(event, Event::Close(_) | Event::StartTls) {
                    // What was sent in clear behind STARTTLS must never be seen as sent under TLS.
                    framing::consume(input, usize::MAX);
                }
                return event;
            }
        }
    }

    /// Answers the pending credentials with NO. When it says `Some`, BYE was written too: close. Without pending
    /// credentials it does nothing.
    pub fn deny(&mut self, denial: Denial, out: &mut BytesMut) -> Option<Closed> {
        let State::Pending(tag) = &self.state else {
            return None;
        };
        tagged(out, Some(tag), format_args!("NO {}", denial.imap()));
        self.state = State::Command;
        if !self.patience.denied(denial, self.settings.max_attempts) {
            return None;
        }
        untagged(out, format_args!("BYE Too many failed logins."));
        self.state = State::Closed(Closed::Attempts);
        Some(Closed::Attempts)
    }

    /// Answers the pending credentials with OK, naming the capabilities of this very session if they are known. A text
    /// that would break out of the response code is left out. Without pending credentials it does nothing.
    pub fn accept(&mut self, capabilities: Option<&str>, out: &mut BytesMut) {
        let State::Pending(tag) = &self.state else {
            return;
        };
        let is_inside = |text: &&str| !text.contains(|c: char| c.is_control() || c == ']');
        match capabilities.filter(is_inside) {
            Some(text) => tagged(
                out,
                Some(tag),
                format_args!("OK [CAPABILITY {text}] Logged in."),
            ),
            None => tagged(out, Some(tag), format_args!("OK Logged in.")),
        }
        self.state = State::Accepted;
    }

    /// Begins again, on a channel that is encrypted now: nothing that was said before counts (RFC 9051, 6.2.1).
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
        untagged(out, format_args!("BYE {}", bye.imap()));
    }

    fn command(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Option<Event> {
        match self.reader.read_command(input) {
            Ok(Frame::Incomplete) => Some(Event::More),
            Ok(Frame::Message(message)) => self.perform(&message, out),
            Ok(Frame::Offer) if self.wants_literal() => {
                self.reader.accept_literal();
                out.extend_from_slice(b"+ OK\r\n");
                None
            }
            // No command that takes no literal is right with one: this is answered before the client sends it.
            Ok(Frame::Offer) => {
                let message = self.reader.take();
                self.perform(&message, out)
            }
            Err(error) => {
                let tag = Tag::of(self.reader.partial());
                Some(self.broken(tag.as_ref(), error, out))
            }
        }
    }

    fn wants_literal(&self) -> bool {
        match Head::parse(self.reader.partial()).verb {
            Some(Verb::Id) => true,
            Some(Verb::Login) => self.channel.takes_passwords(),
            Some(
                Verb::Authenticate | Verb::Capability | Verb::Logout | Verb::Noop | Verb::Starttls,
            )
            | None => false,
        }
    }

    fn perform(&mut self, message: &Message, out: &mut BytesMut) -> Option<Event> {
        if self.patience.command(self.settings.max_commands) {
            untagged(out, format_args!("BYE Too many commands before a login."));
            return Some(self.close(Closed::Misbehaved("commands")));
        }
        let head = Head::parse(message);
        if head.verb.is_none() && talk::is_http(message.octets()) {
            // Not by a tag: nothing of a request may stand in what a browser takes for a response.
            untagged(out, format_args!("BYE This is IMAP."));
            return Some(self.close(Closed::Misbehaved("http")));
        }
        let Some(tag) = head.tag else {
            return self.refuse(None, BAD_TAG, out);
        };
        let Some(verb) = head.verb else {
            return self.refuse(Some(&tag), BAD_COMMAND, out);
        };
        // Before its arguments: they may lack a literal that was not asked for.
        if verb == Verb::Login && !self.channel.takes_passwords() {
            return self.refuse_password(&tag, out);
        }
        let Some(command) = head.arguments.parse(verb) else {
            return self.refuse(Some(&tag), BAD_ARGUMENTS, out);
        };
        let done = match command {
            Command::Authenticate { mechanism, initial } => {
                return self.authenticate(tag, mechanism, initial, out);
            }
            Command::Capability => {
                let capabilities = self.capabilities();
                untagged(out, format_args!("CAPABILITY {capabilities}"));
                "Capabilities listed."
            }
            Command::Id => {
                untagged(out, format_args!("ID (\"name\" \"PigeonAir\")"));
                "Pleased to meet you."
            }
            Command::Login { name, password } => return self.login(tag, &name, password, out),
            Command::Logout => return Some(self.logout(&tag, out)),
            Command::Noop => "Nothing done.",
            Command::Starttls => return self.starttls(&tag, out),
        };
        tagged(out, Some(&tag), format_args!("OK {done}"));
        None
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            channel: self.channel,
            external: self.certified.is_some(),
        }
    }

    fn logout(&mut self, tag: &Tag, out: &mut BytesMut) -> Event {
        untagged(out, format_args!("BYE Logging out."));
        tagged(out, Some(tag), format_args!("OK Logged out."));
        self.close(Closed::Logout)
    }

    fn starttls(&mut self, tag: &Tag, out: &mut BytesMut) -> Option<Event> {
        if self.channel.encrypted || !self.channel.starttls {
            return self.refuse(Some(tag), "BAD STARTTLS is not possible here.", out);
        }
        tagged(
            out,
            Some(tag),
            format_args!("OK Begin TLS negotiation now."),
        );
        self.state = State::Handshake;
        Some(Event::StartTls)
    }

    fn login(
        &mut self,
        tag: Tag,
        name: &[u8],
        password: Secret,
        out: &mut BytesMut,
    ) -> Option<Event> {
        match Credentials::new(name, &[], password, Mechanism::Command) {
            Ok(credentials) => Some(self.pend(tag, credentials)),
            Err(_) => self.refuse(Some(&tag), NO_NAME, out),
        }
    }

    fn authenticate(
        &mut self,
        tag: Tag,
        mechanism: &[u8],
        initial: Option<&[u8]>,
        out: &mut BytesMut,
    ) -> Option<Event> {
        let Some(exchange) = Exchange::with_certificate(mechanism, self.certified.as_ref()) else {
            return self.refuse(Some(&tag), "NO [CANNOT] Unknown mechanism.", out);
        };
        if !self.channel.takes_passwords() {
            return self.refuse_password(&tag, out);
        }
        self.turn(tag, exchange.start(initial), out)
    }

    fn exchange(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Option<Event> {
        let frame = self.reader.read_line(input);
        if matches!(frame, Ok(Frame::Incomplete)) {
            return Some(Event::More);
        }
        let State::Exchange(tag, exchange) = mem::replace(&mut self.state, State::Command) else {
            return None;
        };
        match frame {
            Ok(Frame::Message(line)) => self.turn(tag, exchange.respond(line.octets()), out),
            Ok(Frame::Incomplete | Frame::Offer) => None,
            Err(error) => Some(self.broken(Some(&tag), error, out)),
        }
    }

    fn turn(
        &mut self,
        tag: Tag,
        turn: Result<Turn, SaslError>,
        out: &mut BytesMut,
    ) -> Option<Event> {
        let refusal = match turn {
            Ok(Turn::Challenge(text, exchange)) => {
                line(out, format_args!("+ {text}"));
                self.state = State::Exchange(tag, exchange);
                return None;
            }
            Ok(Turn::Done(credentials)) => return Some(self.pend(tag, credentials)),
            Err(SaslError::Base64) => "BAD The response is not base64.",
            Err(SaslError::Cancelled) => "BAD Cancelled.",
            Err(SaslError::Message) => "BAD The response does not follow the mechanism.",
            Err(SaslError::Name(_)) => NO_NAME,
        };
        self.refuse(Some(&tag), refusal, out)
    }

    fn pend(&mut self, tag: Tag, credentials: Credentials) -> Event {
        self.state = State::Pending(tag);
        Event::Credentials(credentials)
    }

    /// Answers a password where none is taken: before its literal is asked for, so that it need not travel at all.
    fn refuse_password(&mut self, tag: &Tag, out: &mut BytesMut) -> Option<Event> {
        tagged(
            out,
            Some(tag),
            format_args!("NO {}", Denial::PrivacyRequired.imap()),
        );
        self.count_bad(out)
    }

    /// Answers a command that is wrong; with BYE if there were too many.
    fn refuse(&mut self, tag: Option<&Tag>, answer: &str, out: &mut BytesMut) -> Option<Event> {
        tagged(out, tag, format_args!("{answer}"));
        self.count_bad(out)
    }

    fn count_bad(&mut self, out: &mut BytesMut) -> Option<Event> {
        if !self.patience.bad_command(self.settings.max_bad_commands) {
            return None;
        }
        untagged(out, format_args!("BYE Too many bad commands."));
        Some(self.close(Closed::Misbehaved("bad-commands")))
    }

    /// Answers input of which nobody knows where its next command begins, and drops the rest unread. A synchronising
    /// literal that is too large ends here too, though its client would wait: no client logs in with one.
    fn broken(&mut self, tag: Option<&Tag>, error: FrameError, out: &mut BytesMut) -> Event {
        let (word, text) = match error {
            FrameError::BareLf => ("bare-lf", "Lines end in CRLF."),
            FrameError::Line => ("line", "Line too long."),
            FrameError::Literal => ("literal", "Literal too large."),
        };
        tagged(out, tag, format_args!("BAD {text}"));
        untagged(out, format_args!("BYE {text}"));
        self.close(Closed::Misbehaved(word))
    }

    fn close(&mut self, closed: Closed) -> Event {
        // What was read of an unfinished command is wiped now, not when the connection has gone.
        drop(self.reader.take());
        self.state = State::Closed(closed);
        Event::Close(closed)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channel, external } = self;
        f.write_str("IMAP4rev1 LITERAL+ SASL-IR ID")?;
        if channel.starttls && !channel.encrypted {
            f.write_str(" STARTTLS")?;
        }
        f.write_str(if channel.takes_passwords() {
            " AUTH=PLAIN AUTH=LOGIN"
        } else {
            " LOGINDISABLED"
        })?;
        f.write_str(if *external { " AUTH=EXTERNAL" } else { "" })
    }
}

fn line(out: &mut BytesMut, text: fmt::Arguments<'_>) {
    // Writing to a BytesMut fails only when memory ends.
    let _ = write!(out, "{text}\r\n");
}

fn untagged(out: &mut BytesMut, text: fmt::Arguments<'_>) {
    line(out, format_args!("* {text}"));
}

/// Answers a command; without a tag that could be read, untagged (RFC 9051, 7.1.3).
fn tagged(out: &mut BytesMut, tag: Option<&Tag>, text: fmt::Arguments<'_>) {
    match tag {
        Some(tag) => line(out, format_args!("{tag} {text}")),
        None => untagged(out, text),
    }
}
