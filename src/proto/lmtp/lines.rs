//! Lines of LMTP, cut off the front of a buffer, commands and replies alike.
//!
//! A line ends in CRLF. Its octets stay in the caller's buffer until it is complete, so at most one line is ever kept, and
//! what follows it is left. A line that is too long is dropped as it comes and told when it ends: the next one can still
//! be read, which matters where one bad command stands among a thousand that came together.
//!
//! It does not look into lines. Limits: the longest line is an argument. RFC 5321, 2.3.7 and 4.5.3.1.4.
//! A bare LF ends nothing: it is told at once, and where the next line begins is then anybody's guess.

use bytes::{Buf as _, BytesMut};

/// Cuts lines.
#[derive(Debug)]
pub(super) struct Lines {
    /// Longest line, its end included.
    max_bytes: usize,
    /// Octets at the front of the input that hold no LF.
    scanned: usize,
    /// Whether the line is too long already.
    skipping: bool,
}

/// What comes next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// A line ended in LF alone.
    BareLf,
    /// A line without its CRLF.
    Complete(BytesMut),
    /// The line has no end yet.
    Incomplete,
    /// The line has ended, and was longer than allowed.
    TooLong,
}

impl Lines {
    /// Takes lines of at most `max_bytes` octets.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            scanned: 0,
            skipping: false,
        }
    }

    /// Takes the next line, if all of it has come.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Line {
        let unread = input.get(self.scanned..).unwrap_or_default();
        let Some(end) = unread.iter().position(|octet| *octet == b'\n') else {
            self.wait(input);
            return Line::Incomplete;
        };
        let mut line = input.split_to(self.scanned.saturating_add(end).saturating_add(1));
        let long = self.skipping || line.len() > self.max_bytes;
        *self = Self::new(self.max_bytes);
        if !line.ends_with(b"\r\n") {
            return Line::BareLf;
        }
        if long {
            return Line::TooLong;
        }
        line.truncate(line.len().saturating_sub(2));
        Line::Complete(line)
    }

    /// Keeps the beginning of a line; of one that is too long, only the CR that may be half of its end.
    fn wait(&mut self, input: &mut BytesMut) {
        if self.skipping || input.len() >= self.max_bytes {
            self.skipping = true;
            let kept = usize::from(input.ends_with(b"\r"));
            input.advance(input.len().saturating_sub(kept));
        }
        self.scanned = input.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::reply::at_every_split;

    #[test]
    fn lines_come_out_the_same_however_they_are_cut() {
        for (input, expected) in [
            ("NOOP\r\nQUIT\r\n", "NOOP|QUIT|"),
            ("\r\n\r\n", "||"),
            ("a\rb\r\r\n", "a\rb\r|"),
            ("123456\r\n", "123456|"),
            ("1234567\r\nNOOP\r\n", "long|NOOP|"),
            ("1234567\r\r\nNOOP\r\n", "long|NOOP|"),
            ("12345678901234567890\r\rx\r\nNOOP\r\n", "long|NOOP|"),
            ("12345678901234567890\nNOOP\r\n", "bare|NOOP|"),
            ("a\nNOOP\r\n", "bare|NOOP|"),
            ("\n", "bare|"),
        ] {
            at_every_split(input.as_bytes(), |parts| {
                let (mut lines, mut buffer) = (Lines::new(8), BytesMut::new());
                let mut seen = String::new();
                for part in parts {
                    buffer.extend_from_slice(part);
                    loop {
                        match lines.next(&mut buffer) {
                            Line::BareLf => seen.push_str("bare|"),
                            Line::Complete(line) => {
                                seen.push_str(std::str::from_utf8(&line).unwrap());
                                seen.push('|');
                            }
                            Line::Incomplete => break,
                            Line::TooLong => seen.push_str("long|"),
                        }
                    }
                    assert!(buffer.len() < 8);
                }
                assert_eq!(seen, expected, "{input:?}");
            });
        }
    }
}
