//! What must hold for any input: the property that the fuzz target calls, and the conversation that it and the
//! transcripts are played on.
//!
//! Whatever a client sends, and however the network cuts it: the replies and events are the same, input is used up or
//! left for the next reader, memory is bounded, and every reply is a whole line. Not in ordinary builds.

use bytes::{Bytes, BytesMut};

use super::{Server, Settings};
use crate::proto::{
    denial::Denial,
    talk::{Channel, Event},
};

/// What the driver answers to credentials.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Accept(Option<String>),
    Deny(Denial),
}

/// A server, its driver, and what could be seen of them.
pub(super) struct Conversation {
    server: Server,
    settings: Settings,
    answers: Vec<Answer>,
    input: BytesMut,
    stage: Stage,
    /// Replies, and events as lines that begin with `E: `.
    pub(super) log: Vec<u8>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    /// Reads.
    Clear,
    /// What comes is thrown away, as a TLS library would choke on it.
    Handshake,
    /// Reads after a handshake.
    Encrypted,
    /// Does not read any more.
    Over,
}

impl Conversation {
    /// Greets; answers are given in turn, and the last one again and again.
    pub(super) fn new(settings: Settings, channel: Channel, answers: &[Answer]) -> Self {
        let mut server = Server::new(settings, channel);
        let mut out = BytesMut::new();
        server.greet(&mut out);
        Self {
            server,
            settings,
            answers: answers.iter().rev().cloned().collect(),
            input: BytesMut::new(),
            stage: Stage::Clear,
            log: out.to_vec(),
        }
    }

    /// Hears octets that came in one piece.
    pub(super) fn hear(&mut self, octets: &[u8]) {
        if self.stage == Stage::Handshake {
            return;
        }
        self.input.extend_from_slice(octets);
        while matches!(self.stage, Stage::Clear | Stage::Encrypted) && !self.turn() {}
    }

    /// The handshake is done, if there was one to do.
    pub(super) fn secure(&mut self) {
        if self.stage == Stage::Handshake {
            self.server.encrypted();
            self.stage = Stage::Encrypted;
        }
    }

    /// What nobody has read.
    pub(super) fn left(&self) -> Bytes {
        self.input.clone().freeze()
    }

    /// One step and what it asks for; true if that is more input.
    fn turn(&mut self) -> bool {
        let mut out = BytesMut::new();
        let before = self.input.len();
        let event = self.server.step(&mut self.input, &mut out);
        // A tag that is sent in pieces is answered whole.
        let most = before
            .saturating_mul(16)
            .saturating_add(self.settings.max_line_bytes)
            .saturating_add(256);
        assert!(out.len() <= most, "{} octets of replies", out.len());
        let held = self.server.reader.partial().octets().len();
        let literals = self.settings.max_literal_bytes.saturating_mul(2);
        assert!(held <= self.settings.max_line_bytes.saturating_add(literals));
        assert!(out.is_empty() || out.ends_with(b"\r\n"));
        self.log.extend_from_slice(&out);
        match event {
            Event::More => {
                assert!(self.input.is_empty(), "More with input left");
                return true;
            }
            Event::Close(closed) => {
                assert!(held == 0 && self.input.is_empty(), "something is not wiped");
                self.over(&format!("{closed:?}"));
            }
            Event::StartTls => {
                assert!(self.input.is_empty(), "clear input left for TLS");
                self.note("StartTls");
                self.stage = Stage::Handshake;
            }
            Event::Credentials(credentials) => {
                self.note(&format!(
                    "{} {} as {} with \"{}\"",
                    credentials.mechanism.as_str(),
                    credentials.login,
                    credentials
                        .authorize
                        .as_ref()
                        .map_or("none", |name| name.as_str()),
                    credentials.password.expose().escape_ascii(),
                ));
                self.answer();
            }
        }
        false
    }

    fn answer(&mut self) {
        let mut out = BytesMut::new();
        let left = self.input.len();
        assert!(matches!(
            self.server.step(&mut self.input, &mut out),
            Event::More
        ));
        assert!(
            self.input.len() == left && out.is_empty(),
            "read while pending"
        );
        let answer = match self.answers.as_slice() {
            [last] => Some(last.clone()),
            _ => self.answers.pop(),
        };
        let closed = match answer {
            Some(Answer::Deny(denial)) => self.server.deny(denial, &mut out),
            Some(Answer::Accept(capabilities)) => {
                self.server.accept(capabilities.as_deref(), &mut out);
                self.stage = Stage::Over;
                None
            }
            None => self.server.deny(Denial::BadCredentials, &mut out),
        };
        self.log.extend_from_slice(&out);
        if let Some(closed) = closed {
            self.over(&format!("{closed:?}"));
        }
    }

    fn over(&mut self, why: &str) {
        self.note(why);
        self.input.clear();
        self.stage = Stage::Over;
    }

    fn note(&mut self, event: &str) {
        self.log.extend_from_slice(b"E: ");
        self.log.extend_from_slice(event.as_bytes());
        self.log.extend_from_slice(b"\r\n");
    }
}

/// Plays `clear`, then, if that ended in STARTTLS, `secured`, in pieces of the sizes that `cut` gives (at least one
/// octet). The result is the log, and what nobody has read.
pub(super) fn play(
    mut conversation: Conversation,
    clear: &[u8],
    secured: &[u8],
    mut cut: impl FnMut() -> usize,
) -> (Vec<u8>, Vec<u8>) {
    for mut octets in [clear, secured] {
        while !octets.is_empty() {
            let (piece, rest) = octets
                .split_at_checked(cut().max(1))
                .unwrap_or((octets, &[]));
            conversation.hear(piece);
            octets = rest;
        }
        conversation.secure();
    }
    let left = if matches!(conversation.server.state, super::State::Accepted) {
        conversation.left().to_vec()
    } else {
        Vec::new()
    };
    (conversation.log, left)
}

/// The property: the first octet chooses channel, limits and answers, the second where TLS begins, the third how the
/// rest is cut; then come the client's octets.
pub fn fuzz(data: &[u8]) {
    let [choice, turn, seed, said @ ..] = data else {
        return;
    };
    let bit = |at: u8| choice & (1 << at) != 0;
    let channel = Channel {
        encrypted: bit(0),
        starttls: bit(1),
        cleartext: bit(2),
    };
    let settings = Settings {
        max_line_bytes: if bit(3) { 64 } else { 8192 },
        max_literal_bytes: if bit(4) { 8 } else { 4096 },
        ..Settings::default()
    };
    let answer = if bit(5) {
        Answer::Accept(Some("IMAP4rev1".to_owned()))
    } else {
        Answer::Deny(Denial::BadCredentials)
    };
    let (clear, secured) = said
        .split_at_checked(usize::from(*turn))
        .unwrap_or((said, &[]));
    let run = |cut: &mut dyn FnMut() -> usize| {
        let conversation = Conversation::new(settings, channel, std::slice::from_ref(&answer));
        play(conversation, clear, secured, cut)
    };
    let whole = run(&mut || usize::MAX);
    let mut state = *seed;
    let pieces = run(&mut || {
        // A full period modulo 256; the high bits are the better ones.
        state = state.wrapping_mul(5).wrapping_add(113);
        usize::from(state >> 3)
    });
    assert_eq!(whole, pieces, "cut, it was understood otherwise");
    assert_eq!(whole, run(&mut || 1), "octet by octet, otherwise");
}
