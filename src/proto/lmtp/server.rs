//! LMTP, server half: from the greeting to one reply for each recipient, or to the end.
//!
//! A [`Server`] answers all commands but RCPT and DATA itself. Its driver decides about recipients and messages, and keeps
//! with each recipient what it knows of it (`R`). While an answer is the driver's to give nothing is read: commands that
//! were pipelined stay in the input, in order.
//!
//! It does not look into messages, store them, know accounts or measure time.
//!
//! ```text
//!           MAIL          RCPT ┌───────────┐ accept_recipient, refuse
//!  greet ──────────> Envelope ─>│ Recipient │─> Envelope
//!  LHLO, RSET: none     │       └───────────┘
//!                       │ DATA  ┌─────────┐ accept_message   ┌──────┐ the dot ┌─────────┐ answer, once
//!                       └──────>│ Begin   │─────────────────>│ Body │────────>│ Answers │──────────────> none
//!                               └─────────┘ refuse: none     └──────┘         └─────────┘ per recipient
//!  QUIT, bare LF in a command, too many of them unknown: Close      │ Discard
//!                                                                   └───> the dot: the same reply for all ─> none
//! ```
//!
//! Limits: [`Settings`]. A message is counted as it comes, whatever SIZE was declared; what exceeds the limit is read and
//! dropped, for the client listens only after its dot. RFC 2033; RFC 5321; RFC 1870; RFC 2034; RFC 2920; RFC 6152; RFC 6531.
//! On failure: a reply, and on with the next command; the end where nobody knows where that begins. What came of a
//! message when the connection ends without its dot is nothing.

use std::{fmt::Write as _, mem};

use bytes::{Bytes, BytesMut};

use super::{
    body::{BareFinder, Decoder, Piece},
    cause::Cause,
    command::{Command, Envelope, Recipient},
    lines::{Line, Lines},
    reply::Reply,
};

const BAD_SEQUENCE: Reply = Reply::fixed(503, 5, 1, "Not in this order.");
const BARE_LF: Reply = Reply::fixed(500, 5, 2, "Lines end in CRLF.");
const LINE_TOO_LONG: Reply = Reply::fixed(500, 5, 2, "Line too long.");
const NEEDS_SMTPUTF8: Reply = Reply::fixed(553, 6, 7, "This address needs SMTPUTF8.");
const NO_RECIPIENTS: Reply = Reply::fixed(503, 5, 1, "No recipient was accepted.");
const OK: Reply = Reply::fixed(250, 0, 0, "OK");
const QUIT: Reply = Reply::fixed(221, 0, 0, "Bye.");
const RECIPIENT_OK: Reply = Reply::fixed(250, 1, 5, "Recipient OK.");
const SENDER_OK: Reply = Reply::fixed(250, 1, 0, "Sender OK.");
const SEE_RFC: Reply = Reply::fixed(214, 0, 0, "See RFC 2033.");
const TOO_MANY_BAD: Reply = Reply::fixed(421, 7, 0, "Too many bad commands.");
/// RFC 5321, 7.3: whom we know is not told here.
const VRFY: Reply = Reply::fixed(252, 5, 0, "Try to deliver.");

/// What the server says of itself, and its limits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name in the greeting: printable, without blanks.
    pub hostname: String,
    /// Longest command, its end included, in octets; default 4096. RFC 5321, 4.5.3.1.4 asks for 512, its extensions for
    /// some more, a private parameter for what it carries.
    pub max_line_bytes: usize,
    /// Largest message, in octets; default 50 MiB.
    pub max_message_bytes: u64,
    /// Most recipients of one message; default 1000. RFC 5321, 4.5.3.1.8 asks for 100.
    pub max_recipients: usize,
    /// Unknown commands before the end; default 10. One that has wrong arguments or comes out of order does not count: after
    /// a refused MAIL a thousand RCPT may follow in one piece.
    pub max_bad_commands: u32,
    /// Whether a message with a CR or LF alone is refused; default no: it is kept as it is, and ends nothing. Real mail has
    /// them; Postfix makes CRLF of them before we see it.
    pub refuse_bare_line_ends: bool,
    /// The keyword of MAIL and RCPT that is taken besides those of the RFCs, in capitals; default none.
    pub private: Option<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            max_line_bytes: 4096,
            max_message_bytes: 50 * 1024 * 1024,
            max_recipients: 1000,
            max_bad_commands: 10,
            refuse_bare_line_ends: false,
            private: None,
        }
    }
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Event<R> {
    /// A message begins: `accept_message`, or `refuse` it for all.
    Begin(Envelope<R>),
    /// The next octets of the message, at least one.
    Body(Bytes),
    /// Write what there is to write, and close.
    Close(Closed),
    /// The message is refused, and the server will say so itself: forget what came of it.
    Discard(Cause),
    /// The message is complete: `answer` once for each recipient, in order.
    End,
    /// The input is used up, but for the beginning of something; or an answer is the driver's to give.
    More,
    /// A recipient: `accept_recipient` or `refuse`.
    Recipient(Recipient),
}

/// Why the conversation is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// The client broke a limit; the word, for logs, says which: `bad-commands`, `bare-lf`.
    Misbehaved(&'static str),
    /// It said QUIT.
    Quit,
}

/// One client's conversation.
#[derive(Debug)]
pub struct Server<R> {
    settings: Settings,
    lines: Lines,
    greeted: bool,
    bad_commands: u32,
    state: State<R>,
}

#[derive(Debug)]
enum State<R> {
    /// The driver answers for that many recipients.
    Answers(usize),
    /// The driver decides about a message for that many recipients.
    Begin(usize),
    Body(Incoming),
    Closed(Closed),
    /// Reads commands; the envelope is there behind MAIL.
    Command(Option<Envelope<R>>),
    /// The driver decides about a recipient.
    Recipient(Envelope<R>),
}

#[derive(Debug)]
struct Incoming {
    recipients: usize,
    decoder: Decoder,
    bare: BareFinder,
    /// How many octets more there may be.
    room: u64,
    /// Why the rest is dropped.
    discarded: Option<Cause>,
}

impl<R> Server<R> {
    /// Begins a conversation.
    pub fn new(settings: Settings) -> Self {
        Self {
            lines: Lines::new(settings.max_line_bytes),
            settings,
            greeted: false,
            bad_commands: 0,
            state: State::Command(None),
        }
    }

    /// Writes the greeting.
    pub fn greet(&mut self, out: &mut BytesMut) {
        // Writing to a BytesMut fails only when memory ends.
        let _ = write!(out, "220 {} PigeonAir LMTP\r\n", self.settings.hostname);
    }

    /// Reads what it uses of `input` and writes replies into `out`.
    ///
    /// After `More` the input holds the beginning of a line at most, or two octets of a message; but while an answer is
    /// the driver's to give, all that came. After `Close` the input is empty; a further call says the same again.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Event<R> {
        loop {
            let event = match &mut self.state {
                State::Answers(_) | State::Begin(_) | State::Recipient(_) => Some(Event::More),
                State::Body(incoming) => match incoming.next(&self.settings, input) {
                    Some(Event::End) => self.end(out),
                    event => event,
                },
                State::Closed(closed) => {
                    input.clear();
                    return Event::Close(*closed);
                }
                State::Command(_) => self.line(input, out),
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// The envelope of the pending recipient, with those that were accepted before.
    pub fn envelope(&self) -> Option<&Envelope<R>> {
        match &self.state {
            State::Recipient(envelope) => Some(envelope),
            _ => None,
        }
    }

    /// Takes the pending recipient, and keeps what the driver knows of it until the message begins. Without one it does
    /// nothing.
    pub fn accept_recipient(&mut self, recipient: R, out: &mut BytesMut) {
        self.state = match self.take() {
            State::Recipient(mut envelope) => {
                envelope.recipients.push(recipient);
                RECIPIENT_OK.write(out);
                State::Command(Some(envelope))
            }
            state => state,
        };
    }

    /// Takes the pending message: its octets are next. Without one it does nothing.
    pub fn accept_message(&mut self, out: &mut BytesMut) {
        self.state = match self.take() {
            State::Begin(recipients) => {
                out.extend_from_slice(b"354 Go on, end with a dot.\r\n");
                State::Body(Incoming {
                    recipients,
                    decoder: Decoder::new(),
                    bare: BareFinder::default(),
                    room: self.settings.max_message_bytes,
                    discarded: None,
                })
            }
            state => state,
        };
    }

    /// Refuses the pending recipient, or the pending message for all of its recipients. Without one it does nothing.
    pub fn refuse(&mut self, reply: &Reply, out: &mut BytesMut) {
        self.state = match self.take() {
            State::Recipient(envelope) => {
                reply.write(out);
                State::Command(Some(envelope))
            }
            State::Begin(_) => {
                reply.write(out);
                State::Command(None)
            }
            state => state,
        };
    }

    /// Whether what comes next are octets of a message.
    pub fn is_in_message(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    /// Says what became of the message for the next recipient (RFC 2033, 4.2). Without one it does nothing.
    pub fn answer(&mut self, reply: &Reply, out: &mut BytesMut) {
        if let State::Answers(left) = &mut self.state {
            reply.write(out);
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.state = State::Command(None);
            }
        }
    }

    fn take(&mut self) -> State<R> {
        mem::replace(&mut self.state, State::Command(None))
    }

    fn line(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Option<Event<R>> {
        let line = match self.lines.next(input) {
            Line::BareLf => {
                BARE_LF.write(out);
                self.state = State::Closed(Closed::Misbehaved("bare-lf"));
                return None;
            }
            Line::Complete(line) => line,
            Line::Incomplete => return Some(Event::More),
            Line::TooLong => {
                self.bad(&LINE_TOO_LONG, out);
                return None;
            }
        };
        match Command::parse(&line, self.settings.private) {
            Ok(command) => self.perform(command, out),
            Err(reply) => {
                self.bad(&reply, out);
                None
            }
        }
    }

    fn perform(&mut self, command: Command<R>, out: &mut BytesMut) -> Option<Event<R>> {
        let envelope = match self.take() {
            State::Command(envelope) => envelope,
            // `step` reads commands in no other state.
            state => {
                self.state = state;
                return None;
            }
        };
        match command {
            Command::Data => return self.data(envelope, out),
            Command::Mail(new) => return self.mail(new, envelope, out),
            Command::Rcpt(recipient) => return self.rcpt(recipient, envelope, out),
            Command::Help => SEE_RFC.write(out),
            Command::Lhlo => {
                self.greeted = true;
                self.list_capabilities(out);
                return None;
            }
            Command::Noop => OK.write(out),
            Command::Quit => {
                QUIT.write(out);
                self.state = State::Closed(Closed::Quit);
                return None;
            }
            Command::Rset => {
                OK.write(out);
                return None;
            }
            Command::Vrfy => VRFY.write(out),
        }
        self.state = State::Command(envelope);
        None
    }

    fn list_capabilities(&self, out: &mut BytesMut) {
        let Settings {
            hostname,
            max_message_bytes,
            private,
            ..
        } = &self.settings;
        let _ = write!(out, "250-{hostname}\r\n");
        for always in ["8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING"] {
            let _ = write!(out, "250-{always}\r\n");
        }
        let _ = write!(out, "250-SIZE {max_message_bytes}\r\n");
        if let Some(private) = private {
            let _ = write!(out, "250-{private}\r\n");
        }
        let _ = write!(out, "250 SMTPUTF8\r\n");
    }

    fn mail(
        &mut self,
        new: Envelope<R>,
        old: Option<Envelope<R>>,
        out: &mut BytesMut,
    ) -> Option<Event<R>> {
        if !self.greeted || old.is_some() {
            BAD_SEQUENCE.write(out);
            self.state = State::Command(old);
        } else if new.size > Some(self.settings.max_message_bytes) {
            Cause::TooBig.reply().write(out);
        } else if !new.smtputf8 && new.sender.as_ref().is_some_and(|sender| !sender.is_ascii()) {
            NEEDS_SMTPUTF8.write(out);
        } else {
            SENDER_OK.write(out);
            self.state = State::Command(Some(new));
        }
        None
    }

    fn rcpt(
        &mut self,
        recipient: Recipient,
        envelope: Option<Envelope<R>>,
        out: &mut BytesMut,
    ) -> Option<Event<R>> {
        let Some(envelope) = envelope else {
            BAD_SEQUENCE.write(out);
            return None;
        };
        let refusal = if envelope.recipients.len() >= self.settings.max_recipients {
            Cause::TooManyRecipients.reply()
        } else if !envelope.smtputf8 && !recipient.address.is_ascii() {
            NEEDS_SMTPUTF8
        } else {
            self.state = State::Recipient(envelope);
            return Some(Event::Recipient(recipient));
        };
        refusal.write(out);
        self.state = State::Command(Some(envelope));
        None
    }

    fn data(&mut self, envelope: Option<Envelope<R>>, out: &mut BytesMut) -> Option<Event<R>> {
        match envelope {
            Some(envelope) if !envelope.recipients.is_empty() => {
                self.state = State::Begin(envelope.recipients.len());
                Some(Event::Begin(envelope))
            }
            Some(envelope) => {
                NO_RECIPIENTS.write(out);
                self.state = State::Command(Some(envelope));
                None
            }
            None => {
                BAD_SEQUENCE.write(out);
                None
            }
        }
    }

    /// The dot was there: the answers are the driver's, or ours if the message was discarded.
    fn end(&mut self, out: &mut BytesMut) -> Option<Event<R>> {
        let State::Body(incoming) = self.take() else {
            return None;
        };
        let Some(cause) = incoming.discarded else {
            self.state = State::Answers(incoming.recipients);
            return Some(Event::End);
        };
        for _ in 0..incoming.recipients {
            cause.reply().write(out);
        }
        None
    }

    /// Answers what is no command, and counts it if even its verb is none; if there were too many, with that.
    fn bad(&mut self, reply: &Reply, out: &mut BytesMut) {
        if reply.code() == 500 {
            self.bad_commands = self.bad_commands.saturating_add(1);
        }
        if self.bad_commands < self.settings.max_bad_commands {
            reply.write(out);
        } else {
            TOO_MANY_BAD.write(out);
            self.state = State::Closed(Closed::Misbehaved("bad-commands"));
        }
    }
}

impl Incoming {
    /// What comes next of the message; nothing where octets were dropped.
    fn next<R>(&mut self, settings: &Settings, input: &mut BytesMut) -> Option<Event<R>> {
        let octets = match self.decoder.next(input) {
            Piece::End => return Some(Event::End),
            Piece::Incomplete => return Some(Event::More),
            Piece::Octets(_) if self.discarded.is_some() => return None,
            Piece::Octets(octets) => octets,
        };
        let room = usize::try_from(self.room).unwrap_or(usize::MAX);
        let within = octets.get(..room).unwrap_or(&octets);
        // Whichever comes first, so that it does not depend on how the octets came.
        let cause = if settings.refuse_bare_line_ends && self.bare.find(within) {
            Cause::BareLineEnd
        } else if within.len() < octets.len() {
            Cause::TooBig
        } else {
            let length = u64::try_from(octets.len()).unwrap_or(u64::MAX);
            self.room = self.room.saturating_sub(length);
            return Some(Event::Body(octets));
        };
        self.discarded = Some(cause);
        Some(Event::Discard(cause))
    }
}
