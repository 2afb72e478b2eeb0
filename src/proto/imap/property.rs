//! What [`conversation`](crate::proto::conversation) needs of IMAP, and the property that the fuzz target calls. Not in
//! ordinary builds.

use bytes::BytesMut;

use super::{Server, Settings, State};
use crate::proto::{
    conversation::{self, Machine},
    denial::Denial,
    talk::{Closed, Event},
};

impl Machine for Server {
    const GAIN: usize = 16;

    fn greet(&mut self, out: &mut BytesMut) {
        self.greet(out);
    }

    fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Event {
        self.step(input, out)
    }

    fn deny(&mut self, denial: Denial, out: &mut BytesMut) -> Option<Closed> {
        self.deny(denial, out)
    }

    fn accept(&mut self, capabilities: Option<&str>, out: &mut BytesMut) {
        self.accept(capabilities, out);
    }

    fn encrypted(&mut self) {
        self.encrypted();
    }

    fn is_accepted(&self) -> bool {
        matches!(self.state, State::Accepted)
    }

    fn held(&self) -> usize {
        self.reader.partial().octets().len()
    }

    fn most_held(&self) -> usize {
        let literals = self.settings.max_literal_bytes.saturating_mul(2);
        self.settings.max_line_bytes.saturating_add(literals)
    }

    fn memory(&self) -> (usize, usize) {
        self.reader.partial().memory(self.most_held())
    }
}

/// Holds for any client; how `data` is read stands at `conversation::hold`.
pub fn fuzz(data: &[u8]) {
    conversation::hold(data, |choice, channel| {
        let settings = Settings {
            max_line_bytes: if choice & 8 != 0 { 64 } else { 8192 },
            max_literal_bytes: if choice & 16 != 0 { 8 } else { 4096 },
            ..Settings::default()
        };
        Server::new(settings, channel)
    });
}
