//! LMTP, client half: from a connected stream to one fate for each recipient, for one message after the other.
//!
//! ```text
//! server  220                                 the greeting
//! us      LHLO name
//! server  250 8BITMIME PIPELINING SIZE ...    Ready: `send`
//! us      MAIL, RCPT, RCPT, DATA              together, where PIPELINING is offered; 64 unanswered ones at most
//! server  250 250 550 354                     Data: `body` again and again, `finish`
//! us      the message, dots added, and the dot
//! server  250                                 one for each recipient that was accepted: Done
//! ```
//!
//! A recipient has exactly one [`Fate`], and it is never better than what the server said for that recipient. When the
//! connection ends, `broken` tells those that were left: before the final dot nothing was delivered; behind it, anything.
//!
//! It does not choose servers, try again, measure time, or convert messages: what needs an extension that is not offered is
//! a [`SendError`] before anything is sent. A message that was declared SMTPUTF8 and whose addresses are ASCII needs only
//! 8BITMIME: who speaks LMTP keeps it and sends it nowhere (Dovecot 2.3 offers no SMTPUTF8). It waits for 64 replies at most, so that neither side's buffers fill while both
//! write (RFC 2920, 3.1).
//! Limits: those of `reply`. RFC 2033; RFC 5321; RFC 1870; RFC 2920; RFC 6152; RFC 6531.
//! On failure, a [`ClientError`]: the connection is of no further use. 421 ends it at any time.

use std::{collections::VecDeque, fmt::Write as _};

use bytes::BytesMut;

use super::{
    body::{Encoder, LineEnds},
    command::{Body, Envelope, Recipient, put_xtext},
    reply::{Class, Received, Replies, Reply, ReplyError},
};

/// The most commands without their replies.
const MAX_UNANSWERED: usize = 64;

/// What the driver has to do.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    /// The server takes the message: `body`, then `finish`.
    Data,
    /// The message is done with: one fate for each recipient, in order. If `is_open`, the next one may follow.
    Done(Vec<Fate>),
    /// More input is needed.
    More,
    /// The server is ready: `send`.
    Ready,
}

/// What became of a message for one recipient.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fate {
    /// The connection ended before the final dot: not delivered.
    Broken,
    /// The server has it.
    Delivered(Reply),
    /// The server refused for good.
    Permanent(Reply),
    /// The server refused for now; never by 421, which would end the conversation it is passed on to.
    Temporary(Reply),
    /// The connection ended after the final dot and before the reply: perhaps delivered.
    Uncertain,
}

/// Why the connection is of no further use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// The server refuses to serve.
    #[error("server refuses: {0}")]
    Refused(Reply),
    /// The server says what is no reply.
    #[error("server can't be understood")]
    Reply(#[from] ReplyError),
    /// The server says something at the wrong time.
    #[error("unexpected reply: {0}")]
    Unexpected(Reply),
}

/// Why a message can't be sent to this server. Nothing was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SendError {
    /// It has 8-bit octets.
    #[error("server does not offer 8BITMIME")]
    EightBit,
    /// The last message is not done with, or the server is not ready.
    #[error("server is not ready")]
    NotReady,
    /// It carries a private parameter.
    #[error("server does not offer the private parameter")]
    Private,
    /// It is larger than the server takes.
    #[error("message is too big for the server")]
    TooBig,
    /// An address needs SMTPUTF8.
    #[error("server does not offer SMTPUTF8")]
    Utf8,
}

/// How the client speaks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it calls itself: printable, without blanks.
    pub hostname: String,
    /// What becomes of a LF alone: `Exact` for our own servers only.
    pub line_ends: LineEnds,
    /// The keyword of private parameters, in capitals.
    pub private: Option<&'static str>,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    replies: Replies,
    offers: Offers,
    state: State,
    open: bool,
    /// Whether the server may still have an envelope.
    resets: bool,
}

/// What the server's answer to LHLO has.
#[derive(Debug, Default)]
struct Offers {
    eight_bit: bool,
    pipelining: bool,
    private: bool,
    /// SIZE, and the limit if it tells one.
    size: Option<Option<u64>>,
    smtputf8: bool,
}

#[derive(Debug)]
enum State {
    /// The message goes out.
    Body(Fates, Encoder),
    /// The final dot is sent.
    Dot(Fates),
    Envelope(Box<Sending>),
    Greeting,
    Lhlo,
    Ready,
}

/// What is known of each recipient; those that have no fate yet are accepted, or unanswered.
#[derive(Debug)]
struct Fates(Vec<Option<Fate>>);

/// Commands on their way.
#[derive(Debug)]
struct Sending {
    envelope: Envelope<Recipient>,
    fates: Fates,
    next: Option<Verb>,
    unanswered: VecDeque<Verb>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verb {
    Data,
    Mail,
    Rcpt(usize),
    Rset,
}

impl Client {
    /// Waits for the greeting.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            replies: Replies::new(),
            offers: Offers::default(),
            state: State::Greeting,
            open: true,
            resets: false,
        }
    }

    /// Takes what the server said from `input` and puts what to write next into `out`.
    ///
    /// `Ready` and `Data` are said once. Without a message on its way, what the server says is an error.
    ///
    /// # Errors
    ///
    /// When the server does not serve, or says what no server should: then `broken` tells the rest.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Step, ClientError> {
        while let Some(received) = self.replies.next(input)? {
            self.open &= received.code != 421;
            let step = match &self.state {
                State::Greeting => self.greeting(received, out)?,
                State::Lhlo => self.lhlo(received)?,
                State::Ready => return Err(unexpected(received)),
                State::Envelope(_) | State::Body(..) | State::Dot(_) => {
                    self.reply(received.into_reply(), out)?
                }
            };
            if step != Step::More {
                return Ok(step);
            }
        }
        Ok(Step::More)
    }

    /// Begins a message. Recipients may be none: then nothing is delivered.
    ///
    /// # Errors
    ///
    /// When the server can't take it. Nothing was sent then, and another message may be.
    pub fn send(
        &mut self,
        envelope: Envelope<Recipient>,
        out: &mut BytesMut,
    ) -> Result<(), SendError> {
        if !matches!(self.state, State::Ready) || !self.open {
            return Err(SendError::NotReady);
        }
        self.offers.suffice(&envelope)?;
        let mut sending = Box::new(Sending {
            fates: Fates(vec![None; envelope.recipients.len()]),
            envelope,
            next: Some(if self.resets { Verb::Rset } else { Verb::Mail }),
            unanswered: VecDeque::new(),
        });
        // Until a message was ended by its dot.
        self.resets = true;
        sending.fill(&self.settings, &self.offers, out);
        self.state = State::Envelope(sending);
        Ok(())
    }

    /// Writes the next octets of the message, dots added; what the server says meanwhile, `step` tells. Before `Data` it
    /// does nothing.
    pub fn body(&mut self, octets: &[u8], out: &mut BytesMut) {
        if let State::Body(_, encoder) = &mut self.state {
            encoder.encode(octets, out);
        }
    }

    /// Ends the message: from now on it may be delivered. Before `Data` it does nothing.
    pub fn finish(&mut self, out: &mut BytesMut) {
        self.state = match std::mem::replace(&mut self.state, State::Ready) {
            State::Body(fates, encoder) => {
                encoder.finish(out);
                self.resets = false;
                State::Dot(fates)
            }
            state => state,
        };
    }

    /// Says QUIT. Its reply need not be waited for: nothing depends on it.
    pub fn quit(self, out: &mut BytesMut) {
        out.extend_from_slice(b"QUIT\r\n");
    }

    /// Whether another message may be sent over this connection.
    pub fn is_open(&self) -> bool {
        self.open && matches!(self.state, State::Ready)
    }

    /// Whether the server takes the private parameter. Known once it is ready.
    pub fn takes_private(&self) -> bool {
        self.offers.private
    }

    /// Whether the server takes addresses that are not ASCII. Known once it is ready.
    pub fn takes_utf8(&self) -> bool {
        self.offers.smtputf8
    }

    /// The connection is over: one fate for each recipient of the message that was on its way, none if there was none.
    pub fn broken(self) -> Vec<Fate> {
        match self.state {
            State::Envelope(sending) => sending.fates.or(&Fate::Broken),
            State::Body(fates, _) => fates.or(&Fate::Broken),
            State::Dot(fates) => fates.or(&Fate::Uncertain),
            State::Greeting | State::Lhlo | State::Ready => Vec::new(),
        }
    }

    fn greeting(&mut self, received: Received, out: &mut BytesMut) -> Result<Step, ClientError> {
        match received.code {
            220 => {
                // Writing to a BytesMut fails only when memory ends.
                let _ = write!(out, "LHLO {}\r\n", self.settings.hostname);
                self.state = State::Lhlo;
                Ok(Step::More)
            }
            400.. => Err(ClientError::Refused(received.into_reply())),
            _ => Err(unexpected(received)),
        }
    }

    fn lhlo(&mut self, received: Received) -> Result<Step, ClientError> {
        match received.code {
            250 => {
                self.offers = Offers::parse(&received, self.settings.private);
                self.state = State::Ready;
                Ok(Step::Ready)
            }
            400.. => Err(ClientError::Refused(received.into_reply())),
            _ => Err(unexpected(received)),
        }
    }

    fn reply(&mut self, reply: Reply, out: &mut BytesMut) -> Result<Step, ClientError> {
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Envelope(sending) => self.envelope_reply(sending, reply, out),
            State::Body(mut fates, encoder) => {
                let Some(fate) = Fate::refused(&reply) else {
                    self.state = State::Body(fates, encoder);
                    return Err(ClientError::Unexpected(reply));
                };
                // The server did not wait for the dot; half of a message is out, so nothing can follow.
                self.open = false;
                fates.settle(&fate);
                Ok(Step::Done(fates.or(&Fate::Broken)))
            }
            State::Dot(mut fates) => {
                let Some(fate) = Fate::of(&reply) else {
                    self.state = State::Dot(fates);
                    return Err(ClientError::Unexpected(reply));
                };
                if let Some(first) = fates.0.iter_mut().find(|fate| fate.is_none()) {
                    *first = Some(fate);
                }
                if fates.0.iter().any(Option::is_none) {
                    self.state = State::Dot(fates);
                    return Ok(Step::More);
                }
                Ok(Step::Done(fates.or(&Fate::Uncertain)))
            }
            state @ (State::Greeting | State::Lhlo | State::Ready) => {
                self.state = state;
                Err(ClientError::Unexpected(reply))
            }
        }
    }

    fn envelope_reply(
        &mut self,
        mut sending: Box<Sending>,
        reply: Reply,
        out: &mut BytesMut,
    ) -> Result<Step, ClientError> {
        if !self.open {
            sending
                .fates
                .settle(&Fate::Temporary(reply.to_be_relayed()));
            return Ok(Step::Done(sending.fates.or(&Fate::Broken)));
        }
        let begins = match sending.answered(reply) {
            Ok(begins) => begins,
            Err(error) => {
                self.state = State::Envelope(sending);
                return Err(error);
            }
        };
        if begins {
            let encoder = Encoder::new(self.settings.line_ends);
            self.state = State::Body(sending.fates, encoder);
            return Ok(Step::Data);
        }
        sending.fill(&self.settings, &self.offers, out);
        if sending.unanswered.is_empty() {
            return Ok(Step::Done(sending.fates.or(&Fate::Broken)));
        }
        self.state = State::Envelope(sending);
        Ok(Step::More)
    }
}

fn unexpected(received: Received) -> ClientError {
    let is_bye = received.code == 421;
    let reply = received.into_reply();
    if is_bye {
        ClientError::Refused(reply)
    } else {
        ClientError::Unexpected(reply)
    }
}

// === impl Sending ===

impl Sending {
    /// Writes as many commands as may be unanswered.
    fn fill(&mut self, settings: &Settings, offers: &Offers, out: &mut BytesMut) {
        let most = if offers.pipelining { MAX_UNANSWERED } else { 1 };
        while let Some(verb) = self.next.filter(|_| self.unanswered.len() < most) {
            if verb == Verb::Data && self.is_hopeless() {
                self.next = None;
                return;
            }
            self.write(verb, settings, offers, out);
            self.unanswered.push_back(verb);
            let following = match verb {
                Verb::Rset => Some(Verb::Mail),
                Verb::Mail => Some(Verb::Rcpt(0)),
                Verb::Rcpt(at) => Some(Verb::Rcpt(at.saturating_add(1))),
                Verb::Data => None,
            };
            self.next = match following {
                Some(Verb::Rcpt(at)) if at >= self.envelope.recipients.len() => Some(Verb::Data),
                following => following,
            };
        }
    }

    /// Whether every recipient is refused.
    fn is_hopeless(&self) -> bool {
        self.fates.0.iter().all(Option::is_some)
    }

    fn write(&self, verb: Verb, settings: &Settings, offers: &Offers, out: &mut BytesMut) {
        // Writing to a BytesMut fails only when memory ends.
        let _ = match verb {
            Verb::Data => write!(out, "DATA\r\n"),
            Verb::Mail => {
                self.write_mail(settings, offers, out);
                Ok(())
            }
            Verb::Rcpt(at) => match self.envelope.recipients.get(at) {
                Some(Recipient { address, private }) => {
                    let _ = write!(out, "RCPT TO:<{address}>");
                    write_private(settings, private.as_deref(), out);
                    write!(out, "\r\n")
                }
                None => Ok(()),
            },
            Verb::Rset => write!(out, "RSET\r\n"),
        };
    }

    fn write_mail(&self, settings: &Settings, offers: &Offers, out: &mut BytesMut) {
        let _ = match &self.envelope.sender {
            Some(sender) => write!(out, "MAIL FROM:<{sender}>"),
            None => write!(out, "MAIL FROM:<>"),
        };
        if let (Some(size), Some(_)) = (self.envelope.size, offers.size) {
            let _ = write!(out, " SIZE={size}");
        }
        let is_utf8 = self.envelope.smtputf8 || has_utf8(&self.envelope);
        if self.envelope.body == Body::EightBit || is_utf8 {
            let _ = write!(out, " BODY=8BITMIME");
        }
        if is_utf8 && offers.smtputf8 {
            let _ = write!(out, " SMTPUTF8");
        }
        write_private(settings, self.envelope.private.as_deref(), out);
        let _ = write!(out, "\r\n");
    }

    /// Takes the reply to the first command that has none; true when it lets the message begin.
    fn answered(&mut self, reply: Reply) -> Result<bool, ClientError> {
        let Some(verb) = self.unanswered.pop_front() else {
            return Err(ClientError::Unexpected(reply));
        };
        match (verb, reply.class()) {
            (Verb::Data, Class::Intermediate) if !self.is_hopeless() => return Ok(true),
            (Verb::Rset | Verb::Mail | Verb::Rcpt(_), Class::Done) => {}
            (Verb::Data | Verb::Mail, Class::Permanent | Class::Temporary) => {
                if let Some(fate) = Fate::refused(&reply) {
                    self.fates.settle(&fate);
                }
                self.next = None;
            }
            (Verb::Rcpt(at), Class::Permanent | Class::Temporary) => {
                if let Some(fate) = self.fates.0.get_mut(at) {
                    *fate = fate.take().or_else(|| Fate::refused(&reply));
                }
            }
            (Verb::Rset, _) | (_, Class::Intermediate) | (Verb::Data, Class::Done) => {
                return Err(ClientError::Unexpected(reply));
            }
        }
        Ok(false)
    }
}

/// Nothing is written without a keyword: `suffice` has made sure of that.
fn write_private(settings: &Settings, value: Option<&[u8]>, out: &mut BytesMut) {
    if let (Some(keyword), Some(value)) = (settings.private, value) {
        let _ = write!(out, " {keyword}=");
        put_xtext(value, out);
    }
}

/// Whether an address makes SMTPUTF8 a need.
fn has_utf8(envelope: &Envelope<Recipient>) -> bool {
    let recipients = envelope
        .recipients
        .iter()
        .map(|recipient| &recipient.address);
    let mut addresses = envelope.sender.iter().chain(recipients);
    addresses.any(|address| !address.is_ascii())
}

// === impl Offers ===

impl Offers {
    /// Reads the lines behind the first, which is the server's name.
    fn parse(received: &Received, private: Option<&str>) -> Self {
        let mut offers = Self::default();
        for line in received.lines.iter().skip(1) {
            let mut words = line.as_ref().split(|octet| *octet == b' ');
            let keyword = words.next().unwrap_or_default();
            let is = |word: &str| keyword.eq_ignore_ascii_case(word.as_bytes());
            if is("8BITMIME") {
                offers.eight_bit = true;
            } else if is("PIPELINING") {
                offers.pipelining = true;
            } else if is("SIZE") {
                // RFC 1870, 4: 0 is no limit, and so is nothing.
                let limit = words
                    .next()
                    .and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
                offers.size = Some(limit.filter(|limit| *limit > 0));
            } else if is("SMTPUTF8") {
                offers.smtputf8 = true;
            } else if private.is_some_and(is) {
                offers.private = true;
            }
        }
        offers
    }

    fn suffice(&self, envelope: &Envelope<Recipient>) -> Result<(), SendError> {
        let mut recipients = envelope.recipients.iter();
        let private = envelope.private.is_some() || recipients.any(|r| r.private.is_some());
        let limit = self.size.flatten().unwrap_or(u64::MAX);
        if has_utf8(envelope) && !self.smtputf8 {
            Err(SendError::Utf8)
        } else if (envelope.body == Body::EightBit || envelope.smtputf8) && !self.eight_bit {
            // RFC 6531, 3.1 (8): who offers SMTPUTF8 offers 8BITMIME.
            Err(SendError::EightBit)
        } else if private && !self.private {
            Err(SendError::Private)
        } else if envelope.size > Some(limit) {
            Err(SendError::TooBig)
        } else {
            Ok(())
        }
    }
}

// === impl Fate, Fates ===

impl Fate {
    /// What a reply behind the final dot means.
    fn of(reply: &Reply) -> Option<Self> {
        match reply.class() {
            Class::Done => Some(Self::Delivered(reply.clone())),
            Class::Intermediate | Class::Permanent | Class::Temporary => Self::refused(reply),
        }
    }

    fn refused(reply: &Reply) -> Option<Self> {
        match reply.class() {
            Class::Done | Class::Intermediate => None,
            Class::Permanent => Some(Self::Permanent(reply.clone())),
            Class::Temporary => Some(Self::Temporary(reply.to_be_relayed())),
        }
    }
}

impl Fates {
    /// Gives `fate` to all that have none.
    fn settle(&mut self, fate: &Fate) {
        for open in self.0.iter_mut().filter(|fate| fate.is_none()) {
            *open = Some(fate.clone());
        }
    }

    fn or(self, fate: &Fate) -> Vec<Fate> {
        self.0
            .into_iter()
            .map(|known| known.unwrap_or_else(|| fate.clone()))
            .collect()
    }
}
