//! The octets of a message between DATA and its final dot, taken apart and put together.
//!
//! A [`Decoder`] hands out the message as slices of the caller's buffer, without the dots that were added on the way and
//! without the final one; an [`Encoder`] is its inverse. **Only CRLF . CRLF ends a message.** Whoever takes `LF . LF`, or
//! any mixture with a CR or LF alone, for an end reads commands where the sender wrote text (SMTP smuggling). Here these
//! are octets like any other, and a dot counts only behind CRLF.
//!
//! Servers differ in what they do with a LF alone: Dovecot 2.3 ends a message at `LF . LF` and at `CRLF . LF`. To such a
//! server LF alone is sent as CRLF ([`LineEnds::Crlf`]): then its lines and ours are the same, whatever the message holds,
//! and a mailbox whose files have LF anyway keeps the same octets.
//!
//! Neither counts octets nor has a memory that grows: the decoder leaves at most two octets in its input, the encoder adds at
//! most one octet per octet. RFC 5321, 2.3.8, 4.1.1.4 and 4.5.2. Nothing here can fail.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// What the client does with a LF that has no CR before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LineEnds {
    /// It becomes CRLF: for servers that are not ours.
    Crlf,
    /// It stays: for our own.
    Exact,
}

/// What comes next of a message.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Piece {
    /// The final dot was there.
    End,
    /// More is needed.
    Incomplete,
    /// Some of its octets, at least one.
    Octets(Bytes),
}

/// Takes a message out of a stream.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The last two octets that were taken.
    last: [u8; 2],
}

/// Finds a CR or LF that stands alone.
#[derive(Debug, Default)]
pub(super) struct BareFinder {
    after_cr: bool,
}

/// Puts a message into a stream.
#[derive(Debug)]
pub(super) struct Encoder {
    ends: LineEnds,
    after_cr: bool,
    at_start: bool,
}

// === impl Decoder ===

impl Decoder {
    /// Stands behind the CRLF of DATA.
    pub(super) fn new() -> Self {
        Self { last: *b"\r\n" }
    }

    /// Takes as much as is certain off the front of `input`.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Piece {
        if self.last == *b"\r\n" {
            match input.as_ref() {
                b"." | b".\r" => return Piece::Incomplete,
                [b'.', b'\r', b'\n', ..] => {
                    input.advance(3);
                    return Piece::End;
                }
                [b'.', ..] => {
                    input.advance(1);
                    self.last = *b"\n.";
                }
                _ => {}
            }
        }
        let count = self.until_dot(input);
        if count == 0 {
            return Piece::Incomplete;
        }
        let octets = input.split_to(count).freeze();
        self.last = match *octets {
            [.., first, second] => [first, second],
            [only] => [self.last[1], only],
            [] => self.last,
        };
        Piece::Octets(octets)
    }

    /// How many octets there are before the next dot that begins a line, or in all.
    fn until_dot(&self, input: &[u8]) -> usize {
        let mut from = 0;
        while let Some(found) = input
            .get(from..)
            .and_then(|rest| rest.iter().position(|octet| *octet == b'.'))
        {
            let dot = from.saturating_add(found);
            let begins = match input.get(..dot).unwrap_or_default() {
                [] => false,
                [only] => [self.last[1], *only] == *b"\r\n",
                before => before.ends_with(b"\r\n"),
            };
            if begins {
                return dot;
            }
            from = dot.saturating_add(1);
        }
        input.len()
    }
}

// === impl BareFinder ===

impl BareFinder {
    /// Whether the next octets of the message have one. A CR at their end is judged with the next ones; a whole message
    /// ends in CRLF.
    pub(super) fn find(&mut self, octets: &[u8]) -> bool {
        let mut found = false;
        for octet in octets {
            found |= self.after_cr != (*octet == b'\n');
            self.after_cr = *octet == b'\r';
        }
        found
    }
}

// === impl Encoder ===

impl Encoder {
    /// Stands behind the reply to DATA.
    pub(super) fn new(ends: LineEnds) -> Self {
        Self {
            ends,
            after_cr: false,
            at_start: true,
        }
    }

    /// Writes the next octets of the message.
    pub(super) fn encode(&mut self, octets: &[u8], out: &mut BytesMut) {
        out.reserve(octets.len());
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            if self.at_start && line.starts_with(b".") {
                out.put_u8(b'.');
            }
            match line.strip_suffix(b"\n") {
                Some(text) => {
                    let has_cr = text.last().map_or(self.after_cr, |octet| *octet == b'\r');
                    out.put_slice(text);
                    let adds_cr = !has_cr && self.ends == LineEnds::Crlf;
                    out.put_slice(if adds_cr { b"\r\n" } else { b"\n" });
                    self.at_start = has_cr || adds_cr;
                    self.after_cr = false;
                }
                None => {
                    out.put_slice(line);
                    self.at_start = false;
                    self.after_cr = line.ends_with(b"\r");
                }
            }
        }
    }

    /// Writes the final dot, and before it the CRLF that a message without one gets.
    pub(super) fn finish(self, out: &mut BytesMut) {
        if !self.at_start {
            out.put_slice(b"\r\n");
        }
        out.put_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::reply::at_every_split;

    /// The message, whether it ended, and what is left.
    fn decode(parts: &[&[u8]]) -> (Vec<u8>, bool, Vec<u8>) {
        let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
        let (mut message, mut ended) = (Vec::new(), false);
        for part in parts {
            input.extend_from_slice(part);
            while !ended {
                match decoder.next(&mut input) {
                    Piece::End => ended = true,
                    Piece::Incomplete => break,
                    Piece::Octets(octets) => {
                        assert!(!octets.is_empty());
                        message.extend_from_slice(&octets);
                    }
                }
            }
            assert!(ended || input.len() <= 2);
        }
        (message, ended, input.to_vec())
    }

    #[test]
    fn messages_are_decoded_at_every_split() {
        for (input, message, left) in [
            (".\r\n", "", ""),
            (".\r\nMAIL", "", "MAIL"),
            ("a\r\n.\r\n.\r\n", "a\r\n", ".\r\n"),
            ("..\r\n.\r\n", ".\r\n", ""),
            ("...\r\n..a\r\n.b\r\n.\r\n", "..\r\n.a\r\nb\r\n", ""),
            ("\r\n\r\n.\r\n", "\r\n\r\n", ""),
            ("a.\r\n.\r\n", "a.\r\n", ""),
            (".a\r\n.\r\n", "a\r\n", ""),
            ("a.b.c\r\nd.\r\n.\r\n", "a.b.c\r\nd.\r\n", ""),
        ] {
            at_every_split(input.as_bytes(), |parts| {
                let (decoded, ended, rest) = decode(parts);
                assert_eq!(decoded, message.as_bytes(), "{input:?}");
                assert!(ended, "{input:?}");
                assert_eq!(rest, left.as_bytes(), "{input:?}");
            });
        }
    }

    /// Ends that are none, between two lines, and what of them is message.
    const SMUGGLED: &[(&str, &str)] = &[
        ("\n.\n", "\n.\n"),
        ("\n.\r\n", "\n.\r\n"),
        ("\r.\r", "\r.\r"),
        ("\r.\r\n", "\r.\r\n"),
        ("\r.\n", "\r.\n"),
        ("\n.\r", "\n.\r"),
        ("\r\n.\n", "\r\n\n"),
        ("\r\n.\r", "\r\n\r"),
        ("\r\n.\r\r\n", "\r\n\r\r\n"),
        ("\r\n.\0\r\n", "\r\n\0\r\n"),
        ("\r\n\0.\r\n", "\r\n\0.\r\n"),
        ("\r\n. \r\n", "\r\n \r\n"),
        ("\r\r\n\n.\r\n", "\r\r\n\n.\r\n"),
        ("\n\r.\r\n", "\n\r.\r\n"),
        ("\r\n..\r\n", "\r\n.\r\n"),
        ("\r\n..\n", "\r\n.\n"),
        ("\n..\r\n", "\n..\r\n"),
    ];

    #[test]
    fn nothing_but_crlf_dot_crlf_ends_a_message() {
        for (end, kept) in SMUGGLED {
            let input = format!("a{end}MAIL FROM:<eve@a.example>\r\n.\r\n");
            at_every_split(input.as_bytes(), |parts| {
                let (message, ended, left) = decode(parts);
                let expected = format!("a{kept}MAIL FROM:<eve@a.example>\r\n");
                assert_eq!(message, expected.as_bytes(), "{end:?}");
                assert!(ended && left.is_empty(), "{end:?}");
            });
        }
    }

    #[test]
    fn line_ends_that_are_none_are_found_at_every_split() {
        for (end, _) in SMUGGLED {
            let input = format!("a{end}b\r\n");
            // These are made of CRLF alone.
            let expected = !matches!(
                *end,
                "\r\n.\0\r\n" | "\r\n\0.\r\n" | "\r\n. \r\n" | "\r\n..\r\n"
            );
            at_every_split(input.as_bytes(), |parts| {
                let mut finder = BareFinder::default();
                let found = parts
                    .iter()
                    .fold(false, |found, part| finder.find(part) | found);
                assert_eq!(found, expected, "{end:?}");
            });
        }
    }

    fn encode(ends: LineEnds, parts: &[&[u8]]) -> String {
        let (mut encoder, mut out) = (Encoder::new(ends), BytesMut::new());
        for part in parts {
            encoder.encode(part, &mut out);
        }
        encoder.finish(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn messages_are_encoded_at_every_split() {
        for (message, exact, crlf) in [
            ("", ".\r\n", ".\r\n"),
            ("a", "a\r\n.\r\n", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n", "..\r\n.\r\n"),
            (".a\r\n.b", "..a\r\n..b\r\n.\r\n", "..a\r\n..b\r\n.\r\n"),
            ("a\r", "a\r\r\n.\r\n", "a\r\r\n.\r\n"),
            ("a\n.\nb\r\n", "a\n.\nb\r\n.\r\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\n.\r\n", "a\n.\r\n.\r\n", "a\r\n..\r\n.\r\n"),
            ("a\r.\r\n", "a\r.\r\n.\r\n", "a\r.\r\n.\r\n"),
            ("\n\n", "\n\n\r\n.\r\n", "\r\n\r\n.\r\n"),
            ("\r\n.\n", "\r\n..\n\r\n.\r\n", "\r\n..\r\n.\r\n"),
            ("\r\r\n.", "\r\r\n..\r\n.\r\n", "\r\r\n..\r\n.\r\n"),
        ] {
            at_every_split(message.as_bytes(), |parts| {
                assert_eq!(encode(LineEnds::Exact, parts), exact, "{message:?}");
                assert_eq!(encode(LineEnds::Crlf, parts), crlf, "{message:?}");
            });
        }
    }

    #[test]
    fn what_is_sent_as_crlf_has_no_lf_alone() {
        for (text, _) in SMUGGLED {
            let sent = encode(LineEnds::Crlf, &[text.as_bytes()]);
            let text = sent.strip_suffix("\r\n.\r\n").unwrap_or("");
            assert!(!text.replace("\r\n", "").contains('\n'), "{text:?}");
            assert!(!format!("\r\n{text}").contains("\r\n.\r\n"), "{text:?}");
        }
    }
}
