//! What must hold for any client of [`imap`](super::imap) and [`pop3`](super::pop3), and the conversation that their
//! properties and transcripts are played on. Not in ordinary builds.
//!
//! Whatever a client sends, and however the network cuts it: the replies and events are the same, input is used up or
//! left for the next reader, memory is bounded, and every reply is a whole line.

use bytes::{Bytes, BytesMut};

use super::{
    denial::Denial,
    talk::{Channel, Closed, Credentials, Event},
};

/// A server of one protocol, as its driver sees it, and as little more as the property needs.
pub(super) trait Machine {
    /// The most octets written per octet read.
    const GAIN: usize;
    fn greet(&mut self, out: &mut BytesMut);
    fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Event;
    fn deny(&mut self, denial: Denial, out: &mut BytesMut) -> Option<Closed>;
    fn accept(&mut self, capabilities: Option<&str>, out: &mut BytesMut);
    fn encrypted(&mut self);
    /// Whether what is left in the input is somebody else's.
    fn is_accepted(&self) -> bool;
    /// How many of the client's octets it keeps.
    fn held(&self) -> usize;
    /// How many it may keep.
    fn most_held(&self) -> usize;
    /// The memory that it keeps them in, in octets, and how much that may be.
    fn memory(&self) -> (usize, usize);
}

/// What the driver answers to credentials.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Accept(Option<String>),
    Deny(Denial),
}

#[cfg(test)]
impl Answer {
    /// Each in turn, and the last one again and again; without any, the credentials are wrong.
    pub(super) fn in_turn(answers: &[Self]) -> impl FnMut(&Credentials) -> Self + 'static {
        let mut answers: Vec<_> = answers.iter().rev().cloned().collect();
        move |_| match answers.as_slice() {
            [last] => last.clone(),
            _ => answers.pop().unwrap_or(Self::Deny(Denial::BadCredentials)),
        }
    }
}

/// A server, its driver, and what could be seen of them.
pub(super) struct Conversation<M> {
    machine: M,
    answer: Box<dyn FnMut(&Credentials) -> Answer>,
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

impl<M: Machine> Conversation<M> {
    /// Greets.
    pub(super) fn new(
        mut machine: M,
        answer: impl FnMut(&Credentials) -> Answer + 'static,
    ) -> Self {
        let mut out = BytesMut::new();
        machine.greet(&mut out);
        Self {
            machine,
            answer: Box::new(answer),
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
            self.machine.encrypted();
            self.stage = Stage::Encrypted;
        }
    }

    /// What nobody has read.
    fn left(&self) -> Bytes {
        if self.machine.is_accepted() {
            self.input.clone().freeze()
        } else {
            Bytes::new()
        }
    }

    /// One step and what it asks for; true if that is more input.
    fn turn(&mut self) -> bool {
        let mut out = BytesMut::new();
        let before = self.input.len();
        let event = self.machine.step(&mut self.input, &mut out);
        let held = self.machine.held();
        assert!(held <= self.machine.most_held(), "holds {held} octets");
        let (taken, allowed) = self.machine.memory();
        assert!(taken <= allowed, "{taken} octets of memory for {held}");
        // A tag that is sent in pieces is answered whole.
        let most = before
            .saturating_mul(M::GAIN)
            .saturating_add(self.machine.most_held())
            .saturating_add(256);
        assert!(out.len() <= most, "{} octets of replies", out.len());
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
                self.answer(&credentials);
            }
        }
        false
    }

    fn answer(&mut self, credentials: &Credentials) {
        let mut out = BytesMut::new();
        let left = self.input.len();
        assert!(matches!(
            self.machine.step(&mut self.input, &mut out),
            Event::More
        ));
        assert!(
            self.input.len() == left && out.is_empty(),
            "read while pending"
        );
        let closed = match (self.answer)(credentials) {
            Answer::Deny(denial) => self.machine.deny(denial, &mut out),
            Answer::Accept(capabilities) => {
                self.machine.accept(capabilities.as_deref(), &mut out);
                self.stage = Stage::Over;
                None
            }
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

/// Plays `clear`, then, if that ended in STARTTLS, `secured`, in pieces of the sizes that `cut` gives. The result is the
/// log, and what nobody has read.
pub(super) fn play(
    mut conversation: Conversation<impl Machine>,
    clear: &[u8],
    secured: &[u8],
    mut cut: impl FnMut() -> usize,
) -> (Vec<u8>, Vec<u8>) {
    for octets in [clear, secured] {
        for piece in pieces(octets, &mut cut) {
            conversation.hear(piece);
        }
        conversation.secure();
    }
    let left = conversation.left().to_vec();
    (conversation.log, left)
}

/// Cuts octets into pieces of the sizes that `cut` gives, at least one octet each.
pub(super) fn pieces(mut octets: &[u8], mut cut: impl FnMut() -> usize) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while !octets.is_empty() {
        let (piece, rest) = octets
            .split_at_checked(cut().max(1))
            .unwrap_or((octets, &[]));
        pieces.push(piece);
        octets = rest;
    }
    pieces
}

/// Sizes for [`pieces`], from a seed.
pub(super) fn sizes(seed: u8) -> impl FnMut() -> usize {
    let mut state = seed;
    move || {
        // A full period modulo 256; the high bits are the better ones.
        state = state.wrapping_mul(5).wrapping_add(113);
        usize::from(state >> 3)
    }
}

/// The property: the first octet chooses channel, limits (`begin` reads its bits from 3 up) and answer, the second where
/// TLS begins, the third how the rest is cut; then come the client's octets.
pub(super) fn hold<M: Machine>(data: &[u8], begin: impl Fn(u8, Channel) -> M) {
    let [choice, turn, seed, said @ ..] = data else {
        return;
    };
    let bit = |at: u8| choice & (1 << at) != 0;
    let channel = Channel {
        encrypted: bit(0),
        starttls: bit(1),
        cleartext: bit(2),
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
        let machine = begin(*choice, channel);
        let answer = answer.clone();
        let conversation = Conversation::new(machine, move |_| answer.clone());
        play(conversation, clear, secured, cut)
    };
    let whole = run(&mut || usize::MAX);
    let cut = run(&mut sizes(*seed));
    assert_eq!(whole, cut, "cut, it was understood otherwise");
    assert_eq!(whole, run(&mut || 1), "octet by octet, otherwise");
}
