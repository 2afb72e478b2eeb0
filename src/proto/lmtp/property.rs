//! What must hold for any peer of LMTP, and the conversation that the property and the transcripts are played on. Not in
//! ordinary builds.
//!
//! Whatever a client sends, and however the network cuts it: the replies and events are the same, the messages are those that
//! a plain search for CRLF . CRLF finds, memory is bounded. Whatever a server says: each recipient has one fate, no better
//! than what was said. What is encoded decodes to itself.

use std::fmt::Write as _;

use bytes::BytesMut;

use super::{
    address::Address,
    body::{Decoder, Encoder, LineEnds, Piece},
    cause::Cause,
    client::{self, Client, Fate, Step},
    command::{Body, Envelope, Recipient},
    reply::{Class, Reply},
    server::{Event, Server, Settings},
};
use crate::proto::conversation::{pieces, sizes};

/// A server, a driver that goes by what local parts begin with, and what could be seen of them.
pub(super) struct Conversation {
    settings: Settings,
    server: Server<Recipient>,
    input: BytesMut,
    recipients: Vec<Recipient>,
    message: Vec<u8>,
    over: bool,
    /// Replies, and events as lines that begin with `E: `.
    pub(super) log: String,
}

impl Conversation {
    /// The greeting is said, and not logged.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            server: Server::new(settings.clone()),
            input: BytesMut::new(),
            recipients: Vec::new(),
            message: Vec::new(),
            over: false,
            log: String::new(),
        }
    }

    /// Hears octets that came in one piece.
    pub(super) fn hear(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while !self.over && self.turn() {}
    }

    /// One step and its answer; false when that is more input.
    fn turn(&mut self) -> bool {
        let mut out = BytesMut::new();
        let event = self.server.step(&mut self.input, &mut out);
        self.write(&out);
        out.clear();
        match event {
            Event::More => {
                assert!(self.input.len() < self.settings.max_line_bytes.max(3));
                return false;
            }
            Event::Body(octets) => {
                assert!(!octets.is_empty());
                self.message.extend_from_slice(&octets);
                let most = self.settings.max_message_bytes;
                assert!(u64::try_from(self.message.len()).is_ok_and(|length| length <= most));
                return true;
            }
            Event::Discard(cause) => {
                self.message.clear();
                self.note(&format!("discard {}", cause.as_str()));
            }
            Event::Recipient(recipient) => {
                self.note(&format!("recipient {}", shown(&recipient)));
                self.must_not_read();
                match refusal(&recipient) {
                    Some(cause) => self.server.refuse(&cause.reply(), &mut out),
                    None => self.server.accept_recipient(recipient, &mut out),
                }
            }
            Event::Begin(envelope) => self.begin(envelope, &mut out),
            Event::End => self.end(&mut out),
            Event::Close(closed) => {
                assert!(self.input.is_empty());
                self.note(&format!("{closed:?}"));
                self.over = true;
            }
        }
        self.write(&out);
        true
    }

    fn begin(&mut self, envelope: Envelope<Recipient>, out: &mut BytesMut) {
        let sender = envelope.sender.as_ref();
        let name = sender.map_or(String::new(), ToString::to_string);
        let mut text = format!("begin <{name}>");
        if let Some(size) = envelope.size {
            let _ = write!(text, " size {size}");
        }
        if envelope.body == Body::EightBit {
            text.push_str(" 8bit");
        }
        if envelope.smtputf8 {
            text.push_str(" utf8");
        }
        for recipient in &envelope.recipients {
            let _ = write!(text, " {}", shown(recipient));
        }
        self.note(&text);
        self.must_not_read();
        if sender.is_some_and(|sender| sender.local().starts_with("nowhere")) {
            self.server.refuse(&Cause::NodeDown.reply(), out);
        } else {
            self.recipients = envelope.recipients;
            self.server.accept_message(out);
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        let message = std::mem::take(&mut self.message);
        self.note(&format!("end \"{}\"", message.escape_ascii()));
        for recipient in std::mem::take(&mut self.recipients) {
            self.must_not_read();
            self.server.answer(&answer(&recipient), out);
        }
    }

    /// While an answer is pending.
    fn must_not_read(&mut self) {
        let mut out = BytesMut::new();
        let left = self.input.len();
        let event = self.server.step(&mut self.input, &mut out);
        assert!(matches!(event, Event::More) && out.is_empty() && self.input.len() == left);
    }

    fn note(&mut self, event: &str) {
        let _ = write!(self.log, "E: {event}\r\n");
    }

    fn write(&mut self, out: &BytesMut) {
        assert!(out.is_empty() || out.ends_with(b"\r\n"));
        self.log.push_str(&String::from_utf8_lossy(out));
    }
}

fn shown(recipient: &Recipient) -> String {
    match &recipient.private {
        Some(private) => format!("<{}> with {}", recipient.address, private.escape_ascii()),
        None => format!("<{}>", recipient.address),
    }
}

/// What the driver says to a recipient.
pub(super) fn refusal(recipient: &Recipient) -> Option<Cause> {
    match recipient.address.local() {
        local if local.starts_with("nobody") => Some(Cause::NoSuchUser),
        local if local.starts_with("later") => Some(Cause::AccountSuspended),
        _ => None,
    }
}

/// What the driver says of a message that has come.
pub(super) fn answer(recipient: &Recipient) -> Reply {
    match recipient.address.local() {
        local if local.starts_with("full") => Cause::OverQuota.reply(),
        local if local.starts_with("slow") => Cause::TimedOut.reply(),
        _ => Reply::delivered(&format!("<{}> saved.", recipient.address)),
    }
}

/// Holds for any peer. The first octet chooses settings, the second how the rest is cut; then come the peer's octets.
///
/// # Panics
///
/// When it does not hold.
pub fn fuzz(data: &[u8]) {
    let [choice, seed, said @ ..] = data else {
        return;
    };
    server_property(*choice, *seed, said);
    client_property(*choice, *seed, said);
    body_property(*seed, said);
}

fn server_property(choice: u8, seed: u8, said: &[u8]) {
    let bit = |at: u8| choice & (1 << at) != 0;
    let settings = Settings {
        max_line_bytes: if bit(0) { 64 } else { 4096 },
        max_message_bytes: if bit(1) { 32 } else { 4096 },
        max_recipients: if bit(2) { 2 } else { 1000 },
        max_bad_commands: if bit(3) { 1 } else { 10 },
        refuse_bare_line_ends: bit(4),
        private: bit(5).then_some("XOURS"),
        ..Settings::default()
    };
    let run = |cut: &mut dyn FnMut() -> usize| {
        let mut conversation = Conversation::new(&settings);
        for piece in pieces(said, cut) {
            conversation.hear(piece);
        }
        conversation.log
    };
    let whole = run(&mut || usize::MAX);
    assert_eq!(
        whole,
        run(&mut sizes(seed)),
        "cut, it was understood otherwise"
    );
    assert_eq!(whole, run(&mut || 1), "octet by octet, otherwise");
}

const ADDRESSES: [&str; 3] = ["ann@a.example", "\"a b\"@a.example", "bob"];

/// A client whose driver sends the same message again and again, and what could be seen of it.
struct Sender {
    client: Client,
    message: Envelope<Recipient>,
    input: BytesMut,
    out: BytesMut,
    /// One per message.
    fates: Vec<Vec<Fate>>,
    sent: usize,
    /// Whether the last message's dot is written.
    finished: bool,
    over: Option<String>,
}

impl Sender {
    fn new(smtputf8: bool) -> Self {
        let address = |text: &&str| Address::parse(text).ok();
        let of = |address| Recipient {
            address,
            private: None,
        };
        Self {
            client: Client::new(client::Settings {
                hostname: "front".to_owned(),
                line_ends: LineEnds::Crlf,
                private: None,
            }),
            message: Envelope {
                sender: None,
                recipients: ADDRESSES.iter().filter_map(address).map(of).collect(),
                size: Some(9),
                body: Body::SevenBit,
                smtputf8,
                private: None,
            },
            input: BytesMut::new(),
            out: BytesMut::new(),
            fates: Vec::new(),
            sent: 0,
            finished: false,
            over: None,
        }
    }

    fn hear(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while self.over.is_none() {
            match self.client.step(&mut self.input, &mut self.out) {
                Ok(Step::More) => break,
                Ok(Step::Data) => {
                    self.client.body(b".a\r\n.\nb", &mut self.out);
                    self.client.finish(&mut self.out);
                    self.finished = true;
                }
                Ok(Step::Ready) => self.send(),
                Ok(Step::Done(fates)) => {
                    assert!(!fates.contains(&Fate::Uncertain) && !fates.contains(&Fate::Broken));
                    self.fates.push(fates);
                    self.send();
                }
                Err(error) => self.over = Some(error.to_string()),
            }
        }
    }

    fn send(&mut self) {
        self.finished = false;
        match self.client.send(self.message.clone(), &mut self.out) {
            Ok(()) => self.sent = self.sent.saturating_add(1),
            Err(error) => self.over = Some(error.to_string()),
        }
    }

    /// The connection ends: what was written, the fates of each message, and why it was over before.
    fn end(mut self) -> (BytesMut, Vec<Vec<Fate>>, Option<String>) {
        let left = self.client.broken();
        assert!(self.finished || !left.contains(&Fate::Uncertain));
        if !left.is_empty() {
            self.fates.push(left);
        }
        assert_eq!(self.fates.len(), self.sent, "a message without fates");
        (self.out, self.fates, self.over)
    }
}

fn client_property(choice: u8, seed: u8, said: &[u8]) {
    let run = |cut: &mut dyn FnMut() -> usize| {
        let mut sender = Sender::new(choice & 1 != 0);
        for piece in pieces(said, cut) {
            sender.hear(piece);
        }
        sender.end()
    };
    let whole = run(&mut || usize::MAX);
    assert_eq!(whole, run(&mut sizes(seed)), "cut, it was read otherwise");
    assert_eq!(whole, run(&mut || 1), "octet by octet, otherwise");
    for fates in &whole.1 {
        assert_eq!(fates.len(), ADDRESSES.len());
    }
    for fate in whole.1.iter().flatten() {
        assert!(match fate {
            Fate::Broken | Fate::Uncertain => true,
            Fate::Delivered(reply) => reply.class() == Class::Done,
            Fate::Permanent(reply) => reply.class() == Class::Permanent,
            Fate::Temporary(reply) => reply.class() == Class::Temporary,
        });
    }
}

fn body_property(seed: u8, octets: &[u8]) {
    assert_eq!(
        decode(octets, &mut sizes(seed)),
        found(octets),
        "not what a search finds"
    );
    for ends in [LineEnds::Crlf, LineEnds::Exact] {
        let (mut encoder, mut sent) = (Encoder::new(ends), BytesMut::new());
        for piece in pieces(octets, &mut sizes(seed)) {
            encoder.encode(piece, &mut sent);
        }
        encoder.finish(&mut sent);
        let (message, left) = decode(&sent, &mut sizes(seed.wrapping_add(1))).unwrap_or_default();
        assert!(left.is_empty(), "ended before its end");
        let mut expected = match ends {
            LineEnds::Crlf => with_crlf(octets),
            LineEnds::Exact => octets.to_vec(),
        };
        if !expected.is_empty() && !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        assert_eq!(message, expected, "encoded as {ends:?}");
    }
}

/// The message, and what is left behind its end; none if it has no end.
fn decode(octets: &[u8], cut: &mut dyn FnMut() -> usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
    let (mut message, mut ended) = (Vec::new(), false);
    for piece in pieces(octets, cut) {
        input.extend_from_slice(piece);
        while !ended {
            match decoder.next(&mut input) {
                Piece::End => ended = true,
                Piece::Incomplete => break,
                Piece::Octets(octets) => message.extend_from_slice(&octets),
            }
        }
    }
    ended.then(|| (message, input.to_vec()))
}

/// The same by plain search.
fn found(octets: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    const END: &[u8] = b"\r\n.\r\n";
    let octets = [b"\r\n", octets].concat();
    let end = octets.windows(END.len()).position(|window| window == END)?;
    let (message, rest) = octets.split_at_checked(end.saturating_add(2))?;
    let mut plain = Vec::new();
    let mut rest_of = message;
    while let Some(at) = rest_of.windows(3).position(|window| window == b"\r\n.") {
        plain.extend_from_slice(rest_of.get(..at.saturating_add(2))?);
        rest_of = rest_of.get(at.saturating_add(3)..)?;
    }
    plain.extend_from_slice(rest_of);
    Some((plain.get(2..)?.to_vec(), rest.get(3..)?.to_vec()))
}

fn with_crlf(octets: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for octet in octets {
        if *octet == b'\n' && !text.ends_with(b"\r") {
            text.push(b'\r');
        }
        text.push(*octet);
    }
    text
}
