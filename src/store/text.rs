//! A message as octets on the wire and in a file: the two fields put before it, its line ends, its sizes, its loops.
//!
//! In a Maildir lines end in LF: each CRLF becomes one, wherever the pieces of the message are cut. A CR or LF alone stays what
//! it is. Two sizes are counted, as Dovecot's names have them: `S`, the octets in the file, and `W`, the same when every LF
//! that has no CR before it has one.
//!
//! A message that says in its header that it was delivered to this recipient before is a loop. The header ends with the
//! first empty line; of a longer one the first 256 KiB are looked at. Folded fields and comments are not understood, as this
//! program writes none.
//!
//! No files here. Reading the spool may fail.

use std::io;

use crate::spool::Spooled;

/// How much of a header is looked at.
const MAX_HEADER_BYTES: usize = 256 * 1024;

/// The field that names a recipient.
const DELIVERED_TO: &str = "Delivered-To:";

/// A message in the making, as it is in the file.
#[derive(Debug, Default)]
pub(super) struct Text {
    buffer: Vec<u8>,
    /// A CR was the last octet of the piece before.
    held: bool,
    last: u8,
    size: u64,
    bare: u64,
}

/// How large a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Sizes {
    /// In the file: `S`.
    pub(super) file: u64,
    /// On the wire: `W`.
    pub(super) wire: u64,
}

impl Text {
    /// Begins with the two fields.
    pub(super) fn begin(sender: &str, recipient: &str) -> Self {
        let mut text = Self::default();
        text.push(b"Return-Path: <");
        text.push_value(sender);
        text.push(b">\nDelivered-To: ");
        text.push_value(recipient);
        text.push(b"\n");
        text
    }

    /// Addresses have no control characters; if one had, it would end the field.
    fn push_value(&mut self, value: &str) {
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        self.push(value.as_bytes());
    }

    /// Adds a piece as it came.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let Some(first) = piece.first() else {
            return;
        };
        if std::mem::take(&mut self.held) && *first != b'\n' {
            self.buffer.push(b'\r');
        }
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|octet| *octet == b'\r') {
            let (line, tail) = rest.split_at(at);
            self.buffer.extend_from_slice(line);
            rest = tail.get(1..).unwrap_or_default();
            match rest.first() {
                None => self.held = true,
                Some(b'\n') => {}
                Some(_) => self.buffer.push(b'\r'),
            }
        }
        self.buffer.extend_from_slice(rest);
    }

    /// The octets that wait.
    pub(super) const fn len(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// What is ready to be written, counted; to be cleared by `clear`.
    pub(super) fn ready(&mut self) -> &[u8] {
        for octet in &self.buffer {
            self.bare += u64::from(*octet == b'\n' && self.last != b'\r');
            self.last = *octet;
        }
        self.size += self.buffer.len() as u64;
        &self.buffer
    }

    /// What was ready is written.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
    }

    /// There is no more.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.held) {
            self.buffer.push(b'\r');
        }
    }

    /// How much was ready so far.
    pub(super) const fn sizes(&self) -> Sizes {
        Sizes {
            file: self.size,
            wire: self.size + self.bare,
        }
    }
}

/// Whether a message was delivered to this recipient before.
pub(super) fn is_loop(octets: &Spooled, recipient: &str) -> io::Result<bool> {
    let mut header = Vec::new();
    loop {
        let piece = octets.read_blocking(header.len() as u64)?;
        let searched = header.len().saturating_sub(3);
        header.extend_from_slice(&piece);
        let fresh = header.get(searched..).unwrap_or_default();
        let is_complete = fresh.windows(4).any(|end| end == b"\r\n\r\n")
            || fresh.windows(2).any(|end| end == b"\n\n")
            || header.starts_with(b"\r\n");
        if is_complete || piece.is_empty() || header.len() >= MAX_HEADER_BYTES {
            break;
        }
    }
    header.truncate(MAX_HEADER_BYTES);
    Ok(names(&header, recipient))
}

/// Whether a header names the recipient in a field of ours.
fn names(header: &[u8], recipient: &str) -> bool {
    header
        .split(|octet| *octet == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_at_checked(DELIVERED_TO.len()))
        .filter(|(name, _)| name.eq_ignore_ascii_case(DELIVERED_TO.as_bytes()))
        .any(|(_, value)| {
            value
                .trim_ascii()
                .eq_ignore_ascii_case(recipient.as_bytes())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(pieces: &[&[u8]]) -> (Vec<u8>, Sizes) {
        let mut text = Text::default();
        let mut out = Vec::new();
        for piece in pieces {
            text.push(piece);
            out.extend_from_slice(text.ready());
            text.clear();
        }
        text.end();
        out.extend_from_slice(text.ready());
        let sizes = text.sizes();
        (out, sizes)
    }

    #[test]
    fn only_crlf_becomes_lf_wherever_the_pieces_are_cut() {
        for (wire, file, size_on_wire) in [
            (&b"a\r\nb\r\n"[..], &b"a\nb\n"[..], 6),
            (b"a\nb\r\n", b"a\nb\n", 6),
            (b"a\rb\r\n", b"a\rb\n", 5),
            (b"\r\r\n", b"\r\n", 2),
            (b"\r\r\r\n\n", b"\r\r\n\n", 5),
            (b"a\r", b"a\r", 2),
            (b"\r\n.\r\n..\r\n", b"\n.\n..\n", 9),
            (b"", b"", 0),
        ] {
            for cut in 0..=wire.len() {
                for second in cut..=wire.len() {
                    let pieces = [&wire[..cut], &wire[cut..second], &wire[second..]];
                    let (out, sizes) = converted(&pieces);
                    assert_eq!(out, file, "{wire:?} at {cut}, {second}");
                    assert_eq!(sizes.file, file.len() as u64);
                    assert_eq!(sizes.wire, size_on_wire, "{wire:?}");
                }
            }
        }
    }

    #[test]
    fn a_value_ends_no_field() {
        let mut text = Text::begin("a\nX: y@b", "\u{85}ann\r@b");
        assert_eq!(
            text.ready(),
            b"Return-Path: <aX: y@b>\nDelivered-To: ann@b\n"
        );
    }

    #[test]
    fn only_the_header_tells_of_a_loop() {
        for (header, expected) in [
            (&b"Delivered-To: ann@example.org\r\n\r\n"[..], true),
            (b"A: b\r\ndelivered-to:ANN@example.org \r\n\r\n", true),
            (b"A: b\nDelivered-To: ann@example.org\n\n", true),
            (b"Delivered-To: ann@example.org", true),
            (b"Delivered-To: bea@example.org\r\n\r\n", false),
            (b"Delivered-To: ann@example.org.net\r\n\r\n", false),
            (b"X-Delivered-To: ann@example.org\r\n\r\n", false),
            (b"A: b\r\n\r\nDelivered-To: ann@example.org\r\n", false),
            (b"\r\nDelivered-To: ann@example.org\r\n", false),
            (b"", false),
        ] {
            assert_eq!(names(header, "ann@example.org"), expected, "{header:?}");
        }
    }
}
